// SPDX-License-Identifier: MIT OR Apache-2.0
//! The boots of `cargo xtask test`, one declaration each.

mod aarch64;
pub mod case;
pub mod judge;
pub mod suite;

use std::ops::Range;
use std::time::Duration;

use model::invalid::INVALID;

use crate::cases::case::FaultKind::{Infrastructure, Test};
use crate::cases::case::{Case, Mode};
use crate::ground::arch::Libc;
use crate::guest::acpi;
use crate::guest::archive::Archive;
use crate::guest::image::{EARLY, VARIANTS};
use crate::guest::machine::{
    self, AHCI, ATI_VGA, BOCHS_DISPLAY, Driver, E1000, E1000E, FIXED_ROOT_PORT, HDA, HOST_BRIDGE,
    Machine, Model, NVME, NVME_WITH_VFS, PCI_TESTDEV, PCIE_PCI_BRIDGE, QXL, QXL_VGA, ROOT_PORT,
    VGA, VIRTIO_NET, VIRTIO_RNG, VIRTIO_VGA, XHCI,
};

/// The rules of the demonstration: a card with its companions, and one of two network cards.
pub const DEMO_RULES: &str = "01:00.0+slot,00:04.0";

/// The functions that [`DEMO_RULES`] mean.
const DEMO_TAKEN: [&str; 4] = ["01:00.0", "01:00.1", "01:00.2", "00:04.0"];

/// The demonstration, on the kernel that the user asks for.
pub fn demo() -> Case {
    Case::new("demo", machine::demo()).rules(DEMO_RULES).taken(DEMO_TAKEN)
}

/// Every boot of the suite.
pub fn all() -> Vec<Case> {
    [
        examples(),
        basics(),
        displays(),
        selectors(),
        bound(),
        troubles(),
        many(),
        later(),
        in_flight(),
        lost(),
        host_tool(),
        harness(),
        aarch64::all(),
    ]
    .concat()
}

fn on_demo(name: &str) -> Case {
    Case::new(name, machine::demo())
}

/// Those of ARCHITECTURE.md, word for word.
fn examples() -> Vec<Case> {
    vec![
        Case::new("one-of-two-cards", machine::demo())
            .rules("01:00.0+slot")
            .taken(["01:00.0", "01:00.1", "01:00.2"]),
        Case::new(
            "plugged-in",
            Machine::new().bridge("00:1c.0", ROOT_PORT, "01").later("01:00.0", NVME_WITH_VFS),
        )
        .image(|image| image.program("sbin/on-uevent", ON_UEVENT))
        .rules("01:00.0")
        .taken(["01:00.0"])
        .status(1) // nothing is at that address when the guest boots
        .scene("listen; plug_heard 01:00.0; tell_drivers 01:00.0", "01:00.0 vfio-pci"),
    ]
}

/// The demonstration in every mode.
fn basics() -> Vec<Case> {
    const GLIBC: &str =
        "another libc asks the kernel for the same things; a kernel each shows that it starts";
    let taken = |name: &str| on_demo(name).rules(DEMO_RULES).taken(DEMO_TAKEN);
    vec![
        // What the drivers do without rules: a test without this would prove nothing.
        on_demo("control").mode(Mode::Control),
        taken("hook").logged("rules: 2 applied; functions: 4 taken"),
        taken("rdinit").mode(Mode::Rdinit).logged("rules: 2 applied; functions: 4 taken"),
        // The kernel opens no standard stream for PID 1: the log must not become one of them.
        taken("rdinit-without-console")
            .mode(Mode::Rdinit)
            .parameter("console=ttyUSB0")
            .logged("rules: 2 applied; functions: 4 taken")
            .also(|evidence| {
                let text = "unable to open an initial console";
                if evidence.log.contains(text) { vec![] } else { vec![format!("no {text:?}")] }
            }),
        taken("hook-glibc").only_on(&["6.12"], GLIBC).libc(Libc::Glibc),
        taken("rdinit-glibc").only_on(&["6.1"], GLIBC).libc(Libc::Glibc).mode(Mode::Rdinit),
        // Nobody else loads vfio-pci.
        taken("hook-modprobe")
            .parameter("guest.modprobe")
            .image(|image| image.file("etc/drivers.vfio", ""))
            .logged("vfio-pci loaded, 4 of 4 functions bound"),
        on_demo("off")
            .rules("01:00.0+slot")
            .rules("off")
            .logged("rule 2 \"off\": nothing is touched"),
        // By hand in a booted guest, which is what the early binary does and how it is undone.
        Case::new("by-hand-and-back", Machine::new().with("00:03.0", NVME))
            .mode(Mode::Control)
            .history("00:03.0", &["nvme", "vfio-pci", "nvme", "vfio-pci", "nvme"], None)
            .scene(
                "cd /sys/bus/pci/devices/0000:00:03.0\n\
                 probe() { echo 0000:00:03.0 >/sys/bus/pci/drivers_probe; }\n\
                 unbind() { echo 0000:00:03.0 >driver/unbind; }\n\
                 echo vfio-pci >driver_override\n\
                 tell_drivers 00:03.0\n\
                 unbind; probe\n\
                 tell_drivers 00:03.0\n\
                 echo >driver_override\n\
                 unbind; probe\n\
                 tell_drivers 00:03.0\n\
                 echo vfio-pci >driver_override\n\
                 unbind; probe\n\
                 echo none >driver_override\n\
                 unbind; probe\n\
                 echo 0000:00:03.0 >/sys/bus/pci/drivers/nvme/bind || tell refused\n\
                 tell_drivers 00:03.0\n\
                 echo >driver_override\n\
                 probe\n\
                 tell_drivers 00:03.0",
                "00:03.0 nvme\n00:03.0 vfio-pci\n00:03.0 nvme\nrefused\n00:03.0 -\n00:03.0 nvme",
            ),
    ]
}

