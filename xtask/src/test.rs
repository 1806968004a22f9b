// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: every check there is, and every boot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::bench::counts;
use crate::build::mutants::{MUTANTS, Mutant, Replica};
use crate::build::{self, Binary, HOST_TOOL, MuslOptions, Target};
use crate::cases;
use crate::cases::case::Case;
use crate::cases::suite::{self, Judgement, Kernels};
use crate::deliver::dist::Built;
use crate::foreign::{self, HOST_NOT_EMULATED, MIRI, NOT_EMULATED};
use crate::fuzz::{self, Fuzzer};
use crate::generators;
use crate::generators::{Addon, Cell, Checkouts, Project, SignedImages, Workshop};
use crate::ground::arch::{self, AARCH64, ALL, Arch, X86_64};
use crate::ground::command;
use crate::ground::progress;
use crate::ground::setup;
use crate::ground::verdict::{NotTestable, Verdict};
use crate::ground::workspace::{Workspace, cargo};
use crate::guest::image;
use crate::guest::image::{Drivers, Ingredients};
use crate::guest::kernel;
use crate::guest::machine;
use crate::installed::monitors::{self, MONITORS, Monitor};
use crate::soak;
use crate::trials::{self, Packages, Trial};

/// Run every check and every boot
///
/// Formatting, lints, the tests of the workspace, the grammar on every string of its tokens, documentation, dependencies, the build and audit of
/// both binaries, a proof that the audit can fail, the same binaries and images from another folder,
/// shell files, a minute of fuzzing, boots on the kernels of tests/kernels.toml with the early binary as
/// a hook, as PID 1 and, as the control, not at all, random boots, and boots of the images that real
/// generators make; with --all virtual machine monitors that use in a guest what was kept there. A dash in the table of boots stands where a case was not booted on a kernel; below the
/// table stands why some cases never are.
///
/// Generators and package managers that no Debian has are told as NOT RUN, and are neither passed nor failed, unless a checkout is given.
///
/// A failure does not stop the rest; all failures are told at the end, and the last line counts. A
/// boot that could not be tested (no kernel, no QEMU, in hook mode a guest that does not reach /init)
/// is told apart from one that failed, and is no success either: status 3 if nothing else is wrong.
#[derive(Args)]
pub struct Options {
    /// Run only the checks and boots whose name contains this text
    #[arg(value_name = "TEXT", default_value = "", hide_default_value = true)]
    only: String,

    /// Run what is too long for every change, too
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    musl: MuslOptions,

    #[command(flatten)]
    checkouts: Checkouts,
}

pub fn run(options: &Options) -> Result<Verdict> {
    let workspace = Workspace::locate()?;
    setup::ensure(&[
        &setup::QEMU,
        &setup::BUSYBOX,
        &setup::SHELLCHECK,
        &setup::SHFMT,
        &setup::MAKE,
        &setup::STRACE,
        &setup::SCRIPT,
        &setup::CXX,
        &setup::VALGRIND,
    ])?;
    // Only QEMU itself tells whether it has it.
    setup::ensure(&[&setup::QXL])?;
    let mut ledger = Ledger::new(&options.only, options.all);
    check_sources(&workspace, &mut ledger);
    let binaries = check_builds(&workspace, options.musl, &mut ledger);
    check_binaries(&workspace, &binaries, &mut ledger);
    check_tool(&workspace, options.musl, &mut ledger);
    check_foreign(&workspace, options.musl, &binaries, &mut ledger);
    check_counts(&workspace, &binaries, &mut ledger);
    check_copy(&workspace, options.musl, &binaries, &mut ledger);
    check_fuzzing(&workspace, &mut ledger);
    check_boots(&workspace, &binaries, &mut ledger);
    check_generators(&workspace, &binaries, &options.checkouts, &mut ledger);
    check_packages(&workspace, options.musl, &options.checkouts, &mut ledger);
    check_monitors(&workspace, &binaries, &mut ledger);
    Ok(ledger.close())
}

