// SPDX-License-Identifier: MIT OR Apache-2.0
//! ACPI tables for a guest, which the kernel takes from the initramfs in place of the firmware's
//! (`Documentation/admin-guide/acpi/initrd_table_override.rst`).
//!
//! QEMU's x86 machines have one PCI domain. Its expander bridge `pxb-pcie` is a second host bridge in
//! the same domain, and only the tables say so: with these it is a domain of its own.

use crate::guest::archive::Archive;

/// The first bus of the second host bridge; `pxb-pcie` is made with it.
const FIRST_BUS: u8 = 0x40;

/// Where the kernel looks.
const DIRECTORY: &str = "kernel/firmware/acpi";

/// The names that QEMU gives to all its tables. One with the same names and a higher revision takes
/// the place of another.
const QEMU: [&[u8]; 2] = [b"BOCHS ", b"BXPC    "];

/// Where a q35 board has the configuration space of all buses.
const CONFIGURATION: u64 = 0xb000_0000;

/// Makes the host bridge for bus 40 and up the domain 0001.
pub fn second_domain(image: &mut Archive) {
    image.file(&format!("{DIRECTORY}/mcfg.aml"), table(*b"MCFG", QEMU, &mcfg()));
    image
        .file(&format!("{DIRECTORY}/ssdt.aml"), table(*b"SSDT", [b"BOCHS ", b"DOMAIN  "], &ssdt()));
}

/// Which part of the configuration space belongs to which domain.
fn mcfg() -> Vec<u8> {
    let mut body = vec![0; 8];
    for (domain, buses) in [(0_u16, [0, FIRST_BUS - 1]), (1, [FIRST_BUS, 0xff])] {
        body.extend(CONFIGURATION.to_le_bytes());
        body.extend(domain.to_le_bytes());
        body.extend(buses);
        body.extend([0; 4]);
    }
    body
}

/// `Scope (\_SB.PC40) { Name (_SEG, One) }`, a device that QEMU's own DSDT defines.
fn ssdt() -> Vec<u8> {
    b"\x10\x11\\\x2e_SB_PC40\x08_SEG\x01".to_vec()
}

/// A table with its header, whose bytes add up to 0.
fn table(signature: [u8; 4], [vendor, name]: [&[u8]; 2], body: &[u8]) -> Vec<u8> {
    const HEADER: usize = 36;
    const CHECKSUM: usize = 9;
    let length = HEADER + body.len();
    let mut table = signature.to_vec();
    table.extend(&length.to_le_bytes()[..4]);
    table.extend([1, 0]);
    table.extend(vendor);
    table.extend(name);
    table.extend(2_u32.to_le_bytes());
    table.extend(b"TEST");
    table.extend(1_u32.to_le_bytes());
    table.extend(body);
    table[CHECKSUM] = table.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_add_up_to_nothing_and_know_their_length() {
        for (table, length) in [
            (table(*b"MCFG", QEMU, &mcfg()), 36_u8 + 8 + 2 * 16),
            (table(*b"SSDT", QEMU, &ssdt()), 36 + 18),
        ] {
            assert_eq!(table.len(), usize::from(length));
            assert_eq!(table[4..8], [length, 0, 0, 0]);
            assert_eq!(table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        }
    }
}
