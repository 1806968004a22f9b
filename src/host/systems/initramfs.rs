// SPDX-License-Identifier: MIT OR Apache-2.0
//! What makes this host's initramfs, which image booted, and whether the early binary is in it.

use std::cell::Cell;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use vfio_override::cmdline;

use super::found::Found;
use super::own;
use super::sign::Facts;
use super::steps::ELSE;
use super::table::{Image, SYSTEMS, Way};
use super::words::is_name;
use crate::machine::Machine;
use crate::machine::modules::is_module_file;
use crate::machine::root::{self, Root};

/// Where the early binary is, on the host and in every image.
const EARLY: &str = "usr/lib/vfio-override/vfio-override-early";
/// Under this name a copy keeps what its image holds.
const LISTING: &str = "initramfs.list";

/// What is known of the initramfs of the running kernel.
pub struct Initramfs {
    /// What makes it; where several may, each of them.
    pub makers: Vec<Maker>,
    /// The file, below the root.
    pub file: Option<String>,
    /// Whether the early binary or the hook was installed after the image was made.
    pub is_older_than_hook: bool,
    pub others: Others,
    /// The files of ours in it, and the modules.
    listing: Result<Vec<String>, Unlisted>,
    /// Whether the kernel starts the early binary itself, so that no hook is needed.
    pub is_strict: bool,
}

/// The other installed kernels whose images may lack the hook as it is now, by their releases.
#[derive(Default)]
pub struct Others {
    /// The image is older than the hook.
    pub older: Vec<String>,
    /// No image is found.
    pub unknown: Vec<String>,
}

/// One that makes it.
pub struct Maker {
    pub image: &'static Image,
    /// The page about it, as whoever reads this finds it.
    pub page: String,
    pub hook: Hook,
}

/// How far the hook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// There is none for this maker.
    None,
    Missing,
    /// It is installed, and not in the list of hooks that counts.
    NotListed(Listing),
    /// It is in that list where drivers are loaded by then.
    BehindUdev(Listing),
    /// It is installed, and this file, with its leading slash, has it left out.
    LeftOut(String),
    /// The next image holds it.
    Ready,
}

/// A list of hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// With its leading slash.
    pub file: String,
    /// The list as it has to be; `None` where it is made of more than one assignment.
    pub right: Option<String>,
}

/// Why it is not known what an image holds.
enum Unlisted {
    /// It takes somebody else to read it.
    Forbidden,
    /// There is no image, or nothing here that could list it.
    Unknown,
}

impl Initramfs {
    /// Looks for it; `None` where the host's files are not there to look at.
    pub fn of(machine: &Machine) -> Option<Self> {
        let facts = Facts::of(machine)?;
        Some(Self::found(machine, &facts, &Found::of(&facts)))
    }

    pub fn found(machine: &Machine, facts: &Facts<'_>, found: &Found) -> Self {
        let root = facts.root;
        let booted = Booted::of(machine, facts, found);
        let listing = match &booted.file {
            Some(file) if is_forbidden(root, file) => Err(Unlisted::Forbidden),
            file => list(root, found, file.as_deref()).ok_or(Unlisted::Unknown),
        };
        let makers: Vec<Maker> = booted
            .makers(found, listing.as_deref().unwrap_or_default())
            .into_iter()
            .map(|(page, image)| Maker {
                image,
                page: own::page(root, page),
                hook: hook_of(root, &image.way),
            })
            .collect();
        let paths = makers.iter().filter_map(|maker| hook_path(root, &maker.image.way));
        let newest = paths
            .chain([EARLY.to_owned()])
            .filter_map(|path| root.has(&path).then(|| root.modified(&path)).flatten());
        let made = booted.file.as_deref().and_then(|file| root.modified(file));
        let newest = newest.max();
        let is_older_than_hook = match (made, newest) {
            (Some(image), Some(hook)) => image < hook,
            _ => false,
        };
        let is_ready = |maker: &Maker| {
            matches!(maker.image.way, Way::Hook(_) | Way::Listed(_)) && maker.hook == Hook::Ready
        };
        let others = match newest {
            Some(hook) if makers.iter().any(is_ready) => booted.others(root, found, hook),
            _ => Others::default(),
        };
        let is_strict = cmdline::parameters(&facts.line).any(|parameter| {
            matches!(parameter.name, b"rdinit" | b"init")
                && parameter.value.is_some_and(|value| value.ends_with(b"/vfio-override-early"))
        });
        Self { makers, file: booted.file, is_older_than_hook, others, listing, is_strict }
    }

