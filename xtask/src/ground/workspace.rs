// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the project and its build artefacts are.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::ground::command;

/// The directories that every task needs.
pub struct Workspace {
    pub root: PathBuf,
    pub target: PathBuf,
}

impl Workspace {
    /// Asks cargo, which knows `CARGO_TARGET_DIR` and every configuration file.
    pub fn locate() -> Result<Self> {
        Self::at(Path::new(env!("CARGO_MANIFEST_DIR")))
    }

    /// The workspace that `directory` belongs to.
    pub fn at(directory: &Path) -> Result<Self> {
        let text = command::stdout(
            Command::new(cargo())
                .args(["metadata", "--no-deps", "--format-version", "1"])
                .current_dir(directory),
        )?;
        let metadata: serde_json::Value =
            serde_json::from_str(&text).context("cannot read what `cargo metadata` printed")?;
        let path = |key: &str| {
            metadata[key]
                .as_str()
                .map(PathBuf::from)
                .with_context(|| format!("`cargo metadata` printed no {key}"))
        };
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")? })
    }

    /// Every file of the project but what git and cargo keep for themselves.
    pub fn sources(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        collect(&self.root, &mut files)?;
        files.sort();
        Ok(files)
    }

    /// A directory of ours below the target directory, made if it is missing.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let directory = self.target.join("xtask").join(name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(directory)
    }
}

/// Every file below a directory, as [`Workspace::sources`] sees it.
pub fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        // Cargo marks its target directories, also those that it does not use now.
        let is_cache = path.join("CACHEDIR.TAG").is_file();
        if path.is_symlink() || path.ends_with(".git") || is_cache {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// The cargo that runs us, so that a pinned toolchain stays pinned.
pub fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_are_neither_artefacts_nor_history() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let root = directory.path();
        for (folder, file) in [("src", "main.rs"), ("out", "CACHEDIR.TAG"), (".git", "HEAD")] {
            fs::create_dir(root.join(folder))?;
            fs::write(root.join(folder).join(file), "")?;
        }
        let workspace = Workspace { root: root.to_owned(), target: root.join("target") };
        assert_eq!(workspace.sources()?, [root.join("src/main.rs")]);
        Ok(())
    }
}
