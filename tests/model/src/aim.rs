// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules that are aimed at the functions of a machine, so that most of them hit something.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use vfio_override::pci::Address;
use vfio_override::rule::{Action, Driver, Expansion, Ids, Place, Rule, Selector, VFIO_PCI};

use crate::invalid::INVALID;
use crate::oracle::{Device, Item, Meaning};
use crate::rules;
use crate::spelling::spell;

/// A rule to be aimed at some function of a machine.
#[derive(Clone, Debug)]
pub struct Aim {
    target: Index,
    kind: Kind,
    action: Action<'static>,
    guard: Guard,
    expansion: Option<Expansion>,
    may_be_absent: bool,
    spelling: Vec<bool>,
}

#[derive(Clone, Debug)]
enum Guard {
    No,
    Holds,
    /// The ID of some function.
    IsThatOf(Index),
}

#[derive(Clone, Debug)]
enum Kind {
    Aimed(By),
    /// A rule that is not aimed at all.
    Any(Rule<'static>),
    Invalid(&'static str),
    Off,
    Debug,
}

/// What the target is selected by.
#[derive(Clone, Debug)]
enum By {
    Address { any_function: bool, misses: bool },
    Path { any_function: [bool; 8], misses: bool },
    Ids { wanted: [bool; 4], mask: Option<u32> },
    Class { digits: u8 },
    BootVga,
}

/// IDs of `vfio-pci.ids=`, to be aimed at some function of a machine.
#[derive(Clone, Debug)]
pub struct IdsAim {
    target: Index,
    has_subsystem: [bool; 2],
    mask: Option<u32>,
}

/// The IDs of a `vfio-pci.ids=`; mostly there is none.
pub fn ids_aims() -> impl Strategy<Value = Vec<IdsAim>> {
    let aim = (any::<Index>(), any::<[bool; 2]>(), proptest::option::of(masks()));
    let aim = aim.prop_map(|(target, has_subsystem, mask)| IdsAim { target, has_subsystem, mask });
    prop_oneof![
        2 => Just(Vec::new()),
        1 => proptest::collection::vec(aim, 1..=3),
    ]
}

/// Rules of all kinds.
pub fn aims() -> impl Strategy<Value = Aim> {
    aims_of(kinds())
}

/// Rules that name addresses.
pub fn address_aims() -> impl Strategy<Value = Aim> {
    aims_of(addresses())
}

fn rarely() -> impl Strategy<Value = bool> {
    proptest::bool::weighted(0.15)
}

fn addresses() -> impl Strategy<Value = Kind> {
    (any::<bool>(), rarely())
        .prop_map(|(any_function, misses)| Kind::Aimed(By::Address { any_function, misses }))
}

fn masks() -> impl Strategy<Value = u32> {
    select(vec![0xff_ff_ff, 0xff_ff_00, 0xff_00_00, 0x00_00_01, 0])
}

fn kinds() -> impl Strategy<Value = Kind> {
    let path = (proptest::array::uniform8(proptest::bool::weighted(0.3)), rarely())
        .prop_map(|(any_function, misses)| By::Path { any_function, misses });
    let ids = (any::<[bool; 4]>(), proptest::option::of(masks()))
        .prop_map(|(wanted, mask)| By::Ids { wanted, mask });
    // On a command line blanks and commas end a text, quotes around a value go, and a text that is empty is no
    // item at all.
    let is_item = |text: &&str| {
        let ends = |letter: char| ",\"".contains(letter) || letter.is_whitespace();
        !text.is_empty() && !text.contains(ends)
    };
    let invalid: Vec<&str> = INVALID.iter().copied().filter(is_item).collect();
    let (lost, invalid): (Vec<&str>, Vec<&str>) =
        invalid.into_iter().partition(|text| text.contains('!'));
    prop_oneof![
        20 => addresses(),
        16 => path.prop_map(Kind::Aimed),
        16 => ids.prop_map(Kind::Aimed),
        10 => select(vec![2, 4, 6]).prop_map(|digits| Kind::Aimed(By::Class { digits })),
        6 => Just(Kind::Aimed(By::BootVga)),
        2 => rules::rules().prop_map(Kind::Any),
        3 => select(invalid).prop_map(Kind::Invalid),
        1 => select(lost).prop_map(Kind::Invalid),
        3 => Just(Kind::Debug),
        1 => proptest::bool::weighted(0.2).prop_map(|off| if off { Kind::Off } else { Kind::Debug }),
    ]
}

fn actions() -> impl Strategy<Value = Action<'static>> {
    let driver = |name: &'static [u8]| Just(Action::Take(Driver::Named(name)));
    prop_oneof![
        4 => Just(Action::Exclude),
        6 => driver(VFIO_PCI),
        2 => Just(Action::Take(Driver::Auto)),
        2 => Just(Action::Take(Driver::Nobody)),
        2 => driver(b"pci-stub"),
    ]
}

fn aims_of(kinds: impl Strategy<Value = Kind>) -> impl Strategy<Value = Aim> {
    let guard = prop_oneof![
        14 => Just(Guard::No),
        4 => Just(Guard::Holds),
        2 => any::<Index>().prop_map(Guard::IsThatOf),
    ];
    let expansion = proptest::option::of(select(vec![Expansion::Slot, Expansion::Group]));
    let spelling = proptest::collection::vec(any::<bool>(), 1..12);
    let may_be_absent = proptest::bool::weighted(0.3);
    (any::<Index>(), kinds, actions(), guard, expansion, may_be_absent, spelling).prop_map(
        |(target, kind, action, guard, expansion, may_be_absent, spelling)| Aim {
            target,
            kind,
            action,
            guard,
            expansion,
            may_be_absent,
            spelling,
        },
    )
}

impl Aim {
    /// The rule, aimed at its function. There must be one.
    #[must_use]
    pub fn at(&self, devices: &[Device]) -> Item {
        let rule = match &self.kind {
            Kind::Off => return Item { text: "off".to_owned(), meaning: Meaning::Off },
            Kind::Debug => return Item { text: "debug".to_owned(), meaning: Meaning::Debug },
            Kind::Invalid(text) => {
                return Item { text: (*text).to_owned(), meaning: Meaning::Invalid };
            }
            Kind::Any(rule) => rule.clone(),
            Kind::Aimed(by) => self.rule(by, devices),
        };
        Item { text: spell(&rule, &self.spelling), meaning: Meaning::Rule(rule) }
    }

