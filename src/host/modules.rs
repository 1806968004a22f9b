//! Whether the kernel has a driver, as far as its lists of modules tell.

use vfio_override::rule::NOBODY;

use crate::machine::Machine;

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
    if driver.as_bytes() == NOBODY || machine.sysfs.join("bus/pci/drivers").join(driver).exists() {
        return Some(Driver::Present);
    }
    let (root, modules) = (machine.root.as_ref()?, machine.modules_directory()?);
    let lists = |list: &str| {
        let is_it = |line: &str| is_module_of(line, driver).then(|| line.to_owned());
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
