// SPDX-License-Identifier: MIT OR Apache-2.0
//! A signed unified kernel image on a machine with Secure Boot, and addons beside it that carry the rules
//! (systemd-stub(7)): which of them count.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::debian::Debian;
use super::{Boot, IMAGE_MEMORY, RULES, TAKEN, slug};
use crate::cases::case::{Case, Mode};
use crate::cases::suite;
use crate::cases::suite::Judgement;
use crate::ground::arch::X86_64;
use crate::ground::pool;
use crate::ground::progress;
use crate::ground::workspace::Workspace;
use crate::guest::evidence::Evidence;
use crate::guest::image::{self, Ingredients};
use crate::guest::kernel::{self, Kernel};
use crate::guest::machine::{self, Efi, Machine};
use crate::guest::session::{self, Interaction, Session};

/// The Debian whose tools and whose kernel it is, and its kernel's name in tests/kernels.toml.
const SUITE: &str = "sid";
const KERNEL: &str = "newest";

const PACKAGES: [&str; 9] = [
    "?essential",
    "dosfstools",
    "mtools",
    "openssl",
    "ovmf",
    "python3-virt-firmware",
    "sbsigntool",
    "systemd-boot-efi",
    "systemd-ukify",
];

/// The packages that the table of boots names.
const NAMED: [&str; 2] = ["systemd-ukify", "ovmf"];

/// What it looks for in the log of a kernel that Secure Boot started.
const SECURE: &str = "secureboot: Secure boot enabled";

/// Whoever owns the keys; any will do.
const OWNER: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// MiB, for the image and what is beside it.
const DISK: u32 = 128;

/// How ukify is told to sign, as docs/uki.md tells it.
const SIGN: &str = "--secureboot-private-key=db.key --secureboot-certificate=db.crt";

/// What is beside the image, which itself is always signed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Addon {
    Signed,
    Unsigned,
    /// Signed, and another byte of its rules since then.
    Changed,
    /// Signed, and with the early binary, of which the image knows nothing.
    Strict,
    /// The unsigned one, where nobody asks for signatures: it is refused for nothing else.
    Free,
}

impl Addon {
    /// Those of every change, or `all`.
    pub fn every(all: bool) -> Vec<Self> {
        let always = [Self::Signed, Self::Unsigned, Self::Changed, Self::Strict];
        always.into_iter().chain(all.then_some(Self::Free)).collect()
    }

    pub fn name(self) -> String {
        format!("UKI, {}", self.what())
    }

    fn what(self) -> &'static str {
        match self {
            Self::Signed => "a signed addon counts",
            Self::Unsigned => "an unsigned addon does not",
            Self::Changed => "a signed addon with another byte does not",
            Self::Strict => "a signed addon with .initrd is the strict mode",
            Self::Free => "an unsigned addon counts without Secure Boot",
        }
    }

    /// Whether it has to count.
    fn counts(self) -> bool {
        matches!(self, Self::Signed | Self::Strict | Self::Free)
    }

    fn is_secure(self) -> bool {
        self != Self::Free
    }

    fn is_signed(self) -> bool {
        !matches!(self, Self::Unsigned | Self::Free)
    }

    /// What is booted, but for the disk and the firmware, and what must come of it.
    fn case(self, machine: Machine) -> Case {
        let mode = if self == Self::Strict { Mode::Control } else { Mode::Hook };
        let case = Case::new(self.name(), machine).mode(mode);
        let case = if self.counts() {
            case.taken(TAKEN).logged("rules: 4 applied; functions: 6 taken")
        } else {
            case.logged("no vfio.override= on the kernel command line, nothing to do")
        };
        case.also(move |evidence| self.judge(evidence))
    }

    fn judge(self, evidence: &Evidence) -> Vec<String> {
        let is_secure = evidence.log.contains(SECURE);
        let wrong = (is_secure != self.is_secure())
            .then(|| format!("\"{SECURE}\" in the kernel's log: {is_secure}"));
        wrong.into_iter().collect()
    }
}

/// Keys, firmware that trusts them, and two images: with the early binary as a hook and without it.
pub struct SignedImages {
    debian: Debian,
    kernel: Kernel,
    versions: String,
}

impl SignedImages {
    /// With this early binary.
    pub fn prepare(workspace: &Workspace, early: &Path) -> Result<Self> {
        let purpose = "that makes and signs images";
        let debian = Debian::prepare(workspace, SUITE, X86_64, purpose, &PACKAGES)?;
        let kernel = kernel::named(KERNEL, X86_64, workspace)?;
        let named = |package: &&str| {
            let name = package.trim_start_matches("systemd-");
            Ok(format!("{name} {}", debian.version(package)?))
        };
        let packages = NAMED.iter().map(named).collect::<Result<Vec<_>>>()?;
        let versions = format!("{}, Linux {}", packages.join(", "), kernel.release);
        let images = Self { debian, kernel, versions };
        progress::phase("make and sign unified kernel images", || images.make(workspace, early))?;
        Ok(images)
    }

    /// Boots with each of these addons, two at a time.
    pub fn boot(&self, workspace: &Workspace, addons: &[Addon]) -> Vec<Boot> {
        pool::each(addons, |addon| {
            let firmware = if addon.is_secure() { "UKI, Secure Boot" } else { "UKI" };
            let about = ["Debian sid", firmware, addon.what(), &self.versions].map(str::to_owned);
            Boot::new(addon.name(), about, || self.boot_one(workspace, *addon))
        })
    }

