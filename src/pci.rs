// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names and numbers of PCI functions, each printed exactly as sysfs prints it.

use core::fmt::{self, Write};

use heapless::Vec;

use crate::path::MAX_PATH;
use crate::text::{hex_digits, number, write_hex};

/// The highest device number on a bus (`PCI_SLOT` in `include/uapi/linux/pci.h`).
pub const MAX_DEVICE: u8 = 0x1f;
/// The highest function number of a device (`PCI_FUNC` in `include/uapi/linux/pci.h`).
pub const MAX_FUNCTION: u8 = 7;

/// The address of one PCI function, printed as sysfs names it: `0000:03:00.0`.
///
/// Domain 0 to ffffffff (Intel VMD uses 5 digits), bus 0 to ff, device 0 to 1f, function 0 to 7
/// (`pci_setup_device` in `drivers/pci/probe.c`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(u64);

impl Address {
    /// The function at these numbers; `None` when the device is above 1f or the function above 7.
    pub const fn new(domain: u32, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > MAX_DEVICE || function > MAX_FUNCTION {
            return None;
        }
        let [d3, d2, d1, d0] = domain.to_be_bytes();
        Some(Self(u64::from_be_bytes([0, 0, d3, d2, d1, d0, bus, device << 3 | function])))
    }

    /// Reads the name of a directory in `/sys/bus/pci/devices`, letters in either case; `None` for any
    /// other text.
    pub fn from_sysfs(name: &[u8]) -> Option<Self> {
        let &[ref domain @ .., b':', b1, b0, b':', d1, d0, b'.', f0] = name else { return None };
        // Four digits, or more where four are too few.
        if domain.len() < 4 || (domain.len() > 4 && domain.starts_with(b"0")) {
            return None;
        }
        let numbers = number::<16>(&[b1, b0, d1, d0, f0], 5)?;
        let [_, bus, device, function] = (numbers >> 4 << 8 | numbers & 0xf).to_be_bytes();
        Self::new(number::<16>(domain, 8)?, bus, device, function)
    }

    /// Domain, the PCI segment: 0 to ffffffff.
    pub const fn domain(self) -> u32 {
        let [_, _, d3, d2, d1, d0, ..] = self.0.to_be_bytes();
        u32::from_be_bytes([d3, d2, d1, d0])
    }

    /// Bus: 0 to ff.
    pub const fn bus(self) -> u8 {
        let [.., bus, _] = self.0.to_be_bytes();
        bus
    }

    /// Device and function as the kernel has them in one byte (`PCI_DEVFN` in `include/uapi/linux/pci.h`).
    const fn devfn(self) -> u8 {
        let [.., devfn] = self.0.to_be_bytes();
        devfn
    }

    /// Device on the bus: 0 to 1f.
    pub const fn device(self) -> u8 {
        self.devfn() >> 3
    }

    /// Function of the device: 0 to 7.
    pub const fn function(self) -> u8 {
        self.devfn() & MAX_FUNCTION
    }

    /// The function of this number, 0 to 7, in the same slot.
    pub const fn sibling(self, function: u8) -> Self {
        Self(self.0 & !(MAX_FUNCTION as u64) | (function & MAX_FUNCTION) as u64)
    }

    /// Whether both are functions of one slot: same domain, bus and device.
    pub const fn same_slot(self, other: Self) -> bool {
        self.0 >> 3 == other.0 >> 3
    }

    /// The name that sysfs has for it, such as `0000:03:00.0`, with room for the rest of a path. The domain may have up
    /// to 8 digits.
    pub fn name(self) -> Vec<u8, MAX_PATH> {
        let numbers = u32::from_be_bytes([self.bus(), self.device(), self.function(), 0]);
        // Two digits each. The two of the bus, the two of the device and the last of the function fill the gaps of
        // `between`.
        let digits = u64::from_be_bytes(hex_digits(numbers));
        let between = u64::from_be_bytes(*b":\0\0:\0\0.\0");
        let place = digits >> 8 & 0x00ff_ff00_0000_0000 | digits >> 16 & 0xffff_00ff | between;
        let domain = match self.domain() {
            // Nearly every domain is 0.
            0 => *b"00000000",
            domain => hex_digits(domain),
        };
        // The domain has at least four digits.
        let zeros = (self.domain().leading_zeros() / 4).min(4);
        let text =
            (u128::from(u64::from_be_bytes(domain)) << 64 | u128::from(place)) << (zeros * 8);
        let mut name = Vec::from_array(text.to_be_bytes());
        name.truncate(16 - zeros as usize);
        name
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().iter().try_for_each(|&byte| f.write_char(char::from(byte)))
    }
}

