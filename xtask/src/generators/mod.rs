// SPDX-License-Identifier: MIT OR Apache-2.0
//! The images of real generators: made in a Debian of their own, booted, and judged like any other
//! guest, but for the root file system that they hand over to.

mod checkouts;
mod debian;
mod dracut;
mod initramfs_tools;
mod mkinitcpio;
mod mkosi;
mod uki;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use self::checkouts::Tool;
pub use self::checkouts::{Checkouts, Project};
use self::debian::Debian;
use self::dracut::Scope;
pub use self::uki::{Addon, SignedImages};
use crate::build::Binary;
use crate::cases;
use crate::cases::case::{Case, Mode};
use crate::cases::suite;
use crate::cases::suite::Judgement;
use crate::deliver::install;
use crate::ground::arch::{AARCH64, Arch, Libc, X86_64};
use crate::ground::pool;
use crate::ground::progress;
use crate::ground::table;
use crate::ground::workspace::Workspace;
use crate::guest::archive::Archive;
use crate::guest::evidence;
use crate::guest::evidence::Evidence;
use crate::guest::image::{self, Drivers, EARLY, Ingredients};
use crate::guest::kernel::{self, Kernel};
use crate::guest::machine::{self, Machine};
use crate::guest::modules::Presence;
use crate::guest::probes;
use crate::guest::session::{Interaction, Session};

/// A Debian whose generators are tried.
pub struct Root {
    name: &'static str,
    suite: &'static str,
    arch: &'static Arch,
    /// Its kernel, by its name in `tests/kernels.toml`.
    kernel: &'static str,
    packages: &'static [&'static str],
}

/// A further one is one more entry.
const ROOTS: [Root; 4] = [
    Root { name: "Debian 12", suite: "bookworm", arch: X86_64, kernel: "6.1", packages: &PACKAGES },
    Root { name: "Debian 13", suite: "trixie", arch: X86_64, kernel: "6.12", packages: &PACKAGES },
    Root { name: "Debian sid", suite: "sid", arch: X86_64, kernel: "newest", packages: &PACKAGES },
    Root {
        name: "Debian 13, aarch64",
        suite: "trixie",
        arch: AARCH64,
        kernel: "6.12",
        packages: &PACKAGES,
    },
];

/// Where generators are built and tried that no Debian has.
static WORKBENCH: Root = Root {
    name: "Debian sid, from sources",
    suite: "sid",
    arch: X86_64,
    kernel: "newest",
    packages: &checkouts::PACKAGES,
};

/// What a root has, besides what these depend on. Neither generator's own package is here: those exclude each other,
/// and only say which one a kernel's installation calls. The static busybox would run its own programs in place of kmod's
/// and util-linux', wherever a generator takes it for the shell.
const PACKAGES: [&str; 12] = [
    "?essential",
    "busybox",
    "cpio",
    "dracut-core",
    "e2fsprogs",
    "initramfs-tools-core",
    "kmod",
    "mount",
    "systemd",
    "udev",
    // Newer ones have switch_root there.
    "util-linux-extra",
    "zstd",
];

/// Where what does not differ between roots is tried.
const COMMON: &Root = &ROOTS[1];

/// What the root disk needs.
const ROOT_DRIVERS: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];

/// The host's drivers, which every image is told to load on purpose.
const FORCED: [&str; 6] = ["bochs", "snd_hda_intel", "xhci_pci", "e1000e", "nvme", "virtio_net"];

/// Those of them that are seen to be loaded by the image, where nothing keeps them away.
const EARLIEST: [&str; 2] = ["e1000e", "nvme"];

/// A card with its companions, and one of everything else.
const RULES: &str = "01:00.0+slot,00:04.0,00:05.0,00:06.0";
const TAKEN: [&str; 6] = ["01:00.0", "01:00.1", "01:00.2", "00:04.0", "00:05.0", "00:06.0"];

/// The twins of the first card's display and of the network card, which stay with the host.
const STRAYS: [&str; 2] = ["00:02.0", "00:03.0"];

/// Where the udev rule is, on every host and in every image.
const RULE: &str = "usr/lib/udev/rules.d/70-vfio-override.rules";

/// How every hook starts the early binary.
const START: &str = "/usr/lib/vfio-override/vfio-override-early --modprobe || :";

/// What the kernel prints of every program that is started, and of ours.
const TRACE: &str = "tp_printk trace_event=sched:sched_process_exec";
const STARTED: &str = "sched_process_exec: filename=/usr/lib/vfio-override/vfio-override-early ";