fn check_sources(workspace: &Workspace, ledger: &mut Ledger) {
    let root = &workspace.root;
    ledger.check("format", || {
        let check = ["--", "--check", "--color", "never"];
        cargo_task(root, &[&["fmt", "--all"][..], &check].concat())?;
        let fuzz = ["fmt", "--manifest-path", "tests/fuzz/Cargo.toml"];
        cargo_task(root, &[&fuzz[..], &check].concat())
    });
    ledger.check("clippy", || {
        let scope = ["clippy", "--locked", "--workspace", "--all-targets", "--all-features"];
        cargo_task(root, &[&scope[..], &["--", "-D", "warnings"]].concat())
    });
    let tests = ["test", "--locked", "--workspace", "--quiet"];
    ledger.check_counted(workspace, "unit tests", Command::new(cargo()).args(tests));
    let release = ["test", "--locked", "--quiet", "--release", "--no-default-features"];
    let exhaustive = ["--test", "library", "exhaustive"];
    let mut command = Command::new(cargo());
    command.args(release).args(exhaustive);
    ledger.check_counted(workspace, "grammar, exhaustively", &mut command);
    ledger.check("an architecture that nobody has tested does not build", || {
        build::refuses_untested(workspace)
    });
    ledger.check("documentation", || document(root));
    ledger.check("dependencies", || deny(workspace, &["bans", "licenses", "sources"]));
    check_advisories(workspace, ledger);
    ledger.check("shell files", || check_shell_files(workspace));
    ledger.check("licences", || check_licences(workspace));
}

/// Advisories change by the day, and so are no property of a commit: where the list of them cannot be had, that is
/// told and nothing more.
fn check_advisories(workspace: &Workspace, ledger: &mut Ledger) {
    let mut is_known = true;
    ledger.check("dependencies: advisories", || match deny(workspace, &["advisories"]) {
        Err(error) if error.to_string().contains("failed to fetch advisory database") => {
            is_known = false;
            Ok(())
        }
        other => other,
    });
    if !is_known {
        // What was not looked at has not passed.
        ledger.passed -= 1;
        let what = "advisories: NOT CHECKED, their database cannot be fetched from here";
        ledger.figures.push(what.to_owned());
    }
}

fn deny(workspace: &Workspace, what: &[&str]) -> Result<()> {
    let mut command = Command::new(setup::cargo_deny(workspace)?);
    command.args(["--all-features", "check"]).args(what).current_dir(&workspace.root);
    command::check(&mut command).map(drop)
}

fn build_name(target: Target) -> String {
    format!("build and audit, {target}")
}

fn emulated_name(target: Target) -> String {
    format!("tests of the early binary, emulated: {target}")
}

/// What has to be built: what most boots need, whatever was selected, and of other architectures, which
/// take tools of their own, what is selected.
fn targets(ledger: &Ledger) -> Vec<Target> {
    let cases = booted();
    let cells = wanted(&cases, ledger);
    let images = wanted_images(ledger);
    let is_booted = |arch: &Arch| {
        cells.iter().any(|cell| cell.arch() == arch)
            || images.iter().any(|cell| cell.arch() == arch)
    };
    let is_needed = |target: &Target| {
        let Target { arch, .. } = *target;
        let is_emulated = ledger.all && ledger.wants(&emulated_name(*target));
        arch == X86_64 || is_booted(arch) || is_emulated || ledger.wants(&build_name(*target))
    };
    Target::all().filter(is_needed).collect()
}

/// The binaries, for the boots; one that fails is missing.
fn check_builds(workspace: &Workspace, musl: MuslOptions, ledger: &mut Ledger) -> Vec<Binary> {
    targets(ledger)
        .into_iter()
        .filter_map(|target| {
            ledger.always(&build_name(target), || build::build_or_stop(workspace, target, musl))
        })
        .collect()
}

