//! Runs the boots of `cargo xtask test`, two at a time, and judges each.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::build::Binary;
use crate::cases::{Case, INIT_ARGUMENTS, INIT_VARIABLE, Mode};
use crate::guest::Evidence;
use crate::image::Ingredients;
use crate::kernel::{self, Kernel};
use crate::session::{Artefacts, Interaction, Session};
use crate::workspace::Workspace;
use crate::{judge, table};

/// Each guest keeps one core busy, and small machines have two.
const AT_ONCE: usize = 2;

/// Each kernel with what an image needs of it, read once for all boots.
pub struct Kernels<'a> {
    known: BTreeMap<&'a str, Result<(Kernel, Ingredients), String>>,
}

impl<'a> Kernels<'a> {
    /// Fetches every kernel that the cases name; one that cannot be had fails its boots only.
    pub fn prepare(workspace: &Workspace, cases: &[&'a Case]) -> Self {
        let mut known = BTreeMap::new();
        for case in cases {
            known.entry(case.kernel).or_insert_with(|| {
                Self::one(workspace, case.kernel).map_err(|error| format!("{error:#}"))
            });
        }
        Self { known }
    }

    fn one(workspace: &Workspace, name: &str) -> Result<(Kernel, Ingredients)> {
        let choice = name.parse().map_err(anyhow::Error::msg)?;
        let kernel = kernel::prepare(&choice, workspace)?;
        let ingredients = Ingredients::of(workspace, &kernel)?;
        Ok((kernel, ingredients))
    }

    fn get(&self, name: &str) -> Result<&(Kernel, Ingredients)> {
        self.known
            .get(name)
            .with_context(|| format!("kernel {name} was not prepared"))?
            .as_ref()
            .map_err(|error| anyhow::anyhow!("no kernel {name}: {error}"))
    }
}

/// How one boot ended.
pub struct Boot<'a> {
    pub case: &'a Case,
    pub took: Duration,
    /// What is wrong, with where the artefacts are; `None` if all is well.
    pub failure: Option<String>,
}

/// Boots every case. A binary that could not be built fails the boots that need it.
pub fn run<'a>(
    workspace: &Workspace,
    cases: &[&'a Case],
    kernels: &Kernels,
    binaries: &[Binary],
) -> Vec<Boot<'a>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let boot = timed(workspace, case, kernels, binaries);
                    if let Ok(mut done) = done.lock() {
                        done.push(boot);
                    }
                }
            });
        }
    });
    let mut boots = done.into_inner().unwrap_or_default();
    boots.sort_by_key(|boot| cases.iter().position(|case| case.name == boot.case.name));
    boots
}

/// The table of all boots.
pub fn show(boots: &[Boot]) -> String {
    table::plain(
        ["boot", "kernel", "mode", "binary", "seconds", "result"],
        boots.iter().map(|boot| {
            [
                boot.case.name.to_owned(),
                boot.case.kernel.to_owned(),
                boot.case.mode.to_string(),
                boot.case.target.to_string(),
                format!("{:.1}", boot.took.as_secs_f64()),
                if boot.failure.is_none() { "passed" } else { "FAILED" }.to_owned(),
            ]
        }),
    )
}

fn timed<'a>(
    workspace: &Workspace,
    case: &'a Case,
    kernels: &Kernels,
    binaries: &[Binary],
) -> Boot<'a> {
    let start = Instant::now();
    let failure = boot(workspace, case, kernels, binaries)
        .unwrap_or_else(|error| Some(format!("the boot did not go through: {error:#}")));
    let took = start.elapsed();
    let result = if failure.is_none() { "" } else { "  FAILED" };
    eprintln!("  boot {:<53} {:>6.1} s{result}", case.name, took.as_secs_f64());
    Boot { case, took, failure }
}

fn boot(
    workspace: &Workspace,
    case: &Case,
    kernels: &Kernels,
    binaries: &[Binary],
) -> Result<Option<String>> {
    let (kernel, ingredients) = kernels.get(case.kernel)?;
    let binary = binaries
        .iter()
        .find(|binary| binary.target == case.target)
        .with_context(|| format!("the {} binary did not build", case.target))?;
    let mut image = ingredients.mix(&binary.path)?;
    (case.image)(&mut image);
    let session = Session {
        name: case.name,
        kernel,
        image: image.to_bytes()?,
        parameters: case.mode.parameters(case.parameters),
        devices: (case.devices)(),
        interaction: Interaction::Silent,
    };
    let artefacts = Artefacts::create(workspace, case.name)?;
    let complaints = session.run(&artefacts).and_then(|running| {
        let complaints = judge_case(case, &running.evidence);
        running.finish(Interaction::Silent)?;
        Ok(complaints)
    });
    match complaints {
        Ok(complaints) if complaints.is_empty() => Ok(None),
        Ok(complaints) => {
            Ok(Some(format!("{}\n{}", complaints.join("\n"), artefacts.keep_as_evidence())))
        }
        Err(error) => Err(error.context(artefacts.keep_as_evidence())),
    }
}

fn judge_case(case: &Case, evidence: &Evidence) -> Vec<String> {
    let mut complaints = judge::judge_expected(&judge::rows(evidence), &(case.expected)());
    for text in case.logged {
        if !evidence.early_records().any(|record| record.contains(text)) {
            complaints.push(format!("no record of the early binary holds \"{text}\""));
        }
    }
    match case.mode {
        Mode::Hook => complaints.extend(judge::judge_status(evidence, case.status)),
        Mode::Rdinit => {
            let entry = &evidence.report.entry;
            complaints.extend(judge::judge_entry(entry, &INIT_ARGUMENTS, INIT_VARIABLE));
            complaints.extend(judge_delay(case.init_within, evidence.seconds_to_init()));
        }
        Mode::Control => {}
    }
    complaints
}

fn judge_delay(limit: Option<Duration>, seconds: Option<f64>) -> Option<String> {
    let limit = limit?.as_secs_f64();
    match seconds {
        Some(seconds) if seconds <= limit => None,
        Some(seconds) => Some(format!(
            "/init: started {seconds:.1} s after PID 1, expected at most {limit:.1} s"
        )),
        None => Some("/init: its start time is not known".to_owned()),
    }
}
