// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a boot kept the promise: no selected function was ever probed by another driver.

use crate::ground::table;
use crate::guest::evidence::{Device, Entry, Evidence, GuestReport};
use crate::guest::probes;

/// A function with all that the boot showed about it.
pub struct Row<'a> {
    device: &'a Device,
    rule: Option<usize>,
    /// The drivers that probed it, in order; one that did so several times in a row once.
    probed_by: Vec<&'a str>,
    /// Whether the early binary says that it took the function from this driver.
    unbound_from: Option<&'a str>,
}

/// A function and what must have become of it.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// Its name in sysfs.
    pub address: String,
    pub fate: Fate,
}

/// What one function must look like after the boot.
#[derive(Clone, Debug)]
pub struct Fate {
    /// What its `driver_override` says; a function without is not selected by any rule.
    keeper: Option<String>,
    /// Who has it in the end.
    driver: Option<String>,
    /// Who probed it, in order.
    probed_by: Vec<String>,
    /// Whom the early binary took it from.
    unbound_from: Option<String>,
}

impl Fate {
    /// Not selected: the host's driver has it, and no other was ever there.
    pub fn host(driver: Option<&str>) -> Self {
        let driver = driver.map(str::to_owned);
        let probed_by = driver.iter().cloned().collect();
        Self { keeper: None, driver, probed_by, unbound_from: None }
    }

    /// Selected for a driver, which has it; `first` had it before the early binary could run.
    pub fn taken(taker: &str, first: Option<&str>) -> Self {
        Self {
            keeper: Some(taker.to_owned()),
            driver: Some(taker.to_owned()),
            probed_by: first.into_iter().chain([taker]).map(str::to_owned).collect(),
            unbound_from: first.map(str::to_owned),
        }
    }

    /// Selected for a driver that cannot take it; `first` had it before the early binary could run.
    pub fn kept(taker: &str, first: Option<&str>) -> Self {
        Self { driver: None, ..Self::taken(taker, first) }
    }

    /// The same, probed by these drivers in this order, and taken by the early binary from this one.
    pub fn after(mut self, drivers: &[&str], unbound_from: Option<&str>) -> Self {
        self.probed_by = drivers.iter().copied().map(str::to_owned).collect();
        self.unbound_from = unbound_from.map(str::to_owned);
        self
    }

    /// Selected for a driver that is not there, such as `none`; `first` had it before the early binary
    /// could run.
    pub fn unclaimed(keeper: &str, first: Option<&str>) -> Self {
        Self {
            driver: None,
            probed_by: first.map(str::to_owned).into_iter().collect(),
            ..Self::taken(keeper, first)
        }
    }
}

/// Joins the guest's report, the early binary's log and the driver core's.
pub fn rows(evidence: &Evidence) -> Vec<Row<'_>> {
    let decisions = evidence.decisions();
    evidence
        .report
        .devices
        .iter()
        .map(|device| {
            let decision = decisions.get(&*device.address);
            Row {
                device,
                rule: decision.map(|decision| decision.rule),
                probed_by: probed_by(&evidence.log, &device.address),
                unbound_from: decision.and_then(|decision| decision.unbound_from),
            }
        })
        .collect()
}

fn probed_by<'log>(log: &'log str, address: &str) -> Vec<&'log str> {
    let mut drivers: Vec<&str> = probes::probes(log)
        .filter(|probe| probe.address == address)
        .map(|probe| probe.driver)
        .collect();
    // A probe that is deferred, or fails for lack of an IOMMU, is tried again.
    drivers.dedup();
    drivers
}

/// The table that `cargo xtask boot` prints.
pub fn show(rows: &[Row]) -> String {
    let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    table::plain(
        ["function", "IDs", "class", "group", "rule", "driver", "probed by"],
        rows.iter().map(|row| {
            [
                row.device.address.clone(),
                row.device.ids.clone(),
                row.device.class.clone(),
                or_dash(row.device.group.as_deref()),
                row.rule.map_or_else(|| "-".to_owned(), |rule| rule.to_string()),
                or_dash(row.device.driver.as_deref()),
                if row.probed_by.is_empty() { "-".to_owned() } else { row.probed_by.join(", ") },
            ]
        }),
    )
}

