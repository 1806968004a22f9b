// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the boots of `cargo xtask test`, two at a time, and judges each.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::build::Binary;
use crate::cases::case::{Case, Fault, FaultKind, INIT_ARGUMENTS, INIT_VARIABLE, Mode};
use crate::cases::judge;
use crate::ground::arch::{Arch, X86_64};
use crate::ground::command;
use crate::ground::pool;
use crate::ground::progress;
use crate::ground::setup;
use crate::ground::table;
use crate::ground::verdict::NotTestable;
use crate::ground::workspace::Workspace;
use crate::guest::evidence::Evidence;
use crate::guest::image::Ingredients;
use crate::guest::kernel::{self, Kernel};
use crate::guest::kernels;
use crate::guest::machine::{E1000E, Machine};
use crate::guest::modules::{Modules, Presence};
use crate::guest::probes;
use crate::guest::programs::Program;
use crate::guest::qemu;
use crate::guest::session::{ARTEFACTS, Artefacts, Interaction, Session, Stop};

type Prepared = Result<(Kernel, Ingredients), String>;

/// Each kernel with what an image needs of it, read once for all boots.
pub struct Kernels {
    /// By the architecture's name and their own.
    known: BTreeMap<[&'static str; 2], Prepared>,
}

impl Kernels {
    /// Fetches every kernel that is to be booted; one that cannot be had fails its boots only.
    pub fn prepare(workspace: &Workspace, cells: &[Cell]) -> Self {
        let mut known = BTreeMap::new();
        for Cell { case, kernel } in cells {
            known.entry([case.arch.name, *kernel]).or_insert_with(|| {
                Self::one(workspace, kernel, case.arch).map_err(|error| format!("{error:#}"))
            });
        }
        Self { known }
    }

    fn one(
        workspace: &Workspace,
        name: &str,
        arch: &'static Arch,
    ) -> Result<(Kernel, Ingredients)> {
        setup::ensure(&[&arch.guest.emulator])?;
        let kernel = kernel::named(name, arch, workspace)?;
        progress::note(format_args!("the kernel {name} is {}", kernel.release));
        let ingredients = Ingredients::of(workspace, &kernel)?;
        Ok((kernel, ingredients))
    }

    fn get(&self, arch: &Arch, name: &'static str) -> Result<&(Kernel, Ingredients)> {
        self.known
            .get(&[arch.name, name])
            .with_context(|| format!("kernel {name} was not prepared"))?
            .as_ref()
            .map_err(|error| anyhow!("{error}").context(NotTestable(format!("kernel {name}"))))
    }
}

/// A boot that is wanted.
#[derive(Clone, Copy)]
pub struct Cell<'a> {
    case: &'a Case,
    kernel: &'static str,
}

impl<'a> Cell<'a> {
    /// Every case on each of its kernels.
    pub fn all(cases: &'a [Case]) -> impl Iterator<Item = Self> {
        let cells =
            |case: &'a Case| case.kernels().iter().map(move |&kernel| Self { case, kernel });
        cases.iter().flat_map(cells)
    }

    /// Whether it is for `--all` only.
    pub fn is_long(self) -> bool {
        self.case.is_long_on(self.kernel)
    }

    pub fn arch(self) -> &'static Arch {
        self.case.arch
    }

    /// The case with the kernel: `hook, 6.12`, or `hook, aarch64 6.12`.
    pub fn name(self) -> String {
        let Self { case, kernel } = self;
        if case.arch == X86_64 {
            format!("{}, {kernel}", case.name)
        } else {
            format!("{}, {} {kernel}", case.name, case.arch)
        }
    }
}

/// What came of the boots.
pub struct Boots<'a> {
    pub boots: Vec<Boot<'a>>,
    /// From the start of the first to the end of the last.
    pub took: Duration,
}

/// One boot of a case.
pub struct Boot<'a> {
    pub cell: Cell<'a>,
    took: Duration,
    pub outcome: Judgement,
}

/// What came of a boot; what is wrong is told with where the artefacts are.
pub enum Judgement {
    Passed(Tally),
    /// What is tested is wrong.
    Failed(String),
    /// It could not be tested.
    NotTested(String),
}

