//! `apply`: what the early binary does at boot, now.

use std::fmt;
use std::process::{Command, Stdio};

use anyhow::Result;
use log::Level;
use vfio_override::report::{Journal, LoadingResult};
use vfio_override::run::Run;
use vfio_override::system::System;

use crate::args::Apply;
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
    let taken: Vec<Device> = {
        let (run, _) = asked.preview(machine);
        let taken = run.plan().decisions.taken(run.rules(), run.inventory());
        taken.filter_map(|taken| devices.get(taken.function.address).cloned()).collect()
    };
    let (style, limit) = (devices.style(), options.patience.limit());
    change::carry_out(Change::Apply, machine, &taken, style, limit, json, |machine, progress| {
        work(machine, &asked, progress)
    })
}

fn work(machine: &mut Machine, asked: &Asked, progress: Progress) -> bool {
    machine.tree.progress = progress.share();
    let mut steps = progress.share();
    let recorder = Recorder::new(Change::Apply, machine.kind, progress);
    let mut run = asked.run();
    let is_applied = run.apply(&mut machine.tree, None, &recorder);
    let is_loaded = machine.kind != Kind::Live
        || load_drivers(&run, &mut machine.tree, &mut steps, Journal::new(&recorder, false));
    is_applied && is_loaded
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

/// What came of loading a module. What the early binary says of it speaks of its image.
pub struct Loading<'a> {
    /// The module or an alias of it.
    pub name: &'a str,
    pub result: LoadingResult,
}

impl fmt::Display for Loading<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match self.result {
            LoadingResult::Loaded => write!(f, "{name} loaded"),
            LoadingResult::Refused(status) => {
                write!(f, "modprobe {name} ended with status {status}")
            }
            LoadingResult::Crashed => write!(f, "modprobe {name} was killed"),
            LoadingResult::NoModprobe => write!(f, "there is no modprobe to load {name}"),
            LoadingResult::NotStarted(errno) => {
                write!(f, "modprobe {name} cannot be started: {errno}")
            }
        }
    }
}

/// Loads a module by its name or alias.
pub fn modprobe(name: &str) -> LoadingResult {
    let mut command = Command::new("modprobe");
    command.args(["-q", "--", name]).stdin(Stdio::null());
    match command.status() {
        Ok(status) => match status.code() {
            Some(0) => LoadingResult::Loaded,
            Some(status) => LoadingResult::Refused(status),
            None => LoadingResult::Crashed,
        },
        Err(error) => match error.raw_os_error().map(nix::errno::Errno::from_raw) {
            None | Some(nix::errno::Errno::ENOENT) => LoadingResult::NoModprobe,
            Some(errno) => LoadingResult::NotStarted(errno),
        },
    }
}
