//! Paths below the sysfs root.

use core::ffi::CStr;
use core::fmt;

use heapless::Vec;

use crate::pci::Address;
use crate::rule::MAX_DRIVER;
use crate::text::{Decimal, Escaped};

/// A path, kept as what it is made of: small enough to remember with every failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "their texts say it")]
pub enum Path {
    Devices,
    Device(Address),
    Attribute(Address, Attribute),
    DriversProbe,
    Groups,
    /// All IOMMUs that are in use.
    Iommus,
    GroupDevices(u32),
}

/// The attributes of a function that are used, its links among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in sysfs")]
pub enum Attribute {
    Modalias,
    BridgeModalias,
    BootVga,
    IommuGroup,
    DriverOverride,
    Driver,
    DriverUnbind,
}

impl Attribute {
    /// What stands behind the function's directory.
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

/// What stands before a function's name.
const DEVICES: &[u8] = b"bus/pci/devices/";
/// What stands before a driver's.
const DRIVERS: &[u8] = b"bus/pci/drivers/";

/// The most bytes of a path, its final NUL among them: that of a driver.
const MAX_PATH: usize = DRIVERS.len() + MAX_DRIVER + 1;

impl Path {
    /// The path as system calls take it.
    #[must_use]
    #[inline(never)]
    pub fn text(self) -> PathText {
        let (start, address, end): (&[u8], _, &[u8]) = match self {
            Self::Devices => (b"bus/pci/devices", None, b""),
            Self::DriversProbe => (b"bus/pci/drivers_probe", None, b""),
            Self::Iommus => (b"class/iommu", None, b""),
            Self::Groups | Self::GroupDevices(_) => (b"kernel/iommu_groups", None, b""),
            Self::Device(address) => (DEVICES, Some(address), b""),
            Self::Attribute(address, attribute) => (DEVICES, Some(address), attribute.name()),
        };
        let mut text = PathText::of(start, address, end);
        if let Self::GroupDevices(number) = self {
            text.add(b"/");
            text.add(&Decimal(number).digits());
            text.add(b"/devices");
        }
        text
    }
}

/// A path as system calls take it: with a NUL at its end, and room for the longest.
#[derive(Default)]
pub struct PathText(Vec<u8, MAX_PATH>);

impl PathText {
    /// The directory of the driver of this name.
    #[must_use]
    pub fn of_driver(name: &[u8]) -> Self {
        Self::of(DRIVERS, None, name)
    }

    /// The directory in which that of the function is, past all links.
    #[must_use]
    pub fn around(address: Address) -> Self {
        Self::of(DEVICES, Some(address), b"/..")
    }

    #[inline(never)]
    fn of(start: &[u8], address: Option<Address>, end: &[u8]) -> Self {
        let mut text = Self::default();
        text.add(start);
        if let Some(address) = address {
            text.add(&address.name());
        }
        text.add(end);
        text
    }

    /// Nothing is added where it does not fit, so that the path is that of nothing.
    fn add(&mut self, part: &[u8]) {
        self.0.pop();
        let added = self.0.extend_from_slice(part).is_ok() && self.0.push(0).is_ok();
        debug_assert!(added);
    }

    /// The path, relative to the sysfs root.
    #[must_use]
    pub fn as_c_str(&self) -> &CStr {
        self.behind(0)
    }

    /// The path of a function or its attribute, relative to the directory in which its bus has all functions.
    /// Other paths have no such end.
    #[must_use]
    pub fn below_bus(&self) -> &CStr {
        self.behind(DEVICES.len())
    }

    #[inline(never)]
    fn behind(&self, start: usize) -> &CStr {
        let bytes = self.0.get(start..).unwrap_or_default();
        CStr::from_bytes_until_nul(bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::borrow::ToOwned;
    use std::string::ToString;

    use super::*;

    #[test]
    fn every_path_fits() {
        let address = Address::new(u32::MAX, 0xff, 0x1f, 7).unwrap();
        let longest = Path::Attribute(address, Attribute::DriverOverride);
        assert_eq!(longest.to_string(), "bus/pci/devices/ffffffff:ff:1f.7/driver_override");
        let group = Path::GroupDevices(u32::MAX);
        assert_eq!(group.to_string(), "kernel/iommu_groups/4294967295/devices");
        let driver = PathText::of_driver(&[b'x'; MAX_DRIVER]);
        assert_eq!(driver.as_c_str().to_bytes().len(), DRIVERS.len() + MAX_DRIVER);
    }

    #[test]
    fn a_functions_path_ends_with_its_name() {
        let address = Address::new(0, 1, 2, 3).unwrap();
        let text = |path: Path| path.text().below_bus().to_owned();
        assert_eq!(text(Path::Device(address)).as_c_str(), c"0000:01:02.3");
        let attribute = Path::Attribute(address, Attribute::Driver);
        assert_eq!(text(attribute).as_c_str(), c"0000:01:02.3/driver");
    }
}