/// The tests that run the binaries which ship; without these they are ignored.
fn check_binaries(workspace: &Workspace, binaries: &[Binary], ledger: &mut Ledger) {
    let run_here = binaries.iter().filter(|binary| binary.target.arch.is_native());
    let Ok(paths) = std::env::join_paths(run_here.map(|binary| &binary.path)) else {
        return ledger.fail("tests of the binaries", "a path has a colon");
    };
    let mut command = Command::new(cargo());
    command.args(["test", "--locked", "--quiet", "--tests", "--", "--ignored"]);
    command.env("VFIO_OVERRIDE_EARLY", paths);
    ledger.check_counted(workspace, "tests of the binaries", &mut command);
}

/// The tests of the host tool with the file that ships, which is static; without this they run cargo's.
fn check_tool(workspace: &Workspace, musl: MuslOptions, ledger: &mut Ledger) {
    let arch = arch::of_this_machine();
    let name = format!("tests of the host tool, static: {arch}");
    if !ledger.wants(&name) {
        return;
    }
    let build = || build::static_program(workspace, arch, musl, HOST_TOOL);
    let Some(tool) = ledger.always("build the host tool, static", build) else { return };
    let mut command = Command::new(cargo());
    command.args(["test", "--locked", "--quiet"]).args(foreign::HOST_TESTS);
    command.env(foreign::TOOL, tool);
    ledger.check_counted(workspace, &name, &mut command);
}

/// The same with those for other architectures, the host tool's tests too, and the library where bytes may be the other
/// way round.
fn check_foreign(
    workspace: &Workspace,
    musl: MuslOptions,
    binaries: &[Binary],
    ledger: &mut Ledger,
) {
    if !ledger.all {
        return;
    }
    for binary in binaries.iter().filter(|binary| !binary.target.arch.is_native()) {
        let name = emulated_name(binary.target);
        check_emulated(workspace, &name, &NOT_EMULATED, || foreign::early(binary), ledger);
    }
    for arch in ALL.into_iter().filter(|arch| !arch.is_native()) {
        let name = format!("tests of the host tool, emulated: {arch}");
        let tests = || {
            let tool = build::static_program(workspace, arch, musl, HOST_TOOL)?;
            foreign::host(arch, &tool)
        };
        check_emulated(workspace, &name, &HOST_NOT_EMULATED, tests, ledger);
    }
    for platform in MIRI {
        ledger.check(&format!("the library under Miri, {platform}"), || {
            foreign::miri(workspace, platform)
        });
    }
}

/// Runs tests by an emulation, and tells which of them it cannot run, and why.
fn check_emulated(
    workspace: &Workspace,
    name: &str,
    not_emulated: &[(&str, &str)],
    tests: impl FnOnce() -> Result<Command>,
    ledger: &mut Ledger,
) {
    if !ledger.wants(name) {
        return;
    }
    match tests() {
        Ok(mut command) => ledger.check_counted(workspace, name, &mut command),
        Err(error) => ledger.leave_open(name, &format!("{error:#}")),
    }
    let figure = |(test, reason): &(&str, &str)| format!("{name}: not {test}, because {reason}");
    ledger.figures.extend(not_emulated.iter().map(figure));
}

/// Held to its ceilings: what a run costs.
fn check_counts(workspace: &Workspace, binaries: &[Binary], ledger: &mut Ledger) {
    ledger.check("what a run costs", || {
        counts::check(binaries, &setup::VALGRIND.path()?, &workspace.scratch("bench")?)
    });
}

/// A minute in all, so that each target is seen to work; with `--all` five, and each time other inputs.
fn check_fuzzing(workspace: &Workspace, ledger: &mut Ledger) {
    let name = |target: fuzz::Target| format!("fuzz: {target}");
    let targets = fuzz::Target::value_variants().iter().copied();
    let targets: Vec<fuzz::Target> =
        targets.filter(|target| ledger.wants(&name(*target))).collect();
    if targets.is_empty() {
        return;
    }
    let Some(fuzzer) = ledger.always("fuzz: build the targets", || Fuzzer::build(workspace)) else {
        return;
    };
    let length = if ledger.all { fuzz::Length::Seconds(50) } else { fuzz::Length::Same };
    for target in targets {
        let executions = ledger.always(&name(target), || fuzzer.run(target, length));
        let Some(executions) = executions else { continue };
        ledger.figures.push(format!("fuzz {target}: {executions} executions, none failed"));
    }
}

