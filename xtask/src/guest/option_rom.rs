// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ROM of a display with our driver for EFI in it (tests/guest/efi-display), as firmware finds it in a graphics card:
//! PCI Firmware Specification 3.3, 5.1, and UEFI Specification 2.10, 14.4.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build;
use crate::ground::arch::Arch;
use crate::ground::command;
use crate::ground::progress;
use crate::ground::workspace::{Workspace, cargo};

/// The display's IDs, as the file holds them.
const IDS: [u8; 4] = [0x34, 0x12, 0x11, 0x11];

/// Where the second header is, and the driver.
const DATA: u8 = 0x1c;
const DRIVER: u8 = 0x40;

/// The sizes in both headers are in these.
const BLOCK: usize = 512;

/// Builds the driver for an architecture, and tells where the ROM is.
pub fn build(workspace: &Workspace, arch: &Arch) -> Result<PathBuf> {
    let triple = format!("{}-unknown-uefi", arch.name);
    build::ensure_target(&triple)?;
    let mut command = Command::new(cargo());
    command
        .args(["rustc", "--locked", "--quiet", "--release", "--package", "guest-efi-display"])
        .args(["--target", &triple, "--target-dir"])
        .arg(&workspace.target)
        .args(["--", "-Clink-arg=/subsystem:EFI_BOOT_SERVICE_DRIVER"])
        .current_dir(&workspace.root);
    progress::phase(format!("build efi-display ({arch})"), || command::check(&mut command))?;
    let path = workspace.target.join(&triple).join("release/efi-display.efi");
    let driver = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let rom = path.with_extension("rom");
    fs::write(&rom, wrap(&driver)?).with_context(|| format!("cannot write {}", rom.display()))?;
    Ok(rom)
}

/// The image of a ROM that holds this driver.
fn wrap(driver: &[u8]) -> Result<Vec<u8>> {
    let [machine, subsystem] = kind(driver).context("the driver is no PE file")?;
    let [data, start] = [DATA, DRIVER].map(usize::from);
    let blocks = (start + driver.len()).div_ceil(BLOCK);
    let size = u16::try_from(blocks).context("the driver is too large for a ROM")?.to_le_bytes();
    let mut rom = vec![0; blocks * BLOCK];
    let mut put = |at: usize, bytes: &[u8]| rom[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x00, b"\x55\xaa");
    put(0x02, &size);
    put(0x04, b"\xf1\x0e");
    put(0x08, &subsystem);
    put(0x0a, &machine);
    put(0x16, &[DRIVER, 0, DATA, 0]);
    put(data, b"PCIR");
    put(data + 0x04, &IDS);
    put(data + 0x0a, &[DATA, 0, 3]);
    // The class of a display that is no VGA.
    put(data + 0x0d, &[0x00, 0x80, 0x03]);
    put(data + 0x10, &size);
    // What it holds is for EFI, and nothing follows it.
    put(data + 0x14, &[0x03, 0x80]);
    put(start, driver);
    Ok(rom)
}

/// The machine that a PE file is for, and the subsystem, as the file holds them.
fn kind(driver: &[u8]) -> Option<[[u8; 2]; 2]> {
    let start = driver.get(0x3c..)?.first_chunk()?;
    let header = driver.get(usize::try_from(u32::from_le_bytes(*start)).ok()?..)?;
    let after = header.strip_prefix(b"PE\0\0")?;
    Some([*after.first_chunk()?, *after.get(0x58..)?.first_chunk()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rom_tells_firmware_of_the_driver_in_it() -> Result<()> {
        let mut driver = vec![0; 600];
        driver[0x3c] = 0x40;
        driver[0x40..0x46].copy_from_slice(b"PE\0\0\x64\xaa");
        driver[0x40 + 4 + 0x58] = 11;
        let rom = wrap(&driver)?;
        assert_eq!(rom.len(), 2 * BLOCK);
        assert_eq!(rom[..0x0c], *b"\x55\xaa\x02\x00\xf1\x0e\x00\x00\x0b\x00\x64\xaa");
        assert_eq!(rom[0x1c..0x24], *b"PCIR\x34\x12\x11\x11");
        assert_eq!(rom[0x40..0x40 + 600], driver);
        assert!(wrap(b"MZ").is_err());
        Ok(())
    }
}
