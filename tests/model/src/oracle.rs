// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the contract says of a list of rules on a tree of functions, written a second time: slow,
//! without a thought for memory, and from the text of `vfio.override=`'s documentation alone.

use std::collections::{BTreeMap, BTreeSet};

use vfio_override::pci::{Address, Class, Id};
use vfio_override::rule::{Action, Driver, Expansion, Ids, Place, Rule, Selector};

/// One PCI function.
#[derive(Clone, Debug)]
pub struct Device {
    /// Where it is.
    pub address: Address,
    /// The bridge above its bus.
    pub parent: Option<Address>,
    /// Vendor and device ID.
    pub id: Id,
    /// Subsystem vendor and device ID.
    pub subsystem: Id,
    /// Class code.
    pub class: Class,
    /// Number of its IOMMU group, if it has one.
    pub group: Option<u32>,
    /// Whether its `boot_vga` is 1.
    pub boot_vga: bool,
    /// Whether the firmware's framebuffer is in its memory.
    pub has_framebuffer: bool,
}

impl Device {
    /// Whether it is of a class that is never taken.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        [0x0600, 0x0604, 0x0607, 0x0609].contains(&(self.class.code() >> 8))
    }

    /// Whether it is a display.
    #[must_use]
    pub fn is_display(&self) -> bool {
        self.is_of_base_class(3)
    }

    fn is_of_base_class(&self, base: u32) -> bool {
        self.class.code() >> 16 == base
    }
}

/// One item of the parameter's list.
#[derive(Clone, Debug)]
pub struct Item {
    /// As it is written.
    pub text: String,
    /// What it means.
    pub meaning: Meaning,
}

