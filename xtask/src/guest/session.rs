// SPDX-License-Identifier: MIT OR Apache-2.0
//! One boot of a guest, from an image to the evidence.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::ground::arch::{Arch, Serial};
use crate::ground::command;
use crate::ground::progress;
use crate::ground::workspace::Workspace;
use crate::guest::accelerator::{self, Patience};
use crate::guest::evidence::{self, Evidence};
use crate::guest::kernel::Kernel;
use crate::guest::machine::Machine;
use crate::guest::probes;
use crate::guest::qemu::{self, Accelerator, Guest};
use crate::guest::qmp::Monitor;
use crate::guest::serial::{Console, Echo, Wait};

/// How much of the console a failed boot shows.
const SHOWN_LINES: usize = 40;

/// What a boot that failed leaves besides qemu.sh.
pub const ARTEFACTS: [&str; 5] =
    ["serial.log", qemu::REPORT, qemu::KERNEL_LOG, qemu::INITRD, "qemu.log"];

/// The longest command line of a guest.
const MAX_COMMAND_LINE: usize = 2047;

/// Shows a panic, and nothing that could tear a line of /init's apart.
const QUIET: &str = "loglevel=3";

/// Everything that one boot needs.
pub struct Session<'a> {
    /// Names the directory of the artefacts.
    pub name: &'a str,
    pub kernel: &'a Kernel,
    /// Unused, as the parameters are, where the machine finds them itself.
    pub image: Vec<u8>,
    /// Appended to the parameters that every guest gets.
    pub parameters: String,
    pub machine: &'a Machine,
    /// Whether the kernel starts what is to be tested, instead of /init.
    pub tests_pid1: bool,
    /// Changes how long the guest may take.
    pub patience: fn(&mut Patience),
    pub interaction: Interaction,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Interaction {
    /// A progress line for each phase.
    Progress,
    /// As above, and a prompt in the guest at the end.
    Shell,
    /// Nothing is printed: other boots run at the same time.
    Silent,
}

/// Why a boot yielded no evidence.
#[derive(Debug)]
pub enum Stop {
    /// The guest went wrong in what is tested, or after it.
    Guest(anyhow::Error),
    /// It did not come so far, or something around it failed: nothing can be said about what was to
    /// be tested.
    Infrastructure(anyhow::Error),
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Infrastructure(error)
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Guest(error) => write!(f, "the guest went wrong: {error:#}"),
            Self::Infrastructure(error) => {
                write!(f, "the boot did not come to the test: {error:#}")
            }
        }
    }
}

/// The directory that a boot's artefacts lie in; it goes away unless it is kept.
pub struct Artefacts {
    directory: tempfile::TempDir,
}

