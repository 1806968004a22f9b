// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask build`: the early binary for each target, audited.

pub mod audit;
pub mod link;
pub mod musl;
pub mod mutants;
pub mod provenance;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::ground::arch::{self, Arch, ArchOptions, Libc, X86_64};
use crate::ground::command;
use crate::ground::progress;
use crate::ground::verdict::Verdict;
use crate::ground::workspace::{Workspace, cargo};
use audit::{Finding, Unwinder};
pub use musl::ensure_target;
use musl::{Source, Toolchain};

const BINARY: &str = "vfio-override-early";
const PROFILE: &str = "early";
const FEATURE: &str = "early";

/// How many symbols without a known caller a report names.
const SHOWN_SYMBOLS: usize = 8;

/// Build the early binary with each C library and audit the files that ship
///
/// Each is linked with its symbol table, which must hold no panic, unwinding or allocation of
/// Rust's; what is found is named together with the functions that call it. The file that ships is
/// the same program without that table: checked byte for byte, and checked to be a static ELF
/// executable without interpreter and dynamic section, below its size ceiling. It says what it was made
/// of: `cargo audit bin` reads that.
///
/// Sizes go to standard error; the paths of the binaries go to standard output, one a line.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    arch: ArchOptions,

    /// Build only with this C library; may be repeated (default: with each that the architecture has)
    #[arg(long, value_name = "LIBC")]
    libc: Vec<Libc>,

    #[command(flatten)]
    musl: MuslOptions,
}

/// Shared by every task that builds a musl binary.
#[derive(Args, Clone, Copy, Default)]
pub struct MuslOptions {
    /// Where the musl target comes from
    #[arg(long = "musl", value_name = "SOURCE", default_value = "auto")]
    pub source: Source,
}

/// What a static binary is for.
#[derive(Clone, Copy)]
pub struct Target {
    pub arch: &'static Arch,
    build: &'static arch::Build,
}

impl Target {
    pub const MUSL: Self = Self { arch: X86_64, build: &X86_64.musl };
    pub const GLIBC: Self = match &X86_64.glibc {
        Some(build) => Self { arch: X86_64, build },
        None => Self::MUSL,
    };

    /// Every target that is built for an architecture.
    pub fn all_of(arch: &'static Arch) -> impl Iterator<Item = Self> {
        [&arch.musl].into_iter().chain(&arch.glibc).map(move |build| Self { arch, build })
    }

    /// Every target of every architecture.
    pub fn all() -> impl Iterator<Item = Self> {
        arch::ALL.into_iter().flat_map(Self::all_of)
    }

    fn of(arch: &'static Arch, libc: Libc) -> Result<Self> {
        Self::all_of(arch)
            .find(|target| target.libc() == libc)
            .with_context(|| format!("the {arch} binary is not made with {libc}"))
    }

    pub fn libc(self) -> Libc {
        self.build.libc
    }

    /// The most bytes that the early binary which ships may have.
    pub fn ceiling(self) -> u64 {
        self.build.ceiling
    }

    fn unwinder(self) -> Unwinder {
        match self.libc() {
            Libc::Musl => Unwinder::Forbidden,
            Libc::Glibc => Unwinder::FromLibc,
        }
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        self.build.triple == other.build.triple
    }
}

/// `musl`, or `aarch64-musl` where it is not the first architecture.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.arch != X86_64 {
            write!(f, "{}-", self.arch)?;
        }
        self.libc().fmt(f)
    }
}

pub fn run(options: &Options) -> Result<Verdict> {
    let workspace = Workspace::locate()?;
    let arch = options.arch.arch;
    let targets: Vec<Target> = if options.libc.is_empty() {
        Target::all_of(arch).collect()
    } else {
        options.libc.iter().map(|libc| Target::of(arch, *libc)).collect::<Result<_>>()?
    };
    let mut verdict = Verdict::Good;
    let mut paths = Vec::new();
    for target in targets {
        match build(&workspace, target, options.musl)? {
            Build::Passed(binary) => {
                progress::note(&binary);
                paths.push(binary.path);
            }
            Build::Failed(reasons) => {
                verdict = Verdict::Bad;
                eprintln!("{reasons}");
            }
        }
    }
    for path in paths {
        println!("{}", path.display());
    }
    Ok(verdict)
}

/// An early binary that passed its audit.
pub struct Binary {
    pub path: PathBuf,
    pub target: Target,
    bytes: u64,
}

impl fmt::Display for Binary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let ceiling = self.target.ceiling();
        write!(
            f,
            "{} {}: {} bytes, {} below the ceiling of {ceiling}; audit passed",
            BINARY,
            self.target,
            self.bytes,
            ceiling - self.bytes
        )
    }
}

