//! The decisions of the library against those of a second, obvious implementation, on generated
//! machines and rules; and what holds of every run besides.

mod support;

use std::collections::BTreeSet;

use model::aim::{Aim, address_aims, aims};
use model::oracle::{self, Device, Item, Meaning};
use model::told;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use support::capture::{Told, apply_line};
use support::machine::{Asked, Function, Machine, address, function};
use vfio_override::pci::{Address, Class, Id};
use vfio_override::rule::{Rule, Selector};

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
fn variant(device: &Device) -> Option<&'static str> {
    match (device.id.vendor, device.id.device, device.class.code()) {
        (_, _, 0x0c_03_30) => Some("usb_vfio_pci"),
        (0x10de, 0x2204, _) => Some("narrow-vfio-pci"),
        (0x10de, _, _) => Some("wide_vfio_pci"),
        _ => None,
    }
}

/// One function to be placed.
#[derive(Clone, Debug)]
struct Sketch {
    bus: Index,
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
}

fn sketches() -> impl Strategy<Value = Sketch> {
    let place = (
        any::<Index>(),
        select(&DEVICES[..]),
        prop_oneof![3 => Just(0), 2 => 0..=7_u8],
        proptest::option::weighted(0.3, select(&BRIDGES[..])),
    );
    let identity = (select(&IDS[..]), select(&SUBSYSTEMS[..]), select(&CLASSES[..]));
    let rest = (
        proptest::option::weighted(0.8, 0..4_u32),
        proptest::bool::weighted(0.1),
        proptest::bool::weighted(0.3),
    );
    (place, identity, rest).prop_map(
        |(
            (bus, device, function, bridge),
            (id, subsystem, class),
            (group, has_virtual_bus, is_boot_display),
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
        },
    )
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
        let bus = sketch.bus.get(&buses);
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
        });
        let below = match sketch.bridge {
            None if sketch.has_virtual_bus => above,
            None | Some(0x06_00_00) => continue,
            Some(_) => Some(address),
        };
        buses.extend(numbers.next().map(|number| Bus { domain, number, bridge: below }));
    }
    devices
}

fn id((vendor, device): (u16, u16)) -> Id {
    Id { vendor, device }
}

fn machine(devices: &[Device]) -> Machine {
    let function = |device: &Device| {
        let mut function: Function = function(&device.address.to_string(), device.class.code());
        function.parent = device.parent;
        function.id = (device.id.vendor, device.id.device);
        function.subsystem = (device.subsystem.vendor, device.subsystem.device);
        function.group = device.group;
        function.boot_vga = device.boot_vga;
        function
    };
    let machine = Machine::new().with_driver("vfio-pci").with_aliases(ALIASES);
    devices.iter().enumerate().fold(machine, |machine, (index, device)| {
        let function = function(device);
        // Some have a driver that is built into the kernel, some one that comes later.
        let is_built_in = index % 3 == 0 && !device.is_bridge();
        machine.with(if is_built_in { function.bound_to("host") } else { function })
    })
}

prop_compose! {
    fn machines()(sketches in proptest::collection::vec(sketches(), 1..24)) -> Vec<Device> {
        build(&sketches)
    }
}

fn rules(aims: impl Strategy<Value = Aim>) -> impl Strategy<Value = Vec<Aim>> {
    proptest::collection::vec(aims, 1..8)
}

fn aimed(devices: &[Device], aims: &[Aim]) -> Vec<Item> {
    aims.iter().map(|aim| aim.at(devices)).collect()
}

fn line(items: &[Item]) -> String {
    // Over several parameters, as more than one tool may write them.
    let texts: Vec<String> =
        items.iter().map(|item| format!("vfio.override={}", item.text)).collect();
    texts.join(" ")
}

fn run(machine: &mut Machine, items: &[Item], only: Option<Address>) -> Told {
    apply_line(machine, line(items).as_bytes(), only)
}

