// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guest reports: the lines that tests/guest/init writes, and the early binary's log.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Lines on the guest's console that tell how far it came.
pub const STARTED: &str = "@guest start";
pub const LOADING: &str = "@guest drivers";
pub const REPORTED: &str = "@guest reported";

/// Lines with which a scene asks for a function to be plugged in, or taken out; its address follows.
pub const PLUG: &str = "@guest plug ";
pub const UNPLUG: &str = "@guest unplug ";

const MARK: &str = "@guest ";

/// The line behind which a guest with one serial port writes its report, and then the kernel's log.
const TRANSCRIPT: &str = "@guest transcript";

/// The last line of the report, and of the log.
const END: &str = "@guest end";

/// The report and the kernel's log on the console of a guest with one serial port.
pub fn sort(console: &str) -> Result<(&str, &str)> {
    let (_, rest) = console.split_once(TRANSCRIPT).context("the console holds no report")?;
    let report = rest.find(END).map(|start| start + END.len());
    let (report, log) = report
        .and_then(|end| rest.split_at_checked(end))
        .context("the guest's report is cut short")?;
    Ok((report.trim_start(), log.trim_start()))
}

/// All that is known about a boot that went through.
pub struct Evidence {
    pub report: GuestReport,
    /// The kernel log, from its first record on.
    pub log: String,
}

impl Evidence {
    /// Reads both serial ports' files; an incomplete one proves nothing and is an error.
    pub fn read(report: &str, log: &str) -> Result<Self> {
        let report = GuestReport::parse(report)?;
        let Some((log, _)) = log.split_once(END) else {
            bail!("the kernel log is cut short");
        };
        if !log.lines().take(3).any(|line| line.contains("Linux version")) {
            bail!("the kernel log lost its beginning; log_buf_len is too small");
        }
        Ok(Self { report, log: log.replace('\r', "") })
    }

    /// What the early binary says that it did to each function.
    pub fn decisions(&self) -> BTreeMap<&str, Decision<'_>> {
        let mut decisions = BTreeMap::new();
        for (address, decision) in self.early_records().filter_map(Decision::parse) {
            // A later run finds what the first one did.
            decisions.entry(address).or_insert(decision);
        }
        decisions
    }

    /// What the early binary said.
    pub fn early_records(&self) -> impl Iterator<Item = &str> {
        self.log.lines().filter_map(early_record)
    }

    /// Seconds from the start of PID 1, whoever it was, to that of /init.
    pub fn seconds_to_init(&self) -> Option<f64> {
        let started = self.log.lines().find(|line| line.ends_with(" as init process"))?;
        Some(self.uptime_of_init()? - stamp(started)?)
    }

    /// Seconds from the start of the kernel to that of /init.
    pub fn uptime_of_init(&self) -> Option<f64> {
        self.report.entry.uptime.as_ref()?.parse().ok()
    }
}

/// Seconds from the start of the kernel to a record of its log.
pub fn stamp(line: &str) -> Option<f64> {
    let (_, stamp) = line.split_once('[')?;
    let (stamp, _) = stamp.split_once(']')?;
    stamp.trim().parse().ok()
}

/// What the early binary says that it did to a function.
#[derive(Debug, PartialEq, Eq)]
pub struct Decision<'log> {
    pub rule: usize,
    /// The driver that had the function.
    pub unbound_from: Option<&'log str>,
}

impl<'log> Decision<'log> {
    /// `0000:01:00.0 [1234:1111] class 030000 group 8, rule 1: …`
    fn parse(record: &'log str) -> Option<(&'log str, Self)> {
        let (function, decision) = record.split_once(", rule ")?;
        let (rule, outcome) = decision.split_once(": ")?;
        if outcome.starts_with("left alone") {
            return None;
        }
        let unbound_from =
            outcome.split_once("unbound from ").and_then(|(_, rest)| rest.split(',').next());
        let address = function.split(' ').next()?;
        Some((address, Self { rule: rule.parse().ok()?, unbound_from }))
    }
}

/// The guest's own report.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct GuestReport {
    pub entry: Entry,
    /// The early binary's exit status, where /init ran it.
    pub early_status: Option<i32>,
    pub devices: Vec<Device>,
    pub failed_modules: Vec<String>,
    /// What the scene told.
    pub told: Vec<String>,
    /// What it counted, one sentence each.
    pub figures: Vec<String>,
    /// What the host tool said, by its command.
    pub tool: BTreeMap<String, Tool>,
}

