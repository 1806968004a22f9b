//! The guest's program that uses functions through /dev/vfio (tests/guest/passthrough), built static.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::command;
use crate::workspace::{Workspace, cargo};

const PACKAGE: &str = "guest-passthrough";
const BINARY: &str = "passthrough";
/// Every toolchain that runs here has this target; the size is of no importance.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the program, unless it is there, and tells where it is.
pub fn build(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = Command::new(cargo());
    command
        .args(["build", "--locked", "--quiet", "--release", "--package", PACKAGE])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&workspace.target)
        // Unlike RUSTFLAGS, this survives blanks in a path. The guest has no dynamic linker.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static\x1f-Cstrip=symbols")
        .current_dir(&workspace.root);
    command::check(&mut command)?;
    Ok(workspace.target.join(TARGET).join("release").join(BINARY))
}
