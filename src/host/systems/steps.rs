// SPDX-License-Identifier: MIT OR Apache-2.0
//! What to do before the next boot, as one list in the order in which it is safe: what starts the early binary first,
//! then the kernel's parameters.

use std::fmt::Write as _;

use nix::unistd::geteuid;
use serde::Serialize;
use vfio_override::cmdline;

use super::found::Found;
use super::initramfs::{self, Hook, Initramfs, Listing, Maker};
use super::own::{Own, page};
use super::sign::Facts;
use super::table::{
    ADDONS, Before, Command, Edit, Given, KEYS, LOAD, Line, Location, More, Second, Way,
    WithoutMenu,
};
use super::words::{Change, split};
use crate::machine::Machine;
use crate::machine::root::Root;

/// One thing to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Step {
    pub what: String,
    /// The file to edit.
    pub file: Option<String>,
    /// The line to write there.
    pub line: Option<String>,
    /// The command to run as root.
    pub command: Option<String>,
}

impl Step {
    pub fn text(what: impl Into<String>) -> Self {
        Self { what: what.into(), ..Self::default() }
    }

    pub fn run(what: impl Into<String>, command: impl Into<String>) -> Self {
        Self { command: Some(command.into()), ..Self::text(what) }
    }

    pub fn write(
        what: impl Into<String>,
        file: impl Into<String>,
        line: impl Into<String>,
    ) -> Self {
        Self { file: Some(file.into()), line: Some(line.into()), ..Self::text(what) }
    }
}

impl From<&Given> for Step {
    fn from(given: &Given) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Self {
            what: given.what.to_owned(),
            file: owned(given.file),
            line: owned(given.line),
            command: owned(given.command),
        }
    }
}

/// What starts the early binary, and the words on the command line without which these steps start nothing. Only
/// here does a word come from that is not safe without its steps.
#[derive(Default)]
struct Start {
    steps: Vec<Step>,
    words: Vec<String>,
    /// What of these steps is of no use any more without the words, and only then.
    left: Option<String>,
    /// The command that has to come behind all edits.
    rebuild: Option<&'static str>,
    /// What has to be seen before the machine is booted with the words.
    check: Option<Step>,
    /// Whether so little is known of the machine that the words are for a single boot at first.
    is_tried: bool,
}

/// What is known of a system: how it boots, and how its image is made.
pub struct System<'a> {
    facts: Facts<'a>,
    found: Found,
    own: Own,
    pub image: Initramfs,
}

impl<'a> System<'a> {
    /// `None` where the host's files are not there to look at.
    pub fn of(machine: &'a Machine) -> Option<Self> {
        let facts = Facts::of(machine)?;
        let found = Found::of(&facts);
        let image = Initramfs::found(machine, &facts, &found);
        let own = Own::of(&facts);
        Some(Self { facts, found, own, image })
    }

    /// Why nothing of ours gets into this system's image, where that is so.
    pub fn obstacle(&self) -> Option<String> {
        if self.is_without_image() {
            // The early binary starts what the kernel would without that word.
            let has_init = cmdline::parameters(&self.facts.line).any(|it| it.name == b"init");
            let lacks = if has_init {
                "an init of its own is on the kernel command line"
            } else if self.facts.has_usr_of_its_own() {
                "/usr, which has the early binary, is mounted later"
            } else {
                return None;
            };
            let page = self.page("overlay.md");
            return Some(format!(
                "this kernel boots without an initramfs, and {lacks}: what would start the early binary first is not known here ({page})"
            ));
        }
        let maker = self.image.maker().filter(|_| !self.image.is_strict)?;
        let Way::Not(why) = maker.image.way else { return None };
        Some(format!("{}: {why} ({})", maker.image.maker, maker.page))
    }

    fn page(&self, name: &str) -> String {
        page(self.facts.root, name)
    }

    /// The command of ours with these arguments.
    pub fn ours(&self, what: &str, arguments: &str) -> Step {
        Step::run(what, format!("{} {arguments}", self.own.tool))
    }

