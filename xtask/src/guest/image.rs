// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask image`: the guest's initramfs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::build::{self, MuslOptions};
use crate::ground::arch::{ArchOptions, Libc};
use crate::ground::progress;
use crate::ground::verdict::Verdict;
use crate::ground::workspace::Workspace;
use crate::guest::archive::Archive;
use crate::guest::busybox;
use crate::guest::kernel::{self, Choice, Kernel};
use crate::guest::machine::{self, Machine, STUB_MODULE, VFIO_MODULES};
use crate::guest::modules::{self, Presence};

/// Where the early binary is, on every host and in every image.
pub const EARLY: &str = "usr/lib/vfio-override/vfio-override-early";

/// What `rdinit=` names, in every image.
pub const LINK: &str = "vfio-override-early";

/// The `vfio_pci:` lines of modules.alias, for the driver name `auto`.
pub const VARIANTS: &str = "usr/lib/vfio-override/variants";

/// Make the initramfs that `cargo xtask boot` boots
///
/// An uncompressed newc cpio archive with the early binary (and the link /vfio-override-early to
/// it), a static busybox, the guest's /init from tests/guest, and the kernel modules for the
/// emulated devices and for vfio-pci. The same inputs make the same bytes.
///
/// The path of the archive goes to standard output.
#[derive(Args)]
pub struct Options {
    /// auto (the host's if usable, else the first of tests/kernels.toml), a name in that file such as
    /// 6.12, or the path of a vmlinuz
    #[arg(long, value_name = "KERNEL", default_value_t = Choice::Auto)]
    kernel: Choice,

    #[command(flatten)]
    arch: ArchOptions,

    /// The C library of the early binary (default: musl where that can be had, else glibc)
    #[arg(long, value_name = "LIBC")]
    libc: Option<Libc>,

    /// Make an archive with nothing but the early binary, to append to any image
    #[arg(long, conflicts_with = "kernel")]
    overlay: bool,

    #[command(flatten)]
    musl: MuslOptions,
}

pub fn run(options: &Options) -> Result<Verdict> {
    let workspace = Workspace::locate()?;
    let early = build::preferred(&workspace, options.arch.arch, options.libc, options.musl)?;
    if options.overlay {
        let path = workspace.scratch("image")?.join("vfio-override.cpio.gz");
        fs::write(&path, overlay(&early.path)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
        return Ok(Verdict::Good);
    }
    let drivers = Drivers::of(&machine::demo());
    let kernel = kernel::prepare(&options.kernel, options.arch.arch, &drivers.all(), &workspace)?;
    let image = progress::phase("make the image", || {
        Ingredients::of(&workspace, &kernel)?.mix(&kernel, &early.path, &drivers)?.to_bytes()
    })?;
    let path =
        workspace.scratch("image")?.join(format!("guest-{}-{}.cpio", kernel.release, early.target));
    fs::write(&path, image).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.display());
    Ok(Verdict::Good)
}

/// The modules of an image, and when /init loads them. Those that the kernel has built in or lacks
/// are passed over.
#[derive(Clone, Debug, Default)]
pub struct Drivers {
    /// Before the early binary.
    pub first: Vec<&'static str>,
    /// After it: the host's.
    pub host: Vec<&'static str>,
    /// After those: what passthrough needs, and pci-stub.
    pub passthrough: Vec<&'static str>,
    /// Not by itself.
    pub later: Vec<&'static str>,
}

impl Drivers {
    /// The host's drivers for this machine, and vfio-pci.
    pub fn of(machine: &Machine) -> Self {
        Self {
            first: Vec::new(),
            host: machine.host_modules(),
            passthrough: VFIO_MODULES.into_iter().chain([STUB_MODULE]).collect(),
            later: machine.later_modules(),
        }
    }

    pub fn all(&self) -> Vec<&'static str> {
        [&self.first, &self.host, &self.passthrough, &self.later].map(Vec::as_slice).concat()
    }
}

/// All that goes into every image of a kernel; reading it once serves several images.
pub struct Ingredients {
    common: Archive,
    vfio_aliases: String,
}

impl Ingredients {
    pub fn of(workspace: &Workspace, kernel: &Kernel) -> Result<Self> {
        let mut common = Archive::default();
        for directory in ["dev", "proc", "sys", "sbin"] {
            common.directory(directory);
        }
        common.program_from("init", &guest_init(workspace))?;
        common.program_from("bin/busybox", &busybox::of(workspace, kernel.arch)?)?;
        common.link("bin/sh", "busybox");
        common.link("sbin/modprobe", "../bin/busybox");
        let vfio_aliases = kernel.modules.vfio_aliases()?;
        common.file(VARIANTS, &*vfio_aliases);
        Ok(Self { common, vfio_aliases })
    }

    /// The image with this early binary and these drivers.
    pub fn mix(&self, kernel: &Kernel, early: &Path, drivers: &Drivers) -> Result<Archive> {
        let mut archive = self.without_early(kernel, drivers)?;
        archive.program_from(EARLY, early)?;
        archive.link(LINK, EARLY);
        Ok(archive)
    }

    /// The image with these drivers, but without the early binary.
    pub fn without_early(&self, kernel: &Kernel, drivers: &Drivers) -> Result<Archive> {
        let mut archive = self.common.clone();
        self.add_modules(&mut archive, kernel, &drivers.all())?;
        let Drivers { first, host, passthrough, .. } = drivers;
        for (stage, modules) in [("first", first), ("host", host), ("vfio", passthrough)] {
            archive.file(&format!("etc/drivers.{stage}"), lines(&loadable(kernel, modules)));
        }
        Ok(archive)
    }

    fn add_modules(&self, archive: &mut Archive, kernel: &Kernel, names: &[&str]) -> Result<()> {
        let variants = self.vfio_aliases.lines().filter_map(|line| line.rsplit(' ').next());
        let names: Vec<&str> = names.iter().copied().chain(variants).collect();
        let modules = kernel.modules.closure(&loadable(kernel, &names))?;
        let directory = format!("lib/modules/{}", kernel.release);
        for module in &modules {
            archive.file(&format!("{directory}/{}.ko", module.name), &*module.bytes);
        }
        let aliases = modules::modules_alias(&modules)? + &self.vfio_aliases;
        archive.file(&format!("{directory}/modules.alias"), aliases);
        archive.file(&format!("{directory}/modules.dep"), modules::modules_dep(&modules)?);
        Ok(())
    }
}

/// What is appended to any image, or named as one more: nothing but the early binary, where the kernel
/// is told to look for it. A directory here would take the place of a link of that name in the image.
pub fn overlay(early: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.program_from(LINK, early)?;
    archive.to_gzip()
}

/// The guest's userspace.
pub fn guest_init(workspace: &Workspace) -> PathBuf {
    workspace.root.join("tests/guest/init")
}

fn loadable<'a>(kernel: &Kernel, names: &[&'a str]) -> Vec<&'a str> {
    names.iter().copied().filter(|name| kernel.modules.presence(name) == Presence::Module).collect()
}

fn lines(words: &[&str]) -> String {
    words.iter().flat_map(|word| [*word, "\n"]).collect()
}
