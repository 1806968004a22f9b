// SPDX-License-Identifier: MIT OR Apache-2.0
//! The grammar of a rule: what is read is what was written, and what is not understood is pointed at.

use model::invalid::INVALID;
use model::rules::rules;
use model::spelling::spell;
use proptest::prelude::*;
use vfio_override::grammar::{self, SyntaxError};
use vfio_override::pci::Address;
use vfio_override::rule::{MAX_DRIVER, MAX_HOPS, Selector, Statement};
use vfio_override::ruleset::RuleSet;

/// Bytes that come close to a rule far more often than any bytes do.
fn almost_a_rule() -> impl Strategy<Value = Vec<u8>> {
    let words = proptest::sample::select(vec![
        "!",
        "?",
        "0000:",
        "03:",
        "00.0",
        "1f.*",
        "20.",
        "/",
        "0.8",
        "10de:",
        "2204",
        "*",
        "ffffffff",
        "fffffffff",
        "0x",
        "pci:",
        "0:0",
        "class:",
        "03",
        "boot_vga",
        "@",
        "+",
        "slot",
        "group",
        "=",
        "none",
        "auto",
        "off",
        "debug",
        " ",
        "\0",
        "\u{7f}",
        ".",
        ":",
    ]);
    let almost = proptest::collection::vec(words, 0..12);
    let mixed = (almost, proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())));
    let mixed = mixed.prop_map(|(words, change)| {
        let mut text = words.concat().into_bytes();
        if let Some((index, byte)) = change.filter(|_| !text.is_empty()) {
            let index = index.index(text.len());
            text[index] = byte;
        }
        text
    });
    prop_oneof![4 => mixed, 1 => proptest::collection::vec(any::<u8>(), 0..100)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_rule_is_read_back_from_its_text(rule in rules()) {
        let text = rule.to_string();
        prop_assert_eq!(grammar::parse(text.as_bytes()), Ok(Statement::Rule(rule)), "{}", text);
    }

    #[test]
    fn every_spelling_of_a_rule_means_the_same(
        rule in rules(),
        choices in proptest::collection::vec(any::<bool>(), 1..40),
    ) {
        let text = spell(&rule, &choices);
        prop_assert_eq!(grammar::parse(text.as_bytes()), Ok(Statement::Rule(rule)), "{}", text);
    }

    #[test]
    fn an_error_points_into_the_text_or_just_behind_it(text in almost_a_rule()) {
        if let Err(error) = grammar::parse(&text) {
            let column = usize::try_from(error.column).unwrap();
            prop_assert!((1..=text.len() + 1).contains(&column), "column {} of {:?}", column, text);
        }
    }

    #[test]
    fn what_is_understood_has_a_text_that_means_the_same(text in almost_a_rule()) {
        if let Ok(statement) = grammar::parse(&text) {
            let canonical = statement.to_string();
            prop_assert_eq!(grammar::parse(canonical.as_bytes()), Ok(statement), "{}", canonical);
        }
    }
}

#[test]
fn settings_are_two_words() {
    assert_eq!(grammar::parse(b"off"), Ok(Statement::Off));
    assert_eq!(grammar::parse(b"debug"), Ok(Statement::Debug));
}

#[test]
fn each_number_may_be_as_long_and_as_large_as_documented() {
    let longest_path = format!("ffffffff:ff:1f.7{}", "/1f.7".repeat(MAX_HOPS));
    let longest_driver = format!("00:00.0={}", "d".repeat(MAX_DRIVER));
    for text in [
        "0:0:0.0",
        "ffffffff:ff:1f.7",
        "ff:1f.*",
        "ffff:ffff:ffff:ffff:ffffff:ffffff",
        "0x0:0X0:0x0:0x0:0x0:0x0",
        "pci:ffff:ffff:ffff:ffff",
        "class:ff",
        "class:ffff",
        "class:ffffff",
        "00:00.0@ffff:0xffff",
        &longest_path,
        &longest_driver,
    ] {
        assert!(grammar::parse(text.as_bytes()).is_ok(), "{text}");
    }
}

