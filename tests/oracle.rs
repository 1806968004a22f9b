//! The decisions of the library against those of a second, obvious implementation, on generated
//! machines and rules; and what holds of every run besides.

mod support;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use support::capture::{Told, apply_line};
use support::machine::{Asked, Function, Machine, address, function};
use support::oracle::{self, Device, Expansion, Item, Place, Rule, Selector};
use vfio_override::pci::Address;

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
    match (device.id, device.class) {
        (_, 0x0c_03_30) => Some("usb_vfio_pci"),
        ((0x10de, 0x2204), _) => Some("narrow-vfio-pci"),
        ((0x10de, _), _) => Some("wide_vfio_pci"),
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
            id: sketch.id,
            subsystem: sketch.subsystem,
            class,
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

fn machine(devices: &[Device]) -> Machine {
    let function = |device: &Device| {
        let mut function: Function = function(&device.address.to_string(), device.class);
        function.parent = device.parent;
        function.id = device.id;
        function.subsystem = device.subsystem;
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

/// A rule to be aimed at some function of a machine.
#[derive(Clone, Debug)]
struct Aim {
    target: Index,
    kind: Kind,
    excludes: bool,
    guard: Guard,
    expansion: Option<Expansion>,
    driver: Option<&'static str>,
}

#[derive(Clone, Debug)]
enum Guard {
    No,
    Holds,
    Is((u16, u16)),
}

#[derive(Clone, Debug)]
enum Kind {
    Address { any_function: bool, misses: bool },
    Path { any_function: [bool; 8], misses: bool },
    Ids { wanted: [bool; 4], mask: Option<u32> },
    Class { digits: usize },
    BootVga,
    Invalid(&'static str),
    Off,
    Debug,
}

fn kinds(of_address: bool) -> BoxedStrategy<Kind> {
    let rarely = || proptest::bool::weighted(0.15);
    let address = (any::<bool>(), rarely())
        .prop_map(|(any_function, misses)| Kind::Address { any_function, misses });
    if of_address {
        return address.boxed();
    }
    let path = (proptest::array::uniform8(proptest::bool::weighted(0.3)), rarely())
        .prop_map(|(any_function, misses)| Kind::Path { any_function, misses });
    let masks = select(vec![0xff_ff_ff, 0xff_ff_00, 0xff_00_00, 0x00_00_01, 0]);
    let ids = (any::<[bool; 4]>(), proptest::option::of(masks))
        .prop_map(|(wanted, mask)| Kind::Ids { wanted, mask });
    let invalid = select(vec!["03:00.8", "gpu", "class:3", "!03:00.8", "!gpu", "!00:00.0=none"]);
    prop_oneof![
        10 => address,
        8 => path,
        8 => ids,
        5 => select(vec![2, 4, 6]).prop_map(|digits| Kind::Class { digits }),
        3 => Just(Kind::BootVga),
        2 => invalid.prop_map(Kind::Invalid),
        1 => Just(Kind::Debug),
        1 => proptest::bool::weighted(0.1).prop_map(|off| if off { Kind::Off } else { Kind::Debug }),
    ]
    .boxed()
}

fn aims(kinds: impl Strategy<Value = Kind>) -> impl Strategy<Value = Aim> {
    let guard = prop_oneof![
        14 => Just(Guard::No),
        4 => Just(Guard::Holds),
        2 => select(&IDS[..]).prop_map(Guard::Is),
    ];
    let expansion = proptest::option::of(select(vec![Expansion::Slot, Expansion::Group]));
    let driver = proptest::option::of(select(vec!["auto", "none", "pci-stub", "vfio-pci"]));
    (any::<Index>(), kinds, proptest::bool::weighted(0.25), guard, expansion, driver).prop_map(
        |(target, kind, excludes, guard, expansion, driver)| Aim {
            target,
            kind,
            excludes,
            guard,
            expansion,
            driver,
        },
    )
}

/// The rule, aimed at its function.
fn aim(devices: &[Device], aim: &Aim) -> Item {
    let target = aim.target.get(devices);
    let at = |device: &Device, any_function: bool| {
        let address = device.address;
        Place(address.device(), Some(address.function()).filter(|_| !any_function))
    };
    let mut takes_guard = false;
    let selector = match &aim.kind {
        Kind::Off => return Item::Off,
        Kind::Debug => return Item::Debug,
        Kind::Invalid(text) => return Item::Invalid(text),
        Kind::BootVga => Selector::BootVga,
        Kind::Address { any_function, misses } => {
            takes_guard = true;
            let bus = target.address.bus() ^ u8::from(*misses);
            let place = at(target, *any_function);
            Selector::Address { domain: target.address.domain(), bus, place }
        }
        Kind::Path { any_function, misses } => {
            takes_guard = true;
            let above = |device: &Device| {
                devices.iter().find(|bridge| Some(bridge.address) == device.parent)
            };
            let mut hops = Vec::new();
            let mut top = target;
            for any_function in any_function {
                let Some(bridge) = above(top) else { break };
                hops.insert(0, at(top, *any_function));
                top = bridge;
                // Any bridge may be the first of a path, not only one on a root bus.
                if *misses && hops.len() == 2 {
                    break;
                }
            }
            if hops.is_empty() {
                hops.push(Place(0, None));
            }
            if *misses && let Some(Place(_, function @ Some(_))) = hops.first_mut() {
                *function = Some(6);
            }
            Selector::Path { start: top.address, hops }
        }
        Kind::Ids { wanted, mask } => {
            let ids = [target.id.0, target.id.1, target.subsystem.0, target.subsystem.1];
            let mut fields = [None; 4];
            for ((field, id), wanted) in fields.iter_mut().zip(ids).zip(wanted) {
                *field = Some(id).filter(|_| *wanted);
            }
            Selector::Ids { fields, class: mask.map(|mask| (target.class, mask)) }
        }
        Kind::Class { digits } => {
            Selector::Class { digits: format!("{:06x}", target.class)[..*digits].to_owned() }
        }
    };
    let guard = match aim.guard {
        _ if !takes_guard || aim.excludes => None,
        Guard::No => None,
        Guard::Holds => Some(target.id),
        Guard::Is(id) => Some(id),
    };
    Item::Rule(Rule {
        excludes: aim.excludes,
        selector,
        guard,
        expansion: aim.expansion,
        driver: aim.driver.filter(|_| !aim.excludes),
    })
}

prop_compose! {
    fn machines()(sketches in proptest::collection::vec(sketches(), 1..24)) -> Vec<Device> {
        build(&sketches)
    }
}

fn rules(of_address: bool) -> impl Strategy<Value = Vec<Aim>> {
    proptest::collection::vec(aims(kinds(of_address)), 1..8)
}

fn line(items: &[Item]) -> String {
    // Over several parameters, as more than one tool may write them.
    let texts: Vec<String> = items.iter().map(|item| format!("vfio.override={item}")).collect();
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
    fn rules_decide_as_the_contract_says(devices in machines(), aims in rules(false)) {
        let mut items: Vec<Item> = aims.iter().map(|rule| aim(&devices, rule)).collect();
        let expected = oracle::decide(&devices, &items, &variant);
        // With `debug`, the log tells the outcome of every rule.
        items.push(Item::Debug);
        let mut machine = machine(&devices);
        let told = run(&mut machine, &items, None);
        let line = line(&items);

        prop_assert_eq!(machine.kept(), expected.taken.clone(), "{}\n{}", line, told);
        for (index, outcome) in expected.outcomes.iter().enumerate() {
            let found = told.outcome(index + 1, &items[index].to_string());
            prop_assert_eq!(found, outcome.word(), "{} of {}\n{}", items[index], line, told);
        }
        check_promises(&machine, &expected.taken.keys().copied().collect())?;

        machine.operations.clear();
        run(&mut machine, &items, None);
        // Only a driver that did not take its function is asked once more.
        let change = machine.operations.iter().find(|operation| matches!(operation.asked, Asked::Write(_)));
        prop_assert!(change.is_none(), "a second run: {:?}", change);
    }

    #[test]
    fn one_function_is_decided_as_in_a_full_run(
        devices in machines(), aims in rules(false), only: Index,
    ) {
        let only = only.get(&devices).address;
        let items: Vec<Item> = aims.iter().map(|rule| aim(&devices, rule)).collect();
        let expected = oracle::decide(&devices, &items, &variant).taken;
        let mut machine = machine(&devices);
        let told = run(&mut machine, &items, Some(only));

        let kept = machine.kept();
        prop_assert_eq!(kept.get(&only), expected.get(&only), "{} of {}\n{}", only, line(&items), told);
        check_promises(&machine, &BTreeSet::from([only]))?;
    }

    #[test]
    fn address_rules_touch_nothing_that_they_do_not_name(devices in machines(), aims in rules(true)) {
        let items: Vec<Item> = aims.iter().map(|rule| aim(&devices, rule)).collect();
        let taken = oracle::decide(&devices, &items, &variant).taken;
        let mut machine = machine(&devices);
        run(&mut machine, &items, None);

        let named = |address: Address| {
            items.iter().any(|item| match item {
                Item::Rule(Rule { selector: Selector::Address { domain, bus, place }, expansion, .. }) => {
                    address.domain() == *domain
                        && address.bus() == *bus
                        && address.device() == place.0
                        && (expansion.is_some() || place.1.is_none_or(|f| f == address.function()))
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
