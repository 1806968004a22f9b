// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every sentence of the log, as an operator reads it.
//!
//! Each scene shows what was on the kernel command line, what the log says, with the level of each
//! line, and the exit status.

use std::fmt::{Display, Write as _};

use crate::support::capture::{Capture, Told, apply, apply_line, apply_to};
use crate::support::machine::{
    Asked, Function, Machine, Operation, address, audio, bridge, function, network, nvme, vga,
};
use nix::errno::Errno;
use vfio_override::apply::DriverName;
use vfio_override::cmdline::MAX_LENGTH;
use vfio_override::message::{Answer, Loading, Message, WorkerEnd};
use vfio_override::path::Attribute;
use vfio_override::run::Run;
use vfio_override::survey::{MAX_FUNCTIONS, MAX_PATH_BREADTH, MAX_PATH_ENDS, MAX_PROBLEMS};
use vfio_override::system::View;

/// Scenes, one after the other.
#[derive(Default)]
struct Scenes(String);

impl Scenes {
    fn add(&mut self, title: &str, parameter: &str, told: &Told) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        writeln!(self.0, "# {title}\nvfio.override={parameter}\n{told}").unwrap();
    }

    /// What a run with these rules says of the machine.
    fn run(&mut self, title: &str, mut machine: Machine, rules: &str) {
        let told = apply(&mut machine, rules);
        self.add(title, rules, &told);
    }

    /// The same where the first operation of this kind fails.
    fn run_failing(
        &mut self,
        title: &str,
        machine: &Machine,
        rules: &str,
        (is_meant, errno): (fn(&Asked, &str) -> bool, Errno),
    ) {
        let mut healthy = machine.clone();
        apply(&mut healthy, rules);
        let meant = healthy.operations.iter().position(|op| is_meant(&op.asked, &op.path));
        let at = meant.expect("the run has such an operation") + 1;
        self.run(title, machine.clone().failing_at(at, errno), rules);
    }
}

/// A board with a graphics card for the host, one like it to pass through, a drive and a network port,
/// each slot in an IOMMU group of its own, and vfio-pci not loaded.
fn board() -> Machine {
    Machine::new()
        .with(bridge("0000:00:01.0").in_group(1))
        .with(
            card("0000:01:00.0").behind("0000:00:01.0").in_group(11).that_the_firmware_booted_on(),
        )
        .with(audio("0000:01:00.1").behind("0000:00:01.0").in_group(11))
        .with(bridge("0000:00:02.0").in_group(2))
        .with(card("0000:02:00.0").behind("0000:00:02.0").in_group(12))
        .with(audio("0000:02:00.1").behind("0000:00:02.0").in_group(12))
        .with(nvme("0000:03:00.0").in_group(13))
        .with(network("0000:04:00.0").in_group(14))
}

fn card(name: &str) -> Function {
    vga(name).with_id(0x10de, 0x2204)
}

/// A display without the registers of VGA, as those for computing only.
fn display(name: &str) -> Function {
    function(name, 0x03_80_00)
}

/// A board with nothing but this function.
fn only(function: Function) -> Machine {
    Machine::new().with(function.in_group(12))
}

