// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tools that a fresh machine lacks: installed with apt-get after saying so, named elsewhere.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::audit;
use crate::ground::command;
use crate::ground::progress;
use crate::ground::workspace::{Workspace, cargo};

/// A tool from outside Cargo's world and the package that brings it.
pub struct Tool {
    pub name: &'static str,
    pub why: &'static str,
    pub find: fn() -> Option<PathBuf>,
    pub packages: Packages,
}

/// The tool's package, by package manager.
pub struct Packages {
    pub apt: &'static str,
    pub dnf: &'static str,
    pub pacman: &'static str,
    pub zypper: &'static str,
}

pub const QEMU: Tool = Tool {
    name: "qemu-system-x86_64",
    why: "boots the guest",
    find: || program("qemu-system-x86_64"),
    packages: Packages {
        apt: "qemu-system-x86",
        dnf: "qemu-system-x86-core",
        pacman: "qemu-system-x86",
        zypper: "qemu-x86",
    },
};

/// Debian 12 has it in QEMU's own package, later ones in another.
pub const QXL: Tool = Tool {
    name: "QEMU's qxl-vga",
    why: "is one of the guest's displays",
    find: qxl,
    packages: Packages {
        apt: "qemu-system-modules-spice",
        dnf: "qemu-device-display-qxl",
        pacman: "qemu-hw-display-qxl",
        zypper: "qemu-hw-display-qxl",
    },
};

pub const SCRIPT: Tool = Tool {
    name: "script",
    why: "runs the early binary on a terminal",
    find: || program("script"),
    packages: Packages {
        apt: "bsdutils",
        dnf: "util-linux-script",
        pacman: "util-linux",
        zypper: "util-linux",
    },
};

pub const QEMU_AARCH64: Tool = Tool {
    name: "qemu-system-aarch64",
    why: "boots a guest of aarch64",
    find: || program("qemu-system-aarch64"),
    packages: Packages {
        apt: "qemu-system-arm",
        dnf: "qemu-system-aarch64-core",
        pacman: "qemu-system-aarch64",
        zypper: "qemu-arm",
    },
};

pub const EFI_AARCH64: Tool = Tool {
    name: "QEMU_EFI.fd",
    why: "is the firmware of a guest of aarch64",
    find: || {
        ["/usr/share/qemu-efi-aarch64", "/usr/share/edk2/aarch64", "/usr/share/qemu"]
            .map(|directory| Path::new(directory).join("QEMU_EFI.fd"))
            .into_iter()
            .find(|file| file.is_file())
    },
    packages: Packages {
        apt: "qemu-efi-aarch64",
        dnf: "edk2-aarch64",
        pacman: "edk2-aarch64",
        zypper: "qemu-uefi-aarch64",
    },
};

pub const BUSYBOX: Tool = Tool {
    name: "a static busybox",
    why: "is the guest's userspace",
    find: static_busybox,
    packages: Packages {
        apt: "busybox-static",
        dnf: "busybox",
        pacman: "busybox",
        zypper: "busybox-static",
    },
};

pub const KEYRING: Tool = Tool {
    name: "Debian's keyring",
    why: "tells whether a package is Debian's",
    find: || {
        let names = ["gpg", "pgp"].map(|kind| format!("debian-archive-keyring.{kind}"));
        names
            .map(|name| Path::new("/usr/share/keyrings").join(name))
            .into_iter()
            .find(|path| path.is_file())
    },
    packages: Packages {
        apt: "debian-archive-keyring",
        dnf: "debian-keyring",
        pacman: "debian-archive-keyring",
        zypper: "debian-keyring",
    },
};

pub const SHELLCHECK: Tool = Tool {
    name: "shellcheck",
    why: "checks the shell files",
    find: || program("shellcheck"),
    packages: Packages {
        apt: "shellcheck",
        dnf: "ShellCheck",
        pacman: "shellcheck",
        zypper: "ShellCheck",
    },
};

pub const SHFMT: Tool = Tool {
    name: "shfmt",
    why: "checks how the shell files are laid out",
    find: || program("shfmt"),
    packages: Packages { apt: "shfmt", dnf: "shfmt", pacman: "shfmt", zypper: "shfmt" },
};

