//! The boots of `cargo xtask test`, one declaration each.

use std::fmt;
use std::time::Duration;

use crate::archive::Archive;
use crate::build::Target;
use crate::image::EARLY;
use crate::judge::Expectation;
use crate::qemu::{self, Devices};

/// What one boot is given and what must come of it.
pub struct Case {
    pub name: &'static str,
    /// A version as `--kernel` takes it.
    pub kernel: &'static str,
    pub target: Target,
    pub mode: Mode,
    /// Kernel parameters, `vfio.override=` among them.
    pub parameters: &'static str,
    pub devices: fn() -> Devices,
    /// Changes the image before the boot.
    pub image: fn(&mut Archive),
    /// The functions whose fate matters; those not named must not be selected.
    pub expected: fn() -> Vec<Expectation>,
    /// Texts that the early binary's log must hold, each in one record.
    pub logged: &'static [&'static str],
    /// The early binary's exit status, in hook mode.
    pub status: i32,
    /// The latest start of the real init after the early binary's, in rdinit mode.
    pub init_within: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// /init runs the early binary, as an initramfs hook does.
    Hook,
    /// The kernel runs the early binary as PID 1.
    Rdinit,
    /// Nobody runs it.
    Control,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Hook => "hook",
            Self::Rdinit => "rdinit",
            Self::Control => "control",
        })
    }
}

/// The real init's arguments in rdinit mode.
pub const INIT_ARGUMENTS: [&str; 2] = ["--first", "second"];

/// What the kernel hands to the real init's environment in rdinit mode.
pub const INIT_VARIABLE: &str = "GUEST_VARIABLE=kept";

impl Mode {
    /// The kernel parameters that make a guest boot this way, around the case's own.
    pub fn parameters(self, case: &str) -> String {
        match self {
            Self::Hook => format!("guest.mode=hook {case}"),
            Self::Control => format!("guest.mode=control {case}"),
            Self::Rdinit => format!(
                "guest.mode=rdinit rdinit=/vfio-override-early {INIT_VARIABLE} {case} -- {}",
                INIT_ARGUMENTS.join(" ")
            ),
        }
    }
}

/// The rules of the demonstration: a card with its companions, and one of two network cards.
pub const DEMO_RULES: &str = "01:00.0+slot,00:04.0";

/// What must come of [`DEMO_RULES`].
pub fn demo_taken() -> Vec<Expectation> {
    vec![
        Expectation::taken("0000:01:00.0", "vfio-pci"),
        Expectation::taken("0000:01:00.1", "vfio-pci"),
        Expectation::taken("0000:01:00.2", "vfio-pci"),
        Expectation::taken("0000:00:04.0", "vfio-pci"),
        Expectation::host("0000:00:02.0", "bochs-drm"),
        Expectation::host("0000:00:03.0", "e1000e"),
        Expectation::host("0000:00:05.0", "nvme"),
        Expectation::host("0000:00:06.0", "virtio-pci"),
    ]
}

/// What the drivers do without rules: a test without this would prove nothing.
fn demo_host() -> Vec<Expectation> {
    vec![
        Expectation::host("0000:01:00.0", "bochs-drm"),
        Expectation::host("0000:01:00.1", "snd_hda_intel"),
        Expectation::host("0000:01:00.2", "xhci_hcd"),
        Expectation::host("0000:00:02.0", "bochs-drm"),
        Expectation::host("0000:00:03.0", "e1000e"),
        Expectation::host("0000:00:04.0", "e1000e"),
        Expectation::host("0000:00:05.0", "nvme"),
        Expectation::host("0000:00:06.0", "virtio-pci"),
    ]
}

/// The demonstration; each case below says how it differs.
const DEMO: Case = Case {
    name: "",
    kernel: "6.1",
    target: Target::Musl,
    mode: Mode::Hook,
    parameters: "vfio.override=01:00.0+slot,00:04.0",
    devices: qemu::demo,
    image: |_| {},
    expected: demo_taken,
    logged: &["rules: 2 applied; functions: 4 taken"],
    status: 0,
    init_within: None,
};

const CONTROL: Case =
    Case { mode: Mode::Control, parameters: "", expected: demo_host, logged: &[], ..DEMO };

