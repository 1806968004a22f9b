//! [`System`] by system calls, below one sysfs root.

use core::ffi::CStr;
use core::mem;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};

use heapless::Vec;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::sys::uio::pread;
use nix::sys::utsname::uname;
use nix::unistd::{close, read, write};
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
        let path = Joined::new(&[sysfs.to_bytes(), b"/bus/pci"])?;
        let pci = retry(|| open(path.as_c_str(), flags, Mode::empty()))?;
        Ok(Self { pci, probe: None, batch: Vec::new(), cmdline })
    }

    /// Closes all of a full batch, in as few calls as there are runs of numbers, which is mostly one.
    fn make_room(&mut self) {
        if !self.batch.is_full() {
            return;
        }
        let mut run = None;
        for fd in mem::take(&mut self.batch).into_iter().map(IntoRawFd::into_raw_fd) {
            run = match run {
                Some((first, last)) if fd == last + 1 => Some((first, fd)),
                _ => {
                    close_run(run);
                    Some((fd, fd))
                }
            };
        }
        close_run(run);
    }
}

fn close_run(run: Option<(RawFd, RawFd)>) {
    let Some((first, last)) = run else { return };
    if sys::close_range(first, last).is_err() {
        for fd in first..=last {
            let _ = close(fd);
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
        write_whole(self.0, text)
    }
}

/// Writes all of a text at once, or fails.
fn write_whole(file: &OwnedFd, text: &[u8]) -> Result<(), Errno> {
    match retry(|| write(file, text))? {
        count if count == text.len() => Ok(()),
        _ => Err(Errno::EIO),
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
        self.make_room();
        // No attribute is a link, but in a copy that is to lead out of itself.
        let flags = flags | OFlag::O_NOFOLLOW;
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
        let result = sys::read_directory(&directory, |name| each(self, name));
        self.make_room();
        let _ = self.batch.push(directory);
        result
    }

    fn probe(&mut self, name: &[u8]) -> Result<(), Errno> {
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW;
        let probe = match self.probe.take() {
            Some(probe) => probe,
            None => retry(|| openat(&self.pci, c"drivers_probe", flags, Mode::empty()))?,
        };
        let probe = self.probe.insert(probe);
        write_whole(probe, name)
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