pub const MAKE: Tool = Tool {
    name: "make",
    why: "puts files where they belong",
    find: || program("make"),
    packages: Packages { apt: "make", dnf: "make", pacman: "make", zypper: "make" },
};

pub const STRACE: Tool = Tool {
    name: "strace",
    why: "counts the early binary's system calls",
    find: || program("strace"),
    packages: Packages { apt: "strace", dnf: "strace", pacman: "strace", zypper: "strace" },
};

pub const VALGRIND: Tool = Tool {
    name: "valgrind",
    why: "counts instructions",
    find: || program("valgrind"),
    packages: Packages { apt: "valgrind", dnf: "valgrind", pacman: "valgrind", zypper: "valgrind" },
};

/// What people use instead, for `cargo xtask bench`.
pub const PEERS: [Tool; 4] = [
    Tool {
        name: "dash",
        why: "runs the usual hook",
        find: || program("dash"),
        packages: Packages { apt: "dash", dnf: "dash", pacman: "dash", zypper: "dash" },
    },
    Tool {
        name: "lspci",
        why: "is what the bash hook asks",
        find: || program("lspci"),
        packages: Packages {
            apt: "pciutils",
            dnf: "pciutils",
            pacman: "pciutils",
            zypper: "pciutils",
        },
    },
    Tool {
        name: "awk",
        why: "is how the bash hook reads the answer",
        find: || program("awk"),
        packages: Packages { apt: "mawk", dnf: "gawk", pacman: "gawk", zypper: "gawk" },
    },
    Tool {
        name: "driverctl",
        why: "is compared with",
        find: || program("driverctl"),
        packages: Packages {
            apt: "driverctl",
            dnf: "driverctl",
            pacman: "driverctl",
            zypper: "driverctl",
        },
    },
];

/// What makes packages, for `cargo xtask dist`.
pub const PACKAGERS: [Tool; 6] = [
    MAKE,
    Tool {
        name: "dpkg-deb",
        why: "makes the .deb",
        find: || program("dpkg-deb"),
        packages: Packages { apt: "dpkg", dnf: "dpkg", pacman: "dpkg", zypper: "dpkg" },
    },
    Tool {
        name: "rpmbuild",
        why: "makes the .rpm",
        find: || program("rpmbuild"),
        packages: Packages {
            apt: "rpm",
            dnf: "rpm-build",
            pacman: "rpm-tools",
            zypper: "rpm-build",
        },
    },
    Tool {
        name: "makepkg",
        why: "makes the pacman package",
        find: || program("makepkg"),
        packages: Packages { apt: "makepkg", dnf: "pacman", pacman: "pacman", zypper: "pacman" },
    },
    Tool {
        name: "bsdtar",
        why: "unpacks the archive for makepkg, and packs",
        find: || program("bsdtar"),
        packages: Packages {
            apt: "libarchive-tools",
            dnf: "bsdtar",
            pacman: "libarchive",
            zypper: "bsdtar",
        },
    },
    Tool {
        name: "zstd",
        why: "compresses the pacman package",
        find: || program("zstd"),
        packages: Packages { apt: "zstd", dnf: "zstd", pacman: "zstd", zypper: "zstd" },
    },
];

pub const NIX: Tool = Tool {
    name: "nix-instantiate",
    why: "evaluates the NixOS module",
    find: || program("nix-instantiate"),
    packages: Packages { apt: "nix-bin", dnf: "nix", pacman: "nix", zypper: "nix" },
};

pub const MMDEBSTRAP: Tool = Tool {
    name: "mmdebstrap",
    why: "installs the systems that guests and trials have",
    find: || program("mmdebstrap"),
    packages: Packages {
        apt: "mmdebstrap",
        dnf: "mmdebstrap",
        pacman: "mmdebstrap",
        zypper: "mmdebstrap",
    },
};

