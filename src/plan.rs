//! Deciding: which rule has the last word on each function, and what came of each rule.
//!
//! Pure: everything it depends on is in the rules and the [`Inventory`].

use heapless::Vec;

use crate::failure::Failure;
use crate::grammar::SyntaxError;
use crate::pci::{Address, Class, Function, Id};
use crate::rule::{Action, Driver, Expansion, NOBODY, Place, Rule, Selector, Statement, VFIO_PCI};
use crate::ruleset::{MAX_RULES, RuleNumber, RuleSet};
use crate::survey::{Inventory, MAX_FUNCTIONS};

/// What came of one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `off` or `debug`, which select nothing.
    Setting,
    /// It decided at least one function.
    Applied,
    /// An exclusion that matched.
    Excluded,
    /// Later rules decided all its functions.
    Overruled,
    /// Nothing that it selects is there.
    Unmatched,
    /// Likewise, and the rule says that this may be.
    Absent,
    /// Only one function was asked for, and the rule does not concern it.
    Elsewhere,
    /// It must not be applied.
    Refused(Refusal),
    /// It is not a rule.
    Invalid(SyntaxError),
    /// An operation failed on a function that it decided, or that it names.
    Failed(Failure),
}

/// Why a rule must not be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It names a bridge.
    Bridge(Address, Class),
    /// The function found there has another ID than its guard.
    Guard(Address, Id),
    /// The exclusion of this number, which comes later, cannot be honoured: it is not understood, there
    /// was no room for it, or what it matches cannot be looked at.
    LostExclusion(RuleNumber),
}

/// What becomes of every function of an inventory, and what came of every rule.
#[derive(Debug, Default)]
pub struct Plan {
    /// Who decides on each function.
    pub decisions: Decisions,
    /// What came of each rule.
    pub outcomes: Outcomes,
    companions: Vec<Companions, MAX_FUNCTIONS>,
}

/// Who may be taken along with a function, found once, so that no rule has to look for them with each
/// function that it matches.
#[derive(Debug)]
struct Companions {
    /// The place of the first function of its slot, whose entry stands for all.
    slot: usize,
    /// The place of the first function of its IOMMU group, likewise.
    group: usize,
    /// In such an entry, the last rule that takes them all; 0 for none.
    rule: RuleNumber,
}

/// The number of the rule that decides, beside each function of the inventory.
#[derive(Debug, Default)]
pub struct Decisions(Vec<Option<RuleNumber>, MAX_FUNCTIONS>);

/// The outcome of every rule.
#[derive(Debug, Default)]
pub struct Outcomes(Vec<Outcome, MAX_RULES>);

