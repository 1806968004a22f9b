// SPDX-License-Identifier: MIT OR Apache-2.0
//! What runs the guest's instructions: KVM where a guest really starts under it, else emulation.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::ground::progress;
use crate::guest::kernel::Kernel;
use crate::guest::machine::Machine;
use crate::guest::qemu::{Accelerator, Guest, Process};
use crate::guest::serial::{Console, Echo, Wait};

/// How long a guest of the trial may be silent at first. A kernel under KVM speaks within a tenth.
const FIRST_WORD: Duration = Duration::from_secs(3);

/// How long it may then take until it finds that it has no root file system. KVM takes a second.
const LAST_WORD: Duration = Duration::from_secs(20);

/// How long a guest may take, phase by phase.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To the start of /init.
    pub boot: Duration,
    /// For the early binary, where /init runs it.
    pub early: Duration,
    /// To load the drivers, play its scene and report.
    pub drivers: Duration,
    /// To switch itself off.
    pub off: Duration,
}

/// Chosen by a trial with the first kernel of this architecture that is booted, once for the whole run, and told.
///
/// A `/dev/kvm` that opens is no proof: on some machines no guest ever says a word under it.
pub fn of_this_machine(kernel: &Kernel) -> Accelerator {
    static CHOICE: OnceLock<Accelerator> = OnceLock::new();
    if !kernel.arch.is_native() {
        return Accelerator::Tcg;
    }
    *CHOICE.get_or_init(|| match try_kvm(kernel) {
        Ok(took) => {
            let took = took.as_secs_f64();
            progress::note(format_args!("accelerator: KVM (a guest started in {took:.1} s)"));
            Accelerator::Kvm
        }
        Err(reason) => {
            progress::note(format_args!("accelerator: TCG, because not KVM: {reason:#}"));
            Accelerator::Tcg
        }
    })
}

impl Patience {
    /// Ten to thirty times what each phase takes on a small machine.
    pub fn with(accelerator: Accelerator) -> Self {
        let scale = match accelerator {
            Accelerator::Kvm => 1,
            Accelerator::Tcg => 6,
        };
        let seconds = |seconds: u64| Duration::from_secs(seconds * scale);
        Self { boot: seconds(20), early: seconds(10), drivers: seconds(20), off: seconds(10) }
    }
}

/// Starts a kernel under KVM, without anything that it could do then.
fn try_kvm(kernel: &Kernel) -> Result<Duration> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        bail!("/dev/kvm cannot be opened: {error}");
    }
    let directory = tempfile::tempdir().context("cannot make a directory for the trial")?;
    let mut command = Guest {
        kernel,
        accelerator: Accelerator::Kvm,
        initrd: None,
        command_line: "earlyprintk=serial,ttyS0 console=ttyS0 panic=-1 intel_iommu=on",
        machine: &Machine::new(),
    }
    .command()?;
    trial(command.current_dir(directory.path()), directory.path())
}

/// Waits for the first and for the last words of a kernel without a root file system.
fn trial(command: &mut Command, directory: &Path) -> Result<Duration> {
    let error_log = directory.join("qemu.log");
    let start = Instant::now();
    let errors = File::create(&error_log).context("cannot make a file for QEMU's errors")?;
    let mut guest = Process(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("cannot start QEMU")?,
    );
    let output = guest.0.stdout.take().context("QEMU has no output")?;
    let console = Console::read(output, &directory.join("serial.log"), Echo::Quiet)?;
    for (word, patience) in [("Linux version", FIRST_WORD), ("Kernel panic", LAST_WORD)] {
        match console.wait_for(word, patience) {
            Wait::Matched(_) => {}
            Wait::TimedOut => {
                bail!("a guest under it did not say \"{word}\" within {} s", patience.as_secs())
            }
            Wait::Ended => {
                let errors = fs::read_to_string(&error_log).unwrap_or_default();
                let last = errors.trim_end().lines().next_back().unwrap_or("no error message");
                bail!("QEMU ended before a guest under it said \"{word}\" ({last})")
            }
        }
    }
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(script: &str) -> Result<Duration, String> {
        let directory = tempfile::tempdir().expect("a directory can be made");
        // The shell becomes `sleep`, so that it is this that gets killed.
        trial(Command::new("sh").args(["-c", script]), directory.path())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_guest_that_boots_to_its_end_is_enough() {
        assert!(tried("echo Linux version 6.1; echo Kernel panic - not syncing: VFS").is_ok());
    }

    #[test]
    fn a_silent_guest_is_not() {
        assert_eq!(
            tried("exec sleep 100").map(drop),
            Err("a guest under it did not say \"Linux version\" within 3 s".to_owned())
        );
    }

    #[test]
    fn nor_is_one_that_ends_half_way() {
        assert_eq!(
            tried("echo Linux version 6.1; echo broken >&2").map(drop),
            Err("QEMU ended before a guest under it said \"Kernel panic\" (broken)".to_owned())
        );
    }
}
