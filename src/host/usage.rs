//! What the host itself uses of a function now: file systems on its disks, and its network links.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use vfio_override::pci::Address;

use crate::inside;
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

/// What is in use of each function; `None` where procfs does not tell.
pub struct Usage(Option<BTreeMap<Address, Vec<Use>>>);

impl Usage {
    pub fn of(machine: &Machine) -> Self {
        let Ok(mounts) = fs::read_to_string(machine.proc.join("self/mountinfo")) else {
            return Self(None);
        };
        let mut found = BTreeMap::<Address, Vec<Use>>::new();
        let mut add = |address, what| found.entry(address).or_default().push(what);
        let disks = Disks { sysfs: &machine.sysfs };
        for mount in mounts.lines().filter_map(Mount::parse) {
            let Some(disk) = disks.of(&mount) else { continue };
            for address in disks.functions(&disk, 0) {
                add(address, Use::Mounted(disk.clone(), vec![mount.place.to_owned()]));
            }
        }
        let swaps = fs::read_to_string(machine.proc.join("swaps")).unwrap_or_default();
        for device in swaps.lines().skip(1).filter_map(|line| line.strip_prefix("/dev/")) {
            let name = device.split_whitespace().next().unwrap_or_default();
            for address in disks.functions(name, 0) {
                add(address, Use::Swap(name.to_owned()));
            }
        }
        for (interface, address) in links(&machine.sysfs) {
            let routes = fs::read_to_string(machine.proc.join("net/route")).unwrap_or_default();
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
        Self(Some(found))
    }

    /// What is in use of the function; `None` where that is not known.
    pub fn of_function(&self, address: Address) -> Option<&[Use]> {
        self.0.as_ref().map(|found| found.get(&address).map_or(&[][..], Vec::as_slice))
    }
}

/// One line of `mountinfo` (`Documentation/filesystems/proc.rst`, 3.5).
struct Mount<'a> {
    number: &'a str,
    place: &'a str,
    source: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (own, shared) = line.split_once(" - ")?;
        let mut own = own.split(' ').skip(2);
        Some(Self { number: own.next()?, place: own.nth(1)?, source: shared.split(' ').nth(1)? })
    }
}

struct Disks<'a> {
    sysfs: &'a Path,
}

impl Disks<'_> {
    /// The name of the block device that holds a mounted file system.
    fn of(&self, mount: &Mount<'_>) -> Option<String> {
        let entries = fs::read_dir(self.sysfs.join("class/block")).ok()?.flatten();
        let by_number =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).find(|name| {
                let number = inside::read(self.sysfs, block(name).join("dev"));
                number.is_some_and(|number| number.trim() == mount.number)
            });
        // btrfs, for one, mounts under a number that no block device has.
        by_number.or_else(|| {
            let name = mount.source.strip_prefix("/dev/")?;
            inside::resolve(self.sysfs, block(name)).map(|_| name.to_owned())
        })
    }

    /// The functions that a block device stands on, through mappings, arrays and partitions.
    fn functions(&self, name: &str, depth: usize) -> Vec<Address> {
        /// Mappings do not go in circles; a made-up copy may.
        const MOST_LAYERS: usize = 16;
        let Some(directory) = inside::resolve(self.sysfs, block(name)) else {
            return Vec::new();
        };
        if let Some(address) = addresses_in(&directory).last() {
            return vec![*address];
        }
        if depth == MOST_LAYERS {
            return Vec::new();
        }
        // A partition of an array has its slaves one level up; the head of a multipath NVMe namespace has
        // its controllers beside it.
        let above = directory.parent().map(Path::to_owned).unwrap_or_default();
        let slaves = [directory.join("slaves"), above.join("slaves")];
        let below = slaves.iter().flat_map(|slaves| fs::read_dir(slaves).into_iter().flatten());
        let below = below.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut functions: Vec<Address> =
            below.flat_map(|name| self.functions(&name, depth + 1)).collect();
        if above.to_string_lossy().contains("/nvme-subsystem/") {
            let controllers = fs::read_dir(&above).into_iter().flatten().flatten();
            let controllers = controllers.filter_map(|entry| fs::canonicalize(entry.path()).ok());
            functions.extend(
                controllers.filter_map(|controller| addresses_in(&controller).last().copied()),
            );
        }
        functions
    }
}

/// Where a block device is, relative to sysfs.
fn block(name: &str) -> PathBuf {
    Path::new("class/block").join(name)
}

/// Each network interface that belongs to a function.
fn links(sysfs: &Path) -> Vec<(String, Address)> {
    let entries = fs::read_dir(sysfs.join("class/net")).into_iter().flatten().flatten();
    let mut links: Vec<(String, Address)> = entries
        .filter_map(|entry| {
            let directory = inside::resolve(sysfs, Path::new("class/net").join(entry.file_name()))?;
            let address = *addresses_in(&directory).last()?;
            Some((entry.file_name().into_string().ok()?, address))
        })
        .collect();
    links.sort();
    links
}

fn is_up(sysfs: &Path, interface: &str) -> bool {
    let state = Path::new("class/net").join(interface).join("operstate");
    inside::read(sysfs, state).is_some_and(|state| state.trim() == "up")
}

/// Whether `/proc/net/route` has a route of this interface to everywhere.
fn has_default_route(routes: &str, interface: &str) -> bool {
    routes.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace();
        fields.next() == Some(interface) && fields.next() == Some("00000000")
    })
}
