//! `collect`: what this tool looks at, in a small tar, for a bug report.
//!
//! Nothing goes in that is not asked for here, and no file whole but those of sysfs that hold IDs and
//! drivers. Serial numbers are in none of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::Serialize;
use tar::{Builder, EntryType, Header};
use vfio_override::cmdline::{self, Parameter};

use crate::Verdict;
use crate::bootloader::{self, GRUB_FILE, GRUB_NAME, KERNEL_INSTALL_FILE};
use crate::functions::Devices;
use crate::generator::Initramfs;
use crate::kernel_log;
use crate::machine::Machine;
use crate::modules;
use crate::preview::Asked;
use crate::screen::{self, PLAIN, Screen};

#[derive(Serialize)]
struct Report {
    file: PathBuf,
    bytes: u64,
    functions: usize,
}

pub fn run(machine: &mut Machine, file: &Path, json: bool) -> Result<Verdict> {
    let cannot = || format!("cannot write {}", file.display());
    let out = fs::File::create_new(file).with_context(cannot)?;
    let functions = Devices::of(machine).all.len();
    let mut copy = Copy { archive: Builder::new(out), made: BTreeSet::new() };
    let written = copy.machine(machine).and_then(|()| Ok(copy.archive.finish()?));
    written.with_context(cannot)?;
    let bytes = fs::metadata(file).with_context(cannot)?.len();
    let report = Report { file: file.to_owned(), bytes, functions };
    if json {
        screen::json("collect", &report)?;
    } else {
        let mut screen = Screen::new();
        let (shown, kib) = (file.display(), bytes.div_ceil(1024));
        screen.line(PLAIN, format_args!("{shown}: {functions} functions, {kib} KiB"));
        screen.line(PLAIN, format_args!("look at it with: tar -xOf {shown} proc/cmdline"));
        screen.line(PLAIN, format_args!("and with: vfio-override --from {shown} list"));
    }
    Ok(Verdict::Good)
}

/// Parameters that a bug report may be about, as the beginnings of their names. All others may hold a
/// secret, such as the name of a disk's key.
const PARAMETERS: [&[u8]; 24] = [
    b"vfio",
    b"kvm",
    b"iommu",
    b"intel_iommu",
    b"amd_iommu",
    b"pci",
    b"pcie_",
    b"rd.driver.",
    b"modprobe.blacklist",
    b"module_blacklist",
    b"initcall_blacklist",
    b"video",
    b"nomodeset",
    b"nouveau.",
    b"nvidia",
    b"amdgpu.",
    b"radeon.",
    b"i915.",
    b"xe.",
    b"efifb",
    b"rdinit",
    b"quiet",
    b"sriov",
    b"vga",
];

/// Attributes of a function that are copied whole.
const ATTRIBUTES: [&str; 3] = ["modalias", "driver_override", "boot_vga"];

struct Copy {
    archive: Builder<fs::File>,
    made: BTreeSet<PathBuf>,
}

impl Copy {
    fn machine(&mut self, machine: &mut Machine) -> Result<()> {
        self.functions(&machine.sysfs)?;
        self.disks_and_links(&machine.sysfs)?;
        self.file("sys/bus/pci/drivers_probe", b"")?;
        self.proc(machine)?;
        self.root(machine)
    }

    fn functions(&mut self, sysfs: &Path) -> Result<()> {
        for name in names(&sysfs.join("bus/pci/devices")) {
            let link = format!("bus/pci/devices/{name}");
            self.link(sysfs, &link)?;
            let Ok(directory) = fs::canonicalize(sysfs.join(&link)) else { continue };
            let Some(inside) = below(sysfs, &directory) else { continue };
            for attribute in ATTRIBUTES {
                self.copy(sysfs, &format!("{inside}/{attribute}"))?;
            }
            for link in ["driver", "iommu_group"] {
                self.link(sysfs, &format!("{inside}/{link}"))?;
            }
        }
        for driver in names(&sysfs.join("bus/pci/drivers")) {
            self.directory(&format!("sys/bus/pci/drivers/{driver}"))?;
        }
        for group in names(&sysfs.join("kernel/iommu_groups")) {
            for member in names(&sysfs.join(format!("kernel/iommu_groups/{group}/devices"))) {
                self.link(sysfs, &format!("kernel/iommu_groups/{group}/devices/{member}"))?;
            }
        }
        Ok(())
    }

