// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`System`] by system calls, below one sysfs root.

use core::ffi::CStr;
use core::mem;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};

use heapless::Vec;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::uio::pread;
use nix::sys::utsname::uname;
use nix::unistd::{close, read, write};
use vfio_override::beneath;
use vfio_override::path::{Attribute, Path, PathText};
use vfio_override::pci::Address;
use vfio_override::system::{Access, File, System, Text};

use crate::sys::{self, retry};

/// The aliases of VFIO variant drivers, which the generator has found and put into the image.
const VARIANTS: &CStr = c"/usr/lib/vfio-override/variants";

/// How many files are open before all are closed, with one call instead of one each: nearly as many as a process may
/// have by default (`INR_OPEN_CUR` in `include/uapi/linux/fs.h`).
const BATCH: usize = 960;

/// How many more one operation opens at most.
const MOST_AT_ONCE: usize = 2;

/// A PCI bus in sysfs.
///
/// The kernel has the directories of all functions of a bus in one, that of the bridge above (`pci_setup_device` in
/// `drivers/pci/probe.c`, `pci_iov_add_virtfn` in `drivers/pci/iov.c`). This directory is opened once. The attributes
/// of a function are then reached without resolving the device symlink.
pub struct Tree {
    root: OwnedFd,
    probe: Option<OwnedFd>,
    batch: Vec<OwnedFd, BATCH>,
    /// At the index of a bus number: where the functions of that bus are. Where several domains have this bus, the
    /// last one used.
    buses: &'static mut Buses,
    cmdline: &'static CStr,
}

/// Where the functions of each bus are.
pub type Buses = [Bus; 256];

/// Where the functions of a bus are.
#[derive(Clone, Copy)]
pub struct Bus {
    domain: u32,
    place: Place,
}

impl Bus {
    pub const UNKNOWN: Self = Self { domain: 0, place: Place::Unknown };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Unknown,
    /// All in the directory at this index of the batch.
    Directory(u16),
    /// Not all in one directory, as in a tree that no kernel made.
    Anywhere,
}

impl Tree {
    /// The PCI bus below this root. The file `iomem` is read from the directory of `cmdline`, as both are in procfs.
    pub const fn below(root: OwnedFd, buses: &'static mut Buses, cmdline: &'static CStr) -> Self {
        Self { root, probe: None, batch: Vec::new(), buses, cmdline }
    }

