// SPDX-License-Identifier: MIT OR Apache-2.0
//! Functions that go back to the host: cleared, taken from the driver that they were kept for, offered
//! to all.

use crate::support::capture::apply;
use crate::support::machine::{Machine, address, audio, network, vga};
use nix::errno::Errno;
use vfio_override::problem::Problem;

#[path = "../../src/host/machine/binding.rs"]
mod binding;

use binding::{LetGo, let_go, offer};

fn machine() -> Machine {
    Machine::new()
        .with_driver("vfio-pci")
        .with(vga("0000:01:00.0").in_group(1).bound_to("nouveau"))
        .with(audio("0000:01:00.1").in_group(1).bound_to("snd_hda_intel"))
        .with(network("0000:02:00.0").in_group(2))
}

fn names(let_go: &LetGo) -> [Option<&str>; 2] {
    [&let_go.kept_for, &let_go.left]
        .map(|name| name.as_ref().map(|name| str::from_utf8(name).unwrap()))
}

#[test]
fn each_function_returns_to_the_driver_that_it_had() {
    let before = machine();
    let mut machine = before.clone();
    assert!(apply(&mut machine, "01:00.*,02:00.0").is_applied);
    assert_ne!(machine.bound(), before.bound());
    for function in before.functions() {
        let let_go = let_go(&mut machine, function.address).unwrap();
        assert_eq!(names(&let_go), [Some("vfio-pci"); 2]);
        let driver = offer(&mut machine, function.address).unwrap();
        let driver = driver.map(|name| String::from_utf8(name.to_vec()).unwrap());
        assert_eq!(driver, function.driver);
    }
    assert_eq!(machine.bound(), before.bound());
    assert!(machine.kept().is_empty());
}

#[test]
fn a_function_that_was_never_taken_is_left_alone() {
    let mut machine = machine();
    for function in ["0000:01:00.0", "0000:02:00.0"].map(address) {
        let let_go = let_go(&mut machine, function).unwrap();
        assert_eq!(names(&let_go), [None; 2]);
    }
    assert!(!machine.operations.iter().any(crate::support::machine::Operation::changes));
}

#[test]
fn a_function_that_another_driver_has_stays_there() {
    let mut machine =
        Machine::new().with(vga("0000:01:00.0").bound_to("nouveau").kept_for("vfio-pci"));
    let let_go = let_go(&mut machine, address("0000:01:00.0")).unwrap();
    assert_eq!(names(&let_go), [Some("vfio-pci"), None]);
    assert_eq!(machine.function("0000:01:00.0").driver.as_deref(), Some("nouveau"));
}

#[test]
fn vfio_pci_lets_go_of_what_no_override_gave_it() {
    let mut machine = Machine::new().with(vga("0000:01:00.0").bound_to("vfio-pci"));
    let let_go = let_go(&mut machine, address("0000:01:00.0")).unwrap();
    assert_eq!(names(&let_go), [None, Some("vfio-pci")]);
}

#[test]
fn an_override_that_comes_back_is_told() {
    let function = vga("0000:01:00.0").kept_for("vfio-pci").that_forgets_its_override();
    let mut machine = Machine::new().with(function);
    let result = let_go(&mut machine, address("0000:01:00.0"));
    assert_eq!(result, Err(Problem::NotHeld(address("0000:01:00.0"))));
}

#[test]
fn no_fault_is_taken_for_success() {
    let function = address("0000:01:00.0");
    let give_back = |machine: &mut Machine| {
        let_go(machine, function)?;
        offer(machine, function)
    };
    let mut taken = machine();
    assert!(apply(&mut taken, "01:00.0").is_applied);
    let mut whole = taken.clone();
    whole.operations.clear();
    give_back(&mut whole).unwrap();
    for at in 1..=whole.operations.len() {
        for errno in [Errno::EACCES, Errno::EBUSY, Errno::ENODEV, Errno::EIO] {
            let mut machine = taken.clone();
            machine.operations.clear();
            let mut machine = machine.failing_at(at, errno);
            match give_back(&mut machine) {
                Err(Problem::Fault { errno: found, .. }) => assert_eq!(found, errno),
                Err(problem) => panic!("{at} {errno:?}: {problem}"),
                // Only the driver's unbind may find that it let go by itself.
                Ok(_) => {
                    assert!(errno == Errno::ENODEV, "{at} {errno:?}");
                    assert!(machine.struck().unwrap().path.ends_with("driver/unbind"));
                }
            }
        }
    }
}
