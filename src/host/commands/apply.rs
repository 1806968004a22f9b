// SPDX-License-Identifier: MIT OR Apache-2.0
//! `apply`: what the early binary does at boot, now.

use anyhow::{Result, bail};
use log::Level;
use vfio_override::message::{self, Answer};
use vfio_override::plan::Plan;
use vfio_override::run::Run;
use vfio_override::system::System;
use vfio_override::warnings;

use crate::args::Apply;
use crate::change::modprobe::{Loading, modprobe};
use crate::change::worker::Progress;
use crate::change::{self, Change, Recorder, Task};
use crate::commands::plan;
use crate::machine::binding;
use crate::machine::functions::{Device, Devices};
use crate::machine::usage::Usage;
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
    let mut warnings = Vec::new();
    let taken: Vec<Device> = {
        let run = asked.preview(machine);
        warnings::each(&run.plan, &mut |warning| warnings.push(warning.to_string()));
        run.plan.taken().filter_map(|step| devices.get(step.function.address).cloned()).collect()
    };
    let usage = Usage::of(machine, &devices);
    let of_root =
        |device: &Device| Some((device.address.clone(), usage.root_on(device.function.address)?));
    if let Some((address, what)) = taken.iter().find_map(of_root) {
        bail!("the host runs from {address} ({what}), and would stop: nothing was done");
    }
    let (style, limit) = (devices.style(), options.patience.limit());
    let task = Task { change: Change::Apply, devices: &taken, warnings: &warnings };
    change::carry_out(&task, machine, style, limit, json, |machine, progress| {
        work(machine, &asked, &taken, progress)
    })
}

fn work(machine: &mut Machine, asked: &Asked, taken: &[Device], progress: Progress) -> bool {
    machine.tree.progress = progress.share();
    let mut steps = progress.share();
    let recorder = Recorder::new(Change::Apply, machine.kind, progress);
    let mut run = asked.run();
    run.apply(&mut machine.tree);
    let loadings = if machine.kind == Kind::Live {
        load_drivers(&mut run, &mut machine.tree, &mut steps)
    } else {
        Vec::new()
    };
    let is_applied = run.report(&recorder);
    let is_loaded = loadings.iter().all(|(level, _)| *level == Level::Info);
    for (level, line) in loadings {
        message::log(&recorder, level, &line);
    }
    let is_kept = look_again(&mut machine.tree, taken, &run.plan, is_applied, &recorder);
    is_applied && is_loaded && is_kept
}

/// Whether every override is still what this run made of it: another program, or another `apply`, may have written
/// one meanwhile. Where not every rule `is_applied`, an override that is not set is one that could not be, and was
/// logged before.
fn look_again(
    system: &mut impl System,
    taken: &[Device],
    plan: &Plan,
    is_applied: bool,
    recorder: &Recorder,
) -> bool {
    let mut is_kept = true;
    for device in taken {
        let address = device.function.address;
        let Some(step) = plan.taken().find(|step| step.function.address == address) else {
            is_kept = false;
            message::log(
                recorder,
                Level::Warn,
                &format_args!(
                    "{}: no rule takes it any more: it went away while the rules were applied, or is another function now",
                    device.address
                ),
            );
            continue;
        };
        let driver = step.driver.escape_ascii().to_string();
        let Ok(kept_for) = binding::override_of(system, address) else { continue };
        let kept_for = kept_for.map(|name| name.escape_ascii().to_string());
        if kept_for.as_ref() == Some(&driver) || kept_for.is_none() && !is_applied {
            continue;
        }
        is_kept = false;
        let address = &device.address;
        let now = kept_for.unwrap_or_else(|| "not set".to_owned());
        message::log(
            recorder,
            Level::Warn,
            &format_args!(
                "{address}: its driver_override is {now} in the end, not {driver}: another program, or another \
                 apply, wrote it meanwhile"
            ),
        );
    }
    is_kept
}

/// Loads each driver that does not have all its functions yet. Returns what is to be logged of it.
fn load_drivers(
    run: &mut Run<'_>,
    system: &mut impl System,
    steps: &mut Progress,
) -> Vec<(Level, String)> {
    let mut lines = Vec::new();
    for mut driver in run.drivers() {
        let (kept, bound) = run.bound_to(&driver);
        if bound == kept {
            continue;
        }
        let name = driver.escape_ascii().to_string();
        steps.about_to_run(&format!("modprobe {name}"));
        let answer = modprobe(&name);
        run.verify_loaded(system, &mut driver, matches!(answer, Answer::Loaded));
        let loading = Loading { answer, name: &name };
        let (kept, bound) = run.bound_to(&driver);
        let level = if bound == kept { Level::Info } else { Level::Warn };
        let rest = if bound == kept { "" } else { "; the others wait, untouched" };
        lines.push((level, format!("{loading}, {bound} of {kept} functions bound{rest}")));
    }
    lines
}
