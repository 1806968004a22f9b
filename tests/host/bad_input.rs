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