/// What was looked at.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    functions: usize,
    probes: usize,
    /// What the scene counted, or has to show.
    pub figures: Vec<String>,
}

/// Boots them all. A binary that could not be built fails the boots that need it.
pub fn run<'a>(
    workspace: &Workspace,
    cells: &'a [Cell],
    kernels: &Kernels,
    binaries: &[Binary],
) -> Boots<'a> {
    // Before any boot, since these are timed.
    let programs = build_programs(workspace, cells);
    let start = Instant::now();
    let boots = pool::each(cells, |cell| timed(workspace, *cell, kernels, binaries, &programs));
    Boots { boots, took: start.elapsed() }
}

/// Where each program is that guests run besides the early binary, or why it did not build.
type Programs = BTreeMap<(&'static str, Program), Result<PathBuf, String>>;

fn build_programs(workspace: &Workspace, cells: &[Cell]) -> Programs {
    let mut programs = Programs::new();
    for (case, program) in cells
        .iter()
        .flat_map(|Cell { case, .. }| case.programs.iter().map(move |program| (case, program)))
    {
        programs.entry((case.arch.name, *program)).or_insert_with(|| {
            program
                .build(workspace, case.arch)
                .map_err(|error| format!("{} did not build: {error:#}", program.name()))
        });
    }
    programs
}

/// The table of cases by kernel with a dash where a case was not booted, why some are not booted on every
/// kernel, and what was looked at in all.
pub fn show(Boots { boots, took }: &Boots) -> String {
    let mut kernels: Vec<&str> = Vec::new();
    let mut cases: Vec<&Case> = Vec::new();
    for Boot { cell, .. } in boots {
        if !kernels.contains(&cell.kernel) {
            kernels.push(cell.kernel);
        }
        if cases.last().is_none_or(|case| !is_same(case, cell.case)) {
            cases.push(cell.case);
        }
    }
    let cell = |case: &Case, kernel: &str| {
        let is_here = |boot: &&Boot| is_same(boot.cell.case, case) && boot.cell.kernel == kernel;
        boots.iter().find(is_here).map_or_else(
            || "-".to_owned(),
            |boot| match boot.outcome {
                Judgement::Passed(_) => format!("{:.1} s", boot.took.as_secs_f64()),
                Judgement::Failed(_) => "FAILED".to_owned(),
                Judgement::NotTested(_) => "NOT TESTED".to_owned(),
            },
        )
    };
    let row = |case: &&Case| {
        let cells = kernels.iter().map(|kernel| cell(case, kernel));
        [case.name.clone(), case.arch.to_string(), case.mode.to_string(), case.libc.to_string()]
            .into_iter()
            .chain(cells)
            .collect::<Vec<_>>()
    };
    let header =
        ["case", "architecture", "mode", "libc"].into_iter().chain(kernels.iter().copied());
    let mut parts = vec![table::plain(header, cases.iter().map(row))];
    parts.extend(limits(&cases));
    parts.extend(figures(boots));
    parts.push(total(boots, *took));
    parts.join("\n")
}

/// Whether boots of both are in the same row.
fn is_same(one: &Case, other: &Case) -> bool {
    one.name == other.name && one.arch == other.arch
}

/// Each reason for which a case is booted on some kernels only.
fn limits(cases: &[&Case]) -> Option<String> {
    let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
    for case in cases {
        let Some(reason) = case.limits else { continue };
        let line = format!("only on {}, because {reason}", case.kernels().join(" and "));
        match lines.iter_mut().find(|(known, _)| *known == line) {
            Some((_, names)) => names.push(&case.name),
            None => lines.push((line, vec![&case.name])),
        }
    }
    let line = |(line, names): (String, Vec<&str>)| format!("{line}: {}\n", names.join(", "));
    Some(lines.into_iter().map(line).collect()).filter(|text: &String| !text.is_empty())
}

/// What the scenes counted.
fn figures(boots: &[Boot]) -> Option<String> {
    let mut lines = Vec::new();
    for boot in boots {
        if let Judgement::Passed(Tally { figures, .. }) = &boot.outcome {
            lines.extend(figures.iter().map(|figure| format!("{}: {figure}", boot.cell.name())));
        }
    }
    (!lines.is_empty()).then(|| lines.join("\n") + "\n")
}

/// What was looked at in all, and how long it took.
pub fn total(boots: &[Boot], took: Duration) -> String {
    let mut sum = Tally::default();
    for boot in boots {
        if let Judgement::Passed(tally) = &boot.outcome {
            sum.functions += tally.functions;
            sum.probes += tally.probes;
        }
    }
    let seconds: f64 = boots.iter().map(|boot| boot.took.as_secs_f64()).sum();
    #[expect(clippy::cast_precision_loss, reason = "nobody boots 2^52 guests")]
    let each = seconds / boots.len() as f64;
    format!(
        "{} boots in {:.1} min, {} at a time, of {each:.1} s on average; {} functions and {} probes judged\n",
        boots.len(),
        took.as_secs_f64() / 60.0,
        pool::AT_ONCE,
        sum.functions,
        sum.probes
    )
}

fn timed<'a>(
    workspace: &Workspace,
    cell: Cell<'a>,
    kernels: &Kernels,
    binaries: &[Binary],
    programs: &Programs,
) -> Boot<'a> {
    let start = Instant::now();
    let outcome = boot(workspace, cell, kernels, binaries, programs)
        .unwrap_or_else(|error| Judgement::NotTested(format!("{error:#}")));
    let outcome = match &cell.case.fault {
        None => outcome,
        Some(fault) => invert(fault, &outcome),
    };
    let boot = Boot { cell, took: start.elapsed(), outcome };
    let result = match boot.outcome {
        Judgement::Passed(_) => "",
        Judgement::Failed(_) => "  FAILED",
        Judgement::NotTested(_) => "  NOT TESTED",
    };
    eprintln!("  boot {:<53} {:>6.1} s{result}", cell.name(), boot.took.as_secs_f64());
    boot
}

