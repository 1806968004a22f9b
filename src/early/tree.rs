// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`System`] by system calls, below one sysfs root.

use core::ffi::CStr;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::uio::pread;
use nix::sys::utsname::uname;
use nix::unistd::{read, write};
use vfio_override::beneath;
use vfio_override::path::{Attribute, MAX_PATH, Path, PathText};
use vfio_override::pci::Address;
use vfio_override::system::{File, System, Text};

use crate::sys::{self, Fd, retry};

/// The aliases of VFIO variant drivers, which the generator has found and put into the image.
const VARIANTS: &CStr = c"/usr/lib/vfio-override/variants";

/// A PCI bus in sysfs.
///
/// The kernel has the directories of all functions of a bus in one, that of the bridge above (`pci_setup_device` in
/// `drivers/pci/probe.c`, `pci_iov_add_virtfn` in `drivers/pci/iov.c`). This directory is opened once. The attributes
/// of a function are then reached without resolving the device symlink.
///
/// Every file stays open until the process may open no more. Then one call closes all that were opened after the root,
/// which have higher numbers.
pub struct Tree {
    root: Fd,
    /// The directory that is being read, and else the root: it stays open. One is read at a time.
    directory: Fd,
    probe: Option<Fd>,
    /// At the index of a bus number: where the functions of that bus are. Where several domains have this bus, the
    /// last one used.
    buses: &'static mut Buses,
    cmdline: &'static CStr,
}

/// Where the functions of each bus are, as far as this is known.
pub type Buses = [Option<Bus>; 256];

/// Where the functions of a bus are.
#[derive(Clone, Copy)]
pub struct Bus {
    domain: u32,
    /// The directory that holds all of them. There is none in a tree that no kernel made.
    directory: Option<Fd>,
}

impl Tree {
    /// The PCI bus below this root. The file `iomem` is read from the directory of `cmdline`, as both are in procfs.
    pub const fn below(root: Fd, buses: &'static mut Buses, cmdline: &'static CStr) -> Self {
        Self { root, directory: root, probe: None, buses, cmdline }
    }

    /// Fails where there is no PCI bus at all.
    pub fn find_bus(&mut self) -> nix::Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        self.open_below(c"bus/pci", flags).map(|_| ())
    }

    /// Runs an operation that opens files. If there is no room for them, it closes all that are open first.
    fn with_room<T>(
        &mut self,
        mut operate: impl FnMut(&mut Self) -> nix::Result<T>,
    ) -> nix::Result<T> {
        match operate(self) {
            Err(Errno::EMFILE) => {
                self.close_all();
                operate(self)
            }
            result => result,
        }
    }

    fn close_all(&mut self) {
        self.probe = None;
        self.buses.fill(None);
        sys::close_between(self.root, Some(self.directory));
        sys::close_between(self.directory, None);
    }

    /// The directory that holds the function's own, or would; `None` where its bus has no such directory.
    fn directory(&mut self, address: Address) -> nix::Result<Option<Fd>> {
        let bus = self.buses.get(usize::from(address.bus())).copied().flatten();
        if let Some(bus) = bus.filter(|bus| bus.domain == address.domain()) {
            return Ok(bus.directory);
        }
        let path = PathText::around(address);
        match self.open_path(path.as_c_str(), OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => Err(Errno::ENODEV),
            opened => {
                let directory = Some(opened?);
                self.remember(address, directory);
                Ok(directory)
            }
        }
    }

    fn remember(&mut self, address: Address, directory: Option<Fd>) {
        if let Some(bus) = self.buses.get_mut(usize::from(address.bus())) {
            *bus = Some(Bus { domain: address.domain(), directory });
        }
    }

    /// Opens the file at this path below the root.
    fn open_path(&self, path: &CStr, flags: OFlag) -> nix::Result<Fd> {
        beneath::open(self.root, path, flags).map(Fd::keep)
    }

    /// The same, with room.
    fn open_below(&mut self, path: &CStr, flags: OFlag) -> nix::Result<Fd> {
        self.with_room(|tree| tree.open_path(path, flags))
    }

    fn list_directory(
        &mut self,
        path: &PathText,
        each: &mut dyn FnMut(&mut Self, &[u8]),
    ) -> nix::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let directory = self.open_below(path.as_c_str(), flags)?;
        self.directory = directory;
        let result = sys::read_directory(directory, |name| each(self, name));
        self.directory = self.root;
        result
    }

    fn open_file(&mut self, path: Path, flags: OFlag) -> nix::Result<Fd> {
        let (address, attribute) = match path {
            // The link `driver` leads out of the function's directory.
            Path::Attribute(address, attribute) if attribute != Attribute::DriverUnbind => {
                (address, attribute)
            }
            _ => return self.open_path(path.text().as_c_str(), flags),
        };
        if let Some(directory) = self.directory(address)? {
            let text = PathText::below_bus(address, attribute);
            match beneath::open(directory, text.as_c_str(), flags) {
                Err(Errno::ENOENT | Errno::EXDEV) => {}
                opened => return opened.map(Fd::keep),
            }
        }
        match self.open_path(Path::Device(address).text().as_c_str(), OFlag::O_PATH) {
            Err(Errno::ENOENT) => return Err(Errno::ENODEV),
            opened => opened?,
        };
        let opened = self.open_path(path.text().as_c_str(), flags)?;
        self.remember(address, None);
        Ok(opened)
    }
}