/// What comes of the same sources in another folder, and of sources that must not build.
fn check_copy(workspace: &Workspace, musl: MuslOptions, binaries: &[Binary], ledger: &mut Ledger) {
    const SAME_BYTES: &str = "another folder: the same bytes";
    const SAME_IMAGES: &str = "another folder: the same images";
    const WITHOUT_HOST: &str = "audit goes red: not for the host tool";
    let red = |mutant: &Mutant| format!("audit goes red: {}", mutant.name);
    let checks = [SAME_BYTES, SAME_IMAGES, WITHOUT_HOST].map(str::to_owned);
    let mut checks = checks.into_iter().chain(MUTANTS.iter().map(red));
    let is_wanted =
        |check: &str| Target::all().any(|target| ledger.wants(&format!("{check}, {target}")));
    if !checks.any(|check| is_wanted(&check)) {
        return;
    }
    let Some(copy) = ledger.always("another folder: copy the sources", || Replica::of(workspace))
    else {
        return;
    };
    for target in targets(ledger) {
        let Some(there) =
            ledger.always(&format!("another folder: build, {target}"), || copy.build(target, musl))
        else {
            continue;
        };
        if let Some(here) = binaries.iter().find(|binary| binary.target == target) {
            ledger
                .check(&format!("{SAME_BYTES}, {target}"), || same_files(&here.path, &there.path));
            ledger.check(&format!("{SAME_IMAGES}, {target}"), || {
                check_images([(workspace, &here.path), (copy.workspace(), &there.path)])
            });
        }
        for mutant in &MUTANTS {
            ledger
                .check(&format!("{}, {target}", red(mutant)), || copy.is_red(mutant, target, musl));
        }
    }
    for binary in binaries {
        ledger.check(&format!("{WITHOUT_HOST}, {}", binary.target), || {
            copy.is_same_without_host(binary.target, musl, &binary.path)
        });
    }
}

fn same_files(here: &Path, there: &Path) -> Result<()> {
    if fs::read(here)? == fs::read(there)? {
        Ok(())
    } else {
        bail!("{} and {} differ", here.display(), there.display())
    }
}

/// The guest's image and the overlay of both, which must be equal.
fn check_images(both: [(&Workspace, &PathBuf); 2]) -> Result<()> {
    let (workspace, _) = both[0];
    let kernel = kernel::named("6.1", X86_64, workspace)?;
    let drivers = Drivers::of(&machine::demo());
    let images = |(workspace, early): (&Workspace, &PathBuf)| -> Result<[Vec<u8>; 2]> {
        let guest = Ingredients::of(workspace, &kernel)?.mix(&kernel, early, &drivers)?;
        Ok([guest.to_bytes()?, image::overlay(early)?])
    };
    let [here, there] = both.map(images);
    if here? == there? { Ok(()) } else { bail!("images from the same sources differ") }
}

fn booted() -> Vec<Case> {
    cases::all().into_iter().chain(soak::suite()).collect()
}

/// The boots that are wanted.
fn wanted<'a>(cases: &'a [Case], ledger: &Ledger) -> Vec<suite::Cell<'a>> {
    let is_wanted = |cell: &suite::Cell| {
        (ledger.all || !cell.is_long()) && ledger.wants(&format!("boot {}", cell.name()))
    };
    suite::Cell::all(cases).filter(is_wanted).collect()
}