/// What came of a boot with which something had to be found wrong.
fn invert(fault: &Fault, outcome: &Judgement) -> Judgement {
    let (kind, said) = match outcome {
        Judgement::Passed(_) => {
            return Judgement::Failed(format!(
                "nothing was found wrong, expected \"{}\"",
                fault.text
            ));
        }
        Judgement::Failed(said) => (FaultKind::Test, said),
        Judgement::NotTested(said) => (FaultKind::Infrastructure, said),
    };
    if kind == fault.kind && said.contains(&fault.text) {
        Judgement::Passed(Tally::default())
    } else {
        Judgement::Failed(format!(
            "expected a fault of kind {:?} that tells \"{}\", found one of kind {kind:?}:\n{said}",
            fault.kind, fault.text
        ))
    }
}

fn boot(
    workspace: &Workspace,
    Cell { case, kernel: name }: Cell,
    kernels: &Kernels,
    binaries: &[Binary],
    programs: &Programs,
) -> Result<Judgement> {
    let (kernel, ingredients) = kernels.get(case.arch, name)?;
    let drivers = case.drivers();
    let is_absent = |module: &&str| kernel.modules.presence(module) == Presence::Absent;
    if kernels::named(name).is_some_and(|source| !source.few_drivers)
        && let Some(module) = drivers.all().into_iter().find(is_absent)
    {
        return Ok(Judgement::Failed(format!("kernel {name} has no module {module}")));
    }
    let binary = binaries
        .iter()
        .find(|binary| binary.target.arch == kernel.arch && binary.target.libc() == case.libc)
        .with_context(|| format!("the {} binary did not build", case.libc))?;
    let mut image = ingredients.mix(kernel, &binary.path, &drivers)?;
    image.merge(&case.files);
    let mut machine = case.machine.clone();
    for program in &case.programs {
        match &programs[&(case.arch.name, *program)] {
            Ok(built) if *program == Program::EfiDisplay => machine.efi_rom = Some(built.clone()),
            Ok(built) => image.program_from(&format!("bin/{}", program.name()), built)?,
            Err(error) => return Ok(Judgement::Failed(error.clone())),
        }
    }
    if case.has_second_kernel {
        let bytes = image.to_bytes()?;
        image.file("second/initrd", bytes);
        image.program_from("second/vmlinuz", &kernel.image)?;
    }
    let session = Session {
        name: &format!("{}-{}", case.name, kernel.release),
        kernel,
        image: image.to_bytes()?,
        parameters: case.command_line(),
        machine: &machine,
        tests_pid1: case.mode == Mode::Rdinit,
        patience: case.patience,
        interaction: Interaction::Silent,
    };
    observe(workspace, &session, case, |evidence| judge_case(case, &kernel.modules, evidence))
}

