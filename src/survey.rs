// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking: which functions the rules concern, and what is known of each.
//!
//! Only what a decision depends on is looked at here; what only warnings depend on, in
//! [`warnings`](crate::warnings).
//!
//! Rules with an address or a path lead straight to their functions; any other rule costs one pass over all of them.
//! A function that no rule concerns is not stored, so that memory stays the same however many functions there are.

use heapless::Vec;
use nix::errno::Errno;

use crate::apply::store_name;
use crate::modalias::{self, Alias};
use crate::path::{Attribute, Path};
use crate::pci::{Address, Function, MAX_FUNCTION};
use crate::plan::{Plan, State, Step};
use crate::problem::{Limit, Problem};
use crate::rule::{Action, Expansion, Place, Rule, Selector, VFIO_PCI};
use crate::ruleset::{RuleNumber, RuleSet};
use crate::system::{System, Text, View};
use crate::text::number;
use crate::warnings::framebuffer;

/// The most functions that rules may concern: all of 16 buses.
pub const MAX_FUNCTIONS: usize = 4096;
/// The most neighbours in the IOMMU groups of taken functions that are stored.
pub const MAX_NEIGHBOURS: usize = 1024;
/// The most functions that are stored because `vfio-pci.ids=` takes them and no rule does.
pub const MAX_STRAYS: usize = 64;
/// The most functions that all paths together may lead to.
pub const MAX_PATH_ENDS: usize = 1024;
/// The most functions that one path may have at one of its hops, the last one included.
pub const MAX_PATH_BREADTH: usize = 64;
/// The most problems of a survey that are stored.
pub const MAX_PROBLEMS: usize = 64;

/// Whether there are IOMMU groups. This is looked up once a function is found to be in none. The first variant is all
/// zeros, so that a `Run` that has not begun takes no room in the program's file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Groups {
    #[default]
    Unasked,
    Some,
    /// There is an IOMMU, and the kernel makes each group when a driver takes one of its functions, as on Arm
    /// before Linux 6.15.
    Later,
    None,
}

/// What a problem keeps a survey from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Looking at the function at this address.
    Function(Address),
    /// Finding the IOMMU group of the function at this address.
    Group(Address),
    /// Following the path of the rule of this number.
    Path(RuleNumber),
    /// Going over all functions.
    Scan,
    /// Knowing whether some display is the console's.
    BootVga,
    /// Looking for variant drivers.
    Aliases,
    /// Anything: there was no room to store what.
    Anything,
}

/// Adds a step to the plan for everything that the rules concern; with [`Plan::only`], as far as it concerns that
/// function.
pub fn survey(view: &mut View<'_, impl System>, rules: &RuleSet<'_>, plan: &mut Plan) {
    let needs_boot_vga = rules.any(|rule| rule.selector == Selector::BootVga);
    let excludes_group = rules
        .any(|rule| rule.action == Action::Exclude && rule.expansion == Some(Expansion::Group));
    plan.seeks_console = needs_boot_vga;
    let only = plan.only;
    let mut survey = Survey { rules, plan, is_lit: false, may_be_another: false };
    // Whether such an exclusion can be honoured depends on all functions.
    survey.begin(view, only.filter(|_| !needs_boot_vga && !excludes_group));
    if needs_boot_vga {
        survey.find_console(view);
    }
    if rules.any(|rule| rule.expansion.is_some()) {
        // What is added on the way is expanded as well.
        for index in 0.. {
            let Some(step) = survey.plan.steps.get(index) else { break };
            let function = step.function;
            survey.expand(view, &function);
        }
    }
    plan.sort();
}

struct Survey<'s, 'r> {
    rules: &'s RuleSet<'r>,
    plan: &'s mut Plan,
    /// Some display has a `boot_vga` of 1.
    is_lit: bool,
    /// The firmware's framebuffer may be on a display that has no such `boot_vga`.
    may_be_another: bool,
}

impl Survey<'_, '_> {
    /// Adds what rules select. With `only`, it adds this function; the others of its slot and its group, from which a
    /// rule may take it along; the ends of paths; and what rules with a guard select, since the guard is checked on
    /// the first function of its rule.
    fn begin(&mut self, view: &mut View<'_, impl System>, only: Option<Address>) {
        let rules = self.rules;
        for (number, rule) in rules.rules() {
            match &rule.selector {
                Selector::Address { domain, bus, place } => {
                    if only.is_none() || rule.guard.is_some() {
                        for address in place.addresses(*domain, *bus) {
                            self.visit(view, address);
                        }
                    }
                }
                Selector::Path { start, hops } => self.walk(view, number, *start, hops),
                Selector::Ids(_) | Selector::Class { .. } | Selector::BootVga => {}
            }
        }
        if let Some(address) = only {
            self.visit(view, address);
            if self.plan.get_mut(address).is_some() {
                self.slot(view, address);
                self.group(view, address);
            }
        } else if rules.any(|rule| rule.selector.needs_scan()) {
            let listed = view.list(Path::Devices, |view, address| {
                if self.plan.get_mut(address).is_none()
                    && let Some(function) = self.examine(view, address)
                    && self.has_rule(&function, |_| true)
                {
                    self.plan.insert(Scope::Scan, function);
                }
            });
            self.plan.note(Scope::Scan, listed);
        }
    }