#[test]
fn ids_that_are_not_written_as_lspci_writes_a_slot_stay_ids() {
    for text in [
        "0001:0000",
        "1:00",
        "01:0",
        "001:00",
        "01:000",
        "0x01:00",
        "01:0x00",
        "01:20",
        "01:ff",
        "*:00",
        "01:*",
        "000:01:00",
        "0x00:01:00",
        "*:01:00",
        "ffffffff:01:00",
        "0000:1:00",
        "0000:01:0",
        "0000:01:20",
        "0000:0001:0000",
        "0000:01:00:00",
        "8086:10fb:0003",
        "pci:01:00",
        "pci:01:00:01:00",
    ] {
        let parsed = grammar::parse(text.as_bytes());
        let ids = parsed.map(|statement| match statement {
            Statement::Rule(rule) => matches!(rule.selector, Selector::Ids(_)),
            Statement::Off | Statement::Debug => false,
        });
        assert_eq!(ids, Ok(true), "{text}");
    }
    assert!(grammar::parse(b"03:00.0@01:00").is_ok());
}

/// The text, a caret under the column, and what was expected there.
fn point(text: &str, error: SyntaxError) -> String {
    let indent = usize::try_from(error.column).unwrap();
    format!("|{text}|\n{:>width$} {}\n", "^", error.expected, width = indent + 1)
}

#[test]
fn every_invalid_form_is_pointed_at() {
    let pointed: String = INVALID
        .iter()
        .map(|text| match grammar::parse(text.as_bytes()) {
            Ok(statement) => panic!("{text:?} is understood as {statement}"),
            Err(error) => point(text, error),
        })
        .collect();
    insta::assert_snapshot!(pointed);
}

#[test]
fn a_lone_address_is_pointed_at_as_in_a_rule() {
    let invalid = ["", "03:00", "03:00.", "03:00.*", "03:00.8", "03:00.0/00.0", "03:00.0+slot"];
    let pointed: String = invalid
        .iter()
        .map(|text| match grammar::parse_address(text.as_bytes()) {
            Ok(address) => panic!("{text:?} is understood as {address}"),
            Err(error) => point(text, error),
        })
        .collect();
    insta::assert_snapshot!(pointed);
    assert_eq!(
        grammar::parse_address(b"10000:3:1F.7"),
        Ok(Address::new(0x10000, 3, 0x1f, 7).unwrap())
    );
}

#[test]
fn every_expectation_is_met_with() {
    let rules = INVALID.iter().map(|text| grammar::parse(text.as_bytes()).err());
    let addresses = ["03:00.0/00.0", "03:00.*"].map(|text| grammar::parse_address(text.as_bytes()));
    let met: Vec<&str> =
        rules.chain(addresses.map(Result::err)).flatten().map(|error| error.expected).collect();
    // Each text of the source that is no bytes is an expectation.
    let source = include_str!("../../src/grammar.rs");
    let code = source.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    let code = code.filter(|line| !line.contains("assert!") && !line.contains("reason ="));
    let code = code.collect::<Vec<_>>().join("\n").replace("\\\"", "\u{1}");
    let pieces: Vec<&str> = code.split('"').collect();
    let texts = pieces.chunks_exact(2).filter(|pair| !pair[0].ends_with('b'));
    let texts: Vec<String> = texts.map(|pair| pair[1].replace('\u{1}', "\"")).collect();
    let unmet: Vec<&String> = texts.iter().filter(|text| !met.contains(&text.as_str())).collect();
    assert_eq!(unmet, Vec::<&String>::new());
    assert_eq!(texts.len(), 31);
}

#[test]
fn empty_rules_are_not_numbered_and_blanks_around_rules_do_not_count() {
    let mut rules = RuleSet::new();
    rules.add_line(
        b"vfio.override=,03:00.0,,off x vfio.override=\" 04:00.0\t, ,05:00.0 \" vfio.override=,",
    );
    let numbered: Vec<String> = rules
        .entries
        .iter()
        .map(|entry| format!("{} {}", entry.number, entry.text.escape_ascii()))
        .collect();
    assert_eq!(numbered, ["1 03:00.0", "2 off", "3 04:00.0", "4 05:00.0"]);
    assert!(rules.entries.iter().all(|entry| entry.parsed.is_ok()));
}
