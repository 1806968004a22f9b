// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may differ on aarch64: its device trees and its ACPI, its page sizes, its IOMMU, and the early binary's own
//! machine code. What the library decides does not depend on the architecture, and is booted on x86-64.

use super::{DEMO_RULES, DEMO_TAKEN, harness_everywhere, passthrough, two_cards};
use crate::cases::case::{Case, Mode};
use crate::ground::arch::AARCH64;
use crate::guest::evidence::Evidence;
use crate::guest::machine::{
    self, Driver, E1000E, HDA, Machine, Model, NVME, ROOT_PORT, VGA, XHCI,
};

/// A display beside the firmware's framebuffer, which lies in the machine's memory, not in the display's.
const BESIDE_FRAMEBUFFER: Model = Model {
    needs: &[("device", "ramfb")],
    ..Model::new("bochs-display", Driver::new("bochs-drm", "bochs"))
};

/// A display whose own driver for EFI makes its memory the firmware's framebuffer, as a graphics card's does.
const WITH_EFI_DRIVER: Model = Model { has_efi_driver: true, ..machine::BOCHS_DISPLAY };

/// Since Linux 6.15 every function that an IOMMU serves is in its group before a driver comes.
const GROUPS_IN_TIME: &str =
    "older kernels make an IOMMU group on aarch64 only when a driver probes";
const GROUPS_TOO_LATE: &str =
    "newer kernels make every IOMMU group on aarch64 before a driver probes";

pub fn all() -> Vec<Case> {
    let on_demo = |name: &str| Case::new(name, machine::demo()).on(AARCH64);
    let taken = |name: &str| on_demo(name).rules(DEMO_RULES).taken(DEMO_TAKEN);
    let one = |name: &str| {
        let harness = "what it shows is the harness's, not the kernel's";
        Case::new(name, Machine::new().with("00:03.0", E1000E))
            .on(AARCH64)
            .only_on(&["6.12"], harness)
    };
    let passes = |name: &str, first: &str, groups| {
        passthrough(name, first, groups).on(AARCH64).mostly_on(&[])
    };
    let [probe, bad_binary] = harness_everywhere(one);
    vec![
        on_demo("control").mode(Mode::Control).mostly_on(&["6.12"]),
        taken("hook")
            .logged("rules: 2 applied; functions: 4 taken")
            // A driver that is built in has made a group already; those of the rules come later.
            .also(|evidence| says_nothing_of(evidence, "no IOMMU serves"))
            .mostly_on(&["6.1", "16k"]),
        taken("rdinit")
            .mode(Mode::Rdinit)
            .logged("rules: 2 applied; functions: 4 taken")
            .mostly_on(&["newest"]),
        Case::new("group", two_cards())
            .on(AARCH64)
            .rules("01:00.0+group")
            .taken(["01:00.0", "01:00.1", "01:00.2"])
            .only_on(&["newest"], GROUPS_IN_TIME)
            .mostly_on(&[]),
        groups_too_late("group-too-late").mostly_on(&["6.12"]),
        passes("passthrough", "01:00.0+slot", [0, 1])
            .only_on(&["6.1", "6.12", "cloud", "16k"], GROUPS_TOO_LATE),
        passes("passthrough-group", "01:00.0+group", [4, 5])
            .only_on(&["newest"], GROUPS_IN_TIME)
            .logged("is not viable while the host keeps 0000:02:00.2"),
        groups_too_late("group-too-late-rdinit").mode(Mode::Rdinit).mostly_on(&[]),
        Case::new(
            "path",
            Machine::new()
                .bridge("00:1c.0", ROOT_PORT, "01")
                .bridge("00:1d.0", ROOT_PORT, "02")
                .with("01:00.0", E1000E)
                .with("02:00.0", E1000E),
        )
        .on(AARCH64)
        .rules("00:1d.0/00.0")
        .taken(["02:00.0"])
        .mostly_on(&[]),
        on_demo("guard")
            .rules("00:03.0@1234:1111,00:04.0@8086:10d3")
            .taken(["00:04.0"])
            .logged("rule 1 \"00:03.0@1234:1111\": refused: 0000:00:03.0 is [8086:10d3]")
            .status(1)
            .mostly_on(&[]),
        on_demo("loaded-driver")
            .loaded_before(&["nvme"])
            .rules("00:05.0")
            .taken(["00:05.0"])
            .mostly_on(&[]),
        Case::new("no-iommu", machine::demo().without_iommu())
            .on(AARCH64)
            .rules(DEMO_RULES)
            .kept(DEMO_TAKEN)
            .logged("the IOMMU is off")
            .mostly_on(&[]),
        // ACPI tells of the IOMMU and of the functions there. This framebuffer lies in no function's memory.
        Case::new(
            "efi",
            Machine::new().with("00:02.0", BESIDE_FRAMEBUFFER).with("00:03.0", NVME).with_bios(),
        )
        .on(AARCH64)
        .rules("00:02.0,00:03.0")
        .taken(["00:02.0", "00:03.0"])
        .logged("rules: 2 applied; functions: 2 taken")
        .also(|evidence| says_nothing_of(evidence, "holds memory of"))
        .mostly_on(&[]),
        // The kernel's efifb has the display's memory, and nvme its drive, before the early binary runs.
        Case::new(
            "efi-framebuffer",
            Machine::new().with("00:02.0", WITH_EFI_DRIVER).with("00:03.0", NVME).with_bios(),
        )
        .on(AARCH64)
        .loaded_before(&["nvme"])
        .rules("00:02.0,00:03.0")
        .taken(["00:02.0", "00:03.0"])
        .logged("0000:00:02.0 is the boot display: the console freezes")
        .logged("a framebuffer driver (efifb, simpledrm, vesafb) holds memory of 0000:00:02.0")
        .mostly_on(&[]),
        Case::new(
            "efi-no-iommu",
            Machine::new().with("00:03.0", E1000E).with_bios().without_iommu(),
        )
        .on(AARCH64)
        .rules("00:03.0")
        .kept(["00:03.0"])
        .logged("the IOMMU is off")
        .mostly_on(&[]),
        probe,
        bad_binary,
    ]
}

/// Nobody can tell what a group takes along that is not there yet: on a root bus the rule takes the function alone,
/// behind a bridge the card.
fn groups_too_late(name: &str) -> Case {
    let machine = Machine::new()
        .with("00:03.0", E1000E)
        .with("00:03.1", E1000E)
        .bridge("00:1c.0", ROOT_PORT, "01")
        .with("01:00.0", VGA)
        .with("01:00.1", HDA)
        .with("01:00.2", XHCI);
    Case::new(name, machine)
        .on(AARCH64)
        .only_on(&["6.1", "6.12"], GROUPS_TOO_LATE)
        .rules("00:03.0+group,01:00.0+group")
        .taken(["00:03.0", "01:00.0", "01:00.1", "01:00.2"])
        .logged("rule 1 \"00:03.0+group\": failed: 0000:00:03.0 is in no IOMMU group; write +slot")
        .logged("rule 2 \"01:00.0+group\": failed: 0000:01:00.0 is in no IOMMU group; write +slot")
        .logged("rules: 2 failed; functions: 4 taken")
        .status(1)
        .also(|evidence| says_nothing_of(evidence, "the IOMMU is off"))
}

fn says_nothing_of(evidence: &Evidence, text: &str) -> Vec<String> {
    let says = |record: &&str| record.contains(text);
    evidence.early_records().filter(says).map(str::to_owned).collect()
}
