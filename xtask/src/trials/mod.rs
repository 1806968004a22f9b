// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packages as people meet them: installed, used, upgraded and removed by the real package managers, and booted from the
//! image that the package's own trigger made.

mod alpine;
pub mod debian;
mod foreign;
mod previous;
pub mod root;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use self::root::{Besides, Generator, Layer, System};
use crate::cases::suite::{Judgement, Tally};
use crate::deliver::changelog::Release;
use crate::deliver::dist::{self, Built};
use crate::generators::{self, Checkouts};
use crate::ground::arch::Arch;
use crate::ground::command;
use crate::ground::pool;
use crate::ground::progress;
use crate::ground::workspace::Workspace;
use crate::guest::kernel::Kernel;

/// The managers of Fedora, openSUSE and Arch, which Debian has, and what makes their images here.
const FOREIGN: Besides = Besides {
    name: "others' managers",
    packages: &["dnf", "dracut-core", "pacman-package-manager", "rpm", "zypper"],
};

const SYSTEMS: [System; 6] = {
    use Generator::{Dracut, InitramfsTools};
    [
        System { besides: Some(FOREIGN), ..System::of("trixie", InitramfsTools) },
        System::of("trixie", Dracut),
        System::of("bookworm", InitramfsTools),
        System::of("bookworm", Dracut),
        System::of("sid", InitramfsTools),
        System::of("sid", Dracut),
    ]
};

/// Where apk, abuild and mkinitfs are built, for no Debian has them.
const ALPINE: System = System {
    besides: Some(Besides { name: "Alpine's tools", packages: &alpine::PACKAGES }),
    ..System::of("trixie", Generator::InitramfsTools)
};

/// A trial of a package on a system.
pub struct Trial {
    system: &'static System,
    package: Package,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Package {
    Deb,
    Rpm,
    Pacman,
    Apk,
}

impl Trial {
    /// The one that takes checkouts.
    pub const ALPINE: Self = Self { system: &ALPINE, package: Package::Apk };

    /// Every trial; those of the first system are for every change.
    pub fn all(is_long: bool) -> Vec<Self> {
        let systems = SYSTEMS.iter().take(if is_long { SYSTEMS.len() } else { 1 });
        let packages = |system: &'static System| {
            let others: &[Package] =
                if system.besides.is_none() { &[] } else { &[Package::Rpm, Package::Pacman] };
            [Package::Deb].iter().chain(others).map(move |&package| Self { system, package })
        };
        systems.flat_map(packages).collect()
    }

    pub fn name(&self) -> String {
        let System { suite, generator, .. } = self.system;
        match self.package {
            Package::Deb => format!("package .deb: {suite}, {}", generator.package()),
            Package::Rpm => "package .rpm: rpm, dnf, zypper, dracut".to_owned(),
            Package::Pacman => "package .pkg.tar.zst: pacman, dracut".to_owned(),
            Package::Apk => "package .apk: abuild, apk, mkinitfs".to_owned(),
        }
    }

    /// Installs, uses, boots, upgrades and removes it.
    pub fn run(
        &self,
        workspace: &Workspace,
        packages: &Packages,
        checkouts: &Checkouts,
    ) -> Result<Judgement> {
        let lower = self.system.prepare(workspace)?;
        let layer = Layer::above(&lower, workspace)?;
        let passed = Judgement::Passed(Tally::default());
        match self.package {
            Package::Deb => debian::run(self, &layer, workspace, packages),
            Package::Rpm => foreign::rpm(&layer, packages).map(|()| passed),
            Package::Pacman => foreign::pacman(&layer, packages).map(|()| passed),
            Package::Apk => alpine::run(self, &layer, workspace, packages, checkouts),
        }
    }
}

/// Boots a trial's system from the image that the package's trigger made there.
fn boot(
    trial: &Trial,
    layer: &Layer,
    workspace: &Workspace,
    kernel: &Kernel,
    (image, generator): (&str, generators::Generator),
) -> Result<Judgement> {
    let image = std::fs::read(layer.changed(image)).context("the trigger made no image")?;
    let make = |arguments: &str| layer.run(&format!("mke2fs {arguments}"));
    let disk = generators::make_disk(workspace, &layer.changed("tmp"), make, kernel)?;
    generators::boot_installed(workspace, &trial.name(), generator, kernel, &disk, image)
}

/// What is tried: this version's packages, a later one's, and those of the version before.
pub struct Packages {
    now: PathBuf,
    later: PathBuf,
    previous: Option<PathBuf>,
    version: String,
}

/// The number of the later version.
const LATER: &str = "99.0.0";

impl Packages {
    /// Makes them, and looks at them.
    pub fn make(workspace: &Workspace, built: &Built) -> Result<Self> {
        let scratch = workspace.scratch("trials")?;
        let [now, later] = ["now", "later"].map(|name| scratch.join(name));
        let release = Release::of(workspace)?;
        let mut next = Release::of(workspace)?;
        LATER.clone_into(&mut next.version);
        for (release, out) in [(&release, &now), (&next, &later)] {
            let _ = std::fs::remove_dir_all(out);
            dist::pack(workspace, release, built, out)?;
        }
        let previous = previous::make(workspace)?;
        Ok(Self { now, later, previous, version: release.version })
    }

