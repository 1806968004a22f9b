// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs of ours that guests run besides the early binary, built static: a guest has no dynamic linker. One is run by
//! the guest's firmware.

use std::path::PathBuf;

use anyhow::Result;

use crate::build::{self, HOST_TOOL, MuslOptions};
use crate::ground::arch::Arch;
use crate::ground::workspace::Workspace;
use crate::guest::option_rom;

/// A program that a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// Uses functions through /dev/vfio (tests/guest/passthrough).
    Passthrough,
    HostTool,
    /// Starts a second kernel (tests/guest/kexec).
    Kexec,
    /// A display's driver for EFI (tests/guest/efi-display), in the display's ROM.
    EfiDisplay,
}

impl Program {
    pub fn name(self) -> &'static str {
        self.recipe().map_or("efi-display", |recipe| recipe.binary)
    }

    /// What is built for Linux.
    fn recipe(self) -> Option<build::Program> {
        match self {
            Self::Passthrough => {
                Some(build::Program::ordinary(&["--package", "guest-passthrough"], "passthrough"))
            }
            Self::HostTool => Some(HOST_TOOL),
            Self::Kexec => Some(build::Program::ordinary(&["--package", "guest-kexec"], "kexec")),
            Self::EfiDisplay => None,
        }
    }

    /// Builds it, unless it is there, and tells where it is.
    pub fn build(self, workspace: &Workspace, arch: &'static Arch) -> Result<PathBuf> {
        match self.recipe() {
            Some(recipe) => build::static_program(workspace, arch, MuslOptions::default(), recipe),
            None => option_rom::build(workspace, arch),
        }
    }
}
