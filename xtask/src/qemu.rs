//! The emulated machine, as QEMU's arguments.
//!
//! A q35 board with an Intel IOMMU that remaps interrupts:
//!
//! | function | device |
//! |---|---|
//! | 00:02.0 | the boot display |
//! | 00:03.0, 00:04.0 | two e1000e |
//! | 00:05.0 | an NVMe drive |
//! | 00:06.0 | a virtio network card |
//! | 00:1c.0 | a root port, and behind it in one slot: |
//! | 01:00.0 | a display identical to the first |
//! | 01:00.1 | its audio function |
//! | 01:00.2 | its USB function |

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::setup;

/// The drivers that want the emulated devices, in the order of loading.
pub const HOST_DRIVERS: [&str; 7] =
    ["bochs", "snd_hda_intel", "xhci_pci", "e1000e", "nvme", "virtio_pci", "virtio_net"];

/// What passthrough needs.
pub const VFIO_DRIVERS: [&str; 2] = ["vfio_pci", "vfio_iommu_type1"];

/// The drivers of the emulated machine: a kernel without them shows nothing.
pub fn drivers() -> impl Iterator<Item = &'static str> {
    HOST_DRIVERS.into_iter().chain(VFIO_DRIVERS)
}

/// QEMU options of a set of devices, without their leading dash.
pub type Devices = Vec<(&'static str, String)>;

/// The devices of the table above.
pub fn demo() -> Devices {
    // The network cards have no peer, and QEMU's warnings about that are harmless.
    // Option ROMs are for firmware that looks for them; qboot does not, and not every
    // distribution installs them with QEMU.
    [
        ("device", "VGA,addr=02.0,romfile="),
        ("device", "e1000e,addr=03.0,romfile="),
        ("device", "e1000e,addr=04.0,romfile="),
        ("drive", "if=none,id=d0,driver=null-co,size=1M"),
        ("device", "nvme,addr=05.0,drive=d0,serial=d0"),
        ("device", "virtio-net-pci,addr=06.0,romfile="),
        ("device", "pcie-root-port,id=p0,addr=1c.0,chassis=1"),
        ("device", "VGA,bus=p0,addr=0.0,multifunction=on,romfile="),
        ("device", "intel-hda,bus=p0,addr=0.1"),
        ("device", "qemu-xhci,bus=p0,addr=0.2"),
    ]
    .map(|(option, value)| (option, value.to_owned()))
    .into()
}

/// The slots of [`many`], each with eight functions.
pub const MANY_SLOTS: [u8; 8] = [0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f];

/// The addresses of [`many`].
pub fn many_addresses() -> impl Iterator<Item = String> {
    MANY_SLOTS
        .into_iter()
        .flat_map(|slot| (0..8).map(move |function| format!("0000:00:{slot:02x}.{function}")))
}

/// 64 functions on the root bus that virtio-pci wants.
pub fn many() -> Devices {
    MANY_SLOTS
        .into_iter()
        .flat_map(|slot| {
            (0..8).map(move |function| {
                let device = format!("virtio-rng-pci,addr={slot:02x}.{function},multifunction=on");
                ("device", device)
            })
        })
        .collect()
}

/// One guest.
pub struct Guest<'a> {
    pub vmlinux: &'a Path,
    pub initrd: &'a Path,
    pub command_line: &'a str,
    pub devices: &'a Devices,
    /// Where the report and the kernel log go.
    pub directory: &'a Path,
}

impl Guest<'_> {
    /// The console is on standard input and output.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(setup::QEMU.path()?);
        command
            .args(["-M", "q35,kernel-irqchip=split,sata=off,smbus=off"])
            // Guests hang on some machines whose /dev/kvm opens, and a boot takes seconds anyway.
            .args(["-accel", "tcg", "-m", "256", "-no-reboot"])
            .args(["-nodefaults", "-display", "none"])
            .args(["-device", "intel-iommu,intremap=on,caching-mode=on"])
            .args(["-bios", "qboot.rom"])
            .arg("-kernel")
            .arg(self.vmlinux)
            .arg("-initrd")
            .arg(self.initrd)
            .args(["-append", self.command_line])
            .args(["-chardev", "stdio,id=console,signal=off"])
            .args(["-serial", "chardev:console"]);
        for name in ["report.log", "kernel.log"] {
            command.arg("-serial").arg(format!("file:{}", self.directory.join(name).display()));
        }
        for (option, value) in self.devices {
            command.arg(format!("-{option}")).arg(value);
        }
        Ok(command)
    }
}
