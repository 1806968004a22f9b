//! Looking: which functions the rules concern, and what is known of each.
//!
//! Rules with an address or a path lead straight to their functions; any other rule costs one pass
//! over all of them. What no rule concerns is forgotten at once, so that memory stays the same
//! however many functions there are.

use heapless::Vec;
use nix::errno::Errno;

use crate::hex;
use crate::iomem::Nesting;
use crate::lines::Lines;
use crate::pci::{Address, Class, Function, Id, MAX_FUNCTION};
use crate::rule::{Action, Driver, Expansion, Place, Rule, Selector};
use crate::ruleset::{RuleNumber, RuleSet};
use crate::system::{self, Attribute, Fault, Operation, Path, System, Text};
use crate::variant::{self, Alias};

/// The most functions that rules may concern: all of 16 buses.
pub const MAX_FUNCTIONS: usize = 4096;
/// The most functions that all paths together may lead to, or one path on its way.
pub const MAX_PATH_ENDS: usize = 128;
/// The most variant drivers that rules with `auto` may find.
pub const MAX_VARIANTS: usize = 32;
/// The most functions whose attributes could not be read that are remembered.
pub const MAX_UNREADABLE: usize = 64;

/// What the rules concern.
#[derive(Debug, Default)]
pub struct Inventory {
    functions: Vec<Known, MAX_FUNCTIONS>,
    path_ends: Vec<(RuleNumber, Address), MAX_PATH_ENDS>,
    variants: Vec<variant::Name, MAX_VARIANTS>,
    unreadable: Vec<(Address, Fault), MAX_UNREADABLE>,
}

/// What stood in the way of a survey, besides functions that could not be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// What kept it from a list of functions.
    pub fault: Option<Fault>,
    /// A limit that was exceeded: what lies beyond it was not kept.
    pub exceeded: Option<Limit>,
    /// Why no variant driver could be looked up, where a rule asks for one.
    pub aliases_missing: Option<Errno>,
}

/// A limit that a machine exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How many were accepted.
    pub limit: usize,
    /// Of what.
    pub what: &'static str,
}

