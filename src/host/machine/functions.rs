// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every function of a machine, as all commands show it.

use std::path::PathBuf;

use serde::{Serialize, Serializer};
use vfio_override::apply::DriverName;
use vfio_override::pci::{Address, Function};
use vfio_override::plan::Plan;
use vfio_override::ruleset::RuleSet;
use vfio_override::survey;
use vfio_override::system::View;
use vfio_override::warnings;

use crate::machine::Machine;
use crate::machine::{binding, vfio_users};

/// One function, as it is now.
#[derive(Clone, Serialize)]
pub struct Device {
    pub address: String,
    pub id: String,
    pub subsystem: String,
    pub class: String,
    pub class_name: String,
    pub name: Option<String>,
    pub group: Option<u32>,
    pub driver: Option<String>,
    #[serde(rename = "override")]
    pub kept_for: Option<String>,
    /// By which a process can use it through iommufd, while a VFIO driver has it.
    #[serde(rename = "character_device")]
    pub vfio_node: Option<PathBuf>,
    pub boot_display: bool,
    pub framebuffer: bool,
    /// The physical function of a virtual one (SR-IOV).
    #[serde(serialize_with = "as_text")]
    pub physical_function: Option<Address>,
    #[serde(skip)]
    pub function: Function,
    /// The functions on the way to it, from the root bus down, without itself.
    #[serde(skip)]
    pub above: Vec<Address>,
}

#[expect(clippy::ref_option, reason = "serde hands it over like this")]
fn as_text<S: Serializer>(address: &Option<Address>, to: S) -> Result<S::Ok, S::Error> {
    match address {
        Some(address) => to.collect_str(address),
        None => to.serialize_none(),
    }
}

impl Device {
    pub fn new(machine: &mut Machine, function: &Function, framebuffer: bool) -> Self {
        let mut above = machine.way_to(function.address);
        above.pop();
        let physical_function = machine.physical_of(function.address);
        let Machine { tree: system, names, sysfs, .. } = machine;
        let text = |name: DriverName| name.escape_ascii().to_string();
        let address = function.address;
        Self {
            address: address.to_string(),
            id: function.id.to_string(),
            subsystem: function.subsystem.to_string(),
            class: function.class.to_string(),
            class_name: names.class(function.class),
            name: names.device(function),
            group: function.group,
            driver: binding::driver_of(system, address).ok().flatten().map(text),
            kept_for: binding::override_of(system, address).ok().flatten().map(text),
            vfio_node: vfio_users::node_of(&sysfs.join(format!("bus/pci/devices/{address}"))),
            boot_display: function.boot_vga,
            framebuffer,
            physical_function,
            function: *function,
            above,
        }
    }

    /// The bridge, or other function, right above it.
    pub fn parent(&self) -> Option<Address> {
        self.above.last().copied()
    }

    pub fn is_behind(&self, address: Address) -> bool {
        self.above.contains(&address)
    }

    /// Whether both are in the same IOMMU group; those in none share none.
    pub fn shares_group(&self, other: &Self) -> bool {
        self.group.is_some() && self.group == other.group
    }

    pub fn is_endpoint(&self) -> bool {
        !self.function.class.is_bridge()
    }

    /// What a person calls a device to be passed through: a display, or an accelerator (class 12).
    pub fn is_offered(&self) -> bool {
        self.function.class.is_display() || self.has_class(0x12_00)
    }

    /// Whether base class and subclass are these.
    pub fn has_class(&self, class: u32) -> bool {
        self.function.class.code() >> 8 == class
    }

    /// A Thunderbolt controller, or a USB4 one (class 0c0340, PCI Code and ID Assignment Specification, 1.13).
    pub fn is_thunderbolt(&self) -> bool {
        self.function.class.code() == 0x0c_03_40 || self.driver.as_deref() == Some("thunderbolt")
    }

    /// Class and name, as lspci puts them together.
    pub fn title(&self) -> String {
        let mark = if self.boot_display { "(boot) " } else { "" };
        match &self.name {
            Some(name) => format!("{mark}{}: {name}", self.class_name),
            None => format!("{mark}{}", self.class_name),
        }
    }

    pub fn group_text(&self) -> String {
        self.group.map_or_else(|| "-".to_owned(), |group| group.to_string())
    }
}

/// All functions, by address.
pub struct Devices {
    pub all: Vec<Device>,
    /// What could not be looked at.
    pub troubles: Vec<String>,
}

impl Devices {
    pub fn of(machine: &mut Machine) -> Self {
        if !machine.has_pci() {
            return Self { all: Vec::new(), troubles: Vec::new() };
        }
        // The rule that matches all is the way to make the early binary's own survey look at all.
        let mut rules = RuleSet::new();
        rules.add_value(b"*:*");
        let mut plan = Box::<Plan>::default();
        let mut view = View::of(&mut machine.tree);
        survey::survey(&mut view, &rules, &mut plan);
        warnings::surroundings(&mut view, &mut plan, |_| true);
        let steps = plan.steps.iter();
        let all = steps
            .map(|step| {
                Device::new(
                    machine,
                    &step.function,
                    plan.framebuffer == Some(step.function.address),
                )
            })
            .collect();
        let troubles = plan.problems().map(|problem| problem.to_string()).collect();
        Self { all, troubles }
    }

    pub fn get(&self, address: Address) -> Option<&Device> {
        let at = self.all.binary_search_by_key(&address, |device| device.function.address);
        self.all.get(at.ok()?)
    }

    /// How addresses are written here: as lspci does, without the domain where there is but one.
    pub fn style(&self) -> AddressStyle {
        AddressStyle { short: self.all.iter().all(|device| device.function.address.domain() == 0) }
    }

    /// Whether the console is on this display: the one whose memory the firmware's framebuffer holds, else the one that
    /// the kernel takes for it.
    pub fn has_console(&self, display: &Device) -> bool {
        let is_known = self.all.iter().any(|device| device.framebuffer);
        if is_known { display.framebuffer } else { display.boot_display }
    }

    pub fn has_groups(&self) -> bool {
        self.all.iter().any(|device| device.group.is_some())
    }
}

/// Whether addresses are written with their domain.
#[derive(Clone, Copy)]
pub struct AddressStyle {
    short: bool,
}

impl AddressStyle {
    pub fn text(self, address: Address) -> String {
        let whole = address.to_string();
        match whole.strip_prefix("0000:") {
            Some(rest) if self.short => rest.to_owned(),
            _ => whole,
        }
    }
}
