// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the host itself uses of a function now: its disks, its network links, its keyboards and consoles.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use vfio_override::pci::{Address, Function};

use crate::machine::disks::{Disks, names};
use crate::machine::functions::Devices;
use crate::machine::inputs::{self, Input};
use crate::machine::{Machine, addresses_in, inside, links};

/// Where mediated devices are, below sysfs (`Documentation/driver-api/vfio-mediated-device.rst`).
pub const MEDIATED: &str = "bus/mdev/devices";

/// One thing that the host has in use, the weightiest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// The block device, and each place where its file system is mounted.
    Mounted(String, Vec<String>),
    /// The block device that holds swap space.
    Swap(String),
    /// The block device, and what stands on it: mappings, arrays, caches.
    Held(String, Vec<String>),
    /// The block device, and what it is a member of.
    Member(String, &'static str),
    /// The interface, and the one above it that the default route goes through.
    DefaultRoute(String, String),
    /// The interface, which is up, and the bridge or bond of which it is a port.
    Up(String, Option<String>),
    Input(Input),
    /// The terminal, to which the kernel's console goes.
    Console(String),
    /// A mediated device, which the function's driver makes for a guest.
    Mediated,
    /// The block device, of which nothing is in use.
    Disk(String),
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted(device, places) => {
                write!(f, "{device} is mounted at {}", places.join(" and "))
            }
            Self::Swap(device) => write!(f, "{device} holds swap space"),
            Self::Held(device, holders) => {
                let stand = if holders.len() == 1 { "stands" } else { "stand" };
                write!(f, "{} {stand} on {device}", and(holders))
            }
            Self::Member(device, of) => write!(f, "{device} is a member of {of}"),
            Self::DefaultRoute(interface, through) if interface == through => {
                write!(f, "{interface} has the default route")
            }
            Self::DefaultRoute(interface, through) => {
                write!(f, "{interface} carries the default route, which goes through {through}")
            }
            Self::Up(interface, None) => write!(f, "{interface} is up"),
            Self::Up(interface, Some(master)) => {
                write!(f, "{interface} is up, a port of {master}")
            }
            Self::Input(input) => f.write_str(input.text()),
            Self::Console(terminal) => write!(f, "the console {terminal}"),
            Self::Mediated => f.write_str("a mediated device (vGPU) for a guest"),
            Self::Disk(device) => write!(f, "the disk {device}"),
        }
    }
}

impl Use {
    /// Whether the host boots from it.
    fn is_root(&self) -> bool {
        // Where `/` is in memory or composed, what it is made of has a place of its own.
        const PLACES: [&str; 5] = ["/", "/usr", "/sysroot", "/nix", "/nix/store"];
        let Self::Mounted(_, places) = self else { return false };
        places.iter().any(|place| PLACES.contains(&place.as_str()))
    }
}

/// A list in words, of which no more than the first few are named.
fn and(words: &[String]) -> String {
    const MOST: usize = 3;
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] if words.len() <= MOST => format!("{} and {last}", first.join(", ")),
        _ => format!("{} and {} more", words[..MOST].join(", "), words.len() - MOST),
    }
}

/// What is in use of each function.
pub struct Usage {
    found: BTreeMap<Address, Vec<Use>>,
    /// Whether procfs tells what is mounted and routed.
    is_told: bool,
    /// Whether it is known on which functions every file system and swap space stands.
    is_traced: bool,
    /// Whether the root file system is in a ZFS pool, of which nothing here names the members.
    has_zfs_root: bool,
    /// The USB controllers of which nobody can tell what is connected.
    unseen: BTreeSet<Address>,
}

impl Usage {
    pub fn of(machine: &Machine, devices: &Devices) -> Self {
        let mut usage = Self {
            found: BTreeMap::new(),
            is_told: false,
            is_traced: false,
            has_zfs_root: false,
            unseen: BTreeSet::new(),
        };
        usage.disks(machine);
        usage.links(machine);
        usage.inputs(machine, devices);
        usage.consoles(machine);
        usage.mediated(machine);
        for uses in usage.found.values_mut() {
            uses.sort();
            uses.dedup_by(|next, before| match (next, before) {
                (Use::Mounted(disk, more), Use::Mounted(same, places)) if disk == same => {
                    more.retain(|place| !places.contains(place));
                    places.append(more);
                    true
                }
                (next, before) => next == before,
            });
        }
        usage
    }

