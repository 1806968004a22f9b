// SPDX-License-Identifier: MIT OR Apache-2.0
//! `claims`: which functions are kept on purpose, for programs that hand devices out.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use tempfile::NamedTempFile;
use vfio_override::ruleset::RuleNumber;

use crate::commands::status::{self, State};
use crate::machine::Machine;
use crate::machine::modules;
use crate::screen;
use crate::verdict::Verdict;

#[derive(Serialize)]
struct Report {
    claims: Vec<Claim>,
    /// Whether everything is as asked.
    as_asked: bool,
}

/// One function that a rule of the kernel command line takes.
#[derive(Serialize)]
struct Claim {
    address: String,
    id: String,
    group: Option<u32>,
    /// By which a process can use it through iommufd.
    character_device: Option<PathBuf>,
    rule: RuleNumber,
    rule_text: String,
    /// The driver that it is kept for.
    asked: String,
    /// The driver that has it now.
    driver: Option<String>,
    /// The modules that hold a driver for it, of which one would have it otherwise; `null` where no list of modules can
    /// be read.
    standard_modules: Option<Vec<String>>,
    verdict: State,
}

/// Prints the claims, or puts them into a file: whoever reads that finds the old claims or the new ones.
pub fn run(machine: &mut Machine, file: Option<&Path>) -> Result<Verdict> {
    let status = status::Report::of_machine(machine)?;
    let claims = status.functions.into_iter().map(|comparison| Claim {
        standard_modules: modules::names_for(machine, &comparison.device.function),
        address: comparison.device.address,
        id: comparison.device.id,
        group: comparison.device.group,
        character_device: comparison.device.vfio_node,
        rule: comparison.rule,
        rule_text: comparison.rule_text,
        asked: comparison.asked,
        driver: comparison.device.driver,
        verdict: comparison.state,
    });
    let report = Report { claims: claims.collect(), as_asked: status.as_asked };
    let text = screen::json_text("claims", &report)?;
    match file {
        None => screen::raw(&text),
        Some(file) => {
            publish(file, &text).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(Verdict::of(report.as_asked))
}

fn publish(file: &Path, text: &str) -> Result<()> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut new = NamedTempFile::new_in(directory.unwrap_or(Path::new(".")))?;
    writeln!(new, "{text}")?;
    // Nothing in it is a secret, and whoever hands devices out may not be root.
    fs::set_permissions(new.path(), fs::Permissions::from_mode(0o644))?;
    new.persist(file)?;
    Ok(())
}
