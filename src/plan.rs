// SPDX-License-Identifier: MIT OR Apache-2.0
//! The plan: one step for each function that the rules concern, from the first look to the log.
//!
//! [`survey`](crate::survey::survey) adds the steps, [`Plan::decide`] gives each its rule and its driver,
//! [`apply`](crate::apply) moves its state, and [`report`](crate::report) logs it. Deciding is pure: all that it
//! depends on is in the rules and the plan.

use core::mem;

use heapless::Vec;

use crate::apply::{DriverName, store_name};
use crate::pci::{Address, Function};
use crate::problem::{Limit, Problem};
use crate::rule::{Action, Driver, Expansion, NOBODY, Rule, Selector, Statement, VFIO_PCI};
use crate::ruleset::{Outcome, RuleNumber, RuleSet};
use crate::survey::{
    Groups, MAX_FUNCTIONS, MAX_NEIGHBOURS, MAX_PATH_ENDS, MAX_PROBLEMS, MAX_STRAYS, Scope,
};

/// What a run is for, and what becomes of every function that the rules concern.
#[derive(Debug, Default)]
pub struct Plan {
    /// The only function that is to be decided on; `None` for all. The caller sets it before the run begins.
    pub only: Option<Address>,
    /// One for every function that a rule may decide on; by address, once the survey is done.
    pub steps: Vec<Step, MAX_FUNCTIONS>,
    /// Functions that share an IOMMU group with a taken one and have no step, in no order.
    pub(crate) neighbours: Vec<Function, MAX_NEIGHBOURS>,
    /// Functions that `vfio-pci.ids=` takes and no rule does, in no order.
    pub(crate) strays: Vec<Address, MAX_STRAYS>,
    /// Which functions the paths of rules lead to, in the order of the rules.
    pub(crate) path_ends: Vec<(RuleNumber, Address), MAX_PATH_ENDS>,
    /// What went wrong while looking, and what it kept the survey from.
    pub(crate) problems: Vec<(Scope, Problem), MAX_PROBLEMS>,
    pub(crate) groups: Groups,
    /// The survey has looked for the console's display, as it does only for rules with `boot_vga`.
    pub(crate) seeks_console: bool,
    /// The function that has the firmware's framebuffer: the framebuffer's driver holds memory of it. `None` also
    /// where this was not looked for.
    pub framebuffer: Option<Address>,
}

/// One function on its way through a run.
#[derive(Debug, Default)]
pub struct Step {
    /// The function.
    pub function: Function,
    /// The number of the rule that decides on the function; `None` where none does.
    pub rule: Option<RuleNumber>,
    /// The driver that it is kept for; empty where it is left alone.
    pub driver: DriverName,
    /// How far it came.
    pub state: State,
    /// Whether its override is set.
    pub held: Held,
    /// The other driver that had it; empty where none did.
    pub freed_from: DriverName,
    /// It was seen to be in no IOMMU group.
    pub is_groupless: bool,
    /// It is in no IOMMU group and behind a bridge: `+group` then takes its slot along.
    pub(crate) is_of_card: bool,
    /// The number of wildcards in the alias that its driver comes from.
    pub(crate) wildcards: usize,
}

/// Whether a function's override is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Held {
    /// No.
    #[default]
    Not,
    /// It was, before the run.
    Already,
    /// The run has set it.
    Written,
}

/// How far a function has come on its way through a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing was done yet, or nothing is to be done.
    #[default]
    Planned,
    /// Its override is set.
    Held,
    /// No driver has it, and its own is not registered.
    Waiting,
    /// It was offered to its driver, which is registered. If this is the last state, the driver did not take it.
    Offered,
    /// Its driver has it.
    Bound,
    /// Something went wrong.
    Failed(Problem),
}

impl Step {
    /// Whether it is kept for a driver, or for none.
    pub fn is_taken(&self) -> bool {
        !self.driver.is_empty()
    }

    /// Whether its override is set.
    pub fn is_held(&self) -> bool {
        self.held != Held::Not
    }

    /// Whether its driver has it.
    pub const fn is_bound(&self) -> bool {
        matches!(self.state, State::Bound)
    }