/// Every boot of the suite.
pub const CASES: &[Case] = &[
    Case { name: "control-6.1", ..CONTROL },
    Case { name: "control-6.12", kernel: "6.12", ..CONTROL },
    Case { name: "hook-6.1", ..DEMO },
    Case { name: "hook-6.12", kernel: "6.12", target: Target::Glibc, ..DEMO },
    Case { name: "rdinit-6.1", target: Target::Glibc, mode: Mode::Rdinit, ..DEMO },
    Case { name: "rdinit-6.12", kernel: "6.12", mode: Mode::Rdinit, ..DEMO },
    Case {
        name: "hook-modprobe",
        parameters: "vfio.override=01:00.0+slot,00:04.0 guest.modprobe",
        ..DEMO
    },
    // Both displays have the same IDs; the firmware's stays with the host.
    Case {
        name: "identical-displays",
        kernel: "6.12",
        parameters: "vfio.override=1234:1111+slot,!boot_vga",
        expected: || {
            vec![
                Expectation::taken("0000:01:00.0", "vfio-pci"),
                Expectation::taken("0000:01:00.1", "vfio-pci"),
                Expectation::taken("0000:01:00.2", "vfio-pci"),
                Expectation::host("0000:00:02.0", "bochs-drm"),
            ]
        },
        logged: &["functions: 3 taken"],
        ..DEMO
    },
    Case {
        name: "nobody",
        parameters: "vfio.override=00:04.0=none",
        expected: || {
            vec![
                Expectation::untouched("0000:00:04.0"),
                Expectation::host("0000:00:03.0", "e1000e"),
            ]
        },
        logged: &["functions: 1 taken"],
        ..DEMO
    },
    Case {
        name: "off",
        parameters: "vfio.override=01:00.0+slot vfio.override=off",
        expected: demo_host,
        logged: &["rule 2 \"off\": nothing is touched"],
        ..DEMO
    },
    Case {
        name: "bad-rules-beside-a-good-one",
        parameters: "vfio.override=nonsense,00:1e.0,00:1c.0,00:03.0@1234:1111,00:04.0",
        expected: || {
            vec![
                Expectation::taken("0000:00:04.0", "vfio-pci"),
                Expectation::host("0000:00:03.0", "e1000e"),
                Expectation::host("0000:01:00.0", "bochs-drm"),
            ]
        },
        logged: &[
            "rule 1 \"nonsense\": invalid",
            "rule 2 \"00:1e.0\": unmatched",
            "rule 3 \"00:1c.0\": refused",
            "rule 4 \"00:03.0@1234:1111\": refused",
        ],
        status: 1,
        ..DEMO
    },
    // virtio-pci is built into 6.12 and has its functions before any process runs.
    Case {
        name: "built-in-driver",
        kernel: "6.12",
        parameters: "vfio.override=00:06.0",
        expected: || vec![Expectation::taken_from("0000:00:06.0", "virtio-pci", "vfio-pci")],
        logged: &["unbound from virtio-pci"],
        ..DEMO
    },
    // One record for each: the judge misses the rule of any function whose record is lost.
    Case {
        name: "64-functions",
        parameters: MANY_RULES,
        devices: qemu::many,
        expected: || {
            qemu::many_addresses().map(|address| Expectation::taken(address, "vfio-pci")).collect()
        },
        logged: &["functions: 64 taken"],
        ..DEMO
    },
    Case {
        name: "64-functions-built-in-driver",
        kernel: "6.12",
        mode: Mode::Rdinit,
        parameters: MANY_RULES,
        devices: qemu::many,
        expected: || {
            qemu::many_addresses()
                .map(|address| Expectation::taken_from(address, "virtio-pci", "vfio-pci"))
                .collect()
        },
        logged: &["functions: 64 taken"],
        ..DEMO
    },
    Case {
        name: "worker-hangs",
        image: hanging_sysfs,
        logged: &["not done after 5 s"],
        ..LOST_WORKER
    },
    Case {
        name: "worker-is-killed",
        image: |image| {
            hanging_sysfs(image);
            kill_worker(image, "KILL");
        },
        logged: &["killed by signal 9"],
        ..LOST_WORKER
    },
    Case {
        name: "worker-crashes",
        kernel: "6.12",
        image: |image| {
            hanging_sysfs(image);
            kill_worker(image, "SEGV");
        },
        logged: &["killed by signal 11"],
        ..LOST_WORKER
    },
];

const MANY_RULES: &str =
    "vfio.override=00:08.*,00:09.*,00:0a.*,00:0b.*,00:0c.*,00:0d.*,00:0e.*,00:0f.*";

/// PID 1 loses its worker: nothing is taken, and the real init comes all the same.
const LOST_WORKER: Case = Case {
    mode: Mode::Rdinit,
    parameters: "vfio.override=00:04.0",
    expected: demo_host,
    init_within: Some(Duration::from_secs(6)),
    ..DEMO
};

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
