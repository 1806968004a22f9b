// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong, with its place and the kernel's answer: small enough to be stored for each function.

use core::fmt;

use nix::errno::Errno;

use crate::cmdline;
use crate::path::Path;
use crate::pci::Address;
use crate::ruleset::MAX_RULES;
use crate::survey::{MAX_FUNCTIONS, MAX_PATH_BREADTH, MAX_PATH_ENDS, MAX_PROBLEMS};
use crate::text::{Decimal, Escaped};

/// Why something is not as a rule wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The kernel refused an operation.
    Fault {
        /// What was done.
        operation: Operation,
        /// To which attribute.
        path: Path,
        /// The kernel's answer.
        errno: Errno,
    },
    /// `driver_override` was written, but holds something else.
    NotHeld(Address),
    /// A driver other than the rule's still has the function.
    StillBound(Address),
    /// No list of variant drivers can be read.
    NoAliases(Errno),
    /// The function is in no IOMMU group, and a rule with `+group` selects it.
    NoGroup(Address),
    /// No display is known to be the console's, and an exclusion is for that display.
    NoConsole,
    /// There was no room for what had to be stored.
    Limit(Limit),
}

impl Problem {
    /// Turns the error number with which an operation on this path failed into a problem.
    pub const fn fault(operation: Operation, path: Path) -> impl Fn(Errno) -> Self {
        move |errno| Self::Fault { operation, path, errno }
    }
}

/// The operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the log names them")]
pub enum Operation {
    Open,
    Read,
    Write,
    ReadLink,
    List,
}

/// A limit of this program that a machine or a command line may exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// [`cmdline::MAX_LENGTH`].
    Line,
    /// [`MAX_RULES`]; this many rules are beyond it.
    Rules(usize),
    /// [`MAX_FUNCTIONS`].
    Functions,
    /// [`MAX_PATH_BREADTH`].
    PathBreadth,
    /// [`MAX_PATH_ENDS`].
    PathEnds,
    /// [`MAX_PROBLEMS`].
    Problems,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Fault { operation, path, errno } => {
                f.write_str(match operation {
                    Operation::Open => "open",
                    Operation::Read => "read",
                    Operation::Write => "write",
                    Operation::ReadLink => "read link",
                    Operation::List => "list",
                })?;
                write!(f, " {path}: {}", ErrnoName(errno))?;
                f.write_str(match errno {
                    Errno::EACCES | Errno::EPERM | Errno::EROFS => {
                        "; it takes root and a writable sysfs"
                    }
                    Errno::ENOENT => "; the kernel should have this attribute",
                    Errno::ENODEV => "; the function has gone",
                    Errno::EXDEV => "; a link leads out of the sysfs root",
                    _ => "",
                })
            }
            Self::NotHeld(address) => write!(
                f,
                "{address} does not keep its driver_override; is something else setting it?"
            ),
            Self::StillBound(address) => {
                write!(f, "another driver has {address} still; find it with lspci -k and unload it")
            }
            Self::NoAliases(errno) => write!(
                f,
                "auto is vfio-pci: neither /usr/lib/vfio-override/variants nor modules.alias can be \
                 read ({})",
                ErrnoName(errno)
            ),
            Self::NoGroup(address) => {
                write!(f, "{address} is in no IOMMU group; write +slot, or each address")
            }
            Self::NoConsole => {
                f.write_str("no display is known to be the console's; write addresses instead")
            }
            Self::Limit(limit) => limit.fmt(f),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, rest) = match *self {
            Self::Line => {
                let length = Decimal::from(cmdline::MAX_LENGTH);
                return write!(
                    f,
                    "the kernel command line is longer than {length} bytes: the rest is ignored"
                );
            }
            Self::Rules(count) => {
                let (limit, count) = (Decimal::from(MAX_RULES), Decimal::from(count));
                return write!(
                    f,
                    "more than {limit} rules: the last {count} are not applied; use wider rules"
                );
            }
            Self::Functions => {
                (MAX_FUNCTIONS, "functions: the rest is not protected; use narrower rules")
            }
            Self::PathBreadth => {
                (MAX_PATH_BREADTH, "functions at one hop: the rest is not followed; do without *")
            }
            Self::PathEnds => {
                (MAX_PATH_ENDS, "functions at the ends of paths: the rest is not protected")
            }
            Self::Problems => (MAX_PROBLEMS, "failures: the rest is not told"),
        };
        write!(f, "more than {} ", Decimal::from(limit))?;
        f.write_str(rest)
    }
}

/// The names of the error numbers from 1 on (`include/uapi/asm-generic/errno.h`), `-` where there is none. They are
/// one text, since the table of pointers that a derived `Debug` makes is larger than the names.
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
