//! The narrow door to the machine: the few operations that everything else is built from.
//!
//! The early binary implements [`System`] with system calls below one sysfs root, tests with faults.

use core::fmt;

use nix::errno::Errno;

use crate::path::Path;
use crate::pci::Address;
use crate::rule::MAX_DRIVER;
use crate::text::Escaped;

/// A PCI bus in sysfs, with the text files that a decision may need besides.
///
/// Nothing outside of the sysfs root is reached, wherever links in it lead. What is asked of a function
/// that is not there ends in ENODEV, as in the kernel; ENOENT tells that it has no such attribute.
pub trait System {
    /// An open attribute. It borrows the system, so that the next operation may close it.
    type File<'a>: File
    where
        Self: 'a;

    /// Opens an attribute, without creating or truncating it.
    fn open(&mut self, path: Path, access: Access) -> Result<Self::File<'_>, Errno>;

    /// Reads a symbolic link into `buffer` and returns its length, at most that of `buffer`.
    fn read_link(&mut self, path: Path, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// Hands over the name of each entry of a directory, in no order, `.` and `..` left out.
    fn list(&mut self, path: Path, each: &mut dyn FnMut(&mut Self, &[u8])) -> Result<(), Errno>;

    /// Sees whether a driver of this name is registered with the PCI bus: ENOENT where it is not.
    fn find_driver(&mut self, name: &[u8]) -> Result<(), Errno>;

    /// Writes the name of a function to `drivers_probe`.
    fn probe(&mut self, name: &[u8]) -> Result<(), Errno>;

    /// Hands over a text file piece by piece.
    fn stream(&mut self, text: Text, each: &mut dyn FnMut(&[u8])) -> Result<(), Errno>;
}

/// An open attribute.
pub trait File {
    /// Reads from the start; fewer bytes than `buffer` holds only where there are no more.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// Writes all of `text` from the start, in one call: sysfs takes each call as a value of its own.
    fn write(&mut self, text: &[u8]) -> Result<(), Errno>;
}

/// What an attribute is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the flags of open(2)")]
pub enum Access {
    Read,
    Write,
    ReadWrite,
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

/// The operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "their texts say it")]
pub enum Operation {
    Open,
    Read,
    Write,
    ReadLink,
    List,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadLink => "read link",
            Self::List => "list",
        })
    }
}

/// What went wrong with which attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What was done.
    pub operation: Operation,
    /// To which attribute.
    pub path: Path,
    /// The kernel's answer.
    pub errno: Errno,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.operation, self.path, ErrnoName(self.errno))
    }
}

/// The names of the error numbers from 1 on (`include/uapi/asm-generic/errno.h`), `-` where there is
/// none. One text: the table of pointers that a derived `Debug` makes is larger than the names.
const ERROR_NAMES: &[u8] = b"\
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES \
    EFAULT ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY \
    ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG \
    ENOLCK ENOSYS ENOTEMPTY ELOOP - ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG \
    EUNATCH ENOCSI EL2HLT EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT - EBFONT ENOSTR \
    ENODATA ETIME ENOSR ENONET ENOPKG EREMOTE ENOLINK EADV ESRMNT ECOMM EPROTO \
    EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG ELIBACC ELIBBAD ELIBSCN \
    ELIBMAX ELIBEXEC EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE \
    EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT \
    EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED \
    ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT ECONNREFUSED \
    EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE EUCLEAN ENOTNAM ENAVAIL EISNAM \
    EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED \
    EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ERFKILL EHWPOISON";

/// The name of an error number, such as `EACCES`.
pub struct ErrnoName(pub Errno);

impl fmt::Display for ErrnoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = usize::try_from(self.0 as i32).ok().and_then(|number| number.checked_sub(1));
        let name = index.and_then(|index| ERROR_NAMES.split(|&byte| byte == b' ').nth(index));
        Escaped(name.unwrap_or(b"an error without a name")).fmt(f)
    }
}

/// Reads the attribute whole, but for what does not fit into `buffer`.
#[inline(never)]
pub(crate) fn read<'b>(
    system: &mut impl System,
    path: Path,
    buffer: &'b mut [u8],
) -> Result<&'b [u8], Fault> {
    let fault = |operation| move |errno| Fault { operation, path, errno };
    let mut file = system.open(path, Access::Read).map_err(fault(Operation::Open))?;
    let length = file.read(buffer).map_err(fault(Operation::Read))?;
    Ok(buffer.get(..length).unwrap_or_default())
}

