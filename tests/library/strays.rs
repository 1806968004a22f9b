// SPDX-License-Identifier: MIT OR Apache-2.0
//! What vfio-pci takes though no rule does, because modprobe.d names it: only its directory tells.

use crate::support::capture::Capture;
use crate::support::machine::{Machine, address, vga};
use vfio_override::run::Run;

const STRAY: &str = "vfio-pci.ids= has vfio-pci take ";

/// The lines about strays after a run with this rule, and for this function only, during which modprobe loads vfio-pci.
/// Two more functions have it then, of which one has an override.
fn strays(line: &[u8], only: Option<&str>) -> String {
    let mut machine = Machine::new()
        .with(vga("0000:01:00.0").in_group(1))
        .with(vga("0000:02:00.0").in_group(2))
        .with(vga("0000:03:00.0").in_group(3).kept_for("vfio-pci"))
        .with(vga("0000:04:00.0").in_group(4));
    let mut run = Box::<Run<'_>>::default();
    run.rules.add_line(line);
    run.plan.only = only.map(address);
    run.apply(&mut machine);
    machine.load("vfio-pci");
    for place in ["0000:02:00.0", "0000:03:00.0"] {
        machine.unplug(address(place));
    }
    machine.plug(vga("0000:02:00.0").in_group(2).bound_to("vfio-pci"));
    machine.plug(vga("0000:03:00.0").in_group(3).kept_for("vfio-pci").bound_to("vfio-pci"));
    for mut driver in run.drivers() {
        run.verify_loaded(&mut machine, &mut driver, true);
    }
    let log = Capture::default();
    assert!(run.report(&log));
    let lines = log.into_lines().into_iter().filter(|(_, line)| line.starts_with(STRAY));
    lines.map(|(_, line)| line).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_vfio_pci_has_without_a_rule_and_an_override_is_told() {
    let told = strays(b"vfio.override=01:00.0", None);
    assert_eq!(
        told,
        format!(
            "{STRAY}0000:02:00.0, which no rule does; take it out of the command line, or of modprobe.d and the image"
        )
    );
    // What the command line says of it besides is the same.
    assert_eq!(strays(b"vfio.override=01:00.0 vfio-pci.ids=10de:2204", None), told);
    // A run for one function does not know what others are taken for.
    assert_eq!(strays(b"vfio.override=01:00.0", Some("0000:01:00.0")), "");
    assert_eq!(strays(b"vfio.override=01:00.0,02:00.0", None), "");
    assert_eq!(strays(b"vfio.override=01:00.0=pci-stub", None), "");
}
