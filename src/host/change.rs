//! What `apply` and `release` share: records in the kernel log and on the terminal, and a look at what is
//! true afterwards.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;
use log::{Level, Log, Metadata, Record};
use serde::Serialize;
use vfio_override::apply;

use crate::Verdict;
use crate::functions::{AddressStyle, Device};
use crate::machine::{Kind, Machine};
use crate::screen::{self, BAD, GOOD, PLAIN, Screen, WARN};
use crate::worker::{self, End, Progress};

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
}

/// The kernel log, through kernlog, and whoever waits for the work.
pub struct Recorder {
    kernel: Option<Mutex<(kernlog::KernelLog, usize)>>,
    progress: Mutex<Progress>,
}

impl Recorder {
    /// Records go to the kernel log only where this machine itself is changed.
    pub fn new(kind: Kind, progress: Progress) -> Self {
        let kernel = (kind == Kind::Live).then(kernlog::KernelLog::new).and_then(Result::ok);
        Self { kernel: kernel.map(|log| Mutex::new((log, 0))), progress: Mutex::new(progress) }
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

/// Does the work on these functions, tells how it goes, and looks at what came of it.
pub fn carry_out(
    command: &str,
    machine: &mut Machine,
    devices: &[Device],
    style: AddressStyle,
    limit: Duration,
    json: bool,
    work: impl FnOnce(&mut Machine, Progress) -> bool,
) -> Result<Verdict> {
    let mut screen = Screen::new();
    let mut records = Vec::new();
    let end = worker::supervise(
        limit,
        |line| {
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
    // Nothing but the link: to read an attribute may take the lock that a step which hangs holds.
    let functions: Vec<Changed> = devices
        .iter()
        .map(|device| {
            let driver =
                apply::driver_of(&mut machine.tree, device.function.address).ok().flatten();
            Changed {
                address: device.address.clone(),
                before: device.driver.clone(),
                driver: driver.map(|name| name.escape_ascii().to_string()),
            }
        })
        .collect();
    let unfinished = match &end {
        End::Done(_) => None,
        End::Stuck(step) | End::Crashed(step) => Some(step.clone()),
    };
    let report = Report { records, functions, unfinished, as_asked: end == End::Done(true) };
    if json {
        screen::json(command, &report)?;
        return Ok(Verdict::of(report.as_asked));
    }
    match &end {
        End::Done(_) => {}
        End::Stuck(step) => {
            screen.marked(
                BAD,
                "not done",
                format_args!("the kernel has not finished this in {} s: {step}", limit.as_secs()),
            );
            let hanging = devices
                .iter()
                .find(|device| step.ends_with(&format!("{}/driver/unbind", device.address)));
            if let Some(Device { address, driver: Some(driver), .. }) = hanging {
                screen.marked(
                    BAD,
                    address,
                    format_args!(
                        "half-way: its override is written, and {driver} does not let go of it. End what uses it (a \
                         display server, a virtual machine); once {driver} lets go, no driver has it: run this \
                         command again. If it never does, reboot. Nothing more is done now"
                    ),
                );
            }
        }
        End::Crashed(step) => screen.marked(
            BAD,
            "not done",
            format_args!("the work crashed at this step, and nothing more is done: {step}"),
        ),
    }
    if !report.functions.is_empty() {
        screen.blank();
        let rows = report.functions.iter().zip(devices).map(|(changed, device)| {
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
    screen.blank();
    let (style, verdict) = if report.as_asked {
        (GOOD, "everything is as asked")
    } else {
        (BAD, "not everything is as asked")
    };
    screen.line(style, verdict);
    Ok(Verdict::of(report.as_asked))
}
