// SPDX-License-Identifier: MIT OR Apache-2.0
//! A PCI bus in sysfs that exists in files only.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// What the functions are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Graphics cards: a VGA controller and its audio function, one IOMMU group each, a bus each; with
    /// all attributes that the peers of the early binary ask for. At most 256 functions.
    Cards,
    /// System peripherals, eight to a slot and to a group. At most 65,536 functions.
    Peripherals,
}

/// How many peripherals come first, with an ID and a class of their own.
pub const MARKED: usize = 16;

/// The files below one directory: sysfs itself, the command line, and the log.
pub struct Scene {
    root: PathBuf,
    functions: Vec<String>,
}

impl Scene {
    /// Builds it below an empty directory.
    pub fn build(root: &Path, kind: Kind, functions: usize) -> Result<Self> {
        let scene = Self { root: root.to_owned(), functions: addresses(kind, functions) };
        let build = || -> Result<()> {
            for directory in ["bus/pci/devices", "bus/pci/drivers", "module/vfio-pci"] {
                fs::create_dir_all(root.join(directory))?;
            }
            fs::write(root.join("bus/pci/drivers_probe"), "")?;
            fs::write(scene.log(), "")?;
            scene.set_rules("")?;
            for (index, address) in scene.functions.iter().enumerate() {
                scene.add(kind, index, address)?;
            }
            Ok(())
        };
        build().with_context(|| format!("cannot build a bus in {}", root.display()))?;
        Ok(scene)
    }

    fn add(&self, kind: Kind, index: usize, address: &str) -> Result<()> {
        let device = self.root.join("devices/pci0000:00").join(address);
        fs::create_dir_all(&device)?;
        let (class, id, group) = match kind {
            Kind::Cards if index.is_multiple_of(2) => ("030000", "10DE:2204", index / 2),
            Kind::Cards => ("040300", "10DE:1AEF", index / 2),
            Kind::Peripherals if index < MARKED => ("088001", "1B36:0006", index / 8),
            Kind::Peripherals => ("088000", "1B36:0005", index / 8),
        };
        let (vendor, number) = id.split_once(':').context("an ID has two parts")?;
        // In the kernel's form (`modalias_show` in `drivers/pci/pci-sysfs.c`).
        let modalias = format!(
            "pci:v0000{vendor}d0000{number}sv00001043sd000087B8bc{}sc{}i{}\n",
            &class[..2],
            &class[2..4],
            &class[4..],
        );
        fs::write(device.join("modalias"), modalias)?;
        fs::write(device.join("driver_override"), UNSET)?;
        symlink(
            format!("../../../devices/pci0000:00/{address}"),
            self.root.join("bus/pci/devices").join(address),
        )?;
        let members = self.root.join(format!("kernel/iommu_groups/{group}/devices"));
        fs::create_dir_all(&members)?;
        symlink(format!("../../../kernel/iommu_groups/{group}"), device.join("iommu_group"))?;
        symlink(format!("../../../../devices/pci0000:00/{address}"), members.join(address))?;
        if kind == Kind::Peripherals {
            return Ok(());
        }

        if class == "030000" {
            fs::write(device.join("boot_vga"), "0\n")?;
        }
        fs::write(device.join("class"), format!("0x{class}\n"))?;
        fs::write(device.join("vendor"), format!("0x{}\n", vendor.to_lowercase()))?;
        fs::write(device.join("device"), format!("0x{}\n", number.to_lowercase()))?;
        fs::write(device.join("irq"), "0\n")?;
        let region = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
        fs::write(device.join("resource"), region.repeat(13))?;
        // The configuration space, little-endian: IDs, then the class behind the revision.
        let mut space = [0; 64];
        let halves = [(0, vendor), (2, number), (10, &class[..4])];
        for (at, text) in halves {
            let value = u16::from_str_radix(text, 16)?;
            space[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        fs::write(device.join("config"), space)?;
        Ok(())
    }

    /// Every function's address.
    pub fn functions(&self) -> &[String] {
        &self.functions
    }

    /// The file that stands for the kernel's command line.
    pub fn command_line(&self) -> PathBuf {
        self.root.join("cmdline")
    }

    /// The file that stands for the kernel's log.
    pub fn log(&self) -> PathBuf {
        self.root.join("kmsg")
    }

    /// Writes the command line.
    pub fn set_rules(&self, rules: &str) -> Result<()> {
        let line = format!("quiet root=/dev/sda1 vfio.override={rules}\n");
        Ok(fs::write(self.command_line(), line)?)
    }

    /// Takes back what a run did.
    pub fn reset(&self) -> Result<()> {
        fs::write(self.log(), "")?;
        for address in &self.functions {
            fs::File::create(self.driver_override(address))?.write_all(UNSET)?;
        }
        Ok(())
    }

    /// That every function is kept for vfio-pci.
    pub fn check_overrides(&self) -> Result<()> {
        for address in &self.functions {
            let value = fs::read(self.driver_override(address))?;
            ensure!(value.starts_with(b"vfio-pci\n"), "{address} is not kept for vfio-pci");
        }
        Ok(())
    }

    /// That besides the log tells of each.
    pub fn check(&self) -> Result<()> {
        self.check_overrides()?;
        let log = fs::read_to_string(self.log())?;
        for address in &self.functions {
            ensure!(log.contains(address.as_str()), "the log does not tell of {address}");
        }
        Ok(())
    }

    /// Every function's override.
    pub fn overrides(&self) -> Vec<PathBuf> {
        self.functions.iter().map(|address| self.driver_override(address)).collect()
    }

    fn driver_override(&self, address: &str) -> PathBuf {
        self.root.join("devices/pci0000:00").join(address).join("driver_override")
    }
}

/// What the kernel shows where nothing was written.
const UNSET: &[u8] = b"(null)\n";

fn addresses(kind: Kind, functions: usize) -> Vec<String> {
    (0..functions)
        .map(|index| match kind {
            Kind::Cards => format!("0000:{:02x}:00.{}", index / 2 + 1, index % 2),
            Kind::Peripherals => {
                format!("0000:{:02x}:{:02x}.{}", index >> 8, index >> 3 & 0x1f, index & 7)
            }
        })
        .collect()
}