    /// What tells which function a mounted disk or a network link belongs to.
    fn disks_and_links(&mut self, sysfs: &Path) -> Result<()> {
        for (class, attributes) in [("class/block", ["dev"]), ("class/net", ["operstate"])] {
            for name in names(&sysfs.join(class)) {
                let link = format!("{class}/{name}");
                self.link(sysfs, &link)?;
                let Ok(directory) = fs::canonicalize(sysfs.join(&link)) else { continue };
                let Some(inside) = below(sysfs, &directory) else { continue };
                for attribute in attributes {
                    self.copy(sysfs, &format!("{inside}/{attribute}"))?;
                }
                for slave in names(&directory.join("slaves")) {
                    self.link(sysfs, &format!("{inside}/slaves/{slave}"))?;
                }
            }
        }
        Ok(())
    }

    fn proc(&mut self, machine: &Machine) -> Result<()> {
        self.file("proc/cmdline", &public_parameters(&machine.cmdline()?))?;
        if let Some(text) = machine.proc("iomem") {
            self.file("proc/iomem", public_memory(&text).as_bytes())?;
        }
        if let Some(text) = machine.proc("self/mountinfo") {
            self.file("proc/self/mountinfo", public_mounts(&text).as_bytes())?;
        }
        for file in ["swaps", "net/route"] {
            if let Some(text) = machine.proc(file) {
                let kept = public_columns(&text, if file == "swaps" { 1 } else { 2 });
                self.file(&format!("proc/{file}"), kept.as_bytes())?;
            }
        }
        if let Some(release) = machine.release() {
            self.file("proc/sys/kernel/osrelease", format!("{release}\n").as_bytes())?;
        }
        Ok(())
    }

    /// What the other commands look at of the host's files, because they look at it here.
    fn root(&mut self, machine: &mut Machine) -> Result<()> {
        let asked = Asked::Line(machine.cmdline()?);
        let drivers: Vec<String> = {
            let (run, _) = asked.preview(machine);
            run.drivers().iter().map(|driver| driver.escape_ascii().to_string()).collect()
        };
        let common = ["vfio-pci", "pci-stub"].map(str::to_owned);
        for driver in drivers.iter().chain(&common) {
            let _ = modules::find(machine, driver);
        }
        let modules = machine.modules_directory();
        let Some(root) = &machine.root else { return Ok(()) };
        let _ = bootloader::find(root, "vfio.override=");
        let _ = Initramfs::of(machine, &machine.cmdline()?);
        if let Some(modules) = modules {
            let is_variant = |line: &str| line.contains("vfio_pci:").then(|| line.to_owned());
            let _ = root.lines(&format!("{modules}/modules.alias"), is_variant);
        }
        for (path, text) in root.seen() {
            let text = match path.as_str() {
                GRUB_FILE => public_grub(&text),
                KERNEL_INSTALL_FILE => public_parameters(&text),
                _ => text,
            };
            self.file_of(&path, &text, root.modified(&path))?;
        }
        if let Ok(records) = kernel_log::records(&root.path(kernel_log::FILE)) {
            self.file(kernel_log::FILE, kernel_log::records_to_keep(&records).as_bytes())?;
        }
        Ok(())
    }

    fn file(&mut self, path: &str, text: &[u8]) -> Result<()> {
        self.file_of(path, text, None)
    }

