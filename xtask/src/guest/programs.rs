//! Programs of ours that guests run besides the early binary, built static: a guest has no dynamic linker.

use std::path::PathBuf;

use anyhow::Result;

use crate::build::{self, HOST_TOOL, MuslOptions};
use crate::ground::arch::Arch;
use crate::ground::workspace::Workspace;

/// A program that a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// Uses functions through /dev/vfio (tests/guest/passthrough).
    Passthrough,
    HostTool,
    /// Starts a second kernel (tests/guest/kexec).
    Kexec,
}

impl Program {
    pub fn name(self) -> &'static str {
        self.recipe().binary
    }

    fn recipe(self) -> build::Program {
        match self {
            Self::Passthrough => {
                build::Program::ordinary(&["--package", "guest-passthrough"], "passthrough")
            }
            Self::HostTool => HOST_TOOL,
            Self::Kexec => build::Program::ordinary(&["--package", "guest-kexec"], "kexec"),
        }
    }

    /// Builds it, unless it is there, and tells where it is.
    pub fn build(self, workspace: &Workspace, arch: &'static Arch) -> Result<PathBuf> {
        build::static_program(workspace, arch, MuslOptions::default(), self.recipe())
    }
}