fn check_boots(workspace: &Workspace, binaries: &[Binary], ledger: &mut Ledger) {
    let cases = booted();
    ledger
        .check("boots: what one that fails leaves", || suite::check_artefacts(workspace, binaries));
    let name = |cell: suite::Cell| format!("boot {}", cell.name());
    let cells = wanted(&cases, ledger);
    if cells.is_empty() {
        return;
    }
    let kernels = Kernels::prepare(workspace, &cells);
    let boots = suite::run(workspace, &cells, &kernels, binaries);
    println!("\n{}", suite::show(&boots));
    for boot in boots.boots {
        ledger.close_boot(&name(boot.cell), boot.outcome);
    }
}

fn image_name(boot: &str) -> String {
    format!("generator {boot}")
}

/// The boots of generators' images that are wanted.
fn wanted_images(ledger: &Ledger) -> Vec<Cell> {
    Cell::every(ledger.all).filter(|cell| ledger.wants(&image_name(&cell.name()))).collect()
}

fn check_generators(
    workspace: &Workspace,
    binaries: &[Binary],
    checkouts: &Checkouts,
    ledger: &mut Ledger,
) {
    type Check = fn(&Workshop, &Workspace) -> Result<()>;
    const CHECKS: [(&str, Check); 6] = [
        ("generators: what systemd says of the units", Workshop::check_units),
        ("generator initramfs-tools: what its hook answers", Workshop::check_prereqs),
        ("generator mkinitcpio: its files, with a stand-in for it", Workshop::check_mkinitcpio),
        ("generators: a kernel that lacks modules", Workshop::check_lacking_kernel),
        ("generators: no image of what is half installed", Workshop::check_incomplete),
        ("generator initramfs-tools: an /init without /conf/conf.d", Workshop::check_fallback),
    ];
    let Some(binary) = binaries.first() else {
        return ledger.fail("generators", "no binary did build");
    };
    let mut boots = Vec::new();
    let mut cells = wanted_images(ledger);
    for project in Project::ALL {
        let mut own: Vec<Cell> = Cell::foreign()
            .filter_map(|(of, cell)| (of == project).then_some(cell))
            .filter(|cell| ledger.wants(&image_name(&cell.name())))
            .collect();
        if checkouts.of(project).is_some() {
            cells.append(&mut own);
        } else if !own.is_empty() {
            let project = project.name();
            ledger.is_known = true;
            ledger.figures.push(format!(
                "generator {project}: NOT RUN, for no Debian has it: give a checkout, --{project} DIR"
            ));
        }
    }
    if !cells.is_empty() || CHECKS.iter().any(|(name, _)| ledger.wants(name)) {
        let workshop = ledger.always("generators: prepare", || {
            Workshop::prepare(workspace, binaries, &cells, checkouts)
        });
        if let Some(workshop) = workshop {
            for (name, check) in CHECKS {
                ledger.check(name, || check(&workshop, workspace));
            }
            boots.extend(workshop.boot(workspace, &cells));
        }
    }
    let mut addons = Addon::every(ledger.all);
    addons.retain(|addon| ledger.wants(&image_name(&addon.name())));
    if !addons.is_empty() {
        let images = ledger
            .always("generators: signed images", || SignedImages::prepare(workspace, &binary.path));
        boots.extend(images.iter().flat_map(|images| images.boot(workspace, &addons)));
    }
    if !boots.is_empty() {
        println!("\n{}", generators::show(&boots));
    }
    for boot in boots {
        ledger.close_boot(&image_name(&boot.name), boot.outcome);
    }
}

/// Virtual machine monitors in a guest: second guests, which take minutes.
fn check_monitors(workspace: &Workspace, binaries: &[Binary], ledger: &mut Ledger) {
    let is_wanted = |monitor: &&Monitor| ledger.all && ledger.wants(monitor.name);
    let wanted: Vec<&Monitor> = MONITORS.iter().filter(is_wanted).collect();
    if wanted.is_empty() {
        return;
    }
    let outcomes = ledger.always("monitors: prepare", || {
        let binary = binaries.first().context("no binary did build")?;
        monitors::run(workspace, &binary.path, &wanted)
    });
    for (monitor, outcome) in outcomes.into_iter().flatten() {
        if let Ok(Judgement::Passed(tally)) = &outcome {
            ledger.figures.extend(tally.figures.iter().cloned());
        }
        match outcome {
            Ok(outcome) => ledger.close_boot(monitor.name, outcome),
            Err(error) => ledger.leave_open(monitor.name, &format!("{error:#}")),
        }
    }
}