/// What packages are tried with.
pub const TRIERS: [Tool; 3] = [
    MMDEBSTRAP,
    Tool {
        name: "lintian",
        why: "checks the .deb",
        find: || program("lintian"),
        packages: Packages { apt: "lintian", dnf: "lintian", pacman: "lintian", zypper: "lintian" },
    },
    Tool {
        name: "rpmlint",
        why: "checks the .rpm",
        find: || program("rpmlint"),
        packages: Packages { apt: "rpmlint", dnf: "rpmlint", pacman: "rpmlint", zypper: "rpmlint" },
    },
];

pub const CXX: Tool = Tool {
    name: "c++",
    why: "builds libFuzzer",
    find: || program("c++"),
    packages: Packages { apt: "g++", dnf: "gcc-c++", pacman: "gcc", zypper: "gcc-c++" },
};

impl Tool {
    /// Where the tool is; an error if [`ensure`] was not asked for it.
    pub fn path(&self) -> Result<PathBuf> {
        (self.find)().with_context(|| format!("{} is not installed", self.name))
    }
}

/// Sees to it that every tool is there, or says what to do.
pub fn ensure(tools: &[&Tool]) -> Result<()> {
    let missing: Vec<&Tool> =
        tools.iter().copied().filter(|tool| (tool.find)().is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for tool in &missing {
        progress::note(format_args!("missing: {}, which {}", tool.name, tool.why));
    }
    match Manager::detect() {
        Some(Manager::Apt) => apt_install(&Manager::Apt.packages(&missing))?,
        Some(manager) => bail!(
            "install what is missing and try again:\n    {}",
            manager.command(&manager.packages(&missing))
        ),
        None => bail!(
            "no known package manager here (apt-get, dnf, pacman, zypper): install {} by hand",
            missing.iter().map(|tool| tool.name).collect::<Vec<_>>().join(", ")
        ),
    }
    for tool in missing {
        tool.path().context("its package was installed, but the tool is still not there")?;
    }
    Ok(())
}

/// What checks licences, sources and versions of the dependencies: the one that is installed, or one that
/// is built once, in half the time that optimising it takes: its checks take a second all the same.
pub fn cargo_deny(workspace: &Workspace) -> Result<PathBuf> {
    const VERSION: &str = "0.20.2";
    let root = workspace.scratch("tools")?;
    let own = root.join("bin/cargo-deny");
    if let Some(installed) = program("cargo-deny").or_else(|| own.is_file().then(|| own.clone())) {
        return Ok(installed);
    }
    let mut install = Command::new(cargo());
    install.args(["install", "--quiet", "--locked", "--version", VERSION, "--root"]);
    install.arg(&root).arg("cargo-deny").envs([
        ("CARGO_PROFILE_RELEASE_LTO", "false"),
        ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
        ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
    ]);
    progress::phase(format!("cargo install cargo-deny {VERSION}"), || {
        command::check(&mut install)
    })?;
    Ok(own)
}

/// Installs Debian packages, with sudo if that is needed and there.
pub fn apt_install(packages: &[&str]) -> Result<()> {
    let privilege = Privilege::of_this_user(&Manager::Apt.command(packages))?;
    progress::note(format_args!(
        "installing with {}: {}",
        privilege.describe("apt-get"),
        packages.join(" ")
    ));
    apt_update_if_never_done()?;
    let install = || {
        let mut command = privilege.command("apt-get");
        command
            .args(["install", "--yes", "--no-install-recommends"])
            .args(["-o", "DPkg::Lock::Timeout=120"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive");
        command::check(&mut command)
    };
    let title = format!("apt-get install {}", packages.join(" "));
    if progress::phase(title.as_str(), install).is_err() {
        // Lists older than the mirror name versions that are gone.
        apt_update()?;
        progress::phase(title, install)?;
    }
    Ok(())
}

/// Fetches the package lists unless there are some already.
pub fn apt_update_if_never_done() -> Result<()> {
    let has_lists = fs::read_dir("/var/lib/apt/lists").is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    });
    if has_lists { Ok(()) } else { apt_update() }
}

/// Fetches the package lists.
pub fn apt_update() -> Result<()> {
    let privilege = Privilege::of_this_user("apt-get update")?;
    progress::phase("apt-get update", || {
        command::check(privilege.command("apt-get").arg("update")).map(drop)
    })
}

/// An executable of that name on PATH or where distributions keep the administrator's.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

fn qxl() -> Option<PathBuf> {
    let qemu = (QEMU.find)()?;
    let output = Command::new(&qemu).args(["-device", "help"]).output().ok()?;
    String::from_utf8_lossy(&output.stdout).contains("\"qxl-vga\"").then_some(qemu)
}

fn static_busybox() -> Option<PathBuf> {
    ["busybox", "busybox-static"]
        .into_iter()
        .filter_map(program)
        .find(|file| audit::is_static(file))
}

#[derive(Clone, Copy)]
enum Manager {
    Apt,
    Dnf,
    Pacman,
    Zypper,
}

impl Manager {
    fn detect() -> Option<Self> {
        [
            (Self::Apt, "apt-get"),
            (Self::Dnf, "dnf"),
            (Self::Pacman, "pacman"),
            (Self::Zypper, "zypper"),
        ]
        .into_iter()
        .find_map(|(manager, name)| program(name).map(|_| manager))
    }

    fn packages(self, tools: &[&Tool]) -> Vec<&'static str> {
        tools
            .iter()
            .map(|tool| match self {
                Self::Apt => tool.packages.apt,
                Self::Dnf => tool.packages.dnf,
                Self::Pacman => tool.packages.pacman,
                Self::Zypper => tool.packages.zypper,
            })
            .collect()
    }

    fn command(self, packages: &[&str]) -> String {
        let install = match self {
            Self::Apt => "sudo apt-get install --no-install-recommends",
            Self::Dnf => "sudo dnf install",
            Self::Pacman => "sudo pacman -S --needed",
            Self::Zypper => "sudo zypper install",
        };
        format!("{install} {}", packages.join(" "))
    }
}

