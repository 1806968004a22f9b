// SPDX-License-Identifier: MIT OR Apache-2.0
//! One rule of `vfio.override=`.

use heapless::Vec;

use crate::pci::{Address, Class, Function, Id, MAX_FUNCTION};

/// The most hops of a path after its first bridge. Six chained Thunderbolt devices make fourteen.
pub const MAX_HOPS: usize = 16;
/// The most bytes of a driver's name in a rule. A module's name has fewer (`MODULE_NAME_LEN` in
/// `include/linux/module.h`).
pub const MAX_DRIVER: usize = 64;

/// One item of the parameter's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement<'a> {
    /// `off`: nothing is touched.
    Off,
    /// `debug`: every decision is logged.
    Debug,
    /// Anything else.
    Rule(Rule<'a>),
}

/// A rule that selects functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule<'a> {
    /// What it matches.
    pub selector: Selector,
    /// The ID that the function found there must have; on an address or a path only.
    pub guard: Option<Id>,
    /// Which neighbours of a match it takes along.
    pub expansion: Option<Expansion>,
    /// What becomes of a match.
    pub action: Action<'a>,
    /// `?`: it is no failure if nothing that it selects is there.
    pub may_be_absent: bool,
}

/// What becomes of the functions that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// `!`: they are left alone.
    Exclude,
    /// They are kept for this driver.
    Take(Driver<'a>),
}

/// The driver that a function is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver<'a> {
    /// The driver of this name: letters, digits and `_-.+`, at most [`MAX_DRIVER`].
    Named(&'a [u8]),
    /// No driver at all. In a rule this is `none`, which is no driver's name.
    Nobody,
    /// The VFIO variant driver for the function, `vfio-pci` where there is none.
    Auto,
}

impl Driver<'_> {
    /// The driver of a rule that takes functions and has no `=`.
    pub const DEFAULT: Self = Self::Named(VFIO_PCI);
}

/// The driver that serves every PCI function (`drivers/vfio/pci/vfio_pci.c`).
pub const VFIO_PCI: &[u8] = b"vfio-pci";
/// What `driver_override` holds for [`Driver::Nobody`].
pub const NOBODY: &[u8] = b"none";

/// Neighbours that a rule takes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expansion {
    /// The other functions of the slot.
    Slot,
    /// The other endpoints of the IOMMU group.
    Group,
}

/// What a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The function, or with `*` the functions, at an address.
    Address {
        /// Domain, 0 to ffffffff.
        domain: u32,
        /// Bus, 0 to ff.
        bus: u8,
        /// Device and function.
        place: Place,
    },
    /// The function behind a chain of bridges, whatever numbers the buses between have (`pci=` in the kernel's
    /// `kernel-parameters.txt`, `<pci_dev>`).
    Path {
        /// The first bridge.
        start: Address,
        /// Device and function on each bus below it.
        hops: Vec<Place, MAX_HOPS>,
    },
    /// The functions with these IDs.
    Ids(Ids),
    /// The functions whose class code begins with these digits.
    Class {
        /// The digits as a number.
        prefix: u32,
        /// How many there are: 2, 4 or 6.
        digits: u8,
    },
    /// The display of the console, which is the one that the firmware booted on.
    BootVga,
}

/// A device and a function on some bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Device, 0 to 1f.
    pub device: u8,
    /// Function, 0 to 7; `None` is any.
    pub function: Option<u8>,
}

impl Place {
    /// Whether the function at `address` is at this place, on whichever bus.
    pub fn holds(self, address: Address) -> bool {
        address.device() == self.device
            && self.function.is_none_or(|function| function == address.function())
    }

    /// The addresses of this place on one bus.
    pub(crate) fn addresses(self, domain: u32, bus: u8) -> impl Iterator<Item = Address> {
        let (first, last) =
            self.function.map_or((0, MAX_FUNCTION), |function| (function, function));
        (first..=last).filter_map(move |function| Address::new(domain, bus, self.device, function))
    }
}

/// IDs as `vfio-pci.ids=` takes them; `None` is any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// Vendor ID.
    pub vendor: Option<u16>,
    /// Device ID.
    pub device: Option<u16>,
    /// Subsystem vendor ID.
    pub subvendor: Option<u16>,
    /// Subsystem device ID.
    pub subdevice: Option<u16>,
    /// Class code.
    pub class: Option<Class>,
    /// The bits of the class that count, 0 to ffffff. It is 0 where the rule has no mask: then the class does not
    /// count.
    pub mask: u32,
}

impl Ids {
    /// Whether the function has these IDs (`pci_match_one_device` in `drivers/pci/pci.h`).
    pub fn match_function(&self, function: &Function) -> bool {
        let is = |wanted: Option<u16>, found| wanted.is_none_or(|wanted| wanted == found);
        is(self.vendor, function.id.vendor)
            && is(self.device, function.id.device)
            && is(self.subvendor, function.subsystem.vendor)
            && is(self.subdevice, function.subsystem.device)
            && self
                .class
                .is_none_or(|class| (function.class.code() ^ class.code()) & self.mask == 0)
    }
}

impl Selector {
    /// The device and the function that it ends with; `None` where it has none.
    pub(crate) fn place(&self) -> Option<&Place> {
        match self {
            Self::Address { place, .. } => Some(place),
            Self::Path { hops, .. } => hops.last(),
            Self::Ids(_) | Self::Class { .. } | Self::BootVga => None,
        }
    }

    /// Whether the selector matches by attributes, so that all functions have to be looked at.
    pub fn needs_scan(&self) -> bool {
        self.place().is_none()
    }
}
