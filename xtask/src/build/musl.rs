// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the musl target's standard library comes from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::ground::arch::{Arch, X86_64};
use crate::ground::command;
use crate::ground::progress;
use crate::ground::setup;

/// How long `rustup target add` may take before the next way is tried.
const RUSTUP_PATIENCE: Duration = Duration::from_secs(120);

/// Debian's compiler, cargo, the standard library's source, the C library and the linker.
const DEBIAN_PACKAGES: [&str; 5] = ["rustc-web", "cargo-web", "rust-web-src", "musl-tools", "lld"];

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Source {
    /// Rustup's if it is installed or can be fetched, else Debian's
    #[default]
    Auto,
    /// The target of the running toolchain, added with rustup
    Rustup,
    /// Debian's rust-web-src, built with Debian's compiler against musl-tools (2 minutes once), on
    /// x86-64 for itself
    Debian,
}

/// What builds a binary.
pub enum Toolchain {
    /// The running toolchain, for the machine's own C library.
    Native,
    /// The running toolchain, for musl; links with the stub unwinder in one folder and the lld of the other.
    Rustup { stub: PathBuf, lld: PathBuf },
    /// Debian's, which builds the standard library too.
    Debian { stub: PathBuf },
}

impl Source {
    /// Makes a toolchain ready for an architecture's musl target.
    pub fn prepare(self, arch: &Arch, scratch: &Path) -> Result<Toolchain> {
        match self {
            Self::Debian => debian(arch, scratch),
            Self::Rustup => {
                rustup(arch, scratch).context("rustup has no musl target for this toolchain")
            }
            Self::Auto => match rustup(arch, scratch) {
                Err(error) if serves_debian(arch) => {
                    progress::note(format_args!("{error:#}; using Debian's Rust instead"));
                    debian(arch, scratch)
                }
                other => other,
            },
        }
    }
}

fn rustup(arch: &Arch, scratch: &Path) -> Result<Toolchain> {
    let triple = arch.musl.triple;
    ensure_target(triple)?;
    arch.ensure_linker()?;
    Ok(Toolchain::Rustup { stub: stub_unwinder(scratch)?, lld: lld()? })
}

/// The folder in which the running toolchain has lld by the name that the C compiler looks for.
fn lld() -> Result<PathBuf> {
    let sysroot = command::stdout(Command::new("rustc").args(["--print", "sysroot"]))?;
    let version = command::stdout(Command::new("rustc").arg("-vV"))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc does not say what it runs on")?;
    let folder = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin/gcc-ld");
    if !folder.join("ld.lld").is_file() {
        bail!("this toolchain has no lld: {} is missing", folder.join("ld.lld").display());
    }
    Ok(folder)
}

/// Adds a target to the running toolchain, unless it has that.
pub fn ensure_target(triple: &str) -> Result<()> {
    if is_installed(triple)? {
        return Ok(());
    }
    progress::phase(format!("rustup target add {triple}"), || add_target(triple))
}

fn is_installed(triple: &str) -> Result<bool> {
    let directory = command::stdout(Command::new("rustc").args([
        "--print",
        "target-libdir",
        "--target",
        triple,
    ]))?;
    Ok(fs::read_dir(directory.trim()).is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
        })
    }))
}

fn add_target(triple: &str) -> Result<()> {
    let mut child = Command::new("rustup")
        .args(["target", "add", triple])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .context("cannot start rustup")?;
    let deadline = Instant::now() + RUSTUP_PATIENCE;
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("`rustup target add {triple}` failed ({status})"),
            None if Instant::now() > deadline => {
                child.kill()?;
                child.wait()?;
                bail!(
                    "`rustup target add {triple}` did not end in {} s",
                    RUSTUP_PATIENCE.as_secs()
                );
            }
            None => thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Whether Debian's Rust was ever tried for it.
fn serves_debian(arch: &Arch) -> bool {
    arch == X86_64 && arch.is_native()
}

fn debian(arch: &Arch, scratch: &Path) -> Result<Toolchain> {
    let triple = arch.musl.triple;
    if !serves_debian(arch) {
        bail!("Debian's Rust is used for x86_64 on x86_64 only: run `rustup target add {triple}`");
    }
    if setup::program("apt-get").is_none() {
        bail!(
            "no musl target: run `rustup target add {triple}` (the other way needs Debian's {})",
            DEBIAN_PACKAGES.join(", ")
        );
    }
    let missing: Vec<&str> = DEBIAN_PACKAGES
        .into_iter()
        .filter(|package| !is_debian_package_installed(package))
        .collect();
    if !missing.is_empty() {
        setup::apt_install(&missing)?;
    }
    Ok(Toolchain::Debian { stub: stub_unwinder(scratch)? })
}

fn is_debian_package_installed(package: &str) -> bool {
    command::stdout(Command::new("dpkg-query").args(["-W", "-f=${Status}", package]))
        .is_ok_and(|status| status == "install ok installed")
}

/// The unwind crate links libunwind, though nothing here ever unwinds. musl-tools lacks it, and that of rustup
/// leaves a kilobyte of the C library behind, the standard error stream, which only it refers to.
fn stub_unwinder(scratch: &Path) -> Result<PathBuf> {
    let file = scratch.join("libunwind.a");
    // The magic of an archive; without members it is a valid and empty library.
    fs::write(&file, "!<arch>\n").with_context(|| format!("cannot write {}", file.display()))?;
    Ok(scratch.to_owned())
}