    /// Fails where there is no PCI bus at all.
    pub fn find_bus(&mut self) -> nix::Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        self.with_room(|tree| beneath::open(&tree.root, c"bus/pci", flags)).map(drop)
    }

    /// Runs an operation that opens files. If there is no room for them, it closes all that are open first.
    fn with_room<T>(
        &mut self,
        mut operate: impl FnMut(&mut Self) -> nix::Result<T>,
    ) -> nix::Result<T> {
        if self.batch.len() + MOST_AT_ONCE > BATCH {
            self.close_all();
        }
        match operate(self) {
            Err(Errno::EMFILE) => {
                self.close_all();
                operate(self)
            }
            result => result,
        }
    }

    /// Closes all files. Each run of consecutive numbers takes one call; mostly there is one run.
    fn close_all(&mut self) {
        for bus in self.buses.iter_mut().filter(|bus| bus.place != Place::Anywhere) {
            bus.place = Place::Unknown;
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

    /// Leaves a file open until all are closed.
    fn keep(&mut self, file: OwnedFd) -> nix::Result<u16> {
        let index = u16::try_from(self.batch.len()).map_err(|_| Errno::EMFILE)?;
        self.batch.push(file).map_err(|_| Errno::EMFILE)?;
        Ok(index)
    }

    /// The directory that holds the function's own, or would; `None` where its bus has no such directory.
    fn directory(&mut self, address: Address) -> nix::Result<Option<&OwnedFd>> {
        let mut place = self.place(address);
        if place == Place::Unknown {
            let path = PathText::around(address);
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
            let directory = match beneath::open(&self.root, path.as_c_str(), flags) {
                Err(Errno::ENOENT) => return Err(Errno::ENODEV),
                opened => opened?,
            };
            place = Place::Directory(self.keep(directory)?);
            self.remember(address, place);
        }
        Ok(match place {
            Place::Directory(index) => self.batch.get(usize::from(index)),
            Place::Anywhere | Place::Unknown => None,
        })
    }

    fn place(&self, address: Address) -> Place {
        match self.buses.get(usize::from(address.bus())) {
            Some(bus) if bus.domain == address.domain() => bus.place,
            _ => Place::Unknown,
        }
    }

    fn remember(&mut self, address: Address, place: Place) {
        if let Some(bus) = self.buses.get_mut(usize::from(address.bus())) {
            *bus = Bus { domain: address.domain(), place };
        }
    }

    fn open_file(&mut self, path: Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let address = match path {
            // The link `driver` leads out of the function's directory.
            Path::Attribute(_, Attribute::DriverUnbind) => None,
            Path::Attribute(address, _) => Some(address),
            _ => None,
        };
        if let Some(address) = address {
            if let Some(directory) = self.directory(address)? {
                match beneath::open(directory, path.below_bus().as_c_str(), flags) {
                    Err(Errno::ENOENT | Errno::EXDEV) => {}
                    opened => return opened,
                }
            }
            let function = Path::Device(address).text();
            match beneath::open(&self.root, function.as_c_str(), OFlag::O_PATH) {
                Err(Errno::ENOENT) => return Err(Errno::ENODEV),
                opened => drop(opened?),
            }
        }
        let opened = beneath::open(&self.root, path.text().as_c_str(), flags);
        if let Some(address) = address.filter(|_| opened.is_ok()) {
            self.remember(address, Place::Anywhere);
        }
        opened
    }
}

/// The root of a sysfs.
pub fn open_root(sysfs: &CStr) -> nix::Result<OwnedFd> {
    sys::open(sysfs, OFlag::O_PATH | OFlag::O_DIRECTORY)
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
pub struct OpenAttribute<'a>(&'a OwnedFd);

impl File for OpenAttribute<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut length = 0;
        while let Some(free) = buffer.get_mut(length..).filter(|free| !free.is_empty()) {
            let offset = i64::try_from(length).map_err(|_| Errno::EOVERFLOW)?;
            length += match retry(|| pread(self.0, free, offset))? {
                0 => break,
                count => count,
            };
            // Every attribute ends with this newline. To stop here saves the call that would find the end.
            if buffer.get(..length).is_some_and(|text| text.ends_with(b"\n")) {
                break;
            }
        }
        Ok(length)
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
    type File<'a> = OpenAttribute<'a>;

    fn open(&mut self, path: Path, access: Access) -> Result<OpenAttribute<'_>, Errno> {
        let flags = match access {
            Access::Read => OFlag::O_RDONLY,
            Access::Write => OFlag::O_WRONLY,
            Access::ReadWrite => OFlag::O_RDWR,
        };
        // No attribute that is opened is a link.
        let flags = flags | OFlag::O_NOFOLLOW;
        let file = self.with_room(|tree| tree.open_file(path, flags))?;
        self.keep(file)?;
        self.batch.last().map(OpenAttribute).ok_or(Errno::EMFILE)
    }

    fn read_link(&mut self, path: Path, buffer: &mut [u8]) -> Result<usize, Errno> {
        let Path::Attribute(address, _) = path else { return Err(Errno::EINVAL) };
        self.with_room(|tree| {
            if let Some(directory) = tree.directory(address)? {
                return sys::read_link(directory, path.below_bus().as_c_str(), buffer);
            }
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
            let link = beneath::open(&tree.root, path.text().as_c_str(), flags)?;
            // The kernel answers ENOENT to an empty path if the file is no link (`do_readlinkat` in `fs/stat.c`).
            match sys::read_link(link, c"", buffer) {
                Err(Errno::ENOENT) => Err(Errno::EINVAL),
                length => length,
            }
        })
    }

    fn list(&mut self, path: Path, each: &mut dyn FnMut(&mut Self, &[u8])) -> Result<(), Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let directory = self.with_room(|tree| tree.open_file(path, flags))?;
        let result = sys::read_directory(&directory, |name| each(self, name));
        let _ = self.keep(directory);
        result
    }

    fn find_driver(&mut self, name: &[u8]) -> Result<(), Errno> {
        let path = PathText::of_driver(name);
        let open = |tree: &mut Self| beneath::open(&tree.root, path.as_c_str(), OFlag::O_PATH);
        self.with_room(open).map(drop)
    }

    fn probe(&mut self, name: &[u8]) -> Result<(), Errno> {
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW;
        let probe = match self.probe.take() {
            Some(probe) => probe,
            None => self.with_room(|tree| tree.open_file(Path::DriversProbe, flags))?,
        };
        let probe = self.probe.insert(probe);
        write_whole(probe, name)
    }

    fn stream(&mut self, text: Text, each: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let open = |path: &CStr| sys::open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK);
        let file = self.with_room(|tree| match text {
            Text::Aliases => open(VARIANTS).or_else(|_| open(modules_alias()?.as_c_str())),
            Text::IoMemory => open(beside(tree.cmdline, b"iomem")?.as_c_str()),
        })?;
        let mut buffer = [0; 4096];
        loop {
            match retry(|| read(&file, &mut buffer))? {
                0 => return Ok(()),
                count => each(buffer.get(..count).unwrap_or_default()),
            }
        }
    }
}

/// A path that is joined from parts.
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