/// One of two identical displays is taken with the other functions of its card.
fn displays() -> Vec<Case> {
    let twins = |name: &str, machine: Machine, first, second| {
        let machine = machine
            .with("00:02.0", first)
            .bridge("00:1c.0", ROOT_PORT, "01")
            .with("01:00.0", second)
            .with("01:00.1", HDA)
            .with("01:00.2", XHCI);
        Case::new(name, machine).rules("01:00.0+slot").taken(["01:00.0", "01:00.1", "01:00.2"])
    };
    vec![
        twins("twins-vga", Machine::new(), VGA, VGA),
        twins("twins-bochs", Machine::new(), BOCHS_DISPLAY, BOCHS_DISPLAY),
        twins("twins-virtio-vga", Machine::new(), VIRTIO_VGA, VIRTIO_VGA),
        // QEMU has no second qxl-vga, but a qxl with the same IDs; qboot hangs with either.
        twins("twins-qxl", Machine::new().lit(), QXL_VGA, QXL),
        twins("twins-ati", Machine::new(), ATI_VGA, ATI_VGA),
        // The host's driver comes first here.
        twins("twins-and-ids", Machine::new(), VGA, VGA)
            .with_drivers(
                "the cloud kernel has no driver that could have the twin before vfio-pci does",
            )
            .parameter("vfio-pci.ids=1234:1111")
            .logged("vfio-pci.ids= has vfio-pci take 0000:00:02.0, which no rule does"),
        // Here vfio-pci does, as in every image with a hook. busybox's modprobe reads this spelling only.
        twins("twins-and-ids-take-both", Machine::new(), VGA, VGA)
            .parameter("guest.modprobe")
            .parameter("vfio_pci.ids=1234:1111")
            .strays(["00:02.0"])
            .logged("vfio-pci.ids= has vfio-pci take 0000:00:02.0, which no rule does"),
        // Only what vfio-pci has once it is loaded tells of these.
        twins("twins-and-modprobe-d", Machine::new(), VGA, VGA)
            .parameter("guest.modprobe")
            .image(|image| {
                image.file("etc/modprobe.d/ids.conf", "options vfio-pci ids=1234:1111\n");
            })
            .strays(["00:02.0"])
            .logged("vfio-pci.ids= has vfio-pci take 0000:00:02.0, which no rule does"),
        // Both have the same IDs; the firmware's stays with the host.
        on_demo("all-displays-but-the-firmwares")
            .rules("1234:1111+slot,!boot_vga")
            .taken(["01:00.0", "01:00.1", "01:00.2"])
            .logged("rules: 1 applied, 1 excluded"),
        // bochs never gets the display, and vfio-pci gets it in spite of the framebuffer.
        Case::new("framebuffer", Machine::new().with("00:02.0", VGA).with_bios())
            .with_drivers("the cloud kernel has no framebuffer for a BIOS's display")
            .parameter("vga=791")
            .rules("00:02.0")
            .taken(["00:02.0"])
            .logged("0000:00:02.0 is the boot display: the console freezes")
            .logged("holds memory of 0000:00:02.0"),
        passthrough("passthrough", "01:00.0+group", [6, 5])
            .logged("is not viable while the host keeps 0000:02:00.2"),
    ]
}

/// A program uses one card, which the rule `first` takes, and has to be refused the other, of which one function stays
/// with the host. `groups` are the numbers that the kernel gives theirs.
fn passthrough(name: &str, first: &str, groups: [u32; 2]) -> Case {
    let [works, refused] = groups;
    Case::new(name, two_cards())
        .rules(&format!("{first},02:00.0,02:00.1"))
        .taken(["01:00.0", "01:00.1", "01:00.2", "02:00.0", "02:00.1"])
        .passthrough(
            &["01:00.0", "02:00.0"],
            &format!(
                "0000:01:00.0 group {works}\n\
                 0000:01:00.0 viable yes\n\
                 0000:01:00.0 container type1\n\
                 0000:01:00.0 device open\n\
                 0000:01:00.0 vendor 1234\n\
                 0000:01:00.0 map 16384\n\
                 0000:01:00.0 unmap 16384\n\
                 0000:01:00.0 verdict works\n\
                 0000:02:00.0 group {refused}\n\
                 0000:02:00.0 viable no\n\
                 0000:02:00.0 container failed VFIO_GROUP_SET_CONTAINER EPERM\n\
                 0000:02:00.0 verdict refused"
            ),
        )
}

