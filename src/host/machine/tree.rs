// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`System`] by the standard library, below one sysfs root.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use vfio_override::beneath;
use vfio_override::path::{Attribute, Path, PathText};
use vfio_override::pci::Address;
use vfio_override::system::{File, System, Text};

use crate::change::worker::Progress;
use crate::machine::file;

/// A PCI bus in sysfs, and the text files that belong to it.
#[derive(Default)]
pub struct Tree {
    root: PathBuf,
    aliases: Option<PathBuf>,
    iomem: Option<PathBuf>,
    /// Is told of every write before it is done.
    pub progress: Progress,
}

impl Tree {
    pub fn new(sysfs: &std::path::Path, aliases: Option<PathBuf>, iomem: Option<PathBuf>) -> Self {
        Self { root: sysfs.to_owned(), aliases, iomem, progress: Progress::default() }
    }

    fn open_beneath(&self, path: &PathText, flags: OFlag) -> Result<OwnedFd, Errno> {
        let root = fs::File::open(&self.root).map_err(|error| errno(&error))?;
        beneath::open(root, path.as_c_str(), flags | OFlag::O_CLOEXEC)
    }

    /// The names of a directory's entries, in order: a person wants to see the same twice.
    fn names(&self, path: &PathText) -> Result<Vec<CString>, Errno> {
        let directory = self.open_beneath(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let entries = Dir::from_fd(directory)?.into_iter();
        let names: Result<Vec<CString>, Errno> =
            entries.map(|entry| Ok(entry?.file_name().to_owned())).collect();
        let mut names = names?;
        names.retain(|name| !matches!(name.to_bytes(), b"." | b".."));
        names.sort();
        Ok(names)
    }

    /// What a failure with something of a function means: where there is no such function, that.
    fn explain(&self, path: Path, errno: Errno) -> Errno {
        let Path::Attribute(address, _) = path else { return errno };
        let function = || self.open_beneath(&Path::Device(address).text(), OFlag::O_PATH);
        match errno {
            Errno::ENOENT if function().is_err_and(|errno| errno == Errno::ENOENT) => Errno::ENODEV,
            errno => errno,
        }
    }
}

/// An open attribute.
pub struct OpenAttribute {
    file: fs::File,
    /// Of an override: whom to tell that the one of this function was written.
    told: Option<(Progress, Address)>,
}

impl OpenAttribute {
    fn new(file: OwnedFd) -> Self {
        Self { file: file.into(), told: None }
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

impl File for OpenAttribute {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut length = 0;
        while length < buffer.len() {
            match self.file.read_at(&mut buffer[length..], length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(errno(&error)),
            }
        }
        Ok(length)
    }

    fn write(&mut self, text: &[u8]) -> Result<(), Errno> {
        match self.file.write_at(text, 0) {
            Ok(count) if count == text.len() => {
                if let Some((progress, address)) = &mut self.told {
                    progress.has_overridden(*address);
                }
                Ok(())
            }
            Ok(_) => Err(Errno::EIO),
            Err(error) => Err(errno(&error)),
        }
    }
}

impl System for Tree {
    type File<'a> = OpenAttribute;

    fn open(&mut self, path: Path, access: OFlag) -> Result<OpenAttribute, Errno> {
        let text = path.text();
        if access != OFlag::O_RDONLY {
            self.progress
                .about_to_write(&self.root.join(OsStr::from_bytes(text.as_c_str().to_bytes())));
        }
        let told = match path {
            Path::Attribute(address, Attribute::DriverOverride) => {
                Some((self.progress.share(), address))
            }
            _ => None,
        };
        self.open_beneath(&text, access | OFlag::O_NOFOLLOW)
            .map(|file| OpenAttribute { told, ..OpenAttribute::new(file) })
            .map_err(|errno| self.explain(path, errno))
    }

    fn read_link(&mut self, path: Path, buffer: &mut [u8]) -> Result<usize, Errno> {
        let link = self.open_beneath(&path.text(), OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        // Of what is no link, the kernel has nothing to read (`do_readlinkat` in `fs/stat.c`).
        let target = readlinkat(link, c"").map_err(|errno| match errno {
            Errno::ENOENT => Errno::EINVAL,
            errno => errno,
        })?;
        let length = target.len().min(buffer.len());
        buffer[..length].copy_from_slice(&target.as_bytes()[..length]);
        Ok(length)
    }

    fn list(&mut self, path: Path, each: &mut dyn FnMut(&mut Self, &[u8])) -> Result<(), Errno> {
        for name in self.names(&path.text())? {
            each(self, name.to_bytes());
        }
        Ok(())
    }

    fn module_drivers(&mut self, module: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let names = self.names(&PathText::of_module_drivers(module))?;
        for name in names {
            each(name.to_bytes());
        }
        Ok(())
    }

    fn find_driver(&mut self, name: &[u8]) -> Result<(), Errno> {
        self.open_beneath(&PathText::of_driver(name), OFlag::O_PATH).map(drop)
    }

    fn probe(&mut self, name: &[u8]) -> Result<(), Errno> {
        self.progress.about_to_probe(name);
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW;
        let probe = self.open_beneath(&Path::DriversProbe.text(), flags)?;
        OpenAttribute::new(probe).write(name)
    }

    fn stream(&mut self, text: Text, each: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let path = match text {
            Text::Aliases => &self.aliases,
            Text::IoMemory => &self.iomem,
        };
        let path = path.as_ref().ok_or(Errno::ENOENT)?;
        each(&file::read(path).map_err(|error| errno(&error))?);
        Ok(())
    }
}
