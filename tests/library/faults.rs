// SPDX-License-Identifier: MIT OR Apache-2.0
//! One operation fails, whichever: the run goes on, does everything else, and says what failed.

use std::collections::BTreeSet;

use crate::support::capture::{Capture, Told, apply};
use crate::support::machine::{
    Asked, Machine, Operation, address, audio, bridge, function, nvme, vga,
};
use nix::errno::Errno;
use vfio_override::pci::Address;
use vfio_override::run::Run;

const ERRNOS: [Errno; 8] = [
    Errno::EACCES,
    Errno::EIO,
    Errno::ENODEV,
    Errno::EBUSY,
    Errno::ENOENT,
    Errno::EINVAL,
    Errno::EROFS,
    Errno::ENOMEM,
];

/// Rules of every kind, and functions bound, unbound and kept already.
const RULES: &str =
    "01:00.*@10de:2204,00:02.0/00.0+slot,1b36:0010,04:00.0+group=auto,boot_vga=none,08:00.0";

fn machine() -> Machine {
    Machine::new()
        .with_driver("vfio-pci")
        .with_aliases("alias vfio_pci:v00001234d00001111sv*sd*bc*sc*i* other_vfio_pci\n")
        .with(bridge("0000:00:01.0").in_group(1))
        .with(
            vga("0000:01:00.0")
                .with_id(0x10de, 0x2204)
                .behind("0000:00:01.0")
                .in_group(11)
                .bound_to("nouveau"),
        )
        .with(audio("0000:01:00.1").behind("0000:00:01.0").in_group(11))
        .with(bridge("0000:00:02.0").in_group(2))
        .with(function("0000:02:00.0", 0x0c_03_30).behind("0000:00:02.0").in_group(12))
        .with(audio("0000:02:00.1").behind("0000:00:02.0").in_group(12).bound_to("snd_hda_intel"))
        .with(nvme("0000:03:00.0").in_group(13).bound_to("nvme"))
        .with(function("0000:04:00.0", 0x04_80_00).in_group(14))
        .with(function("0000:05:00.0", 0x04_80_00).in_group(14))
        .with(vga("0000:06:00.0").in_group(16).that_the_firmware_booted_on())
        .with(vga("0000:07:00.0").in_group(17))
        .with(audio("0000:08:00.0").in_group(18).kept_for("vfio-pci").bound_to("vfio-pci"))
}

/// Whether a fault in this operation may keep the rules from this function: because it is the
/// function's own, or because it is on the way that a rule goes to the function.
fn leads_to(operation: &Operation, function: Address) -> bool {
    let at = operation.function();
    let is_scan = operation.path == "bus/pci/devices";
    at == Some(function)
        || match function.to_string().as_str() {
            // The guard is about the lowest function of the slot, so that each has to be looked at.
            "0000:01:00.0" | "0000:01:00.1" => at.is_some_and(|at| at.same_slot(function)),
            "0000:02:00.0" => at == Some(address("0000:00:02.0")),
            "0000:02:00.1" => {
                at == Some(address("0000:00:02.0")) || at == Some(address("0000:02:00.0"))
            }
            "0000:05:00.0" => {
                at == Some(address("0000:04:00.0"))
                    || operation.path == "kernel/iommu_groups/14/devices"
            }
            "0000:03:00.0" | "0000:06:00.0" => is_scan,
            _ => false,
        }
}

/// Where the kernel's error is an answer, and no fault: something is there, or is not.
fn is_an_answer(operation: &Operation, errno: Errno) -> bool {
    let Operation { asked, path } = operation;
    let names = |attribute: &str| path.ends_with(attribute);
    let is_file = matches!(asked, Asked::Open(_) | Asked::Read | Asked::Write(_));
    match errno {
        Errno::ENOENT if *asked == Asked::FindDriver => true,
        // No driver, or no IOMMU group.
        Errno::ENOENT if *asked == Asked::ReadLink => names("/driver") || names("/iommu_group"),
        // No bridge, so that a path leads nowhere.
        Errno::ENOENT if *asked == Asked::List => path == "bus/pci/devices/0000:00:02.0",
        // A display of an architecture where firmware does not tell, or a driver that has let go.
        Errno::ENOENT if is_file => names("/boot_vga") || names("/driver/unbind"),
        // A function that was removed, or a driver that has let go.
        Errno::ENODEV if is_file => {
            names("/modalias") || names("/boot_vga") || names("/driver/unbind")
        }
        _ => false,
    }
}

/// What is only looked at for the sake of a warning: everything but drivers, once all overrides are set.
fn serves_a_warning(healthy: &Machine, index: usize) -> bool {
    let operations = &healthy.operations;
    let last_override =
        operations.iter().rposition(Operation::sets_override).expect("overrides are set");
    let Operation { asked, path } = &operations[index];
    let is_about_drivers = *asked == Asked::Probe || path.contains("driver");
    index > last_override && !is_about_drivers
}

fn tells(told: &Told, operation: &Operation, errno: Errno) -> bool {
    let (asked, path) = operation.told();
    told.says(&format!("{asked} {path}: {errno:?}"))
}

