//! The machine that a command looks at: this one, a copy of it, or a directory like /sys.

pub mod disks;
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
    _unpacked: Option<TempDir>,
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
        Self { tree: Tree::default(), sysfs, proc, root, kind, names, cmdline, _unpacked: None }
            .ready()
    }

    fn copy(file: &Path, names: Names) -> Result<Self> {
        let (directory, unpacked) = if file.is_dir() {
            (file.to_owned(), None)
        } else {
            let unpacked = unpack(file).with_context(|| {
                format!("cannot read {} as a copy of a machine", file.display())
            })?;
            (unpacked.path().to_owned(), Some(unpacked))
        };
        inside::check_links(&directory)
            .with_context(|| format!("cannot take {} for a copy of a machine", file.display()))?;
        let (sysfs, proc) = (directory.join("sys"), directory.join("proc"));
        if !sysfs.join(BUS).is_dir() {
            bail!("{} holds no sys/{BUS}: it is no copy of a machine", file.display());
        }
        let cmdline = proc.join("cmdline");
        let (proc, root) = (Some(proc), Some(Root::new(&directory)));
        let tree = Tree::default();
        Self { tree, sysfs, proc, root, kind: Kind::Copy, names, cmdline, _unpacked: unpacked }
            .ready()
    }

    fn ready(mut self) -> Result<Self> {
        let bus = self.sysfs.join(BUS);
        fs::read_dir(&bus).with_context(|| {
            format!("cannot open {}: there is no PCI bus to look at", bus.display())
        })?;
        let aliases = self
            .modules_directory()
            .map(|modules| self.root_path(&format!("{modules}/modules.alias")));
        let iomem = self.proc.as_ref().map(|proc| proc.join("iomem"));
        self.tree = Tree::new(&self.sysfs, aliases.flatten(), iomem);
        Ok(self)
    }

    fn root_path(&self, path: &str) -> Option<PathBuf> {
        Some(self.root.as_ref()?.path(path))
    }

    /// What a file of procfs says; `None` where that is not known.
    pub fn proc(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.proc.as_ref()?.join(path)).ok()
    }

    /// How many directories a directory of procfs holds.
    pub fn proc_directories(&self, path: &str) -> usize {
        let entries = self.proc.as_ref().and_then(|proc| fs::read_dir(proc.join(path)).ok());
        let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        entries.into_iter().flatten().flatten().filter(is_directory).count()
    }

    /// The kernel command line.
    pub fn cmdline(&self) -> Result<Vec<u8>> {
        fs::read(&self.cmdline).with_context(|| format!("cannot read {}", self.cmdline.display()))
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
        let place = self.place_of(address);
        place.map_or_else(|| vec![address], |directory| addresses_in(&directory))
    }

    /// The directory of a function.
    pub fn place_of(&self, address: Address) -> Option<PathBuf> {
        fs::canonicalize(self.sysfs.join(BUS).join(address.to_string())).ok()
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

/// Unpacks a copy. It may come from a stranger: nothing but files, directories and links that stay inside.
fn unpack(file: &Path) -> Result<TempDir> {
    /// Some thousand functions; a copy of a laptop has 200 KiB.
    const MOST_BYTES: u64 = 64 * 1024 * 1024;
    let directory = tempfile::Builder::new().prefix("vfio-override-").tempdir()?;
    let mut archive = tar::Archive::new(fs::File::open(file)?);
    archive.set_preserve_permissions(false);
    let mut bytes = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        bytes += entry.size();
        if bytes > MOST_BYTES {
            bail!("it holds more than {MOST_BYTES} bytes");
        }
        let kind = entry.header().entry_type();
        let stays_inside = match entry.link_name()? {
            Some(target) => kind.is_symlink() && is_inside(&path, &target),
            None => kind.is_file() || kind.is_dir(),
        };
        if !stays_inside || !entry.unpack_in(directory.path())? {
            bail!("{} is nothing that a copy holds", path.display());
        }
    }
    Ok(directory)
}

/// Whether a link at `path` leads to somewhere below the directory that both are in, if there are no other
/// links on its way.
fn is_inside(path: &Path, target: &Path) -> bool {
    let depth = |path: &Path| path.components().count();
    let mut level = depth(path).saturating_sub(1);
    target.components().all(|component| match component {
        Component::ParentDir => {
            level = level.wrapping_sub(1);
            level != usize::MAX
        }
        Component::Normal(_) => {
            level += 1;
            true
        }
        Component::CurDir => true,
        Component::RootDir | Component::Prefix(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_out_of_a_copy_are_seen() {
        let link = Path::new("sys/bus/pci/devices/0000:01:00.0");
        for target in ["../../../devices/pci0000:00/0000:01:00.0", "x", "./x", "../../../../proc"] {
            assert!(is_inside(link, Path::new(target)), "{target}");
        }
        for target in ["/sys", "../../../../../etc", "../../../../../../sys/x"] {
            assert!(!is_inside(link, Path::new(target)), "{target}");
        }
    }

    #[test]
    fn nothing_outside_of_a_copy_is_written_or_linked() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("copy.tar");
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        let mut archive = tar::Builder::new(fs::File::create(&file).unwrap());
        archive.append_link(&mut header, "sys", "/sys").unwrap();
        archive.finish().unwrap();
        assert_eq!(unpack(&file).unwrap_err().to_string(), "sys is nothing that a copy holds");
    }
}