/// Two cards, each a display with an audio function and one that every kernel has a driver for; the functions of
/// a card share a group.
fn two_cards() -> Machine {
    let card = |machine: Machine, port: &str, bus: &str| {
        machine
            .bridge(port, ROOT_PORT, bus)
            .with(&format!("{bus}:00.0"), VGA)
            .with(&format!("{bus}:00.1"), HDA)
            .with(&format!("{bus}:00.2"), VIRTIO_RNG)
    };
    let machine = card(Machine::new().with("00:02.0", VGA), "00:1d.0", "01");
    card(machine, "00:1c.0", "02")
}

/// Every way to say which functions are meant.
fn selectors() -> Vec<Case> {
    let kinds = Machine::new()
        .with("00:02.0", VGA)
        .with("00:03.0", E1000)
        .with("00:04.0", E1000)
        .with("00:05.0", VIRTIO_RNG)
        .with("00:06.0", AHCI)
        .with("00:07.0", HDA)
        .with("00:08.0", XHCI)
        .with("00:09.0", NVME)
        .with("00:0a.0", VIRTIO_NET)
        .with("00:0b.0", E1000E);
    let slots = (0x03..=0x05)
        .flat_map(|slot| (0..3).map(move |function| format!("00:{slot:02x}.{function}")))
        .fold(Machine::new(), |machine, place| machine.with(&place, E1000E))
        .with("00:06.0", E1000E)
        .with("00:07.0", E1000E)
        .bridge("00:1c.0", ROOT_PORT, "01")
        .with("01:00.0", E1000E);
    let group = |machine: Machine, bridge: &str, bus: &str| {
        machine
            .bridge(bridge, PCIE_PCI_BRIDGE, bus)
            .with(&format!("{bus}:01.0"), VGA)
            .with(&format!("{bus}:02.0"), HDA)
            .with(&format!("{bus}:03.0"), E1000)
    };
    let ports = |bus_of_1c: &str, bus_of_1d: &str| {
        Machine::new()
            .bridge("00:1c.0", ROOT_PORT, bus_of_1c)
            .bridge("00:1d.0", ROOT_PORT, bus_of_1d)
            .with(&format!("{bus_of_1c}:00.0"), E1000E)
            .with(&format!("{bus_of_1d}:00.0"), E1000E)
    };
    vec![
        Case::new("ids", kinds.clone())
            .rules("8086:100e,1af4:1005:1af4:0004,*:2922,ffffffff:2668,pci:1b36:000d")
            .rules("*:*:*:*:010800:ffff00,1af4:1000:*")
            .taken(["00:03.0", "00:04.0", "00:05.0", "00:06.0", "00:07.0", "00:08.0", "00:09.0"])
            .taken(["00:0a.0"])
            .logged("rules: 7 applied; functions: 8 taken"),
        Case::new("classes", kinds)
            .rules("class:02,class:0403,class:0c0330,!1af4:*")
            .taken(["00:03.0", "00:04.0", "00:07.0", "00:08.0", "00:0b.0"])
            .logged("rules: 3 applied, 1 excluded; functions: 5 taken"),
        Case::new("places", slots)
            .rules("00:03.*,00:04.1+slot,00:05.0,00:06.0@8086:10d3,00:07.0@1234:1111,00:1c.0/00.0")
            .taken(["00:03.0", "00:03.1", "00:03.2", "00:04.0", "00:04.1", "00:04.2"])
            .taken(["00:05.0", "00:06.0", "01:00.0"])
            .logged("rule 5 \"00:07.0@1234:1111\": refused: 0000:00:07.0 is [8086:10d3]")
            .status(1),
        Case::new(
            "last-match",
            (3..8).fold(Machine::new(), |machine, slot| {
                machine.with(&format!("00:{slot:02x}.0"), E1000E)
            }),
        )
        .rules("8086:10d3,!00:04.0,00:05.0=none,00:06.0=none,00:06.0,!00:07.0,00:07.0")
        .taken(["00:03.0", "00:06.0", "00:07.0"])
        .nobodys(["00:05.0"]),
        Case::new("groups", group(group(Machine::new(), "00:1e.0", "01"), "00:1d.0", "02"))
            .rules("01:01.0+group,02:01.0+group,!02:03.*")
            .taken(["01:01.0", "01:02.0", "01:03.0", "02:01.0", "02:02.0"])
            .logged("is not viable while the host keeps 0000:02:03.0"),
        // The same two cards and the same rule, with the buses numbered the one way and the other.
        Case::new("path", ports("02", "01")).rules("00:1c.0/00.0").taken(["02:00.0"]),
        Case::new("path-renumbered", ports("01", "02"))
            .parameter("pci=assign-busses")
            .rules("00:1c.0/00.0")
            .taken(["01:00.0"]),
        Case::new("other-drivers", machine::demo())
            .with_drivers("the cloud kernel has no pci-stub")
            .rules("00:03.0=auto,00:04.0=pci-stub,00:05.0=none")
            .taken(["00:03.0"])
            .taken_by("pci-stub", ["00:04.0"])
            .nobodys(["00:05.0"]),
        // pci_stub stands for a variant driver's module whose driver has another name.
        Case::new("auto-by-module", machine::demo())
            .with_drivers("the cloud kernel has no pci-stub")
            .parameter("guest.modprobe")
            .image(|image| {
                image.file(VARIANTS, "alias vfio_pci:v*d*sv*sd*bc*sc*i* pci_stub\n");
                // Nobody else loads it.
                image.file("etc/drivers.vfio", "");
            })
            .rules("00:03.0=auto")
            .taken_by("pci-stub", ["00:03.0"])
            .logged("driver_override set to pci-stub, bound to pci-stub"),
        Case::new("auto-by-each-alias", Machine::new())
            .with_drivers("the cloud kernel has no pci-stub")
            .mode(Mode::Control)
            .scene(include_str!("../../../tests/guest/aliases"), ""),
        // The firmware's tables make the second host bridge a domain of its own. No IOMMU is there for
        // it, so that vfio-pci refuses what it gets; nobody else is asked.
        Case::new("second-domain", second_domain())
            .image(acpi::second_domain)
            .rules("0001:41:00.0,0001:40:01.0/00.1=none")
            .kept(["0001:41:00.0"])
            .nobodys(["0001:41:00.1"])
            .logged("0001:41:00.0 is in no IOMMU group"),
    ]
}