/// Boots and judges; once more, if the kernel crashed before there was anything to judge.
pub fn observe(
    workspace: &Workspace,
    session: &Session,
    case: &Case,
    judge: impl Fn(&Evidence) -> Vec<String>,
) -> Result<Judgement> {
    let attempt = || {
        let artefacts = Artefacts::create(workspace, session.name)?;
        let judged = session.run(&artefacts).and_then(|running| {
            let tally = tally(&running.evidence);
            let complaints = judge(&running.evidence);
            Ok((running.finish(Interaction::Silent, complaints)?, tally))
        });
        anyhow::Ok((artefacts, judged))
    };
    let (mut artefacts, mut judged) = attempt()?;
    if judged.is_err() && artefacts.has_kernel_died_alone() {
        eprintln!("  {}: the kernel crashed before its first process; once more", session.name);
        (artefacts, judged) = attempt()?;
    }
    Ok(match judged {
        Ok((complaints, tally)) if complaints.is_empty() => Judgement::Passed(tally),
        Ok((complaints, _)) => {
            Judgement::Failed(evidence_of(&complaints.join("\n"), case, artefacts))
        }
        Err(stop @ Stop::Guest(_)) => {
            Judgement::Failed(evidence_of(&stop.to_string(), case, artefacts))
        }
        Err(stop @ Stop::Infrastructure(_)) => {
            Judgement::NotTested(evidence_of(&stop.to_string(), case, artefacts))
        }
    })
}

/// Whether a boot that fails leaves what it says, and the same after it was booted again.
pub fn check_artefacts(workspace: &Workspace, binaries: &[Binary]) -> Result<()> {
    let case = Case::new("kept", Machine::new().with("00:03.0", E1000E))
        .mode(Mode::Control)
        .taken(["00:03.0"])
        .only_on(&["6.1"], "one will do");
    let cases = [case];
    let cells: Vec<Cell> = Cell::all(&cases).collect();
    let kernels = Kernels::prepare(workspace, &cells);
    let Judgement::Failed(told) = boot(workspace, cells[0], &kernels, binaries, &Programs::new())?
    else {
        bail!("the boot did not fail");
    };
    let script = told.rsplit_once(": sh ").map(|(_, script)| PathBuf::from(script));
    let script = script.with_context(|| format!("no script is told:\n{told}"))?;
    let directory = script.parent().unwrap_or(Path::new("/"));
    let artefacts = || ARTEFACTS.map(|name| fs::read(directory.join(name)).unwrap_or_default());
    let before = artefacts();
    command::check(Command::new("sh").arg(&script).stdin(Stdio::null()))?;
    if artefacts() != before {
        bail!("booting it again changed what is in {}", directory.display());
    }
    for directory in [directory, &directory.join("again")] {
        let read = |name| fs::read_to_string(directory.join(name)).unwrap_or_default();
        Evidence::read(&read(qemu::REPORT), &read(qemu::KERNEL_LOG))
            .with_context(|| format!("in {}", directory.display()))?;
    }
    fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))
}

/// What is wrong, with the case's story, the end of the console and where the artefacts are, which are kept unless the
/// boot was to go wrong.
fn evidence_of(wrong: &str, case: &Case, artefacts: Artefacts) -> String {
    let evidence =
        if case.fault.is_some() { artefacts.console_tail() } else { artefacts.keep_as_evidence() };
    let story = case.story.as_ref().map_or_else(String::new, |story| format!("{story}\n"));
    format!("{wrong}\n{story}{evidence}")
}

fn tally(evidence: &Evidence) -> Tally {
    Tally {
        functions: evidence.report.devices.len(),
        probes: probes::probes(&evidence.log).count(),
        figures: evidence.report.figures.clone(),
    }
}