    /// What makes the image, if that is known.
    pub fn maker(&self) -> Option<&Maker> {
        match self.makers.as_slice() {
            [maker] => Some(maker),
            _ => None,
        }
    }

    /// Whether it takes somebody else to see what is in the image.
    pub fn is_forbidden(&self) -> bool {
        matches!(self.listing, Err(Unlisted::Forbidden))
    }

    /// Whether the early binary is in the image; `None` where the image cannot be read.
    pub fn has_early(&self) -> Option<bool> {
        let listing = self.listing.as_ref().ok()?;
        Some(listing.iter().any(|path| path.ends_with("/vfio-override-early")))
    }

    /// Whether the module of this driver is in the image; `None` where the image cannot be read.
    pub fn has_module(&self, driver: &str) -> Option<bool> {
        let listing = self.listing.as_ref().ok()?;
        Some(listing.iter().any(|path| is_module_file(path, driver)))
    }

    /// What the image is called in a sentence.
    pub fn name(&self) -> String {
        self.file.as_ref().map_or_else(|| "the initramfs".to_owned(), |file| format!("/{file}"))
    }
}

/// The image that booted.
struct Booted {
    /// Where it is, below the root.
    file: Option<String>,
    /// The name that the boot loader gave the kernel for it.
    name: Option<String>,
    release: String,
    package: Option<String>,
}

impl Booted {
    fn of(machine: &Machine, facts: &Facts<'_>, found: &Found) -> Self {
        let root = facts.root;
        let release = machine.release().unwrap_or_default();
        let package = package_of(root, &release);
        // The processor's microcode comes in an archive of its own.
        let path = values(&facts.line, "initrd").find(|path| !path.contains("ucode"));
        let name = path.as_deref().and_then(|path| path.rsplit('/').next()).map(str::to_owned);
        let mut booted = Self { file: None, name, release, package };
        let of_loader = path.iter().flat_map(|path| below_mounts(path));
        // `(hd0,gpt2)/ostree/NAME/vmlinuz`: its image is beside it.
        let of_ostree = values(&facts.line, "BOOT_IMAGE").filter_map(|kernel| {
            let (_, path) = kernel.split_once("/ostree/")?;
            let (directory, _) = path.rsplit_once('/')?;
            Some(format!("boot/ostree/{directory}/initramfs-{}.img", booted.release))
        });
        let of_makers = found.images.iter().flat_map(|(_, image)| booted.files(image));
        // Whoever makes it, there are places where it may be.
        let others = SYSTEMS.iter().filter_map(|system| system.image.as_ref());
        let of_others = others.flat_map(|image| booted.files(image));
        let all: Vec<String> =
            of_loader.chain(of_ostree).chain(of_makers).chain(of_others).collect();
        booted.file = all.into_iter().find(|file| root.has(file));
        booted
    }

