// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask fuzz`: inputs that nobody thought of, judged by a second implementation.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::ground::command;
use crate::ground::progress;
use crate::ground::setup;
use crate::ground::verdict::Verdict;
use crate::ground::workspace::{Workspace, cargo};

const PLATFORM: &str = "x86_64-unknown-linux-gnu";
/// The longest input: the kernel's buffer for a module's parameter.
const MAX_INPUT: u32 = 4096;
/// A single input that takes longer than this many seconds is a fault.
const TIMEOUT: u32 = 20;

/// What makes libFuzzer see where an input leads, with a stable compiler: what `cargo fuzz --sanitizer none`
/// asks for. One unit, since the pass cannot tell apart symbols that several units share.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg",
    "fuzzing",
];

/// Fuzz the library against a second, obvious implementation
///
/// The targets are those of tests/support/targets.rs. Each begins with its corpus in tests/fuzz/corpus, and
/// keeps what it finds in target/xtask/fuzz. An input that fails is kept there too, and named.
#[derive(Args)]
pub struct Options {
    /// Fuzz only this target; may be repeated (default: all)
    #[arg(value_name = "TARGET")]
    targets: Vec<Target>,

    /// How long each target is fuzzed
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// A command line, split into parameters
    Tokeniser,
    /// The text of one rule
    Grammar,
    /// Rules on an arbitrary tree of functions
    Matcher,
    /// What a function says of itself
    Modalias,
    /// A modules.alias
    Aliases,
    /// A command line on an arbitrary machine, with a fault
    Whole,
}

impl Target {
    /// How many inputs take some ten seconds.
    const fn runs(self) -> u32 {
        match self {
            Self::Tokeniser => 300_000,
            Self::Grammar => 1_500_000,
            Self::Matcher => 35_000,
            Self::Modalias => 200_000,
            Self::Aliases => 120_000,
            Self::Whole => 20_000,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tokeniser => "tokeniser",
            Self::Grammar => "grammar",
            Self::Matcher => "matcher",
            Self::Modalias => "modalias",
            Self::Aliases => "aliases",
            Self::Whole => "whole",
        })
    }
}

pub fn run(options: &Options) -> Result<Verdict> {
    let workspace = Workspace::locate()?;
    setup::ensure(&[&setup::CXX])?;
    let fuzzer = Fuzzer::build(&workspace)?;
    let targets =
        if options.targets.is_empty() { Target::value_variants() } else { &options.targets };
    let mut verdict = Verdict::Good;
    for &target in targets {
        let title = format!("fuzz {target}");
        let length = Length::Seconds(options.seconds);
        match progress::phase(title, || fuzzer.run(target, length)) {
            Ok(executions) => println!("{target}: {executions} executions, none failed"),
            Err(error) => {
                verdict = Verdict::Bad;
                println!("{error:#}");
            }
        }
    }
    Ok(verdict)
}

/// How long a target is fuzzed.
#[derive(Clone, Copy)]
pub enum Length {
    /// As many inputs as take some ten seconds, the same in each run: what it finds is the fault of a change.
    Same,
    /// So many seconds, with inputs that no other run had.
    Seconds(u32),
}

/// The targets, built.
pub struct Fuzzer {
    corpora: PathBuf,
    programs: PathBuf,
    scratch: PathBuf,
}

impl Fuzzer {
    pub fn build(workspace: &Workspace) -> Result<Self> {
        let target = workspace.target.join("fuzz");
        let crate_directory = workspace.root.join("tests/fuzz");
        let mut command = Command::new(cargo());
        command
            .args(["build", "--locked", "--quiet", "--release", "--target", PLATFORM])
            .arg("--target-dir")
            .arg(&target)
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
            .current_dir(&crate_directory);
        progress::phase("build the fuzz targets", || command::check(&mut command))?;
        Ok(Self {
            corpora: crate_directory.join("corpus"),
            programs: target.join(PLATFORM).join("release"),
            scratch: workspace.scratch("fuzz")?,
        })
    }

    /// Fuzzes one target, and returns how many inputs it was given.
    pub fn run(&self, target: Target, length: Length) -> Result<u64> {
        let name = target.to_string();
        let program = self.programs.join(&name);
        let (mut command, found) = match length {
            Length::Same => {
                // Where a program lies in memory, and how long an input took, would lead libFuzzer elsewhere.
                let mut command = Command::new("setarch");
                command.arg("-R").arg(&program).args(["-seed=1", "-entropic=0", "-reload=0"]);
                command.arg(format!("-runs={}", target.runs()));
                let found = self.scratch.join(format!("{name}-same"));
                if found.exists() {
                    fs::remove_dir_all(&found)
                        .with_context(|| format!("cannot remove {}", found.display()))?;
                }
                (command, found)
            }
            Length::Seconds(seconds) => {
                let mut command = Command::new(&program);
                command.arg(format!("-max_total_time={seconds}"));
                (command, self.scratch.join(&name))
            }
        };
        fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
        command
            .arg(format!("-max_len={MAX_INPUT}"))
            .arg(format!("-timeout={TIMEOUT}"))
            .arg("-print_final_stats=1")
            .arg(argument("-dict=", &self.corpora.with_file_name("rules.dict")))
            .arg(argument("-artifact_prefix=", &self.scratch.join(format!("{name}-"))))
            // The first is the one that grows.
            .args([found, self.corpora.join(&name)]);
        let output = command::output(&mut command)?;
        let text = command::text_of(&output);
        if !output.status.success() {
            bail!("{name} failed:\n{}", command::last_lines(&text, 60));
        }
        executions(&text).with_context(|| format!("{name} does not tell how many inputs it had"))
    }
}

fn argument(option: &str, path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from(option);
    argument.push(path);
    argument
}

/// What libFuzzer tells at the end of a run.
fn executions(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_inputs_is_read_from_the_statistics() {
        let text = "Done 1 runs\nstat::number_of_executed_units: 164243\nstat::slowest_unit: 0\n";
        assert_eq!(executions(text), Some(164_243));
        assert_eq!(executions("Done"), None);
    }

    #[test]
    fn each_target_has_a_corpus_and_a_program() -> Result<()> {
        let fuzz = Workspace::locate()?.root.join("tests/fuzz");
        for target in Target::value_variants() {
            assert!(fuzz.join(format!("corpus/{target}")).is_dir(), "{target}");
            assert!(fuzz.join(format!("targets/{target}.rs")).is_file(), "{target}");
        }
        Ok(())
    }
}