fn second_domain() -> Machine {
    Machine::new()
        .with("00:03.0", E1000E)
        .bridge("00:05.0", HOST_BRIDGE, "40")
        .bridge("0001:40:01.0", FIXED_ROOT_PORT, "41")
        .with("0001:41:00.0", E1000E)
        .with("0001:41:00.1", E1000E)
        .with("0001:41:00.2", E1000E)
        .with_bios()
}

/// Functions that have a driver before the early binary runs.
fn bound() -> Vec<Case> {
    // A module on every kernel, unlike most drivers.
    let with_module = |name: &str| {
        Case::new(name, machine::demo().with("00:07.0", AHCI))
            .rules("00:05.0,00:07.0")
            .taken(["00:05.0", "00:07.0"])
    };
    vec![
        // virtio-pci is built into 6.12, and nvme as well into the cloud kernel.
        on_demo("built-in-driver").rules("00:05.0,00:06.0").taken(["00:05.0", "00:06.0"]),
        on_demo("built-in-driver-and-vfio-pci")
            .loaded_before(&["vfio_pci"])
            .rules("00:05.0,00:06.0")
            .taken(["00:05.0", "00:06.0"])
            .logged("functions: 2 taken, 2 bound"),
        with_module("loaded-driver").loaded_before(&["nvme", "ahci"]),
        with_module("loaded-driver-and-vfio-pci")
            .loaded_before(&["nvme", "ahci", "vfio_pci"])
            .logged("functions: 2 taken, 2 bound"),
        on_demo("loaded-vfio-pci")
            .loaded_before(&["vfio_pci"])
            .rules(DEMO_RULES)
            .taken(DEMO_TAKEN)
            .logged("functions: 4 taken, 4 bound"),
    ]
}

/// What is wrong with the machine or the rules costs nobody else anything.
fn troubles() -> Vec<Case> {
    let mut invalid = Case::new("invalid-rules", Machine::new().with("00:03.0", E1000E));
    let forms: Vec<&str> =
        INVALID.iter().copied().filter(|form| is_rule_of_its_own(form)).collect();
    for (number, form) in (1..).zip(&forms) {
        // What is not ASCII is escaped.
        let text = if form.is_ascii() { format!("{form}\": invalid at") } else { String::new() };
        invalid = invalid.logged(&format!("rule {number} \"{text}"));
    }
    vec![
        // Everything is kept for vfio-pci, though that cannot take it.
        Case::new("no-iommu", machine::demo().without_iommu())
            .rules(DEMO_RULES)
            .kept(DEMO_TAKEN)
            .logged("the IOMMU is off"),
        on_demo("wrong-rules")
            .rules("00:1e.0,00:1c.0,00:03.0@1234:1111,8086:ffff,00:04.0")
            .taken(["00:04.0"])
            .logged("rule 1 \"00:1e.0\": unmatched")
            .logged("rule 2 \"00:1c.0\": refused: 0000:00:1c.0 is a bridge")
            .logged("rule 3 \"00:03.0@1234:1111\": refused")
            .logged("rule 4 \"8086:ffff\": unmatched")
            .logged("rules: 1 applied, 2 unmatched, 2 refused")
            .status(1),
        // The good rule is the last: an exclusion that is not understood refuses those before it.
        invalid
            .rules(&format!("{},00:03.0", forms.join(",")))
            .taken(["00:03.0"])
            .logged(&format!("rules: 1 applied, {} invalid", forms.len()))
            .status(1),
    ]
}

/// Blanks around a rule are not part of it, and an empty one is none.
fn is_rule_of_its_own(form: &str) -> bool {
    !form.is_empty() && form.trim() == form
}

