// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was measured, as `docs/performance.md` and the README show it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::growth::{self, Curve, FUNCTIONS, Point};
use super::guest::{self, Boots, Sysfs};
use super::peers::{self, Comparison, Cost};
use crate::build::Binary;
use crate::ground::command;
use crate::installed::contest::{Contest, Fate, Row};

/// A table in Markdown.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|{}\n", header.join(" | "), "---|".repeat(header.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// Puts a text in place of what stands between two comments that name it.
pub fn replace(file: &Path, name: &str, text: &str) -> Result<()> {
    let old = fs::read_to_string(file)?;
    let (begin, end) = (format!("<!-- bench: {name} -->\n"), format!("<!-- end: {name} -->"));
    let missing = || format!("{} has no {}", file.display(), begin.trim_end());
    let (before, rest) = old.split_once(&begin).with_context(missing)?;
    let (_, after) = rest.split_once(&end).with_context(missing)?;
    Ok(fs::write(file, format!("{before}{begin}\n{text}\n{end}{after}"))?)
}

/// The processor, the kernel, the day.
pub fn machine() -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let models = || cpus.lines().filter_map(|line| line.strip_prefix("model name"));
    let model = models().next().unwrap_or_default().trim_start_matches(['\t', ' ', ':']);
    let release = command::stdout(Command::new("uname").arg("-r"))?;
    // What follows the numbers names somebody's build.
    let kernel = release.split('-').next().unwrap_or_default().trim();
    let day = command::stdout(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    Ok(format!("{} processors ({model}), Linux {kernel}, {}\n", models().count(), day.trim()))
}

pub fn sizes(binaries: &[&Binary]) -> Result<String> {
    let row = |binary: &&Binary| -> Result<Vec<String>> {
        let size = fs::metadata(&binary.path)?.len();
        Ok(vec![binary.target.to_string(), grouped(size), grouped(binary.target.ceiling())])
    };
    Ok(table(&["", "bytes", "ceiling"], binaries.iter().map(row).collect::<Result<Vec<_>>>()?))
}

/// A table for each number of functions.
pub fn comparison(comparison: &Comparison) -> String {
    let mut text = String::new();
    for (index, size) in peers::SIZES.iter().enumerate() {
        let plural = if *size == 1 { "" } else { "s" };
        let _ = writeln!(text, "### {size} function{plural}\n");
        let header = [
            "",
            "to the last override",
            "× floor",
            "system calls",
            "in all",
            "× floor",
            "system calls",
            "forks",
            "user instructions",
            "peak KiB",
        ];
        let row = |(name, costs): &(&str, Vec<Cost>)| {
            let cost = &costs[index];
            vec![
                (*name).to_owned(),
                duration(cost.protecting),
                ratio(cost.protecting_ratio),
                grouped(cost.counts.protecting),
                duration(cost.time),
                ratio(cost.ratio),
                grouped(cost.counts.calls),
                cost.counts.forks.to_string(),
                cost.instructions.map_or("not counted".to_owned(), grouped),
                grouped(cost.counts.peak_kib),
            ]
        };
        text += &table(&header, comparison.rows.iter().map(row));
        text.push('\n');
    }
    text.trim_end().to_owned() + "\n"
}

/// Who probed the card that each peer was to keep, and who its twin.
pub fn contest(contest: &Contest) -> String {
    let header =
        ["", "selects by", "kept card: probed by", "its twin: probed by", "says what it did"];
    let card = |Fate { probed_by, drivers }: &Fate| {
        let [probed_by, drivers] = [probed_by, drivers].map(|names| names.join(", "));
        if probed_by == drivers { probed_by } else { format!("{probed_by}; in the end {drivers}") }
    };
    let row = |Row { peer, kept, twin }: &Row| {
        let texts = [peer.name, peer.selects].map(str::to_owned);
        [&texts[..], &[card(kept), card(twin), peer.says.to_owned()]].concat()
    };
    format!("{}\n\n{}", contest.on, table(&header, contest.rows.iter().map(row)))
}

/// What a reader of the README wants to know.
pub fn summary(comparison: &Comparison) -> String {
    let [two, many] = [2, 64].map(|size| peers::SIZES.iter().position(|known| *known == size));
    let (two, many) = (two.unwrap_or_default(), many.unwrap_or_default());
    let header =
        ["", "2 functions: × floor", "system calls", "64 functions: × floor", "system calls"];
    let row = |(name, costs): &(&str, Vec<Cost>)| {
        let (two, many) = (&costs[two], &costs[many]);
        vec![
            (*name).to_owned(),
            ratio(two.ratio),
            grouped(two.counts.calls),
            ratio(many.ratio),
            grouped(many.counts.calls),
        ]
    };
    table(&header, comparison.rows.iter().skip(1).map(row))
}

