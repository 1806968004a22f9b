// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the README promises and a reader copies.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::copy;
use crate::tool;
use vfio_override::grammar;
use vfio_override::ruleset::RuleSet;

const README: &str = include_str!("../../README.md");

/// The values of `vfio.override=` in the README, up to the end of the code they stand in.
fn examples() -> impl Iterator<Item = &'static str> {
    README
        .split("vfio.override=")
        .skip(1)
        .map(|text| text.split([' ', '`', '"', '\n']).next().unwrap_or_default())
        .filter(|value| !value.is_empty())
}

#[test]
fn every_example_is_a_valid_parameter() {
    assert!(examples().count() > 10);
    for example in examples() {
        let mut rules = RuleSet::new();
        rules.add_value(example.as_bytes());
        assert!(rules.count() > 0, "{example}");
        for entry in &rules.entries {
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

/// Each command of the tool that is shown, with what is shown below it.
fn shown() -> Vec<(&'static str, String)> {
    let mut shown: Vec<(&str, String)> = Vec::new();
    let mut is_output = false;
    for line in README.lines() {
        if let Some(command) = line.strip_prefix("$ vfio-override ") {
            shown.push((command, String::new()));
            is_output = true;
        } else if line == "```" {
            is_output = false;
        } else if let Some((_, output)) = shown.last_mut().filter(|_| is_output) {
            writeln!(output, "{line}").unwrap();
        }
    }
    shown
}

#[test]
fn the_tool_prints_what_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    copy::unfold("two-t400", &directory.path().join("two-t400"));
    assert!(shown().len() > 2);
    for (command, expected) in shown() {
        let output = Command::new(tool())
            .args(command.split(' '))
            .args(["--from", "two-t400", "--pci-ids"])
            .arg(copy::directory().join("pci.ids"))
            .env_remove("COLUMNS")
            .current_dir(&directory)
            .output()
            .unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.trim_end(), expected.trim_end(), "$ vfio-override {command}");
    }
}

/// A page that is read where it is installed leads only to what is there, or to the web.
#[test]
fn what_an_installed_page_leads_to_is_installed_too() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = fs::read_to_string(root.join("packaging/files")).unwrap();
    let installed: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1)?.strip_prefix("docs/"))
        .collect();
    let pages = installed.iter().filter(|name| name.contains(".md"));
    assert!(pages.clone().count() > 20);
    for name in pages {
        let page = fs::read_to_string(root.join("docs").join(name)).unwrap();
        for link in page.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let (file, part) = link.split_once('#').unwrap_or((link, ""));
            let own =
                file.strip_prefix("https://github.com/vfio-override/vfio-override/blob/main/");
            let target = match own {
                Some(path) => root.join(path),
                None if file.is_empty() => root.join("docs").join(name),
                None if file.starts_with("https://") => continue,
                None => {
                    assert!(installed.contains(&file), "{name}: {link}");
                    root.join("docs").join(file)
                }
            };
            assert!(target.exists(), "{name}: {link}");
            let is_heading = |line: &str| {
                let title = line.strip_prefix('#')?.trim_start_matches('#').trim().to_lowercase();
                let is_kept = |letter: &char| letter.is_alphanumeric() || " -_".contains(*letter);
                Some(title.chars().filter(is_kept).collect::<String>().replace(' ', "-"))
            };
            let is_there = |text: &str| text.lines().filter_map(is_heading).any(|it| it == part);
            assert!(
                part.is_empty() || is_there(&fs::read_to_string(&target).unwrap()),
                "{name}: {link}"
            );
        }
    }
}
