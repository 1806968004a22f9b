// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is touched when functions are taken: each kind by a machine that has it, and by the same one that has it not.

use std::fs;

use crate::commands::{Desk, json};
use crate::support::copy;

/// What each of these machines has: a card, a disk and a network port behind ports of their own, sound beside nothing.
const MACHINE: &str = "\
kernel 6.12.30
cmdline root=UUID=0 quiet
0000:00:00.0    060000 8086:4660 1043:8694  0 -
0000:00:01.0    060400 8086:460d 1043:8694  2 pcieport
  0000:01:00.0  030000 10de:2204 10de:1454 15 nouveau
0000:00:06.0    060400 8086:464d 1043:8694  3 pcieport
  0000:02:00.0  010802 144d:a808 144d:a801 16 nvme
0000:00:1c.0    060400 8086:7ab8 1043:8694  4 pcieport
  0000:03:00.0  020000 8086:1521 8086:0001 17 igb
0000:00:14.0    0c0330 8086:7ae0 1043:8694  5 xhci_hcd
0000:00:1f.3    040300 8086:7ad0 1043:8694  6 snd_hda_intel
disk nvme0n1 259:0 0000:02:00.0 nvme/nvme0/nvme0n1
disk nvme0n1p1 259:1 0000:02:00.0 nvme/nvme0/nvme0n1/nvme0n1p1
net eno1 0000:03:00.0 up
mount 0:5 /dev devtmpfs udev
";

const KEYBOARD: &str =
    "sys/devices/pci0000:00/0000:00:14.0/usb1/1-5/1-5:1.0/0003:046D:C31C.0001/input/input3";

/// A kind, what makes a machine one of it, what is taken there, and what is said of it then.
struct Case {
    name: &'static str,
    lines: &'static [&'static str],
    rule: &'static str,
    kind: &'static str,
    says: &'static str,
}

