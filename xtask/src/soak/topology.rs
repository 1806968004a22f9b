// SPDX-License-Identifier: MIT OR Apache-2.0
//! A random machine, and what the guest's kernel must find in it.
//!
//! Everything is predicted: the numbers of the buses, the IOMMU groups and the boot display follow from
//! what is plugged in where. The guest's own table of functions must be the same, so that no mistake
//! about a machine passes for an agreement about rules.

use std::collections::BTreeMap;

use model::oracle::Device;
use proptest::prelude::*;
use proptest::sample::Index;
use vfio_override::pci::{Address, Class, Id};

use crate::guest::machine::{
    BOCHS_DISPLAY, E1000E, EDU, HDA, ICH9_HDA, Machine, Model, NEC_XHCI, NVME, PCI_BRIDGE,
    PCI_TESTDEV, PCIE_PCI_BRIDGE, ROOT_PORT, SECONDARY_VGA, SWITCH_PORT, SWITCH_UPLINK, VGA,
    VIRTIO_BLK, VIRTIO_GPU, VIRTIO_NET_MODERN, VIRTIO_RNG_MODERN, VIRTIO_VGA, XHCI,
};

/// A kind of function, as the guest sees it.
#[derive(Debug)]
struct Kind {
    model: Model,
    id: Id,
    subsystem: Id,
    class: u32,
    /// What is behind it, if it is a bridge.
    behind: Option<Room>,
    /// Whether it works on a bus that is not PCI Express.
    is_conventional: bool,
}

/// What may be plugged in on a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// The root bus: any card, and root ports.
    Root,
    /// One slot: any card, or a switch or another bridge.
    Slot,
    /// Inside of a switch: its ports only.
    Switch,
    /// Cards without PCI Express, and bridges to more such buses.
    Conventional,
}

const fn kind(model: Model, id: (u16, u16), class: u32) -> Kind {
    Kind {
        model,
        id: Id { vendor: id.0, device: id.1 },
        subsystem: QEMU,
        class,
        behind: None,
        is_conventional: false,
    }
}

const fn conventional(model: Model, id: (u16, u16), class: u32) -> Kind {
    Kind { is_conventional: true, ..kind(model, id, class) }
}

const fn bridge(model: Model, id: (u16, u16), behind: Room) -> Kind {
    let subsystem = Id { vendor: 0, device: 0 };
    Kind { subsystem, behind: Some(behind), ..kind(model, id, 0x06_04_00) }
}

/// The subsystem of what QEMU emulates, if it has no better one.
const QEMU: Id = Id { vendor: 0x1af4, device: 0x1100 };

const CARDS: [Kind; 16] = [
    conventional(VGA, (0x1234, 0x1111), 0x03_00_00),
    conventional(SECONDARY_VGA, (0x1234, 0x1111), 0x03_80_00),
    kind(BOCHS_DISPLAY, (0x1234, 0x1111), 0x03_80_00),
    kind(VIRTIO_VGA, (0x1af4, 0x1050), 0x03_00_00),
    kind(VIRTIO_GPU, (0x1af4, 0x1050), 0x03_80_00),
    conventional(HDA, (0x8086, 0x2668), 0x04_03_00),
    conventional(ICH9_HDA, (0x8086, 0x293e), 0x04_03_00),
    kind(XHCI, (0x1b36, 0x000d), 0x0c_03_30),
    kind(NEC_XHCI, (0x1033, 0x0194), 0x0c_03_30),
    Kind {
        subsystem: Id { vendor: 0x8086, device: 0 },
        ..kind(E1000E, (0x8086, 0x10d3), 0x02_00_00)
    },
    kind(VIRTIO_NET_MODERN, (0x1af4, 0x1041), 0x02_00_00),
    kind(VIRTIO_RNG_MODERN, (0x1af4, 0x1044), 0x00_ff_00),
    kind(VIRTIO_BLK, (0x1af4, 0x1042), 0x01_00_00),
    kind(NVME, (0x1b36, 0x0010), 0x01_08_02),
    conventional(EDU, (0x1234, 0x11e8), 0x00_ff_00),
    conventional(PCI_TESTDEV, (0x1b36, 0x0005), 0x00_ff_00),
];