    /// The same once more, in another folder: equal bytes.
    pub fn check_again(&self, workspace: &Workspace, built: &Built) -> Result<()> {
        let again = tempfile::tempdir()?;
        let release = Release::of(workspace)?;
        dist::pack(workspace, &release, built, again.path())?;
        // What else lies there is not of this release.
        std::fs::write(again.path().join("vfio-override_0.1.0_amd64.deb"), "")?;
        std::fs::create_dir(again.path().join(format!("notes-{}", self.version)))?;
        for directory in [&*self.now, again.path()] {
            dist::seal(workspace, &release, directory)?;
        }
        let sums = |directory: &Path| std::fs::read_to_string(directory.join("SHA256SUMS"));
        let [one, other] = [sums(&self.now)?, sums(again.path())?];
        ensure!(one == other, "made twice:\n{one}\n{other}");
        ensure!(one.lines().count() == 5, "not all is there:\n{one}");
        Ok(())
    }

    /// Debian's and rpm's own checks find nothing.
    pub fn check_lint(&self, workspace: &Workspace) -> Result<()> {
        lint(workspace, &self.deb(), &self.rpm())
    }

    /// The packages for an architecture that is not this machine's are made, and pass the same checks.
    pub fn check_foreign(&self, workspace: &Workspace, built: &Built) -> Result<()> {
        let out = workspace.scratch("trials")?.join(built.arch.name);
        let _ = std::fs::remove_dir_all(&out);
        dist::pack(workspace, &Release::of(workspace)?, built, &out)?;
        let Arch { name, debian, .. } = built.arch;
        let version = &self.version;
        let deb = out.join(format!("vfio-override_{version}_{debian}.deb"));
        lint(workspace, &deb, &out.join(format!("vfio-override-{version}.{name}.rpm")))
    }

    /// makepkg builds the same from the sources as from the archive.
    pub fn check_sources(&self, workspace: &Workspace) -> Result<()> {
        let out = workspace.scratch("trials")?.join("built");
        dist::build_package(workspace, &Release::of(workspace)?, &out)?;
        let ours = self.pacman();
        let theirs = out.join(ours.file_name().context("it is a file")?);
        for command in [
            "bsdtar -tvf \"$1\" | grep -v ' \\.' | awk '{ print $1, $5, $9, $10, $11 }'",
            "bsdtar -xOf \"$1\" usr | sha256sum",
        ] {
            let look = |package: &Path| {
                let mut sh = Command::new("sh");
                command::stdout(sh.args(["-euc", command, "sh"]).arg(package))
            };
            let [one, other] = [look(&ours)?, look(&theirs)?];
            ensure!(one == other, "{command}:\n{one}\n{other}");
        }
        Ok(())
    }

    /// The package of the version before, by how its name ends, in a layer; none where there is no such version.
    fn bring_previous(&self, layer: &Layer, ending: &str) -> Result<Option<String>> {
        let Some(made) = &self.previous else { return Ok(None) };
        bring_below(layer, "tmp/previous", &previous::find(made, ending)?).map(Some)
    }

    fn archive(&self) -> PathBuf {
        self.now.join(format!("vfio-override-{}-linux-x86_64.tar.zst", self.version))
    }

    fn later_archive(&self) -> PathBuf {
        self.later.join(format!("vfio-override-{LATER}-linux-x86_64.tar.zst"))
    }

    fn deb(&self) -> PathBuf {
        self.now.join(format!("vfio-override_{}_amd64.deb", self.version))
    }

    fn later_deb(&self) -> PathBuf {
        self.later.join(format!("vfio-override_{LATER}_amd64.deb"))
    }

    fn rpm(&self) -> PathBuf {
        self.now.join(format!("vfio-override-{}.x86_64.rpm", self.version))
    }

    fn later_rpm(&self) -> PathBuf {
        self.later.join(format!("vfio-override-{LATER}.x86_64.rpm"))
    }

    fn pacman(&self) -> PathBuf {
        self.now.join(format!("vfio-override-{}-1-x86_64.pkg.tar.zst", self.version))
    }

    fn later_pacman(&self) -> PathBuf {
        self.later.join(format!("vfio-override-{LATER}-1-x86_64.pkg.tar.zst"))
    }
}

/// Both look at what a program is made for, too.
fn lint(workspace: &Workspace, deb: &Path, rpm: &Path) -> Result<()> {
    let mut lintian = Command::new("lintian");
    lintian.args(["--fail-on", "error,warning", "--allow-root"]).arg(deb);
    command::check(&mut lintian)?;
    let mut rpmlint = Command::new("rpmlint");
    // As a configuration, since filters in any other file must each be of use to this version of rpmlint.
    let filters = workspace.root.join("packaging/rpm/rpmlint.toml");
    rpmlint.arg("--strict").arg("--config").arg(filters).arg(rpm);
    command::check(&mut rpmlint).map(drop)
}

