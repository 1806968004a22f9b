//! What goes along with functions that are to be passed through, and what stays with the host.

use std::collections::BTreeSet;

use serde::Serialize;
use vfio_override::pci::Address;

use crate::machine::Machine;
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

/// What is taken, and what stands beside it and is left, each with the reason.
pub fn choose(
    machine: &Machine,
    devices: &Devices,
    usage: &Usage,
    addresses: &[Address],
) -> Vec<Choice> {
    let wanted: BTreeSet<Address> = addresses.iter().copied().collect();
    let controllers: BTreeSet<Address> =
        addresses.iter().flat_map(|address| machine.way_to(*address)).collect();
    let beside = Beside { devices, usage, controllers };
    let mut choices = Vec::new();
    for device in &devices.all {
        let function = &device.function;
        if wanted.contains(&function.address) {
            choices.push(Choice {
                device: device.clone(),
                taken: true,
                reason: "asked for".to_owned(),
            });
            continue;
        }
        let stands_beside = |address: &&Address| {
            devices.get(**address).is_some_and(|wanted| {
                let shares_group = function.group.is_some() && function.group == wanted.group;
                function.address.same_slot(wanted.function.address) || shares_group
            })
        };
        let Some(wanted) =
            wanted.iter().find(stands_beside).and_then(|address| devices.get(*address))
        else {
            continue;
        };
        let (taken, reason) = beside.companion(device, wanted);
        choices.push(Choice { device: device.clone(), taken, reason });
    }
    choices
}

/// What decides whether a neighbour goes along.
struct Beside<'a> {
    devices: &'a Devices,
    usage: &'a Usage,
    /// The functions on the way to what is asked for, itself included.
    controllers: BTreeSet<Address>,
}

impl Beside<'_> {
    /// Why a function has to stay with the host, if it has to.
    fn obstacle(&self, device: &Device) -> Option<String> {
        let function = &device.function;
        if function.class.is_bridge() {
            return Some("a bridge stays with the host".to_owned());
        }
        if self.controllers.contains(&function.address) {
            return Some("the controller that it is behind".to_owned());
        }
        match self.usage.of_function(function) {
            None if function.class.is_storage() => {
                return Some("the host may have its disks in use".to_owned());
            }
            None | Some([]) => {}
            Some(uses) => return Some(format!("the host needs it: {}", advice::join(uses))),
        }
        function.boot_vga.then(|| "the boot display".to_owned())
    }

    /// Whether a function goes with one that is asked for and stands beside it, and why.
    fn companion(&self, device: &Device, wanted: &Device) -> (bool, String) {
        if let Some(obstacle) = self.obstacle(device) {
            return (false, obstacle);
        }
        let function = &device.function;
        let same_slot = function.address.same_slot(wanted.function.address);
        let same_group = function.group.is_some() && function.group == wanted.group;
        let group = device.group_text();
        // On the root bus, the functions of a slot are devices of their own, which share no more than a
        // number.
        let is_card = function.address.bus() != 0;
        let is_display = wanted.function.class.is_display();
        match (same_slot, same_group) {
            (true, true) => (true, "same slot and group".to_owned()),
            (false, _) if self.stays_in_part(wanted) => {
                (false, format!("the host needs others of group {group}"))
            }
            (false, _) => (true, format!("group {group} goes as a whole")),
            (true, false) if function.group.is_none() && is_card => (true, "same card".to_owned()),
            (true, false) if is_display && is_card => {
                (true, "part of the display's card".to_owned())
            }
            (true, false) => (false, format!("group {group} of its own")),
        }
    }

    /// Whether some endpoint of the function's group has to stay, so that taking the others is in vain.
    fn stays_in_part(&self, wanted: &Device) -> bool {
        self.devices.all.iter().any(|device| {
            device.group == wanted.group
                && device.address != wanted.address
                && !device.function.class.is_bridge()
                && self.obstacle(device).is_some()
        })
    }
}