/// What a command of the host tool said to programs.
#[derive(Debug, PartialEq, Eq)]
pub struct Tool {
    pub status: i32,
    pub json: Value,
}

/// What /init found when it was started.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub pid: Option<u32>,
    pub arguments: Vec<String>,
    pub environment: Vec<String>,
    /// Mount points, /init's own /proc among them.
    pub mounts: Vec<String>,
    pub uptime: Option<String>,
}

/// A PCI function after all drivers were loaded.
#[derive(Debug, PartialEq, Eq)]
pub struct Device {
    pub address: String,
    pub ids: String,
    pub subsystem: String,
    pub class: String,
    pub boot_vga: bool,
    pub group: Option<String>,
    pub driver: Option<String>,
    pub driver_override: Option<String>,
}

impl GuestReport {
    fn parse(text: &str) -> Result<Self> {
        let mut report = Self::default();
        for line in text.lines() {
            let Some(line) = line.trim_end().strip_prefix(MARK) else {
                continue;
            };
            let (topic, rest) = line.split_once(' ').unwrap_or((line, ""));
            match topic {
                "entry" => report.entry.add(rest)?,
                "early" => report.early_status = Some(early_status(rest)?),
                "device" => report.devices.push(Device::parse(rest)?),
                "module" => report.failed_modules.push(rest.to_owned()),
                "tell" => report.told.push(rest.to_owned()),
                "figure" => report.figures.push(rest.to_owned()),
                "tool" => {
                    let (command, said) = rest.split_once(' ').unwrap_or((rest, ""));
                    report.tool.insert(command.to_owned(), Tool::parse(said)?);
                }
                "end" => return Ok(report),
                _ => bail!("the guest reported something unknown: {line}"),
            }
        }
        bail!("the guest's report is cut short")
    }
}

impl Entry {
    fn add(&mut self, text: &str) -> Result<()> {
        let (topic, value) = text.split_once(' ').unwrap_or((text, ""));
        let owned = value.to_owned();
        match topic {
            "pid" => self.pid = Some(value.parse().context("the guest's pid is no number")?),
            "argument" => self.arguments.push(owned),
            "environment" => self.environment.push(owned),
            "mount" => self.mounts.push(owned),
            "uptime" => self.uptime = Some(owned),
            _ => bail!("the guest reported something unknown: entry {text}"),
        }
        Ok(())
    }
}

impl Device {
    fn parse(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let [address, ids, subsystem, class, boot_vga, group, driver, driver_override] = words[..]
        else {
            bail!("the guest reported a device with {} fields: {text}", words.len());
        };
        let known = |word: &str| !matches!(word, "-" | "(null)" | "");
        let optional = |word: &str| known(word).then(|| word.to_owned());
        Ok(Self {
            address: address.to_owned(),
            ids: ids.to_owned(),
            subsystem: subsystem.to_owned(),
            class: class.to_owned(),
            boot_vga: boot_vga == "1",
            group: optional(group),
            driver: optional(driver),
            driver_override: optional(driver_override),
        })
    }
}

impl Tool {
    fn parse(text: &str) -> Result<Self> {
        let (status, json) = text.split_once(' ').unwrap_or((text, ""));
        let unknown = || format!("the guest reported something unknown of the host tool: {text}");
        Ok(Self {
            status: status.parse().with_context(unknown)?,
            json: serde_json::from_str(json).with_context(unknown)?,
        })
    }
}

fn early_status(text: &str) -> Result<i32> {
    text.strip_prefix("status ")
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("the guest reported something unknown: early {text}"))
}