const PORT: Kind = Kind {
    subsystem: Id { vendor: 0x1b36, device: 0 },
    ..bridge(ROOT_PORT, (0x1b36, 0x000c), Room::Slot)
};
const TO_PCI: Kind = bridge(PCIE_PCI_BRIDGE, (0x1b36, 0x000e), Room::Conventional);
const PCI_TO_PCI: Kind = bridge(PCI_BRIDGE, (0x1b36, 0x0001), Room::Conventional);
// QEMU's i82801b11-bridge is left out: the kernel counts on its subtractive decoding, which it does not do,
// and gives functions behind it addresses at which nobody answers.
const UPLINK: Kind = bridge(SWITCH_UPLINK, (0x104c, 0x8232), Room::Switch);
const DOWNLINK: Kind = bridge(SWITCH_PORT, (0x104c, 0x8233), Room::Slot);

/// What the board has of itself.
const HOST_BRIDGE: (u8, (u16, u16), u32) = (0x00, (0x8086, 0x29c0), 0x06_00_00);
const LPC: (u8, (u16, u16), u32) = (0x1f, (0x8086, 0x2918), 0x06_01_00);

/// Something to be plugged in where there is room for it.
#[derive(Clone, Debug)]
pub struct Sketch {
    bus: Index,
    device: u8,
    part: Part,
}

#[derive(Clone, Debug)]
enum Part {
    /// One card; its functions' kinds, and the numbers of all but the first.
    Card(Vec<(Index, u8)>),
    /// A bridge of a kind that fits.
    Bridge(Index),
}

/// Things to be plugged in.
pub fn sketches() -> impl Strategy<Value = Vec<Sketch>> {
    let functions = prop_oneof![
        3 => proptest::collection::vec((any::<Index>(), 1..=7_u8), 1),
        2 => proptest::collection::vec((any::<Index>(), 1..=7_u8), 2..=4),
    ];
    let part = prop_oneof![
        5 => functions.prop_map(Part::Card),
        4 => any::<Index>().prop_map(Part::Bridge),
    ];
    let sketch = (any::<Index>(), 0..=0x1f_u8, part);
    let sketch = sketch.prop_map(|(bus, device, part)| Sketch { bus, device, part });
    proptest::collection::vec(sketch, 4..=18)
}

/// The order in which somebody numbers the buses behind the bridges of one bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// By falling address, as qboot does (`pci.c`, where a list of bridges grows at its head).
    Falling,
    /// By rising address, as the kernel does with `pci=assign-busses`, and `SeaBIOS`.
    Rising,
}

/// A function in its place; buses are known by their position in [`Topology::buses`].
struct Placed {
    bus: usize,
    device: u8,
    function: u8,
    kind: &'static Kind,
}

struct Bus {
    room: Room,
    /// The bridge above it, by its position in [`Topology::functions`].
    bridge: Option<usize>,
}

struct Topology {
    buses: Vec<Bus>,
    functions: Vec<Placed>,
}

/// The machine and its functions as the guest must see them, the board's own among them.
pub fn build(sketches: &[Sketch], numbering: Numbering) -> (Machine, Vec<Device>) {
    let mut topology =
        Topology { buses: vec![Bus { room: Room::Root, bridge: None }], functions: Vec::new() };
    for sketch in sketches {
        topology.plug(sketch);
    }
    if topology.boot_display(0).is_none() {
        let numbers = topology.numbers(numbering);
        return (topology.machine(&numbers), topology.devices(&numbers));
    }
    // Kernels agree about the boot display where firmware set it up, and that firmware numbers buses in one way.
    let numbers = topology.numbers(Numbering::Rising);
    (topology.machine(&numbers).lit(), topology.devices(&numbers))
}