/// What people install, by their own package managers.
fn check_packages(
    workspace: &Workspace,
    musl: MuslOptions,
    checkouts: &Checkouts,
    ledger: &mut Ledger,
) {
    const AGAIN: &str = "packages: the same bytes twice";
    const LINT: &str = "packages: lintian and rpmlint";
    const FOREIGN: &str = "packages: lintian and rpmlint, aarch64";
    const SOURCES: &str = "packages: makepkg builds the same from the sources";
    let mut trials = Trial::all(ledger.all);
    if checkouts.alpine().is_some() {
        trials.push(Trial::ALPINE);
    } else if ledger.wants(&Trial::ALPINE.name()) {
        ledger.is_known = true;
        ledger.figures.push(format!(
            "{}: NOT RUN, for no Debian has them: give checkouts, --abuild DIR --apk-tools DIR --mkinitfs DIR",
            Trial::ALPINE.name()
        ));
    }
    trials.retain(|trial| ledger.wants(&trial.name()));
    ledger.check("packages: the NixOS module", || {
        setup::ensure(&[&setup::NIX])?;
        trials::check_nix(workspace)
    });
    let checks: &[&str] =
        if ledger.all { &[AGAIN, LINT, SOURCES, FOREIGN] } else { &[AGAIN, LINT] };
    if trials.is_empty() && !checks.iter().any(|check| ledger.wants(check)) {
        return;
    }
    let made = ledger.always("packages: make", || {
        setup::ensure(&setup::PACKAGERS.iter().chain(&setup::TRIERS).collect::<Vec<_>>())?;
        let built = Built::make(workspace, X86_64, musl)?;
        Ok((Packages::make(workspace, &built)?, built))
    });
    let Some((packages, built)) = made else { return };
    ledger.check(AGAIN, || packages.check_again(workspace, &built));
    ledger.check(LINT, || packages.check_lint(workspace));
    if ledger.all {
        ledger.check(SOURCES, || packages.check_sources(workspace));
        ledger.check(FOREIGN, || {
            packages.check_foreign(workspace, &Built::make(workspace, AARCH64, musl)?)
        });
    }
    for (trial, outcome) in trials::run(workspace, &trials, &packages, checkouts) {
        match outcome {
            Ok(outcome) => ledger.close_boot(&trial.name(), outcome),
            Err(error) => {
                ledger.always(&trial.name(), || Err::<(), _>(error));
            }
        }
    }
}

fn cargo_task(root: &Path, arguments: &[&str]) -> Result<()> {
    command::check(Command::new(cargo()).args(arguments).current_dir(root)).map(drop)
}

