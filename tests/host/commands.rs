// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host tool as a person sees it, on machines of others.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::early::unshare;
use crate::support::{copy, program};
use crate::tool;
use tempfile::TempDir;

const PATH: &str = "/usr/bin:/bin";

/// A place with machines in it, each a directory of its name.
pub struct Desk(TempDir);

impl Desk {
    pub fn with(machines: &[&str]) -> Self {
        let desk = Self(TempDir::new().unwrap());
        fs::copy(copy::directory().join("pci.ids"), desk.path("pci.ids")).unwrap();
        for machine in machines {
            copy::unfold(machine, &desk.path(machine));
        }
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The tool with this line of arguments, run beside the machines.
    pub fn command(&self, line: &str) -> Command {
        self.ready(Command::new(tool()), line)
    }

    /// The same as nobody, where this test itself may do anything.
    fn command_of_nobody(&self, line: &str) -> Command {
        if !nix::unistd::geteuid().is_root() {
            return self.command(line);
        }
        // Wherever the tool was built may not be for everybody's eyes.
        let public = self.path("tool");
        if !public.exists() {
            program::copy(Path::new(tool()), &public);
        }
        fs::set_permissions(self.0.path(), Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(public);
        self.ready(command, line)
    }

    fn ready(&self, mut command: Command, line: &str) -> Command {
        command
            .args(["--pci-ids", "pci.ids"])
            .args(line.split_whitespace())
            .current_dir(self.0.path())
            .env_clear()
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// What is on the terminal after these commands.
    pub fn screen(&self, lines: &[&str]) -> String {
        lines.iter().map(|line| shown(line, &self.run(line))).collect()
    }
}

fn shown(line: &str, output: &Output) -> String {
    let mut screen = format!("$ vfio-override {line}\n");
    for bytes in [&output.stdout, &output.stderr] {
        screen.push_str(str::from_utf8(bytes).unwrap());
    }
    match output.status.code() {
        Some(0) => {}
        status => writeln!(screen, "(exit status {})", status.unwrap()).unwrap(),
    }
    screen.push('\n');
    screen
}

pub fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn list_shows_a_machine_at_a_glance() {
    for machine in ["b450", "layers", "one-gpu", "pi5", "two-t400", "vmd", "x58"] {
        let desk = Desk::with(&[machine]);
        let screen = desk.screen(&[&format!("list --from {machine}")]);
        insta::assert_snapshot!(format!("list_{machine}"), screen);
    }
}

#[test]
fn list_shows_what_is_asked_for() {
    let desk = Desk::with(&["b450"]);
    insta::assert_snapshot!(desk.screen(&[
        "list --from b450 --class vga",
        "list --from b450 --class 0c03",
        "list --from b450 --group 12 --class bridge",
        "list --from b450 --driver snd_hda_intel",
        "list --from b450 --class tape",
    ]));
}

#[test]
fn a_tree_shows_why_a_group_cannot_be_split() {
    let machines = ["b450", "egpu", "nic-off", "two-t400", "vmd-laptop"];
    let desk = Desk::with(&machines);
    let trees: Vec<String> = machines.iter().map(|it| format!("list --tree --from {it}")).collect();
    let some = "list --tree --from b450 --class 02".to_owned();
    let none = "list --tree --from b450 --class tape".to_owned();
    let lines: Vec<&str> = trees.iter().chain([&some, &none]).map(String::as_str).collect();
    insta::assert_snapshot!(desk.screen(&lines));
}

/// The picture in README is what the tool draws.
#[test]
fn the_tree_is_a_picture_too() {
    let desk = Desk::with(&["b450"]);
    assert!(desk.run("list --from b450 --svg groups.svg").status.success());
    let picture = fs::read_to_string(desk.path("groups.svg")).unwrap();
    let shown = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/groups.svg");
    assert_eq!(picture, fs::read_to_string(shown).unwrap(), "docs/groups.svg");
    let again = desk.run("list --from b450 --svg groups.svg");
    let error = String::from_utf8(again.stderr).unwrap();
    assert_eq!(error, "error: cannot write groups.svg: File exists (os error 17)\n");
    assert_eq!(again.status.code(), Some(2));

    // What a stranger calls things is text in it.
    let drivers = desk.path("b450/sys/bus/pci/drivers");
    fs::create_dir(drivers.join("<g>&amp;\u{7}")).unwrap();
    let function = desk.path("b450/sys/bus/pci/devices/0000:04:00.0");
    fs::remove_file(function.join("driver")).unwrap();
    std::os::unix::fs::symlink(drivers.join("<g>&amp;\u{7}"), function.join("driver")).unwrap();
    assert!(desk.run("list --sysfs b450/sys --svg other.svg").status.success());
    let picture = fs::read_to_string(desk.path("other.svg")).unwrap();
    assert!(picture.contains("(&lt;g&gt;&amp;amp;\\x07)"), "{picture}");
}

#[test]
fn plan_tells_what_each_rule_would_do() {
    let desk = Desk::with(&["two-t400", "one-gpu", "b450", "x58", "pi5", "vmd"]);
    insta::assert_snapshot!(desk.screen(&[
        "plan --from two-t400",
        "plan --from two-t400 65:00.0+slot",
        "plan --from two-t400 vfio.override=class:03,!boot_vga debug",
        "plan --from two-t400 04:00.0 b3:00.0 b3:00.1=nonesuch",
        "plan --from two-t400 class:03,!0000:16:00",
        "plan --from two-t400 17:00.*,!0c:00.0",
        "plan --from two-t400 17:00.*,?0c:00.0",
        "plan --from two-t400 17:00.0@10de:1b81 16:00.0 8086:37d2::17 1af4:1",
        "plan --from two-t400 off 17:00.0 17:00.9",
        "plan --from one-gpu 01:00.*",
        "plan --from b450",
        "plan --from b450 03:00.0+group,!01:00.*",
        "plan --from x58",
        "plan --from pi5",
        "plan --from vmd 10000:00:00.0/00.0",
    ]));
}

#[test]
fn plan_tells_what_is_in_use_behind_each_function() {
    let desk = Desk::with(&["layers"]);
    let plan = "plan --from layers 0000:01:00.0 02:00.0 00:14.0 00:0e.0 03:00.0";
    let mut screen = desk.screen(&[plan, "suggest --from layers 0000:00:14.0"]);
    // The disks of a pool are not in mountinfo, nor is this mapping in sysfs: each may be any disk.
    for mount in ["0:34 / / rw - zfs rpool/ROOT/pve-1", "0:34 / / rw - btrfs /dev/mapper/gone"] {
        let mounts = desk.path("layers/proc/self/mountinfo");
        fs::write(mounts, format!("36 35 {mount} rw\n")).unwrap();
        writeln!(screen, "{mount}").unwrap();
        screen += &desk.screen(&["plan --from layers 03:00.0"]);
    }
    insta::assert_snapshot!(screen);
}

/// Machines of people who had a problem: each answer is what somebody who knows that machine would say.
#[test]
fn who_is_touched_is_told() {
    let asked = [
        ("accelerators", "suggest 05:00.0"),
        ("altra", "suggest 0004:02:00.0"),
        ("apu", "plan c6:00.0+slot"),
        ("apu", "suggest c6:00.0"),
        ("apu-group", "suggest 01:00.0"),
        ("arc", "plan 03:00.0 03:00.1"),
        ("arc", "suggest 03:00.0"),
        ("arc", "suggest 03:00.1"),
        ("dock", "suggest 22:00.0"),
        ("egpu", "suggest 44:00.0"),
        ("hpe", "suggest 00:1f.6"),
        ("hpe", "suggest 04:00.0"),
        ("hpe", "plan 01:00.*"),
        ("keyboard", "plan 00:02.0 00:14.0+group"),
        ("lom", "suggest c3:00.0"),
        ("nic-off", "suggest 01:00.0"),
        ("nvswitch", "plan"),
        ("uplink", "plan 01:00.*"),
        ("uplink", "suggest 01:00.0"),
        ("vfs-off", "suggest 05:10.0"),
        ("vmd-laptop", "suggest 00:0e.0"),
        ("vmd-laptop", "suggest 10000:e1:00.0"),
        ("volumes", "plan 02:00.0 03:00.0 04:00.0 05:00.0"),
    ];
    let mut screen = String::new();
    for (machine, line) in asked {
        let desk = Desk::with(&[machine]);
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let line = format!("{command} --from {machine} {rest}");
        screen += &desk.screen(&[line.trim_end()]);
        // A copy gives the answers of the machine, but for names that it does not tell.
        assert!(desk.run(&format!("collect --from {machine} copy.tar")).status.success());
        let answer = |machine: &str| {
            let told = desk.run(&format!("{command} --json --from {machine} {rest}"));
            let advice = json(&told)["advice"].clone();
            let kinds =
                |advice: &serde_json::Value| (advice["kind"].clone(), advice["severity"].clone());
            advice.as_array().unwrap().iter().map(kinds).collect::<Vec<_>>()
        };
        assert_eq!(answer("copy.tar"), answer(machine), "{line}");
    }
    insta::assert_snapshot!(screen);
}

/// A server with some 600 functions and as many file systems on its disks is answered in little memory.
#[test]
fn a_large_machine_is_answered_in_bounds() {
    const PORTS: usize = 100;
    let mut text = "kernel 6.12.0\ncmdline root=/dev/sda2 ro quiet\n".to_owned();
    for port in 0..PORTS {
        let (domain, device, bus) = (port / 25, port % 25, port % 25 + 1);
        let at = format!("{domain:04x}:{bus:02x}:00");
        let group = port + 1;
        writeln!(
            text,
            "{domain:04x}:00:{device:02x}.0 060400 8086:2030 0000:0000 {group} pcieport"
        )
        .unwrap();
        let kinds = [
            "030200 10de:2335 10de:18be {} nvidia",
            "020000 8086:1572 8086:0000 {} i40e",
            "010802 144d:a808 144d:a801 {} nvme",
            "0c0330 8086:a12f 1028:0b8c {} xhci_hcd",
            "040300 10de:10f0 10de:18be {} snd_hda_intel",
        ];
        for (function, kind) in kinds.iter().enumerate() {
            let kind = kind.replace("{}", &group.to_string());
            writeln!(text, "  {at}.{function} {kind}").unwrap();
        }
    }
    for port in 0..PORTS {
        let at = format!("{:04x}:{:02x}:00", port / 25, port % 25 + 1);
        writeln!(text, "net eth{port} {at}.1 up").unwrap();
        writeln!(text, "disk nvme{port}n1 259:{} {at}.2 nvme/nvme{port}/nvme{port}n1", port * 8)
            .unwrap();
        for part in 1..=5 {
            let (number, name) = (port * 8 + part, format!("nvme{port}n1p{part}"));
            writeln!(text, "disk {name} 259:{number} {at}.2 nvme/nvme{port}/nvme{port}n1/{name}")
                .unwrap();
            writeln!(text, "mapping dm-{number} 253:{number} {name}").unwrap();
            writeln!(text, "mount 253:{number} /srv/{number} ext4 /dev/dm-{number}").unwrap();
        }
    }
    let desk = Desk::with(&[]);
    copy::unfold_text(&text, &desk.path("large"));
    let within = |line: &str| {
        // 256 MiB, the program and its libraries included.
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -v 262144; exec \"$@\"", "sh", tool()]);
        let output = desk.ready(shell, line).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let list = within("list --from large");
    assert_eq!(list.lines().count(), 1 + PORTS * 6, "{list}");
    assert_eq!(within("list --tree --from large").lines().count(), 1 + PORTS * 6 + 2);
    let plan = within("plan --from large class:0302+group");
    assert!(plan.contains("500 functions taken"), "{plan}");
    let used = "0003:19:00.2 is mass storage (class 010802): the host loses its disks: dm-793 is mounted at /srv/793";
    assert!(plan.contains(used), "{plan}");
    let suggest = within("suggest --from large 0003:19:00.0");
    assert!(
        suggest.contains("no, not as it is: 0003:19:00.0 shares IOMMU group 100 with 0003:19:00.1"),
        "{suggest}"
    );
}

#[test]
fn plan_points_at_every_mistake() {
    let desk = Desk::with(&["two-t400"]);
    insta::assert_snapshot!(
        desk.screen(&[
            "plan --from two-t400 17:00.9",
            "plan --from two-t400 17:00.0,!65:00.0+board",
        ])
    );
}

#[test]
fn status_compares_what_was_asked_with_what_is() {
    let desk = Desk::with(&["two-t400", "b450", "x58", "pi5"]);
    insta::assert_snapshot!(desk.screen(&[
        "status --from two-t400",
        "status --from b450",
        "status --from x58",
        "status --from pi5",
    ]));
}

/// What the early binary's exit status says, `plan` and `status` say too.
#[test]
fn what_is_not_applied_is_not_as_asked_with_off_and_beyond_the_limits() {
    let desk = Desk::with(&["two-t400"]);
    let many = ["!17:00.0"; 513].join(",");
    for (rules, status, told) in [
        ("off,17:00.0", 0, "rule 1 \"off\": nothing is touched"),
        ("17:00.0+Slot,off", 1, "not applied: rule 1 \"17:00.0+Slot\": invalid at column"),
        (&many, 1, "not done: more than 512 rules: the last 1 are not applied"),
        (&format!("{many},off"), 0, "nothing is touched"),
        ("0c:00.0", 1, "not applied: rule 1 \"0c:00.0\": unmatched"),
        ("?0c:00.0", 0, "as asked so far: 1 rule waits"),
    ] {
        let cmdline = desk.path("two-t400/proc/cmdline");
        fs::write(cmdline, format!("quiet vfio.override={rules}\n")).unwrap();
        assert_eq!(desk.run("plan --from two-t400").status.code(), Some(status), "{rules}");
        let output = desk.run("status --from two-t400");
        let screen = shown("status", &output);
        assert!(screen.contains(told), "{screen}");
        assert_eq!(output.status.code(), Some(status), "{screen}");
    }
}

#[test]
fn status_shows_both_ends_of_a_long_log() {
    let desk = Desk::with(&["two-t400"]);
    let record = |number| format!("5,{number},{number},-;vfio-override[9]: line {number}\n");
    let log = (0..200).map(record).collect::<String>();
    fs::write(desk.path("two-t400/dev/kmsg"), log).unwrap();
    let screen = desk.screen(&["status --from two-t400"]);
    let shown = |number: usize| screen.contains(&format!(": line {number}\n"));
    assert!((0..32).all(shown) && (168..200).all(shown), "{screen}");
    assert!(!(32..168).any(shown) && screen.contains("… 136 more"), "{screen}");
}

#[test]
fn suggest_makes_the_sturdiest_parameter() {
    let desk = Desk::with(&["two-t400", "one-gpu", "b450", "x58", "pi5", "vmd"]);
    insta::assert_snapshot!(desk.screen(&[
        "suggest --from two-t400 65:00.0",
        "suggest --from two-t400 17:00.1 65:00.0",
        "suggest --from two-t400 b3:00.1",
        "suggest --from one-gpu 01:00.0",
        "suggest --from one-gpu 00:1f.3",
        "suggest --from b450 04:00.0",
        "suggest --from b450 10:00.1",
        "suggest --from x58 02:00.0",
        "suggest --from pi5 0001:01:00.0",
        "suggest --from vmd 10000:02:00.0",
        "suggest --from vmd 10000:00:01.0",
        "suggest --from vmd 17:00.0",
    ]));
}

#[test]
fn suggest_prints_no_line_that_would_not_work() {
    let desk = Desk::with(&["two-t400"]);
    let name = "GRUB_CMDLINE_LINUX_DEFAULT";
    let parameter = "vfio.override=16:00.0/00.0@10de:1ff2+slot";
    let suggest = |file: &str, text: &str| {
        fs::write(desk.path("two-t400").join(file), text).unwrap();
        desk.screen(&["suggest --from two-t400 17:00.0"])
    };
    let screen = suggest("etc/default/grub", &format!("{name}='dyndbg=\"file dd.c  +p\" ro'\n"));
    let edited = format!("{name}='dyndbg=\"file dd.c  +p\" ro {parameter}'\n");
    assert!(screen.contains(&edited), "{screen}");
    for line in [
        format!("{name}=\"quiet\" ; X=1"),
        format!("{name}=\"quiet $X\""),
        format!("{name}=\"quiet\"' ro'"),
        format!("export {name}=\"quiet\""),
        format!("{name}+=\" quiet\""),
    ] {
        let screen = suggest("etc/default/grub", &line);
        assert!(
            screen.contains(&format!("add to the value of {name}, before a -- in it\n")),
            "{line}\n{screen}"
        );
    }
    let screen = suggest("etc/default/grub", &format!("{name}=\"quiet {parameter}\"\n"));
    let left = format!(
        "in /etc/default/grub, leave the line as it is\n       {name}=\"quiet {parameter}\"\n"
    );
    assert!(screen.contains(&left), "{screen}");
    fs::remove_file(desk.path("two-t400/etc/default/grub")).unwrap();
    fs::create_dir_all(desk.path("two-t400/etc/kernel")).unwrap();
    let screen = suggest("etc/kernel/cmdline", "# mine\nroot=/dev/sda1\n");
    assert!(screen.contains(&format!("one line\n       root=/dev/sda1 {parameter}\n")), "{screen}");
    let screen = suggest("etc/kernel/cmdline", &format!("root=/dev/sda1 {parameter}\n"));
    let left = format!("leave the one line as it is\n       root=/dev/sda1 {parameter}\n");
    assert!(screen.contains(&left), "{screen}");
}

/// What each boot loader reads, and which of them there is.
#[test]
fn suggest_writes_where_the_boot_loader_reads() {
    const NAME: &str = "GRUB_CMDLINE_LINUX_DEFAULT";
    const LOADER_INFO: &str =
        "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    let utf16 = |text: &str| {
        let text: String = text.chars().flat_map(|c| [c, '\0']).collect();
        format!("\u{6}\0\0\0{text}")
    };
    let (grub, systemd_boot) = (utf16("GRUB 2.12"), utf16("systemd-boot 252.30"));
    let quiet = format!("{NAME}=\"quiet vfio.override=off splash\"\n");
    let more = format!("{NAME}=\"${{{NAME}}} nosmt\"\n");
    let exported = format!("export {NAME}=\"nosmt\"\n");
    let proxmox =
        [("etc/kernel/proxmox-boot-uuids", "A-B"), ("etc/kernel/cmdline", "root=ZFS=rpool\n")];
    let added = format!("{NAME}+=\" quiet\"\n");
    let init = format!("{NAME}=\"quiet acpi_osi=\\\"x y\\\" -- single\"\n");
    let hosts: [(&str, &[(&str, &str)]); 14] = [
        ("GRUB, where off stands", &[("etc/default/grub", &quiet)]),
        ("GRUB, a later file decides", &[("etc/default/grub.d/50-cloud.cfg", &quiet)]),
        ("GRUB, a later file adds", &[("etc/default/grub.d/50-cloud.cfg", &more)]),
        ("GRUB, a line that only adds", &[("etc/default/grub", &added)]),
        ("GRUB, quotes inside, and words for init", &[("etc/default/grub", &init)]),
        ("GRUB, a later file is a script", &[("etc/default/grub.d/50-cloud.cfg", &exported)]),
        ("GRUB, a file that is not read", &[("etc/default/grub.d/50-cloud.cfg.old", &quiet)]),
        (
            "GRUB, by its own word",
            &[(LOADER_INFO, &grub), ("etc/kernel/cmdline", "root=/dev/sda1")],
        ),
        (
            "systemd-boot, where GRUB was",
            &[(LOADER_INFO, &systemd_boot), ("etc/kernel/cmdline", "root=/dev/sda1")],
        ),
        ("Proxmox by GRUB", &proxmox),
        ("Proxmox by systemd-boot", &[proxmox[0], proxmox[1], (LOADER_INFO, &systemd_boot)]),
        ("NixOS", &[("etc/NIXOS", "")]),
        ("rpm-ostree", &[("run/ostree-booted", ""), ("usr/bin/rpm-ostree", "")]),
        ("grubby", &[("usr/sbin/grubby", "")]),
    ];
    let mut screen = String::new();
    for (title, files) in hosts {
        let desk = Desk::with(&["two-t400"]);
        for (path, text) in files {
            let file = desk.path("two-t400").join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        // A copy of the copy has all that decides.
        assert!(desk.run("collect --from two-t400 copy.tar").status.success(), "{title}");
        let steps = |machine: &str| {
            let told = desk.run(&format!("suggest --from {machine} 17:00.0"));
            let text = String::from_utf8(told.stdout).unwrap();
            text[text.find("1. ").unwrap()..text.find("After the next boot").unwrap()].to_owned()
        };
        let (own, of_copy) = (steps("two-t400"), steps("copy.tar"));
        if own.contains("root=") {
            // What a copy does not hold it does not write.
            let is_safe = of_copy.contains(", add to the ") && !of_copy.contains('…');
            assert!(is_safe, "{title}: {of_copy}");
        } else {
            assert_eq!(of_copy, own, "{title}");
        }
        writeln!(screen, "{title}\n{own}").unwrap();
    }
    insta::assert_snapshot!(screen);
}

/// A machine without groups, with these files of its own.
fn without_groups(desk: &Desk, machine: &str, files: &[(&str, &str)]) {
    let devices = fs::read_dir(desk.path(machine).join("sys/bus/pci/devices")).unwrap();
    for device in devices {
        let _ = fs::remove_file(device.unwrap().path().join("iommu_group"));
    }
    fs::remove_dir_all(desk.path(machine).join("sys/kernel/iommu_groups")).unwrap();
    for (path, text) in files {
        let file = desk.path(machine).join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
}

/// Each reason for which there are no groups has its own remedy.
#[test]
fn suggest_says_first_why_nothing_can_be_passed_through() {
    type Host<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);
    let dmar = ("sys/firmware/acpi/tables/DMAR", "");
    let other = ("sys/firmware/acpi/tables/FACP", "");
    let xen = ("sys/hypervisor/type", "xen\n");
    let hosts: [Host<'_>; 14] = [
        ("two-t400", "quiet ro\n", &[]),
        ("two-t400", "quiet intel_iommu=off iommu=off,pt\n", &[]),
        ("two-t400", "quiet amd_iommu=off\n", &[dmar]),
        // The last one counts.
        ("two-t400", "quiet intel_iommu=off intel_iommu=on,sm_on\n", &[dmar]),
        ("two-t400", "quiet intel_iommu=on intel_iommu=sm_on,off\n", &[dmar]),
        ("two-t400", "quiet intel_iommu=on -- intel_iommu=off\n", &[dmar]),
        ("two-t400", "quiet intel_iommu=igfx_off\n", &[dmar]),
        ("two-t400", "quiet ro\n", &[other]),
        ("two-t400", "quiet ro\n", &[("proc/cpuinfo", "flags : fpu hypervisor lahf_lm\n"), other]),
        (
            "two-t400",
            "placeholder ro\n",
            &[xen, ("sys/hypervisor/uuid", "00000000-0000-0000-0000-000000000000\n")],
        ),
        ("b450", "quiet ro\n", &[other]),
        ("b450", "quiet ro\n", &[("sys/firmware/acpi/tables/IVRS", "")]),
        ("b450", "quiet acpi=off\n", &[]),
        ("pi5", "console=tty1\n", &[("sys/firmware/devicetree/base/model", "Raspberry Pi 5\n")]),
    ];
    let mut screen = String::new();
    for (machine, cmdline, files) in hosts {
        let desk = Desk::with(&[machine]);
        if machine != "pi5" {
            without_groups(&desk, machine, files);
        }
        fs::write(desk.path(machine).join("proc/cmdline"), cmdline).unwrap();
        let address = match machine {
            "two-t400" => "17:00.0",
            "b450" => "10:00.0",
            _ => "0001:01:00.0",
        };
        let title = format!("{machine}, {}{files:?}\n", cmdline.trim());
        let told = desk.screen(&[&format!("suggest --from {machine} {address}")]);
        // A copy of the copy has all that decides.
        assert!(desk.run(&format!("collect --from {machine} copy.tar")).status.success());
        let copied = desk.screen(&[&format!("suggest --from copy.tar {address}")]);
        let reason = |screen: &str| {
            let line =
                screen.lines().find(|line| line.contains("not yet: ") || line.contains("no: "));
            line.unwrap().to_owned()
        };
        assert_eq!(reason(&copied), reason(&told), "{title}");
        screen.push_str(&title);
        screen.push_str(&told);
    }
    insta::assert_snapshot!(screen);
}

#[test]
fn suggest_says_that_nothing_is_taken_while_off_stands_there() {
    let desk = Desk::with(&["two-t400"]);
    let suggest = || desk.screen(&["suggest --from two-t400 17:00.0"]);
    let told = "warning: the kernel command line says vfio.override=off: take that out";
    assert!(!suggest().contains(told), "{}", suggest());
    fs::write(desk.path("two-t400/proc/cmdline"), "quiet vfio.override=17:00.0,off\n").unwrap();
    assert!(suggest().contains(told), "{}", suggest());
}

#[test]
fn suggest_lets_a_person_choose() {
    let desk = Desk::with(&["two-t400", "vmd"]);
    let mut screen = String::new();
    for (machine, answer) in [
        ("two-t400", "3\n"),
        ("two-t400", "2, 3\n"),
        ("two-t400", "4\n"),
        ("two-t400", ""),
        ("vmd", "1\n"),
    ] {
        let line = format!("suggest --from {machine}");
        let mut command = desk.command(&line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It does not read where there is nothing to choose.
        let _ = child.stdin.take().unwrap().write_all(answer.as_bytes());
        let output = child.wait_with_output().unwrap();
        writeln!(screen, "answer {answer:?}").unwrap();
        screen.push_str(&shown(&line, &output));
    }
    insta::assert_snapshot!(screen);
}

/// A rule that is suggested takes what it says, on every machine and for every function.
#[test]
fn what_is_suggested_does_what_it_says() {
    for machine in copy::names() {
        let desk = Desk::with(&[&machine]);
        let list = json(&desk.run(&format!("list --json --from {machine}")));
        for function in list["functions"].as_array().unwrap() {
            let address = function["address"].as_str().unwrap();
            let suggestion = desk.run(&format!("suggest --json --from {machine} {address}"));
            if suggestion.status.code() == Some(2) {
                assert!(function["class"].as_str().unwrap().starts_with("06"), "{address}");
                continue;
            }
            let is_in_vain = suggestion.status.code() == Some(1);
            let suggestion = json(&suggestion);
            let Some(rules) = suggestion["parameter"].as_str() else {
                assert!(is_in_vain, "{machine} {address}: {suggestion}");
                continue;
            };
            let promised: Vec<_> = suggestion["functions"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|function| function["taken"] == true)
                .map(|function| function["address"].clone())
                .collect();
            let plan = json(&desk.run(&format!("plan --json --from {machine} {rules}")));
            let rules = plan["rules"].as_array().unwrap().iter();
            let functions = rules.flat_map(|rule| rule["functions"].as_array().unwrap());
            let mut taken: Vec<_> = functions.map(|function| function["address"].clone()).collect();
            taken.sort_by_key(ToString::to_string);
            assert_eq!(taken, promised, "{machine} {address}: {}", suggestion["parameter"]);
        }
    }
}

#[test]
fn wrong_use_is_told_with_what_would_be_right() {
    let desk = Desk::with(&["vmd"]);
    fs::write(desk.path("no.tar"), "nothing").unwrap();
    fs::write(desk.path("empty.tar"), [0; 1024]).unwrap();
    assert!(desk.run("collect --from vmd partial.tar").status.success());
    let mut tar = Command::new("tar");
    tar.args(["--delete", "proc/cmdline", "--file"]).arg(desk.path("partial.tar"));
    assert!(tar.status().unwrap().success());
    insta::assert_snapshot!(desk.screen(&[
        "",
        "lst",
        "suggest --from vmd 1:2",
        "list --from no.tar",
        "list --from empty.tar",
        "list --from partial.tar",
        "list --from nowhere",
        "list --sysfs nowhere",
        "list --from vmd --sysfs /sys",
        "release",
        "release --from vmd 00:00.0",
        "apply --timeout 0",
    ]));
}

#[test]
fn tables_are_as_wide_as_the_terminal_and_colour_is_for_terminals() {
    let desk = Desk::with(&["b450"]);
    let narrow = desk.command("list --from b450").env("COLUMNS", "72").output().unwrap();
    let screen = str::from_utf8(&narrow.stdout).unwrap();
    assert!(screen.lines().all(|line| line.chars().count() <= 72), "{screen}");
    insta::assert_snapshot!(screen);

    let has_colour = |name: &str, value: &str| {
        let output = desk.command("list --from b450").env(name, value).output().unwrap();
        output.stdout.contains(&0x1b)
    };
    assert!(!has_colour("TERM", "xterm"), "this is no terminal");
    assert!(has_colour("CLICOLOR_FORCE", "1"));
    let mut both = desk.command("list --from b450");
    let output = both.env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").output().unwrap();
    assert!(!output.stdout.contains(&0x1b));
}

#[test]
fn whoever_closes_the_pipe_has_seen_enough() {
    let desk = Desk::with(&["b450"]);
    let mut child = desk
        .command("list --from b450")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
}

#[test]
fn what_cannot_be_written_is_no_success() {
    let desk = Desk::with(&["b450"]);
    for line in
        ["list --json --from b450", "list --from b450", "--help", "plan --help", "--version"]
    {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = desk.command(line).stdout(full).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains("cannot write to standard output: "), "{line}: {errors}");
        assert_eq!(output.status.code(), Some(2), "{line}");
    }
}

#[test]
fn an_error_that_nobody_can_read_is_no_crash() {
    let desk = Desk::with(&["two-t400", "iommu-switched-off"]);
    for (line, code) in [
        ("list --from nowhere", 2),
        ("suggest --from two-t400", 2),
        ("frobnicate", 2),
        ("suggest --from iommu-switched-off c1:00.0", 1),
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let status = desk.command(line).stderr(full).stdout(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{line}");
    }
}

#[test]
fn plan_without_a_rule_says_why_there_is_none() {
    let desk = Desk::with(&["two-t400"]);
    let empty = desk.command("plan --from two-t400").arg("").output().unwrap();
    assert_eq!(
        String::from_utf8(empty.stdout).unwrap(),
        "no rule in vfio.override=: nothing is taken\n"
    );
    fs::write(desk.path("line"), "x".repeat(70_000) + " vfio.override=65:00.0").unwrap();
    let long = desk.screen(&["plan --sysfs two-t400/sys --cmdline line"]);
    assert!(long.contains("warning: ") && !long.contains("no vfio.override="), "{long}");
    let parameter = json(&desk.run("plan --json --from two-t400 vfio.override=65:00.0"));
    assert_eq!(parameter["parameter"][0], "65:00.0");
}

#[test]
fn a_module_that_is_loaded_is_missing_in_the_initramfs_all_the_same() {
    let desk = Desk::with(&["two-t400"]);
    fs::write(desk.path("two-t400/initramfs.list"), "usr/lib/vfio-override/vfio-override-early\n")
        .unwrap();
    fs::create_dir_all(desk.path("two-t400/sys/bus/pci/drivers/vfio-pci")).unwrap();
    let screen = desk.screen(&["plan --from two-t400 65:00.0"]);
    assert!(screen.contains("vfio-pci is not in the initramfs"), "{screen}");
}

#[test]
fn a_copy_is_as_good_as_the_machine() {
    for machine in copy::names() {
        let desk = Desk::with(&[&machine]);
        let collected = desk.run(&format!("collect --from {machine} copy.tar"));
        assert_eq!(collected.status.code(), Some(0), "{}", shown("collect", &collected));
        let links = fs::read_dir(desk.path(&machine).join("sys/class/net")).into_iter().flatten();
        let mut links: Vec<String> =
            links.map(|link| link.unwrap().file_name().into_string().unwrap()).collect();
        links.sort();
        for command in [
            "list --json",
            "plan --json",
            "plan --json class:03+group=auto",
            "plan --json class:01 class:02=pci-stub class:0c",
            "status --json",
        ] {
            let original = desk.run(&format!("{command} --from {machine}")).stdout;
            let mut original = String::from_utf8(original).unwrap();
            for (number, link) in links.iter().enumerate() {
                original = original.replace(link, &format!("net{number}"));
            }
            let copy = desk.run(&format!("{command} --from copy.tar")).stdout;
            assert_eq!(String::from_utf8(copy).unwrap(), original, "{machine}: {command}");
        }
        let again = desk.run(&format!("collect --from {machine} copy.tar"));
        assert_eq!(again.status.code(), Some(2), "no file is written over");
    }
}

#[test]
fn a_machine_without_functions_is_a_machine() {
    let desk = Desk::with(&[]);
    fs::create_dir_all(desk.path("none/sys/bus/pci/devices")).unwrap();
    fs::create_dir_all(desk.path("none/proc")).unwrap();
    fs::write(desk.path("none/proc/cmdline"), "quiet\n").unwrap();
    assert!(desk.run("collect --from none none.tar").status.success());
    for from in ["none", "none.tar"] {
        let screen = desk.screen(&[&format!("list --from {from}")]);
        assert!(screen.ends_with("\nthis machine has no PCI functions\n\n"), "{screen}");
        for (line, status) in [("plan 01:00.0", 1), ("status", 0), ("claims", 0), ("suggest", 2)] {
            let output = desk.run(&format!("{line} --from {from}"));
            assert_eq!(output.status.code(), Some(status), "{}", shown(line, &output));
        }
    }
    // The machine itself may have no bus at all.
    let mount = r#"mount -t tmpfs tmpfs /sys && mkdir -p /sys/bus && exec "$@""#;
    let screen = within(&desk, mount, "sh", "list");
    assert!(screen.ends_with("\nthis machine has no PCI functions\n\n"), "{screen}");
}

#[test]
fn a_copy_that_is_interrupted_leaves_no_file() {
    let desk = Desk::with(&["two-t400"]);
    for delay in ["0.001", "0.01", "0.03", "0.06", "0.1"] {
        let mut command = Command::new("timeout");
        command.args(["--signal=INT", delay, tool()]);
        let status =
            desk.ready(command, "collect --from two-t400 copy.tar").env("PATH", PATH).status();
        if desk.path("copy.tar").exists() {
            let whole = desk.run("list --from copy.tar");
            assert!(whole.status.success(), "{delay}: {:?} {}", status, shown("list", &whole));
            fs::remove_file(desk.path("copy.tar")).unwrap();
        }
        assert_eq!(fs::read_dir(desk.0.path()).unwrap().count(), 2, "nothing else is left");
    }
}

#[test]
fn a_copy_holds_no_secrets() {
    let desk = Desk::with(&["two-t400"]);
    let secret = "cryptdevice=UUID=5ec2e7:luks password=5ec2e7 quiet\n";
    fs::write(desk.path("two-t400/proc/cmdline"), secret).unwrap();
    fs::write(
        desk.path("two-t400/etc/default/grub"),
        "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet key=5ec2e7\"\nGRUB_PASSWORD=5ec2e7\n",
    )
    .unwrap();
    let mounts = "36 35 259:2 / /home/5ec2e7 rw - ext4 /dev/nvme0n1p2 rw,label=5ec2e7\n\
        37 36 0:34 / / rw - btrfs /dev/mapper/luks-5ec2e7 rw\n\
        38 36 0:35 / /srv rw - zfs 5ec2e7/srv rw\n\
        39 36 253:0 / /var rw - ext4 /dev/mapper/5ec2e7--vg-var rw\n\
        40 36 9:127 / /home rw - ext4 /dev/md/5ec2e7 rw\n";
    fs::write(desk.path("two-t400/proc/self/mountinfo"), mounts).unwrap();
    let swaps = "Filename Type\n/home/5ec2e7/swap file\n/dev/mapper/5ec2e7--vg-swap partition\n";
    fs::write(desk.path("two-t400/proc/swaps"), swaps).unwrap();
    let dm = desk.path("two-t400/sys/devices/virtual/block/dm-0");
    fs::create_dir_all(dm.join("dm")).unwrap();
    fs::write(dm.join("dev"), "253:0\n").unwrap();
    fs::write(dm.join("dm/name"), "5ec2e7--vg-var\n").unwrap();
    let class = desk.path("two-t400/sys/class");
    std::os::unix::fs::symlink("../../devices/virtual/block/dm-0", class.join("block/dm-0"))
        .unwrap();
    // mdadm with `CREATE names=yes`, on the disk that has the root file system, too.
    let md = desk.path("two-t400/sys/devices/virtual/block/md_5ec2e7");
    fs::create_dir_all(md.join("slaves")).unwrap();
    fs::write(md.join("dev"), "9:127\n").unwrap();
    let part = fs::canonicalize(class.join("block/nvme0n1p2")).unwrap();
    let part = part.strip_prefix(desk.path("two-t400/sys").canonicalize().unwrap()).unwrap();
    std::os::unix::fs::symlink(
        Path::new("../../../../../").join(part),
        md.join("slaves/nvme0n1p2"),
    )
    .unwrap();
    std::os::unix::fs::symlink(
        "../../devices/virtual/block/md_5ec2e7",
        class.join("block/md_5ec2e7"),
    )
    .unwrap();
    let link = fs::read_link(class.join("net/eno1")).unwrap();
    let place = class.join("net").join(&link);
    fs::rename(&place, place.with_file_name("enx5ec2e7")).unwrap();
    fs::remove_file(class.join("net/eno1")).unwrap();
    let link = link.with_file_name("enx5ec2e7");
    std::os::unix::fs::symlink(link, class.join("net/enx5ec2e7")).unwrap();
    let routes = "Iface Destination\nenx5ec2e7 00000000\nwg-5ec2e7 0000A8C0\n";
    fs::write(desk.path("two-t400/proc/net/route"), routes).unwrap();
    let serial = desk.path("two-t400/sys/bus/pci/devices/0000:04:00.0/serial");
    fs::write(serial, "5ec2e7\n").unwrap();
    fs::write(desk.path("two-t400/dev/kmsg"), "6,0,0,-;Command line: password=5ec2e7\n").unwrap();
    let output = desk.run("collect --from two-t400 copy.tar");
    insta::assert_snapshot!(shown("collect --from two-t400 copy.tar", &output));
    let copy = fs::read(desk.path("copy.tar")).unwrap();
    assert!(!copy.windows(6).any(|text| text == b"5ec2e7"));
    // It is known all the same.
    let plan = desk.screen(&["plan --from copy.tar 04:00.0 b3:00.0"]);
    assert!(plan.contains("nvme0n1p2 is mounted at …"), "{plan}");
    assert!(plan.contains("net1 has the default route"), "{plan}");
    assert!(plan.contains("block0"), "{plan}");
    let files: Vec<String> = tar::Archive::new(&copy[..])
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .filter(|path| !path.starts_with("sys/"))
        .collect();
    insta::assert_snapshot!("files_of_a_copy", files.join("\n"));
}

#[test]
fn a_copy_is_never_changed() {
    let desk = Desk::with(&["two-t400", "b450"]);
    insta::assert_snapshot!(desk.screen(&[
        "apply --from two-t400 65:00.0+slot",
        "release --from b450 10:00.0 10:00.1",
        "release --json --from b450 10:00.0",
    ]));
}

/// The tree as it is, to see later whether it was touched.
fn state_of(directory: &Path) -> String {
    let listing = Command::new("find").arg(directory).args(["-printf", "%p %l %m %T@\\n"]).output();
    String::from_utf8(listing.unwrap().stdout).unwrap()
}

#[test]
fn looking_changes_nothing_and_takes_no_privilege() {
    for machine in copy::names() {
        let desk = Desk::with(&[&machine]);
        let root = desk.path(&machine);
        let status = Command::new("chmod").args(["-R", "a-w,a+rX"]).arg(&root).status().unwrap();
        assert!(status.success());
        let before = state_of(&root);
        let address = format!("--from {machine}");
        for command in ["list", "plan class:03+group", "plan", "status"] {
            let line = format!("{command} {address}");
            let ours = desk.run(&line);
            let theirs = desk.command_of_nobody(&line).env("PATH", PATH).output().unwrap();
            assert_eq!(shown(&line, &theirs), shown(&line, &ours));
            assert_eq!(state_of(&root), before, "{line}");
        }
        let writable = Command::new("chmod").args(["-R", "u+w"]).arg(&root).status().unwrap();
        assert!(writable.success());
    }
}

/// A machine to be changed: `--sysfs` is a directory like /sys.
fn at(machine: &str) -> String {
    format!("--sysfs {machine}/sys --cmdline {machine}/proc/cmdline")
}

#[test]
fn apply_and_release_tell_each_function() {
    let desk = Desk::with(&["x58", "two-t400"]);
    let x58 = at("x58");
    insta::assert_snapshot!(desk.screen(&[
        &format!("apply {x58} 02:00.*"),
        &format!("status {x58}"),
        &format!("release {x58} 02:00.0 02:00.1"),
        &format!("release --json {x58} 02:00.0"),
        // In a directory no driver lets go.
        &format!("apply {} 17:00.0", at("two-t400")),
        &format!("apply --json {} 17:00.9", at("two-t400")),
    ]));
}

/// What the tool says where a write to this file does not end: the kernel's ends when the driver's own work does.
fn hanging(desk: &Desk, file: &str, line: &str) -> String {
    let file = fs::canonicalize(desk.path("two-t400/sys/bus/pci").join(file)).unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "--inject=pwrite64:delay_enter=5000000", "-P"]);
    strace.arg(file).arg(tool());
    let mut output = desk.ready(strace, line).env("PATH", PATH).output().unwrap();
    // It says of a process that was killed while it hung that this is unusual.
    let err = String::from_utf8(output.stderr).unwrap();
    let own = err.split_inclusive('\n').filter(|line| !line.starts_with("strace: "));
    output.stderr = own.collect::<String>().into_bytes();
    shown(line, &output)
}

#[test]
fn a_driver_that_does_not_let_go_is_named_in_time() {
    let desk = Desk::with(&["two-t400"]);
    let hangs = |line: &str| hanging(&desk, "drivers/nouveau/unbind", line);
    insta::assert_snapshot!(
        hangs(&format!("apply --timeout 2 {} 17:00.0 65:00.0", at("two-t400")))
            + &hangs(&format!("apply --json --timeout 2 {} 17:00.0", at("two-t400")))
    );
    let kept = |function: &str| {
        let attribute = format!("two-t400/sys/bus/pci/devices/{function}/driver_override");
        fs::read_to_string(desk.path(&attribute)).unwrap()
    };
    // All overrides come first.
    assert_eq!([kept("0000:17:00.0"), kept("0000:65:00.0")], ["vfio-pci\n"; 2]);
}

#[test]
fn what_becomes_of_each_function_is_said_where_one_hangs() {
    let desk = Desk::with(&["two-t400"]);
    let hangs = |line: &str| hanging(&desk, "drivers_probe", line);
    let bind = |function: &str, driver: Option<&str>| {
        let link = desk.path("two-t400/sys/bus/pci/devices").join(function).join("driver");
        fs::remove_file(&link).unwrap();
        if let Some(driver) = driver {
            std::os::unix::fs::symlink(format!("../../bus/pci/drivers/{driver}"), link).unwrap();
        }
    };
    fs::create_dir_all(desk.path("two-t400/sys/bus/pci/drivers/vfio-pci")).unwrap();
    let at = at("two-t400");
    bind("0000:17:00.0", None);
    let mut screen = hangs(&format!("apply --timeout 1 {at} 17:00.0 65:00.0"));
    bind("0000:65:00.0", Some("vfio-pci"));
    // The first has its override, and no driver; the second is not reached.
    screen += &hangs(&format!("release --timeout 1 {at} 17:00.0 65:00.0"));
    screen += &hangs(&format!("release --json --timeout 1 {at} 17:00.0 65:00.0"));
    insta::assert_snapshot!(screen);
}

#[test]
fn who_may_not_change_anything_is_told_so() {
    let desk = Desk::with(&["x58"]);
    let chmod = |mode: &str| {
        let done = Command::new("chmod").args(["-R", mode]).arg(desk.path("x58")).status();
        assert!(done.unwrap().success());
    };
    chmod("a-w,a+rX");
    let screen: String = ["apply", "release"]
        .iter()
        .map(|command| {
            let line = format!("{command} {} 02:00.0", at("x58"));
            shown(&line, &desk.command_of_nobody(&line).env("PATH", PATH).output().unwrap())
        })
        .collect();
    chmod("u+w");
    insta::assert_snapshot!(screen);
}

/// What the tool says on `machine` as if it were this host, with `modprobe` as this script, and what it wrote to
/// the kernel log.
fn live(desk: &Desk, machine: &str, modprobe: &str, line: &str) -> (String, String) {
    fs::create_dir_all(desk.path("bin")).unwrap();
    program::write(&desk.path("bin/modprobe"), &format!("#!/bin/sh\n{modprobe}\n"));
    fs::write(desk.path("records"), "").unwrap();
    let mount = r#"mount --bind "$0/sys" /sys && mount --bind "$0/proc/cmdline" /proc/cmdline \
        && mount --bind records /dev/kmsg && exec "$@""#;
    let screen = within(desk, mount, machine, line);
    (screen, fs::read_to_string(desk.path("records")).unwrap())
}

/// What the tool says in a mount name space of its own, where this shell script starts it; `argument` is its `$0`.
fn within(desk: &Desk, script: &str, argument: &str, line: &str) -> String {
    let shell = unshare(&["--mount", "sh", "-c", script, argument, tool()]);
    let path = format!("{}:{PATH}:/usr/sbin:/sbin", desk.path("bin").display());
    shown(line, &desk.ready(shell, line).env("PATH", path).output().unwrap())
}

#[test]
fn a_driver_that_cannot_be_loaded_is_no_success() {
    let desk = Desk::with(&["x58"]);
    let screen: String = ["apply 02:00.0", "release 02:00.0"]
        .iter()
        .map(|line| live(&desk, "x58", "exit 7", line).0)
        .collect();
    insta::assert_snapshot!(screen);
}

#[test]
fn an_override_that_another_program_wrote_meanwhile_is_told() {
    let desk = Desk::with(&["x58"]);
    let other = "echo pci-stub > /sys/bus/pci/devices/0000:02:00.0/driver_override";
    let (screen, log) = live(&desk, "x58", other, "apply 02:00.0");
    let says = "0000:02:00.0: its driver_override is pci-stub in the end, not vfio-pci: another program, or another \
                apply, wrote it meanwhile";
    assert!(screen.contains(says) && log.contains(says), "{screen}\n{log}");
    assert!(screen.contains("not everything is as asked\n(exit status 1)"), "{screen}");
}

#[test]
fn a_function_that_went_away_meanwhile_is_told() {
    let desk = Desk::with(&["x58"]);
    fs::write(desk.path("records"), "").unwrap();
    // Only the process that looks first finds the function, in its own directory of procfs: the one that changes
    // something is its child.
    let script = r#"link="$0/sys/bus/pci/devices/0000:02:00.0"; function=$(readlink -f "$link") \
        && mkdir "$0/sys/proc" && mount --bind "$function" /proc/$$/task/$$/net && mount --rbind /proc "$0/sys/proc" \
        && ln -sfn "../../../proc/self/task/$$/net" "$link" \
        && mount --rbind "$0/sys" /sys && mount --bind "$0/proc/cmdline" /proc/cmdline \
        && mount --bind records /dev/kmsg && exec "$@""#;
    let screen = within(&desk, script, "x58", "apply 02:00.0");
    let log = fs::read_to_string(desk.path("records")).unwrap();
    let says = "0000:02:00.0: no rule takes it any more: it went away while the rules were applied, or is another \
                function now";
    assert!(screen.contains(says) && log.contains(says), "{screen}\n{log}");
    assert!(screen.contains("not everything is as asked\n(exit status 1)"), "{screen}");
}

#[test]
fn apply_keeps_a_function_for_the_driver_that_autos_module_registered() {
    for (registers, kept, says) in [
        ("pci:other", "other", "driver_override set to other, "),
        ("platform:other", "vfio-pci", "auto finds no PCI driver of its module (ENOENT)"),
    ] {
        let desk = Desk::with(&["x58"]);
        let modprobe =
            format!("mkdir -p /sys/module/vfio_pci/drivers/{registers} /sys/bus/pci/drivers/other");
        let (screen, log) = live(&desk, "x58", &modprobe, "apply 02:00.0=auto");
        assert!(log.contains(says), "{screen}\n{log}");
        let path = desk.path("x58/sys/bus/pci/devices/0000:02:00.0/driver_override");
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().next(), Some(kept), "{screen}\n{log}");
    }
}

