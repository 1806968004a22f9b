// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's userspace: this machine's busybox, or for another architecture Debian's.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::ground::apt::Lists;
use crate::ground::arch::Arch;
use crate::ground::command;
use crate::ground::progress;
use crate::ground::setup;
use crate::ground::workspace::Workspace;
use crate::guest::kernels;

const PACKAGE: &str = "busybox-static";

/// A static busybox for an architecture.
pub fn of(workspace: &Workspace, arch: &Arch) -> Result<PathBuf> {
    if arch.is_native() {
        setup::ensure(&[&setup::BUSYBOX])?;
        return setup::BUSYBOX.path();
    }
    let directory = workspace.scratch("busybox")?.join(arch.debian);
    let program = directory.join("bin/busybox");
    if !program.is_file() {
        progress::phase(format!("fetch {PACKAGE} for {arch}"), || fetch(workspace, arch))?;
    }
    Ok(program)
}

fn fetch(workspace: &Workspace, arch: &Arch) -> Result<()> {
    let cache = workspace.scratch("busybox")?;
    let lists = Lists::of(workspace, &kernels::all()[0].suite, arch.debian)?;
    let scratch = tempfile::tempdir_in(&cache)
        .with_context(|| format!("cannot write to {}", cache.display()))?;
    lists.download(&[PACKAGE.to_owned()], scratch.path())?;
    let package = fs::read_dir(scratch.path())?.flatten().next().context("nothing was fetched")?;
    let root = scratch.path().join("root");
    command::check(Command::new("dpkg-deb").arg("--extract").arg(package.path()).arg(&root))?;
    fs::rename(&root, cache.join(arch.debian))
        .with_context(|| format!("cannot rename {}", root.display()))
}
