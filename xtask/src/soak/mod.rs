// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask soak`: random machines and random rules; a model says what must happen, and the booted
//! guest agrees.
//!
//! A boot is made of a seed and nothing else. The machine comes from `topology.rs`, the rules and the model
//! are those that judge the library in `tests/`, and what the model says becomes a case like any other.

mod topology;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};

use anyhow::{Result, bail};
use clap::{Args, value_parser};
use model::aim::{Aim, IdsAim, aims, ids_aims};
use model::oracle::{self, Device, Item, Meaning, Taken, Warning};
use model::spelling::spell_ids;
use model::told::{self, RuleLine};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;
use topology::{Numbering, Sketch};
use vfio_override::pci::Address;
use vfio_override::rule::Ids;

use crate::build::{self, MuslOptions, Target};
use crate::cases::case::{Case, Mode};
use crate::cases::suite::{self, Boots, Cell, Judgement, Kernels};
use crate::ground::progress;
use crate::ground::setup;
use crate::ground::verdict::Verdict;
use crate::ground::workspace::Workspace;
use crate::guest::evidence::{self, Evidence, Tool};
use crate::guest::image::VARIANTS;
use crate::guest::kernels;

/// The boots of `cargo xtask test`: the same ones each time, so that what turns it red is the change.
const SUITE: std::ops::RangeInclusive<u64> = 1..=30;

/// The kernel's limit is 2,048 bytes (`COMMAND_LINE_SIZE`), and every guest gets some 300 of its own.
const MAX_RULES_LENGTH: usize = 1_500;

/// Variant drivers for `auto`. Debian's kernels have none; pci-stub can stand for one, as `MODULE`.
const ALIASES: &str = "\
alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci
alias vfio_pci:v*d*sv*sd*bc02sc*i* MODULE
alias vfio_pci:v*d*sv*sd*bc03sc*i* MODULE
alias vfio_pci:v*d*sv*sd*bc04sc*i* MODULE
alias vfio_pci:v00001AF4d00001050sv*sd*bc*sc*i* vfio_pci
alias vfio_pci:v00008086d000010D3sv*sd*bc*sc*i* MODULE
";

/// What an alias calls the stub's module where the early binary loads it and finds the driver's name, and where it does
/// not.
const STUB_MODULES: [&str; 2] = ["pci_stub", "pci-stub"];

/// The variant driver for a device, as a reader of [`ALIASES`] finds it: of several that match, the one
/// with the fewest wildcards.
fn variant(device: &Device) -> Option<&'static str> {
    let is_stubs = match (device.id.vendor, device.id.device) {
        (0x1af4, 0x1050) => false,
        (0x8086, 0x10d3) => true,
        _ => (0x02..=0x04).contains(&(device.class.code() >> 16)),
    };
    is_stubs.then_some("pci-stub")
}

/// Boot random machines with random rules, and compare what happens with what a model says
///
/// Each boot has its own root ports, switches, bridges and multifunction cards, and rules that mostly
/// hit them. The model predicts the guest's table of functions, which rule takes which of them for
/// which driver, what comes of each rule, the warnings, and the exit status; the guest's driver-core
/// debug log, its sysfs, the early binary's log and the host tool's plan and status must agree.
///
/// A boot depends on its seed only. A failure tells the machine, the rules and the command that
/// repeats this one boot.
#[derive(Args)]
pub struct Options {
    /// How many machines to boot
    #[arg(value_name = "N", default_value_t = 10, value_parser = value_parser!(u64).range(1..))]
    boots: u64,

    /// The seed of the first boot; the others follow by one (default: a random one)
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,

    #[command(flatten)]
    musl: MuslOptions,
}

