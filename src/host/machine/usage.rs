//! What the host itself uses of a function now: file systems on its disks, and its network links.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use vfio_override::pci::{Address, Function};

use crate::machine::inside;
use crate::machine::{Machine, addresses_in};

/// One thing that the host has in use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// The block device, and each place where its file system is mounted.
    Mounted(String, Vec<String>),
    /// The block device that holds swap space.
    Swap(String),
    /// The interface that the default route goes through.
    DefaultRoute(String),
    /// The interface, which is up.
    Up(String),
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted(device, places) => {
                write!(f, "{device} is mounted at {}", places.join(" and "))
            }
            Self::Swap(device) => write!(f, "{device} holds swap space"),
            Self::DefaultRoute(interface) => write!(f, "{interface} has the default route"),
            Self::Up(interface) => write!(f, "{interface} is up"),
        }
    }
}

/// What is in use of each function.
pub struct Usage {
    /// `None` where procfs does not tell.
    found: Option<BTreeMap<Address, Vec<Use>>>,
    /// Whether it is known on which functions every file system and swap space stands.
    is_traced: bool,
}

impl Usage {
    pub fn of(machine: &Machine) -> Self {
        let Some(mounts) = machine.proc("self/mountinfo") else {
            return Self { found: None, is_traced: false };
        };
        let mut found = BTreeMap::<Address, Vec<Use>>::new();
        let mut add = |address, what| found.entry(address).or_default().push(what);
        let mut is_traced = true;
        let disks = Disks { sysfs: &machine.sysfs };
        for mount in mounts.lines().filter_map(Mount::parse) {
            let Some(disk) = disks.of(&mount) else {
                is_traced &= !mount.may_be_on_disks();
                continue;
            };
            let mut functions = BTreeSet::new();
            is_traced &= disks.trace(&disk, 0, &mut functions);
            for address in functions {
                add(address, Use::Mounted(disk.clone(), vec![mount.place.to_owned()]));
            }
        }
        let swaps = machine.proc("swaps").unwrap_or_default();
        for device in swaps.lines().skip(1).filter_map(|line| line.strip_prefix("/dev/")) {
            let device = device.split_whitespace().next().unwrap_or_default();
            let disk = disks.named(device).unwrap_or_else(|| device.to_owned());
            let mut functions = BTreeSet::new();
            is_traced &= disks.trace(&disk, 0, &mut functions);
            for address in functions {
                add(address, Use::Swap(disk.clone()));
            }
        }
        let routes = machine.proc("net/route").unwrap_or_default();
        for (interface, address) in links(&machine.sysfs) {
            if has_default_route(&routes, &interface) {
                add(address, Use::DefaultRoute(interface));
            } else if is_up(&machine.sysfs, &interface) {
                add(address, Use::Up(interface));
            }
        }
        for uses in found.values_mut() {
            uses.sort();
            uses.dedup_by(|next, before| match (next, before) {
                (Use::Mounted(disk, more), Use::Mounted(same, places)) if disk == same => {
                    places.extend(
                        more.iter()
                            .filter(|place| !places.contains(place))
                            .cloned()
                            .collect::<Vec<_>>(),
                    );
                    true
                }
                (next, before) => next == before,
            });
        }
        Self { found: Some(found), is_traced }
    }

    /// What is in use of the function; `None` where that is not known.
    pub fn of_function(&self, function: &Function) -> Option<&[Use]> {
        match self.found.as_ref()?.get(&function.address) {
            Some(uses) => Some(uses),
            // What could not be traced is on disks.
            None if self.is_traced || function.class.is_network() => Some(&[]),
            None => None,
        }
    }
}

/// One line of `mountinfo` (`Documentation/filesystems/proc.rst`, 3.5).
pub struct Mount<'a> {
    pub number: &'a str,
    pub place: &'a str,
    pub kind: &'a str,
    source: &'a str,
}

impl<'a> Mount<'a> {
    pub fn parse(line: &'a str) -> Option<Self> {
        let (own, shared) = line.split_once(" - ")?;
        let (mut own, mut shared) = (own.split(' ').skip(2), shared.split(' '));
        Some(Self {
            number: own.next()?,
            place: own.nth(1)?,
            kind: shared.next()?,
            source: shared.next()?,
        })
    }

    /// Whether there may be disks below, though no block device is known.
    pub fn may_be_on_disks(&self) -> bool {
        // What a program serves names /dev/fuse, which is no disk.
        let is_served = self.kind == "fuse" || self.kind.starts_with("fuse.");
        ["bcachefs", "btrfs", "zfs"].contains(&self.kind)
            || (self.source.starts_with("/dev/") && !is_served)
    }
}

/// The block devices of a sysfs.
pub struct Disks<'a> {
    pub sysfs: &'a Path,
}