impl Artefacts {
    pub fn create(workspace: &Workspace, name: &str) -> Result<Self> {
        let parent = workspace.scratch("boots")?;
        let directory = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(&parent)
            .with_context(|| format!("cannot write to {}", parent.display()))?;
        Ok(Self { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.path(name);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether the kernel crashed before there was any process, as one that is emulated does once in some hundred boots.
    pub fn has_kernel_died_alone(&self) -> bool {
        let console = self.read("serial.log").unwrap_or_default();
        let is_ours = |line: &str| line.contains("vfio-override[") || line.contains("@guest");
        console.contains("Attempted to kill the idle task") && !console.lines().any(is_ours)
    }

    /// Puts the report and the kernel's log, which came by the console, where those of other guests are.
    fn sort_console(&self) -> Result<()> {
        let console = self.read("serial.log")?;
        let (report, log) = evidence::sort(&console)?;
        for (name, text) in [(qemu::REPORT, report), (qemu::KERNEL_LOG, log)] {
            fs::write(self.path(name), text).with_context(|| format!("cannot write {name}"))?;
        }
        Ok(())
    }

    /// Keeps the directory and says what is in it.
    pub fn keep(self) -> String {
        let directory = self.directory.keep();
        format!(
            "artefacts: {} ({})\n\
             boot it again, without what is plugged in later: sh {}",
            directory.display(),
            ARTEFACTS.join(", "),
            directory.join("qemu.sh").display()
        )
    }

    /// Keeps the directory after a failure and tells the end of the console as well.
    pub fn keep_as_evidence(self) -> String {
        format!("{}\n{}", self.console_tail(), self.keep())
    }

    /// The end of the console.
    pub fn console_tail(&self) -> String {
        tail(&self.read("serial.log").unwrap_or_default().replace('\r', ""))
    }
}

/// The end of a console's text; a panic's own line with it, which a long trace would push out.
fn tail(console: &str) -> String {
    let tail = command::last_lines(console, SHOWN_LINES);
    if tail.is_empty() {
        return "the console printed nothing".to_owned();
    }
    let panic = console.lines().rfind(|line| line.contains("Kernel panic"));
    match panic.filter(|line| !tail.contains(line)) {
        Some(line) => format!("{line}\nlast lines of the console:\n{tail}"),
        None => format!("last lines of the console:\n{tail}"),
    }
}

/// A guest that is done with its report and may still be at its prompt.
pub struct Running {
    console: Console,
    qemu: Qemu,
    off: Duration,
    pub evidence: Evidence,
}

impl Session<'_> {
    /// Boots the guest until it has reported.
    pub fn run(&self, artefacts: &Artefacts) -> Result<Running, Stop> {
        let accelerator = accelerator::of_this_machine(self.kernel);
        let mut patience = Patience::with(accelerator);
        (self.patience)(&mut patience);
        let initrd = artefacts.path(qemu::INITRD);
        fs::write(&initrd, &self.image)
            .with_context(|| format!("cannot write {}", initrd.display()))?;
        let (console, mut qemu) = self.start(artefacts, accelerator)?;
        let way = if self.tests_pid1 { "by the early binary to /init" } else { "to /init" };
        let title = format!("boot {} {way} (QEMU, {})", self.kernel.release, accelerator.name());
        self.phase(&title, || {
            let started = qemu.expect(&console, evidence::STARTED, "/init starts", patience.boot);
            match started {
                // Only /init would have run what is tested.
                Err(Stop::Guest(error)) if !self.tests_pid1 => Err(Stop::Infrastructure(error)),
                other => other,
            }
        })?;
        // As PID 1 the early binary has had its turn.
        let (title, goal) = if self.tests_pid1 {
            ("look at what /init was given", "/init has looked around")
        } else {
            ("early binary, in the guest", "the early binary ends")
        };
        self.phase(title, || qemu.expect(&console, evidence::LOADING, goal, patience.early))?;
        self.phase("load every driver, report", || {
            self.serve(&mut qemu, &console, artefacts.directory.path(), patience.drivers)
        })?;
        if self.kernel.arch.guest.serial == Serial::One {
            artefacts.sort_console()?;
        }
        let evidence =
            Evidence::read(&artefacts.read(qemu::REPORT)?, &artefacts.read(qemu::KERNEL_LOG)?)?;
        Ok(Running { console, qemu, off: patience.off, evidence })
    }

    /// Does what the guest's scene asks for until the guest has reported.
    fn serve(
        &self,
        qemu: &mut Qemu,
        console: &Console,
        directory: &Path,
        patience: Duration,
    ) -> Result<(), Stop> {
        let mut monitor: Option<Monitor<UnixStream>> = None;
        let marks = [evidence::REPORTED, evidence::PLUG, evidence::UNPLUG];
        loop {
            let line = qemu.expect_any(console, &marks, "the guest reports", patience)?;
            if line.contains(evidence::REPORTED) {
                return Ok(());
            }
            let monitor = match &mut monitor {
                Some(monitor) => monitor,
                none => none.insert(Monitor::connect(directory, patience)?),
            };
            let address = line.rsplit(' ').next().unwrap_or_default();
            let (function, device) = self.machine.to_plug(address)?;
            if line.contains(evidence::PLUG) {
                monitor.plug(&device)?;
            } else if !monitor.unplug(&function.id())? {
                return Err(Stop::Guest(anyhow!(
                    "it does not let go of {address}: waited {} s",
                    patience.as_secs()
                )));
            }
        }
    }

    fn start(&self, artefacts: &Artefacts, accelerator: Accelerator) -> Result<(Console, Qemu)> {
        let command_line = command_line(self.kernel.arch, &self.parameters)?;
        let mut command = Guest {
            kernel: self.kernel,
            accelerator,
            initrd: Some(qemu::INITRD),
            command_line: &command_line,
            machine: self.machine,
        }
        .command()?;
        write_script(&artefacts.path("qemu.sh"), &command::line(&command))?;
        let errors = artefacts.path("qemu.log");
        let error_log =
            File::create(&errors).with_context(|| format!("cannot create {}", errors.display()))?;
        let is_shell = self.interaction == Interaction::Shell;
        let mut child = command
            .current_dir(artefacts.directory.path())
            .stdin(if is_shell { Stdio::inherit() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(error_log)
            .spawn()
            .context("cannot start QEMU")?;
        let output = child.stdout.take();
        let qemu = Qemu { process: qemu::Process(child), errors };
        let echo = if is_shell { Echo::After(evidence::REPORTED) } else { Echo::Quiet };
        let console = Console::read(
            output.context("QEMU has no output")?,
            &artefacts.path("serial.log"),
            echo,
        )?;
        Ok((console, qemu))
    }

    fn phase<T, E>(&self, title: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if self.interaction == Interaction::Silent { work() } else { progress::phase(title, work) }
    }
}

/// A guest's command line: what every guest gets, and these parameters.
pub fn command_line(arch: &Arch, parameters: &str) -> Result<String> {
    let board = &arch.guest;
    // With one more on the line, the kernel would take the first that there is.
    let console = if parameters.split(' ').any(|word| word.starts_with("console=")) {
        String::new()
    } else {
        format!("console={}", board.console)
    };
    let command_line = format!(
        "{console} {QUIET} panic=-1 cryptomgr.notests audit=0 {} {} {parameters}",
        board.parameters,
        probes::PARAMETERS,
    );
    // The kernel cuts a longer one off without a word (COMMAND_LINE_SIZE on x86 and arm64).
    if command_line.len() > MAX_COMMAND_LINE {
        bail!(
            "the kernel's command line has {} bytes, at most {MAX_COMMAND_LINE} are allowed",
            command_line.len()
        );
    }
    Ok(command_line)
}

impl Running {
    /// Waits until the guest has switched itself off, and returns what is wrong in all.
    pub fn finish(
        self,
        interaction: Interaction,
        complaints: Vec<String>,
    ) -> Result<Vec<String>, Stop> {
        with_end(complaints, self.switch_off(interaction))
    }

    fn switch_off(mut self, interaction: Interaction) -> Result<(), Stop> {
        let patience = if interaction == Interaction::Shell { Duration::MAX } else { self.off };
        match self.console.wait_for_end(patience) {
            Wait::TimedOut => {
                Err(Stop::Guest(anyhow!("it did not switch itself off after its report")))
            }
            Wait::Matched(_) | Wait::Ended => {
                let status = self.qemu.process.0.wait().context("cannot wait for QEMU")?;
                if status.success() {
                    Ok(())
                } else {
                    Err(Stop::Infrastructure(anyhow!("QEMU failed ({status})")))
                }
            }
        }
    }
}

/// An end that goes wrong makes nothing undone that was found wrong before.
fn with_end(mut complaints: Vec<String>, end: Result<(), Stop>) -> Result<Vec<String>, Stop> {
    match end {
        Ok(()) => Ok(complaints),
        Err(stop) if complaints.is_empty() => Err(stop),
        Err(Stop::Guest(error) | Stop::Infrastructure(error)) => {
            complaints.push(format!("{error:#}"));
            Ok(complaints)
        }
    }
}

struct Qemu {
    process: qemu::Process,
    /// What it writes to standard error.
    errors: PathBuf,
}

impl Qemu {
    fn expect(
        &mut self,
        console: &Console,
        mark: &str,
        what: &str,
        patience: Duration,
    ) -> Result<(), Stop> {
        self.expect_any(console, &[mark], what, patience).map(drop)
    }

    /// Waits for a line with one of the marks; a guest that stops instead has gone wrong, and a QEMU
    /// that fails is no fault of the guest's.
    fn expect_any(
        &mut self,
        console: &Console,
        marks: &[&str],
        what: &str,
        patience: Duration,
    ) -> Result<String, Stop> {
        match console.wait_for_any(marks, patience) {
            Wait::Matched(line) => Ok(line),
            Wait::TimedOut => {
                Err(Stop::Guest(anyhow!("it hangs: waited {} s until {what}", patience.as_secs())))
            }
            Wait::Ended => {
                let status = self.process.0.wait().context("cannot wait for QEMU")?;
                if status.success() {
                    return Err(Stop::Guest(anyhow!("it ended or panicked before {what}")));
                }
                let errors = fs::read(&self.errors).unwrap_or_default();
                Err(Stop::Infrastructure(anyhow!(
                    "QEMU failed ({status}) before {what}\n{}",
                    command::last_lines(&String::from_utf8_lossy(&errors), SHOWN_LINES)
                )))
            }
        }
    }
}

/// The script runs QEMU in a directory of its own, since QEMU empties the logs that it writes.
fn write_script(path: &Path, command: &str) -> Result<()> {
    let script = format!(
        "#!/bin/sh\n\
         cd \"$(dirname \"$0\")\" && mkdir -p again && cd again && ln -sf ../{} . && exec {command}\n",
        qemu::INITRD
    );
    fs::write(path, script)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stays_wrong_when_qemu_fails_in_the_end() {
        let told = |complaints: &[&str], end| {
            let complaints = complaints.iter().map(|text| (*text).to_owned()).collect();
            with_end(complaints, end).map_err(|stop| stop.to_string())
        };
        let fails = || Err(Stop::Infrastructure(anyhow!("QEMU failed")));
        let both = vec!["probed by e1000e".to_owned(), "QEMU failed".to_owned()];
        assert_eq!(told(&["probed by e1000e"], fails()), Ok(both));
        assert_eq!(told(&[], Ok(())), Ok(Vec::new()));
        assert_eq!(
            told(&[], fails()),
            Err("the boot did not come to the test: QEMU failed".to_owned())
        );
    }

    #[test]
    fn a_panic_is_told_however_long_its_trace() {
        let trace =
            |lines| format!("[1.0] Kernel panic - not syncing: x\n{}", "[1.1] y\n".repeat(lines));
        for lines in [0, SHOWN_LINES - 1, SHOWN_LINES, 3 * SHOWN_LINES] {
            let tail = tail(&trace(lines));
            assert_eq!(tail.matches("Kernel panic").count(), 1, "{lines}");
            assert!(tail.lines().count() <= SHOWN_LINES + 2, "{lines}");
        }
        assert_eq!(tail("one\ntwo\n"), "last lines of the console:\none\ntwo");
        assert_eq!(tail("\n"), "the console printed nothing");
    }
}
