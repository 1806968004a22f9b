//! Rules, and what they would do: the early binary's own run, up to where it would write.

use anyhow::Result;
use vfio_override::cmdline;
use vfio_override::grammar::SyntaxError;
use vfio_override::plan::Outcome;
use vfio_override::rule::Statement;
use vfio_override::ruleset::RuleNumber;
use vfio_override::run::Run;
use vfio_override::survey::Gaps;

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
                cmdline::overrides(line).map(|value| value.escape_ascii().to_string()).collect()
            }
        }
    }

    /// A run of these rules that has not begun.
    pub fn run(&self) -> Box<Run<'_>> {
        let mut run = Box::<Run<'_>>::default();
        match self {
            Self::Given(rules) => {
                for rule in rules {
                    run.rules_mut().add_value(value(rule).as_bytes());
                }
            }
            Self::Line(line) => run.rules_mut().add_line(line),
        }
        run
    }

    /// What the rules would do.
    pub fn preview(&self, machine: &mut Machine) -> (Box<Run<'_>>, Gaps) {
        let mut run = self.run();
        let gaps = run.preview(&mut machine.tree);
        (run, gaps)
    }
}

/// The rules without what people copy along from the kernel command line.
fn value(rule: &str) -> &str {
    rule.strip_prefix("vfio.override=").unwrap_or(rule)
}

/// The outcome of every rule; with `off`, only settings and invalid rules have one.
pub fn outcomes(run: &Run<'_>) -> Vec<(RuleNumber, Option<Outcome>)> {
    if run.rules().off().is_none() {
        return run
            .plan()
            .outcomes
            .iter()
            .map(|(number, outcome)| (number, Some(outcome)))
            .collect();
    }
    let outcome = |parsed: &Result<Statement<'_>, SyntaxError>| match parsed {
        Err(error) => Some(Outcome::Invalid(*error)),
        Ok(Statement::Rule(_)) => None,
        Ok(Statement::Off | Statement::Debug) => Some(Outcome::Setting),
    };
    run.rules().entries().map(|(number, entry)| (number, outcome(&entry.parsed))).collect()
}

/// What the rules ask for and no run does, beyond what came of each rule. With `off` they ask for nothing.
pub fn omissions(run: &Run<'_>, gaps: Gaps) -> Vec<String> {
    let mut omissions = Vec::new();
    if run.rules().off().is_none() {
        run.each_omission(gaps, &mut |omission| omissions.push(omission.to_string()));
    }
    omissions
}

/// The word for an outcome, as the log and the JSON have it.
pub fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Setting => "setting",
        Outcome::Applied => "applied",
        Outcome::Excluded => "excluded",
        Outcome::Overruled => "overruled",
        Outcome::Absent => "absent",
        Outcome::Unmatched => "unmatched",
        Outcome::Elsewhere => "elsewhere",
        Outcome::Refused(_) => "refused",
        Outcome::Invalid(_) => "invalid",
        Outcome::Failed(_) => "failed",
    }
}
