// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every way to write a rule.

use std::fmt::Write as _;

use crate::reader::is_slot;
use vfio_override::rule::{Action, Driver, Expansion, Ids, Place, Rule, Selector};

/// The rule's text, each choice of its spelling made by the next of `choices`, over and over.
///
/// # Panics
///
/// Where there is no choice at all, or the name of the rule's driver is no text.
#[must_use]
pub fn spell(rule: &Rule<'_>, choices: &[bool]) -> String {
    Spelling::new(choices).rule(rule)
}

/// The value of `vfio-pci.ids=` with these IDs, as the kernel takes it (`vfio_pci_fill_ids` in
/// `drivers/vfio/pci/vfio_pci.c`).
#[must_use]
pub fn spell_ids(ids: &[Ids]) -> String {
    let text = |ids: &Ids| {
        let field =
            |id: Option<u16>| id.map_or_else(|| "ffffffff".to_owned(), |id| format!("{id:x}"));
        let fields = [ids.vendor, ids.device, ids.subvendor, ids.subdevice].map(field).join(":");
        match ids.class {
            None => fields,
            Some(class) => format!("{fields}:{:x}:{:x}", class.code(), ids.mask),
        }
    };
    ids.iter().map(text).collect::<Vec<_>>().join(",")
}

/// Decides, number by number, how a rule is spelled.
struct Spelling<'a> {
    choices: std::iter::Cycle<std::slice::Iter<'a, bool>>,
    text: String,
}

impl<'a> Spelling<'a> {
    fn new(choices: &'a [bool]) -> Self {
        Self { choices: choices.iter().cycle(), text: String::new() }
    }

    fn choose(&mut self) -> bool {
        *self.choices.next().unwrap()
    }

    fn either_case(&mut self, digits: &str) {
        let text = if self.choose() { digits.to_uppercase() } else { digits.to_owned() };
        self.text += &text;
    }

    /// A number of at most `digits` digits, with or without leading zeros, in either case.
    fn number(&mut self, value: u32, digits: usize) {
        let digits = if self.choose() { digits } else { 1 };
        let text = format!("{value:0digits$x}");
        self.either_case(&text);
    }

    fn prefixed(&mut self, value: u32, digits: usize) {
        if self.choose() {
            let prefix = if self.choose() { "0x" } else { "0X" };
            self.text += prefix;
        }
        self.number(value, digits);
    }

    fn any(&mut self) {
        let all = ["*", "ffffffff", "FFFFffff", "0xffffffff", "0XFFFFFFFF"];
        let index = (0..3).fold(0, |index, _| index * 2 + usize::from(self.choose()));
        self.text += all[index % all.len()];
    }

    fn id(&mut self, id: Option<u16>) {
        match id {
            Some(id) => self.prefixed(id.into(), 4),
            None => self.any(),
        }
    }

    /// In the `pci:` form 0 means any.
    fn kernel_id(&mut self, id: Option<u16>) {
        match id {
            None if self.choose() => self.prefixed(0, 4),
            id => self.id(id),
        }
    }

    fn bus(&mut self, domain: u32, bus: u8) {
        if domain != 0 || self.choose() {
            self.number(domain, 8);
            self.text += ":";
        }
        self.number(bus.into(), 2);
        self.text += ":";
    }

    fn place(&mut self, place: Place) {
        self.number(place.device.into(), 2);
        match place.function {
            Some(function) => write!(self.text, ".{function}").unwrap(),
            None => self.text += ".*",
        }
    }

    /// Two or three of them that look like a slot are none, unless they have as many digits as can be.
    fn ids(&mut self, ids: &Ids) {
        let start = self.text.len();
        self.any_ids(ids);
        if is_slot(&self.text[start..]) {
            self.text.truncate(start);
            write!(self.text, "{ids}").unwrap();
        }
    }

    fn any_ids(&mut self, ids: &Ids) {
        let has_zero = [ids.vendor, ids.device, ids.subvendor, ids.subdevice].contains(&Some(0));
        if ids.class.is_none() && !has_zero && self.choose() {
            return self.kernel_ids(ids);
        }
        self.id(ids.vendor);
        self.text += ":";
        self.id(ids.device);
        let fields = [ids.subvendor.is_some(), ids.subdevice.is_some(), ids.class.is_some()];
        let needed = fields.iter().rposition(|is_needed| *is_needed).map_or(0, |last| last + 1);
        for field in 0..3 {
            if field >= needed && self.choose() {
                return;
            }
            self.text += ":";
            match (field, ids.class) {
                (0, _) => self.id(ids.subvendor),
                (1, _) => self.id(ids.subdevice),
                (_, Some(class)) => self.prefixed(class.code(), 6),
                (_, None) => self.any(),
            }
        }
        // A mask says nothing where there is no class; a mask of 0 is what a missing one means.
        if ids.mask != 0 || self.choose() {
            self.text += ":";
            if ids.mask == 0x00ff_ffff && self.choose() {
                self.text += "0xffffffff";
            } else {
                self.prefixed(ids.mask, 6);
            }
        }
    }

    fn kernel_ids(&mut self, ids: &Ids) {
        self.text += "pci:";
        self.kernel_id(ids.vendor);
        self.text += ":";
        self.kernel_id(ids.device);
        if ids.subvendor.is_some() || ids.subdevice.is_some() || self.choose() {
            self.text += ":";
            self.kernel_id(ids.subvendor);
            self.text += ":";
            self.kernel_id(ids.subdevice);
        }
    }

    fn rule(mut self, rule: &Rule<'_>) -> String {
        if rule.action == Action::Exclude {
            self.text += "!";
        }
        if rule.may_be_absent {
            self.text += "?";
        }
        match &rule.selector {
            Selector::Address { domain, bus, place } => {
                self.bus(*domain, *bus);
                self.place(*place);
            }
            Selector::Path { start, hops } => {
                self.bus(start.domain(), start.bus());
                self.place(Place { device: start.device(), function: Some(start.function()) });
                for hop in hops {
                    self.text += "/";
                    self.place(*hop);
                }
            }
            Selector::Ids(ids) => self.ids(ids),
            Selector::Class { prefix, digits } => {
                let digits = usize::from(*digits);
                let text = format!("{prefix:0digits$x}");
                self.text += "class:";
                self.either_case(&text);
            }
            Selector::BootVga => self.text += "boot_vga",
        }
        if let Some(guard) = rule.guard {
            self.text += "@";
            self.prefixed(guard.vendor.into(), 4);
            self.text += ":";
            self.prefixed(guard.device.into(), 4);
        }
        self.text += match rule.expansion {
            Some(Expansion::Slot) => "+slot",
            Some(Expansion::Group) => "+group",
            None => "",
        };
        match rule.action {
            Action::Exclude => {}
            Action::Take(Driver::DEFAULT) => {
                if self.choose() {
                    self.text += "=vfio-pci";
                }
            }
            Action::Take(Driver::Named(name)) => {
                write!(self.text, "={}", str::from_utf8(name).unwrap()).unwrap();
            }
            Action::Take(Driver::Nobody) => self.text += "=none",
            Action::Take(Driver::Auto) => self.text += "=auto",
        }
        self.text
    }
}