pub fn run(options: &Options) -> Result<Verdict> {
    let workspace = Workspace::locate()?;
    setup::ensure(&[&setup::QEMU, &setup::BUSYBOX])?;
    let binary = build::build_or_stop(&workspace, Target::MUSL, options.musl)?;
    // Short enough to be typed.
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(0) % 1_000_000);
    progress::note(format_args!("the first seed is {seed}"));
    let cases: Vec<Case> = (0..options.boots).map(|more| case(seed.wrapping_add(more))).collect();
    let cells: Vec<Cell> = Cell::all(&cases).collect();
    let kernels = Kernels::prepare(&workspace, &cells);
    let Boots { boots, took } = suite::run(&workspace, &cells, &kernels, &[binary]);
    let (mut agreed, mut failed) = (0, 0);
    for boot in &boots {
        let (word, reason) = match &boot.outcome {
            Judgement::Passed(_) => {
                agreed += 1;
                continue;
            }
            Judgement::Failed(reason) => {
                failed += 1;
                ("FAILED", reason)
            }
            Judgement::NotTested(reason) => ("NOT TESTED", reason),
        };
        println!("\n{word} {}:\n{reason}", boot.cell.name());
    }
    println!("\n{}{agreed} agreed with the model, {failed} did not", suite::total(&boots, took));
    match boots.len() - agreed - failed {
        _ if failed > 0 => Ok(Verdict::Bad),
        0 => Ok(Verdict::Good),
        count => bail!("{count} could not be tested"),
    }
}

/// The boots of `cargo xtask test`.
pub fn suite() -> impl Iterator<Item = Case> {
    SUITE.map(case)
}

/// All that a boot is made of.
#[derive(Debug)]
struct Scenario {
    sketches: Vec<Sketch>,
    aims: Vec<Aim>,
    numbering: Numbering,
    /// Whether the early binary loads the drivers that the rules name, in hook mode.
    loads: bool,
    /// Modules that are loaded before the early binary runs, in hook mode.
    before: Vec<&'static str>,
    /// Whether a rule gets a `vfio.override=` of its own, one rule after the other.
    parts: Vec<bool>,
    /// What `vfio-pci.ids=` has, if it is there.
    ids: Vec<IdsAim>,
}

fn scenarios() -> impl Strategy<Value = Scenario> {
    // nvme is left out: its probe goes on after modprobe has returned.
    let modules = select(vec!["vfio_pci", "e1000e", "bochs", "snd_hda_intel", "virtio_pci"]);
    let before = prop_oneof![
        2 => Just(Vec::new()),
        1 => proptest::collection::vec(modules, 1..=2),
    ];
    let rest = (
        select(vec![Numbering::Falling, Numbering::Rising]),
        any::<bool>(),
        before,
        proptest::collection::vec(any::<bool>(), 1..8),
        ids_aims(),
    );
    (topology::sketches(), proptest::collection::vec(aims(), 1..=10), rest).prop_map(
        |(sketches, aims, (numbering, loads, before, parts, ids))| Scenario {
            sketches,
            aims,
            numbering,
            loads,
            before,
            parts,
            ids,
        },
    )
}

fn scenario(seed: u64) -> Scenario {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    scenarios().new_tree(&mut runner).expect("no strategy here rejects much").current()
}

/// The boot of this seed, and what the model says about it.
fn case(seed: u64) -> Case {
    let Scenario { sketches, aims, numbering, loads, mut before, parts, ids } = scenario(seed);
    let (machine, devices) = topology::build(&sketches, numbering);
    let items = items(&aims, &devices);
    let ids: Vec<Ids> = ids.iter().filter_map(|aim| aim.at(&devices)).collect();
    let decided = oracle::decide(&devices, &items, &variant);
    let (kernel, mode) = turn(seed);
    let does_load = mode == Mode::Hook && loads;
    let module = STUB_MODULES[usize::from(!does_load)];
    let planned = oracle::decide(&devices, &items, &|device| variant(device).map(|_| module));
    let mut parameters = parameters(&items, &parts);
    if !ids.is_empty() {
        // Of the two spellings busybox's modprobe reads this one only.
        parameters += " vfio_pci.ids=";
        parameters += &spell_ids(&ids);
        // It would have taken any function with these IDs before the early binary runs.
        before.retain(|module| *module != "vfio_pci");
    }

    let mut case = Case::new(format!("soak-{seed}"), machine)
        .only_on(&[kernel], "a soak's seeds take turns with the kernels")
        .mode(mode)
        .parameter(&parameters)
        .status(i32::from(!decided.is_applied))
        .image(|image| image.file(VARIANTS, ALIASES.replace("MODULE", module)))
        .plan_and_status()
        .told_as(story(seed, &parameters, &devices, &decided));
    if numbering == Numbering::Rising {
        case = case.parameter("pci=assign-busses");
    }
    if mode == Mode::Hook {
        case = case.loaded_before(&before);
        if loads {
            case = case.parameter("guest.modprobe");
        }
    }
    for (address, taken) in &decided.taken {
        let name = address.to_string();
        let place = name.strip_prefix("0000:");
        case = match &*taken.driver {
            driver @ ("vfio-pci" | "pci-stub") => case.taken_by(driver, place),
            driver => case.kept_for(driver, place),
        };
    }
    // Whoever comes first has it: vfio-pci where the early binary loads it, and else the host's driver.
    let is_needed = decided.taken.values().any(|taken| taken.driver == "vfio-pci");
    for address in oracle::strays(&devices, &decided, &ids) {
        let name = address.to_string();
        let place = name.strip_prefix("0000:");
        case = if does_load && is_needed { case.strays(place) } else { case.late_strays(place) };
    }
    let agreement = Agreement { devices, items, ids, planned, decided };
    case.also(move |evidence| agreement.judge(evidence))
}