/// Unpacked Debian images are large.
const IMAGE_MEMORY: u32 = 512;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Generator {
    DracutSystemd,
    DracutSystemdHostonly,
    Dracut,
    DracutHostonly,
    InitramfsTools,
    /// The initrd that mkosi makes of a distribution's packages.
    Mkosi,
    /// An image made by hand, without any hook.
    Busybox,
    Booster,
    MkinitcpioUdev,
    MkinitcpioSystemd,
    Mkinitfs,
    Ugrd,
}

impl Generator {
    /// Those that every Debian has.
    const ALL: [Self; 7] = [
        Self::DracutSystemd,
        Self::DracutSystemdHostonly,
        Self::Dracut,
        Self::DracutHostonly,
        Self::InitramfsTools,
        Self::Mkosi,
        Self::Busybox,
    ];

    /// Those that no Debian has.
    const FOREIGN: [Self; 5] =
        [Self::Booster, Self::MkinitcpioUdev, Self::MkinitcpioSystemd, Self::Mkinitfs, Self::Ugrd];

    fn is_systemd(self) -> bool {
        matches!(
            self,
            Self::DracutSystemd
                | Self::DracutSystemdHostonly
                | Self::Mkosi
                | Self::MkinitcpioSystemd
        )
    }

    /// Whose images it makes, where that is built from a checkout.
    fn project(self) -> Option<Project> {
        match self {
            Self::MkinitcpioUdev | Self::MkinitcpioSystemd => Some(Project::Mkinitcpio),
            Self::Booster => Some(Project::Booster),
            Self::Mkinitfs => Some(Project::Mkinitfs),
            Self::Ugrd => Some(Project::Ugrd),
            _ => None,
        }
    }

    /// Whether this project has a hook for it.
    fn has_hook(self) -> bool {
        !matches!(self, Self::Busybox | Self::Booster | Self::Mkinitfs | Self::Ugrd)
    }

    /// What is tried with its image on a root. How the hook is started and what goes wrong differs between generators,
    /// and an image for one host holds other drivers: one root shows that. `all` are all boots that there can be.
    fn modes(self, root: &Root, all: bool) -> Vec<How> {
        let is_common = root.arch == X86_64 && (all || root.name == COMMON.name);
        match self {
            // It fetches and installs what is in its image.
            Self::Mkosi if all && root.name == mkosi::ROOT => vec![How::Hook, How::Strict],
            Self::Mkosi => Vec::new(),
            // A generator that is emulated takes minutes.
            _ if root.arch != X86_64 && !all => Vec::new(),
            Self::DracutSystemd | Self::Dracut | Self::InitramfsTools if is_common => {
                How::ALL.to_vec()
            }
            Self::InitramfsTools => vec![How::Hook, How::Strict, How::Ids],
            Self::DracutSystemdHostonly | Self::DracutHostonly if is_common => {
                vec![How::Hook, How::Strict]
            }
            Self::DracutSystemd | Self::Dracut | Self::MkinitcpioUdev | Self::MkinitcpioSystemd => {
                vec![How::Hook, How::Strict]
            }
            Self::Booster | Self::Mkinitfs | Self::Ugrd => vec![How::Strict],
            Self::Busybox if is_common => vec![How::Strict, How::BadRules, How::CrashingBinary],
            Self::DracutSystemdHostonly | Self::DracutHostonly | Self::Busybox => Vec::new(),
        }
    }

    /// The packages that made it, which the table of boots names with their versions.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::DracutSystemd | Self::DracutSystemdHostonly => &["dracut-core", "systemd"],
            Self::Dracut | Self::DracutHostonly => &["dracut-core"],
            Self::InitramfsTools => &["initramfs-tools-core"],
            Self::Busybox | Self::Booster | Self::MkinitcpioUdev | Self::Mkinitfs | Self::Ugrd => {
                &[]
            }
            Self::Mkosi | Self::MkinitcpioSystemd => &["systemd"],
        }
    }
}

impl fmt::Display for Generator {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Self::DracutSystemd => "dracut, systemd",
            Self::DracutSystemdHostonly => "dracut, systemd, hostonly",
            Self::Dracut => "dracut, no systemd",
            Self::DracutHostonly => "dracut, no systemd, hostonly",
            Self::InitramfsTools => "initramfs-tools",
            Self::Mkosi => "mkosi-initrd",
            Self::Busybox => "busybox, by hand",
            Self::Booster => "booster",
            Self::MkinitcpioUdev => "mkinitcpio, udev",
            Self::MkinitcpioSystemd => "mkinitcpio, systemd",
            Self::Mkinitfs => "mkinitfs",
            Self::Ugrd => "ugrd",
        })
    }
}

