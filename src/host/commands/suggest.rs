// SPDX-License-Identifier: MIT OR Apache-2.0
//! `suggest`: the sturdiest parameter for functions, and where to write it.

use std::fmt::Write as _;
use std::io::{self, BufRead, Write as _};

use anstyle::Style;
use anyhow::{Result, bail};
use serde::Serialize;
use vfio_override::pci::Address;

use crate::machine::Machine;
use crate::machine::functions::{AddressStyle, Device, Devices};
use crate::machine::usage::Usage;
use crate::rules::companions::{BRIDGE_STAYS, Beside, Choice};
use crate::rules::parameter;
use crate::rules::preview::Asked;
use crate::rules::prospect::{Possible, Prospect};
use crate::screen::{self, BAD, GOOD, PLAIN, QUIET, Screen, TAKEN};
use crate::systems::advice::{self, Advice};
use crate::systems::iommu::Off;
use crate::systems::steps::{Step, System, Written};
use crate::systems::takers::{self, Takers};
use crate::systems::words::{Change, word_of};
use crate::verdict::Verdict;

#[derive(Serialize)]
struct Report {
    /// Whether this machine can pass the functions through.
    possible: Possible,
    /// The same with the reason.
    verdict: String,
    /// The value of `vfio.override=`.
    parameter: String,
    functions: Vec<Choice>,
    advice: Vec<Advice>,
    /// What to do, in order.
    steps: Vec<Step>,
}

pub fn run(machine: &mut Machine, addresses: &[Address], json: bool) -> Result<Verdict> {
    let devices = Devices::of(machine);
    let addresses = if addresses.is_empty() { ask(&devices)? } else { addresses.to_vec() };
    for address in &addresses {
        let Some(device) = devices.get(*address) else {
            bail!("there is no function at {address}; vfio-override list shows what there is");
        };
        if device.function.class.is_bridge() {
            bail!(
                "{address} is a bridge, which cannot be passed through; name the functions behind it"
            );
        }
    }
    let report = Report::of(machine, &devices, &addresses);
    if json {
        screen::json("suggest", &report)?;
    } else {
        report.show(devices.style(), &mut Screen::new());
    }
    Ok(Verdict::of(report.possible == Possible::Yes))
}

/// Lets a person choose among the displays and accelerators.
fn ask(devices: &Devices) -> Result<Vec<Address>> {
    let displays: Vec<&Device> = devices.all.iter().filter(|device| device.is_offered()).collect();
    if displays.is_empty() {
        bail!(
            "there is no display or accelerator here: name the functions, which vfio-override list shows"
        );
    }
    let style = devices.style();
    let mut text = "Which are to be passed through?\n".to_owned();
    for (number, device) in (1..).zip(&displays) {
        let address = style.text(device.function.address);
        let driver = device.driver.as_deref().unwrap_or("no driver");
        let title = device.title();
        let title = screen::printable(&title);
        writeln!(text, "  {number}  {address}  {title} [{}]  {driver}", device.id)?;
    }
    // Not to standard output: that is for the answer.
    screen::ask(&format!("{text}Number, or several with commas: "));
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    screen::ask("\n");
    let chosen: Option<Vec<Address>> = answer
        .split([',', ' '])
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(|word| {
            let number: usize = word.parse().ok()?;
            Some(displays.get(number.checked_sub(1)?)?.function.address)
        })
        .collect();
    match chosen {
        Some(chosen) if !chosen.is_empty() => Ok(chosen),
        _ => bail!(
            "nothing chosen: answer with numbers from 1 to {}, or name addresses",
            displays.len()
        ),
    }
}

/// That what is taken may be a part of the pool that the host boots from.
fn about_pool(usage: &Usage, choices: &[Choice]) -> Option<Step> {
    let mut taken = choices.iter().filter(|choice| choice.taken);
    let what = "The host boots from a ZFS pool, and whether a part of it goes is not known here: go on only if the pool of the root file \
                system has none of its disks behind what goes, which this tells";
    let may_go = taken.any(|choice| usage.may_hold_root(&choice.device.function));
    may_go.then(|| Step::run(what, "zpool status -L -P"))
}

