// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a machine can pass functions through at all, in one sentence.

use serde::Serialize;

use crate::machine::Machine;
use crate::machine::functions::{AddressStyle, Device};
use crate::rules::companions::{Beside, Choice};
use crate::rules::touched;
use crate::systems::advice;

/// Whether it can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Possible {
    Yes,
    /// Once something is done first.
    NotYet,
    /// Not where the function is now.
    No,
}

/// The answer, and why, for a machine with IOMMU groups.
pub struct Prospect {
    pub possible: Possible,
    pub sentence: String,
}

impl Prospect {
    pub fn of(
        machine: &Machine,
        beside: &Beside<'_>,
        choices: &[Choice],
        style: AddressStyle,
    ) -> Self {
        let Beside { usage, wanted, .. } = *beside;
        let names: Vec<String> =
            wanted.iter().map(|device| style.text(device.function.address)).collect();
        let names = advice::list(&names);
        let hindrance = wanted.iter().find_map(|wanted| hindrance(machine, beside, wanted, style));
        let hindrance = hindrance.or_else(|| Some((Possible::No, root(beside, choices)?)));
        if let Some((possible, reason)) = hindrance {
            let word = if possible == Possible::No { "no, not as it is" } else { "not yet" };
            return Self { possible, sentence: format!("{word}: {reason}") };
        }
        let more =
            choices.iter().filter(|choice| choice.taken).count().saturating_sub(wanted.len());
        let with = match more {
            0 => String::new(),
            1 => ", with 1 function that belongs to it".to_owned(),
            more => format!(", with {more} functions that belong to it"),
        };
        let loss = wanted.iter().find_map(|wanted| {
            let uses = usage.of_function(&wanted.function)?;
            (!uses.is_empty()).then(|| advice::join(uses))
        });
        let but = match loss {
            Some(loss) => format!("; but the host needs it: {loss}"),
            None if wanted.iter().any(|device| beside.devices.has_console(device)) => {
                "; but the console freezes on it".to_owned()
            }
            None if choices
                .iter()
                .any(|it| it.taken && touched::firmware(&it.device).is_some()) =>
            {
                "; but the guest then reaches parts of the board itself (the warnings say which)"
                    .to_owned()
            }
            None => {
                match wanted.iter().find(|device| usage.of_function(&device.function).is_none()) {
                    Some(device) if device.function.class.is_storage() => {
                        "; whether the host has its disks in use is not known here".to_owned()
                    }
                    Some(device) if device.function.class.is_network() => {
                        "; whether the host has its links in use is not known here".to_owned()
                    }
                    _ => String::new(),
                }
            }
        };
        let sentence = format!("yes, this machine can pass {names} through{with}{but}");
        Self { possible: Possible::Yes, sentence }
    }
}

/// That the host boots from what is taken, or from a part of it: whether the rest would do is not known.
fn root(beside: &Beside<'_>, choices: &[Choice]) -> Option<String> {
    let mut taken = choices.iter().filter(|choice| choice.taken);
    let what = taken.find_map(|choice| beside.usage.root_on(choice.device.function.address))?;
    Some(format!("the host itself boots from what goes ({what}), and may not boot again"))
}

/// What is in the way of passing one function through.
fn hindrance(
    machine: &Machine,
    beside: &Beside<'_>,
    wanted: &Device,
    style: AddressStyle,
) -> Option<(Possible, String)> {
    let devices = beside.devices;
    let name = style.text(wanted.function.address);
    let Some(group) = wanted.group else {
        let reason = format!(
            "{name} is in no IOMMU group: no IOMMU serves its part of the machine, or none before a driver probes it"
        );
        return Some((Possible::NotYet, reason));
    };
    let ranges = touched::reserved(machine, group);
    if !ranges.is_empty() {
        let ranges = ranges.join(", ");
        let reason = format!(
            "the firmware reserves memory for {name} (RMRR or IVMD, {ranges}), and the kernel refuses to pass that through"
        );
        return Some((Possible::No, reason));
    }
    let controller = wanted.above.iter().filter_map(|address| devices.get(*address));
    if let Some(controller) = controller.rev().find(|above| above.is_endpoint()) {
        let maker = style.text(controller.function.address);
        let driver = controller.driver.as_deref().unwrap_or("its driver");
        let reason = format!(
            "{name} is behind {maker}, and goes when {driver} lets go of that; pass {maker} through with all that is behind \
             it, or turn it off in the firmware's setup (Intel VMD), and ask again"
        );
        return Some((Possible::No, reason));
    }
    let staying: Vec<_> = beside.staying(wanted).collect();
    if let Some((first, why)) = staying.first() {
        let first = style.text(first.function.address);
        let more = match staying.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let reason = format!(
            "{name} shares IOMMU group {group} with {first} ({why}){more}, and a group goes as a whole; try another slot \
             (vfio-override list --tree)"
        );
        return Some((Possible::No, reason));
    }
    let mut bridges = devices.all.iter().filter(|device| device.group == Some(group));
    let (bridge, driver) =
        bridges.find_map(|device| Some((device, touched::hindering_driver(device)?)))?;
    let bridge = style.text(bridge.function.address);
    let reason = format!(
        "the kernel refuses group {group} while its bridge {bridge} has the driver {driver}; take the bridge from it first"
    );
    Some((Possible::NotYet, reason))
}
