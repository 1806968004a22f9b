// SPDX-License-Identifier: MIT OR Apache-2.0
//! Applying a plan: the only code that writes.
//!
//! The order is that of the commit which brought `driver_override` to PCI (782a985d7af2): override,
//! unbind, probe. Every step looks first, so that a second run changes nothing.

use heapless::Vec;
use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::path::{Attribute, Path};
use crate::pci::Address;
use crate::plan::{Held, Plan, State, Step};
use crate::problem::{Operation, Problem};
use crate::rule::{MAX_DRIVER, NOBODY};
use crate::system::{File, System, View, first_line};

/// The name of a driver as sysfs has it. Its bytes come from the kernel or from a rule; nothing here checks them.
pub type DriverName = Vec<u8, MAX_DRIVER, u8>;

/// Makes the `driver_override` of the step's function hold its driver. Where the step has failed, its driver's name may
/// be a guess, which protects the function as well: it is written unless an override is there.
#[inline(never)]
pub(crate) fn hold(system: &mut impl System, step: &mut Step) {
    let is_guess = matches!(step.state, State::Failed(_));
    match set_override(system, step.function.address, &step.driver, is_guess) {
        Ok(held) => {
            step.held = held;
            if !is_guess {
                step.state = State::Held;
            }
        }
        Err(problem) => step.state = State::Failed(problem),
    }
}

/// Makes the function's `driver_override` hold `driver`, or, if that `is_guess`, anything. Returns [`Held::Already`]
/// if it did before.
fn set_override(
    system: &mut impl System,
    address: Address,
    driver: &[u8],
    is_guess: bool,
) -> Result<Held, Problem> {
    let path = Path::Attribute(address, Attribute::DriverOverride);
    // Room for the newline and for one byte more, by which a longer name differs.
    let mut buffer = [0; MAX_DRIVER + 2];
    let opened = system.open(path, OFlag::O_RDWR);
    let mut file = opened.map_err(Problem::fault(Operation::Open, path))?;
    for held in [Held::Already, Held::Written] {
        let length = file.read(&mut buffer).map_err(Problem::fault(Operation::Read, path))?;
        let found = first_line(buffer.get(..length).unwrap_or_default());
        if found == driver || is_guess && is_name(found) {
            return Ok(held);
        }
        if held == Held::Already {
            // The newline ends the value. The kernel ignores what follows it; in a plain file, in a copy of sysfs, the
            // end of a longer old value may follow it.
            let mut value = Vec::<u8, { MAX_DRIVER + 1 }>::new();
            let whole = value.extend_from_slice(driver).is_ok() && value.push(b'\n').is_ok();
            debug_assert!(whole);
            file.write(&value).map_err(Problem::fault(Operation::Write, path))?;
        }
    }
    Err(Problem::NotHeld(address))
}

/// Whether `driver_override` holds a driver's name. The kernel has `(null)` there if there is none, a plain file has
/// nothing.
fn is_name(held: &[u8]) -> bool {
    held.first().is_some_and(|&first| first != b'(')
}

/// Unbinds each function whose override is held from any other driver, and offers it to its own.
///
/// A driver that is not registered yet takes its functions by itself when it loads.
pub(crate) fn bind(system: &mut impl System, plan: &mut Plan) {
    let mut registered = Registered::default();
    for step in plan.taken_mut().filter(|step| matches!(step.state, State::Held)) {
        let is_registered = registered.has(&mut View::of(system), &step.driver);
        step.state = unbind_other(system, step)
            .and_then(|is_bound| {
                if is_bound {
                    return Ok(State::Bound);
                }
                if is_registered {
                    probe(system, step.function.address)?;
                    return Ok(State::Offered);
                }
                Ok(State::Waiting)
            })
            .unwrap_or_else(State::Failed);
    }
}

/// Unbinds the function from any driver but its own. Returns whether that one has it.
fn unbind_other(system: &mut impl System, step: &mut Step) -> Result<bool, Problem> {
    let address = step.function.address;
    let mut buffer = [0; 256];
    let link = Path::Attribute(address, Attribute::Driver);
    let Some(name) = View::of(system).link_name(link, &mut buffer)? else { return Ok(false) };
    if name == step.driver.as_slice() {
        return Ok(true);
    }
    store_name(&mut step.freed_from, name);
    unbind(system, address)?;
    Ok(false)
}

/// Reads which driver has each taken function now, except those that are bound already or have failed.
pub(crate) fn verify(view: &mut View<'_, impl System>, plan: &mut Plan) {
    for step in plan.taken_mut() {
        let before = step.state;
        if matches!(before, State::Bound | State::Failed(_)) {
            continue;
        }
        let address = step.function.address;
        let link = Path::Attribute(address, Attribute::Driver);
        step.state = match view.link_name(link, &mut [0; 256]) {
            Ok(Some(name)) if name == step.driver.as_slice() => State::Bound,
            Ok(Some(_)) => State::Failed(Problem::StillBound(address)),
            Ok(None) => before,
            Err(problem) => State::Failed(problem),
        };
    }
}

/// Whether a driver is registered: the last answer, for the next function, which mostly has the same driver.
#[derive(Default)]
struct Registered {
    last: DriverName,
    is_registered: bool,
}

impl Registered {
    fn has(&mut self, view: &mut View<'_, impl System>, driver: &[u8]) -> bool {
        if self.last != driver {
            self.is_registered = driver != NOBODY && view.has_driver(driver);
            store_name(&mut self.last, driver);
        }
        self.is_registered
    }
}

/// Stores a driver's name, cut at [`MAX_DRIVER`] bytes, which are more than a module's name has.
#[inline(never)]
pub fn store_name(kept: &mut DriverName, name: &[u8]) {
    kept.clear();
    let _ = kept.extend_from_slice(name.get(..MAX_DRIVER).unwrap_or(name));
}

/// Offers the function to all drivers that may have it.
pub fn probe(system: &mut impl System, address: Address) -> Result<(), Problem> {
    let fault = Problem::fault(Operation::Write, Path::DriversProbe);
    system.probe(&address.name()).map_err(fault)
}

/// Takes the function away from the driver that has it.
pub fn unbind(system: &mut impl System, address: Address) -> Result<(), Problem> {
    match write(system, Path::Attribute(address, Attribute::DriverUnbind), &address.name()) {
        // The driver let go by itself meanwhile.
        Err(Problem::Fault { errno: Errno::ENOENT | Errno::ENODEV, .. }) => Ok(()),
        result => result,
    }
}

/// Writes one value to the attribute.
pub fn write(system: &mut impl System, path: Path, text: &[u8]) -> Result<(), Problem> {
    let opened = system.open(path, OFlag::O_WRONLY);
    let mut file = opened.map_err(Problem::fault(Operation::Open, path))?;
    file.write(text).map_err(Problem::fault(Operation::Write, path))
}
