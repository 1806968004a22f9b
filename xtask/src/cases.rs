//! The boots of `cargo xtask test`, one declaration each.

use std::time::Duration;

use crate::archive::Archive;
use crate::build::Target;
use crate::case::FaultKind::{Infrastructure, Test};
use crate::case::{Case, Mode};
use crate::image::EARLY;
use crate::qemu::{
    self, E1000E, HDA, Machine, Model, NVME_WITH_VFS, ROOT_PORT, VGA, VIRTIO_RNG, XHCI,
};

/// Debian's stable kernel, its newest, and its newest for cloud machines.
const EVERY: &[&str] = &["6.1", "6.12", "cloud"];

/// The rules of the demonstration: a card with its companions, and one of two network cards.
pub const DEMO_RULES: &str = "01:00.0+slot,00:04.0";

/// The functions that [`DEMO_RULES`] mean.
const DEMO_TAKEN: [&str; 4] = ["01:00.0", "01:00.1", "01:00.2", "00:04.0"];

/// The demonstration, on the kernel that the user asks for.
pub fn demo() -> Case {
    Case::new("demo", &[], qemu::demo()).rules(DEMO_RULES).taken(DEMO_TAKEN)
}

/// Every boot of the suite.
pub fn all() -> Vec<Case> {
    [basics(), harness()].concat()
}

fn basics() -> Vec<Case> {
    let demo = |name: &str| Case::new(name, EVERY, qemu::demo());
    vec![
        // What the drivers do without rules: a test without this would prove nothing.
        demo("control").mode(Mode::Control),
        demo("hook")
            .rules(DEMO_RULES)
            .taken(DEMO_TAKEN)
            .logged("rules: 2 applied; functions: 4 taken"),
        demo("rdinit")
            .mode(Mode::Rdinit)
            .rules(DEMO_RULES)
            .taken(DEMO_TAKEN)
            .logged("rules: 2 applied; functions: 4 taken"),
        demo("hook-glibc").target(Target::Glibc).rules(DEMO_RULES).taken(DEMO_TAKEN),
        demo("rdinit-glibc")
            .target(Target::Glibc)
            .mode(Mode::Rdinit)
            .rules(DEMO_RULES)
            .taken(DEMO_TAKEN),
        demo("hook-modprobe").parameter("guest.modprobe").rules(DEMO_RULES).taken(DEMO_TAKEN),
        // Both displays have the same IDs; the firmware's stays with the host.
        demo("identical-displays")
            .rules("1234:1111+slot,!boot_vga")
            .taken(["01:00.0", "01:00.1", "01:00.2"]),
        demo("nobody").rules("00:04.0=none").nobodys(["00:04.0"]),
        demo("off").rules("01:00.0+slot").rules("off").logged("rule 2 \"off\": nothing is touched"),
        demo("bad-rules-beside-a-good-one")
            .rules("nonsense,00:1e.0,00:1c.0,00:03.0@1234:1111,00:04.0")
            .taken(["00:04.0"])
            .logged("rule 1 \"nonsense\": invalid")
            .logged("rule 2 \"00:1e.0\": unmatched")
            .logged("rule 3 \"00:1c.0\": refused")
            .logged("rule 4 \"00:03.0@1234:1111\": refused")
            .status(1),
        // Built into 6.12 (virtio-pci) and the cloud kernel (nvme as well), which have their
        // functions before any process runs.
        demo("built-in-driver").rules("00:05.0,00:06.0").taken(["00:05.0", "00:06.0"]),
        demo("loaded-driver").loaded_before(&["e1000e"]).rules("00:03.0").taken(["00:03.0"]),
        demo("loaded-vfio-pci")
            .loaded_before(&["vfio_pci"])
            .rules(DEMO_RULES)
            .taken(DEMO_TAKEN)
            .logged("functions: 4 taken, 4 bound"),
        // One record for each: the judge misses the rule of any function whose record is lost.
        sixty_four("64-functions"),
        sixty_four("64-functions-rdinit").mode(Mode::Rdinit),
        lost_worker("worker-hangs").image(hanging_sysfs).logged("not done after 5 s"),
        lost_worker("worker-is-killed")
            .image(hanging_sysfs)
            .image(|image| kill_worker(image, "KILL"))
            .logged("killed by signal 9"),
        lost_worker("worker-crashes")
            .image(hanging_sysfs)
            .image(|image| kill_worker(image, "SEGV"))
            .logged("killed by signal 11"),
        // Everything is kept for vfio-pci, though that cannot take it.
        Case::new("no-iommu", EVERY, qemu::demo().without_iommu())
            .rules(DEMO_RULES)
            .kept(DEMO_TAKEN)
            .logged("the IOMMU is off"),
        // bochs never gets the display, and vfio-pci gets it in spite of the framebuffer.
        Case::new("framebuffer", &["6.1", "6.12"], Machine::new().with("00:02.0", VGA).with_bios())
            .parameter("vga=791")
            .rules("00:02.0")
            .taken(["00:02.0"])
            .logged("0000:00:02.0 is the boot display: the console freezes")
            .logged("holds memory of 0000:00:02.0"),
        passthrough(),
        hot_plug("hot-plug").scene(
            "listen\n plug_heard 01:00.0\n plug_heard 02:00.0\n tell_drivers 01:00.0",
            "01:00.0 vfio-pci",
        ),
        // The line of nvme's probe is there though `sriov_drivers_autoprobe` kept it from running.
        Case::new("virtual-functions", EVERY, virtual_functions())
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
                 tell_drivers 01:00.0 01:00.1 01:00.2",
                "01:00.0 nvme\n01:00.1 vfio-pci\n01:00.2 -",
            ),
    ]
}

