// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine that is emulated: a q35 board with an Intel IOMMU that remaps interrupts, and whatever functions a
//! case puts on it. Places are written as the guest will see them: `01:00.0` is behind the bridge whose bus is said
//! to be `01`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::guest::modules::{Modules, Presence};

/// A driver of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Driver {
    /// As sysfs and the driver core call it.
    pub name: &'static str,
    /// The module that it is in, with underscores; none if no kernel makes it a module.
    module: Option<&'static str>,
}

impl Driver {
    pub const fn new(name: &'static str, module: &'static str) -> Self {
        Self { name, module: Some(module) }
    }

    /// Where a kernel with these modules has it.
    pub fn presence(self, modules: &Modules) -> Presence {
        self.module.map_or(Presence::Builtin, |module| modules.presence(module))
    }

    /// Whether it is in this module.
    pub fn is_in(self, module: &str) -> bool {
        self.module == Some(module)
    }
}

/// A kind of PCI function that QEMU emulates.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// The value of `-device`, where `{id}` stands for the function's name and `{n}` for a number
    /// of its own.
    pub device: &'static str,
    /// Options that the device refers to.
    pub needs: &'static [(&'static str, &'static str)],
    /// The driver that takes it on a host without rules, if any does.
    pub driver: Option<Driver>,
    /// Whether it is a display that firmware sets up, by a ROM of its own.
    pub has_rom: bool,
    /// Whether it is a display with a driver for EFI of ours in its ROM.
    pub has_efi_driver: bool,
    /// Whether it takes more than its kind to tell which driver takes it, if any: for hot-plug behind
    /// bridges there are several, and they look at what is above.
    pub is_anybodys: bool,
}

impl Model {
    pub const fn new(device: &'static str, driver: Driver) -> Self {
        Self { driver: Some(driver), ..Self::without_driver(device) }
    }

    pub const fn without_driver(device: &'static str) -> Self {
        Self {
            device,
            needs: &[],
            driver: None,
            has_rom: false,
            has_efi_driver: false,
            is_anybodys: false,
        }
    }

    const fn display(device: &'static str, driver: Driver) -> Self {
        Self { has_rom: true, ..Self::new(device, driver) }
    }
}

const BOCHS: Driver = Driver::new("bochs-drm", "bochs");
const QXL_DRIVER: Driver = Driver::new("qxl", "qxl");
const NVME_DRIVER: Driver = Driver::new("nvme", "nvme");
const SOUND: Driver = Driver::new("snd_hda_intel", "snd_hda_intel");
const USB: Driver = Driver::new("xhci_hcd", "xhci_pci");
const VIRTIO: Driver = Driver::new("virtio-pci", "virtio_pci");
const PORT: Driver = Driver { name: "pcieport", module: None };

pub const VGA: Model = Model::display("VGA", BOCHS);
pub const SECONDARY_VGA: Model = Model::new("secondary-vga", BOCHS);
pub const BOCHS_DISPLAY: Model = Model::new("bochs-display", BOCHS);
pub const VIRTIO_VGA: Model = Model::display("virtio-vga", VIRTIO);
pub const VIRTIO_GPU: Model = Model::new("virtio-gpu-pci", VIRTIO);
pub const QXL_VGA: Model = Model::display("qxl-vga", QXL_DRIVER);
/// A further one, which QEMU makes the same but for its class 0380.
pub const QXL: Model = Model::new("qxl", QXL_DRIVER);
pub const ATI_VGA: Model = Model::display("ati-vga", Driver::new("aty128fb", "aty128fb"));
pub const HDA: Model = Model::new("intel-hda", SOUND);
pub const ICH9_HDA: Model = Model::new("ich9-intel-hda", SOUND);
pub const XHCI: Model = Model::new("qemu-xhci", USB);
pub const NEC_XHCI: Model = Model::new("nec-usb-xhci", USB);
// The network cards have no peer, and QEMU's warnings about that are harmless.
pub const E1000E: Model = Model::new("e1000e", Driver::new("e1000e", "e1000e"));
pub const E1000: Model = Model::new("e1000", Driver::new("e1000", "e1000"));
pub const AHCI: Model = Model::new("ich9-ahci", Driver::new("ahci", "ahci"));
pub const VIRTIO_NET: Model = Model::new("virtio-net-pci", VIRTIO);
pub const VIRTIO_RNG: Model = Model::new("virtio-rng-pci", VIRTIO);
// Without this option their IDs depend on the bus that they are on.
pub const VIRTIO_NET_MODERN: Model = Model::new("virtio-net-pci,disable-legacy=on", VIRTIO);
pub const VIRTIO_RNG_MODERN: Model = Model::new("virtio-rng-pci,disable-legacy=on", VIRTIO);
pub const VIRTIO_BLK: Model = Model {
    needs: DRIVE,
    ..Model::new("virtio-blk-pci,disable-legacy=on,drive={id}-drive", VIRTIO)
};
pub const NVME: Model =
    Model { needs: DRIVE, ..Model::new("nvme,drive={id}-drive,serial={id}", NVME_DRIVER) };
