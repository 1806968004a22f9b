// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs at the same time as each other, and as drivers, other programs and devices that come and go: at
//! every operation of one the others may take over. Whatever the order, no selected function ends without
//! its override or with another driver, and nothing else is touched.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::thread;

use crate::support::capture::apply_line;
use crate::support::figures;
use crate::support::machine::{
    Asked, Function, Machine, address, audio, bridge, network, nvme, vga,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use proptest::test_runner::{Config, TestRunner};
use vfio_override::path::Path;
use vfio_override::system::{File, System, Text};

const CARD: &str = "0000:01:00.0";
const AUDIO: &str = "0000:01:00.1";
/// Comes and goes, and is looked at before the others.
const DOCK: &str = "0000:00:02.0";
/// No rule names these two.
const DISK: &str = "0000:03:00.0";
const PORT: &str = "0000:04:00.0";
const SELECTED: [&str; 3] = [CARD, AUDIO, DOCK];
const LINE: &[u8] = b"vfio.override=00:01.0/00.0+group,class:03,!03:00.0";

/// A card that its driver may have already, one that comes later, and two functions of the host's.
fn machine() -> Machine {
    Machine::new()
        .with(bridge("0000:00:01.0").in_group(1))
        .with(vga(CARD).behind("0000:00:01.0").in_group(11).wanted_by("nouveau"))
        .with(audio(AUDIO).behind("0000:00:01.0").in_group(11).bound_to("snd_hda_intel"))
        .with(dock())
        .with(nvme(DISK).in_group(13).wanted_by("nvme"))
        // Set by driverctl or libvirt before.
        .with(network(PORT).in_group(14).kept_for("vfio-pci").wanted_by("e1000e"))
}

fn dock() -> Function {
    vga(DOCK).in_group(12).wanted_by("nouveau")
}

/// What an actor does, one after the other.
#[derive(Clone, Copy)]
enum Action {
    /// The early pass.
    Pass,
    /// The early pass with another command line.
    Other(&'static [u8]),
    /// udev's run for one function.
    Device(&'static str),
    /// Anything else that happens at once.
    Event(fn(&mut Machine)),
}

use Action::{Device, Event, Other, Pass};

const HOST_DRIVER: Action = Event(|machine| machine.load("nouveau"));
const HOST_DISK_DRIVER: Action = Event(|machine| machine.load("nvme"));
const VFIO: Action = Event(|machine| machine.load("vfio-pci"));
/// A driver takes what it may in the steps of the kernel: an asynchronous one is matched some time before it gets the
/// lock.
const MATCHED: Action = Event(|machine| machine.match_driver("nouveau"));
const PROBES: Action = Event(|machine| machine.begin_probes("nouveau"));
const MATCHED_AND_PROBES: Action = Event(|machine| {
    machine.match_driver("nouveau");
    machine.begin_probes("nouveau");
});
const PROBED: Action = Event(Machine::end_probes);
const UNPLUG: Action = Event(|machine| machine.unplug(address(DOCK)));
const PLUG: Action = Event(|machine| machine.plug(dock()));
/// driverctl sets an override that no rule asks for.
const FOREIGN: Action = Event(|machine| machine.keep(address(DISK), "foreign"));

/// Whose turn it is.
struct Turns {
    actor: usize,
    /// How many operations more, before the next in the plan takes over.
    left: usize,
    plan: VecDeque<(usize, usize)>,
    is_alive: Vec<bool>,
}

impl Turns {
    /// The next in the plan that is not done; behind the plan, all that are left, one after the other.
    fn pass_on(&mut self) {
        while let Some((actor, operations)) = self.plan.pop_front() {
            if self.is_alive[actor] && operations > 0 {
                (self.actor, self.left) = (actor, operations);
                return;
            }
        }
        let next = self.is_alive.iter().position(|&is_alive| is_alive);
        (self.actor, self.left) = (next.unwrap_or(usize::MAX), usize::MAX);
    }
}

/// A machine that several use, one operation at a time.
struct Shared {
    turns: Mutex<Turns>,
    changed: Condvar,
    machine: Mutex<Machine>,
}

impl Shared {
    /// Waits for the actor's turn, and takes one operation of it.
    fn take_turn(&self, actor: usize) {
        let mut turns = self.turns.lock().unwrap();
        loop {
            if turns.actor != actor {
                turns = self.changed.wait(turns).unwrap();
            } else if turns.left == 0 {
                turns.pass_on();
                self.changed.notify_all();
            } else {
                turns.left -= 1;
                return;
            }
        }
    }

    fn leave(&self, actor: usize) {
        let mut turns = self.turns.lock().unwrap();
        turns.is_alive[actor] = false;
        if turns.actor == actor {
            turns.pass_on();
        }
        self.changed.notify_all();
    }
}

/// The machine as one of its users has it.
struct Seat<'s> {
    shared: &'s Shared,
    actor: usize,
}

impl Seat<'_> {
    fn act<T>(&self, act: impl FnOnce(&mut Machine) -> T) -> T {
        self.shared.take_turn(self.actor);
        act(&mut self.shared.machine.lock().unwrap())
    }
}

/// An attribute that stays open when its function has gone.
struct OpenAttribute<'s> {
    seat: &'s Seat<'s>,
    path: Path,
    access: OFlag,
}