/// A function, and how the survey came to it.
#[derive(Debug)]
struct Known {
    function: Function,
    /// Reached by a rule, not only a neighbour of one that was.
    concerned: bool,
    /// Its group and its slot were looked at.
    surveyed: bool,
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
            path_ends: Vec::new(),
            variants: Vec::new(),
            unreadable: Vec::new(),
        }
    }

    /// Every function that a rule concerns and every neighbour in their IOMMU groups, by address.
    pub fn functions(&self) -> impl Iterator<Item = &Function> {
        self.functions.iter().map(|known| &known.function)
    }

    /// Whether the selector of the rule of this number itself matches the function.
    #[must_use]
    pub fn selects(&self, number: RuleNumber, selector: &Selector, function: &Function) -> bool {
        match selector {
            Selector::Address { domain, bus, place } => {
                let address = function.address;
                address.domain() == *domain && address.bus() == *bus && place.holds(address)
            }
            Selector::Path { .. } => self.path_ends.contains(&(number, function.address)),
            Selector::Ids(ids) => ids.match_function(function),
            Selector::Class { prefix, digits } => {
                // Two digits of the 24-bit class code are 8 bits, and so on.
                let ignored = 24_u32.saturating_sub(u32::from(*digits) * 4);
                function.class.code() >> ignored == *prefix
            }
            Selector::BootVga => function.boot_vga,
        }
    }

    /// What kept the survey from a function that an address or a path names.
    #[must_use]
    pub fn fault_of(&self, number: RuleNumber, selector: &Selector) -> Option<Fault> {
        let names = |address: Address| match selector {
            Selector::Address { domain, bus, place } => {
                address.domain() == *domain && address.bus() == *bus && place.holds(address)
            }
            Selector::Path { .. } => self.path_ends.contains(&(number, address)),
            _ => false,
        };
        self.unreadable.iter().find(|(address, _)| names(*address)).map(|&(_, fault)| fault)
    }

    /// The functions that could not be looked at.
    pub fn unreadable(&self) -> impl Iterator<Item = Fault> {
        self.unreadable.iter().map(|&(_, fault)| fault)
    }

    /// The variant driver for the function at `index` of [`Inventory::functions`].
    #[must_use]
    pub fn variant(&self, index: usize) -> Option<&[u8]> {
        let (variant, _) = self.functions.get(index)?.variant?;
        self.variants.get(variant).map(Vec::as_slice)
    }

    /// Whether a framebuffer driver holds memory of the function at `index`.
    #[must_use]
    pub fn has_framebuffer(&self, index: usize) -> bool {
        self.functions.get(index).is_some_and(|known| known.framebuffer)
    }

    fn index(&self, address: Address) -> Result<usize, usize> {
        self.functions.binary_search_by_key(&address, |known| known.function.address)
    }

    fn get_mut(&mut self, address: Address) -> Option<&mut Known> {
        let at = self.index(address).ok()?;
        self.functions.get_mut(at)
    }

    /// Adds a function that is not there yet.
    fn insert(&mut self, function: Function, concerned: bool) -> Result<(), Limit> {
        if self.functions.is_full() {
            return Err(Limit { limit: MAX_FUNCTIONS, what: "functions" });
        }
        let (Ok(at) | Err(at)) = self.index(function.address);
        let mut carried =
            Known { function, concerned, surveyed: false, framebuffer: false, variant: None };
        // Moves the rest up by one.
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
    while let Some(function) = survey.next_concerned() {
        survey.neighbours(system, function);
    }
    survey.framebuffers(system);
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
                        self.visit(system, address, true);
                    }
                }
                Selector::Path { start, hops } => self.walk(system, number, *start, hops),
                _ => {}
            }
        }
        if rules.rules().any(|(_, rule)| rule.selector.needs_scan()) {
            let listed = system::list(system, Path::Devices, |system, address| {
                if self.inventory.index(address).is_err()
                    && let Some(function) = self.look(system, address)
                    && self.has_rule(&function, |_| true)
                {
                    self.insert(function, true);
                }
            });
            self.gaps.fault = self.gaps.fault.or(listed.err());
        }
    }

    /// The function, and whatever a rule that concerns it may start from: its slot and its group.
    fn one(&mut self, system: &mut impl System, address: Address) {
        let rules = self.rules;
        for (number, rule) in rules.rules() {
            if let Selector::Path { start, hops } = &rule.selector {
                self.walk(system, number, *start, hops);
            }
        }
        self.visit(system, address, true);
        if self.inventory.index(address).is_ok() {
            for function in 0..=MAX_FUNCTION {
                self.visit(system, address.sibling(function), true);
            }
            self.group(system, address, true);
        }
    }

    /// Whether some rule like this has a selector that itself matches.
    #[inline(never)]
    fn has_rule(&self, function: &Function, is_like_this: fn(&Rule<'_>) -> bool) -> bool {
        self.rules.rules().any(|(number, rule)| {
            is_like_this(rule) && self.inventory.selects(number, &rule.selector, function)
        })
    }

    fn visit(&mut self, system: &mut impl System, address: Address, concerned: bool) {
        if let Some(known) = self.inventory.get_mut(address) {
            known.concerned |= concerned;
        } else if let Some(function) = self.look(system, address) {
            self.insert(function, concerned);
        }
    }

    fn insert(&mut self, function: Function, concerned: bool) {
        if let Err(limit) = self.inventory.insert(function, concerned) {
            self.gaps.exceeded = Some(limit);
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
        let mut here = Vec::<Address, MAX_PATH_ENDS>::new();
        let _ = here.push(start);
        for hop in hops {
            let mut next = Vec::<Address, MAX_PATH_ENDS>::new();
            let mut full = false;
            for &bridge in &here {
                let listed = system::list(system, Path::Device(bridge), |_, address| {
                    full |= hop.holds(address) && next.push(address).is_err();
                });
                match listed {
                    Ok(()) | Err(Fault { errno: Errno::ENOENT | Errno::ENOTDIR, .. }) => {}
                    Err(fault) => self.gaps.fault = Some(fault),
                }
            }
            self.limit_path_ends(full);
            here = next;
        }
        for &address in &here {
            let full = self.inventory.path_ends.push((number, address)).is_err();
            self.limit_path_ends(full);
            self.visit(system, address, true);
        }
    }

    fn limit_path_ends(&mut self, full: bool) {
        if full {
            self.gaps.exceeded =
                Some(Limit { limit: MAX_PATH_ENDS, what: "functions at the ends of paths" });
        }
    }

    fn next_concerned(&mut self) -> Option<Function> {
        let known = self.inventory.functions.iter_mut().find(|k| k.concerned && !k.surveyed)?;
        known.surveyed = true;
        Some(known.function)
    }

    /// Adds the neighbours that rules take along, and those with which a function shares its group.
    fn neighbours(&mut self, system: &mut impl System, function: Function) {
        let address = function.address;
        if self.has_rule(&function, |rule| rule.expansion == Some(Expansion::Slot)) {
            for number in 0..=MAX_FUNCTION {
                self.visit(system, address.sibling(number), true);
            }
        }
        let takes_group = self.has_rule(&function, |rule| rule.expansion == Some(Expansion::Group));
        let is_taken = self.has_rule(&function, |rule| rule.action != Action::Exclude);
        // What is only there because of a neighbour may be taken along with it.
        let is_selected = self.has_rule(&function, |_| true);
        if is_selected && !is_taken && !takes_group {
            return;
        }
        if function.class.is_vga() && !self.needs_boot_vga {
            let boot_vga = self.boot_vga(system, address);
            if let Some(known) = self.inventory.get_mut(address) {
                known.function.boot_vga = boot_vga;
            }
        }
        self.group(system, address, takes_group);
    }

    /// Finds out the function's IOMMU group and adds the others in it.
    fn group(&mut self, system: &mut impl System, address: Address, concerned: bool) {
        if self.inventory.get_mut(address).is_none_or(|known| known.function.group.is_some()) {
            return;
        }
        let mut buffer = [0; 256];
        let link = Path::Attribute(address, Attribute::IommuGroup);
        let group = match system::link_name(system, link, &mut buffer) {
            Ok(Some(name)) => decimal(name),
            Ok(None) => None,
            Err(fault) => return self.remember(address, fault),
        };
        let Some(group) = group else { return };
        let members = Path::Attribute(address, Attribute::IommuGroupDevices);
        let listed = system::list(system, members, |system, member| {
            self.visit(system, member, concerned);
            if let Some(known) = self.inventory.get_mut(member) {
                known.function.group = Some(group);
            }
        });
        if let Err(fault) = listed {
            self.remember(address, fault);
        }
    }

    /// Reads what is known of a function; `None` where there is none.
    fn look(&mut self, system: &mut impl System, address: Address) -> Option<Function> {
        match look(system, address) {
            Ok(function) => {
                let mut function = function?;
                if self.needs_boot_vga && function.class.is_vga() {
                    function.boot_vga = self.boot_vga(system, address);
                }
                Some(function)
            }
            Err(fault) => {
                self.remember(address, fault);
                None
            }
        }
    }

    fn boot_vga(&mut self, system: &mut impl System, address: Address) -> bool {
        let mut buffer = [0; 4];
        let path = Path::Attribute(address, Attribute::BootVga);
        match system::read(system, path, &mut buffer) {
            Ok(text) => text.starts_with(b"1"),
            Err(Fault { errno: Errno::ENOENT, .. }) => false,
            Err(fault) => {
                self.remember(address, fault);
                false
            }
        }
    }

    #[inline(never)]
    fn remember(&mut self, address: Address, fault: Fault) {
        if self.inventory.unreadable.push((address, fault)).is_err() {
            self.gaps.exceeded =
                Some(Limit { limit: MAX_UNREADABLE, what: "unreadable functions" });
        }
    }

    fn framebuffers(&mut self, system: &mut impl System) {
        let functions = &mut self.inventory.functions;
        if !functions.iter().any(|k| k.concerned && k.function.class.is_display()) {
            return;
        }
        let mut nesting = Nesting::default();
        let mut mark = |line: &[u8]| {
            if let Some(address) = nesting.framebuffer(line) {
                for known in functions.iter_mut().filter(|k| k.function.address == address) {
                    known.framebuffer = true;
                }
            }
        };
        let mut lines = Lines::default();
        // Only a warning depends on it, and a copy of a machine need not hold the file.
        let _ = system.stream(Text::IoMemory, &mut |piece| lines.add(piece, &mut mark));
        lines.finish(&mut mark);
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
                        *exceeded = Some(Limit { limit: MAX_VARIANTS, what: "variant drivers" });
                    }
                }
            }
        };
        let mut lines = Lines::default();
        let streamed = system.stream(Text::Aliases, &mut |piece| lines.add(piece, &mut consider));
        lines.finish(&mut consider);
        self.gaps.aliases_missing = streamed.err();
    }
}

