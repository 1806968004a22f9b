// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Debian to run programs in: unpacked packages below the target directory, entered with a
//! root directory of its own. The host's own /boot, /usr and configuration are not seen from there.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::foreign;
use crate::ground::apt::Lists;
use crate::ground::arch::Arch;
use crate::ground::command;
use crate::ground::progress;
use crate::ground::workspace::Workspace;
use crate::guest::kernel::Kernel;

/// What an installation would have done besides unpacking.
const PASSWD: [(&str, &str); 2] = [
    ("usr/share/base-passwd/passwd.master", "etc/passwd"),
    ("usr/share/base-passwd/group.master", "etc/group"),
];

pub struct Debian {
    root: PathBuf,
    /// What tells the kernel who runs its programs, if they are another architecture's.
    emulation: Option<String>,
}

impl Debian {
    /// Downloads and unpacks these packages of a suite for an architecture, and those that they depend on, unless they
    /// are there already.
    pub fn prepare(
        workspace: &Workspace,
        suite: &str,
        arch: &Arch,
        purpose: &str,
        packages: &[&str],
    ) -> Result<Self> {
        let cache = workspace.scratch("debian")?;
        let name = format!("{suite}-{}", arch.debian);
        let root = cache.join(format!("{name}+{}", packages.join("+").replace('?', "")));
        let emulation = if arch.is_native() { None } else { Some(foreign::description(arch)?) };
        let debian = Self { root, emulation };
        if !debian.root.is_dir() {
            let lists = Lists::of(workspace, suite, arch.debian)?;
            progress::phase(format!("make a Debian ({name}) {purpose}"), || {
                debian.make(&lists, packages, &cache)
            })?;
        }
        Ok(debian)
    }

    /// It is there whole or not at all.
    fn make(&self, lists: &Lists, packages: &[&str], cache: &Path) -> Result<()> {
        let scratch = tempfile::Builder::new()
            .prefix("fetch-")
            .tempdir_in(cache)
            .with_context(|| format!("cannot write to {}", cache.display()))?;
        let archives = scratch.path().join("archives");
        fs::create_dir_all(archives.join("partial"))?;
        download(lists, packages, &archives)?;
        let new = Self { root: scratch.path().join("root"), emulation: self.emulation.clone() };
        unpack(&archives, &new.root)?;
        // Generators ask it where libraries are that nothing is linked with.
        new.run("ldconfig", [""; 0])?;
        fs::rename(&new.root, &self.root)
            .with_context(|| format!("cannot rename {}", new.root.display()))
    }

    /// The version of a package of it, as Debian counts them, without its revision.
    pub fn version(&self, package: &str) -> Result<String> {
        let file = self.path("versions");
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut lines = text.lines().filter_map(|line| line.split_once('_'));
        let found =
            lines.find_map(|(name, rest)| (name == package).then(|| rest.split('_').next())?);
        let version = found.with_context(|| format!("no {package} in {}", file.display()))?;
        let version = version.rsplit_once('-').map_or(version, |(upstream, _)| upstream);
        Ok(version.rsplit_once("%3a").map_or(version, |(_, version)| version).to_owned())
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Puts a kernel's modules there, indexed, and its configuration.
    pub fn add_kernel(&self, kernel: &Kernel) -> Result<()> {
        let config = format!("boot/config-{}", kernel.release);
        // Newer kernels of Debian, as Fedora's and Arch's, have nothing in /boot.
        let beside = kernel.modules.root().join("config");
        let above = kernel.modules.root().ancestors().map(|directory| directory.join(&config));
        let found = above.chain([beside]).find(|path| path.is_file());
        let found = found.with_context(|| format!("no {config} above the modules"))?;
        fs::create_dir_all(self.path("boot"))?;
        fs::copy(found, self.path(&config)).with_context(|| format!("cannot copy {config}"))?;
        let directory = self.path("usr/lib/modules").join(&kernel.release);
        if directory.join("modules.dep").is_file() {
            return Ok(());
        }
        let parent = self.path("usr/lib/modules");
        fs::create_dir_all(&parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
        let mut copy = Command::new("cp");
        // Both are below the target directory.
        copy.args(["--archive", "--link", "--force"]).arg(kernel.modules.root()).arg(&parent);
        command::check(&mut copy)?;
        self.run("depmod", [&kernel.release]).map(drop)
    }

    /// Runs one of its programs as its root; what it prints, both streams together, is the result.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        let mut command = self.command(program);
        command::check(command.args(arguments)).map(|output| command::text_of(&output))
    }

    /// One of its programs, in name spaces of its own: /dev and /proc are the machine's, and /sys is
    /// empty, so that nothing depends on where this runs.
    pub fn command(&self, program: &str) -> Command {
        const ENTER: &str = r#"cd "$1" && shift && for d in dev proc; do mount --rbind "/$d" "$d" || exit; done
            exec env -i PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C /usr/sbin/chroot . "$@""#;
        let register = match self.emulation {
            Some(_) => format!("{} || exit\n", foreign::REGISTER),
            None => String::new(),
        };
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", &format!("{register}{ENTER}"), "sh"])
            .args(&self.emulation)
            .arg(&self.root)
            .arg(program);
        command
    }
}

/// As on a machine that has nothing installed.
fn download(lists: &Lists, packages: &[&str], archives: &Path) -> Result<()> {
    let directory = format!("Dir::Cache::archives={}", archives.display());
    let mut apt = lists.command("apt-get");
    apt.args(["-o", &directory, "-o", "Debug::NoLocking=1"])
        .args(["install", "--download-only", "--yes", "--no-install-recommends"])
        .args(packages);
    command::check(&mut apt).map(drop)
}

fn unpack(archives: &Path, root: &Path) -> Result<()> {
    for directory in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "dev", "proc", "sys"] {
        fs::create_dir_all(root.join(directory))?;
    }
    // Before anything is unpacked through them.
    for link in ["bin", "sbin", "lib", "lib64"] {
        symlink(Path::new("usr").join(link), root.join(link))?;
    }
    let mut versions = Vec::new();
    for entry in fs::read_dir(archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            const UNPACK: &str = r#"dpkg-deb --fsys-tarfile "$1" |
                tar -x -C "$2" --no-same-owner --keep-directory-symlink"#;
            let mut command = Command::new("sh");
            command.args(["-c", UNPACK, "sh"]).arg(&path).arg(root);
            command::check(&mut command)?;
            versions.extend(path.file_name().map(|name| name.display().to_string()));
        }
    }
    fs::write(root.join("versions"), versions.join("\n"))?;
    for (from, to) in PASSWD {
        fs::copy(root.join(from), root.join(to)).with_context(|| format!("no {from}"))?;
    }
    symlink("mawk", root.join("usr/bin/awk"))?;
    Ok(())
}
