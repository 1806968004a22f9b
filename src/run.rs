//! A whole run, from the kernel command line to the last line of the log.

use core::fmt;

use heapless::Vec;
use log::{Level, Log};

use crate::apply::{self, Bound, Registered};
use crate::failure::Failure;
use crate::pci::Address;
use crate::plan::{Decisions, Outcome, Plan, Refusal};
use crate::report::{
    Doubt, FunctionLine, Journal, LeftAlone, NoRules, Off, Omission, RuleLine, Summary, Warning,
};
use crate::rule::{Driver, NOBODY};
use crate::ruleset::{Entry, RuleNumber, RuleSet};
use crate::survey::{self, Gaps, Inventory, MAX_FUNCTIONS};
use crate::system::System;
use crate::text::Decimal;

/// The most drivers that are loaded after a run.
pub const MAX_DRIVERS: usize = 32;

/// Room for all that a run keeps in mind: fixed, some 500 KiB, of which only what is needed is ever
/// touched. Too much for a stack.
#[derive(Default)]
pub struct Run<'a> {
    rules: RuleSet<'a>,
    inventory: Inventory,
    plan: Plan,
    /// Beside each function that is taken: whether its override had to be written.
    overrides: Vec<Option<Result<bool, Failure>>, MAX_FUNCTIONS>,
    summary: Summary,
}

