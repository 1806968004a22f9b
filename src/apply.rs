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
use crate::problem::Problem;
use crate::rule::{MAX_DRIVER, NOBODY};
use crate::system::{File, System, View, first_line};

/// The name of a driver as sysfs has it. Its bytes come from the kernel or from a rule; nothing here checks them.
pub type DriverName = Vec<u8, MAX_DRIVER, u8>;

/// Makes the `driver_override` of the step's function hold its driver. Called again, it reads back what it wrote. Where
/// the step has failed, its driver's name may be a guess, which protects the function as well: it is written unless an
/// override is there.
pub(crate) fn hold(system: &mut impl System, step: &mut Step) {
    let is_guess = matches!(step.state, State::Failed(_));
    match set_override(system, step, is_guess) {
        Ok(held) => {
            step.held = held;
            if !is_guess {
                step.state = State::Held;
            }
        }
        Err(problem) => {
            step.held = Held::Not;
            step.state = State::Failed(problem);
        }
    }
}

/// Makes the function's `driver_override` hold the step's driver, or, if that `is_guess`, anything. An override that was
/// written before is not written again.
fn set_override(system: &mut impl System, step: &Step, is_guess: bool) -> Result<Held, Problem> {
    let address = step.function.address;
    let path = Path::Attribute(address, Attribute::DriverOverride);
    // Room for the newline and for one byte more, by which a longer name differs.
    let mut buffer = [0; MAX_DRIVER + 2];
    let opened = system.open(path, OFlag::O_RDWR);
    let mut file = opened.map_err(Problem::fault("open", path))?;
    let length = file.read(&mut buffer).map_err(Problem::fault("read", path))?;
    let found = first_line(buffer.get(..length).unwrap_or_default());
    let is_held = found == step.driver || is_guess && is_name(found);
    match step.held {
        Held::Not if is_held => Ok(Held::Already),
        Held::Not => {
            // The newline ends the value. The kernel ignores what follows it; in a plain file, in a copy of sysfs, the
            // end of a longer old value may follow it.
            let mut value = Vec::<u8, { MAX_DRIVER + 1 }>::new();
            let whole = value.extend_from_slice(&step.driver).is_ok() && value.push(b'\n').is_ok();
            debug_assert!(whole);
            file.write(&value).map_err(Problem::fault("write", path))?;
            Ok(Held::Written)
        }
        held if is_held => Ok(held),
        _ => Err(Problem::NotHeld(address)),
    }
}

/// Whether `driver_override` holds a driver's name. The kernel has `(null)` there if there is none, a plain file has
/// nothing.
pub(crate) fn is_name(held: &[u8]) -> bool {
    held.first().is_some_and(|&first| first != b'(')
}

/// Reads back each override that was written, that of a guess too, unless its function came further since.
pub(crate) fn read_back(system: &mut impl System, plan: &mut Plan) {
    let is_unproven = |step: &&mut Step| {
        step.held == Held::Written && matches!(step.state, State::Held | State::Failed(_))
    };
    plan.taken_mut().filter(is_unproven).for_each(|step| hold(system, step));
}

/// Reads back every override that was written, unbinds each function whose override is held from any other driver, and
/// offers it to its own.
///
/// A driver that is not registered yet takes its functions by itself when it loads.
pub(crate) fn bind(system: &mut impl System, plan: &mut Plan) {
    read_back(system, plan);
    // The last answer is for the next function too, which mostly has the same driver.
    let (mut asked, mut is_registered) = (DriverName::new(), false);
    for step in plan.taken_mut().filter(|step| matches!(step.state, State::Held)) {
        if asked != step.driver {
            store_name(&mut asked, &step.driver);
            // If this cannot be found out, it counts as registered: the probe then has a more precise error.
            is_registered = asked != NOBODY && system.find_driver(&asked) != Err(Errno::ENOENT);
        }
        step.state = bind_one(system, step, is_registered).unwrap_or_else(State::Failed);
    }
}

/// [`bind`] for one function, whose driver may be registered.
fn bind_one(
    system: &mut impl System,
    step: &mut Step,
    is_registered: bool,
) -> Result<State, Problem> {
    let address = step.function.address;
    let link = Path::Attribute(address, Attribute::Driver);
    let mut buffer = [0; 256];
    if let Some(name) = View::of(system).link_name(link, &mut buffer)? {
        if name == step.driver.as_slice() {
            return Ok(State::Bound);
        }
        store_name(&mut step.freed_from, name);
        unbind(system, address)?;
    }
    if !is_registered {
        return Ok(State::Waiting);
    }
    probe(system, address)?;
    Ok(State::Offered)
}

/// Reads which driver has each taken function now, except those that are bound already or have failed, and those that
/// [`bind`] has just seen to have none.
pub(crate) fn verify(view: &mut View<'_, impl System>, plan: &mut Plan) {
    let is_settled = |step: &Step| match step.state {
        State::Bound | State::Failed(_) => true,
        State::Waiting => step.freed_from.is_empty(),
        State::Planned | State::Held | State::Offered => false,
    };
    for step in plan.taken_mut().filter(|step| !is_settled(step)) {
        let address = step.function.address;
        let link = Path::Attribute(address, Attribute::Driver);
        match view.link_name(link, &mut [0; 256]) {
            Ok(Some(name)) if name == step.driver.as_slice() => step.state = State::Bound,
            Ok(Some(_)) => step.state = State::Failed(Problem::StillBound(address)),
            Ok(None) => {}
            Err(problem) => step.state = State::Failed(problem),
        }
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
    let fault = Problem::fault("write", Path::DriversProbe);
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
    let mut file = opened.map_err(Problem::fault("open", path))?;
    file.write(text).map_err(Problem::fault("write", path))
}
