// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's files outside of /proc and /sys: what it boots with, and what its kernel can load.
//!
//! Everything that is looked at is remembered, with no more of a file than was of use: this is what
//! `collect` puts into its copy.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::machine::file;

/// A root directory: `/`, or that of a copy.
pub struct Root {
    directory: PathBuf,
    seen: RefCell<BTreeMap<String, Vec<String>>>,
}

impl Root {
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), seen: RefCell::default() }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.directory.join(path)
    }

    pub fn is_live(&self) -> bool {
        self.directory == Path::new("/")
    }

    /// Whether there is something at this path, which has no leading slash.
    pub fn has(&self, path: &str) -> bool {
        let is_there = self.path(path).exists();
        if is_there {
            self.remember(path, "");
        }
        is_there
    }

    /// The first of these paths that is there.
    pub fn first<'p>(&self, paths: &[&'p str]) -> Option<&'p str> {
        paths.iter().copied().find(|path| self.has(path))
    }

    /// The lines of a file for which `keep` has an answer, as that answer.
    pub fn lines(&self, path: &str, keep: impl Fn(&str) -> Option<String>) -> Result<Vec<String>> {
        let file = self.path(path);
        let text =
            file::read_text(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let kept: Vec<String> = text.lines().filter_map(keep).collect();
        self.remember(path, &kept.join("\n"));
        Ok(kept)
    }

    /// The same of a file that may be anybody's: it is remembered only where a line is of use.
    pub fn matches(&self, path: &str, keep: impl Fn(&str) -> Option<String>) -> Vec<String> {
        // A line goes on behind a backslash, in modprobe's files as in scripts.
        let text = self.text(path).unwrap_or_default().replace("\\\n", " ");
        let kept: Vec<String> = text.lines().filter_map(keep).collect();
        if !kept.is_empty() {
            self.remember(path, &kept.join("\n"));
        }
        kept
    }

    /// The text of a file, of which nothing is remembered.
    pub fn text(&self, path: &str) -> Option<String> {
        file::read_text(&self.path(path)).ok()
    }

    /// Remembers a text that no file holds, as if one did: what was of use before, and now.
    pub fn remember(&self, path: &str, text: &str) {
        let mut seen = self.seen.borrow_mut();
        let known = seen.entry(path.to_owned()).or_default();
        let is_new = |line: &&str| !known.iter().any(|known| known == line);
        let new: Vec<String> = text.lines().filter(is_new).map(str::to_owned).collect();
        known.extend(new);
    }

    /// The names in a directory, in order.
    pub fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// When it was changed last, in seconds: a copy knows no more.
    pub fn modified(&self, path: &str) -> Option<SystemTime> {
        let time = fs::metadata(self.path(path)).and_then(|metadata| metadata.modified()).ok()?;
        let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs()))
    }

    /// Everything that was looked at and is there, with what was of use of it.
    pub fn seen(&self) -> BTreeMap<String, Vec<u8>> {
        let seen = self.seen.borrow();
        let text =
            |lines: &Vec<String>| lines.iter().flat_map(|line| [line, "\n"]).collect::<String>();
        seen.iter().map(|(path, lines)| (path.clone(), text(lines).into_bytes())).collect()
    }
}

/// Whether a name has this end behind its last dot, as programs look for it that read a whole directory.
pub fn has_end(name: &str, end: &str) -> bool {
    Path::new(name).extension().is_some_and(|its| its == end)
}
