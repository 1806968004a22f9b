// SPDX-License-Identifier: MIT OR Apache-2.0
//! At each limit everything is done; one past it, everything but the one, and it is told.

use std::fmt::Write as _;

use crate::support::capture::{Capture, apply, apply_line};
use crate::support::machine::{Asked, Function, Machine, Operation, address, bridge, function};
use nix::errno::Errno;
use vfio_override::cmdline::MAX_LENGTH;
use vfio_override::path::Attribute;
use vfio_override::rule::{MAX_DRIVER, MAX_HOPS};
use vfio_override::ruleset::MAX_RULES;
use vfio_override::run::{MAX_DRIVERS, Run};
use vfio_override::survey::{MAX_FUNCTIONS, MAX_NEIGHBOURS, MAX_PROBLEMS};

/// The address of this number, counted from domain 0 on.
fn name(number: usize) -> String {
    let (domain, bus) = (number >> 16, number >> 8 & 0xff);
    format!("{domain:04x}:{bus:02x}:{:02x}.{}", number >> 3 & 0x1f, number & 7)
}

fn numbered(number: usize) -> Function {
    function(&name(number), 0x08_80_00).in_group(1)
}

fn machine(functions: usize) -> Machine {
    (0..functions).map(numbered).fold(Machine::new(), Machine::with)
}

/// One address rule for each function.
fn one_each(functions: usize) -> String {
    (0..functions).map(name).collect::<Vec<_>>().join(",")
}

#[test]
fn as_many_rules_as_there_is_room_for_are_applied() {
    let mut machine = machine(MAX_RULES);
    let told = apply(&mut machine, &one_each(MAX_RULES));
    assert!(told.is_applied, "{told}");
    assert_eq!(machine.kept().len(), MAX_RULES);
}

#[test]
fn one_rule_more_is_told_and_the_others_are_applied() {
    let mut machine = machine(MAX_RULES + 1);
    let told = apply(&mut machine, &one_each(MAX_RULES + 1));
    assert!(!told.is_applied, "{told}");
    assert!(told.says("more than 512 rules: the last 1 "), "{told}");
    assert_eq!(machine.kept().len(), MAX_RULES);
    assert!(!machine.kept().contains_key(&address(&name(MAX_RULES))));
}

#[test]
fn an_exclusion_past_the_limit_refuses_all_rules() {
    for exclusion in [format!("!{}", name(3)), "!nonsense".to_owned()] {
        let mut machine = machine(MAX_RULES);
        let told = apply(&mut machine, &(one_each(MAX_RULES) + "," + &exclusion));
        assert!(!told.is_applied, "{told}");
        assert_eq!(machine.kept().len(), 0, "{told}");
    }
}

/// Its number is that of all rules that were written.
#[test]
fn an_exclusion_far_past_the_limit_refuses_the_last_rule_as_well() {
    for surplus in [2, 3, 40] {
        let mut machine = machine(MAX_RULES);
        let more = "nonsense,".repeat(surplus - 1);
        let told = apply(&mut machine, &format!("{},{more}!{}", one_each(MAX_RULES), name(3)));
        assert_eq!(machine.kept().len(), 0, "{told}");
        let number = MAX_RULES + surplus;
        assert!(told.says(&format!("rule {number} is an exclusion that cannot")), "{told}");
        assert!(told.says(&format!("more than 512 rules: the last {surplus} ")), "{told}");
    }
}

#[test]
fn off_past_the_limit_is_off() {
    let mut machine = machine(MAX_RULES);
    let told = apply(&mut machine, &(one_each(MAX_RULES) + ",off"));
    assert_eq!(machine.operations, [], "{told}");
}

/// A command line of this length that ends with a rule for function 0, without a newline. One byte
/// less of it would be a rule too.
fn line(length: usize) -> Vec<u8> {
    let end = format!(" vfio.override={}=pci-stub", name(0));
    let mut line = vec![b'x'; length - end.len()];
    line.extend(end.as_bytes());
    line
}

#[test]
fn a_full_command_line_counts_to_its_last_byte() {
    let mut machine = machine(1);
    let told = apply_line(&mut machine, &line(MAX_LENGTH), None);
    assert!(told.is_applied, "{told}");
    assert!(machine.kept().into_values().eq(["pci-stub".to_owned()]), "{told}");
}

#[test]
fn of_a_longer_command_line_the_parameter_that_is_cut_does_not_count() {
    let mut machine = machine(2);
    let mut longer = format!("vfio.override={} ", name(1)).into_bytes();
    longer.extend(line(MAX_LENGTH + 1 - longer.len()));
    assert_eq!(longer.len(), MAX_LENGTH + 1);
    let told = apply_line(&mut machine, &longer, None);
    assert!(!told.is_applied, "{told}");
    assert!(told.says("more than 65536 bytes"), "{told}");
    assert!(machine.kept().into_keys().eq([address(&name(1))]), "{told}");
}

#[test]
fn as_many_functions_as_there_is_room_for_are_taken() {
    let mut machine = machine(MAX_FUNCTIONS);
    let told = apply(&mut machine, "class:08");
    assert!(told.is_applied, "{told}");
    assert_eq!(machine.kept().len(), MAX_FUNCTIONS);
}

#[test]
fn of_one_function_more_the_others_are_taken() {
    let mut machine = machine(MAX_FUNCTIONS + 1);
    let told = apply(&mut machine, "class:08");
    assert!(!told.is_applied, "{told}");
    assert!(told.says("more than 4096 functions"), "{told}");
    assert_eq!(machine.kept().len(), MAX_FUNCTIONS);
}