    /// All that makes the rules in `change` come true at the next boot. `has_changes`: what an image holds a copy of is
    /// changed besides.
    pub fn to_apply(&self, change: Change, has_changes: bool) -> Vec<Step> {
        let Start { mut steps, words, mut rebuild, check, is_tried, .. } = self.start();
        steps.splice(0..0, self.writable());
        let known = self.image.maker().map(|maker| maker.image.rebuild);
        rebuild = rebuild.or(known.filter(|command| has_changes && !command.is_empty()));
        let add = words.into_iter().chain(change.add).collect();
        let change = Change { add, ..change };
        let mut line: Vec<Step> = self.of_crash_kernel(&change).into_iter().collect();
        line.extend(self.line(&change));
        line.extend(check);
        if is_tried {
            line.splice(0..0, self.trial(&change));
        }
        // One that writes the command line into the image makes it anew.
        let is_twice = |step: &Step| step.command.is_some() && step.command.as_deref() == rebuild;
        let rebuild = rebuild.filter(|_| !line.iter().any(is_twice));
        let rebuild = match rebuild {
            Some(command) => Some(Step::run(AGAIN, command)),
            None if has_changes && self.image.makers.is_empty() => Some(Step::text(format!(
                "{AGAIN}: what makes it here is not known, so by whatever does"
            ))),
            None => None,
        };
        let is_done_below = |step: &Step| {
            !is_tried
                && step.command.is_some()
                && line.iter().any(|later| later.command == step.command)
        };
        let mut all: Vec<Step> = steps.into_iter().filter(|step| !is_done_below(step)).collect();
        all.extend(rebuild);
        all.append(&mut line);
        all
    }

    /// Where images and entries are on something that is mounted read-only, though the root file system is not.
    fn writable(&self) -> Option<Step> {
        const PLACES: [&str; 4] = ["/boot", "/boot/efi", "/boot/firmware", "/efi"];
        let of_system = self.found.is_alone;
        let places =
            PLACES.into_iter().filter(|place| self.facts.is_read_only(place) && !of_system);
        let commands: Vec<String> =
            places.map(|place| format!("mount -o remount,rw {place}")).collect();
        let command = match commands.as_slice() {
            [] => return None,
            [one] => one.clone(),
            several => format!("sh -c '{}'", several.join(" && ")),
        };
        Some(Step::run(
            "What is to be changed is mounted read-only: until the next boot, make it",
            command,
        ))
    }

    /// The kernel that kdump starts after a crash takes these words over, and has an image of its own.
    fn of_crash_kernel(&self, change: &Change) -> Option<Step> {
        // Of two such words the later one counts.
        const NAMES: [(&str, &str); 2] = [
            ("etc/default/kdump-tools", "KDUMP_CMDLINE_APPEND"),
            ("etc/sysconfig/kdump", "KDUMP_COMMANDLINE_APPEND"),
        ];
        let has_start = change.add.iter().any(|word| word.starts_with("rdinit="));
        let reserves = |parameter: cmdline::Parameter<'_>| parameter.name == b"crashkernel";
        if !has_start || !cmdline::parameters(&self.facts.line).any(reserves) {
            return None;
        }
        let what = "The kernel that writes a dump after a crash takes the words below over, and without this one its image, in which \
                    the early binary is not, does not start";
        let known = NAMES.iter().find(|(file, _)| self.facts.root.has(file));
        Some(match known {
            Some((file, name)) => Step::write(
                format!(
                    "{what}: in /{file}, add to the value of {name} (where that line begins with #, take the # away and keep \
                     what stands there), then restart the service that loads it"
                ),
                format!("/{file}"),
                "rdinit=/init",
            ),
            None => Step {
                line: Some("rdinit=/init".to_owned()),
                ..Step::text(format!(
                    "{what}: have whatever loads it add, at the end of its own line"
                ))
            },
        })
    }

    /// Whether Secure Boot is on and an image of ours to make has to be signed anew.
    fn is_signed(&self) -> bool {
        let is_remade = |(_, _, line): (_, _, &Line)| matches!(line.before, Some(Before::Keep(..)));
        self.facts.is_secure_boot && self.found.loader.is_some_and(is_remade)
    }

    /// A look whether the firmware will start the image that is made.
    fn signature(&self) -> Option<Step> {
        let what = "Secure Boot is on: before you reboot, see that the new image is signed, with the key that signed the old one";
        self.is_signed().then(|| {
            if self.facts.has("usr/bin/sbctl") || self.facts.has("usr/sbin/sbctl") {
                Step::run(format!("{what}: it must be listed as signed"), "sbctl verify")
            } else {
                Step::text(format!("{what} (sbverify --list shows it): else it does not start"))
            }
        })
    }

    /// How to get words onto the command line that need nothing of ours.
    pub fn to_change(&self, change: &Change) -> Vec<Step> {
        self.line(change)
    }

    /// Whether the image that booted is known to hold the early binary as it is installed now.
    fn has_early(&self) -> bool {
        self.image.has_early() == Some(true) && !self.image.is_older_than_hook
    }

    /// Whether an addon takes the early binary along, whatever image it is beside.
    fn is_brought_along(&self) -> bool {
        let takes_addons = |(_, _, line): (_, _, &Line)| matches!(line.place, Location::Addon(_));
        self.found.loader.is_some_and(takes_addons) && !self.has_early()
    }

