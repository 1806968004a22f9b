// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `apply` and `release` share: records in the kernel log and on the terminal, and a look at what is
//! true afterwards.

pub mod modprobe;
#[expect(unsafe_code, reason = "it forks")]
pub mod worker;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;
use log::{Level, Log, Metadata, Record};
use serde::Serialize;
use vfio_override::message::TARGET;

use crate::machine::binding;
use crate::machine::functions::{AddressStyle, Device};
use crate::machine::kernel_log::BY_HAND;
use crate::machine::vfio_users::{self, User};
use crate::machine::{Kind, Machine};
use crate::screen::{self, BAD, GOOD, PLAIN, Screen, WARN};
use crate::verdict::Verdict;
use worker::{End, Progress, Told};

/// What was said and done.
#[derive(Serialize)]
struct Report {
    records: Vec<Said>,
    functions: Vec<Changed>,
    /// The operation that did not end in time, or at which the work crashed.
    unfinished: Option<String>,
    /// Whether everything is as asked.
    as_asked: bool,
}

/// One record, as the kernel log has it too.
#[derive(Serialize)]
struct Said {
    level: u8,
    text: String,
}

#[derive(Serialize)]
struct Changed {
    address: String,
    /// The driver that had it before.
    before: Option<String>,
    /// The driver that has it now.
    driver: Option<String>,
    state: State,
}

/// How far the work came with a function.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// To its end, good or bad.
    Done,
    /// Its override was written, or it is the one with which the work ended.
    HalfWay,
    NotReached,
}

/// What is done to the functions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Apply,
    Release,
}

impl Change {
    fn command(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Release => "release",
        }
    }

    /// What is true of a function's override, if it was written, or not.
    fn of_override(self, device: &Device, was_written: bool) -> &'static str {
        match self {
            Self::Apply if was_written || device.kept_for.is_some() => "its override is set",
            Self::Apply => "its override is not set",
            Self::Release if was_written || device.kept_for.is_none() => "its override is cleared",
            Self::Release => "its override is not cleared",
        }
    }

    /// What is missing of a function, where the work ended with this step; `user` finds who has its group open.
    fn shortfall(
        self,
        device: &Device,
        state: State,
        was_written: bool,
        step: &str,
        user: impl FnOnce() -> Option<User>,
    ) -> Option<String> {
        let overridden = self.of_override(device, was_written);
        let address = &device.address;
        Some(match (state, &device.driver) {
            (State::Done, _) => return None,
            (State::HalfWay, Some(driver))
                if step.ends_with(&format!("{address}/driver/unbind")) =>
            {
                let user = user().map_or_else(
                    || "what uses it (a display server, a virtual machine)".to_owned(),
                    |user| format!("{user}, which uses its IOMMU group"),
                );
                format!(
                    "half-way: {overridden}, and {driver} does not let go of it. End {user}; once {driver} lets \
                     go, no driver has it: run this command again. If it never does, reboot. Nothing more is \
                     done now"
                )
            }
            (State::HalfWay, _) if step.ends_with(&format!("{address} to drivers_probe")) => {
                format!(
                    "half-way: {overridden}, and the driver that it was offered to does not answer. Run this \
                 command again once it does. If it never does, reboot"
                )
            }
            (State::HalfWay, _) => {
                format!("half-way: {overridden}, and no more was done. Run this command again")
            }
            (State::NotReached, _) => {
                "not reached: nothing of it was changed. Run this command again".to_owned()
            }
        })
    }
}

/// The kernel log, through kernlog, and whoever waits for the work.
pub struct Recorder {
    kernel: Option<Mutex<(kernlog::KernelLog, usize)>>,
    progress: Mutex<Progress>,
}

impl Recorder {
    /// Records go to the kernel log only where this machine itself is changed.
    pub fn new(change: Change, kind: Kind, mut progress: Progress) -> Self {
        let kernel = match (kind == Kind::Live).then(kernlog::KernelLog::new).transpose() {
            Ok(kernel) => kernel,
            Err(error) => {
                let level = priority(Level::Warn);
                progress
                    .say(&format!("{level} not recorded in the kernel log, /dev/kmsg: {error}"));
                None
            }
        };
        if let Some(kernel) = &kernel {
            // Whoever reads them is to know that they are not of the boot.
            let by_hand = format_args!("{}{BY_HAND}", change.command());
            kernel.log(&Record::builder().target(TARGET).level(Level::Info).args(by_hand).build());
        }
        Self { kernel: kernel.map(|log| Mutex::new((log, 1))), progress: Mutex::new(progress) }
    }
}

impl Log for Recorder {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        /// The kernel drops what one open file writes beyond ten records in five seconds.
        const RECORDS_PER_OPEN: usize = 9;
        if let Some(mut kernel) = self.kernel.as_ref().and_then(|kernel| kernel.lock().ok()) {
            let (log, count) = &mut *kernel;
            if *count == RECORDS_PER_OPEN
                && let Ok(again) = kernlog::KernelLog::new()
            {
                *log = again;
                *count = 0;
            }
            log.log(record);
            *count += 1;
        }
        if let Ok(mut progress) = self.progress.lock() {
            progress.say(&format!("{} {}", priority(record.level()), record.args()));
        }
    }

    fn flush(&self) {}
}

/// The level as the kernel counts.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 5,
        Level::Debug => 6,
        Level::Trace => 7,
    }
}