/// How a build ended that could be carried out.
pub enum Build {
    Passed(Binary),
    /// What is wrong with the code, ready to print.
    Failed(String),
}

/// The architecture that nobody has tested must be refused by its name, which takes nothing that is built for it.
pub fn refuses_untested(workspace: &Workspace) -> Result<()> {
    const UNTESTED: &str = "riscv64";
    let mut command = Command::new(cargo());
    command
        // Nothing else can be built without that architecture's standard library.
        .args(["check", "--locked", "--quiet", "--keep-going", "--package", "vfio-override"])
        .args(EARLY.selection)
        .args(["--target", &format!("{UNTESTED}gc-unknown-linux-musl"), "--target-dir"])
        .arg(workspace.scratch("untested")?)
        .current_dir(&workspace.root);
    let output = command.output().context("cannot run cargo")?;
    let said = command::text_of(&output);
    let refusal = format!("nobody has tested {BINARY} on {UNTESTED}");
    if output.status.success() || !said.contains(&refusal) {
        bail!("expected \"{refusal}\", but cargo said:\n{said}");
    }
    Ok(())
}

/// All that the early binary may depend on: the host tool has far more, in the same package.
const DEPENDENCIES: [&str; 3] = ["heapless", "log", "nix"];

/// What the early binary depends on and should not, or the other way round.
fn check_dependencies(workspace: &Workspace) -> Result<Option<String>> {
    let mut command = Command::new(cargo());
    command
        .args(["tree", "--locked", "--package", "vfio-override"])
        .args(["--no-default-features", "--features", FEATURE, "--target", "all"])
        .args(["--edges", "normal,build", "--depth", "1", "--prefix", "none", "--format", "{lib}"])
        .current_dir(&workspace.root);
    let text = command::stdout(&mut command)?;
    // The first line is the package itself.
    let mut found: Vec<&str> = text.lines().skip(1).collect();
    found.sort_unstable();
    Ok((found != DEPENDENCIES).then(|| {
        format!("{BINARY} must depend on {}, not on {}", DEPENDENCIES.join(", "), found.join(", "))
    }))
}

/// Builds and audits the early binary of `workspace` for one target.
pub fn build(workspace: &Workspace, target: Target, musl: MuslOptions) -> Result<Build> {
    if let Some(reason) = check_dependencies(workspace)? {
        return Ok(Build::Failed(reason));
    }
    let job = Job::new(workspace, target, musl, EARLY)?;
    let title = format!("build {BINARY} ({target})");
    match progress::phase(title, || job.compile())? {
        Compiled::Linked(path) => job.judge(&path),
        Compiled::Allocates(functions) => {
            let title = format!("find what allocates ({target})");
            let findings = progress::phase(title, || job.diagnose())?;
            Ok(Build::Failed(allocation_report(target, &functions, &findings)))
        }
    }
}

/// The early binary that must be good, for tasks that go on with it.
pub fn build_or_stop(workspace: &Workspace, target: Target, musl: MuslOptions) -> Result<Binary> {
    match build(workspace, target, musl)? {
        Build::Passed(binary) => {
            progress::note(&binary);
            Ok(binary)
        }
        Build::Failed(reasons) => bail!("{reasons}"),
    }
}

/// The early binary for a task that takes any: musl's where that target can be had.
pub fn preferred(
    workspace: &Workspace,
    arch: &'static Arch,
    libc: Option<Libc>,
    musl: MuslOptions,
) -> Result<Binary> {
    let target = match libc {
        Some(libc) => Target::of(arch, libc)?,
        None => available(workspace, arch, musl)?,
    };
    build_or_stop(workspace, target, musl)
}

/// An architecture's musl where that can be had, else its glibc.
fn available(workspace: &Workspace, arch: &'static Arch, musl: MuslOptions) -> Result<Target> {
    match (musl.source.prepare(arch, &workspace.scratch("musl")?), Target::of(arch, Libc::Glibc)) {
        (Ok(_), _) => Target::of(arch, Libc::Musl),
        (Err(error), Ok(glibc)) => {
            progress::note(format_args!("{error:#}; using static glibc"));
            Ok(glibc)
        }
        (Err(error), Err(_)) => Err(error),
    }
}

/// A static program for an architecture, stripped: one file that serves every distribution of it.
pub fn static_program(
    workspace: &Workspace,
    arch: &'static Arch,
    musl: MuslOptions,
    program: Program,
) -> Result<PathBuf> {
    let target = available(workspace, arch, musl)?;
    let job = Job::new(workspace, target, musl, program)?;
    let directory = job.target_directory();
    let title = format!("build {} ({target})", program.binary);
    progress::phase(title, || command::check(&mut job.cargo(&directory, None)))?;
    Ok(job.product(&directory))
}