/// How the early binary is started, or kept from its work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// By the generator's hook.
    Hook,
    /// As PID 1, from the overlay, which is appended to the image.
    Strict,
    /// By the hook, with `vfio-pci.ids=` still on the command line.
    Ids,
    /// By the hook, without the parameter: nothing of ours is to run for any function.
    NoRules,
    BadRules,
    MissingBinary,
    CrashingBinary,
}

impl How {
    const ALL: [Self; 7] = [
        Self::Hook,
        Self::Strict,
        Self::Ids,
        Self::NoRules,
        Self::BadRules,
        Self::MissingBinary,
        Self::CrashingBinary,
    ];
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Self::Hook => "hook",
            Self::Strict => "overlay, rdinit=",
            Self::Ids => "hook, vfio-pci.ids=",
            Self::NoRules => "hook, no rules",
            Self::BadRules => "every rule is bad",
            Self::MissingBinary => "the binary is missing",
            Self::CrashingBinary => "the binary crashes",
        })
    }
}

/// A boot of the table.
pub struct Cell {
    generator: Generator,
    how: How,
    root: &'static Root,
}

impl Cell {
    /// Those of every change, or `all` that there can be.
    pub fn every(all: bool) -> impl Iterator<Item = Self> {
        ROOTS.iter().flat_map(move |root| {
            Generator::ALL.into_iter().flat_map(move |generator| {
                let modes = generator.modes(root, all).into_iter();
                modes.map(move |how| Self { generator, how, root })
            })
        })
    }