#[test]
fn each_outcome_of_a_rule() {
    let mut scenes = Scenes::default();
    scenes.run("applied, excluded, overruled", board(), "02:00.0,class:03,!boot_vga,02:00.*,debug");
    scenes.run("nothing at an address", board(), "09:00.0");
    scenes.run("nothing at the end of a path", board(), "00:02.0/1f.0");
    scenes.run("nothing with these IDs", board(), "dead:beef");
    scenes.run("nothing with this class but bridges", board(), "class:06");
    scenes.run("no boot display", only(card("0000:02:00.0")), "boot_vga");
    scenes.run(
        "nothing where nothing need be",
        board(),
        "?09:00.0,?00:02.0/1f.0@10de:2204=auto,?dead:beef+group,?class:06=none,02:00.*",
    );
    scenes.run(
        "something where nothing need be",
        board(),
        "?02:00.0+slot,?03:00.0@dead:beef,?00:02.0,?class:03",
    );
    scenes.run("an exclusion of nothing", board(), "02:00.*,!09:00.0");
    scenes.run("a bridge", board(), "00:02.0");
    scenes.run("a guard that fails", board(), "02:00.0@10de:2205,02:00.*@10de:2204");
    scenes.run("an exclusion that is not understood", board(), "02:00.0,!boot-vga,02:00.1");
    scenes.run("a slot, as Proxmox and libvirt write it", board(), "02:00,0000:02:00,02:00.*");
    scenes.run("a function, as libvirt names it", board(), "pci_0000_02_00_0,02:00.*");
    scenes.run("an exclusion of a slot, as Proxmox writes it", board(), "class:03,!0000:01:00");
    let dark = || {
        Machine::new()
            .with(card("0000:01:00.0").in_group(11))
            .with(display("0000:02:00.0").in_group(12))
            .with(audio("0000:02:00.1").in_group(12))
    };
    scenes.run("no console's display to leave alone", dark(), "02:00.1,class:03,!boot_vga");
    scenes.run("no console's display, and none is taken", dark(), "02:00.1,!boot_vga");
    let lit =
        |address: &str| format!("d0000000-dfffffff : {address}\n  d0000000-d02fffff : BOOTFB\n");
    scenes.run(
        "the console's display is no VGA controller",
        dark().with_iomem(&lit("0000:02:00.0")),
        "class:03,!boot_vga",
    );
    scenes.run(
        "the console's display is no VGA controller, and the kernel names another one",
        dark()
            .with(card("0000:01:00.0").in_group(11).that_the_firmware_booted_on())
            .with_iomem(&lit("0000:02:00.0")),
        "class:03,!boot_vga,debug",
    );
    scenes.run(
        "the console's display, by name",
        dark().with_iomem(&lit("0000:02:00.0")),
        "boot_vga",
    );
    scenes.run("an exclusion in quotes", board(), "02:00.*,\"!02:00.1\"");
    scenes.run("a rule that is not understood", board(), "02:00.8,02:00.*");
    scenes.run("a rule of any bytes", board(), "02:00.0=\u{1b}[2J");
    scenes.run("a rule of any length", board(), &"a".repeat(101));
    insta::assert_snapshot!(scenes.0);
}

#[test]
fn each_setting() {
    let mut scenes = Scenes::default();
    scenes.add(
        "no rules",
        "",
        &apply_line(&mut board(), b"quiet vfio.override vfio.override=, splash", None),
    );
    scenes.run("off", board(), "02:00.*,off");
    scenes.run("off beside a rule that is not understood", board(), "02:00,OFF,off");
    scenes.run("debug", board(), "02:00.*,!02:00.1,debug,01:00.1+group,!01:00.0");
    insta::assert_snapshot!(scenes.0);
}

#[test]
fn each_line_of_a_function() {
    let mut scenes = Scenes::default();
    let card = || card("0000:02:00.0");
    let loaded = |function| only(function).with_driver("vfio-pci");
    scenes.run("waits for its driver", only(card()), "02:00.0");
    scenes.run("has waited before", only(card().kept_for("vfio-pci")), "02:00.0");
    scenes.run("bound to its driver", loaded(card()), "02:00.0");
    scenes.run("bound before", loaded(card().kept_for("vfio-pci").bound_to("vfio-pci")), "02:00.0");
    scenes.run("another driver had it", only(card().bound_to("nouveau")), "02:00.0");
    scenes.run(
        "another driver had it, its own is loaded",
        loaded(card().bound_to("nouveau")),
        "02:00.0",
    );
    scenes.run("kept for nobody", only(card()), "02:00.0=none");
    scenes.run(
        "kept for nobody, another driver had it",
        only(card().bound_to("nouveau")),
        "02:00.0=none",
    );
    scenes.run("not taken by its driver", only(card()).with_failing_driver("vfio-pci"), "02:00.0");
    scenes.run(
        "not taken by its driver, another had it",
        only(card().bound_to("nouveau")).with_failing_driver("vfio-pci"),
        "02:00.0",
    );
    scenes.run("no group", Machine::new().with(card()), "02:00.0=pci-stub");
    insta::assert_snapshot!(scenes.0);
}

