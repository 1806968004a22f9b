// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must not grow unnoticed: system calls, user instructions, memory. Times are no property of a
//! commit.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::meter;
use super::scene::{Kind, Scene};
use crate::build::{Binary, Target};

/// The most that a run may cost.
struct Ceiling {
    target: Target,
    kind: Kind,
    functions: usize,
    rules: Rules,
    calls: u64,
    /// A hundredth or two above what is there: compilers differ.
    instructions: u64,
    peak_kib: u64,
    /// Calls of `brk`, `mmap` and `mremap`, the C library's own among them.
    maps: u64,
}

/// What is asked for.
#[derive(Clone, Copy)]
enum Rules {
    /// Every function by its address.
    Addresses,
    /// Every function and its IOMMU group, as many times.
    Everything(usize),
}

impl Rules {
    fn text(self, scene: &Scene) -> String {
        match self {
            Self::Addresses => scene.functions().join(","),
            Self::Everything(rules) => vec!["class:08+group"; rules].join(","),
        }
    }
}

const CEILINGS: [Ceiling; 5] = [
    Ceiling {
        target: Target::MUSL,
        kind: Kind::Cards,
        functions: 2,
        rules: Rules::Addresses,
        calls: 40,
        instructions: 29_900,
        peak_kib: 300,
        maps: 0,
    },
    Ceiling {
        target: Target::MUSL,
        kind: Kind::Cards,
        functions: 64,
        rules: Rules::Addresses,
        calls: 819,
        instructions: 808_000,
        peak_kib: 300,
        maps: 0,
    },
    // Each function may be taken along by all others of its group once for each rule: what grows with the
    // square of anything shows here.
    Ceiling {
        target: Target::MUSL,
        kind: Kind::Peripherals,
        functions: 512,
        rules: Rules::Everything(64),
        calls: 5_114,
        instructions: 14_100_000,
        peak_kib: 300,
        maps: 0,
    },
    Ceiling {
        target: Target::GLIBC,
        kind: Kind::Cards,
        functions: 2,
        rules: Rules::Addresses,
        calls: 52,
        instructions: 61_000,
        peak_kib: 1024,
        maps: 5,
    },
    Ceiling {
        target: Target::GLIBC,
        kind: Kind::Cards,
        functions: 64,
        rules: Rules::Addresses,
        calls: 831,
        instructions: 790_000,
        peak_kib: 1024,
        maps: 5,
    },
];

/// Holds the binaries to their ceilings, on what `cargo xtask bench` measures with.
pub fn check(binaries: &[Binary], valgrind: &Path, scratch: &Path) -> Result<()> {
    let mut wrong = Vec::new();
    for binary in binaries {
        for ceiling in CEILINGS.iter().filter(|ceiling| ceiling.target == binary.target) {
            let root = tempfile::tempdir_in(scratch)?;
            let scene = Scene::build(root.path(), ceiling.kind, ceiling.functions)?;
            scene.set_rules(&ceiling.rules.text(&scene))?;
            // Short names, the same wherever the project is: their bytes are counted too.
            fs::copy(&binary.path, root.path().join("early"))?;
            let run = || {
                let mut command = Command::new("./early");
                command.args(["--sysfs", ".", "--cmdline", "cmdline", "--kmsg", "kmsg"]);
                command.current_dir(root.path()).env_clear();
                command
            };
            let counts = meter::count(&run())?;
            scene.check()?;
            scene.reset()?;
            let instructions = meter::instructions(valgrind, scratch, &run())?;
            let found = [
                ("system calls", counts.calls, ceiling.calls),
                ("calls that map memory", counts.maps, ceiling.maps),
                ("user instructions", instructions, ceiling.instructions),
                ("KiB resident at most", counts.peak_kib, ceiling.peak_kib),
            ];
            for (what, found, most) in found.into_iter().filter(|(_, found, most)| found > most) {
                let Ceiling { target, functions, .. } = ceiling;
                wrong.push(format!("{target}, {functions} functions: {found} {what}, not {most}"));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
}
