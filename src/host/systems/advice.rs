// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an operator should know before rules are applied: what the early binary will warn of, with what
//! only the running host can tell.

use std::fmt::Display;

use serde::Serialize;
use vfio_override::message::{self, Message};
use vfio_override::problem::Problem;
use vfio_override::ruleset::Entry;
use vfio_override::run::Run;
use vfio_override::warnings;

use crate::machine::Machine;
use crate::machine::functions::Devices;
use crate::machine::modules::{self, Driver};
use crate::machine::usage::{Usage, Use};
use crate::rules::preview::Asked;
use crate::rules::touched;
use crate::screen::{PLAIN, Screen, WARN};
use crate::systems::initramfs::{Hook, Initramfs, Listing, Maker, Others};
use crate::systems::iommu::Off;
use crate::systems::steps::Written;
use crate::systems::table::Way;

/// One piece of advice.
#[derive(Serialize)]
pub struct Advice {
    /// `warning`, or `note` where nothing needs to be done.
    pub severity: &'static str,
    /// What it is about, in one of the words that the schema lists.
    pub kind: &'static str,
    /// The functions that it is about.
    pub functions: Vec<String>,
    pub message: String,
}

impl Advice {
    pub fn warning(kind: &'static str, functions: Vec<String>, message: &dyn Display) -> Self {
        Self { severity: "warning", kind, functions, message: message.to_string() }
    }

    pub fn note(kind: &'static str, functions: Vec<String>, message: &dyn Display) -> Self {
        Self { severity: "note", kind, functions, message: message.to_string() }
    }

    fn show(&self, screen: &mut Screen) {
        let style = if self.severity == "warning" { WARN } else { PLAIN };
        screen.marked(style, self.severity, &self.message);
    }
}

/// All advice about a run.
pub fn about(machine: &Machine, devices: &Devices, usage: &Usage, run: &Run<'_>) -> Vec<Advice> {
    let mut advice = Vec::new();
    for entry in &run.rules.entries {
        if let Some(doubt) = entry.rule().and_then(message::doubt) {
            advice.push(Advice::warning(
                "doubtful-rule",
                Vec::new(),
                &Message::Doubtful(entry, doubt),
            ));
        }
    }
    advice.extend(run.rules.entries.iter().filter_map(about_absent));
    run.each_omission(&mut |omission| {
        advice.push(Advice::warning("omission", Vec::new(), omission));
    });
    warnings::each(&run.plan, &mut |warning| {
        advice.extend(translate(run, usage, warning));
        if let Message::NoIommu = warning
            && let Some(off) = Off::of(machine, devices)
        {
            // The log cannot know as much.
            advice.push(Advice::warning("iommu-reason", Vec::new(), &off.sentence()));
        }
    });
    advice.extend(about_other_uses(run, usage));
    touched::about(machine, devices, run, usage, &mut advice);
    advice.extend(about_drivers(machine, run));
    advice
}

/// That a rule which matches nothing may be about what is not there all the time.
pub fn about_absent(entry: &Entry<'_>) -> Option<Advice> {
    let text = entry.text.escape_ascii().to_string();
    let is_it = entry.outcome.word() == "unmatched" && !text.starts_with('!');
    is_it.then(|| {
        Advice::note(
            "may-be-absent",
            Vec::new(),
            &format_args!(
                "where this device may be absent, as in a dock, or is made later, write ?{text}: then its absence is no \
                 failure"
            ),
        )
    })
}

/// A warning of the early binary's, with what the host has in use of the function.
fn translate(run: &Run<'_>, usage: &Usage, warning: &Message<'_>) -> Option<Advice> {
    let one = |address: &vfio_override::pci::Address| vec![address.to_string()];
    Some(match warning {
        Message::NoIommu => {
            let without = run.plan.taken().filter(|step| step.function.group.is_none());
            let without = without.map(|step| step.function.address.to_string()).collect();
            Advice::warning("iommu-off", without, warning)
        }
        Message::NoGroup(address) => Advice::warning("no-iommu-group", one(address), warning),
        Message::NotViable(group, plan) => {
            let left = plan.left().filter(|function| function.group == Some(*group));
            let left = left.map(|function| function.address.to_string()).collect();
            Advice::warning("group-not-viable", left, warning)
        }
        Message::BootDisplay(address) => Advice::warning("boot-display", one(address), warning),
        Message::Framebuffer(address) => Advice::warning("framebuffer", one(address), warning),
        Message::Problem(Problem::NoAliases(_)) => {
            Advice::warning("no-aliases", Vec::new(), warning)
        }
        Message::HostLoses(function) => {
            let kind = if function.class.is_storage() { "storage" } else { "network" };
            let functions = one(&function.address);
            match usage.of_function(function) {
                None => Advice::warning(kind, functions, warning),
                Some([]) => Advice::note(
                    kind,
                    functions,
                    &format_args!("{warning}; nothing of it is in use now"),
                ),
                Some(uses) => {
                    Advice::warning(kind, functions, &format_args!("{warning}: {}", join(uses)))
                }
            }
        }
        _ => return None,
    })
}

