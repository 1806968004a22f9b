// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes along with functions that are to be passed through, and what stays with the host.

use std::collections::BTreeSet;

use serde::Serialize;
use vfio_override::pci::Address;

use crate::machine::functions::{Device, Devices};
use crate::machine::usage::Usage;
use crate::systems::advice;

/// A function that was asked for, or stands beside one.
#[derive(Serialize)]
pub struct Choice {
    #[serde(flatten)]
    pub device: Device,
    pub taken: bool,
    pub reason: String,
}

/// Why a bridge is left.
pub const BRIDGE_STAYS: &str = "a bridge stays with the host";

/// What decides whether a neighbour goes along.
pub struct Beside<'a> {
    pub devices: &'a Devices,
    pub usage: &'a Usage,
    /// What is asked for.
    pub wanted: &'a [&'a Device],
}

impl Beside<'_> {
    /// What is taken, and what stands beside it and is left, each with the reason.
    pub fn choose(&self) -> Vec<Choice> {
        let mut choices = Vec::new();
        for device in &self.devices.all {
            let is_wanted = |wanted: &&Device| wanted.function.address == device.function.address;
            let (taken, reason) = if self.wanted.iter().any(is_wanted) {
                (true, "asked for".to_owned())
            } else if let Some(wanted) = self.next_to(device) {
                self.companion(device, wanted)
            } else {
                continue;
            };
            choices.push(Choice { device: device.clone(), taken, reason });
        }
        choices
    }

    /// The wanted function that this one stands beside: in its slot, in its group, or on its card.
    fn next_to(&self, device: &Device) -> Option<&Device> {
        let stands_beside = |wanted: &&&Device| {
            device.function.address.same_slot(wanted.function.address)
                || device.shares_group(wanted)
                || wanted.physical_function == Some(device.function.address)
                || self.is_sound_of(device, wanted)
        };
        self.wanted.iter().find(stands_beside).copied()
    }

    /// What comes and goes with a function that is wanted, and is nobody's to keep.
    pub fn goes_along(&self, device: &Device) -> Option<String> {
        let maker = |wanted: &&&Device| {
            let address = wanted.function.address;
            wanted.is_endpoint()
                && (device.is_behind(address) || device.physical_function == Some(address))
        };
        let wanted = self.wanted.iter().find(maker)?;
        let address = wanted.function.address;
        Some(if device.physical_function == Some(address) {
            format!("a virtual function of {address}, and goes with it")
        } else {
            format!("behind {address}, and goes with it")
        })
    }

    /// Why an endpoint has to stay with the host, if it has to.
    pub fn obstacle(&self, device: &Device) -> Option<String> {
        let known = |reason: &str| Some(reason.to_owned());
        let function = &device.function;
        if self.wanted.iter().any(|wanted| wanted.is_behind(function.address)) {
            return known("the controller that it is behind");
        }
        if self.wanted.iter().any(|wanted| wanted.physical_function == Some(function.address)) {
            return known("its driver makes the virtual functions");
        }
        if device.is_thunderbolt() {
            return known("a Thunderbolt controller makes the way to what is behind it");
        }
        match self.usage.of_function(function) {
            None if function.class.is_storage() => {
                return known("the host may have its disks in use");
            }
            None if function.class.is_network() => {
                return known("the host may have its links in use");
            }
            None | Some([]) => {}
            Some(uses) => return Some(format!("the host needs it: {}", advice::join(uses))),
        }
        function.boot_vga.then(|| "the boot display".to_owned())
    }

    /// Whether a function goes with one that is asked for and stands beside it, and why.
    fn companion(&self, device: &Device, wanted: &Device) -> (bool, String) {
        if !device.is_endpoint() {
            return (false, BRIDGE_STAYS.to_owned());
        }
        if let Some(reason) = self.goes_along(device) {
            return (false, reason);
        }
        if !device.shares_group(wanted) && device.physical_function.is_some() {
            return (false, "a virtual function of its own".to_owned());
        }
        let same_slot = device.function.address.same_slot(wanted.function.address);
        let group = device.group_text();
        if device.shares_group(wanted) {
            return if let Some(obstacle) = self.obstacle(device) {
                (false, obstacle)
            } else if same_slot {
                (true, "same slot and group".to_owned())
            } else if self.stays_in_part(wanted) {
                (false, format!("the host needs others of group {group}"))
            } else {
                (true, format!("group {group} goes as a whole"))
            };
        }
        // It has no part in this, so that only what is known of it is worth a word.
        let is_known = self.usage.of_function(&device.function).is_some();
        if let Some(obstacle) = self.obstacle(device).filter(|_| is_known) {
            return (false, obstacle);
        }
        if wanted.physical_function.is_some() {
            return (false, "a virtual function goes alone".to_owned());
        }
        let is_part = wanted.is_offered()
            && (same_slot && is_of_card(device, wanted) || self.is_sound_of(device, wanted));
        if is_part && self.is_alone(device) && self.obstacle(device).is_none() {
            return (true, "part of the same card".to_owned());
        }
        match device.group {
            Some(group) => (false, format!("group {group} of its own")),
            None => (false, "what shares its group is not known".to_owned()),
        }
    }

    /// The sound of a card that has a `PCIe` switch of its own, as Intel's Arc: behind the switch's other port.
    fn is_sound_of(&self, device: &Device, wanted: &Device) -> bool {
        const AUDIO: u32 = 0x04_03;
        let is_card = wanted.is_offered() && wanted.physical_function.is_none();
        if !is_card || !device.has_class(AUDIO) || !is_of_card(device, wanted) {
            return false;
        }
        // Below a port of the host's: the switch's upstream port, and the downstream port of each.
        let ([_, .., switch, _], [_, .., same_switch, _]) = (&wanted.above[..], &device.above[..])
        else {
            return false;
        };
        let is_own = |switch: &Device| switch.function.id.vendor == wanted.function.id.vendor;
        switch == same_switch && self.devices.get(*switch).is_some_and(is_own)
    }

    /// Whether no other endpoint is in its group, as far as there are groups.
    fn is_alone(&self, device: &Device) -> bool {
        let address = device.function.address;
        let mut others = self.devices.all.iter().filter(|other| {
            other.function.address != address && other.is_endpoint() && other.shares_group(device)
        });
        others.all(|other| is_of_card(other, device))
    }

    /// Whether some endpoint of the function's group has to stay, so that taking the others is in vain.
    fn stays_in_part(&self, wanted: &Device) -> bool {
        self.staying(wanted).next().is_some()
    }

    /// The other endpoints of the function's group that have to stay, each with the reason.
    pub fn staying(&self, wanted: &Device) -> impl Iterator<Item = (&Device, String)> {
        let asked: BTreeSet<Address> =
            self.wanted.iter().map(|device| device.function.address).collect();
        let others = self.devices.all.iter().filter(move |device| {
            device.shares_group(wanted)
                && device.is_endpoint()
                && !asked.contains(&device.function.address)
        });
        others
            .filter(|device| self.goes_along(device).is_none())
            .filter_map(|device| Some((device, self.obstacle(device)?)))
    }
}

/// Whether a function can be part of the same card: of the same maker, as the audio of every display is, and no
/// security processor. A processor's graphics share their slot with its USB controllers and its firmware's TPM,
/// which are another vendor's. On the root bus, the functions of a slot share no more than a number.
fn is_of_card(device: &Device, wanted: &Device) -> bool {
    /// Base class 10, subclass 80: what encrypts and decrypts, other than for network and entertainment.
    const SECURITY: u32 = 0x10_80;
    device.function.id.vendor == wanted.function.id.vendor
        && device.parent().is_some()
        && !device.has_class(SECURITY)
}
