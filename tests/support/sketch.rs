// SPDX-License-Identifier: MIT OR Apache-2.0
//! Generated machines, and rules aimed at their functions.

use model::aim::Aim;
use model::oracle::{Device, Item};
use proptest::prelude::*;
use proptest::sample::select;
use vfio_override::pci::{Address, Class, Id};

use super::machine::{Function, Machine, function};

/// Device numbers and IDs are few, so that generated rules meet several functions.
const DEVICES: [u8; 4] = [0, 1, 2, 0x1f];
const IDS: [(u16, u16); 4] =
    [(0x10de, 0x2204), (0x10de, 0x1aef), (0x1234, 0x1111), (0x8086, 0x2204)];
const SUBSYSTEMS: [(u16, u16); 3] = [(0, 0), (0x1af4, 0x1100), (0x1af4, 0x2204)];
const CLASSES: [u32; 7] =
    [0x03_00_00, 0x03_80_00, 0x04_03_00, 0x0c_03_30, 0x01_08_02, 0x06_01_00, 0x08_05_01];
const BRIDGES: [u32; 4] = [0x06_00_00, 0x06_04_00, 0x06_07_00, 0x06_09_01];
/// The second domain has a number as Intel VMD gives it.
const DOMAINS: [u32; 3] = [0, 0, 0x10000];
const ALIASES: &str = "\
alias pci:v*d*sv*sd*bc*sc*i* not_a_variant
alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci
alias vfio_pci:v000010DEd*sv*sd*bc*sc*i* wide_vfio_pci
alias vfio_pci:v000010DEd00002204sv*sd*bc*sc*i* narrow-vfio-pci
alias vfio_pci:v*d*sv*sd*bc0Csc03i30 usb_vfio_pci
";

/// The variant driver for a device, as a reader of [`ALIASES`] finds it.
pub fn variant(device: &Device) -> Option<&'static str> {
    match (device.id.vendor, device.id.device, device.class.code()) {
        (_, _, 0x0c_03_30) => Some("usb_vfio_pci"),
        (0x10de, 0x2204, _) => Some("narrow-vfio-pci"),
        (0x10de, _, _) => Some("wide_vfio_pci"),
        _ => None,
    }
}

/// The same once the modules that the aliases name are loaded; each registers what [`load`] says.
pub fn registered_variant(device: &Device) -> Option<&'static str> {
    Some(match variant(device)? {
        "usb_vfio_pci" => "usb-vfio-pci",
        "wide_vfio_pci" => "another",
        name => name,
    })
}

/// Loads the module of this name, if it is one of a variant driver that is not loaded yet.
pub fn load(machine: &mut Machine, module: &str) {
    match module {
        "usb_vfio_pci" => machine.load_module(module, &["pci:usb-vfio-pci"]),
        "wide_vfio_pci" => machine.load_module(module, &["platform:a", "pci:another"]),
        "narrow-vfio-pci" => machine.load_module("narrow_vfio_pci", &["pci:narrow-vfio-pci"]),
        _ => {}
    }
}

/// One function to be placed.
#[derive(Clone, Debug)]
struct Sketch {
    /// Which of the buses so far, counted round.
    bus: usize,
    device: u8,
    function: u8,
    /// A bridge of this class.
    bridge: Option<u32>,
    id: (u16, u16),
    subsystem: (u16, u16),
    class: u32,
    group: Option<u32>,
    /// Virtual functions are on a bus of their own, behind the same bridge.
    has_virtual_bus: bool,
    is_boot_display: bool,
    /// A firmware's framebuffer is there.
    is_lit: bool,
}

fn sketches() -> impl Strategy<Value = Sketch> {
    let place = (
        any::<usize>(),
        select(&DEVICES[..]),
        prop_oneof![3 => Just(0), 2 => 0..=7_u8],
        proptest::option::weighted(0.3, select(&BRIDGES[..])),
    );
    let identity = (select(&IDS[..]), select(&SUBSYSTEMS[..]), select(&CLASSES[..]));
    let rest = (
        proptest::option::weighted(0.8, 0..4_u32),
        proptest::bool::weighted(0.1),
        proptest::bool::weighted(0.3),
        proptest::bool::weighted(0.2),
    );
    (place, identity, rest).prop_map(
        |(
            (bus, device, function, bridge),
            (id, subsystem, class),
            (group, has_virtual_bus, is_boot_display, is_lit),
        )| Sketch {
            bus,
            device,
            function,
            bridge,
            id,
            subsystem,
            class,
            group,
            has_virtual_bus,
            is_boot_display,
            is_lit,
        },
    )
}

/// The functions that these bytes tell of, eight bytes each; at least one.
pub fn functions_of(bytes: &[u8]) -> Vec<Device> {
    let mut sketches: Vec<Sketch> = bytes.chunks_exact(8).take(24).map(sketch_of).collect();
    if sketches.is_empty() {
        sketches.push(sketch_of(&[0; 8]));
    }
    build(&sketches)
}

