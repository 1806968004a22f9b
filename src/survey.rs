//! Looking: which functions the rules concern, and what is known of each.
//!
//! What a decision depends on is looked at by [`survey`], before any override is written; what only
//! warnings depend on by [`surroundings`], afterwards.
//!
//! Rules with an address or a path lead straight to their functions; any other rule costs one pass
//! over all of them. What no rule concerns is forgotten at once, so that memory stays the same
//! however many functions there are.

use heapless::Vec;
use nix::errno::Errno;

use crate::failure::{Failure, Limit};
use crate::iomem::Nesting;
use crate::lines::Lines;
use crate::modalias::Identity;
use crate::path::{Attribute, Path};
use crate::pci::{Address, Function, MAX_FUNCTION};
use crate::rule::{Action, Driver, Expansion, Place, Rule, Selector};
use crate::ruleset::{RuleNumber, RuleSet};
use crate::system::{self, Fault, Operation, System, Text};
use crate::variant::{self, Alias};

/// The most functions that rules may concern: all of 16 buses.
pub const MAX_FUNCTIONS: usize = 4096;
/// The most neighbours in the IOMMU groups of taken functions that are remembered.
pub const MAX_NEIGHBOURS: usize = 1024;
/// The most functions that all paths together may lead to.
pub const MAX_PATH_ENDS: usize = 1024;
/// The most functions that one path may lead to, or over at one of its hops.
pub const MAX_PATH_BREADTH: usize = 64;
/// The most variant drivers that rules with `auto` may find.
pub const MAX_VARIANTS: usize = 32;
/// The most failures of a survey that are remembered.
pub const MAX_OBSTACLES: usize = 64;

/// What the rules concern.
#[derive(Debug, Default)]
pub struct Inventory {
    functions: Vec<Known, MAX_FUNCTIONS>,
    /// In no order, and none of them among `functions`.
    neighbours: Vec<Function, MAX_NEIGHBOURS>,
    path_ends: Vec<(RuleNumber, Address), MAX_PATH_ENDS>,
    variants: Vec<variant::Name, MAX_VARIANTS>,
    obstacles: Vec<(Obstacle, Failure), MAX_OBSTACLES>,
    groups: Groups,
}

/// Whether there are IOMMU groups, which is asked once a function is in none. The first is all zeros, so
/// that what has not begun takes no room in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Groups {
    #[default]
    Unasked,
    Some,
    None,
}

/// What a failure keeps a survey from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Looking at the function at this address.
    Function(Address),
    /// Finding the IOMMU group of the function at this address.
    Group(Address),
    /// Following the path of the rule of this number.
    Path(RuleNumber),
    /// Going over all functions.
    Scan,
    /// Knowing whether some display is the one that the firmware booted on.
    BootVga,
    /// Something that there was no room to remember.
    Unknown,
}

/// What a survey had no room for, or no list of. Neither keeps it from a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// A limit that was exceeded.
    pub exceeded: Option<Limit>,
    /// Why no variant driver could be looked up, where a rule asks for one.
    pub aliases_missing: Option<Errno>,
}

/// A function, and what the survey did about it.
#[derive(Debug)]
struct Known {
    function: Function,
    /// What its rules take along was looked at.
    expanded: bool,
    /// It was seen to be in no IOMMU group.
    groupless: bool,
    /// The framebuffer driver of the firmware's display holds memory of it.
    framebuffer: bool,
    /// The best variant driver, and the number of wildcards in its alias.
    variant: Option<(usize, usize)>,
}

