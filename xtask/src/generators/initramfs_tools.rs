// SPDX-License-Identifier: MIT OR Apache-2.0
//! initramfs-tools, as Debian and Ubuntu call it.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::FORCED;
use super::debian::Debian;
use crate::guest::kernel::Kernel;

/// Makes an image that loads the host's drivers by name.
pub fn make(debian: &Debian, kernel: &Kernel, image: &str) -> Result<String> {
    let modules = debian.path("etc/initramfs-tools/modules");
    fs::write(&modules, FORCED.join("\n") + "\n")
        .with_context(|| format!("cannot write {}", modules.display()))?;
    debian.run("mkinitramfs", ["-o", image, &kernel.release])
}

/// Makes a small image that nobody boots.
pub fn make_small(debian: &Debian, kernel: &Kernel) -> Result<String> {
    const MAKE: &str = r#"rm -rf /tmp/conf && cp -r /etc/initramfs-tools /tmp/conf &&
        sed -i 's/^MODULES=.*/MODULES=list/' /tmp/conf/initramfs.conf && : >/tmp/conf/modules &&
        mkinitramfs -d /tmp/conf -o /tmp/small.img "$1""#;
    debian.run("sh", ["-c", MAKE, "sh", &kernel.release])
}

/// What mkinitramfs asks of every hook before it runs any.
pub fn check_prereqs(debian: &Debian) -> Result<()> {
    let hook = "/usr/share/initramfs-tools/hooks/vfio-override";
    debian.run("sh", ["-n", hook])?;
    let answer = debian.run(hook, ["prereqs"])?;
    ensure!(answer.is_empty(), "expected no prerequisites: {answer}");
    Ok(())
}
