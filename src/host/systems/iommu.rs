// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why there are no IOMMU groups, and what to do about that.

use std::collections::BTreeSet;

use super::advice;
use super::words::{Change, split, switches_iommu_off};
use crate::machine::Machine;
use crate::machine::functions::Devices;

/// Why nothing can be passed through here yet, and the remedy.
pub struct Off {
    /// One sentence, without a full stop.
    pub reason: String,
    /// What has to be changed on the kernel command line.
    pub change: Change,
    /// What has to be done elsewhere.
    pub elsewhere: Option<&'static str>,
    /// Whether there is no remedy on this machine.
    pub is_final: bool,
}

const FIRMWARE: &str =
    "In the firmware's setup, enable it: Intel calls it VT-d, AMD calls it IOMMU or AMD-Vi";
const ANY_FIRMWARE: &str = "In the firmware's setup, enable it, if there is one: Intel calls it VT-d, AMD calls it IOMMU or AMD-Vi, \
                            Arm calls it SMMU";
const LOG: &str = "See why this kernel does not use it, which it says as it starts: \
                   sudo dmesg | grep -i -e dmar -e iommu -e amd-vi";
/// Class 06, subclass 00: a host bridge.
const HOST_BRIDGE: u32 = 0x06_00;
const INTEL: u16 = 0x8086;
/// AMD, Hygon, Zhaoxin, VIA.
const OTHER_X86: [u16; 4] = [0x1022, 0x1d94, 0x1d17, 0x1106];

impl Off {
    /// The reason and the remedy in one sentence.
    pub fn sentence(&self) -> String {
        let mut remedy = Vec::new();
        if self.change.has_iommu {
            remedy.push("take that out".to_owned());
        }
        if !self.change.add.is_empty() {
            remedy.push(format!("add {}", self.change.added()));
        }
        remedy.extend(self.elsewhere.map(advice::lower));
        let lead = if remedy.is_empty() { "" } else { "; " };
        format!(
            "no function is in an IOMMU group, and vfio-pci takes nothing then: {}{lead}{}",
            self.reason,
            remedy.join("; ")
        )
    }

    /// `None` where some function is in a group: the IOMMU is on, and this kernel's own.
    pub fn of(machine: &Machine, devices: &Devices) -> Option<Self> {
        let look = Look { machine };
        if devices.has_groups() && !look.is_dom0() {
            return None;
        }
        let line = machine.cmdline().unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let vendors: BTreeSet<u16> = devices
            .all
            .iter()
            .map(|device| &device.function)
            .filter(|function| function.class.code() >> 8 == HOST_BRIDGE)
            .map(|function| function.id.vendor)
            .collect();
        let is_intel = vendors.contains(&INTEL);
        let is_x86 = is_intel || OTHER_X86.iter().any(|vendor| vendors.contains(vendor));
        let is_off = |word: &&str| {
            switches_iommu_off(word)
                && match word.trim_start_matches('"') {
                    intel if intel.starts_with("intel_iommu") => is_intel && !is_asked(&line),
                    amd if amd.starts_with("amd_iommu") => !is_intel,
                    _ => true,
                }
        };
        let words: Vec<&str> = before_init(&line).filter(is_off).collect();
        let off = |reason: &str, change, elsewhere| {
            let is_final = false;
            Some(Self { reason: reason.to_owned(), change, elsewhere, is_final })
        };
        let none = Change::default;
        let never = |reason: &str| {
            let reason = reason.to_owned();
            Some(Self { reason, change: Change::default(), elsewhere: None, is_final: true })
        };
        if let Some(reason) = look.another_has_it() {
            return never(reason);
        }
        if !words.is_empty() {
            let (words, verb) =
                (words.join(" and "), if words.len() == 1 { "switches" } else { "switch" });
            let ask = is_intel.then(|| "intel_iommu=on".to_owned());
            let change =
                Change { add: ask.into_iter().collect(), has_iommu: true, ..Change::default() };
            return Some(Self {
                reason: format!("{words} on the kernel command line {verb} the IOMMU off"),
                change,
                elsewhere: None,
                is_final: false,
            });
        }
        if look.is_guest() {
            return off(
                "this is a virtual machine to which its hypervisor gives no IOMMU, or one that is off",
                Change { add: ask_intel(is_intel, &line), ..Change::default() },
                Some(
                    "In the hypervisor, give this virtual machine an IOMMU (QEMU: -device intel-iommu,intremap=on with \
                     kernel-irqchip=split; libvirt: <iommu model='intel'>)",
                ),
            );
        }
        if !is_x86 && look.is_board() && !look.has_tables() {
            return never(
                "there is no IOMMU for PCI that this kernel knows: on a board without one, such as a Raspberry Pi, no PCI \
                 function can be passed through",
            );
        }
        match look.table(is_intel) {
            Some(true) if is_intel && !is_asked(&line) => off(
                "the firmware offers an IOMMU, and the kernel does not use it until it is asked to",
                Change { add: vec!["intel_iommu=on".to_owned()], ..Change::default() },
                None,
            ),
            Some(false) => off(
                "the firmware offers no IOMMU: it is off there, or this machine has none",
                Change { add: ask_intel(is_intel, &line), ..Change::default() },
                Some(if is_x86 { FIRMWARE } else { ANY_FIRMWARE }),
            ),
            Some(true) => off(
                "the firmware offers an IOMMU, and this kernel does not use it",
                none(),
                Some(LOG),
            ),
            None if is_x86 => off(
                "the IOMMU is off in the firmware, or this kernel was not asked to use it",
                Change { add: ask_intel(is_intel, &line), ..Change::default() },
                Some(FIRMWARE),
            ),
            None => off(
                "the IOMMU is off, or this machine has none: which of them is not known here",
                none(),
                Some(ANY_FIRMWARE),
            ),
        }
    }
}