    /// Whether a rule with this expansion that selects it takes along the other function.
    fn takes_along(&self, expansion: Option<Expansion>, other: &Function) -> bool {
        let Function { address, group, .. } = self.function;
        match expansion {
            Some(Expansion::Group) if group.is_some() => group == other.group,
            // Without a group, a slot behind a bridge counts as one card.
            Some(Expansion::Group) => self.is_of_card && address.same_slot(other.address),
            Some(Expansion::Slot) => address.same_slot(other.address),
            None => false,
        }
    }

    /// Whether its driver needs a whole IOMMU group, as every VFIO driver does. This is assumed of any driver but
    /// pci-stub.
    pub fn needs_iommu(&self) -> bool {
        self.is_taken() && self.driver != NOBODY && self.driver != b"pci-stub"
    }
}

impl Plan {
    /// A plan for nothing.
    pub const fn new() -> Self {
        Self {
            only: None,
            steps: Vec::new(),
            neighbours: Vec::new(),
            strays: Vec::new(),
            path_ends: Vec::new(),
            problems: Vec::new(),
            groups: Groups::Unasked,
            seeks_console: false,
            framebuffer: None,
        }
    }

    /// Whether the run is for the function at this address.
    pub(crate) fn is_for(&self, address: Address) -> bool {
        self.only.is_none_or(|only| only == address)
    }

    /// The functions that are taken, by address.
    pub fn taken(&self) -> impl DoubleEndedIterator<Item = &Step> {
        self.steps.iter().filter(|step| step.is_taken())
    }

    pub(crate) fn taken_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Step> {
        self.steps.iter_mut().filter(|step| step.is_taken())
    }

    /// The functions that stay with the host, as far as their IOMMU group is known: endpoints that are
    /// not taken.
    pub fn left(&self) -> impl Iterator<Item = &Function> {
        (0..self.steps.len() + self.neighbours.len()).filter_map(|index| self.left_at(index))
    }

    fn left_at(&self, index: usize) -> Option<&Function> {
        let function = match self.steps.get(index) {
            Some(step) if step.is_taken() => return None,
            Some(step) => &step.function,
            None => self.neighbours.get(index - self.steps.len())?,
        };
        (function.group.is_some() && !function.class.is_bridge()).then_some(function)
    }

    /// What went wrong while looking.
    pub fn problems(&self) -> impl Iterator<Item = Problem> {
        self.problems.iter().map(|(_, problem)| *problem)
    }

    pub(crate) fn get_mut(&mut self, address: Address) -> Option<&mut Step> {
        self.steps.iter_mut().find(|step| step.function.address == address)
    }

    /// Adds a function that is not there yet. `scope` is what it was found by.
    pub(crate) fn insert(&mut self, scope: Scope, function: Function) {
        const MOST: &Limit =
            &(MAX_FUNCTIONS, "functions: the rest is not protected; use narrower rules");
        let step = Step { function, wildcards: usize::MAX, ..Step::default() };
        let added = self.steps.push(step).map_err(|_| Problem::TooMany(MOST));
        self.note(scope, added);
    }

    /// Puts the steps in order: the survey is done. Unlike this, `sort_unstable` can panic.
    pub(crate) fn sort(&mut self) {
        let mut rest = self.steps.as_mut_slice();
        while let Some((first, others)) = rest.split_first_mut() {
            let least = others.iter_mut().min_by_key(|step| step.function.address);
            if let Some(least) = least.filter(|it| it.function.address < first.function.address) {
                mem::swap(first, least);
            }
            rest = others;
        }
    }

