// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules, and what they would do: the early binary's own run, up to where it would write.

use anyhow::Result;
use vfio_override::cmdline::{self, PARAMETER};
use vfio_override::run::Run;
use vfio_override::system::View;

use crate::machine::Machine;

/// The rules that a command is about.
pub enum Asked {
    /// Those given to the command.
    Given(Vec<String>),
    /// Those of the kernel command line.
    Line(Vec<u8>),
}

impl Asked {
    pub fn of(machine: &Machine, given: &[String]) -> Result<Self> {
        Ok(if given.is_empty() {
            Self::Line(machine.cmdline()?)
        } else {
            Self::Given(given.to_vec())
        })
    }

    /// The values of the parameter.
    pub fn values(&self) -> Vec<String> {
        match self {
            Self::Given(rules) => {
                vec![rules.iter().map(|rule| value(rule)).collect::<Vec<_>>().join(",")]
            }
            Self::Line(line) => {
                overrides(line).map(|value| value.escape_ascii().to_string()).collect()
            }
        }
    }

    /// A run of these rules that has not begun.
    pub fn run(&self) -> Box<Run<'_>> {
        let mut run = Box::<Run<'_>>::default();
        match self {
            Self::Given(rules) => {
                for rule in rules {
                    run.rules.add_value(value(rule).as_bytes());
                }
            }
            Self::Line(line) => run.rules.add_line(line),
        }
        run
    }

    /// What the rules would do.
    pub fn preview(&self, machine: &mut Machine) -> Box<Run<'_>> {
        let mut run = self.run();
        run.preview(&mut View::of(&mut machine.tree));
        run
    }
}

/// The values of every `vfio.override=` of the line, in order. A `vfio.override` without `=` is ignored.
pub fn overrides(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    cmdline::values(line).filter(|(name, _)| *name == PARAMETER).map(|(_, value)| value)
}

/// The rules without what people copy along from the kernel command line.
fn value(rule: &str) -> &str {
    rule.strip_prefix("vfio.override=").unwrap_or(rule)
}

/// What the rules ask for and no run does, beyond what came of each rule.
pub fn omissions(run: &Run<'_>) -> Vec<String> {
    let mut omissions = Vec::new();
    run.each_omission(&mut |omission| omissions.push(omission.to_string()));
    omissions
}

/// What came of a rule whose functions are not there, where it says that they need not be.
pub const ABSENT: &str = "absent";

/// That so many rules are absent; `None` where none is.
pub fn waiting(absent: usize) -> Option<String> {
    match absent {
        0 => None,
        1 => Some("1 rule waits for functions that are not there yet".to_owned()),
        _ => Some(format!("{absent} rules wait for functions that are not there yet")),
    }
}
