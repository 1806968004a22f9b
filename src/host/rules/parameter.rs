// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sturdiest rules for functions: a path where there is one, with a guard, and as few as can be.

use std::collections::BTreeSet;

use vfio_override::grammar;
use vfio_override::pci::Address;
use vfio_override::rule::{Action, Driver, Expansion, Place, Rule, Selector, Statement};

use crate::machine::Machine;
use crate::machine::functions::{Device, Devices};
use crate::rules::companions::Choice;
use crate::rules::preview::Asked;

/// The rules that take exactly what was chosen.
pub fn parameter(
    machine: &mut Machine,
    devices: &Devices,
    choices: &[Choice],
    addresses: &[Address],
) -> String {
    let taken: BTreeSet<Address> = choices
        .iter()
        .filter(|choice| choice.taken)
        .map(|choice| choice.device.function.address)
        .collect();
    let mut rules: Vec<String> = Vec::new();
    let mut covered = BTreeSet::new();
    // What was asked for comes first; of its slot, the lowest function, whose ID is the guard.
    let lowest = |address: &Address| {
        taken.iter().copied().find(|taken| taken.same_slot(*address)).unwrap_or(*address)
    };
    let seeds: Vec<Address> = addresses.iter().map(lowest).chain(taken.iter().copied()).collect();
    for address in &seeds {
        if covered.contains(address) {
            continue;
        }
        let Some(device) = devices.get(*address) else { continue };
        // The narrowest expansion that takes all there is to take, and nothing that is to be left.
        let best = [None, Some(Expansion::Slot), Some(Expansion::Group)]
            .map(|expansion| (expansion, reach(devices, device, expansion)))
            .into_iter()
            .filter(|(_, reached)| reached.is_subset(&taken))
            .reduce(|best, next| if next.1.len() > best.1.len() { next } else { best });
        let (expansion, reached) = best.unwrap_or((None, BTreeSet::from([*address])));
        rules.push(sturdiest(machine, device, expansion, &reached));
        covered.extend(reached);
    }
    rules.join(",")
}

/// What a rule on this function takes with the expansion.
fn reach(devices: &Devices, seed: &Device, expansion: Option<Expansion>) -> BTreeSet<Address> {
    let joins = |device: &&Device| match expansion {
        None => false,
        Some(Expansion::Slot) => device.function.address.same_slot(seed.function.address),
        Some(Expansion::Group) => seed.group.is_some() && device.group == seed.group,
    };
    let others =
        devices.all.iter().filter(|device| !device.function.class.is_bridge()).filter(joins);
    others.map(|device| device.function.address).chain([seed.function.address]).collect()
}

/// The path with its guard if it takes just these functions, else the address.
fn sturdiest(
    machine: &mut Machine,
    device: &Device,
    expansion: Option<Expansion>,
    reached: &BTreeSet<Address>,
) -> String {
    let function = &device.function;
    let may_be_absent =
        device.physical_function.is_some() || machine.is_removable(function.address);
    let rule = |selector| {
        let action = Action::Take(Driver::DEFAULT);
        let guard = Some(function.id);
        let rule = Rule { selector, guard, expansion, action, may_be_absent };
        short(&rule.to_string())
    };
    path_to(machine, function.address)
        .map(rule)
        .filter(|path| takes(machine, path) == *reached)
        .unwrap_or_else(|| rule(address_of(function.address)))
}

fn address_of(address: Address) -> Selector {
    let place = Place { device: address.device(), function: Some(address.function()) };
    Selector::Address { domain: address.domain(), bus: address.bus(), place }
}

/// The path from the root bus; `None` for a function on it, whose bus is never renumbered.
fn path_to(machine: &Machine, address: Address) -> Option<Selector> {
    // Above it there may be the device that made this domain, such as Intel's VMD.
    let mut way = machine.way_to(address);
    way.retain(|function| function.domain() == address.domain());
    let (&start, below) = way.split_first().filter(|(_, below)| !below.is_empty())?;
    let mut hops = heapless::Vec::new();
    for function in below {
        let place = Place { device: function.device(), function: Some(function.function()) };
        hops.push(place).ok()?;
    }
    Some(Selector::Path { start, hops })
}

/// Without the domain that is meant where none is written.
fn short(rule: &str) -> String {
    let shorter =
        rule.replacen("0000:", "", usize::from(rule.trim_start_matches('?').starts_with("0000:")));
    let meaning =
        |text: &str| grammar::parse(text.as_bytes()).map(|s: Statement<'_>| s.to_string());
    if meaning(&shorter) == meaning(rule) { shorter } else { rule.to_owned() }
}

/// What the early binary would take with this rule alone.
fn takes(machine: &mut Machine, rule: &str) -> BTreeSet<Address> {
    let asked = Asked::Given(vec![rule.to_owned()]);
    asked.preview(machine).plan.taken().map(|step| step.function.address).collect()
}
