//! [`System`] by system calls, below one sysfs root.

use core::ffi::CStr;
use core::mem;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

use heapless::Vec;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::sys::uio::pread;
use nix::sys::utsname::uname;
use nix::unistd::{read, write};
use vfio_override::system::{Access, File, System, Text};

use crate::sys::{self, retry};

/// The aliases of VFIO variant drivers that the image's generator found.
const VARIANTS: &CStr = c"/usr/lib/vfio-override/variants";

/// How many attributes are open before all are closed, with one call instead of one each.
const BATCH: usize = 64;

/// A PCI bus in sysfs.
pub struct Tree {
    pci: OwnedFd,
    probe: Option<OwnedFd>,
    batch: Vec<OwnedFd, BATCH>,
    cmdline: &'static CStr,
}

impl Tree {
    /// The PCI bus below a sysfs root. `iomem` is expected beside the command line, where procfs has
    /// it.
    pub fn open(sysfs: &CStr, cmdline: &'static CStr) -> nix::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let root = retry(|| open(sysfs, flags, Mode::empty()))?;
        let pci = retry(|| openat(&root, c"bus/pci", flags, Mode::empty()))?;
        Ok(Self { pci, probe: None, batch: Vec::new(), cmdline })
    }

    fn close_batch(&mut self) {
        let fds = || self.batch.iter().map(AsRawFd::as_raw_fd);
        let (Some(first), Some(last)) = (fds().min(), fds().max()) else { return };
        // As many numbers as descriptors: the range holds nothing but ours.
        let is_range = usize::try_from(last - first).is_ok_and(|gap| gap + 1 == self.batch.len());
        let batch = mem::take(&mut self.batch);
        if is_range && sys::close_range(first, last).is_ok() {
            for file in batch {
                let _ = file.into_raw_fd();
            }
        }
    }
}

/// An open attribute.
pub struct Attribute<'a>(&'a OwnedFd);

impl File for Attribute<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut length = 0;
        loop {
            let Some(free) = buffer.get_mut(length..).filter(|free| !free.is_empty()) else {
                return Ok(length);
            };
            let offset = i64::try_from(length).map_err(|_| Errno::EOVERFLOW)?;
            match retry(|| pread(self.0, free, offset))? {
                0 => return Ok(length),
                count => length += count,
            }
            // Every attribute ends so; it saves the read that would find the end.
            if buffer.get(..length).is_some_and(|text| text.ends_with(b"\n")) {
                return Ok(length);
            }
        }
    }

    fn write(&mut self, text: &[u8]) -> Result<(), Errno> {
        match retry(|| write(self.0, text))? {
            count if count == text.len() => Ok(()),
            _ => Err(Errno::EIO),
        }
    }
}

impl System for Tree {
    type File<'a> = Attribute<'a>;

    fn open(&mut self, path: &CStr, access: Access) -> Result<Attribute<'_>, Errno> {
        let flags = match access {
            Access::Read => OFlag::O_RDONLY,
            Access::Write => OFlag::O_WRONLY,
            Access::ReadWrite => OFlag::O_RDWR,
        };
        if self.batch.is_full() {
            self.close_batch();
        }
        let file = retry(|| openat(&self.pci, path, flags, Mode::empty()))?;
        let _ = self.batch.push(file);
        self.batch.last().map(Attribute).ok_or(Errno::EMFILE)
    }

    fn read_link(&mut self, path: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
        sys::read_link(&self.pci, path, buffer)
    }

    fn list(&mut self, path: &CStr, each: &mut dyn FnMut(&mut Self, &[u8])) -> Result<(), Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let directory = retry(|| openat(&self.pci, path, flags, Mode::empty()))?;
        sys::read_directory(&directory, |name| each(self, name))
    }

    fn probe(&mut self, name: &[u8]) -> Result<(), Errno> {
        let probe = match self.probe.take() {
            Some(probe) => probe,
            None => retry(|| openat(&self.pci, c"drivers_probe", OFlag::O_WRONLY, Mode::empty()))?,
        };
        let probe = self.probe.insert(probe);
        retry(|| write(&*probe, name)).map(drop)
    }

    fn stream(&mut self, text: Text, each: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let open = |path: &CStr| retry(|| open(path, OFlag::O_RDONLY, Mode::empty()));
        let file = match text {
            Text::Aliases => open(VARIANTS).or_else(|_| open(modules_alias()?.as_c_str()))?,
            Text::IoMemory => open(beside(self.cmdline, b"iomem")?.as_c_str())?,
        };
        let mut buffer = [0; 4096];
        loop {
            match retry(|| read(&file, &mut buffer))? {
                0 => return Ok(()),
                count => each(buffer.get(..count).unwrap_or_default()),
            }
        }
    }
}

/// A path that is put together here.
struct Joined(Vec<u8, 256>);

impl Joined {
    fn new(parts: &[&[u8]]) -> Result<Self, Errno> {
        let mut path = Vec::new();
        for part in parts.iter().chain(&[&b"\0"[..]]) {
            path.extend_from_slice(part).map_err(|_| Errno::ENAMETOOLONG)?;
        }
        Ok(Self(path))
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

/// The aliases of all modules of the running kernel.
fn modules_alias() -> Result<Joined, Errno> {
    use std::os::unix::ffi::OsStrExt;
    let release = uname()?;
    Joined::new(&[b"/lib/modules/", release.release().as_bytes(), b"/modules.alias"])
}

/// The file of this name in the same directory.
fn beside(path: &CStr, name: &[u8]) -> Result<Joined, Errno> {
    let path = path.to_bytes();
    let last = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let directory = path.get(..path.len().saturating_sub(last.len())).unwrap_or_default();
    Joined::new(&[directory, name])
}