#[test]
fn each_failure() {
    let mut scenes = Scenes::default();
    let machine = only(card("0000:02:00.0").bound_to("nouveau")).with_driver("vfio-pci");
    let mut failing = |title, is_meant, errno| {
        scenes.run_failing(title, &machine, "02:00.0", (is_meant, errno));
    };
    let sets_override: fn(&Asked, &str) -> bool =
        |asked, path| matches!(asked, Asked::Write(_)) && path.ends_with("driver_override");
    failing("no permission", sets_override, Errno::EACCES);
    failing("not root", sets_override, Errno::EPERM);
    failing("a read-only sysfs", sets_override, Errno::EROFS);
    failing("the function has gone", sets_override, Errno::ENODEV);
    failing("a link out of the tree", |_, path| path.ends_with("modalias"), Errno::EXDEV);
    failing("a write that fails otherwise", sets_override, Errno::EIO);
    failing("an unbind that fails", |_, path| path.ends_with("unbind"), Errno::EACCES);
    failing("a probe that fails", |asked, _| *asked == Asked::Probe, Errno::EINVAL);
    failing("a link that cannot be read", |_, path| path.ends_with("/driver"), Errno::EIO);
    failing(
        "a function that cannot be looked at",
        |_, path| path.ends_with("modalias"),
        Errno::EIO,
    );
    scenes.run(
        "no attribute",
        only(card("0000:02:00.0").without(Attribute::DriverOverride)),
        "02:00.0",
    );
    scenes.run(
        "an override that does not stay",
        only(card("0000:02:00.0").that_forgets_its_override()),
        "02:00.0",
    );
    scenes.run(
        "a driver that does not let go",
        only(card("0000:02:00.0").bound_to("nouveau").that_returns_to_its_driver()),
        "02:00.0",
    );
    scenes.run(
        "a function that says nothing of itself",
        only(card("0000:02:00.0").with_modalias(b"pci:v000010DE\n")),
        "02:00.0",
    );
    insta::assert_snapshot!(scenes.0);
}

/// What is told of a run for one function that came to no end.
fn looked_back_on(only: &str) -> Told {
    let mut machine = board();
    let mut run = Box::<Run>::default();
    run.rules.add_line(b"vfio.override=02:00.0+slot");
    run.plan.only = Some(address(only));
    run.look_back(&mut View::of(&mut machine), true);
    let log = Capture::default();
    let is_applied = run.report(&log);
    Told { is_applied, lines: log.into_lines() }
}

/// The IOMMUs of Intel and AMD have their functions from the start, those of others may get them later.
#[test]
fn a_function_without_a_group_is_told_where_it_will_get_none() {
    for (iommu, is_told) in [("dmar0", true), ("ivhd1", true), ("smmu3.0x09050000", false)] {
        let mut machine = board().with(card("0000:05:00.0")).with_iommu(iommu);
        let told = apply(&mut machine, "05:00.0");
        assert_eq!(told.says("0000:05:00.0 is in no IOMMU group"), is_told, "{iommu}: {told}");
    }
}

#[test]
fn a_group_that_is_missing_concerns_a_run_for_that_function_only() {
    for (function, is_applied) in [("0000:05:00.0", false), ("0000:05:00.1", true)] {
        let mut machine = board().with(card("0000:05:00.0")).with(audio("0000:05:00.1"));
        let rules = "05:00.0+group,05:00.1,debug";
        let told = apply_to(&mut machine, rules, address(function));
        assert_eq!(told.is_applied, is_applied, "{told}");
        let is_failed = told.says("failed: 0000:05:00.0 is in no IOMMU group");
        assert_eq!(is_failed, !is_applied, "{told}");
        let is_elsewhere = told.says("rule 1 \"05:00.0+group\": does not concern this function");
        assert_eq!(is_elsewhere, is_applied, "{told}");
    }
}

#[test]
fn a_group_that_cannot_be_looked_up_concerns_only_rules_that_take_it_along() {
    let rules = "01:00.0+group,02:00.0+group,01:00.0=pci-stub";
    let mut healthy = board();
    apply(&mut healthy, rules);
    let asks = |op: &Operation| op.path.ends_with("0000:01:00.0/iommu_group");
    let at = healthy.operations.iter().position(asks).unwrap() + 1;
    let mut machine = board().failing_at(at, Errno::EIO);
    let told = apply(&mut machine, rules);
    assert!(told.says("rule 1 \"01:00.0+group\": failed: read link"), "{told}");
    assert!(!told.says("rule 2 \"") && !told.says("rule 3 \""), "{told}");
    assert_eq!(machine.kept()[&address("0000:01:00.0")], "pci-stub", "{told}");
}

