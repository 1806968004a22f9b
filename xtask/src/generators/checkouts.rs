// SPDX-License-Identifier: MIT OR Apache-2.0
//! Generators that no Debian has, each from a checkout of its sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use clap::Args;

use super::debian::Debian;
use super::{FORCED, ROOT_DRIVERS};
use crate::ground::command;
use crate::ground::progress;
use crate::guest::kernel::Kernel;

/// What their builds take, and what they put into images.
pub const PACKAGES: [&str; 26] = [
    "?essential",
    "bc",
    "busybox",
    "cpio",
    "e2fsprogs",
    "file",
    "gcc",
    "git",
    "initramfs-tools-core",
    "kmod",
    "libarchive-tools",
    "libblkid-dev",
    "libc6-dev",
    "libcryptsetup-dev",
    "libkmod-dev",
    "make",
    "meson",
    "mount",
    "pax-utils",
    "pkgconf",
    "python3",
    "systemd",
    "systemd-dev",
    "udev",
    "util-linux-extra",
    "zstd",
];

/// A generator of which there is a checkout, or not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Project {
    Booster,
    Mkinitcpio,
    Mkinitfs,
    Ugrd,
}

impl Project {
    pub const ALL: [Self; 4] = [Self::Booster, Self::Mkinitcpio, Self::Mkinitfs, Self::Ugrd];

    /// Its name, and that of the option with its checkout.
    pub fn name(self) -> &'static str {
        match self {
            Self::Booster => "booster",
            Self::Mkinitcpio => "mkinitcpio",
            Self::Mkinitfs => "mkinitfs",
            Self::Ugrd => "ugrd",
        }
    }

    /// Checkouts that have to be beside its own.
    fn beside(self) -> &'static [&'static str] {
        match self {
            Self::Booster | Self::Mkinitcpio | Self::Mkinitfs => &[],
            Self::Ugrd => &["zenlib", "pycpio"],
        }
    }

    /// A shell script: `setup`, once, and `make RELEASE IMAGE MODULES MORE`, all in the checkout.
    pub fn script(self) -> &'static str {
        match self {
            Self::Booster => include_str!("checkouts/booster.sh"),
            Self::Mkinitcpio => include_str!("checkouts/mkinitcpio.sh"),
            Self::Mkinitfs => include_str!("checkouts/mkinitfs.sh"),
            Self::Ugrd => include_str!("checkouts/ugrd.sh"),
        }
    }
}

/// Where the checkouts are.
#[derive(Args, Clone, Default)]
pub struct Checkouts {
    /// A checkout of Booster, in which Go has built its two programs: its images are made and booted, too
    #[arg(long, value_name = "DIR")]
    booster: Option<PathBuf>,

    /// The same of mkinitcpio, as it comes
    #[arg(long, value_name = "DIR")]
    mkinitcpio: Option<PathBuf>,

    /// The same of Alpine's mkinitfs, as it comes
    #[arg(long, value_name = "DIR")]
    mkinitfs: Option<PathBuf>,

    /// The same of Alpine's apk-tools; with abuild's and mkinitfs' its package is made and tried, too
    #[arg(long, value_name = "DIR")]
    apk_tools: Option<PathBuf>,

    /// The same of Alpine's abuild
    #[arg(long, value_name = "DIR")]
    abuild: Option<PathBuf>,

    /// The same of ugrd, with checkouts of zenlib and pycpio, which it imports, beside it
    #[arg(long, value_name = "DIR")]
    ugrd: Option<PathBuf>,
}

impl Checkouts {
    pub fn of(&self, project: Project) -> Option<&Path> {
        match project {
            Project::Booster => self.booster.as_deref(),
            Project::Mkinitcpio => self.mkinitcpio.as_deref(),
            Project::Mkinitfs => self.mkinitfs.as_deref(),
            Project::Ugrd => self.ugrd.as_deref(),
        }
    }

    /// What Alpine's packages are made with and end in, by its names; none unless all is there.
    pub fn alpine(&self) -> Option<[(&'static str, &Path); 3]> {
        Some([
            ("abuild", self.abuild.as_deref()?),
            ("apk-tools", self.apk_tools.as_deref()?),
            ("mkinitfs", self.mkinitfs.as_deref()?),
        ])
    }

    /// Builds and installs in this Debian what there is a checkout of.
    pub fn set_up(&self, debian: &Debian) -> Vec<Tool> {
        let given =
            Project::ALL.into_iter().filter_map(|project| Some((project, self.of(project)?)));
        given
            .map(|(project, checkout)| {
                let title = format!("set up {} from its checkout", project.name());
                let version = progress::phase(title, || set_up(debian, project, checkout));
                Tool { project, version: version.map_err(|error| format!("{error:#}")) }
            })
            .collect()
    }
}

/// One that was set up, or why it was not.
pub struct Tool {
    pub project: Project,
    pub version: Result<String, String>,
}

fn set_up(debian: &Debian, project: Project, checkout: &Path) -> Result<String> {
    let name = project.name();
    let others = project.beside().iter().map(|other| (*other, checkout.join("..").join(other)));
    for (name, from) in [(name, checkout.to_owned())].into_iter().chain(others) {
        let place = debian.path("tmp").join(name);
        if place.is_dir() {
            fs::remove_dir_all(&place)?;
        }
        command::check(Command::new("cp").arg("-rT").arg(from).arg(&place))?;
    }
    run(debian, project, &["setup"])?;
    let mut git = Command::new("git");
    git.arg("-C").arg(checkout).args(["describe", "--tags", "--always"]);
    let version = command::stdout(&mut git)?;
    Ok(format!("{name} {}", version.trim().trim_start_matches('v')))
}

/// Makes an image that loads the host's drivers by name.
pub fn make(
    debian: &Debian,
    kernel: &Kernel,
    project: Project,
    more: &str,
    image: &str,
) -> Result<String> {
    let modules = [&ROOT_DRIVERS[..], &FORCED].concat().join(" ");
    run(debian, project, &["make", &kernel.release, image, &modules, more])
}

fn run(debian: &Debian, project: Project, arguments: &[&str]) -> Result<String> {
    const ENTER: &str = r#"cd "/tmp/$1" && shift && exec sh -c "$@""#;
    let start = ["-c", ENTER, "sh", project.name(), project.script(), "sh"];
    debian.run("sh", [&start[..], arguments].concat())
}
