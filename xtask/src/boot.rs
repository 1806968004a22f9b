// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask boot`: two identical cards, one taken, and the kernel's word for who probed what.

use anyhow::Result;
use clap::Args;

use crate::build::{self, MuslOptions};
use crate::cases::case::{Case, Mode};
use crate::cases::judge;
use crate::cases::suite;
use crate::cases::{self, DEMO_RULES};
use crate::ground::arch::{ArchOptions, Libc};
use crate::ground::progress;
use crate::ground::setup;
use crate::ground::verdict::Verdict;
use crate::ground::workspace::Workspace;
use crate::guest::image::Ingredients;
use crate::guest::kernel::{self, Choice};
use crate::guest::machine;
use crate::guest::session::{Artefacts, Interaction, Session, Stop};

const PARAMETER: &str = "vfio.override=";

/// Build everything, boot it in QEMU, and show which driver probed which device
///
/// The guest has an emulated IOMMU, two identical displays (00:02.0, which it boots on, and
/// 01:00.0, with an audio and a USB function in its slot), two e1000e network cards (00:03.0 and
/// 00:04.0), an nvme drive (00:05.0) and a virtio network card (00:06.0). It runs the early
/// binary, loads every host driver, then vfio-pci. The table names every driver that ever probed
/// each function, from the kernel's driver-core debug lines.
///
/// Fails with status 1 if a function that a rule selects was probed by any other driver than the
/// one it is for, and with status 3 if the guest did not come up, which with --rdinit is the early
/// binary's fault and so status 1. A failed boot keeps its logs, its image and the exact QEMU command,
/// and says where.
///
/// What is missing on a Debian or Ubuntu machine is installed with apt-get; elsewhere the command
/// to do so is printed.
#[derive(Args)]
pub struct Options {
    /// Rules, with or without "vfio.override=" before them
    #[arg(default_value = DEMO_RULES, value_name = "RULES")]
    rules: String,

    /// auto (the host's if usable, else the first of tests/kernels.toml), a name in that file such as
    /// 6.12, or the path of a vmlinuz
    #[arg(long, value_name = "KERNEL", default_value_t = Choice::Auto)]
    kernel: Choice,

    /// Let the kernel start the early binary as PID 1 instead of the initramfs as a hook
    #[arg(long)]
    rdinit: bool,

    #[command(flatten)]
    arch: ArchOptions,

    /// The C library of the early binary (default: musl where that can be had, else glibc)
    #[arg(long, value_name = "LIBC")]
    libc: Option<Libc>,

    /// Give a prompt in the guest after the table; `exit` ends the guest
    #[arg(long)]
    shell: bool,

    /// Keep the logs, the image and the QEMU command, and say where
    #[arg(long)]
    keep: bool,

    #[command(flatten)]
    musl: MuslOptions,
}

impl Options {
    fn rules(&self) -> &str {
        self.rules.strip_prefix(PARAMETER).unwrap_or(&self.rules)
    }

    fn case(&self) -> Case {
        let mode = if self.rdinit { Mode::Rdinit } else { Mode::Hook };
        let case = if self.rules() == DEMO_RULES {
            cases::demo()
        } else {
            Case::new("boot", machine::demo()).rules(self.rules())
        };
        let case = case.mode(mode).on(self.arch.arch);
        if self.shell { case.parameter("guest.shell") } else { case }
    }

    fn interaction(&self) -> Interaction {
        if self.shell { Interaction::Shell } else { Interaction::Progress }
    }
}

pub fn run(options: &Options) -> Result<Verdict> {
    let workspace = Workspace::locate()?;
    setup::ensure(&[&options.arch.arch.guest.emulator])?;
    let case = options.case();
    let early = build::preferred(&workspace, options.arch.arch, options.libc, options.musl)?;
    let kernel = kernel::prepare(&options.kernel, case.arch, &case.drivers().all(), &workspace)?;
    let image = progress::phase("make the image", || {
        Ingredients::of(&workspace, &kernel)?.mix(&kernel, &early.path, &case.drivers())?.to_bytes()
    })?;
    let session = Session {
        name: "boot",
        kernel: &kernel,
        image,
        parameters: case.command_line(),
        machine: &case.machine,
        tests_pid1: options.rdinit,
        patience: |_| {},
        interaction: options.interaction(),
    };
    let artefacts = Artefacts::create(&workspace, session.name)?;
    match boot(&session, &artefacts, options, &case) {
        Ok(complaints) if complaints.is_empty() => {
            println!("\nno selected function was ever probed by another driver");
            if options.keep {
                println!("{}", artefacts.keep());
            }
            Ok(Verdict::Good)
        }
        Ok(complaints) => {
            println!("\nFAILED:\n  {}", complaints.join("\n  "));
            println!("{}", artefacts.keep_as_evidence());
            Ok(Verdict::Bad)
        }
        Err(stop @ Stop::Guest(_)) => {
            println!("\nFAILED:\n  {stop}\n{}", artefacts.keep_as_evidence());
            Ok(Verdict::Bad)
        }
        Err(Stop::Infrastructure(error)) => {
            progress::note(artefacts.keep_as_evidence());
            Err(error
                .context("the boot did not come to the test: nothing can be said about the rules"))
        }
    }
}

/// Boots, prints what came of it, and returns what is wrong.
fn boot(
    session: &Session,
    artefacts: &Artefacts,
    options: &Options,
    case: &Case,
) -> Result<Vec<String>, Stop> {
    let running = session.run(artefacts)?;
    let evidence = &running.evidence;
    let rows = judge::rows(evidence);
    println!("\n{PARAMETER}{}\n\n{}", options.rules(), judge::show(&rows));
    for record in evidence.early_records() {
        println!("{record}");
    }
    let modules = &session.kernel.modules;
    let complaints = if options.rules() == DEMO_RULES {
        suite::judge_case(case, modules, evidence)
    } else {
        let first_driver = |address: &str| case.first_driver(address, modules);
        let mut complaints = judge::judge_selected(&rows, first_driver);
        complaints.extend(suite::judge_start(case, evidence));
        complaints
    };
    running.finish(session.interaction, complaints)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn rules(arguments: &[&str]) -> String {
        let line = Line::parse_from([&["boot"], arguments].concat());
        line.options.rules().to_owned()
    }

    #[test]
    fn rules_are_taken_with_and_without_the_parameter() {
        assert_eq!(rules(&["01:00.0,!boot_vga"]), "01:00.0,!boot_vga");
        assert_eq!(rules(&["vfio.override=01:00.0"]), "01:00.0");
        assert_eq!(rules(&["--rdinit"]), DEMO_RULES);
    }
}