impl Inventory {
    /// An inventory of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            functions: Vec::new(),
            neighbours: Vec::new(),
            path_ends: Vec::new(),
            variants: Vec::new(),
            obstacles: Vec::new(),
            groups: Groups::Unasked,
        }
    }

    /// Every function that a rule may decide on, by address.
    pub fn functions(&self) -> impl Iterator<Item = &Function> {
        self.functions.iter().map(|known| &known.function)
    }

    /// Those from this place on, each with its place.
    pub(crate) fn functions_from(&self, start: usize) -> impl Iterator<Item = (usize, &Function)> {
        let known = self.functions.get(start..).unwrap_or_default();
        (start..).zip(known.iter().map(|known| &known.function))
    }

    /// The functions from this place on, and behind them all that share an IOMMU group with a taken one,
    /// and that no rule decides on.
    pub(crate) fn all_from(&self, start: usize) -> impl Iterator<Item = (usize, &Function)> {
        let past = start.saturating_sub(self.functions.len());
        let neighbours = self.neighbours.get(past..).unwrap_or_default();
        self.functions_from(start).chain((self.functions.len() + past..).zip(neighbours))
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

    /// The functions that the selector itself matches, each with its place among
    /// [`Inventory::functions`].
    pub fn selected(
        &self,
        number: RuleNumber,
        selector: &Selector,
    ) -> impl Iterator<Item = (usize, &Function)> {
        // Functions are in order: those of an address stand together.
        let first = match selector {
            Selector::Address { domain, bus, place } => place.addresses(*domain, *bus).next(),
            Selector::Path { .. }
            | Selector::Ids(_)
            | Selector::Class { .. }
            | Selector::BootVga => None,
        };
        let start = first.map_or(0, |first| self.index(first).unwrap_or_else(|at| at));
        self.functions_from(start)
            .take_while(move |(_, f)| first.is_none_or(|first| first.same_slot(f.address)))
            .filter(move |(_, function)| self.selects(number, selector, function))
    }

    /// Whether the rule of this number names the address, or leads to it.
    fn names(&self, number: RuleNumber, selector: &Selector, address: Address) -> bool {
        match selector {
            Selector::Address { domain, bus, place } => {
                address.domain() == *domain && address.bus() == *bus && place.holds(address)
            }
            Selector::Path { .. } => {
                // They are in the order of their rules.
                let start = self.path_ends.partition_point(|(rule, _)| *rule < number);
                let ends = self.path_ends.get(start..).unwrap_or_default();
                let mut of_this = ends.iter().take_while(|(rule, _)| *rule == number);
                of_this.any(|(_, end)| *end == address)
            }
            Selector::Ids(_) | Selector::Class { .. } | Selector::BootVga => false,
        }
    }

    /// Whether an obstacle keeps the rule of this number from a function that it may select.
    #[must_use]
    pub fn hampers(&self, obstacle: Obstacle, number: RuleNumber, rule: &Rule<'_>) -> bool {
        match obstacle {
            Obstacle::Function(address) => self.names(number, &rule.selector, address),
            Obstacle::Group(address) => {
                let known = self.index(address).ok().and_then(|at| self.functions.get(at));
                rule.expansion == Some(Expansion::Group)
                    && known.is_some_and(|k| self.selects(number, &rule.selector, &k.function))
            }
            Obstacle::Path(path) => path == number,
            Obstacle::Scan => rule.selector.needs_scan(),
            Obstacle::BootVga => rule.selector == Selector::BootVga,
            Obstacle::Unknown => true,
        }
    }

    /// What kept the survey from some function that the rule of this number may select.
    #[must_use]
    pub fn failure_of(&self, number: RuleNumber, rule: &Rule<'_>) -> Option<Failure> {
        let mut obstacles = self.obstacles.iter();
        let (_, failure) = obstacles.find(|(obstacle, _)| self.hampers(*obstacle, number, rule))?;
        Some(*failure)
    }

    /// Everything that the survey was kept from, and by what.
    pub fn obstacles(&self) -> impl Iterator<Item = (Obstacle, Failure)> {
        self.obstacles.iter().copied()
    }

    /// The variant driver for the function at `index` of [`Inventory::functions`].
    #[must_use]
    pub fn variant(&self, index: usize) -> Option<&[u8]> {
        let (variant, _) = self.functions.get(index)?.variant?;
        self.variants.get(variant).map(Vec::as_slice)
    }

    /// Whether the function at `index` was seen to be in no IOMMU group.
    #[must_use]
    pub fn is_groupless(&self, index: usize) -> bool {
        self.functions.get(index).is_some_and(|known| known.groupless)
    }

    /// Whether there are IOMMU groups at all, as far as anybody needed to know.
    #[must_use]
    pub fn has_groups(&self) -> bool {
        self.groups != Groups::None
    }

    /// Whether a framebuffer driver holds memory of the function at `index`.
    #[must_use]
    pub fn has_framebuffer(&self, index: usize) -> bool {
        self.functions.get(index).is_some_and(|known| known.framebuffer)
    }

    fn index(&self, address: Address) -> Result<usize, usize> {
        // Mostly one comes after the other.
        if self.functions.last().is_none_or(|last| last.function.address < address) {
            return Err(self.functions.len());
        }
        self.functions.binary_search_by_key(&address, |known| known.function.address)
    }

    fn get_mut(&mut self, address: Address) -> Option<&mut Known> {
        let at = self.index(address).ok()?;
        self.functions.get_mut(at)
    }

    /// Adds a function that is not there yet.
    fn insert(&mut self, function: Function) -> Result<(), Failure> {
        if self.functions.is_full() {
            return Err(Failure::Exceeded(Limit::Functions));
        }
        let (Ok(at) | Err(at)) = self.index(function.address);
        let mut carried = Known {
            function,
            expanded: false,
            groupless: false,
            framebuffer: false,
            variant: None,
        };
        // `Vec::insert` can panic.
        for known in self.functions.iter_mut().skip(at) {
            core::mem::swap(known, &mut carried);
        }
        let _ = self.functions.push(carried);
        Ok(())
    }
}