    /// The result, if nothing went wrong; else it stores what went wrong, and what that keeps the survey from.
    pub(crate) fn note<T>(&mut self, scope: Scope, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.remember(scope, problem)).ok()
    }

    /// Stores what went wrong, and what it keeps the survey from: the first problem of each scope.
    pub(crate) fn remember(&mut self, scope: Scope, problem: Problem) {
        let problems = &mut self.problems;
        if problems.iter().any(|(known, _)| *known == scope) {
            return;
        }
        // The last slot stands for all further problems: an exclusion that could not be evaluated must not
        // look unmatched.
        let _ = problems.push(if problems.len() + 1 < MAX_PROBLEMS {
            (scope, problem)
        } else {
            (Scope::Anything, Problem::TooMany(&(MAX_PROBLEMS, "failures: the rest is not told")))
        });
    }

    /// Whether the selector of the rule of this number itself matches the function.
    pub fn selects(&self, number: RuleNumber, selector: &Selector, function: &Function) -> bool {
        match selector {
            Selector::Address { domain, bus, place } => {
                let address = function.address;
                address.domain() == *domain && address.bus() == *bus && place.holds(address)
            }
            Selector::Path { .. } => {
                let start = self.path_ends.partition_point(|(rule, _)| *rule < number);
                let ends = self.path_ends.get(start..).unwrap_or_default();
                let mut of_this = ends.iter().take_while(|(rule, _)| *rule == number);
                of_this.any(|(_, end)| *end == function.address)
            }
            Selector::Ids(ids) => ids.match_function(function),
            Selector::Class { prefix, digits } => {
                // Two digits of the 24-bit class code are 8 bits, and so on.
                let ignored = 24_u32.saturating_sub(u32::from(*digits) * 4);
                function.class.code() >> ignored == *prefix
            }
            Selector::BootVga => function.boot_vga,
        }
    }

    /// Whether a problem of this scope may keep the rule of this number from a function that it selects.
    pub(crate) fn concerns_rule(&self, scope: Scope, number: RuleNumber, rule: &Rule<'_>) -> bool {
        match scope {
            // The IDs and the class of such a function are not known: an exclusion by them may have protected what
            // it takes along with the function.
            Scope::Function(_) if rule.selector.needs_scan() => {
                rule.expansion.is_some() && matches!(rule.action, Action::Exclude)
            }
            Scope::Function(address) => {
                let function = Function { address, ..Function::default() };
                self.selects(number, &rule.selector, &function)
            }
            Scope::Group(address) => {
                let step = self.steps.iter().find(|step| step.function.address == address);
                rule.expansion == Some(Expansion::Group)
                    && step.is_some_and(|it| self.selects(number, &rule.selector, &it.function))
            }
            Scope::Path(path) => path == number,
            Scope::Scan => rule.selector.needs_scan(),
            Scope::BootVga => rule.selector == Selector::BootVga,
            Scope::Aliases => rule.action == Action::Take(Driver::Auto),
            Scope::Anything => true,
        }
    }

    /// Decides everything; with [`Plan::only`], nothing but this function.
    pub fn decide(&mut self, rules: &mut RuleSet<'_>) {
        let only = self.only;
        for number in 1.. {
            let Some(entry) = rules.entry(number) else { break };
            let Ok(Statement::Rule(rule)) = &entry.parsed else { continue };
            let mut outcome = match rules.lost_exclusion {
                Some(lost) if number < lost => Outcome::Refused(Problem::LostExclusion(lost)),
                _ => self.try_rule(number, rule),
            };
            let excludes = rule.action == Action::Exclude;
            if excludes
                && rule.selector == Selector::BootVga
                && matches!(outcome, Outcome::Unmatched)
                && self.steps.iter().any(|step| {
                    step.function.class.is_display()
                        && step.rule.is_some_and(|rule| rules.driver(rule).is_some())
                })
            {
                outcome = Outcome::Failed(Problem::NoConsole);
            }
            if matches!(outcome, Outcome::Failed(_)) && excludes {
                // The exclusion may have protected any function.
                self.steps.iter_mut().for_each(|step| step.rule = None);
                rules.refuse_before(number);
            }
            if let Some(entry) = rules.entry_mut(number) {
                entry.outcome = outcome;
            }
        }

        for step in &mut self.steps {
            if only.is_some_and(|only| only != step.function.address) {
                step.rule = None;
            }
            let name = match step.rule.and_then(|rule| rules.driver(rule)) {
                Some(Driver::Named(name)) => name,
                Some(Driver::Nobody) => NOBODY,
                // Until `survey::find_variants` finds a better one.
                Some(Driver::Auto) => VFIO_PCI,
                None => continue,
            };
            store_name(&mut step.driver, name);
        }
        for entry in &mut rules.entries {
            let decides = self.steps.iter().any(|step| step.rule == Some(entry.number));
            let is_elsewhere = match entry.outcome {
                Outcome::Refused(Problem::Bridge(at, _) | Problem::Guard(at, _)) => {
                    only != Some(at)
                }
                Outcome::Failed(Problem::NoGroup(_)) | Outcome::Unmatched | Outcome::Absent => true,
                outcome => matches!(outcome, Outcome::Applied | Outcome::Excluded),
            };
            if is_elsewhere && !decides && only.is_some() {
                entry.outcome = Outcome::Elsewhere;
            } else if !decides && matches!(entry.outcome, Outcome::Applied | Outcome::Excluded) {
                entry.outcome = Outcome::Overruled;
            }
        }
    }

    /// Has the rule decide on all functions that it matches.
    fn try_rule(&mut self, number: RuleNumber, rule: &Rule<'_>) -> Outcome {
        let excludes = rule.action == Action::Exclude;
        let may_take = |function: &Function| excludes || !function.class.is_bridge();

        let mut problems = self.problems.iter();
        let failure = problems.find(|(scope, _)| self.concerns_rule(*scope, number, rule));
        let failure = failure.map(|(_, problem)| Outcome::Failed(*problem));
        let mut outcome = if rule.may_be_absent { Outcome::Absent } else { Outcome::Unmatched };
        let mut selected = Vec::<u16, MAX_FUNCTIONS>::new();
        let mut is_first = true;
        // The steps at an address are adjacent.
        let (start, most) = if let Selector::Address { domain, bus, place } = &rule.selector {
            let first = place.addresses(*domain, *bus).next();
            (self.steps.partition_point(|step| Some(step.function.address) < first), 8)
        } else {
            (0, MAX_FUNCTIONS)
        };
        for index in (start..self.steps.len()).take(most) {
            let Some(Step { function, .. }) = self.steps.get(index) else { break };
            if !self.selects(number, &rule.selector, function) {
                continue;
            }
            if is_first {
                is_first = false;
                // What cannot be looked at cannot be compared with the guard either.
                if let Some(failure) = failure.filter(|_| rule.guard.is_some()) {
                    return failure;
                }
                if rule.guard.is_some_and(|guard| guard != function.id) {
                    return Outcome::Refused(Problem::Guard(function.address, function.id));
                }
                // An address or a path without `*` at its end means this very function.
                let is_one = rule.selector.place().is_some_and(|place| place.function.is_some());
                if !excludes && function.class.is_bridge() && is_one {
                    return Outcome::Refused(Problem::Bridge(function.address, function.class));
                }
            }
            if !may_take(function) {
                continue;
            }
            let has_group = rule.expansion != Some(Expansion::Group) || function.group.is_some();
            outcome = match outcome {
                Outcome::Failed(_) => outcome,
                _ if !has_group => Outcome::Failed(Problem::NoGroup(function.address)),
                _ if excludes => Outcome::Excluded,
                _ => Outcome::Applied,
            };
            if let Some(step) = self.steps.get_mut(index) {
                step.rule = Some(number);
            }
            let _ = u16::try_from(index).map(|index| selected.push(index));
        }
        for index in 0..self.steps.len() {
            let Some(step) = self.steps.get(index) else { break };
            let may_join = match rule.expansion {
                None => break,
                Some(Expansion::Slot) => may_take(&step.function),
                Some(Expansion::Group) => !step.function.class.is_bridge(),
            };
            let mut selected = selected.iter().filter_map(|&at| self.steps.get(usize::from(at)));
            if may_join
                && step.rule != Some(number)
                && selected.any(|with| with.takes_along(rule.expansion, &step.function))
                && let Some(step) = self.steps.get_mut(index)
            {
                step.rule = Some(number);
            }
        }
        failure.unwrap_or(outcome)
    }
}
