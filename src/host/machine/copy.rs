// SPDX-License-Identifier: MIT OR Apache-2.0
//! A copy of a machine, made by `collect` or by hand. It may come from a stranger: all of it is bounded, and
//! looked at as what it is, before anything of it is read.

use std::fs;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use tar::{Archive, EntryType};
use tempfile::TempDir;

/// The most bytes of an archive, and of all files in one; a copy of a laptop has 200 KiB.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// The most files, directories and links; a machine of 600 functions has 6,000.
const MAX_ENTRIES: usize = 65_536;
/// The most directories above a file. The kernel's own nest 40 deep at most: sixteen bridges and a disk's partition.
const MAX_DEPTH: usize = 64;
/// The most bytes of a path, as the kernel has it (`PATH_MAX`).
const MAX_PATH: u64 = 4096;

/// The directory that holds the copy: `file` itself, or what was unpacked, which goes with the second.
pub fn open(file: &Path) -> Result<(PathBuf, Option<TempDir>)> {
    let (directory, unpacked) = if file.is_dir() {
        (file.to_owned(), None)
    } else {
        let unpacked = unpack(file)
            .with_context(|| format!("cannot read {} as a copy of a machine", file.display()))?;
        (unpacked.path().to_owned(), Some(unpacked))
    };
    check(&directory)
        .with_context(|| format!("cannot take {} for a copy of a machine", file.display()))?;
    Ok((directory, unpacked))
}

/// Unpacks an archive of nothing but files, directories and links that stay inside.
fn unpack(file: &Path) -> Result<TempDir> {
    let metadata = fs::metadata(file)?;
    if !metadata.is_file() {
        bail!("it is no regular file");
    }
    if metadata.len() > MAX_BYTES {
        bail!("it has more than {} MiB", MAX_BYTES >> 20);
    }
    if is_compressed(file)? {
        bail!(
            "it is compressed: unpack it first, by gunzip, unzstd, unxz or unzip, and name what comes out"
        );
    }
    check_headers(file)?;
    let directory = tempfile::Builder::new().prefix("vfio-override-").tempdir()?;
    let mut archive = Archive::new(fs::File::open(file)?);
    archive.set_preserve_permissions(false);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let kind = entry.header().entry_type();
        let stays_inside = match entry.link_name()? {
            Some(target) => kind.is_symlink() && is_inside(&path, &target),
            None => kind.is_file() || kind.is_dir(),
        };
        if path.components().count() > MAX_DEPTH
            || !stays_inside
            || !entry.unpack_in(directory.path())?
        {
            bail!("{} is nothing that a copy holds", path.display());
        }
    }
    Ok(directory)
}

/// Whether a file is what people make of a copy before they send it: by gzip, zstd, xz, bzip2 or zip.
fn is_compressed(file: &Path) -> Result<bool> {
    const STARTS: [&[u8]; 5] =
        [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh", b"PK\x03\x04"];
    let mut start = Vec::new();
    fs::File::open(file)?.take(8).read_to_end(&mut start)?;
    Ok(STARTS.iter().any(|it| start.starts_with(it)))
}

/// Sees that what the archive announces is bounded: its reader makes room for that before it looks.
fn check_headers(file: &Path) -> Result<()> {
    let mut archive = Archive::new(fs::File::open(file)?);
    let mut bytes: u64 = 0;
    for (count, entry) in archive.entries()?.raw(true).enumerate() {
        let entry = entry?;
        let size = entry.size();
        bytes = bytes.saturating_add(size);
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Directory | EntryType::Symlink => {}
            EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader => {
                if size > MAX_PATH {
                    bail!("it holds a name of {size} bytes");
                }
            }
            _ => bail!("{} is nothing that a copy holds", entry.path()?.display()),
        }
        if count >= MAX_ENTRIES {
            bail!("it holds more than {MAX_ENTRIES} files");
        }
        if bytes > MAX_BYTES {
            bail!("it holds more than {} MiB", MAX_BYTES >> 20);
        }
    }
    Ok(())
}

/// Whether a link at `path` leads to somewhere below the directory that both are in, if there are no other
/// links on its way.
fn is_inside(path: &Path, target: &Path) -> bool {
    let depth = |path: &Path| path.components().count();
    let mut level = depth(path).saturating_sub(1);
    target.components().all(|component| match component {
        Component::ParentDir => {
            level = level.wrapping_sub(1);
            level != usize::MAX
        }
        Component::Normal(_) => {
            level += 1;
            true
        }
        Component::CurDir => true,
        Component::RootDir | Component::Prefix(_) => false,
    })
}

