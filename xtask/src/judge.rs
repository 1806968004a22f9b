//! Whether a boot kept the promise: no selected function was ever probed by another driver.

use crate::guest::{Device, Entry, Evidence};
use crate::{probes, table};

/// A function with all that the boot showed about it.
pub struct Row<'a> {
    device: &'a Device,
    rule: Option<usize>,
    /// Every driver that ever probed it, in order, each named once.
    probed_by: Vec<&'a str>,
}

/// What one function must look like after the boot.
#[derive(Clone, Debug)]
pub struct Expectation {
    address: String,
    fate: Fate,
}

#[derive(Clone, Debug)]
enum Fate {
    /// Selected; nobody else ever probed it.
    Taken { driver: &'static str },
    /// Selected, but its first driver is built into the kernel and probed it before any process.
    TakenFrom { first: &'static str, driver: &'static str },
    /// Selected for no driver at all.
    Untouched,
    /// Not selected; the host's driver has it.
    Host { driver: &'static str },
}

impl Expectation {
    pub fn taken(address: impl Into<String>, driver: &'static str) -> Self {
        Self { address: address.into(), fate: Fate::Taken { driver } }
    }

    pub fn taken_from(
        address: impl Into<String>,
        first: &'static str,
        driver: &'static str,
    ) -> Self {
        Self { address: address.into(), fate: Fate::TakenFrom { first, driver } }
    }

    pub fn untouched(address: impl Into<String>) -> Self {
        Self { address: address.into(), fate: Fate::Untouched }
    }

    pub fn host(address: impl Into<String>, driver: &'static str) -> Self {
        Self { address: address.into(), fate: Fate::Host { driver } }
    }

    fn selects(&self) -> bool {
        !matches!(self.fate, Fate::Host { .. })
    }
}

/// Joins the guest's report, the early binary's log and the driver core's.
pub fn rows(evidence: &Evidence) -> Vec<Row<'_>> {
    let rules = evidence.rules();
    evidence
        .report
        .devices
        .iter()
        .map(|device| Row {
            device,
            rule: rules.get(&*device.address).copied(),
            probed_by: probed_by(&evidence.log, &device.address),
        })
        .collect()
}

fn probed_by<'log>(log: &'log str, address: &str) -> Vec<&'log str> {
    let mut drivers = Vec::new();
    for probe in probes::probes(log).filter(|probe| probe.address == address) {
        if !drivers.contains(&probe.driver) {
            drivers.push(probe.driver);
        }
    }
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
pub fn judge_selected(rows: &[Row]) -> Vec<String> {
    let mut complaints: Vec<String> = rows
        .iter()
        .filter(|row| row.is_selected())
        .flat_map(|row| row.complaints(row.device.driver_override.as_deref(), &[]))
        .collect();
    if !rows.iter().any(Row::is_selected) {
        complaints.push("no function was selected by any rule".to_owned());
    }
    complaints
}