    pub fn arch(&self) -> &'static Arch {
        self.root.arch
    }

    /// Those with generators that are built from a checkout, whether there is one or not.
    pub fn foreign() -> impl Iterator<Item = (Project, Self)> {
        Generator::FOREIGN.into_iter().flat_map(|generator| {
            let modes = generator.modes(&WORKBENCH, true).into_iter();
            modes.filter_map(move |how| {
                Some((generator.project()?, Self { generator, how, root: &WORKBENCH }))
            })
        })
    }

    pub fn name(&self) -> String {
        format!("{}, {}, {}", self.root.name, self.generator, self.how)
    }

    /// Whether the early binary is PID 1: without a hook there is no other way.
    fn is_strict(&self) -> bool {
        self.how == How::Strict || !self.generator.has_hook()
    }

    /// What is booted and what must come of it.
    fn case(&self, disk: &Path) -> Case {
        // The root file system's init runs nothing: whoever should have run did so before.
        let case = Case::new(self.name(), machine(disk))
            .on(self.root.arch)
            .mode(Mode::Control)
            .parameter(&format!("root=/dev/vda rw rd.driver.pre={}", EARLIEST.join(",")));
        // systemd waits for that disk, and lets much of the boot wait, before it mounts anything.
        let case =
            if self.generator.is_systemd() { case.parameter("resume=/dev/vda") } else { case };
        let case = match self.generator {
            Generator::Ugrd => case.parameter("rootfstype=ext4 rootflags=rw"),
            Generator::Mkinitfs => {
                let modules = [&ROOT_DRIVERS[..], &FORCED].concat().join(",");
                case.parameter(&format!("rootfstype=ext4 rootflags=rw modules={modules}"))
            }
            _ => case,
        };
        let case = match self.generator {
            // As docs/alpine.md has it.
            Generator::Mkinitfs => {
                case.parameter("rdinit=/usr/lib/vfio-override/vfio-override-early")
            }
            _ if self.is_strict() => case.parameter("rdinit=/vfio-override-early"),
            _ => case,
        };
        let taken = |case: Case| {
            case.rules(RULES).taken(TAKEN).logged("rules: 4 applied; functions: 6 taken")
        };
        let hooked = |case: Case| {
            // systemd itself loads it before any unit.
            let first = if self.generator.is_systemd() { &["virtio_pci"][..] } else { &[] };
            taken(case).loaded_before(first).logged("6 of 6 functions bound")
        };
        match self.how {
            How::Hook => hooked(case),
            // The image loads vfio-pci before the drivers of the host. busybox's modprobe, which dracut 112 takes where it
            // is installed, knows the parameter only with a `_`.
            How::Ids => STRAYS.iter().fold(
                hooked(case).parameter("vfio_pci.ids=1234:1111,8086:10d3").strays(STRAYS),
                |case, stray| {
                    case.logged(&format!(
                        "vfio-pci.ids= has vfio-pci take 0000:{stray}, which no rule does"
                    ))
                },
            ),
            How::Strict => taken(case),
            How::NoRules => case
                .parameter(TRACE)
                .logged("no vfio.override= on the kernel command line, nothing to do"),
            How::BadRules => case
                .rules("nonsense,00:1e.0,00:1c.0,00:03.0@1234:1111")
                .logged("rule 1 \"nonsense\": invalid")
                .logged("rule 2 \"00:1e.0\": unmatched")
                .logged("rule 3 \"00:1c.0\": refused")
                .logged("rule 4 \"00:03.0@1234:1111\": refused"),
            How::CrashingBinary if self.is_strict() => {
                case.rules(cases::CROWD).logged("killed by signal 11")
            }
            How::MissingBinary | How::CrashingBinary => case.rules(RULES),
        }
    }

    fn boot(
        &self,
        workspace: &Workspace,
        name: &str,
        kernel: &Kernel,
        disk: &Path,
        image: Vec<u8>,
    ) -> Result<Judgement> {
        let case = self.case(disk);
        let session = Session {
            name: &slug(name),
            kernel,
            image,
            parameters: case.command_line(),
            machine: &case.machine,
            tests_pid1: true,
            patience: |patience| patience.boot *= 3,
            interaction: Interaction::Silent,
        };
        suite::observe(workspace, &session, &case, |evidence| self.judge(&case, kernel, evidence))
    }

    /// What is appended to the generator's image.
    fn addition(&self, early: &Path) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        match self.how {
            How::Strict if self.generator == Generator::Mkinitfs => return Ok(Vec::new()),
            How::Strict | How::BadRules if self.is_strict() => return image::overlay(early),
            How::Strict | How::Hook | How::Ids | How::NoRules | How::BadRules => {
                return Ok(Vec::new());
            }
            // What is PID 1 must not crash: its worker does.
            How::CrashingBinary if self.is_strict() => {
                archive.program_from(EARLY, early)?;
                cases::crowded_sysfs(&mut archive);
                cases::kill_worker(&mut archive, "SEGV");
            }
            How::MissingBinary => archive.link(EARLY, "nowhere"),
            How::CrashingBinary => archive.program(EARLY, "#!/bin/sh\nkill -SEGV $$\n"),
        }
        archive.to_gzip()
    }

    fn judge(&self, case: &Case, kernel: &Kernel, evidence: &Evidence) -> Vec<String> {
        let mut complaints = suite::judge_case(case, &kernel.modules, evidence);
        let runs = evidence.early_records().filter(|record| record.starts_with("rules: ")).count();
        match self.how {
            How::Strict if runs != 1 + usize::from(self.generator.has_hook()) => {
                complaints.push(format!(
                    "the early binary ran {runs} times; expected it as PID 1, and as a hook if \
                     there is one"
                ));
            }
            How::MissingBinary | How::CrashingBinary => {
                // Where its worker is what crashed, PID 1 tells so, and what was done all the same.
                let went_wrong = if matches!(self.how, How::CrashingBinary) && self.is_strict() {
                    evidence.early_records().any(|record| record.starts_with("killed by signal"))
                } else {
                    runs == 0
                };
                if !went_wrong {
                    complaints.push("the early binary ran, so this boot shows nothing".to_owned());
                }
                complaints
                    .extend(EARLIEST.iter().filter_map(|driver| judge_time(evidence, driver)));
            }
            How::NoRules => {
                let starts = evidence.log.lines().filter(|line| line.contains(STARTED)).count();
                if starts != 1 {
                    complaints.push(format!(
                        "the early binary was started {starts} times; expected once, by the hook, and never by udev"
                    ));
                }
            }
            How::Strict | How::Hook | How::Ids | How::BadRules => {}
        }
        complaints
    }
}

/// What is wrong where an image leaves a driver to the root file system: none of its boots would show a late hook.
fn judge_time(evidence: &Evidence, driver: &str) -> Option<String> {
    let is_probe = |line: &&str| probes::probes(line).any(|probe| probe.driver == driver);
    let first = evidence.log.lines().find(is_probe).and_then(evidence::stamp);
    let root = evidence.uptime_of_init();
    let is_early = first.zip(root).is_some_and(|(first, root)| first < root);
    (!is_early).then(|| {
        format!("{driver} first probed at {first:?} s, but the root's init began at {root:?} s")
    })
}

/// The machine of `cargo xtask boot` with a root disk.
fn machine(disk: &Path) -> Machine {
    machine::demo().with_image(IMAGE_MEMORY).disk("00:07.0", disk)
}

/// Everything that the boots are made of.
pub struct Workshop {
    supplies: Vec<Supply>,
    tools: Vec<Tool>,
}

