// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starts a second kernel as kexec-tools does: `kexec KERNEL INITRD COMMAND_LINE`. Returns only if that fails.

use std::error::Error;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::libc;
use nix::sys::reboot::{RebootMode, reboot};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, initrd, command_line] = &arguments[..] else {
        eprintln!("usage: kexec KERNEL INITRD COMMAND_LINE");
        return ExitCode::from(2);
    };
    let error = match start(kernel, initrd, command_line) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    eprintln!("kexec: {error}");
    ExitCode::FAILURE
}

fn start(
    kernel: &str,
    initrd: &str,
    command_line: &str,
) -> Result<std::convert::Infallible, Box<dyn Error>> {
    load(&File::open(kernel)?, &File::open(initrd)?, &CString::new(command_line)?)?;
    Ok(reboot(RebootMode::RB_KEXEC)?)
}

/// `kexec_file_load(2)`, which nix does not have.
fn load(kernel: &File, initrd: &File, command_line: &CString) -> Result<(), Errno> {
    const FLAGS: libc::c_ulong = 0;
    let text = command_line.as_bytes_with_nul();
    // SAFETY: both files stay open, and the text alive, until the call returns; it reads `text.len()` bytes of it and
    // writes to no memory of ours.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            text.len(),
            text.as_ptr(),
            FLAGS,
        )
    };
    Errno::result(result).map(drop)
}