/// The machine after a run without faults.
fn healthy(rules: &str) -> Machine {
    let mut machine = machine();
    let told = apply(&mut machine, rules);
    assert!(told.is_applied, "{told}");
    machine
}

#[test]
fn a_fault_costs_nothing_but_what_it_struck_and_is_told() {
    let healthy = healthy(RULES);
    for (index, operation) in healthy.operations.iter().enumerate() {
        for errno in ERRNOS {
            let mut machine = machine().failing_at(index + 1, errno);
            let told = apply(&mut machine, RULES);
            assert_eq!(machine.struck(), Some(operation));
            let case = format!("{errno:?} at {} {operation:?}\n{told}", index + 1);

            let is_alias = operation.path == "Aliases";
            let kept = machine.kept();
            for (function, driver) in healthy.kept() {
                if let Some(found) = kept.get(&function) {
                    assert!(*found == driver || is_alias, "{function} {case}");
                } else {
                    assert!(leads_to(operation, function), "{function} is not taken: {case}");
                    assert!(!told.is_applied || is_an_answer(operation, errno), "{case}");
                }
            }
            let healthy_keys: BTreeSet<_> = healthy.kept().into_keys().collect();
            assert!(kept.keys().all(|function| healthy_keys.contains(function)), "{case}");

            if machine.operations == healthy.operations {
                // The run went on as with the machine's own answer.
            } else if operation.asked == Asked::FindDriver && !is_an_answer(operation, errno) {
                // In doubt the driver is there: it is tried, and what then fails is told.
                assert!(machine.bound() == healthy.bound() || !told.is_applied, "{case}");
            } else if is_alias {
                assert!(told.says(&format!("({errno:?})")), "{case}");
            } else if !is_an_answer(operation, errno) && !serves_a_warning(&healthy, index) {
                assert!(tells(&told, operation, errno), "{case}");
                assert!(!told.is_applied, "{case}");
            }
        }
    }
}

#[test]
fn a_fault_leaves_no_function_with_a_foreign_driver_but_the_one_it_struck() {
    let healthy = healthy(RULES);
    for (index, operation) in healthy.operations.iter().enumerate() {
        for errno in ERRNOS {
            let mut machine = machine().failing_at(index + 1, errno);
            let told = apply(&mut machine, RULES);
            let bound = machine.bound();
            for (function, driver) in machine.kept() {
                let has_foreign_driver = bound.get(&function).is_some_and(|found| *found != driver);
                assert!(
                    !has_foreign_driver || operation.function() == Some(function),
                    "{function} with {errno:?} at {operation:?}\n{told}"
                );
            }
        }
    }
}

#[test]
fn a_function_whose_override_is_not_set_is_neither_unbound_nor_probed() {
    let healthy = healthy(RULES);
    let overrides = healthy.operations.iter().enumerate();
    let overrides = overrides.filter(|(_, operation)| operation.path.ends_with("/driver_override"));
    for (index, operation) in overrides {
        let mut machine = machine().failing_at(index + 1, Errno::EIO);
        let told = apply(&mut machine, RULES);
        let later = machine.operations.iter().skip(index + 1);
        let change =
            later.clone().find(|later| later.changes() && later.function() == operation.function());
        assert_eq!(change, None, "{told}");
        assert!(later.clone().any(Operation::changes), "the others are");
    }
}

#[test]
fn a_function_whose_override_is_not_set_is_not_said_to_be_taken_or_to_wait() {
    let bare = Machine::new().with(vga("0000:01:00.0")).with(audio("0000:01:00.1"));
    for (rules, kept) in [("01:00.*", 1), ("01:00.0", 0)] {
        let mut healthy = bare.clone();
        apply(&mut healthy, rules);
        let is_meant = |operation: &Operation| operation.path.ends_with("01:00.0/driver_override");
        let at = healthy.operations.iter().position(is_meant).unwrap() + 1;
        let mut machine = bare.clone().failing_at(at, Errno::EACCES);
        let log = Capture::default();
        let mut run = Box::<Run>::default();
        run.rules.add_value(rules.as_bytes());
        run.apply(&mut machine);
        assert!(!run.report(&log));
        let (_, last) = log.into_lines().pop().unwrap();
        assert!(
            last.ends_with(&format!("functions: {kept} taken, 0 bound to their driver")),
            "{last}"
        );
        // Which of them are yet to be bound decides whether a module is loaded.
        assert_eq!(run.bound_to(b"vfio-pci"), (kept, 0));
    }
}

#[test]
fn a_list_that_breaks_off_is_told_and_what_it_named_is_taken() {
    let healthy = healthy(RULES);
    let lists = healthy.operations.iter().enumerate();
    let lists = lists.filter(|(index, operation)| {
        operation.asked == Asked::List && !serves_a_warning(&healthy, *index)
    });
    let mut count = 0;
    for (index, operation) in lists {
        for after in 1..8 {
            count += 1;
            let mut machine = machine().failing_late_at(index + 1, Errno::EIO, after);
            let told = apply(&mut machine, RULES);
            assert!(tells(&told, operation, Errno::EIO), "{operation:?}\n{told}");
            assert!(!told.is_applied, "{operation:?}\n{told}");
            for function in healthy.kept().into_keys() {
                assert!(
                    machine.kept().contains_key(&function) || leads_to(operation, function),
                    "{function} is not taken after {operation:?}\n{told}"
                );
            }
        }
    }
    assert!(count >= 3 * 7, "a path, a group and all functions are listed");
}