    fn rule(&self, by: &By, devices: &[Device]) -> Rule<'static> {
        let target = self.target.get(devices);
        let selector = by.selector(devices, target);
        let takes_guard = rules::takes_guard(&selector) && self.action != Action::Exclude;
        let guard = match self.guard {
            Guard::No => None,
            Guard::Holds => Some(target.id),
            Guard::IsThatOf(other) => Some(other.get(devices).id),
        };
        Rule {
            selector,
            guard: guard.filter(|_| takes_guard),
            expansion: self.expansion,
            action: self.action,
            may_be_absent: self.may_be_absent && self.action != Action::Exclude,
        }
    }
}

impl IdsAim {
    /// The IDs, aimed at a function that is no bridge; `None` where all are.
    #[must_use]
    pub fn at(&self, devices: &[Device]) -> Option<Ids> {
        let cards: Vec<&Device> = devices.iter().filter(|device| !device.is_bridge()).collect();
        let target = (!cards.is_empty()).then(|| *self.target.get(cards.as_slice()))?;
        let [subvendor, subdevice] = self.has_subsystem;
        Some(ids(target, [true, true, subvendor, subdevice], self.mask))
    }
}

impl By {
    fn selector(&self, devices: &[Device], target: &Device) -> Selector {
        let Device { address, class, .. } = target;
        match self {
            Self::Address { any_function, misses } => Selector::Address {
                domain: address.domain(),
                bus: address.bus() ^ u8::from(*misses),
                place: place(*address, *any_function),
            },
            Self::Path { any_function, misses } => path(devices, target, *any_function, *misses),
            Self::Ids { wanted, mask } => Selector::Ids(ids(target, *wanted, *mask)),
            Self::Class { digits } => {
                Selector::Class { prefix: class.code() >> (24 - 4 * digits), digits: *digits }
            }
            Self::BootVga => Selector::BootVga,
        }
    }
}

fn ids(target: &Device, wanted: [bool; 4], mask: Option<u32>) -> Ids {
    let Device { id, subsystem, class, .. } = target;
    let field = |index: usize, id: u16| Some(id).filter(|_| wanted[index]);
    Ids {
        vendor: field(0, id.vendor),
        device: field(1, id.device),
        subvendor: field(2, subsystem.vendor),
        subdevice: field(3, subsystem.device),
        class: mask.map(|_| *class),
        mask: mask.unwrap_or(0),
    }
}

fn place(address: Address, any_function: bool) -> Place {
    let function = Some(address.function()).filter(|_| !any_function);
    Place { device: address.device(), function }
}

fn path(devices: &[Device], target: &Device, any_function: [bool; 8], misses: bool) -> Selector {
    let above =
        |device: &Device| devices.iter().find(|bridge| Some(bridge.address) == device.parent);
    let mut hops = Vec::new();
    let mut top = target;
    for any_function in any_function {
        let Some(bridge) = above(top) else { break };
        hops.insert(0, place(top.address, any_function));
        top = bridge;
        // Any bridge may be the first of a path, not only one on a root bus.
        if misses && hops.len() == 2 {
            break;
        }
    }
    if hops.is_empty() {
        hops.push(Place { device: 0, function: None });
    }
    if misses && let Some(Place { function: function @ Some(_), .. }) = hops.first_mut() {
        *function = Some(6);
    }
    Selector::Path { start: top.address, hops: hops.into_iter().collect() }
}