/// A controller without drives that can have two virtual functions, on a root port.
pub const NVME_WITH_VFS: Model = Model {
    needs: &[("device", "nvme-subsys,id={id}-subsystem")],
    ..Model::new(
        "nvme,serial={id},subsys={id}-subsystem,sriov_max_vfs=2,sriov_vq_flexible=4,\
         sriov_vi_flexible=2,max_ioqpairs=8,msix_qsize=9",
        NVME_DRIVER,
    )
};
const DRIVE: &[(&str, &str)] = &[("drive", "if=none,id={id}-drive,driver=null-co,size=1M")];
pub const EDU: Model = Model::without_driver("edu");
pub const PCI_TESTDEV: Model = Model::without_driver("pci-testdev");
/// A disk with the contents of a file, which stays as it is.
const DISK: Model = Model {
    needs: &[("drive", "if=none,id={id},file={file},format=raw,snapshot=on")],
    ..Model::new("virtio-blk-pci,drive={id}", VIRTIO)
};
pub const ROOT_PORT: Model = Model::new("pcie-root-port,chassis={n}", PORT);
/// One whose slot knows no hot-plug, which needs interrupts.
pub const FIXED_ROOT_PORT: Model = Model::new("pcie-root-port,chassis={n},hotplug=off", PORT);
/// A second host bridge, whose bus is 40.
pub const HOST_BRIDGE: Model =
    Model { is_anybodys: true, ..Model::without_driver("pxb-pcie,bus_nr=64") };
pub const SWITCH_UPLINK: Model = Model::new("x3130-upstream", PORT);
pub const SWITCH_PORT: Model = Model::new("xio3130-downstream,chassis={n}", PORT);
pub const PCIE_PCI_BRIDGE: Model =
    Model { is_anybodys: true, ..Model::without_driver("pcie-pci-bridge") };
pub const PCI_BRIDGE: Model =
    Model { is_anybodys: true, ..Model::without_driver("pci-bridge,chassis_nr={n}") };

/// What passthrough needs.
pub const VFIO_MODULES: [&str; 2] = ["vfio_pci", "vfio_iommu_type1"];
/// The driver that does nothing but keep a function from all others.
pub const STUB_MODULE: &str = "pci_stub";

/// The functions of a guest.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    functions: Vec<Function>,
    pub lacks_iommu: bool,
    /// MiB beyond what every guest has.
    pub image_memory: u32,
    pub has_bios: bool,
    pub is_lit: bool,
    pub efi: Option<Efi>,
    /// The ROM of the displays that have a driver for EFI.
    pub efi_rom: Option<PathBuf>,
}

/// EFI firmware, which starts what it finds on a disk of the machine.
#[derive(Clone, Debug)]
pub struct Efi {
    pub code: PathBuf,
    /// What it finds stored; what it stores is lost.
    pub variables: PathBuf,
}

/// A function at its place.
#[derive(Clone, Debug)]
pub struct Function {
    place: String,
    pub model: Model,
    /// The bus behind it, if it is a bridge.
    bus: Option<String>,
    /// Whether it is plugged into the running guest.
    pub is_later: bool,
    /// What it holds, if it is a disk.
    file: Option<PathBuf>,
}

impl Function {
    /// Its name in sysfs.
    pub fn address(&self) -> String {
        full_address(&self.place)
    }

    /// Its name in QEMU.
    pub fn id(&self) -> String {
        format!("pci-{}", self.place.replace(':', "."))
    }

    /// Puts its name and number into a template.
    fn fill(&self, template: &str, number: usize) -> String {
        let path = self.file.iter().map(|file| escaped(file)).collect::<String>();
        template
            .replace("{id}", &self.id())
            .replace("{n}", &number.to_string())
            .replace("{file}", &path)
    }
}

/// A function's name in sysfs: `01:00.0` → `0000:01:00.0`; a place may say its domain as well.
pub fn full_address(place: &str) -> String {
    if place.matches(':').count() > 1 { place.to_owned() } else { format!("0000:{place}") }
}