#[test]
fn a_line_that_was_cut_and_has_no_rule_is_told_without_a_count_of_rules() {
    let line = vec![b'x'; MAX_LENGTH + 1];
    for came_to_no_end in [false, true] {
        let (mut machine, mut run) = (board(), Box::<Run>::default());
        run.rules.add_line(&line);
        if came_to_no_end {
            run.look_back(&mut View::of(&mut machine), true);
        } else {
            run.apply(&mut machine);
        }
        let log = Capture::default();
        assert!(!run.report(&log));
        let lines = log.into_lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].1.starts_with("more than 65536 bytes"), "{lines:?}");
    }
}

#[test]
fn a_run_for_one_function_that_came_to_no_end_tells_of_that_function_only() {
    assert!(looked_back_on("0000:02:00.0").says("1 taken"));
    assert!(looked_back_on("0000:04:00.0").lines.is_empty());
}

#[test]
fn each_warning() {
    let mut scenes = Scenes::default();
    scenes.run("the IOMMU is off", Machine::new().with(card("0000:02:00.0")), "02:00.0");
    let groupless = || {
        let root = [card("0000:00:03.0"), audio("0000:00:03.1"), bridge("0000:00:01.0")];
        let below = [card("0000:01:00.0"), audio("0000:01:00.1")];
        let below = below.map(|function| function.behind("0000:00:01.0"));
        root.into_iter().chain(below).fold(Machine::new(), Machine::with)
    };
    let rules = "00:03.0+group,01:00.0@10de:2204+group";
    scenes.run("the IOMMU is off, and groups are asked for", groupless(), rules);
    scenes.run("groups come later, and are asked for", groupless().with_late_groups(), rules);
    scenes.run("groups come later", groupless().with_late_groups(), "01:00.0+slot");
    scenes.run(
        "groups come later, and an exclusion asks for one",
        groupless().with_late_groups(),
        "01:00.*,!00:03.0+group",
    );
    scenes.run(
        "one function without an IOMMU",
        board().with(card("0000:05:00.0")),
        "05:00.0,02:00.0+group",
    );
    scenes.run(
        "one function whose group comes later than the others'",
        board().with(card("0000:05:00.0")).with_late_groups(),
        "05:00.0,02:00.0+group",
    );
    scenes.run("a function of the group stays", board(), "02:00.0");
    let eight = (2..=9).fold(board(), |machine, bus| {
        machine.with(audio(&format!("0001:{bus:02x}:00.0")).in_group(13))
    });
    scenes.run("eight functions of the group stay", eight.clone(), "03:00.0");
    scenes.run("nine stay", eight.with(audio("0002:00:00.0").in_group(13)), "03:00.0");
    scenes.run("a function of the group is excluded", board(), "02:00.0+group,!02:00.1");
    scenes.run("the boot display", board(), "01:00.*");
    scenes.run("a drive", board(), "03:00.0");
    scenes.run("a network port", board(), "04:00.0");
    let board_with_framebuffer = |address: &str| {
        board().with(display("0000:05:00.0").in_group(15)).with_iomem(&format!(
            "c0000000-febfffff : PCI Bus 0000:00\n\
             \x20 d0000000-dfffffff : {address}\n\
             \x20   d0000000-d02fffff : efifb\n",
        ))
    };
    scenes.run(
        "a framebuffer driver holds memory of the boot display",
        board_with_framebuffer("0000:01:00.0"),
        "01:00.*",
    );
    scenes.run(
        "a framebuffer driver holds memory of a display that is no VGA controller",
        board_with_framebuffer("0000:05:00.0"),
        "05:00.0",
    );
    scenes.run(
        "the framebuffer is on the boot display, which stays with the host",
        board_with_framebuffer("0000:01:00.0"),
        "02:00.*,05:00.0",
    );
    for (title, rest) in [
        (
            "vfio-pci.ids= takes what no rule takes",
            "02:00.* vfio-pci.ids=10de:2204,10de:1aef,8086:0",
        ),
        ("so it does what is excluded", "02:00.*,!02:00.1 vfio_pci.ids=10de:1aef"),
        ("the last one counts", "02:00.1 vfio-pci.ids=10de:2204 vfio-pci.ids=10de:ffff"),
        ("with a subsystem", "02:00.1 vfio-pci.ids=10de:ffffffff:0:0,nothing"),
        ("where nothing is touched, nothing is looked at", "off vfio-pci.ids=10de:2204"),
        ("another program's", "02:00.1 vfio-pci.ids -- vfio-pci.ids=10de:2204"),
    ] {
        scenes.run(title, board(), rest);
    }
    scenes.run("a class without a mask", board(), "10de:2204:*:*:030000,!boot_vga,02:00.1");
    scenes.run("a module's name", board(), "02:00.*=vfio_pci");
    scenes.run("another module's name", board(), "02:00.*=pci_stub");
    scenes.run(
        "an expansion of the driver",
        board(),
        "02:00.*=vfio-pci+slot,02:00.*=vfio-pci+group",
    );
    scenes.run("no list of variant drivers", board(), "02:00.*=auto");
    scenes.run(
        "a variant driver",
        board()
            .with_aliases("alias vfio_pci:v000010DEd00002204sv*sd*bc*sc*i* nvgrace_gpu_vfio_pci\n"),
        "02:00.*=auto",
    );
    scenes.run(
        "a variant driver that is not called as its module is",
        board().with_aliases("alias vfio_pci:v000010DEd00002204sv*sd*bc*sc*i* xe_vfio_pci\n"),
        "02:00.*=auto",
    );
    insta::assert_snapshot!(scenes.0);
}

