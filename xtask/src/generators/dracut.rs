// SPDX-License-Identifier: MIT OR Apache-2.0
//! dracut: with systemd and without, for any host and for this one.

use anyhow::Result;

use super::debian::Debian;
use super::{FORCED, ROOT_DRIVERS};
use crate::guest::kernel::Kernel;

/// What an image is for.
#[derive(Clone, Copy)]
pub enum Scope {
    AnyHost,
    /// dracut's usual; what it finds out about the host, in a Debian without one, is little.
    ThisHost,
}

/// Makes an image that loads the host's drivers as early as dracut can.
pub fn make(
    debian: &Debian,
    kernel: &Kernel,
    is_systemd: bool,
    scope: Scope,
    image: &str,
) -> Result<String> {
    let drivers = ROOT_DRIVERS.join(" ");
    let forced = FORCED.join(" ");
    let mut arguments = vec!["--force", "--tmpdir", "/tmp", "--kver", &kernel.release];
    arguments.extend(["--add-drivers", &drivers, "--force-drivers", &forced]);
    arguments.extend(match scope {
        Scope::AnyHost => &["--no-hostonly", "--no-compress"][..],
        // What is mounted here is no concern of the image.
        Scope::ThisHost => &["--hostonly", "--fstab", "--compress", "zstd -q -1"],
    });
    arguments.extend(["--filesystems", "ext4"]);
    arguments.extend(if is_systemd {
        &["--add", "systemd-initrd dracut-systemd"][..]
    } else {
        // dracut 112 takes udev along with systemd only, unless it is asked for.
        &["--add", "udev-rules", "--omit", "systemd systemd-initrd dracut-systemd"]
    });
    arguments.push(image);
    debian.run("dracut", arguments)
}

/// Makes a small image that nobody boots.
pub fn make_small(debian: &Debian, kernel: &Kernel) -> Result<String> {
    let mut arguments = vec!["--force", "--tmpdir", "/tmp", "--kver", &kernel.release];
    arguments.extend(["--no-compress", "--modules", "base vfio-override", "/tmp/small.img"]);
    debian.run("dracut", arguments)
}
