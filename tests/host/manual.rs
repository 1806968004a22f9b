// SPDX-License-Identifier: MIT OR Apache-2.0
//! The manual pages and completions are what the programs' own help is.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::early::binaries;
use crate::tool;
use tempfile::TempDir;
use vfio_override::ruleset::RuleSet;

const COMMANDS: [&str; 7] = ["list", "plan", "status", "suggest", "apply", "release", "collect"];

fn generated() -> TempDir {
    let directory = TempDir::new().unwrap();
    let status = Command::new(tool()).arg("generate").arg(directory.path()).status().unwrap();
    assert!(status.success());
    directory
}

fn text(directory: &TempDir, name: &str) -> String {
    fs::read_to_string(directory.path().join(name)).unwrap()
}

/// What the tool prints for `--help`, with its commands before.
fn help(command: &[&str]) -> String {
    let output = Command::new(tool()).args(command).arg("--help").output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// The text of a page, without what only roff reads.
fn plain(page: &str) -> String {
    let page = page.replace("\\-", "-").replace("\\fR", "").replace("\\fB", "").replace("\\fI", "");
    page.replace("\\&", "").replace("\\'", "'")
}

/// The long options in a text.
fn options(text: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '-';
    let mut options: Vec<String> = text
        .split("--")
        .skip(1)
        .map(|rest| rest.split(|c| !is_name(c)).next().unwrap().trim_end_matches('-').to_owned())
        .filter(|option| !option.is_empty())
        .collect();
    options.sort();
    options.dedup();
    options
}

#[test]
fn the_page_of_the_tool_has_what_help_has() {
    let directory = generated();
    let page = plain(&text(&directory, "vfio-override.8"));
    assert!(page.contains(".TH vfio-override 8"), "{page}");
    for command in COMMANDS {
        let of_command = plain(&text(&directory, &format!("vfio-override-{command}.8")));
        let help = help(&[command]);
        assert!(page.contains(&format!("vfio-override-{command}(8)")), "{command}");
        assert_eq!(options(&of_command), options(&help), "{command}");
    }
    assert_eq!(options(&page), options(&help(&[])));
    assert!(!page.contains("generate"), "that is for packages");
}

#[test]
fn completions_know_every_command_and_option() {
    let directory = generated();
    for name in ["vfio-override.bash", "_vfio-override", "vfio-override.fish"] {
        let script = text(&directory, name);
        for command in COMMANDS {
            assert!(script.contains(command), "{name}: {command}");
        }
        for option in options(&help(&[])) {
            let told =
                if name.ends_with("fish") { format!("-l {option}") } else { format!("--{option}") };
            assert!(script.contains(&told), "{name}: {told}");
        }
    }
    // It is a script that the shell can read.
    let script = directory.path().join("vfio-override.bash");
    assert!(Command::new("bash").arg("-n").arg(script).status().unwrap().success());
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn the_page_of_the_early_binary_has_what_the_binary_says() {
    let page = plain(&text(&generated(), "vfio-override-early.8"));
    for binary in binaries() {
        let run = |argument: &str| {
            let output = Command::new(&binary).arg(argument).stdin(Stdio::null()).output().unwrap();
            String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
        };
        let version = run("--version");
        let version = version.trim().strip_prefix("vfio-override-early ").unwrap();
        assert!(page.contains(version), "{version}");
        // It has no --help: wrong use shows what there is.
        let usage = run("--wrong");
        let usage = usage.split_once("usage: ").unwrap().1;
        assert_eq!(options(&page), options(usage));
        for word in usage.split(['[', ']', ' ', '\n']).filter(|word| word.starts_with("--")) {
            let value = usage.split_once(word).unwrap().1.split([']', '\n']).next().unwrap().trim();
            let shown =
                if value.is_empty() { word.to_owned() } else { format!("{word} <{value}>") };
            assert!(page.contains(&shown), "{shown}\n{page}");
        }
    }
}

#[test]
fn the_page_of_the_parameter_has_the_grammar() {
    let page = plain(&text(&generated(), "vfio-override.7"));
    let grammar = include_str!("../../src/grammar.rs");
    let rules: Vec<&str> = grammar
        .lines()
        .skip_while(|line| *line != "//! ```text")
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .map(|line| line.strip_prefix("//! ").unwrap())
        .collect();
    assert!(rules.len() > 5);
    assert!(page.contains(&rules.join("\n")), "{page}");
}

#[test]
fn every_example_of_the_page_is_a_valid_parameter() {
    let page = plain(&text(&generated(), "vfio-override.7"));
    let examples: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix(".B vfio.override=")).collect();
    assert!(examples.len() > 5);
    for example in examples {
        let mut rules = RuleSet::new();
        rules.add_value(example.as_bytes());
        assert!(
            rules.count() > 0 && rules.entries.iter().all(|entry| entry.parsed.is_ok()),
            "{example}"
        );
    }
}

/// What a person sees; groff is asked only where it is.
#[test]
fn the_pages_are_without_mistakes() {
    let directory = generated();
    if Command::new("groff").arg("--version").stdout(Stdio::null()).status().is_err() {
        return;
    }
    for entry in fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "8" || end == "7") {
            let output = Command::new("groff")
                .args(["-man", "-Tutf8", "-ww", "-z"])
                .arg(&path)
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{}", path.display());
        }
    }
}

/// What is generated and has no line there would be in no package.
#[test]
fn every_page_and_completion_is_in_the_list_of_files() {
    let list = include_str!("../../packaging/files");
    for entry in fs::read_dir(generated().path()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let source = format!("BUILT/{name}");
        assert!(
            list.lines().any(|line| line.split_whitespace().nth(1) == Some(&source)),
            "packaging/files has no line for {source}"
        );
    }
}