/// What is wrong, when it was not said beforehand which functions are to be selected.
///
/// `first_driver` tells who had a function before the early binary could run.
pub fn judge_selected(
    rows: &[Row],
    first_driver: impl Fn(&str) -> Option<&'static str>,
) -> Vec<String> {
    let mut complaints = Vec::new();
    for row in rows.iter().filter(|row| row.is_selected()) {
        let first = first_driver(&row.device.address);
        let fate = match row.device.driver_override.as_deref() {
            Some("none") => Fate::unclaimed("none", first),
            Some(keeper) => Fate::taken(keeper, first),
            None => Fate { keeper: Some("what its rule names".to_owned()), ..Fate::host(None) },
        };
        complaints.extend(row.complaints(&fate));
    }
    if !rows.iter().any(Row::is_selected) {
        complaints.push("no function was selected by any rule".to_owned());
    }
    complaints
}

/// What is wrong, when each function's fate was said beforehand; others must not be selected.
pub fn judge_expected(rows: &[Row], expectations: &[Expectation]) -> Vec<String> {
    let mut complaints = Vec::new();
    for Expectation { address, fate } in expectations {
        match rows.iter().find(|row| row.device.address == *address) {
            Some(row) => complaints.extend(row.complaints(fate)),
            None => complaints.push(format!("{address}: not in the guest")),
        }
    }
    let is_expected = |row: &&Row| {
        expectations.iter().any(|expectation| expectation.address == row.device.address)
    };
    for row in rows.iter().filter(|row| !is_expected(row) && row.is_selected()) {
        complaints.push(format!("{}: selected, but no rule means it", row.device.address));
    }
    complaints
}

/// What is wrong with what the guest tells besides the functions.
pub fn judge_guest(report: &GuestReport, told: &[String]) -> Vec<String> {
    let mut complaints: Vec<String> =
        report.failed_modules.iter().map(|line| format!("modprobe: {line}")).collect();
    if report.told != told {
        complaints.push(format!(
            "the scene told:\n  {}\nexpected:\n  {}",
            report.told.join("\n  "),
            told.join("\n  ")
        ));
    }
    complaints
}

/// What is wrong with the exit status of an early binary that /init ran.
pub fn judge_status(evidence: &Evidence, expected: i32) -> Option<String> {
    match evidence.report.early_status {
        Some(status) if status == expected => None,
        Some(status) => {
            Some(format!("the early binary's exit status is {status}, expected {expected}"))
        }
        None => Some("the early binary did not run".to_owned()),
    }
}

/// What is wrong with the way the real init was started by the early binary.
pub fn judge_entry(entry: &Entry, arguments: &[&str], variable: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if entry.pid != Some(1) {
        complaints.push(format!("/init: its process ID is {:?}, expected 1", entry.pid));
    }
    if entry.arguments != arguments {
        complaints.push(format!(
            "/init: its arguments are {:?}, expected {arguments:?}",
            entry.arguments
        ));
    }
    // HOME and TERM are what the kernel gives every init.
    for wanted in ["HOME=/", "TERM=linux", variable] {
        if !entry.environment.iter().any(|known| known == wanted) {
            complaints.push(format!("/init: {wanted} is missing from its environment"));
        }
    }
    // The second is /init's own.
    if entry.mounts != ["/", "/proc"] {
        complaints.push(format!(
            "/init: mounted at its start was {:?}, expected only / and its own /proc",
            entry.mounts
        ));
    }
    complaints
}

