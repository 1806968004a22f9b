// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files of a tree that may be somebody else's, reached only where they are in the tree.

use std::fs;
use std::path::{Path, PathBuf};

use crate::machine::file;

/// Where `path`, relative to `root`, really is; `None` where that is not below `root`.
pub fn resolve(root: &Path, path: impl AsRef<Path>) -> Option<PathBuf> {
    let root = fs::canonicalize(root).ok()?;
    fs::canonicalize(root.join(path)).ok().filter(|real| real.starts_with(&root))
}

/// The text of such a file.
pub fn read(root: &Path, path: impl AsRef<Path>) -> Option<String> {
    file::read_text(&resolve(root, path)?).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_is_in_the_tree_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("deep/down")).unwrap();
        fs::write(root.join("deep/file"), "inside").unwrap();
        fs::write(directory.path().join("secret"), "outside").unwrap();
        symlink("../deep", root.join("deep/here")).unwrap();
        assert_eq!(read(&root, "deep/here/file").as_deref(), Some("inside"));

        for target in ["../secret", "deep/down/../../../secret", "/etc/passwd"] {
            let link = root.join("link");
            symlink(target, &link).unwrap();
            assert_eq!(read(&root, "link"), None, "{target}");
            fs::remove_file(link).unwrap();
        }
    }
}
