//! Doing: one step of a plan on one function.
//!
//! The order is that of the commit which brought `driver_override` to PCI (782a985d7af2): override,
//! unbind, probe. Every step looks first, so that a second run changes nothing.

use heapless::Vec;
use nix::errno::Errno;

use crate::failure::Failure;
use crate::path::{Attribute, Path};
use crate::pci::Address;
use crate::rule::{MAX_DRIVER, NOBODY, VFIO_PCI};
use crate::system::{self, Fault, Held, Operation, System};

/// The name of a driver as sysfs has it. Its bytes are the kernel's, not checked.
pub type DriverName = Vec<u8, MAX_DRIVER>;

/// Makes the function's `driver_override` hold `driver`. Returns whether it had to be written.
pub fn set_override(
    system: &mut impl System,
    address: Address,
    driver: &[u8],
) -> Result<bool, Failure> {
    let path = Path::Attribute(address, Attribute::DriverOverride);
    match system::hold(system, path, driver) {
        Ok(Held::Already) => Ok(false),
        Ok(Held::Written) => Ok(true),
        Ok(Held::Refused) => Err(Failure::NotHeld(address)),
        Err(fault) => Err(Failure::Fault(fault)),
    }
}

/// What became of a function after its override was set.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// The other driver that had it.
    pub left: Option<DriverName>,
    /// The driver that was asked for has it now.
    pub is_bound: bool,
    /// It was offered to that driver, which is loaded or built in.
    pub was_probed: bool,
}

/// Whether drivers are registered, remembered from one function to the next.
#[derive(Default)]
pub struct Registered<'a> {
    last: Option<(&'a [u8], bool)>,
}

impl<'a> Registered<'a> {
    fn has(&mut self, system: &mut impl System, driver: &'a [u8]) -> bool {
        match self.last {
            Some((name, registered)) if name == driver => registered,
            _ => {
                let registered = driver != NOBODY && system::has_driver(system, driver);
                self.last = Some((driver, registered));
                registered
            }
        }
    }
}

/// Takes the function away from any other driver and offers it to the one asked for.
///
/// A driver that is not registered yet takes its functions by itself when it loads.
pub fn bind<'a>(
    system: &mut impl System,
    registered: &mut Registered<'a>,
    address: Address,
    driver: &'a [u8],
) -> Result<Bound, Failure> {
    let is_registered = registered.has(system, driver);
    let mut bound = Bound::default();
    let mut buffer = [0; 256];
    match driver_link(system, address, &mut buffer)? {
        Some(name) if name == driver => {
            bound.is_bound = true;
            return Ok(bound);
        }
        Some(name) => {
            bound.left = driver_name(name);
            unbind(system, address)?;
        }
        None if !is_registered => return Ok(bound),
        None => {}
    }
    if is_registered {
        bound.was_probed = true;
        probe(system, address)?;
    }
    match driver_link(system, address, &mut buffer)? {
        Some(name) if name == driver => bound.is_bound = true,
        Some(_) => return Err(Failure::StillBound(address)),
        None => {}
    }
    Ok(bound)
}

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
pub fn let_go(system: &mut impl System, address: Address) -> Result<LetGo, Failure> {
    let kept_for = override_of(system, address)?;
    if kept_for.is_some() {
        let path = Path::Attribute(address, Attribute::DriverOverride);
        // Nothing but a newline: a write of no bytes never reaches the kernel's attribute.
        system::write(system, path, b"\n").map_err(Failure::Fault)?;
        if override_of(system, address)?.is_some() {
            return Err(Failure::NotHeld(address));
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
pub fn offer(system: &mut impl System, address: Address) -> Result<Option<DriverName>, Failure> {
    if driver_of(system, address)?.is_none() {
        probe(system, address)?;
    }
    driver_of(system, address)
}

/// The driver that the function is kept for.
pub fn override_of(
    system: &mut impl System,
    address: Address,
) -> Result<Option<DriverName>, Failure> {
    let path = Path::Attribute(address, Attribute::DriverOverride);
    let mut buffer = [0; MAX_DRIVER];
    let text = system::read(system, path, &mut buffer).map_err(Failure::Fault)?;
    let text = system::first_line(text);
    // The kernel prints a null pointer; a plain file, in a copy of sysfs, may be empty.
    Ok(DriverName::from_slice(text).ok().filter(|_| !matches!(text, b"" | b"(null)")))
}

/// The driver that has the function.
pub fn driver_of(
    system: &mut impl System,
    address: Address,
) -> Result<Option<DriverName>, Failure> {
    let mut buffer = [0; 256];
    Ok(driver_link(system, address, &mut buffer)?.and_then(driver_name))
}

/// As much of a driver's name as is kept.
fn driver_name(name: &[u8]) -> Option<DriverName> {
    DriverName::from_slice(name.get(..MAX_DRIVER).unwrap_or(name)).ok()
}

fn probe(system: &mut impl System, address: Address) -> Result<(), Failure> {
    let path = Path::DriversProbe;
    system
        .probe(&address.name())
        .map_err(|errno| Failure::Fault(Fault { operation: Operation::Write, path, errno }))
}

/// Whether this driver has the function.
pub fn is_bound(system: &mut impl System, address: Address, driver: &[u8]) -> bool {
    driver_link(system, address, &mut [0; 256]) == Ok(Some(driver))
}

fn unbind(system: &mut impl System, address: Address) -> Result<(), Failure> {
    let path = Path::Attribute(address, Attribute::DriverUnbind);
    match system::write(system, path, &address.name()) {
        // The driver let go by itself meanwhile.
        Ok(()) | Err(Fault { errno: Errno::ENOENT | Errno::ENODEV, .. }) => Ok(()),
        Err(fault) => Err(Failure::Fault(fault)),
    }
}

fn driver_link<'b>(
    system: &mut impl System,
    address: Address,
    buffer: &'b mut [u8],
) -> Result<Option<&'b [u8]>, Failure> {
    let path = Path::Attribute(address, Attribute::Driver);
    system::link_name(system, path, buffer).map_err(Failure::Fault)
}
