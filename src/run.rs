// SPDX-License-Identifier: MIT OR Apache-2.0
//! A whole run: look and decide, apply, report.

use heapless::Vec;

use crate::apply::{self, DriverName, store_name};
use crate::path::Path;
use crate::plan::{Held, Plan, State, Step};
use crate::problem::Problem;
use crate::rule::{NOBODY, VFIO_PCI};
use crate::ruleset::RuleSet;
use crate::survey;
use crate::system::{System, View};
use crate::warnings;

/// The most drivers that are loaded after a run.
pub const MAX_DRIVERS: usize = 32;

/// The rules and the plan: fixed room for all that a run stores, about 1 MiB on 64-bit machines, which is too much
/// for a stack. A run touches only as much of it as it needs.
#[derive(Debug, Default)]
pub struct Run<'a> {
    /// The caller adds them before the run begins.
    pub rules: RuleSet<'a>,
    /// What is known of each function, and what becomes of it.
    pub plan: Plan,
    /// The log may be cut short, so the summary is its first line.
    pub(crate) is_cut_short: bool,
}

impl Run<'_> {
    /// A run that has not begun.
    pub const fn new() -> Self {
        Self { rules: RuleSet::new(), plan: Plan::new(), is_cut_short: false }
    }

    /// Looks at what the rules concern, and decides. Nothing is written. With the rule `off` nothing is looked at.
    fn decide(&mut self, view: &mut View<'_, impl System>) {
        let Self { rules, plan, .. } = self;
        if rules.count() > 0 && rules.off.is_none() {
            survey::survey(view, rules, plan);
            plan.decide(rules);
            survey::find_variants(view, rules, plan);
        }
    }

    /// Looks at and decides all that [`Run::apply`] would, and writes nothing.
    pub fn preview(&mut self, view: &mut View<'_, impl System>) {
        self.decide(view);
        self.fail_rules();
        warnings::gather(view, &self.rules, &mut self.plan);
    }

    /// Applies the rules.
    ///
    /// All overrides are written before anything else is done to a function, so that no slow one leaves
    /// another unprotected.
    pub fn apply(&mut self, system: &mut impl System) {
        self.decide(&mut View::of(system));
        for step in self.plan.taken_mut() {
            apply::hold(system, step);
        }
        self.fail_rules();
        warnings::gather(&mut View::of(system), &self.rules, &mut self.plan);
        apply::bind(system, &mut self.plan);
        self.verify(&mut View::of(system));
    }

    /// Reads which driver has each taken function now, except those that are bound already or have failed.
    pub fn verify(&mut self, view: &mut View<'_, impl System>) {
        apply::verify(view, &mut self.plan);
        self.fail_rules();
    }

    /// [`Run::verify`] after modprobe was asked for this driver: if it is registered, the kernel has offered it all its
    /// functions. Where `auto` chose it by its module's name, and the module has registered another, its functions are
    /// kept for that one, and offered to it, and `driver` becomes its name; if the module `is_loaded` and has registered
    /// none, they have failed.
    pub fn verify_loaded(
        &mut self,
        system: &mut impl System,
        driver: &mut DriverName,
        is_loaded: bool,
    ) {
        let mut asked = DriverName::new();
        store_name(&mut asked, driver);
        let found = View::of(system).find_registered(driver);
        let Self { rules, plan, .. } = self;
        let waits = |step: &&mut Step| matches!(step.state, State::Waiting) && step.driver == asked;
        for step in plan.taken_mut().filter(waits) {
            match found {
                Ok(()) if *driver == asked => step.state = State::Offered,
                Ok(()) if rules.is_auto(step) => {
                    store_name(&mut step.driver, driver);
                    step.held = Held::Not;
                    apply::hold(system, step);
                }
                Err(errno) if is_loaded && rules.is_auto(step) => {
                    step.state = State::Failed(Problem::NotRegistered(errno));
                }
                // Whether the driver is there now, its functions tell.
                _ => step.state = State::Held,
            }
        }
        apply::bind(system, plan);
        if is_loaded && *driver == VFIO_PCI {
            warnings::find_strays(&mut View::of(system), rules, plan, Path::VfioPci);
        }
        self.verify(&mut View::of(system));
    }

    /// Makes a rule failed if one of its functions is.
    fn fail_rules(&mut self) {
        for step in &self.plan.steps {
            if let (State::Failed(problem), Some(rule)) = (step.state, step.rule) {
                self.rules.fail(rule, problem);
            }
        }
    }

    /// Sets the overrides and does nothing else. It begins with the last function: a run that came to no end has set
    /// the first ones. Returns whether every override is set.
    pub fn protect(&mut self, system: &mut impl System) -> bool {
        self.decide(&mut View::of(system));
        for step in self.plan.taken_mut().rev() {
            apply::hold(system, step);
        }
        apply::read_back(system, &mut self.plan);
        self.plan.taken().all(Step::is_held)
    }

    /// Finds out what became of each function in a run that came to no end. `holds` is whether all overrides are
    /// known to be set. This reads no attribute that a driver's lock may guard.
    pub fn look_back(&mut self, view: &mut View<'_, impl System>, holds: bool) {
        self.decide(view);
        self.is_cut_short = true;
        for step in self.plan.taken_mut().filter(|_| holds) {
            step.held = Held::Already;
        }
        self.verify(view);
    }

    /// The drivers that taken functions are kept for, each once.
    pub fn drivers(&self) -> Vec<DriverName, MAX_DRIVERS> {
        let mut drivers = Vec::new();
        for step in self.plan.taken() {
            if step.driver != NOBODY && !drivers.contains(&step.driver) {
                // Beyond the limit, a driver is not loaded here; its functions wait for it.
                let _ = drivers.push(step.driver.clone());
            }
        }
        drivers
    }

    /// How many functions are kept for this driver, their override set, and how many of them it has.
    pub fn bound_to(&self, driver: &[u8]) -> (usize, usize) {
        let kept = self.plan.taken().filter(|step| step.driver == driver && step.is_held());
        kept.fold((0, 0), |(kept, bound), step| (kept + 1, bound + usize::from(step.is_bound())))
    }
}
