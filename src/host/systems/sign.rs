// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a system is recognised by, and looking for it.

use std::collections::BTreeMap;

use vfio_override::cmdline;

use super::steps::ELSE;
use super::table::SYSTEMS;
use super::words::is_name;
use crate::machine::root::Root;
use crate::machine::usage::Mount;
use crate::machine::{Machine, file};

/// Something by which a system is recognised. Paths are below the root, without a slash in front.
pub enum Sign {
    /// There is something at this path.
    Has(&'static str),
    /// os-release has this in `ID` or `ID_LIKE`.
    Os(&'static str),
    /// A line of this file, no comment, contains the text.
    Says(&'static str, &'static str),
    /// A line of a file in this directory, with this end of its name, contains the text.
    SomeSays(&'static str, &'static str, &'static str),
    /// The boot loader has told the firmware this name (`LoaderInfo` of the Boot Loader Interface).
    Loader(&'static str),
    /// systemd's stub of a unified kernel image, of this version or a later one, has left its word there (`StubInfo`).
    Stub(u32),
    /// The root file system is of one of these types.
    RootOn(&'static [&'static str]),
    /// /usr is a mount of its own, of one of these types.
    UsrOn(&'static [&'static str]),
    /// The root file system, or /etc, is mounted so that nothing can be changed in it.
    ReadOnly,
    /// The kernel command line has a parameter of this name whose value contains the text.
    Word(&'static str, &'static str),
    All(&'static [Sign]),
    Any(&'static [Sign]),
    Not(&'static Sign),
}

impl Sign {
    pub fn each(&self, visit: &mut dyn FnMut(&Sign)) {
        visit(self);
        match self {
            Self::All(signs) | Self::Any(signs) => signs.iter().for_each(|sign| sign.each(visit)),
            Self::Not(sign) => sign.each(visit),
            _ => {}
        }
    }
}

/// What of a parameter's value some system is recognised by; `None` where it is of no use.
pub fn of_use(name: &[u8], value: &str) -> Option<&'static str> {
    let mut found: Option<&'static str> = None;
    for system in SYSTEMS {
        system.sign.each(&mut |sign| {
            if let Sign::Word(its, text) = sign
                && its.as_bytes() == name
                && value.contains(text)
                && found.is_none_or(|found| found.len() < text.len())
            {
                found = Some(text);
            }
        });
    }
    found
}

/// What a machine shows of itself.
pub struct Facts<'a> {
    pub root: &'a Root,
    pub line: Vec<u8>,
    os: Vec<String>,
    /// The boot loader, by the name that it tells.
    pub loader: Option<String>,
    stub: Option<u32>,
    /// Whether the firmware starts nothing that is not signed.
    pub is_secure_boot: bool,
    /// The types of the root file system, and of /usr where that is a mount of its own.
    kinds: [Option<String>; 2],
    /// The places of which the file system is mounted read-only.
    read_only: Vec<String>,
}

impl<'a> Facts<'a> {
    /// `None` where the host's files are not there to look at.
    pub fn of(machine: &'a Machine) -> Option<Self> {
        let root = machine.root.as_ref()?;
        let text = machine.proc("self/mountinfo").unwrap_or_default();
        // A later one lies above.
        let mounts: BTreeMap<&str, Mount<'_>> = text
            .lines()
            .filter_map(|line| Mount::parse(line).map(|mount| (mount.place, mount)))
            .collect();
        let read_only = mounts.values().filter(|mount| mount.is_read_only());
        Some(Self {
            root,
            line: machine.cmdline().unwrap_or_default(),
            os: os_of(root),
            loader: loader_of(root),
            stub: stub_of(root),
            is_secure_boot: has_secure_boot(root),
            kinds: ["/", "/usr"].map(|place| Some(mounts.get(place)?.kind.to_owned())),
            read_only: read_only.map(|mount| mount.place.to_owned()).collect(),
        })
    }

    /// Whether the boot loader gave the kernel an initramfs; `None` where that is not known.
    pub fn has_initramfs(&self) -> Option<bool> {
        let is_named = cmdline::parameters(&self.line)
            .any(|parameter| parameter.name == b"initrd" && parameter.value.is_some());
        (is_named || self.stub.is_some()).then_some(true).or_else(|| given(self.root))
    }

    /// Whether there is something at this path; a program of root's may be among all others.
    pub fn has(&self, path: &str) -> bool {
        let beside = path.strip_prefix("usr/sbin/").map(|name| format!("usr/bin/{name}"));
        self.root.has(path) || beside.is_some_and(|path| self.root.has(&path))
    }

    /// Whether /usr is no part of the root file system.
    pub fn has_usr_of_its_own(&self) -> bool {
        self.kinds[1].is_some()
    }

    /// Whether nothing can be changed below this mount.
    pub fn is_read_only(&self, place: &str) -> bool {
        self.read_only.iter().any(|read_only| read_only == place)
    }

    pub fn show(&self, sign: &Sign) -> bool {
        match sign {
            Sign::Has(path) => self.has(path),
            Sign::Os(name) => self.os.iter().any(|os| os == name),
            Sign::Says(path, text) => says(self.root, path, text),
            Sign::SomeSays(directory, end, text) => {
                let names = self.root.names(directory).into_iter();
                let mut files = names.filter(|name| name.ends_with(end));
                files.any(|name| says(self.root, &format!("{directory}/{name}"), text))
            }
            Sign::Loader(name) => self.loader.as_deref() == Some(name),
            Sign::Stub(oldest) => self.stub.is_some_and(|version| version >= *oldest),
            Sign::RootOn(kinds) => is_one(self.kinds[0].as_deref(), kinds),
            Sign::UsrOn(kinds) => is_one(self.kinds[1].as_deref(), kinds),
            Sign::ReadOnly => ["/", "/etc"].iter().any(|place| self.is_read_only(place)),
            Sign::Word(name, text) => cmdline::parameters(&self.line).any(|parameter| {
                let value = parameter.value.map(String::from_utf8_lossy);
                parameter.name == name.as_bytes() && value.is_some_and(|value| value.contains(text))
            }),
            Sign::All(signs) => signs.iter().all(|sign| self.show(sign)),
            Sign::Any(signs) => signs.iter().any(|sign| self.show(sign)),
            Sign::Not(sign) => !self.show(sign),
        }
    }
}

fn is_one(kind: Option<&str>, kinds: &[&str]) -> bool {
    kind.is_some_and(|kind| kinds.contains(&kind))
}

/// Boot loaders that tell their names.
pub const LOADERS: [&str; 4] = ["systemd-boot", "GRUB", "Limine", "rEFInd"];

/// What a variable of the Boot Loader Interface says, by what is found in its text. It is in UTF-16.
fn efi_text(root: &Root, variable: &str, find: impl Fn(&str) -> Option<String>) -> Option<String> {
    let path = format!("sys/firmware/efi/efivars/{variable}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f");
    root.lines(&path, |line| find(&line.replace('\0', ""))).ok()?.into_iter().next()
}

fn loader_of(root: &Root) -> Option<String> {
    efi_text(root, "LoaderInfo", |text| {
        LOADERS.iter().find(|name| text.contains(**name)).map(|name| (*name).to_owned())
    })
}

/// The stub's version: 0 where it tells none. `systemd-stub 257.5-1`.
fn stub_of(root: &Root) -> Option<u32> {
    const NAME: &str = "systemd-stub ";
    let stub = efi_text(root, "StubInfo", |text| {
        let (_, version) = text.split_once(NAME.trim_end())?;
        let digits = version.trim_start().split(|letter: char| !letter.is_ascii_digit());
        Some(format!("{NAME}{}", digits.into_iter().next().unwrap_or_default()))
    })?;
    Some(stub.strip_prefix(NAME)?.parse().unwrap_or(0))
}

/// What the firmware's own variable says: four bytes of attributes, and 1.
fn has_secure_boot(root: &Root) -> bool {
    let path = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let keep = |line: &str| line.ends_with('\u{1}').then(|| '\u{1}'.to_string());
    root.lines(path, keep).is_ok_and(|lines| !lines.is_empty())
}

/// Under this name a copy keeps whether there was an initramfs.
const GIVEN: &str = "initramfs.given";

/// The same by what the boot loader left in the kernel's boot parameters, which only x86 has
/// (`Documentation/arch/x86/boot.rst`: `ramdisk_size`, `ext_ramdisk_size`).
fn given(root: &Root) -> Option<bool> {
    const SIZES: [usize; 2] = [0x21c, 0xc4];
    if !root.is_live() {
        let keep = |line: &str| Some(line.to_owned());
        return Some(root.lines(GIVEN, keep).ok()?.first()? == "yes");
    }
    let parameters = file::read(&root.path("sys/kernel/boot_params/data")).ok()?;
    let mut is_given = false;
    for at in SIZES {
        is_given |= parameters.get(at..at + 4)?.iter().any(|byte| *byte != 0);
    }
    root.remember(GIVEN, if is_given { "yes" } else { "no" });
    Some(is_given)
}

/// The names in `ID` and `ID_LIKE`.
fn os_of(root: &Root) -> Vec<String> {
    let keep = |line: &str| {
        let (name, value) =
            line.split_once('=').filter(|(name, _)| ["ID", "ID_LIKE"].contains(name))?;
        let value = value.split('#').next().unwrap_or_default().trim().trim_matches(['"', '\'']);
        let words: Vec<&str> = value.split_whitespace().filter(|word| is_name(word)).collect();
        Some(format!("{name}={}", words.join(" ")))
    };
    let lines = ["etc/os-release", "usr/lib/os-release"]
        .iter()
        .find_map(|path| root.lines(path, keep).ok())
        .unwrap_or_default();
    let values = lines.iter().filter_map(|line| line.split_once('='));
    let names = values.flat_map(|(_, value)| value.split_whitespace());
    names.map(str::to_owned).collect()
}

fn says(root: &Root, path: &str, text: &str) -> bool {
    let keep = |line: &str| {
        let is_it = line.contains(text) && !line.trim_start().starts_with('#');
        // A copy holds this line, which must not be empty.
        is_it.then(|| if text.is_empty() { ELSE } else { text }.to_owned())
    };
    !root.matches(path, keep).is_empty()
}