impl Topology {
    /// Plugs it in, if there is room on its bus.
    fn plug(&mut self, sketch: &Sketch) {
        let bus = sketch.bus.index(self.buses.len());
        let room = self.buses[bus].room;
        let device = match room {
            Room::Slot => 0,
            // 00.0 and 1f.0 are the board's; some bridges keep 00 for themselves.
            Room::Root | Room::Conventional => sketch.device.clamp(1, 0x1e),
            Room::Switch => sketch.device,
        };
        let mut slot =
            self.functions.iter().filter(|other| (other.bus, other.device) == (bus, device));
        match &sketch.part {
            Part::Card(functions) => {
                let kinds: Vec<&Kind> = CARDS.iter().filter(|kind| kind.fits(room)).collect();
                if slot.next().is_some() || kinds.is_empty() {
                    return;
                }
                let mut numbers = BTreeMap::new();
                for (position, (kind, number)) in functions.iter().enumerate() {
                    // A slot without function 0 is empty to whoever looks.
                    numbers.insert(if position == 0 { 0 } else { *number }, *kind.get(&kinds));
                }
                for (function, kind) in numbers {
                    self.functions.push(Placed { bus, device, function, kind });
                }
            }
            Part::Bridge(choice) => {
                let kinds: &[&'static Kind] = match room {
                    Room::Root => &[&PORT],
                    Room::Slot => &[&TO_PCI, &UPLINK],
                    Room::Switch => &[&DOWNLINK],
                    Room::Conventional => &[&PCI_TO_PCI],
                };
                let kind = *choice.get(kinds);
                // Several root ports may share a slot.
                let others: Vec<&Placed> = slot.collect();
                let is_free = others.iter().all(|other| [kind.id, other.kind.id] == [PORT.id; 2]);
                let function = others.iter().map(|other| other.function + 1).max().unwrap_or(0);
                let Some(behind) = kind.behind.filter(|_| is_free && function < 8) else { return };
                self.buses.push(Bus { room: behind, bridge: Some(self.functions.len()) });
                self.functions.push(Placed { bus, device, function, kind });
            }
        }
    }

    /// The number of each bus: depth first from the root bus.
    fn numbers(&self, numbering: Numbering) -> Vec<u8> {
        let mut numbers = vec![0; self.buses.len()];
        let mut next = 1;
        self.number_below(0, numbering, &mut next, &mut numbers);
        numbers
    }

    fn number_below(&self, bus: usize, numbering: Numbering, next: &mut u8, numbers: &mut [u8]) {
        let mut below = self.below(bus);
        if numbering == Numbering::Falling {
            below.reverse();
        }
        for bus in below {
            numbers[bus] = *next;
            *next += 1;
            self.number_below(bus, numbering, next, numbers);
        }
    }

    /// The buses behind the bridges of a bus, by rising address of their bridges.
    fn below(&self, bus: usize) -> Vec<usize> {
        let mut below: Vec<(u8, u8, usize)> = Vec::new();
        for (index, other) in self.buses.iter().enumerate() {
            if let Some(bridge) = other.bridge.map(|bridge| &self.functions[bridge])
                && bridge.bus == bus
            {
                below.push((bridge.device, bridge.function, index));
            }
        }
        below.sort_unstable();
        below.into_iter().map(|(_, _, index)| index).collect()
    }

    fn bus_behind(&self, function: usize) -> Option<usize> {
        self.buses.iter().position(|bus| bus.bridge == Some(function))
    }

    fn machine(&self, numbers: &[u8]) -> Machine {
        let mut machine = Machine::new();
        for (index, placed) in self.functions.iter().enumerate() {
            let Placed { bus, device, function, kind } = placed;
            let place = format!("{:02x}:{device:02x}.{function}", numbers[*bus]);
            machine = match self.bus_behind(index) {
                Some(bus) => machine.bridge(&place, kind.model, &format!("{:02x}", numbers[bus])),
                None => machine.with(&place, kind.model),
            };
        }
        machine
    }