impl Plan {
    /// A plan without decisions.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            decisions: Decisions(Vec::new()),
            outcomes: Outcomes(Vec::new()),
            companions: Vec::new(),
        }
    }

    /// Decides everything; with `only`, nothing but this function.
    pub fn decide(&mut self, rules: &RuleSet<'_>, inventory: &Inventory, only: Option<Address>) {
        self.decisions.0.clear();
        for _ in inventory.functions() {
            // There is room for as many as the inventory holds.
            let _ = self.decisions.0.push(None);
        }
        self.companions.clear();
        self.outcomes.0.clear();
        for (number, entry) in rules.entries() {
            let outcome = match &entry.parsed {
                Err(error) => Outcome::Invalid(*error),
                Ok(Statement::Off | Statement::Debug) => Outcome::Setting,
                Ok(Statement::Rule(rule)) => match rules.lost_exclusion() {
                    Some(lost) if number < lost => Outcome::Refused(Refusal::LostExclusion(lost)),
                    _ => self.rule(number, rule, inventory),
                },
            };
            if matches!(outcome, Outcome::Failed(_)) && rules.driver(number).is_none() {
                self.refuse_all(number);
            }
            let _ = self.outcomes.0.push(outcome);
        }

        let mut decides = [false; MAX_RULES + 1];
        for (function, deciding) in inventory.functions().zip(&mut self.decisions.0) {
            if only.is_some_and(|only| only != function.address) {
                *deciding = None;
            }
            if let Some(decides) = deciding.and_then(|rule| decides.get_mut(usize::from(rule))) {
                *decides = true;
            }
        }
        for (outcome, decides) in self.outcomes.0.iter_mut().zip(decides.iter().skip(1)) {
            let is_elsewhere = match *outcome {
                Outcome::Applied | Outcome::Excluded | Outcome::Unmatched | Outcome::Absent => {
                    only.is_some() && !*decides
                }
                Outcome::Refused(Refusal::Bridge(address, _) | Refusal::Guard(address, _)) => {
                    only.is_some_and(|only| only != address)
                }
                _ => false,
            };
            if is_elsewhere {
                *outcome = Outcome::Elsewhere;
            } else if !*decides && matches!(*outcome, Outcome::Applied | Outcome::Excluded) {
                *outcome = Outcome::Overruled;
            }
        }
    }

    /// Takes back all decisions so far, because of a later exclusion that may have protected any
    /// function.
    fn refuse_all(&mut self, exclusion: RuleNumber) {
        self.decisions.0.iter_mut().for_each(|deciding| *deciding = None);
        for outcome in &mut self.outcomes.0 {
            if !matches!(outcome, Outcome::Setting | Outcome::Invalid(_)) {
                *outcome = Outcome::Refused(Refusal::LostExclusion(exclusion));
            }
        }
    }

    #[inline(never)]
    fn find_companions(&mut self, inventory: &Inventory) {
        for (index, function) in inventory.functions().enumerate() {
            let first = |is_with: &dyn Fn(&Function) -> bool| {
                inventory.functions().position(is_with).unwrap_or(index)
            };
            let slot = first(&|other| other.address.same_slot(function.address));
            let group = first(&|other| other.group.is_some() && other.group == function.group);
            let _ = self.companions.push(Companions { slot, group, rule: 0 });
        }
    }

    /// Marks what the rule matches as decided by it.
    fn rule(&mut self, number: RuleNumber, rule: &Rule<'_>, inventory: &Inventory) -> Outcome {
        let excludes = rule.action == Action::Exclude;
        let may_take = |function: &Function| excludes || !function.class.is_bridge();

        let failure = inventory.failure_of(number, rule).map(Outcome::Failed);
        if rule.expansion.is_some() && self.companions.is_empty() {
            self.find_companions(inventory);
        }
        let mut outcome = if rule.may_be_absent { Outcome::Absent } else { Outcome::Unmatched };
        let mut is_first = true;
        for (index, seed) in inventory.selected(number, &rule.selector) {
            if is_first {
                is_first = false;
                // What cannot be looked at cannot be compared with the guard either.
                if let Some(failure) = failure.filter(|_| rule.guard.is_some()) {
                    return failure;
                }
                if rule.guard.is_some_and(|guard| guard != seed.id) {
                    return Outcome::Refused(Refusal::Guard(seed.address, seed.id));
                }
                if !excludes && seed.class.is_bridge() && names_one_function(&rule.selector) {
                    return Outcome::Refused(Refusal::Bridge(seed.address, seed.class));
                }
            }
            if !may_take(seed) {
                continue;
            }
            outcome = if excludes { Outcome::Excluded } else { Outcome::Applied };
            if let Some(deciding) = self.decisions.0.get_mut(index) {
                *deciding = Some(number);
            }
            if let Some(rule) = self.taken_along(index, rule.expansion) {
                *rule = number;
            }
        }
        for (index, function) in inventory.functions().enumerate() {
            let may_join = match rule.expansion {
                None => break,
                Some(Expansion::Slot) => may_take(function),
                Some(Expansion::Group) => !function.class.is_bridge(),
            };
            if may_join
                && self.taken_along(index, rule.expansion).is_some_and(|rule| *rule == number)
                && let Some(deciding) = self.decisions.0.get_mut(index)
            {
                *deciding = Some(number);
            }
        }
        failure.unwrap_or(outcome)
    }

    /// The last rule that takes along all that this expansion adds to the function at `index` of
    /// [`Inventory::functions`].
    fn taken_along(
        &mut self,
        index: usize,
        expansion: Option<Expansion>,
    ) -> Option<&mut RuleNumber> {
        let companions = self.companions.get(index)?;
        let first = match expansion? {
            Expansion::Slot => companions.slot,
            Expansion::Group => companions.group,
        };
        self.companions.get_mut(first).map(|companions| &mut companions.rule)
    }
}

