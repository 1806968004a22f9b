// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one definition of the arguments: what is parsed, `--help`, the manual page and the completions.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueHint};
use vfio_override::grammar;
use vfio_override::pci::Address;

/// See what vfio.override= will do before you boot it, and what it did
///
/// vfio.override= on the kernel command line keeps host drivers away from PCI functions that are meant
/// for a virtual machine. This tool finds the functions, makes the parameter, shows with the very code
/// that runs at boot what it will do, and afterwards whether it did.
#[derive(Parser)]
#[command(
    name = "vfio-override",
    version,
    max_term_width = 100,
    after_help = format!("Exit status: {EXIT_STATUS}.\n\nColour is for terminals only; NO_COLOR turns it off."),
    arg_required_else_help = true,
    infer_subcommands = true
)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,

    #[command(flatten)]
    pub source: Source,

    /// Print JSON, as /usr/share/doc/vfio-override/json.md describes it
    #[arg(long, global = true)]
    pub json: bool,
}

/// What the exit status of every command tells.
pub const EXIT_STATUS: &str = "0 everything is as asked; 1 something differs, or a rule is not applied; \
     2 wrong use, or what was asked could not be done";

/// The machine to look at: this one, where nothing else is said.
#[derive(Args, Default)]
pub struct Source {
    /// Look at a copy of a machine, made by `collect`
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath,
          conflicts_with_all = ["sysfs", "cmdline"])]
    pub from: Option<PathBuf>,

    /// Look at this directory instead of /sys
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub sysfs: Option<PathBuf>,

    /// Read this kernel command line instead of /proc/cmdline
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub cmdline: Option<PathBuf>,

    /// Take names from this file instead of the system's pci.ids
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub pci_ids: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum Command {
    /// List the PCI functions by IOMMU group, with the driver that each has
    List(List),

    /// Show what rules would do at boot, and touch nothing
    ///
    /// Without RULE, the rules of the kernel command line are shown.
    Plan(Rules),

    /// Compare what the kernel command line asked for with what is true now
    ///
    /// Shows the lines that vfio-override wrote to the kernel log since this boot, too. Reading it takes root
    /// on most systems.
    Status,

    /// Print which functions are kept on purpose, as JSON for programs that hand devices out
    ///
    /// The host's service publishes this as /run/vfio-override/claims.json. Exit status: as that of status.
    Claims(Claims),

    /// Make the sturdiest parameter for functions, and say where to write it
    ///
    /// Without ADDRESS, the displays are listed to choose from.
    Suggest(Suggest),

    /// Do now what rules would do at boot
    ///
    /// Sets the overrides, takes the functions from their drivers, loads the drivers that the rules name,
    /// and checks what came of it. Lasts until the next boot. Without RULE, the rules of the kernel command
    /// line are applied. Refused where the host runs from what would be taken. On a copy that `collect` made, only
    /// the plan is shown.
    Apply(Apply),

    /// Give functions back to their standard drivers
    ///
    /// Clears the override, takes the function from the driver that it was kept for, loads and probes its
    /// standard driver, and checks what came of it. On a copy that `collect` made, only what would be done is
    /// shown.
    Release(Release),

    /// Copy what this tool looks at into a small file, for a bug report
    ///
    /// The file holds no serial numbers and no host name, and of the kernel command line only the parameters that
    /// concern drivers, PCI and the IOMMU. Every command reads it with --from.
    Collect(Collect),

    /// Write the manual pages and the shell completions into a directory
    #[command(hide = true)]
    Generate(Generate),
}

#[derive(Args)]
pub struct List {
    /// Only this class: a name or part of one (vga, "usb controller"), or the first digits of its code (03, 0c03)
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,

    /// Only this IOMMU group
    #[arg(long, value_name = "NUMBER")]
    pub group: Option<u32>,

    /// Only functions that this driver has; "none" for those that none has
    #[arg(long, value_name = "NAME")]
    pub driver: Option<String>,

    /// Draw the tree of bridges and functions, and say why a group cannot be split and which ports have groups of their
    /// own
    #[arg(long)]
    pub tree: bool,

    /// Write that tree as an SVG picture, which must not exist
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub svg: Option<PathBuf>,
}

#[derive(Args)]
pub struct Rules {
    /// Rules of vfio.override=, such as 01:00.0+slot; vfio-override(7) has them all
    #[arg(value_name = "RULE")]
    pub rules: Vec<String>,
}

#[derive(Args)]
pub struct Claims {
    /// Put it into this file, at once as a whole, instead of printing it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub publish: Option<PathBuf>,
}

#[derive(Args)]
pub struct Suggest {
    /// Functions to pass through, such as 01:00.0
    #[arg(value_name = "ADDRESS", value_parser = address)]
    pub addresses: Vec<Address>,
}

#[derive(Args)]
pub struct Apply {
    #[command(flatten)]
    pub rules: Rules,

    #[command(flatten)]
    pub patience: Patience,
}

#[derive(Args)]
pub struct Release {
    /// Functions to give back, such as 01:00.0
    #[arg(value_name = "ADDRESS", value_parser = address, required = true)]
    pub addresses: Vec<Address>,

    #[command(flatten)]
    pub patience: Patience,
}

#[derive(Args)]
pub struct Patience {
    /// How long one operation may take, such as a driver's letting go
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    timeout: u16,
}

impl Patience {
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}

#[derive(Args)]
pub struct Collect {
    /// The file to write, a tar archive; it must not exist
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
}

#[derive(Args)]
pub struct Generate {
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: PathBuf,
}

fn address(text: &str) -> Result<Address, String> {
    grammar::parse_address(text.as_bytes())
        .map_err(|error| format!("column {}: expected {}", error.column, error.expected))
}