/// The kernel and the mode of a seed: in turn, so that few seeds have them all.
fn turn(seed: u64) -> (&'static str, Mode) {
    let of_kernel = |kernel| [(kernel, Mode::Hook), (kernel, Mode::Rdinit)];
    let turns: Vec<_> = kernels::with_drivers().into_iter().flat_map(of_kernel).collect();
    turns[usize::try_from(seed % turns.len() as u64).unwrap_or_default()]
}

/// As many of the rules as the kernel's command line has room for.
fn items(aims: &[Aim], devices: &[Device]) -> Vec<Item> {
    let mut length = 0;
    let has_room = |item: &Item| {
        length += " vfio.override=".len() + item.text.len();
        length <= MAX_RULES_LENGTH
    };
    aims.iter().map(|aim| aim.at(devices)).take_while(has_room).collect()
}

/// The rules as kernel parameters: some in one, some in one each.
fn parameters(items: &[Item], parts: &[bool]) -> String {
    let mut text = String::new();
    for (item, has_own) in items.iter().zip(parts.iter().cycle()) {
        text += match (text.is_empty(), has_own) {
            (true, _) => "vfio.override=",
            (false, true) => " vfio.override=",
            (false, false) => ",",
        };
        text += &item.text;
    }
    text
}

/// What a failure is told with.
fn story(seed: u64, parameters: &str, devices: &[Device], decided: &oracle::Verdict) -> String {
    let mut lines = vec![
        format!("repeat this boot: cargo xtask soak 1 --seed {seed}"),
        format!("the rules: {parameters}"),
        "the model's functions:".to_owned(),
    ];
    lines.extend(predicted(devices));
    lines.push("the model's decisions:".to_owned());
    lines.extend(decisions(decided));
    lines.join("\n")
}

fn decisions(decided: &oracle::Verdict) -> BTreeSet<String> {
    let decision = |(address, Taken { rule, driver }): (&Address, &Taken)| {
        format!("{address}: rule {rule} takes it for {driver}")
    };
    decided.taken.iter().map(decision).collect()
}

/// What the model says, to be compared with a boot. The fates of the functions are the case's.
struct Agreement {
    devices: Vec<Device>,
    items: Vec<Item>,
    ids: Vec<Ids>,
    /// Before any module is loaded.
    planned: oracle::Verdict,
    decided: oracle::Verdict,
}

impl Agreement {
    fn judge(&self, evidence: &Evidence) -> Vec<String> {
        let mut complaints = self.table(evidence);
        complaints.extend(self.deciders(evidence));
        complaints.extend(self.outcomes(evidence));
        complaints.extend(self.warnings(evidence));
        complaints.extend(self.summary(evidence));
        complaints.extend(self.plan(evidence));
        complaints.extend(self.status(evidence));
        complaints
    }