/// The root of a sysfs.
pub fn open_root(sysfs: &CStr) -> nix::Result<Fd> {
    sys::open(sysfs, OFlag::O_PATH | OFlag::O_DIRECTORY)
}

impl File for Fd {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        sys::fill(buffer, &mut |free, offset| pread(*self, free, offset))
    }

    /// Writes all of a text at once, or fails.
    fn write(&mut self, text: &[u8]) -> Result<(), Errno> {
        match retry(|| write(*self, text))? {
            count if count == text.len() => Ok(()),
            _ => Err(Errno::EIO),
        }
    }
}

impl System for Tree {
    type File<'a> = Fd;

    fn open(&mut self, path: Path, access: OFlag) -> Result<Fd, Errno> {
        // No attribute that is opened is a link.
        self.with_room(|tree| tree.open_file(path, access | OFlag::O_NOFOLLOW))
    }

    fn read_link(&mut self, path: Path, buffer: &mut [u8]) -> Result<usize, Errno> {
        let Path::Attribute(address, attribute) = path else { return Err(Errno::EINVAL) };
        self.with_room(|tree| {
            if let Some(directory) = tree.directory(address)? {
                let text = PathText::below_bus(address, attribute);
                return sys::read_link(directory, text.as_c_str(), buffer);
            }
            let link = tree.open_path(path.text().as_c_str(), OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
            // The kernel answers ENOENT to an empty path if the file is no link (`do_readlinkat` in `fs/stat.c`).
            match sys::read_link(link, c"", buffer) {
                Err(Errno::ENOENT) => Err(Errno::EINVAL),
                length => length,
            }
        })
    }

    fn list(&mut self, path: Path, each: &mut dyn FnMut(&mut Self, &[u8])) -> Result<(), Errno> {
        self.list_directory(&path.text(), each)
    }

    fn find_driver(&mut self, name: &[u8]) -> Result<(), Errno> {
        let path = PathText::of_driver(name);
        self.open_below(path.as_c_str(), OFlag::O_PATH).map(|_| ())
    }

    fn module_drivers(&mut self, module: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        self.list_directory(&PathText::of_module_drivers(module), &mut |_, name| each(name))
    }

    fn probe(&mut self, name: &[u8]) -> Result<(), Errno> {
        let mut probe = match self.probe {
            Some(probe) => probe,
            None => self.open(Path::DriversProbe, OFlag::O_WRONLY)?,
        };
        self.probe = Some(probe);
        File::write(&mut probe, name)
    }

    fn stream(&mut self, text: Text, each: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let open = |path: &CStr| sys::open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK);
        let file = self.with_room(|tree| match text {
            Text::Aliases => open(VARIANTS).or_else(|_| open(modules_alias()?.as_c_str())),
            Text::IoMemory => open(beside(tree.cmdline, b"iomem")?.as_c_str()),
        })?;
        let mut buffer = [0; 4096];
        loop {
            match retry(|| read(file, &mut buffer))? {
                0 => return Ok(()),
                count => each(buffer.get(..count).unwrap_or_default()),
            }
        }
    }
}

/// The aliases of all modules of the running kernel.
fn modules_alias() -> Result<PathText, Errno> {
    use std::os::unix::ffi::OsStrExt;
    let release = uname()?;
    Ok(PathText::of(&[b"/lib/modules/", release.release().as_bytes(), b"/modules.alias"]))
}

/// The file of this name in the same directory.
fn beside(path: &CStr, name: &[u8]) -> Result<PathText, Errno> {
    let directory = path.to_bytes().rsplitn(2, |&byte| byte == b'/').nth(1).unwrap_or(b".");
    if directory.len() + name.len() + 1 < MAX_PATH {
        Ok(PathText::of(&[directory, b"/", name]))
    } else {
        Err(Errno::ENAMETOOLONG)
    }
}
