// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only access to the machine: the few operations that everything else is built from.
//!
//! The early binary implements [`System`] with system calls below one sysfs root; the host tool implements it for
//! this host, for a copy of a machine and for a directory; tests implement it with faults. Code that has only a
//! [`View`] of it cannot write.

use heapless::Vec;
use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::apply::{DriverName, store_name};
use crate::path::Path;
use crate::pci::Address;
use crate::problem::Problem;
use crate::rule::MAX_DRIVER;

/// A PCI bus in sysfs, and the text files that a decision may need as well.
///
/// Apart from the text files, nothing outside of the sysfs root is reached, wherever links in it lead; for kernels on
/// which this is not certain, see [`beneath`](crate::beneath). Opening an attribute of a function that is not there ends
/// in ENODEV, as in the kernel. ENOENT means that the function has no such attribute.
pub trait System {
    /// An open attribute. It borrows the system, so that the next operation may close it.
    type File<'a>: File
    where
        Self: 'a;

    /// Opens an attribute for reading, writing or both, by one of these three flags of open(2): without creating or
    /// truncating it.
    fn open(&mut self, path: Path, access: OFlag) -> Result<Self::File<'_>, Errno>;

    /// Reads a symbolic link into `buffer` and returns its length, at most that of `buffer`.
    fn read_link(&mut self, path: Path, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// Hands over the name of each entry of a directory, in no order, `.` and `..` left out.
    fn list(&mut self, path: Path, each: &mut dyn FnMut(&mut Self, &[u8])) -> Result<(), Errno>;

    /// Looks for a driver of this name that is registered with the PCI bus: ENOENT if there is none.
    fn find_driver(&mut self, name: &[u8]) -> Result<(), Errno>;

    /// Hands over each driver that this module has registered, after its bus, as in `pci:vfio-pci`. ENOENT if the module
    /// is not loaded, or has registered none.
    fn module_drivers(&mut self, module: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), Errno>;

    /// Writes the name of a function to `drivers_probe`.
    fn probe(&mut self, name: &[u8]) -> Result<(), Errno>;

    /// Hands over a text file piece by piece.
    fn stream(&mut self, text: Text, each: &mut dyn FnMut(&[u8])) -> Result<(), Errno>;
}

/// An open attribute.
pub trait File {
    /// Reads from the start. It returns less than `buffer` has room for only where there is no more.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// Writes all of `text` from the start, in one call: sysfs takes each call as a value of its own.
    fn write(&mut self, text: &[u8]) -> Result<(), Errno>;
}

/// The text files outside of sysfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// The aliases of VFIO variant drivers: the image's `/usr/lib/vfio-override/variants`, or else the
    /// running kernel's `modules.alias`.
    Aliases,
    /// `/proc/iomem`: which driver holds which memory.
    IoMemory,
}

/// A system that is only looked at: nothing can be written through it.
pub struct View<'s, S>(&'s mut S);

impl<'s, S: System> View<'s, S> {
    /// A view of this system.
    pub const fn of(system: &'s mut S) -> Self {
        Self(system)
    }