    fn start(&self) -> Start {
        let nothing = Start::default();
        let image = &self.image;
        if self.is_brought_along() {
            let why = "No image is made anew, since an addon can bring the early binary along";
            let steps = self.own.install.iter().cloned().chain([Step::from(&LOAD)]);
            let steps = steps.chain(self.pack(why, ARCHIVE)).collect();
            let left = Some(left_by_archive(ARCHIVE, &LOAD));
            return Start { steps, words: vec![STRICT.to_owned()], left, ..nothing };
        }
        if self.has_early() {
            let is_needed = |maker: &Maker| match maker.image.way {
                Way::Steps { start, .. } => vec![start.to_owned()],
                Way::Archive(_) if !image.is_strict => vec![STRICT.to_owned()],
                _ => Vec::new(),
            };
            let words = image.maker().map(is_needed).unwrap_or_default();
            return Start { words, ..nothing };
        }
        if self.is_without_image() {
            return self.without_image();
        }
        if image.is_strict && image.has_early() != Some(false) {
            // It has started that way, so that it is in the image.
            return nothing;
        }
        match image.makers.as_slice() {
            [] => self.archive("What makes the initramfs here is not known", &LOAD),
            [maker] => self.start_by(maker),
            makers => {
                let names: Vec<&str> = makers.iter().map(|maker| maker.image.maker).collect();
                let mut what = format!(
                    "{} are both here, and which of them made the image that booted is not known. See which",
                    names.join(" and ")
                );
                if image.is_forbidden() {
                    what.push_str(" (as root this command sees it)");
                }
                let mut steps = vec![Step::text(what)];
                for maker in makers {
                    let own = self.start_by(maker);
                    if !own.words.is_empty() {
                        let name = maker.image.maker;
                        let what = format!(
                            "If it is {name}, do not go on here: {} has the steps",
                            maker.page
                        );
                        steps.push(Step::text(what));
                        continue;
                    }
                    let name = maker.image.maker;
                    let lead = |step: Step| Step {
                        what: format!("If it is {name}: {}", step.what),
                        ..step
                    };
                    steps.extend(own.steps.into_iter().map(lead));
                    let again = own.rebuild.or(Some(maker.image.rebuild)).map(|command| {
                        Step::run(
                            format!(
                                "If it is {name}: make the image anew, so that it holds the hook"
                            ),
                            command,
                        )
                    });
                    steps.extend(again);
                }
                Start { steps, ..nothing }
            }
        }
    }

    fn start_by(&self, maker: &Maker) -> Start {
        let (name, image) = (maker.image.maker, maker.image);
        let hook = |steps| Start { steps, rebuild: Some(image.rebuild), ..Start::default() };
        let list = |listing: &Listing, why: &str| {
            let Listing { file, right } = listing;
            let step = match right {
                Some(line) => {
                    Step::write(format!("{why}: in {file}, replace the line by this"), file, line)
                }
                None => Step::write(
                    format!("{why}: in {file}, have it in HOOKS, before udev"),
                    file,
                    "vfio-override",
                ),
            };
            hook(vec![step])
        };
        match (&image.way, &maker.hook) {
            (Way::Not(_), _) => Start::default(),
            (Way::Archive(load), _) => self.archive(&format!("There is no hook for {name}"), load),
            (Way::Steps { steps, start, check, left }, _) => Start {
                steps: self
                    .own
                    .install
                    .iter()
                    .cloned()
                    .chain(steps.iter().map(|step| self.with_place(Step::from(step))))
                    .collect(),
                words: vec![(*start).to_owned()],
                check: check.as_ref().map(Step::from),
                left: Some((*left).to_owned()),
                ..Start::default()
            },
            (Way::ReadyMade { install, build, .. }, state) => {
                let given = [(*state == Hook::Missing).then_some(install), Some(build)];
                Start {
                    steps: given
                        .into_iter()
                        .flatten()
                        .map(|given| Self::with_page(given, &maker.page))
                        .collect(),
                    ..Start::default()
                }
            }
            (Way::Listed(_), Hook::Missing) => {
                let mut steps = vec![Self::install_hook(maker)];
                if let Hook::NotListed(listing) | Hook::BehindUdev(listing) =
                    initramfs::listed(self.facts.root)
                {
                    steps.extend(list(&listing, "Have HOOKS list it").steps);
                }
                hook(steps)
            }
            (Way::Listed(_), Hook::NotListed(listing)) => list(
                listing,
                &format!("The hook for {name} is installed, and HOOKS does not list it"),
            ),
            (Way::Listed(_), Hook::BehindUdev(listing)) => {
                list(listing, "The hook stands behind udev, where drivers are loaded by then")
            }
            (Way::Hook(_), Hook::Missing) => hook(vec![Self::install_hook(maker)]),
            (Way::Hook(_) | Way::Listed(_), Hook::LeftOut(file)) => {
                let what =
                    format!("The hook for {name} is installed and left out: in {file}, take out");
                hook(vec![Step::write(what, file, "vfio-override")])
            }
            (Way::Hook(_) | Way::Listed(_), _) => {
                if self.image.has_early().is_some() || self.image.is_older_than_hook {
                    return hook(Vec::new());
                }
                let what = "Make the image anew, unless you know that it holds the hook: that is not known here";
                let again = Step::run(what, image.rebuild);
                Start { steps: vec![again], ..Start::default() }
            }
        }
    }