fn sketch_of(bytes: &[u8]) -> Sketch {
    let byte = |at: usize| usize::from(bytes[at]);
    Sketch {
        bus: byte(0),
        device: DEVICES[byte(1) % DEVICES.len()],
        function: bytes[2] & 7,
        bridge: (byte(3) % 3 == 1).then_some(BRIDGES[byte(3) / 3 % BRIDGES.len()]),
        id: IDS[byte(4) % IDS.len()],
        subsystem: SUBSYSTEMS[byte(4) / 4 % SUBSYSTEMS.len()],
        class: CLASSES[byte(5) % CLASSES.len()],
        group: Some(u32::from(bytes[6] & 7)).filter(|group| *group < 4),
        has_virtual_bus: bytes[7] & 15 == 1,
        is_boot_display: bytes[7] & 16 != 0,
        is_lit: bytes[7] & 32 != 0,
    }
}

/// Places the functions that have room, bridge after bridge.
fn build(sketches: &[Sketch]) -> Vec<Device> {
    struct Bus {
        domain: u32,
        number: u8,
        bridge: Option<Address>,
    }
    let root = |(number, &domain): (u8, &u32)| Bus { domain, number, bridge: None };
    let mut buses: Vec<Bus> = (0..).zip(&DOMAINS).map(root).collect();
    // Numbers are not in the order of the tree, as after a firmware's renumbering.
    let mut numbers = (3..0x80).rev();
    let mut devices: Vec<Device> = Vec::new();
    for sketch in sketches {
        let bus = &buses[sketch.bus % buses.len()];
        let (domain, above) = (bus.domain, bus.bridge);
        let address = Address::new(domain, bus.number, sketch.device, sketch.function).unwrap();
        if devices.iter().any(|device| device.address == address) {
            continue;
        }
        let class = sketch.bridge.unwrap_or(sketch.class);
        devices.push(Device {
            address,
            parent: above,
            id: id(sketch.id),
            subsystem: id(sketch.subsystem),
            class: Class::new(class).unwrap(),
            group: sketch.group,
            boot_vga: sketch.is_boot_display
                && class >> 8 == 0x0300
                && !devices.iter().any(|device| device.boot_vga),
            has_framebuffer: sketch.is_lit
                && class >> 16 == 3
                && !devices.iter().any(|device| device.has_framebuffer),
        });
        let below = match sketch.bridge {
            None if sketch.has_virtual_bus => above,
            None | Some(0x06_00_00) => continue,
            Some(_) => Some(address),
        };
        buses.extend(numbers.next().map(|number| Bus { domain, number, bridge: below }));
    }
    // A VGA controller that the firmware left on is the boot display.
    let lit = devices.iter().find(|device| device.has_framebuffer).map(|device| device.address);
    if let Some(lit) = lit.filter(|_| lit_is_vga(&devices)) {
        for device in &mut devices {
            device.boot_vga = device.address == lit;
        }
    }
    devices
}

fn lit_is_vga(devices: &[Device]) -> bool {
    devices.iter().any(|device| device.has_framebuffer && device.class.code() >> 8 == 0x0300)
}

fn id((vendor, device): (u16, u16)) -> Id {
    Id { vendor, device }
}

/// A machine with these functions.
pub fn machine(devices: &[Device]) -> Machine {
    let function = |device: &Device| {
        let mut function: Function = function(&device.address.to_string(), device.class.code());
        function.parent = device.parent;
        function.id = (device.id.vendor, device.id.device);
        function.subsystem = (device.subsystem.vendor, device.subsystem.device);
        function.group = device.group;
        function.boot_vga = device.boot_vga;
        function
    };
    let lit = devices.iter().find(|device| device.has_framebuffer);
    let iomem = lit.map_or_else(String::new, |device| {
        format!("d0000000-dfffffff : {}\n  d0000000-d02fffff : BOOTFB\n", device.address)
    });
    let machine = Machine::new().with_driver("vfio-pci").with_aliases(ALIASES).with_iomem(&iomem);
    devices.iter().enumerate().fold(machine, |machine, (index, device)| {
        let function = function(device);
        // Some have a driver that is built into the kernel, some one that comes later.
        let is_built_in = index % 3 == 0 && !device.is_bridge();
        machine.with(if is_built_in { function.bound_to("host") } else { function })
    })
}

prop_compose! {
    /// The functions of a machine.
    pub fn machines()(sketches in proptest::collection::vec(sketches(), 1..24)) -> Vec<Device> {
        build(&sketches)
    }
}

/// Some of these rules.
pub fn rules(aims: impl Strategy<Value = Aim>) -> impl Strategy<Value = Vec<Aim>> {
    proptest::collection::vec(aims, 1..8)
}

/// The rules, aimed at functions of a machine.
pub fn aimed(devices: &[Device], aims: &[Aim]) -> Vec<Item> {
    aims.iter().map(|aim| aim.at(devices)).collect()
}

/// A kernel command line with these rules.
pub fn line(items: &[Item]) -> String {
    // Over several parameters, as more than one tool may write them.
    let texts: Vec<String> =
        items.iter().map(|item| format!("vfio.override={}", item.text)).collect();
    texts.join(" ")
}
