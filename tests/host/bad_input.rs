// SPDX-License-Identifier: MIT OR Apache-2.0
//! Machines of which something is not what it should be: an answer or one clear line, whatever it is.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::support::{copy, figures};
use crate::tool;

/// Far more than any command takes, on a loaded machine, too.
const PATIENCE: &str = "60";

/// Numbers that look drawn, and are the same at every run (Knuth's MMIX generator).
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// Every file, directory and link below a directory.
fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), found);
        }
    }
}

const DAMAGES: [&str; 12] = [
    "missing",
    "empty",
    "bytes",
    "zeros",
    "long line",
    "large",
    "FIFO",
    "directory",
    "dangling link",
    "link to itself",
    "link to the root",
    "socket",
];

fn damage(path: &Path, kind: &str) {
    let is_directory = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    let removed = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    // What is above it may have been damaged before.
    if removed.is_err() || !path.parent().is_some_and(Path::is_dir) {
        return;
    }
    match kind {
        "missing" => {}
        "empty" => fs::write(path, "").unwrap(),
        "bytes" => fs::write(path, (0..=255).collect::<Vec<u8>>().repeat(16)).unwrap(),
        "zeros" => fs::write(path, [0; 4096]).unwrap(),
        "long line" => fs::write(path, "pci:v1,".repeat(100_000)).unwrap(),
        "large" => fs::File::create(path).unwrap().set_len(1 << 40).unwrap(),
        "FIFO" => mkfifo(path, Mode::S_IRWXU).unwrap(),
        "directory" => fs::create_dir(path).unwrap(),
        "dangling link" => symlink("nowhere", path).unwrap(),
        "link to itself" => symlink(path.file_name().unwrap(), path).unwrap(),
        "link to the root" => symlink("/", path).unwrap(),
        "socket" => drop(std::os::unix::net::UnixListener::bind(path)),
        other => panic!("{other}"),
    }
}

