//! Programs of ours that guests run besides the early binary, built static: a guest has no dynamic linker.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::command;
use crate::workspace::{Workspace, cargo};

/// Every toolchain that runs here has this target; the size is of no importance.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The program that uses functions through /dev/vfio (tests/guest/passthrough).
pub fn passthrough(workspace: &Workspace) -> Result<PathBuf> {
    build(workspace, "guest-passthrough", "passthrough")
}

/// The host tool.
pub fn host_tool(workspace: &Workspace) -> Result<PathBuf> {
    build(workspace, "vfio-override", "vfio-override")
}

/// Builds the program, unless it is there, and tells where it is.
fn build(workspace: &Workspace, package: &str, binary: &str) -> Result<PathBuf> {
    let mut command = Command::new(cargo());
    command
        .args(["build", "--locked", "--quiet", "--release"])
        .args(["--package", package, "--bin", binary])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&workspace.target)
        // Unlike RUSTFLAGS, this survives blanks in a path.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static\x1f-Cstrip=symbols")
        .current_dir(&workspace.root);
    command::check(&mut command)?;
    Ok(workspace.target.join(TARGET).join("release").join(binary))
}
