//! `cargo xtask install` and `uninstall`: every file where the generators, udev and systemd look.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::unistd::geteuid;
use tempfile::NamedTempFile;

use crate::build::{self, MuslOptions};
use crate::ground::arch;
use crate::ground::command;
use crate::ground::progress;
use crate::ground::setup;
use crate::ground::verdict::Verdict;
use crate::ground::workspace::{self, Workspace};

/// A file and its place below the prefix.
struct File {
    source: Source,
    place: &'static str,
    mode: u32,
}

/// Where a file comes from.
#[derive(Clone, Copy)]
enum Source {
    /// This project.
    Project(&'static str),
    /// What [`build_all`] makes.
    Built(&'static str),
}

impl File {
    /// A file that is read.
    const fn data(source: Source, place: &'static str) -> Self {
        Self { source, place, mode: 0o644 }
    }

    /// A file that is run.
    const fn program(source: Source, place: &'static str) -> Self {
        Self { source, place, mode: 0o755 }
    }
}

/// Names of what is built.
const EARLY: &str = "vfio-override-early";
const TOOL: &str = "vfio-override";

const FILES: [File; 25] = {
    use Source::{Built, Project};
    [
        File::program(Built(EARLY), "lib/vfio-override/vfio-override-early"),
        File::program(
            Project("dracut/90vfio-override/module-setup.sh"),
            "lib/dracut/modules.d/90vfio-override/module-setup.sh",
        ),
        File::program(
            Project("dracut/90vfio-override/vfio-override.sh"),
            "lib/dracut/modules.d/90vfio-override/vfio-override.sh",
        ),
        File::data(
            Project("initramfs/mkinitcpio/install/vfio-override"),
            "lib/initcpio/install/vfio-override",
        ),
        File::data(
            Project("initramfs/mkinitcpio/hooks/vfio-override"),
            "lib/initcpio/hooks/vfio-override",
        ),
        File::program(
            Project("initramfs/initramfs-tools/hooks/vfio-override"),
            "share/initramfs-tools/hooks/vfio-override",
        ),
        File::data(
            Project("initramfs/systemd/vfio-override-initrd.service"),
            "lib/systemd/system/vfio-override-initrd.service",
        ),
        File::data(
            Project("initramfs/systemd/vfio-override.service"),
            "lib/systemd/system/vfio-override.service",
        ),
        File::data(
            Project("initramfs/systemd/70-vfio-override.rules"),
            "lib/udev/rules.d/70-vfio-override.rules",
        ),
        File::program(Built(TOOL), "bin/vfio-override"),
        File::data(Built("vfio-override.7"), "share/man/man7/vfio-override.7"),
        File::data(Built("vfio-override.8"), "share/man/man8/vfio-override.8"),
        File::data(Built("vfio-override-apply.8"), "share/man/man8/vfio-override-apply.8"),
        File::data(Built("vfio-override-collect.8"), "share/man/man8/vfio-override-collect.8"),
        File::data(Built("vfio-override-early.8"), "share/man/man8/vfio-override-early.8"),
        File::data(Built("vfio-override-list.8"), "share/man/man8/vfio-override-list.8"),
        File::data(Built("vfio-override-plan.8"), "share/man/man8/vfio-override-plan.8"),
        File::data(Built("vfio-override-release.8"), "share/man/man8/vfio-override-release.8"),
        File::data(Built("vfio-override-status.8"), "share/man/man8/vfio-override-status.8"),
        File::data(Built("vfio-override-suggest.8"), "share/man/man8/vfio-override-suggest.8"),
        File::data(Built("vfio-override.bash"), "share/bash-completion/completions/vfio-override"),
        File::data(Built("_vfio-override"), "share/zsh/site-functions/_vfio-override"),
        File::data(
            Built("vfio-override.fish"),
            "share/fish/vendor_completions.d/vfio-override.fish",
        ),
        File::data(Project("docs/json.md"), "share/doc/vfio-override/json.md"),
        File::data(
            Project("docs/vfio-override.schema.json"),
            "share/doc/vfio-override/vfio-override.schema.json",
        ),
    ]
};

/// How the names of files begin that are not at their place yet.
const STAGED: &str = ".vfio-override-";

/// Enables the host's service, as the vendor.
const WANTS: (&str, &str) = (
    "lib/systemd/system/multi-user.target.wants/vfio-override.service",
    "../vfio-override.service",
);

/// Install the early binary, the hooks, the udev rule, the units and the host tool with its manual
///
/// Installing again replaces all of them. Where only some are there, nothing is touched: uninstall
/// first. Without write access to the place sudo is used, if it is there, for the copying alone.
#[derive(Args)]
pub struct InstallOptions {
    #[command(flatten)]
    place: Place,

    /// Install what is in this directory, as an earlier run built it, instead of building
    #[arg(long, value_name = "DIR")]
    built: Option<PathBuf>,

    #[command(flatten)]
    musl: MuslOptions,
}

/// Remove all that `cargo xtask install` has put there, also in a run that was killed, and the directories that this empties
#[derive(Args)]
pub struct UninstallOptions {
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct Place {
    /// Where the root directory is, for a package
    #[arg(long, value_name = "DIR", default_value = "/", value_parser = absolute)]
    destdir: PathBuf,

    /// What is /usr below it, other than that for a package only; the files themselves say /usr
    #[arg(long, value_name = "DIR", default_value = "/usr")]
    prefix: PathBuf,
}

/// A place that does not exist yet has parents to create only if its path names them all.
fn absolute(path: &str) -> io::Result<PathBuf> {
    std::path::absolute(path)
}

pub fn install(options: &InstallOptions) -> Result<Verdict> {
    options.place.expect_to_be_looked_at()?;
    let built = if let Some(directory) = &options.built {
        directory.clone()
    } else {
        let workspace = Workspace::locate()?;
        let early = build::preferred(&workspace, arch::of_this_machine(), None, options.musl)?;
        build_all(&workspace, &early.path, Profile::Release)?
    };
    let tree = options.place.tree();
    if !tree.is_writable() {
        return options.place.with_sudo(&["install", "--built"], &[&built]);
    }
    Ok(tell(tree.install(&source_root()?, &built)?, "installed below", &tree))
}

/// How the host tool is built.
#[derive(Clone, Copy)]
pub enum Profile {
    Release,
    /// As `cargo test` has built it already.
    Debug,
}

/// Gathers all that is built, with this early binary: the host tool, its manual and its completions.
pub fn build_all(workspace: &Workspace, early: &Path, profile: Profile) -> Result<PathBuf> {
    let (option, directory) = match profile {
        Profile::Release => (Some("--release"), "release"),
        Profile::Debug => (None, "debug"),
    };
    let mut cargo = Command::new(workspace::cargo());
    cargo.args(["build", "--locked", "--quiet", "--bin", TOOL]).args(option);
    cargo.current_dir(&workspace.root);
    progress::phase("build the host tool", || command::check(&mut cargo))?;
    let tool = workspace.target.join(directory).join(TOOL);
    let built = workspace.scratch("install")?;
    fs::remove_dir_all(&built).with_context(|| format!("cannot empty {}", built.display()))?;
    command::check(Command::new(&tool).arg("generate").arg(&built))?;
    for (from, name) in [(early, EARLY), (&tool, TOOL)] {
        fs::copy(from, built.join(name))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(built)
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

    fn expect_to_be_looked_at(&self) -> Result<()> {
        let is_live = self.destdir.canonicalize().is_ok_and(|path| path == Path::new("/"));
        if is_live && self.tree().usr != Path::new("/usr") {
            bail!(
                "--prefix {} is for a package, with --destdir: the generators, udev and systemd of this machine look \
                 below /usr and would never start what is installed there",
                self.prefix.display()
            );
        }
        Ok(())
    }

    /// Does the same once more as root, without cargo, which root may not have.
    fn with_sudo(&self, arguments: &[&str], files: &[&Path]) -> Result<Verdict> {
        let sudo = sudo_for(&self.tree().usr, geteuid().is_root(), setup::program("sudo"))?;
        let mut again = Command::new(sudo);
        again.arg(env::current_exe().context("cannot find this program")?);
        again.args(arguments).args(files);
        again.arg("--destdir").arg(&self.destdir).arg("--prefix").arg(&self.prefix);
        progress::note(command::line(&again));
        let status = again.status().context("cannot start sudo")?;
        Ok(if status.success() { Verdict::Good } else { Verdict::Bad })
    }
}

/// The program that can write where this user cannot; whoever is root already would only meet the same again.
fn sudo_for(usr: &Path, is_root: bool, sudo: Option<PathBuf>) -> Result<PathBuf> {
    match sudo {
        _ if is_root => bail!("cannot write to {}", usr.display()),
        None => bail!("cannot write to {}, and there is no sudo", usr.display()),
        Some(sudo) => Ok(sudo),
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
    pub fn install(&self, project: &Path, built: &Path) -> Result<Outcome> {
        let (present, missing): (Vec<PathBuf>, Vec<PathBuf>) =
            self.places().partition(|path| path.symlink_metadata().is_ok());
        if !present.is_empty() && !missing.is_empty() {
            return Ok(Outcome::Refused(format!(
                "half installed, nothing was touched; missing:\n    {}\n\
                 remove the rest first: cargo xtask uninstall",
                lines(&missing)
            )));
        }
        let staged = self.stage_all(project, built).inspect_err(|_| {
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
        let staged = self.staged();
        if staged.is_empty() && !self.places().any(|path| path.symlink_metadata().is_ok()) {
            let usr = self.usr.display();
            return Ok(Outcome::Refused(format!("not installed below {usr}")));
        }
        for path in staged.into_iter().chain(self.places()) {
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
        FILES.iter().map(|file| file.place).chain([WANTS.0]).map(|place| self.usr.join(place))
    }

    /// What a run that was killed left beside the places.
    fn staged(&self) -> Vec<PathBuf> {
        let directories: BTreeSet<PathBuf> =
            self.places().filter_map(|path| path.parent().map(Path::to_owned)).collect();
        let entries = directories.iter().filter_map(|path| fs::read_dir(path).ok()).flatten();
        let is_staged = |path: &PathBuf| {
            path.file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(STAGED.as_bytes()))
        };
        entries.flatten().map(|entry| entry.path()).filter(is_staged).collect()
    }

    fn stage_all(&self, project: &Path, built: &Path) -> Result<Vec<(NamedTempFile, PathBuf)>> {
        let entries =
            fs::read_dir(built).with_context(|| format!("cannot read {}", built.display()))?;
        for entry in entries {
            let name = entry?.file_name();
            let is_known =
                |file: &File| matches!(file.source, Source::Built(known) if known == name);
            if !FILES.iter().any(is_known) {
                bail!("{} is built, but has no place to be installed to", name.display());
            }
        }
        let stage = |file: &File| {
            let source = match file.source {
                Source::Project(path) => project.join(path),
                Source::Built(name) => built.join(name),
            };
            self.stage(&source, file.place, file.mode)
        };
        FILES.iter().map(stage).collect()
    }

    /// Writes a file beside its place; it goes away again if it does not get there.
    fn stage(&self, source: &Path, place: &str, mode: u32) -> Result<(NamedTempFile, PathBuf)> {
        let bytes =
            fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        let path = self.usr.join(place);
        let directory = make_directory_of(&path)?;
        let write = || -> io::Result<NamedTempFile> {
            let mut file = tempfile::Builder::new().prefix(STAGED).tempfile_in(directory)?;
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
            .is_some_and(|directory| tempfile::tempfile_in(directory).is_ok())
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn make_directory_of(path: &Path) -> Result<&Path> {
    let directory = path.parent().unwrap_or(path);
    let missing = directory.ancestors().take_while(|path| !path.is_dir()).collect::<Vec<_>>();
    let make = || -> io::Result<()> {
        fs::create_dir_all(directory)?;
        // Whatever the umask: udev and systemd are root's, but the manual and the host tool are everybody's.
        let everybodys = |path| fs::set_permissions(path, fs::Permissions::from_mode(0o755));
        missing.into_iter().try_for_each(everybodys)
    };
    make().with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

fn lines(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join("\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty place, and something to install there as what was built.
    fn place() -> Result<(tempfile::TempDir, Tree, PathBuf)> {
        let directory = tempfile::tempdir()?;
        let built = directory.path().join("built");
        fs::create_dir(&built)?;
        for file in &FILES {
            if let Source::Built(name) = file.source {
                fs::write(built.join(name), name)?;
            }
        }
        let top = directory.path().join("root");
        fs::create_dir(&top)?;
        let tree = Tree::at(&top);
        Ok((directory, tree, built))
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
        let (_directory, tree, built) = place()?;
        assert_eq!(tree.install(&source_root()?, &built)?, Outcome::Done);
        assert_eq!(
            listing(&tree)?,
            [
                "644 usr/lib/initcpio/hooks/vfio-override",
                "644 usr/lib/initcpio/install/vfio-override",
                "644 usr/lib/systemd/system/vfio-override-initrd.service",
                "644 usr/lib/systemd/system/vfio-override.service",
                "644 usr/lib/udev/rules.d/70-vfio-override.rules",
                "644 usr/share/bash-completion/completions/vfio-override",
                "644 usr/share/doc/vfio-override/json.md",
                "644 usr/share/doc/vfio-override/vfio-override.schema.json",
                "644 usr/share/fish/vendor_completions.d/vfio-override.fish",
                "644 usr/share/man/man7/vfio-override.7",
                "644 usr/share/man/man8/vfio-override-apply.8",
                "644 usr/share/man/man8/vfio-override-collect.8",
                "644 usr/share/man/man8/vfio-override-early.8",
                "644 usr/share/man/man8/vfio-override-list.8",
                "644 usr/share/man/man8/vfio-override-plan.8",
                "644 usr/share/man/man8/vfio-override-release.8",
                "644 usr/share/man/man8/vfio-override-status.8",
                "644 usr/share/man/man8/vfio-override-suggest.8",
                "644 usr/share/man/man8/vfio-override.8",
                "644 usr/share/zsh/site-functions/_vfio-override",
                "755 usr/bin/vfio-override",
                "755 usr/lib/dracut/modules.d/90vfio-override/module-setup.sh",
                "755 usr/lib/dracut/modules.d/90vfio-override/vfio-override.sh",
                "755 usr/lib/vfio-override/vfio-override-early",
                "755 usr/share/initramfs-tools/hooks/vfio-override",
            ]
        );
        let wants = tree.usr.join(WANTS.0);
        assert_eq!(
            fs::read(&wants)?,
            fs::read(tree.usr.join("lib/systemd/system/vfio-override.service"))?
        );
        for directory in wants.ancestors().skip(1).take_while(|path| **path != *tree.top) {
            let mode = fs::metadata(directory)?.permissions().mode() & 0o777;
            assert_eq!(mode, 0o755, "{}", directory.display());
        }
        Ok(())
    }

    #[test]
    fn everybody_can_read_what_a_careful_root_installs() -> Result<()> {
        // The umask is that of the whole process.
        const AGAIN: &str = r#"umask 077 && exec "$0" --exact "$1""#;
        let test = "deliver::install::tests::everything_is_where_the_generators_look";
        let mut again = Command::new("sh");
        again.args(["-c", AGAIN]).arg(env::current_exe()?).arg(test);
        let said = command::text_of(&command::check(&mut again)?);
        assert!(said.contains("1 passed"), "{said}");
        Ok(())
    }

    #[test]
    fn what_a_killed_run_left_is_removed() -> Result<()> {
        let (_directory, tree, built) = place()?;
        // As after a kill: nothing is removed, nothing gets to its place.
        for (file, _) in tree.stage_all(&source_root()?, &built)? {
            file.keep()?;
        }
        assert_eq!(listing(&tree)?.len(), FILES.len());
        assert_eq!(tree.uninstall()?, Outcome::Done);
        assert_eq!(fs::read_dir(&tree.top)?.count(), 0);
        Ok(())
    }

    #[test]
    fn what_is_built_is_installed() -> Result<()> {
        let (_directory, tree, built) = place()?;
        fs::write(built.join("vfio-override-new.8"), "")?;
        let error = tree.install(&source_root()?, &built).map_err(|error| error.to_string());
        assert_eq!(
            error,
            Err("vfio-override-new.8 is built, but has no place to be installed to".to_owned())
        );
        Ok(())
    }

    #[test]
    fn nothing_is_left_behind() -> Result<()> {
        let (_directory, tree, built) = place()?;
        tree.install(&source_root()?, &built)?;
        assert_eq!(tree.uninstall()?, Outcome::Done);
        assert_eq!(fs::read_dir(&tree.top)?.count(), 0);
        assert!(matches!(tree.uninstall()?, Outcome::Refused(_)));
        Ok(())
    }

    #[test]
    fn the_files_of_others_stay() -> Result<()> {
        let (_directory, tree, built) = place()?;
        let other = tree.usr.join("lib/udev/rules.d/80-drivers.rules");
        fs::create_dir_all(other.parent().context("it has a parent")?)?;
        fs::write(&other, "")?;
        tree.install(&source_root()?, &built)?;
        tree.uninstall()?;
        assert_eq!(listing(&tree)?, ["644 usr/lib/udev/rules.d/80-drivers.rules"]);
        Ok(())
    }

    #[test]
    fn installing_again_replaces_everything() -> Result<()> {
        let (_directory, tree, built) = place()?;
        tree.install(&source_root()?, &built)?;
        let before = listing(&tree)?;
        fs::write(built.join(EARLY), "another")?;
        assert_eq!(tree.install(&source_root()?, &built)?, Outcome::Done);
        assert_eq!(listing(&tree)?, before);
        assert_eq!(fs::read(tree.usr.join(FILES[0].place))?, b"another");
        Ok(())
    }

    #[test]
    fn a_half_installed_state_is_refused_and_can_be_removed() -> Result<()> {
        for File { place: place_of_one, .. } in &FILES {
            let (_directory, tree, built) = place()?;
            tree.install(&source_root()?, &built)?;
            fs::remove_file(tree.usr.join(place_of_one))?;
            let before = listing(&tree)?;
            let Outcome::Refused(reason) = tree.install(&source_root()?, &built)? else {
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
        let (_directory, tree, built) = place()?;
        // The last file cannot be staged.
        fs::create_dir_all(tree.usr.join("lib/udev"))?;
        fs::write(tree.usr.join("lib/udev/rules.d"), "no directory")?;
        assert!(tree.install(&source_root()?, &built).is_err());
        assert_eq!(listing(&tree)?, ["644 usr/lib/udev/rules.d"]);
        assert_eq!(fs::read_dir(tree.usr.join("lib"))?.count(), 1);
        Ok(())
    }

    #[test]
    fn sudo_is_not_tried_as_root() -> Result<()> {
        let sudo = || Some(PathBuf::from("/usr/bin/sudo"));
        let usr = Path::new("/usr");
        let refused =
            |is_root, sudo| sudo_for(usr, is_root, sudo).map_err(|error| error.to_string());
        assert_eq!(refused(true, sudo()), Err("cannot write to /usr".to_owned()));
        assert_eq!(refused(true, None), Err("cannot write to /usr".to_owned()));
        assert_eq!(
            refused(false, None),
            Err("cannot write to /usr, and there is no sudo".to_owned())
        );
        assert_eq!(sudo_for(usr, false, sudo())?, Path::new("/usr/bin/sudo"));
        Ok(())
    }

    #[test]
    fn this_machine_looks_below_usr_only() {
        let expect = |destdir: &str, prefix: &str| {
            Place { destdir: destdir.into(), prefix: prefix.into() }
                .expect_to_be_looked_at()
                .map_err(|error| error.to_string())
        };
        for (destdir, prefix) in
            [("/", "/usr"), ("//", "usr/"), ("/tmp", "/usr/local"), ("/nowhere", "/opt")]
        {
            assert_eq!(expect(destdir, prefix), Ok(()), "{destdir} {prefix}");
        }
        for destdir in ["/", "//", "/tmp/.."] {
            let refused = expect(destdir, "/usr/local");
            assert!(
                refused.is_err_and(|text| text.starts_with("--prefix /usr/local is for a package")),
                "{destdir}"
            );
        }
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