impl File for OpenAttribute<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.seat.act(|machine| match machine.open(self.path, self.access) {
            Ok(mut file) => file.read(buffer),
            Err(_) => Err(Errno::ENODEV),
        })
    }

    fn write(&mut self, text: &[u8]) -> Result<(), Errno> {
        self.seat.act(|machine| match machine.open(self.path, self.access) {
            Ok(mut file) => file.write(text),
            Err(_) => Err(Errno::ENODEV),
        })
    }
}

impl<'s> System for Seat<'s> {
    type File<'a>
        = OpenAttribute<'a>
    where
        's: 'a;

    fn open(&mut self, path: Path, access: OFlag) -> Result<OpenAttribute<'_>, Errno> {
        self.act(|machine| machine.open(path, access).map(drop))?;
        Ok(OpenAttribute { seat: self, path, access })
    }

    fn read_link(&mut self, path: Path, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.act(|machine| machine.read_link(path, buffer))
    }

    fn list(&mut self, path: Path, each: &mut dyn FnMut(&mut Self, &[u8])) -> Result<(), Errno> {
        let mut names = Vec::new();
        let listed =
            self.act(|machine| machine.list(path, &mut |_, name| names.push(name.to_vec())));
        for name in names {
            each(self, &name);
        }
        listed
    }

    fn find_driver(&mut self, name: &[u8]) -> Result<(), Errno> {
        self.act(|machine| machine.find_driver(name))
    }

    fn module_drivers(&mut self, module: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        self.act(|machine| machine.module_drivers(module, each))
    }

    fn probe(&mut self, name: &[u8]) -> Result<(), Errno> {
        self.act(|machine| machine.probe(name))
    }

    fn stream(&mut self, text: Text, each: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        self.act(|machine| machine.stream(text, each))
    }
}

/// Lets the actors act as planned: who, and how many operations at a time.
fn play(actors: &[&[Action]], plan: &[(usize, usize)]) -> Machine {
    play_on(machine(), actors, plan)
}

fn play_on(machine: Machine, actors: &[&[Action]], plan: &[(usize, usize)]) -> Machine {
    let mut turns = Turns {
        actor: 0,
        left: 0,
        plan: plan.iter().copied().collect(),
        is_alive: vec![true; actors.len()],
    };
    turns.pass_on();
    let shared =
        Shared { turns: Mutex::new(turns), changed: Condvar::new(), machine: Mutex::new(machine) };
    thread::scope(|scope| {
        for (actor, actions) in actors.iter().enumerate() {
            let shared = &shared;
            scope.spawn(move || {
                let mut seat = Seat { shared, actor };
                for action in *actions {
                    match action {
                        Pass => drop(apply_line(&mut seat, LINE, None)),
                        Other(line) => drop(apply_line(&mut seat, line, None)),
                        Device(name) => drop(apply_line(&mut seat, LINE, Some(address(name)))),
                        Event(happen) => seat.act(happen),
                    }
                }
                shared.leave(actor);
            });
        }
    });
    shared.machine.into_inner().unwrap()
}

/// What holds at the end, in whatever order it came about.
fn check(machine: &Machine, plan: &[(usize, usize)]) {
    let kept = machine.kept();
    let bound = machine.bound();
    let story = || format!("{plan:?}\n{:#?}", machine.operations);
    for function in machine.functions() {
        let name = function.address.to_string();
        let is_selected = SELECTED.contains(&name.as_str());
        let driver = bound.get(&function.address).map(String::as_str);
        if is_selected {
            let found = kept.get(&function.address).map(String::as_str);
            assert_eq!(found, Some("vfio-pci"), "{name}: {}", story());
            assert!(matches!(driver, None | Some("vfio-pci")), "{name}: {driver:?} {}", story());
        }
    }
    assert_eq!(kept.get(&address(PORT)).map(String::as_str), Some("vfio-pci"), "{}", story());
    let disk = kept.get(&address(DISK)).map(String::as_str);
    assert!(matches!(disk, None | Some("foreign")), "{}", story());
    for operation in machine.operations.iter().filter(|operation| operation.changes()) {
        let function = operation.function().map(|function| function.to_string());
        let is_ours = function.is_some_and(|function| SELECTED.contains(&function.as_str()));
        assert!(is_ours, "{operation:?} {}", story());
    }
}

/// How many operations the actor makes when nobody disturbs it.
fn operations(actions: &[Action]) -> usize {
    let machine = play(&[actions], &[]);
    // Reading and writing an open attribute counts as opening it, too.
    let again = |operation: &&crate::support::machine::Operation| {
        matches!(operation.asked, Asked::Read | Asked::Write(_))
    };
    let repeated = machine.operations.iter().filter(again).count();
    let events = actions.iter().filter(|action| matches!(action, Event(_))).count();
    machine.operations.len() - repeated + events
}