fn document(root: &Path) -> Result<()> {
    let mut command = Command::new(cargo());
    command
        .args(["doc", "--locked", "--workspace", "--no-deps", "--all-features"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .current_dir(root);
    command::check(&mut command).map(drop)
}

/// Every source says in its first lines under which licences it stands, for whoever takes one file alone.
fn check_licences(workspace: &Workspace) -> Result<()> {
    const KINDS: [&str; 7] = ["rs", "ld", "nix", "toml", "service", "rules", "spec"];
    let mut without = Vec::new();
    for path in workspace.sources()? {
        let bytes = fs::read(&path).unwrap_or_default();
        let is_source = path.extension().is_some_and(|kind| KINDS.iter().any(|one| kind == *one));
        let mut first = bytes.split(|byte| *byte == b'\n').take(2);
        if (is_source || is_shell(&bytes)) && !first.any(is_licence) {
            without.push(path.display().to_string());
        }
    }
    if without.is_empty() { Ok(()) } else { bail!("no SPDX line in {}", without.join(", ")) }
}

fn is_licence(line: &[u8]) -> bool {
    let mark = b"SPDX-License-Identifier: MIT OR Apache-2.0";
    line.windows(mark.len()).any(|part| part == mark)
}

/// Every file that says in its first line that it is for a shell.
fn check_shell_files(workspace: &Workspace) -> Result<()> {
    let files = workspace
        .sources()?
        .into_iter()
        .filter(|path| fs::read(path).is_ok_and(|bytes| is_shell(&bytes)));
    let files: Vec<PathBuf> = files.collect();
    command::check(Command::new(setup::SHELLCHECK.path()?).args(&files))?;
    command::check(Command::new(setup::SHFMT.path()?).arg("--diff").args(&files)).map(drop)
}

fn is_shell(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.starts_with(b"# shellcheck shell=")
        || line.starts_with(b"#!")
            && line
                .split(|byte| matches!(byte, b'/' | b' '))
                .any(|word| matches!(word, b"sh" | b"ash" | b"bash" | b"dash"))
}

/// What passed, what failed, and what could not be tested.
struct Ledger<'a> {
    only: &'a str,
    /// Whether what is too long for every change is wanted, too.
    all: bool,
    /// Whether there was anything of that name.
    is_known: bool,
    start: Instant,
    passed: usize,
    failures: Vec<String>,
    /// What was counted, one sentence each.
    figures: Vec<String>,
    open: Vec<String>,
}

impl<'a> Ledger<'a> {
    fn new(only: &'a str, all: bool) -> Self {
        Self {
            only,
            all,
            is_known: false,
            start: Instant::now(),
            passed: 0,
            failures: Vec::new(),
            open: Vec::new(),
            figures: Vec::new(),
        }
    }

    fn wants(&self, name: &str) -> bool {
        name.contains(self.only)
    }

    /// Runs a check if it is wanted.
    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        if self.wants(name) {
            self.always(name, check);
        }
    }

    /// Runs a check and keeps what it yields.
    fn always<T>(&mut self, name: &str, check: impl FnOnce() -> Result<T>) -> Option<T> {
        self.is_known |= self.wants(name);
        match progress::phase(name, check) {
            Ok(value) => {
                self.pass();
                Some(value)
            }
            Err(error) => {
                let reason = format!("{error:#}");
                if error.is::<NotTestable>() {
                    self.leave_open(name, &reason);
                } else {
                    self.fail(name, &reason);
                }
                None
            }
        }
    }

    /// Runs tests if they are wanted, and keeps what they counted: each appends its sentences to a file. A test that
    /// has a longer form runs it where `VFIO_OVERRIDE_ALL` is set. Without, what tests draw is the same in each run, so
    /// that what fails is the fault of a change.
    fn check_counted(&mut self, workspace: &Workspace, name: &str, command: &mut Command) {
        let mut figures = String::new();
        if self.all {
            command.env("VFIO_OVERRIDE_ALL", "1");
        } else {
            command.env("PROPTEST_RNG_SEED", "1");
        }
        self.check(name, || {
            let file = workspace.scratch("figures")?.join("figures");
            fs::write(&file, "").with_context(|| format!("cannot write {}", file.display()))?;
            command.current_dir(&workspace.root).env("VFIO_OVERRIDE_FIGURES", &file);
            command::check(command)?;
            figures = fs::read_to_string(&file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            Ok(())
        });
        self.figures.extend(figures.lines().map(str::to_owned));
    }

    fn close_boot(&mut self, name: &str, outcome: Judgement) {
        self.is_known |= self.wants(name);
        match outcome {
            Judgement::Passed(_) => self.pass(),
            Judgement::Failed(reason) => self.fail(name, &reason),
            Judgement::NotTested(reason) => self.leave_open(name, &reason),
        }
    }

    fn pass(&mut self) {
        self.passed += 1;
    }

    fn fail(&mut self, name: &str, reason: &str) {
        self.failures.push(format!("{name}:\n{reason}"));
    }

    /// Takes down what could not be tested, which is no success either.
    fn leave_open(&mut self, name: &str, reason: &str) {
        self.open.push(format!("{name}:\n{reason}"));
    }

    /// Tells every failure; the last line is read by CI.
    fn close(mut self) -> Verdict {
        if !self.is_known {
            let only = self.only;
            self.fail(
                "nothing was tested",
                &format!("no check and no boot has \"{only}\" in its name"),
            );
        }
        for (what, reasons) in [("NOT TESTED", &self.open), ("FAILED", &self.failures)] {
            for reason in reasons {
                println!("\n{what} {}", reason.trim_end());
            }
        }
        println!();
        for figure in &self.figures {
            println!("{figure}");
        }
        println!("{:.0} s in all", self.start.elapsed().as_secs_f64());
        let open = match self.open.len() {
            0 => String::new(),
            count => format!(", {count} could not be tested"),
        };
        println!("{} passed, {} failed{open}", self.passed, self.failures.len());
        match (self.failures.is_empty(), self.open.is_empty()) {
            (false, _) => Verdict::Bad,
            (true, false) => Verdict::Open,
            (true, true) => Verdict::Good,
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::cases::suite::Tally;

    #[test]
    fn shell_files_are_known_by_their_first_line() {
        for line in [
            "#!/bin/sh\n",
            "#!/usr/bin/env bash",
            "#!/bin/busybox sh\n#",
            "#!/bin/dash -e\n",
            "# shellcheck shell=sh\n",
        ] {
            assert!(is_shell(line.as_bytes()), "{line}");
        }
        for line in ["#!/usr/bin/python3\n", "fn main() {}", "# sh", ""] {
            assert!(!is_shell(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn the_ledger_goes_on_after_a_failure() {
        let mut ledger = Ledger::new("", false);
        ledger.check("bad", || bail!("reason"));
        ledger.check("good", || Ok(()));
        assert_eq!(ledger.passed, 1);
        assert_eq!(ledger.failures, ["bad:\nreason"]);
        assert_eq!(ledger.close(), Verdict::Bad);
    }

    #[test]
    fn what_could_not_be_tested_is_neither_good_nor_bad() {
        let mut ledger = Ledger::new("", false);
        ledger.check("good", || Ok(()));
        ledger.leave_open("boot", "no QEMU");
        assert_eq!(ledger.close(), Verdict::Open);
        let mut ledger = Ledger::new("", false);
        ledger.leave_open("boot", "no QEMU");
        ledger.fail("other", "reason");
        assert_eq!(ledger.close(), Verdict::Bad);
    }

    #[test]
    fn what_a_check_lacks_is_no_failure_of_its_own() {
        let mut ledger = Ledger::new("", false);
        ledger.check("images", || {
            Err(anyhow!("no such suite").context(NotTestable("no kernel".to_owned())))
        });
        assert_eq!(ledger.open, ["images:\nno kernel: no such suite"]);
        assert_eq!(ledger.close(), Verdict::Open);
    }

    #[test]
    fn unwanted_checks_do_not_run() {
        let mut ledger = Ledger::new("boot", false);
        ledger.check("clippy", || bail!("not wanted"));
        ledger.close_boot("boot hook, 6.12", Judgement::Passed(Tally::default()));
        assert_eq!((ledger.passed, ledger.failures.len()), (1, 0));
        assert_eq!(ledger.close(), Verdict::Good);
    }

    #[test]
    fn a_text_that_nothing_has_in_its_name_is_no_success() {
        let mut ledger = Ledger::new("boot hok", false);
        ledger.always("build and audit, musl", || Ok(()));
        ledger.check("clippy", || Ok(()));
        assert_eq!(ledger.close(), Verdict::Bad);
    }
}