#[test]
fn failures_past_the_limit_let_no_exclusion_be_forgotten() {
    for broken in [MAX_PROBLEMS - 2, MAX_PROBLEMS - 1, MAX_PROBLEMS, MAX_PROBLEMS + 1] {
        let silent = |number| numbered(number).without(Attribute::Modalias);
        let others = (1..=broken).map(silent).fold(Machine::new(), Machine::with);
        // The last to be listed.
        let display = function(&name(0), 0x03_00_00).in_group(2);
        let machine = others.with(display.that_the_firmware_booted_on());
        let mut healthy = machine.clone();
        apply(&mut healthy, "class:03,!boot_vga");
        let asks = |op: &Operation| op.asked == Asked::Read && op.path.ends_with("boot_vga");
        let at = healthy.operations.iter().position(asks).unwrap() + 1;
        let mut machine = machine.failing_at(at, Errno::EIO);
        let told = apply(&mut machine, "class:03,!boot_vga");
        assert!(machine.kept().is_empty(), "{broken}: {told}");
        assert!(told.says("an exclusion that cannot be honoured"), "{broken}: {told}");
    }
}

/// Only VGA controllers have the attribute.
#[test]
fn no_other_display_is_asked_for_boot_vga() {
    for (class, is_asked) in [(0x03_00_00, true), (0x03_00_01, true), (0x03_02_00, false)] {
        for rules in ["class:03", "class:03,!boot_vga"] {
            let mut machine = Machine::new().with(function(&name(0), class));
            apply(&mut machine, rules);
            let asked = machine.operations.iter().any(|op| op.path.ends_with("boot_vga"));
            assert_eq!(asked, is_asked, "{class:06x} {rules}");
        }
    }
}

#[test]
fn functions_that_no_rule_concerns_take_no_room() {
    let others = machine(MAX_FUNCTIONS + 1);
    let mut machine = others.with(function("1000:00:00.0", 0x03_00_00).in_group(2));
    let told = apply(&mut machine, "class:03");
    assert!(told.is_applied, "{told}");
    assert_eq!(machine.kept().len(), 1);
}

#[test]
fn a_group_of_any_size_is_taken_care_of() {
    let mut machine = machine(MAX_NEIGHBOURS + 2);
    let told = apply(&mut machine, &name(0));
    assert!(told.is_applied, "{told}");
    assert!(told.says("group 1 is not viable"), "{told}");
    assert_eq!(machine.kept().len(), 1);
}

/// Bridges, each behind the one before, and a function behind the last.
fn chain(bridges: usize) -> (Machine, String) {
    let at = |bus: usize| format!("0000:{bus:02x}:01.0");
    let bridges_of = (1..bridges).fold(Machine::new().with(bridge(&at(0))), |machine, bus| {
        machine.with(bridge(&at(bus)).behind(&at(bus - 1)))
    });
    let last = function(&at(bridges), 0x03_80_00).behind(&at(bridges - 1)).in_group(1);
    let path = (0..bridges).fold(at(0), |path, _| path + "/01.0");
    (bridges_of.with(last), path)
}

#[test]
fn the_longest_path_is_followed_to_its_end() {
    let (mut machine, path) = chain(MAX_HOPS);
    let told = apply(&mut machine, &path);
    assert!(told.is_applied, "{told}");
    assert_eq!(machine.kept().len(), 1);
}

#[test]
fn a_longer_path_is_invalid() {
    let (mut machine, path) = chain(MAX_HOPS + 1);
    let told = apply(&mut machine, &path);
    assert!(told.says("a path has at most 16 hops"), "{told}");
    assert_eq!(machine.operations, []);
}

#[test]
fn the_longest_driver_is_kept_whole_and_recognised_by_a_second_run() {
    let driver = "d".repeat(MAX_DRIVER);
    let rule = format!("{}={driver}", name(0));
    let mut machine = machine(1).with_driver(&driver);
    let told = apply(&mut machine, &rule);
    assert!(told.is_applied, "{told}");
    assert!(machine.bound().into_values().eq([driver]), "{told}");

    machine.operations.clear();
    let told = apply(&mut machine, &rule);
    assert!(told.is_applied, "{told}");
    assert!(!machine.operations.iter().any(Operation::changes), "{told}");
}

#[test]
fn a_longer_driver_is_invalid() {
    let mut machine = machine(1);
    let told = apply(&mut machine, &format!("{}={}", name(0), "d".repeat(MAX_DRIVER + 1)));
    assert!(told.says("a driver name has at most 64 characters"), "{told}");
    assert_eq!(machine.operations, []);
}

#[test]
fn an_override_that_only_begins_like_the_driver_is_replaced() {
    let driver = "d".repeat(MAX_DRIVER);
    let longer = format!("{driver}d");
    let mut machine = Machine::new().with(numbered(0).kept_for(&longer));
    let told = apply(&mut machine, &format!("{}={driver}", name(0)));
    assert!(told.is_applied, "{told}");
    assert!(machine.kept().into_values().eq([driver]), "{told}");
    assert!(machine.operations.iter().any(|operation| matches!(operation.asked, Asked::Write(_))));
}

#[test]
fn drivers_past_the_limit_are_left_for_whoever_loads_them_later() {
    let count = MAX_DRIVERS + 1;
    let mut machine = machine(count);
    let rules = (0..count).fold(String::new(), |mut rules, number| {
        write!(rules, "{}=driver{number},", name(number)).unwrap();
        rules
    });
    let line = format!("vfio.override={rules}");
    let mut run = Box::<Run>::default();
    run.rules.add_line(line.as_bytes());
    run.apply(&mut machine);
    assert!(run.report(&Capture::default()));
    assert_eq!(run.drivers().len(), MAX_DRIVERS);
    assert_eq!(machine.kept().len(), count);
}
