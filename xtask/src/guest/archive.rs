// SPDX-License-Identifier: MIT OR Apache-2.0
//! Initramfs archives (newc cpio) that depend on their contents only.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};
use flate2::{Compression, write::GzEncoder};

/// The files of an archive by their path, without a leading slash.
#[derive(Clone, Default)]
pub struct Archive {
    nodes: BTreeMap<String, Node>,
}

#[derive(Clone)]
enum Node {
    Directory,
    File { mode: u32, bytes: Vec<u8> },
    Link { target: String },
}

impl Archive {
    pub fn directory(&mut self, path: &str) {
        self.insert(path, Node::Directory);
    }

    pub fn file(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        self.insert(path, Node::File { mode: 0o644, bytes });
    }

    pub fn program(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        self.insert(path, Node::File { mode: 0o755, bytes });
    }

    /// Adds a file of this machine as a program.
    pub fn program_from(&mut self, path: &str, source: &Path) -> Result<()> {
        let bytes =
            fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        self.program(path, bytes);
        Ok(())
    }

    pub fn link(&mut self, path: &str, target: &str) {
        let target = target.to_owned();
        self.insert(path, Node::Link { target });
    }

    /// Adds all of another archive, whose files take the place of those with the same path.
    pub fn merge(&mut self, other: &Self) {
        for (path, node) in &other.nodes {
            self.insert(path, node.clone());
        }
    }

    /// The archive's bytes with gzip, which the kernel finds wherever they begin behind another
    /// archive; uncompressed ones it finds at a multiple of four bytes only.
    pub fn to_gzip(&self) -> Result<Vec<u8>> {
        let mut out = GzEncoder::new(Vec::new(), Compression::best());
        out.write_all(&self.to_bytes()?)?;
        Ok(out.finish()?)
    }

    /// Writes the files below a directory.
    pub fn unpack(&self, root: &Path) -> Result<()> {
        for (path, node) in &self.nodes {
            let path = root.join(path);
            match node {
                Node::Directory => fs::create_dir_all(&path),
                Node::File { mode, bytes } => fs::write(&path, bytes)
                    .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(*mode))),
                Node::Link { target } => symlink(target, &path),
            }
            .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// The archive's bytes: sorted paths, inodes in that order, owner 0:0, time 0.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for (inode, (path, node)) in (1..).zip(&self.nodes) {
            let (kind, mode, bytes): (_, _, &[u8]) = match node {
                Node::Directory => (ModeFileType::Directory, 0o755, &[]),
                Node::File { mode, bytes } => (ModeFileType::Regular, *mode, bytes),
                Node::Link { target } => (ModeFileType::Symlink, 0o777, target.as_bytes()),
            };
            let size = u32::try_from(bytes.len())
                .with_context(|| format!("{path} is too large for a cpio archive"))?;
            let mut writer = Builder::new(path)
                .ino(inode)
                .mode(mode)
                .set_mode_file_type(kind)
                .write(&mut out, size);
            writer.write_all(bytes)?;
            writer.finish()?;
        }
        trailer(&mut out)?;
        Ok(out)
    }

    /// Inserts a node and the directories above it, which the kernel does not make by itself.
    fn insert(&mut self, path: &str, node: Node) {
        for (end, _) in path.match_indices('/') {
            self.nodes.entry(path[..end].to_owned()).or_insert(Node::Directory);
        }
        self.nodes.insert(path.to_owned(), node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(order: &[usize]) -> Archive {
        let mut archive = Archive::default();
        for step in order {
            match step {
                0 => archive.program("usr/bin/tool", "#!"),
                1 => archive.link("init", "usr/bin/tool"),
                2 => archive.directory("sys"),
                _ => archive.file("etc/x", "contents"),
            }
        }
        archive
    }

    #[test]
    fn the_order_of_insertion_does_not_matter() -> Result<()> {
        let one = sample(&[0, 1, 2, 3]).to_bytes()?;
        let other = sample(&[3, 2, 1, 0]).to_bytes()?;
        assert_eq!(one, other);
        Ok(())
    }

    #[test]
    fn what_is_merged_takes_the_place_of_what_was_there() -> Result<()> {
        let mut archive = sample(&[0, 3]);
        let mut other = Archive::default();
        other.file("etc/x", "other");
        archive.merge(&other);
        let mut expected = sample(&[0]);
        expected.file("etc/x", "other");
        assert_eq!(archive.to_bytes()?, expected.to_bytes()?);
        Ok(())
    }

    #[test]
    fn entries_read_back_with_parents_first_and_nothing_of_this_machine() -> Result<()> {
        let bytes = sample(&[0, 1, 2, 3]).to_bytes()?;
        let mut rest = &bytes[..];
        let mut names = Vec::new();
        loop {
            let reader = cpio::newc::Reader::new(rest)?;
            let entry = reader.entry().clone();
            rest = reader.finish()?;
            if entry.is_trailer() {
                break;
            }
            assert_eq!((entry.uid(), entry.gid(), entry.mtime()), (0, 0, 0));
            assert_eq!(usize::try_from(entry.ino())?, names.len() + 1);
            names.push(format!("{:o} {}", entry.mode(), entry.name()));
        }
        assert_eq!(
            names,
            [
                "40755 etc",
                "100644 etc/x",
                "120777 init",
                "40755 sys",
                "40755 usr",
                "40755 usr/bin",
                "100755 usr/bin/tool",
            ]
        );
        Ok(())
    }
}
