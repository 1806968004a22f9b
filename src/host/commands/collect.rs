// SPDX-License-Identifier: MIT OR Apache-2.0
//! `collect`: what this tool looks at, in a small tar, for a bug report.
//!
//! Nothing goes in that is not asked for here, and no file whole but those of sysfs that hold IDs and
//! drivers. Serial numbers are in none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use serde::Serialize;
use tar::{Builder, EntryType, Header};
use vfio_override::cmdline::{self, Parameter};

use crate::machine::disks::{Disks, names};
use crate::machine::functions::Devices;
use crate::machine::inputs;
use crate::machine::kernel_log::{self, KernelLog};
use crate::machine::links;
use crate::machine::modules;
use crate::machine::usage::{MEDIATED, Mount, Usage};
use crate::machine::{self, Machine, file};
use crate::rules::preview::Asked;
use crate::screen::{self, PLAIN, Screen};
use crate::systems::initramfs;
use crate::systems::iommu::Off;
use crate::systems::sign;
use crate::systems::steps::{self, System};
use crate::systems::table::{Location, SYSTEMS};
use crate::systems::takers::Takers;
use crate::systems::words::{Change, is_read_behind};
use crate::verdict::Verdict;

#[derive(Serialize)]
struct Report {
    file: PathBuf,
    bytes: u64,
    functions: usize,
}

pub fn run(machine: &mut Machine, file: &Path, json: bool) -> Result<Verdict> {
    let devices = Devices::of(machine);
    let mut copy = Copy::of(machine);
    copy.machine(machine, &devices)?;
    let archive = copy.archive.into_inner()?;
    write_whole(file, &archive).with_context(|| match file.symlink_metadata() {
        Ok(_) => {
            format!("cannot write {}, which is there already: name another file", file.display())
        }
        Err(_) => format!("cannot write {}", file.display()),
    })?;
    let bytes = archive.len() as u64;
    let functions = devices.all.len();
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

/// Makes this file, or none: whoever interrupts it waits for that.
fn write_whole(file: &Path, bytes: &[u8]) -> Result<()> {
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut before))?;
    let written = fs::File::create_new(file).and_then(|mut out| {
        out.write_all(bytes).inspect_err(|_| {
            // A part of a copy is of no use, and would be in the way of the next.
            let _ = fs::remove_file(file);
        })
    });
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    Ok(written?)
}

/// Parameters that a bug report may be about, as the beginnings of their names. All others may hold a
/// secret, such as the name of a disk's key.
const PARAMETERS: [&[u8]; 26] = [
    b"acpi",
    b"crashkernel",
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
    b"quiet",
    b"loglevel",
    b"sriov",
    b"vga",
];

/// Attributes of a function that are copied whole.
const ATTRIBUTES: [&str; 4] = ["modalias", "driver_override", "boot_vga", "removable"];

struct Copy {
    archive: Builder<Vec<u8>>,
    made: BTreeSet<String>,
    /// The block devices that a person has named, each with the name that it has in the copy.
    renamed: BTreeMap<String, String>,
}

impl Copy {
    fn of(machine: &Machine) -> Self {
        let disks = Disks::of(&machine.sysfs);
        let named = disks.names().filter(|name| !is_numbered(name));
        let renamed =
            (0..).zip(named).map(|(number, name)| (name.to_owned(), format!("block{number}")));
        Self {
            archive: Builder::new(Vec::new()),
            made: BTreeSet::new(),
            renamed: renamed.collect(),
        }
    }

    /// A text with paths of the machine as the copy has them.
    fn path(&self, text: &str) -> String {
        let parts = text.split_inclusive(['/', ' ', '\n']).flat_map(|part| {
            let name = part.trim_end_matches(['/', ' ', '\n']);
            let (name, end) = part.split_at(name.len());
            [self.renamed.get(name).map_or(name, String::as_str), end]
        });
        parts.collect()
    }

