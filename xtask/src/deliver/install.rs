// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask install` and `uninstall`: builds, and calls the Makefile, which has the list of files.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::unistd::geteuid;

use super::dist::Built;
use crate::build::MuslOptions;
use crate::ground::arch;
use crate::ground::command;
use crate::ground::progress;
use crate::ground::setup;
use crate::ground::verdict::Verdict;
use crate::ground::workspace::{self, Workspace};

/// Names of what is built.
const EARLY: &str = "vfio-override-early";
const TOOL: &str = "vfio-override";

/// Install the early binary, the hooks, the udev rule, the units and the host tool with its manual
///
/// Builds them, and calls the Makefile. Installing again replaces all of them, and completes what is half installed.
/// Without write access to the place sudo is used, if it is there, for the copying alone.
#[derive(Args)]
pub struct InstallOptions {
    #[command(flatten)]
    place: Destination,

    #[command(flatten)]
    musl: MuslOptions,
}

/// Remove all that `cargo xtask install` has put there, also in a run that was killed, and the directories that this empties
#[derive(Args)]
pub struct UninstallOptions {
    #[command(flatten)]
    place: Destination,
}

#[derive(Args)]
struct Destination {
    /// Where the root directory is, for a package
    #[arg(long, value_name = "DIR", default_value = "/", value_parser = absolute)]
    destdir: PathBuf,

    /// What is /usr below it, other than that for a package only; the files themselves say /usr
    #[arg(long, value_name = "DIR", default_value = "/usr")]
    prefix: PathBuf,
}

/// The Makefile runs in the project's directory.
fn absolute(path: &str) -> io::Result<PathBuf> {
    std::path::absolute(path)
}

pub fn install(options: &InstallOptions) -> Result<Verdict> {
    setup::ensure(&[&setup::MAKE])?;
    let workspace = Workspace::locate()?;
    let built = Built::make(&workspace, arch::of_this_machine(), options.musl)?;
    options.place.make(&workspace, "install", Some(&built.directory))
}

pub fn uninstall(options: &UninstallOptions) -> Result<Verdict> {
    setup::ensure(&[&setup::MAKE])?;
    options.place.make(&Workspace::locate()?, "uninstall", None)
}

/// Gathers what images are tried with: this early binary, and the host tool as `cargo test` has built it already.
pub fn gather_for_tests(workspace: &Workspace, early: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new(workspace::cargo());
    cargo.args(["build", "--locked", "--quiet", "--bin", TOOL]).current_dir(&workspace.root);
    progress::phase("build the host tool", || command::check(&mut cargo))?;
    let tool = workspace.target.join("debug").join(TOOL);
    gather(workspace, "install", early, &tool, &tool)
}