    /// An archive beside the image, where the boot loader can be told of one.
    fn archive(&self, why: &str, load: &Given) -> Start {
        let second = self.found.loader.and_then(|(_, _, line)| line.second.as_ref());
        let archive = second.map_or(ARCHIVE, |second| second.archive);
        let mut steps: Vec<Step> = self.own.install.iter().cloned().collect();
        steps.push(Step::from(load));
        steps.extend(self.pack(why, archive));
        match second {
            Some(Second { edit: Some(Edit { file, what, line }), .. }) => {
                steps.push(Step::write(format!("In {file}, {what}"), *file, *line));
            }
            Some(Second { edit: None, .. }) => {}
            None => steps.push(Step::text(format!(
                "Have the boot loader load /{archive} as one more initrd, behind the image: its manual says how (where it \
                 takes only one, {} makes one of both)",
                self.page("overlay.md")
            ))),
        }
        // Without an image there is no /init for the early binary to become.
        let has_image = self.image.file.is_some() || self.facts.has_initramfs() == Some(true);
        let is_tried = second.is_none() || self.image.makers.is_empty() || !has_image;
        if let Some((_, _, line)) = self.found.loader.filter(|_| is_tried && second.is_some()) {
            // The boot that tries it has to have the archive.
            steps.extend(self.command_then(line));
        }
        let left = Some(left_by_archive(archive, load));
        Start { steps, words: vec![STRICT.to_owned()], left, is_tried, ..Start::default() }
    }

    /// An archive with the early binary, and a look into it.
    fn pack(&self, why: &str, archive: &str) -> [Step; 2] {
        let (pack, list) = if archive.contains(".gz") { (" | gzip", "zcat") } else { ("", "cat") };
        let make = format!(
            "sh -c 'cd {{early}} && echo vfio-override-early | cpio -o -H newc{pack} >/{archive}'"
        );
        let what = format!(
            "{why}: make an archive that holds the early binary ({})",
            self.page("overlay.md")
        );
        let look = "See that it does: the name of the early binary must come. Without it the next steps stop the boot";
        [
            self.with_place(Step::run(what, make)),
            Step::run(look, format!("sh -c '{list} /{archive} | cpio -t'")),
        ]
    }

    /// A step with the directory that the early binary is in.
    fn with_place(&self, step: Step) -> Step {
        let command = step.command.map(|command| command.replace("{early}", &self.own.early));
        Step { command, ..step }
    }

    /// A step that names the page about this system.
    fn with_page(given: &Given, page: &str) -> Step {
        let step = Step::from(given);
        Step { what: step.what.replace("{page}", page), ..step }
    }

    /// The hooks for all makers come together.
    fn install_hook(maker: &Maker) -> Step {
        let (name, page) = (maker.image.maker, &maker.page);
        Step::text(format!("Install vfio-override, which has the hook for {name}, as {page} says"))
    }

    /// The words for a single boot, which changes nothing.
    fn trial(&self, change: &Change) -> [Step; 2] {
        let what = "For one boot, at the boot loader's prompt (GRUB, systemd-boot, Limine: the key e; LILO: behind the \
                    entry's name), add to the kernel's line. Where that boot stops, switch the machine off and on: nothing is changed";
        [
            Step { line: Some(change.added()), ..Step::text(what) },
            self.ours("Go on only if that boot is as asked", "status"),
        ]
    }

    /// Whether the kernel mounts the root file system itself, and starts the early binary not yet.
    fn is_without_image(&self) -> bool {
        let has_none = self.image.file.is_none() && self.facts.has_initramfs() == Some(false);
        has_none && !self.image.is_strict
    }

    /// Where the kernel mounts the root file system itself, the early binary is started from there.
    fn without_image(&self) -> Start {
        const EARLY: &str = "/usr/lib/vfio-override/vfio-override-early";
        let what = "This kernel boots without an initramfs: the early binary starts from the root file system, after drivers \
                    that are built into the kernel. See that it is there: without it the next steps stop the boot";
        let mut steps: Vec<Step> = self.own.install.iter().cloned().collect();
        let load = match self.image.maker().map(|maker| &maker.image.way) {
            Some(Way::Archive(load)) => load,
            _ => &LOAD,
        };
        steps.extend([Step::from(load), Step::run(what, format!("ls -l {EARLY}"))]);
        Start { steps, words: vec![format!("init={EARLY}")], is_tried: true, ..Start::default() }
    }

