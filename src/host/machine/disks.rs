// SPDX-License-Identifier: MIT OR Apache-2.0
//! The block devices of a machine, and what each stands on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use vfio_override::pci::Address;

use crate::machine::{addresses_in, inside};

/// One block device.
struct Disk {
    /// Where it really is.
    place: PathBuf,
    /// Its number, as `MAJOR:MINOR`.
    number: String,
    /// What a mapping is called in /dev/mapper.
    mapping: Option<String>,
    /// The block devices right below it.
    slaves: Vec<String>,
}

/// All block devices of a sysfs, each looked at once.
pub struct Disks {
    sysfs: PathBuf,
    all: BTreeMap<String, Disk>,
    /// Which ones stand right on each.
    holders: BTreeMap<String, BTreeSet<String>>,
}

impl Disks {
    pub fn of(sysfs: &Path) -> Self {
        let mut disks =
            Self { sysfs: sysfs.to_owned(), all: BTreeMap::new(), holders: BTreeMap::new() };
        for name in names(&sysfs.join("class/block")) {
            let class = Path::new("class/block").join(&name);
            let Some(place) = inside::resolve(sysfs, &class) else { continue };
            let text = |attribute: &str| {
                inside::read(sysfs, class.join(attribute)).map(|text| text.trim().to_owned())
            };
            // A partition of an array has its slaves one level up.
            let above = place.parent().map(Path::to_owned).unwrap_or_default();
            let slaves = [place.join("slaves"), above.join("slaves")];
            let slaves: Vec<String> = slaves.iter().flat_map(|slaves| names(slaves)).collect();
            for slave in &slaves {
                disks.holders.entry(slave.clone()).or_default().insert(name.clone());
            }
            for holder in names(&place.join("holders")) {
                disks.holders.entry(name.clone()).or_default().insert(holder);
            }
            let disk = Disk {
                number: text("dev").unwrap_or_default(),
                mapping: text("dm/name"),
                place,
                slaves,
            };
            disks.all.insert(name, disk);
        }
        disks
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.keys().map(String::as_str)
    }

    /// The block device of this number.
    pub fn numbered(&self, number: &str) -> Option<&str> {
        self.find(|disk| disk.number == number)
    }

    /// The number of a block device.
    pub fn number(&self, name: &str) -> Option<&str> {
        self.all.get(name).map(|disk| disk.number.as_str())
    }

    /// The block device that has this name in /dev.
    pub fn named(&self, name: &str) -> Option<&str> {
        match name.strip_prefix("mapper/") {
            Some(mapping) => self.find(|disk| disk.mapping.as_deref() == Some(mapping)),
            None => self.all.get_key_value(name).map(|(name, _)| name.as_str()),
        }
    }

    fn find(&self, is_it: impl Fn(&Disk) -> bool) -> Option<&str> {
        self.all.iter().find(|(_, disk)| is_it(disk)).map(|(name, _)| name.as_str())
    }

    /// The block devices right above one: mappings, arrays, caches.
    pub fn holders(&self, name: &str) -> impl Iterator<Item = &str> {
        self.holders.get(name).into_iter().flatten().map(String::as_str)
    }

    /// Whether one of these is the block device, or stands on it, over however many layers.
    pub fn carries(&self, name: &str, any_of: &BTreeSet<String>) -> bool {
        let (mut seen, mut next) = (BTreeSet::new(), vec![name]);
        while let Some(name) = next.pop() {
            if any_of.contains(name) {
                return true;
            }
            if seen.insert(name) {
                next.extend(self.holders(name));
            }
        }
        false
    }

    /// The functions whose directories a block device is in.
    pub fn functions(&self, name: &str) -> Vec<Address> {
        self.all.get(name).map(|disk| addresses_in(&disk.place)).unwrap_or_default()
    }

    /// The other members of the file system that is on a block device (`/sys/fs/btrfs/UUID/devices`).
    pub fn members(&self, name: &str) -> Vec<String> {
        let systems = self.sysfs.join("fs/btrfs");
        let of_system = |system: String| names(&systems.join(system).join("devices"));
        let mut members = names(&systems).into_iter().map(of_system);
        members.find(|members| members.iter().any(|member| member == name)).unwrap_or_default()
    }

    /// Adds the functions that a block device stands on, through mappings, arrays and partitions, and those
    /// that they are behind. Returns whether these are all.
    pub fn trace(&self, name: &str, functions: &mut BTreeSet<Address>) -> bool {
        /// They are in memory, elsewhere, or in a file whose own file system is mounted too.
        const ON_NO_DISK: [&str; 4] = ["loop", "nbd", "ram", "zram"];
        let (mut is_all, mut seen, mut next) = (true, BTreeSet::new(), vec![name]);
        while let Some(name) = next.pop() {
            if !seen.insert(name) {
                continue;
            }
            let Some(disk) = self.all.get(name) else {
                is_all = false;
                continue;
            };
            let way = addresses_in(&disk.place);
            let is_virtual = disk.place.to_string_lossy().contains("/devices/virtual/");
            if !way.is_empty() {
                functions.extend(way);
            } else if is_virtual && !ON_NO_DISK.iter().any(|start| name.starts_with(start)) {
                let controllers = self.controllers_beside(&disk.place);
                is_all &= !disk.slaves.is_empty() || !controllers.is_empty();
                next.extend(disk.slaves.iter().map(String::as_str));
                functions.extend(controllers.iter().flat_map(|link| self.way_to(link)));
            }
        }
        is_all
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
        inside::resolve(&self.sysfs, link).map(|place| addresses_in(&place)).unwrap_or_default()
    }
}

/// The names in a directory, in order; none where there is no such directory.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