/// Vendor and device ID, each 0 to ffff, printed as `lspci -nn` prints them: `10de:2204`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Id {
    /// Vendor ID, or subsystem vendor ID.
    pub vendor: u16,
    /// Device ID, or subsystem device ID.
    pub device: u16,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, self.vendor.into(), 4)?;
        f.write_str(":")?;
        write_hex(f, self.device.into(), 4)
    }
}

/// The 24-bit class code, base class first: `030000` is a VGA controller
/// (`include/linux/pci_ids.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Class(u32);

impl Class {
    /// The class with this code, 0 to ffffff; `None` above.
    pub const fn new(code: u32) -> Option<Self> {
        if code > 0x00ff_ffff { None } else { Some(Self(code)) }
    }

    /// The class code, 0 to ffffff.
    pub const fn code(self) -> u32 {
        self.0
    }

    /// A host, PCI, `CardBus` or PCI-to-PCI (semi-transparent) bridge: no driver for passthrough can take these, and
    /// the devices behind a bridge are lost with it.
    pub const fn is_bridge(self) -> bool {
        matches!(self.0 >> 8, 0x0600 | 0x0604 | 0x0607 | 0x0609)
    }

    /// A VGA controller: the only class for which sysfs has `boot_vga`.
    pub const fn is_vga(self) -> bool {
        self.0 >> 8 == 0x0300
    }

    /// Any display controller.
    pub const fn is_display(self) -> bool {
        self.0 >> 16 == 0x03
    }

    /// Any mass-storage controller.
    pub const fn is_storage(self) -> bool {
        self.0 >> 16 == 0x01
    }

    /// Any network controller.
    pub const fn is_network(self) -> bool {
        self.0 >> 16 == 0x02
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, self.0, 6)
    }
}

/// What is known of one function from its attributes in sysfs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: Address,
    /// Vendor and device ID.
    pub id: Id,
    /// Subsystem vendor and device ID; zero for bridges and old devices.
    pub subsystem: Id,
    /// Class code.
    pub class: Class,
    /// Number of its IOMMU group; `None` without an IOMMU, or where the group was not looked up.
    pub group: Option<u32>,
    /// The display of the console: the one that the firmware booted on (`drivers/pci/vgaarb.c`).
    pub boot_vga: bool,
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sysfs_name_of_an_address_is_read_back(
            domain: u32, bus: u8, device in 0..=MAX_DEVICE, function in 0..=MAX_FUNCTION,
        ) {
            let address = Address::new(domain, bus, device, function).unwrap();
            let name = address.to_string();
            prop_assert_eq!(&name, &std::format!("{domain:04x}:{bus:02x}:{device:02x}.{function}"));
            prop_assert_eq!(Address::from_sysfs(name.as_bytes()), Some(address));
        }

        #[test]
        fn only_the_canonical_name_is_an_address(
            name in "[0-9a-f:. ]{0,14}|[0-9a-f]{3,9}:[0-9a-f]{1,3}:[0-9a-f]{1,3}[.:][0-9a-f]{1,2}",
        ) {
            if let Some(address) = Address::from_sysfs(name.as_bytes()) {
                prop_assert_eq!(address.to_string(), name);
            }
        }
    }

    #[test]
    fn port_services_are_not_functions() {
        assert_eq!(Address::from_sysfs(b"0000:00:1c.0:pcie001"), None);
        assert_eq!(Address::from_sysfs(b"0000:00:1c.8"), None);
        assert_eq!(Address::from_sysfs(b"0000:00:20.0"), None);
        assert_eq!(Address::from_sysfs(b"pci0000:00"), None);
    }

    #[test]
    fn bridges_are_four_subclasses() {
        let bridges: std::vec::Vec<u32> = (0..=0xffff)
            .filter(|subclass| Class::new(subclass << 8).unwrap().is_bridge())
            .collect();
        assert_eq!(bridges, [0x0600, 0x0604, 0x0607, 0x0609]);
    }
}
