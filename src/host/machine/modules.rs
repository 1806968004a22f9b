// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether the kernel has a driver, as far as its lists of modules tell.

use vfio_override::modalias::Alias;
use vfio_override::pci::Function;
use vfio_override::rule::NOBODY;

use crate::machine::{Machine, file};

/// Where a driver comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// It is part of the kernel, or loaded.
    Present,
    /// A module of this kernel holds it.
    Module,
    /// Neither.
    Missing,
}

/// Where this driver comes from; `None` where that cannot be told.
pub fn find(machine: &Machine, driver: &str) -> Option<Driver> {
    if driver.as_bytes() == NOBODY {
        return Some(Driver::Present);
    }
    let is_loaded = machine.sysfs.join("bus/pci/drivers").join(driver).exists();
    // A module that is loaded now is one at the next boot, too.
    match listed(machine, driver) {
        Some(Driver::Missing) | None if is_loaded => Some(Driver::Present),
        listed => listed,
    }
}

fn listed(machine: &Machine, driver: &str) -> Option<Driver> {
    let (root, modules) = (machine.root.as_ref()?, machine.modules_directory()?);
    let lists = |list: &str| {
        // What a module needs besides is of no use.
        let own = |line: &str| format!("{}:", line.split(':').next().unwrap_or_default());
        let is_it = |line: &str| is_module_of(line, driver).then(|| own(line));
        root.lines(&format!("{modules}/{list}"), is_it).ok().map(|lines| !lines.is_empty())
    };
    if lists("modules.builtin")? {
        Some(Driver::Present)
    } else if lists("modules.dep")? {
        Some(Driver::Module)
    } else {
        Some(Driver::Missing)
    }
}

/// Whether the kernel itself has this driver, as far as its list tells.
pub fn is_built_in(machine: &Machine, driver: &str) -> bool {
    listed(machine, driver) == Some(Driver::Present)
}

/// Whether some module is for this function; `None` where that cannot be told.
pub fn are_there_for(machine: &Machine, function: &Function) -> Option<bool> {
    let (root, modules) = (machine.root.as_ref()?, machine.modules_directory()?);
    let is_it = |line: &str| is_alias_for(line, function).then(|| line.to_owned());
    let lines = root.lines(&format!("{modules}/modules.alias"), is_it).ok()?;
    Some(!lines.is_empty())
}

/// The modules, loadable or built in, that hold a driver for this function; `None` where no list can be read.
pub fn names_for(machine: &Machine, function: &Function) -> Option<Vec<String>> {
    let (root, modules) = (machine.root.as_ref()?, machine.modules_directory()?);
    let loadable = |line: &str| {
        let is_it = line.starts_with("alias pci:") && is_alias_for(line, function);
        is_it.then(|| line.to_owned())
    };
    let lines = root.lines(&format!("{modules}/modules.alias"), loadable).ok();
    let names =
        lines.iter().flatten().filter_map(|line| line.rsplit(' ').next().map(str::to_owned));
    // NAME.alias=pci:…, each ended by a NUL byte.
    let built_in = file::read_text(&root.path(&format!("{modules}/modules.builtin.modinfo"))).ok();
    let of_kernel = built_in.iter().flat_map(|text| text.split('\0')).filter_map(|entry| {
        let (name, pattern) = entry.split_once(".alias=pci:")?;
        is_alias_for(&format!("alias pci:{pattern} {name}"), function).then(|| name.to_owned())
    });
    let mut names: Vec<String> = names.chain(of_kernel).collect();
    names.sort();
    names.dedup();
    (lines.is_some() || built_in.is_some()).then_some(names)
}

/// Whether a line of `modules.alias` is for this function. The aliases of variant drivers differ from all
/// others in their first word only.
fn is_alias_for(line: &str, function: &Function) -> bool {
    let line = line.replacen("alias pci:", "alias vfio_pci:", 1);
    Alias::parse(line.as_bytes()).is_some_and(|alias| alias.ids.match_function(function))
}

/// Whether a line of `modules.dep` or `modules.builtin` begins with this driver's module. Module names
/// have `_` where file names may have `-`.
fn is_module_of(line: &str, driver: &str) -> bool {
    let path = line.split(':').next().unwrap_or_default();
    is_module_file(path, driver)
}

/// Whether this is the file of the driver's module, such as `…/vfio-pci.ko.zst`.
pub fn is_module_file(path: &str, driver: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or_default();
    let Some((module, _)) = file.split_once(".ko") else { return false };
    module.replace('_', "-") == driver.replace('_', "-")
}

#[cfg(test)]
mod tests {
    use vfio_override::pci::{Address, Class, Id};

    use super::*;

    #[test]
    fn the_module_for_a_function_is_found_by_its_aliases() {
        let function = Function {
            address: Address::new(0, 1, 0, 0).unwrap(),
            id: Id { vendor: 0x10de, device: 0x1ff2 },
            subsystem: Id { vendor: 0x17aa, device: 0x1613 },
            class: Class::new(0x03_00_00).unwrap(),
            group: None,
            boot_vga: false,
        };
        for (line, is_it) in [
            ("alias pci:v000010DEd*sv*sd*bc03sc*i* nouveau", true),
            ("alias pci:v000010DEd*sv*sd*bc04sc*i* snd_hda_intel", false),
            ("alias usb:v10DEp*d*dc*dsc*dp*ic*isc*ip*in* nouveau", false),
        ] {
            assert_eq!(is_alias_for(line, &function), is_it, "{line}");
        }
    }
}