/// As many functions as a bus can have, and more than the log takes at once: the judge misses the rule
/// of any function whose record is lost.
fn many() -> Vec<Case> {
    let slots = |range: Range<u8>| {
        range.flat_map(|slot| (0..8).map(move |function| format!("00:{slot:02x}.{function}")))
    };
    let selected: Vec<String> = slots(0x08..0x10).collect();
    let add = |machine: Machine, place: &String| machine.with(place, VIRTIO_RNG);
    let small = selected.iter().fold(Machine::new(), add);
    let full = slots(0x01..0x08)
        .chain(slots(0x10..0x1e))
        .chain((0..7).map(|function| format!("00:1e.{function}")))
        .fold(small.clone(), |machine, place| machine.with(&place, PCI_TESTDEV))
        .bridge("00:1e.7", ROOT_PORT, "01");
    let full = (0..8)
        .fold(full, |machine, function| machine.with(&format!("01:00.{function}"), PCI_TESTDEV));
    let by_slot = (0x08..0x10).map(|slot| format!("00:{slot:02x}.*")).collect::<Vec<_>>().join(",");
    let case = |name, machine, rules: &str| {
        Case::new(name, machine).rules(rules).taken(&selected).logged("functions: 64 taken")
    };
    vec![
        case("64-functions", small.clone(), &by_slot),
        case("64-functions-rdinit", small, &by_slot).mode(Mode::Rdinit),
        // With the board's own two there are 250.
        case("64-of-250-functions", full, "1af4:1005"),
    ]
}

/// Functions that appear once the guest has booted.
fn later() -> Vec<Case> {
    vec![
        // The host's driver is not loaded yet.
        hot_plug("hot-plug", AHCI).taken(["01:00.0"]).scene(
            "listen; plug_heard 01:00.0; plug_heard 02:00.0; tell_drivers 01:00.0",
            "01:00.0 vfio-pci",
        ),
        // It is, and gets the function first.
        hot_plug("hot-plug-after-the-driver", VIRTIO_RNG)
            .loaded_before(&["virtio_pci"])
            .taken(["01:00.0"])
            .logged("unbound from virtio-pci, bound to vfio-pci")
            .scene(
                "listen; plug_heard 01:00.0; plug_heard 02:00.0; tell_drivers 01:00.0 02:00.0",
                "01:00.0 vfio-pci\n02:00.0 virtio-pci",
            ),
        // An override goes with its function, and comes back with it.
        hot_plug("hot-plug-again", VIRTIO_RNG)
            .loaded_before(&["virtio_pci"])
            .taken(["01:00.0"])
            .history(
                "01:00.0",
                &["virtio-pci", "vfio-pci", "virtio-pci", "vfio-pci"],
                Some("virtio-pci"),
            )
            .scene(
                "listen; plug_heard 02:00.0; plug_heard 01:00.0; tell_drivers 01:00.0\n\
                 unplug 01:00.0; rm /handled; touch /handled\n\
                 plug_heard 01:00.0; tell_drivers 01:00.0",
                "01:00.0 vfio-pci\n01:00.0 vfio-pci",
            ),
        // The driver core tells of nvme's probe before `sriov_drivers_autoprobe` keeps it from running; nvme itself
        // says nothing. The default, to probe, is left out: QEMU's functions are offline at first, and it is a
        // matter of time how far nvme comes with them.
        Case::new("virtual-functions", virtual_functions())
            .image(|image| image.program("sbin/on-uevent", ON_UEVENT))
            .rules("1b36:0010,!01:00.0,00:1c.0/00.2=none")
            .taken(["01:00.1"])
            .history("01:00.1", &["nvme", "vfio-pci"], None)
            .nobodys(["01:00.2"])
            .history("01:00.2", &["nvme"], None)
            .status(1)
            .scene(
                "listen\n\
                 cd /sys/bus/pci/devices/0000:01:00.0\n\
                 echo 0 >sriov_drivers_autoprobe\n\
                 echo 2 >sriov_numvfs\n\
                 until_true grep -q 01:00.1 /handled\n\
                 until_true grep -q 01:00.2 /handled\n\
                 tell_drivers 01:00.0 01:00.1 01:00.2\n\
                 tell enabled: $(dmesg | grep -c 'nvme 0000:01:00.[12]: enabling')",
                "01:00.0 nvme\n01:00.1 vfio-pci\n01:00.2 -\nenabled: 0",
            ),
    ]
}

/// What is under way while the early binary works, or before it is started.
fn in_flight() -> Vec<Case> {
    // Who probes it differs from round to round, and the scene counts.
    let nvme = Model { is_anybodys: true, ..NVME };
    vec![
        Case::new("race-with-a-probe", Machine::new().with("00:03.0", nvme))
            .with_drivers("what cloud does there, 6.12 does too")
            .mode(Mode::Control)
            .scene(
                include_str!("../../../tests/guest/race"),
                "not with vfio-pci: 0\nwrong lines: 0",
            ),
        // The first kernel leaves its devices as they are, vfio-pci's among them.
        on_demo("kexec")
            .with_drivers(
                "a second boot of the cloud kernel shows nothing that one of 6.12 does not",
            )
            .rules(DEMO_RULES)
            .taken(DEMO_TAKEN)
            .kexec(),
    ]
}

