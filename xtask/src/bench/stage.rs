// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a scene is played: over `/sys`, the kernel's command line and its log, in a mount namespace of
//! this process's own.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use super::scene::{Kind, Scene};

const SYSFS: &str = "/sys";
const COMMAND_LINE: &str = "/proc/cmdline";
const LOG: &str = "/dev/kmsg";

/// Leaves the machine's mount namespace, for this thread and all that it starts from now on.
pub fn enter() -> Result<()> {
    ensure!(geteuid().is_root(), "a private mount namespace takes root");
    unshare(CloneFlags::CLONE_NEWNS).context("cannot leave the mount namespace")?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .context("cannot make the mount namespace private")
}

/// A scene in place; it goes when this is dropped.
pub struct Stage {
    pub scene: Scene,
}

impl Stage {
    pub fn set(kind: Kind, functions: usize) -> Result<Self> {
        let options = Some("mode=755,nr_inodes=0,size=80%");
        mount(Some("scene"), SYSFS, Some("tmpfs"), MsFlags::empty(), options)
            .context("cannot mount a tmpfs over /sys")?;
        let scene = Scene::build(Path::new(SYSFS), kind, functions)?;
        for (file, at) in [(scene.command_line(), COMMAND_LINE), (scene.log(), LOG)] {
            ensure!(fs::exists(at)?, "there is no {at}");
            mount(Some(&file), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("cannot mount {} over {at}", file.display()))?;
        }
        Ok(Self { scene })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for at in [LOG, COMMAND_LINE, SYSFS] {
            // What is left goes with the namespace.
            let _ = umount2(at, MntFlags::MNT_DETACH);
        }
    }
}
