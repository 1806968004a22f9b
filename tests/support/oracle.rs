//! What the contract says of a list of rules on a tree of functions, written a second time: slow,
//! without a thought for memory, and from the text of `vfio.override=`'s documentation alone.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use vfio_override::pci::Address;

/// One PCI function.
#[derive(Clone, Debug)]
pub struct Device {
    pub address: Address,
    /// The bridge above its bus.
    pub parent: Option<Address>,
    pub id: (u16, u16),
    pub subsystem: (u16, u16),
    pub class: u32,
    pub group: Option<u32>,
    pub boot_vga: bool,
}

impl Device {
    pub fn is_bridge(&self) -> bool {
        [0x0600, 0x0604, 0x0607, 0x0609].contains(&(self.class >> 8))
    }
}

/// A device number and a function number, or any.
#[derive(Clone, Copy, Debug)]
pub struct Place(pub u8, pub Option<u8>);

#[derive(Clone, Debug)]
pub enum Selector {
    Address { domain: u32, bus: u8, place: Place },
    Path { start: Address, hops: Vec<Place> },
    Ids { fields: [Option<u16>; 4], class: Option<(u32, u32)> },
    Class { digits: String },
    BootVga,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expansion {
    Slot,
    Group,
}

#[derive(Clone, Debug)]
pub struct Rule {
    pub excludes: bool,
    pub selector: Selector,
    pub guard: Option<(u16, u16)>,
    pub expansion: Option<Expansion>,
    pub driver: Option<&'static str>,
}

/// One item of the parameter's list.
#[derive(Clone, Debug)]
pub enum Item {
    Off,
    Debug,
    /// A text that is no rule.
    Invalid(&'static str),
    Rule(Rule),
}

/// The word for what came of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Applied,
    Excluded,
    Overruled,
    Unmatched,
    Refused,
    Invalid,
    /// `debug`, which the log calls "in force".
    InForce,
}

impl Outcome {
    /// The first word of the outcome in the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Excluded => "excluded",
            Self::Overruled => "overruled",
            Self::Unmatched => "unmatched",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::InForce => "in",
        }
    }
}

/// What becomes of the machine and of the rules.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The functions that are taken, and their drivers.
    pub taken: BTreeMap<Address, String>,
    pub outcomes: Vec<Outcome>,
}

/// Decides over all devices. `variants` tells the variant driver for a device, if there is one.
pub fn decide(
    devices: &[Device],
    items: &[Item],
    variants: &dyn Fn(&Device) -> Option<&'static str>,
) -> Verdict {
    if items.iter().any(|item| matches!(item, Item::Off)) {
        return Verdict::default();
    }

    let is_lost_exclusion =
        |item: &Item| matches!(item, Item::Invalid(text) if text.starts_with('!'));
    let first_to_count = items.iter().rposition(is_lost_exclusion).unwrap_or(0);
    let candidates: Vec<Option<Vec<Address>>> = items
        .iter()
        .enumerate()
        .map(|(index, item)| match item {
            Item::Rule(rule) if index >= first_to_count => matched(devices, rule),
            _ => None,
        })
        .collect();

    let mut decided_by = BTreeMap::new();
    for (index, addresses) in candidates.iter().enumerate() {
        for address in addresses.iter().flatten() {
            decided_by.insert(*address, index);
        }
    }

    let mut verdict = Verdict::default();
    for device in devices {
        if let Some(index) = decided_by.get(&device.address)
            && let Item::Rule(rule) = &items[*index]
            && !rule.excludes
        {
            let driver = match rule.driver {
                None => "vfio-pci",
                Some("auto") => variants(device).unwrap_or("vfio-pci"),
                Some(name) => name,
            };
            verdict.taken.insert(device.address, driver.to_owned());
        }
    }
    for (index, item) in items.iter().enumerate() {
        let decides = decided_by.values().any(|decider| *decider == index);
        verdict.outcomes.push(match (item, &candidates[index]) {
            (Item::Off | Item::Debug, _) => Outcome::InForce,
            (Item::Invalid(_), _) => Outcome::Invalid,
            (Item::Rule(_), None) => Outcome::Refused,
            (Item::Rule(_), Some(matched)) if matched.is_empty() => Outcome::Unmatched,
            (Item::Rule(_), _) if !decides => Outcome::Overruled,
            (Item::Rule(rule), _) if rule.excludes => Outcome::Excluded,
            (Item::Rule(_), _) => Outcome::Applied,
        });
    }
    verdict
}

