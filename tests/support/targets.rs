// SPDX-License-Identifier: MIT OR Apache-2.0
//! What holds of any bytes: each function takes an input, and panics where the library does not do what a
//! second, obvious implementation says. Fuzzed by `cargo xtask fuzz`, and run on the committed corpora by
//! `tests/corpus.rs`.

use std::collections::BTreeMap;

use model::oracle::{self, Device, Item, Meaning, Outcome};
use model::reader;
use nix::errno::Errno;
use vfio_override::cmdline::{self, MAX_LENGTH};
use vfio_override::grammar;
use vfio_override::pci::{self, Address, Class, Id};
use vfio_override::rule::{Action, Rule, Selector, Statement};
use vfio_override::text::Quoted;

use super::capture::{Told, apply_line};
use super::machine::{Asked, Function, Machine, address, audio, vga};
use super::sketch;

/// A target's name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 6] = [
    ("tokeniser", tokeniser),
    ("grammar", grammar),
    ("matcher", matcher),
    ("modalias", modalias),
    ("aliases", aliases),
    ("whole", whole),
];

/// A command line, split into parameters.
pub fn tokeniser(line: &[u8]) {
    let found: Vec<reader::Parameter> = cmdline::parameters(line)
        .map(|found| (found.name.to_vec(), found.value.map(<[u8]>::to_vec)))
        .collect();
    assert_eq!(found, reader::parameters(line));
    if line.len() <= MAX_LENGTH {
        let values = found.iter().filter_map(|(name, value)| Some((&name[..], value.as_deref()?)));
        assert!(cmdline::values(line).eq(values));
    }
}

/// The text of one rule.
pub fn grammar(text: &[u8]) {
    let parsed = grammar::parse(text);
    let read = match reader::item(text).meaning {
        Meaning::Off => Some(Statement::Off),
        Meaning::Debug => Some(Statement::Debug),
        Meaning::Rule(rule) => Some(Statement::Rule(rule)),
        Meaning::Invalid => None,
    };
    assert_eq!(parsed.as_ref().ok(), read.as_ref(), "{}", text.escape_ascii());
    match &parsed {
        Ok(statement) => {
            let canonical = statement.to_string();
            assert_eq!(grammar::parse(canonical.as_bytes()).as_ref(), Ok(statement), "{canonical}");
        }
        Err(error) => {
            let column = usize::try_from(error.column).unwrap();
            assert!((1..=text.len() + 1).contains(&column), "{error:?}");
        }
    }
    // An address alone, as `--device` takes it, is a rule for one function too.
    if let Ok(address) = grammar::parse_address(text) {
        let rule = grammar::parse(text).expect("an address is a rule");
        assert_eq!(rule, grammar::parse(address.to_string().as_bytes()).unwrap());
    }
}

/// The rules on a line, behind its newline a machine. No newline, and the machine has one of each.
pub fn matcher(input: &[u8]) {
    let end = input.iter().position(|&byte| byte == b'\n').unwrap_or(input.len());
    let (rules, machine) = input.split_at(end);
    let line = [b"vfio.override=debug,", rules].concat();
    let devices = machine.get(1..).map_or_else(standard, sketch::functions_of);
    if let Some(texts) = few_rules(&line) {
        judge(&devices, &texts, &line);
    }
}

/// The texts of the rules on the line, if they are so few that a machine comes to no limit: limits are none
/// of the contract's business.
fn few_rules(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    Some(reader::rules(line)).filter(|texts| texts.len() <= 128)
}

/// Compares a run with what the contract says of it, a second run with the first, and a run for one
/// function with that for all.
fn judge(devices: &[Device], texts: &[Vec<u8>], line: &[u8]) {
    let items: Vec<Item> = texts.iter().map(|text| reader::item(text)).collect();
    let expected = oracle::decide(devices, &items, &sketch::variant);
    let mut machine = sketch::machine(devices);
    let told = apply_line(&mut machine, line, None);
    let story = format!("{}\n{told}", line.escape_ascii());
    assert_eq!(machine.kept(), expected.kept(), "{story}");
    if items.iter().any(|item| matches!(item.meaning, Meaning::Debug)) {
        check_outcomes(texts, &expected.outcomes, &told, &story);
    }
    check_changes(&machine, &expected.kept(), &story);

    machine.operations.clear();
    apply_line(&mut machine, line, None);
    let write = machine.operations.iter().find(|it| matches!(it.asked, Asked::Write(_)));
    assert_eq!(write, None, "a second run\n{story}");

    let only = devices[line.len() % devices.len()].address;
    let mut machine = sketch::machine(devices);
    apply_line(&mut machine, line, Some(only));
    assert_eq!(machine.kept().get(&only), expected.kept().get(&only), "only {only}\n{story}");
}

