// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: what a run costs, beside what people use today.

pub mod counts;
mod growth;
mod guest;
mod meter;
mod page;
mod peers;
mod plot;
mod scene;
mod stage;

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::build::{self, Binary, MuslOptions, Target};
use crate::ground::setup;
use crate::ground::verdict::Verdict;
use crate::ground::workspace::Workspace;
use crate::installed::contest;

/// Measure the early binary beside what people use today
///
/// What it keeps: a Debian in a guest boots with each, which has to keep one of two identical cards.
///
/// What it costs: all programs keep the same functions for vfio-pci, on the same copy of sysfs, which is mounted over
/// /sys in a mount namespace of its own: this takes root. Time is that of the whole process, the
/// median of pairs in which a program and the floor take turns; all else is counted.
///
/// Prints the tables, writes them into docs/performance.md and README.md, and the plots beside the
/// former.
#[derive(Args)]
pub struct Options {
    /// Measure only this part, and write nothing into the documentation
    #[arg(value_name = "PART")]
    part: Option<Part>,

    #[command(flatten)]
    musl: MuslOptions,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Against what people use
    Peers,
    /// How cost grows with the functions on the bus
    Growth,
    /// Instructions in a guest: of a run in the kernel's own sysfs, and of a boot
    Guest,
    /// Which drivers probe the card that each of what people use is to keep, and which its twin
    Boots,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.part.is_none_or(|only| only == part)
    }
}

/// A table by its name in the documentation.
type Table = (&'static str, String);

pub fn run(options: &Options) -> Result<Verdict> {
    let workspace = Workspace::locate()?;
    let musl = build::build_or_stop(&workspace, Target::MUSL, options.musl)?;
    let mut tables: Vec<Table> = Vec::new();
    let mut complaints = Vec::new();
    if options.wants(Part::Boots) {
        setup::ensure(&[&setup::QEMU, &setup::MMDEBSTRAP, &setup::MAKE])?;
        let contest = contest::run(&workspace, &musl.path)?;
        complaints = contest.complaints();
        tables.push(("boots", page::contest(&contest)));
    }
    if options.part != Some(Part::Boots) {
        tables.extend(costs(&workspace, options, &musl)?);
    }
    for (name, text) in &tables {
        println!("\n{name}\n\n{text}");
        if options.part.is_none() {
            let is_in_readme = matches!(*name, "summary" | "boots");
            let file = if is_in_readme { "README.md" } else { "docs/performance.md" };
            page::replace(&workspace.root.join(file), name, text)?;
        }
    }
    for complaint in &complaints {
        println!("FAILED: {complaint}");
    }
    Ok(if complaints.is_empty() { Verdict::Good } else { Verdict::Bad })
}

/// What a run costs.
fn costs(workspace: &Workspace, options: &Options, musl: &Binary) -> Result<Vec<Table>> {
    let mut tools = vec![&setup::VALGRIND, &setup::BUSYBOX];
    tools.extend(&setup::PEERS);
    setup::ensure(&tools)?;
    let glibc = build::build_or_stop(workspace, Target::GLIBC, options.musl)?;
    let floor = build::floor(workspace, options.musl)?;
    let scratch = workspace.scratch("bench")?;
    let applets = tempfile::tempdir()?;
    for name in ["ash", "cat", "sed"] {
        symlink(setup::BUSYBOX.path()?, applets.path().join(name))?;
    }

    let mut in_guests = Vec::new();
    if options.wants(Part::Guest) {
        setup::ensure(&[&setup::QEMU])?;
        in_guests.push(("sysfs", page::sysfs(&guest::in_sysfs(workspace, &musl.path, &floor)?)));
        in_guests.push(("guest", page::boots(&guest::measure(workspace, &musl.path)?)));
    }

    // From here on /sys is not the machine's.
    stage::enter()?;
    let mut tables = vec![("machine", page::machine()?), ("sizes", page::sizes(&[musl, &glibc])?)];
    if options.wants(Part::Peers) {
        let early = [("early, musl", musl.path.clone()), ("early, glibc", glibc.path.clone())];
        let scripts = workspace.root.join("xtask/peers");
        let all = peers::all(early, floor.clone(), &scripts, applets.path())?;
        let comparison = peers::compare(&all, &setup::VALGRIND.path()?, &scratch)?;
        tables.push(("peers", page::comparison(&comparison)));
        tables.push(("summary", page::summary(&comparison)));
    }
    if options.wants(Part::Growth) {
        let curves = growth::measure(&musl.path, &floor)?;
        let documents = options.part.is_none().then(|| workspace.root.join("docs/performance"));
        let pictures = documents.unwrap_or(scratch);
        fs::create_dir_all(&pictures)?;
        let milliseconds = |point: &growth::Point| point.time.as_secs_f64() * 1e3;
        plot::draw(&pictures.join("time.svg"), "milliseconds", &curves, milliseconds)?;
        plot::draw(&pictures.join("calls.svg"), "system calls", &curves, |point| {
            f64::from(point.calls)
        })?;
        tables.push(("growth", page::growth(&curves)));
    }
    tables.extend(in_guests);
    Ok(tables)
}