impl Machine {
    /// A machine with nothing but the board's own functions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a function at a place such as `00:02.0`.
    #[must_use]
    pub fn with(self, place: &str, model: Model) -> Self {
        self.add(place, model, None)
    }

    /// Adds a bridge; functions behind it are at places that begin with `bus`, two digits.
    ///
    /// The guest's firmware numbers the buses. qboot goes through the bridges of a bus by falling
    /// address, with `pci=assign-busses` the kernel by rising address, and both down each of them
    /// before the next.
    #[must_use]
    pub fn bridge(self, place: &str, model: Model, bus: &str) -> Self {
        self.add(place, model, Some(bus.to_owned()))
    }

    /// Adds a function that is not there at first; a scene plugs it in.
    #[must_use]
    pub fn later(mut self, place: &str, model: Model) -> Self {
        self = self.add(place, model, None);
        if let Some(function) = self.functions.last_mut() {
            function.is_later = true;
        }
        self
    }

    /// Adds a disk that holds what a file holds; the guest's changes are lost.
    #[must_use]
    pub fn disk(mut self, place: &str, file: &Path) -> Self {
        self = self.add(place, DISK, None);
        if let Some(function) = self.functions.last_mut() {
            function.file = Some(file.to_owned());
        }
        self
    }

    /// Makes room for an image of so many MiB, packed and unpacked.
    #[must_use]
    pub fn with_image(mut self, mebibytes: u32) -> Self {
        self.image_memory = mebibytes;
        self
    }

    /// Takes the IOMMU off the board.
    #[must_use]
    pub fn without_iommu(mut self) -> Self {
        self.lacks_iommu = true;
        self
    }

    /// Boots by firmware that sets up the display with the lowest address, so that every kernel knows it as the boot
    /// display: since 7.0 a kernel takes none for it otherwise. Buses are then numbered by rising address.
    #[must_use]
    pub fn lit(mut self) -> Self {
        self.is_lit = true;
        self
    }

    /// Boots as a boot loader would have it, by the firmware and the kernel's own set-up code, which knows `vga=` but
    /// takes seconds longer.
    #[must_use]
    pub fn with_bios(mut self) -> Self {
        self.has_bios = true;
        self
    }

    /// Boots by this firmware, from a disk: QEMU loads no kernel.
    #[must_use]
    pub fn by_efi(mut self, efi: Efi) -> Self {
        self.efi = Some(efi);
        self
    }

    fn add(mut self, place: &str, model: Model, bus: Option<String>) -> Self {
        let place = place.to_owned();
        self.functions.push(Function { place, model, bus, is_later: false, file: None });
        self
    }

    /// Every function but the board's own.
    pub fn functions(&self) -> impl Iterator<Item = &Function> {
        self.functions.iter()
    }

    /// The modules that a host without rules would load, in the order of the functions.
    pub fn host_modules(&self) -> Vec<&'static str> {
        self.modules(false)
    }

    /// The modules that it would load for what is plugged in later.
    pub fn later_modules(&self) -> Vec<&'static str> {
        self.modules(true)
    }

    fn modules(&self, is_later: bool) -> Vec<&'static str> {
        let mut modules = Vec::new();
        let functions = self.functions.iter().filter(|function| function.is_later == is_later);
        for module in functions.filter_map(|function| function.model.driver?.module) {
            if !modules.contains(&module) {
                modules.push(module);
            }
        }
        modules
    }

    /// QEMU's options for the functions that are there from the start, and for what those need that come
    /// later, without their leading dash.
    ///
    /// An error if a place is no place or on a bus that no bridge has.
    pub fn options(&self) -> Result<Vec<(&'static str, String)>> {
        let mut options = Vec::new();
        for (number, function) in self.functions.iter().enumerate() {
            for (option, value) in function.model.needs {
                options.push((*option, function.fill(value, number)));
            }
            if !function.is_later {
                options.push(("device", self.device(function, number)?));
            }
        }
        Ok(options)
    }

    /// The function at this address that is to be plugged in, with the value of `-device` for it.
    pub fn to_plug(&self, address: &str) -> Result<(&Function, String)> {
        let (number, function) = self
            .functions
            .iter()
            .enumerate()
            .find(|(_, function)| function.is_later && function.address() == address)
            .with_context(|| format!("no function to plug in at {address}"))?;
        Ok((function, self.device(function, number)?))
    }

    fn device(&self, function: &Function, number: usize) -> Result<String> {
        let device = function.fill(function.model.device, number);
        Ok(format!("{device},id={},{}", function.id(), self.position(function)?))
    }

    fn position(&self, function: &Function) -> Result<String> {
        let (bus, slot_and_function) = split(&function.place)?;
        let parent = if bus == "00" {
            "pcie.0".to_owned()
        } else {
            self.functions
                .iter()
                .find(|bridge| bridge.bus.as_deref() == Some(bus))
                .with_context(|| format!("{}: no bridge leads to bus {bus}", function.place))?
                .id()
        };
        let slot = |place: &str| place.rsplit_once('.').map(|(slot, _)| slot.to_owned());
        let shared =
            self.functions.iter().filter(|other| slot(&other.place) == slot(&function.place));
        let multifunction = if shared.count() > 1 { ",multifunction=on" } else { "" };
        // Not every distribution installs the ROMs of network cards with QEMU, and nobody needs them.
        let is_set_up = function.model.has_rom && (self.has_bios || self.is_lit);
        let rom = match &self.efi_rom {
            Some(path) if function.model.has_efi_driver => format!(",romfile={}", escaped(path)),
            _ if is_set_up => String::new(),
            _ => ",romfile=".to_owned(),
        };
        Ok(format!("bus={parent},addr={slot_and_function}{multifunction}{rom}"))
    }
}