/// What the log says came of each rule.
fn check_outcomes(texts: &[Vec<u8>], outcomes: &[Outcome], told: &Told, story: &str) {
    for ((number, text), outcome) in (1..).zip(texts).zip(outcomes) {
        let start = format!("rule {number} {}: ", Quoted(text));
        let said = told.lines.iter().find_map(|(_, line)| line.strip_prefix(&start));
        let word = said.and_then(|rest| rest.split([' ', ':']).next());
        assert_eq!(word, outcome.word(), "{start}\n{story}");
    }
}

/// What a run with a fault may take: what one without does. A display that cannot be looked at is not taken. Where the
/// console's display is not known, an exclusion for it may then be honoured after all, and the rules before it take
/// what is no display.
fn may_be_taken(devices: &[Device], items: &[Item]) -> BTreeMap<Address, String> {
    let is_for_console = |item: &Item| {
        matches!(
            &item.meaning,
            Meaning::Rule(Rule {
                action: Action::Exclude,
                selector: Selector::BootVga,
                expansion: None,
                ..
            })
        )
    };
    let decided = oracle::decide(devices, items, &sketch::variant);
    let is_lost = items
        .iter()
        .zip(&decided.outcomes)
        .any(|(item, outcome)| is_for_console(item) && *outcome == Outcome::Failed);
    let mut taken = decided.kept();
    if is_lost {
        let others: Vec<Item> =
            items.iter().filter(|item| !is_for_console(item)).cloned().collect();
        let more = oracle::decide(devices, &others, &sketch::variant).kept();
        let is_display = |at: Address| devices.iter().any(|it| it.address == at && it.is_display());
        taken.extend(more.into_iter().filter(|(at, _)| !is_display(*at)));
    }
    taken
}

/// Only what is taken is changed, and all overrides are written before anything else is.
fn check_changes(machine: &Machine, taken: &BTreeMap<Address, String>, story: &str) {
    let mut overrides_are_done = false;
    for change in machine.operations.iter().filter(|operation| operation.changes()) {
        let function = change.function().expect("only functions are changed");
        assert!(taken.contains_key(&function), "{change:?}\n{story}");
        assert!(!(overrides_are_done && change.sets_override()), "{change:?} is late\n{story}");
        overrides_are_done |= !change.sets_override();
    }
}

/// What a function says of itself. A rule with all that it says takes the function; where it says nothing, no rule
/// does.
pub fn modalias(text: &[u8]) {
    let said = identity(text);
    let [vendor, device, subvendor, subdevice, class] = said.unwrap_or_default();
    let line = format!(
        "vfio.override={vendor:04x}:{device:04x}:{subvendor:04x}:{subdevice:04x}:{class:06x}:ffffff"
    );
    let mut machine = Machine::new().with(vga("0000:01:00.0").with_modalias(text).in_group(1));
    let told = apply_line(&mut machine, line.as_bytes(), None);
    let is_bridge = matches!(class >> 8, 0x0600 | 0x0604 | 0x0607 | 0x0609);
    let is_taken = said.is_some() && !is_bridge;
    assert_eq!(machine.kept().len(), usize::from(is_taken), "{line}\n{told}");
    assert_eq!(told.is_applied, is_taken, "{line}\n{told}");
}

/// IDs and class, as far as there is room for the text.
fn identity(text: &[u8]) -> Option<[u32; 5]> {
    let text = text.get(..64).unwrap_or(text);
    let line = str::from_utf8(text.split(|&byte| byte == b'\n').next()?).ok()?;
    let mut rest = line.strip_prefix("pci:")?;
    let mut values = Vec::new();
    for (name, digits) in [("v", 8), ("d", 8), ("sv", 8), ("sd", 8), ("bc", 2), ("sc", 2), ("i", 2)]
    {
        let (number, after) = rest.strip_prefix(name)?.split_at_checked(digits)?;
        let is_number = number.bytes().all(|byte| byte.is_ascii_hexdigit());
        values.push(u32::from_str_radix(number, 16).ok().filter(|_| is_number)?);
        rest = after;
    }
    let [vendor, device, subvendor, subdevice, base, sub, interface] = values[..] else {
        return None;
    };
    let ids = [vendor, device, subvendor, subdevice];
    let is_whole = rest.is_empty() && ids.iter().all(|id| *id <= 0xffff);
    is_whole.then_some([vendor, device, subvendor, subdevice, base << 16 | sub << 8 | interface])
}

/// A `modules.alias`.
pub fn aliases(text: &[u8]) {
    let card = vga("0000:01:00.0").with_id(0x10de, 0x2204).in_group(1);
    let audio = audio("0000:01:00.1").in_group(1);
    let devices = [&card, &audio].map(known);
    let best = devices.map(|function| {
        let mut best: Option<(usize, Vec<u8>)> = None;
        for line in text.split(|&byte| byte == b'\n').filter(|line| line.len() <= 256) {
            if let Some((wildcards, driver)) = alias(line, &function)
                && best.as_ref().is_none_or(|(fewest, _)| wildcards < *fewest)
            {
                best = Some((wildcards, driver));
            }
        }
        best.map_or(b"vfio-pci".to_vec(), |(_, driver)| driver)
    });

    let mut machine = Machine::new().with(card).with(audio).with_aliases(text);
    let told = apply_line(&mut machine, b"vfio.override=01:00.*=auto", None);
    let kept: Vec<Vec<u8>> = machine.kept().into_values().map(String::into_bytes).collect();
    assert_eq!(kept, best, "{told}");
}

