//! A Debian to run the generators in: unpacked packages below the target directory, entered with a
//! root directory of its own. The host's own /boot, /usr and configuration are not seen from there.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::ground::command;
use crate::ground::progress;
use crate::ground::setup;
use crate::ground::workspace::Workspace;
use crate::guest::kernel::Kernel;

/// What is asked of apt; it adds what these depend on. Neither generator's own package is here: those
/// exclude each other, and only say which one a kernel's installation calls.
const PACKAGES: [&str; 11] = [
    "?essential",
    "busybox-static",
    "cpio",
    "dracut-core",
    "e2fsprogs",
    "initramfs-tools-core",
    "kmod",
    "mount",
    "systemd",
    "udev",
    "zstd",
];

/// What an installation would have done besides unpacking.
const PASSWD: [(&str, &str); 2] = [
    ("usr/share/base-passwd/passwd.master", "etc/passwd"),
    ("usr/share/base-passwd/group.master", "etc/group"),
];

pub struct Debian {
    root: PathBuf,
}

impl Debian {
    /// Downloads and unpacks it, unless it is there already.
    pub fn prepare(workspace: &Workspace) -> Result<Self> {
        if setup::program("apt-get").is_none() {
            bail!("the generators are tried in a Debian that apt-get fetches, and there is none");
        }
        setup::apt_update_if_never_done()?;
        let cache = workspace.scratch("debian")?;
        let root = cache.join(PACKAGES.join("+").replace('?', ""));
        if !root.is_dir() && make(&cache, &root).is_err() {
            // Lists older than the mirror name versions that are gone.
            setup::apt_update()?;
            make(&cache, &root)?;
        }
        Ok(Self { root })
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
        let found = kernel.modules.root().ancestors().map(|directory| directory.join(&config));
        let found = found.into_iter().find(|path| path.is_file());
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
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", ENTER, "sh"])
            .arg(&self.root)
            .arg(program);
        command
    }
}

/// The root is there whole or not at all.
fn make(cache: &Path, root: &Path) -> Result<()> {
    let scratch = tempfile::Builder::new()
        .prefix("fetch-")
        .tempdir_in(cache)
        .with_context(|| format!("cannot write to {}", cache.display()))?;
    let archives = scratch.path().join("archives");
    fs::create_dir_all(archives.join("partial"))?;
    progress::phase("fetch a Debian for the generators", || download(&archives))?;
    let new = scratch.path().join("root");
    progress::phase("unpack it", || unpack(&archives, &new))?;
    fs::rename(&new, root).with_context(|| format!("cannot rename {}", new.display()))
}

/// As on a machine that has nothing installed.
fn download(archives: &Path) -> Result<()> {
    let directory = format!("Dir::Cache::archives={}", archives.display());
    let mut apt = Command::new("apt-get");
    apt.args(["-o", "Dir::State::status=/dev/null", "-o", &directory])
        .args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User="])
        .args(["install", "--download-only", "--yes", "--no-install-recommends"])
        .args(PACKAGES);
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
    for entry in fs::read_dir(archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            const UNPACK: &str = r#"dpkg-deb --fsys-tarfile "$1" |
                tar -x -C "$2" --no-same-owner --keep-directory-symlink"#;
            let mut command = Command::new("sh");
            command.args(["-c", UNPACK, "sh"]).arg(&path).arg(root);
            command::check(&mut command)?;
        }
    }
    for (from, to) in PASSWD {
        fs::copy(root.join(from), root.join(to)).with_context(|| format!("no {from}"))?;
    }
    symlink("mawk", root.join("usr/bin/awk"))?;
    Ok(())
}
