// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any rule of the grammar.

use proptest::prelude::*;
use vfio_override::pci::{Address, Class, Id};
use vfio_override::rule::{Action, Driver, Expansion, Ids, MAX_HOPS, Place, Rule, Selector};

fn place(function: impl Strategy<Value = Option<u8>>) -> impl Strategy<Value = Place> {
    (0..=0x1f_u8, function).prop_map(|(device, function)| Place { device, function })
}

fn any_place() -> impl Strategy<Value = Place> {
    place(proptest::option::of(0..=7_u8))
}

/// Domains of every length, small ones as often as large ones.
fn domain() -> impl Strategy<Value = u32> {
    (any::<u32>(), 0..=32_u32).prop_map(|(domain, bits)| domain.checked_shr(bits).unwrap_or(0))
}

fn addresses() -> impl Strategy<Value = Selector> {
    (domain(), any::<u8>(), any_place()).prop_map(|(domain, bus, place)| Selector::Address {
        domain,
        bus,
        place,
    })
}

fn paths() -> impl Strategy<Value = Selector> {
    let start = (domain(), any::<u8>(), 0..=0x1f_u8, 0..=7_u8)
        .prop_map(|(domain, bus, device, f)| Address::new(domain, bus, device, f).unwrap());
    (start, proptest::collection::vec(any_place(), 1..=MAX_HOPS))
        .prop_map(|(start, hops)| Selector::Path { start, hops: hops.into_iter().collect() })
}

/// IDs of every length, small ones as often as large ones.
fn id() -> impl Strategy<Value = u16> {
    (any::<u16>(), 0..=16_u32).prop_map(|(id, bits)| id.checked_shr(bits).unwrap_or(0))
}

fn ids() -> impl Strategy<Value = Selector> {
    let any_id = || proptest::option::of(id());
    let class = proptest::option::of((0..=0x00ff_ffff_u32, 0..=0x00ff_ffff_u32));
    (any_id(), any_id(), any_id(), any_id(), class).prop_map(
        |(vendor, device, subvendor, subdevice, class)| {
            let (class, mask) = class.map_or((None, 0), |(code, mask)| (Class::new(code), mask));
            Selector::Ids(Ids { vendor, device, subvendor, subdevice, class, mask })
        },
    )
}

fn classes() -> impl Strategy<Value = Selector> {
    (prop_oneof![Just(2_u8), Just(4), Just(6)], 0..=0x00ff_ffff_u32).prop_map(|(digits, code)| {
        Selector::Class { prefix: code & ((1 << (4 * u32::from(digits))) - 1), digits }
    })
}

fn actions() -> impl Strategy<Value = Action<'static>> {
    let name = proptest::string::string_regex("[A-Za-z0-9_.+-]{1,64}").unwrap();
    let is_name = |name: &String| !["none", "auto", "vfio-pci", ".", ".."].contains(&name.as_str());
    // Rules borrow the names of their drivers; a test can afford to keep these few bytes.
    let name = name.prop_filter("has a meaning of its own", is_name).prop_map(String::leak);
    prop_oneof![
        Just(Action::Exclude),
        Just(Action::Take(Driver::DEFAULT)),
        Just(Action::Take(Driver::Nobody)),
        Just(Action::Take(Driver::Auto)),
        name.prop_map(|name| Action::Take(Driver::Named(name.as_bytes()))),
    ]
}

/// Whether a rule with this selector may have a guard.
pub(crate) fn takes_guard(selector: &Selector) -> bool {
    match selector {
        Selector::Address { .. } | Selector::Path { .. } => true,
        Selector::Ids(_) | Selector::Class { .. } | Selector::BootVga => false,
    }
}

/// Any rule there is.
pub fn rules() -> impl Strategy<Value = Rule<'static>> {
    let selector = prop_oneof![addresses(), paths(), ids(), classes(), Just(Selector::BootVga)];
    let guard = proptest::option::of((id(), id()));
    let expansion =
        proptest::option::of(prop_oneof![Just(Expansion::Slot), Just(Expansion::Group)]);
    let rest = (actions(), any::<bool>());
    (selector, guard, expansion, rest).prop_map(
        |(selector, guard, expansion, (action, may_be_absent))| {
            let may_be_absent = may_be_absent && action != Action::Exclude;
            let takes_guard = takes_guard(&selector) && action != Action::Exclude;
            let guard = guard.filter(|_| takes_guard).map(|(vendor, device)| Id { vendor, device });
            Rule { selector, guard, expansion, action, may_be_absent }
        },
    )
}