    /// How to take back all that makes the rules come true.
    pub fn to_undo(&self, words: &[String]) -> Vec<Step> {
        let start = self.start();
        let mut steps = vec![self.line_undone(&[start.words.as_slice(), words].concat())];
        if self.is_signed() {
            let what = "Secure Boot is on: have that image signed as before, too. Until then the image that you kept boots \
                        without these words";
            steps.push(Step::text(what));
        }
        if let Some(left) = &start.left {
            let what = format!("Only when a boot without these words went well, take away {left}");
            steps.push(Step::text(what));
        }
        if let Some(Hook::NotListed(_) | Hook::BehindUdev(_)) = self.listed() {
            let what = "Before vfio-override is ever removed, take its name out of HOOKS: mkinitcpio ends with an error where a \
                        hook is missing";
            steps.push(Step::text(what));
        }
        let undo = self.image.maker().and_then(|maker| match &maker.image.way {
            Way::ReadyMade { undo, .. } => undo.as_ref(),
            _ => None,
        });
        steps.extend(undo.map(Step::from));
        steps
    }

    /// How to have a word of the command line again that these steps take out.
    pub fn to_have_back(&self, what: &str, word: &str) -> Step {
        let what = format!("To have back {what}, too");
        match self.found.loader.map(|(_, _, line)| &line.place) {
            Some(Location::Command(command)) if !command.drop.is_empty() => {
                let option = with_words(command.add, word);
                Step::run(what, format!("{} {option}", command.start))
            }
            _ => Step {
                line: Some(word.to_owned()),
                ..Step::text(format!("{what}, write again where these words stood"))
            },
        }
    }

    /// What the list of hooks lacks, where these steps have it changed.
    fn listed(&self) -> Option<Hook> {
        let is_changed = self.image.has_early() != Some(true);
        let is_listed = |maker: &&Maker| matches!(maker.image.way, Way::Listed(_)) && is_changed;
        self.image.maker().filter(is_listed).map(|_| initramfs::listed(self.facts.root))
    }

    /// How to take the words off again.
    fn line_undone(&self, words: &[String]) -> Step {
        let what = "To undo it later";
        let all = words.join(" and ");
        let Some((_, _, line)) = self.found.loader else {
            return Step::text(format!("{what}: take {all} off the kernel command line again"));
        };
        let file = match &line.place {
            Location::Command(Command { start, drop, each, .. }) if !drop.is_empty() => {
                let quoted = |text: &str| drop.replace("{}", &format!("'{text}'"));
                let options: Vec<String> = match each {
                    true => words.iter().map(|word| quoted(word)).collect(),
                    false => vec![quoted(&words.join(" "))],
                };
                return Step::run(what, format!("{start} {}", options.join(" ")));
            }
            Location::Command(_) => {
                let what = format!("{what}: set again, by the same command, what was set before");
                return Step::text(what);
            }
            Location::Addon(directory) => {
                return Step::run(what, format!("rm {directory}/{ADDON}"));
            }
            Location::Variable { file, name, more } => {
                format!("/{}", Assignment::of(self.facts.root, file, name, more.as_ref()).file)
            }
            Location::Whole(file) => format!("/{file}"),
            Location::Part { file, .. } | Location::Own { file, .. } => (*file).to_owned(),
        };
        let then = self.then(line);
        let make = match (&line.before, self.found.loader) {
            (Some(Before::Make(what)), Some((_, page, _))) => {
                Some(format!(". {}", what.replace("{page}", &self.page(page))))
            }
            _ => None,
        };
        let lead = if then.is_some() { ", then" } else { "" };
        let what =
            format!("{what}: take {all} out of {file} again{}{lead}", make.unwrap_or_default());
        Step { command: then.map(str::to_owned), ..Step::text(what) }
    }

    /// What comes before the command that makes a change of the command line count.
    fn before(&self, before: &Before, page: &str) -> Step {
        match before {
            Before::Keep(given, _) => {
                let mut step = Self::with_page(given, &self.page(page));
                match self.facts.loader.as_deref() {
                    Some("systemd-boot") => step.what.push_str(
                        "; systemd-boot lists it below the new one (where it shows no menu, hold the space bar while the machine \
                         starts)",
                    ),
                    Some("rEFInd") => step.what.push_str("; rEFInd lists it, too"),
                    _ => {}
                }
                step
            }
            Before::Make(what) => Step::text(what.replace("{page}", &self.page(page))),
        }
    }