/// PID 1 loses its worker: nothing is taken, and the real init comes all the same.
fn lost() -> Vec<Case> {
    let lost = |name: &str| {
        Case::new(name, machine::demo())
            .only_on(&["6.1"], "what PID 1 does without its worker is the same on every kernel")
            .mode(Mode::Rdinit)
            .rules(CROWD)
            .image(crowded_sysfs)
    };
    vec![
        lost("worker-hangs")
            .image(|image| kill_worker(image, "STOP"))
            .init_within(Duration::from_secs(9))
            .logged("no sign of life for 4 s, killed: "),
        lost("worker-is-killed")
            .image(|image| kill_worker(image, "KILL"))
            .init_within(Duration::from_secs(6))
            .logged("killed by signal 9"),
        lost("worker-crashes")
            .image(|image| kill_worker(image, "SEGV"))
            .init_within(Duration::from_secs(6))
            .logged("killed by signal 11"),
    ]
}

/// The host tool, whose word is compared with the kernel's for every function.
fn host_tool() -> Vec<Case> {
    let some = |name: &str, machine| {
        let reason = "the cloud kernel has drivers for few of the functions";
        Case::new(name, machine).with_drivers(reason)
    };
    let demo = |name: &str| some(name, machine::demo()).rules(DEMO_RULES);
    let back_and_forth = |host: &'static str| [host, "vfio-pci", host, "vfio-pci"];
    let returned =
        |case: Case, place: &str, host| case.history(place, &back_and_forth(host), Some(host));
    let mut live = demo("host-tool").mode(Mode::Control).taken(DEMO_TAKEN);
    for (place, host) in [
        ("01:00.0", "bochs-drm"),
        ("01:00.1", "snd_hda_intel"),
        ("01:00.2", "xhci_hcd"),
        ("00:04.0", "e1000e"),
    ] {
        live = returned(live, place, host);
    }
    vec![
        live.host_tool(
            "drivers >/before\n\
             tool status\n\
             says 'vfio-override did not run at this boot'\n\
             tool plan\n\
             planned >/planned\n\
             tool apply\n\
             drivers >/after\n\
             agrees /before /planned /after\n\
             tool status\n\
             as_asked >/actual\n\
             same /planned /actual\n\
             tool release $(cat /planned)\n\
             drivers >/end\n\
             same /before /end\n\
             tool apply\n\
             tool release 00:1e.0\n\
             says 'there is no function at 0000:00:1e.0'",
            "status: 1\n\
             says: vfio-override did not run at this boot\n\
             plan: 0\n\
             apply: 0\n\
             the kernel agrees: 00:04.0 01:00.0 01:00.1 01:00.2\n\
             status: 0\n\
             same: /planned /actual\n\
             release: 0\n\
             same: /before /end\n\
             apply: 0\n\
             release: 2\n\
             says: there is no function at 0000:00:1e.0",
        ),
        demo("host-tool-after-the-hook").loaded_before(&["e1000e"]).taken(DEMO_TAKEN).host_tool(
            "tool status\n\
                 tell $(as_asked)\n\
                 says '00:04.0: e1000e had it first'\n\
                 says 'rules: 2 applied; functions: 4 taken'\n\
                 tool apply\n\
                 says 'driver_override is vfio-pci already'",
            "status: 0\n\
                 00:04.0 01:00.0 01:00.1 01:00.2\n\
                 says: 00:04.0: e1000e had it first\n\
                 says: rules: 2 applied; functions: 4 taken\n\
                 apply: 0\n\
                 says: driver_override is vfio-pci already",
        ),
        host_tool_meets_faults(),
        // Without an IOMMU vfio-pci refuses, and the function is nobody's.
        some("host-tool-is-refused", machine::demo().without_iommu())
            .mode(Mode::Control)
            .kept(["00:04.0"])
            .history("00:04.0", &["e1000e", "vfio-pci"], Some("e1000e"))
            .host_tool(
                "tool apply 00:04.0\n\
                 says 'the IOMMU is off'\n\
                 says 'not bound: vfio-pci did not take it'\n\
                 tell_drivers 00:04.0",
                "apply: 1\n\
                 says: the IOMMU is off\n\
                 says: not bound: vfio-pci did not take it\n\
                 00:04.0 -",
            ),
    ]
}

