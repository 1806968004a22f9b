//! What the tool tells people on the systems that it knows, and on those that it does not.

use crate::commands::{Desk, json};
use crate::support::copy;

/// Machines, each with the commands that show what is told there.
const MACHINES: &[(&str, &[&str])] = &[
    ("booster", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("booster-and-mkinitcpio", &["suggest 01:00.0"]),
    ("dracut-omitted", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("stub", &["suggest 01:00.0"]),
    ("uki-addon", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("driverctl-saved", &["plan", "suggest 25:00.0"]),
    ("framebuffer", &["plan b3:00.0+slot"]),
    ("iommu-switched-off", &["suggest c1:00.0", "plan c1:00.0"]),
    ("limine", &["suggest 01:00.0"]),
    ("mkinitcpio-not-listed", &["suggest 01:00.0", "plan"]),
    ("mkinitcpio-uki", &["suggest 01:00.0"]),
    ("nvswitch", &["plan", "suggest 51:00.0 43:00.0"]),
    ("opensuse-bls", &["suggest 01:00.0"]),
    ("ostree", &["suggest 01:00.0"]),
    ("ostree-hook", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("raspi", &["suggest 0001:01:00.1"]),
    ("vfio-ids-left", &["plan", "suggest 25:00.0"]),
    ("alpine", &["suggest 01:00.0"]),
    ("bootc", &["suggest 01:00.0"]),
    ("cmdline-d", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("left-over", &["plan 01:00.0+slot", "suggest 01:00.0"]),
    ("limine-by-hand", &["suggest 01:00.0"]),
    ("nixos", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("opensuse-grub2-bls", &["suggest 01:00.0"]),
    ("proxmox", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("strict", &["suggest 01:00.0", "plan"]),
    ("talos", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("truenas", &["suggest 01:00.0"]),
    ("ubuntu-both", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("ubuntu-unread", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("unknown", &["suggest 01:00.0"]),
    ("unraid", &["suggest 01:00.0"]),
];

#[test]
fn each_system_is_told_what_is_right_there() {
    for (machine, commands) in MACHINES {
        let desk = Desk::with(&[machine]);
        let lines: Vec<String> =
            commands.iter().map(|command| format!("{command} --from {machine}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        insta::assert_snapshot!(format!("system_{machine}"), desk.screen(&lines));
    }
}

/// The kernel panics where the file that `rdinit=` names is not in the image.
#[test]
fn no_word_is_told_without_the_step_that_makes_it_safe() {
    for machine in copy::names() {
        let desk = Desk::with(&[&machine]);
        let list = json(&desk.run(&format!("list --json --from {machine}")));
        for function in list["functions"].as_array().unwrap() {
            let address = function["address"].as_str().unwrap();
            let told = desk.run(&format!("suggest --json --from {machine} {address}"));
            if told.status.code() == Some(2) {
                continue;
            }
            let told = json(&told);
            let steps = told["steps"].as_array().unwrap();
            let text = |step: &serde_json::Value| {
                ["what", "file", "line", "command"]
                    .map(|part| step[part].as_str().unwrap_or("").to_owned())
                    .join(" ")
            };
            let is_good = told["possible"] == "yes";
            assert!(
                is_good || told["possible"] == "not-yet" || steps.is_empty(),
                "{machine} {address}"
            );
            assert!(!is_good || told["parameter"].is_string(), "{machine} {address}");
            let first = steps.iter().position(|step| text(step).contains("rdinit="));
            if let Some(first) = first {
                // An addon has the archive and the word, or neither.
                let has_both =
                    text(&steps[first]).contains(" --initrd=/boot/vfio-override.cpio.gz");
                let before = steps[..first].iter().map(text).collect::<String>();
                let puts = before.contains("vfio-override-early");
                let loads = has_both
                    || before.contains("initrd")
                    || before.contains("mkinitfs")
                    || before.contains("module_path");
                assert!(puts && loads, "{machine} {address}: {before}");
            }
            for advice in told["advice"].as_array().unwrap() {
                assert!(!text(advice).contains("rdinit="), "{machine} {address}: {advice}");
                assert!(
                    !advice["message"].as_str().unwrap().contains("rdinit="),
                    "{machine} {address}"
                );
            }
        }
        for command in ["plan", "plan class:03", "status", "suggest"] {
            let screen = desk.screen(&[&format!("{command} --from {machine}")]);
            assert!(
                !screen.contains("rdinit=") || screen.contains("1. "),
                "{machine} {command}: {screen}"
            );
        }
    }
}
