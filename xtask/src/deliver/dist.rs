// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask dist`: what people install, made from one static archive for each architecture.

mod alpine;
mod contents;
mod deb;
mod pacman;
mod rpm;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use super::changelog::Release;
use super::install;
use crate::build::{self, HOST_TOOL, MuslOptions};
use crate::ground::arch::{self, Arch};
use crate::ground::command;
use crate::ground::progress;
use crate::ground::setup;
use crate::ground::verdict::Verdict;
use crate::ground::workspace::Workspace;

/// The level of zstd that takes long and is small.
const LEVEL: i32 = 19;

/// What the archive holds besides what its list installs.
const ALONGSIDE: [&str; 6] =
    ["Makefile", "README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", "packaging/install"];

/// Where the list of files is.
const LIST: &str = "packaging/files";

/// Make what people install: a static archive, a .deb, an .rpm and a pacman package for each architecture
///
/// The archive holds everything built, a Makefile and Alpine's APKBUILD; the packages are made from it by dpkg-deb, rpmbuild and makepkg.
/// SHA256SUMS has their sums, and a `CycloneDX` list what is inside. The same sources give the same bytes.
#[derive(Args)]
pub struct Options {
    /// Where they are put
    #[arg(long, value_name = "DIR", default_value = "target/dist")]
    out: PathBuf,

    /// Only for this architecture; may be repeated (default: all)
    #[arg(long, value_name = "ARCH", value_parser = arch::parser())]
    arch: Vec<&'static Arch>,

    #[command(flatten)]
    musl: MuslOptions,
}

pub fn run(options: &Options) -> Result<Verdict> {
    let workspace = Workspace::locate()?;
    ensure_tools()?;
    let arches = if options.arch.is_empty() { &arch::ALL[..] } else { &options.arch };
    let out = std::path::absolute(&options.out)?;
    let release = Release::of(&workspace)?;
    for arch in arches {
        let built = Built::make(&workspace, arch, options.musl)?;
        pack(&workspace, &release, &built, &out)?;
    }
    seal(&workspace, &release, &out)?;
    println!("{}", out.display());
    Ok(Verdict::Good)
}

/// All that the packages are made with.
pub fn ensure_tools() -> Result<()> {
    setup::ensure(&setup::PACKAGERS.each_ref())
}

/// What was built for an architecture.
pub struct Built {
    pub arch: &'static Arch,
    /// Programs, manual and completions.
    pub directory: PathBuf,
}

impl Built {
    /// Builds the early binary and the host tool, both static.
    pub fn make(workspace: &Workspace, arch: &'static Arch, musl: MuslOptions) -> Result<Self> {
        let early = build::preferred(workspace, arch, None, musl)?;
        let tool = build::static_program(workspace, arch, musl, HOST_TOOL)?;
        let native = build::static_program(workspace, arch::of_this_machine(), musl, HOST_TOOL)?;
        let directory =
            install::gather(workspace, &format!("dist/{arch}"), &early.path, &tool, &native)?;
        Ok(Self { arch, directory })
    }
}

/// Makes the archive and the packages of one architecture.
pub fn pack(workspace: &Workspace, release: &Release, built: &Built, out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let scratch = tempfile::tempdir_in(workspace.scratch("dist")?)?;
    let job = Job { workspace, release, arch: built.arch, scratch: scratch.path(), out };
    let say = |what: &str| format!("make {what}, {}", built.arch);
    let archive = progress::phase(say("the archive"), || job.archive(&built.directory))?;
    progress::phase(say("the .deb"), || job.deb())?;
    progress::phase(say("the .rpm"), || job.rpm(&archive))?;
    progress::phase(say("the pacman package"), || job.pacman(&archive))
}

/// Makes a package for this machine where people do who have nothing but the sources.
pub fn build_package(workspace: &Workspace, release: &Release, out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let scratch = tempfile::tempdir_in(workspace.scratch("dist")?)?;
    let arch = arch::of_this_machine();
    let job = Job { workspace, release, arch, scratch: scratch.path(), out };
    progress::phase("build the pacman package", || job.pacman_from_sources())
}