    /// The host tool's plan is what the model says.
    fn plan(&self, evidence: &Evidence) -> Vec<String> {
        let Some(Tool { status, json }) = evidence.report.tool.get("plan") else {
            return vec!["the host tool made no plan".to_owned()];
        };
        let mut found = BTreeSet::from([format!("exit status {status}")]);
        let mut decided = BTreeSet::new();
        for rule in list(json, "rules") {
            let (number, outcome) = (&rule["number"], text(rule, "outcome"));
            found.insert(format!("rule {number}: {outcome}"));
            for function in list(rule, "functions") {
                let (address, driver) = (text(function, "address"), text(function, "kept_for"));
                if !driver.is_empty() {
                    decided.insert(format!("{address}: rule {number} takes it for {driver}"));
                }
            }
        }
        let mut predicted = BTreeSet::from([self.exit_status()]);
        for ((number, item), outcome) in (1..).zip(&self.items).zip(&self.decided.outcomes) {
            let word = match outcome {
                _ if matches!(item.meaning, Meaning::Debug | Meaning::Off) => "setting",
                oracle::Outcome::Idle => "off",
                outcome => outcome.word().unwrap_or_default(),
            };
            predicted.insert(format!("rule {number}: {word}"));
        }
        let mut complaints = differences("of plan, a word", &predicted, &found);
        complaints.extend(differences("of plan, a decision", &decisions(&self.planned), &decided));
        complaints
    }

    /// The host tool's status finds all that was decided, and what became of it.
    fn status(&self, evidence: &Evidence) -> Vec<String> {
        let Some(Tool { status, json }) = evidence.report.tool.get("status") else {
            return vec!["the host tool told no status".to_owned()];
        };
        let mut decided = BTreeSet::new();
        let mut states = BTreeSet::from([format!("exit status {status}")]);
        for function in list(json, "functions") {
            let (address, rule) = (text(function, "address"), &function["rule"]);
            let driver = text(function, "asked");
            decided.insert(format!("{address}: rule {rule} takes it for {driver}"));
            states.insert(format!("{address}: {}", text(function, "state")));
        }
        let mut predicted = BTreeSet::from([self.exit_status()]);
        predicted.extend(self.decided.taken.iter().map(|(address, taken)| {
            let is_there = matches!(&*taken.driver, "vfio-pci" | "pci-stub" | "none");
            format!("{address}: {}", if is_there { "as-asked" } else { "waiting" })
        }));
        let mut complaints = differences("of status, a state", &predicted, &states);
        let unasked = list(json, "unasked").map(|function| text(function, "address").to_owned());
        let is_stray = |device: &&evidence::Device| {
            let taken = self.decided.taken.keys().any(|taken| taken.to_string() == device.address);
            !taken && device.driver.as_deref() == Some("vfio-pci")
        };
        let strays = evidence.report.devices.iter().filter(is_stray);
        let strays = strays.map(|device| device.address.clone()).collect();
        complaints.extend(differences("of status, unasked", &strays, &unasked.collect()));
        complaints.extend(differences(
            "of status, a decision",
            &decisions(&self.decided),
            &decided,
        ));
        complaints
    }

    fn exit_status(&self) -> String {
        format!("exit status {}", i32::from(!self.decided.is_applied))
    }

    /// The guest's functions are those that were predicted, in the same groups.
    fn table(&self, evidence: &Evidence) -> Vec<String> {
        let found = evidence.report.devices.iter().map(|device| Row {
            address: device.address.clone(),
            ids: device.ids.clone(),
            subsystem: device.subsystem.clone(),
            class: device.class.clone(),
            boot_vga: device.boot_vga,
            group: device.group.clone(),
        });
        differences("a function", &predicted(&self.devices), &lines(found.collect()))
    }

    /// The rules that decided are those that the model says.
    fn deciders(&self, evidence: &Evidence) -> Vec<String> {
        let line = |address: &dyn ToString, rule| format!("{}: rule {rule}", address.to_string());
        let taken = &self.decided.taken;
        let predicted = taken.iter().map(|(address, taken)| line(address, taken.rule)).collect();
        let found = evidence.decisions();
        let found = found.iter().map(|(address, decision)| line(address, decision.rule)).collect();
        differences("a decision", &predicted, &found)
    }

