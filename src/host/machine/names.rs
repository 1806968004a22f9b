// SPDX-License-Identifier: MIT OR Apache-2.0
//! What functions are called, from the system's pci.ids.

use std::path::Path;

use anyhow::{Context, Result};
use pciid_parser::Database;
use vfio_override::pci::{Class, Function};

use crate::machine::file;

/// Names of vendors, devices and classes; numbers where there is no pci.ids.
pub struct Names(Option<Database>);

impl Names {
    /// Reads this file, or else that of the system, which need not have one.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        match file {
            Some(file) => file::read_named(file)
                .map_err(anyhow::Error::from)
                .and_then(|text| Ok(Self(Some(Database::parse_db(&text[..])?))))
                .with_context(|| format!("cannot read names from {}", file.display())),
            None => Ok(Self(Database::read().ok())),
        }
    }

    /// The class in words, such as `VGA compatible controller`.
    pub fn class(&self, class: Class) -> String {
        let [_, base, subclass, _] = class.code().to_be_bytes();
        let known = self.0.as_ref().and_then(|database| database.classes.get(&base));
        match known.map(|base| (base.subclasses.get(&subclass), &base.name)) {
            Some((Some(subclass), _)) => subclass.name.clone(),
            Some((None, base)) => base.clone(),
            None => base_class(base).to_owned(),
        }
    }

    /// Vendor and device, such as `NVIDIA Corporation GA102 [GeForce RTX 3090]`.
    pub fn device(&self, function: &Function) -> Option<String> {
        let vendor = self.0.as_ref()?.vendors.get(&function.id.vendor)?;
        Some(match vendor.devices.get(&function.id.device) {
            Some(device) => format!("{} {}", vendor.name, device.name),
            None => format!("{} device {:04x}", vendor.name, function.id.device),
        })
    }
}

/// The base class in words, for hosts without pci.ids (PCI Code and ID Assignment Specification, 1).
fn base_class(base: u8) -> &'static str {
    const WORDS: [&str; 0x13] = [
        "Unclassified device",
        "Mass storage controller",
        "Network controller",
        "Display controller",
        "Multimedia controller",
        "Memory controller",
        "Bridge",
        "Communication controller",
        "Generic system peripheral",
        "Input device controller",
        "Docking station",
        "Processor",
        "Serial bus controller",
        "Wireless controller",
        "Intelligent controller",
        "Satellite communications controller",
        "Encryption controller",
        "Signal processing controller",
        "Processing accelerator",
    ];
    WORDS.get(usize::from(base)).copied().unwrap_or("Unassigned class")
}