    /// What has the firmware start the image that is kept, where no boot menu lists it.
    fn without_menu(&self) -> Option<&'static WithoutMenu> {
        const LIST: [&str; 2] = ["systemd-boot", "rEFInd"];
        let is_listed = self.facts.loader.as_ref().is_some_and(|name| LIST.contains(&&**name));
        match self.found.loader?.2.before.as_ref()? {
            Before::Keep(_, without_menu) if !is_listed => *without_menu,
            _ => None,
        }
    }

    /// What has to be done once the boot with the words was as asked.
    pub fn once_booted(&self) -> Option<Step> {
        self.without_menu().map(|steps| Step::from(&steps.end))
    }

    /// What makes a change of the command line count.
    fn then(&self, line: &'static Line) -> Option<&'static str> {
        then(&self.facts, line)
    }

    /// How an addon of ours is made, in place of one that is there.
    fn addon(
        &self,
        name: &str,
        page: &str,
        directory: &str,
        change: &Change,
        dropped: &[(&str, Option<String>)],
    ) -> Vec<Step> {
        let root = self.facts.root;
        let mut what =
            format!("{name}: make an addon, from which the stub takes more of the command line");
        let mut call = "ukify build".to_owned();
        if self.facts.is_secure_boot {
            what.push_str(
                ", signed, since Secure Boot is on, with the key that signs this machine's images",
            );
            let known = KEYS.iter().find(|(key, _)| root.has(key));
            let (key, certificate) = known.unwrap_or(&KEYS[KEYS.len() - 1]);
            let _ = write!(
                call,
                " --secureboot-private-key=/{key} --secureboot-certificate=/{certificate}"
            );
        }
        if !self.facts.has("usr/bin/ukify") && !root.has("usr/lib/systemd/ukify") {
            what.push_str(
                " (ukify is a package of its own, systemd-ukify, which is not installed here)",
            );
        }
        push_dropped(&mut what, dropped, "; and take out, where the image's own is made,");
        if self.is_brought_along() {
            let _ = write!(call, " --initrd=/{ARCHIVE}");
            let _ = write!(
                what,
                "; it counts for every image on that partition, and one whose stub is older than {ADDONS} would not boot with \
                 it: {} tells how to see that",
                self.page(page)
            );
        }
        let _ = write!(call, " --cmdline={} --output={directory}/{ADDON}", quoted(&change.added()));
        let is_missing = !root.has(directory.trim_start_matches('/'));
        let make = Step::run(
            "Make the directory for what every image takes",
            format!("mkdir -p {directory}"),
        );
        is_missing.then_some(make).into_iter().chain([Step::run(what, call)]).collect()
    }

    /// How to get words onto the command line.
    fn line(&self, change: &Change) -> Vec<Step> {
        let running = String::from_utf8_lossy(&self.facts.line).into_owned();
        let dropped = change.dropped(&running);
        if change.add.is_empty() && dropped.is_empty() {
            return Vec::new();
        }
        let Some((name, page, line)) = self.found.loader else {
            let is_blind = self.facts.root.is_live() && !geteuid().is_root();
            let more = if is_blind { " (as root this command sees more)" } else { "" };
            let mut what = format!(
                "What boots this machine is not known here{more}: get onto the kernel command line, all in one"
            );
            push_dropped(&mut what, &dropped, ", and off it");
            return vec![Step { line: Some(change.added()), ..Step::text(what) }];
        };
        let mut steps = match &line.place {
            Location::Variable { file, name: variable, more } => {
                vec![
                    Assignment::of(self.facts.root, file, variable, more.as_ref())
                        .step(name, change, &dropped),
                ]
            }
            Location::Whole(file) => {
                let file_name = format!("/{file}");
                let there = whole(self.facts.root, file);
                let there = if there.is_empty() { without_loader_s(&running) } else { there };
                if there.contains(ELSE) {
                    let mut what = format!("{name}: in {file_name}, add to the one line");
                    push_dropped(&mut what, &dropped, ", and take out");
                    vec![Step::write(what, &file_name, change.added())]
                } else {
                    let changed = change.of(&there);
                    let verb = if whole(self.facts.root, file) == changed {
                        "leave the one line as it is"
                    } else {
                        "write as its one line"
                    };
                    let mut what = format!("{name}: in {file_name}, {verb}");
                    push_elsewhere(&mut what, &there, &dropped);
                    vec![Step::write(what, &file_name, changed)]
                }
            }
            Location::Part { file, to, word } => {
                let mut what = format!("{name}: in {file}, add to {to}");
                push_dropped(&mut what, &dropped, "; and take out");
                let words: Vec<String> =
                    change.add.iter().map(|it| word.replace("{}", it)).collect();
                vec![Step::write(what, *file, words.join(" "))]
            }
            Location::Own { file, line } => {
                let is_whole = line.contains("{whole}");
                let its = if is_whole {
                    "whole command line, since nothing else is read then"
                } else {
                    "line"
                };
                let mut what = format!("{name}: in {file}, add the {its}");
                push_dropped(&mut what, &dropped, ", and take out wherever it stands there");
                let list: Vec<String> = change.add.iter().map(|it| format!("\"{it}\"")).collect();
                let line = line
                    .replace("{list}", &list.join(", "))
                    .replace("{whole}", &change.of(&without_loader_s(&running)))
                    .replace("{}", &change.added());
                vec![Step::write(what, *file, line)]
            }
            Location::Command(command) => {
                vec![command.step(name, &self.page(page), change, &dropped)]
            }
            Location::Addon(directory) => self.addon(name, page, directory, change, &dropped),
        };
        let without_menu = self.without_menu();
        steps.extend(line.before.as_ref().map(|before| self.before(before, page)));
        steps.extend(without_menu.map(|steps| Step::from(&steps.entry)));
        steps.extend(self.command_then(line));
        steps.extend(self.signature());
        steps.extend(without_menu.map(|steps| Step::from(&steps.next)));
        steps
    }

    fn command_then(&self, line: &'static Line) -> Option<Step> {
        self.then(line).map(|command| Step::run("Then", command))
    }
}