impl<'a> Run<'a> {
    /// A run that has not begun.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            rules: RuleSet::new(),
            inventory: Inventory::new(),
            plan: Plan::new(),
            overrides: Vec::new(),
            summary: Summary::new(),
        }
    }

    /// The rules, to be added before the run begins.
    pub const fn rules_mut(&mut self) -> &mut RuleSet<'a> {
        &mut self.rules
    }

    /// The rules.
    #[must_use]
    pub const fn rules(&self) -> &RuleSet<'a> {
        &self.rules
    }

    /// What the rules concern, once the run has looked at it.
    #[must_use]
    pub const fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// What was decided.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Looks at and decides all that [`Run::apply`] would, and writes nothing. With the rule `off` nothing
    /// is decided.
    pub fn preview(&mut self, system: &mut impl System) -> Gaps {
        if self.rules.off().is_some() {
            return Gaps::default();
        }
        let gaps = self.decide(system, None);
        self.look_around(system);
        gaps
    }

    /// Applies the rules; with `only`, to this one function. Returns whether every rule was applied.
    pub fn apply(
        &mut self,
        system: &mut impl System,
        only: Option<Address>,
        log: &dyn Log,
    ) -> bool {
        let journal = Journal::new(log, self.rules.debug());
        // What concerns no function in particular was said at boot, when all were done.
        let general = if only.is_some() { Level::Debug } else { Level::Info };
        if self.rules.count() == 0 {
            journal.say(general, &NoRules);
            return true;
        }
        if let Some(number) = self.rules.off() {
            let is_valid = self.say_invalid(journal);
            journal.say(general, &Off(number));
            return is_valid;
        }

        let gaps = self.decide(system, only);
        self.set_overrides(system);
        self.look_around(system);
        let is_complete = self.say_omissions(journal, gaps, only.is_some());
        self.say_rules(journal, only.is_some());
        self.each_warning(gaps, &mut |warning| {
            // What becomes of the others of its group was not decided here.
            if only.is_none() || !matches!(warning, Warning::NotViable(..)) {
                journal.say(Level::Warn, warning);
            }
        });
        self.say_left_alone(journal);
        self.bind(system, journal);
        self.summarise(journal, only.is_some()) && is_complete
    }

    /// Sets the overrides and nothing else, beginning where a run that came to no end would have come last.
    /// Returns whether every function has its own.
    pub fn protect(&mut self, system: &mut impl System, only: Option<Address>) -> bool {
        if self.rules.off().is_some() {
            return true;
        }
        self.decide(system, only);
        let mut holds = true;
        for index in (0..self.inventory.functions().count()).rev() {
            let next = self.plan.decisions.next_taken(index, &self.rules, &self.inventory);
            if let Some(taken) = next.filter(|taken| taken.index == index) {
                holds &= apply::set_override(system, taken.function.address, taken.driver).is_ok();
            }
        }
        holds
    }

    /// The drivers that taken functions are kept for, each once.
    #[must_use]
    pub fn drivers(&self) -> Vec<&[u8], MAX_DRIVERS> {
        let mut drivers = Vec::new();
        for taken in self.plan.decisions.taken(&self.rules, &self.inventory) {
            if taken.driver != NOBODY && !drivers.contains(&taken.driver) {
                // Past the limit a driver is left for whoever loads it later.
                let _ = drivers.push(taken.driver);
            }
        }
        drivers
    }

    /// How many functions are kept for this driver, their override set, and how many of them it has now.
    pub fn bound_to(&self, system: &mut impl System, driver: &[u8]) -> (usize, usize) {
        let (mut kept, mut bound) = (0, 0);
        let taken = self.plan.decisions.taken(&self.rules, &self.inventory);
        for taken in taken.filter(|taken| taken.driver == driver && self.holds(taken.index)) {
            kept += 1;
            bound += usize::from(apply::is_bound(system, taken.function.address, driver));
        }
        (kept, bound)
    }

    /// Whether the override of the function at this place of [`Inventory::functions`] is set.
    fn holds(&self, index: usize) -> bool {
        matches!(self.overrides.get(index), Some(Some(Ok(_))))
    }

    fn decide(&mut self, system: &mut impl System, only: Option<Address>) -> Gaps {
        let gaps = survey::survey(system, &self.rules, only, &mut self.inventory);
        self.plan.decide(&self.rules, &self.inventory, only);
        gaps
    }

    fn look_around(&mut self, system: &mut impl System) {
        let Self { rules, inventory, plan, .. } = self;
        survey::surroundings(system, inventory, |index| plan.decisions.takes(index, rules));
    }

    fn set_overrides(&mut self, system: &mut impl System) {
        for _ in self.inventory.functions() {
            // There is room for as many as the inventory holds.
            let _ = self.overrides.push(None);
        }
        for taken in self.plan.decisions.taken(&self.rules, &self.inventory) {
            let result = apply::set_override(system, taken.function.address, taken.driver);
            if let Err(failure) = result {
                self.plan.outcomes.fail(taken.rule, failure);
            }
            if let Some(slot) = self.overrides.get_mut(taken.index) {
                *slot = Some(result);
            }
        }
    }

    fn bind(&mut self, system: &mut impl System, journal: Journal<'_>) {
        let mut registered = Registered::default();
        for taken in self.plan.decisions.taken(&self.rules, &self.inventory) {
            let Some(held) = self.overrides.get(taken.index).copied().flatten() else { continue };
            let result = held.and_then(|was_written| {
                apply::bind(system, &mut registered, taken.function.address, taken.driver)
                    .map(|bound| (was_written, bound))
            });
            self.summary.taken += usize::from(held.is_ok());
            if let Ok((_, Bound { is_bound: true, .. })) = result {
                self.summary.bound += 1;
            }
            let line = FunctionLine {
                function: taken.function,
                rule: taken.rule,
                driver: taken.driver,
                result: &result,
            };
            journal.say(line.level(), &line);
            if let Err(failure) = result
                && self.plan.outcomes.fail(taken.rule, failure)
                && let Some(entry) = self.rules.entry(taken.rule)
            {
                say_rule(journal, taken.rule, entry, Outcome::Failed(failure));
            }
        }
    }

    /// With `off` no rule has an outcome but these.
    fn say_invalid(&self, journal: Journal<'_>) -> bool {
        let mut is_valid = true;
        for (number, entry) in self.rules.entries() {
            if let Err(error) = entry.parsed {
                is_valid = false;
                say_rule(journal, number, entry, Outcome::Invalid(error));
            }
        }
        is_valid
    }

    /// Says what was not done at all. Returns whether there was nothing of this.
    fn say_omissions(&self, journal: Journal<'_>, gaps: Gaps, is_for_one: bool) -> bool {
        let mut is_complete = true;
        self.each_omission(gaps, &mut |omission| {
            is_complete = false;
            let is_general = matches!(omission, Omission::LongLine | Omission::Surplus(_));
            let is_known = is_for_one && is_general;
            journal.say(if is_known { Level::Debug } else { Level::Warn }, omission);
        });
        is_complete
    }

    /// Hands over what was not done, and concerns no rule that is told so by its outcome.
    pub fn each_omission(&self, gaps: Gaps, each: &mut dyn FnMut(&Omission)) {
        if self.rules.line_is_cut() {
            each(&Omission::LongLine);
        }
        if self.rules.surplus() > 0 {
            each(&Omission::Surplus(self.rules.surplus()));
        }
        if let Some(limit) = gaps.exceeded {
            each(&Omission::Exceeded(limit));
        }
        for (obstacle, failure) in self.inventory.obstacles() {
            // The others are told with their rules.
            let mut rules = self.rules.rules();
            if !rules.any(|(number, rule)| self.inventory.hampers(obstacle, number, rule)) {
                each(&Omission::Function(failure));
            }
        }
    }

    fn say_rules(&self, journal: Journal<'_>, is_for_one: bool) {
        for ((number, outcome), (_, entry)) in self.plan.outcomes.iter().zip(self.rules.entries()) {
            // Said at boot, when all functions were done.
            let is_known = is_for_one
                && matches!(
                    outcome,
                    Outcome::Invalid(_) | Outcome::Refused(Refusal::LostExclusion(_))
                );
            if !is_known {
                say_rule(journal, number, entry, outcome);
            }
            if let Some(doubt) = entry.rule().and_then(Doubt::about)
                && !is_for_one
            {
                journal.say(Level::Warn, &Warning::Doubtful(number, entry, doubt));
            }
        }
    }

    /// Hands over what an operator should know of the functions that are taken.
    pub fn each_warning(&self, gaps: Gaps, warn: &mut dyn FnMut(&Warning<'_, '_>)) {
        let decisions = &self.plan.decisions;
        let mut is_auto = false;
        let mut is_off = false;
        for taken in decisions.taken(&self.rules, &self.inventory) {
            let function = taken.function;
            if taken.needs_iommu() && self.inventory.is_groupless(taken.index) {
                is_off |= !self.inventory.has_groups();
                if self.inventory.has_groups() {
                    warn(&Warning::NoGroup(function.address));
                }
            }
            is_auto |= self.rules.driver(taken.rule) == Some(Driver::Auto);
            if function.boot_vga {
                warn(&Warning::BootDisplay(function.address));
            }
            if function.class.is_storage() {
                warn(&Warning::Storage(function));
            }
            if function.class.is_network() {
                warn(&Warning::Network(function));
            }
            if self.inventory.has_framebuffer(taken.index) {
                warn(&Warning::Framebuffer(function.address));
            }
        }
        self.each_group_not_viable(warn);
        if is_off {
            warn(&Warning::NoIommu);
        }
        if let Some(errno) = gaps.aliases_missing.filter(|_| is_auto) {
            warn(&Warning::NoAliases(errno));
        }
    }

    /// Tells each group of which functions are taken and others stay with the host.
    fn each_group_not_viable(&self, warn: &mut dyn FnMut(&Warning<'_, '_>)) {
        let Self { rules, inventory, plan: Plan { decisions, .. }, .. } = self;
        for (index, function) in decisions.left(inventory, rules).enumerate() {
            let mut before = decisions.left(inventory, rules).take(index);
            let mut taken = decisions.taken(rules, inventory);
            if let Some(group) = function.group
                && !before.any(|other| other.group == Some(group))
                && taken.any(|taken| taken.function.group == Some(group) && taken.needs_iommu())
            {
                warn(&Warning::NotViable(group, &Left { decisions, rules, inventory, group }));
            }
        }
    }

    fn say_left_alone(&self, journal: Journal<'_>) {
        for (index, function) in self.inventory.functions().enumerate() {
            if !self.plan.decisions.takes(index, &self.rules) {
                let rule = self.plan.decisions.rule(index);
                journal.say(Level::Debug, &LeftAlone { function, rule });
            }
        }
    }

    fn summarise(&mut self, journal: Journal<'_>, is_for_one: bool) -> bool {
        let mut is_done = self.rules.surplus() == 0;
        for ((number, outcome), (_, entry)) in self.plan.outcomes.iter().zip(self.rules.entries()) {
            self.summary.count(outcome);
            is_done &= RuleLine { number, entry, outcome }.level() != Level::Warn;
        }
        if !is_for_one || self.summary.taken > 0 {
            journal.say(if is_done { Level::Info } else { Level::Warn }, &self.summary);
        }
        is_done
    }
}

fn say_rule(journal: Journal<'_>, number: RuleNumber, entry: &Entry<'_>, outcome: Outcome) {
    let line = RuleLine { number, entry, outcome };
    journal.say(line.level(), &line);
}

/// The functions of a group that stay with the host, the first few by name.
struct Left<'a> {
    decisions: &'a Decisions,
    rules: &'a RuleSet<'a>,
    inventory: &'a Inventory,
    group: u32,
}

impl Left<'_> {
    const MOST_NAMED: usize = 8;
}

impl fmt::Display for Left<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut count = 0;
        for function in self.decisions.left(self.inventory, self.rules) {
            if function.group != Some(self.group) {
                continue;
            }
            if count < Self::MOST_NAMED {
                f.write_str(if count > 0 { ", " } else { "" })?;
                function.address.fmt(f)?;
            }
            count += 1;
        }
        match count.checked_sub(Self::MOST_NAMED) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " and {} more", Decimal::from(more)),
        }
    }
}