/// Address rules on every bus, and the others on the largest.
pub fn growth(curves: &[Curve]) -> String {
    let name = |curve: &Curve| match curve.of {
        None => "floor's scan".to_owned(),
        Some((selector, count)) => {
            let known = growth::SELECTORS.iter().find(|(kind, _)| *kind == selector);
            let plural = if count == 1 { "" } else { "s" };
            format!("{count} rule{plural} by {}", known.map_or("", |(_, name)| name))
        }
    };
    let cells = |curve: &Curve, cell: &dyn Fn(&Point) -> String| -> Vec<String> {
        std::iter::once(name(curve)).chain(curve.points.iter().map(cell)).collect()
    };
    let mut header = vec![String::new()];
    header.extend(FUNCTIONS.map(|functions| grouped(functions.into())));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let part = |title: &str, cell: &dyn Fn(&Point) -> String| {
        format!("{title}\n\n{}", table(&header, curves.iter().map(|curve| cells(curve, cell))))
    };
    [
        part("Time over that of the floor's scan of the same bus:", &|point| ratio(point.ratio)),
        part("Time:", &|point| duration(point.time)),
        part("System calls:", &|point| grouped(point.calls.into())),
        part("Peak resident memory in KiB:", &|point| grouped(point.peak_kib)),
    ]
    .join("\n")
}

/// What each program takes for 64 functions in the kernel's own sysfs, and over the floor.
pub fn sysfs(found: &[Sysfs]) -> String {
    let mut header = vec!["64 functions".to_owned(), "kernel".to_owned()];
    for (index, (name, _)) in guest::PROGRAMS.iter().enumerate() {
        header.push((*name).to_owned());
        header.extend((index > 0).then(|| "× floor".to_owned()));
    }
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let row = |found: &Sysfs| {
        let mut cells = vec![found.machine.to_owned(), found.release.clone()];
        let floor = found.times.first().map_or(0.0, Duration::as_secs_f64);
        for (index, time) in found.times.iter().enumerate() {
            cells.push(format!("{:.2} M", time.as_secs_f64() * 1e3));
            cells.extend((index > 0).then(|| ratio(time.as_secs_f64() / floor)));
        }
        cells
    };
    table(&header, found.iter().map(row))
}

/// What each mode adds to a boot.
pub fn boots(boots: &[Boots]) -> String {
    let header = ["kernel", "without", "with, as a hook", "more", "with, as PID 1", "more"];
    let millions = |count: Duration| format!("{:.1} M", count.as_secs_f64() * 1e3);
    let row = |boots: &Boots| {
        let more = |with: Duration| {
            let ratio = with.as_secs_f64() / boots.without.as_secs_f64();
            format!("{:.2} %", (ratio - 1.0) * 100.0)
        };
        let Boots { release, without, hook, pid1 } = boots;
        vec![
            release.clone(),
            millions(*without),
            millions(*hook),
            more(*hook),
            millions(*pid1),
            more(*pid1),
        ]
    };
    table(&header, boots.iter().map(row))
}

fn duration(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        ..1e3 => format!("{micros:.0} µs"),
        ..1e6 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

fn ratio(ratio: f64) -> String {
    match ratio {
        ..0.1 => format!("{ratio:.3}"),
        ..10.0 => format!("{ratio:.2}"),
        _ => format!("{ratio:.0}"),
    }
}

/// With a comma at every thousand.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let all = [0, 999, 1_000, 65_536, 1_234_567].map(grouped);
        assert_eq!(all, ["0", "999", "1,000", "65,536", "1,234,567"]);
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        let all = [200, 1_300, 2_500_000].map(|micros| duration(Duration::from_micros(micros)));
        assert_eq!(all, ["200 µs", "1.3 ms", "2.50 s"]);
    }

    #[test]
    fn only_what_stands_between_its_comments_is_replaced() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("page.md");
        fs::write(&file, "a\n<!-- bench: x -->\nold\n<!-- end: x -->\nb\n")?;
        for _ in 0..2 {
            replace(&file, "x", "new\n")?;
            let page = fs::read_to_string(&file)?;
            assert_eq!(page, "a\n<!-- bench: x -->\n\nnew\n\n<!-- end: x -->\nb\n");
        }
        assert!(replace(&file, "y", "").is_err());
        Ok(())
    }
}