/// What of the host would wait at boot for disks that are not there any more.
fn about_disks(usage: &Usage, choices: &[Choice]) -> Option<Step> {
    let taken = choices.iter().filter(|choice| choice.taken);
    let uses = taken.flat_map(|choice| usage.of_disks(choice.device.function.address));
    let uses: Vec<String> = uses.map(ToString::to_string).collect();
    let what = format!(
        "See that the next boot waits for nothing that goes ({}): in /etc/fstab and /etc/crypttab, take out its lines, or add \
         nofail to their options. Else that boot may end in emergency mode",
        advice::list(&uses)
    );
    (!uses.is_empty()).then(|| Step::text(what))
}

impl Report {
    fn of(machine: &mut Machine, devices: &Devices, addresses: &[Address]) -> Self {
        let usage = Usage::of(machine, devices);
        let wanted: Vec<&Device> =
            addresses.iter().filter_map(|address| devices.get(*address)).collect();
        let beside = Beside { devices, usage: &usage, wanted: &wanted };
        let choices = beside.choose();
        let mut prospect = Prospect::of(machine, &beside, &choices, devices.style());
        let parameter = parameter::parameter(machine, devices, &choices, addresses);
        let asked = Asked::Given(vec![parameter.clone()]);
        let run = asked.preview(machine);
        let advice = advice::about(machine, devices, &usage, &run);
        if let Some(off) = Off::of(machine, devices) {
            let is_next = |advice: &Advice| !advice::OF_IMAGES.contains(&advice.kind);
            return Self {
                parameter,
                functions: choices,
                advice: advice.into_iter().filter(is_next).collect(),
                ..Self::without_iommu(machine, &off, addresses)
            };
        }
        let takers = Takers::of(machine, devices, &takers::taken(&run));
        let line = machine.cmdline().unwrap_or_default();
        let former = Former::of(machine, &line, &parameter);
        let system = System::of(machine);
        let obstacle = system.as_ref().and_then(System::obstacle);
        let missing = advice.iter().find(|advice| advice.kind == "driver-missing");
        let missing = missing.map(|advice| advice.message.clone());
        if prospect.possible == Possible::Yes
            && let Some(reason) = obstacle.or(missing)
        {
            prospect = Prospect {
                possible: Possible::No,
                sentence: format!("no, not as it is: {reason}"),
            };
        }
        let Prospect { possible, sentence } = prospect;
        let words = vec![format!("vfio.override={parameter}")];
        let Former { rules, stay, advice: about_former } = former;
        let (gone, replaced) = (takers.words.clone(), rules.clone());
        let change = Change { add: words.clone(), gone, replaced, ..Change::default() };
        let mut steps = Vec::new();
        if let Some(system) = system.as_ref().filter(|_| possible != Possible::No) {
            let disks =
                about_pool(&usage, &choices).into_iter().chain(about_disks(&usage, &choices));
            steps = disks.chain(takers.steps).collect();
            steps.extend(system.to_apply(change, takers.is_in_image));
            let look = "After the next boot, see what came of it";
            steps.push(system.ours(look, "status"));
            steps.extend(system.once_booted());
            let bridges = advice.iter().filter(|advice| advice.kind == "bridge-driver");
            let bridges = bridges.flat_map(|advice| &advice.functions);
            steps.extend(bridges.filter_map(|bridge| {
                let device = devices.all.iter().find(|device| device.address == *bridge)?;
                let driver = device.driver.as_deref()?;
                Some(Step::run(
                    format!("After each boot, before the guest starts, take the bridge {bridge} from {driver}"),
                    format!("sh -c 'echo {bridge} >/sys/bus/pci/drivers/{driver}/unbind'"),
                ))
            }));
            steps.extend(system.to_undo(&words));
            let stay: Vec<String> = stay.into_iter().chain(takers.left).collect();
            if !stay.is_empty() {
                steps.push(Step::text(format!(
                    "What these steps leave may keep the device from the host's drivers after that, too. For them to have it \
                     again, take out what concerns it: {}",
                    stay.join("; ")
                )));
            }
            let back = takers.words.iter().map(|word| {
                let name = word.split('=').next().unwrap_or_default().trim_matches('"');
                system.to_have_back(&format!("what {name} did"), word)
            });
            steps.extend(back);
            let former = rules
                .iter()
                .map(|value| system.to_have_back("the rules of before", &word_of(value)));
            steps.extend(former);
            steps.extend(takers.undo);
        }
        let is_told = |advice: &Advice| {
            advice::OF_IMAGES.contains(&advice.kind)
                || possible == Possible::No && advice.kind == "driver-missing"
        };
        let off = advice::about_off(&Asked::Line(line).run());
        let advice =
            advice.into_iter().filter(|advice| !is_told(advice)).chain(about_former).chain(off);
        let advice = advice.chain(takers.advice).collect();
        Self { possible, verdict: sentence, parameter, functions: choices, advice, steps }
    }