    /// Adds the functions of this one's slot.
    #[inline(never)]
    fn slot(&mut self, view: &mut View<'_, impl System>, address: Address) {
        for function in 0..=MAX_FUNCTION {
            self.visit(view, address.sibling(function));
        }
    }

    /// Whether the selector of any rule for which `is_like_this` holds matches the function.
    #[inline(never)]
    fn has_rule(&self, function: &Function, is_like_this: fn(&Rule<'_>) -> bool) -> bool {
        self.rules.rules().any(|(number, rule)| {
            is_like_this(rule) && self.plan.selects(number, &rule.selector, function)
        })
    }

    /// Adds the function at this address, if there is one and it has no step yet.
    fn visit(&mut self, view: &mut View<'_, impl System>, address: Address) {
        if self.plan.get_mut(address).is_none()
            && let Some(function) = self.examine(view, address)
        {
            self.plan.insert(Scope::Function(address), function);
        }
    }

    /// Follows a path down the tree, hop by hop. Each hop leads to all functions at its place: with `*`, or with
    /// SR-IOV's virtual buses, there may be several.
    fn walk(
        &mut self,
        view: &mut View<'_, impl System>,
        number: RuleNumber,
        start: Address,
        hops: &[Place],
    ) {
        const BREADTH: &Limit =
            &(MAX_PATH_BREADTH, "functions at one hop: the rest is not followed; do without *");
        const ENDS: &Limit =
            &(MAX_PATH_ENDS, "functions at the ends of paths: the rest is not protected");
        let mut here = Vec::<Address, MAX_PATH_BREADTH>::new();
        let _ = here.push(start);
        for hop in hops {
            let mut next = Vec::<Address, MAX_PATH_BREADTH>::new();
            let mut full = false;
            for &bridge in &here {
                let listed = view.list(Path::Device(bridge), |_, address| {
                    full |= hop.holds(address) && next.push(address).is_err();
                });
                match listed {
                    Ok(()) | Err(Problem::Fault { errno: Errno::ENOENT | Errno::ENOTDIR, .. }) => {}
                    Err(problem) => self.plan.remember(Scope::Path(number), problem),
                }
            }
            if full {
                self.plan.remember(Scope::Path(number), Problem::TooMany(BREADTH));
            }
            here = next;
        }
        for &address in &here {
            if self.plan.path_ends.push((number, address)).is_err() {
                self.plan.remember(Scope::Path(number), Problem::TooMany(ENDS));
            }
            self.visit(view, address);
        }
    }

    /// Adds what rules may take along with the function.
    fn expand(&mut self, view: &mut View<'_, impl System>, function: &Function) {
        if self.has_rule(function, |rule| rule.expansion == Some(Expansion::Slot)) {
            self.slot(view, function.address);
        }
        if self.has_rule(function, |rule| rule.expansion == Some(Expansion::Group)) {
            self.group(view, function.address);
        }
    }

    /// Adds the others of the function's IOMMU group.
    fn group(&mut self, view: &mut View<'_, impl System>, address: Address) {
        if self.plan.get_mut(address).is_none_or(|step| step.function.group.is_some()) {
            return;
        }
        let listed = list_group(view, address, |view, group, member| {
            self.visit(view, member);
            if let Some(step) = self.plan.get_mut(member) {
                step.function.group = Some(group);
            }
        });
        let has_group = self.plan.note(Scope::Group(address), listed).flatten();
        // Without a group, a slot behind a bridge counts as one card.
        let above = Path::Attribute(address, Attribute::BridgeModalias);
        if has_group.is_none()
            && self.rules.any(|rule| rule.expansion == Some(Expansion::Group))
            && view.read(above, &mut [0; 64]).is_ok()
        {
            if let Some(step) = self.plan.get_mut(address) {
                step.is_of_card = true;
            }
            self.slot(view, address);
        }
    }

    /// Reads what is known of a function; `None` where there is none.
    fn examine(&mut self, view: &mut View<'_, impl System>, address: Address) -> Option<Function> {
        let read = read_function(view, address);
        let mut function = self.plan.note(Scope::Function(address), read)??;
        if self.plan.seeks_console && function.class.is_display() {
            let read = boot_vga(view, &function);
            if let Some(said) = self.plan.note(Scope::BootVga, read) {
                function.boot_vga = said == Some(true);
                self.is_lit |= function.boot_vga;
                self.may_be_another |= may_be_lit(said);
            }
        }
        Some(function)
    }

    /// Marks the display of the console, and no other. This is the display that has the firmware's framebuffer. If
    /// none has it, or there is no need to look for it, it is the display with a `boot_vga` of 1.
    fn find_console(&mut self, view: &mut View<'_, impl System>) {
        if self.may_be_another || !self.is_lit {
            let read = framebuffer(view, &mut self.plan.framebuffer);
            let found = self.plan.framebuffer;
            // A copy of a machine need not have the file.
            if found.is_some() || read.is_err_and(|errno| errno != Errno::ENOENT) {
                if let Some(address) = found {
                    self.visit(view, address);
                }
                for step in &mut self.plan.steps {
                    step.function.boot_vga = Some(step.function.address) == found;
                }
            }
        }
    }
}

/// Finds the driver of each function that a rule with `auto` decides on: that of the alias with the fewest
/// wildcards.
pub fn find_variants(view: &mut View<'_, impl System>, rules: &RuleSet<'_>, plan: &mut Plan) {
    let is_auto = |step: &Step| rules.is_auto(step);
    if !plan.steps.iter().any(is_auto) {
        return;
    }
    let result = view.lines(Text::Aliases, &mut |line| {
        let Some(alias) = Alias::parse(line) else { return };
        for step in plan.steps.iter_mut().filter(|step| is_auto(step)) {
            if alias.wildcards < step.wildcards && alias.ids.match_function(&step.function) {
                step.wildcards = alias.wildcards;
                store_name(&mut step.driver, alias.driver());
            }
        }
    });
    if let Err(errno) = result {
        // The part that could not be read may have had a better alias.
        for step in plan.steps.iter_mut().filter(|step| is_auto(step)) {
            store_name(&mut step.driver, VFIO_PCI);
        }
        plan.remember(Scope::Aliases, Problem::NoAliases(errno));
    }
    for step in plan.steps.iter_mut().filter(|step| is_auto(step)) {
        if let Err(errno) = view.find_registered(&mut step.driver)
            && errno != Errno::ENOENT
        {
            step.state = State::Failed(Problem::NotRegistered(errno));
        }
    }
}

/// Hands over each member of the function's IOMMU group, itself included, with the group's number. Returns
/// the number; `None` where the function is in no group.
pub(crate) fn list_group<S: System>(
    view: &mut View<'_, S>,
    address: Address,
    mut each: impl FnMut(&mut View<'_, S>, u32, Address),
) -> Result<Option<u32>, Problem> {
    let mut buffer = [0; 256];
    let link = Path::Attribute(address, Attribute::IommuGroup);
    let group = view.link_name(link, &mut buffer)?.and_then(|name| number::<10>(name, 9));
    if let Some(group) = group {
        let members = Path::GroupDevices(group);
        view.list(members, |view, member| each(view, group, member))?;
    }
    Ok(group)
}

/// Whether the firmware booted on this display; `None` where the kernel has no answer.
pub(crate) fn boot_vga(
    view: &mut View<'_, impl System>,
    function: &Function,
) -> Result<Option<bool>, Problem> {
    if !function.class.is_vga() {
        return Ok(None);
    }
    let path = Path::Attribute(function.address, Attribute::BootVga);
    match view.read(path, &mut [0; 4]) {
        Ok(text) => Ok(Some(text.starts_with(b"1"))),
        // Not every architecture has it, and a function may vanish.
        Err(Problem::Fault { errno: Errno::ENOENT | Errno::ENODEV, .. }) => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// Whether a display may have the firmware's framebuffer without a `boot_vga` of 1. `said` is what the kernel says of
/// its `boot_vga`; displays that are no VGA controllers have none. On x86, and only there, the VGA controller that
/// has the framebuffer gets a `boot_vga` of 1 (`vga_is_firmware_default` in `drivers/pci/vgaarb.c`).
pub(crate) const fn may_be_lit(said: Option<bool>) -> bool {
    said.is_none() || !cfg!(target_arch = "x86_64")
}

/// Reads what is known of a function; `None` where there is none.
pub(crate) fn read_function(
    view: &mut View<'_, impl System>,
    address: Address,
) -> Result<Option<Function>, Problem> {
    let path = Path::Attribute(address, Attribute::Modalias);
    let mut buffer = [0; 64];
    match view.read(path, &mut buffer) {
        Ok(text) => match modalias::function(address, text) {
            None => Err(Problem::Fault { operation: "read", path, errno: Errno::EBADMSG }),
            found => Ok(found),
        },
        // It is not there, or not any more.
        Err(Problem::Fault { errno: Errno::ENODEV, .. }) => Ok(None),
        Err(problem) => Err(problem),
    }
}
