//! What the README promises and a reader copies.

use vfio_override::grammar;
use vfio_override::ruleset::RuleSet;

const README: &str = include_str!("../README.md");

/// The values of `vfio.override=` in the README, up to the end of the code they stand in.
fn examples() -> impl Iterator<Item = &'static str> {
    README
        .split("vfio.override=")
        .skip(1)
        .map(|text| text.split([' ', '`', '\n']).next().unwrap_or_default())
        .filter(|value| !value.is_empty())
}

#[test]
fn every_example_is_a_valid_parameter() {
    assert!(examples().count() > 10);
    for example in examples() {
        let mut rules = RuleSet::new();
        rules.add_value(example.as_bytes());
        assert!(rules.count() > 0, "{example}");
        for (_, entry) in rules.entries() {
            assert!(entry.parsed.is_ok(), "{example}: {:?}", entry.parsed);
        }
    }
}

#[test]
fn the_invalid_example_is_told_as_shown() {
    let shown = README.lines().find(|line| line.contains(": invalid at column ")).unwrap();
    let (before, after) = shown.split_once("\": invalid at column ").unwrap();
    let (_, rule) = before.rsplit_once('"').unwrap();
    let error = grammar::parse(rule.as_bytes()).unwrap_err();
    assert_eq!(after, format!("{}: expected {}", error.column, error.expected));
}
