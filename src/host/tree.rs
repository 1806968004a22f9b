//! [`System`] by the standard library, below one sysfs root.

use std::ffi::{CStr, OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use vfio_override::system::{Access, File, System, Text};

use crate::worker::Progress;

/// A PCI bus in sysfs, and the text files that belong to it.
#[derive(Default)]
pub struct Tree {
    pci: PathBuf,
    aliases: Option<PathBuf>,
    iomem: PathBuf,
    /// Is told of every write before it is done.
    pub progress: Progress,
}

impl Tree {
    pub fn new(sysfs: &Path, aliases: Option<PathBuf>, iomem: PathBuf) -> Self {
        Self { pci: sysfs.join("bus/pci"), aliases, iomem, progress: Progress::default() }
    }

    fn path(&self, path: &CStr) -> PathBuf {
        self.pci.join(OsStr::from_bytes(path.to_bytes()))
    }
}

/// An open attribute.
pub struct Attribute(fs::File);

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

impl File for Attribute {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut length = 0;
        while length < buffer.len() {
            match self.0.read_at(&mut buffer[length..], length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(errno(&error)),
            }
        }
        Ok(length)
    }

    fn write(&mut self, text: &[u8]) -> Result<(), Errno> {
        match self.0.write_at(text, 0) {
            Ok(count) if count == text.len() => Ok(()),
            Ok(_) => Err(Errno::EIO),
            Err(error) => Err(errno(&error)),
        }
    }
}

impl System for Tree {
    type File<'a> = Attribute;

    fn open(&mut self, path: &CStr, access: Access) -> Result<Attribute, Errno> {
        let path = self.path(path);
        if access != Access::Read {
            self.progress.about_to_write(&path);
        }
        let file = fs::OpenOptions::new()
            .read(access != Access::Write)
            .write(access != Access::Read)
            .open(&path)
            .map_err(|error| errno(&error))?;
        Ok(Attribute(file))
    }

    fn read_link(&mut self, path: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
        let target = fs::read_link(self.path(path)).map_err(|error| errno(&error))?;
        let target = target.as_os_str().as_bytes();
        let length = target.len().min(buffer.len());
        buffer[..length].copy_from_slice(&target[..length]);
        Ok(length)
    }

    fn list(&mut self, path: &CStr, each: &mut dyn FnMut(&mut Self, &[u8])) -> Result<(), Errno> {
        let entries = fs::read_dir(self.path(path)).map_err(|error| errno(&error))?;
        let names: io::Result<Vec<OsString>> =
            entries.map(|entry| entry.map(|entry| entry.file_name())).collect();
        let mut names = names.map_err(|error| errno(&error))?;
        // A directory has them in any order; a person wants to see the same twice.
        names.sort();
        for name in names {
            each(self, name.as_bytes());
        }
        Ok(())
    }

    fn probe(&mut self, name: &[u8]) -> Result<(), Errno> {
        let path = self.pci.join("drivers_probe");
        self.progress.about_to_probe(name);
        let mut file =
            fs::OpenOptions::new().write(true).open(path).map_err(|error| errno(&error))?;
        file.write(name).map(drop).map_err(|error| errno(&error))
    }

    fn stream(&mut self, text: Text, each: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let path = match text {
            Text::Aliases => self.aliases.as_ref().ok_or(Errno::ENOENT)?,
            Text::IoMemory => &self.iomem,
        };
        let mut file = fs::File::open(path).map_err(|error| errno(&error))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(|error| errno(&error))?;
        each(&text);
        Ok(())
    }
}