/// Reads `uevent`, the one attribute that tells all IDs and the class (`pci_uevent` in
/// `drivers/pci/pci-driver.c`).
fn look(system: &mut impl System, address: Address) -> Result<Option<Function>, Fault> {
    let path = Path::Attribute(address, Attribute::Uevent);
    let mut buffer = [0; 1024];
    let text = match system::read(system, path, &mut buffer) {
        Ok(text) => text,
        // It vanished meanwhile.
        Err(Fault { errno: Errno::ENODEV, .. }) => return Ok(None),
        Err(fault)
            if fault.errno == Errno::ENOENT && !system::exists(system, Path::Device(address)) =>
        {
            return Ok(None);
        }
        Err(fault) => return Err(fault),
    };

    let (mut class, mut id, mut subsystem) = (None, None, Id::default());
    for line in text.split(|&byte| byte == b'\n') {
        if let Some(value) = line.strip_prefix(b"PCI_CLASS=") {
            class = hex::number(value, 8).and_then(Class::new);
        } else if let Some(value) = line.strip_prefix(b"PCI_ID=") {
            id = parse_id(value);
        } else if let Some(value) = line.strip_prefix(b"PCI_SUBSYS_ID=") {
            subsystem = parse_id(value).unwrap_or_default();
        }
    }
    match (class, id) {
        (Some(class), Some(id)) => {
            Ok(Some(Function { address, id, subsystem, class, group: None, boot_vga: false }))
        }
        _ => Err(Fault { operation: Operation::Read, path, errno: Errno::EBADMSG }),
    }
}

fn parse_id(text: &[u8]) -> Option<Id> {
    let mut fields = text.splitn(2, |&byte| byte == b':');
    let mut id = || u16::try_from(hex::number(fields.next()?, 4)?).ok();
    Some(Id { vendor: id()?, device: id()? })
}

fn decimal(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0_u32, |value, &byte| {
        value.checked_mul(10)?.checked_add(char::from(byte).to_digit(10)?)
    })
}