/// What there is of one root.
struct Supply {
    root: &'static Root,
    early: PathBuf,
    debian: Debian,
    /// What is installed there.
    built: PathBuf,
    kernel: Kernel,
    ingredients: Ingredients,
    /// The image of the root file system.
    disk: PathBuf,
}

/// How one boot ended.
pub struct Boot {
    pub name: String,
    /// What the table says of it: the root, what made the image, how the early binary was started, and the versions.
    about: [String; 4],
    took: Duration,
    pub outcome: Judgement,
}

impl Boot {
    /// Boots, and tells when that is done.
    fn new(name: String, about: [String; 4], boot: impl FnOnce() -> Result<Judgement>) -> Self {
        let start = Instant::now();
        let outcome = boot().unwrap_or_else(|error| Judgement::NotTested(format!("{error:#}")));
        let took = start.elapsed();
        let result = match outcome {
            Judgement::Passed(_) => "",
            Judgement::Failed(_) => "  FAILED",
            Judgement::NotTested(_) => "  NOT TESTED",
        };
        eprintln!("  boot {name:<53} {:>6.1} s{result}", took.as_secs_f64());
        Self { name, about, took, outcome }
    }
}

impl Workshop {
    /// The Debians of these cells with their early binary and all hooks installed, each with a root disk for its kernel.
    pub fn prepare(
        workspace: &Workspace,
        binaries: &[Binary],
        cells: &[Cell],
        checkouts: &Checkouts,
    ) -> Result<Self> {
        let supply = |root: &'static Root| {
            let is_its = |binary: &&Binary| {
                binary.target.arch == root.arch && binary.target.libc() == Libc::Musl
            };
            let binary = binaries.iter().find(is_its).context("the binary did not build")?;
            let early = binary.path.clone();
            // The host tool is this machine's: no generator runs it.
            let built = install::gather_for_tests(workspace, &early)?;
            let debian = Debian::prepare(
                workspace,
                root.suite,
                root.arch,
                "for the generators",
                root.packages,
            )?;
            install::install_to(debian.root(), &workspace.root, &built)?;
            let kernel = kernel::named(root.kernel, root.arch, workspace)?;
            debian.add_kernel(&kernel)?;
            let ingredients = Ingredients::of(workspace, &kernel)?;
            let make = |arguments: &str| debian.run("mke2fs", arguments.split(' '));
            let disk = make_disk(workspace, &debian.path("tmp"), make, &kernel)
                .with_context(|| format!("cannot make a root disk for {}", root.name))?;
            Ok(Supply { root, early, debian, built, kernel, ingredients, disk })
        };
        // What needs no boot is looked at in the first.
        let is_needed = |root: &&Root| {
            root.name == ROOTS[0].name || cells.iter().any(|cell| cell.root.name == root.name)
        };
        let roots = ROOTS.iter().chain([&WORKBENCH]).filter(is_needed);
        let supplies = roots.map(supply).collect::<Result<Vec<_>>>()?;
        let workbench = supplies.iter().find(|supply| supply.root.name == WORKBENCH.name);
        let tools = workbench.map(|supply| checkouts.set_up(&supply.debian)).unwrap_or_default();
        Ok(Self { supplies, tools })
    }

    /// Boots the cells two at a time, each generator's image made once for each root.
    pub fn boot(&self, workspace: &Workspace, cells: &[Cell]) -> Vec<Boot> {
        let mut wanted: Vec<(Generator, &str)> = Vec::new();
        for cell in cells {
            if !wanted.contains(&(cell.generator, cell.root.name)) {
                wanted.push((cell.generator, cell.root.name));
            }
        }
        let images = pool::each(&wanted, |(generator, root)| {
            let title = format!("make an image: {root}, {generator}");
            progress::phase(title, || self.make(workspace, *generator, root))
                .map_err(|error| format!("{error:#}"))
        });
        pool::each(cells, |cell| {
            let made = wanted
                .iter()
                .zip(&images)
                .find(|(wanted, _)| **wanted == (cell.generator, cell.root.name))
                .map(|(_, image)| image.as_deref());
            let Cell { generator, how, root } = cell;
            let versions =
                self.versions(workspace, cell).unwrap_or_else(|error| format!("{error:#}"));
            let about = [root.name.to_owned(), generator.to_string(), how.to_string(), versions];
            Boot::new(cell.name(), about, || match made {
                Some(Ok(image)) => self.boot_one(workspace, cell, image),
                Some(Err(error)) => Ok(Judgement::Failed(format!("no image: {error}"))),
                None => Ok(Judgement::NotTested("no image was made".to_owned())),
            })
        })
    }

    /// initramfs-tools' hook answers as it must.
    pub fn check_prereqs(&self, _: &Workspace) -> Result<()> {
        initramfs_tools::check_prereqs(&self.oldest()?.debian)
    }

    /// systemd understands every line of the units, scores their sandbox as the page says, and lets them use `openat2`.
    pub fn check_units(&self, workspace: &Workspace) -> Result<()> {
        let page = fs::read_to_string(workspace.root.join("docs/systemd.md"))?;
        let debian = &self.oldest()?.debian;
        for unit in ["vfio-override.service", "vfio-override-initrd.service"] {
            let path = format!("/usr/lib/systemd/system/{unit}");
            let said = debian.run("systemd-analyze", ["verify", "--man=no", &path])?;
            ensure!(said.is_empty(), said);

            let security = ["security", "--offline=yes", "--no-pager", &path];
            let said = debian.run("systemd-analyze", security)?;
            let score = said.split_once(&format!("level for {unit}: ")).map(|(_, score)| score);
            let score = score.and_then(|score| score.split(' ').next());
            let score = score.with_context(|| format!("no score for {unit}: {said}"))?;
            ensure!(
                page.contains(&format!("| `{unit}` | {score} |")),
                "docs/systemd.md has another score for {unit} than {score}"
            );

            let text = fs::read_to_string(debian.path(path.trim_start_matches('/')))?;
            ensure!(
                !text.contains("RestrictSUIDSGID"),
                "{unit}: with RestrictSUIDSGID= there is no openat2, which keeps the program below /sys"
            );
        }
        Ok(())
    }

    /// mkinitcpio's files; the last kernel lacks what a kernel may lack.
    pub fn check_mkinitcpio(&self, workspace: &Workspace) -> Result<()> {
        let Supply { debian, kernel, .. } = self.oldest()?;
        let cloud = self.cloud(workspace)?;
        mkinitcpio::check(debian, workspace, &[kernel, &cloud])
    }

    /// Nobody complains about a module that this kernel lacks.
    pub fn check_lacking_kernel(&self, workspace: &Workspace) -> Result<()> {
        let debian = &self.oldest()?.debian;
        let cloud = self.cloud(workspace)?;
        for said in
            [dracut::make_small(debian, &cloud)?, initramfs_tools::make_small(debian, &cloud)?]
        {
            expect_clean(&said)?;
        }
        Ok(())
    }

    /// Every generator fails, and says why, where the early binary or the udev rule is not installed or empty, and where an
    /// installation was cut short.
    pub fn check_incomplete(&self, workspace: &Workspace) -> Result<()> {
        let Supply { debian, kernel, .. } = self.oldest()?;
        let expect_failure = |reason: &str| -> Result<()> {
            for (name, result) in [
                ("dracut", dracut::make_small(debian, kernel)),
                ("initramfs-tools", initramfs_tools::make_small(debian, kernel)),
                ("mkinitcpio", mkinitcpio::make_small(debian, workspace, kernel)),
            ] {
                let Err(error) = result else { bail!("{name} makes an image: {reason}") };
                let said = format!("{error:#}");
                ensure!(said.contains(reason), "{name} does not say \"{reason}\": {said}");
            }
            Ok(())
        };
        for (file, is_empty) in [(EARLY, false), (RULE, false), (EARLY, true), (RULE, true)] {
            let (place, away) = (debian.path(file), debian.path("tmp/away"));
            fs::rename(&place, &away)?;
            if is_empty {
                fs::write(&place, "")?;
            }
            let outcome = expect_failure(file);
            fs::rename(&away, &place)?;
            outcome?;
        }
        let mark = debian.path(EARLY).with_file_name(".incomplete");
        fs::write(&mark, "")?;
        let outcome = expect_failure("did not come to its end");
        fs::remove_file(&mark)?;
        outcome
    }

    /// Where /init does not read /conf/conf.d, the hook is started from a file that it sources as early.
    pub fn check_fallback(&self, _: &Workspace) -> Result<()> {
        let Supply { debian, kernel, .. } = self.oldest()?;
        let init = debian.path("usr/share/initramfs-tools/init");
        let usual = fs::read_to_string(&init)?;
        let (before, rest) = usual.split_once("for conf in conf/conf.d/").context("no loop")?;
        let (_, after) = rest.split_once("\ndone\n").context("the loop does not end")?;
        // A comment about it reads nothing.
        fs::write(&init, format!("{before}# no more conf/conf.d/\n{after}"))?;
        let made = initramfs_tools::make_small(debian, kernel);
        let read = "rm -rf /tmp/small && unmkinitramfs /tmp/small.img /tmp/small && cat /tmp/small/conf/initramfs.conf";
        let listed = debian.run("sh", ["-c", read]);
        fs::write(&init, &usual)?;
        let warning = "W: vfio-override: the /init of this image does not read /conf/conf.d";
        ensure!(made?.contains(warning), "it is not told");
        ensure!(listed?.contains(START), "nothing starts it");

        // A file of the machine's own that has the same name stays what it is.
        let own = debian.path("etc/initramfs-tools/conf.d/vfio-override");
        fs::write(&own, "OWN=word")?;
        let made = initramfs_tools::make_small(debian, kernel);
        let listed =
            debian.run("sh", ["-c", &read.replace("initramfs.conf", "conf.d/vfio-override")]);
        fs::remove_file(&own)?;
        made?;
        let listed = listed?;
        let has = |line: &str| listed.lines().any(|one| one == line);
        ensure!(has("OWN=word") && has(START), "the image has: {listed}");
        Ok(())
    }

    /// Debian's kernel for cloud machines has neither pci-stub nor most drivers.
    fn cloud(&self, workspace: &Workspace) -> Result<Kernel> {
        let kernel = kernel::named("cloud", X86_64, workspace)?;
        if kernel.modules.presence("pci_stub") != Presence::Absent {
            bail!("{} has pci-stub, so it shows nothing", kernel.release);
        }
        self.oldest()?.debian.add_kernel(&kernel)?;
        Ok(kernel)
    }

    fn supply(&self, root: &str) -> Result<&Supply> {
        let found = self.supplies.iter().find(|supply| supply.root.name == root);
        found.with_context(|| format!("{root} was not prepared"))
    }

    /// Where what needs no boot is looked at.
    fn oldest(&self) -> Result<&Supply> {
        self.supply(ROOTS[0].name)
    }

    /// The version of what was built from a checkout.
    fn tool(&self, project: Project) -> Result<&str> {
        let tool = self.tools.iter().find(|tool| tool.project == project);
        let tool = tool.with_context(|| format!("no checkout of {}", project.name()))?;
        tool.version.as_deref().map_err(|error| anyhow!("{error}"))
    }

    /// The generator's packages of a root, with their versions.
    fn versions(&self, workspace: &Workspace, cell: &Cell) -> Result<String> {
        let Supply { debian, kernel, .. } = self.supply(cell.root.name)?;
        let named = |package: &&str| {
            let name = package.trim_end_matches("-core");
            Ok(format!("{name} {}", debian.version(package)?))
        };
        let tool = match cell.generator {
            Generator::Mkosi => Some(mkosi::version(workspace)?),
            other => match other.project() {
                Some(project) => Some(self.tool(project)?.to_owned()),
                None => None,
            },
        };
        let packages = cell.generator.packages().iter().map(named).collect::<Result<Vec<_>>>()?;
        let all: Vec<String> = tool.into_iter().chain(packages).collect();
        Ok(format!("{}, Linux {}", all.join(", "), kernel.release))
    }

    /// Makes an image; an error if the generator complains about what is ours.
    fn make(&self, workspace: &Workspace, generator: Generator, root: &str) -> Result<PathBuf> {
        let Supply { debian, built, kernel, ingredients, .. } = self.supply(root)?;
        let name = format!("tmp/{}-{}.img", slug(&generator.to_string()), kernel.release);
        let image = format!("/{name}");
        let said = match generator {
            Generator::DracutSystemd => dracut::make(debian, kernel, true, Scope::AnyHost, &image),
            Generator::DracutSystemdHostonly => {
                dracut::make(debian, kernel, true, Scope::ThisHost, &image)
            }
            Generator::Dracut => dracut::make(debian, kernel, false, Scope::AnyHost, &image),
            Generator::DracutHostonly => {
                dracut::make(debian, kernel, false, Scope::ThisHost, &image)
            }
            Generator::InitramfsTools => initramfs_tools::make(debian, kernel, &image),
            Generator::Mkosi => mkosi::make(workspace, built, kernel, &debian.path(&name)),
            Generator::Busybox => {
                let drivers = Drivers {
                    first: [&ROOT_DRIVERS[..], &["crc32c_generic"]].concat(),
                    host: FORCED.to_vec(),
                    passthrough: Vec::new(),
                    later: Vec::new(),
                };
                let mut archive = ingredients.without_early(kernel, &drivers)?;
                archive.program_from("init", &workspace.root.join("tests/guest/switch-root"))?;
                fs::write(debian.path(&name), archive.to_bytes()?)?;
                Ok(String::new())
            }
            Generator::MkinitcpioUdev => {
                self.make_foreign(debian, kernel, generator, "base vfio-override udev", &image)
            }
            Generator::MkinitcpioSystemd => {
                self.make_foreign(debian, kernel, generator, "base systemd vfio-override", &image)
            }
            Generator::Booster | Generator::Mkinitfs | Generator::Ugrd => {
                self.make_foreign(debian, kernel, generator, "", &image)
            }
        }?;
        expect_clean(&said)?;
        Ok(debian.path(&name))
    }

    /// Makes one by what was built from a checkout; `more` is what that takes besides.
    fn make_foreign(
        &self,
        debian: &Debian,
        kernel: &Kernel,
        generator: Generator,
        more: &str,
        image: &str,
    ) -> Result<String> {
        let project = generator.project().context("it is no checkout's")?;
        self.tool(project)?;
        checkouts::make(debian, kernel, project, more, image)
    }

    fn boot_one(&self, workspace: &Workspace, cell: &Cell, made: &Path) -> Result<Judgement> {
        let Supply { early, kernel, disk, .. } = self.supply(cell.root.name)?;
        let mut image = fs::read(made).with_context(|| format!("no {}", made.display()))?;
        image.extend(cell.addition(early)?);
        cell.boot(workspace, &cell.name(), kernel, disk, image)
    }
}

