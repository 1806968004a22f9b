//! `cargo xtask install` and `uninstall`: every file where the generators, udev and systemd look.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use tempfile::NamedTempFile;

use crate::build::{self, MuslOptions};
use crate::workspace::Workspace;
use crate::{Verdict, command, progress, setup};

/// The host's early binary, below the prefix.
const EARLY: &str = "lib/vfio-override/vfio-override-early";

/// A file of this project and its place below the prefix.
struct File {
    source: &'static str,
    place: &'static str,
    mode: u32,
}

const FILES: [File; 8] = [
    File {
        source: "dracut/90vfio-override/module-setup.sh",
        place: "lib/dracut/modules.d/90vfio-override/module-setup.sh",
        mode: 0o755,
    },
    File {
        source: "dracut/90vfio-override/vfio-override.sh",
        place: "lib/dracut/modules.d/90vfio-override/vfio-override.sh",
        mode: 0o755,
    },
    File {
        source: "initramfs/mkinitcpio/install/vfio-override",
        place: "lib/initcpio/install/vfio-override",
        mode: 0o644,
    },
    File {
        source: "initramfs/mkinitcpio/hooks/vfio-override",
        place: "lib/initcpio/hooks/vfio-override",
        mode: 0o644,
    },
    File {
        source: "initramfs/initramfs-tools/hooks/vfio-override",
        place: "share/initramfs-tools/hooks/vfio-override",
        mode: 0o755,
    },
    File {
        source: "initramfs/systemd/vfio-override-initrd.service",
        place: "lib/systemd/system/vfio-override-initrd.service",
        mode: 0o644,
    },
    File {
        source: "initramfs/systemd/vfio-override.service",
        place: "lib/systemd/system/vfio-override.service",
        mode: 0o644,
    },
    File {
        source: "initramfs/systemd/70-vfio-override.rules",
        place: "lib/udev/rules.d/70-vfio-override.rules",
        mode: 0o644,
    },
];

/// Enables the host's service, as the vendor.
const WANTS: (&str, &str) = (
    "lib/systemd/system/multi-user.target.wants/vfio-override.service",
    "../vfio-override.service",
);

/// Install the early binary, the generators' hooks, the udev rule and the units
///
/// Installing again replaces all of them. Where only some are there, nothing is touched: uninstall
/// first. Without write access to the place sudo is used, if it is there, for the copying alone.
#[derive(Args)]
pub struct InstallOptions {
    #[command(flatten)]
    place: Place,

    /// Install this early binary instead of building one
    #[arg(long, value_name = "FILE")]
    early: Option<PathBuf>,

    #[command(flatten)]
    musl: MuslOptions,
}

/// Remove all that `cargo xtask install` has put there, and the directories that this empties
#[derive(Args)]
pub struct UninstallOptions {
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct Place {
    /// Where the root directory is, for a package
    #[arg(long, value_name = "DIR", default_value = "/")]
    destdir: PathBuf,

    /// What is /usr below it; the files themselves say /usr
    #[arg(long, value_name = "DIR", default_value = "/usr")]
    prefix: PathBuf,
}

pub fn install(options: &InstallOptions) -> Result<Verdict> {
    let early = match &options.early {
        Some(file) => file.clone(),
        None => build::preferred(&Workspace::locate()?, None, options.musl)?.path,
    };
    let tree = options.place.tree();
    if !tree.is_writable() {
        return options.place.with_sudo(&["install", "--early"], &[&early]);
    }
    Ok(tell(tree.install(&source_root()?, &early)?, "installed below", &tree))
}

pub fn uninstall(options: &UninstallOptions) -> Result<Verdict> {
    let tree = options.place.tree();
    if !tree.is_writable() {
        return options.place.with_sudo(&["uninstall"], &[]);
    }
    Ok(tell(tree.uninstall()?, "removed from", &tree))
}

fn tell(outcome: Outcome, done: &str, tree: &Tree) -> Verdict {
    match outcome {
        Outcome::Done => {
            println!("{done} {}", tree.usr.display());
            Verdict::Good
        }
        Outcome::Refused(reason) => {
            eprintln!("xtask: {reason}");
            Verdict::Bad
        }
    }
}

fn source_root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(Path::to_owned).context("xtask is not in the project")
}

impl Place {
    fn tree(&self) -> Tree {
        let below = self.prefix.strip_prefix("/").unwrap_or(&self.prefix);
        Tree { top: self.destdir.clone(), usr: self.destdir.join(below) }
    }