    /// Without IOMMU groups nobody can tell all that goes along: how to turn the IOMMU on, and then this is asked again.
    fn without_iommu(machine: &Machine, off: &Off, addresses: &[Address]) -> Self {
        let system = System::of(machine);
        let change = system.as_ref().map(|system| system.to_change(&off.change));
        let has_change = change.as_ref().is_some_and(|steps| !steps.is_empty());
        let elsewhere = off.elsewhere.map(Step::text);
        let mut steps: Vec<Step> =
            elsewhere.into_iter().chain(change.into_iter().flatten()).collect();
        let (possible, lead, end) = if off.is_final {
            (Possible::No, "no", "")
        } else {
            let again: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let (what, suggest) =
                ("After the next boot, ask again", format!("suggest {}", again.join(" ")));
            steps.push(match &system {
                Some(system) => system.ours(what, &suggest),
                None => Step::run(what, format!("vfio-override {suggest}")),
            });
            let once = system.as_ref().filter(|_| has_change).and_then(System::once_booted);
            steps.extend(once);
            let end = "; turn the IOMMU on, reboot, and ask again";
            (Possible::NotYet, "not yet", end)
        };
        let verdict = format!("{lead}: {}{end}", off.reason);
        let (parameter, functions, advice) = Default::default();
        Self { possible, verdict, parameter, functions, advice, steps }
    }

    fn show(&self, style: AddressStyle, screen: &mut Screen) {
        let is_good = self.possible == Possible::Yes;
        if !is_good {
            // Before the rule, which would be taken for a good one, and where no program reads it as part of it.
            screen::complain(&self.verdict);
        }
        let rule_style = if is_good { TAKEN } else { BAD };
        screen.line(rule_style, format_args!("vfio.override={}", self.parameter));
        if is_good {
            screen.line(GOOD, &self.verdict);
        }
        screen.blank();
        screen.table(2, &[], self.rows(style));
        screen.blank();
        // Where a group cannot go as a whole, its warning would say to take all of it.
        let is_off = self.advice.iter().any(|advice| advice.kind == "iommu-off");
        let is_told = |advice: &&Advice| {
            (self.possible != Possible::No || advice.kind != "group-not-viable")
                // The first sentence says it.
                && !["iommu-off", "iommu-reason"].contains(&advice.kind)
        };
        let told = self.advice.iter().filter(is_told);
        advice::show(told.clone(), screen);
        if told.count() > 0 {
            screen.blank();
        }
        if self.possible == Possible::No {
            screen.line(BAD, "nothing to write down: this rule would be in vain");
            return;
        }
        if is_off {
            screen.line(
                BAD,
                "do not write this rule down yet: with the IOMMU on, more may have to go along",
            );
        }
        for (number, step) in (1..).zip(&self.steps) {
            screen.line(PLAIN, format_args!("{number}. {}", step.what));
            if let Some(line) = &step.line {
                screen.line(TAKEN, format_args!("       {line}"));
            }
            if let Some(command) = &step.command {
                screen.line(TAKEN, format_args!("       sudo {command}"));
            }
        }
        if self.steps.is_empty() {
            screen.line(BAD, "add it to the kernel command line of that machine");
        }
    }

