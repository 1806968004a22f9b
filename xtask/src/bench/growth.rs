// SPDX-License-Identifier: MIT OR Apache-2.0
//! How cost grows with the functions on the bus and with the rules.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::meter;
use super::scene::{Kind, MARKED};
use super::stage::Stage;
use crate::ground::progress;

/// How many functions are on the bus.
pub const FUNCTIONS: [u32; 7] = [16, 64, 256, 1024, 4096, 16_384, 65_536];
/// How many rules there are.
pub const RULES: [usize; 3] = [1, 64, 512];

const BUDGET: Duration = Duration::from_millis(500);
const MOST_PAIRS: u32 = 200;
const FEWEST_PAIRS: u32 = 3;

/// What the rules select by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Selector {
    Address,
    Ids,
    Class,
    Group,
}

pub const SELECTORS: [(Selector, &str); 4] = [
    (Selector::Address, "address"),
    (Selector::Ids, "IDs"),
    (Selector::Class, "class"),
    (Selector::Group, "IDs+group"),
];

impl Selector {
    /// Rules that all mean the first functions of every bus: addresses take them, the others leave them alone.
    /// None of the others has a line of the log, so that looking and matching is measured, not writing.
    fn rules(self, count: usize, functions: &[String]) -> String {
        let rule = |index: usize| match self {
            Self::Address => functions[index % MARKED].clone(),
            Self::Ids => "!1b36:0006".to_owned(),
            Self::Class => "!class:088001".to_owned(),
            Self::Group => "!1b36:0006+group".to_owned(),
        };
        (0..count).map(rule).collect::<Vec<_>>().join(",")
    }
}

/// One point of a curve.
#[derive(Clone, Copy)]
pub struct Point {
    pub functions: u32,
    pub time: Duration,
    /// The time over that of the floor's scan of the same bus.
    pub ratio: f64,
    pub calls: u32,
    pub peak_kib: u64,
}

/// The points for one kind of rules and one number of them; for the floor's scan, `None`.
pub struct Curve {
    pub of: Option<(Selector, usize)>,
    pub points: Vec<Point>,
}

/// Every curve, that of the floor's scan first.
pub fn measure(early: &Path, floor: &Path) -> Result<Vec<Curve>> {
    let mut curves = vec![Curve { of: None, points: Vec::new() }];
    for (selector, _) in SELECTORS {
        let of = |count| Curve { of: Some((selector, count)), points: Vec::new() };
        curves.extend(RULES.map(of));
    }
    for functions in FUNCTIONS {
        let stage = progress::phase(format!("a bus of {functions} functions"), || {
            Stage::set(Kind::Peripherals, usize::try_from(functions)?)
        })?;
        progress::phase(format!("scan {functions} functions"), || -> Result<()> {
            for curve in &mut curves {
                let program = match curve.of {
                    None => floor,
                    Some((selector, count)) => {
                        let rules = selector.rules(count, stage.scene.functions());
                        stage.scene.set_rules(&rules)?;
                        early
                    }
                };
                curve.points.push(point(program, floor, functions)?);
            }
            Ok(())
        })?;
    }
    Ok(curves)
}

fn point(program: &Path, floor: &Path, functions: u32) -> Result<Point> {
    let bare = |program: &Path| {
        let mut command = Command::new(program);
        command.env_clear();
        command
    };
    // Once for what only the first run does: writing overrides.
    meter::time(&mut bare(program))?;
    let counts = meter::count(&bare(program))?;
    let (mut program, mut floor) = (bare(program), bare(floor));
    let begin = Instant::now();
    let (mut times, mut ratios) = (Vec::new(), Vec::new());
    let mut pairs = 0;
    while pairs < FEWEST_PAIRS || (pairs < MOST_PAIRS && begin.elapsed() < BUDGET) {
        let (one, other) = (meter::time(&mut program)?, meter::time(&mut floor)?);
        times.push(one);
        ratios.push(one.as_secs_f64() / other.as_secs_f64());
        pairs += 1;
    }
    Ok(Point {
        functions,
        time: meter::median(&mut times).context("there were no runs")?,
        ratio: meter::median(&mut ratios).context("there were no pairs")?,
        calls: u32::try_from(counts.calls)?,
        peak_kib: counts.peak_kib,
    })
}