    fn add(&mut self, functions: impl IntoIterator<Item = Address>, what: &Use) {
        for function in functions {
            self.found.entry(function).or_default().push(what.clone());
        }
    }

    fn disks(&mut self, machine: &Machine) {
        let Some(mounts) = machine.proc("self/mountinfo") else { return };
        (self.is_told, self.is_traced) = (true, true);
        let disks = Disks::of(&machine.sysfs);
        // The block devices that are in use themselves.
        let mut used = BTreeSet::new();
        let mut has_zfs = has_zfs_pool(machine);
        for mount in mounts.lines().filter_map(Mount::parse) {
            let found = mount.disks(&disks);
            has_zfs |= mount.kind == "zfs";
            self.has_zfs_root |= mount.kind == "zfs" && mount.place == "/";
            if found.is_empty() && mount.kind != "zfs" {
                self.is_traced &= !mount.may_be_on_disks();
            }
            for disk in found {
                let mut functions = BTreeSet::new();
                self.is_traced &= disks.trace(&disk, &mut functions);
                self.add(functions, &Use::Mounted(disk.clone(), vec![mount.place.to_owned()]));
                used.insert(disk);
            }
        }
        let swaps = machine.proc("swaps").unwrap_or_default();
        for device in swaps.lines().skip(1).filter_map(|line| line.strip_prefix("/dev/")) {
            let device = device.split_whitespace().next().unwrap_or_default();
            let disk = disks.named(device).unwrap_or(device).to_owned();
            let mut functions = BTreeSet::new();
            self.is_traced &= disks.trace(&disk, &mut functions);
            self.add(functions, &Use::Swap(disk.clone()));
            used.insert(disk);
        }
        let mut has_members = false;
        for disk in disks.names() {
            let functions = disks.functions(disk);
            if functions.is_empty() {
                continue;
            }
            let holders: Vec<&str> = disks.holders(disk).collect();
            let idle = holders.iter().filter(|holder| !disks.carries(holder, &used));
            let idle: Vec<String> = idle.map(|holder| holder_text(machine, holder)).collect();
            let member = member(machine, &disks, disk);
            has_members |= member == Some(ZFS);
            if !idle.is_empty() {
                self.add(functions, &Use::Held(disk.to_owned(), idle));
            } else if let Some(member) = member
                && holders.is_empty()
            {
                self.add(functions, &Use::Member(disk.to_owned(), member));
            } else if !disks.carries(disk, &used) {
                self.add(functions, &Use::Disk(disk.to_owned()));
            }
        }
        // The members of a pool are in no file of sysfs; udev's database tells them, where there is one.
        self.is_traced &= !has_zfs || has_members;
    }

    fn links(&mut self, machine: &Machine) {
        for link in links::of(machine) {
            let what = match link.default_route {
                Some(through) => Use::DefaultRoute(link.name, through),
                None if link.is_up => Use::Up(link.name, link.master),
                None => continue,
            };
            self.add(link.functions, &what);
        }
    }

    fn inputs(&mut self, machine: &Machine, devices: &Devices) {
        const USB: u32 = 0x0c_03;
        let inputs = inputs::of(machine);
        for (input, functions) in inputs.iter().flatten() {
            self.add(functions.iter().copied(), &Use::Input(*input));
        }
        let controllers =
            devices.all.iter().filter(|device| device.has_class(USB) && !device.is_thunderbolt());
        for controller in controllers {
            let address = controller.function.address;
            match inputs::on_usb(machine, controller) {
                Some(connected) => {
                    for input in connected {
                        let way = controller.above.iter().copied().chain([address]);
                        self.add(way, &Use::Input(input));
                    }
                }
                None if inputs.is_none() && controller.driver.is_some() => {
                    self.unseen.insert(address);
                }
                None => {}
            }
        }
    }