fn known(function: &Function) -> pci::Function {
    let id = |(vendor, device)| Id { vendor, device };
    pci::Function {
        address: function.address,
        id: id(function.id),
        subsystem: id(function.subsystem),
        class: Class::new(function.class).unwrap(),
        group: None,
        boot_vga: false,
    }
}

/// The number of wildcards and the driver of a line that is meant for the function.
fn alias(line: &[u8], function: &pci::Function) -> Option<(usize, Vec<u8>)> {
    let line = std::str::from_utf8(line).ok()?;
    let (pattern, module) = line.strip_prefix("alias vfio_pci:")?.split_once(' ')?;
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
    if !(1..=64).contains(&module.len()) || !module.chars().all(is_letter) {
        return None;
    }
    let class = function.class.code();
    let mut rest = pattern;
    for (name, value) in [
        ("v", format!("{:08x}", function.id.vendor)),
        ("d", format!("{:08x}", function.id.device)),
        ("sv", format!("{:08x}", function.subsystem.vendor)),
        ("sd", format!("{:08x}", function.subsystem.device)),
        ("bc", format!("{:02x}", class >> 16)),
        ("sc", format!("{:02x}", class >> 8 & 0xff)),
        ("i", format!("{:02x}", class & 0xff)),
    ] {
        let field = rest.strip_prefix(name)?;
        rest = if let Some(after) = field.strip_prefix('*') {
            after
        } else {
            let (digits, after) = field.split_at_checked(value.len())?;
            if !digits.eq_ignore_ascii_case(&value) {
                return None;
            }
            after
        };
    }
    let driver = match module {
        "vfio_pci" => "vfio-pci",
        "xe_vfio_pci" => "xe-vfio-pci",
        module => module,
    };
    rest.is_empty().then(|| (pattern.matches('*').count(), driver.as_bytes().to_vec()))
}

/// A machine with one function of each kind.
fn standard() -> Vec<Device> {
    let device = |name: &str, class: u32, (vendor, device), group| Device {
        address: address(name),
        parent: None,
        id: Id { vendor, device },
        subsystem: Id { vendor: 0x1af4, device: 0x1100 },
        class: Class::new(class).unwrap(),
        group: Some(group),
        boot_vga: false,
        has_framebuffer: false,
    };
    let mut devices = vec![
        device("0000:00:01.0", 0x06_04_00, (0x8086, 0x3420), 1),
        device("0000:00:02.0", 0x03_00_00, (0x1234, 0x1111), 2),
        device("0000:01:00.0", 0x03_00_00, (0x10de, 0x2204), 3),
        device("0000:01:00.1", 0x04_03_00, (0x10de, 0x1aef), 3),
        device("10000:00:1f.7", 0x01_08_02, (0x1b36, 0x0010), 4),
    ];
    devices[1].boot_vga = true;
    for below in &mut devices[2..4] {
        below.parent = Some(address("0000:00:01.0"));
    }
    devices
}

/// A command line; behind its NUL byte, where there is one, the number of an operation, the errno that it
/// fails with, and a machine.
pub fn whole(input: &[u8]) {
    let end = input.iter().position(|&byte| byte == 0).unwrap_or(input.len());
    let (line, rest) = input.split_at(end);
    let (fault, devices) = match rest {
        [0, at, errno, machine @ ..] => {
            let fault = (usize::from(*at), Errno::from_raw(i32::from(*errno)));
            (Some(fault), sketch::functions_of(machine))
        }
        _ => (None, standard()),
    };
    let texts = few_rules(line);
    match (fault, texts) {
        (Some((at @ 1.., errno)), texts) if errno != Errno::UnknownErrno => {
            let mut machine = sketch::machine(&devices).failing_at(at, errno);
            let told = apply_line(&mut machine, line, None);
            let story = format!("{errno:?} at {at}: {}\n{told}", line.escape_ascii());
            // These say that something is not there, which no exclusion has to protect.
            let is_answer = [Errno::ENOENT, Errno::ENODEV, Errno::EINVAL].contains(&errno);
            if let Some(texts) = texts.filter(|_| !is_answer) {
                let items: Vec<Item> = texts.iter().map(|text| reader::item(text)).collect();
                check_changes(&machine, &may_be_taken(&devices, &items), &story);
            }
        }
        (_, Some(texts)) => judge(&devices, &texts, line),
        (_, None) => drop(apply_line(&mut sketch::machine(&devices), line, None)),
    }
}
