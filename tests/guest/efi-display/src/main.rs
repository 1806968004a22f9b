// SPDX-License-Identifier: MIT OR Apache-2.0
//! A display's driver for EFI, which firmware finds in the display's ROM: it says that there is a framebuffer where the
//! display's memory is, as a graphics card's own does. The kernel's framebuffer driver then claims that memory.
//!
//! Nothing is ever seen of it: a guest has no screen, and the display is not set up.

#![cfg_attr(target_os = "uefi", no_std, no_main)]

#[cfg(target_os = "uefi")]
mod driver;

#[cfg(not(target_os = "uefi"))]
fn main() {
    eprintln!("efi-display is a driver for EFI, and is built for that only");
}