/// Shows advice to people: of two that say the same, the one that says more.
pub fn show<'a>(advice: impl Iterator<Item = &'a Advice> + Clone, screen: &mut Screen) {
    let has_reason = advice.clone().any(|advice| advice.kind == "iommu-reason");
    for advice in advice.filter(|advice| advice.kind != "iommu-off" || !has_reason) {
        advice.show(screen);
    }
}

/// That the file which the command line comes from has rules, of which this boot has none.
pub fn about_written(machine: &Machine) -> Option<Advice> {
    let Written { file, text, then } = Written::of(machine)?;
    let values = Asked::Line(text.into_bytes()).values();
    let rules: Vec<String> = values.iter().map(|value| format!("vfio.override={value}")).collect();
    let make = then.map_or_else(String::new, |command| format!("run {command} and "));
    let message = format_args!(
        "{file} has {}, which this boot did not get: {make}reboot; if that was done, another entry, or another boot loader's \
         file, was booted",
        rules.join(" ")
    );
    (!rules.is_empty()).then(|| Advice::warning("not-booted", Vec::new(), &message))
}

/// That these rules switch all others off.
pub fn about_off(run: &Run<'_>) -> Option<Advice> {
    run.rules.off?;
    let message = "the kernel command line says vfio.override=off: take that out, since nothing is taken while it \
                   stands there";
    Some(Advice::warning("off", Vec::new(), &message))
}

/// What the host has in use of functions that are neither mass storage nor network, such as a disk behind a USB
/// controller.
fn about_other_uses(run: &Run<'_>, usage: &Usage) -> Vec<Advice> {
    let others = run.plan.taken().map(|step| &step.function).filter(|function| {
        let class = function.class;
        !class.is_storage() && !class.is_network()
    });
    others
        .filter_map(|function| {
            let uses = usage.of_function(function).filter(|uses| !uses.is_empty())?;
            let address = function.address;
            Some(Advice::warning(
                "in-use",
                vec![address.to_string()],
                &format_args!("the host loses what is behind {address}: {}", join(uses)),
            ))
        })
        .collect()
}

/// The first few of what is in use, in words.
pub fn join(uses: &[Use]) -> String {
    list(&uses.iter().map(ToString::to_string).collect::<Vec<_>>())
}

/// The first few of a list, in words.
pub fn list(words: &[String]) -> String {
    const MOST: usize = 3;
    let first = words.get(..MOST).unwrap_or(words).join(", ");
    match words.len().checked_sub(MOST) {
        None | Some(0) => first,
        Some(more) => format!("{first}, and {more} more"),
    }
}

/// Drivers that this kernel has not, and images that lack something.
fn about_drivers(machine: &Machine, run: &Run<'_>) -> Vec<Advice> {
    let mut advice = Vec::new();
    let image = Initramfs::of(machine);
    let drivers = run.drivers();
    for driver in &drivers {
        let driver = driver.escape_ascii().to_string();
        match modules::find(machine, &driver) {
            Some(Driver::Missing) => advice.push(Advice::warning(
                "driver-missing",
                Vec::new(),
                &format_args!(
                    "this kernel has no driver {driver}, built in or as a module: what is kept for it \
                     stays without a driver"
                ),
            )),
            Some(Driver::Module)
                if image.as_ref().and_then(|image| image.has_module(&driver)) == Some(false) =>
            {
                advice.push(Advice::note(
                    "driver-not-in-initramfs",
                    Vec::new(),
                    &format_args!(
                        "{driver} is not in the initramfs: what is kept for it waits, untouched by other \
                         drivers, until {driver} is loaded"
                    ),
                ));
            }
            _ => {}
        }
    }
    if run.rules.count() > 0 && run.rules.off.is_none() {
        advice.extend(image.as_ref().and_then(about_hook));
        advice.extend(image.as_ref().and_then(about_other_kernels));
        advice.extend(image.as_ref().and_then(about_access));
    }
    advice
}

/// That what the image holds is not known.
fn about_access(image: &Initramfs) -> Option<Advice> {
    let file = image.file.as_deref().filter(|_| image.is_forbidden())?;
    let message = format_args!(
        "/{file} is for root only: to see whether it holds the early binary and the drivers, run this with sudo"
    );
    Some(Advice::note("initramfs-unknown", Vec::new(), &message))
}

/// The kinds of advice that the steps of `suggest` say better.
pub const OF_IMAGES: [&str; 7] = [
    "early-not-in-initramfs",
    "hook-behind-udev",
    "hook-missing",
    "hook-not-listed",
    "initramfs-stale",
    "initramfs-unknown",
    "no-generator",
];

/// What follows where no hook is known.
const NOTHING: &str = "nothing is known to apply the rules at boot";

