// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packages of the version before, made by its own sources: those of the last tag before this commit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::ground::arch::X86_64;
use crate::ground::command;
use crate::ground::progress;
use crate::ground::workspace::{Workspace, cargo};

/// Makes them unless they are there; none where nothing was tagged before.
pub fn make(workspace: &Workspace) -> Result<Option<PathBuf>> {
    let Some(tag) = last_tag(&workspace.root)? else { return Ok(None) };
    let scratch = workspace.scratch("previous")?;
    let done = scratch.join(&tag);
    if !done.is_dir() {
        let new = tempfile::Builder::new().prefix("make-").tempdir_in(&scratch)?;
        progress::phase(format!("make the packages of {tag}"), || {
            build(&workspace.root, &tag, new.path())
        })?;
        fs::rename(new.path().join("out"), &done)?;
    }
    Ok(Some(done))
}

/// The newest tag of a version that this commit came after; none without a history to ask.
fn last_tag(root: &Path) -> Result<Option<String>> {
    let mut git = Command::new("git");
    git.args(["describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^"]);
    let output = command::output(git.current_dir(root))?;
    let tag = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(output.status.success().then_some(tag))
}

fn build(root: &Path, tag: &str, place: &Path) -> Result<()> {
    let sources = place.join("sources");
    let mut clone = Command::new("git");
    clone.args(["-c", "advice.detachedHead=false", "clone", "--quiet", "--branch", tag]);
    command::check(clone.arg(root).arg(&sources))?;
    let mut dist = Command::new(cargo());
    dist.args(["xtask", "dist", "--arch", X86_64.name, "--out"]).arg(place.join("out"));
    dist.env("CARGO_TARGET_DIR", place.join("target")).current_dir(&sources);
    command::check(&mut dist).map(drop)
}

/// The one of a kind, by how its name ends.
pub fn find(made: &Path, ending: &str) -> Result<PathBuf> {
    let mut files = fs::read_dir(made)?.flatten().map(|entry| entry.path());
    files
        .find(|path| path.to_string_lossy().ends_with(ending))
        .with_context(|| format!("no {ending} in {}", made.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository of which each of these commits has the tag beside it, if any.
    fn repository(commits: &[Option<&str>]) -> Result<tempfile::TempDir> {
        let root = tempfile::tempdir()?;
        let run = |arguments: &[&str]| {
            let mut git = Command::new("git");
            git.args(["-c", "user.name=us", "-c", "user.email=us@example.org"]);
            command::check(git.args(arguments).current_dir(&root))
        };
        run(&["init", "--quiet"])?;
        for tag in commits {
            run(&["commit", "--quiet", "--allow-empty", "--message", "a change"])?;
            if let Some(tag) = tag {
                run(&["tag", tag])?;
            }
        }
        Ok(root)
    }

    #[test]
    fn the_version_before_is_the_last_that_was_tagged() -> Result<()> {
        for (commits, expected) in [
            (&[None, None][..], None),
            (&[Some("v0.2.0"), None], Some("v0.2.0")),
            (&[Some("v0.2.0"), Some("v0.3.0"), None], Some("v0.3.0")),
            // What is being released is not the version before.
            (&[Some("v0.2.0"), Some("v0.3.0")], Some("v0.2.0")),
            (&[Some("v0.2.0"), Some("various"), None], Some("v0.2.0")),
            (&[Some("v0.2.0")], None),
        ] {
            let root = repository(commits)?;
            assert_eq!(last_tag(root.path())?.as_deref(), expected, "{commits:?}");
        }
        Ok(())
    }
}