/// The yardstick of `cargo xtask bench`, linked as the early binary is.
pub fn floor(workspace: &Workspace, musl: MuslOptions) -> Result<PathBuf> {
    let program = Program { binary: "floor", selection: &["--package", "floor"], ..EARLY };
    let job = Job::new(workspace, Target::MUSL, musl, program)?;
    match progress::phase("build floor (musl)", || job.compile())? {
        Compiled::Linked(path) => Ok(path),
        Compiled::Allocates(_) => bail!("floor was linked without its allocator"),
    }
}

/// What is built.
#[derive(Clone, Copy)]
pub struct Program {
    pub binary: &'static str,
    /// What tells it to cargo, besides its name.
    selection: &'static [&'static str],
    profile: &'static str,
}

impl Program {
    /// A program of this package that has a standard library with all that belongs to it.
    pub const fn ordinary(selection: &'static [&'static str], binary: &'static str) -> Self {
        Self { binary, selection, profile: "release" }
    }

    fn is_early(self) -> bool {
        self.profile == PROFILE
    }
}

/// The host tool.
pub const HOST_TOOL: Program = Program::ordinary(&["--package", "vfio-override"], "vfio-override");

const EARLY: Program = Program {
    binary: BINARY,
    selection: &["--no-default-features", "--features", FEATURE],
    profile: PROFILE,
};

struct Job<'a> {
    workspace: &'a Workspace,
    target: Target,
    toolchain: Toolchain,
    program: Program,
}

enum Compiled {
    Linked(PathBuf),
    Allocates(Vec<String>),
}

impl<'a> Job<'a> {
    fn new(
        workspace: &'a Workspace,
        target: Target,
        musl: MuslOptions,
        program: Program,
    ) -> Result<Self> {
        let toolchain = match target.libc() {
            Libc::Musl => musl.source.prepare(target.arch, &workspace.scratch("musl")?)?,
            Libc::Glibc => {
                target.arch.ensure_linker()?;
                Toolchain::Native
            }
        };
        Ok(Self { workspace, target, toolchain, program })
    }

    fn compile(&self) -> Result<Compiled> {
        let directory = self.target_directory();
        let output = command::output(&mut self.cargo(&directory, None))?;
        if output.status.success() {
            return Ok(Compiled::Linked(self.product(&directory)));
        }
        let messages = command::text_of(&output);
        match link::allocating_functions(&messages) {
            Some(functions) => Ok(Compiled::Allocates(functions)),
            None => bail!("the {} build failed:\n{}", self.target, messages.trim_end()),
        }
    }

    /// Links against a stand-in for the missing function, in a directory from which nothing
    /// ships, so that the audit can tell the callers.
    fn diagnose(&self) -> Result<Vec<Finding>> {
        let directory = self.workspace.scratch("diagnosis")?;
        let stand_in = format!("-Clink-arg=-Wl,--defsym={}=0", link::MISSING);
        command::check(&mut self.cargo(&directory, Some(stand_in)))?;
        audit::prove(&self.product(&directory), self.target.unwinder())
    }

    fn judge(&self, linked: &Path) -> Result<Build> {
        let findings = audit::prove(linked, self.target.unwinder())?;
        if !findings.is_empty() {
            return Ok(Build::Failed(audit_report(linked, &findings)));
        }
        let path = self.strip(linked)?;
        let made_of = provenance::of(self.workspace, FEATURE, self.target.build.triple)?;
        provenance::embed(&made_of, &self.target.arch.binutil("objcopy"), &path)?;
        let findings = audit::compare(&path, linked, self.target.ceiling())?;
        if !findings.is_empty() {
            return Ok(Build::Failed(audit_report(&path, &findings)));
        }
        let bytes =
            fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
        Ok(Build::Passed(Binary { path, target: self.target, bytes }))
    }

    /// Makes the file that ships: what was linked, without the symbol table that it was proven with.
    fn strip(&self, linked: &Path) -> Result<PathBuf> {
        let directory = self.workspace.target.join("ship").join(self.target.to_string());
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let path = directory.join(BINARY);
        command::check(
            Command::new(self.target.arch.binutil("strip"))
                .args(["--strip-all", "--remove-section=.comment"])
                .arg("-o")
                .arg(&path)
                .arg(linked),
        )?;
        Ok(path)
    }