/// Why the rules would not be applied at the next boot, if they would not.
pub fn about_hook(image: &Initramfs) -> Option<Advice> {
    let warn = |kind, message: String| Some(Advice::warning(kind, Vec::new(), &message));
    let file = image.name();
    if image.is_strict {
        return match image.has_early() {
            Some(false) => warn(
                "early-not-in-initramfs",
                format!(
                    "{file} does not hold vfio-override-early, which the kernel command line starts: take that word out, \
                     or the next boot stops"
                ),
            ),
            _ => None,
        };
    }
    if image.has_early() == Some(true) && !image.is_older_than_hook {
        return None;
    }
    let maker = match image.makers.as_slice() {
        [] => {
            return warn(
                "no-generator",
                format!(
                    "what makes the initramfs here is not known, so that {NOTHING}: vfio-override suggest says what is needed"
                ),
            );
        }
        [maker] => maker,
        makers => {
            let names: Vec<&str> = makers.iter().map(|maker| maker.image.maker).collect();
            return warn(
                "no-generator",
                format!(
                    "{} are both here, and which of them made the image that booted is not known, so that {NOTHING}",
                    names.join(" and ")
                ),
            );
        }
    };
    about_maker(image, maker)
}

/// That other installed kernels have images without the hook as it is now, where this one's is as it should be: else what
/// is said of that has all of them made anew.
pub fn about_other_kernels(image: &Initramfs) -> Option<Advice> {
    let Others { older, unknown } = &image.others;
    if image.is_strict || about_hook(image).is_some() {
        return None;
    }
    let again = image.maker()?.image.rebuild;
    let of_unknown = format!("whether the image of {} holds the hook is not known", list(unknown));
    let advice = |make: fn(_, _, &dyn Display) -> Advice, message: String| {
        Some(make("other-kernels", Vec::new(), &message))
    };
    match (older.is_empty(), unknown.is_empty()) {
        (true, true) => None,
        (true, false) => advice(
            Advice::note,
            format!("{of_unknown}; {again} makes the images of all kernels that it knows anew"),
        ),
        (false, _) => {
            let end = if unknown.is_empty() { String::new() } else { format!("; {of_unknown}") };
            advice(
                Advice::warning,
                format!(
                    "the image of {} is older than the hook, so that nothing applies the rules, or a former version does, when that \
                     kernel boots: run {again}{end}",
                    list(older)
                ),
            )
        }
    }
}

/// The same where it is known who makes the image.
fn about_maker(image: &Initramfs, maker: &Maker) -> Option<Advice> {
    let warn = |kind, message: String| Some(Advice::warning(kind, Vec::new(), &message));
    let file = image.name();
    let (name, rebuild) = (maker.image.maker, maker.image.rebuild);
    let again = format!("then run {rebuild}");
    match (&maker.image.way, &maker.hook) {
        (Way::Not(why), _) => warn("hook-missing", format!("{name}: {why}; {NOTHING}")),
        (Way::Archive(_) | Way::Steps { .. }, _) => warn(
            "hook-missing",
            format!(
                "there is no hook for {name}, so that {NOTHING}: vfio-override suggest has the steps"
            ),
        ),
        (Way::ReadyMade { install, .. }, Hook::Missing) => warn(
            "hook-missing",
            format!(
                "the hook for {name} is not installed: nothing applies the rules at boot; {}",
                lower(install.what).replace("{page}", &maker.page)
            ),
        ),
        (_, Hook::Missing) => warn(
            "hook-missing",
            format!(
                "the hook for {name} is not installed: nothing applies the rules at boot; install vfio-override, which has it, as \
                 {} says, {again}",
                maker.page
            ),
        ),
        (_, Hook::NotListed(Listing { file, right })) => warn(
            "hook-not-listed",
            format!(
                "the hook for {name} is installed, and HOOKS in {file} does not list it: nothing applies the rules at boot; write \
                 there {}, {again}",
                right.as_deref().unwrap_or("vfio-override before udev")
            ),
        ),
        (_, Hook::BehindUdev(Listing { file, right })) => warn(
            "hook-behind-udev",
            format!(
                "vfio-override stands behind udev in HOOKS in {file}, where drivers are loaded by then: write there {}, {again}",
                right.as_deref().unwrap_or("vfio-override before udev")
            ),
        ),
        (_, Hook::LeftOut(file)) => warn(
            "hook-not-listed",
            format!(
                "the hook for {name} is installed, and {file} has it left out: nothing applies the rules at boot; take \
                 vfio-override out there, {again}"
            ),
        ),
        (Way::ReadyMade { build, .. }, _) if image.has_early() != Some(true) => {
            let kind = if image.has_early().is_some() {
                "early-not-in-initramfs"
            } else {
                "initramfs-unknown"
            };
            let holds =
                if image.has_early().is_some() { "does not hold" } else { "is not known to hold" };
            let how = build.command.or(build.line).unwrap_or_default();
            warn(kind, format!("{file} {holds} the early binary. {}: {how}", build.what))
        }
        _ if image.has_early() == Some(false) => warn(
            "early-not-in-initramfs",
            format!("{file} does not hold the early binary: run {rebuild}"),
        ),
        _ if image.is_older_than_hook => warn(
            "initramfs-stale",
            format!("{file} is older than the installed hook: run {rebuild}"),
        ),
        _ => None,
    }
}

/// A sentence that goes on.
pub fn lower(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}
