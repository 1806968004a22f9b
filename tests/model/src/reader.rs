// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line and the grammar read a second time, from the text of the documentation alone: with
//! copies, and by cutting texts in pieces where the library goes byte by byte.

use std::cell::RefCell;
use std::collections::BTreeSet;

use vfio_override::pci::{Address, Class, Id};
use vfio_override::rule::{
    Action, Driver, Expansion, Ids, MAX_DRIVER, MAX_HOPS, Place, Rule, Selector,
};

use crate::oracle::{Item, Meaning};
use crate::rules::takes_guard;

/// A parameter's name, and its value where it has a `=`.
pub type Parameter = (Vec<u8>, Option<Vec<u8>>);

/// The kernel's part of a command line: words between white space, in which quotes protect white space
/// and go where they stand around the word or around its value.
#[must_use]
pub fn parameters(line: &[u8]) -> Vec<Parameter> {
    let end = line.iter().position(|&byte| byte == 0).unwrap_or(line.len());
    let found = words(&line[..end]).into_iter().map(|word| parameter(&word));
    found.take_while(|found| *found != (b"--".to_vec(), None)).collect()
}

fn words(line: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut is_quoted = false;
    for &byte in line {
        is_quoted ^= byte == b'"';
        if b" \t\n\x0b\x0c\r\xa0".contains(&byte) && !is_quoted {
            words.extend(word.take());
        } else {
            word.get_or_insert_default().push(byte);
        }
    }
    words.extend(word);
    words
}

fn parameter(word: &[u8]) -> Parameter {
    let inner = word.strip_prefix(b"\"");
    let (mut is_quoted, word) = (inner.is_some(), inner.unwrap_or(word));
    // A `=` that comes first belongs to the name.
    let equals = word.iter().skip(1).position(|&byte| byte == b'=').map(|at| at + 1);
    let (name, value) = match equals {
        Some(at) => (&word[..at], Some(&word[at + 1..])),
        None => (word, None),
    };
    let value = value.map(|value| match value.strip_prefix(b"\"") {
        Some(inner) => {
            is_quoted = true;
            inner
        }
        None => value,
    });
    let close = |text: &[u8]| {
        if is_quoted { text.strip_suffix(b"\"").unwrap_or(text).to_vec() } else { text.to_vec() }
    };
    match value {
        Some(value) => (name.to_vec(), Some(close(value))),
        None => (close(name), None),
    }
}

/// The texts of all rules on a command line.
#[must_use]
pub fn rules(line: &[u8]) -> Vec<Vec<u8>> {
    let mut rules = Vec::new();
    for (name, value) in parameters(line) {
        if name != b"vfio.override" {
            continue;
        }
        for text in value.unwrap_or_default().split(|&byte| byte == b',') {
            // All white space is Latin-1, in which every byte is a letter.
            let letters: String = text.iter().copied().map(char::from).collect();
            let is_blank = |letter| " \t\n\u{b}\u{c}\r\u{a0}".contains(letter);
            let text = letters.trim_matches(is_blank);
            rules.push(text.chars().filter_map(|letter| u8::try_from(letter).ok()).collect());
        }
    }
    rules.retain(|text: &Vec<u8>| !text.is_empty());
    rules
}

/// What a rule says.
#[must_use]
pub fn item(text: &[u8]) -> Item {
    let understood = std::str::from_utf8(text).ok().and_then(|text| match text {
        "off" => Some(Meaning::Off),
        "debug" => Some(Meaning::Debug),
        _ => rule(text).map(Meaning::Rule),
    });
    let text = text.iter().copied().map(char::from).collect();
    Item { text, meaning: understood.unwrap_or(Meaning::Invalid) }
}

/// The text before the separator, and the text after it, if it is there.
fn cut(text: &str, separator: char) -> (&str, Option<&str>) {
    text.split_once(separator).map_or((text, None), |(before, after)| (before, Some(after)))
}

fn rule(text: &str) -> Option<Rule<'static>> {
    let (excludes, text) = match text.strip_prefix('!') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (may_be_absent, text) = match text.strip_prefix('?') {
        Some(_) if excludes => return None,
        Some(text) => (true, text),
        None => (false, text),
    };
    let (text, driver) = cut(text, '=');
    let (text, expansion) = cut(text, '+');
    let (text, guard) = cut(text, '@');
    let selector = selector(text)?;
    let takes_guard = takes_guard(&selector);
    if excludes && (driver.is_some() || guard.is_some()) || guard.is_some() && !takes_guard {
        return None;
    }
    let expansion = match expansion {
        None => None,
        Some("slot") => Some(Expansion::Slot),
        Some("group") => Some(Expansion::Group),
        Some(_) => return None,
    };
    let guard = match guard.map(|guard| guard.split_once(':')) {
        None => None,
        Some(None) => return None,
        Some(Some((vendor, device))) => Some(Id { vendor: id(vendor)?, device: id(device)? }),
    };
    let action = if excludes { Action::Exclude } else { Action::Take(driver_of(driver)?) };
    Some(Rule { selector, guard, expansion, action, may_be_absent })
}