    /// Reads the whole attribute, except what does not fit into `buffer`.
    pub fn read<'b>(&mut self, path: Path, buffer: &'b mut [u8]) -> Result<&'b [u8], Problem> {
        let opened = self.0.open(path, OFlag::O_RDONLY);
        let mut file = opened.map_err(Problem::fault("open", path))?;
        let length = file.read(buffer).map_err(Problem::fault("read", path))?;
        Ok(buffer.get(..length).unwrap_or_default())
    }

    /// The last component of the link's target; `None` where there is no link.
    pub fn link_name<'b>(
        &mut self,
        path: Path,
        buffer: &'b mut [u8],
    ) -> Result<Option<&'b [u8]>, Problem> {
        let length = match self.0.read_link(path, buffer) {
            // A target that was cut would look like another one.
            Ok(length) if length == buffer.len() => Err(Errno::ENAMETOOLONG),
            Err(Errno::ENOENT) => return Ok(None),
            result => result,
        };
        let length = length.map_err(Problem::fault("read link", path))?;
        let target = buffer.get(..length).unwrap_or_default();
        Ok(target.rsplit(|&byte| byte == b'/').next())
    }

    /// Hands over each entry of a directory that names a function.
    pub(crate) fn list(
        &mut self,
        path: Path,
        mut each: impl FnMut(&mut View<'_, S>, Address),
    ) -> Result<(), Problem> {
        let listed = self.0.list(path, &mut |system, name| {
            if let Some(address) = Address::from_sysfs(name) {
                each(&mut View(system), address);
            }
        });
        listed.map_err(Problem::fault("list", path))
    }

    /// Whether `is_so` holds for an entry of a directory: `false` where there is no directory, `true` where it cannot
    /// be listed.
    pub(crate) fn has_entry(&mut self, path: Path, is_so: fn(&[u8]) -> bool) -> bool {
        let mut has_entry = false;
        let listed = self.0.list(path, &mut |_, name| has_entry |= is_so(name));
        has_entry || !matches!(listed, Ok(()) | Err(Errno::ENOENT))
    }

    /// Replaces the name that `auto` took from an alias, which names a module, by that of the driver which the module
    /// has registered, unless a driver has the first name. Of several it is the first by name, so that every run finds
    /// the same one: an alias does not say of which driver it is. No module in Linux with an alias for VFIO has several.
    /// ENOENT if there is none, as before the module is loaded.
    pub(crate) fn find_registered(&mut self, name: &mut DriverName) -> Result<(), Errno> {
        let mut asked = DriverName::new();
        store_name(&mut asked, name);
        let mut found = self.0.find_driver(&asked);
        if found == Err(Errno::ENOENT) {
            let listed = self.0.module_drivers(&asked, &mut |entry| {
                // The bus comes first.
                if let Some(driver) = entry.strip_prefix(b"pci:")
                    && matches!(driver.len(), 1..=MAX_DRIVER)
                    && (found.is_err() || driver < name.as_slice())
                {
                    store_name(name, driver);
                    found = Ok(());
                }
            });
            found = listed.and(found);
        }
        found
    }

    /// Hands over each line of a text file, without its newline. Empty lines, and lines of more than [`MAX_LINE`]
    /// bytes, are dropped.
    pub(crate) fn lines(&mut self, text: Text, each: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let mut lines = Lines::default();
        let result = self.0.stream(text, &mut |piece| lines.add(piece, each));
        lines.finish(each);
        result
    }
}

/// The text before the first newline.
pub fn first_line(text: &[u8]) -> &[u8] {
    text.split(|&byte| byte == b'\n').next().unwrap_or_default()
}

/// The longest line that is handed over; longer ones are dropped. The longest of `modules.alias`
/// with `vfio_pci:` has 77 bytes and its module's name.
const MAX_LINE: usize = 256;

/// Joins the pieces of a text and cuts it into lines.
#[derive(Default)]
struct Lines {
    line: Vec<u8, MAX_LINE>,
    too_long: bool,
}

impl Lines {
    /// Takes the next piece, and hands over each line that it completes, without its newline.
    fn add(&mut self, piece: &[u8], each: &mut dyn FnMut(&[u8])) {
        // There was a newline between two parts, and nowhere else.
        let mut is_first = true;
        for part in piece.split(|&byte| byte == b'\n') {
            if !is_first {
                self.finish(each);
            }
            is_first = false;
            self.too_long |= self.line.extend_from_slice(part).is_err();
        }
    }

    /// Hands over the last line of a text that does not end with a newline.
    fn finish(&mut self, each: &mut dyn FnMut(&[u8])) {
        if !self.too_long && !self.line.is_empty() {
            each(&self.line);
        }
        self.line.clear();
        self.too_long = false;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in pieces {
            lines.add(piece, &mut |line| found.push(line.to_vec()));
        }
        lines.finish(&mut |line| found.push(line.to_vec()));
        found
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[ab\n]{0,40}", size in 1_usize..8) {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let whole: Vec<Vec<u8>> = text
                .split('\n')
                .filter(|line| !line.is_empty())
                .map(|line| line.as_bytes().to_vec())
                .collect();
            prop_assert_eq!(lines(&pieces), whole);
        }
    }

    #[test]
    fn only_a_line_that_does_not_fit_is_dropped() {
        let (fits, long) = ([b'a'; MAX_LINE], [b'b'; MAX_LINE + 1]);
        assert_eq!(lines(&[&fits, b"\n", &long, b"\nc\n"]), [&fits[..], b"c"]);
    }
}