    fn cargo(&self, directory: &Path, more_flags: Option<String>) -> Command {
        let stub = match &self.toolchain {
            // A link that is to show what panics has use for the unwinder, and so has a program that may panic.
            Toolchain::Rustup { stub, .. } if more_flags.is_none() && self.program.is_early() => {
                Some(format!("-Lnative={}", stub.display()))
            }
            _ => None,
        };
        let flags: Vec<String> = self.flags().into_iter().chain(stub).chain(more_flags).collect();
        let mut command = match &self.toolchain {
            Toolchain::Native | Toolchain::Rustup { .. } => Command::new(cargo()),
            Toolchain::Debian { .. } => debian_cargo(),
        };
        command
            .args(["build", "--locked", "--quiet", "--profile", self.program.profile])
            .args(["--bin", self.program.binary])
            .args(self.program.selection)
            .args(["--target", self.target.build.triple])
            .arg("--target-dir")
            .arg(directory)
            // Unlike RUSTFLAGS, this survives blanks in a path.
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .current_dir(&self.workspace.root);
        command
    }

    fn flags(&self) -> Vec<String> {
        let linker = self.target.arch.linker().map(|linker| format!("-Clinker={linker}"));
        let own = match &self.toolchain {
            Toolchain::Native => Vec::from_iter(linker),
            Toolchain::Rustup { lld, .. } => {
                let lld = format!("-Clink-arg=-B{}", lld.display());
                linker.into_iter().chain([lld]).collect()
            }
            Toolchain::Debian { stub } => vec![
                "-Clinker=musl-gcc".to_owned(),
                "-Clink-self-contained=no".to_owned(),
                format!("-Lnative={}", stub.display()),
            ],
        };
        let of_program: &[&str] =
            if self.program.is_early() { self.target.build.flags } else { &["-Cstrip=symbols"] };
        ["-Crelocation-model=static", "-Ctarget-feature=+crt-static"]
            .iter()
            .chain(of_program)
            .map(|flag| (*flag).to_owned())
            .chain(own)
            .collect()
    }

    /// Debian's compiler gets its own directory: its artefacts would push out the others'.
    fn target_directory(&self) -> PathBuf {
        match self.toolchain {
            Toolchain::Native | Toolchain::Rustup { .. } => self.workspace.target.clone(),
            Toolchain::Debian { .. } => self.workspace.target.join("xtask/debian-rust"),
        }
    }

    fn product(&self, directory: &Path) -> PathBuf {
        directory
            .join(self.target.build.triple)
            .join(self.program.profile)
            .join(self.program.binary)
    }
}

/// Debian's stable cargo, building the standard library from Debian's source.
fn debian_cargo() -> Command {
    let mut command = Command::new("/usr/bin/cargo");
    command
        .arg("-Zbuild-std=std,panic_abort")
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1")
        // Set by the rustup shim that runs us, and meant for its own cargo only.
        .env_remove("RUSTUP_TOOLCHAIN");
    command
}

fn allocation_report(target: Target, functions: &[String], findings: &[Finding]) -> String {
    let verb = if functions.len() == 1 { "refers" } else { "refer" };
    let headline = format!(
        "{BINARY} ({target}) can allocate or panic, which allocates too: the link failed, because \
         {} {verb} to {}, which exists nowhere",
        functions.join(", "),
        link::MISSING
    );
    report(headline, findings)
}

fn audit_report(path: &Path, findings: &[Finding]) -> String {
    report(format!("{} must not ship:", path.display()), findings)
}

/// Panic machinery comes in a hundred symbols: the roots get a line each, the rest share one.
fn report(headline: String, findings: &[Finding]) -> String {
    let mut lines = vec![headline];
    let mut rest = Vec::new();
    for finding in findings {
        match finding {
            Finding::Forbidden { symbol, callers } if callers.is_empty() => rest.push(&**symbol),
            _ => lines.push(finding.to_string()),
        }
    }
    if !rest.is_empty() {
        let more = rest.len().saturating_sub(SHOWN_SYMBOLS);
        rest.truncate(SHOWN_SYMBOLS);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        lines.push(format!("contains {}{more}", rest.join(", ")));
    }
    lines.join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_is_reported_with_its_root() {
        let findings = [
            Finding::Forbidden {
                symbol: "alloc::fmt::format".to_owned(),
                callers: vec!["vfio_override_early::work".to_owned()],
            },
            Finding::Forbidden { symbol: "core::panicking::panic".to_owned(), callers: Vec::new() },
            Finding::Forbidden { symbol: "rust_eh_personality".to_owned(), callers: Vec::new() },
        ];
        let report = allocation_report(Target::MUSL, &["__rust_alloc".to_owned()], &findings);
        assert_eq!(
            report,
            "vfio-override-early (musl) can allocate or panic, which allocates too: the link \
             failed, because __rust_alloc refers to vfio_override_early_must_not_allocate, which exists nowhere\n  \
             contains alloc::fmt::format, called by vfio_override_early::work\n  \
             contains core::panicking::panic, rust_eh_personality"
        );
    }
}