#[test]
fn status_names_the_character_device_of_a_function() {
    let desk = Desk::with(&["two-t400"]);
    let device = desk.path("two-t400/sys/bus/pci/devices/0000:65:00.0");
    fs::create_dir_all(device.join("vfio-dev/vfio3")).unwrap();
    fs::write(desk.path("two-t400/proc/cmdline"), "vfio.override=65:00.0\n").unwrap();
    let screen = desk.screen(&["status --from two-t400"]);
    assert!(screen.contains("65:00.0: is /dev/vfio/devices/vfio3 for iommufd"), "{screen}");
    let status = json(&desk.run("status --json --from two-t400"));
    let functions = status["functions"].as_array().unwrap();
    let card = functions.iter().find(|function| function["address"] == "0000:65:00.0").unwrap();
    assert_eq!(card["character_device"], "/dev/vfio/devices/vfio3");
}

#[test]
fn claims_tell_what_is_kept_on_purpose() {
    let desk = Desk::with(&["two-t400"]);
    let line = "quiet vfio.override=65:00.0,17:00.0=none\n";
    fs::write(desk.path("two-t400/proc/cmdline"), line).unwrap();
    let modules = desk.path("two-t400/lib/modules");
    let release = fs::read_dir(&modules).unwrap().next().unwrap().unwrap().path();
    let aliases =
        "alias pci:v000010DEd*sv*sd*bc03sc*i* nouveau\nalias pci:v0000144Dd*sv*sd*bc*sc*i* nvme\n";
    fs::write(release.join("modules.alias"), aliases).unwrap();
    let built_in = "nvme.alias=pci:v*d*sv*sd*bc01sc08i02*\0simple.alias=pci:v000010DEd00001FF2sv*sd*bc03sc*i*\0";
    fs::write(release.join("modules.builtin.modinfo"), built_in).unwrap();
    let device = desk.path("two-t400/sys/bus/pci/devices/0000:65:00.0");
    fs::write(device.join("driver_override"), "vfio-pci\n").unwrap();
    fs::remove_file(device.join("driver")).unwrap();

    fs::create_dir(desk.path("run")).unwrap();
    let output = desk.run("claims --from two-t400 --publish run/claims.json");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    let published = fs::read_to_string(desk.path("run/claims.json")).unwrap();
    assert_eq!(published, String::from_utf8(desk.run("claims --from two-t400").stdout).unwrap());
    insta::assert_snapshot!(published);
    let mode = fs::metadata(desk.path("run/claims.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    assert_eq!(fs::read_dir(desk.path("run")).unwrap().count(), 1);
}

#[test]
fn a_kernel_log_that_cannot_be_written_is_told() {
    let desk = Desk::with(&["x58"]);
    fs::write(desk.path("records"), "").unwrap();
    fs::set_permissions(desk.path("records"), Permissions::from_mode(0o000)).unwrap();
    let mount = r#"mount --bind x58/sys /sys && mount --bind records /dev/kmsg \
        && exec setpriv --bounding-set=-all --inh-caps=-all -- "$@""#;
    let screen = within(&desk, mount, "sh", "apply 02:00.0");
    assert!(
        screen.contains("not recorded in the kernel log, /dev/kmsg: Permission denied"),
        "{screen}"
    );
    assert!(screen.contains("driver_override set to vfio-pci"), "{screen}");
}

#[test]
fn this_host_is_this_host_however_it_is_named() {
    let desk = Desk::with(&["x58"]);
    fs::write(desk.path("line"), "vfio.override=02:00.0\n").unwrap();
    fs::create_dir(desk.path("etc")).unwrap();
    std::os::unix::fs::symlink("/sys", desk.path("etc/sys")).unwrap();
    for named in ["--cmdline line", "--sysfs /sys --cmdline line", "--sysfs etc/sys --cmdline line"]
    {
        let (screen, log) = live(&desk, "x58", "exit 7", &format!("apply {named}"));
        assert!(screen.contains("modprobe vfio-pci ended with status 7"), "{named}\n{screen}");
        assert!(log.contains("]: apply on the running host\n"), "{named}\n{log}");
        assert!(log.contains("rule 1: driver_override"), "{named}\n{log}");
    }
}

#[test]
fn an_initramfs_that_is_for_root_only_is_said_to_be() {
    let desk = Desk::with(&["x58"]);
    let told = "is for root only: to see whether it holds the early binary and the drivers, run this with sudo";
    // Root in a name space of its own that has given up what makes root read everything.
    let mount = r#"mount --bind x58/sys /sys && mount -t tmpfs tmpfs /boot \
        && install -m "$0" /dev/null "/boot/initrd.img-$(uname -r)" \
        && exec setpriv --bounding-set=-all --inh-caps=-all -- "$@""#;
    for (mode, is_told) in [("000", true), ("400", false)] {
        let screen = within(&desk, mount, mode, "plan 02:00.0");
        assert!(screen.contains("rule 1 \"02:00.0\""), "{screen}");
        assert_eq!(screen.contains(told), is_told, "{screen}");
    }
}

#[test]
fn a_directory_is_not_judged_by_this_host() {
    let desk = Desk::with(&["two-t400"]);
    let command = "--sysfs two-t400/sys plan 04:00.0 b3:00.0";
    // In the namespace this host's procfs has the mounts and routes of that very machine.
    let mount = r#"mount --bind two-t400/proc /proc && exec "$@""#;
    let screen = within(&desk, mount, "sh", command);
    assert!(screen.contains("the host loses its disks\n"), "{screen}");
    // The state of a link is in sysfs, the routes are not.
    assert!(screen.contains("the host loses its links: eno1 is up\n"), "{screen}");
}

#[test]
fn what_json_holds_is_as_the_schema_says() {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/vfio-override.schema.json");
    let mut schemas = boon::Schemas::new();
    let index = boon::Compiler::new().compile(schema.to_str().unwrap(), &mut schemas).unwrap();
    let mut checked = std::collections::BTreeSet::new();
    let mut check = |desk: &Desk, line: &str| {
        let output = desk.run(line);
        let value = json(&output);
        if let Err(error) = schemas.validate(&value, index) {
            panic!("{line}: {error:#}\n{value:#}");
        }
        checked.insert(value["command"].as_str().unwrap().to_owned());
    };
    for machine in copy::names() {
        let desk = Desk::with(&[&machine]);
        let first = &json(&desk.run(&format!("list --json --from {machine}")))["functions"];
        let first = first[2]["address"].as_str().unwrap().to_owned();
        for command in [
            "list",
            "plan",
            "plan class:03+group=auto 1:2:3 off",
            "plan 00:00.0 1:1 99:99 !class:02",
            "status",
            "claims",
            "collect copy.tar",
            &format!("release {first}"),
            "apply class:02",
        ] {
            check(&desk, &format!("{command} --json --from {machine}"));
        }
        check(&desk, &format!("apply --json {} class:04 99:99", at(&machine)));
        check(&desk, &format!("release --json {} {first}", at(&machine)));
    }
    let desk = Desk::with(&["b450", "one-gpu"]);
    check(&desk, "suggest --json --from b450 04:00.0");
    check(&desk, "suggest --json --from one-gpu 01:00.0");
    fs::write(desk.path("one-gpu/proc/cmdline"), "vfio.override=off\n").unwrap();
    check(&desk, "suggest --json --from one-gpu 01:00.0");
    let all = ["apply", "claims", "collect", "list", "plan", "release", "status", "suggest"];
    assert!(checked.iter().eq(all), "{checked:?}");
}

#[test]
fn nothing_in_a_copy_reaches_the_terminal_as_a_command() {
    const EVIL: &str = "\x1b]0;evil\x07\u{9b}2J\x7f\r\u{202e}\u{2066}\u{200f}";
    let desk = Desk::with(&["two-t400"]);
    let machine = desk.path("two-t400");
    let append = |path: &str, text: &str| {
        let mut file =
            fs::OpenOptions::new().append(true).create(true).open(machine.join(path)).unwrap();
        writeln!(file, "{text}").unwrap();
    };
    let sys = machine.join("sys");
    let rename = |class: &str, old: &str, new: &str| {
        let class = sys.join("class").join(class);
        fs::rename(class.join(old), class.join(new)).unwrap();
    };
    rename("net", "eno1", &format!("eno{EVIL}"));
    append("proc/net/route", &format!("eno{EVIL} 00000000"));
    append("proc/self/mountinfo", &format!("36 35 259:2 / /{EVIL} rw - ext4 /dev/x rw"));
    append("dev/kmsg", &format!("4,9,9,-;vfio-override[1]: 0000:65:00.0: {EVIL}"));
    append("etc/default/grub", &format!("GRUB_CMDLINE_LINUX_DEFAULT=\"{EVIL}\""));
    append("proc/cmdline", &format!(" vfio.override=65:00.0,{EVIL}"));
    let driver = sys.join("bus/pci/devices/0000:17:00.0/driver");
    fs::remove_file(&driver).unwrap();
    std::os::unix::fs::symlink(format!("../{EVIL}"), driver).unwrap();
    fs::write(sys.join("bus/pci/devices/0000:17:00.1/driver_override"), EVIL).unwrap();

    let mut shown = String::new();
    for line in [
        "list",
        "plan",
        "plan b3:00.0,04:00.0",
        "status",
        "suggest 65:00.0",
        "suggest b3:00.0",
        "suggest",
        "apply",
        "release 17:00.0 17:00.1",
    ] {
        for json in ["", " --json"] {
            let output = desk.run(&format!("{line} --from two-t400{json}"));
            for bytes in [output.stdout, output.stderr] {
                let text = String::from_utf8(bytes).unwrap();
                let obeyed = |letter: char| {
                    letter.is_control() || matches!(letter, '\u{200f}' | '\u{202e}' | '\u{2066}')
                };
                let control = text.chars().find(|&letter| obeyed(letter) && letter != '\n');
                assert_eq!(control, None, "{line}{json}: {text:?}");
                shown += &text;
            }
        }
    }
    // As it is escaped in words, in JSON and in what the early binary says.
    for evil in [r"\u{9b}2J", r"\u009b2J", r"\x1b]0;evil", r"\u{202e}", r"\u202e"] {
        assert!(shown.contains(evil), "{evil}\n{shown}");
    }
}

#[test]
fn a_copy_that_leads_out_of_itself_is_not_taken() {
    let desk = Desk::with(&["two-t400"]);
    fs::write(desk.path("secret"), "secret").unwrap();
    let link = desk.path("two-t400").join("proc/swaps");
    std::os::unix::fs::symlink("../../secret", link).unwrap();
    let output = desk.run("list --from two-t400");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: cannot take two-t400 for a copy of a machine: proc/swaps leads out of the copy\n"
    );
}

#[test]
fn a_directory_is_not_left_by_links_in_it() {
    let desk = Desk::with(&["two-t400"]);
    let sys = desk.path("two-t400/sys");
    let card = sys.join("bus/pci/devices/0000:65:00.0");
    let outside = desk.path("outside");
    fs::create_dir(&outside).unwrap();
    for attribute in ["modalias", "driver_override"] {
        fs::copy(card.join(attribute), outside.join(attribute)).unwrap();
    }
    fs::remove_file(&card).unwrap();
    std::os::unix::fs::symlink("../../../../../outside", &card).unwrap();
    let output = desk.run("plan --sysfs two-t400/sys 65:00.0");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("modalias: EXDEV; a link leads out of the sysfs root"), "{text}");
}

