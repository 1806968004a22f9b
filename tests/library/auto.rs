// SPDX-License-Identifier: MIT OR Apache-2.0
//! `=auto` where only loading a module tells the name of its driver.

use crate::support::capture::Capture;
use crate::support::machine::{Asked, Machine, Operation, vga};
use nix::errno::Errno;
use vfio_override::problem::Problem;
use vfio_override::ruleset::Outcome;
use vfio_override::run::Run;
use vfio_override::system::View;

const CARD: &str = "0000:01:00.0";
const LINE: &[u8] = b"vfio.override=01:00.0=auto";
const ALIAS: &str = "alias vfio_pci:v00001234d00001111sv*sd*bc*sc*i* new_vfio_pci\n";

/// What loading a module does to the machine.
type Load = fn(&mut Machine);

/// A run, and what `load` makes of the machine when modprobe was asked, and succeeded or did not. Returns whether
/// every rule was applied, and the log.
fn run(machine: &mut Machine, is_loaded: bool, load: Load) -> (bool, String) {
    let mut run = Box::<Run<'_>>::default();
    run.rules.add_line(LINE);
    run.apply(machine);
    load(machine);
    for mut driver in run.drivers() {
        run.verify_loaded(machine, &mut driver, is_loaded);
    }
    let log = Capture::default();
    let is_applied = run.report(&log);
    let lines: Vec<String> = log.into_lines().into_iter().map(|(_, line)| line).collect();
    (is_applied, lines.join("\n"))
}

fn machine() -> Machine {
    Machine::new().with(vga(CARD).in_group(1).wanted_by("nouveau")).with_aliases(ALIAS)
}

/// The machine after a run whose modprobe loaded a module with these drivers.
fn loaded(drivers: Load) -> Machine {
    let mut machine = machine();
    let (is_applied, log) = run(&mut machine, true, drivers);
    assert!(is_applied, "{log}");
    machine.operations.clear();
    machine
}

fn changes(machine: &Machine) -> bool {
    machine.operations.iter().any(Operation::changes)
}

#[test]
fn the_name_that_the_module_registered_is_written_and_the_function_bound() {
    let cases: [(&str, Load); 5] = [
        ("new-vfio-pci", |machine| machine.load_module("new_vfio_pci", &["pci:new-vfio-pci"])),
        ("new_vfio_pci", |machine| machine.load_module("new_vfio_pci", &["pci:new_vfio_pci"])),
        ("other", |machine| machine.load_module("new_vfio_pci", &["platform:x", "pci:other"])),
        // The first by name, in whatever order they are listed.
        ("a", |machine| machine.load_module("new_vfio_pci", &["pci:b", "pci:a", "pci:c"])),
        // The name of the alias before any other.
        ("new_vfio_pci", |machine| {
            machine.load_module("new_vfio_pci", &["pci:a", "pci:new_vfio_pci"]);
        }),
    ];
    for (driver, load) in cases {
        let mut machine = machine();
        let (is_applied, log) = run(&mut machine, true, load);
        assert!(is_applied, "{log}");
        assert_eq!(machine.function(CARD).kept_for.as_deref(), Some(driver), "{log}");
        assert_eq!(machine.function(CARD).driver.as_deref(), Some(driver), "{log}");
        assert!(log.contains(&format!("bound to {driver}")), "{log}");

        // It is as asked now.
        machine.operations.clear();
        let (is_applied, log) = run(&mut machine, true, |_| {});
        assert!(is_applied, "{log}");
        assert!(!changes(&machine), "{:?}", machine.operations);
    }
}

#[test]
fn a_module_without_a_driver_is_no_rule_applied() {
    let mut machine = machine();
    let (is_applied, log) =
        run(&mut machine, true, |machine| machine.load_module("new_vfio_pci", &["platform:x"]));
    assert!(!is_applied, "{log}");
    assert!(log.contains("auto finds no PCI driver of its module (ENOENT)"), "{log}");
    // It is kept from every other driver.
    assert_eq!(machine.function(CARD).kept_for.as_deref(), Some("new_vfio_pci"));
    assert_eq!(machine.function(CARD).driver, None);
}

#[test]
fn a_module_that_comes_later_is_no_failure() {
    let mut machine = machine();
    let (is_applied, log) = run(&mut machine, false, |_| {});
    assert!(is_applied, "{log}");
    assert!(log.contains("no driver has it until new_vfio_pci loads"), "{log}");
}

