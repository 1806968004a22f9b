// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the early binary costs in a guest: a boot with it over the same boot without it, and its run beside
//! others' in the kernel's own sysfs.
//!
//! QEMU counts: with `-icount shift=0` each instruction of the guest takes one nanosecond of its clock,
//! by which the kernel marks its log. Waiting for a device counts as well, and is the same in all boots.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::ground::arch::X86_64;
use crate::ground::command;
use crate::ground::progress;
use crate::ground::setup;
use crate::ground::workspace::Workspace;
use crate::guest::archive::Archive;
use crate::guest::image;
use crate::guest::kernel::{self, Kernel};
use crate::guest::machine::{
    self, BOCHS_DISPLAY, HDA, Machine, ROOT_PORT, VIRTIO_RNG, full_address,
};
use crate::guest::qemu::{self, Accelerator, Guest};
use crate::guest::serial::{Console, Echo, Wait};

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
        let kernel = kernel::named(version, X86_64, workspace)?;
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
    let rdinit = if mode == Mode::Kernel { image::LINK } else { "init" };
    let parameters = format!("rdinit=/{rdinit} vfio.override={RULES}");
    let text = console(workspace, kernel, &machine::demo(), &image(early, mode)?, &parameters)?;
    if mode != Mode::Nobody && !text.contains("rules: 2 applied; functions: 4 taken") {
        bail!("the early binary did not do its work:\n{}", command::last_lines(&text, 20));
    }
    mark(&text, MARK)
}

/// What a guest says until it ends, its clock running as QEMU counts instructions.
fn console(
    workspace: &Workspace,
    kernel: &Kernel,
    machine: &Machine,
    image: &[u8],
    parameters: &str,
) -> Result<String> {
    let directory = tempfile::tempdir_in(workspace.scratch("bench")?)?;
    fs::write(directory.path().join(qemu::INITRD), image)?;
    let command_line = format!(
        "console=ttyS0 printk.time=1 panic=-1 no_timer_check cryptomgr.notests audit=0 \
         intel_iommu=on {parameters}"
    );
    let mut command = Guest {
        kernel,
        accelerator: Accelerator::Tcg,
        initrd: Some(qemu::INITRD),
        command_line: &command_line,
        machine,
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
    Ok(text)
}

/// When the record that ends so was written.
fn mark(text: &str, mark: &str) -> Result<Duration> {
    let record = text.lines().find(|line| line.ends_with(mark)).and_then(clock);
    record.with_context(|| format!("no \"{mark}\" in the log:\n{}", command::last_lines(text, 20)))
}

/// An initramfs with nothing but what is measured.
fn image(early: &Path, mode: Mode) -> Result<Vec<u8>> {
    let hook = if mode == Mode::Hook { format!("/{}\n", image::LINK) } else { String::new() };
    initramfs(early, &format!("{hook}echo '{MARK}' >/dev/kmsg\n"))?.to_bytes()
}

/// An initramfs with the early binary, whose /init runs this script.
fn initramfs(early: &Path, script: &str) -> Result<Archive> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys"] {
        archive.directory(directory);
    }
    archive.program_from("bin/busybox", &setup::BUSYBOX.path()?)?;
    archive.program_from(image::LINK, early)?;
    let init = format!(
        "#!/bin/busybox sh\n\
         /bin/busybox mount -t proc proc /proc\n\
         /bin/busybox mount -t sysfs sysfs /sys\n\
         /bin/busybox mount -t devtmpfs devtmpfs /dev\n\
         {script}/bin/busybox poweroff -f\n"
    );
    archive.program("init", init);
    Ok(archive)
}

/// What 64 functions cost in the kernel's own sysfs.
pub struct Sysfs {
    pub machine: &'static str,
    pub release: String,
    /// In the order of [`PROGRAMS`].
    pub times: Vec<Duration>,
}

/// What is started in the guest, and its name; the first is the yardstick.
pub const PROGRAMS: [(&str, &str); 3] = [
    ("floor", "/floor $functions"),
    ("early, musl", "/vfio-override-early"),
    ("echo loop, busybox ash", "/bin/busybox sh /echo-loop.sh $functions"),
];