/// Looks at everything that the rules concern; with `only`, as far as it concerns that function.
pub fn survey(
    system: &mut impl System,
    rules: &RuleSet<'_>,
    only: Option<Address>,
    inventory: &mut Inventory,
) -> Gaps {
    let mut survey = Survey {
        rules,
        inventory,
        gaps: Gaps::default(),
        needs_boot_vga: rules.rules().any(|(_, rule)| rule.selector == Selector::BootVga),
    };
    match only {
        Some(address) => survey.one(system, address),
        None => survey.all(system),
    }
    if rules.rules().any(|(_, rule)| rule.expansion.is_some()) {
        while let Some(function) = survey.next_unexpanded() {
            survey.expand(system, &function);
        }
    }
    survey.variants(system);
    survey.gaps
}

struct Survey<'s, 'r> {
    rules: &'s RuleSet<'r>,
    inventory: &'s mut Inventory,
    gaps: Gaps,
    needs_boot_vga: bool,
}

impl Survey<'_, '_> {
    fn all(&mut self, system: &mut impl System) {
        let rules = self.rules;
        for (number, rule) in rules.rules() {
            match &rule.selector {
                Selector::Address { domain, bus, place } => {
                    for address in place.addresses(*domain, *bus) {
                        self.visit(system, address);
                    }
                }
                Selector::Path { start, hops } => self.walk(system, number, *start, hops),
                Selector::Ids(_) | Selector::Class { .. } | Selector::BootVga => {}
            }
        }
        if rules.rules().any(|(_, rule)| rule.selector.needs_scan()) {
            let listed = system::list(system, Path::Devices, |system, address| {
                if self.inventory.index(address).is_err()
                    && let Some(function) = self.look(system, address)
                    && self.has_rule(&function, |_| true)
                    && let Err(failure) = self.inventory.insert(function)
                {
                    self.remember(Obstacle::Scan, failure);
                }
            });
            if let Err(fault) = listed {
                self.remember(Obstacle::Scan, Failure::Fault(fault));
            }
        }
    }