/// Faults that the harness must find, and tell those of the test from its own.
fn harness() -> Vec<Case> {
    vec![
        harness_sees("harness-sees-a-probe")
            .mode(Mode::Control)
            .taken(["00:03.0"])
            .must_fail(Test, "0000:00:03.0: probed by e1000e, expected vfio-pci"),
        harness_sees("harness-sees-a-bad-binary")
            .image(|image| image.program(EARLY, "\x7fELF, and nothing more"))
            .must_fail(Test, "the early binary's exit status is"),
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
            .parameter("console=tty1")
            .must_fail(Infrastructure, "the console printed nothing")
            .patience(|patience| patience.boot = Duration::from_secs(3)),
        Case::new(
            "harness-sees-that-qemu-fails",
            &["6.1"],
            Machine::new().with("00:03.0", Model { device: "no-such-device", ..E1000E }),
        )
        .must_fail(Infrastructure, "QEMU failed (exit status: 1)"),
    ]
}

/// A controller whose two virtual functions are made once the guest has booted.
fn virtual_functions() -> Machine {
    Machine::new().bridge("00:1c.0", ROOT_PORT, "01").with("01:00.0", NVME_WITH_VFS)
}

/// Two functions are plugged into a running guest; a rule names one of them.
fn hot_plug(name: &str) -> Case {
    let machine = Machine::new()
        .bridge("00:1d.0", ROOT_PORT, "01")
        .bridge("00:1c.0", ROOT_PORT, "02")
        .later("01:00.0", E1000E)
        .later("02:00.0", E1000E);
    Case::new(name, EVERY, machine)
        .image(|image| image.program("sbin/on-uevent", ON_UEVENT))
        .rules("01:00.0")
        .taken(["01:00.0"])
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
    Case::new(name, &["6.1"], Machine::new().with("00:03.0", E1000E))
}