    /// The terminals of the kernel's console that belong to functions, such as a serial port's.
    fn consoles(&mut self, machine: &Machine) {
        let class = Path::new("class/tty");
        let active = inside::read(&machine.sysfs, class.join("console/active")).unwrap_or_default();
        for terminal in active.split_whitespace() {
            let place = inside::resolve(&machine.sysfs, class.join(terminal));
            let functions = place.map(|place| addresses_in(&place)).unwrap_or_default();
            self.add(functions, &Use::Console(terminal.to_owned()));
        }
    }

    /// The mediated devices that there are now.
    fn mediated(&mut self, machine: &Machine) {
        for name in names(&machine.sysfs.join(MEDIATED)) {
            let place = inside::resolve(&machine.sysfs, Path::new(MEDIATED).join(name));
            let functions = place.map(|place| addresses_in(&place)).unwrap_or_default();
            self.add(functions, &Use::Mediated);
        }
    }

    /// What is in use of the function; `None` where that is not known.
    pub fn of_function(&self, function: &Function) -> Option<&[Use]> {
        let uses = self.found.get(&function.address).map_or(&[][..], Vec::as_slice);
        // Of its own disks it is said already that the host loses them.
        let is_storage = function.class.is_storage();
        let start =
            uses.iter().position(|what| matches!(what, Use::Disk(_))).filter(|_| is_storage);
        let uses = uses.get(..start.unwrap_or(uses.len())).unwrap_or_default();
        let is_known = if function.class.is_network() {
            self.is_told
        } else {
            // What could not be traced is on disks.
            self.is_traced && !self.unseen.contains(&function.address)
        };
        (is_known || !uses.is_empty()).then_some(uses)
    }

    /// What of a function the host boots from.
    pub fn root_on(&self, address: Address) -> Option<&Use> {
        self.found.get(&address)?.iter().find(|it| it.is_root())
    }

    /// Whether the host may boot from a function, as a member of a pool.
    pub fn may_hold_root(&self, function: &Function) -> bool {
        let is_member = |what: &Use| matches!(what, Use::Member(_, of) if *of == ZFS);
        let known = self.of_function(function);
        let is_unknown = function.class.is_storage() && known.is_none();
        self.has_zfs_root && (is_unknown || known.is_some_and(|uses| uses.iter().any(is_member)))
    }

    /// What else the host has mounted, or set up, of the disks of a function.
    pub fn of_disks(&self, address: Address) -> impl Iterator<Item = &Use> {
        let is_disk = |what: &&Use| matches!(what, Use::Mounted(..) | Use::Swap(_) | Use::Held(..));
        self.found.get(&address).into_iter().flatten().filter(is_disk).filter(|it| !it.is_root())
    }

    /// Whether nobody can tell what is connected to this USB controller.
    pub fn is_unseen(&self, address: Address) -> bool {
        self.unseen.contains(&address)
    }

    /// What people type on, and the functions that some of it is behind: keyboards, or where none is known to be one, all
    /// that may be.
    pub fn keyboards(&self) -> (Input, Vec<Address>) {
        let behind = |input: Input| -> Vec<Address> {
            let found = self.found.iter().filter(|(_, uses)| uses.contains(&Use::Input(input)));
            found.map(|(address, _)| *address).collect()
        };
        match behind(Input::Keyboard) {
            none if none.is_empty() => (Input::Other, behind(Input::Other)),
            some => (Input::Keyboard, some),
        }
    }
}

/// Whether ZFS has a pool imported: each has a directory there.
fn has_zfs_pool(machine: &Machine) -> bool {
    machine.proc_directories("spl/kstat/zfs") > 0
}

const ZFS: &str = "a ZFS pool";

