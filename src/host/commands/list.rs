// SPDX-License-Identifier: MIT OR Apache-2.0
//! `list`: every function at a glance.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use vfio_override::plan::Step;

use crate::args::List;
use crate::machine::Machine;
use crate::machine::functions::{Device, Devices};
use crate::picture::Picture;
use crate::rules::preview::Asked;
use crate::screen::{self, PLAIN, QUIET, Screen, TAKEN, WARN};
use crate::verdict::Verdict;

#[derive(Serialize)]
struct Report {
    functions: Vec<Row>,
    /// What could not be looked at.
    troubles: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    device: Device,
    /// The number of the rule of the kernel command line that takes it.
    rule: Option<u16>,
    /// The bridge that it is behind, or another function that makes its bus.
    parent: Option<String>,
}

pub fn run(machine: &mut Machine, options: &List, json: bool) -> Result<Verdict> {
    let devices = Devices::of(machine);
    let picture = || Picture::of(&devices, |device| is_wanted(device, options));
    if let Some(file) = &options.svg {
        write(file, &picture().svg())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let has_functions = !devices.all.is_empty();
    let is_off = has_functions && !devices.has_groups();
    let none = if has_functions { "no such function" } else { "this machine has no PCI functions" };
    if options.tree && !json {
        let (mut screen, picture) = (Screen::new(), picture());
        if picture.is_empty() {
            screen.line(PLAIN, none);
        } else {
            picture.show(&mut screen);
        }
        return Ok(complain(&mut screen, &devices.troubles, is_off));
    }
    let takers = takers(machine)?;
    let style = devices.style();
    let mut functions: Vec<Row> = devices
        .all
        .into_iter()
        .filter(|device| is_wanted(device, options))
        .map(|device| Row {
            rule: takers.get(&device.address).copied(),
            parent: device.parent().map(|parent| parent.to_string()),
            device,
        })
        .collect();
    // Without a group behind all that have one.
    functions.sort_by_key(|row| {
        (row.device.group.is_none(), row.device.group, row.device.function.address)
    });
    let report = Report { functions, troubles: devices.troubles };
    if json {
        screen::json("list", &report)?;
        return Ok(Verdict::of(report.troubles.is_empty()));
    }

    let mut screen = Screen::new();
    let has_override = report.functions.iter().any(|row| row.device.kept_for.is_some());
    let has_rule = !takers.is_empty();
    let mut head = vec!["GROUP", "ADDRESS", "ID", "DRIVER"];
    head.extend(has_override.then_some("OVERRIDE"));
    head.extend(has_rule.then_some("RULE"));
    head.push("DEVICE");
    let dash = || "-".to_owned();
    let rows = report.functions.iter().map(|row| {
        let device = &row.device;
        let mut cells = vec![
            format!("{:>5}", device.group_text()),
            style.text(device.function.address),
            device.id.clone(),
            device.driver.clone().unwrap_or_else(dash),
        ];
        cells.extend(has_override.then(|| device.kept_for.clone().unwrap_or_else(dash)));
        cells.extend(has_rule.then(|| row.rule.map_or_else(dash, |rule| rule.to_string())));
        cells.push(device.title());
        let colour = match row.rule {
            Some(_) => TAKEN,
            None if device.kept_for.is_some() => TAKEN,
            None if device.function.class.is_bridge() => QUIET,
            None => PLAIN,
        };
        (colour, cells)
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        screen.line(PLAIN, none);
    } else {
        screen.table(0, &head, rows);
    }
    Ok(complain(&mut screen, &report.troubles, is_off))
}

/// Tells what could not be looked at.
fn complain(screen: &mut Screen, troubles: &[String], is_off: bool) -> Verdict {
    for trouble in troubles {
        screen.marked(WARN, "warning", trouble);
    }
    if is_off {
        screen.marked(
            WARN,
            "warning",
            "no IOMMU groups: the IOMMU is off; enable it in the firmware (VT-d, AMD-Vi, SMMU), and on Intel add intel_iommu=on",
        );
    }
    Verdict::of(troubles.is_empty())
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    File::create_new(file)?.write_all(text.as_bytes())
}

/// The number of the rule of the kernel command line that takes each function.
fn takers(machine: &mut Machine) -> Result<BTreeMap<String, u16>> {
    let asked = Asked::Line(machine.cmdline()?);
    let run = asked.preview(machine);
    let rule = |step: &Step| Some((step.function.address.to_string(), step.rule?));
    Ok(run.plan.taken().filter_map(rule).collect())
}

fn is_wanted(device: &Device, options: &List) -> bool {
    let is_class = options.class.as_ref().is_none_or(|class| {
        let class = class.to_lowercase();
        let is_code = class.len() >= 2 && class.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_code && device.class.starts_with(&class))
            || device.class_name.to_lowercase().contains(&class)
    });
    let is_group = options.group.is_none_or(|group| device.group == Some(group));
    let is_driver = options
        .driver
        .as_ref()
        .is_none_or(|driver| device.driver.as_deref().unwrap_or("none") == driver);
    is_class && is_group && is_driver
}
