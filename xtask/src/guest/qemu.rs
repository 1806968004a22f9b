// SPDX-License-Identifier: MIT OR Apache-2.0
//! How QEMU is started.

use std::process::{Child, Command};

use anyhow::Result;

use crate::ground::arch::{Firmware, Serial};
use crate::ground::setup;
use crate::guest::kernel::Kernel;
use crate::guest::machine::{Efi, Machine};
use crate::guest::qmp;

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// The names of the files in the directory that QEMU runs in.
pub const INITRD: &str = "initrd.cpio";
pub const REPORT: &str = "report.log";
pub const KERNEL_LOG: &str = "kernel.log";

/// All that QEMU needs to know.
pub struct Guest<'a> {
    pub kernel: &'a Kernel,
    pub accelerator: Accelerator,
    /// The file's name in the directory that QEMU runs in.
    pub initrd: Option<&'a str>,
    pub command_line: &'a str,
    /// One that boots by EFI finds kernel, image and command line itself.
    pub machine: &'a Machine,
}

impl Guest<'_> {
    /// The console is on standard input and output; all files are in the current directory.
    pub fn command(&self) -> Result<Command> {
        let board = &self.kernel.arch.guest;
        let memory = board.memory + self.machine.image_memory;
        let mut command = Command::new(board.emulator.path()?);
        command
            .args(board.board)
            .args(["-accel", self.accelerator.name(), "-m", &memory.to_string(), "-no-reboot"])
            .args(["-nodefaults", "-display", "none"]);
        match (self.accelerator, board.processor) {
            (Accelerator::Kvm, _) => drop(command.args(["-cpu", "host"])),
            (Accelerator::Tcg, Some(processor)) => drop(command.args(["-cpu", processor])),
            (Accelerator::Tcg, None) => {}
        }
        if !self.machine.lacks_iommu {
            command.args(board.iommu);
        }
        match (board.firmware, self.machine.has_bios) {
            (Firmware::Pc, false) if self.machine.is_lit || self.machine.efi.is_some() => {}
            (Firmware::Pc, false) => drop(command.args(["-bios", "qboot.rom"])),
            (Firmware::DeviceTree, true) => {
                command.arg("-bios").arg(setup::EFI_AARCH64.path()?);
            }
            (Firmware::Pc, true) | (Firmware::DeviceTree, false) => {}
        }
        if let Some(efi) = &self.machine.efi {
            add_efi(&mut command, efi);
        } else {
            let kernel =
                if self.machine.has_bios { &self.kernel.image } else { &self.kernel.fastest };
            command.arg("-kernel").arg(kernel).args(["-append", self.command_line]);
            if let Some(initrd) = self.initrd {
                command.args(["-initrd", initrd]);
            }
        }
        command
            .args(["-chardev", "stdio,id=console,signal=off"])
            .args(["-serial", "chardev:console"]);
        if board.serial == Serial::Three {
            for name in [REPORT, KERNEL_LOG] {
                command.arg("-serial").arg(format!("file:{name}"));
            }
        }
        if self.machine.functions().any(|function| function.is_later) {
            command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", qmp::SOCKET));
        }
        for (option, value) in self.machine.options()? {
            command.arg(format!("-{option}")).arg(value);
        }
        Ok(command)
    }
}

/// Flash that only the firmware's own code, in system management mode, writes to: without that Secure Boot is none
/// (`OvmfPkg/README`).
fn add_efi(command: &mut Command, Efi { code, variables }: &Efi) {
    command.args(["-machine", "smm=on"]);
    command.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
    command.args(["-global", "ICH9-LPC.disable_s3=1"]);
    for (unit, file, kind) in [(0, code, "readonly=on"), (1, variables, "snapshot=on")] {
        // A comma begins QEMU's next property.
        let file = file.display().to_string().replace(',', ",,");
        let drive = format!("if=pflash,unit={unit},format=raw,{kind},file={file}");
        command.args(["-drive", &drive]);
    }
}

/// A QEMU that runs; killed when it goes out of scope, so that no failure leaves one behind.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
