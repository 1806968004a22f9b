// SPDX-License-Identifier: MIT OR Apache-2.0
//! Against what people use today: same devices, same result.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::meter::{self, Counts};
use super::scene::{Kind, Scene};
use super::stage::Stage;
use crate::ground::progress;
use crate::ground::setup;

/// How many functions are kept for vfio-pci.
pub const SIZES: [usize; 5] = [1, 2, 8, 64, 256];
/// The yardstick of the ratios, first of all.
pub const FLOOR: usize = 0;

/// How long the pairs of one program at one size may take.
const BUDGET: Duration = Duration::from_secs(3);
const MOST_PAIRS: u32 = 200;
const FEWEST_PAIRS: u32 = 3;
/// Past this many processes callgrind takes minutes, for a sum of equal parts.
const MOST_FORKS: u64 = 40;

/// A program that does the job.
pub struct Peer {
    pub name: &'static str,
    /// The program and its first arguments.
    words: Vec<PathBuf>,
    /// Where it finds other programs.
    path: PathBuf,
    takes: Takes,
}

/// How a program is told of the functions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// It finds them, or reads the kernel's command line.
    Nothing,
    /// All are its arguments.
    All,
    /// It is started once for each.
    Each,
}

impl Peer {
    fn commands(&self, functions: &[String]) -> Vec<Command> {
        let command = |arguments: &[&str]| {
            let mut command = Command::new(&self.words[0]);
            // An initramfs has next to nothing in its environment.
            command.args(&self.words[1..]).args(arguments).env_clear().env("PATH", &self.path);
            command
        };
        let functions = functions.iter().map(String::as_str);
        match self.takes {
            Takes::Nothing => vec![command(&[])],
            Takes::All => vec![command(&functions.collect::<Vec<_>>())],
            Takes::Each => functions.map(|address| command(&[address, "vfio-pci"])).collect(),
        }
    }
}

/// What a peer cost.
pub struct Cost {
    pub counts: Counts,
    /// User instructions; `None` where too many processes would have to be traced.
    pub instructions: Option<u64>,
    /// Whole-process time, the median.
    pub time: Duration,
    /// That over the floor's, the median of all pairs.
    pub ratio: f64,
    /// The time until the last override was written, which is what protects; all else is told or bound afterwards.
    pub protecting: Duration,
    /// That over the floor's.
    pub protecting_ratio: f64,
}

/// Every peer at every size, in the order of [`SIZES`].
pub struct Comparison {
    pub rows: Vec<(&'static str, Vec<Cost>)>,
}

/// The programs: the floor, the early binaries, and what people use. `applets` is a directory with what
/// busybox can be called as.
pub fn all(
    early: [(&'static str, PathBuf); 2],
    floor: PathBuf,
    scripts: &Path,
    applets: &Path,
) -> Result<Vec<Peer>> {
    let find =
        |name: &str| setup::program(name).with_context(|| format!("{name} is not installed"));
    let peer = |name, takes, words: Vec<PathBuf>| Peer {
        name,
        words,
        path: "/usr/sbin:/usr/bin:/sbin:/bin".into(),
        takes,
    };
    let ash = |name, takes, script| Peer {
        path: applets.to_owned(),
        ..peer(name, takes, vec![applets.join("ash"), scripts.join(script)])
    };
    let [(musl, musl_path), (glibc, glibc_path)] = early;
    let driverctl = ["--nosave", "--noprobe", "set-override"].map(PathBuf::from);
    Ok(vec![
        peer("floor", Takes::All, vec![floor]),
        peer(musl, Takes::Nothing, vec![musl_path]),
        peer(glibc, Takes::Nothing, vec![glibc_path]),
        ash("echo loop, busybox ash", Takes::All, "echo-loop.sh"),
        peer("echo loop, dash", Takes::All, vec![find("dash")?, scripts.join("echo-loop.sh")]),
        ash("usual hook, busybox ash", Takes::Nothing, "usual-hook.sh"),
        peer(
            "usual hook, dash",
            Takes::Nothing,
            vec![find("dash")?, scripts.join("usual-hook.sh")],
        ),
        peer("bash, lspci, awk", Takes::Nothing, vec![find("bash")?, scripts.join("qubes.sh")]),
        // Nothing is written down for the next boot, and nobody would bind here.
        peer("driverctl", Takes::Each, [vec![find("driverctl")?], driverctl.into()].concat()),
    ])
}

/// Measures everything.
pub fn compare(peers: &[Peer], valgrind: &Path, scratch: &Path) -> Result<Comparison> {
    let mut rows: Vec<(&'static str, Vec<Cost>)> =
        peers.iter().map(|peer| (peer.name, Vec::new())).collect();
    for size in SIZES {
        let stage = Stage::set(Kind::Cards, size)?;
        stage.scene.set_rules(&stage.scene.functions().join(","))?;
        for (peer, (name, costs)) in peers.iter().zip(&mut rows) {
            let title = format!("{name}, {size} functions");
            let cost = progress::phase(title, || {
                measure(peer, &peers[FLOOR], &stage.scene, valgrind, scratch)
            })?;
            costs.push(cost);
        }
    }
    Ok(Comparison { rows })
}

fn measure(
    peer: &Peer,
    floor: &Peer,
    scene: &Scene,
    valgrind: &Path,
    scratch: &Path,
) -> Result<Cost> {
    let commands = || peer.commands(scene.functions());
    let is_each = peer.takes == Takes::Each;
    scene.reset()?;
    let mut counts = Counts::default();
    for command in commands() {
        let more = meter::count(&command)?;
        counts.protecting = counts.calls + more.protecting;
        counts.calls += more.calls;
        // driverctl is a program a function, which somebody has to start.
        counts.forks += more.forks + u64::from(is_each);
        counts.maps += more.maps;
        counts.peak_kib = counts.peak_kib.max(more.peak_kib);
    }
    if is_each { scene.check_overrides() } else { scene.check() }.context(peer.name)?;

    let instructions = if counts.forks > MOST_FORKS {
        None
    } else {
        scene.reset()?;
        let count = |command: &Command| meter::instructions(valgrind, scratch, command);
        Some(commands().iter().map(count).sum::<Result<u64>>()?)
    };

    let run = |peer: &Peer| -> Result<Duration> {
        scene.reset()?;
        peer.commands(scene.functions()).iter_mut().map(meter::time).sum()
    };
    let protect = |peer: &Peer| -> Result<Duration> {
        scene.reset()?;
        meter::time_until_written(&mut peer.commands(scene.functions()), &scene.overrides())
    };
    let begin = Instant::now();
    let (mut times, mut ratios) = (Vec::new(), Vec::new());
    let (mut protecting, mut protecting_ratios) = (Vec::new(), Vec::new());
    let mut pairs = 0;
    while pairs < FEWEST_PAIRS || (pairs < MOST_PAIRS && begin.elapsed() < BUDGET) {
        let (one, other) = (run(peer)?, run(floor)?);
        times.push(one);
        ratios.push(one.as_secs_f64() / other.as_secs_f64());
        let (one, other) = (protect(peer)?, protect(floor)?);
        protecting.push(one);
        protecting_ratios.push(one.as_secs_f64() / other.as_secs_f64());
        pairs += 1;
    }
    Ok(Cost {
        counts,
        instructions,
        time: meter::median(&mut times).context("there were no runs")?,
        ratio: meter::median(&mut ratios).context("there were no pairs")?,
        protecting: meter::median(&mut protecting).context("there were no runs")?,
        protecting_ratio: meter::median(&mut protecting_ratios).context("there were no pairs")?,
    })
}
