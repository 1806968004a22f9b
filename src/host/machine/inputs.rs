// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keyboards, mice and the like, and the functions that they are behind.

use std::fs;
use std::path::{Path, PathBuf};

use vfio_override::pci::Address;

use crate::machine::disks::names;
use crate::machine::functions::Device;
use crate::machine::{Machine, addresses_in, inside};

/// What a person operates the machine with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Input {
    Keyboard,
    Mouse,
    Other,
}

impl Input {
    pub const fn text(self) -> &'static str {
        match self {
            Self::Keyboard => "a keyboard",
            Self::Mouse => "a mouse",
            Self::Other => "an input device",
        }
    }
}

/// The input devices that have a driver, each with the functions on the way to it; `None` where that is not told.
pub fn of(machine: &Machine) -> Option<Vec<(Input, Vec<Address>)>> {
    let class = Path::new("class/input");
    let listed = fs::read_dir(machine.sysfs.join(class)).is_ok();
    let names = names(&machine.sysfs.join(class));
    let inputs = names.iter().filter(|name| name.starts_with("input")).filter_map(|name| {
        let place = inside::resolve(&machine.sysfs, class.join(name))?;
        let functions = addresses_in(&place);
        // Jacks of a sound card are input devices too, and so are the buttons of a camera.
        let is_jack = place.components().any(|part| part.as_os_str() == "sound");
        let capabilities = |kind: &str| inside::read(&machine.sysfs, class.join(name).join(kind));
        let kind = kind(
            capabilities("capabilities/key").as_deref(),
            capabilities("capabilities/rel").as_deref(),
        )?;
        (!functions.is_empty() && !is_jack).then_some((kind, functions))
    });
    listed.then(|| inputs.collect())
}

/// What an input device is by its capabilities (`include/uapi/linux/input-event-codes.h`); `None` for one that nobody
/// operates a machine with.
fn kind(keys: Option<&str>, axes: Option<&str>) -> Option<Input> {
    /// The keys 1 to 31, Escape to S, as udev asks for them (`test_key` of its `input_id`).
    const LETTERS: u64 = 0xffff_fffe;
    let lowest = |text: &str| u64::from_str_radix(text.split_whitespace().next_back()?, 16).ok();
    match (keys.and_then(lowest), axes.and_then(lowest)) {
        (None, None) => Some(Input::Other),
        (Some(keys), _) if keys & LETTERS == LETTERS => Some(Input::Keyboard),
        // To the left and to the right, up and down.
        (_, Some(axes)) if axes & 0b11 == 0b11 => Some(Input::Mouse),
        _ => None,
    }
}

/// What the interface of a USB device says of itself, as far as it is looked at.
pub const USB_ATTRIBUTES: [&str; 2] = ["bInterfaceClass", "bInterfaceProtocol"];

/// The input devices on a USB controller's buses by what they say of themselves, with a driver or without; `None` where
/// no bus of it can be seen.
pub fn on_usb(machine: &Machine, controller: &Device) -> Option<Vec<Input>> {
    let places = usb_places(machine, controller);
    let mut inputs: Vec<Input> = places
        .iter()
        .filter_map(|place| {
            let [class, protocol] = USB_ATTRIBUTES.map(|attribute| {
                let text = inside::read(&machine.sysfs, place.join(attribute))?;
                u8::from_str_radix(text.trim(), 16).ok()
            });
            interface(class, protocol)
        })
        .collect();
    inputs.sort();
    inputs.dedup();
    (!places.is_empty()).then_some(inputs)
}

/// The directories of a USB controller's buses, and of all that is connected to them.
pub fn usb_places(machine: &Machine, controller: &Device) -> Vec<PathBuf> {
    /// A bus, up to five hubs, the device, the interface (USB 2.0, 4.1.1).
    const DEPTH: usize = 8;
    const USB: u32 = 0x0c_03;
    let root = machine.place_of(controller.function.address).filter(|_| controller.has_class(USB));
    let is_bus = |name: &str| name.starts_with("usb");
    let is_connected = |name: &str| name.starts_with(|letter: char| letter.is_ascii_digit());
    let mut next: Vec<(PathBuf, usize)> =
        root.into_iter().flat_map(|root| below(&root, is_bus)).map(|bus| (bus, 0)).collect();
    let mut places = Vec::new();
    while let Some((place, depth)) = next.pop() {
        if depth < DEPTH {
            next.extend(below(&place, is_connected).map(|below| (below, depth + 1)));
        }
        places.push(place);
    }
    places
}

/// What a USB interface is, if it is an input device (Device Class Definition for HID 1.11, 4).
fn interface(class: Option<u8>, protocol: Option<u8>) -> Option<Input> {
    const HID: u8 = 3;
    match (class, protocol) {
        (Some(HID) | None, Some(1)) => Some(Input::Keyboard),
        (Some(HID) | None, Some(2)) => Some(Input::Mouse),
        (Some(HID), _) => Some(Input::Other),
        _ => None,
    }
}

/// The directories right below one, links not followed, whose names are such.
fn below<S: Fn(&str) -> bool>(
    directory: &Path,
    is_such: S,
) -> impl Iterator<Item = PathBuf> + use<S> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let such = directories.filter(move |entry| entry.file_name().to_str().is_some_and(&is_such));
    such.map(|entry| entry.path())
}