/// What is wrong with a boot on a kernel with these modules.
pub fn judge_case(case: &Case, modules: &Modules, evidence: &Evidence) -> Vec<String> {
    let rows = judge::rows(evidence);
    let mut complaints = judge::judge_expected(&rows, &case.expectations(modules));
    for text in &case.logged {
        if !evidence.early_records().any(|record| record.contains(text)) {
            complaints.push(format!("no record of the early binary holds \"{text}\""));
        }
    }
    complaints.extend(judge::judge_guest(&evidence.report, &case.told));
    complaints.extend(judge_start(case, evidence));
    complaints.extend(case.also.iter().flat_map(|check| check(evidence)));
    complaints
}

/// What is wrong with the way that the early binary ended, or handed over to the real init.
pub fn judge_start(case: &Case, evidence: &Evidence) -> Vec<String> {
    match case.mode {
        Mode::Hook => judge::judge_status(evidence, case.status).into_iter().collect(),
        Mode::Rdinit => {
            let entry = &evidence.report.entry;
            let mut complaints = judge::judge_entry(entry, &INIT_ARGUMENTS, INIT_VARIABLE);
            complaints.extend(judge_delay(case.init_within, evidence.seconds_to_init()));
            complaints
        }
        Mode::Control => Vec::new(),
    }
}

fn judge_delay(limit: Option<Duration>, seconds: Option<f64>) -> Option<String> {
    let limit = limit?.as_secs_f64();
    match seconds {
        Some(seconds) if seconds <= limit => None,
        Some(seconds) => Some(format!(
            "/init: started {seconds:.1} s after PID 1, expected at most {limit:.1} s"
        )),
        None => Some("/init: its start time is not known".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str) -> Case {
        Case::new(name, Machine::new())
    }

    fn boot_of<'a>(case: &'a Case, kernel: &'static str, outcome: Judgement) -> Boot<'a> {
        Boot { cell: Cell { case, kernel }, took: Duration::from_millis(1500), outcome }
    }

    #[test]
    fn the_table_shows_each_cell_and_counts_what_passed() {
        let one = case("one");
        let [two, three] =
            ["two", "three"].map(|name| case(name).only_on(&["6.12"], "6.1 is too old"));
        let tally = Tally { functions: 7, probes: 5, figures: vec!["3 rounds".to_owned()] };
        let boots = vec![
            boot_of(&one, "6.1", Judgement::Passed(tally.clone())),
            boot_of(&one, "6.12", Judgement::NotTested("no kernel".to_owned())),
            boot_of(&two, "6.12", Judgement::Failed("probed".to_owned())),
            boot_of(&three, "6.12", Judgement::Passed(tally)),
        ];
        assert_eq!(
            show(&Boots { boots, took: Duration::from_secs(90) }),
            "case   architecture  mode  libc  6.1    6.12\n\
             one    x86_64        hook  musl  1.5 s  NOT TESTED\n\
             two    x86_64        hook  musl  -      FAILED\n\
             three  x86_64        hook  musl  -      1.5 s\n\
             \n\
             only on 6.12, because 6.1 is too old: two, three\n\
             \n\
             one, 6.1: 3 rounds\n\
             three, 6.12: 3 rounds\n\
             \n\
             4 boots in 1.5 min, 2 at a time, of 1.5 s on average; 14 functions and 10 probes judged\n"
        );
    }

    #[test]
    fn a_case_is_booted_on_every_kernel_that_it_does_not_rule_out() {
        let cases = [case("one"), case("two").only_on(&["6.12"], "6.1 is too old")];
        let names: Vec<String> = Cell::all(&cases).map(Cell::name).collect();
        let every = kernels::of(X86_64).into_iter().map(|kernel| format!("one, {kernel}"));
        assert_eq!(names, every.chain(["two, 6.12".to_owned()]).collect::<Vec<_>>());
    }

    #[test]
    fn a_boot_that_must_go_wrong_passes_only_with_that_fault() {
        let fault = Fault { kind: FaultKind::Test, text: "hangs".to_owned() };
        let found = |outcome| matches!(invert(&fault, &outcome), Judgement::Passed(_));
        assert!(found(Judgement::Failed("it hangs: waited 3 s".to_owned())));
        assert!(!found(Judgement::Failed("it panicked".to_owned())));
        assert!(!found(Judgement::NotTested("it hangs: waited 3 s".to_owned())));
        assert!(!found(Judgement::Passed(Tally::default())));
    }
}
