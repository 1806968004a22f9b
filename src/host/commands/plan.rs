// SPDX-License-Identifier: MIT OR Apache-2.0
//! `plan`: what rules would do at boot, rule by rule.

use anyhow::Result;
use serde::Serialize;
use vfio_override::message::Message;
use vfio_override::ruleset::RuleNumber;
use vfio_override::run::Run;

use crate::machine::Machine;
use crate::machine::functions::{AddressStyle, Device, Devices};
use crate::machine::usage::Usage;
use crate::rules::preview::{self, Asked};
use crate::screen::{self, BAD, GOOD, PLAIN, QUIET, Screen, TAKEN, WARN};
use crate::systems::advice::{self, Advice};
use crate::systems::takers::{self, Takers};
use crate::verdict::Verdict;

#[derive(Serialize)]
pub struct Report {
    /// The values of `vfio.override=`.
    parameter: Vec<String>,
    /// The number of the rule `off`, which keeps all others from being applied.
    off: Option<RuleNumber>,
    rules: Vec<Rule>,
    advice: Vec<Advice>,
    /// How many functions are taken.
    taken: usize,
    /// Whether every rule would be applied.
    applied: bool,
}

#[derive(Serialize)]
struct Rule {
    number: RuleNumber,
    text: String,
    outcome: &'static str,
    /// The sentence that the log of the boot would have.
    message: String,
    /// Of an invalid rule: the byte, counted from 1, at which it goes wrong.
    column: Option<u32>,
    #[serde(skip)]
    is_bad: bool,
    functions: Vec<Fate>,
}

/// What becomes of a function that a rule decides on.
#[derive(Serialize)]
struct Fate {
    #[serde(flatten)]
    device: Device,
    /// The driver that it is kept for; `null` for one that an exclusion leaves alone.
    kept_for: Option<String>,
}

pub fn run(machine: &mut Machine, rules: &[String], json: bool) -> Result<Verdict> {
    let devices = Devices::of(machine);
    let report = Report::of(machine, &devices, &Asked::of(machine, rules)?);
    if json {
        screen::json("plan", &report)?;
    } else {
        report.show(devices.style(), &mut Screen::new());
    }
    Ok(Verdict::of(report.applied))
}

impl Report {
    pub fn of(machine: &mut Machine, devices: &Devices, asked: &Asked) -> Self {
        let run = asked.preview(machine);
        let mut advice = advice::about(machine, devices, &Usage::of(machine, devices), &run);
        advice.extend(Takers::of(machine, devices, &takers::taken(&run)).advice);
        if asked.values().is_empty() {
            advice.extend(advice::about_written(machine));
        }
        let rules: Vec<Rule> = run
            .rules
            .entries
            .iter()
            .map(|entry| {
                let message = Message::Rule(entry);
                Rule {
                    number: entry.number,
                    outcome: entry.outcome.word(),
                    message: message.to_string(),
                    text: entry.text.escape_ascii().to_string(),
                    column: entry.parsed.as_ref().err().map(|error| error.column),
                    is_bad: message.level() == log::Level::Warn,
                    functions: fates(devices, &run, entry.number),
                }
            })
            .collect();
        let taken = run.plan.taken().count();
        let is_complete = preview::omissions(&run).is_empty();
        let applied = is_complete && rules.iter().all(|rule| !rule.is_bad);
        Self { parameter: asked.values(), off: run.rules.off, rules, advice, taken, applied }
    }

    pub fn show(&self, style: AddressStyle, screen: &mut Screen) {
        if self.rules.is_empty() {
            advice::show(self.advice.iter(), screen);
            if !self.parameter.is_empty() {
                screen.line(PLAIN, "no rule in vfio.override=: nothing is taken");
            } else if self.applied {
                let none = "no vfio.override= on the kernel command line: nothing is taken";
                screen.line(PLAIN, none);
                screen.line(PLAIN, "try: vfio-override suggest");
            }
            return;
        }
        for rule in &self.rules {
            let colour = match rule.outcome {
                _ if rule.is_bad => BAD,
                "applied" => TAKEN,
                _ => PLAIN,
            };
            screen.line(colour, &rule.message);
            if let Some(column) = rule.column {
                let column = usize::try_from(column).unwrap_or(usize::MAX);
                screen.line(PLAIN, format_args!("    {}", rule.text));
                screen.line(BAD, format_args!("    {:>column$}", "^"));
            }
            let rows = rule.functions.iter().map(|fate| {
                let now = fate.device.driver.as_deref().unwrap_or("no driver");
                let then = match &fate.kept_for {
                    None if fate.device.driver.is_none() => "left alone".to_owned(),
                    None => format!("stays with {now}"),
                    Some(driver) if driver == now => format!("{driver} already"),
                    Some(driver) => format!("{now} -> {driver}"),
                };
                let cells = vec![
                    style.text(fate.device.function.address),
                    fate.device.id.clone(),
                    format!("group {}", fate.device.group_text()),
                    then,
                    fate.device.title(),
                ];
                (if fate.kept_for.is_some() { PLAIN } else { QUIET }, cells)
            });
            let rows: Vec<_> = rows.collect();
            if !rows.is_empty() {
                screen.table(4, &[], rows);
            }
        }
        if !self.advice.is_empty() {
            screen.blank();
        }
        advice::show(self.advice.iter(), screen);
        screen.blank();
        if let Some(number) = self.off {
            screen.line(WARN, Message::Off(number));
            return;
        }
        let functions = if self.taken == 1 { "function" } else { "functions" };
        let with = |outcome| self.rules.iter().filter(|rule| rule.outcome == outcome).count();
        let absent = with(preview::ABSENT);
        // An exclusion may match nothing.
        let rule = if with("unmatched") > 0 { "rule that matches a function" } else { "rule" };
        let verdict = match (self.applied, preview::waiting(absent)) {
            (true, Some(waiting)) if absent == self.rules.len() => waiting,
            (true, Some(waiting)) => format!("{waiting}, every other {rule} is applied"),
            (true, None) => format!("every {rule} is applied"),
            (false, _) => "not every rule is applied".to_owned(),
        };
        screen.line(
            if self.applied { GOOD } else { BAD },
            format_args!("{} {functions} taken; {verdict}", self.taken),
        );
    }
}

/// What becomes of each function that the rule of this number decides on.
fn fates(devices: &Devices, run: &Run<'_>, number: RuleNumber) -> Vec<Fate> {
    let decided = run.plan.steps.iter().filter(|step| step.rule == Some(number));
    decided
        .filter_map(|step| {
            Some(Fate {
                device: devices.get(step.function.address)?.clone(),
                kept_for: step.is_taken().then(|| step.driver.escape_ascii().to_string()),
            })
        })
        .collect()
}