fn driver_of(name: Option<&str>) -> Option<Driver<'static>> {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "_-.+".contains(letter);
    match name {
        None | Some("vfio-pci") => Some(Driver::DEFAULT),
        Some("none") => Some(Driver::Nobody),
        Some("auto") => Some(Driver::Auto),
        Some("." | "..") => None,
        Some(name) if (1..=MAX_DRIVER).contains(&name.len()) && name.chars().all(is_letter) => {
            Some(Driver::Named(kept(name).as_bytes()))
        }
        Some(_) => None,
    }
}

/// The same name, for as long as there are tests: rules borrow the names of their drivers. Each is kept once, since some
/// tests read millions of rules.
fn kept(name: &str) -> &'static str {
    thread_local! {
        static NAMES: RefCell<BTreeSet<&'static str>> = RefCell::default();
    }
    NAMES.with_borrow_mut(|names| {
        if let Some(name) = names.get(name) {
            return *name;
        }
        let name: &'static str = name.to_owned().leak();
        names.insert(name);
        name
    })
}

fn selector(text: &str) -> Option<Selector> {
    if text == "boot_vga" {
        Some(Selector::BootVga)
    } else if let Some(text) = text.strip_prefix("class:") {
        let digits = u8::try_from(text.len()).ok().filter(|digits| [2, 4, 6].contains(digits))?;
        Some(Selector::Class { prefix: number(text, 6)?, digits })
    } else if let Some(text) = text.strip_prefix("pci:") {
        let fields: Vec<&str> = text.split(':').collect();
        let mut ids = ids(&fields).filter(|_| [2, 4].contains(&fields.len()))?;
        for id in [&mut ids.vendor, &mut ids.device, &mut ids.subvendor, &mut ids.subdevice] {
            *id = id.filter(|&id| id != 0);
        }
        Some(Selector::Ids(ids))
    } else if text.contains('/') {
        let mut places = text.split('/');
        let (domain, bus, first) = address(places.next()?)?;
        let start = Address::new(domain, bus, first.device, first.function?)?;
        let hops = places.map(place).collect::<Option<Vec<Place>>>()?;
        let is_short = hops.len() <= MAX_HOPS;
        is_short.then(|| Selector::Path { start, hops: hops.into_iter().collect() })
    } else if text.contains('.') {
        let (domain, bus, place) = address(text)?;
        Some(Selector::Address { domain, bus, place })
    } else if is_slot(text) {
        None
    } else {
        ids(&text.split(':').collect::<Vec<_>>()).map(Selector::Ids)
    }
}

/// Whether people who write this mean a slot: `01:00`, or `0000:01:00`.
pub(crate) fn is_slot(text: &str) -> bool {
    let fields: Vec<&str> = text.split(':').collect();
    let lengths: Vec<usize> = fields.iter().map(|field| field.len()).collect();
    let Some(numbers) = fields.iter().map(|field| number(field, 4)).collect::<Option<Vec<u32>>>()
    else {
        return false;
    };
    [&[2, 2][..], &[4, 2, 2]].contains(&&*lengths) && numbers.last().is_some_and(|&dev| dev <= 0x1f)
}

fn address(text: &str) -> Option<(u32, u8, Place)> {
    let fields: Vec<&str> = text.split(':').collect();
    let (domain, bus, rest) = match fields[..] {
        [bus, rest] => (0, bus, rest),
        [domain, bus, rest] => (number(domain, 8)?, bus, rest),
        _ => return None,
    };
    Some((domain, u8::try_from(number(bus, 2)?).ok()?, place(rest)?))
}

fn place(text: &str) -> Option<Place> {
    let (device, function) = text.split_once('.')?;
    let device = u8::try_from(number(device, 2)?).ok().filter(|&device| device <= 0x1f)?;
    let function = match function {
        "*" => None,
        "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" => Some(function.parse().ok()?),
        _ => return None,
    };
    Some(Place { device, function })
}

/// From two to four IDs, then a class, then a mask.
fn ids(texts: &[&str]) -> Option<Ids> {
    if !(2..=6).contains(&texts.len()) {
        return None;
    }
    let field = |at: usize| match texts.get(at) {
        None => Some(None),
        Some(text) if is_any(text) => Some(None),
        Some(text) => Some(Some(id(text)?)),
    };
    let mask = match texts.get(5) {
        None => 0,
        Some(text) if *text != "*" && is_any(text) => 0x00ff_ffff,
        Some(text) => prefixed(text, 6)?,
    };
    let class = match texts.get(4) {
        None => None,
        Some(text) if is_any(text) => None,
        Some(text) => Some(Class::new(prefixed(text, 6)?)?),
    };
    let mask = if class.is_some() { mask } else { 0 };
    let (vendor, device, subvendor, subdevice) = (field(0)?, field(1)?, field(2)?, field(3)?);
    Some(Ids { vendor, device, subvendor, subdevice, class, mask })
}

fn id(text: &str) -> Option<u16> {
    u16::try_from(prefixed(text, 4)?).ok()
}

fn is_any(text: &str) -> bool {
    text == "*" || without_prefix(text).eq_ignore_ascii_case("ffffffff")
}

fn without_prefix(text: &str) -> &str {
    text.strip_prefix("0x").or(text.strip_prefix("0X")).unwrap_or(text)
}

fn prefixed(text: &str, most: usize) -> Option<u32> {
    number(without_prefix(text), most)
}

fn number(text: &str, most: usize) -> Option<u32> {
    let is_number =
        (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u32::from_str_radix(text, 16).ok().filter(|_| is_number)
}