    /// Does the same once more as root, without cargo, which root may not have.
    fn with_sudo(&self, arguments: &[&str], files: &[&Path]) -> Result<Verdict> {
        let Some(sudo) = setup::program("sudo") else {
            bail!("cannot write to {}, and there is no sudo", self.tree().usr.display());
        };
        let mut again = std::process::Command::new(sudo);
        again.arg(env::current_exe().context("cannot find this program")?);
        again.args(arguments).args(files);
        again.arg("--destdir").arg(&self.destdir).arg("--prefix").arg(&self.prefix);
        progress::note(command::line(&again));
        let status = again.status().context("cannot start sudo")?;
        Ok(if status.success() { Verdict::Good } else { Verdict::Bad })
    }
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Nothing was touched; why, and what to do.
    Refused(String),
}

/// A place to install to.
pub struct Tree {
    /// Nothing above it is ours to remove.
    top: PathBuf,
    usr: PathBuf,
}

impl Tree {
    /// The place with this root directory, and /usr below it.
    pub fn at(top: &Path) -> Self {
        Self { top: top.to_owned(), usr: top.join("usr") }
    }

    /// Installs everything or nothing.
    pub fn install(&self, sources: &Path, early: &Path) -> Result<Outcome> {
        let (present, missing): (Vec<PathBuf>, Vec<PathBuf>) =
            self.places().partition(|path| path.symlink_metadata().is_ok());
        if !present.is_empty() && !missing.is_empty() {
            return Ok(Outcome::Refused(format!(
                "half installed, nothing was touched; missing:\n    {}\n\
                 remove the rest first: cargo xtask uninstall",
                lines(&missing)
            )));
        }
        let staged = self.stage_all(sources, early).inspect_err(|_| {
            self.places().for_each(|path| self.remove_empty_directories(&path));
        })?;
        let (link, target) = WANTS;
        let link = self.usr.join(link);
        make_directory_of(&link)?;
        for (file, path) in staged {
            file.persist(&path).with_context(|| format!("cannot write {}", path.display()))?;
        }
        if link.symlink_metadata().is_err() {
            symlink(target, &link).with_context(|| format!("cannot write {}", link.display()))?;
        }
        Ok(Outcome::Done)
    }

    /// Removes everything, also where it is not complete.
    pub fn uninstall(&self) -> Result<Outcome> {
        if !self.places().any(|path| path.symlink_metadata().is_ok()) {
            let usr = self.usr.display();
            return Ok(Outcome::Refused(format!("not installed below {usr}")));
        }
        for path in self.places() {
            match fs::remove_file(&path) {
                Err(error) if !is_absent(&error) => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => self.remove_empty_directories(&path),
            }
        }
        Ok(Outcome::Done)
    }

    /// The directories above a file, as far as nobody else uses them.
    fn remove_empty_directories(&self, path: &Path) {
        for directory in path.ancestors().skip(1).take_while(|path| **path != *self.top) {
            match fs::remove_dir(directory) {
                Err(error) if !is_absent(&error) => return,
                _ => {}
            }
        }
    }

    fn places(&self) -> impl Iterator<Item = PathBuf> {
        std::iter::once(EARLY)
            .chain(FILES.iter().map(|file| file.place))
            .chain([WANTS.0])
            .map(|place| self.usr.join(place))
    }

    fn stage_all(&self, sources: &Path, early: &Path) -> Result<Vec<(NamedTempFile, PathBuf)>> {
        let mut staged = vec![self.stage(early, EARLY, 0o755)?];
        for file in &FILES {
            staged.push(self.stage(&sources.join(file.source), file.place, file.mode)?);
        }
        Ok(staged)
    }

    /// Writes a file beside its place; it goes away again if it does not get there.
    fn stage(&self, source: &Path, place: &str, mode: u32) -> Result<(NamedTempFile, PathBuf)> {
        let bytes =
            fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        let path = self.usr.join(place);
        let directory = make_directory_of(&path)?;
        let write = || -> io::Result<NamedTempFile> {
            let mut file = NamedTempFile::new_in(directory)?;
            file.write_all(&bytes)?;
            file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
            Ok(file)
        };
        let file = write().with_context(|| format!("cannot write to {}", directory.display()))?;
        Ok((file, path))
    }