/// A path in a value of QEMU's options, where a comma begins the next property.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The bus, and the slot with the function.
fn split(place: &str) -> Result<(&str, &str)> {
    let mut parts = place.rsplit(':');
    match (parts.next(), parts.next()) {
        (Some(slot_and_function), Some(bus)) => Ok((bus, slot_and_function)),
        _ => bail!("{place}: expected a place such as 01:00.0"),
    }
}

/// The machine of `cargo xtask boot`.
///
/// | function | device |
/// |---|---|
/// | 00:02.0 | the boot display |
/// | 00:03.0, 00:04.0 | two e1000e |
/// | 00:05.0 | an NVMe drive |
/// | 00:06.0 | a virtio network card |
/// | 00:1c.0 | a root port, and behind it in one slot: |
/// | 01:00.0 | a display identical to the first |
/// | 01:00.1 | its audio function |
/// | 01:00.2 | its USB function |
pub fn demo() -> Machine {
    Machine::new()
        .lit()
        .with("00:02.0", VGA)
        .with("00:03.0", E1000E)
        .with("00:04.0", E1000E)
        .with("00:05.0", NVME)
        .with("00:06.0", VIRTIO_NET)
        .bridge("00:1c.0", ROOT_PORT, "01")
        .with("01:00.0", VGA)
        .with("01:00.1", HDA)
        .with("01:00.2", XHCI)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_put_where_they_are_said_to_be() -> Result<()> {
        let machine = Machine::new()
            .with("00:05.0", NVME)
            .bridge("00:1c.0", ROOT_PORT, "01")
            .with("01:00.0", VGA)
            .with("01:00.1", HDA);
        let options: Vec<String> = machine
            .options()?
            .into_iter()
            .map(|(name, value)| format!("-{name} {value}"))
            .collect();
        assert_eq!(
            options,
            [
                "-drive if=none,id=pci-00.05.0-drive,driver=null-co,size=1M",
                "-device nvme,drive=pci-00.05.0-drive,serial=pci-00.05.0,id=pci-00.05.0,\
                 bus=pcie.0,addr=05.0,romfile=",
                "-device pcie-root-port,chassis=1,id=pci-00.1c.0,bus=pcie.0,addr=1c.0,romfile=",
                "-device VGA,id=pci-01.00.0,bus=pci-00.1c.0,addr=00.0,multifunction=on,romfile=",
                "-device intel-hda,id=pci-01.00.1,bus=pci-00.1c.0,addr=00.1,multifunction=on,\
                 romfile=",
            ]
        );
        Ok(())
    }

    #[test]
    fn a_bus_that_no_bridge_has_is_told() {
        let told =
            |place: &str| Machine::new().with(place, VGA).options().map_err(|e| e.to_string());
        assert_eq!(told("07:00.0"), Err("07:00.0: no bridge leads to bus 07".to_owned()));
        assert_eq!(told("7"), Err("7: expected a place such as 01:00.0".to_owned()));
    }

    #[test]
    fn each_module_is_loaded_once() {
        let machine = Machine::new().with("00:02.0", VGA).with("00:03.0", VGA);
        assert_eq!(machine.host_modules(), ["bochs"]);
    }
}
