// SPDX-License-Identifier: MIT OR Apache-2.0
//! `release`: functions go back to their standard drivers.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Result, bail};
use log::Level;
use nix::errno::Errno;
use vfio_override::apply::DriverName;
use vfio_override::message::{self, Answer};
use vfio_override::path;
use vfio_override::pci::{Address, Function};
use vfio_override::problem::Problem;
use vfio_override::system::System;

use crate::args::Release;
use crate::change::modprobe::{Loading, modprobe};
use crate::change::worker::Progress;
use crate::change::{self, Change, Recorder, Task};
use crate::machine::binding::{self, LetGo};
use crate::machine::functions::{Device, Devices};
use crate::machine::modules;
use crate::machine::vfio_users::{self, User};
use crate::machine::{Kind, Machine, file};
use crate::screen::{self, PLAIN, Screen};
use crate::verdict::Verdict;

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
    let task = Task { change: Change::Release, devices: &named, warnings: &[] };
    change::carry_out(&task, machine, style, limit, json, |machine, progress| {
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
    let recorder = Recorder::new(Change::Release, machine.kind, progress);
    let mut is_done = true;
    for device in devices {
        let address = device.function.address;
        let result = give_back(machine, &device.function, &mut steps)
            .map_err(|problem| Halt { problem, left_as: LeftAs::is(&mut machine.tree, address) });
        let is_good = matches!(&result, Ok(Back { driver: Ok(_) | Err(Nobody::Is), .. }));
        is_done &= is_good;
        let level = match (&result, is_good) {
            (Err(_), _) => Level::Error,
            (Ok(_), false) => Level::Warn,
            (Ok(_), true) => Level::Info,
        };
        message::log(&recorder, level, &Line { address, result: &result });
    }
    is_done
}

/// What became of a function that was given back.
struct Back {
    let_go: LetGo,
    driver: Result<DriverName, Nobody>,
}

/// Why no driver has a function that was offered to all.
enum Nobody {
    /// None is for it.
    Is,
    /// There is one, which did not take it.
    Wants,
    /// It could not be loaded: this alias.
    Loads(String, Answer),
    /// It was offered to none: this process uses its IOMMU group.
    May(User, u32),
}

/// A function that was not given back, and how far it came.
struct Halt {
    problem: Problem,
    left_as: Option<LeftAs>,
}

/// What is true of a function; `None` where that cannot be told either.
struct LeftAs {
    kept_for: Option<DriverName>,
    driver: Option<DriverName>,
}

impl LeftAs {
    fn is(system: &mut impl System, address: Address) -> Option<Self> {
        let kept_for = binding::override_of(system, address).ok()?;
        Some(Self { kept_for, driver: binding::driver_of(system, address).ok()? })
    }
}

fn give_back(
    machine: &mut Machine,
    function: &Function,
    steps: &mut Progress,
) -> Result<Back, Problem> {
    let address = function.address;
    let let_go = binding::let_go(&mut machine.tree, address)?;
    let mut nobody = Nobody::Is;
    if machine.kind == Kind::Live && binding::driver_of(&mut machine.tree, address)?.is_none() {
        // The kernel refuses a group that is in use to every driver of the host (iommu_device_use_default_domain),
        // and before Linux 5.19 it stopped when one took a function of it (BUG_ON in vfio_group_nb_verify).
        if let Some(group) = function.group {
            steps.about_to_run(&format!("see whether IOMMU group {group} is in use"));
            let nodes = vfio_users::nodes(&machine.sysfs, function);
            if let Some(user) = vfio_users::that_stays(&nodes) {
                return Ok(Back { let_go, driver: Err(Nobody::May(user, group)) });
            }
        }
        let modalias = machine.sysfs.join(format!("bus/pci/devices/{address}/modalias"));
        if let Ok(alias) = file::read_text(&modalias) {
            let alias = alias.trim().to_owned();
            steps.about_to_run(&format!("modprobe {alias}"));
            nobody = match modprobe(&alias) {
                Answer::Loaded => Nobody::Wants,
                // modprobe fails where there is nothing to load, too.
                _ if modules::are_there_for(machine, function) == Some(false) => Nobody::Is,
                result => Nobody::Loads(alias, result),
            };
        }
    }
    let driver = binding::offer(&mut machine.tree, address)?;
    Ok(Back { let_go, driver: driver.ok_or(nobody) })
}

/// Whether the kernel found the function, and offered it to drivers in vain: `drivers_probe` answers EINVAL
/// whatever went wrong (`drivers_probe_store`).
fn is_refused_probe(problem: &Problem) -> bool {
    matches!(problem, Problem::Fault { path: path::Path::DriversProbe, errno: Errno::EINVAL, .. })
}

/// The record about one function.
struct Line<'a> {
    address: Address,
    result: &'a Result<Back, Halt>,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.address)?;
        let Back { let_go, driver } = match self.result {
            Ok(back) => back,
            Err(Halt { problem, left_as }) => {
                write!(f, "not given back: {problem}")?;
                if is_refused_probe(problem) {
                    f.write_str(
                        " (the kernel's answer whatever the reason is; dmesg may tell it)",
                    )?;
                }
                return left_as.as_ref().map_or(Ok(()), |left_as| write!(f, "; {left_as}"));
            }
        };
        match &let_go.kept_for {
            Some(kept_for) => write!(f, "driver_override {} cleared, ", kept_for.escape_ascii())?,
            None => f.write_str("driver_override was not set, ")?,
        }
        if let Some(left) = &let_go.left {
            write!(f, "unbound from {}, ", left.escape_ascii())?;
        }
        match driver {
            Ok(driver) => write!(f, "{} has it", driver.escape_ascii()),
            Err(Nobody::Is) => f.write_str("no driver has it, and none is there for it"),
            Err(Nobody::Wants) => {
                f.write_str("no driver took it, though there is one: dmesg tells why")
            }
            Err(Nobody::Loads(name, answer)) => {
                write!(f, "no driver has it: {}", Loading { name, answer: *answer })
            }
            Err(Nobody::May(user, group)) => write!(
                f,
                "no driver has it: {user} uses IOMMU group {group}, and until that ends the kernel lets no driver \
                 of the host have a function of it. Then run this command again"
            ),
        }
    }
}

impl fmt::Display for LeftAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kept_for {
            Some(kept_for) => write!(f, "it is kept for {}", kept_for.escape_ascii())?,
            None => f.write_str("its override is cleared")?,
        }
        match &self.driver {
            Some(driver) => write!(f, ", and {} has it", driver.escape_ascii()),
            None => f.write_str(", and no driver has it"),
        }
    }
}