#[test]
fn a_damaged_machine_gets_an_answer_or_one_clear_line() {
    let machines = copy::names();
    let rounds = if std::env::var_os("VFIO_OVERRIDE_ALL").is_some() { 2000 } else { 60 };
    let next = AtomicU64::new(0);
    let work = || {
        let mut answers = [0; 3];
        loop {
            let round = next.fetch_add(1, Ordering::Relaxed);
            if round >= rounds {
                return answers;
            }
            for status in try_damaged(round, &machines) {
                answers[status] += 1;
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let answers = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Vec<[usize; 3]>>()
    });
    let [good, differ, cannot] = [0, 1, 2]
        .map(|status| -> usize { answers.iter().map(|of_worker| of_worker[status]).sum() });
    figures::tell(&format!(
        "damaged machines: {rounds}, with {good} answers that all is well, {differ} that something differs, {cannot} \
         that it cannot be told"
    ));
}

/// Damages a machine, as the number of the round has it, and asks every command for it. Returns the exit statuses.
fn try_damaged(round: u64, machines: &[String]) -> Vec<usize> {
    let mut statuses = Vec::new();
    let mut draw = Draw(round);
    let machine = &machines[draw.below(machines.len())];
    let desk = TempDir::new().unwrap();
    let root = desk.path().join("m");
    copy::unfold(machine, &root);
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    let damages: Vec<(PathBuf, &str)> = (0..=draw.below(4))
        .map(|_| (paths[draw.below(paths.len())].clone(), DAMAGES[draw.below(DAMAGES.len())]))
        .collect();
    for (path, kind) in &damages {
        damage(path, kind);
    }
    let functions = fs::read_dir(root.join("sys/bus/pci/devices")).into_iter().flatten().flatten();
    // Where the directory became a link to the root, there are others.
    let names = functions.filter_map(|entry| entry.file_name().into_string().ok());
    let address = names.filter(|name| name.contains(':')).max();
    let address = address.unwrap_or_else(|| "0000:01:00.0".to_owned());
    let source = ["--from m", "--sysfs m/sys --cmdline m/proc/cmdline"][draw.below(2)];
    for command in [
        "list",
        "plan class:03+group,!boot_vga",
        "plan",
        "status",
        "claims",
        "collect c.tar",
        "release",
        "suggest",
    ] {
        // What is no copy is changed by those that change something.
        let address = match command {
            "release" if source != "--from m" => continue,
            "release" | "suggest" => address.as_str(),
            _ => "",
        };
        let line = format!("{command} {address} {source}");
        let output = Command::new("timeout")
            .args(["--signal=KILL", PATIENCE, tool()])
            .args(line.split_whitespace())
            .current_dir(desk.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let _ = fs::remove_file(desk.path().join("c.tar"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        let shown = || format!("round {round}, {machine}: {damages:?}\n{line}\n{out}{err}");
        match output.status.code() {
            Some(status @ 0..=2) => statuses.push(usize::try_from(status).unwrap()),
            other => panic!("status {other:?}: {}", shown()),
        }
        assert!(!err.contains("panicked"), "{}", shown());
        if output.status.code() == Some(2) {
            assert!(err.starts_with("error: ") && err.lines().count() == 1, "{}", shown());
        } else {
            assert!(!out.is_empty(), "{}", shown());
        }
    }
    statuses
}

/// The files of the host that the answers come from.
const FILES: [&str; 28] = [
    "boot/armbianEnv.txt",
    "boot/limine.conf",
    "boot/loader/entries/a.conf",
    "boot/refind_linux.conf",
    "dev/kmsg",
    "etc/cmdline.d/a.conf",
    "etc/default/grub",
    "etc/default/grub.d/a.cfg",
    "etc/default/kdump-tools",
    "etc/default/limine",
    "etc/dracut.conf.d/a.conf",
    "etc/driverctl.d/0000:01:00.0",
    "etc/initramfs-tools/modules",
    "etc/kernel/cmdline",
    "etc/libvirt/qemu/a.xml",
    "etc/mkinitcpio.conf",
    "etc/mkinitcpio.d/linux.preset",
    "etc/modprobe.d/a.conf",
    "etc/modules",
    "etc/os-release",
    "etc/sysconfig/bootloader",
    "initramfs.given",
    "initramfs.list",
    "lib/modules/6.12.30/modules.alias",
    "lib/modules/6.12.30/modules.builtin",
    "lib/modules/6.12.30/modules.dep",
    "lib/modules/6.12.30/pkgbase",
    "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f",
];

/// What somebody may have put into such a file, or in its place.
fn spoil(path: &Path, kind: &str) {
    const GRUB: &str =
        "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet vfio-pci.ids=10de:2204\"\nHOOKS=(base udev)\nID=arch\n";
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match kind {
        "garbage" => fs::write(path, (0..=255).collect::<Vec<u8>>().repeat(512)).unwrap(),
        "NULs" => fs::write(path, GRUB.replace(' ', "\0")).unwrap(),
        "CRLF" => fs::write(path, GRUB.replace('\n', "\r\n")).unwrap(),
        "UTF-16" => {
            let text = GRUB.encode_utf16().flat_map(u16::to_le_bytes);
            fs::write(path, [0xff, 0xfe].into_iter().chain(text).collect::<Vec<u8>>()).unwrap();
        }
        "no end of a quote" => {
            fs::write(path, "HOOKS=(\nID=\"\nGRUB_CMDLINE_LINUX_DEFAULT=\"a\n").unwrap();
        }
        // All together little less than is taken of a copy.
        "huge" => fs::write(path, format!("# {}\n", "x".repeat(1 << 20)).repeat(2)).unwrap(),
        "too huge" => fs::File::create(path).unwrap().set_len(1 << 40).unwrap(),
        "directory" => fs::create_dir(path).unwrap(),
        "FIFO" => mkfifo(path, Mode::S_IRWXU).unwrap(),
        "device" => symlink("/dev/zero", path).unwrap(),
        other => panic!("{other}"),
    }
}

/// Whatever stands in one file of the host, the rest of the answer is as without it, or says so; within bounds.
#[test]
fn a_file_of_the_host_that_is_none_is_no_harm() {
    const MACHINE: &str = "\
kernel 6.12.30
cmdline root=UUID=0 quiet vfio.override=01:00.0+slot
0000:00:00.0    060000 8086:4660 1043:8694  0 -
0000:00:01.0    060400 8086:460d 1043:8694  2 pcieport
  0000:01:00.0  030000 10de:2204 10de:1454 15 nouveau
0000:00:02.0    030000 8086:4680 1043:8694  1 i915 boot
file usr/bin/mkinitcpio
file usr/bin/dracut
file usr/bin/limine-update
file usr/sbin/mkinitramfs
file usr/sbin/driverctl
";
    for kind in [
        "garbage",
        "NULs",
        "CRLF",
        "UTF-16",
        "no end of a quote",
        "huge",
        "too huge",
        "directory",
        "FIFO",
        "device",
    ] {
        let desk = TempDir::new().unwrap();
        copy::unfold_text(MACHINE, &desk.path().join("m"));
        // All at once: none hides behind another, and the bounds hold for their sum.
        for file in FILES {
            spoil(&desk.path().join("m").join(file), kind);
        }
        for command in
            ["suggest 01:00.0", "plan", "status", "list --tree", "claims", "collect c.tar"]
        {
            // 256 MiB, the program and its libraries included.
            let output = Command::new("timeout")
                .args([
                    "--signal=KILL",
                    PATIENCE,
                    "sh",
                    "-c",
                    "ulimit -v 262144; exec \"$@\"",
                    "sh",
                    tool(),
                ])
                .args(format!("{command} --from m").split_whitespace())
                .current_dir(desk.path())
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            let shown = || format!("{kind}, {command}: {}\n{out}{err}", output.status);
            assert!(matches!(output.status.code(), Some(0..=2)), "{}", shown());
            assert!(!err.contains("panicked"), "{}", shown());
            if output.status.code() == Some(2) {
                assert!(err.starts_with("error: ") && err.lines().count() == 1, "{}", shown());
            }
            // Nothing of such a file reaches the terminal as it is.
            let is_plain = |letter: char| letter == '\n' || !letter.is_control();
            assert!(out.chars().all(is_plain), "{}", shown());
            let is_refused =
                matches!(kind, "too huge" | "device" | "FIFO") && output.status.code() == Some(2);
            if command.starts_with("suggest") && !is_refused {
                assert!(out.contains("10de:2204"), "{}", shown());
            }
        }
    }
}