/// A kernel command line without what the boot loader adds itself, which is not for a file.
fn without_loader_s(line: &str) -> String {
    let is_loader_s =
        |word: &&str| ["BOOT_IMAGE=", "initrd="].iter().any(|start| word.starts_with(start));
    let own: Vec<&str> = split(line).into_iter().filter(|word| !is_loader_s(word)).collect();
    own.join(" ")
}

/// What makes a change of the command line count.
fn then(facts: &Facts<'_>, line: &'static Line) -> Option<&'static str> {
    let is_there = |(program, _): &&(&str, &str)| !program.is_empty() && facts.has(program);
    let then = line.then.iter().find(is_there).or_else(|| line.then.last());
    then.map(|(_, command)| *command)
}

/// What the command line of the next boot is made from.
pub struct Written {
    /// With its leading slash.
    pub file: String,
    pub text: String,
    /// What makes a change there count, where that takes a command.
    pub then: Option<&'static str>,
}

impl Written {
    /// `None` where it is no file of which that can be told.
    pub fn of(machine: &Machine) -> Option<Self> {
        let facts = Facts::of(machine)?;
        let (_, _, line) = Found::of(&facts).loader?;
        let (file, text) = match &line.place {
            Location::Variable { file, name, more } => {
                let assignment = Assignment::of(facts.root, file, name, more.as_ref());
                let text = assignment.line.as_deref().and_then(|line| plain_value(line, name))?;
                (format!("/{}", assignment.file), text.to_owned())
            }
            Location::Whole(file) => (format!("/{file}"), whole(facts.root, file)),
            _ => return None,
        };
        Some(Self { file, text, then: then(&facts, line) })
    }
}

/// Where the early binary's archive is put where nothing asks for another place.
const ARCHIVE: &str = "boot/vfio-override.cpio.gz";

/// What is left over of the steps for an archive.
fn left_by_archive(archive: &str, load: &Given) -> String {
    let load = load.file.map_or_else(String::new, |file| format!(", and the line in {file}"));
    format!("/{archive}, what names it{load}")
}

/// What an addon of ours is called.
const ADDON: &str = "vfio-override.addon.efi";

/// Stands in a copy for words that are nobody's business: a line with it is no line to write.
pub const ELSE: &str = "…";

const AGAIN: &str = "Make the image anew, since it holds copies of all this";

/// What has the kernel start the early binary itself.
const STRICT: &str = "rdinit=/vfio-override-early";

/// The lines of a file that is a command line, but for its comments, as one.
fn whole(root: &Root, file: &str) -> String {
    let keep = |line: &str| (!line.trim_start().starts_with('#')).then(|| line.trim().to_owned());
    root.lines(file, keep).unwrap_or_default().join(" ")
}

/// An option with these words, as a shell reads it.
fn with_words(option: &str, words: &str) -> String {
    match option.split_once("\"{}\"") {
        // The option is a text of its own, in which quotes mean something.
        Some((start, end)) => format!("'{start}\"{}\"{end}'", words.replace('"', "\\\"")),
        None => option.replace("{}", &quoted(words)),
    }
}

/// A word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Adds what is to be taken out.
fn push_dropped(what: &mut String, dropped: &[(&str, Option<String>)], lead: &str) {
    for (number, (word, left)) in dropped.iter().enumerate() {
        let lead = if number == 0 { lead } else { " and" };
        let _ = write!(what, "{lead} {word}");
        if let Some(left) = left {
            let _ = write!(what, " (but for {left})");
        }
    }
}

/// Adds what is to be taken out of some other place than this text, where it is not.
fn push_elsewhere(what: &mut String, text: &str, dropped: &[(&str, Option<String>)]) {
    let here = split(text);
    let elsewhere: Vec<_> =
        dropped.iter().filter(|(word, _)| !here.contains(word)).cloned().collect();
    push_dropped(what, &elsewhere, ", and take out of the place that it comes from:");
}