/// What a kernel answers to the host tool: EACCES, EBUSY, a driver that does not let go, ENODEV.
fn host_tool_meets_faults() -> Case {
    let machine = Machine::new()
        .bridge("00:1d.0", ROOT_PORT, "01")
        .with("01:00.0", VGA)
        .with("01:00.1", E1000E)
        .bridge("00:1c.0", ROOT_PORT, "02")
        .with("02:00.0", NVME_WITH_VFS);
    let hosts = [("01:00.0", "bochs-drm"), ("01:00.1", "e1000e"), ("02:00.0", "nvme")];
    let mut case = Case::new("host-tool-meets-faults", machine)
        .with_drivers("the cloud kernel has no driver for the functions")
        .mode(Mode::Control)
        .taken(hosts.map(|(place, _)| place));
    for (place, host) in hosts {
        case = case.history(place, &[host, "vfio-pci", host, "vfio-pci"], Some(host));
    }
    case.host_tool(
        "nobody plan 01:00.0+slot\n\
         nobody apply 01:00.0+slot\n\
         says 'functions: 0 taken'\n\
         says '01:00.1/driver_override: EACCES; it takes root and a writable sysfs'\n\
         tell_drivers 01:00.0 01:00.1\n\
         tool apply 01:00.0+slot,02:00.0\n\
         nobody release 01:00.0\n\
         says 'EACCES; it takes root and a writable sysfs; it is kept for vfio-pci, and vfio-pci has it'\n\
         hold 01:00.0\n\
         tool release 01:00.1\n\
         says 'cleared, unbound from vfio-pci, no driver has it: passthrough (process [0-9]*) uses IOMMU group 5'\n\
         tell \"$(echo 0000:01:00.1 2>&1 >/sys/bus/pci/drivers/e1000e/bind)\"\n\
         hide_holder\n\
         tool release 01:00.1\n\
         says 'drivers_probe: EINVAL (the kernel.s answer whatever the reason is'\n\
         says 'its override is cleared, and no driver has it'\n\
         show_holder\n\
         tool release --timeout 2 01:00.0\n\
         says 'half-way: its override is cleared, and vfio-pci does not let go of it'\n\
         says 'End passthrough (process [0-9]*), which uses its IOMMU group'\n\
         let_go 01:00.0\n\
         tool release 01:00.0 01:00.1\n\
         tell_drivers 01:00.0 01:00.1\n\
         echo Y >/sys/module/vfio_pci/parameters/enable_sriov\n\
         echo 1 >/sys/bus/pci/devices/0000:02:00.0/sriov_numvfs\n\
         tell_drivers 02:00.0 02:00.1\n\
         tool release 02:00.0 02:00.1\n\
         says '02:00.1/driver_override: ENODEV; the function has gone'\n\
         tell_drivers 02:00.0\n\
         tool apply 01:00.0+slot,02:00.0",
        "nobody's plan: 0\n\
         nobody's apply: 1\n\
         says: functions: 0 taken\n\
         says: 01:00.1/driver_override: EACCES; it takes root and a writable sysfs\n\
         01:00.0 bochs-drm\n\
         01:00.1 e1000e\n\
         apply: 0\n\
         nobody's release: 1\n\
         says: EACCES; it takes root and a writable sysfs; it is kept for vfio-pci, and vfio-pci has it\n\
         0000:01:00.0 verdict works\n\
         release: 1\n\
         says: cleared, unbound from vfio-pci, no driver has it: passthrough (process [0-9]*) uses IOMMU group 5\n\
         sh: write error: Device or resource busy\n\
         release: 1\n\
         says: drivers_probe: EINVAL (the kernel.s answer whatever the reason is\n\
         says: its override is cleared, and no driver has it\n\
         release: 1\n\
         says: half-way: its override is cleared, and vfio-pci does not let go of it\n\
         says: End passthrough (process [0-9]*), which uses its IOMMU group\n\
         release: 0\n\
         01:00.0 bochs-drm\n\
         01:00.1 e1000e\n\
         02:00.0 vfio-pci\n\
         02:00.1 vfio-pci\n\
         release: 1\n\
         says: 02:00.1/driver_override: ENODEV; the function has gone\n\
         02:00.0 nvme\n\
         apply: 0",
    )
}

/// The faults that it must find on each architecture, by boots of a machine with one network card at 00:03.0.
fn harness_everywhere(case: impl Fn(&str) -> Case) -> [Case; 2] {
    [
        case("harness-sees-a-probe")
            .mode(Mode::Control)
            .taken(["00:03.0"])
            .must_fail(Test, "0000:00:03.0: probed by e1000e, expected vfio-pci"),
        case("harness-sees-a-bad-binary")
            .image(|image| image.program(EARLY, "\x7fELF, and nothing more"))
            .must_fail(Test, "the early binary's exit status is"),
    ]
}