    /// What came of each rule is what the model says, as far as it is told.
    fn outcomes(&self, evidence: &Evidence) -> Vec<String> {
        let is_off = self.decided.outcomes.contains(&oracle::Outcome::Off);
        let says_debug = self.items.iter().any(|item| matches!(item.meaning, Meaning::Debug));
        let mut predicted = BTreeSet::new();
        for ((number, item), outcome) in (1..).zip(&self.items).zip(&self.decided.outcomes) {
            let is_told = outcome.is_always_told() || says_debug && !is_off;
            if let Some(word) = outcome.word().filter(|_| is_told) {
                predicted.insert(outcome_line(number, &told::shown(&item.text), word));
            }
        }
        let found = evidence.early_records().filter_map(RuleLine::read);
        let found = found.map(|line| outcome_line(line.number, line.text, line.word)).collect();
        differences("an outcome", &predicted, &found)
    }

    /// The warnings are those that the model says.
    fn warnings(&self, evidence: &Evidence) -> Vec<String> {
        // The model does not know the numbers of the guest's groups.
        let group_of = |address: Address| {
            let address = address.to_string();
            let found = evidence.report.devices.iter().find(|device| device.address == address)?;
            found.group.as_ref()?.parse().ok()
        };
        let renumbered = |warning| match warning {
            Warning::NotViable(_, left) => {
                let group = left.first().and_then(|address| group_of(*address)).unwrap_or(u32::MAX);
                Warning::NotViable(group, left)
            }
            warning => warning,
        };
        let line = |warning: Warning| format!("{warning:?}");
        let predicted = oracle::warnings(&self.devices, &self.decided, &self.ids);
        let predicted = predicted.into_iter().filter(told::is_named_in_full);
        let found = told::warnings(evidence.early_records());
        differences(
            "a warning",
            &predicted.map(renumbered).map(line).collect(),
            &found.into_iter().map(line).collect(),
        )
    }

    /// The last line counts what the model counts.
    fn summary(&self, evidence: &Evidence) -> Option<String> {
        if self.decided.outcomes.contains(&oracle::Outcome::Off) {
            return None;
        }
        let count = |outcome: oracle::Outcome| {
            let count = self.decided.outcomes.iter().filter(|other| **other == outcome).count();
            Some(format!("{count} {}", outcome.word()?)).filter(|_| count > 0)
        };
        let counts: Vec<String> = counted().filter_map(count).collect();
        let functions = self.decided.taken.len();
        let predicted = format!("rules: {}; functions: {functions} taken", counts.join(", "));
        let is_told = evidence.early_records().any(|record| record.starts_with(&predicted));
        (!is_told).then(|| format!("no record begins with \"{predicted}\""))
    }
}

/// The outcomes that the last line of the log counts, in its order.
fn counted() -> impl Iterator<Item = oracle::Outcome> {
    oracle::Outcome::ALL.iter().copied().filter(|outcome| outcome.is_counted())
}

/// A list in what the host tool said.
fn list<'v>(json: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> {
    json[field].as_array().into_iter().flatten()
}

/// A text in it; empty where there is none.
fn text<'v>(json: &'v Value, field: &str) -> &'v str {
    json[field].as_str().unwrap_or_default()
}

/// The table of functions that the guest must have.
fn predicted(devices: &[Device]) -> BTreeSet<String> {
    let row = |device: &Device| Row {
        address: device.address.to_string(),
        ids: device.id.to_string(),
        subsystem: device.subsystem.to_string(),
        class: device.class.to_string(),
        boot_vga: device.boot_vga,
        group: device.group.map(|group| group.to_string()),
    };
    lines(devices.iter().map(row).collect())
}

/// A function of that table.
struct Row {
    address: String,
    ids: String,
    subsystem: String,
    class: String,
    boot_vga: bool,
    group: Option<String>,
}

