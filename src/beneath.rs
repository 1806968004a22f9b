// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens files below a directory. No link on the way leads out of it.

// For the types of descriptors, which `core` does not have.
extern crate std;

use core::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

/// How often a path is tried again while something renames or mounts.
const MOST_TRIES: usize = 100;

/// Opens the file at `path`, which is relative to `root`. A link that leads out of it ends in EXDEV.
///
/// In a copy of sysfs, anything may stand where an attribute should be. So the call waits neither for the other end
/// of a FIFO nor for a device, and no terminal becomes the controlling terminal of this process.
///
/// Kernels before Linux 5.6 have no `openat2`, and a sandbox may forbid it: there, links are followed wherever they
/// lead.
pub fn open(root: impl AsFd, path: &CStr, flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    // With `O_PATH`, `openat2` refuses these two flags.
    let is_place = flags.contains(OFlag::O_PATH);
    let patience = if is_place { OFlag::empty() } else { OFlag::O_NONBLOCK.union(OFlag::O_NOCTTY) };
    let flags = flags | patience | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    let mut tries = 0;
    loop {
        let opened = match openat2(&root, path, how) {
            Err(Errno::ENOSYS | Errno::EPERM) => openat(&root, path, flags, Mode::empty()),
            opened => opened,
        };
        match opened {
            Err(Errno::EINTR) => {}
            // The kernel could not find out whether a `..` stays below the root (ERRORS in openat2(2)).
            Err(Errno::EAGAIN) if tries < MOST_TRIES => tries += 1,
            opened => return opened,
        }
    }
}