/// Writes the list of what is inside, and the sums of all that is there.
pub fn seal(workspace: &Workspace, release: &Release, out: &Path) -> Result<()> {
    let list = out.join(format!("vfio-override-{}.cdx.json", release.version));
    write(&list, &contents::list(workspace, &release.version)?)?;
    let mut names: Vec<String> = fs::read_dir(out)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    // Those of another version, and what else lies there, are nobody's release.
    names.retain(|name| name.contains(&release.version) && out.join(name).is_file());
    names.sort();
    let mut sums = Command::new("sha256sum");
    let sums = command::stdout(sums.arg("--").args(names).current_dir(out))?;
    write(&out.join("SHA256SUMS"), &sums)
}

/// The making of one architecture's packages.
struct Job<'a> {
    workspace: &'a Workspace,
    release: &'a Release,
    arch: &'static Arch,
    scratch: &'a Path,
    out: &'a Path,
}

impl Job<'_> {
    fn name(&self) -> String {
        format!("vfio-override-{}-linux-{}", self.release.version, self.arch)
    }

    /// The tree of the archive, from which every package is installed.
    fn tree(&self) -> PathBuf {
        self.scratch.join(self.name())
    }

    /// Makes the archive, and leaves its tree.
    fn archive(&self, built: &Path) -> Result<PathBuf> {
        let tree = self.tree();
        let root = &self.workspace.root;
        let list = self.list()?;
        let sources = list
            .lines()
            .filter(|line| line.starts_with(|first: char| first.is_ascii_digit()))
            .filter_map(|line| line.split_whitespace().nth(1))
            .filter(|source| !source.starts_with("BUILT/"));
        let mut copy = Command::new("cp");
        copy.args(["--parents", "--target-directory"]).arg(&tree);
        copy.args(sources).args(ALONGSIDE).arg(LIST).current_dir(root);
        fs::create_dir_all(tree.join("built"))?;
        command::check(&mut copy)?;
        let mut copy = Command::new("cp");
        copy.arg("--recursive").arg(built.join(".")).arg(tree.join("built"));
        command::check(&mut copy)?;
        self.alpine()?;

        let plain = self.scratch.join("archive.tar");
        let mut tar = Command::new("tar");
        tar.args(["--create", "--format=gnu", "--sort=name", "--owner=0", "--group=0"])
            .args([
                "--numeric-owner",
                "--mode=go=rX,u+rw",
                &format!("--mtime=@{}", self.release.epoch),
            ])
            .arg("--file")
            .arg(&plain)
            .arg("--directory")
            .arg(self.scratch)
            .arg(self.name());
        command::check(&mut tar)?;
        let bytes = zstd::encode_all(&*fs::read(&plain)?, LEVEL)?;
        let archive = self.out.join(format!("{}.tar.zst", self.name()));
        fs::write(&archive, bytes)
            .with_context(|| format!("cannot write {}", archive.display()))?;
        Ok(archive)
    }

    fn list(&self) -> Result<String> {
        fs::read_to_string(self.workspace.root.join(LIST)).with_context(|| format!("no {LIST}"))
    }

    /// What every package does once its files are there, in the shell.
    fn complete(&self) -> Result<String> {
        let list = self.list()?;
        let places = |is_gone: bool| {
            let lines = list.lines().filter(|line| !line.starts_with('#'));
            let lines = lines.filter(move |line| line.starts_with("gone ") == is_gone);
            lines.filter_map(|line| line.split_whitespace().nth(2))
        };
        let gone: Vec<&str> = places(true).collect();
        let directories: BTreeSet<&str> =
            places(false).filter_map(|place| place.rsplit_once('/')).map(|(it, _)| it).collect();
        let directories: Vec<&str> = directories.into_iter().collect();
        let path = self.workspace.root.join("packaging/complete");
        let text = fs::read_to_string(path).context("no packaging/complete")?;
        let text = text.replace("@DIRECTORIES@", &directories.join(" "));
        Ok(text.replace("@GONE@", &gone.join(" ")))
    }

    /// What is in a file of packaging/, with these words replaced.
    fn template(&self, name: &str, more: &[(&str, &str)]) -> Result<String> {
        let path = self.workspace.root.join("packaging").join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
        let text = text.replace("@VERSION@", &self.release.version);
        let text = text.replace("@COMPLETE@", self.complete()?.trim_end());
        let text = more.iter().fold(text, |text, (word, value)| text.replace(word, value));
        Ok(text)
    }

    /// A tool that dates what it makes by the release.
    fn dated(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("SOURCE_DATE_EPOCH", self.release.epoch.to_string()).env("LC_ALL", "C");
        command
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