/// Puts all that is built into one directory: this early binary, this host tool, and the manual and completions that the
/// host tool of this machine makes.
pub fn gather(
    workspace: &Workspace,
    name: &str,
    early: &Path,
    tool: &Path,
    native: &Path,
) -> Result<PathBuf> {
    let built = workspace.scratch(name)?;
    fs::remove_dir_all(&built).with_context(|| format!("cannot empty {}", built.display()))?;
    command::check(Command::new(native).arg("generate").arg(&built))?;
    for (from, name) in [(early, EARLY), (tool, TOOL)] {
        fs::copy(from, built.join(name))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(built)
}

impl Destination {
    fn make(&self, workspace: &Workspace, target: &str, built: Option<&Path>) -> Result<Verdict> {
        let usr = self.destdir.join(self.prefix.strip_prefix("/").unwrap_or(&self.prefix));
        let program = if is_writable(&usr) {
            "make".into()
        } else {
            sudo_for(&usr, geteuid().is_root(), setup::program("sudo"))?
        };
        let mut make = Command::new(&program);
        if !program.ends_with("make") {
            make.arg("make");
        }
        arguments(&mut make, &workspace.root, target, built, &self.destdir);
        make.arg(variable("PREFIX", &self.prefix));
        progress::note(command::line(&make));
        let status =
            make.status().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(if status.success() { Verdict::Good } else { Verdict::Bad })
    }
}

/// Installs what is built to a root directory, as a package would.
pub fn install_to(root: &Path, project: &Path, built: &Path) -> Result<()> {
    let mut make = Command::new("make");
    arguments(&mut make, project, "install", Some(built), root);
    command::check(&mut make).map(drop)
}

fn arguments(
    make: &mut Command,
    project: &Path,
    target: &str,
    built: Option<&Path>,
    destdir: &Path,
) {
    make.args(["--no-print-directory", "-C"]).arg(project).arg(target);
    make.args(built.map(|built| variable("BUILT", built)));
    make.arg(variable("DESTDIR", destdir));
}

fn variable(name: &str, path: &Path) -> OsString {
    let mut text = OsString::from(name);
    text.push("=");
    text.push(path);
    text
}

/// Whether this user may create files there; what does not exist yet is asked of its parent.
fn is_writable(directory: &Path) -> bool {
    directory
        .ancestors()
        .find(|path| path.is_dir())
        .is_some_and(|directory| tempfile::tempfile_in(directory).is_ok())
}

/// The program that can write where this user cannot; whoever is root already would only meet the same again.
fn sudo_for(usr: &Path, is_root: bool, sudo: Option<PathBuf>) -> Result<PathBuf> {
    match sudo {
        _ if is_root => bail!("cannot write to {}", usr.display()),
        None => bail!("cannot write to {}, and there is no sudo", usr.display()),
        Some(sudo) => Ok(sudo),
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::deliver::first;

    /// A program that stands before the real one, and sends what called it a signal once it was called so often.
    const CUT: &str = r#"#!/bin/sh
echo >>"$0.count"
if [ "$(wc -l <"$0.count")" -gt "$CUT" ]; then kill -"$SIGNAL" "$PPID"; [ "$SIGNAL" != KILL ] || exit; fi
exec "/bin/${0##*/}" "$@"
"#;

    /// Installs to file systems of ever more inodes until one is large enough; fails where less is left than the old set.
    const NO_ROOM: &str = r#"
mount -t tmpfs tmpfs "$2" && cd "$2" || exit
look() { find . ! -type d ! -name filler -exec md5sum {} + | sort; }
for free in 5 20 40 60 $(seq 70 200); do
    rm -rf usr filler* && mkdir -p usr/bin usr/lib/vfio-override || exit
    for place in bin/vfio-override lib/vfio-override/vfio-override-early; do echo old >"usr/$place"; done
    old=$(look)
    mount -o "remount,nr_inodes=$(($(df --output=iused . | tail -n 1) + free))" . || exit
    if make --no-print-directory -C "$1" install DESTDIR="$2" BUILT="$3" 2>/dev/null; then echo "enough: $free"; exit; fi
    [ "$(look)" = "$old" ] || { echo "$free: $(look)"; exit 1; }
    mount -o remount,nr_inodes=1000 .
done
exit 1"#;

    /// An empty root directory, and something to install there as what was built.
    struct Bench {
        directory: tempfile::TempDir,
        project: PathBuf,
    }

    fn project() -> Result<PathBuf> {
        let parent = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        parent.map(Path::to_owned).context("xtask is not in the project")
    }

    impl Bench {
        fn new() -> Result<Self> {
            let directory = tempfile::tempdir()?;
            for name in ["built", "root"] {
                fs::create_dir(directory.path().join(name))?;
            }
            let project = project()?;
            let bench = Self { directory, project };
            for name in bench.list()?.iter().filter_map(|line| line[1].strip_prefix("BUILT/")) {
                fs::write(bench.built().join(name), name)?;
            }
            Ok(bench)
        }

        fn built(&self) -> PathBuf {
            self.directory.path().join("built")
        }

        fn root(&self) -> PathBuf {
            self.directory.path().join("root")
        }

        /// The lines of the list.
        fn list(&self) -> Result<Vec<[String; 3]>> {
            let text = fs::read_to_string(self.project.join("packaging/files"))?;
            let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
            let fields = |line: &str| {
                let fields: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
                fields.try_into().ok().with_context(|| format!("not three fields: {line}"))
            };
            lines.map(fields).collect()
        }

        fn make(&self, target: &str) -> Command {
            // What started the tests may ignore them, as a shell does for what it starts in the background.
            let mut make = Command::new("env");
            make.args(["--default-signal=HUP,INT,TERM", "make"]);
            arguments(&mut make, &self.project, target, Some(&self.built()), &self.root());
            make
        }

        fn install(&self) -> Result<()> {
            install_to(&self.root(), &self.project, &self.built())
        }

        fn uninstall(&self) -> Result<()> {
            command::check(&mut self.make("uninstall")).map(drop)
        }

        /// Every file and link with its mode, sorted.
        fn listing(&self) -> Result<Vec<String>> {
            let mut find = Command::new("find");
            find.arg(self.root()).args(["!", "-type", "d", "-printf", "%m %P\n"]);
            let mut lines: Vec<String> =
                command::stdout(&mut find)?.lines().map(str::to_owned).collect();
            lines.sort();
            Ok(lines)
        }

        fn is_empty(&self) -> Result<bool> {
            Ok(fs::read_dir(self.root())?.next().is_none())
        }

        /// What the version before left, each file with this text.
        fn lay_first(&self) -> Result<()> {
            for place in first::PLACES.lines() {
                let path = self.root().join("usr").join(place);
                fs::create_dir_all(path.parent().context("it has a parent")?)?;
                fs::write(&path, "0.1.0")?;
            }
            let wants = self.root().join("usr/lib/systemd/system/multi-user.target.wants");
            fs::create_dir_all(&wants)?;
            symlink("../vfio-override.service", wants.join("vfio-override.service"))?;
            Ok(())
        }

        /// Runs it until a program was called this often, and is sent a signal there; whether it came to its end.
        fn cut_after(&self, name: &str, times: usize, signal: &str) -> Result<bool> {
            let bin = self.directory.path().join(format!("before-{name}"));
            fs::create_dir_all(&bin)?;
            let program = bin.join(name);
            fs::write(&program, CUT)?;
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
            let _ = fs::remove_file(bin.join(format!("{name}.count")));
            let path = env::var_os("PATH").unwrap_or_default();
            let paths = std::iter::once(bin).chain(env::split_paths(&path));
            let mut make = self.make("install");
            make.env("PATH", env::join_paths(paths)?);
            make.env("CUT", times.to_string()).env("SIGNAL", signal);
            Ok(command::output(&mut make)?.status.success())
        }
    }

    #[test]
    fn everything_is_where_the_generators_look() -> Result<()> {
        let bench = Bench::new()?;
        bench.install()?;
        assert_eq!(
            bench.listing()?,
            [
                "644 usr/lib/initcpio/hooks/vfio-override",
                "644 usr/lib/initcpio/install/vfio-override",
                "644 usr/lib/systemd/system/vfio-override-initrd.service",
                "644 usr/lib/systemd/system/vfio-override.service",
                "644 usr/lib/udev/rules.d/70-vfio-override.rules",
                "644 usr/share/bash-completion/completions/vfio-override",
                "644 usr/share/doc/vfio-override/alpine.md",
                "644 usr/share/doc/vfio-override/appliances.md",
                "644 usr/share/doc/vfio-override/architectures.md",
                "644 usr/share/doc/vfio-override/dracut.md",
                "644 usr/share/doc/vfio-override/grub.md",
                "644 usr/share/doc/vfio-override/initramfs-tools.md",
                "644 usr/share/doc/vfio-override/json.md",
                "644 usr/share/doc/vfio-override/kernel-install.md",
                "644 usr/share/doc/vfio-override/limine.md",
                "644 usr/share/doc/vfio-override/mkinitcpio.md",
                "644 usr/share/doc/vfio-override/nixos.md",
                "644 usr/share/doc/vfio-override/opensuse.md",
                "644 usr/share/doc/vfio-override/ostree.md",
                "644 usr/share/doc/vfio-override/others.md",
                "644 usr/share/doc/vfio-override/overlay.md",
                "644 usr/share/doc/vfio-override/packages.md",
                "644 usr/share/doc/vfio-override/proxmox.md",
                "644 usr/share/doc/vfio-override/raspberry-pi.md",
                "644 usr/share/doc/vfio-override/refind.md",
                "644 usr/share/doc/vfio-override/sriov.md",
                "644 usr/share/doc/vfio-override/systemd-boot.md",
                "644 usr/share/doc/vfio-override/systemd.md",
                "644 usr/share/doc/vfio-override/uki.md",
                "644 usr/share/doc/vfio-override/vfio-override.schema.json",
                "644 usr/share/doc/vfio-override/zfsbootmenu.md",
                "644 usr/share/fish/vendor_completions.d/vfio-override.fish",
                "644 usr/share/man/man7/vfio-override.7.gz",
                "644 usr/share/man/man8/vfio-override-apply.8.gz",
                "644 usr/share/man/man8/vfio-override-claims.8.gz",
                "644 usr/share/man/man8/vfio-override-collect.8.gz",
                "644 usr/share/man/man8/vfio-override-early.8.gz",
                "644 usr/share/man/man8/vfio-override-list.8.gz",
                "644 usr/share/man/man8/vfio-override-plan.8.gz",
                "644 usr/share/man/man8/vfio-override-release.8.gz",
                "644 usr/share/man/man8/vfio-override-status.8.gz",
                "644 usr/share/man/man8/vfio-override-suggest.8.gz",
                "644 usr/share/man/man8/vfio-override.8.gz",
                "644 usr/share/zsh/site-functions/_vfio-override",
                "755 usr/bin/vfio-override",
                "755 usr/lib/dracut/modules.d/50vfio-override/module-setup.sh",
                "755 usr/lib/dracut/modules.d/50vfio-override/vfio-override.sh",
                "755 usr/lib/vfio-override/removable",
                "755 usr/lib/vfio-override/vfio-override-early",
                "755 usr/share/initramfs-tools/hooks/vfio-override",
                "777 usr/lib/systemd/system/multi-user.target.wants/vfio-override.service",
            ]
        );
        let units = bench.root().join("usr/lib/systemd/system");
        let wanted = units.join("multi-user.target.wants/vfio-override.service");
        assert_eq!(fs::read(wanted)?, fs::read(units.join("vfio-override.service"))?);
        let mut find = Command::new("find");
        find.arg(bench.root()).args(["-mindepth", "1", "-type", "d", "!", "-perm", "755"]);
        assert_eq!(command::stdout(&mut find)?, "");
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
    fn what_is_built_is_installed() -> Result<()> {
        let bench = Bench::new()?;
        fs::write(bench.built().join("vfio-override-new.8"), "")?;
        let said = command::text_of(&command::output(&mut bench.make("install"))?);
        assert!(
            said.contains("vfio-override-new.8 is built, but has no place to be installed to"),
            "{said}"
        );
        assert!(bench.is_empty()?);
        Ok(())
    }

    #[test]
    fn nothing_is_left_behind() -> Result<()> {
        let bench = Bench::new()?;
        bench.install()?;
        bench.uninstall()?;
        assert!(bench.is_empty()?);
        assert!(bench.uninstall().is_err_and(|error| error.to_string().contains("not installed")));
        Ok(())
    }

    #[test]
    fn the_files_of_others_stay() -> Result<()> {
        let bench = Bench::new()?;
        let other = bench.root().join("usr/lib/udev/rules.d/80-drivers.rules");
        fs::create_dir_all(other.parent().context("it has a parent")?)?;
        fs::write(&other, "")?;
        bench.install()?;
        bench.uninstall()?;
        assert_eq!(bench.listing()?, ["644 usr/lib/udev/rules.d/80-drivers.rules"]);
        Ok(())
    }

    #[test]
    fn an_upgrade_leaves_nothing_of_the_version_before() -> Result<()> {
        let fresh = Bench::new()?;
        fresh.install()?;
        let bench = Bench::new()?;
        bench.lay_first()?;
        bench.install()?;
        assert_eq!(bench.listing()?, fresh.listing()?);
        bench.uninstall()?;
        assert!(bench.is_empty()?);

        // Nor does it stay where it is not upgraded at all.
        bench.lay_first()?;
        bench.uninstall()?;
        assert!(bench.is_empty()?);
        Ok(())
    }

    #[test]
    fn installing_completes_what_is_half_installed() -> Result<()> {
        let bench = Bench::new()?;
        bench.install()?;
        let whole = bench.listing()?;
        for [_, _, place] in bench.list()?.iter().filter(|[what, ..]| what != "gone") {
            fs::remove_file(bench.root().join("usr").join(place))?;
            bench.install()?;
            assert_eq!(bench.listing()?, whole, "{place}");
        }
        Ok(())
    }

    #[test]
    fn a_run_that_is_cut_short_leaves_one_version_or_says_so() -> Result<()> {
        let mark = "644 usr/lib/vfio-override/.incomplete";
        let fresh = Bench::new()?;
        fresh.install()?;
        let whole = fresh.listing()?;
        for renamed in 0.. {
            let bench = Bench::new()?;
            bench.lay_first()?;
            if bench.cut_after("mv", renamed, "KILL")? {
                assert_eq!(bench.listing()?, whole);
                assert!(renamed > 20, "nothing was cut after {renamed}");
                return Ok(());
            }
            assert!(bench.listing()?.iter().any(|line| line == mark), "{renamed} renamed");
            // Both are ways out of it.
            if renamed % 2 == 0 {
                bench.install()?;
                assert_eq!(bench.listing()?, whole, "{renamed} renamed");
            } else {
                bench.uninstall()?;
                assert!(bench.is_empty()?, "{renamed} renamed");
            }
        }
        Ok(())
    }

    #[test]
    fn whoever_interrupts_it_finds_the_old_set_or_the_new_one() -> Result<()> {
        let fresh = Bench::new()?;
        fresh.install()?;
        let whole = fresh.listing()?;
        for signal in ["HUP", "INT", "TERM"] {
            for (name, times, is_whole) in
                [("mkdir", 0, false), ("cp", 10, false), ("gzip", 3, false), ("mv", 10, true)]
            {
                let bench = Bench::new()?;
                let ended = bench.cut_after(name, times, signal)?;
                assert_eq!(ended, is_whole, "{signal}, {name} {times}");
                if is_whole {
                    assert_eq!(bench.listing()?, whole, "{signal}, {name} {times}");
                } else {
                    assert!(bench.is_empty()?, "{signal}, {name} {times}: {:?}", bench.listing()?);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_disk_without_room_keeps_the_old_set() -> Result<()> {
        let bench = Bench::new()?;
        let mut shell = Command::new("unshare");
        if !geteuid().is_root() {
            shell.arg("--map-root-user");
        }
        shell.args(["--mount", "sh", "-uc", NO_ROOM, "sh"]).arg(&bench.project);
        shell.arg(bench.root()).arg(bench.built());
        let said = command::text_of(&command::check(&mut shell)?);
        let enough = said.trim().strip_prefix("enough: ").and_then(|free| free.parse::<u32>().ok());
        assert!(enough.is_some_and(|free| free > 60), "{said}");
        Ok(())
    }

    #[test]
    fn a_directory_in_the_place_of_a_file_is_refused_before_anything_changes() -> Result<()> {
        let bench = Bench::new()?;
        for [_, _, place] in bench.list()? {
            let directory = bench.root().join("usr").join(&place);
            fs::create_dir_all(&directory)?;
            let said = command::text_of(&command::output(&mut bench.make("install"))?);
            assert!(said.contains(&format!("/usr/{place} is a directory")), "{said}");
            assert!(bench.listing()?.is_empty(), "{place}");
            fs::remove_dir_all(bench.root().join("usr"))?;
        }
        bench.install()?;
        let directory = bench.root().join("usr/bin/vfio-override");
        fs::remove_file(&directory)?;
        fs::create_dir(&directory)?;
        let before = bench.listing()?;
        let said = command::text_of(&command::output(&mut bench.make("uninstall"))?);
        assert!(said.contains("/usr/bin/vfio-override is a directory"), "{said}");
        assert_eq!(bench.listing()?, before);
        Ok(())
    }

    #[test]
    fn no_link_is_written_through() -> Result<()> {
        let bench = Bench::new()?;
        let other = bench.directory.path().join("other");
        fs::write(&other, "precious")?;
        for [_, _, place] in bench.list()?.iter().filter(|[what, ..]| what != "gone") {
            let place = bench.root().join("usr").join(place);
            let parent = place.parent().context("it has a parent")?;
            let name = place.file_name().context("it is a file")?.display();
            fs::create_dir_all(parent)?;
            symlink(&other, &place)?;
            symlink(&other, parent.join(format!(".vfio-override-new-{name}")))?;
        }
        bench.install()?;
        assert_eq!(fs::read_to_string(&other)?, "precious");
        let fresh = Bench::new()?;
        fresh.install()?;
        assert_eq!(bench.listing()?, fresh.listing()?);
        Ok(())
    }

    #[test]
    fn a_failure_leaves_no_half_installed_state() -> Result<()> {
        let bench = Bench::new()?;
        // One of the files cannot be staged.
        let usr = bench.root().join("usr");
        fs::create_dir_all(usr.join("lib/udev"))?;
        fs::write(usr.join("lib/udev/rules.d"), "no directory")?;
        assert!(bench.install().is_err());
        assert_eq!(bench.listing()?, ["644 usr/lib/udev/rules.d"]);
        assert_eq!(fs::read_dir(usr.join("lib"))?.count(), 1);
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
    fn this_machine_looks_below_usr_only() -> Result<()> {
        let project = project()?;
        for destdir in ["", "/", "//", "/tmp/.."] {
            let mut make = Command::new("make");
            arguments(&mut make, &project, "install", None, Path::new(destdir));
            let said = command::text_of(&command::output(make.arg("PREFIX=/usr/local"))?);
            assert!(said.contains("PREFIX=/usr/local is for a package"), "{destdir}: {said}");
        }
        Ok(())
    }

    #[test]
    fn the_prefix_is_below_the_destination() -> Result<()> {
        let bench = Bench::new()?;
        for prefix in ["opt", "/opt/", "/opt"] {
            command::check(bench.make("install").arg(format!("PREFIX={prefix}")))?;
            assert!(bench.root().join("opt/bin/vfio-override").is_file());
            command::check(bench.make("uninstall").arg(format!("PREFIX={prefix}")))?;
            assert!(bench.is_empty()?);
        }
        for prefix in ["", "/"] {
            command::check(bench.make("install").arg(format!("PREFIX={prefix}")))?;
            assert!(bench.root().join("bin/vfio-override").is_file());
            command::check(bench.make("uninstall").arg(format!("PREFIX={prefix}")))?;
            assert!(bench.is_empty()?);
        }
        Ok(())
    }
}