/// What the root disk needs, and the host's drivers, which an image is told to load on purpose.
pub fn drivers() -> [&'static [&'static str]; 2] {
    [&ROOT_DRIVERS, &FORCED]
}

/// Boots from an image that a generator made where the package was installed.
pub fn boot_installed(
    workspace: &Workspace,
    name: &str,
    generator: Generator,
    kernel: &Kernel,
    disk: &Path,
    image: Vec<u8>,
) -> Result<Judgement> {
    let how = if generator.has_hook() { How::Hook } else { How::Strict };
    Cell { generator, how, root: COMMON }.boot(workspace, name, kernel, disk, image)
}

/// A root file system with the guest's init, which loads every driver once more and reports. `tmp` is /tmp for mke2fs.
pub fn make_disk(
    workspace: &Workspace,
    tmp: &Path,
    mke2fs: impl Fn(&str) -> Result<String>,
    kernel: &Kernel,
) -> Result<PathBuf> {
    let ingredients = Ingredients::of(workspace, kernel)?;
    let drivers = Drivers::of(&machine(Path::new("")));
    let mut archive = ingredients.without_early(kernel, &drivers)?;
    for directory in ["run", "tmp"] {
        archive.directory(directory);
    }
    archive.link("sbin/init", "../init");
    // systemd hands over to nothing that has none.
    archive.file("etc/os-release", "ID=guest\n");
    let tree = tempfile::tempdir_in(tmp)?;
    archive.unpack(tree.path())?;
    let name = |path: &Path| format!("/tmp/{}", path.file_name().unwrap_or_default().display());
    let disk = tmp.join(format!("root-{}.img", kernel.release));
    mke2fs(&format!("-q -F -t ext4 -d {} {} 64M", name(tree.path()), name(&disk)))?;
    Ok(disk)
}