/// It is long: reading it would cost more than all the rest of a small run.
#[cfg(target_arch = "x86_64")]
#[test]
fn iomem_is_read_only_for_a_display_that_the_firmware_may_have_left_on() {
    let board = board().with(display("0000:05:00.0"));
    for (rules, reads) in [("01:00.0", 1), ("05:00.0", 1), ("02:00.*,03:00.0", 0)] {
        let mut machine = board.clone();
        apply(&mut machine, rules);
        let found = machine.operations.iter().filter(|op| op.asked == Asked::Stream).count();
        assert_eq!(found, reads, "{rules}");
    }
}

#[test]
fn each_obstacle() {
    let mut scenes = Scenes::default();
    scenes.run_failing(
        "the functions cannot be listed",
        &board(),
        "02:00.*,04:00.0,class:01",
        (|asked, path| *asked == Asked::List && path == "bus/pci/devices", Errno::EACCES),
    );
    scenes.run_failing(
        "a path cannot be followed",
        &board(),
        "00:02.0/00.*",
        (|asked, _| *asked == Asked::List, Errno::EACCES),
    );
    scenes.run(
        "a function cannot be looked at",
        board().with(card("0000:05:00.0").without(Attribute::Modalias)),
        "class:03,!boot_vga,02:00.1",
    );
    insta::assert_snapshot!(scenes.0);
}

/// As many functions as this, each alone on its bus or beside 255 others.
fn crowd(count: usize, make: impl Fn(&str) -> Function) -> Machine {
    (0..count).fold(Machine::new(), |machine, number| {
        let (domain, bus) = (number >> 16, number >> 8 & 0xff);
        let (device, function) = (number >> 3 & 0x1f, number & 7);
        machine.with(make(&format!("{domain:04x}:{bus:02x}:{device:02x}.{function}")).in_group(0))
    })
}

/// The lines of a crowded machine that are not about one function.
fn general(mut machine: Machine, rules: &str) -> Told {
    let told = apply(&mut machine, rules);
    let lines = told.lines.into_iter().filter(|(_, line)| !line.contains(": driver_override set"));
    Told { lines: lines.collect(), ..told }
}