/// Faults that the harness must find, and tell those of the test from its own.
fn harness() -> Vec<Case> {
    let [probe, bad_binary] = harness_everywhere(harness_sees);
    vec![
        probe,
        bad_binary,
        harness_sees("harness-sees-a-bad-pid-1")
            .mode(Mode::Rdinit)
            .image(|image| image.program(EARLY, "\x7fELF, and nothing more"))
            .must_fail(Test, "it ended or panicked before /init starts"),
        harness_sees("harness-sees-a-panic")
            .image(|image| image.program(EARLY, "#!/bin/sh\necho c >/proc/sysrq-trigger\n"))
            .must_fail(Test, "Kernel panic - not syncing: sysrq triggered crash"),
        harness_sees("harness-sees-a-hang")
            .image(|image| image.program(EARLY, "#!/bin/sh\nsleep 1000\n"))
            .must_fail(Test, "it hangs: waited 3 s until the early binary ends")
            .patience(|patience| patience.early = Duration::from_secs(3)),
        harness_sees("harness-sees-silence")
            .image(|image| image.program("init", "#!/bin/busybox sh\n/bin/busybox sleep 1000\n"))
            .must_fail(Infrastructure, "the console printed nothing")
            .patience(|patience| patience.boot = Duration::from_secs(3)),
        // Its function would be without a driver of the host, and so never probed by one.
        harness_sees_on(
            "harness-sees-a-misspelt-module",
            Model::new("e1000e", Driver::new("e1000e", "e1000_typo")),
        )
        .must_fail(Test, "kernel 6.1 has no module e1000_typo"),
        harness_sees_on(
            "harness-sees-that-qemu-fails",
            Model { device: "no-such-device", ..E1000E },
        )
        .must_fail(Infrastructure, "QEMU failed (exit status: 1)"),
    ]
}

/// A controller whose two virtual functions are made once the guest has booted.
fn virtual_functions() -> Machine {
    Machine::new().bridge("00:1c.0", ROOT_PORT, "01").with("01:00.0", NVME_WITH_VFS)
}

/// Two functions of a kind are plugged into a running guest; a rule names the first.
fn hot_plug(name: &str, model: Model) -> Case {
    let machine = Machine::new()
        .bridge("00:1d.0", ROOT_PORT, "01")
        .bridge("00:1c.0", ROOT_PORT, "02")
        .later("01:00.0", model)
        .later("02:00.0", model);
    Case::new(name, machine)
        .image(|image| image.program("sbin/on-uevent", ON_UEVENT))
        .rules("01:00.0")
        .logged("rule 1 \"01:00.0\": unmatched")
        .status(1)
}

/// What udev does with our rule: it comes before the one that loads modules.
const ON_UEVENT: &str = r#"#!/bin/busybox sh
if [ "$SUBSYSTEM.$ACTION" = pci.add ]; then
	/usr/lib/vfio-override/vfio-override-early --device "$PCI_SLOT_NAME"
	modprobe "$MODALIAS"
	echo "$PCI_SLOT_NAME" >>/handled
fi
"#;

/// A boot in which something goes wrong.
fn harness_sees(name: &str) -> Case {
    harness_sees_on(name, E1000E)
}

fn harness_sees_on(name: &str, model: Model) -> Case {
    Case::new(name, Machine::new().with("00:03.0", model))
        .only_on(&["6.1"], "what it shows is the harness's, not the kernel's")
}

/// What takes the functions of [`crowded_sysfs`].
pub const CROWD: &str = "class:02";

/// A /sys of plain files with so many functions that the work on them takes a second.
pub fn crowded_sysfs(image: &mut Archive) {
    const PCI: &str = "sys/bus/pci";
    for number in 0..4000 {
        let (bus, device, function) = (0x10 + number / 256, number / 8 % 32, number % 8);
        let directory = format!("{PCI}/devices/0000:{bus:02x}:{device:02x}.{function}");
        image.file(
            &format!("{directory}/modalias"),
            "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00\n",
        );
        image.file(&format!("{directory}/driver_override"), "(null)\n");
    }
    // A loaded vfio-pci is what drivers_probe is written for.
    image.directory(&format!("{PCI}/drivers/vfio-pci"));
    image.file(&format!("{PCI}/drivers_probe"), "");
}

/// Lets PID 1 become the early binary while somebody waits to signal everything else.
pub fn kill_worker(image: &mut Archive, signal: &str) {
    let script = format!(
        "#!/bin/busybox sh\n\
         (/bin/busybox sleep 0.1; kill -{signal} -1) &\n\
         exec /{EARLY} \"$@\"\n"
    );
    image.program("vfio-override-early", script);
    // The shell gives it to what runs in the background, and devtmpfs is not mounted yet.
    image.file("dev/null", "");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::guest::kernels;

    #[test]
    fn each_case_has_a_name_of_its_own() {
        let cases = all();
        let names: BTreeSet<_> = cases.iter().map(|case| (&*case.name, case.arch.name)).collect();
        assert_eq!(names.len(), cases.len());
    }

    #[test]
    fn the_examples_of_the_architecture_are_cases() {
        // Lines are broken and lists go on as rustfmt has it.
        let words = |text: &str| text.replace(char::is_whitespace, "").replace(",)", ")");
        let cases = words(include_str!("mod.rs"));
        let pages = include_str!("../../../ARCHITECTURE.md");
        let examples: Vec<&str> =
            pages.split("```rust").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert_eq!(examples.len(), 2);
        for example in examples {
            assert!(cases.contains(&words(example)), "{example}");
        }
    }

    #[test]
    fn no_case_is_without_a_kernel_that_there_is() {
        for case in all() {
            assert!(!case.kernels().is_empty(), "{}", case.name);
            for kernel in case.kernels() {
                assert!(kernels::named(kernel).is_some(), "{}: {kernel}", case.name);
            }
        }
    }
}
