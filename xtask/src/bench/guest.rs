//! What a boot costs with the early binary, over the same boot without it.
//!
//! QEMU counts: with `-icount shift=0` each instruction of the guest takes one nanosecond of its clock,
//! by which the kernel marks its log. Waiting for a device counts as well, and is the same in all boots.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::accelerator::Accelerator;
use crate::archive::Archive;
use crate::kernel::{self, Choice, Kernel};
use crate::qemu::{self, Guest};
use crate::serial::{Console, Echo, Wait};
use crate::workspace::Workspace;
use crate::{command, image, progress, setup};

const KERNELS: [&str; 2] = ["6.1", "6.12"];
const RULES: &str = "01:00.0+slot,00:04.0";
/// How the userspace tells that an initramfs would now begin its own work.
const MARK: &str = "bench: here";
/// Emulation that counts is slow, and so may be the machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Who runs the early binary.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Nobody,
    Hook,
    Kernel,
}

/// The boots of one kernel: when each of them comes to its /init's own work, by the guest's clock.
pub struct Boots {
    pub release: String,
    pub without: Duration,
    pub hook: Duration,
    pub pid1: Duration,
}

/// Boots every kernel in every mode.
pub fn measure(workspace: &Workspace, early: &Path) -> Result<Vec<Boots>> {
    let boots = |version: &&str| -> Result<Boots> {
        let kernel = kernel::prepare(&Choice::Version((*version).to_owned()), workspace)?;
        let boot = |mode, title: &str| {
            let title = format!("boot {}, {title}, instructions counted", kernel.release);
            progress::phase(title, || boot(workspace, &kernel, early, mode))
        };
        Ok(Boots {
            without: boot(Mode::Nobody, "without the early binary")?,
            hook: boot(Mode::Hook, "hook")?,
            pid1: boot(Mode::Kernel, "PID 1")?,
            release: kernel.release.clone(),
        })
    };
    KERNELS.iter().map(boots).collect()
}

fn boot(workspace: &Workspace, kernel: &Kernel, early: &Path, mode: Mode) -> Result<Duration> {
    let directory = tempfile::tempdir_in(workspace.scratch("bench")?)?;
    fs::write(directory.path().join(qemu::INITRD), image(early, mode)?)?;
    let rdinit = if mode == Mode::Kernel { image::LINK } else { "init" };
    let command_line = format!(
        "console=ttyS0 printk.time=1 panic=-1 no_timer_check cryptomgr.notests audit=0 \
         intel_iommu=on rdinit=/{rdinit} vfio.override={RULES}"
    );
    let machine = qemu::demo();
    let mut command = Guest {
        kernel,
        accelerator: Accelerator::Tcg,
        initrd: Some(qemu::INITRD),
        command_line: &command_line,
        machine: &machine,
    }
    .command()?;
    command.args(["-icount", "shift=0,sleep=off"]);
    let mut child = command
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(directory.path().join("qemu.log"))?)
        .spawn()
        .with_context(|| command::line(&command))?;
    let output = child.stdout.take().context("QEMU has no output")?;
    let log = directory.path().join("serial.log");
    let console = Console::read(output, &log, Echo::Quiet)?;
    let ended = console.wait_for_end(PATIENCE);
    // It may be at its end already.
    let _ = child.kill();
    child.wait()?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).replace('\r', "");
    if matches!(ended, Wait::TimedOut) {
        bail!("the guest did not come to its end:\n{}", command::last_lines(&text, 20));
    }
    if mode != Mode::Nobody && !text.contains("rules: 2 applied; functions: 4 taken") {
        bail!("the early binary did not do its work:\n{}", command::last_lines(&text, 20));
    }
    let mark = text.lines().find(|line| line.ends_with(MARK)).and_then(clock);
    mark.with_context(|| format!("no mark in the log:\n{}", command::last_lines(&text, 20)))
}

/// An initramfs with nothing but what is measured.
fn image(early: &Path, mode: Mode) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys"] {
        archive.directory(directory);
    }
    archive.program_from("bin/busybox", &setup::BUSYBOX.path()?)?;
    archive.program_from(image::LINK, early)?;
    let hook = if mode == Mode::Hook { format!("/{}\n", image::LINK) } else { String::new() };
    let init = format!(
        "#!/bin/busybox sh\n\
         /bin/busybox mount -t proc proc /proc\n\
         /bin/busybox mount -t sysfs sysfs /sys\n\
         /bin/busybox mount -t devtmpfs devtmpfs /dev\n\
         {hook}echo '{MARK}' >/dev/kmsg\n\
         /bin/busybox poweroff -f\n"
    );
    archive.program("init", init);
    archive.to_bytes()
}

/// The time of a record, `[    1.234567] text`.
fn clock(line: &str) -> Option<Duration> {
    let (seconds, rest) = line.split_once('[')?.1.trim_start().split_once('.')?;
    let microseconds = rest.get(..6)?.parse().ok()?;
    Some(Duration::from_secs(seconds.parse().ok()?) + Duration::from_micros(microseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_tell_their_time() {
        assert_eq!(clock("[    1.234567] bench: here"), Some(Duration::from_micros(1_234_567)));
        assert_eq!(clock("bench: here"), None);
    }
}