const KINDS: &[Case] = &[
    Case {
        name: "a USB controller with the keyboard",
        lines: &[
            "dir KEYBOARD",
            "ln sys/class/input/input3 ../../devices/pci0000:00/0000:00:14.0/usb1/1-5/1-5:1.0/0003:046D:C31C.0001/input/input3",
            "file KEYBOARD/capabilities/key 1000000000007 ff9f207ac14057ff febeffdfffefffff fffffffffffffffe",
        ],
        rule: "00:14.0",
        kind: "no-keyboard",
        says: "no USB keyboard is left to the host",
    },
    Case {
        name: "a USB controller with a disk",
        lines: &[
            "disk sda 8:0 0000:00:14.0 usb2/2-1/2-1:1.0/host0/target0:0:0/0:0:0:0/block/sda",
            "mount 8:0 /srv ext4 /dev/sda",
        ],
        rule: "00:14.0",
        kind: "in-use",
        says: "the host loses what is behind 0000:00:14.0: sda is mounted at /srv",
    },
    Case {
        name: "a display with a vGPU",
        lines: &[
            "dir sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/5ec2e7-vgpu",
            "ln sys/bus/mdev/devices/5ec2e7-vgpu ../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0/5ec2e7-vgpu",
        ],
        rule: "01:00.0",
        kind: "in-use",
        says: "the host loses what is behind 0000:01:00.0: a mediated device (vGPU) for a guest",
    },
    Case {
        name: "the console on a serial port of a card",
        lines: &[
            "0000:00:16.3 070002 8086:7aeb 1043:8694 7 serial",
            "dir sys/devices/pci0000:00/0000:00:16.3/tty/ttyS4",
            "ln sys/class/tty/ttyS4 ../../devices/pci0000:00/0000:00:16.3/tty/ttyS4",
            "file sys/class/tty/console/active ttyS4",
        ],
        rule: "00:16.3",
        kind: "in-use",
        says: "ttyS4",
    },
    Case {
        name: "the way out through a bridge",
        lines: &[
            "vnet br0 up",
            "ln sys/class/net/eno1/master ../../../../../virtual/net/br0",
            "route br0",
        ],
        rule: "03:00.0",
        kind: "network",
        says: "eno1 carries the default route, which goes through br0",
    },
    Case {
        name: "the way out through a bond with a bridge on it",
        lines: &[
            "vnet bond0 up",
            "vnet br0 up",
            "ln sys/class/net/eno1/master ../../../../../virtual/net/bond0",
            "ln sys/class/net/bond0/master ../br0",
            "route br0",
        ],
        rule: "03:00.0",
        kind: "network",
        says: "eno1 carries the default route, which goes through br0",
    },
    Case {
        name: "the way out of IPv6",
        lines: &[
            "file proc/net/ipv6_route 00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe80 00000400 \
             00000001 00000000 00000003 eno1",
        ],
        rule: "03:00.0",
        kind: "network",
        says: "eno1 has the default route",
    },
    Case {
        name: "an LVM volume, not mounted",
        lines: &[
            "mapping dm-4 252:4 nvme0n1p1 vm-disk",
            "file sys/devices/virtual/block/dm-4/dm/uuid LVM-x",
        ],
        rule: "02:00.0",
        kind: "storage",
        says: "the LVM volume",
    },
    Case {
        name: "a member of a volume group that is not active",
        lines: &["file run/udev/data/b259:1 E:ID_FS_TYPE=LVM2_member"],
        rule: "02:00.0",
        kind: "storage",
        says: "an LVM volume group",
    },
    Case {
        name: "an array, not mounted",
        lines: &["mapping md0 9:0 nvme0n1p1"],
        rule: "02:00.0",
        kind: "storage",
        says: "the array md0",
    },
    Case {
        name: "an encrypted device, not mounted",
        lines: &[
            "mapping dm-1 252:1 nvme0n1p1 luks",
            "file sys/devices/virtual/block/dm-1/dm/uuid CRYPT-LUKS2-x",
        ],
        rule: "02:00.0",
        kind: "storage",
        says: "the encrypted device",
    },
    Case {
        name: "the disk of a cache, by its holder alone",
        lines: &["holder bcache0 nvme0n1p1"],
        rule: "02:00.0",
        kind: "storage",
        says: "the cache bcache0",
    },
    Case {
        name: "a member of a ZFS pool",
        lines: &[
            "file run/udev/data/b259:1 E:ID_FS_TYPE=zfs_member",
            "dir proc/spl/kstat/zfs/tank",
        ],
        rule: "02:00.0",
        kind: "storage",
        says: "a ZFS pool",
    },
    Case {
        name: "the display of a BMC",
        lines: &[
            "0000:00:1c.7 060400 8086:7abf 0000:0000 9 pcieport",
            "  0000:05:00.0 030000 1a03:2000 1a03:2000 18 ast",
        ],
        rule: "05:00.0",
        kind: "management",
        says: "its remote console goes dark",
    },
    Case {
        name: "IPMI",
        lines: &["0000:00:1a.0 0c0701 1137:0042 0000:0000 9 -"],
        rule: "00:1a.0",
        kind: "management",
        says: "the host loses IPMI",
    },
    Case {
        name: "the flash with the firmware beside onboard sound",
        lines: &["0000:00:1f.5 0c8000 8086:7aa4 1043:8694 6 intel-spi"],
        rule: "00:1f.3+group",
        kind: "firmware",
        says: "0000:00:1f.5 gives access to the flash with this machine's firmware",
    },
    Case {
        name: "SMBus beside onboard sound",
        lines: &["0000:00:1f.4 0c0500 8086:7aa3 1043:8694 6 i801_smbus"],
        rule: "00:1f.3+group",
        kind: "firmware",
        says: "0000:00:1f.4 is the board's SMBus",
    },
    Case {
        name: "memory that the firmware reserves (RMRR)",
        lines: &["file sys/kernel/iommu_groups/15/reserved_regions 0x7b800000 0x7b80ffff direct"],
        rule: "01:00.0",
        kind: "reserved-memory",
        says: "the firmware reserves memory for group 15",
    },
    Case {
        name: "virtual functions of a physical one",
        lines: &[
            "  0000:03:10.0 020000 8086:1520 8086:0001 19 igbvf",
            "physfn 0000:03:10.0 0000:03:00.0",
        ],
        rule: "03:00.0",
        kind: "virtual-functions",
        says: "0000:03:00.0 has the virtual function 0000:03:10.0",
    },
    Case {
        name: "a virtual function with its physical one",
        lines: &[
            "  0000:03:10.0 020000 8086:1520 8086:0001 19 igbvf",
            "physfn 0000:03:10.0 0000:03:00.0",
        ],
        rule: "03:00.0,03:10.0",
        kind: "virtual-functions",
        says: "0000:03:10.0 will not be there",
    },
    Case {
        name: "the children of a VMD controller",
        lines: &[
            "0000:00:0e.0 010400 8086:467f 0000:0000 9 vmd",
            "  10000:e0:06.0 060400 8086:464d 0000:0000 9 pcieport",
            "    10000:e1:00.0 010802 144d:a80a 0000:0000 9 nvme",
        ],
        rule: "00:0e.0,10000:e1:00.0",
        kind: "never-there",
        says: "10000:e1:00.0 will not be there: 0000:00:0e.0 is taken",
    },
    Case {
        name: "a Thunderbolt controller",
        lines: &["0000:00:0d.2 088000 8086:466d 0000:0000 9 thunderbolt"],
        rule: "00:0d.2",
        kind: "thunderbolt",
        says: "0000:00:0d.2 is a Thunderbolt controller",
    },
    Case {
        name: "the processor's security processor",
        lines: &["0000:00:08.2 108000 1022:15df 1022:15df 9 ccp"],
        rule: "00:08.2",
        kind: "firmware",
        says: "it may hold the firmware's TPM",
    },
];