    /// Whether this user may create files there; what does not exist yet is asked of its parent.
    fn is_writable(&self) -> bool {
        self.usr
            .ancestors()
            .find(|path| path.is_dir())
            .is_some_and(|directory| NamedTempFile::new_in(directory).is_ok())
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn make_directory_of(path: &Path) -> Result<&Path> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

fn lines(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join("\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    /// An empty place, and something to install there as the early binary.
    fn place() -> Result<(tempfile::TempDir, Tree, PathBuf)> {
        let directory = tempfile::tempdir()?;
        let early = directory.path().join("early");
        fs::write(&early, "binary")?;
        let top = directory.path().join("root");
        fs::create_dir(&top)?;
        let tree = Tree::at(&top);
        Ok((directory, tree, early))
    }

    fn listing(tree: &Tree) -> Result<Vec<String>> {
        let mut files = Vec::new();
        workspace::collect(&tree.top, &mut files)?;
        let mut names: Vec<String> = files
            .iter()
            .map(|path| {
                let mode = fs::metadata(path)?.permissions().mode() & 0o777;
                Ok(format!("{mode:o} {}", path.strip_prefix(&tree.top)?.display()))
            })
            .collect::<Result<_>>()?;
        names.sort();
        Ok(names)
    }

    #[test]
    fn everything_is_where_the_generators_look() -> Result<()> {
        let (_directory, tree, early) = place()?;
        assert_eq!(tree.install(&source_root()?, &early)?, Outcome::Done);
        assert_eq!(
            listing(&tree)?,
            [
                "644 usr/lib/initcpio/hooks/vfio-override",
                "644 usr/lib/initcpio/install/vfio-override",
                "644 usr/lib/systemd/system/vfio-override-initrd.service",
                "644 usr/lib/systemd/system/vfio-override.service",
                "644 usr/lib/udev/rules.d/70-vfio-override.rules",
                "755 usr/lib/dracut/modules.d/90vfio-override/module-setup.sh",
                "755 usr/lib/dracut/modules.d/90vfio-override/vfio-override.sh",
                "755 usr/lib/vfio-override/vfio-override-early",
                "755 usr/share/initramfs-tools/hooks/vfio-override",
            ]
        );
        let wants = tree.usr.join(WANTS.0);
        assert_eq!(
            fs::read(wants)?,
            fs::read(tree.usr.join("lib/systemd/system/vfio-override.service"))?
        );
        Ok(())
    }

    #[test]
    fn nothing_is_left_behind() -> Result<()> {
        let (_directory, tree, early) = place()?;
        tree.install(&source_root()?, &early)?;
        assert_eq!(tree.uninstall()?, Outcome::Done);
        assert_eq!(fs::read_dir(&tree.top)?.count(), 0);
        assert!(matches!(tree.uninstall()?, Outcome::Refused(_)));
        Ok(())
    }

    #[test]
    fn the_files_of_others_stay() -> Result<()> {
        let (_directory, tree, early) = place()?;
        let other = tree.usr.join("lib/udev/rules.d/80-drivers.rules");
        fs::create_dir_all(other.parent().context("it has a parent")?)?;
        fs::write(&other, "")?;
        tree.install(&source_root()?, &early)?;
        tree.uninstall()?;
        assert_eq!(listing(&tree)?, ["644 usr/lib/udev/rules.d/80-drivers.rules"]);
        Ok(())
    }

    #[test]
    fn installing_again_replaces_everything() -> Result<()> {
        let (_directory, tree, early) = place()?;
        tree.install(&source_root()?, &early)?;
        let before = listing(&tree)?;
        fs::write(&early, "another")?;
        assert_eq!(tree.install(&source_root()?, &early)?, Outcome::Done);
        assert_eq!(listing(&tree)?, before);
        assert_eq!(fs::read(tree.usr.join(EARLY))?, b"another");
        Ok(())
    }

    #[test]
    fn a_half_installed_state_is_refused_and_can_be_removed() -> Result<()> {
        for place_of_one in std::iter::once(EARLY).chain(FILES.iter().map(|file| file.place)) {
            let (_directory, tree, early) = place()?;
            tree.install(&source_root()?, &early)?;
            fs::remove_file(tree.usr.join(place_of_one))?;
            let before = listing(&tree)?;
            let Outcome::Refused(reason) = tree.install(&source_root()?, &early)? else {
                bail!("installed without {place_of_one}");
            };
            assert!(reason.contains(place_of_one), "{reason}");
            assert!(reason.contains("cargo xtask uninstall"), "{reason}");
            assert_eq!(listing(&tree)?, before);
            assert_eq!(tree.uninstall()?, Outcome::Done);
            assert_eq!(fs::read_dir(&tree.top)?.count(), 0);
        }
        Ok(())
    }

    #[test]
    fn a_failure_leaves_no_half_installed_state() -> Result<()> {
        let (_directory, tree, early) = place()?;
        // The last file cannot be staged.
        fs::create_dir_all(tree.usr.join("lib/udev"))?;
        fs::write(tree.usr.join("lib/udev/rules.d"), "no directory")?;
        assert!(tree.install(&source_root()?, &early).is_err());
        assert_eq!(listing(&tree)?, ["644 usr/lib/udev/rules.d"]);
        assert_eq!(fs::read_dir(tree.usr.join("lib"))?.count(), 1);
        Ok(())
    }

    #[test]
    fn the_prefix_is_below_the_destination() {
        let place = |destdir: &str, prefix: &str| {
            Place { destdir: destdir.into(), prefix: prefix.into() }.tree().usr
        };
        assert_eq!(place("/", "/usr"), Path::new("/usr"));
        assert_eq!(place("/tmp/package", "/usr"), Path::new("/tmp/package/usr"));
        assert_eq!(place("/tmp/package", "opt"), Path::new("/tmp/package/opt"));
    }
}