/// How a program gets run as root.
enum Privilege {
    Root,
    Sudo,
}

impl Privilege {
    fn of_this_user(by_hand: &str) -> Result<Self> {
        let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        Self::choose(is_root, program("sudo").as_deref(), by_hand)
    }

    fn choose(is_root: bool, sudo: Option<&Path>, by_hand: &str) -> Result<Self> {
        match (is_root, sudo) {
            (true, _) => Ok(Self::Root),
            (false, Some(_)) => Ok(Self::Sudo),
            (false, None) => {
                bail!("not root and no sudo here; run this as root and try again:\n    {by_hand}")
            }
        }
    }

    fn describe(&self, name: &str) -> String {
        match self {
            Self::Root => name.to_owned(),
            Self::Sudo => format!("sudo {name}"),
        }
    }

    fn command(&self, name: &str) -> Command {
        match self {
            Self::Root => Command::new(name),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.arg("--preserve-env=DEBIAN_FRONTEND").arg(name);
                command
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_manager_has_its_command() {
        let names = ["qemu", "busybox"];
        let commands = [Manager::Apt, Manager::Dnf, Manager::Pacman, Manager::Zypper]
            .map(|manager| manager.command(&names));
        assert_eq!(
            commands,
            [
                "sudo apt-get install --no-install-recommends qemu busybox",
                "sudo dnf install qemu busybox",
                "sudo pacman -S --needed qemu busybox",
                "sudo zypper install qemu busybox",
            ]
        );
    }

    #[test]
    fn without_root_or_sudo_the_command_is_told() {
        let Err(error) = Privilege::choose(false, None, "apt-get install x") else {
            panic!("nothing could install here");
        };
        let text = format!("{error:#}");
        assert!(text.ends_with("    apt-get install x"), "{text}");
    }

    #[test]
    fn sudo_is_used_only_by_others_than_root() -> Result<()> {
        let sudo = Some(Path::new("/usr/bin/sudo"));
        let root = Privilege::choose(true, sudo, "")?;
        let user = Privilege::choose(false, sudo, "")?;
        assert_eq!(command::line(&root.command("apt-get")), "apt-get");
        assert!(command::line(&user.command("apt-get")).starts_with("sudo "));
        Ok(())
    }

    #[test]
    fn programs_are_found_on_the_path() {
        assert!(program("sh").is_some());
        assert!(program("no-such-program-anywhere").is_none());
    }
}