#[test]
fn what_the_log_has_lost_is_in_the_journal() {
    let desk = Desk::with(&["two-t400"]);
    let journal = desk.path("bin/journalctl");
    fs::create_dir(desk.path("bin")).unwrap();
    // What journalctl 252 prints for records of /dev/kmsg, if it is asked as we ask.
    let script = "#!/bin/sh\n\
        [ \"$1 $2 $3 $4\" = '--boot --quiet --no-pager --output=short-monotonic' ] || exit 1\n\
        if [ \"$5\" = --dmesg ]; then exec cat first; fi\n\
        [ \"$5 $6\" = '_TRANSPORT=kernel SYSLOG_IDENTIFIER=vfio-override' ] || exit 1\n\
        echo '[    1.234567] tower vfio-override[75]: 0000:65:00.0 [10de:1ff2] class 030000 group 61, rule 1: \
        driver_override set to vfio-pci, unbound from nouveau, bound to vfio-pci'\n";
    program::write(&journal, script);
    fs::write(desk.path("line"), "quiet vfio.override=65:00.0\n").unwrap();
    let mount = r#"mount --bind two-t400/sys /sys && mount --bind line /proc/cmdline \
        && mount --bind "$0" /dev/kmsg && exec "$@""#;
    let run = |line: &str| {
        let shell = unshare(&["--mount", "sh", "-c", mount, "records", tool()]);
        let path = format!("{}:{PATH}:/usr/sbin:/sbin", desk.path("bin").display());
        shown(line, &desk.ready(shell, line).env("PATH", path).output().unwrap())
    };
    // The first record is the 300th: what came before is lost, and the journal may have lost it too.
    let (start, middle) = ("Linux version 6.1", "usb 1-1: new device");
    let lost = format!("6,300,900000000,-;{middle}\n");
    let taken = "0000:65:00.0 [10de:1ff2] class 030000 group 61, rule 1: driver_override set";
    let short = "the journal does not reach back to the start of the boot";
    let never = "vfio-override did not run at this boot";
    for (copy, records, first, says) in [
        ("whole.tar", lost.as_str(), start, [true, false, false]),
        ("short.tar", &lost, middle, [true, true, false]),
        ("kernel.tar", "6,0,0,-;Linux version 6.1\n", start, [false, false, true]),
    ] {
        fs::write(desk.path("records"), records).unwrap();
        fs::write(desk.path("first"), format!("[    0.000000] tower kernel: {first}\n")).unwrap();
        let screen = run("status");
        assert_eq!([taken, short, never].map(|text| screen.contains(text)), says, "{screen}");
        run(&format!("collect {copy}"));
        let screen = run(&format!("status --from {copy}"));
        assert_eq!(screen.contains(taken), says[0], "{screen}");
    }
}