/// Lets each program keep the same 64 functions, on two machines and every kernel.
pub fn in_sysfs(workspace: &Workspace, early: &Path, floor: &Path) -> Result<Vec<Sysfs>> {
    let machines: [(&str, Machine, Vec<String>); 2] = [cards(), slots()];
    let mut found = Vec::new();
    for (name, machine, functions) in &machines {
        for version in KERNELS {
            let kernel = kernel::named(version, X86_64, workspace)?;
            let title = format!("boot {}, {name}, instructions counted", kernel.release);
            let times = progress::phase(title, || {
                let image = sysfs_image(workspace, early, floor, functions)?;
                // Nothing on the console but what matters, and not a record lost.
                let parameters = format!(
                    "loglevel=3 log_buf_len=1M printk.devkmsg=on vfio.override={}",
                    functions.join(",")
                );
                let text = console(workspace, &kernel, machine, &image, &parameters)?;
                PROGRAMS.iter().map(|(name, _)| took(&text, name)).collect()
            })?;
            found.push(Sysfs { machine: name, release: kernel.release, times });
        }
    }
    Ok(found)
}

/// 32 cards, each with a bus and an IOMMU group of its own.
fn cards() -> (&'static str, Machine, Vec<String>) {
    let mut machine = Machine::new();
    let mut functions = Vec::new();
    for index in 0..32 {
        let (port, bus) =
            (format!("00:{:02x}.{}", 0x10 + index / 8, index % 8), format!("{:02x}", index + 1));
        let [display, audio] = [0, 1].map(|function| format!("{bus}:00.{function}"));
        machine =
            machine.bridge(&port, ROOT_PORT, &bus).with(&display, BOCHS_DISPLAY).with(&audio, HDA);
        functions.extend([display, audio]);
    }
    ("32 cards of two functions", machine, functions)
}

/// Eight slots of eight functions on the root bus.
fn slots() -> (&'static str, Machine, Vec<String>) {
    let functions: Vec<String> = (0x08..0x10)
        .flat_map(|slot| (0..8).map(move |function| format!("00:{slot:02x}.{function}")))
        .collect();
    let add = |machine: Machine, place: &String| machine.with(place, VIRTIO_RNG);
    let machine = functions.iter().fold(Machine::new(), add);
    ("8 slots of eight functions", machine, functions)
}

fn sysfs_image(
    workspace: &Workspace,
    early: &Path,
    floor: &Path,
    functions: &[String],
) -> Result<Vec<u8>> {
    let addresses: Vec<String> = functions.iter().map(|place| full_address(place)).collect();
    let mut script = format!(
        "functions='{}'\n\
         each() {{ for function in $functions; do \"$@\" /sys/bus/pci/devices/$function/driver_override; done; }}\n\
         clear() {{ echo >\"$1\"; }}\n\
         mark() {{ echo \"bench: $1\" >/dev/kmsg; }}\n",
        addresses.join(" ")
    );
    // The first run is for what only the first run does, such as reading the program.
    for (name, run) in PROGRAMS.iter().flat_map(|program| [program; 2]) {
        let _ = write!(
            script,
            "each clear\n\
             mark '{name} begins'\n\
             {run}\n\
             mark '{name} ends'\n\
             [ \"$(each /bin/busybox cat | /bin/busybox grep -c vfio-pci)\" = {} ] || mark '{name} failed'\n",
            functions.len()
        );
    }
    script += "/bin/busybox dmesg\n";
    let mut archive = initramfs(early, &script)?;
    archive.program_from("floor", floor)?;
    archive.program_from("echo-loop.sh", &workspace.root.join("xtask/peers/echo-loop.sh"))?;
    archive.to_bytes()
}

/// How long the last run of a program took.
fn took(text: &str, name: &str) -> Result<Duration> {
    if text.contains(&format!("bench: {name} failed")) {
        bail!("{name} did not do its work:\n{}", command::last_lines(text, 20));
    }
    let last = |what: &str| {
        let end = format!("bench: {name} {what}");
        let record = text.lines().rev().find(|line| line.ends_with(&end)).and_then(clock);
        record.with_context(|| format!("no \"{end}\":\n{}", command::last_lines(text, 20)))
    };
    Ok(last("ends")?.saturating_sub(last("begins")?))
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

    #[test]
    fn the_last_run_of_a_program_counts() -> Result<()> {
        let text = "[    1.000000] bench: a begins\n[    2.000000] bench: a ends\n\
                    [    3.000000] bench: a begins\n[    3.500000] bench: a ends\n";
        assert_eq!(took(text, "a")?, Duration::from_millis(500));
        assert!(took(text, "b").is_err());
        assert!(took(&format!("{text}bench: a failed"), "a").is_err());
        Ok(())
    }
}