    /// The same of the other kernels that are installed, by no more than when their images were made.
    fn others(&self, root: &Root, found: &Found, hook: SystemTime) -> Others {
        const MOST: usize = 16;
        let mut others = Others::default();
        let Some(own) = &self.file else { return others };
        let releases = root.names("lib/modules").into_iter().filter(|name| *name != self.release);
        // What a kernel leaves when it is removed has no list of modules.
        let is_whole = |name: &String| root.has(&format!("lib/modules/{name}/modules.dep"));
        for release in releases.filter(is_whole).take(MOST) {
            let package = package_of(root, &release);
            let beside = match (&self.package, &package) {
                _ if own.contains(&self.release) => own.replace(&self.release, &release),
                (Some(its), Some(package)) => own.replace(its, package),
                _ => own.clone(),
            };
            let other = Self { file: None, name: None, release, package };
            let of_makers = found.images.iter().flat_map(|(_, image)| other.files(image));
            let mut places = [beside].into_iter().chain(of_makers).filter(|file| file != own);
            match places.find(|file| root.has(file)).and_then(|file| root.modified(&file)) {
                Some(made) if made < hook => others.older.push(other.release),
                Some(_) => {}
                None => others.unknown.push(other.release),
            }
        }
        others
    }

    /// Where this maker puts the image of the running kernel.
    fn files(&self, image: &'static Image) -> Vec<String> {
        let mut files = Vec::new();
        for file in image.files {
            match (&self.package, file.contains("{package}")) {
                (Some(package), true) => files.push(file.replace("{package}", package)),
                (None, true) => {}
                (_, false) => files.push(file.replace("{release}", &self.release)),
            }
        }
        files
    }

    /// Who made it: by what is in it, else by its name, else all who may have.
    fn makers(&self, found: &Found, listing: &[String]) -> Vec<(&'static str, &'static Image)> {
        let has_mark = |image: &Image| {
            image.mark.is_some_and(|mark| listing.iter().any(|path| path.contains(mark)))
        };
        let is_named = |image: &'static Image, name: &str| {
            self.files(image).iter().any(|file| file.rsplit('/').next() == Some(name))
        };
        let found_name = self.file.as_deref().and_then(|file| file.rsplit('/').next());
        let names = [self.name.as_deref(), found_name];
        let mut makers: Vec<(&'static str, &'static Image)> = found.images.clone();
        let mut narrow = |is_it: &dyn Fn(&'static Image) -> bool| {
            if makers.iter().any(|(_, image)| is_it(image)) {
                makers.retain(|(_, image)| is_it(image));
            }
        };
        narrow(&has_mark);
        for name in names.into_iter().flatten() {
            narrow(&|image| is_named(image, name));
        }
        // A later entry may be the plainer one of the same maker.
        let mut seen = Vec::new();
        makers.retain(|(_, image)| {
            let is_new = !seen.contains(&image.maker);
            seen.push(image.maker);
            is_new
        });
        makers
    }
}

/// The package that a kernel is from, where its directory says it.
fn package_of(root: &Root, release: &str) -> Option<String> {
    let is_first = Cell::new(true);
    let first = |line: &str| is_first.replace(false).then(|| line.to_owned());
    root.lines(&format!("lib/modules/{release}/pkgbase"), first).ok()?.into_iter().next()
}

/// The values of this parameter, with slashes between the parts of a path.
fn values<'l>(line: &'l [u8], name: &'l str) -> impl Iterator<Item = String> + 'l {
    let parameters = cmdline::parameters(line);
    let values = parameters.filter(move |parameter| parameter.name == name.as_bytes());
    let values = values.filter_map(|parameter| parameter.value);
    values.map(|value| String::from_utf8_lossy(value).replace('\\', "/"))
}

/// Where a path of the boot loader's may be, below the root.
fn below_mounts(path: &str) -> [String; 3] {
    let path = path.trim_start_matches('/');
    ["boot", "efi", "boot/efi"].map(|mount| format!("{mount}/{path}"))
}

/// Where the images that the boot loader named may be, below the root.
pub fn places_of_loader(line: &[u8]) -> Vec<String> {
    values(line, "initrd").flat_map(|path| below_mounts(&path)).collect()
}

/// Where the hook is, if it is there.
fn hook_path(root: &Root, way: &Way) -> Option<String> {
    let (Way::Hook(path) | Way::Listed(path) | Way::ReadyMade { hook: path, .. }) = way else {
        return None;
    };
    let path = match path.split_once('*') {
        None => (*path).to_owned(),
        Some((directory, end)) => {
            let names = root.names(directory.trim_end_matches('/'));
            format!("{directory}{}", names.into_iter().find(|name| name.ends_with(end))?)
        }
    };
    root.has(&path).then_some(path)
}

