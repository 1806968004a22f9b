// SPDX-License-Identifier: MIT OR Apache-2.0
//! The version that is made, as CHANGELOG.md has it.

use std::env;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::ground::command;
use crate::ground::workspace::Workspace;

/// What is not released yet has this date, the first that every archive can hold: 1980-01-01.
const NEVER: u64 = 315_532_800;

/// A version, and what its section says.
pub struct Release {
    pub version: String,
    /// Seconds since 1970: the date of the section, or what `SOURCE_DATE_EPOCH` says.
    pub epoch: u64,
    /// One sentence or more for each change, without line ends.
    changes: Vec<String>,
}

impl Release {
    /// What the sources are.
    pub fn of(workspace: &Workspace) -> Result<Self> {
        let text = fs::read_to_string(workspace.root.join("CHANGELOG.md"))
            .context("cannot read CHANGELOG.md")?;
        let mut release = Self::read(&text, env!("CARGO_PKG_VERSION"))?;
        if let Ok(epoch) = env::var("SOURCE_DATE_EPOCH") {
            release.epoch = epoch.parse().context("SOURCE_DATE_EPOCH is no number")?;
        }
        Ok(release)
    }

    fn read(text: &str, version: &str) -> Result<Self> {
        let heading = format!("## {version} - ");
        let (date, rest) = if let Some((_, rest)) = text.split_once(&heading) {
            rest.split_once('\n').context("the changelog ends in a heading")?
        } else {
            let unreleased = text.split_once("## Unreleased\n");
            let (_, rest) =
                unreleased.with_context(|| format!("CHANGELOG.md says nothing of {version}"))?;
            ("", rest)
        };
        let epoch = if date.is_empty() {
            NEVER
        } else {
            let mut to_seconds = Command::new("date");
            to_seconds.args(["--utc", "--date", date, "+%s"]);
            command::stdout(&mut to_seconds)?.trim().parse()?
        };
        let section = rest.split("\n## ").next().unwrap_or_default();
        let mut changes: Vec<String> = Vec::new();
        for line in section.lines() {
            if let Some(change) = line.strip_prefix("- ") {
                changes.push(change.to_owned());
            } else if let (Some(more), Some(change)) = (line.strip_prefix("  "), changes.last_mut())
            {
                *change += " ";
                *change += more;
            }
        }
        Ok(Self { version: version.to_owned(), epoch, changes })
    }

    /// As Debian's policy has it.
    pub fn for_debian(&self, maintainer: &str) -> Result<String> {
        let changes = self.list("  * ");
        let date = self.date("+%a, %d %b %Y %H:%M:%S %z")?;
        let version = &self.version;
        Ok(format!(
            "vfio-override ({version}) unstable; urgency=medium\n\n{changes}\n -- {maintainer}  {date}\n"
        ))
    }

    /// As rpm reads it.
    pub fn for_rpm(&self, maintainer: &str) -> Result<String> {
        let changes = self.list("- ");
        let date = self.date("+%a %b %d %Y")?;
        let changes = changes.replace('%', "%%");
        Ok(format!("* {date} {maintainer} - {}-1\n{changes}", self.version))
    }

    /// Each change after a bullet.
    fn list(&self, bullet: &str) -> String {
        let indent = " ".repeat(bullet.len());
        let entry = |change: &String| format!("{bullet}{}", wrap(change, &indent));
        self.changes.iter().map(entry).collect::<Vec<_>>().join("\n") + "\n"
    }

    fn date(&self, format: &str) -> Result<String> {
        let mut date = Command::new("date");
        date.args(["--utc", "--date", &format!("@{}", self.epoch), format]).env("LC_ALL", "C");
        Ok(command::stdout(&mut date)?.trim().to_owned())
    }
}

/// Lines that begin with `indent` but for the first, of at most 80 characters.
fn wrap(text: &str, indent: &str) -> String {
    const WIDTH: usize = 76;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let is_full =
            lines.last().is_some_and(|line| line.len() + word.len() + 1 > WIDTH - indent.len());
        if is_full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join(&format!("\n{indent}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Changelog\n\n## 0.2.0 - 2026-11-26\n\n### Added\n\n- One thing\n  of two lines.\n\
                        - Another.\n\n## 0.1.0 - 2026-01-01\n\n- The first.\n";

    #[test]
    fn a_release_has_its_own_section() -> Result<()> {
        let release = Release::read(TEXT, "0.2.0")?;
        assert_eq!(release.epoch, 1_795_651_200);
        assert_eq!(release.changes, ["One thing of two lines.", "Another."]);
        assert_eq!(
            release.for_debian("Us <us@example.org>")?,
            "vfio-override (0.2.0) unstable; urgency=medium\n\n  * One thing of two lines.\n  * Another.\n\n \
             -- Us <us@example.org>  Thu, 26 Nov 2026 00:00:00 +0000\n"
        );
        assert_eq!(
            release.for_rpm("Us <us@example.org>")?,
            "* Thu Nov 26 2026 Us <us@example.org> - 0.2.0-1\n- One thing of two lines.\n- Another.\n"
        );
        Ok(())
    }

    #[test]
    fn what_is_not_released_has_a_date_all_the_same() -> Result<()> {
        let release = Release::read("## Unreleased\n\n- A change.\n", "0.3.0")?;
        assert_eq!((release.epoch, release.changes.len()), (NEVER, 1));
        assert!(Release::read(TEXT, "0.3.0").is_err());
        Ok(())
    }
}
