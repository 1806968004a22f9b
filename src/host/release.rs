//! `release`: functions go back to their standard drivers.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;

use anyhow::{Result, bail};
use log::Level;
use vfio_override::apply::{self, DriverName, LetGo};
use vfio_override::failure::Failure;
use vfio_override::pci::Address;
use vfio_override::report::{Journal, LoadingResult};

use crate::Verdict;
use crate::apply::modprobe;
use crate::args::Release;
use crate::change::{self, Recorder};
use crate::functions::{Device, Devices};
use crate::machine::{Kind, Machine};
use crate::screen::{self, PLAIN, Screen};
use crate::worker::Progress;

pub fn run(machine: &mut Machine, options: &Release, json: bool) -> Result<Verdict> {
    let devices = Devices::of(machine);
    let mut named = Vec::new();
    for address in options.addresses.iter().collect::<BTreeSet<_>>() {
        match devices.get(*address) {
            Some(device) => named.push(device.clone()),
            None => {
                bail!("there is no function at {address}; vfio-override list shows what there is")
            }
        }
    }
    let style = devices.style();
    if machine.kind == Kind::Copy {
        return rehearse(&named, json);
    }
    let limit = options.patience.limit();
    change::carry_out("release", machine, &named, style, limit, json, |machine, progress| {
        work(machine, &named, progress)
    })
}

/// Says what would be done on a copy.
fn rehearse(devices: &[Device], json: bool) -> Result<Verdict> {
    if json {
        #[derive(serde::Serialize)]
        struct Rehearsal<'a> {
            would_release: &'a [Device],
        }
        screen::json("release", &Rehearsal { would_release: devices })?;
        return Ok(Verdict::Good);
    }
    let mut screen = Screen::new();
    for device in devices {
        let kept_for = device.kept_for.as_deref().unwrap_or("nothing");
        let driver = device.driver.as_deref().unwrap_or("no driver");
        screen
            .line(PLAIN, format_args!("{}: override {kept_for}, {driver} has it", device.address));
    }
    screen.line(PLAIN, "this is a copy: nothing was done");
    Ok(Verdict::Good)
}

fn work(machine: &mut Machine, devices: &[Device], progress: Progress) -> bool {
    machine.tree.progress = progress.share();
    let mut steps = progress.share();
    let recorder = Recorder::new(machine.kind, progress);
    let journal = Journal::new(&recorder, false);
    let mut is_done = true;
    for device in devices {
        let address = device.function.address;
        let result = give_back(machine, address, &mut steps);
        let is_good = matches!(&result, Ok(back) if !back.is_refused);
        is_done &= is_good;
        let level = match (&result, is_good) {
            (Err(_), _) => Level::Error,
            (Ok(_), false) => Level::Warn,
            (Ok(_), true) => Level::Info,
        };
        journal.say(level, &Line { address, result: &result });
    }
    is_done
}

/// What became of a function that was given back.
struct Back {
    let_go: LetGo,
    driver: Option<DriverName>,
    /// There is a driver for it, which did not take it.
    is_refused: bool,
}

fn give_back(
    machine: &mut Machine,
    address: Address,
    steps: &mut Progress,
) -> Result<Back, Failure> {
    let let_go = apply::let_go(&mut machine.tree, address)?;
    let mut is_loaded = false;
    if machine.kind == Kind::Live && apply::driver_of(&mut machine.tree, address)?.is_none() {
        let file = machine.sysfs.join(format!("bus/pci/devices/{address}/modalias"));
        if let Ok(alias) = fs::read_to_string(file) {
            steps.about_to_run(&format!("modprobe {}", alias.trim()));
            is_loaded = modprobe(alias.trim()) == LoadingResult::Loaded;
        }
    }
    let driver = apply::offer(&mut machine.tree, address)?;
    let is_refused = driver.is_none() && is_loaded;
    Ok(Back { let_go, driver, is_refused })
}

/// The record about one function.
struct Line<'a> {
    address: Address,
    result: &'a Result<Back, Failure>,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.address)?;
        let Back { let_go, driver, is_refused } = match self.result {
            Ok(back) => back,
            Err(failure) => return write!(f, "not given back: {failure}"),
        };
        match &let_go.kept_for {
            Some(kept_for) => write!(f, "driver_override {} cleared, ", kept_for.escape_ascii())?,
            None => f.write_str("driver_override was not set, ")?,
        }
        if let Some(left) = &let_go.left {
            write!(f, "unbound from {}, ", left.escape_ascii())?;
        }
        match driver {
            Some(driver) => write!(f, "{} has it", driver.escape_ascii()),
            None if *is_refused => {
                f.write_str("no driver took it, though there is one: dmesg tells why")
            }
            None => f.write_str("no driver has it, and none is there for it"),
        }
    }
}