#[test]
fn an_override_that_is_not_kept_is_never_said_to_be_set_not_even_that_of_a_guess() {
    let bare = Machine::new()
        .with_aliases("alias vfio_pci:v00001234d00001111sv*sd*bc*sc*i* other_vfio_pci\n")
        .with(vga("0000:01:00.0").that_forgets_its_override());
    let protect = |mut machine: Machine| {
        let mut run = Box::<Run>::default();
        run.rules.add_value(b"01:00.0=auto");
        let says = run.protect(&mut machine);
        (says && run.plan.taken().count() > 0, machine)
    };
    let (says, healthy) = protect(bare.clone());
    assert!(!says);
    for index in 0..healthy.operations.len() {
        let (says, machine) = protect(bare.clone().failing_at(index + 1, Errno::EIO));
        assert!(!says, "after a fault in {:?}", machine.struck());
    }
}

#[test]
fn no_fault_makes_a_run_take_what_an_exclusion_protects() {
    for (rules, protected) in [
        (
            "class:03,class:04,!boot_vga,01:00.*,!00:02.0/00.*,!04:00.0+group,!01:00.1",
            ["0000:05:00.0", "0000:06:00.0"],
        ),
        // By IDs, by a class and by the console, each with what it takes along.
        ("class:03,class:0403,!10de:2204+slot", ["0000:01:00.0", "0000:01:00.1"]),
        ("class:03,01:00.1,!10de:2204+group", ["0000:01:00.0", "0000:01:00.1"]),
        ("02:00.1,!class:0c03+slot", ["0000:02:00.0", "0000:02:00.1"]),
        ("class:03,06:00.1,!boot_vga+slot", ["0000:06:00.0", "0000:06:00.1"]),
    ] {
        let machine = || machine().with(audio("0000:06:00.1").in_group(16));
        let mut healthy = machine();
        apply(&mut healthy, rules);
        let taken: BTreeSet<_> = healthy.kept().into_keys().collect();
        assert!(protected.iter().all(|name| !taken.contains(&address(name))), "{rules}");
        for (index, operation) in healthy.operations.iter().enumerate() {
            for errno in ERRNOS {
                // What is not there needs no protection.
                if is_an_answer(operation, errno) {
                    continue;
                }
                for after in 0..3 {
                    let mut machine = machine().failing_late_at(index + 1, errno, after);
                    let told = apply(&mut machine, rules);
                    for function in machine.kept().into_keys() {
                        assert!(
                            taken.contains(&function),
                            "{function} is taken with {errno:?} at {operation:?}\n{rules}\n{told}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn no_fault_makes_a_run_believe_a_guard_that_fails() {
    const GUARDED: &str = "01:00.*@10de:1aef,04:00.0@dead:beef+group,00:02.0/00.*@10de:1aef";
    let mut healthy = machine();
    assert!(!apply(&mut healthy, GUARDED).is_applied);
    for (index, operation) in healthy.operations.iter().enumerate() {
        for errno in ERRNOS {
            if is_an_answer(operation, errno) {
                continue;
            }
            let mut machine = machine().failing_at(index + 1, errno);
            let told = apply(&mut machine, GUARDED);
            assert_eq!(
                machine.kept(),
                self::machine().kept(),
                "{errno:?} at {operation:?}\n{told}"
            );
        }
    }
}

#[test]
fn a_list_of_variant_drivers_that_breaks_off_is_not_believed() {
    let vague = "alias vfio_pci:v00001234d*sv*sd*bc*sc*i* vague_vfio_pci\n";
    let exact = "alias vfio_pci:v00001234d00001111sv*sd*bc*sc*i* exact_vfio_pci\n";
    let machine = Machine::new().with(vga("0000:07:00.0").in_group(17));
    let machine = machine.with_aliases(format!("{vague}{exact}"));
    let kept = |machine: &Machine| machine.kept()[&address("0000:07:00.0")].clone();
    let mut healthy = machine.clone();
    apply(&mut healthy, "07:00.0=auto");
    assert_eq!(kept(&healthy), "exact_vfio_pci");
    let at = healthy.operations.iter().position(|op| op.path == "Aliases").unwrap() + 1;
    // In front of everything, within the first line, behind it, and before the last newline.
    for pieces in [0, 3, vague.len() / 7 + 1, (vague.len() + exact.len()) / 7] {
        let mut machine = machine.clone().failing_late_at(at, Errno::EIO, pieces);
        let told = apply(&mut machine, "07:00.0=auto");
        assert_eq!(kept(&machine), "vfio-pci", "{pieces}: {told}");
        assert!(told.says("(EIO)"), "{pieces}: {told}");
    }
}
