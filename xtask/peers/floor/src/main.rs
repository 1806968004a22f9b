// SPDX-License-Identifier: MIT OR Apache-2.0
//! The least that a program can do for the same result: the yardstick of `cargo xtask bench`.
//!
//! ```text
//! floor ADDRESS...    writes each function's `driver_override`, and a line about it to the log; it
//!                     asks nothing, and believes that every write did what it should
//! floor               opens, reads and closes `modalias` of every function on the bus
//! ```

#![no_main]

use std::ffi::{CStr, c_char, c_int};
use std::os::fd::AsRawFd;
use std::slice;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{read, write};

const DEVICES: &[u8] = b"/sys/bus/pci/devices/";

/// Not Rust's own `main`, before which the standard library does eight system calls.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    let addresses = (1..usize::try_from(count).unwrap_or(0)).map(|index| {
        // SAFETY: the C runtime passes `count` C strings that live as long as the process.
        unsafe { CStr::from_ptr(*arguments.add(index)) }
    });
    let done = if count > 1 { write_all(addresses) } else { scan() };
    c_int::from(done.is_err())
}

fn write_all<'a>(addresses: impl Iterator<Item = &'a CStr>) -> nix::Result<()> {
    let log = open(c"/dev/kmsg", OFlag::O_WRONLY | OFlag::O_APPEND, Mode::empty())?;
    for address in addresses {
        let mut text = Text::default();
        let path = text.join(&[DEVICES, address.to_bytes(), b"/driver_override\0"]);
        write(&open(path, OFlag::O_WRONLY, Mode::empty())?, b"vfio-pci\n")?;
        let record = text.join(&[b"<5>floor: ", address.to_bytes(), b": set to vfio-pci\n\0"]);
        write(&log, record.to_bytes())?;
    }
    Ok(())
}

fn scan() -> nix::Result<()> {
    /// Where the length and the name begin in `struct linux_dirent64` (`include/linux/dirent.h`).
    const LENGTH: usize = 16;
    const NAME: usize = 19;

    let mut text = Text::default();
    let mut attribute = [0; 1024];
    let mut entries = [0_u64; 512];
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let devices = open(c"/sys/bus/pci/devices", flags, Mode::empty())?;
    loop {
        let size = size_of_val(&entries);
        // Not by a library's iterator, which copies each name to the heap.
        // SAFETY: the kernel writes at most `size` bytes.
        let filled = Errno::result(unsafe {
            libc::syscall(libc::SYS_getdents64, devices.as_raw_fd(), entries.as_mut_ptr(), size)
        })?;
        if filled == 0 {
            return Ok(());
        }
        // SAFETY: these are the bytes that it wrote.
        let mut rest = unsafe {
            slice::from_raw_parts(
                entries.as_ptr().cast::<u8>(),
                usize::try_from(filled).unwrap_or(0),
            )
        };
        while let Some(&[low, high]) = rest.get(LENGTH..LENGTH + 2) {
            let length = usize::from(u16::from_ne_bytes([low, high]));
            let Some((entry, after)) = rest.split_at_checked(length) else { break };
            rest = after;
            let name = entry.get(NAME..).map(CStr::from_bytes_until_nul);
            let name = name.and_then(Result::ok).unwrap_or_default().to_bytes();
            if name.starts_with(b".") {
                continue;
            }
            let path = text.join(&[name, b"/modalias\0"]);
            read(&openat(&devices, path, OFlag::O_RDONLY, Mode::empty())?, &mut attribute)?;
        }
    }
}

/// Room for a text; paths and records are far shorter.
struct Text([u8; 128]);

impl Default for Text {
    fn default() -> Self {
        Self([0; 128])
    }
}

impl Text {
    /// The parts, the last of which ends with a NUL, as one text.
    fn join(&mut self, parts: &[&[u8]]) -> &CStr {
        let bytes = parts.iter().copied().flatten();
        for (slot, byte) in self.0.iter_mut().zip(bytes) {
            *slot = *byte;
        }
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}