/// The text of a record that the early binary wrote: `[    1.77] vfio-override[93]: …`.
fn early_record(line: &str) -> Option<&str> {
    let (_, record) = line.split_once(" vfio-override[")?;
    record.split_once("]: ").map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
        @guest entry pid 1\r\n\
        @guest entry argument two words\r\n\
        @guest entry environment TERM=linux\r\n\
        @guest entry mount /\r\n\
        @guest entry uptime 3.05\r\n\
        @guest early status 0\r\n\
        @guest tell 0000:01:00.0 nobody\r\n\
        @guest figure 30 rounds\r\n\
        @guest tool plan 1 { \"taken\": 3 }\r\n\
        @guest device 0000:00:1f.0 8086:2918 1af4:1100 060100 - 7 - (null)\r\n\
        @guest device 0000:01:00.0 1234:1111 1af4:1100 030000 1 8 vfio-pci vfio-pci\r\n\
        @guest end\r\n";

    #[test]
    fn a_report_is_read() -> Result<()> {
        let report = GuestReport::parse(REPORT)?;
        assert_eq!(report.entry.pid, Some(1));
        assert_eq!(report.entry.arguments, ["two words"]);
        assert_eq!(report.entry.environment, ["TERM=linux"]);
        assert_eq!(report.entry.mounts, ["/"]);
        assert_eq!(report.early_status, Some(0));
        assert_eq!(report.told, ["0000:01:00.0 nobody"]);
        assert_eq!(report.figures, ["30 rounds"]);
        assert_eq!(report.tool["plan"].status, 1);
        assert_eq!(report.tool["plan"].json["taken"], 3);
        let [bridge, display] = &report.devices[..] else {
            bail!("expected two devices: {report:?}");
        };
        assert_eq!(bridge.driver, None);
        assert_eq!(bridge.driver_override, None);
        assert_eq!(display.subsystem, "1af4:1100");
        assert_eq!(display.class, "030000");
        assert!(display.boot_vga && !bridge.boot_vga);
        assert_eq!(display.group.as_deref(), Some("8"));
        assert_eq!(display.driver_override.as_deref(), Some("vfio-pci"));
        Ok(())
    }

    #[test]
    fn what_came_by_one_port_is_sorted() -> Result<()> {
        let log = "[ 0.0] Linux version 6.1\n@guest end\n";
        let console = format!("@guest start\r\n@guest transcript\r\n{REPORT}{log}@guest reported");
        let (report, log) = sort(&console)?;
        let evidence = Evidence::read(report, log)?;
        assert_eq!(evidence.report.devices.len(), 2);
        assert_eq!(evidence.log, "[ 0.0] Linux version 6.1\n");
        assert!(sort("@guest start").is_err());
        assert!(sort("@guest transcript\r\n@guest tell x").is_err());
        Ok(())
    }

    #[test]
    fn half_a_report_proves_nothing() {
        let half = REPORT.replace("@guest end", "");
        let log = "[ 0.0] Linux version 6.1\n@guest end\n";
        assert!(GuestReport::parse(&half).is_err());
        assert!(Evidence::read(REPORT, log).is_ok());
        assert!(Evidence::read(REPORT, "[ 0.0] Linux version 6.1\n").is_err());
        assert!(Evidence::read(REPORT, "[ 9.0] later\n@guest end\n").is_err());
    }

    #[test]
    fn the_early_binarys_decisions_are_read() {
        let read = |line| early_record(line).and_then(Decision::parse);
        assert_eq!(
            read(
                "[    1.770917] vfio-override[93]: 0000:01:00.0 [1234:1111] class 030000 group 8, \
                  rule 12: driver_override set to vfio-pci, no driver has it until vfio-pci loads"
            ),
            Some(("0000:01:00.0", Decision { rule: 12, unbound_from: None }))
        );
        assert_eq!(
            read(
                "[    1.770917] vfio-override[93]: 0000:01:00.0 [1234:1111] class 030000 group 8, \
                  rule 1: driver_override set to vfio-pci, unbound from virtio-pci, bound to vfio-pci"
            ),
            Some(("0000:01:00.0", Decision { rule: 1, unbound_from: Some("virtio-pci") }))
        );
        for line in [
            "[    2.1] vfio-override[93]: 0000:00:02.0 [1234:1111] class 030000 group 1, rule 2: \
             left alone",
            "[    2.1] vfio-override[93]: rule 2 \"zz\": invalid at column 1",
            "[    2.1] pci 0000:01:00.0: BAR 0, rule 1: x",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    #[test]
    fn the_time_to_init_comes_from_both_reports() -> Result<()> {
        let log = "[    0.0] Linux version 6.1\n\
                   [    1.550000] Run /vfio-override-early as init process\n@guest end\n";
        let seconds = Evidence::read(REPORT, log)?.seconds_to_init();
        assert!(seconds.is_some_and(|seconds| (seconds - 1.5).abs() < 0.001));
        Ok(())
    }
}