    fn make(&self, workspace: &Workspace, early: &Path) -> Result<()> {
        let Self { kernel, .. } = self;
        self.run(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=vfio-override/ \
             -keyout db.key -out db.crt",
        )?;
        self.run(&format!(
            "virt-fw-vars --input /usr/share/OVMF/OVMF_VARS_4M.fd --output secure.fd --sb \
             --set-pk {OWNER} db.crt --add-kek {OWNER} db.crt --add-db {OWNER} db.crt"
        ))?;
        fs::copy(&kernel.image, self.path("vmlinuz")).context("cannot copy the kernel")?;
        fs::write(self.path("vfio-override.cpio.gz"), image::overlay(early)?)?;
        let ingredients = Ingredients::of(workspace, kernel)?;
        for addon in [Addon::Signed, Addon::Strict] {
            let case = addon.case(machine::demo());
            let image = if addon == Addon::Strict {
                ingredients.without_early(kernel, &case.drivers())?
            } else {
                ingredients.mix(kernel, early, &case.drivers())?
            };
            fs::write(self.path("initrd"), image.to_bytes()?)?;
            fs::write(
                self.path("cmdline"),
                session::command_line(kernel.arch, &case.command_line())?,
            )?;
            let name = image_of(addon);
            self.run(&format!(
                "ukify build --linux vmlinuz --initrd initrd --cmdline @cmdline --os-release ID=guest \
                 --uname {} {SIGN} --output {name}",
                kernel.release
            ))?;
        }
        Ok(())
    }

    fn boot_one(&self, workspace: &Workspace, addon: Addon) -> Result<Judgement> {
        let disk = self.make_disk(addon)?;
        let firmware = |name: &str| self.debian.path("usr/share/OVMF").join(name);
        let efi = Efi {
            code: firmware("OVMF_CODE_4M.secboot.fd"),
            variables: if addon.is_secure() {
                self.path("secure.fd")
            } else {
                firmware("OVMF_VARS_4M.fd")
            },
        };
        let machine = machine::demo().with_image(IMAGE_MEMORY).disk("00:07.0", &disk).by_efi(efi);
        let case = addon.case(machine);
        let session = Session {
            name: &slug(&addon.name()),
            kernel: &self.kernel,
            image: Vec::new(),
            parameters: String::new(),
            machine: &case.machine,
            tests_pid1: addon == Addon::Strict,
            patience: |patience| patience.boot *= 3,
            interaction: Interaction::Silent,
        };
        let modules = &self.kernel.modules;
        suite::observe(workspace, &session, &case, |evidence| {
            suite::judge_case(&case, modules, evidence)
        })
    }

    /// An EFI system partition with the image where firmware looks for it, and the addon beside it.
    fn make_disk(&self, addon: Addon) -> Result<PathBuf> {
        let name = slug(&addon.name());
        let efi = format!("{name}.addon.efi");
        let sign = if addon.is_signed() { SIGN } else { "" };
        let (initrd, start) = if addon == Addon::Strict {
            ("--initrd vfio-override.cpio.gz", "rdinit=/vfio-override-early ")
        } else {
            ("", "")
        };
        fs::write(self.path(&format!("{name}.cmdline")), format!("{start}vfio.override={RULES}"))?;
        self.run(&format!("ukify build --cmdline @{name}.cmdline {initrd} {sign} --output {efi}"))?;
        if addon == Addon::Changed {
            change(&self.path(&efi))?;
        }
        let disk = format!("{name}.img");
        self.run(&format!("rm -f {disk}"))?;
        self.run(&format!("mkfs.vfat -C {disk} {}", DISK * 1024))?;
        // For every image of the partition, or for this one.
        let extra = if addon == Addon::Strict {
            "::loader/addons"
        } else {
            "::EFI/BOOT/BOOTX64.EFI.extra.d"
        };
        self.run(&format!("mmd -i {disk} ::EFI ::EFI/BOOT ::loader {extra}"))?;
        self.run(&format!("mcopy -i {disk} {} ::EFI/BOOT/BOOTX64.EFI", image_of(addon)))?;
        self.run(&format!("mcopy -i {disk} {efi} {extra}/vfio-override.addon.efi"))?;
        Ok(self.path(&disk))
    }

    /// A command line of words without quotes, in a directory of its own.
    fn run(&self, line: &str) -> Result<String> {
        self.debian.run("sh", ["-c", &format!("mkdir -p /tmp/uki && cd /tmp/uki && {line}")])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.debian.path("tmp/uki").join(name)
    }
}

fn image_of(addon: Addon) -> &'static str {
    if addon == Addon::Strict { "plain.efi" } else { "hook.efi" }
}

/// Has the rules of an addon name another device, and leaves its signature.
fn change(path: &Path) -> Result<()> {
    const FROM: &[u8] = b",00:04.0,";
    let mut bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let found: Vec<usize> = (0..bytes.len())
        .filter(|start| bytes.get(*start..).is_some_and(|rest| rest.starts_with(FROM)))
        .collect();
    ensure!(found.len() == 1, "the rules are in the addon {} times", found.len());
    if let Some(digit) = bytes.get_mut(found[0] + 5) {
        *digit = b'3';
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