/// Sees that a tree holds nothing but files, directories and links that do not lead out of it, within the bounds.
/// A link that leads nowhere does no harm.
fn check(root: &Path) -> Result<()> {
    let root = fs::canonicalize(root).with_context(|| format!("cannot open {}", root.display()))?;
    let mut entries = 0;
    let mut bytes = 0;
    let mut directories = vec![(root.clone(), 0)];
    while let Some((directory, depth)) = directories.pop() {
        let cannot = || format!("cannot list {}", directory.display());
        for entry in fs::read_dir(&directory).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            let (path, kind) = (entry.path(), entry.file_type().with_context(cannot)?);
            let shown = || path.strip_prefix(&root).unwrap_or(&path).display();
            entries += 1;
            if entries > MAX_ENTRIES {
                bail!("it holds more than {MAX_ENTRIES} files");
            }
            if kind.is_dir() {
                if depth == MAX_DEPTH {
                    bail!("{} lies more than {MAX_DEPTH} directories deep", shown());
                }
                directories.push((path, depth + 1));
            } else if kind.is_symlink() {
                if fs::canonicalize(&path).is_ok_and(|real| !real.starts_with(&root)) {
                    bail!("{} leads out of the copy", shown());
                }
            } else if kind.is_file() {
                bytes += entry.metadata().with_context(cannot)?.len();
                if bytes > MAX_BYTES {
                    bail!("it holds more than {} MiB", MAX_BYTES >> 20);
                }
            } else {
                bail!("{} is neither a file nor a directory nor a link", shown());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use tar::{Builder, Header};

    use super::*;

    #[test]
    fn links_out_of_a_copy_are_seen() {
        let link = Path::new("sys/bus/pci/devices/0000:01:00.0");
        for target in ["../../../devices/pci0000:00/0000:01:00.0", "x", "./x", "../../../../proc"] {
            assert!(is_inside(link, Path::new(target)), "{target}");
        }
        for target in ["/sys", "../../../../../etc", "../../../../../../sys/x"] {
            assert!(!is_inside(link, Path::new(target)), "{target}");
        }

        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("deep/down")).unwrap();
        fs::write(directory.path().join("secret"), "outside").unwrap();
        symlink("../deep", root.join("deep/here")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        check(&root).unwrap();
        for target in ["../secret", "deep/down/../../../secret", "/etc/passwd"] {
            let link = root.join("link");
            symlink(target, &link).unwrap();
            let error = check(&root).unwrap_err().to_string();
            assert_eq!(error, "link leads out of the copy", "{target}");
            fs::remove_file(link).unwrap();
        }
    }

    #[test]
    fn what_is_no_copy_is_told_before_it_is_read() {
        type Make = fn(&Path);
        let cases: [(&str, Make, &str); 5] = [
            (
                "a FIFO",
                |root| mkfifo(&root.join("fifo"), Mode::S_IRWXU).unwrap(),
                "fifo is neither a file nor a directory nor a link",
            ),
            (
                "a socket",
                |root| drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap()),
                "socket is neither a file nor a directory nor a link",
            ),
            (
                "a large file",
                |root| fs::File::create(root.join("large")).unwrap().set_len(1 << 40).unwrap(),
                "it holds more than 64 MiB",
            ),
            (
                "a deep tree",
                |root| fs::create_dir_all(root.join("d/".repeat(1200))).unwrap(),
                "lies more than 64 directories deep",
            ),
            (
                "many files",
                |root| {
                    for number in 0..=MAX_ENTRIES {
                        symlink("nowhere", root.join(number.to_string())).unwrap();
                    }
                },
                "it holds more than 65536 files",
            ),
        ];
        for (name, make, expected) in cases {
            let root = tempfile::tempdir().unwrap();
            make(root.path());
            let error = check(root.path()).unwrap_err().to_string();
            assert!(error.ends_with(expected), "{name}: {error}");
        }
    }

    fn archive(fill: impl FnOnce(&mut Builder<fs::File>)) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("copy.tar");
        let mut archive = Builder::new(fs::File::create(&path).unwrap());
        fill(&mut archive);
        archive.finish().unwrap();
        (directory, path)
    }

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header
    }

    #[test]
    fn an_archive_is_bounded_before_it_is_unpacked() {
        type Fill = fn(&mut Builder<fs::File>);
        let cases: [(Fill, &str); 6] = [
            (
                |archive| {
                    let mut link = header(EntryType::Symlink, 0);
                    archive.append_link(&mut link, "sys", "/sys").unwrap();
                },
                "sys is nothing that a copy holds",
            ),
            (
                |archive| {
                    let mut link = header(EntryType::Link, 0);
                    archive.append_link(&mut link, "sys", "other").unwrap();
                },
                "sys is nothing that a copy holds",
            ),
            (
                |archive| {
                    let mut fifo = header(EntryType::Fifo, 0);
                    archive.append_data(&mut fifo, "proc/cmdline", &[][..]).unwrap();
                },
                "proc/cmdline is nothing that a copy holds",
            ),
            (
                // What follows need not be there.
                |archive| {
                    let mut name = header(EntryType::GNULongName, 3 << 30);
                    archive.append_data(&mut name, "name", &[][..]).unwrap();
                },
                "it holds a name of 3221225472 bytes",
            ),
            (
                |archive| {
                    let mut file = header(EntryType::Regular, 3 << 30);
                    archive.append_data(&mut file, "file", &[][..]).unwrap();
                },
                "it holds more than 64 MiB",
            ),
            (
                |archive| {
                    let mut file = header(EntryType::Directory, 0);
                    archive.append_data(&mut file, "d/".repeat(100), &[][..]).unwrap();
                },
                "is nothing that a copy holds",
            ),
        ];
        for (fill, expected) in cases {
            let (_directory, file) = archive(fill);
            let error = unpack(&file).unwrap_err().to_string();
            assert!(error.ends_with(expected), "{error}");
        }
        let (_directory, file) = archive(|_| {});
        fs::write(&file, b"\x1f\x8b\x08\x08").unwrap();
        let error = unpack(&file).unwrap_err().to_string();
        assert!(error.starts_with("it is compressed: unpack it first"), "{error}");
        let error = unpack(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(error, "it is no regular file");
    }
}
