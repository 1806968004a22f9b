// SPDX-License-Identifier: MIT OR Apache-2.0
//! The plan: one step for each function that the rules concern, from the first look to the log.
//!
//! [`survey`](crate::survey::survey) adds the steps, [`Plan::decide`] gives each its rule and its driver,
//! [`apply`](crate::apply) moves its state, and [`report`](crate::report) logs it. Deciding is pure: all that it
//! depends on is in the rules and the plan.

use core::mem;

use heapless::Vec;

use crate::apply::{DriverName, keep_name};
use crate::pci::{Address, Function};
use crate::problem::{Limit, Problem};
use crate::rule::{Action, Driver, Expansion, NOBODY, Place, Rule, Selector, Statement, VFIO_PCI};
use crate::ruleset::{Outcome, Refusal, RuleNumber, RuleSet};
use crate::survey::{
    Console, Groups, MAX_FUNCTIONS, MAX_NEIGHBOURS, MAX_PATH_ENDS, MAX_PROBLEMS, MAX_STRAYS, Scope,
};

/// What becomes of every function that the rules concern.
#[derive(Debug, Default)]
pub struct Plan {
    /// In the order in which the survey finds them; sorted by address once the survey is done.
    pub(crate) steps: Vec<Step, MAX_FUNCTIONS>,
    /// Indexes of `steps`, sorted by address. To insert a step moves these, since steps are too large to be moved.
    order: Vec<u16, MAX_FUNCTIONS>,
    /// Functions that share an IOMMU group with a taken one and have no step, in no order.
    pub(crate) neighbours: Vec<Function, MAX_NEIGHBOURS>,
    /// Functions that `vfio-pci.ids=` takes and no rule does, in no order.
    pub(crate) strays: Vec<Address, MAX_STRAYS>,
    /// Which functions the paths of rules lead to, in the order of the rules.
    pub(crate) path_ends: Vec<(RuleNumber, Address), MAX_PATH_ENDS>,
    /// What went wrong while looking, and what it kept the survey from.
    pub(crate) problems: Vec<(Scope, Problem), MAX_PROBLEMS>,
    pub(crate) groups: Groups,
    pub(crate) console: Console,
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
    /// The survey has added what its rules take along.
    pub(crate) is_expanded: bool,
    /// The number of wildcards in the alias that its driver comes from.
    pub(crate) wildcards: usize,
    /// The heads: indexes of the first step of its slot and of the first step of its IOMMU group. What these two hold
    /// in `takes_slot` and `takes_group` counts for the whole slot and the whole group.
    heads: [usize; 2],
    /// In the head of a slot, the last rule that takes the slot along; 0 for none.
    takes_slot: RuleNumber,
    /// In the head of an IOMMU group, the last rule that takes the group along; 0 for none.
    takes_group: RuleNumber,
}

/// Whether a function's override is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names say it")]
pub enum Held {
    #[default]
    Not,
    Already,
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
    pub(crate) fn new(function: Function) -> Self {
        Self { function, wildcards: usize::MAX, ..Self::default() }
    }

    /// Whether it is kept for a driver, or for none.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        !self.driver.is_empty()
    }

    /// Whether its override is set.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held != Held::Not
    }

    /// Whether its driver has it.
    #[must_use]
    pub const fn is_bound(&self) -> bool {
        matches!(self.state, State::Bound)
    }

    /// Whether its driver needs a whole IOMMU group, as every VFIO driver does. This is assumed of any driver but
    /// pci-stub.
    #[must_use]
    pub fn needs_iommu(&self) -> bool {
        self.is_taken() && self.driver != NOBODY && self.driver != b"pci-stub"
    }
}

