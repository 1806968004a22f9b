// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one builder of directories that are like /sys: functions below their bridges, links where the
//! kernel has links, attributes that say what a function is.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A function to be added.
#[derive(Clone, Copy)]
pub struct Function<'a> {
    pub address: &'a str,
    /// The bridge behind which it is; it is added before.
    pub parent: Option<&'a str>,
    /// Six digits.
    pub class: &'a str,
    pub id: &'a str,
    pub subsystem: &'a str,
    pub group: Option<u32>,
    pub driver: Option<&'a str>,
    pub kept_for: Option<&'a str>,
    pub boot_display: bool,
}

/// A graphics card that nobody has, in no group.
pub const CARD: Function<'static> = Function {
    address: "0000:01:00.0",
    parent: None,
    class: "030000",
    id: "10de:2204",
    subsystem: "1043:87b8",
    group: None,
    driver: None,
    kept_for: None,
    boot_display: false,
};

/// A directory like /sys.
pub struct Sysfs<'a>(pub &'a Path);

impl Sysfs<'_> {
    /// Makes a PCI bus with nothing on it.
    pub fn make(&self) {
        for directory in ["bus/pci/devices", "bus/pci/drivers", "devices"] {
            fs::create_dir_all(self.0.join(directory)).unwrap();
        }
        fs::write(self.0.join("bus/pci/drivers_probe"), "").unwrap();
    }

    /// Where a function's attributes are.
    pub fn function(&self, address: &str) -> PathBuf {
        self.0.join("bus/pci/devices").join(address)
    }

    pub fn add(&self, function: &Function<'_>) {
        let Function { address, class, id, subsystem, .. } = *function;
        let place = match function.parent {
            Some(parent) if domain(parent) == domain(address) => self.place(parent).join(address),
            // A device that makes a domain of its own has a root bus below it.
            Some(parent) => self.place(parent).join(root_bus(address)).join(address),
            None => Path::new("devices").join(root_bus(address)).join(address),
        };
        let directory = self.0.join(&place);
        fs::create_dir_all(&directory).unwrap();
        fs::create_dir_all(self.0.join("bus/pci/devices")).unwrap();
        symlink(Path::new("../../..").join(&place), self.function(address)).unwrap();
        fs::write(directory.join("modalias"), modalias(class, id, subsystem)).unwrap();
        let kept_for = function.kept_for.unwrap_or("(null)");
        fs::write(directory.join("driver_override"), format!("{kept_for}\n")).unwrap();
        if function.class.starts_with("0300") {
            let boot = format!("{}\n", u8::from(function.boot_display));
            fs::write(directory.join("boot_vga"), boot).unwrap();
        }
        if let Some(group) = function.group {
            let members = format!("kernel/iommu_groups/{group}/devices");
            fs::create_dir_all(self.0.join(&members)).unwrap();
            let up = up_from(&place);
            symlink(up.join(format!("kernel/iommu_groups/{group}")), directory.join("iommu_group"))
                .unwrap();
            let member = self.0.join(members).join(address);
            symlink(Path::new("../../../..").join(&place), member).unwrap();
        }
        if let Some(driver) = function.driver {
            self.bind(address, driver);
        }
    }

    pub fn add_driver(&self, driver: &str) {
        let directory = self.0.join("bus/pci/drivers").join(driver);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("unbind"), "").unwrap();
    }

    pub fn bind(&self, address: &str, driver: &str) {
        self.add_driver(driver);
        let directory = self.function(address);
        let target = up_from(&self.place(address)).join("bus/pci/drivers").join(driver);
        symlink(target, directory.join("driver")).unwrap();
    }

    /// Where a function is, relative to the root.
    pub fn place(&self, address: &str) -> PathBuf {
        let link = fs::read_link(self.function(address)).unwrap();
        link.strip_prefix("../../..").unwrap().to_owned()
    }
}

/// What the kernel says that a function is (`modalias_show` in `drivers/pci/pci-sysfs.c`).
fn modalias(class: &str, id: &str, subsystem: &str) -> String {
    let (vendor, device) = id.split_once(':').unwrap();
    let (subvendor, subdevice) = subsystem.split_once(':').unwrap();
    let eight = |digits: &str| format!("{digits:0>8}").to_uppercase();
    format!(
        "pci:v{}d{}sv{}sd{}bc{}sc{}i{}\n",
        eight(vendor),
        eight(device),
        eight(subvendor),
        eight(subdevice),
        class[..2].to_uppercase(),
        class[2..4].to_uppercase(),
        class[4..].to_uppercase(),
    )
}

/// The way from a directory, relative to the root, up to it.
pub fn up_from(place: &Path) -> PathBuf {
    place.components().map(|_| "..").collect()
}

fn domain(address: &str) -> &str {
    address.split_once(':').unwrap().0
}

/// The directory of the root bus on which a function is.
fn root_bus(address: &str) -> String {
    format!("pci{}", address.rsplit_once(':').unwrap().0)
}