/// What the contract promises of every run, whatever the rules.
fn check_promises(machine: &Machine, taken: &BTreeSet<Address>) -> Result<(), TestCaseError> {
    let changes: Vec<_> = machine.operations.iter().filter(|op| op.changes()).collect();
    let first_other = changes.iter().position(|op| !op.sets_override()).unwrap_or(changes.len());
    let late = changes.iter().skip(first_other).find(|op| op.sets_override());
    prop_assert!(late.is_none(), "after an unbind or a probe: {:?}", late);
    for change in changes {
        let function = change.function().expect("only functions are changed");
        prop_assert!(taken.contains(&function), "not taken, yet {:?}", change);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rules_decide_as_the_contract_says(devices in machines(), aims in rules(aims())) {
        let mut items = aimed(&devices, &aims);
        // With `debug`, the log tells the outcome of every rule.
        items.push(Item { text: "debug".to_owned(), meaning: Meaning::Debug });
        let expected = oracle::decide(&devices, &items, &variant);
        let mut machine = machine(&devices);
        let told = run(&mut machine, &items, None);
        let line = line(&items);

        prop_assert_eq!(machine.kept(), expected.kept(), "{}\n{}", line, told);
        for ((number, item), outcome) in (1..).zip(&items).zip(&expected.outcomes) {
            let found = told.outcome(number, &told::shown(&item.text));
            prop_assert_eq!(found, outcome.word(), "{} of {}\n{}", item.text, line, told);
        }
        prop_assert_eq!(told.is_applied, expected.is_applied, "{}\n{}", line, told);
        let warnings = told::warnings(told.lines.iter().map(|(_, line)| &**line));
        let mut expected_warnings = oracle::warnings(&devices, &expected);
        expected_warnings.retain(told::is_named_in_full);
        prop_assert_eq!(warnings, expected_warnings, "{}\n{}", line, told);
        check_promises(&machine, &expected.taken.keys().copied().collect())?;

        machine.operations.clear();
        run(&mut machine, &items, None);
        // Only a driver that did not take its function is asked once more.
        let change = machine.operations.iter().find(|operation| matches!(operation.asked, Asked::Write(_)));
        prop_assert!(change.is_none(), "a second run: {:?}", change);
    }

    #[test]
    fn one_function_is_decided_as_in_a_full_run(
        devices in machines(), aims in rules(aims()), only: Index,
    ) {
        let only = only.get(&devices).address;
        let items = aimed(&devices, &aims);
        let expected = oracle::decide(&devices, &items, &variant).kept();
        let mut machine = machine(&devices);
        let told = run(&mut machine, &items, Some(only));

        let kept = machine.kept();
        prop_assert_eq!(kept.get(&only), expected.get(&only), "{} of {}\n{}", only, line(&items), told);
        check_promises(&machine, &BTreeSet::from([only]))?;
    }

    #[test]
    fn address_rules_touch_nothing_that_they_do_not_name(
        devices in machines(), aims in rules(address_aims()),
    ) {
        let items = aimed(&devices, &aims);
        let taken = oracle::decide(&devices, &items, &variant).taken;
        let mut machine = machine(&devices);
        run(&mut machine, &items, None);

        let named = |address: Address| {
            items.iter().any(|item| match &item.meaning {
                Meaning::Rule(Rule { selector: Selector::Address { domain, bus, place }, expansion, .. }) => {
                    address.domain() == *domain
                        && address.bus() == *bus
                        && address.device() == place.device
                        && (expansion.is_some() || place.function.is_none_or(|f| f == address.function()))
                }
                _ => false,
            })
        };
        let group = |address: Address| {
            devices.iter().find(|device| device.address == address).and_then(|device| device.group)
        };
        let expanded: BTreeSet<u32> = devices
            .iter()
            .filter(|device| named(device.address) || taken.contains_key(&device.address))
            .filter_map(|device| device.group)
            .collect();
        for operation in &machine.operations {
            prop_assert!(operation.path != "devices", "all functions are listed");
            if let Some(address) = operation.function() {
                let is_neighbour = group(address).is_some_and(|group| expanded.contains(&group));
                prop_assert!(named(address) || is_neighbour, "{:?} for {}", operation, line(&items));
            }
        }
    }
}

/// A rare case that went wrong once: the function that a guard is about is not near the one asked for.
#[test]
fn a_guard_is_checked_on_the_lowest_function_also_where_only_another_is_asked_for() {
    let reached = address("0000:01:00.0");
    let machine = || {
        Machine::new()
            .with(function("0000:01:1f.0", 0x03_00_00).with_id(0x10de, 0x1aef))
            .with(function("0000:01:1f.1", 0x03_00_00).with_id(0x10de, 0x2204).in_group(2))
            .with(function("0000:01:00.0", 0x03_00_00).in_group(2))
    };
    for (guard, is_taken) in [("10de:1aef", true), ("10de:2204", false)] {
        let mut machine = machine();
        let line = format!("vfio.override=01:1f.*@{guard}+group");
        let told = apply_line(&mut machine, line.as_bytes(), Some(reached));
        assert_eq!(machine.kept().contains_key(&reached), is_taken, "{told}");
    }
}