impl Plan {
    /// A plan for nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            steps: Vec::new(),
            order: Vec::new(),
            neighbours: Vec::new(),
            strays: Vec::new(),
            path_ends: Vec::new(),
            problems: Vec::new(),
            groups: Groups::Unasked,
            console: Console::Unasked,
            framebuffer: None,
        }
    }

    /// Every function that a rule may decide on, by address.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The functions that are taken, by address.
    #[must_use]
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

    #[inline(never)]
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

    /// The index of the function's step; as an error, the position in `order` at which it belongs.
    pub(crate) fn index(&self, address: Address) -> Result<usize, usize> {
        let at = |&place: &u16| self.steps.get(usize::from(place)).map(|it| it.function.address);
        // Mostly the functions come in rising order.
        if self.order.last().is_none_or(|last| at(last) < Some(address)) {
            return Err(self.order.len());
        }
        let found = self.order.binary_search_by_key(&Some(address), at)?;
        self.order.get(found).map_or(Err(found), |&place| Ok(place.into()))
    }

    pub(crate) fn get_mut(&mut self, address: Address) -> Option<&mut Step> {
        let at = self.index(address).ok()?;
        self.steps.get_mut(at)
    }

    /// Adds a function that is not there yet.
    pub(crate) fn insert(&mut self, function: Function) -> Result<(), Problem> {
        let full = Problem::Limit(Limit::Functions);
        let (Ok(at) | Err(at)) = self.index(function.address);
        let mut carried = u16::try_from(self.steps.len()).map_err(|_| full)?;
        self.steps.push(Step::new(function)).map_err(|_| full)?;
        // `Vec::insert` can panic.
        for place in self.order.iter_mut().skip(at) {
            mem::swap(place, &mut carried);
        }
        self.order.push(carried).map_err(|_| full)
    }

    /// Puts the steps in order: the survey is done.
    pub(crate) fn sort(&mut self) {
        for at in 0..self.order.len() {
            let mut from = at;
            // Before `at` all steps are in order. A step that stood there was swapped to the index that `order` has
            // there.
            while let Some(&place) = self.order.get(from) {
                from = place.into();
                if from >= at {
                    break;
                }
            }
            if let Ok([here, there]) = self.steps.get_disjoint_mut([at, from]) {
                mem::swap(here, there);
            }
        }
        for (at, place) in (0..).zip(&mut self.order) {
            *place = at;
        }
    }

    /// Stores what went wrong, and what it keeps the survey from: the first problem of each scope.
    #[inline(never)]
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
            (Scope::Anything, Problem::Limit(Limit::Problems))
        });
    }

    /// Whether the selector of the rule of this number itself matches the function.
    #[must_use]
    pub fn selects(&self, number: RuleNumber, selector: &Selector, function: &Function) -> bool {
        match selector {
            Selector::Address { .. } | Selector::Path { .. } => {
                self.names(number, selector, function.address)
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

    /// Whether the rule of this number names the address, or its path leads to it.
    fn names(&self, number: RuleNumber, selector: &Selector, address: Address) -> bool {
        match selector {
            Selector::Address { domain, bus, place } => {
                address.domain() == *domain && address.bus() == *bus && place.holds(address)
            }
            Selector::Path { .. } => {
                let start = self.path_ends.partition_point(|(rule, _)| *rule < number);
                let ends = self.path_ends.get(start..).unwrap_or_default();
                let mut of_this = ends.iter().take_while(|(rule, _)| *rule == number);
                of_this.any(|(_, end)| *end == address)
            }
            Selector::Ids(_) | Selector::Class { .. } | Selector::BootVga => false,
        }
    }

    /// Whether a problem of this scope may keep the rule of this number from a function that it selects.
    #[must_use]
    pub(crate) fn hampers(&self, scope: Scope, number: RuleNumber, rule: &Rule<'_>) -> bool {
        match scope {
            Scope::Function(address) => self.names(number, &rule.selector, address),
            Scope::Group(address) => {
                let step = self.index(address).ok().and_then(|at| self.steps.get(at));
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

    /// Decides everything; with `only`, nothing but this function.
    pub fn decide(&mut self, rules: &mut RuleSet<'_>, only: Option<Address>) {
        if rules.any(|rule| rule.expansion.is_some()) {
            self.find_heads();
        }
        for number in 1.. {
            let Some(entry) = rules.entry(number) else { break };
            let Ok(Statement::Rule(rule)) = &entry.parsed else { continue };
            let mut outcome = match rules.lost_exclusion() {
                Some(lost) if number < lost => Outcome::Refused(Refusal::LostExclusion(lost)),
                _ => self.try_rule(number, rule),
            };
            let excludes = rule.action == Action::Exclude;
            if excludes
                && rule.selector == Selector::BootVga
                && outcome == Outcome::Unmatched
                && self.console == Console::Unknown
                && self.takes_display(rules)
            {
                outcome = Outcome::Failed(Problem::NoConsole);
            }
            if matches!(outcome, Outcome::Failed(_)) && excludes {
                // The exclusion may have protected any function.
                self.steps.iter_mut().for_each(|step| step.rule = None);
                rules.refuse_before(number);
            }
            rules.conclude(number, outcome);
        }

        for step in &mut self.steps {
            if only.is_some_and(|only| only != step.function.address) {
                step.rule = None;
            }
            let name = match step.rule.and_then(|rule| rules.driver(rule)) {
                Some(Driver::Named(name)) => name,
                Some(Driver::Nobody) => NOBODY,
                // Until `survey::variants` finds a better one.
                Some(Driver::Auto) => VFIO_PCI,
                None => continue,
            };
            keep_name(&mut step.driver, name);
        }
        for (number, entry) in rules.entries_mut() {
            let decides = self.steps.iter().any(|step| step.rule == Some(number));
            match entry.outcome {
                Outcome::Applied
                | Outcome::Excluded
                | Outcome::Unmatched
                | Outcome::Absent
                | Outcome::Failed(Problem::NoGroup(_))
                    if only.is_some() && !decides =>
                {
                    entry.outcome = Outcome::Elsewhere;
                }
                Outcome::Refused(Refusal::Bridge(address, _) | Refusal::Guard(address, _))
                    if only.is_some_and(|only| only != address) =>
                {
                    entry.outcome = Outcome::Elsewhere;
                }
                Outcome::Applied | Outcome::Excluded if !decides => {
                    entry.outcome = Outcome::Overruled;
                }
                _ => {}
            }
        }
    }

    /// Whether the rules so far take some display.
    fn takes_display(&self, rules: &RuleSet<'_>) -> bool {
        self.steps.iter().any(|step| {
            step.function.class.is_display()
                && step.rule.is_some_and(|rule| rules.driver(rule).is_some())
        })
    }

    /// Sets the `heads` of each step. This is done once, so that a rule need not search for the slot and the group of
    /// each function that it matches.
    #[inline(never)]
    fn find_heads(&mut self) {
        for index in 0..self.steps.len() {
            let (before, after) = self.steps.split_at_mut_checked(index).unwrap_or_default();
            let Some(Step { function, heads, .. }) = after.first_mut() else { break };
            *heads = [index; 2];
            // The steps of a slot are adjacent.
            if let Some(last) = before.last()
                && last.function.address.same_slot(function.address)
            {
                *heads = [last.heads[0], index];
            }
            if function.group.is_some()
                && let Some(first) =
                    before.iter().find(|step| step.function.group == function.group)
            {
                heads[1] = first.heads[1];
            }
        }
    }

    /// Has the rule decide on all functions that it matches.
    fn try_rule(&mut self, number: RuleNumber, rule: &Rule<'_>) -> Outcome {
        let excludes = rule.action == Action::Exclude;
        let may_take = |function: &Function| excludes || !function.class.is_bridge();

        let mut problems = self.problems.iter();
        let failure = problems.find(|(scope, _)| self.hampers(*scope, number, rule));
        let failure = failure.map(|(_, problem)| Outcome::Failed(*problem));
        let mut outcome = if rule.may_be_absent { Outcome::Absent } else { Outcome::Unmatched };
        let mut is_first = true;
        for index in self.range(&rule.selector) {
            let Some(&Step { function, heads: [slot, group], is_of_card, .. }) =
                self.steps.get(index)
            else {
                break;
            };
            if !self.selects(number, &rule.selector, &function) {
                continue;
            }
            if is_first {
                is_first = false;
                // What cannot be looked at cannot be compared with the guard either.
                if let Some(failure) = failure.filter(|_| rule.guard.is_some()) {
                    return failure;
                }
                if rule.guard.is_some_and(|guard| guard != function.id) {
                    return Outcome::Refused(Refusal::Guard(function.address, function.id));
                }
                if !excludes && function.class.is_bridge() && names_one_function(&rule.selector) {
                    return Outcome::Refused(Refusal::Bridge(function.address, function.class));
                }
            }
            if !may_take(&function) {
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
            let takes_group = rule.expansion == Some(Expansion::Group) && has_group;
            // Without a group, a slot behind a bridge counts as one card.
            let takes_slot = rule.expansion == Some(Expansion::Slot) || !has_group && is_of_card;
            if let Some(head) = self.steps.get_mut(slot).filter(|_| takes_slot) {
                head.takes_slot = number;
            }
            if let Some(head) = self.steps.get_mut(group).filter(|_| takes_group) {
                head.takes_group = number;
            }
        }
        for index in 0..self.steps.len() {
            let Some(&Step { function, heads: [slot, group], .. }) = self.steps.get(index) else {
                break;
            };
            let may_join = match rule.expansion {
                None => break,
                Some(Expansion::Slot) => may_take(&function),
                Some(Expansion::Group) => !function.class.is_bridge(),
            };
            let joins = self.steps.get(slot).is_some_and(|head| head.takes_slot == number)
                || self.steps.get(group).is_some_and(|head| head.takes_group == number);
            if may_join
                && joins
                && let Some(step) = self.steps.get_mut(index)
            {
                step.rule = Some(number);
            }
        }
        failure.unwrap_or(outcome)
    }

    /// The indexes of the steps that the selector may match.
    fn range(&self, selector: &Selector) -> core::ops::Range<usize> {
        match selector {
            Selector::Address { domain, bus, place } => {
                let first = place.addresses(*domain, *bus).next();
                let start = first.map_or(0, |first| self.index(first).unwrap_or_else(|at| at));
                // The steps of a slot are adjacent.
                start..self.steps.len().min(start + 8)
            }
            Selector::Path { .. }
            | Selector::Ids(_)
            | Selector::Class { .. }
            | Selector::BootVga => 0..self.steps.len(),
        }
    }
}

/// Whether this is an address or a path without `*` at its end: then the operator means this very function.
fn names_one_function(selector: &Selector) -> bool {
    let is_one = |place: &Place| place.function.is_some();
    match selector {
        Selector::Address { place, .. } => is_one(place),
        Selector::Path { hops, .. } => hops.last().is_some_and(is_one),
        Selector::Ids(_) | Selector::Class { .. } | Selector::BootVga => false,
    }
}