fn hook_of(root: &Root, way: &Way) -> Hook {
    match way {
        Way::Steps { .. } | Way::Archive(_) | Way::Not(_) => Hook::None,
        Way::Hook(_) | Way::Listed(_) | Way::ReadyMade { .. } if hook_path(root, way).is_none() => {
            Hook::Missing
        }
        Way::Hook(path) | Way::ReadyMade { hook: path, .. } if path.contains("dracut") => {
            left_out(root, &["etc/dracut.conf"], "etc/dracut.conf.d", &["omit_dracutmodules"])
                .unwrap_or(Hook::Ready)
        }
        Way::Hook(_) | Way::ReadyMade { .. } => Hook::Ready,
        Way::Listed(_) => left_out(root, &[], "etc/mkinitcpio.d", &["-S", "--skiphooks"])
            .unwrap_or_else(|| listed(root)),
    }
}

/// Whether a configuration of its maker, in these files or this directory, has the hook left out: dracut's
/// `omit_dracutmodules`, or `--skiphooks` in a preset of mkinitcpio's.
fn left_out(root: &Root, files: &[&str], directory: &str, words: &[&str]) -> Option<Hook> {
    let more = root.names(directory).into_iter().map(|name| format!("{directory}/{name}"));
    let keep = |line: &str| {
        let text = line.split('#').next().unwrap_or_default();
        let word = words.iter().find(|word| text.contains(**word))?;
        // No more of it is of use.
        text.contains("vfio-override").then(|| format!("{word} vfio-override"))
    };
    let mut files = files.iter().map(|file| (*file).to_owned()).chain(more);
    let file = files.find(|file| !root.matches(file, keep).is_empty())?;
    Some(Hook::LeftOut(format!("/{file}")))
}

/// Whether mkinitcpio's `HOOKS` has the hook, where it runs before drivers are loaded.
pub fn listed(root: &Root) -> Hook {
    const OURS: &str = "vfio-override";
    let directory = "etc/mkinitcpio.conf.d";
    let more = root.names(directory).into_iter().filter(|name| root::has_end(name, "conf"));
    let more = more.map(|name| format!("{directory}/{name}"));
    let files = ["etc/mkinitcpio.conf".to_owned()].into_iter().chain(more);
    // The last assignment counts, and `+=` adds to it.
    let mut hooks: Vec<String> = Vec::new();
    let mut place = "etc/mkinitcpio.conf".to_owned();
    let mut is_whole = true;
    for file in files {
        for (adds, words) in assignments(root, &file) {
            is_whole = !adds && !words.iter().any(|word| word == ELSE);
            if !adds {
                hooks.clear();
                place.clone_from(&file);
            }
            hooks.extend(words.into_iter().filter(|word| word != ELSE));
        }
    }
    let at = |name: &str| hooks.iter().position(|hook| hook == name);
    let first = ["udev", "systemd"].iter().filter_map(|name| at(name)).min();
    let right = || {
        let mut right: Vec<&str> =
            hooks.iter().map(String::as_str).filter(|hook| *hook != OURS).collect();
        let place = right.iter().position(|hook| ["udev", "systemd"].contains(hook));
        right.insert(place.unwrap_or_else(|| right.len().min(1)), OURS);
        format!("HOOKS=({})", right.join(" "))
    };
    let right = (is_whole && !hooks.is_empty()).then(right);
    let listing = Listing { file: format!("/{place}"), right };
    match (at(OURS), first) {
        (None, _) => Hook::NotListed(listing),
        // With systemd a unit starts it, and its place does not matter.
        (Some(ours), Some(udev)) if ours > udev && at("systemd").is_none() => {
            Hook::BehindUdev(listing)
        }
        _ => Hook::Ready,
    }
}