    fn file_of(&mut self, path: &str, text: &[u8], modified: Option<SystemTime>) -> Result<()> {
        if !self.made.insert(path.into()) {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        let since = modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        header.set_mtime(since.map_or(0, |since| since.as_secs()));
        Ok(self.archive.append_data(&mut header, path, text)?)
    }

    fn directory(&mut self, path: &str) -> Result<()> {
        if !self.made.insert(path.into()) {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        Ok(self.archive.append_data(&mut header, path, &[][..])?)
    }

    /// Copies an attribute that is there and can be read.
    fn copy(&mut self, sysfs: &Path, path: &str) -> Result<()> {
        match fs::read(sysfs.join(path)) {
            Ok(text) => self.file(&format!("sys/{path}"), &text),
            Err(_) => Ok(()),
        }
    }

    /// Copies a link within sysfs.
    fn link(&mut self, sysfs: &Path, path: &str) -> Result<()> {
        let inside = format!("sys/{path}");
        let Ok(target) = fs::read_link(sysfs.join(path)) else { return Ok(()) };
        if target.is_absolute() || !self.made.insert(PathBuf::from(&inside)) {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        Ok(self.archive.append_link(&mut header, inside, target)?)
    }
}

/// The names in a directory, in order; none where there is no such directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Where a directory is below sysfs.
fn below(sysfs: &Path, directory: &Path) -> Option<String> {
    let sysfs = fs::canonicalize(sysfs).ok()?;
    Some(directory.strip_prefix(sysfs).ok()?.to_str()?.to_owned())
}

/// The parameters of a command line that concern drivers, PCI and the IOMMU; `…` stands for the others.
fn public_parameters(line: &[u8]) -> Vec<u8> {
    let is_public = |parameter: &Parameter<'_>| {
        PARAMETERS.iter().any(|start| parameter.name.starts_with(start))
    };
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for parameter in cmdline::parameters(line) {
        if is_public(&parameter) {
            let value = parameter.value.map(|value| {
                let has_blank = value.iter().any(|&byte| cmdline::is_space(byte));
                let quote: &[u8] = if has_blank { b"\"" } else { b"" };
                [b"=", quote, value, quote].concat()
            });
            kept.push([parameter.name, &value.unwrap_or_default()].concat());
        } else if kept.last().is_none_or(|last| last != "…".as_bytes()) {
            kept.push("…".as_bytes().to_vec());
        }
    }
    kept.join(&b' ')
}

fn public_grub(lines: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(lines);
    let value = text.lines().last().map(bootloader::grub_value).unwrap_or_default();
    let value = public_parameters(value.as_bytes());
    [GRUB_NAME.as_bytes(), b"\"", &value, b"\"\n"].concat()
}

/// The lines about functions and framebuffers.
fn public_memory(text: &str) -> String {
    let is_told = |line: &&str| {
        let name = line.split(" : ").nth(1).unwrap_or_default();
        vfio_override::pci::Address::from_sysfs(name.as_bytes()).is_some()
            || ["fb", "framebuffer", "drm", "BOOTFB"].iter().any(|part| name.contains(part))
    };
    lines(text.lines().filter(is_told))
}

/// Mounts of block devices; where, only for the places that every system has.
fn public_mounts(text: &str) -> String {
    const PLACES: [&str; 10] =
        ["/", "/boot", "/boot/efi", "/efi", "/home", "/opt", "/srv", "/tmp", "/usr", "/var"];
    lines(text.lines().filter_map(|line| {
        let (own, shared) = line.split_once(" - ")?;
        let own: Vec<&str> = own.split(' ').collect();
        let [id, parent, number, _, place, ..] = own[..] else { return None };
        let mut shared = shared.split(' ');
        let (kind, source) = (shared.next()?, shared.next()?);
        let source = source.starts_with("/dev/").then_some(source)?;
        let place = if PLACES.contains(&place) { place } else { "…" };
        Some(format!("{id} {parent} {number} / {place} rw - {kind} {source} rw"))
    }))
}

/// The first columns of each line.
fn public_columns(text: &str, count: usize) -> String {
    lines(
        text.lines().map(|line| line.split_whitespace().take(count).collect::<Vec<_>>().join(" ")),
    )
}

fn lines(lines: impl Iterator<Item: AsRef<str>>) -> String {
    lines.fold(String::new(), |text, line| text + line.as_ref() + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_the_command_line_stay_out() {
        let line =
            b"BOOT_IMAGE=/vmlinuz root=UUID=1234 quiet cryptdevice=/dev/sda2:key intel_iommu=on \
            vfio.override=\"01:00.0, 02:00.0\" ip=10.0.0.1 password=hunter2 pci=nommconf";
        assert_eq!(
            String::from_utf8(public_parameters(line)).unwrap(),
            "… quiet … intel_iommu=on vfio.override=\"01:00.0, 02:00.0\" … pci=nommconf"
        );
        let grub = b"GRUB_CMDLINE_LINUX_DEFAULT='quiet luks.key=secret'\n";
        assert_eq!(
            String::from_utf8(public_grub(grub)).unwrap(),
            "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet …\"\n"
        );
    }

    #[test]
    fn names_of_people_stay_out_of_mounts() {
        let text = "\
36 35 259:2 / / rw,noatime shared:1 - ext4 /dev/nvme0n1p2 rw
37 36 8:17 / /media/alice/Secret\\040Plans rw - vfat /dev/sdb1 rw
38 36 0:25 / /proc rw - proc proc rw
39 36 0:44 / /mnt rw - cifs //server/alice rw
";
        assert_eq!(
            public_mounts(text),
            "36 35 259:2 / / rw - ext4 /dev/nvme0n1p2 rw\n37 36 8:17 / … rw - vfat /dev/sdb1 rw\n"
        );
    }
}