    fn machine(&mut self, machine: &mut Machine, devices: &Devices) -> Result<()> {
        self.directory("sys/bus/pci/devices")?;
        self.functions(&machine.sysfs)?;
        self.disks(&machine.sysfs)?;
        self.interfaces(machine)?;
        self.inputs(machine, devices)?;
        self.file("sys/bus/pci/drivers_probe", b"")?;
        self.proc(machine)?;
        self.root(machine, devices)
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
            for node in names(&directory.join("vfio-dev")) {
                self.directory(&format!("sys/{inside}/vfio-dev/{node}"))?;
            }
            for link in ["driver", "iommu_group", "physfn"] {
                self.link(sysfs, &format!("{inside}/{link}"))?;
            }
        }
        for driver in names(&sysfs.join("bus/pci/drivers")) {
            self.directory(&format!("sys/bus/pci/drivers/{driver}"))?;
        }
        for module in names(&sysfs.join("module")) {
            for driver in names(&sysfs.join(format!("module/{module}/drivers"))) {
                if driver.starts_with("pci:") {
                    self.directory(&format!("sys/module/{module}/drivers/{driver}"))?;
                }
            }
        }
        for group in names(&sysfs.join("kernel/iommu_groups")) {
            self.copy(sysfs, &format!("kernel/iommu_groups/{group}/reserved_regions"))?;
            for member in names(&sysfs.join(format!("kernel/iommu_groups/{group}/devices"))) {
                self.link(sysfs, &format!("kernel/iommu_groups/{group}/devices/{member}"))?;
            }
        }
        Ok(())
    }

    /// What tells which function a mounted disk belongs to.
    fn disks(&mut self, sysfs: &Path) -> Result<()> {
        let disks = Disks::of(sysfs);
        for name in disks.names() {
            let link = format!("class/block/{name}");
            self.link(sysfs, &link)?;
            let Ok(directory) = fs::canonicalize(sysfs.join(&link)) else { continue };
            let Some(inside) = below(sysfs, &directory) else { continue };
            self.copy(sysfs, &format!("{inside}/dev"))?;
            for layer in ["slaves", "holders"] {
                for name in names(&directory.join(layer)) {
                    self.link(sysfs, &format!("{inside}/{layer}/{name}"))?;
                }
            }
            // No more than what made it: the rest is the name of a disk, or of what a person calls it.
            if let Ok(uuid) = file::read_text(&directory.join("dm/uuid")) {
                let maker = uuid.split('-').next().unwrap_or_default();
                self.file(&format!("sys/{inside}/dm/uuid"), format!("{maker}-\n").as_bytes())?;
            }
            for controller in disks.controllers_beside(&directory) {
                let place = fs::canonicalize(&controller).ok();
                if let Some(place) = place.and_then(|place| below(sysfs, &place)) {
                    self.directory(&format!("sys/{place}"))?;
                }
                if let Some(link) = below(sysfs, &controller) {
                    self.link(sysfs, &link)?;
                }
            }
        }
        Ok(())
    }

    /// The network interfaces of functions, those that stand on them, and the default routes, under names that nobody
    /// gave: theirs may hold a hardware address, or what a person calls it.
    fn interfaces(&mut self, machine: &Machine) -> Result<()> {
        let sysfs = &machine.sysfs;
        let class = sysfs.join("class/net");
        let places: BTreeMap<String, String> = names(&class)
            .into_iter()
            .filter_map(|name| {
                let directory = fs::canonicalize(class.join(&name)).ok()?;
                Some((name, below(sysfs, &directory)?))
            })
            .collect();
        let public: BTreeMap<&String, String> =
            (0..).zip(places.keys()).map(|(number, name)| (name, format!("net{number}"))).collect();
        for (name, place) in &places {
            let new_name = &public[name];
            let new_place = Path::new(place).with_file_name(new_name);
            let new_place = new_place.display();
            self.link_to(
                &format!("sys/class/net/{new_name}"),
                Path::new(&format!("../../{new_place}")),
            )?;
            self.directory(&format!("sys/{new_place}"))?;
            self.copy_as(sysfs, &format!("{place}/operstate"), &format!("{new_place}/operstate"))?;
            let directory = sysfs.join(place);
            let master = links::master(&directory);
            for upper in links::uppers(&directory) {
                let Some(new_upper) = public.get(&upper) else { continue };
                let is_master = master.as_ref() == Some(&upper);
                let link = if is_master { "master".into() } else { format!("upper_{new_upper}") };
                let target = format!("../{new_upper}");
                self.link_to(&format!("sys/{new_place}/{link}"), Path::new(&target))?;
            }
        }
        if let Some(routes) = machine.proc("net/route") {
            let kept =
                links::default_routes(&routes).filter_map(|name| public.get(&name.to_owned()));
            let kept = kept.map(|name| format!("{name} 00000000"));
            let head = "Iface Destination".to_owned();
            self.file("proc/net/route", lines([head].into_iter().chain(kept)).as_bytes())?;
        }
        if let Some(routes) = machine.proc("net/ipv6_route") {
            let kept =
                links::default_routes_v6(&routes).filter_map(|name| public.get(&name.to_owned()));
            let kept = kept.map(|name| format!("{:032} 00 {name}", 0));
            self.file("proc/net/ipv6_route", lines(kept).as_bytes())?;
        }
        Ok(())
    }

    /// What a person operates the machine with, as far as it belongs to functions, and consoles.
    fn inputs(&mut self, machine: &Machine, devices: &Devices) -> Result<()> {
        let sysfs = &machine.sysfs;
        for class in ["input", "tty", "drm"] {
            let place = format!("class/{class}");
            if sysfs.join(&place).is_dir() {
                self.directory(&format!("sys/{place}"))?;
            }
            for name in names(&sysfs.join(&place)) {
                let link = format!("{place}/{name}");
                let Ok(directory) = fs::canonicalize(sysfs.join(&link)) else { continue };
                let is_function_s = !machine::addresses_in(&directory).is_empty();
                let is_wanted = match class {
                    "drm" => name.starts_with("card"),
                    "input" => is_function_s && name.starts_with("input"),
                    _ => is_function_s,
                };
                let Some(inside) = below(sysfs, &directory).filter(|_| is_wanted) else { continue };
                self.link(sysfs, &link)?;
                self.directory(&format!("sys/{inside}"))?;
                if class == "input" {
                    for attribute in ["key", "rel"] {
                        self.copy(sysfs, &format!("{inside}/capabilities/{attribute}"))?;
                    }
                }
            }
        }
        self.copy(sysfs, "class/tty/console/active")?;
        // Their names are of nobody's business.
        for (number, name) in (0..).zip(names(&sysfs.join(MEDIATED))) {
            let directory = fs::canonicalize(sysfs.join(MEDIATED).join(name)).ok();
            let Some(inside) = directory.and_then(|it| below(sysfs, &it)) else { continue };
            let place = Path::new(&inside).with_file_name(format!("mdev{number}"));
            self.directory(&format!("sys/{}", place.display()))?;
            let link = format!("sys/{MEDIATED}/mdev{number}");
            self.link_to(&link, &Path::new("../../..").join(place))?;
        }
        for device in &devices.all {
            for place in inputs::usb_places(machine, device) {
                let Some(inside) = below(sysfs, &place) else { continue };
                self.directory(&format!("sys/{inside}"))?;
                for attribute in inputs::USB_ATTRIBUTES {
                    self.copy(sysfs, &format!("{inside}/{attribute}"))?;
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
        let disks = Disks::of(&machine.sysfs);
        if let Some(text) = machine.proc("self/mountinfo") {
            self.file("proc/self/mountinfo", self.path(&public_mounts(&disks, &text)).as_bytes())?;
        }
        if let Some(text) = machine.proc("swaps") {
            self.file("proc/swaps", self.path(&public_swaps(&disks, &text)).as_bytes())?;
        }
        if machine.proc_directories("spl/kstat/zfs") > 0 {
            self.directory("proc/spl/kstat/zfs/…")?;
        }
        if let Some(release) = machine.release() {
            self.file("proc/sys/kernel/osrelease", format!("{release}\n").as_bytes())?;
        }
        Ok(())
    }

    /// What the other commands look at of the host's files, because they look at it here.
    fn root(&mut self, machine: &mut Machine, devices: &Devices) -> Result<()> {
        let _ = Usage::of(machine, devices);
        let asked = Asked::Line(machine.cmdline()?);
        let drivers: Vec<String> = {
            let run = asked.preview(machine);
            run.drivers().iter().map(|driver| driver.escape_ascii().to_string()).collect()
        };
        let common = ["vfio-pci", "pci-stub"].map(str::to_owned);
        for driver in drivers.iter().chain(&common) {
            let _ = modules::find(machine, driver);
        }
        let _ = Takers::of(machine, devices, &[]);
        let _ = Off::of(machine, devices);
        if let Some(system) = System::of(machine) {
            let change = Change { add: vec![String::new()], ..Change::default() };
            let _ = system.to_apply(change, true);
        }
        let modules = machine.modules_directory();
        let Some(root) = &machine.root else { return Ok(()) };
        if let Some(modules) = modules {
            let is_variant = |line: &str| line.contains("vfio_pci:").then(|| line.to_owned());
            let _ = root.lines(&format!("{modules}/modules.alias"), is_variant);
        }
        let images = initramfs::places_of_loader(&machine.cmdline()?);
        for (path, text) in root.seen() {
            if root.path(&path).is_dir() {
                self.directory(&path)?;
                continue;
            }
            let text = public_file(&path, text);
            let is_image = images.iter().any(|image| is_beside(image, &path));
            let public = if is_image { public_image(&path) } else { path.clone() };
            self.file_of(&public, &text, root.modified(&path))?;
        }
        let log = KernelLog::of(machine);
        let records = if log.source == "journal" {
            Some(kernel_log::records_of(&log))
        } else {
            let records = kernel_log::records(&root.path(kernel_log::FILE)).ok();
            records.map(|records| kernel_log::records_to_keep(&records))
        };
        if let Some(records) = records {
            self.file(kernel_log::FILE, records.as_bytes())?;
        }
        Ok(())
    }

    fn file(&mut self, path: &str, text: &[u8]) -> Result<()> {
        self.file_of(path, text, None)
    }

    fn file_of(&mut self, path: &str, text: &[u8], modified: Option<SystemTime>) -> Result<()> {
        let path = self.path(path);
        if !self.made.insert(path.clone()) {
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
        let path = self.path(path);
        if !self.made.insert(path.clone()) {
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
        self.copy_as(sysfs, path, path)
    }

    /// The same, to another place in the copy.
    fn copy_as(&mut self, sysfs: &Path, path: &str, to: &str) -> Result<()> {
        match file::read(&sysfs.join(path)) {
            Ok(text) => self.file(&format!("sys/{to}"), &text),
            Err(_) => Ok(()),
        }
    }

    /// Copies a link within sysfs.
    fn link(&mut self, sysfs: &Path, path: &str) -> Result<()> {
        match fs::read_link(sysfs.join(path)) {
            Ok(target) if target.is_relative() => self.link_to(&format!("sys/{path}"), &target),
            _ => Ok(()),
        }
    }

    fn link_to(&mut self, path: &str, target: &Path) -> Result<()> {
        let path = self.path(path);
        let target =
            target.to_str().map_or_else(|| target.to_owned(), |text| self.path(text).into());
        if !self.made.insert(path.clone()) {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        Ok(self.archive.append_link(&mut header, path, target)?)
    }
}

/// Whether a block device's name is the kernel's own, which is a word and numbers; md, DRBD and others let a person
/// give one.
fn is_numbered(name: &str) -> bool {
    const LETTERED: [&str; 4] = ["sd", "hd", "vd", "xvd"];
    const NUMBERED: [&str; 18] = [
        "nvme", "dm-", "md", "loop", "zram", "zd", "nbd", "drbd", "bcache", "mmcblk", "pmem", "sr",
        "fd", "ram", "rbd", "ublkb", "cciss!c", "dasd",
    ];
    let is_letters = |rest: &str| {
        let number = rest.trim_start_matches(|letter: char| letter.is_ascii_lowercase());
        number.len() < rest.len()
            && rest.len() - number.len() <= 3
            && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    // Parts such as `n1`, `c0`, `p2`, `boot0` stand between and behind the numbers.
    let is_numbers = |rest: &str| {
        let mut words = rest.split(|letter: char| letter.is_ascii_digit());
        rest.starts_with(|letter: char| letter.is_ascii_digit())
            && words.all(|word| matches!(word, "" | "n" | "c" | "p" | "d" | "boot" | "rpmb"))
    };
    LETTERED.iter().any(|kind| name.strip_prefix(kind).is_some_and(is_letters))
        || NUMBERED.iter().any(|kind| {
            name.strip_prefix(kind)
                .is_some_and(|rest| is_numbers(rest) || *kind == "dasd" && is_letters(rest))
        })
}

/// Where a directory is below sysfs.
fn below(sysfs: &Path, directory: &Path) -> Option<String> {
    let sysfs = fs::canonicalize(sysfs).ok()?;
    Some(directory.strip_prefix(sysfs).ok()?.to_str()?.to_owned())
}

/// The parameters of a command line that concern drivers, PCI and the IOMMU, as they stand there; `…` stands for the
/// others.
fn public_parameters(line: &[u8]) -> Vec<u8> {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    // Of what stands behind `--`, only what modprobe reads there is of use.
    let mut is_behind = false;
    for word in words(line) {
        is_behind |= word == b"--";
        let parameter = cmdline::parameters(word).next();
        let parameter = parameter.filter(|it| !is_behind || is_read_behind(it.name));
        let public = match parameter {
            _ if word == b"--" => Some(word.to_vec()),
            parameter => parameter.and_then(|parameter| public(word, &parameter)),
        };
        match public {
            Some(text) => kept.push(text),
            None if kept.last().is_some_and(|last| last == ELSE) => {}
            None => kept.push(ELSE.to_vec()),
        }
    }
    let end = kept.iter().position(|word| word == b"--").unwrap_or(kept.len());
    if kept.iter().skip(end + 1).all(|word| word == ELSE) {
        kept.truncate(end);
    }
    kept.join(&b' ')
}

/// Stands for what is not told.
const ELSE: &[u8] = steps::ELSE.as_bytes();

/// The words of a line, separated by blanks that no quotes protect.
fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut is_quoted = false;
    line.split(move |&byte| {
        is_quoted ^= byte == b'"';
        cmdline::is_space(byte) && !is_quoted
    })
    .filter(|word| !word.is_empty())
}

/// What may be told of a word.
fn public(word: &[u8], parameter: &Parameter<'_>) -> Option<Vec<u8>> {
    let value = parameter.value.map(String::from_utf8_lossy);
    if matches!(parameter.name, b"init" | b"rdinit") {
        // A home directory, or in NixOS the host's name: /nix/store/HASH-nixos-system-NAME-VERSION/init.
        let value = value.unwrap_or_default();
        let ends = ["/vfio-override-early", "/init"];
        let start = if value.starts_with("/nix/store/") { "/nix/store/" } else { "" };
        let end = ends.into_iter().find(|end| value.ends_with(end)).unwrap_or_default();
        let is_whole = KNOWN_INITS.contains(&&*value);
        let value = if is_whole { value.into_owned() } else { format!("{start}…{end}") };
        return Some([parameter.name, b"=", value.as_bytes()].concat());
    }
    if parameter.name == b"initrd" {
        return Some([b"initrd=", public_image(&value?).as_bytes()].concat());
    }
    if parameter.name == b"BOOT_IMAGE" && value.as_ref().is_some_and(|it| it.contains("/ostree/")) {
        return Some(word.to_vec());
    }
    let is_plain = [&b"ro"[..], b"rw", b"splash", b"rootwait"].contains(&word);
    let is_public = is_plain || PARAMETERS.iter().any(|start| parameter.name.starts_with(start));
    if !is_public {
        // No more than what a system is recognised by.
        let text = sign::of_use(parameter.name, &value?)?;
        return Some([parameter.name, b"=", text.as_bytes(), ELSE].concat());
    }
    let is_closed = word.iter().filter(|&&byte| byte == b'"').count() % 2 == 0;
    if is_closed {
        return Some(word.to_vec());
    }
    // The rest of the line belongs to it, whatever that was meant to be.
    let end = word.iter().position(|&byte| cmdline::is_space(byte)).unwrap_or(word.len());
    Some([word.get(..end)?, b" ", ELSE].concat())
}

/// Programs that people start, and that name nobody.
const KNOWN_INITS: [&str; 8] = [
    "/init",
    "/sbin/init",
    "/bin/sh",
    "/bin/bash",
    "/usr/lib/systemd/systemd",
    "/lib/systemd/systemd",
    "/vfio-override-early",
    "/usr/lib/vfio-override/vfio-override-early",
];

/// The path of an image that booted, with no names but those that systems and their tools give: a directory may be
/// called after the machine, an image after a person.
fn public_image(path: &str) -> String {
    const NAMES: [&str; 10] =
        ["boot", "efi", "EFI", "Linux", "linux", "initrd", "initramfs", "live", "nixos", ""];
    let is_maker_s = |name: &str| {
        let images = SYSTEMS.iter().filter_map(|system| system.image.as_ref());
        images.flat_map(|image| image.files).any(|file| {
            let file = file.rsplit('/').next().unwrap_or_default();
            let (start, rest) = file.split_once('{').unwrap_or((file, ""));
            let end = rest.split_once('}').map_or("", |(_, end)| end);
            name.starts_with(start) && name.ends_with(end)
        })
    };
    let mut unknown = 0;
    let parts = path.split_inclusive(['/', '\\']).map(|part| {
        let name = part.trim_end_matches(['/', '\\']);
        let is_known =
            NAMES.contains(&name) || is_maker_s(name) || is_release(name) || name.contains("ucode");
        if is_known {
            return part.to_owned();
        }
        unknown += 1;
        format!("entry{unknown}{}", part.get(name.len()..).unwrap_or_default())
    });
    parts.collect()
}

/// Whether it is the name of a kernel's release, as kernel-install names a directory.
fn is_release(name: &str) -> bool {
    name.starts_with(|letter: char| letter.is_ascii_digit()) && name.contains('.')
}

/// Whether a path is that of this image, or of another kernel's, whose place differs in the release alone.
fn is_beside(image: &str, path: &str) -> bool {
    let (parts, others) = (image.split('/'), path.split('/'));
    let is_same =
        |(part, other): (&str, &str)| part == other || is_release(part) && is_release(other);
    parts.clone().count() == others.clone().count() && parts.zip(others).all(is_same)
}

/// What is told of a file that holds a kernel command line; all others hold no more than was of use.
fn public_file(path: &str, text: Vec<u8>) -> Vec<u8> {
    for place in SYSTEMS.iter().filter_map(|system| Some(&system.line.as_ref()?.place)) {
        match place {
            Location::Whole(file) if path == *file => return public_parameters(&text),
            Location::Variable { file, name, more } => {
                let is_more = more.as_ref().is_some_and(|more| path.starts_with(more.directory));
                if path == *file || is_more {
                    return public_assignment(&text, name);
                }
            }
            _ => {}
        }
    }
    text
}

/// The assignment that counts. Of one that is more than a text in quotes no more is told than that.
fn public_assignment(lines: &[u8], name: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(lines);
    let is_adding = |line: &&str| steps::only_adds(line, name);
    let Some(line) = text.lines().rfind(|line| !is_adding(line)) else {
        // Nobody's business is what it adds, and that it only adds decides.
        let adds = format!("{name}\"${}\"\n", name.trim_end_matches('='));
        let has_any = text.lines().next().is_some();
        return if has_any { adds.into_bytes() } else { Vec::new() };
    };
    let value = steps::plain_value(line, name)
        .map_or_else(|| "$…".into(), |value| public_parameters(value.as_bytes()));
    [name.as_bytes(), b"\"", &value, b"\"\n"].concat()
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

/// Stands for a block device that could not be found in sysfs.
const UNKNOWN: &str = "…";

/// Mounts of what is on disks, under the kernel's names for these; where, only for the places that every
/// system has.
fn public_mounts(disks: &Disks, text: &str) -> String {
    const PLACES: [&str; 15] = [
        "/",
        "/boot",
        "/boot/efi",
        "/boot/firmware",
        "/efi",
        "/etc",
        "/home",
        "/nix",
        "/nix/store",
        "/opt",
        "/srv",
        "/sysroot",
        "/tmp",
        "/usr",
        "/var",
    ];
    let mounts = text.lines().filter_map(Mount::parse).flat_map(|mount| {
        let disks_of = mount.disks(disks).into_iter().map(|disk| format!("/dev/{disk}"));
        let mut sources: Vec<String> = disks_of.collect();
        if sources.is_empty() && mount.may_be_on_disks() {
            sources.push(format!("/dev/{UNKNOWN}"));
        } else if sources.is_empty() && ["/", "/etc", "/usr"].contains(&mount.place) {
            sources.push("none".to_owned());
        }
        let access = if mount.is_read_only() { "ro" } else { "rw" };
        let Mount { number, place, kind, .. } = mount;
        let place = if PLACES.contains(&place) { place } else { "…" };
        sources
            .into_iter()
            .map(move |source| format!("0 0 {number} / {place} {access} - {kind} {source} rw"))
    });
    lines(mounts)
}

/// Swap space on block devices: the file system that a file is on is mounted.
fn public_swaps(disks: &Disks, text: &str) -> String {
    let devices = text.lines().skip(1).filter_map(|line| line.strip_prefix("/dev/"));
    let public = devices.map(|device| {
        let device = device.split_whitespace().next().unwrap_or_default();
        format!("/dev/{}", disks.named(device).unwrap_or(UNKNOWN))
    });
    lines(["Filename".to_owned()].into_iter().chain(public))
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
            b"init=/x initrd=/1234 BOOT_IMAGE=/vmlinuz root=UUID=1234 quiet cryptdevice=/dev/sda2:key intel_iommu=on \
            vfio.override=\"01:00.0, 02:00.0\" ip=10.0.0.1 password=hunter2 pci=nommconf";
        assert_eq!(
            String::from_utf8(public_parameters(line)).unwrap(),
            "init=… initrd=/entry1 BOOT_IMAGE=/… … quiet … intel_iommu=on vfio.override=\"01:00.0, 02:00.0\" … pci=nommconf"
        );
        for (line, expected) in [
            ("quiet vfio.override=\"01:00.0 password=hunter2", "quiet vfio.override=\"01:00.0 …"),
            ("key=\"a quiet vfio.override=01:00.0", "…"),
            ("pci=no\"a b\"c quiet", "pci=no\"a b\"c quiet"),
            ("\"vfio.override=01:00.0, 02:00.0\"", "\"vfio.override=01:00.0, 02:00.0\""),
            ("quiet -- vfio=key", "quiet"),
            ("quiet -- key vfio-pci.ids=1:2 key", "quiet -- … vfio-pci.ids=1:2 …"),
            (
                "init=/nix/store/abc-nixos-system-alice-24.11/init quiet",
                "init=/nix/store/…/init quiet",
            ),
        ] {
            let public = public_parameters(line.as_bytes());
            assert_eq!(String::from_utf8(public).unwrap(), expected, "{line}");
        }
        let grub = b"GRUB_CMDLINE_LINUX_DEFAULT='quiet luks.key=secret'\n";
        assert_eq!(
            String::from_utf8(public_assignment(grub, "GRUB_CMDLINE_LINUX_DEFAULT=")).unwrap(),
            "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet …\"\n"
        );
    }

    #[test]
    fn an_image_of_another_kernel_is_as_public_as_that_of_this_one() {
        let image = "boot/alice/6.12.30/initrd";
        for (path, is_it) in [
            (image, true),
            ("boot/alice/6.11.0-2-amd64/initrd", true),
            ("boot/bob/6.11.0/initrd", false),
            ("boot/alice/6.11.0", false),
        ] {
            assert_eq!(is_beside(image, path), is_it, "{path}");
        }
        assert_eq!(public_image("boot/alice/6.11.0/initrd"), "boot/entry1/6.11.0/initrd");
    }

    #[test]
    fn names_that_the_kernel_gives_are_told_from_those_of_people() {
        for name in [
            "sda",
            "sdaa12",
            "vdb1",
            "nvme0n1",
            "nvme0c1n1",
            "nvme10n1p12",
            "dm-0",
            "md127",
            "md127p1",
            "mmcblk0boot0",
            "mmcblk0p1",
            "loop7",
            "zd16p1",
            "drbd0",
            "bcache0p1",
            "sr0",
            "dasda1",
            "cciss!c0d0p1",
        ] {
            assert!(is_numbered(name), "{name}");
        }
        for name in [
            "md_alice",
            "md-alice",
            "drbd_alice",
            "sda_alice",
            "alice",
            "sd",
            "md",
            "nvmealice",
            "md0alice",
        ] {
            assert!(!is_numbered(name), "{name}");
        }
    }

    #[test]
    fn names_of_people_stay_out_of_mounts() {
        let text = "\
36 35 259:2 / / rw,noatime shared:1 - ext4 /dev/nvme0n1p2 rw
37 36 8:17 / /media/alice/Secret\\040Plans rw - vfat /dev/sdb1 rw
38 36 0:25 / /proc rw - proc proc rw
39 36 0:44 / /mnt rw - cifs //server/alice rw
40 36 0:45 / /home rw - btrfs /dev/mapper/alicebox rw
";
        let sysfs = tempfile::tempdir().unwrap();
        for (name, number) in [("nvme0n1p2", "259:2"), ("sdb1", "8:17")] {
            let block = sysfs.path().join("class/block").join(name);
            fs::create_dir_all(&block).unwrap();
            fs::write(block.join("dev"), number).unwrap();
        }
        assert_eq!(
            public_mounts(&Disks::of(sysfs.path()), text),
            "0 0 259:2 / / rw - ext4 /dev/nvme0n1p2 rw\n0 0 8:17 / … rw - vfat /dev/sdb1 rw\n\
             0 0 0:45 / /home rw - btrfs /dev/… rw\n"
        );
    }
}