/// What an item of the list means.
#[derive(Clone, Debug)]
pub enum Meaning {
    /// Nothing is touched.
    Off,
    /// Every decision is logged.
    Debug,
    /// It is no rule.
    Invalid,
    /// It selects functions.
    Rule(Rule<'static>),
}

macro_rules! outcomes {
    ($($(#[$doc:meta])* $outcome:ident,)*) => {
        /// What came of an item, in the order in which the log's last line counts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Outcome {
            $($(#[$doc])* $outcome,)*
        }

        impl Outcome {
            /// All that there are.
            pub const ALL: &[Self] = &[$(Self::$outcome),*];
        }
    };
}

outcomes! {
    /// It decided some function.
    Applied,
    /// It left some function alone.
    Excluded,
    /// Later rules decided on all its functions.
    Overruled,
    /// There is no function that it means, and its author said that this may be.
    Absent,
    /// There is no function that it means.
    Unmatched,
    /// It must not be applied.
    Refused,
    /// It is no rule.
    Invalid,
    /// Nobody can tell what it means.
    Failed,
    /// It says `debug`.
    InForce,
    /// It says `off`, and is the first to do so.
    Off,
    /// Another item says `off`.
    Idle,
}

impl Outcome {
    /// The first word of the outcome in a log that has `debug`; `None` where none is told.
    #[must_use]
    pub const fn word(self) -> Option<&'static str> {
        match self {
            Self::Applied => Some("applied"),
            Self::Excluded => Some("excluded"),
            Self::Overruled => Some("overruled"),
            Self::Unmatched => Some("unmatched"),
            Self::Absent => Some("absent"),
            Self::Refused => Some("refused"),
            Self::Invalid => Some("invalid"),
            Self::Failed => Some("failed"),
            Self::InForce => Some("in"),
            Self::Off => Some("nothing"),
            Self::Idle => None,
        }
    }

    /// Whether the last line of the log counts it.
    #[must_use]
    pub const fn is_counted(self) -> bool {
        match self {
            Self::Applied
            | Self::Excluded
            | Self::Overruled
            | Self::Absent
            | Self::Unmatched
            | Self::Refused
            | Self::Invalid
            | Self::Failed => true,
            Self::InForce | Self::Off | Self::Idle => false,
        }
    }

    /// Whether it keeps the exit status from being 0; `excludes` is whether the item is an exclusion.
    #[must_use]
    pub const fn is_trouble(self, excludes: bool) -> bool {
        match self {
            Self::Unmatched => !excludes,
            Self::Refused | Self::Invalid | Self::Failed => true,
            Self::Applied
            | Self::Excluded
            | Self::Overruled
            | Self::Absent
            | Self::InForce
            | Self::Off
            | Self::Idle => false,
        }
    }

    /// Whether it is told though no rule says `debug`.
    #[must_use]
    pub const fn is_always_told(self) -> bool {
        match self {
            Self::Unmatched
            | Self::Absent
            | Self::Refused
            | Self::Invalid
            | Self::Failed
            | Self::Off => true,
            Self::Applied | Self::Excluded | Self::Overruled | Self::InForce | Self::Idle => false,
        }
    }
}

/// Who has a function, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The number of the rule that decided.
    pub rule: usize,
    /// The name of the driver that it is kept for.
    pub driver: String,
}

/// What becomes of the machine and of the rules.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The functions that are taken.
    pub taken: BTreeMap<Address, Taken>,
    /// What came of each item.
    pub outcomes: Vec<Outcome>,
    /// Whether every rule did what it says: the exit status is 0.
    pub is_applied: bool,
}

impl Verdict {
    /// The driver that each taken function is kept for.
    #[must_use]
    pub fn kept(&self) -> BTreeMap<Address, String> {
        self.taken.iter().map(|(address, taken)| (*address, taken.driver.clone())).collect()
    }
}

/// Decides over all devices. `variants` tells the variant driver for a device, if there is one.
pub fn decide(
    devices: &[Device],
    items: &[Item],
    variants: &dyn Fn(&Device) -> Option<&'static str>,
) -> Verdict {
    if let Some(off) = items.iter().position(|item| matches!(item.meaning, Meaning::Off)) {
        return nothing(items, off);
    }

    let is_lost_exclusion =
        |item: &Item| matches!(item.meaning, Meaning::Invalid) && item.text.contains('!');
    let first_to_count = items.iter().rposition(is_lost_exclusion).unwrap_or(0);
    let (first_to_count, failed) = doubtful_exclusions(devices, items, first_to_count);
    let candidates: Vec<Option<Vec<Address>>> = items
        .iter()
        .enumerate()
        .map(|(index, item)| match &item.meaning {
            Meaning::Rule(rule) if index >= first_to_count => matched(devices, rule),
            _ => None,
        })
        .collect();

    let decided_by = decided_by(&candidates);

    let mut verdict = Verdict { is_applied: true, ..Verdict::default() };
    for device in devices {
        if let Some(index) = decided_by.get(&device.address)
            && let Meaning::Rule(Rule { action: Action::Take(driver), .. }) = &items[*index].meaning
        {
            let driver = match driver {
                Driver::Named(name) => String::from_utf8_lossy(name),
                Driver::Nobody => "none".into(),
                Driver::Auto => variants(device).unwrap_or("vfio-pci").into(),
            };
            let taken = Taken { rule: index + 1, driver: driver.into_owned() };
            verdict.taken.insert(device.address, taken);
        }
    }
    for (index, item) in items.iter().enumerate() {
        let decides = decided_by.values().any(|decider| *decider == index);
        let excludes =
            matches!(&item.meaning, Meaning::Rule(rule) if rule.action == Action::Exclude);
        let outcome =
            match (&item.meaning, &candidates[index]) {
                (Meaning::Off | Meaning::Debug, _) => Outcome::InForce,
                (Meaning::Invalid, _) => Outcome::Invalid,
                (Meaning::Rule(_), _) if failed.contains(&index) && index >= first_to_count => {
                    Outcome::Failed
                }
                (Meaning::Rule(_), None) => Outcome::Refused,
                (Meaning::Rule(rule), _) if lacks_group(devices, rule) => Outcome::Failed,
                (Meaning::Rule(rule), Some(matched)) if matched.is_empty() => {
                    if rule.may_be_absent { Outcome::Absent } else { Outcome::Unmatched }
                }
                (Meaning::Rule(_), _) if !decides => Outcome::Overruled,
                (Meaning::Rule(_), _) if excludes => Outcome::Excluded,
                (Meaning::Rule(_), _) => Outcome::Applied,
            };
        verdict.is_applied &= !outcome.is_trouble(excludes);
        verdict.outcomes.push(outcome);
    }
    verdict
}

/// Which item is the last that matches each device.
fn decided_by(candidates: &[Option<Vec<Address>>]) -> BTreeMap<Address, usize> {
    let mut decided_by = BTreeMap::new();
    for (index, addresses) in candidates.iter().enumerate() {
        for address in addresses.iter().flatten() {
            decided_by.insert(*address, index);
        }
    }
    decided_by
}

/// The exclusions of which nobody can tell what they protect, from the first item on that counts, and the first that
/// counts then: none before the last of them does.
fn doubtful_exclusions(
    devices: &[Device],
    items: &[Item],
    mut first_to_count: usize,
) -> (usize, BTreeSet<usize>) {
    let mut failed = BTreeSet::new();
    for (index, item) in items.iter().enumerate().skip(first_to_count) {
        let Meaning::Rule(rule) = &item.meaning else { continue };
        let excludes = rule.action == Action::Exclude;
        let before =
            items.iter().take(index).enumerate().map(|(index, item)| match &item.meaning {
                Meaning::Rule(rule) if index >= first_to_count => matched(devices, rule),
                _ => None,
            });
        let before: Vec<_> = before.collect();
        let takes_display = decided_by(&before).into_iter().any(|(address, index)| {
            let is_it = |device: &&Device| device.address == address;
            let takes = matches!(
                &items[index].meaning,
                Meaning::Rule(Rule { action: Action::Take(_), .. })
            );
            takes && devices.iter().find(is_it).is_some_and(Device::is_display)
        });
        let is_for_console = rule.selector == Selector::BootVga;
        let has_no_console = is_for_console && console(devices).is_none() && takes_display;
        if excludes && (has_no_console || lacks_group(devices, rule)) {
            first_to_count = index;
            failed.insert(index);
        }
    }
    (first_to_count, failed)
}

/// Whether the rule takes along the group of a function that is in none.
fn lacks_group(devices: &[Device], rule: &Rule<'_>) -> bool {
    let excludes = rule.action == Action::Exclude;
    rule.expansion == Some(Expansion::Group)
        && matched(devices, rule).is_some()
        && devices.iter().any(|device| {
            device.group.is_none()
                && (excludes || !device.is_bridge())
                && selects(devices, &rule.selector, device)
        })
}

/// The display of the console, as far as that is known.
#[must_use]
pub fn console(devices: &[Device]) -> Option<Address> {
    let find = |is_it: fn(&Device) -> bool| devices.iter().find(|device| is_it(device));
    let console = find(|device| device.has_framebuffer).or_else(|| find(|device| device.boot_vga));
    console.map(|device| device.address)
}

/// The item of this index says `off`.
fn nothing(items: &[Item], off: usize) -> Verdict {
    let outcome = |(index, item): (usize, &Item)| match item.meaning {
        Meaning::Invalid => Outcome::Invalid,
        _ if index == off => Outcome::Off,
        _ => Outcome::Idle,
    };
    let outcomes: Vec<Outcome> = items.iter().enumerate().map(outcome).collect();
    let is_applied = !outcomes.contains(&Outcome::Invalid);
    Verdict { taken: BTreeMap::new(), outcomes, is_applied }
}

/// The functions that a rule matches, expansions among them; `None` where it is refused.
fn matched(devices: &[Device], rule: &Rule<'_>) -> Option<Vec<Address>> {
    let excludes = rule.action == Action::Exclude;
    let selected: Vec<&Device> =
        devices.iter().filter(|device| selects(devices, &rule.selector, device)).collect();
    let lowest = selected.iter().min_by_key(|device| device.address);
    if let (Some(guard), Some(lowest)) = (rule.guard, lowest)
        && lowest.id != guard
    {
        return None;
    }
    // A bridge is never taken, but can be left alone, and its neighbours with it.
    let may_match = |device: &Device| excludes || !device.is_bridge();
    // Only beside SR-IOV's virtual buses has a path two ends; the lowest is the one that is meant.
    if names_one(&rule.selector) && lowest.is_some_and(|device| !may_match(device)) {
        return None;
    }

    let mut matched = Vec::new();
    for device in selected.iter().filter(|device| may_match(device)) {
        matched.push(device.address);
        for other in devices.iter().filter(|other| may_match(other)) {
            let is_taken_along = match rule.expansion {
                Some(Expansion::Slot) => slot(other) == slot(device),
                Some(Expansion::Group) => {
                    !other.is_bridge()
                        && match device.group {
                            Some(group) => other.group == Some(group),
                            // Behind a bridge it is a card.
                            None => device.parent.is_some() && slot(other) == slot(device),
                        }
                }
                None => false,
            };
            if is_taken_along {
                matched.push(other.address);
            }
        }
    }
    Some(matched)
}

fn slot(device: &Device) -> (u32, u8, u8) {
    let address = device.address;
    (address.domain(), address.bus(), address.device())
}

/// Whether the selector means one function and not as many as there are.
fn names_one(selector: &Selector) -> bool {
    match selector {
        Selector::Address { place, .. } => place.function.is_some(),
        Selector::Path { hops, .. } => hops.last().is_some_and(|place| place.function.is_some()),
        Selector::Ids(_) | Selector::Class { .. } | Selector::BootVga => false,
    }
}

fn is_at(device: &Device, place: Place) -> bool {
    let address = device.address;
    address.device() == place.device
        && place.function.is_none_or(|function| function == address.function())
}

fn selects(devices: &[Device], selector: &Selector, device: &Device) -> bool {
    match selector {
        Selector::Address { domain, bus, place } => {
            let address = device.address;
            address.domain() == *domain && address.bus() == *bus && is_at(device, *place)
        }
        Selector::Path { start, hops } => is_at_path(devices, device, *start, hops),
        Selector::Ids(ids) => has_ids(device, ids),
        Selector::Class { prefix, digits } => {
            let digits = usize::from(*digits);
            format!("{:06x}", device.class.code()).starts_with(&format!("{prefix:0digits$x}"))
        }
        Selector::BootVga => console(devices) == Some(device.address),
    }
}

fn has_ids(device: &Device, ids: &Ids) -> bool {
    let wanted = [ids.vendor, ids.device, ids.subvendor, ids.subdevice];
    let Device { id, subsystem, class, .. } = device;
    let found = [id.vendor, id.device, subsystem.vendor, subsystem.device];
    wanted.iter().zip(found).all(|(wanted, found)| wanted.is_none_or(|id| id == found))
        && ids.class.is_none_or(|wanted| (class.code() ^ wanted.code()) & ids.mask == 0)
}

/// From the device upwards, one bridge for each hop (`pci_dev_str_match_path` in
/// `drivers/pci/pci.c`).
fn is_at_path(devices: &[Device], device: &Device, start: Address, hops: &[Place]) -> bool {
    match hops.split_last() {
        None => device.address == start,
        Some((last, above)) => {
            is_at(device, *last)
                && devices
                    .iter()
                    .find(|bridge| Some(bridge.address) == device.parent)
                    .is_some_and(|bridge| is_at_path(devices, bridge, start, above))
        }
    }
}

/// What an operator is warned of, though all was done as asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Warning {
    /// The boot display is taken.
    BootDisplay(Address),
    /// Mass storage is taken.
    Storage(Address),
    /// A network function is taken.
    Network(Address),
    /// This group is not viable, since these functions of it stay with the host.
    NotViable(u32, BTreeSet<Address>),
    /// `vfio-pci.ids=` takes this function, and no rule does.
    Stray(Address),
    /// The firmware's framebuffer is in the memory of this function, which is taken.
    Framebuffer(Address),
    /// No function is in a group, as the IOMMU is off.
    NoIommu,
    /// This function is in no group, unlike others.
    NoGroup(Address),
}