impl Command {
    fn step(
        &self,
        name: &str,
        page: &str,
        change: &Change,
        dropped: &[(&str, Option<String>)],
    ) -> Step {
        let left = dropped.iter().filter_map(|(_, left)| left.clone());
        let added: Vec<String> = left.chain(change.add.iter().cloned()).collect();
        let options = |option: &str, words: &[String]| -> Vec<String> {
            match words {
                [] => Vec::new(),
                _ if self.each => words.iter().map(|word| with_words(option, word)).collect(),
                _ => vec![with_words(option, &words.join(" "))],
            }
        };
        let gone: Vec<String> = dropped.iter().map(|(word, _)| (*word).to_owned()).collect();
        let mut what = format!("{name}:");
        let mut all = vec![self.start.to_owned()];
        if self.drop.is_empty() {
            what = format!(
                "{name}: this replaces what is set there, so put that in front ({page} shows how to see it)"
            );
            push_dropped(&mut what, dropped, ", but for");
        } else {
            all.extend(options(self.drop, &gone));
        }
        all.extend(options(self.add, &added));
        Step::run(what, all.join(" "))
    }
}

/// An assignment to a variable, in a file that a shell reads.
pub struct Assignment {
    /// Below the root.
    pub file: String,
    name: &'static str,
    line: Option<String>,
}

impl Assignment {
    /// The one that counts: the last, if there is one that does not only add to what was there before.
    pub fn of(root: &Root, file: &str, name: &'static str, more: Option<&More>) -> Self {
        let keep = |line: &str| {
            let is_named = line.contains(name) || only_adds(line, name);
            let is_it = is_named && !line.trim_start().starts_with('#');
            is_it.then(|| line.to_owned())
        };
        let mut files = vec![file.to_owned()];
        if let Some(More { directory, end, .. }) = more.filter(|more| root.has(more.program)) {
            let names = root.names(directory).into_iter().filter(|name| name.ends_with(end));
            files.extend(names.map(|name| format!("{directory}/{name}")));
        }
        let lines = files.into_iter().flat_map(|file| {
            let lines = root.lines(&file, keep).unwrap_or_default();
            lines.into_iter().map(move |line| (file.clone(), line))
        });
        let (adding, whole): (Vec<_>, Vec<_>) = lines.partition(|(_, line)| only_adds(line, name));
        // Where all of them only add, another assignment would take away what they make.
        match whole.into_iter().last().or_else(|| adding.into_iter().last()) {
            Some((file, line)) => Self { file, name, line: Some(line) },
            None => Self { file: file.to_owned(), name, line: None },
        }
    }

    fn step(&self, loader: &str, change: &Change, dropped: &[(&str, Option<String>)]) -> Step {
        let file = format!("/{}", self.file);
        let value = self.line.as_deref().map_or(Some(""), |line| plain_value(line, self.name));
        let value = value.filter(|value| !value.contains(ELSE));
        if let Some(value) = value {
            let changed = change.of(value);
            // Whichever quotes the words themselves have are not those of the shell.
            let quote = if changed.contains('"') { '\'' } else { '"' };
            let line = format!("{}{quote}{changed}{quote}", self.name);
            let verb = match &self.line {
                Some(_) if changed == value => "leave the line as it is",
                Some(_) => "replace the line by this",
                None => "add the line",
            };
            let mut what = format!("{loader}: in {file}, {verb}");
            push_elsewhere(&mut what, value, dropped);
            return Step::write(what, file, line);
        }
        let name = self.name.trim_end_matches('=');
        let mut what =
            format!("{loader}: in {file}, add to the value of {name}, before a -- in it");
        push_dropped(&mut what, dropped, ", and take out");
        Step::write(what, file, change.added())
    }
}

/// Whether an assignment keeps what the variable had.
pub fn only_adds(line: &str, name: &str) -> bool {
    let name = name.trim_end_matches('=');
    line.contains(&format!("{name}+="))
        || line.contains(&format!("${name}"))
        || line.contains(&format!("${{{name}}}"))
}

/// The value of an assignment; `None` where the shell that reads it would find more in it than a text in quotes.
pub fn plain_value<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let value = line.trim_start().strip_prefix(name)?.trim_end();
    let quoted = |quote: char| {
        let (inner, rest) = value.strip_prefix(quote)?.split_once(quote)?;
        (rest.is_empty() || rest.trim_start().starts_with('#')).then_some(inner)
    };
    let is_special = |letter: char| ['$', '`', '\\'].contains(&letter);
    match value.chars().next() {
        // Between single quotes nothing is special.
        Some('\'') => quoted('\''),
        Some('"') => quoted('"').filter(|inner| !inner.contains(is_special)),
        _ => {
            let value = value.split(" #").next()?.trim_end();
            let is_plain = |letter: char| !is_special(letter) && !"\"' \t;&|<>()".contains(letter);
            value.chars().all(is_plain).then_some(value)
        }
    }
}