impl Row<'_> {
    fn is_selected(&self) -> bool {
        self.rule.is_some() || self.device.driver_override.is_some()
    }

    fn complaints(&self, fate: &Fate) -> Vec<String> {
        let address = &self.device.address;
        let mut complaints = Vec::new();
        let mut compare = |what: &str, actual: Option<&str>, wanted: Option<&str>| {
            if actual != wanted {
                let [actual, wanted] = [actual, wanted].map(|name| name.unwrap_or("nobody"));
                complaints.push(format!("{address}: {what} {actual}, expected {wanted}"));
            }
        };
        let Fate { keeper, driver, unbound_from, .. } = fate;
        compare("kept for", self.device.driver_override.as_deref(), keeper.as_deref());
        compare("its driver is", self.device.driver.as_deref(), driver.as_deref());
        compare("unbound by the early binary from", self.unbound_from, unbound_from.as_deref());
        if self.probed_by != fate.probed_by {
            complaints.push(format!(
                "{address}: probed by {}, expected {}",
                list(&self.probed_by),
                list(&fate.probed_by)
            ));
        }
        match (self.rule, keeper) {
            (None, Some(_)) => {
                complaints.push(format!("{address}: the early binary's log names no rule for it"));
            }
            (Some(rule), None) => {
                complaints
                    .push(format!("{address}: selected by rule {rule}, but no rule means it"));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        complaints
    }
}

fn list<S: AsRef<str>>(drivers: &[S]) -> String {
    if drivers.is_empty() {
        return "nobody".to_owned();
    }
    drivers.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(address: &str, driver: Option<&str>, wanted: Option<&str>) -> Device {
        Device {
            address: address.to_owned(),
            ids: "1234:1111".to_owned(),
            subsystem: "1af4:1100".to_owned(),
            class: "030000".to_owned(),
            boot_vga: false,
            group: Some("8".to_owned()),
            driver: driver.map(str::to_owned),
            driver_override: wanted.map(str::to_owned),
        }
    }

    const GPU: &str = "0000:01:00.0";
    const LOGGED: &str = "[1.0] vfio-override[93]: 0000:01:00.0 [1234:1111] class 030000 group 8, \
                          rule 3: driver_override set to vfio-pci\n";
    const UNBOUND: &str = "[1.0] vfio-override[93]: 0000:01:00.0 [1234:1111] class 030000 group 8, \
                           rule 3: driver_override set to vfio-pci, unbound from bochs-drm, \
                           bound to vfio-pci\n";
    const HOST_PROBE: &str =
        "[2.0] bus: 'pci': really_probe: probing driver bochs-drm with device 0000:01:00.0\n";
    const VFIO_PROBE: &str =
        "[3.0] bus: 'pci': really_probe: probing driver vfio-pci with device 0000:01:00.0\n";

    fn evidence(driver: Option<&str>, wanted: Option<&str>, log: &[&str]) -> Evidence {
        Evidence {
            report: GuestReport {
                devices: vec![device(GPU, driver, wanted)],
                ..GuestReport::default()
            },
            log: log.concat(),
        }
    }

    fn judged(evidence: &Evidence, fate: Fate) -> Vec<String> {
        judge_expected(&rows(evidence), &[Expectation { address: GPU.to_owned(), fate }])
    }

    fn selected(evidence: &Evidence) -> Vec<String> {
        judge_selected(&rows(evidence), |_| None)
    }

    fn taken() -> Fate {
        Fate::taken("vfio-pci", None)
    }

    #[test]
    fn a_function_that_only_vfio_probed_is_good() {
        let good = evidence(Some("vfio-pci"), Some("vfio-pci"), &[LOGGED, VFIO_PROBE]);
        assert!(selected(&good).is_empty());
        assert!(judged(&good, taken()).is_empty());
    }

    #[test]
    fn a_foreign_probe_is_bad_even_when_vfio_has_it_in_the_end() {
        let bad = evidence(Some("vfio-pci"), Some("vfio-pci"), &[LOGGED, HOST_PROBE, VFIO_PROBE]);
        let complaint = ["0000:01:00.0: probed by bochs-drm, vfio-pci, expected vfio-pci"];
        assert_eq!(selected(&bad), complaint);
        assert_eq!(judged(&bad, taken()), complaint);
    }

    #[test]
    fn a_driver_that_came_first_must_have_been_unbound() {
        let log = [UNBOUND, HOST_PROBE, VFIO_PROBE];
        let good = evidence(Some("vfio-pci"), Some("vfio-pci"), &log);
        assert!(judged(&good, Fate::taken("vfio-pci", Some("bochs-drm"))).is_empty());
        assert!(judge_selected(&rows(&good), |_| Some("bochs-drm")).is_empty());
        let bad = evidence(Some("vfio-pci"), Some("vfio-pci"), &[LOGGED, VFIO_PROBE, HOST_PROBE]);
        assert_eq!(
            judged(&bad, Fate::taken("vfio-pci", Some("bochs-drm"))),
            [
                "0000:01:00.0: unbound by the early binary from nobody, expected bochs-drm",
                "0000:01:00.0: probed by vfio-pci, bochs-drm, expected bochs-drm, vfio-pci",
            ]
        );
    }

    #[test]
    fn a_function_that_was_not_selected_is_bad() {
        let bad = evidence(Some("bochs-drm"), None, &[HOST_PROBE]);
        assert_eq!(
            judged(&bad, taken()),
            [
                "0000:01:00.0: kept for nobody, expected vfio-pci",
                "0000:01:00.0: its driver is bochs-drm, expected vfio-pci",
                "0000:01:00.0: probed by bochs-drm, expected vfio-pci",
                "0000:01:00.0: the early binary's log names no rule for it",
            ]
        );
        assert_eq!(selected(&bad), ["no function was selected by any rule"]);
    }

    #[test]
    fn a_rule_without_an_override_is_bad() {
        let bad = evidence(None, None, &[LOGGED]);
        assert_eq!(selected(&bad), ["0000:01:00.0: kept for nobody, expected what its rule names"]);
    }

    #[test]
    fn a_function_that_nobody_meant_is_bad() {
        let bad = evidence(Some("vfio-pci"), Some("vfio-pci"), &[LOGGED, VFIO_PROBE]);
        assert_eq!(
            judge_expected(&rows(&bad), &[]),
            ["0000:01:00.0: selected, but no rule means it"]
        );
        assert_eq!(judged(&bad, Fate::host(Some("vfio-pci"))).len(), 2);
    }

    #[test]
    fn the_control_wants_the_hosts_driver() {
        let host = evidence(Some("bochs-drm"), None, &[HOST_PROBE]);
        assert!(judged(&host, Fate::host(Some("bochs-drm"))).is_empty());
        let nobody = evidence(None, None, &[]);
        assert!(judged(&nobody, Fate::host(None)).is_empty());
        assert_eq!(
            judged(&nobody, Fate::host(Some("bochs-drm"))),
            [
                "0000:01:00.0: its driver is nobody, expected bochs-drm",
                "0000:01:00.0: probed by nobody, expected bochs-drm",
            ]
        );
    }

    #[test]
    fn a_function_for_nobody_has_no_probes() {
        let good = evidence(None, Some("none"), &[LOGGED]);
        assert!(judged(&good, Fate::unclaimed("none", None)).is_empty());
        assert!(selected(&good).is_empty());
        let bad = evidence(None, Some("none"), &[LOGGED, VFIO_PROBE]);
        assert_eq!(
            judged(&bad, Fate::unclaimed("none", None)),
            ["0000:01:00.0: probed by vfio-pci, expected nobody"]
        );
    }

    #[test]
    fn an_absent_function_is_told() {
        let empty = Evidence { report: GuestReport::default(), log: String::new() };
        assert_eq!(judged(&empty, taken()), ["0000:01:00.0: not in the guest"]);
    }

    #[test]
    fn a_scene_must_tell_what_was_expected() {
        let mut report = GuestReport { told: vec!["one".to_owned()], ..GuestReport::default() };
        assert!(judge_guest(&report, &["one".to_owned()]).is_empty());
        report.failed_modules.push("failed nvme".to_owned());
        assert_eq!(
            judge_guest(&report, &[]),
            ["modprobe: failed nvme", "the scene told:\n  one\nexpected:\n  "]
        );
    }

    #[test]
    fn the_real_init_must_be_started_like_any_init() {
        let mut entry = Entry {
            pid: Some(1),
            arguments: vec!["one".to_owned()],
            environment: ["HOME=/", "TERM=linux", "X=1"].map(str::to_owned).into(),
            mounts: ["/", "/proc"].map(str::to_owned).into(),
            uptime: None,
        };
        assert!(judge_entry(&entry, &["one"], "X=1").is_empty());
        entry.pid = Some(7);
        entry.arguments.clear();
        entry.environment.pop();
        entry.mounts.push("/sys".to_owned());
        assert_eq!(judge_entry(&entry, &["one"], "X=1").len(), 4);
    }

    #[test]
    fn the_table_names_every_driver_that_probed() {
        let log = [LOGGED, HOST_PROBE, VFIO_PROBE, VFIO_PROBE];
        let evidence = evidence(Some("vfio-pci"), Some("vfio-pci"), &log);
        assert_eq!(
            show(&rows(&evidence)),
            "function      IDs        class   group  rule  driver    probed by\n\
             0000:01:00.0  1234:1111  030000  8      3     vfio-pci  bochs-drm, vfio-pci\n"
        );
    }
}
