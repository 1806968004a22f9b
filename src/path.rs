// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paths below the sysfs root.

use core::ffi::CStr;
use core::fmt::{self, Write};

use heapless::Vec;

use crate::pci::Address;
use crate::rule::VFIO_PCI;
use crate::text::{Decimal, Escaped};

/// A path, stored as its parts: small enough to be stored with every problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// The directory with an entry for each function.
    Devices,
    /// The directory of a function.
    Device(Address),
    /// An attribute of a function.
    Attribute(Address, Attribute),
    /// The file to which the name of a function is written that is to be offered to the drivers.
    DriversProbe,
    /// The directory with an entry for each IOMMU group.
    Groups,
    /// The directory with an entry for each IOMMU that the kernel uses.
    Iommus,
    /// The directory with an entry for each function of the IOMMU group of this number.
    GroupDevices(u32),
    /// The directory with an entry for each function that vfio-pci has.
    VfioPci,
}

/// The attributes of a function that are used, including its links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// All IDs and the class.
    Modalias,
    /// The same of the bridge above.
    BridgeModalias,
    /// Of a VGA controller: whether the firmware booted on it.
    BootVga,
    /// The link to the IOMMU group.
    IommuGroup,
    /// The name of the only driver that may have the function.
    DriverOverride,
    /// The link to the driver that has the function.
    Driver,
    /// The file to which the name of the function is written to take it away from its driver.
    DriverUnbind,
}

impl Attribute {
    /// What follows the function's directory in the path.
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Modalias => b"/modalias",
            Self::BridgeModalias => b"/../modalias",
            Self::BootVga => b"/boot_vga",
            Self::IommuGroup => b"/iommu_group",
            Self::DriverOverride => b"/driver_override",
            Self::Driver => b"/driver",
            Self::DriverUnbind => b"/driver/unbind",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(self.text().as_c_str().to_bytes()).fmt(f)
    }
}

/// What comes before a function's name.
const DEVICES: &[u8] = b"bus/pci/devices/";
/// What comes before a driver's name.
const DRIVERS: &[u8] = b"bus/pci/drivers/";

/// The most bytes of a path, including its final NUL: more than any below the sysfs root has.
pub const MAX_PATH: usize = 256;

impl Path {
    /// The path as system calls take it.
    pub fn text(self) -> PathText {
        match self {
            Self::Devices => PathText::of(&[b"bus/pci/devices"]),
            Self::Device(address) => PathText::of(&[DEVICES, &address.name()]),
            Self::Attribute(address, attribute) => {
                PathText::of(&[DEVICES, &address.name(), attribute.name()])
            }
            Self::DriversProbe => PathText::of(&[b"bus/pci/drivers_probe"]),
            Self::Groups => PathText::of(&[b"kernel/iommu_groups"]),
            Self::Iommus => PathText::of(&[b"class/iommu"]),
            Self::GroupDevices(number) => {
                let mut digits = Vec::<u8, 10>::new();
                let _ = write!(digits, "{}", Decimal(number));
                PathText::of(&[b"kernel/iommu_groups/", &digits, b"/devices"])
            }
            Self::VfioPci => PathText::of(&[DRIVERS, VFIO_PCI]),
        }
    }
}

/// A path as system calls take it: with a NUL at its end, and room for the longest.
pub struct PathText(Vec<u8, MAX_PATH>);

impl PathText {
    /// The path that is made of these parts, which must fit.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut text = Self(Vec::new());
        text.end(parts);
        text
    }

    /// Adds the rest of the path, and the NUL.
    #[inline(never)]
    fn end(&mut self, parts: &[&[u8]]) {
        let added = parts.iter().try_for_each(|part| self.0.extend_from_slice(part));
        debug_assert!(added.is_ok() && !self.0.is_full());
        let _ = self.0.push(0);
    }

    /// The path of a function's attribute, relative to the directory that holds all functions of its bus.
    pub fn below_bus(address: Address, attribute: Attribute) -> Self {
        let mut text = Self(address.name());
        text.end(&[attribute.name()]);
        text
    }

    /// The directory of the driver of this name.
    pub fn of_driver(name: &[u8]) -> Self {
        Self::of(&[DRIVERS, name])
    }

    /// The directory with a link for each driver of this module, such as `pci:vfio-pci` (`module_add_driver` in
    /// `drivers/base/module.c`). The kernel writes `_` for each `-` in a module's name (`KBUILD_MODNAME`), and so does
    /// this.
    pub fn of_module_drivers(name: &[u8]) -> Self {
        let mut text = Self::of(&[b"module/", name, b"/drivers"]);
        text.0.iter_mut().filter(|byte| **byte == b'-').for_each(|byte| *byte = b'_');
        text
    }

    /// The directory that holds the function's own, all links followed.
    pub fn around(address: Address) -> Self {
        Self::of(&[DEVICES, &address.name(), b"/.."])
    }

    /// The path for a system call.
    #[inline(never)]
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;
    use crate::rule::MAX_DRIVER;

    #[test]
    fn every_path_fits() {
        let address = Address::new(u32::MAX, 0xff, 0x1f, 7).unwrap();
        let longest = Path::Attribute(address, Attribute::DriverOverride);
        assert_eq!(longest.to_string(), "bus/pci/devices/ffffffff:ff:1f.7/driver_override");
        let group = Path::GroupDevices(u32::MAX);
        assert_eq!(group.to_string(), "kernel/iommu_groups/4294967295/devices");
        let driver = PathText::of_driver(&[b'x'; MAX_DRIVER]);
        assert_eq!(driver.as_c_str().to_bytes().len(), DRIVERS.len() + MAX_DRIVER);
        let module = PathText::of_module_drivers(&[b'x'; MAX_DRIVER]);
        assert!(module.as_c_str().to_bytes().ends_with(b"x/drivers"));
    }

    #[test]
    fn a_module_has_no_dash_in_its_name() {
        let drivers = PathText::of_module_drivers(b"xe-vfio-pci");
        assert_eq!(drivers.as_c_str(), c"module/xe_vfio_pci/drivers");
    }

    #[test]
    fn a_functions_path_ends_with_its_name() {
        let address = Address::new(0, 1, 2, 3).unwrap();
        let below_bus = PathText::below_bus(address, Attribute::Driver);
        assert_eq!(below_bus.as_c_str(), c"0000:01:02.3/driver");
        let attribute = Path::Attribute(address, Attribute::Driver);
        assert!(attribute.to_string().ends_with("/0000:01:02.3/driver"));
    }
}
