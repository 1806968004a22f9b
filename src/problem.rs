// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong, with its place and the kernel's answer: small enough to be stored for each function.

use core::fmt;

use nix::errno::Errno;

use crate::path::Path;
use crate::pci::{Address, Class, Id};
use crate::ruleset::{MAX_RULES, RuleNumber};
use crate::text::{Decimal, Escaped};

/// Why something is not as a rule wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The kernel refused an operation.
    Fault {
        /// What was done, as the log names it.
        operation: &'static str,
        /// To which attribute.
        path: Path,
        /// The kernel's answer.
        errno: Errno,
    },
    /// `driver_override` was written, but holds something else.
    NotHeld(Address),
    /// A driver other than the rule's still has the function.
    StillBound(Address),
    /// The module that `auto` has chosen is loaded, and no driver of it is found.
    NotRegistered(Errno),
    /// No list of variant drivers can be read.
    NoAliases(Errno),
    /// The function is in no IOMMU group, and a rule with `+group` selects it.
    NoGroup(Address),
    /// No display is known to be the console's, and an exclusion is for that display.
    NoConsole,
    /// The rule names a bridge.
    Bridge(Address, Class),
    /// The function found there has another ID than the rule's guard.
    Guard(Address, Id),
    /// A later exclusion, of this number, cannot be honoured: it cannot be parsed, there was no room for it, or what
    /// it matches cannot be looked at.
    LostExclusion(RuleNumber),
    /// This many rules are beyond [`MAX_RULES`].
    Surplus(usize),
    /// There was no room for more.
    TooMany(&'static Limit),
}

/// For how many there is room; of what, and what comes of it.
pub type Limit = (usize, &'static str);

impl Problem {
    /// Turns the error number with which an operation on this path failed into a problem.
    pub const fn fault(operation: &'static str, path: Path) -> impl Fn(Errno) -> Self {
        move |errno| Self::Fault { operation, path, errno }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Fault { operation, path, errno } => {
                f.write_str(operation)?;
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
            Self::NotRegistered(errno) => {
                let errno = ErrnoName(errno);
                write!(f, "auto finds no PCI driver of its module ({errno}); write =DRIVER")
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
            Self::Bridge(address, class) => {
                write!(f, "{address} is a bridge (class {class}); name the functions behind it")
            }
            Self::Guard(address, found) => {
                write!(f, "{address} is [{found}], not what the guard says; nothing is written")
            }
            Self::LostExclusion(lost) => write!(
                f,
                "rule {} is an exclusion that cannot be honoured, and may have protected any function",
                Decimal(lost.into())
            ),
            Self::Surplus(count) => {
                let (most, count) = (Decimal::from(MAX_RULES), Decimal::from(count));
                write!(
                    f,
                    "more than {most} rules: the last {count} are not applied; use wider rules"
                )
            }
            Self::TooMany(&(most, what)) => {
                write!(f, "more than {} ", Decimal::from(most))?;
                f.write_str(what)
            }
        }
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
