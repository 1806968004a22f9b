// SPDX-License-Identifier: MIT OR Apache-2.0
//! `status`: what the kernel command line asked for, against what is true now.

use anyhow::Result;
use log::Level;
use serde::Serialize;
use vfio_override::message::Message;
use vfio_override::rule::NOBODY;
use vfio_override::ruleset::{RuleNumber, RuleSet};
use vfio_override::run::Run;

use crate::machine::Machine;
use crate::machine::functions::{Device, Devices};
use crate::machine::kernel_log::KernelLog;
use crate::rules::preview::{self, Asked};
use crate::screen::{self, BAD, GOOD, PLAIN, QUIET, Screen, WARN};
use crate::systems::advice::{self, Advice};
use crate::systems::initramfs::Initramfs;
use crate::systems::iommu;
use crate::systems::takers::{self, Takers};
use crate::verdict::Verdict;

#[derive(Serialize)]
pub struct Report {
    /// The values of `vfio.override=`.
    parameter: Vec<String>,
    /// The number of the rule `off`, if there is one.
    off: Option<RuleNumber>,
    pub functions: Vec<Comparison>,
    /// Rules that are not applied, and those whose functions are absent, as they may be.
    rules: Vec<Unapplied>,
    /// What else is not done.
    omissions: Vec<String>,
    /// Functions with an override, or with the driver of one, that no rule asks for.
    unasked: Vec<Device>,
    /// Who else takes functions.
    advice: Vec<Advice>,
    log: KernelLog,
    /// Whether everything is as asked.
    pub as_asked: bool,
}

#[derive(Serialize)]
pub struct Comparison {
    #[serde(flatten)]
    pub device: Device,
    pub rule: RuleNumber,
    #[serde(skip)]
    pub rule_text: String,
    /// The driver that it is kept for.
    pub asked: String,
    pub state: State,
    /// Why it is not as asked, or what is worth knowing though it is.
    reason: Option<String>,
    /// The driver that had it before; `null` where none did, or nothing tells.
    first_driver: Option<String>,
}

/// How what is there compares with what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The driver has it, or nobody, as was asked.
    AsAsked,
    /// Kept for the driver, which is not loaded.
    Waiting,
    /// Anything else.
    Different,
}

#[derive(Serialize)]
struct Unapplied {
    number: RuleNumber,
    text: String,
    outcome: &'static str,
    message: String,
    #[serde(skip)]
    hint: Option<Advice>,
}

pub fn run(machine: &mut Machine, json: bool) -> Result<Verdict> {
    let report = Report::of_machine(machine)?;
    if json {
        screen::json("status", &report)?;
    } else {
        report.show(&Devices::of(machine), &mut Screen::new());
    }
    Ok(Verdict::of(report.as_asked))
}

impl Report {
    /// What is true of the rules of the kernel command line.
    pub fn of_machine(machine: &mut Machine) -> Result<Self> {
        let asked = Asked::Line(machine.cmdline()?);
        Ok(Self::of(machine, &asked))
    }

    fn of(machine: &mut Machine, asked: &Asked) -> Self {
        let run = asked.preview(machine);
        let log = KernelLog::of(machine);
        let image = Initramfs::of(machine);
        let devices = Devices::of(machine);
        let iommu = iommu::Off::of(machine, &devices).map(|off| off.sentence());
        let mut functions = Vec::new();
        for step in run.plan.taken() {
            if let (Some(device), Some(rule)) = (devices.get(step.function.address), step.rule) {
                let asked = step.driver.escape_ascii().to_string();
                let (image, iommu) = (image.as_ref(), iommu.as_deref());
                let judge = Judge { machine, log: &log, image, iommu };
                let rule = (rule, text_of(&run.rules, rule));
                functions.push(judge.compare(device.clone(), rule, asked));
            }
        }
        let (taken, off) = (takers::taken(&run), run.rules.off);
        let rules = unapplied(&run);
        let omissions = preview::omissions(&run);
        let is_asked = |device: &&Device| {
            functions.iter().any(|comparison| comparison.device.address == device.address)
        };
        let unasked: Vec<Device> = devices
            .all
            .iter()
            .filter(|device| (device.kept_for.is_some() || is_passed(device)) && !is_asked(device))
            .cloned()
            .collect();
        let as_asked = rules.iter().all(Unapplied::is_absent)
            && omissions.is_empty()
            && functions.iter().all(|comparison| comparison.state != State::Different);
        drop(run);
        // What does no harm is for those who plan.
        let others = Takers::of(machine, &devices, &taken).advice.into_iter();
        let unseen = asked.values().is_empty().then(|| advice::about_written(machine)).flatten();
        let kernels = image.as_ref().filter(|_| !taken.is_empty());
        let kernels = kernels.and_then(advice::about_other_kernels);
        let advice = others.chain(kernels).filter(|advice| advice.severity == "warning");
        let advice = advice.chain(unseen).collect();
        Self {
            parameter: asked.values(),
            off,
            functions,
            rules,
            omissions,
            unasked,
            advice,
            log,
            as_asked,
        }
    }