/// The functions that a rule matches, expansions among them; `None` where it is refused.
fn matched(devices: &[Device], rule: &Rule) -> Option<Vec<Address>> {
    let selected: Vec<&Device> =
        devices.iter().filter(|device| selects(devices, &rule.selector, device)).collect();
    let lowest = selected.iter().min_by_key(|device| device.address);
    if let (Some(guard), Some(lowest)) = (rule.guard, lowest)
        && lowest.id != guard
    {
        return None;
    }
    // A bridge is never taken, but can be left alone, and its neighbours with it.
    let may_match = |device: &Device| rule.excludes || !device.is_bridge();
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
                    !other.is_bridge() && other.group.is_some() && other.group == device.group
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
        Selector::Address { place, .. } => place.1.is_some(),
        Selector::Path { hops, .. } => hops.last().is_some_and(|place| place.1.is_some()),
        _ => false,
    }
}

fn is_at(device: &Device, place: Place) -> bool {
    let address = device.address;
    address.device() == place.0 && place.1.is_none_or(|function| function == address.function())
}

fn selects(devices: &[Device], selector: &Selector, device: &Device) -> bool {
    match selector {
        Selector::Address { domain, bus, place } => {
            let address = device.address;
            address.domain() == *domain && address.bus() == *bus && is_at(device, *place)
        }
        Selector::Path { start, hops } => is_at_path(devices, device, *start, hops),
        Selector::Ids { fields, class } => {
            let found = [device.id.0, device.id.1, device.subsystem.0, device.subsystem.1];
            fields.iter().zip(found).all(|(wanted, found)| wanted.is_none_or(|id| id == found))
                && class.is_none_or(|(class, mask)| (device.class ^ class) & mask == 0)
        }
        Selector::Class { digits } => {
            format!("{:06x}", device.class).starts_with(&digits.to_lowercase())
        }
        Selector::BootVga => device.boot_vga,
    }
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

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(function) => write!(f, "{:02x}.{function}", self.0),
            None => write!(f, "{:02x}.*", self.0),
        }
    }
}

impl Display for Selector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { domain, bus, place } => write!(f, "{domain:04x}:{bus:02x}:{place}"),
            Self::Path { start, hops } => {
                write!(f, "{start}")?;
                hops.iter().try_for_each(|place| write!(f, "/{place}"))
            }
            Self::Ids { fields, class } => {
                let id = |id: &Option<u16>| id.map_or("*".to_owned(), |id| format!("{id:04x}"));
                f.write_str(&fields.each_ref().map(id).join(":"))?;
                match class {
                    Some((class, mask)) => write!(f, ":{class:06x}:{mask:06x}"),
                    None => Ok(()),
                }
            }
            Self::Class { digits } => write!(f, "class:{digits}"),
            Self::BootVga => f.write_str("boot_vga"),
        }
    }
}

impl Display for Item {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rule = match self {
            Self::Off => return f.write_str("off"),
            Self::Debug => return f.write_str("debug"),
            Self::Invalid(text) => return f.write_str(text),
            Self::Rule(rule) => rule,
        };
        let Rule { excludes, selector, guard, expansion, driver } = rule;
        write!(f, "{}{selector}", if *excludes { "!" } else { "" })?;
        if let Some((vendor, device)) = guard {
            write!(f, "@{vendor:04x}:{device:04x}")?;
        }
        f.write_str(match expansion {
            Some(Expansion::Slot) => "+slot",
            Some(Expansion::Group) => "+group",
            None => "",
        })?;
        driver.map_or(Ok(()), |driver| write!(f, "={driver}"))
    }
}