#[test]
fn each_kind_is_told_where_it_is_and_nowhere_else() {
    let told = |lines: &[&str], rule: &str| {
        let desk = Desk::with(&[]);
        let lines = lines.join("\n").replace("KEYBOARD", KEYBOARD);
        copy::unfold_text(&format!("{MACHINE}{lines}\n"), &desk.path("m"));
        assert!(desk.run("collect --from m copy").status.success());
        assert!(!fs::read(desk.path("copy")).unwrap().windows(6).any(|part| part == b"5ec2e7"));
        ["m", "copy"].map(|machine| {
            json(&desk.run(&format!("plan --json --from {machine} {rule}")))["advice"].clone()
        })
    };
    for Case { name, lines, rule, kind, says } in KINDS {
        let is_it = |advice: &serde_json::Value| {
            advice["kind"] == *kind && advice["message"].as_str().unwrap().contains(says)
        };
        let [with, copy] = told(lines, rule);
        assert!(with.as_array().unwrap().iter().any(is_it), "{name}: {with}");
        // A copy names disks and links otherwise.
        let has_kind = |advice: &serde_json::Value| advice["kind"] == *kind;
        assert!(copy.as_array().unwrap().iter().any(has_kind), "{name}, copied: {copy}");
        let [without, _] = told(&[], rule);
        assert!(!without.as_array().unwrap().iter().any(is_it), "{name}: {without}");
    }
}

/// Where the only display is taken nobody sees anything; where another one stays, the console can go there.
#[test]
fn the_only_display_is_the_last_console() {
    let desk = Desk::with(&[]);
    copy::unfold_text(MACHINE, &desk.path("one"));
    let other = format!("{MACHINE}0000:00:02.0 030000 8086:4680 1043:8694 1 i915 boot\n");
    copy::unfold_text(&other, &desk.path("two"));
    let told = |machine: &str| json(&desk.run(&format!("plan --json --from {machine} 01:00.0")));
    assert!(told("one")["advice"].to_string().contains("no console is left"));
    assert!(!told("two")["advice"].to_string().contains("no console is left"));
}

/// What cannot be seen is said to be unknown, and is not said to be free.
#[test]
fn what_is_not_known_is_not_called_free() {
    let desk = Desk::with(&[]);
    // No mounts are told at all, or a pool is imported whose members nothing tells.
    let blind = MACHINE.replace("mount 0:5 /dev devtmpfs udev\n", "");
    copy::unfold_text(&blind, &desk.path("blind"));
    copy::unfold_text(&format!("{MACHINE}dir proc/spl/kstat/zfs/tank\n"), &desk.path("pool"));
    copy::unfold_text(MACHINE, &desk.path("seen"));
    let told = |machine: &str| {
        let suggest = desk.run(&format!("suggest --json --from {machine} 02:00.0"));
        let plan = desk.run(&format!("plan --json --from {machine} 02:00.0"));
        (json(&suggest)["verdict"].to_string(), json(&plan)["advice"].to_string())
    };
    for machine in ["blind", "pool"] {
        let (verdict, advice) = told(machine);
        assert!(verdict.contains("is not known here"), "{machine}: {verdict}");
        assert!(!advice.contains("nothing of it is in use"), "{machine}: {advice}");
    }
    let (verdict, advice) = told("seen");
    assert!(!verdict.contains("not known"), "{verdict}");
    assert!(advice.contains("nothing of it is in use now"), "{advice}");
}