    /// What is taken and what is left; of several bridges, one row.
    fn rows(&self, style: AddressStyle) -> Vec<(Style, Vec<String>)> {
        let bridges: Vec<String> = self
            .functions
            .iter()
            .filter(|choice| choice.reason == BRIDGE_STAYS)
            .map(|choice| style.text(choice.device.function.address))
            .collect();
        let mut rows = Vec::new();
        for choice in &self.functions {
            let verb = if choice.taken { "takes" } else { "leaves" };
            let mut cells = vec![
                verb.to_owned(),
                style.text(choice.device.function.address),
                choice.device.id.clone(),
                choice.reason.clone(),
                choice.device.title(),
            ];
            if choice.reason == BRIDGE_STAYS && bridges.len() > 1 {
                if cells[1] != bridges[0] {
                    continue;
                }
                cells[1] = format!("{} bridges", bridges.len());
                cells[2] = String::new();
                "bridges stay with the host".clone_into(&mut cells[3]);
                cells[4] = advice::list(&bridges);
            }
            rows.push((if choice.taken { PLAIN } else { QUIET }, cells));
        }
        rows
    }
}

/// Rules that stand on the command line already, or in the file that the next one comes from.
#[derive(Default)]
struct Former {
    /// The values that the steps take out: they take nothing else than the new one does, or are switched off.
    rules: Vec<String>,
    /// Those that stay, and take something that the new one takes.
    stay: Vec<String>,
    advice: Option<Advice>,
}

impl Former {
    fn of(machine: &mut Machine, line: &[u8], parameter: &str) -> Self {
        let mut places = vec![("the kernel command line".to_owned(), line.to_vec())];
        if let Some(Written { file, text, .. }) = Written::of(machine) {
            places.push((format!("{file}, which this boot has nothing of,"), text.into_bytes()));
        }
        let mut others: Vec<String> = Vec::new();
        let mut told: Vec<String> = Vec::new();
        for (place, text) in places {
            let values = Asked::Line(text).values().into_iter();
            let new: Vec<String> =
                values.filter(|value| value != parameter && !others.contains(value)).collect();
            let words: Vec<String> = new.iter().map(|value| word_of(value)).collect();
            if !words.is_empty() {
                told.push(format!("{place} has {} already", words.join(" ")));
            }
            others.extend(new);
        }
        if others.is_empty() {
            return Self::default();
        }
        let told = told.join(", and ");
        let note = |end: &str| {
            Some(Advice::note("rules-left", Vec::new(), &format_args!("{told}, which {end}")))
        };
        let asked = Asked::Given(others.clone());
        if asked.run().rules.off.is_some() {
            // Nobody asks for what they take: without `off` they would take it.
            let is_rule = |rule: &str| !rule.trim().is_empty() && rule.trim() != "off";
            let has_rules = others.iter().any(|value| value.split(',').any(is_rule));
            let end = "is switched off: the steps take all of it out, since without off these rules would count again";
            return if has_rules {
                Self { rules: others, advice: note(end), ..Self::default() }
            } else {
                Self::default()
            };
        }
        let taken = takers::taken(&Asked::Given(vec![parameter.to_owned()]).preview(machine));
        let run = asked.preview(machine);
        // An exclusion, or a rule whose functions are absent, may be there for a reason that does not show now.
        let is_covered = run.rules.entries.iter().all(|entry| entry.outcome.word() == "applied")
            && takers::taken(&run).iter().all(|other| taken.contains(other));
        drop(run);
        if is_covered {
            let end = "takes nothing else now: the steps take it out, or it may take another function once addresses change";
            return Self { rules: others, advice: note(end), ..Self::default() };
        }
        let mut takes_it = |value: &String| {
            let run = Asked::Given(vec![value.clone()]);
            takers::taken(&run.preview(machine)).iter().any(|other| taken.contains(other))
        };
        let stay = others.iter().filter(|value| takes_it(value));
        let stay = stay.map(|value| word_of(value)).collect();
        let advice = note("counts too: where both match a function, the last one decides");
        Self { rules: Vec::new(), stay, advice }
    }
}