#[test]
fn each_limit() {
    const MANY_VARIANTS: usize = 32;
    let mut scenes = Scenes::default();
    let rules = "02:00.0,".repeat(512) + "02:00.1,";
    let told = general(board(), &rules);
    scenes.add(
        "a rule too many",
        "02:00.0,...",
        &Told {
            lines: told.lines.into_iter().filter(|(_, line)| !line.starts_with("rule ")).collect(),
            ..told
        },
    );
    let mut line = b"vfio.override=02:00.* ".to_vec();
    line.resize(64 * 1024 + 1, b'x');
    scenes.add("a line that is too long", "02:00.* xxx...", &apply_line(&mut board(), &line, None));

    let crowd_of = |count| crowd(count, |name| function(name, 0x08_80_00));
    let rule = "class:08";
    scenes.add("functions", rule, &general(crowd_of(MAX_FUNCTIONS + 1), rule));

    let unreadable = crowd(MAX_PROBLEMS + 1, |name| vga(name).without(Attribute::Modalias));
    let told = general(unreadable, "class:03");
    scenes.add(
        "unreadable functions",
        "class:03",
        &Told {
            lines: told.lines.into_iter().filter(|(_, line)| !line.contains("modalias")).collect(),
            ..told
        },
    );

    // Many functions at one place behind one bridge are virtual ones, each on a bus of its own.
    let fan = |count: usize| {
        (1..=count).fold(Machine::new().with(bridge("0000:00:01.0")), |machine, number| {
            let name = format!("{:04x}:{:02x}:00.0", number >> 8, number & 0xff);
            machine.with(function(&name, 0x08_80_00).behind("0000:00:01.0").in_group(0))
        })
    };
    let rule = "00:01.0/00.0=none";
    scenes.add("a broad path", rule, &general(fan(MAX_PATH_BREADTH + 1), rule));

    let repeats = MAX_PATH_ENDS / MAX_PATH_BREADTH;
    let rules = format!("{rule},").repeat(repeats + 1);
    let told = general(fan(MAX_PATH_BREADTH), &rules);
    scenes.add("many broad paths", &format!("{rule},..."), &told);

    // As many as there are, since none has to be remembered but with its function.
    let aliases = (0..=MANY_VARIANTS).fold(String::new(), |text, number| {
        text + &format!("alias vfio_pci:v*d{number:08X}sv*sd*bc*sc*i* variant{number}\n")
    });
    let variants = (0..=MANY_VARIANTS).fold(Machine::new(), |machine, number| {
        let id = u16::try_from(number).unwrap();
        machine.with(
            function(&format!("0000:{number:02x}:00.0"), 0x08_80_00).with_id(1, id).in_group(0),
        )
    });
    let rule = "class:08=auto";
    scenes.add("variant drivers", rule, &general(variants.with_aliases(&aliases), rule));
    insta::assert_snapshot!(scenes.0);
}

#[test]
fn what_concerns_no_function_in_particular_is_not_said_of_one_that_appears_late() {
    let mut scenes = Scenes::default();
    let mut run = |title: &str, rules: &str| {
        let told = apply_to(&mut board(), rules, address("0000:02:00.0"));
        scenes.add(title, rules, &told);
    };
    run("taken", "02:00.*");
    run("left alone", "01:00.0,!class:03");
    run("elsewhere, invalid, refused", "01:00.0,gpu,!gpu,00:01.0");
    run("nothing need be there", "?09:00.0,?02:00.0");
    run("all is told", "?09:00.1,01:00.0,!02:00.1,02:00.0,09:00.0,debug");
    run("a guard that fails", "02:00.0@dead:beef");
    run("a doubtful rule", "02:00.0=vfio_pci");
    run("off", "off");
    insta::assert_snapshot!(scenes.0);
}

#[test]
fn each_trouble_of_the_early_binary() {
    let lines = [
        Message::CommandLine(b"/proc/cmdline", Errno::ENOENT),
        Message::Sysfs(b"/sys", Errno::ENOENT),
        Message::Mount(b"/proc", Errno::EBUSY),
        Message::NoWorker(Errno::EAGAIN),
        Message::Worker(WorkerEnd::Late(4), Some(true)),
        Message::Worker(WorkerEnd::Killed(11), Some(false)),
        Message::Worker(WorkerEnd::Lost(Errno::ECHILD), None),
        Message::Init(b"/init", Errno::EACCES, None),
        Message::Init(b"/init", Errno::ENOEXEC, None),
        Message::Init(b"/init", Errno::ELOOP, None),
        Message::Init(b"/init", Errno::ENOENT, Some(b"/lib64/ld-linux-x86-64.so.2")),
        Message::Shell,
        Message::NoInit,
    ];
    insta::assert_snapshot!(list(&lines));
}

#[test]
fn each_answer_of_modprobe() {
    let results = [
        (Answer::Loaded, 2, 2),
        (Answer::Loaded, 2, 1),
        (Answer::Refused(1), 2, 0),
        (Answer::Crashed, 1, 0),
        (Answer::NoModprobe, 1, 0),
        (Answer::NotStarted(Errno::EAGAIN), 1, 0),
    ];
    let driver = DriverName::from_slice(b"vfio-pci").unwrap();
    let loadings = results.map(|(answer, kept, bound)| Loading {
        driver: driver.clone(),
        answer,
        counts: (kept, bound),
    });
    let lines: Vec<Message> = loadings.iter().map(Message::Loading).collect();
    insta::assert_snapshot!(list(&lines));
}

fn list(lines: &[impl Display]) -> String {
    lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