/// An error if a generator says anything about this project, or the modules that it asks for, but
/// that it is being included.
fn expect_clean(said: &str) -> Result<()> {
    const EXPECTED: [&str; 3] = [
        "*** Including module: vfio-override ***",
        "dracut: Executing: ",
        "Running build hook: [vfio-override]",
    ];
    let is_complaint = |line: &&str| {
        let concerns_us = line.contains("vfio") || line.contains("pci-stub");
        concerns_us && !EXPECTED.iter().any(|expected| line.contains(expected))
    };
    match said.lines().find(is_complaint) {
        None => Ok(()),
        Some(line) => bail!("the build is not clean: {line}"),
    }
}

/// One line for each boot: what made the image, how the early binary was started, and what came of it.
pub fn show(boots: &[Boot]) -> String {
    let rows = boots.iter().map(|boot| {
        let result = match boot.outcome {
            Judgement::Passed(_) => format!("{:.1} s", boot.took.as_secs_f64()),
            Judgement::Failed(_) => "FAILED".to_owned(),
            Judgement::NotTested(_) => "NOT TESTED".to_owned(),
        };
        boot.about.iter().cloned().chain([result]).collect::<Vec<_>>()
    });
    table::plain(["root", "generator", "mode", "made by", "boot"], rows.collect::<Vec<_>>())
}

fn slug(name: &str) -> String {
    let plain =
        |letter: char| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' };
    name.to_lowercase().chars().map(plain).collect()
}
