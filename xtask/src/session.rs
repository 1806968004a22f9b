//! One boot of a guest, from an image to the evidence.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::guest::{self, Evidence};
use crate::kernel::Kernel;
use crate::qemu::{Guest, Machine};
use crate::serial::{Console, Echo, Wait};
use crate::workspace::Workspace;
use crate::{command, probes, progress};

/// How much of the console a failed boot shows.
const SHOWN_LINES: usize = 40;

/// Ten to thirty times what emulation takes on a small machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Shows a panic, and nothing that could tear a line of /init's apart.
const QUIET: &str = "loglevel=3";

/// Everything that one boot needs.
pub struct Session<'a> {
    /// Names the directory of the artefacts.
    pub name: &'a str,
    pub kernel: &'a Kernel,
    pub image: Vec<u8>,
    /// Appended to the parameters that every guest gets.
    pub parameters: String,
    pub machine: &'a Machine,
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

    /// Keeps the directory and says what is in it.
    pub fn keep(self) -> String {
        let directory = self.directory.keep();
        format!(
            "artefacts: {} (serial.log, report.log, kernel.log, initrd.cpio, qemu.log)\n\
             boot it again: sh {}",
            directory.display(),
            directory.join("qemu.sh").display()
        )
    }

    /// Keeps the directory after a failure and tells the end of the console as well.
    pub fn keep_as_evidence(self) -> String {
        let console = self.read("serial.log").unwrap_or_default();
        let tail = command::last_lines(&console.replace('\r', ""), SHOWN_LINES);
        format!("last lines of the console:\n{tail}\n{}", self.keep())
    }
}

/// A guest that is done with its report and may still be at its prompt.
pub struct Running {
    console: Console,
    qemu: Qemu,
    pub evidence: Evidence,
}

impl Session<'_> {
    /// Boots the guest until it has reported.
    pub fn run(&self, artefacts: &Artefacts) -> Result<Running> {
        let initrd = artefacts.path("initrd.cpio");
        fs::write(&initrd, &self.image)
            .with_context(|| format!("cannot write {}", initrd.display()))?;
        let (console, mut qemu) = self.start(artefacts, &initrd)?;
        let title = format!("boot {} to /init (QEMU, TCG)", self.kernel.release);
        self.phase(&title, || qemu.expect(&console, guest::STARTED, "/init starts", artefacts))?;
        self.phase("early binary, in the guest", || {
            qemu.expect(&console, guest::LOADING, "the early binary ends", artefacts)
        })?;
        self.phase("load every driver, report", || {
            qemu.expect(&console, guest::REPORTED, "the guest reports", artefacts)
        })?;
        let evidence =
            Evidence::read(&artefacts.read("report.log")?, &artefacts.read("kernel.log")?)?;
        Ok(Running { console, qemu, evidence })
    }

    fn start(&self, artefacts: &Artefacts, initrd: &Path) -> Result<(Console, Qemu)> {
        let command_line = format!(
            "console=ttyS0 {QUIET} panic=-1 no_timer_check cryptomgr.notests audit=0 \
             intel_iommu=on {} {}",
            probes::PARAMETERS,
            self.parameters
        );
        let mut command = Guest {
            vmlinux: &self.kernel.vmlinux,
            initrd,
            command_line: &command_line,
            machine: self.machine,
            directory: artefacts.directory.path(),
        }
        .command()?;
        write_script(&artefacts.path("qemu.sh"), &command::line(&command))?;
        let errors = artefacts.path("qemu.log");
        let errors =
            File::create(&errors).with_context(|| format!("cannot create {}", errors.display()))?;
        let is_shell = self.interaction == Interaction::Shell;
        let mut child = command
            .stdin(if is_shell { Stdio::inherit() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("cannot start QEMU")?;
        let output = child.stdout.take();
        let qemu = Qemu { child };
        let echo = if is_shell { Echo::After(guest::REPORTED) } else { Echo::Quiet };
        let console = Console::read(
            output.context("QEMU has no output")?,
            &artefacts.path("serial.log"),
            echo,
        )?;
        Ok((console, qemu))
    }

    fn phase<T>(&self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.interaction == Interaction::Silent { work() } else { progress::phase(title, work) }
    }
}

impl Running {
    /// Waits until the guest has switched itself off.
    pub fn finish(self, interaction: Interaction) -> Result<()> {
        let patience = if interaction == Interaction::Shell { Duration::MAX } else { PATIENCE };
        match self.console.wait_for_end(patience) {
            Wait::TimedOut => bail!("the guest did not switch itself off"),
            Wait::Matched | Wait::Ended => self.qemu.wait(),
        }
    }
}

/// QEMU; killed when it goes out of scope, so that no failure leaves one behind.
struct Qemu {
    child: Child,
}

impl Qemu {
    fn expect(
        &mut self,
        console: &Console,
        mark: &str,
        what: &str,
        artefacts: &Artefacts,
    ) -> Result<()> {
        match console.wait_for(mark, PATIENCE) {
            Wait::Matched => Ok(()),
            Wait::TimedOut => {
                bail!("the guest hangs: waited {} s until {what}", PATIENCE.as_secs())
            }
            Wait::Ended => {
                let status = self.child.wait().context("cannot wait for QEMU")?;
                let errors = artefacts.read("qemu.log")?;
                bail!(
                    "QEMU ended ({status}) before {what}\n{}",
                    command::last_lines(&errors, SHOWN_LINES)
                )
            }
        }
    }

    fn wait(mut self) -> Result<()> {
        let status = self.child.wait().context("cannot wait for QEMU")?;
        if !status.success() {
            bail!("QEMU failed ({status})");
        }
        Ok(())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_script(path: &Path, command: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\nexec {command}\n"))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", path.display()))
}
