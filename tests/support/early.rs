// SPDX-License-Identifier: MIT OR Apache-2.0
//! The early binary that ships, on machines that are plain directories.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::program;
use super::tree::{self, Sysfs};

/// The binaries under test; `cargo xtask test` names them.
pub fn binaries() -> Vec<PathBuf> {
    let paths = std::env::var_os("VFIO_OVERRIDE_EARLY")
        .expect("VFIO_OVERRIDE_EARLY names the binaries: run `cargo xtask test`");
    std::env::split_paths(&paths).collect()
}

/// A directory with `sys`, `cmdline` and `kmsg` in it, as `--sysfs` and the others take them.
pub struct Copy(TempDir);

impl Copy {
    /// A machine without functions, and with these rules on its command line.
    pub fn with_rules(rules: &str) -> Self {
        Self::with_line(format!("quiet vfio.override={rules}\n").as_bytes())
    }

    /// A machine without functions, and with this command line.
    pub fn with_line(line: &[u8]) -> Self {
        let copy = Self(TempDir::new().unwrap());
        Sysfs(&copy.path("sys")).make();
        fs::write(copy.path("cmdline"), line).unwrap();
        fs::write(copy.path("kmsg"), "").unwrap();
        copy
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// A file in the function's directory.
    pub fn attribute(&self, function: &str, attribute: &str) -> PathBuf {
        self.path("sys/bus/pci/devices").join(function).join(attribute)
    }

    pub fn kept_for(&self, function: &str) -> String {
        fs::read_to_string(self.attribute(function, "driver_override")).unwrap()
    }

    /// With a VGA controller in a group of its own.
    pub fn and(self, function: &str) -> Self {
        add_function(&self.path("sys"), function);
        self
    }

    /// With a driver of this name.
    pub fn and_driver(self, driver: &str) -> Self {
        Sysfs(&self.path("sys")).add_driver(driver);
        self
    }

    /// With the function bound to the driver.
    pub fn and_bound(self, function: &str, driver: &str) -> Self {
        Sysfs(&self.path("sys")).bind(function, driver);
        self
    }

    pub fn command(&self, binary: &Path) -> Command {
        let mut command = Command::new(binary);
        for (option, file) in [("--sysfs", "sys"), ("--cmdline", "cmdline"), ("--kmsg", "kmsg")] {
            command.arg(option).arg(self.path(file));
        }
        command
    }

    /// Runs the binary with more arguments.
    pub fn run_with<A: AsRef<OsStr>>(&self, binary: &Path, arguments: &[A]) -> Run {
        Run::of(self.command(binary).args(arguments), &self.path("kmsg"))
    }

    pub fn run(&self, binary: &Path) -> Run {
        self.run_with::<&str>(binary, &[])
    }
}

/// Adds a VGA controller in a group of its own to a directory like `/sys`.
pub fn add_function(sys: &Path, function: &str) {
    let devices = sys.join("bus/pci/devices");
    let number = fs::read_dir(devices).map_or(0, Iterator::count) + 1;
    let group = Some(u32::try_from(number).unwrap());
    Sysfs(sys).add(&tree::Function { address: function, group, ..tree::CARD });
}

/// How the binary ended, and what it said.
pub struct Run {
    /// The exit status; `None` where a signal ended it.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// The records of the log, each as its level and text.
    pub log: Vec<(u8, String)>,
}

impl Run {
    pub fn of(command: &mut Command, kmsg: &Path) -> Self {
        let output = command.stdin(Stdio::null()).output().expect("the binary starts");
        Self::new(output, kmsg)
    }

    pub fn new(output: Output, kmsg: &Path) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("what is said is ASCII");
        let log = fs::read(kmsg).unwrap_or_default();
        let log = if kmsg.is_file() { log } else { Vec::new() };
        Self {
            status: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
            log: text(log).lines().map(record).collect(),
        }
    }

    /// Whether some record says this.
    pub fn says(&self, text: &str) -> bool {
        self.log.iter().any(|(_, line)| line.contains(text))
    }

    /// The log as one text.
    pub fn story(&self) -> String {
        let line = |(level, text): &(u8, String)| format!("<{level}> {text}\n");
        let log: String = self.log.iter().map(line).collect();
        format!("{log}{}{}exit status {:?}", self.stdout, self.stderr, self.status)
    }
}

/// `<5>vfio-override[123]: text`
fn record(line: &str) -> (u8, String) {
    let parsed = line.strip_prefix('<').and_then(|line| {
        let (level, line) = line.split_once(">vfio-override[")?;
        let (pid, text) = line.split_once("]: ")?;
        pid.parse::<u32>().ok()?;
        Some((level.parse().ok()?, text.to_owned()))
    });
    parsed.unwrap_or_else(|| panic!("no record: {line:?}"))
}

/// A root file system in which the binary is `/early`, and `/bin/busybox` all there is besides.
pub struct Root(TempDir);

impl Root {
    pub fn new(binary: &Path) -> Self {
        let root = Self(TempDir::new().unwrap());
        for directory in ["bin", "sbin", "tmp"] {
            fs::create_dir(root.path(directory)).unwrap();
        }
        program::copy(binary, &root.path("early"));
        let busybox = ["/bin/busybox", "/usr/bin/busybox"];
        let busybox = busybox.iter().find(|path| Path::new(path).exists());
        let busybox = busybox.expect("there is a busybox: run `cargo xtask test`");
        program::copy(Path::new(busybox), &root.path("bin/busybox"));
        root
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// Puts a file there, with the directories on its way.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Puts a script of busybox's shell there.
    pub fn script(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        program::write(&path, &format!("#!/bin/busybox sh\n{text}"));
    }
}

/// `unshare` with these options, in a user namespace of its own where the tests do not run as root.
pub fn unshare(options: &[&str]) -> Command {
    // A test that waits for ever tells nothing.
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "60", "unshare"]);
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(options);
    command
}
