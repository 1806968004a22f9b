//! `apply`: what the early binary does at boot, now.

use anyhow::Result;
use log::Level;
use vfio_override::apply;
use vfio_override::report::Journal;
use vfio_override::run::Run;
use vfio_override::system::System;

use crate::args::Apply;
use crate::change::modprobe::{Loading, modprobe};
use crate::change::worker::Progress;
use crate::change::{self, Change, Recorder};
use crate::commands::plan;
use crate::machine::functions::{Device, Devices};
use crate::machine::{Kind, Machine};
use crate::rules::preview::Asked;
use crate::screen::{PLAIN, Screen};
use crate::verdict::Verdict;

pub fn run(machine: &mut Machine, options: &Apply, json: bool) -> Result<Verdict> {
    if machine.kind == Kind::Copy {
        let verdict = plan::run(machine, &options.rules.rules, json)?;
        if !json {
            Screen::new().line(PLAIN, "this is a copy: nothing was done");
        }
        return Ok(verdict);
    }
    let asked = Asked::of(machine, &options.rules.rules)?;
    let devices = Devices::of(machine);
    let (taken, drivers): (Vec<Device>, Vec<String>) = {
        let (run, _) = asked.preview(machine);
        let taken = run.plan().decisions.taken(run.rules(), run.inventory());
        let known = taken.filter_map(|taken| {
            let device = devices.get(taken.function.address)?.clone();
            Some((device, taken.driver.escape_ascii().to_string()))
        });
        known.unzip()
    };
    let (style, limit) = (devices.style(), options.patience.limit());
    change::carry_out(Change::Apply, machine, &taken, style, limit, json, |machine, progress| {
        work(machine, &asked, taken.iter().zip(&drivers), progress)
    })
}

fn work<'a>(
    machine: &mut Machine,
    asked: &Asked,
    taken: impl Iterator<Item = (&'a Device, &'a String)>,
    progress: Progress,
) -> bool {
    machine.tree.progress = progress.share();
    let mut steps = progress.share();
    let recorder = Recorder::new(Change::Apply, machine.kind, progress);
    let mut run = asked.run();
    let is_applied = run.apply(&mut machine.tree, None, &recorder);
    let is_loaded = machine.kind != Kind::Live
        || load_drivers(&run, &mut machine.tree, &mut steps, Journal::new(&recorder, false));
    let is_kept = look_again(&mut machine.tree, taken, is_applied, Journal::new(&recorder, false));
    is_applied && is_loaded && is_kept
}

/// Whether every override is still what this run made of it: another program, or another `apply`, may have written
/// one meanwhile. Where not every rule `is_applied`, an override that is not set is one that could not be, and was
/// logged before.
fn look_again<'a>(
    system: &mut impl System,
    taken: impl Iterator<Item = (&'a Device, &'a String)>,
    is_applied: bool,
    journal: Journal<'_>,
) -> bool {
    let mut is_kept = true;
    for (device, driver) in taken {
        let Ok(kept_for) = apply::override_of(system, device.function.address) else { continue };
        let kept_for = kept_for.map(|name| name.escape_ascii().to_string());
        if kept_for.as_ref() == Some(driver) || kept_for.is_none() && !is_applied {
            continue;
        }
        is_kept = false;
        let address = &device.address;
        let now = kept_for.unwrap_or_else(|| "not set".to_owned());
        journal.say(
            Level::Warn,
            &format_args!(
                "{address}: its driver_override is {now} in the end, not {driver}: another program, or another \
                 apply, wrote it meanwhile"
            ),
        );
    }
    is_kept
}

/// Loads each driver that does not have all its functions yet. Returns whether each has all then.
fn load_drivers(
    run: &Run<'_>,
    system: &mut impl System,
    steps: &mut Progress,
    journal: Journal<'_>,
) -> bool {
    let mut is_bound = true;
    for driver in run.drivers() {
        let (kept, bound) = run.bound_to(system, driver);
        if bound == kept {
            continue;
        }
        let name = driver.escape_ascii().to_string();
        steps.about_to_run(&format!("modprobe {name}"));
        let loading = Loading { result: modprobe(&name), name: &name };
        let (kept, bound) = run.bound_to(system, driver);
        is_bound &= bound == kept;
        let level = if bound == kept { Level::Info } else { Level::Warn };
        let rest = if bound == kept { "" } else { "; the others wait, untouched" };
        journal.say(level, &format_args!("{loading}, {bound} of {kept} functions bound{rest}"));
    }
    is_bound
}