impl Disks<'_> {
    /// The name of the block device that holds a mounted file system.
    pub fn of(&self, mount: &Mount<'_>) -> Option<String> {
        let by_number = self.find("dev", mount.number);
        // btrfs, for one, mounts under a number that no block device has.
        by_number.or_else(|| self.named(mount.source.strip_prefix("/dev/")?))
    }

    /// The block device that has this name in /dev.
    pub fn named(&self, name: &str) -> Option<String> {
        match name.strip_prefix("mapper/") {
            Some(mapping) => self.find("dm/name", mapping),
            None => inside::resolve(self.sysfs, block(name)).map(|_| name.to_owned()),
        }
    }

    /// The block device of which an attribute holds this.
    fn find(&self, attribute: &str, text: &str) -> Option<String> {
        let entries = fs::read_dir(self.sysfs.join("class/block")).ok()?.flatten();
        let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.find(|name| {
            let held = inside::read(self.sysfs, block(name).join(attribute));
            held.is_some_and(|held| held.trim() == text)
        })
    }

    /// Adds the functions that a block device stands on, through mappings, arrays and partitions, and those
    /// that they are behind. Returns whether these are all.
    fn trace(&self, name: &str, depth: usize, functions: &mut BTreeSet<Address>) -> bool {
        /// Mappings do not go in circles; a made-up copy may.
        const MOST_LAYERS: usize = 16;
        /// They are in memory, elsewhere, or in a file whose own file system is mounted too.
        const ON_NO_DISK: [&str; 4] = ["loop", "nbd", "ram", "zram"];
        let Some(directory) = inside::resolve(self.sysfs, block(name)) else { return false };
        let way = addresses_in(&directory);
        if !way.is_empty() {
            functions.extend(way);
            return true;
        }
        let is_virtual = directory.to_string_lossy().contains("/devices/virtual/");
        if !is_virtual || ON_NO_DISK.iter().any(|start| name.starts_with(start)) {
            return true;
        }
        if depth == MOST_LAYERS {
            return false;
        }
        // A partition of an array has its slaves one level up.
        let above = directory.parent().map(Path::to_owned).unwrap_or_default();
        let slaves = [directory.join("slaves"), above.join("slaves")];
        let slaves = slaves.iter().flat_map(|slaves| fs::read_dir(slaves).into_iter().flatten());
        let slaves = slaves.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let (mut is_found, mut is_all) = (false, true);
        for slave in slaves {
            is_found = true;
            is_all &= self.trace(&slave, depth + 1, functions);
        }
        for controller in self.controllers_beside(&directory) {
            is_found = true;
            functions.extend(self.way_to(&controller));
        }
        is_found && is_all
    }

    /// The links to controllers that stand beside the head of a multipath `NVMe` namespace.
    pub fn controllers_beside(&self, block: &Path) -> Vec<PathBuf> {
        let subsystem = block
            .ancestors()
            .find(|place| place.parent().is_some_and(|above| above.ends_with("nvme-subsystem")));
        let entries = subsystem.into_iter().flat_map(|place| fs::read_dir(place).into_iter());
        let links = entries.flatten().flatten().map(|entry| entry.path());
        links.filter(|link| !self.way_to(link).is_empty()).collect()
    }

    /// The functions on the way to where a link leads.
    fn way_to(&self, link: &Path) -> Vec<Address> {
        inside::resolve(self.sysfs, link).map(|place| addresses_in(&place)).unwrap_or_default()
    }
}

/// Where a block device is, relative to sysfs.
fn block(name: &str) -> PathBuf {
    Path::new("class/block").join(name)
}

/// Each network interface, with the function that it belongs to and those that this one is behind.
fn links(sysfs: &Path) -> Vec<(String, Address)> {
    let entries = fs::read_dir(sysfs.join("class/net")).into_iter().flatten().flatten();
    let mut links: Vec<(String, Address)> = entries
        .filter_map(|entry| {
            let directory = inside::resolve(sysfs, Path::new("class/net").join(entry.file_name()))?;
            let name = entry.file_name().into_string().ok()?;
            Some(addresses_in(&directory).into_iter().map(move |address| (name.clone(), address)))
        })
        .flatten()
        .collect();
    links.sort();
    links
}

fn is_up(sysfs: &Path, interface: &str) -> bool {
    let state = Path::new("class/net").join(interface).join("operstate");
    inside::read(sysfs, state).is_some_and(|state| state.trim() == "up")
}

/// Whether `/proc/net/route` has a route of this interface to everywhere.
pub fn has_default_route(routes: &str, interface: &str) -> bool {
    routes.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace();
        fields.next() == Some(interface) && fields.next() == Some("00000000")
    })
}