/// A program uses one card, and has to be refused the other, whose USB function stays with the host.
fn passthrough() -> Case {
    Case::new("passthrough", &["6.1", "6.12"], two_cards())
        .rules("01:00.0+group,02:00.0,02:00.1")
        .taken(["01:00.0", "01:00.1", "01:00.2", "02:00.0", "02:00.1"])
        .logged("is not viable while the host keeps 0000:02:00.2")
        .passthrough(
            &["01:00.0", "02:00.0"],
            "0000:01:00.0 group 6\n\
             0000:01:00.0 viable yes\n\
             0000:01:00.0 container type1\n\
             0000:01:00.0 device open\n\
             0000:01:00.0 vendor 1234\n\
             0000:01:00.0 map 4096\n\
             0000:01:00.0 unmap 4096\n\
             0000:01:00.0 verdict works\n\
             0000:02:00.0 group 5\n\
             0000:02:00.0 viable no\n\
             0000:02:00.0 container failed VFIO_GROUP_SET_CONTAINER EPERM\n\
             0000:02:00.0 verdict refused",
        )
}

/// Two cards, each a display with its audio and USB functions, which share a group.
fn two_cards() -> Machine {
    let card = |machine: Machine, port: &str, bus: &str| {
        machine
            .bridge(port, ROOT_PORT, bus)
            .with(&format!("{bus}:00.0"), VGA)
            .with(&format!("{bus}:00.1"), HDA)
            .with(&format!("{bus}:00.2"), XHCI)
    };
    let machine = card(Machine::new().with("00:02.0", VGA), "00:1d.0", "01");
    card(machine, "00:1c.0", "02")
}

/// 64 functions in eight slots of the root bus.
fn sixty_four(name: &str) -> Case {
    let slots = 0x08..0x10;
    let places: Vec<String> = slots
        .clone()
        .flat_map(|slot| (0..8).map(move |function| format!("00:{slot:02x}.{function}")))
        .collect();
    let machine =
        places.iter().fold(Machine::new(), |machine, place| machine.with(place, VIRTIO_RNG));
    let rules: Vec<String> = slots.map(|slot| format!("00:{slot:02x}.*")).collect();
    Case::new(name, EVERY, machine)
        .rules(&rules.join(","))
        .taken(places)
        .logged("functions: 64 taken")
}

/// PID 1 loses its worker: nothing is taken, and the real init comes all the same.
fn lost_worker(name: &str) -> Case {
    Case::new(name, &["6.1"], qemu::demo())
        .mode(Mode::Rdinit)
        .rules("00:04.0")
        .init_within(Duration::from_secs(6))
}

/// A /sys of plain files, where whoever writes to `drivers_probe` waits for ever.
fn hanging_sysfs(image: &mut Archive) {
    const PCI: &str = "sys/bus/pci";
    for (attribute, value) in [
        (
            "uevent",
            "PCI_CLASS=20000\nPCI_ID=8086:10D3\nPCI_SUBSYS_ID=8086:0000\n\
             PCI_SLOT_NAME=0000:00:04.0\n",
        ),
        ("vendor", "0x8086\n"),
        ("device", "0x10d3\n"),
        ("subsystem_vendor", "0x8086\n"),
        ("subsystem_device", "0x0000\n"),
        ("class", "0x020000\n"),
        ("driver_override", "(null)\n"),
    ] {
        image.file(&format!("{PCI}/devices/0000:00:04.0/{attribute}"), value);
    }
    // A loaded vfio-pci is what drivers_probe is written for.
    image.directory(&format!("{PCI}/drivers/vfio-pci"));
    image.fifo(&format!("{PCI}/drivers_probe"));
}

/// Lets PID 1 become the early binary while somebody waits to kill everything else.
fn kill_worker(image: &mut Archive, signal: &str) {
    let script = format!(
        "#!/bin/busybox sh\n\
         (/bin/busybox sleep 1; kill -{signal} -1) &\n\
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

    #[test]
    fn each_case_has_a_name_of_its_own() {
        let cases = all();
        let names: BTreeSet<&str> = cases.iter().map(|case| &*case.name).collect();
        assert_eq!(names.len(), cases.len());
    }
}