#[test]
fn what_was_done_by_hand_is_not_taken_for_what_the_boot_did() {
    let desk = Desk::with(&["two-t400"]);
    fs::write(desk.path("two-t400/proc/cmdline"), "vfio.override=65:00.0,17:00.0\n").unwrap();
    let line = "class 030000 group 61, rule 1: driver_override set to vfio-pci, unbound from";
    let log = |writer: &str| {
        format!(
            "6,0,0,-;Linux version 6.1\n5,1,1,-;vfio-override[9]: {writer}\n\
             5,2,2,-;vfio-override[9]: 0000:65:00.0 [10de:1ff2] {line} nouveau\n"
        )
    };
    let status = |log: String| {
        fs::write(desk.path("two-t400/dev/kmsg"), log).unwrap();
        desk.screen(&["status --from two-t400"])
    };
    let ran = "vfio-override did not run at this boot";
    let by_hand = status(log("apply on the running host"));
    assert_eq!(by_hand.matches(ran).count(), 1, "{by_hand}");
    assert!(by_hand.contains(&format!("17:00.0, 65:00.0: {ran}")), "{by_hand}");
    let at_boot = status(log("rules: 1 applied"));
    assert!(at_boot.contains("65:00.0: it was set at boot and is unset now"), "{at_boot}");

    // Taken at boot from nouveau, by hand later from snd_hda_intel: it is the first that counts.
    let device = desk.path("two-t400/sys/bus/pci/devices/0000:65:00.0");
    fs::write(device.join("driver_override"), "vfio-pci\n").unwrap();
    fs::remove_file(device.join("driver")).unwrap();
    std::os::unix::fs::symlink("../../bus/pci/drivers/vfio-pci", device.join("driver")).unwrap();
    let later = format!(
        "5,3,3,-;vfio-override[88]: apply on the running host\n\
         5,4,4,-;vfio-override[88]: 0000:65:00.0 [10de:1ff2] {line} ast\n"
    );
    let twice = status(log("rules: 1 applied") + &later);
    assert!(twice.contains("65:00.0: nouveau had it first"), "{twice}");
    let second = status(log("apply on the running host") + &later);
    assert!(!second.contains("had it first"), "{second}");
}
