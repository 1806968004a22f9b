//! Programs of ours that guests run besides the early binary, built static: a guest has no dynamic linker.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::ground::command;
use crate::ground::workspace::{Workspace, cargo};

/// Every toolchain that runs here has this target; the size is of no importance.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A program that a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// Uses functions through /dev/vfio (tests/guest/passthrough).
    Passthrough,
    HostTool,
}

impl Program {
    fn package(self) -> &'static str {
        match self {
            Self::Passthrough => "guest-passthrough",
            Self::HostTool => "vfio-override",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::HostTool => "vfio-override",
        }
    }

    /// Builds it, unless it is there, and tells where it is.
    pub fn build(self, workspace: &Workspace) -> Result<PathBuf> {
        let mut command = Command::new(cargo());
        command
            .args(["build", "--locked", "--quiet", "--release"])
            .args(["--package", self.package(), "--bin", self.name()])
            .args(["--target", TARGET, "--target-dir"])
            .arg(&workspace.target)
            // Unlike RUSTFLAGS, this survives blanks in a path.
            .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static\x1f-Cstrip=symbols")
            .current_dir(&workspace.root);
        command::check(&mut command)?;
        Ok(workspace.target.join(TARGET).join("release").join(self.name()))
    }
}