/// What a disk or partition is a member of, by udev's database: where no holder shows it, or none is active.
fn member(machine: &Machine, disks: &Disks, name: &str) -> Option<&'static str> {
    const KEY: &str = "E:ID_FS_TYPE=";
    const MEMBERS: [(&str, &str); 8] = [
        ("zfs_member", ZFS),
        ("LVM2_member", "an LVM volume group"),
        ("linux_raid_member", "an md array"),
        ("isw_raid_member", "an md array"),
        ("ddf_raid_member", "an md array"),
        ("bcache", "a bcache"),
        ("drbd", "a DRBD device"),
        ("ceph_bluestore", "a Ceph cluster"),
    ];
    let root = machine.root.as_ref()?;
    let number = disks.number(name)?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b':') {
        return None;
    }
    let is_member = |kind: &str| MEMBERS.iter().find(|(member, _)| *member == kind);
    let keep = |line: &str| {
        let kind = line.strip_prefix(KEY)?;
        is_member(kind).map(|_| line.to_owned())
    };
    let lines = root.lines(&format!("run/udev/data/b{number}"), keep).ok()?;
    let (_, text) = is_member(lines.first()?.strip_prefix(KEY)?)?;
    Some(text)
}

/// What stands on a disk, in words.
fn holder_text(machine: &Machine, name: &str) -> String {
    let mapping = || {
        let uuid = Path::new("class/block").join(name).join("dm/uuid");
        let uuid = inside::read(&machine.sysfs, uuid).unwrap_or_default();
        match uuid.split('-').next() {
            Some("LVM") => "the LVM volume ",
            Some("CRYPT") => "the encrypted device ",
            Some("mpath") => "the multipath device ",
            _ => "the mapping ",
        }
    };
    let kind = match name {
        name if name.starts_with("dm-") => mapping(),
        name if name.starts_with("md") => "the array ",
        name if name.starts_with("bcache") => "the cache ",
        name if name.starts_with("drbd") => "the DRBD device ",
        _ => "",
    };
    format!("{kind}{name}")
}

/// One line of `mountinfo` (`Documentation/filesystems/proc.rst`, 3.5).
pub struct Mount<'a> {
    pub number: &'a str,
    pub place: &'a str,
    pub kind: &'a str,
    source: &'a str,
    /// Of this mount, and of the file system.
    options: [&'a str; 2],
}

impl<'a> Mount<'a> {
    pub fn parse(line: &'a str) -> Option<Self> {
        let (own, shared) = line.split_once(" - ")?;
        let (mut own, mut shared) = (own.split(' ').skip(2), shared.split(' '));
        let (number, place) = (own.next()?, own.nth(1)?);
        let (kind, source) = (shared.next()?, shared.next()?);
        let options = [own.next().unwrap_or_default(), shared.next().unwrap_or_default()];
        Some(Self { number, place, kind, source, options })
    }

    /// Whether nothing can be written to it.
    pub fn is_read_only(&self) -> bool {
        self.options.iter().any(|options| options.split(',').any(|option| option == "ro"))
    }

    /// Whether there may be disks below, though no block device is known.
    pub fn may_be_on_disks(&self) -> bool {
        // What a program serves names /dev/fuse, which is no disk.
        let is_served = self.kind == "fuse" || self.kind.starts_with("fuse.");
        ["bcachefs", "btrfs", "zfs"].contains(&self.kind)
            || (self.source.starts_with("/dev/") && !is_served)
    }

    /// The block devices that hold the file system, under the kernel's names; none where they are not all known.
    pub fn disks(&self, disks: &Disks) -> Vec<String> {
        // btrfs, for one, mounts under a number that no block device has. bcachefs names all its members.
        let by_source = || -> Option<Vec<String>> {
            let sources = self.source.split(':');
            sources.map(|it| Some(disks.named(it.strip_prefix("/dev/")?)?.to_owned())).collect()
        };
        let named =
            disks.numbered(self.number).map(|disk| vec![disk.to_owned()]).or_else(by_source);
        let mut named = named.unwrap_or_default();
        let members: Vec<String> = named.iter().flat_map(|disk| disks.members(disk)).collect();
        named.extend(members);
        named.sort();
        named.dedup();
        named
    }
}
