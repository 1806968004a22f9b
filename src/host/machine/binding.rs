// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which driver has a function, which driver it is kept for, and how it goes back to the host.

use vfio_override::apply::{DriverName, probe, store_name, unbind, write};
use vfio_override::path::{Attribute, Path};
use vfio_override::pci::Address;
use vfio_override::problem::Problem;
use vfio_override::rule::{MAX_DRIVER, VFIO_PCI};
use vfio_override::system::{System, View, first_line};

/// What was undone of a function that goes back to the host.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LetGo {
    /// What its `driver_override` held.
    pub kept_for: Option<DriverName>,
    /// The driver that it was taken away from.
    pub left: Option<DriverName>,
}

/// Clears the function's `driver_override`, then takes it away from the driver that it was kept for. A
/// function that some other driver has stays there.
pub fn let_go(system: &mut impl System, address: Address) -> Result<LetGo, Problem> {
    let kept_for = override_of(system, address)?;
    if kept_for.is_some() {
        let path = Path::Attribute(address, Attribute::DriverOverride);
        // Nothing but a newline: a write of no bytes never reaches the kernel's attribute.
        write(system, path, b"\n")?;
        if override_of(system, address)?.is_some() {
            return Err(Problem::NotHeld(address));
        }
    }
    let driver = driver_of(system, address)?;
    let left = driver.filter(|driver| Some(driver) == kept_for.as_ref() || driver == VFIO_PCI);
    if left.is_some() {
        unbind(system, address)?;
    }
    Ok(LetGo { kept_for, left })
}

/// Offers the function to every driver, unless one has it. Returns the one that has it then.
pub fn offer(system: &mut impl System, address: Address) -> Result<Option<DriverName>, Problem> {
    if driver_of(system, address)?.is_none() {
        probe(system, address)?;
    }
    driver_of(system, address)
}

/// The driver that the function is kept for.
pub fn override_of(
    system: &mut impl System,
    address: Address,
) -> Result<Option<DriverName>, Problem> {
    let path = Path::Attribute(address, Attribute::DriverOverride);
    let mut buffer = [0; MAX_DRIVER];
    let text = first_line(View::of(system).read(path, &mut buffer)?);
    // The kernel prints a null pointer; a plain file, in a copy of sysfs, may be empty.
    Ok(DriverName::from_slice(text).ok().filter(|_| !matches!(text, b"" | b"(null)")))
}

/// The driver that has the function.
pub fn driver_of(
    system: &mut impl System,
    address: Address,
) -> Result<Option<DriverName>, Problem> {
    let mut buffer = [0; 256];
    let link = Path::Attribute(address, Attribute::Driver);
    let driver = View::of(system).link_name(link, &mut buffer)?;
    Ok(driver.map(|name| {
        let mut driver = DriverName::new();
        store_name(&mut driver, name);
        driver
    }))
}
