//! Files of a tree that may be somebody else's, reached only where they are in the tree.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Where `path`, relative to `root`, really is; `None` where that is not below `root`.
pub fn resolve(root: &Path, path: impl AsRef<Path>) -> Option<PathBuf> {
    let root = fs::canonicalize(root).ok()?;
    fs::canonicalize(root.join(path)).ok().filter(|real| real.starts_with(&root))
}

/// The text of such a file.
pub fn read(root: &Path, path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(resolve(root, path)?).ok()
}

/// Sees that no link in a tree leads out of it. One that leads nowhere does no harm.
pub fn check_links(root: &Path) -> Result<()> {
    let root = fs::canonicalize(root).with_context(|| format!("cannot open {}", root.display()))?;
    check_links_below(&root, &root)
}

fn check_links_below(root: &Path, directory: &Path) -> Result<()> {
    let cannot = || format!("cannot list {}", directory.display());
    for entry in fs::read_dir(directory).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let (path, kind) = (entry.path(), entry.file_type().with_context(cannot)?);
        if kind.is_dir() {
            check_links_below(root, &path)?;
        } else if kind.is_symlink()
            && fs::canonicalize(&path).is_ok_and(|real| !real.starts_with(root))
        {
            let shown = path.strip_prefix(root).unwrap_or(&path);
            bail!("{} leads out of the copy", shown.display());
        }
    }
    Ok(())
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
        symlink("nowhere", root.join("dangling")).unwrap();
        assert_eq!(read(&root, "deep/here/file").as_deref(), Some("inside"));
        check_links(&root).unwrap();

        for target in ["../secret", "deep/down/../../../secret", "/etc/passwd"] {
            let link = root.join("link");
            symlink(target, &link).unwrap();
            assert_eq!(read(&root, "link"), None, "{target}");
            let error = check_links(&root).unwrap_err().to_string();
            assert_eq!(error, "link leads out of the copy", "{target}");
            fs::remove_file(link).unwrap();
        }
    }
}