/// What is to be done, and to which functions.
pub struct Task<'a> {
    pub change: Change,
    pub devices: &'a [Device],
    /// What is known to be worth a warning: the work logs only when all is done, which may be never.
    pub warnings: &'a [String],
}

/// Does the work on these functions, tells how it goes, and looks at what came of it.
pub fn carry_out(
    task: &Task<'_>,
    machine: &mut Machine,
    style: AddressStyle,
    limit: Duration,
    json: bool,
    work: impl FnOnce(&mut Machine, Progress) -> bool,
) -> Result<Verdict> {
    let Task { change, devices, warnings } = *task;
    let mut screen = Screen::new();
    let mut records: Vec<Said> = Vec::new();
    let mut overridden = BTreeSet::new();
    let end = worker::supervise(
        limit,
        |told| {
            let line = match told {
                Told::Said(line) => line,
                Told::Overridden(address) => {
                    overridden.insert(address.to_owned());
                    return;
                }
            };
            let (level, text) = line.split_once(' ').unwrap_or(("5", line));
            let level = level.parse().unwrap_or(5);
            if !json {
                let style = match level {
                    0..=3 => BAD,
                    4 => WARN,
                    _ => PLAIN,
                };
                screen.line(style, text);
            }
            records.push(Said { level, text: text.to_owned() });
        },
        |progress| work(machine, progress),
    )?;
    let unfinished = match &end {
        End::Done(_) => None,
        End::Stuck(step) | End::Crashed(step) => {
            for text in warnings {
                if !json {
                    screen.line(WARN, text);
                }
                records.push(Said { level: 4, text: text.clone() });
            }
            Some(step.clone())
        }
    };
    let reached = unfinished.as_deref().and_then(|step| task.reached(step));
    let state = |index: usize, device: &Device| {
        let address = &device.address;
        let is_told = |said: &Said| {
            let about = said.text.strip_prefix(address.as_str());
            about.is_some_and(|about| about.starts_with(": ") || about.starts_with(" ["))
        };
        match &unfinished {
            None => State::Done,
            Some(_) if reached.is_some_and(|reached| index < reached) => State::Done,
            Some(_) if records.iter().any(is_told) => State::Done,
            Some(step) if overridden.contains(address) || step.contains(address) => State::HalfWay,
            Some(_) => State::NotReached,
        }
    };
    // Nothing but the link: to read an attribute may take the lock that a step which hangs holds.
    let functions: Vec<Changed> = devices
        .iter()
        .enumerate()
        .map(|(index, device)| {
            let driver =
                binding::driver_of(&mut machine.tree, device.function.address).ok().flatten();
            Changed {
                address: device.address.clone(),
                before: device.driver.clone(),
                driver: driver.map(|name| name.escape_ascii().to_string()),
                state: state(index, device),
            }
        })
        .collect();
    let report = Report { records, functions, unfinished, as_asked: end == End::Done(true) };
    if json {
        screen::json(change.command(), &report)?;
        return Ok(Verdict::of(report.as_asked));
    }
    match &end {
        End::Done(_) => {}
        End::Stuck(step) => screen.marked(
            BAD,
            "not done",
            format_args!("the kernel has not finished this in {} s: {step}", limit.as_secs()),
        ),
        End::Crashed(step) => screen.marked(
            BAD,
            "not done",
            format_args!("the work crashed at this step, and nothing more is done: {step}"),
        ),
    }
    let step = report.unfinished.as_deref().unwrap_or_default();
    for (changed, device) in report.functions.iter().zip(devices) {
        let was_written = overridden.contains(&device.address);
        let user = || {
            let nodes = vfio_users::nodes(&machine.sysfs, &device.function);
            vfio_users::of(&nodes).filter(|_| machine.kind == Kind::Live)
        };
        if let Some(text) = change.shortfall(device, changed.state, was_written, step, user) {
            screen.marked(BAD, &device.address, text);
        }
    }
    report.conclude(devices, style, &mut screen);
    Ok(Verdict::of(report.as_asked))
}

impl Report {
    fn conclude(&self, devices: &[Device], style: AddressStyle, screen: &mut Screen) {
        table(&self.functions, devices, style, screen);
        screen.blank();
        let (style, verdict) = if self.as_asked {
            (GOOD, "everything is as asked")
        } else {
            (BAD, "not everything is as asked")
        };
        screen.line(style, verdict);
    }
}

impl Task<'_> {
    /// How many functions are done where this step does not end: who applies rules logs none before all are. `None`
    /// where the log tells.
    fn reached(&self, step: &str) -> Option<usize> {
        let comes_after_overrides = step.ends_with("/unbind")
            || step.ends_with(" to drivers_probe")
            || step.starts_with("modprobe ");
        let is_before = |device: &&Device| !step.contains(&device.address);
        (self.change == Change::Apply && comes_after_overrides)
            .then(|| self.devices.iter().take_while(is_before).count())
    }
}

/// Each function, with the driver that it had and the one that it has.
fn table(functions: &[Changed], devices: &[Device], style: AddressStyle, screen: &mut Screen) {
    if !functions.is_empty() {
        screen.blank();
        let rows = functions.iter().zip(devices).map(|(changed, device)| {
            let text = |driver: &Option<String>| driver.clone().unwrap_or_else(|| "-".to_owned());
            let cells = vec![
                style.text(device.function.address),
                text(&changed.before),
                text(&changed.driver),
                device.title(),
            ];
            (PLAIN, cells)
        });
        screen.table(0, &["ADDRESS", "BEFORE", "NOW", "DEVICE"], rows.collect());
    }
}