impl Decisions {
    /// The number of the rule that decides on the function at `index` of [`Inventory::functions`].
    #[must_use]
    pub fn rule(&self, index: usize) -> Option<RuleNumber> {
        self.0.get(index).copied().flatten()
    }

    /// Each function that is taken, by address.
    pub fn taken<'a>(
        &self,
        rules: &'a RuleSet<'_>,
        inventory: &'a Inventory,
    ) -> impl Iterator<Item = Taken<'a>> {
        let mut next = 0;
        core::iter::from_fn(move || {
            let taken = self.next_taken(next, rules, inventory)?;
            next = taken.index + 1;
            Some(taken)
        })
    }

    /// The first that is taken from this place of [`Inventory::functions`] on.
    pub(crate) fn next_taken<'a>(
        &self,
        index: usize,
        rules: &'a RuleSet<'_>,
        inventory: &'a Inventory,
    ) -> Option<Taken<'a>> {
        inventory.functions_from(index).find_map(|(index, function)| {
            let rule = self.rule(index)?;
            let driver = match rules.driver(rule)? {
                Driver::Named(name) => name,
                Driver::Nobody => NOBODY,
                Driver::Auto => inventory.variant(index).unwrap_or(VFIO_PCI),
            };
            Some(Taken { index, function, rule, driver })
        })
    }

    /// The functions that stay with the host, as far as their IOMMU group is known: endpoints that are
    /// not taken.
    pub fn left<'a>(
        &self,
        inventory: &'a Inventory,
        rules: &RuleSet<'_>,
    ) -> impl Iterator<Item = &'a Function> {
        let mut next = 0;
        core::iter::from_fn(move || {
            let (index, function) = self.next_left(next, inventory, rules)?;
            next = index + 1;
            Some(function)
        })
    }

    /// The first that stays from `index` on, neighbours counted behind the functions.
    #[inline(never)]
    fn next_left<'a>(
        &self,
        index: usize,
        inventory: &'a Inventory,
        rules: &RuleSet<'_>,
    ) -> Option<(usize, &'a Function)> {
        inventory.all_from(index).find(|(index, function)| {
            function.group.is_some() && !function.class.is_bridge() && !self.takes(*index, rules)
        })
    }

    /// Whether the function at `index` of [`Inventory::functions`] is taken.
    #[must_use]
    pub fn takes(&self, index: usize, rules: &RuleSet<'_>) -> bool {
        self.rule(index).and_then(|rule| rules.driver(rule)).is_some()
    }
}

impl Outcomes {
    /// The outcome of every rule, with its number.
    pub fn iter(&self) -> impl Iterator<Item = (RuleNumber, Outcome)> {
        (1..).zip(self.0.iter().copied())
    }

    /// Says that a function of this rule is not as it should be. Returns whether this is the rule's
    /// first failure, which is the one kept.
    pub fn fail(&mut self, number: RuleNumber, failure: Failure) -> bool {
        match usize::from(number).checked_sub(1).and_then(|index| self.0.get_mut(index)) {
            Some(outcome @ Outcome::Applied) => {
                *outcome = Outcome::Failed(failure);
                true
            }
            _ => false,
        }
    }
}

/// A function that is taken.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'a> {
    /// Its place among [`Inventory::functions`].
    pub index: usize,
    /// The function.
    pub function: &'a Function,
    /// The number of the rule that decides.
    pub rule: RuleNumber,
    /// The driver that it is kept for.
    pub driver: &'a [u8],
}

impl Taken<'_> {
    /// Whether its driver is taken to work on whole IOMMU groups, as every VFIO driver does: any but pci-stub.
    #[must_use]
    pub fn needs_iommu(&self) -> bool {
        self.driver != NOBODY && self.driver != b"pci-stub"
    }
}

/// An address or a path without `*` at its end: the operator means this very function.
fn names_one_function(selector: &Selector) -> bool {
    let is_one = |place: &Place| place.function.is_some();
    match selector {
        Selector::Address { place, .. } => is_one(place),
        Selector::Path { hops, .. } => hops.last().is_some_and(is_one),
        Selector::Ids(_) | Selector::Class { .. } | Selector::BootVga => false,
    }
}