/// Every order in which two actors can take turns, with at most two changes before one is done.
fn with_two_changes(first: &[Action], second: &[Action]) -> usize {
    let mut count = 0;
    let actors = [first, second];
    for (one, other) in [(0, 1), (1, 0)] {
        for before in 0..=operations(actors[one]) {
            for meanwhile in 1..=operations(actors[other]) {
                let plan = [(one, before), (other, meanwhile), (one, usize::MAX)];
                check(&play(&actors, &plan), &plan);
                count += 1;
            }
        }
    }
    count
}

#[test]
fn two_runs_at_once() {
    let pairs: [[&[Action]; 2]; 2] = [[&[Pass], &[Pass]], [&[Pass], &[Device(CARD)]]];
    let mut count = 0;
    for [first, second] in pairs {
        count += with_two_changes(first, second);
    }
    figures::tell(&format!("interleavings of two runs, each with up to two changes: {count}"));
}

#[test]
fn a_run_while_something_happens() {
    let events: [&[Action]; 7] = [
        &[HOST_DRIVER],
        &[VFIO],
        &[HOST_DRIVER, VFIO],
        &[VFIO, HOST_DRIVER, HOST_DISK_DRIVER],
        &[FOREIGN],
        &[UNPLUG],
        &[UNPLUG, HOST_DRIVER, PLUG, Device(DOCK)],
    ];
    let mut count = 0;
    for event in events {
        count += with_two_changes(&[Pass], event);
    }
    figures::tell(&format!("interleavings of a run with what else happens: {count}"));
}

/// A module whose driver has another name comes at any moment: the host's driver gets the function in none, and the next
/// run finds the name.
#[test]
fn a_run_with_auto_while_the_module_loads() {
    const AUTO: &[Action] = &[Other(b"vfio.override=01:00.0=auto")];
    const LOADS: &[Action] =
        &[HOST_DRIVER, Event(|machine| machine.load_module("new_vfio_pci", &["pci:other"]))];
    let machine = || {
        let aliases = "alias vfio_pci:v00001234d00001111sv*sd*bc*sc*i* new_vfio_pci\n";
        let card = vga(CARD).in_group(11).wanted_by("nouveau");
        Machine::new().with(card).with_aliases(aliases)
    };
    let mut count = 0;
    for before in 0..64 {
        for events in 1..=LOADS.len() {
            let plan = [(0, before), (1, events), (0, usize::MAX)];
            let mut machine = play_on(machine(), &[AUTO, LOADS], &plan);
            let card = machine.function(CARD);
            let story = format!("{plan:?}\n{:#?}", machine.operations);
            assert!(matches!(card.kept_for.as_deref(), Some("new_vfio_pci" | "other")), "{story}");
            assert!(matches!(card.driver.as_deref(), None | Some("other")), "{story}");
            apply_line(&mut machine, b"vfio.override=01:00.0=auto", None);
            let card = machine.function(CARD);
            assert_eq!(card.kept_for.as_deref(), Some("other"), "{story}");
            assert_eq!(card.driver.as_deref(), Some("other"), "{story}");
            count += 1;
        }
    }
    figures::tell(&format!("interleavings of a run with =auto and its module: {count}"));
}

/// A write to `driver_override` that waits for no probe is safe because the `driver` link is read after it, is made
/// before the probe, and the match is made again inside.
#[test]
fn a_run_while_a_driver_is_in_the_midst_of_its_probe() {
    // How many operations of the run may come between two steps of the driver.
    const BETWEEN: usize = 8;
    let drivers: [(&[Action], usize); 3] = [
        (&[MATCHED_AND_PROBES, PROBED], 1),
        (&[MATCHED, PROBES, PROBED], 1),
        (&[MATCHED, PROBES, PROBED], 2),
    ];
    let most = operations(&[Pass]) + 4;
    let mut count = 0;
    for (driver, at_once) in drivers {
        let actors: [&[Action]; 2] = [&[Pass], driver];
        for waits in [false, true] {
            for first in 0..=most {
                for second in 0..=BETWEEN {
                    let plan = [(0, first), (1, 1), (0, second), (1, at_once), (0, usize::MAX)];
                    let machine = machine();
                    let machine =
                        if waits { machine } else { machine.whose_overrides_wait_for_nobody() };
                    check(&play_on(machine, &actors, &plan), &plan);
                    count += 1;
                }
            }
        }
    }
    figures::tell(&format!("interleavings of a run with a probe that has begun: {count}"));
}

#[test]
fn many_at_once_in_any_order() {
    const CASES: u32 = 1_000;
    let actors: [&[Action]; 5] = [
        &[Pass],
        &[Device(CARD), Device(AUDIO)],
        &[UNPLUG, PLUG, Device(DOCK)],
        &[HOST_DRIVER, FOREIGN, HOST_DISK_DRIVER],
        &[VFIO, Pass],
    ];
    let plans = proptest::collection::vec((0..actors.len(), 1..12_usize), 0..60);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let played = TestRunner::new(config).run(&plans, |plan| {
        check(&play(&actors, &plan), &plan);
        Ok(())
    });
    played.unwrap();
    figures::tell(&format!("interleavings of five actors, drawn: {CASES}"));
}