    fn devices(&self, numbers: &[u8]) -> Vec<Device> {
        let boot_display = self.boot_display(0);
        let own = [HOST_BRIDGE, LPC].map(|(device, (vendor, id), class)| Device {
            address: address(0, device, 0),
            parent: None,
            id: Id { vendor, device: id },
            subsystem: QEMU,
            class: Class::new(class).unwrap_or_default(),
            // Behind those of all other functions.
            group: u32::try_from(self.functions.len()).ok().map(|group| group + u32::from(device)),
            boot_vga: false,
            has_framebuffer: false,
        });
        let at = |index: usize| {
            let placed = &self.functions[index];
            address(numbers[placed.bus], placed.device, placed.function)
        };
        let mut devices: Vec<Device> = own.into();
        for (index, Placed { bus, kind, .. }) in self.functions.iter().enumerate() {
            devices.push(Device {
                address: at(index),
                parent: self.buses[*bus].bridge.map(at),
                id: kind.id,
                subsystem: kind.subsystem,
                class: Class::new(kind.class).unwrap_or_default(),
                group: u32::try_from(self.group(index)).ok(),
                boot_vga: boot_display == Some(index),
                has_framebuffer: false,
            });
        }
        devices.sort_by_key(|device| device.address);
        devices
    }

    /// The first function of the IOMMU group (`pci_device_group` in `drivers/iommu/iommu.c`).
    fn group(&self, index: usize) -> usize {
        let placed = &self.functions[index];
        if let Some(bridge) = self.buses[placed.bus].bridge
            && !self.isolates_up(bridge)
        {
            return self.group(bridge);
        }
        if placed.isolates() {
            return index;
        }
        let is_beside = |other: &Placed| {
            (other.bus, other.device) == (placed.bus, placed.device) && !other.isolates()
        };
        self.functions.iter().position(is_beside).unwrap_or(index)
    }

    /// Whether this bridge and all above it keep what is behind them from its neighbours
    /// (`pci_acs_path_enabled` in `drivers/pci/pci.c`).
    fn isolates_up(&self, bridge: usize) -> bool {
        let placed = &self.functions[bridge];
        let above = self.buses[placed.bus].bridge;
        placed.isolates() && above.is_none_or(|above| self.isolates_up(above))
    }

    /// The VGA controller with the lowest address, which `SeaBIOS` sets up (`pci_enable_default_vga` in
    /// `src/fw/pciinit.c`).
    fn boot_display(&self, bus: usize) -> Option<usize> {
        let is_vga = |index: &usize| {
            let placed = &self.functions[*index];
            placed.bus == bus && placed.kind.class >> 8 == 0x0300
        };
        let place = |index: &usize| {
            let placed = &self.functions[*index];
            (placed.device, placed.function)
        };
        let here = (0..self.functions.len()).filter(is_vga).min_by_key(place);
        here.or_else(|| self.below(bus).into_iter().find_map(|bus| self.boot_display(bus)))
    }
}

impl Kind {
    fn fits(&self, room: Room) -> bool {
        match room {
            Room::Root | Room::Slot => true,
            Room::Conventional => self.is_conventional,
            Room::Switch => false,
        }
    }
}

impl Placed {
    /// Whether its neighbours are out of its reach (`pci_acs_enabled` in `drivers/pci/pci.c`, and
    /// `pci_quirk_rciep_acs` in `drivers/pci/quirks.c` for Intel's PCI Express functions on the root
    /// bus, of which there is one here).
    fn isolates(&self) -> bool {
        let is_on_root_bus = self.bus == 0;
        [PORT.id, UPLINK.id].contains(&self.kind.id)
            || is_on_root_bus && self.kind.id == Id { vendor: 0x8086, device: 0x10d3 }
    }
}

fn address(bus: u8, device: u8, function: u8) -> Address {
    Address::new(0, bus, device, function).expect("a device is at most 1f, a function at most 7")
}
