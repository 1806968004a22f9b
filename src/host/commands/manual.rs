// SPDX-License-Identifier: MIT OR Apache-2.0
//! The manual pages and the completions, from the definition of the arguments.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Arg, ArgAction, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::args::{Arguments, EXIT_STATUS};
use crate::verdict::Verdict;

/// The page of the parameter, which is no program's.
const PARAMETER: &str = include_str!("../../../docs/vfio-override.7");

const EARLY_EXIT_STATUS: &str =
    "1 a rule was unmatched, refused, invalid or failed; 2 wrong use; else 0";

/// Writes everything that a package installs, named as it is installed.
pub fn write(directory: &Path) -> Result<Verdict> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let put = |name: &str, text: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    for (command, exit_status) in [(host(), EXIT_STATUS), (early(), EARLY_EXIT_STATUS)] {
        // One page a program, and one for each of its commands, which the first refers to.
        let mut command = command.disable_help_subcommand(true);
        command.build();
        for (name, text) in pages(&command, exit_status)? {
            put(&name, &text)?;
        }
    }
    put("vfio-override.7", PARAMETER.as_bytes())?;
    for (shell, name) in [
        (Shell::Bash, "vfio-override.bash"),
        (Shell::Zsh, "_vfio-override"),
        (Shell::Fish, "vfio-override.fish"),
    ] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut host(), "vfio-override", &mut text);
        put(name, &text)?;
    }
    Ok(Verdict::Good)
}

fn host() -> Command {
    Arguments::command()
}

/// The pages of a program and its commands, each with its file's name.
fn pages(command: &Command, exit_status: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let commands = command.get_subcommands().filter(|command| !command.is_hide_set());
    let mut pages = Vec::new();
    for command in commands.chain([command]) {
        let usage = command.clone().render_usage().to_string();
        let page = command
            .clone()
            .override_usage(usage.trim_start_matches("Usage: ").to_owned())
            // What is said there of -h is not true of a page.
            .mut_args(|arg| if arg.get_id() == "help" { arg.long_help("Print help") } else { arg });
        let has_commands = page.has_subcommands();
        let man = Man::new(page).section("8").manual("System Administration");
        let mut text = Vec::new();
        man.render_title(&mut text)?;
        man.render_name_section(&mut text)?;
        man.render_synopsis_section(&mut text)?;
        man.render_description_section(&mut text)?;
        man.render_options_section(&mut text)?;
        if has_commands {
            man.render_subcommands_section(&mut text)?;
        }
        Roff::new()
            .control("SH", ["EXIT STATUS"])
            .text([roman(exit_status)])
            .control("SH", ["SEE ALSO"])
            .text([roman("vfio-override(7), vfio-override(8), vfio-override-early(8), lspci(8)")])
            .to_writer(&mut text)?;
        pages.push((man.get_filename(), text));
    }
    Ok(pages)
}

/// The early binary's arguments. It reads them itself, without this library; a test compares the two.
fn early() -> Command {
    let path = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new("vfio-override-early")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Apply vfio.override= before any driver loads")
        .long_about(
            "Reads vfio.override= from the kernel command line and sets driver_override of the functions \
             that it selects, so that no other driver is matched with them; then takes them from the drivers \
             that have them already, and offers them to their own. Called by the hook of an initramfs, or \
             by the kernel itself as PID 1 (rdinit=/vfio-override-early), after which it becomes the real init.",
        )
        .disable_help_flag(true)
        .disable_version_flag(true)
        .arg(path("sysfs", "DIR", "Look at this directory instead of /sys"))
        .arg(path("cmdline", "FILE", "Read this kernel command line instead of /proc/cmdline"))
        .arg(path("kmsg", "FILE", "Write the log to this file instead of /dev/kmsg"))
        .arg(
            Arg::new("modprobe")
                .long("modprobe")
                .action(ArgAction::SetTrue)
                .help("Load the drivers that the rules name afterwards"),
        )
        .arg(path("device", "ADDRESS", "Apply the rules to this one function, which appeared later"))
        .arg(
            Arg::new("version")
                .long("version")
                .action(ArgAction::SetTrue)
                .help("Print the version"),
        )
}
