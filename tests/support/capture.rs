// SPDX-License-Identifier: MIT OR Apache-2.0
//! A log that remembers, and runs that are told as it remembers them.

use std::fmt;
use std::sync::Mutex;

use log::{Level, Log, Metadata, Record};
use model::told::RuleLine;
use vfio_override::pci::Address;
use vfio_override::run::Run;
use vfio_override::system::System;

use super::machine::Machine;

/// A [`Log`] that keeps what it is told.
#[derive(Default)]
pub struct Capture(Mutex<Vec<(Level, String)>>);

impl Log for Capture {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        assert_eq!(record.target(), "vfio-override");
        self.0.lock().unwrap().push((record.level(), record.args().to_string()));
    }

    fn flush(&self) {}
}

impl Capture {
    pub fn into_lines(self) -> Vec<(Level, String)> {
        self.0.into_inner().unwrap()
    }
}

/// What a run said and returned.
pub struct Told {
    /// Whether every rule was applied.
    pub is_applied: bool,
    pub lines: Vec<(Level, String)>,
}

impl Told {
    /// Whether some line says this.
    pub fn says(&self, text: &str) -> bool {
        self.lines.iter().any(|(_, line)| line.contains(text))
    }

    /// The word for what came of the rule with this number and text, if the log has one.
    pub fn outcome(&self, number: usize, text: &str) -> Option<&str> {
        let lines = self.lines.iter().filter_map(|(_, line)| RuleLine::read(line));
        let mut told = lines.filter(|line| line.number == number && line.text == text);
        told.next().map(|line| line.word)
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (level, line) in &self.lines {
            writeln!(f, "{:<5} {line}", level.as_str().to_lowercase())?;
        }
        write!(f, "exit status {}", u8::from(!self.is_applied))
    }
}

/// Applies `vfio.override=RULES` to the machine.
pub fn apply(machine: &mut Machine, rules: &str) -> Told {
    apply_line(machine, format!("quiet vfio.override={rules}\n").as_bytes(), None)
}

/// Applies `vfio.override=RULES` to one function of the machine.
pub fn apply_to(machine: &mut Machine, rules: &str, only: Address) -> Told {
    apply_line(machine, format!("quiet vfio.override={rules}\n").as_bytes(), Some(only))
}

/// Applies a whole kernel command line.
pub fn apply_line(system: &mut impl System, line: &[u8], only: Option<Address>) -> Told {
    let log = Capture::default();
    let mut run = Box::<Run>::default();
    run.rules.add_line(line);
    run.plan.only = only;
    run.apply(system);
    let is_applied = run.report(&log);
    Told { is_applied, lines: log.into_lines() }
}