/// The values of `HOOKS` in a file, each with whether it adds to what was there.
fn assignments(root: &Root, file: &str) -> Vec<(bool, Vec<String>)> {
    let is_open = Cell::new(false);
    // What stands between the parentheses may take several lines; each is kept as its names, and what is none, or is no
    // plain list in one line, as no more than that.
    let keep = |line: &str| {
        let text = line.split('#').next().unwrap_or_default().trim();
        let start = ["HOOKS=", "HOOKS+="].into_iter().find(|start| text.starts_with(start));
        if start.is_none() && !is_open.get() {
            return None;
        }
        let list = text.strip_prefix(start.unwrap_or_default()).unwrap_or(text);
        let end = list.find(')');
        is_open.set(end.is_none() && (is_open.get() || list.contains('(')));
        let (list, rest) = list.split_at(end.unwrap_or(list.len()));
        let is_plain = start.is_some() && !is_open.get() && rest.len() <= 1;
        let words = list.split(['(', '"', '\'', ' ', '\t']).filter(|word| !word.is_empty());
        let names = words.map(|word| if is_name(word) { word } else { ELSE });
        let names: Vec<&str> = names.chain((!is_plain).then_some(ELSE)).collect();
        let (open, close) =
            (if start.is_some() { "(" } else { "" }, if is_open.get() { "" } else { ")" });
        Some(format!("{}{open}{}{close}", start.unwrap_or_default(), names.join(" ")))
    };
    let mut found: Vec<(bool, Vec<String>)> = Vec::new();
    for line in root.lines(file, keep).unwrap_or_default() {
        let (start, words) = match line.split_once('=') {
            Some((name, words)) if name.starts_with("HOOKS") => (Some(name.ends_with('+')), words),
            _ => (None, line.as_str()),
        };
        if let Some(adds) = start {
            found.push((adds, Vec::new()));
        }
        let words = words.split(['(', ')', ' ']).filter(|word| !word.is_empty());
        if let Some((_, hooks)) = found.last_mut() {
            hooks.extend(words.map(str::to_owned));
        }
    }
    found
}

fn is_forbidden(root: &Root, file: &str) -> bool {
    access(&root.path(file), AccessFlags::R_OK) == Err(Errno::EACCES)
}

/// What the image holds of ours, its modules for VFIO, and what tells who made it, by a maker's own program.
fn list(root: &Root, found: &Found, file: Option<&str>) -> Option<Vec<String>> {
    let makers: Vec<&Image> = found.images.iter().map(|(_, image)| *image).collect();
    let marks: Vec<&str> = makers.iter().filter_map(|image| image.mark).collect();
    let is_of_use = |line: &str| {
        // Some list as `ls -l` does, with what a link leads to behind it.
        let path = line.split_whitespace().find(|word| word.contains('/')).unwrap_or(line.trim());
        let is_ours = path.ends_with("/vfio-override-early")
            || ["vfio", "pci-stub", "pci_stub"].iter().any(|part| path.contains(part))
                && path.contains(".ko");
        let mark = || marks.iter().copied().find(|mark| path.contains(mark));
        if is_ours { Some(path) } else { mark() }.map(str::to_owned)
    };
    if !root.is_live() {
        return root.lines(LISTING, is_of_use).ok();
    }
    let mut programs: Vec<&str> = makers.iter().filter_map(|image| image.list).collect();
    programs.dedup();
    programs.into_iter().find_map(|program| {
        let image = root.path(file?);
        // What is none would be waited for.
        let mut command = Command::new(image.is_file().then_some(program)?);
        command.arg(image).stdin(Stdio::null()).stderr(Stdio::null());
        let output = command.output().ok().filter(|output| output.status.success())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<String> = text.lines().filter_map(is_of_use).collect();
        // An image without a single path is one that could not be read.
        text.lines().any(|line| line.contains('/')).then(|| {
            root.remember(LISTING, &lines.join("\n"));
            lines
        })
    })
}
