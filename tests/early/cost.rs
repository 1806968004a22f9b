// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a run costs in system calls, counted by strace on the binary that ships.
//!
//! Differences between two runs are counted, so that what a run costs in any case does not blur what
//! one function or one rule adds. Two things are shared by many functions and counted apart: after nine
//! records the log is opened anew, with a sign of life, and files are closed many at a time.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::early::{binaries, unshare};
use crate::support::tree::{CARD, Function, Sysfs};
use tempfile::TempDir;

/// The calls that open the log anew for this many records, and that give and take a sign of life.
fn reopened(records: usize) -> usize {
    (2 + 3) * records.div_ceil(9)
}

/// The calls that close this many files, and a few more where their numbers have gaps.
fn closed(files: usize) -> usize {
    files.div_ceil(512) + 4
}

/// A copy of sysfs with this many functions, four to a slot so that all fit on one bus.
struct FakeTree(TempDir);

#[derive(Clone, Copy, PartialEq)]
enum Groups {
    None,
    OneEach,
}

impl FakeTree {
    fn new(functions: usize, class: &str, groups: Groups) -> Self {
        let tree = Self(TempDir::new().unwrap());
        let root = tree.0.path();
        let sys = root.join("sys");
        let sysfs = Sysfs(&sys);
        sysfs.make();
        sysfs.add_driver("vfio-pci");
        fs::write(root.join("kmsg"), "").unwrap();
        for index in 0..functions {
            let group = (groups == Groups::OneEach).then(|| u32::try_from(index).unwrap());
            sysfs.add(&Function { address: &address(index), class, group, ..CARD });
        }
        tree
    }

    /// The system calls of one run of `binary`, one a line.
    fn trace(&self, binary: &Path, rules: &str) -> Vec<String> {
        self.trace_in(Command::new("strace"), binary, rules)
    }

    /// The same, where `strace` is started by this.
    fn trace_in(&self, mut strace: Command, binary: &Path, rules: &str) -> Vec<String> {
        let root = self.0.path();
        let (cmdline, log) = (root.join("cmdline"), root.join("strace"));
        fs::write(&cmdline, format!("quiet vfio.override={rules}\n")).unwrap();
        let ran = strace
            .args(["-f", "-q", "-o"])
            .arg(&log)
            .arg(binary)
            .arg("--sysfs")
            .arg(root.join("sys"))
            .arg("--cmdline")
            .arg(&cmdline)
            .arg("--kmsg")
            .arg(root.join("kmsg"))
            .status()
            .expect("strace starts");
        assert!(ran.code().is_some(), "{ran}");
        // Not the ends of processes and signals, and a call that another process interrupted once.
        fs::read_to_string(&log)
            .unwrap()
            .lines()
            .filter(|line| !line.contains("+++ ") && !line.contains("--- "))
            .filter(|line| !line.contains(" resumed>"))
            .map(str::to_owned)
            .collect()
    }
}

fn address(index: usize) -> String {
    format!("0000:01:{:02x}.{}", index / 4, index % 4)
}

/// An address rule for each of the first `count` functions.
fn address_rules(count: usize) -> String {
    let mut rules = String::new();
    for index in 0..count {
        write!(rules, "{},", address(index)).unwrap();
    }
    rules
}

const MANY: usize = 72;
const FEW: usize = 8;

/// How many calls there are, but for those that find the end of a directory: sysfs tells where it is.
fn count(calls: &[String]) -> usize {
    calls.iter().filter(|call| !(call.contains("getdents64(") && call.ends_with(" = 0"))).count()
}

/// How many more calls `MANY` address rules take than `FEW`, without what is shared.
fn added_by_overrides(tree: impl Fn() -> FakeTree, binary: &Path) -> usize {
    let many = count(&tree().trace(binary, &address_rules(MANY)));
    let few = count(&tree().trace(binary, &address_rules(FEW)));
    many - few - reopened(MANY - FEW) - closed(4 * (MANY - FEW))
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn the_end_of_a_directory_of_sysfs_costs_no_call() {
    for binary in binaries() {
        let tree = FakeTree::new(1, "030000", Groups::OneEach);
        let members = tree.0.path().join("sys/kernel/iommu_groups/0/devices");
        let mut strace =
            unshare(&["--mount", "sh", "-c", r#"mount --bind /sys/bus "$0" && exec strace "$@""#]);
        strace.arg(members);
        let calls = tree.trace_in(strace, &binary, &address(0));
        let lists: Vec<_> = calls.iter().filter(|call| call.contains("getdents64(")).collect();
        assert_eq!(lists.len(), 1, "{lists:?}");
        assert!(!lists[0].ends_with(" = 0"), "{lists:?}");
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn an_overridden_function_takes_at_most_thirteen_calls() {
    for binary in binaries() {
        let tree = || FakeTree::new(MANY, "030000", Groups::None);
        let calls = added_by_overrides(tree, &binary);
        assert!(calls <= 13 * (MANY - FEW), "{calls} for {} displays", MANY - FEW);
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn an_iommu_group_takes_three_calls_more() {
    for binary in binaries() {
        let tree = || FakeTree::new(MANY, "030000", Groups::OneEach);
        let calls = added_by_overrides(tree, &binary);
        assert!(calls <= 16 * (MANY - FEW), "{calls} for {} displays", MANY - FEW);
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_function_that_is_only_looked_at_takes_at_most_four_calls() {
    for binary in binaries() {
        for (rules, most) in [("ffff:1,class:ff", 2), ("boot_vga,ffff:1+group", 4)] {
            let calls = |functions| {
                FakeTree::new(functions, "030000", Groups::OneEach).trace(&binary, rules).len()
            };
            let added = calls(MANY) - calls(FEW) - closed(2 * (MANY - FEW));
            assert!(added <= most * (MANY - FEW), "{rules}: {added} for {}", MANY - FEW);
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn the_number_of_rules_costs_no_calls() {
    for binary in binaries() {
        let tree = FakeTree::new(FEW, "020000", Groups::OneEach);
        let unmatched = |count: usize| "!ffff:1,".repeat(count);
        let one = tree.trace(&binary, &unmatched(1)).len();
        let many = tree.trace(&binary, &unmatched(500)).len();
        // Each is told in a record of its own.
        assert!(many - one <= 499 + reopened(499), "{one} with one rule, {many} with 500");
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn address_rules_touch_no_function_that_none_of_them_names() {
    for binary in binaries() {
        let tree = FakeTree::new(MANY, "030000", Groups::OneEach);
        let named = address(5);
        let calls = tree.trace(&binary, &named);
        assert!(calls.iter().any(|call| call.contains(&named)));
        for index in (0..MANY).filter(|index| *index != 5) {
            let other = format!("devices/{}", address(index));
            let touching = calls.iter().find(|call| call.contains(&other));
            assert_eq!(touching, None);
        }
        assert!(
            !calls.iter().any(|call| call.contains("\"devices\"")),
            "no pass over all functions"
        );
    }
}