/// Writes one value to the attribute.
pub(crate) fn write(system: &mut impl System, path: Path, text: &[u8]) -> Result<(), Fault> {
    let fault = |operation| move |errno| Fault { operation, path, errno };
    let mut file = system.open(path, Access::Write).map_err(fault(Operation::Open))?;
    file.write(text).map_err(fault(Operation::Write))
}

/// Makes the attribute hold `text`, without a write where it does already.
#[inline(never)]
pub(crate) fn hold(system: &mut impl System, path: Path, text: &[u8]) -> Result<Held, Fault> {
    let fault = |operation| move |errno| Fault { operation, path, errno };
    // With its newline, and a byte by which a longer name shows.
    let mut buffer = [0; MAX_DRIVER + 2];
    let mut file = system.open(path, Access::ReadWrite).map_err(fault(Operation::Open))?;
    let length = file.read(&mut buffer).map_err(fault(Operation::Read))?;
    if first_line(buffer.get(..length).unwrap_or_default()) == text {
        return Ok(Held::Already);
    }
    // The kernel drops what follows the newline; a plain file, in a copy of sysfs, may keep the end
    // of a longer old value there.
    let mut value = heapless::Vec::<u8, { MAX_DRIVER + 1 }>::new();
    let whole = value.extend_from_slice(text).is_ok() && value.push(b'\n').is_ok();
    debug_assert!(whole);
    file.write(&value).map_err(fault(Operation::Write))?;
    let length = file.read(&mut buffer).map_err(fault(Operation::Read))?;
    if first_line(buffer.get(..length).unwrap_or_default()) == text {
        Ok(Held::Written)
    } else {
        Ok(Held::Refused)
    }
}

/// What came of a [`hold`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// The attribute held the text before.
    Already,
    /// The text was written and read back.
    Written,
    /// The text was written, yet something else was read back.
    Refused,
}

/// The last component of the link's target; `None` where there is no link.
#[inline(never)]
pub(crate) fn link_name<'b>(
    system: &mut impl System,
    path: Path,
    buffer: &'b mut [u8],
) -> Result<Option<&'b [u8]>, Fault> {
    match system.read_link(path, buffer) {
        // A target that was cut would be taken for another.
        Ok(length) if length == buffer.len() => {
            Err(Fault { operation: Operation::ReadLink, path, errno: Errno::ENAMETOOLONG })
        }
        Ok(length) => {
            let target = buffer.get(..length).unwrap_or_default();
            Ok(target.rsplit(|&byte| byte == b'/').next())
        }
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(Fault { operation: Operation::ReadLink, path, errno }),
    }
}

/// Hands over each entry of a directory that names a function.
pub(crate) fn list<S: System>(
    system: &mut S,
    path: Path,
    mut each: impl FnMut(&mut S, Address),
) -> Result<(), Fault> {
    system
        .list(path, &mut |system, name| {
            if let Some(address) = Address::from_sysfs(name) {
                each(system, address);
            }
        })
        .map_err(|errno| Fault { operation: Operation::List, path, errno })
}

/// Whether a driver of this name is registered with the PCI bus. Where that cannot be told it is taken to
/// be: what is then tried with it tells more.
pub(crate) fn has_driver(system: &mut impl System, name: &[u8]) -> bool {
    system.find_driver(name) != Err(Errno::ENOENT)
}

/// Whether a directory has any entry; `false` where it is not there.
pub(crate) fn has_entries(system: &mut impl System, path: Path) -> bool {
    let mut has_entries = false;
    let listed = system.list(path, &mut |_, _| has_entries = true);
    has_entries || !matches!(listed, Ok(()) | Err(Errno::ENOENT))
}

/// The text before the first newline.
pub(crate) fn first_line(text: &[u8]) -> &[u8] {
    text.split(|&byte| byte == b'\n').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn every_error_number_has_the_name_that_nix_gives_it() {
        for number in 1..=133 {
            let errno = Errno::from_raw(number);
            if errno != Errno::UnknownErrno {
                assert_eq!(ErrnoName(errno).to_string(), std::format!("{errno:?}"));
            }
        }
        assert_eq!(ErrnoName(Errno::UnknownErrno).to_string(), "an error without a name");
    }
}
