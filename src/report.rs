// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reporting: what a run did, message by message, when all of it is done.

use log::{Level, Log};

use crate::cmdline::MAX_LENGTH;
use crate::message::{Message, all_applied, doubt};
use crate::plan::Step;
use crate::problem::{Limit, Problem};
use crate::ruleset::{Entry, Outcome};
use crate::run::Run;
use crate::warnings;

impl Run<'_> {
    /// Logs what came of the run. Returns whether every rule was applied.
    pub fn report(&self, log: &dyn Log) -> bool {
        let Self { rules, plan, .. } = self;
        let is_for_one = plan.only.is_some();
        // The run at boot, for all functions, has logged what is general: what concerns no single function.
        let say: &mut dyn FnMut(bool, &Message<'_>) = &mut |is_general, message| {
            let level = if is_for_one && is_general { Level::Debug } else { message.level() };
            // A run for one function does not decide on the others of its group.
            let is_unknown = is_for_one && matches!(message, Message::NotViable(..));
            if (level < Level::Debug || rules.debug) && !is_unknown {
                crate::message::log(log, level, message);
            }
        };
        // A line that was cut may have rules behind the cut.
        if rules.count() == 0 && !rules.line_is_cut {
            say(true, &Message::NoRules);
            return true;
        }

        let has_summary = rules.count() > 0 && (!is_for_one || plan.taken().any(Step::is_held));
        if self.is_cut_short && has_summary && rules.off.is_none() {
            say(false, &Message::Summary(rules, plan));
        }
        let mut is_complete = true;
        self.each_omission(&mut |message| {
            is_complete = false;
            say(matches!(message, Message::Problem(_)), message);
        });
        // With `off`, no rule is logged but one that cannot be parsed.
        let is_said = |entry: &&Entry<'_>| rules.off.is_none() || entry.parsed.is_err();
        for entry in rules.entries.iter().filter(|entry| is_said(entry)) {
            let is_general = matches!(
                entry.outcome,
                Outcome::Invalid(_)
                    | Outcome::Refused(Problem::LostExclusion(_))
                    | Outcome::Failed(Problem::NoConsole)
            );
            say(is_general, &Message::Rule(entry));
            if let Some(doubt) = entry.rule().and_then(doubt) {
                say(true, &Message::Doubtful(entry, doubt));
            }
        }
        let is_applied = all_applied(rules);
        if let Some(number) = rules.off {
            say(true, &Message::Off(number));
            return is_applied;
        }
        warnings::each(plan, &mut |message| say(false, message));
        // A run for one function does not decide on the others of its slot and its group.
        let left = plan.steps.iter().filter(|step| !step.is_taken());
        for step in left.filter(|step| plan.is_for(step.function.address)) {
            say(false, &Message::LeftAlone(step));
        }
        for step in plan.taken() {
            say(false, &Message::Function(step));
        }
        if !self.is_cut_short && has_summary {
            say(false, &Message::Summary(rules, plan));
        }
        is_applied && is_complete
    }

    /// Hands over a message about each thing that was not done, unless it is the outcome of a rule. With `off` there
    /// is none.
    pub fn each_omission(&self, each: &mut dyn FnMut(&Message<'_>)) {
        let Self { rules, plan, .. } = self;
        if rules.off.is_some() {
            return;
        }
        if rules.line_is_cut {
            const LENGTH: &Limit =
                &(MAX_LENGTH, "bytes on the kernel command line: the rest is ignored");
            each(&Message::Problem(Problem::TooMany(LENGTH)));
        }
        if rules.surplus > 0 {
            each(&Message::Problem(Problem::Surplus(rules.surplus)));
        }
        for (scope, problem) in &plan.problems {
            // Each other problem is the outcome of a rule.
            if !rules.rules().any(|(number, rule)| plan.concerns_rule(*scope, number, rule)) {
                each(&Message::Unseen(*problem));
            }
        }
    }
}