    fn show(&self, devices: &Devices, screen: &mut Screen) {
        let style = devices.style();
        if self.parameter.is_empty() {
            screen.line(PLAIN, "no vfio.override= on the kernel command line: nothing was asked");
        }
        for value in &self.parameter {
            screen.line(PLAIN, format_args!("vfio.override={value}"));
        }
        if let Some(number) = self.off {
            screen.line(WARN, Message::Off(number));
        }
        if !self.functions.is_empty() {
            screen.blank();
            let rows = self.functions.iter().map(|comparison| {
                let dash = || "-".to_owned();
                let device = &comparison.device;
                let (colour, state) = match comparison.state {
                    State::AsAsked => (GOOD, "as asked"),
                    State::Waiting => (WARN, "waiting"),
                    State::Different => (BAD, "different"),
                };
                let cells = vec![
                    style.text(device.function.address),
                    comparison.rule.to_string(),
                    comparison.asked.clone(),
                    device.kept_for.clone().unwrap_or_else(dash),
                    device.driver.clone().unwrap_or_else(dash),
                    state.to_owned(),
                    device.title(),
                ];
                (colour, cells)
            });
            let rows = rows.collect();
            let head = ["ADDRESS", "RULE", "ASKED", "OVERRIDE", "DRIVER", "STATE", "DEVICE"];
            screen.table(0, &head, rows);
            screen.blank();
        }
        let mut told = Vec::new();
        for Comparison { reason, state, .. } in &self.functions {
            let Some(reason) = reason.as_ref().filter(|reason| !told.contains(reason)) else {
                continue;
            };
            told.push(reason);
            let same = self.functions.iter().filter(|other| other.reason.as_ref() == Some(reason));
            let who: Vec<String> =
                same.map(|comparison| style.text(comparison.device.function.address)).collect();
            let colour = if *state == State::Different { BAD } else { WARN };
            screen.marked(colour, &who.join(", "), reason);
        }
        for Comparison { device, .. } in &self.functions {
            if let Some(node) = &device.vfio_node {
                let address = style.text(device.function.address);
                screen.marked(PLAIN, &address, format_args!("is {} for iommufd", node.display()));
            }
        }
        for rule in &self.rules {
            if rule.is_absent() {
                screen.marked(WARN, "not there yet", &rule.message);
                continue;
            }
            screen.marked(BAD, "not applied", &rule.message);
            if let Some(hint) = &rule.hint {
                screen.marked(PLAIN, hint.severity, &hint.message);
            }
        }
        for omission in &self.omissions {
            screen.marked(BAD, "not done", omission);
        }
        for device in &self.unasked {
            let address = style.text(device.function.address);
            let told = match (&device.kept_for, &device.driver) {
                (None, Some(driver)) => format!(
                    "{driver} has it, which no rule of the kernel command line asks for (vfio-pci.ids=, \
                     driverctl, libvirt?); vfio-override plan names what takes functions by ID"
                ),
                (kept_for, _) => format!(
                    "kept for {}, which no rule of the kernel command line asks for (apply, driverctl, \
                     libvirt?); vfio-override release gives it back",
                    kept_for.as_deref().unwrap_or_default()
                ),
            };
            screen.marked(WARN, &address, told);
        }
        advice::show(self.advice.iter(), screen);
        self.show_log(screen);
        if let Some(trouble) = &self.log.trouble {
            screen.marked(WARN, "note", trouble);
        }
        if !self.parameter.is_empty() {
            screen.blank();
            let absent = self.rules.iter().filter(|rule| rule.is_absent()).count();
            match (self.as_asked, preview::waiting(absent)) {
                (true, None) => screen.line(GOOD, "everything is as asked"),
                (true, Some(waiting)) => {
                    screen.line(WARN, format_args!("as asked so far: {waiting}"));
                }
                (false, _) => screen.line(BAD, "not everything is as asked"),
            }
        }
    }
}

impl Report {
    /// The boot's own lines are the first, the newest the last; a long day of changes lies between.
    fn show_log(&self, screen: &mut Screen) {
        const EACH_END: usize = 32;
        let lines = &self.log.lines;
        if !lines.is_empty() {
            screen.line(PLAIN, "the log of this boot:");
        }
        let hidden = EACH_END..lines.len().saturating_sub(EACH_END);
        for (index, line) in lines.iter().enumerate() {
            if index == hidden.start && !hidden.is_empty() {
                let count = hidden.len();
                screen.line(QUIET, format_args!("  … {count} more, which --json has"));
            }
            if !hidden.contains(&index) {
                let time = line.seconds.map_or_else(String::new, |time| format!("[{time:12.6}] "));
                screen.line(QUIET, format_args!("  {time}{}", line.text));
            }
        }
    }
}