fn ask_intel(is_intel: bool, line: &str) -> Vec<String> {
    let is_said = before_init(line).any(|word| word.starts_with("intel_iommu="));
    (is_intel && !is_said).then(|| "intel_iommu=on".to_owned()).into_iter().collect()
}

/// Whether Intel's IOMMU is asked for by name. The last word on it counts (`intel_iommu_setup` in
/// `drivers/iommu/intel/iommu.c`).
fn is_asked(line: &str) -> bool {
    let values =
        before_init(line).filter_map(|word| word.trim_matches('"').strip_prefix("intel_iommu="));
    let switches = values.flat_map(|value| value.split(','));
    switches.filter(|option| ["on", "off"].contains(option)).last() == Some("on")
}

/// The words that are the kernel's own: what stands behind `--` is init's.
fn before_init(line: &str) -> impl Iterator<Item = &str> {
    split(line).into_iter().take_while(|word| *word != "--")
}

/// What tells of an IOMMU, outside of PCI.
struct Look<'a> {
    machine: &'a Machine,
}

impl Look<'_> {
    fn says(&self, path: &str, text: &'static str) -> bool {
        let keep = |line: &str| line.contains(text).then(|| text.to_owned());
        self.machine.root.as_ref().is_some_and(|root| !root.matches(path, keep).is_empty())
    }

    fn has(&self, path: &str) -> bool {
        self.machine.root.as_ref().is_some_and(|root| root.has(path))
    }

    fn is_dom0(&self) -> bool {
        const NOBODY: &str = "00000000-0000-0000-0000-000000000000";
        self.says("sys/hypervisor/type", "xen")
            && (self.says("sys/hypervisor/uuid", NOBODY)
                || self.says("proc/xen/capabilities", "control_d"))
    }

    /// Why the IOMMU is for good another one's than this kernel's, if it is.
    fn another_has_it(&self) -> Option<&'static str> {
        if self.is_dom0() {
            return Some(
                "this is Xen's control domain, where Xen has the IOMMU and there are no groups: vfio-pci takes nothing \
                 here; Xen passes functions through by xen-pciback.hide= and xl pci-assignable-add",
            );
        }
        let is_wsl = |release: String| release.contains("microsoft-standard-WSL");
        self.machine.release().is_some_and(is_wsl).then_some(
            "this is WSL, a virtual machine to which Windows gives no IOMMU, so that no PCI function can be passed \
             through from here",
        )
    }

    fn is_guest(&self) -> bool {
        self.says("proc/cpuinfo", " hypervisor")
            || self.has("sys/hypervisor/type")
            || self.has("sys/firmware/devicetree/base/hypervisor")
            || self.says("sys/class/dmi/id/sys_vendor", "QEMU")
    }

    /// Whether this is a board, which has a device tree and no firmware that could switch anything on.
    fn is_board(&self) -> bool {
        let signs = ["sys/firmware/devicetree/base", "boot/firmware/config.txt", "boot/config.txt"];
        signs.iter().any(|sign| self.has(sign))
    }

    /// Whether the firmware's tables can be looked for at all.
    fn has_tables(&self) -> bool {
        self.has("sys/firmware/acpi/tables")
    }

    /// Whether the firmware has the table that tells where the IOMMU is.
    fn table(&self, is_intel: bool) -> Option<bool> {
        let names: &[&str] = if is_intel { &["DMAR"] } else { &["IVRS", "IORT"] };
        let has = names.iter().any(|name| self.has(&format!("sys/firmware/acpi/tables/{name}")));
        (has || self.has_tables()).then_some(has)
    }
}
