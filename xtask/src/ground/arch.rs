// SPDX-License-Identifier: MIT OR Apache-2.0
//! The architectures that are built for and booted: all that differs between them. A further one is one
//! more entry of [`ALL`], and of what `src/early` compiles for.

use std::env;
use std::ffi::OsString;
use std::fmt;

use anyhow::{Context, Result};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};

use crate::ground::setup::{self, Tool};

/// An architecture.
pub struct Arch {
    /// Rust's name for it, which `--arch` takes.
    pub name: &'static str,
    /// Debian's name for it.
    pub debian: &'static str,
    /// How the binaries with musl are made.
    pub musl: Build,
    /// How the early binary is made where there is no musl, if that was ever tried.
    pub glibc: Option<Build>,
    cross: Cross,
    /// The number of its ELF files (`EM_…` of elf.h).
    pub elf_machine: u16,
    /// What runs its programs on another machine.
    pub emulation: Tool,
    pub guest: Guest,
}

/// The C library that a binary holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Libc {
    Musl,
    Glibc,
}

impl fmt::Display for Libc {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Musl => "musl",
            Self::Glibc => "glibc",
        })
    }
}

/// How a binary is made.
pub struct Build {
    pub libc: Libc,
    pub triple: &'static str,
    /// The most bytes that the early binary which ships may have.
    pub ceiling: u64,
    /// What the early binary is compiled with, besides what every one is.
    pub flags: &'static [&'static str],
}

/// The compiler, which links, and the binutils on a machine of another architecture.
struct Cross {
    /// What their names begin with.
    prefix: &'static str,
    compiler: Tool,
}

/// The machine that QEMU emulates.
pub struct Guest {
    pub emulator: Tool,
    pub board: &'static [&'static str],
    /// The processor that is emulated; none if QEMU's own choice will do.
    pub processor: Option<&'static str>,
    /// What adds an IOMMU to the board.
    pub iommu: &'static [&'static str],
    /// MiB.
    pub memory: u32,
    pub firmware: Firmware,
    /// The kernel's name for the serial port of its console.
    pub console: &'static str,
    /// Where /init writes its report and the kernel's log.
    pub serial: Serial,
    /// Kernel parameters that every guest needs.
    pub parameters: &'static str,
}

/// What a guest starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// The ELF kernel by qboot, or by `SeaBIOS`, which sets a display up; or `SeaBIOS` and the bzImage.
    Pc,
    /// None, and a device tree; or EFI, with ACPI.
    DeviceTree,
}

/// The serial ports of a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serial {
    /// One each for the console, the report and the log.
    Three,
    /// One for all.
    One,
}

pub const X86_64: &Arch = &Arch {
    name: "x86_64",
    debian: "amd64",
    musl: Build {
        libc: Libc::Musl,
        triple: "x86_64-unknown-linux-musl",
        ceiling: 62 * 1024,
        // A kilobyte less for a hundredth more instructions: LLVM's own balance takes functions in, and makes
        // tables, that pay where code runs more than once.
        flags: &[
            "-Cllvm-args=-inline-threshold=55",
            "-Cllvm-args=-switch-to-lookup=false",
            "-Cllvm-args=-min-jump-table-entries=7",
        ],
    },
    glibc: Some(Build {
        libc: Libc::Glibc,
        triple: "x86_64-unknown-linux-gnu",
        ceiling: 780 * 1024,
        // With lld, `.eh_frame` keeps the personality routine alive, and with it all panic code. musl's
        // default is GNU ld already, and the option is not stable there.
        flags: &["-Clinker-features=-lld"],
    }),
    cross: Cross {
        prefix: "x86_64-linux-gnu-",
        compiler: Tool {
            name: "x86_64-linux-gnu-gcc",
            why: "links for x86_64",
            find: || setup::program("x86_64-linux-gnu-gcc"),
            packages: setup::Packages {
                apt: "gcc-x86-64-linux-gnu",
                dnf: "gcc-x86_64-linux-gnu",
                pacman: "x86_64-linux-gnu-gcc",
                zypper: "cross-x86_64-gcc14",
            },
        },
    },
    elf_machine: 62,
    emulation: Tool {
        name: "qemu-x86_64-static",
        why: "runs programs for x86_64",
        find: || setup::program("qemu-x86_64-static"),
        packages: setup::Packages {
            apt: "qemu-user-static",
            dnf: "qemu-user-static-x86",
            pacman: "qemu-user-static",
            zypper: "qemu-linux-user",
        },
    },
    guest: Guest {
        emulator: setup::QEMU,
        board: &["-M", "q35,kernel-irqchip=split,sata=off,smbus=off"],
        processor: None,
        iommu: &["-device", "intel-iommu,intremap=on,caching-mode=on"],
        memory: 256,
        firmware: Firmware::Pc,
        console: "ttyS0",
        serial: Serial::Three,
        parameters: "no_timer_check intel_iommu=on",
    },
};

