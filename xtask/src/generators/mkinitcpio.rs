// SPDX-License-Identifier: MIT OR Apache-2.0
//! mkinitcpio's files, with a stand-in for it: Debian has no package of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, ensure};

use super::RULE;
use super::debian::Debian;
use crate::ground::command;
use crate::ground::workspace::Workspace;
use crate::guest::image::{EARLY, LINK, VARIANTS};
use crate::guest::kernel::Kernel;

const UNIT: &str = "usr/lib/systemd/system/vfio-override-initrd.service";
const WANTS: &str = "usr/lib/systemd/system/sysinit.target.wants/vfio-override-initrd.service";

/// A build by the stand-in.
struct Build {
    root: tempfile::TempDir,
    output: Output,
}

impl Build {
    /// Makes the contents of an image with these hooks, in this order.
    fn new(debian: &Debian, script: &Path, kernel: &Kernel, hooks: &[&str]) -> Result<Self> {
        let place = debian.path("tmp/mkinitcpio");
        fs::copy(script, &place).with_context(|| format!("cannot copy {}", script.display()))?;
        let root = tempfile::tempdir_in(debian.path("tmp"))?;
        let name = root.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut bash = debian.command("bash");
        bash.args(["/tmp/mkinitcpio", &format!("/tmp/{name}"), &kernel.release]).args(hooks);
        let output = command::output(&mut bash)?;
        Ok(Self { root, output })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn holds(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    fn said(&self) -> String {
        command::text_of(&self.output)
    }

    /// What every image holds; nothing was complained about.
    fn expect_complete(&self) -> Result<()> {
        ensure!(self.output.status.success() && self.said().is_empty(), "{}", self.said());
        for path in [EARLY, LINK, RULE] {
            ensure!(self.holds(path), "{path} is not in the image");
        }
        ensure!(self.text(VARIANTS).starts_with("alias vfio_pci:"), "{VARIANTS} is empty");
        ensure!(self.text("modules").contains("vfio-pci\n"), "vfio-pci is not in the image");
        Ok(())
    }
}

/// Every way to list the hook, on a kernel that has all modules and on one that lacks some.
pub fn check(debian: &Debian, workspace: &Workspace, kernels: &[&Kernel]) -> Result<()> {
    let script = workspace.root.join("tests/mkinitcpio/mkinitcpio");
    for kernel in kernels {
        let build = |hooks: &[&str]| Build::new(debian, &script, kernel, hooks);

        let early = build(&["base", "vfio-override", "udev", "block"])?;
        early.expect_complete()?;
        ensure!(early.text("config") == "EARLYHOOKS=vfio-override\n", "it is no early hook");
        debian.run("busybox", ["sh", "-n", "/usr/lib/initcpio/hooks/vfio-override"])?;
        ensure!(!early.holds(UNIT), "a unit is in an image without systemd");

        for hooks in [&["base", "systemd", "vfio-override"], &["vfio-override", "systemd", "udev"]]
        {
            let systemd = build(hooks)?;
            systemd.expect_complete()?;
            ensure!(systemd.holds(UNIT) && systemd.holds(WANTS), "systemd does not start it");
            ensure!(!systemd.holds("hooks"), "a runtime hook is in an image with systemd");
        }

        let late = build(&["base", "udev", "vfio-override"])?;
        ensure!(!late.output.status.success(), "a hook after udev is accepted");
        let said = late.said();
        ensure!(said.contains("HOOKS=(base vfio-override udev ...)"), "it is not told how: {said}");
    }
    Ok(())
}

/// Makes the contents of an image that nobody boots.
pub fn make_small(debian: &Debian, workspace: &Workspace, kernel: &Kernel) -> Result<String> {
    let script = workspace.root.join("tests/mkinitcpio/mkinitcpio");
    let build = Build::new(debian, &script, kernel, &["base", "vfio-override", "udev"])?;
    ensure!(build.output.status.success(), build.said());
    Ok(build.said())
}
