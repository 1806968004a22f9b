// SPDX-License-Identifier: MIT OR Apache-2.0
//! Installed systems to try packages in: made once by mmdebstrap, below the target directory, and never changed. What a
//! trial does there lies in a layer of its own above.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::ground::arch::X86_64;
use crate::ground::command;
use crate::ground::progress;
use crate::ground::verdict::NotTestable;
use crate::ground::workspace::Workspace;
use crate::guest::kernel::{self, Choice, Kernel};

/// A system that is installed.
pub struct System {
    /// Debian's name of it.
    pub suite: &'static str,
    pub generator: Generator,
    pub besides: Option<Besides>,
}

/// What a system has that not every other has.
pub struct Besides {
    pub name: &'static str,
    pub packages: &'static [&'static str],
}

/// What makes its image.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Generator {
    InitramfsTools,
    Dracut,
}

impl Generator {
    pub fn package(self) -> &'static str {
        match self {
            Self::InitramfsTools => "initramfs-tools",
            Self::Dracut => "dracut",
        }
    }
}

/// What every system has besides its generator; mke2fs makes the disk of its boot.
const PACKAGES: [&str; 7] =
    ["e2fsprogs", "kmod", "linux-image-amd64", "make", "systemd-sysv", "udev", "zstd"];

/// Makes a system below a directory. Debian's development version may be older than its own list says it may be.
const OPTIONS: [&str; 4] = [
    "--variant=apt",
    "--quiet",
    "--aptopt=Apt::Install-Recommends \"false\"",
    "--aptopt=Acquire::Check-Valid-Until \"false\"",
];

/// Enters a layer: /dev and /proc are the machine's, and /sys too if that is asked for.
const ENTER: &str = r#"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root" && cd "$2/root" || exit
for directory in $3; do mount --rbind "/$directory" "$directory" || exit; done
shift 3
exec env -i PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive chroot . "$@""#;

impl System {
    pub const fn of(suite: &'static str, generator: Generator) -> Self {
        Self { suite, generator, besides: None }
    }

    pub fn name(&self) -> String {
        let besides = self.besides.as_ref().map(|besides| format!(", {}", besides.name));
        format!("{}, {}{}", self.suite, self.generator.package(), besides.unwrap_or_default())
    }

    /// Makes it unless it is there.
    pub fn prepare(&self, workspace: &Workspace) -> Result<PathBuf> {
        let cache = workspace.scratch("roots")?;
        let name = self.name().replace([' ', ',', '\''], "-");
        let root = cache.join(name);
        if root.is_dir() {
            return Ok(root);
        }
        let new = tempfile::Builder::new().prefix("make-").tempdir_in(&cache)?;
        let generator = self.generator.package();
        let besides = self.besides.iter().flat_map(|besides| besides.packages);
        let packages = PACKAGES.iter().chain(besides).copied().chain([generator]);
        let packages = packages.collect::<Vec<_>>().join(",");
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args(OPTIONS).arg("--format=directory").arg(format!("--include={packages}"));
        mmdebstrap.arg(self.suite).arg(new.path().join("root"));
        progress::phase(format!("install {}", self.name()), || command::check(&mut mmdebstrap))
            .context(NotTestable(format!("no system {}", self.name())))?;
        fs::rename(new.path().join("root"), &root)?;
        Ok(root)
    }

    /// The kernel that is installed there.
    pub fn kernel(&self, workspace: &Workspace) -> Result<Kernel> {
        let root = self.prepare(workspace)?;
        let modules = fs::read_dir(root.join("usr/lib/modules"))?.next();
        let release = modules.context("no kernel is installed there")??.file_name();
        let release = release.display();
        let places =
            [format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")];
        let kernel = places
            .map(|path| root.join(path))
            .into_iter()
            .find(|path| path.is_file() && !path.is_symlink())
            .with_context(|| format!("no kernel {release}"))?;
        kernel::prepare(&Choice::File(kernel), X86_64, &[], workspace)
    }
}

/// What a trial changes of a system.
pub struct Layer {
    lower: PathBuf,
    directory: tempfile::TempDir,
}

impl Layer {
    pub fn above(lower: &Path, workspace: &Workspace) -> Result<Self> {
        let directory = tempfile::tempdir_in(workspace.scratch("roots")?)?;
        for name in ["upper", "work", "root"] {
            fs::create_dir(directory.path().join(name))?;
        }
        Ok(Self { lower: lower.to_owned(), directory })
    }

    /// A file that the trial made or put there.
    pub fn changed(&self, path: &str) -> PathBuf {
        self.directory.path().join("upper").join(path)
    }

    /// The directory of such files.
    pub fn changes(&self) -> PathBuf {
        self.changed("")
    }

    /// Puts a file there.
    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        let path = self.changed(path);
        fs::create_dir_all(path.parent().context("it has a parent")?)?;
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Runs a script of the shell as root, that ends with its first failure; what it prints.
    pub fn run(&self, script: &str) -> Result<String> {
        command::check(&mut self.command("dev proc", script))
            .map(|output| command::text_of(&output))
    }

    /// As [`Layer::run`], with this machine's sysfs.
    pub fn run_with_sysfs(&self, script: &str) -> Result<String> {
        let mut command = self.command("dev proc sys", script);
        command::check(&mut command).map(|output| command::text_of(&output))
    }

    /// Runs what must fail; what it prints.
    pub fn run_to_failure(&self, script: &str) -> Result<String> {
        let output = command::output(&mut self.command("dev proc", script))?;
        let said = command::text_of(&output);
        if output.status.success() {
            bail!("expected it to fail: {script}\n{said}");
        }
        Ok(said)
    }

    fn command(&self, mounted: &str, script: &str) -> Command {
        let mut command = Command::new("unshare");
        if !geteuid().is_root() {
            // Package managers give files to other users than root.
            command.args(["--map-root-user", "--map-auto"]);
        }
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh"])
            .arg(&self.lower)
            .arg(self.directory.path())
            .args([mounted, "sh", "-euc", script]);
        command
    }

    /// The path of every file, but of those that package managers and generators keep for themselves.
    pub fn listing(&self) -> Result<String> {
        self.run(
            r"find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /run -o -path /var/log \
                -o -path /var/cache -o -path /var/tmp -o -path '/var/lib/*' -o -path /usr/lib/sysimage \) -prune -o -print | sort",
        )
    }
}