/// What the `NixOS` module sets, as Nix itself evaluates it: for both kinds of stage 1, and without rules.
pub fn check_nix(workspace: &Workspace) -> Result<()> {
    let store = tempfile::tempdir()?;
    let evaluate = |arguments: [&str; 3]| {
        let mut nix = Command::new("nix-instantiate");
        nix.args(["--eval", "--strict", "--json", "--store"]).arg(store.path());
        nix.arg(workspace.root.join("packaging/nix/test.nix")).args(arguments);
        let text = command::stdout(&mut nix)?;
        serde_json::from_str::<Value>(&text).with_context(|| format!("no JSON: {text}"))
    };
    let early = "/package/lib/vfio-override/vfio-override-early";
    let systemd = evaluate(["--arg", "systemd", "true"])?;
    let unit = &systemd["systemd"]["services"]["vfio-override"];
    ensure!(unit["serviceConfig"]["ExecStart"] == format!("-{early} --modprobe"), "{systemd}");
    ensure!(unit["before"][1] == "systemd-udevd.service", "{systemd}");
    ensure!(systemd["kernelParams"] == json!(["vfio.override=01:00.0+slot,class:03"]), "{systemd}");
    let script = evaluate(["--arg", "systemd", "false"])?;
    ensure!(script["kernelParams"][1] == "rdinit=/vfio-override-early", "{script}");
    ensure!(script["extraFiles"]["vfio-override-early"]["source"] == early, "{script}");
    ensure!(evaluate(["--arg", "rules", "[]"])? == json!({}), "it does something without rules");
    ensure!(systemd["isAllowed"] == true && script["isAllowed"] == true, "an assertion fails");
    let mut parse = Command::new("nix-instantiate");
    parse.args(["--parse", "--store"]).arg(store.path());
    command::check(parse.arg(workspace.root.join("packaging/nix/package.nix"))).map(drop)
}

/// Runs the trials two at a time; each system is installed once, before.
pub fn run<'a>(
    workspace: &Workspace,
    trials: &'a [Trial],
    packages: &Packages,
    checkouts: &Checkouts,
) -> Vec<(&'a Trial, Result<Judgement>)> {
    let mut systems: Vec<&System> = trials.iter().map(|trial| trial.system).collect();
    systems.dedup_by_key(|system| system.name());
    // What fails fails again, in the trial.
    pool::each(&systems, |system| system.prepare(workspace).map(drop));
    let outcomes = pool::each(trials, |trial| {
        let title = trial.name();
        progress::phase(title, || trial.run(workspace, packages, checkouts))
    });
    trials.iter().zip(outcomes).collect()
}

/// Copies a file into a layer's /tmp; its path there.
fn bring(layer: &Layer, file: &Path) -> Result<String> {
    bring_below(layer, "tmp", file)
}

fn bring_below(layer: &Layer, directory: &str, file: &Path) -> Result<String> {
    let bytes = std::fs::read(file).with_context(|| format!("no {}", file.display()))?;
    let name = format!("{directory}/{}", file.file_name().unwrap_or_default().display());
    layer.write(&name, bytes)?;
    Ok(format!("/{name}"))
}

/// Nothing may be left of a package that was there, and nothing of others may be gone.
fn expect_same(before: &str, after: &str) -> Result<()> {
    let only = |one: &str, other: &str| -> Vec<String> {
        let known: std::collections::BTreeSet<&str> = other.lines().collect();
        one.lines().filter(|line| !known.contains(line)).map(str::to_owned).collect()
    };
    let (gone, left) = (only(before, after), only(after, before));
    ensure!(gone.is_empty() && left.is_empty(), "gone: {gone:?}; left behind: {left:?}");
    Ok(())
}

/// As long as a boot loader has the word, no image is to come to be without the early binary: nobody can remove it.
fn expect_kept(layer: &Layer, remove: &str) -> Result<()> {
    let before = layer.listing()?;
    for (word, place) in [
        ("rdinit=/vfio-override-early", "boot/loader/entries/trial.conf"),
        ("init=/usr/lib/vfio-override/vfio-override-early", "etc/default/grub.d/trial.cfg"),
    ] {
        layer.write(place, format!("quiet {word} vfio.override=01:00.0\n"))?;
        let said = layer.run_to_failure(remove)?;
        ensure!(
            said.contains(&format!("    /{place}\n")),
            "nobody is told where the word is:\n{said}"
        );
        layer.run(&format!(
            "rm /{place} && rmdir -p --ignore-fail-on-non-empty /{}",
            place.rsplit_once('/').map_or("", |(it, _)| it)
        ))?;
        expect_same(&before, &layer.listing()?)?;
    }
    Ok(())
}

/// The host tool starts there, and looks at this machine.
fn expect_plan(layer: &Layer) -> Result<()> {
    let said = layer.run_with_sysfs("vfio-override plan ffff:00:00.0 2>&1 || test $? = 1")?;
    ensure!(said.contains("rule 1 \"ffff:00:00.0\": unmatched"), "plan says: {said}");
    Ok(())
}
