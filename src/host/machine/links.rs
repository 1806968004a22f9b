// SPDX-License-Identifier: MIT OR Apache-2.0
//! The network interfaces of a machine, and which of them the way out goes through.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use vfio_override::pci::Address;

use crate::machine::disks::names;
use crate::machine::{Machine, addresses_in, inside};

/// One interface of a function.
pub struct Link {
    pub name: String,
    /// The function that it belongs to, and those that this one is behind.
    pub functions: Vec<Address>,
    pub is_up: bool,
    /// The bridge, bond or team that it is a port of.
    pub master: Option<String>,
    /// The interface with the default route that it carries: itself, or one above it.
    pub default_route: Option<String>,
}

/// The interfaces that belong to functions.
pub fn of(machine: &Machine) -> Vec<Link> {
    let class = machine.sysfs.join("class/net");
    let uppers: BTreeMap<String, Vec<String>> =
        names(&class).into_iter().map(|name| (name.clone(), uppers(&class.join(name)))).collect();
    let routed = routed(machine);
    let links = uppers.keys().filter_map(|name| {
        let directory = inside::resolve(&machine.sysfs, Path::new("class/net").join(name))?;
        let functions = addresses_in(&directory);
        (!functions.is_empty()).then(|| Link {
            functions,
            is_up: inside::read(
                &machine.sysfs,
                Path::new("class/net").join(name).join("operstate"),
            )
            .is_some_and(|state| state.trim() == "up"),
            master: master(&directory),
            default_route: carried(&uppers, name, &routed),
            name: name.clone(),
        })
    });
    links.collect()
}

/// The first of these interfaces that is this one, or stands on it, over however many layers.
fn carried(
    uppers: &BTreeMap<String, Vec<String>>,
    name: &str,
    any_of: &BTreeSet<String>,
) -> Option<String> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![name]);
    while let Some(name) = next.pop() {
        if any_of.contains(name) {
            return Some(name.to_owned());
        }
        if seen.insert(name) {
            next.extend(uppers.get(name).into_iter().flatten().map(String::as_str));
        }
    }
    None
}

/// The bridge, bond or team of an interface.
pub fn master(directory: &Path) -> Option<String> {
    let master = fs::read_link(directory.join("master")).ok()?;
    Some(master.file_name()?.to_str()?.to_owned())
}

/// The interfaces right above one: `master` for bridges, bonds and teams, `upper_NAME` for these and for VLANs and the
/// like (`netdev_adjacent_sysfs_add` in `net/core/dev.c`).
pub fn uppers(directory: &Path) -> Vec<String> {
    let mut uppers: Vec<String> = names(directory)
        .iter()
        .filter_map(|name| Some(name.strip_prefix("upper_")?.to_owned()))
        .collect();
    uppers.extend(master(directory).filter(|master| !uppers.contains(master)));
    uppers
}

/// The interfaces that a default route goes through.
fn routed(machine: &Machine) -> BTreeSet<String> {
    let routes = machine.proc("net/route").unwrap_or_default();
    let routes_v6 = machine.proc("net/ipv6_route").unwrap_or_default();
    let default = default_routes(&routes).chain(default_routes_v6(&routes_v6));
    default.map(str::to_owned).collect()
}

/// The interfaces of the routes to everywhere in `/proc/net/route`.
pub fn default_routes(routes: &str) -> impl Iterator<Item = &str> {
    routes.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let interface = fields.next()?;
        (fields.next()? == "00000000").then_some(interface)
    })
}

/// Those of `/proc/net/ipv6_route`; the kernel's own refusal is a route of `lo`.
pub fn default_routes_v6(routes: &str) -> impl Iterator<Item = &str> {
    routes.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (target, length) = (fields.next()?, fields.next()?);
        let interface = fields.next_back()?;
        let is_default = length == "00" && target.bytes().all(|byte| byte == b'0');
        (is_default && interface != "lo").then_some(interface)
    })
}
