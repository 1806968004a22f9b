// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine that a command looks at: this one, a copy of it, or a directory like /sys.

pub mod binding;
pub mod copy;
pub mod disks;
pub mod file;
pub mod functions;
pub mod inputs;
pub mod inside;
pub mod kernel_log;
pub mod links;
pub mod modules;
pub mod names;
pub mod root;
pub mod tree;
pub mod usage;
pub mod vfio_users;

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use vfio_override::pci::Address;

use crate::args::Source;
use crate::machine::names::Names;
use crate::machine::root::Root;
use crate::machine::tree::Tree;

/// Where the functions are, below sysfs.
const BUS: &str = "bus/pci/devices";

/// A machine, and what is known of it.
pub struct Machine {
    pub tree: Tree,
    pub sysfs: PathBuf,
    /// Where procfs is; `None` for a directory of which only sysfs is known.
    proc: Option<PathBuf>,
    /// The host's files; `None` where only a directory like /sys was named.
    pub root: Option<Root>,
    pub kind: Kind,
    pub names: Names,
    cmdline: PathBuf,
    /// Goes when the machine goes.
    unpacked: Option<TempDir>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The one that this runs on.
    Live,
    /// One that `collect` made.
    Copy,
    /// A directory like /sys.
    Directory,
}

impl Machine {
    pub fn open(source: &Source) -> Result<Self> {
        let names = Names::load(source.pci_ids.as_deref())?;
        if let Some(file) = &source.from {
            return Self::copy(file, names);
        }
        let sysfs = source.sysfs.clone().unwrap_or_else(|| "/sys".into());
        // However it is called, and whatever rules are applied to it.
        let is_live = fs::canonicalize(&sysfs).is_ok_and(|real| real == Path::new("/sys"));
        let (kind, proc, root) = if is_live {
            (Kind::Live, Some("/proc".into()), Some(Root::new(Path::new("/"))))
        } else {
            let beside = source.cmdline.as_ref().and_then(|file| file.parent());
            (Kind::Directory, beside.map(Path::to_owned), None)
        };
        let cmdline = source.cmdline.clone().unwrap_or_else(|| "/proc/cmdline".into());
        Self { tree: Tree::default(), sysfs, proc, root, kind, names, cmdline, unpacked: None }
            .ready()
    }

    fn copy(file: &Path, names: Names) -> Result<Self> {
        let (directory, unpacked) = copy::open(file)?;
        let (sysfs, proc) = (directory.join("sys"), directory.join("proc"));
        if !sysfs.join(BUS).is_dir() {
            bail!("{} holds no sys/{BUS}: it is no copy of a machine", file.display());
        }
        let cmdline = proc.join("cmdline");
        let (proc, root) = (Some(proc), Some(Root::new(&directory)));
        let tree = Tree::default();
        Self { tree, sysfs, proc, root, kind: Kind::Copy, names, cmdline, unpacked }.ready()
    }

    fn ready(mut self) -> Result<Self> {
        let bus = self.sysfs.join(BUS);
        if self.has_pci() {
            fs::read_dir(&bus).with_context(|| {
                format!("cannot open {}: there is no PCI bus to look at", bus.display())
            })?;
        }
        let aliases = self
            .modules_directory()
            .map(|modules| self.root_path(&format!("{modules}/modules.alias")));
        let iomem = self.proc.as_ref().map(|proc| proc.join("iomem"));
        self.tree = Tree::new(&self.sysfs, aliases.flatten(), iomem);
        Ok(self)
    }

    /// Whether it has a PCI bus. A machine without one is a machine; a directory without one is no sysfs.
    pub fn has_pci(&self) -> bool {
        let is_sysfs = self.kind == Kind::Live && self.sysfs.join("bus").is_dir();
        !is_sysfs || self.sysfs.join(BUS).exists()
    }

    fn root_path(&self, path: &str) -> Option<PathBuf> {
        Some(self.root.as_ref()?.path(path))
    }

    /// What a file of procfs holds; `None` where that is not known.
    pub fn proc(&self, path: &str) -> Option<String> {
        file::read_text(&self.proc.as_ref()?.join(path)).ok()
    }

    /// How many directories a directory of procfs holds.
    pub fn proc_directories(&self, path: &str) -> usize {
        let entries = self.proc.as_ref().and_then(|proc| fs::read_dir(proc.join(path)).ok());
        let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        entries.into_iter().flatten().flatten().filter(is_directory).count()
    }

    /// The kernel command line.
    pub fn cmdline(&self) -> Result<Vec<u8>> {
        file::read_named(&self.cmdline).with_context(|| match self.unpacked {
            Some(_) => "cannot read proc/cmdline of the copy".to_owned(),
            None => format!("cannot read {}", self.cmdline.display()),
        })
    }

    /// The release of the running kernel, as `uname -r` prints it.
    pub fn release(&self) -> Option<String> {
        self.root.as_ref()?;
        let text = self.proc("sys/kernel/osrelease")?;
        Some(text.trim().to_owned()).filter(|release| !release.is_empty())
    }

    /// Where the running kernel's modules are, below the root.
    pub fn modules_directory(&self) -> Option<String> {
        Some(format!("lib/modules/{}", self.release()?))
    }

    /// The functions on the way to this one, from the root bus down to itself, as the kernel nests their
    /// directories.
    pub fn way_to(&self, address: Address) -> Vec<Address> {
        let link = fs::read_link(self.sysfs.join(BUS).join(address.to_string()));
        let way = link.map(|place| addresses_in(&place)).unwrap_or_default();
        if way.is_empty() { vec![address] } else { way }
    }

    /// The directory of a function.
    pub fn place_of(&self, address: Address) -> Option<PathBuf> {
        fs::canonicalize(self.sysfs.join(BUS).join(address.to_string())).ok()
    }

    /// Whether a function is behind a port to the outside (`Documentation/ABI/testing/sysfs-devices-removable`).
    pub fn is_removable(&self, address: Address) -> bool {
        let file = format!("{BUS}/{address}/removable");
        inside::read(&self.sysfs, file).is_some_and(|text| text.trim() == "removable")
    }

    /// The physical function to which a virtual one belongs.
    pub fn physical_of(&self, address: Address) -> Option<Address> {
        let link = self.sysfs.join(BUS).join(address.to_string()).join("physfn");
        let target = fs::read_link(link).ok()?;
        Address::from_sysfs(target.file_name()?.as_encoded_bytes())
    }
}

/// The functions whose directories a path goes through.
pub fn addresses_in(path: &Path) -> Vec<Address> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Address::from_sysfs(name.as_encoded_bytes()),
            _ => None,
        })
        .collect()
}