/// The functions that vfio-pci takes by these IDs, and no rule does.
#[must_use]
pub fn strays(devices: &[Device], verdict: &Verdict, ids: &[Ids]) -> BTreeSet<Address> {
    let is_stray = |device: &&Device| {
        !device.is_bridge()
            && !verdict.taken.contains_key(&device.address)
            && ids.iter().any(|ids| has_ids(device, ids))
    };
    devices.iter().filter(is_stray).map(|device| device.address).collect()
}

/// The warnings about a machine, after this verdict, where `vfio-pci.ids=` has these IDs.
#[must_use]
pub fn warnings(devices: &[Device], verdict: &Verdict, ids: &[Ids]) -> BTreeSet<Warning> {
    // With `off` nothing is looked at.
    if verdict.outcomes.contains(&Outcome::Off) {
        return BTreeSet::new();
    }
    let mut warnings: BTreeSet<Warning> =
        strays(devices, verdict, ids).into_iter().map(Warning::Stray).collect();
    for device in devices {
        let Some(taken) = verdict.taken.get(&device.address) else { continue };
        if console(devices) == Some(device.address) {
            warnings.insert(Warning::BootDisplay(device.address));
        }
        if device.has_framebuffer {
            warnings.insert(Warning::Framebuffer(device.address));
        }
        if device.is_of_base_class(1) {
            warnings.insert(Warning::Storage(device.address));
        }
        if device.is_of_base_class(2) {
            warnings.insert(Warning::Network(device.address));
        }
        if ["none", "pci-stub"].contains(&&*taken.driver) {
            continue;
        }
        let Some(group) = device.group else {
            let has_groups = devices.iter().any(|other| other.group.is_some());
            let is_alone = Warning::NoGroup(device.address);
            warnings.insert(if has_groups { is_alone } else { Warning::NoIommu });
            continue;
        };
        let stays = |other: &&Device| {
            other.group == Some(group)
                && !other.is_bridge()
                && !verdict.taken.contains_key(&other.address)
        };
        let left: BTreeSet<Address> =
            devices.iter().filter(stays).map(|other| other.address).collect();
        if !left.is_empty() {
            warnings.insert(Warning::NotViable(group, left));
        }
    }
    warnings
}