/// A rule that names the driver means that name.
#[test]
fn no_name_that_a_rule_gives_is_replaced() {
    let mut machine = machine();
    let mut run = Box::<Run<'_>>::default();
    run.rules.add_line(b"vfio.override=01:00.0=new_vfio_pci");
    run.apply(&mut machine);
    machine.load_module("new_vfio_pci", &["pci:other"]);
    for mut driver in run.drivers() {
        run.verify_loaded(&mut machine, &mut driver, true);
    }
    assert!(run.report(&Capture::default()));
    assert_eq!(machine.function(CARD).kept_for.as_deref(), Some("new_vfio_pci"));
    assert_eq!(machine.function(CARD).driver, None);
}

/// What another run found stays where this one cannot look it up, and is told.
#[test]
fn a_lookup_that_fails_replaces_no_override() {
    let machine = loaded(|machine| machine.load_module("new_vfio_pci", &["pci:other"]));
    let mut healthy = machine.clone();
    run(&mut healthy, true, |_| {});
    let lookups = healthy.operations.iter().enumerate();
    let lookups = lookups.filter(|(_, operation)| operation.asked == Asked::FindDriver);
    let mut count = 0;
    for (index, operation) in lookups {
        for errno in [Errno::EACCES, Errno::EIO, Errno::ENOMEM, Errno::EXDEV] {
            let mut machine = machine.clone().failing_at(index + 1, errno);
            let (is_applied, log) = run(&mut machine, true, |_| {});
            let case = format!("{errno} at {operation:?}\n{log}");
            assert_eq!(machine.function(CARD).kept_for.as_deref(), Some("other"), "{case}");
            assert_eq!(machine.function(CARD).driver.as_deref(), Some("other"), "{case}");
            if index < 8 {
                assert!(!is_applied && log.contains(&format!("({errno:?})")), "{case}");
            }
            count += 1;
        }
    }
    assert!(count >= 8, "the driver and the module's drivers are looked up");
}

/// Where nothing is set yet, the alias's name is: it keeps every other driver away.
#[test]
fn a_lookup_that_fails_leaves_no_function_unprotected() {
    let mut healthy = machine();
    run(&mut healthy, false, |_| {});
    let mut lookups = healthy.operations.iter();
    let at = lookups.position(|operation| operation.asked == Asked::FindDriver).unwrap() + 1;
    let mut machine = machine().failing_at(at, Errno::EIO);
    let (is_applied, log) = run(&mut machine, false, |_| {});
    assert!(!is_applied && log.contains("(EIO)"), "{log}");
    assert_eq!(machine.function(CARD).kept_for.as_deref(), Some("new_vfio_pci"), "{log}");

    // Whoever only asks is told as well.
    let mut machine = self::machine().failing_at(at, Errno::EIO);
    let mut run = Box::<Run<'_>>::default();
    run.rules.add_line(LINE);
    run.preview(&mut View::of(&mut machine));
    let outcome = run.rules.entry(1).unwrap().outcome;
    assert_eq!(outcome, Outcome::Failed(Problem::NotRegistered(Errno::EIO)));
}

/// Writing the new name and offering the function fail like any other operation.
#[test]
fn what_fails_after_a_rename_fails_the_rule() {
    let load: Load = |machine| machine.load_module("new_vfio_pci", &["pci:other"]);
    let mut healthy = machine();
    run(&mut healthy, true, load);
    let first = healthy.operations.iter().position(|it| it.path.starts_with("module/")).unwrap();
    let again =
        healthy.operations.iter().skip(first + 1).position(|it| it.path.starts_with("module/"));
    let loaded = first + 1 + again.expect("looked up again once it is loaded");
    let mut count = 0;
    for (index, operation) in healthy.operations.iter().enumerate().skip(loaded + 1) {
        if operation.changes() || matches!(operation.asked, Asked::Open(_)) {
            let mut machine = machine().failing_at(index + 1, Errno::EIO);
            let (is_applied, log) = run(&mut machine, true, load);
            assert!(!is_applied && log.contains("EIO"), "{operation:?}\n{log}");
            assert!(machine.function(CARD).kept_for.is_some(), "{operation:?}\n{log}");
            count += 1;
        }
    }
    assert!(count >= 3, "the override is opened and written, and the function offered");
}