/// A line for each function, in which its group is named after the lowest function in it.
fn lines(rows: Vec<Row>) -> BTreeSet<String> {
    let mut lowest = BTreeMap::new();
    for row in &rows {
        let first: &mut String = lowest.entry(row.group.clone()).or_insert(row.address.clone());
        if row.address < *first {
            first.clone_from(&row.address);
        }
    }
    rows.into_iter()
        .map(|Row { address, ids, subsystem, class, boot_vga, group }| {
            let display = if boot_vga { ", the boot display" } else { "" };
            let mate = if group.is_some() { lowest[&group].as_str() } else { "nobody" };
            format!("{address} [{ids}] [{subsystem}] {class}, in the group of {mate}{display}")
        })
        .collect()
}

fn outcome_line(number: usize, text: &str, word: &str) -> String {
    format!("rule {number} \"{text}\": {word}")
}

/// What only one side says.
fn differences(what: &str, predicted: &BTreeSet<String>, found: &BTreeSet<String>) -> Vec<String> {
    let missing = predicted.difference(found).map(|line| format!("{what} that is missing: {line}"));
    let surplus =
        found.difference(predicted).map(|line| format!("{what} that nobody predicted: {line}"));
    missing.chain(surplus).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn a_seed_makes_one_boot_and_no_other() {
        let command_line = |seed| case(seed).command_line();
        assert_eq!(command_line(7), command_line(7));
        assert_ne!(command_line(7), command_line(8));
    }

    #[test]
    fn a_soak_of_no_boots_is_wrong_use() {
        let parse = |boots| Line::try_parse_from(["soak", boots]).map(|line| line.options.boots);
        assert_eq!(parse("1").ok(), Some(1));
        assert!(parse("0").is_err());
    }

    #[test]
    fn each_kernel_has_a_turn_in_each_mode() {
        let names = kernels::with_drivers();
        let turns: BTreeSet<String> = (0..2 * names.len() as u64)
            .map(|seed| format!("{} {}", case(seed).kernels()[0], case(seed).mode))
            .collect();
        assert_eq!(turns.len(), 2 * names.len(), "{turns:?}");
    }

    #[test]
    fn most_rules_hit_something_and_some_are_wrong() {
        let outcomes: Vec<oracle::Outcome> = (0..200)
            .flat_map(|seed| {
                let scenario = scenario(seed);
                let (_, devices) = topology::build(&scenario.sketches, scenario.numbering);
                let items = items(&scenario.aims, &devices);
                oracle::decide(&devices, &items, &variant).outcomes
            })
            .collect();
        let share = |wanted: oracle::Outcome| {
            let count = outcomes.iter().filter(|outcome| **outcome == wanted).count();
            100 * count / outcomes.len()
        };
        assert!(
            share(oracle::Outcome::Applied)
                + share(oracle::Outcome::Excluded)
                + share(oracle::Outcome::Overruled)
                > 40
        );
        for outcome in counted() {
            assert!(outcomes.contains(&outcome), "{outcome:?}");
        }
    }

    #[test]
    fn some_modules_register_another_name() {
        let renames = |seed: u64| {
            let Scenario { sketches, aims, numbering, loads, .. } = scenario(seed);
            let (_, devices) = topology::build(&sketches, numbering);
            let items = items(&aims, &devices);
            let [kept, planned] = ["pci-stub", "pci_stub"].map(|name| {
                oracle::decide(&devices, &items, &|device| variant(device).map(|_| name)).kept()
            });
            loads && turn(seed).1 == Mode::Hook && kept != planned
        };
        assert!(SUITE.clone().any(renames));
    }

    #[test]
    fn some_functions_are_strays() {
        let strays = |seed: u64| {
            let Scenario { sketches, aims, numbering, ids, .. } = scenario(seed);
            let (_, devices) = topology::build(&sketches, numbering);
            let decided = oracle::decide(&devices, &items(&aims, &devices), &variant);
            let ids: Vec<Ids> = ids.iter().filter_map(|aim| aim.at(&devices)).collect();
            oracle::strays(&devices, &decided, &ids).len()
        };
        let count = SUITE.filter(|seed| strays(*seed) > 0).count();
        assert!(count > 3, "{count} of the boots of the suite");
    }

    #[test]
    fn every_command_line_fits() {
        for seed in 0..200 {
            assert!(case(seed).command_line().len() < 1_700, "seed {seed}");
        }
    }
}