impl Unapplied {
    /// Whether it is none the worse for that.
    fn is_absent(&self) -> bool {
        self.outcome == preview::ABSENT
    }
}

/// Whether a driver has the function that has it for others.
fn is_passed(device: &Device) -> bool {
    device.driver.as_deref().is_some_and(|driver| ["vfio-pci", "pci-stub"].contains(&driver))
}

fn text_of(rules: &RuleSet<'_>, number: RuleNumber) -> String {
    rules.entry(number).map(|entry| entry.text.escape_ascii().to_string()).unwrap_or_default()
}

fn unapplied(run: &Run<'_>) -> Vec<Unapplied> {
    let messages = run.rules.entries.iter().map(|entry| {
        let message = Message::Rule(entry);
        let outcome = entry.outcome.word();
        (message.level() == Level::Warn || outcome == preview::ABSENT).then(|| Unapplied {
            number: entry.number,
            text: entry.text.escape_ascii().to_string(),
            outcome,
            message: message.to_string(),
            hint: advice::about_absent(entry),
        })
    });
    messages.flatten().collect()
}

/// What a comparison depends on.
struct Judge<'a> {
    machine: &'a Machine,
    log: &'a KernelLog,
    image: Option<&'a Initramfs>,
    /// Why there are no IOMMU groups.
    iommu: Option<&'a str>,
}

impl Judge<'_> {
    fn compare(
        &self,
        device: Device,
        (rule, rule_text): (RuleNumber, String),
        asked: String,
    ) -> Comparison {
        let first_driver = self.first_driver(&device.address);
        let is_kept = device.kept_for.as_ref() == Some(&asked);
        let wants_nobody = asked.as_bytes() == NOBODY;
        let is_good = match &device.driver {
            Some(driver) => is_kept && *driver == asked,
            None => is_kept && wants_nobody,
        };
        let is_loaded = self.machine.sysfs.join("bus/pci/drivers").join(&asked).exists();
        let state = if is_good {
            State::AsAsked
        } else if is_kept && device.driver.is_none() && !is_loaded {
            State::Waiting
        } else {
            State::Different
        };
        let reason = match state {
            State::AsAsked => first_driver.as_ref().map(|driver| {
                format!(
                    "{driver} had it first, and was unbound: it is built into the kernel, or was loaded before \
                     vfio-override ran"
                )
            }),
            State::Waiting => Some(format!(
                "no driver has it until {asked} loads: sudo modprobe {asked}; to have that done at boot, add \
                 {asked} to /etc/modules-load.d/vfio.conf"
            )),
            State::Different => Some(self.difference(&device, &asked, is_kept)),
        };
        Comparison { device, rule, rule_text, asked, state, reason, first_driver }
    }

    /// `unbound from X` in the line of the early binary's.
    fn first_driver(&self, address: &str) -> Option<String> {
        let says = "unbound from ";
        let line = self.log.of_boot().find_map(|line| line.about(address, says))?;
        let (_, rest) = line.split_once(says)?;
        Some(rest.split(',').next()?.to_owned())
    }

    fn difference(&self, device: &Device, asked: &str, is_kept: bool) -> String {
        let address = &device.address;
        let mut newest_first = self.log.of_boot().rev();
        if let Some(failed) = newest_first.find_map(|line| line.about(address, ": failed: ")) {
            let failure = failed.split_once(": failed: ").map_or(failed, |(_, failure)| failure);
            return format!("setting it up failed at boot: {failure}");
        }
        if is_kept {
            return match (&device.driver, self.iommu) {
                (Some(driver), _) => format!(
                    "{driver} has it still, though it is kept for {asked}: vfio-override apply takes it away, \
                     if {driver} lets go"
                ),
                (None, Some(iommu)) => {
                    format!("{asked} is loaded and did not take it: {iommu}")
                }
                (None, None) => format!(
                    "{asked} is loaded and did not take it: dmesg | grep {address} tells why, in {asked}'s own words"
                ),
            };
        }
        if let Some(other) = &device.kept_for {
            return format!(
                "its override is {other}: something set it after boot (driverctl, libvirt, a script)"
            );
        }
        self.missing_override(device)
    }

    /// Why a function has no override though a rule asks for one.
    fn missing_override(&self, device: &Device) -> String {
        let mut of_boot = self.log.of_boot();
        if of_boot.any(|line| line.about(&device.address, "driver_override").is_some()) {
            return "it was set at boot and is unset now: the function was removed and found again, or \
                    released"
                .to_owned();
        }
        if self.log.of_boot().next().is_some() {
            return "vfio-override ran at boot, and the function was not there then, or has another rule now: \
                    vfio-override apply sets it"
                .to_owned();
        }
        let hook = self.image.and_then(advice::about_hook);
        let hook = hook.map_or_else(String::new, |advice| format!("; {}", advice.message));
        if self.log.complete {
            format!("vfio-override did not run at this boot{hook}")
        } else {
            format!("no override was set, and the log does not tell why{hook}")
        }
    }
}