    /// The function, and whatever a rule that concerns it may start from, in its slot and its group, or
    /// be refused for: a guard is checked on the first of all functions that its rule selects.
    fn one(&mut self, system: &mut impl System, address: Address) {
        let rules = self.rules;
        for (number, rule) in rules.rules() {
            match &rule.selector {
                Selector::Address { domain, bus, place } => {
                    for address in place.addresses(*domain, *bus).filter(|_| rule.guard.is_some()) {
                        self.visit(system, address);
                    }
                }
                Selector::Path { start, hops } => self.walk(system, number, *start, hops),
                Selector::Ids(_) | Selector::Class { .. } | Selector::BootVga => {}
            }
        }
        self.visit(system, address);
        if self.inventory.index(address).is_ok() {
            for function in 0..=MAX_FUNCTION {
                self.visit(system, address.sibling(function));
            }
            self.group(system, address);
        }
    }

    /// Whether some rule like this has a selector that itself matches.
    #[inline(never)]
    fn has_rule(&self, function: &Function, is_like_this: fn(&Rule<'_>) -> bool) -> bool {
        self.rules.rules().any(|(number, rule)| {
            is_like_this(rule) && self.inventory.selects(number, &rule.selector, function)
        })
    }

    fn visit(&mut self, system: &mut impl System, address: Address) {
        if self.inventory.index(address).is_err()
            && let Some(function) = self.look(system, address)
            && let Err(failure) = self.inventory.insert(function)
        {
            self.remember(Obstacle::Function(address), failure);
        }
    }

    /// Follows a path down the tree. Each step keeps all functions that stand at the next place: with
    /// `*`, or with SR-IOV's virtual buses, there may be several.
    fn walk(
        &mut self,
        system: &mut impl System,
        number: RuleNumber,
        start: Address,
        hops: &[Place],
    ) {
        let mut here = Vec::<Address, MAX_PATH_BREADTH>::new();
        let _ = here.push(start);
        for hop in hops {
            let mut next = Vec::<Address, MAX_PATH_BREADTH>::new();
            let mut full = false;
            for &bridge in &here {
                let listed = system::list(system, Path::Device(bridge), |_, address| {
                    full |= hop.holds(address) && next.push(address).is_err();
                });
                match listed {
                    Ok(()) | Err(Fault { errno: Errno::ENOENT | Errno::ENOTDIR, .. }) => {}
                    Err(fault) => self.remember(Obstacle::Path(number), Failure::Fault(fault)),
                }
            }
            if full {
                let failure = Failure::Exceeded(Limit::PathBreadth);
                self.remember(Obstacle::Path(number), failure);
            }
            here = next;
        }
        for &address in &here {
            if self.inventory.path_ends.push((number, address)).is_err() {
                self.remember(Obstacle::Path(number), Failure::Exceeded(Limit::PathEnds));
            }
            self.visit(system, address);
        }
    }

    fn next_unexpanded(&mut self) -> Option<Function> {
        let known = self.inventory.functions.iter_mut().find(|known| !known.expanded)?;
        known.expanded = true;
        Some(known.function)
    }

    /// Adds what rules may take along with the function.
    fn expand(&mut self, system: &mut impl System, function: &Function) {
        if self.has_rule(function, |rule| rule.expansion == Some(Expansion::Slot)) {
            for number in 0..=MAX_FUNCTION {
                self.visit(system, function.address.sibling(number));
            }
        }
        if self.has_rule(function, |rule| rule.expansion == Some(Expansion::Group)) {
            self.group(system, function.address);
        }
    }

    /// Adds the others of the function's IOMMU group.
    fn group(&mut self, system: &mut impl System, address: Address) {
        if self.inventory.get_mut(address).is_none_or(|known| known.function.group.is_some()) {
            return;
        }
        let listed = list_group(system, address, |system, group, member| {
            self.visit(system, member);
            if let Some(known) = self.inventory.get_mut(member) {
                known.function.group = Some(group);
            }
        });
        if let Err(fault) = listed {
            self.remember(Obstacle::Group(address), Failure::Fault(fault));
        }
    }

    /// Reads what is known of a function; `None` where there is none.
    fn look(&mut self, system: &mut impl System, address: Address) -> Option<Function> {
        match look(system, address) {
            Ok(function) => {
                let mut function = function?;
                if self.needs_boot_vga {
                    match boot_vga(system, &function) {
                        Ok(said) => function.boot_vga = said == Some(true),
                        Err(fault) => self.remember(Obstacle::BootVga, Failure::Fault(fault)),
                    }
                }
                Some(function)
            }
            Err(fault) => {
                self.remember(Obstacle::Function(address), Failure::Fault(fault));
                None
            }
        }
    }

    #[inline(never)]
    fn remember(&mut self, obstacle: Obstacle, failure: Failure) {
        let obstacles = &mut self.inventory.obstacles;
        if obstacles.iter().any(|(known, _)| *known == obstacle) {
            return;
        }
        // The last place is for all that there is no other for: forgotten, they would keep no exclusion from
        // being thought harmless.
        let _ = obstacles.push(if obstacles.len() + 1 < MAX_OBSTACLES {
            (obstacle, failure)
        } else {
            (Obstacle::Unknown, Failure::Exceeded(Limit::Obstacles))
        });
    }

    fn variants(&mut self, system: &mut impl System) {
        let is_auto = |rule: &Rule<'_>| rule.action == Action::Take(Driver::Auto);
        if !self.rules.rules().any(|(_, rule)| is_auto(rule)) {
            return;
        }
        let Inventory { functions, variants, .. } = &mut *self.inventory;
        let exceeded = &mut self.gaps.exceeded;
        let mut consider = |line: &[u8]| {
            let Some(alias) = Alias::parse(line) else { return };
            let wildcards = alias.wildcards();
            for known in functions.iter_mut() {
                if known.variant.is_some_and(|(_, fewest)| fewest <= wildcards)
                    || !alias.match_function(&known.function)
                {
                    continue;
                }
                let name = alias.driver();
                let at = variants.iter().position(|variant| variant == name).or_else(|| {
                    variants.push(variant::Name::from_slice(name).ok()?).ok()?;
                    variants.len().checked_sub(1)
                });
                match at {
                    Some(at) => known.variant = Some((at, wildcards)),
                    None => {
                        *exceeded = Some(Limit::Variants);
                    }
                }
            }
        };
        let mut lines = Lines::default();
        match system.stream(Text::Aliases, &mut |piece| lines.add(piece, &mut consider)) {
            Ok(()) => lines.finish(&mut consider),
            Err(errno) => {
                // A better one may have stood behind.
                functions.iter_mut().for_each(|known| known.variant = None);
                self.gaps.aliases_missing = Some(errno);
            }
        }
    }
}

/// Looks at what an operator should know of the functions that are taken: their IOMMU groups, the boot
/// display, and the firmware's framebuffer. A fault here costs a warning, no more.
pub fn surroundings(
    system: &mut impl System,
    inventory: &mut Inventory,
    is_taken: impl Fn(usize) -> bool,
) {
    let mut may_be_lit = false;
    for index in 0..inventory.functions.len() {
        let Some(known) = inventory.functions.get_mut(index).filter(|_| is_taken(index)) else {
            continue;
        };
        let function = &mut known.function;
        if function.class.is_display() && !function.boot_vga {
            let said = boot_vga(system, function).unwrap_or(None);
            function.boot_vga = said == Some(true);
            // On x86, and only there, the display that the firmware left on is the boot display by
            // `boot_vga`'s definition (`vga_is_firmware_default` in `drivers/pci/vgaarb.c`).
            may_be_lit |= said.is_none() || !cfg!(target_arch = "x86_64");
        }
        may_be_lit |= function.boot_vga;
        if function.group.is_none() {
            let address = function.address;
            neighbours(system, inventory, index, address);
        }
    }
    if may_be_lit {
        framebuffers(system, inventory);
    }
}

/// Looks at the group of a taken function, and at who else is in it.
fn neighbours(system: &mut impl System, inventory: &mut Inventory, index: usize, address: Address) {
    if inventory.has_groups() {
        let listed = list_group(system, address, |system, group, member| {
            if let Some(known) = inventory.get_mut(member) {
                known.function.group = Some(group);
            } else if let Ok(Some(function)) = look(system, member) {
                let _ = inventory.neighbours.push(Function { group: Some(group), ..function });
            }
        });
        if listed != Ok(None) {
            return;
        }
    }
    if inventory.groups == Groups::Unasked {
        let has_groups = system::has_entries(system, Path::Groups);
        inventory.groups = if has_groups { Groups::Some } else { Groups::None };
    }
    if let Some(known) = inventory.functions.get_mut(index) {
        known.groupless = true;
    }
}

fn framebuffers(system: &mut impl System, inventory: &mut Inventory) {
    let mut nesting = Nesting::default();
    let mut mark = |line: &[u8]| {
        let address = nesting.framebuffer(line);
        if let Some(known) = address.and_then(|address| inventory.get_mut(address)) {
            known.framebuffer = true;
        }
    };
    let mut lines = Lines::default();
    // A copy of a machine need not hold the file.
    let _ = system.stream(Text::IoMemory, &mut |piece| lines.add(piece, &mut mark));
    lines.finish(&mut mark);
}

/// Hands over each member of the function's IOMMU group, itself included, with the group's number. Returns
/// the number; `None` where the function is in no group.
fn list_group<S: System>(
    system: &mut S,
    address: Address,
    mut each: impl FnMut(&mut S, u32, Address),
) -> Result<Option<u32>, Fault> {
    let mut buffer = [0; 256];
    let link = Path::Attribute(address, Attribute::IommuGroup);
    let group = system::link_name(system, link, &mut buffer)?.and_then(decimal);
    if let Some(group) = group {
        let members = Path::GroupDevices(group);
        system::list(system, members, |system, member| each(system, group, member))?;
    }
    Ok(group)
}

/// Whether the firmware booted on this display; `None` where the kernel does not say.
#[inline(never)]
fn boot_vga(system: &mut impl System, function: &Function) -> Result<Option<bool>, Fault> {
    if !function.class.is_vga() {
        return Ok(None);
    }
    let path = Path::Attribute(function.address, Attribute::BootVga);
    match system::read(system, path, &mut [0; 4]) {
        Ok(text) => Ok(Some(text.starts_with(b"1"))),
        // Not every architecture has it, and a function may vanish.
        Err(Fault { errno: Errno::ENOENT | Errno::ENODEV, .. }) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Reads what is known of a function; `None` where there is none.
fn look(system: &mut impl System, address: Address) -> Result<Option<Function>, Fault> {
    let path = Path::Attribute(address, Attribute::Modalias);
    let mut buffer = [0; 64];
    let text = match system::read(system, path, &mut buffer) {
        Ok(text) => text,
        // It is not there, or not any more.
        Err(Fault { errno: Errno::ENODEV, .. }) => return Ok(None),
        Err(fault) => return Err(fault),
    };
    let fault = Fault { operation: Operation::Read, path, errno: Errno::EBADMSG };
    let Identity { id, subsystem, class } =
        Identity::parse(system::first_line(text)).ok_or(fault)?;
    Ok(Some(Function { address, id, subsystem, class, group: None, boot_vga: false }))
}

fn decimal(text: &[u8]) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u32, |value, &byte| {
        value.checked_mul(10)?.checked_add(char::from(byte).to_digit(10)?)
    })
}