pub const AARCH64: &Arch = &Arch {
    name: "aarch64",
    debian: "arm64",
    musl: Build {
        libc: Libc::Musl,
        triple: "aarch64-unknown-linux-musl",
        // An instruction has four bytes, whatever it does.
        ceiling: 72 * 1024,
        flags: &["-Cllvm-args=-enable-machine-outliner=always"],
    },
    glibc: None,
    cross: Cross {
        prefix: "aarch64-linux-gnu-",
        compiler: Tool {
            name: "aarch64-linux-gnu-gcc",
            why: "links for aarch64",
            find: || setup::program("aarch64-linux-gnu-gcc"),
            packages: setup::Packages {
                apt: "gcc-aarch64-linux-gnu",
                dnf: "gcc-aarch64-linux-gnu",
                pacman: "aarch64-linux-gnu-gcc",
                zypper: "cross-aarch64-gcc14",
            },
        },
    },
    elf_machine: 183,
    emulation: Tool {
        name: "qemu-aarch64-static",
        why: "runs programs for aarch64",
        find: || setup::program("qemu-aarch64-static"),
        packages: setup::Packages {
            apt: "qemu-user-static",
            dnf: "qemu-user-static-aarch64",
            pacman: "qemu-user-static",
            zypper: "qemu-linux-user",
        },
    },
    guest: Guest {
        emulator: setup::QEMU_AARCH64,
        board: &["-M", "virt,gic-version=3"],
        // The oldest that has pages of 16 KiB.
        processor: Some("cortex-a76"),
        iommu: &["-machine", "iommu=smmuv3"],
        memory: 512,
        firmware: Firmware::DeviceTree,
        console: "ttyAMA0",
        serial: Serial::One,
        parameters: "",
    },
};

pub const ALL: [&Arch; 2] = [X86_64, AARCH64];

/// Which architecture, for every task that makes or boots something for one.
#[derive(Args, Clone, Copy)]
pub struct ArchOptions {
    /// The architecture of what is built and booted
    #[arg(long, value_name = "ARCH", default_value = of_this_machine().name, value_parser = parser())]
    pub arch: &'static Arch,
}

/// Reads an architecture's name.
pub fn parser() -> impl TypedValueParser<Value = &'static Arch> {
    PossibleValuesParser::new(ALL.map(|arch| arch.name)).try_map(|name| {
        named(&name)
            .with_context(|| format!("no architecture {name}"))
            .map_err(anyhow::Error::into_boxed_dyn_error)
    })
}

fn named(name: &str) -> Option<&'static Arch> {
    ALL.into_iter().find(|arch| arch.name == name)
}

/// That of the machine that xtask runs on, or the first where nobody ever tried that.
pub fn of_this_machine() -> &'static Arch {
    named(env::consts::ARCH).unwrap_or(X86_64)
}

impl Arch {
    /// Whether what is built runs on this machine as it is.
    pub fn is_native(&self) -> bool {
        self.name == env::consts::ARCH
    }

    /// What links here; none if it is what Rust takes by itself.
    pub fn linker(&self) -> Option<&'static str> {
        (!self.is_native()).then_some(self.cross.compiler.name)
    }

    /// One of the binutils, by its usual name.
    pub fn binutil(&self, name: &str) -> OsString {
        let prefix = if self.is_native() { "" } else { self.cross.prefix };
        format!("{prefix}{name}").into()
    }

    /// Sees to it that what is built for it can be linked here.
    pub fn ensure_linker(&self) -> Result<()> {
        if self.is_native() { Ok(()) } else { setup::ensure(&[&self.cross.compiler]) }
    }
}

impl PartialEq for Arch {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Arch {}

impl fmt::Debug for Arch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_architecture_is_found_by_its_name() {
        for arch in ALL {
            assert_eq!(named(arch.name), Some(arch));
        }
        assert_eq!(named("riscv64"), None);
    }

    #[test]
    fn what_the_early_binary_compiles_for_is_what_is_booted() {
        let names = ALL.map(|arch| format!("\"{}\"", arch.name)).join(", ");
        let tested = format!("const TESTED: [&str; {}] = [{names}];", ALL.len());
        assert!(include_str!("../../../build.rs").contains(&tested), "build.rs has no {tested}");
    }

    #[test]
    fn the_tools_of_this_machine_have_no_prefix() {
        for arch in ALL {
            let strip = arch.binutil("strip");
            assert_eq!(strip == "strip", arch.is_native(), "{arch}");
            assert_eq!(arch.linker().is_none(), arch.is_native(), "{arch}");
        }
    }
}