/// What is wrong, when each function's fate was said beforehand; others must not be selected.
pub fn judge_expected(rows: &[Row], expectations: &[Expectation]) -> Vec<String> {
    let mut complaints = Vec::new();
    for expectation in expectations {
        match rows.iter().find(|row| row.device.address == expectation.address) {
            Some(row) => complaints.extend(row.compare(&expectation.fate)),
            None => complaints.push(format!("{}: not in the guest", expectation.address)),
        }
    }
    for row in rows.iter().filter(|row| row.is_selected()) {
        let address = &row.device.address;
        if !expectations
            .iter()
            .any(|expectation| expectation.selects() && expectation.address == *address)
        {
            complaints.push(format!("{address}: selected, but no rule means it"));
        }
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

    fn compare(&self, fate: &Fate) -> Vec<String> {
        match fate {
            Fate::Taken { driver } => self.complaints(Some(driver), &[]),
            Fate::TakenFrom { first, driver } => self.complaints(Some(driver), &[first]),
            Fate::Untouched => self.untouched(),
            Fate::Host { driver } => self.with_host(driver),
        }
    }

    /// Complaints about a selected function that `wanted` should have, and only `earlier` before.
    fn complaints(&self, wanted: Option<&str>, earlier: &[&str]) -> Vec<String> {
        let address = &self.device.address;
        let Some(wanted) = wanted else {
            return vec![format!(
                "{address}: selected by a rule, but its driver_override is unset"
            )];
        };
        let mut complaints = self.selection(wanted);
        if self.device.driver.as_deref() != Some(wanted) {
            let driver = self.device.driver.as_deref().unwrap_or("no driver");
            complaints.push(format!("{address}: {driver} has it, expected {wanted}"));
        }
        let expected: Vec<&str> = earlier.iter().copied().chain([wanted]).collect();
        for driver in &self.probed_by {
            if !expected.contains(driver) {
                complaints.push(format!("{address}: probed by {driver}, meant for {wanted}"));
            }
        }
        for driver in expected {
            if !self.probed_by.contains(&driver) {
                complaints.push(format!("{address}: not probed by {driver}, which was expected"));
            }
        }
        complaints
    }

    fn selection(&self, wanted: &str) -> Vec<String> {
        let address = &self.device.address;
        let mut complaints = Vec::new();
        if self.rule.is_none() {
            complaints.push(format!("{address}: the early binary's log names no rule for it"));
        }
        let actual = self.device.driver_override.as_deref();
        if actual != Some(wanted) {
            let actual = actual.unwrap_or("unset");
            complaints.push(format!("{address}: driver_override is {actual}, expected {wanted}"));
        }
        complaints
    }

    fn untouched(&self) -> Vec<String> {
        let address = &self.device.address;
        let mut complaints = Vec::new();
        if self.rule.is_none() || self.device.driver_override.is_none() {
            complaints.push(format!("{address}: not selected"));
        }
        complaints.extend(
            self.probed_by
                .iter()
                .map(|driver| format!("{address}: probed by {driver}, meant for nobody")),
        );
        complaints
    }

    fn with_host(&self, driver: &str) -> Vec<String> {
        let address = &self.device.address;
        let has_it = self.device.driver.as_deref() == Some(driver);
        if has_it && self.probed_by.contains(&driver) {
            return Vec::new();
        }
        let actual = self.device.driver.as_deref().unwrap_or("no driver");
        vec![format!("{address}: {actual} has it, expected the host's {driver}")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Report;

    fn device(address: &str, driver: Option<&str>, wanted: Option<&str>) -> Device {
        Device {
            address: address.to_owned(),
            ids: "1234:1111".to_owned(),
            class: "030000".to_owned(),
            group: Some("8".to_owned()),
            driver: driver.map(str::to_owned),
            driver_override: wanted.map(str::to_owned),
        }
    }

    const GPU: &str = "0000:01:00.0";
    const LOGGED: &str = "[1.0] vfio-override[93]: 0000:01:00.0 [1234:1111] class 030000 group 8, \
                          rule 3: driver_override set to vfio-pci\n";
    const HOST_PROBE: &str =
        "[2.0] bus: 'pci': really_probe: probing driver bochs-drm with device 0000:01:00.0\n";
    const VFIO_PROBE: &str =
        "[3.0] bus: 'pci': really_probe: probing driver vfio-pci with device 0000:01:00.0\n";

    fn evidence(driver: Option<&str>, wanted: Option<&str>, log: &[&str]) -> Evidence {
        Evidence {
            report: Report { devices: vec![device(GPU, driver, wanted)], ..Report::default() },
            log: log.concat(),
        }
    }

    fn judged(evidence: &Evidence, expectation: Expectation) -> Vec<String> {
        judge_expected(&rows(evidence), &[expectation])
    }

    #[test]
    fn a_function_that_only_vfio_probed_is_good() {
        let good = evidence(Some("vfio-pci"), Some("vfio-pci"), &[LOGGED, VFIO_PROBE]);
        assert!(judge_selected(&rows(&good)).is_empty());
        assert!(judged(&good, Expectation::taken(GPU, "vfio-pci")).is_empty());
    }

    #[test]
    fn a_foreign_probe_is_bad_even_when_vfio_has_it_in_the_end() {
        let log = [LOGGED, HOST_PROBE, VFIO_PROBE];
        let bad = evidence(Some("vfio-pci"), Some("vfio-pci"), &log);
        let complaint = ["0000:01:00.0: probed by bochs-drm, meant for vfio-pci"];
        assert_eq!(judge_selected(&rows(&bad)), complaint);
        assert_eq!(judged(&bad, Expectation::taken(GPU, "vfio-pci")), complaint);
        let built_in = Expectation::taken_from(GPU, "bochs-drm", "vfio-pci");
        assert!(judged(&bad, built_in).is_empty());
    }

    #[test]
    fn a_function_that_was_not_selected_is_bad() {
        let bad = evidence(Some("bochs-drm"), None, &[HOST_PROBE]);
        assert_eq!(
            judged(&bad, Expectation::taken(GPU, "vfio-pci")),
            [
                "0000:01:00.0: the early binary's log names no rule for it",
                "0000:01:00.0: driver_override is unset, expected vfio-pci",
                "0000:01:00.0: bochs-drm has it, expected vfio-pci",
                "0000:01:00.0: probed by bochs-drm, meant for vfio-pci",
                "0000:01:00.0: not probed by vfio-pci, which was expected",
            ]
        );
        assert_eq!(judge_selected(&rows(&bad)), ["no function was selected by any rule"]);
    }

    #[test]
    fn a_function_that_nobody_meant_is_bad() {
        let bad = evidence(Some("vfio-pci"), Some("vfio-pci"), &[LOGGED, VFIO_PROBE]);
        assert_eq!(
            judge_expected(&rows(&bad), &[]),
            ["0000:01:00.0: selected, but no rule means it"]
        );
    }

    #[test]
    fn the_control_wants_the_hosts_driver() {
        let host = evidence(Some("bochs-drm"), None, &[HOST_PROBE]);
        assert!(judged(&host, Expectation::host(GPU, "bochs-drm")).is_empty());
        let nobody = evidence(None, None, &[]);
        assert_eq!(
            judged(&nobody, Expectation::host(GPU, "bochs-drm")),
            ["0000:01:00.0: no driver has it, expected the host's bochs-drm"]
        );
    }

    #[test]
    fn a_function_for_nobody_has_no_probes() {
        let good = evidence(None, Some("none"), &[LOGGED]);
        assert!(judged(&good, Expectation::untouched(GPU)).is_empty());
        let bad = evidence(None, Some("none"), &[LOGGED, VFIO_PROBE]);
        assert_eq!(
            judged(&bad, Expectation::untouched(GPU)),
            ["0000:01:00.0: probed by vfio-pci, meant for nobody"]
        );
    }

    #[test]
    fn an_absent_function_is_told() {
        let empty = Evidence { report: Report::default(), log: String::new() };
        assert_eq!(
            judged(&empty, Expectation::taken(GPU, "vfio-pci")),
            ["0000:01:00.0: not in the guest"]
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
