//! `cargo xtask`: builds, audits and boots vfio-override. Run `cargo xtask help` for the list.

#![forbid(unsafe_code)]

mod accelerator;
mod acpi;
mod archive;
mod audit;
mod bench;
mod boot;
mod build;
mod bzimage;
mod case;
mod cases;
mod command;
mod fuzz;
mod generators;
mod guest;
mod image;
mod install;
mod judge;
mod kernel;
mod link;
mod modules;
mod musl;
mod mutants;
mod pool;
mod probes;
mod programs;
mod progress;
mod provenance;
mod qemu;
mod qmp;
mod serial;
mod session;
mod setup;
mod soak;
mod suite;
mod table;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, audits and boots vfio-override.
///
/// Exit status: 0 all is well; 1 what was checked is wrong; 2 wrong use of this command;
/// 3 it could not be checked (a missing tool, a failed download, a guest that never came up).
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Build(build::Options),
    Image(image::Options),
    Boot(boot::Options),
    Test(test::Options),
    Fuzz(fuzz::Options),
    Soak(soak::Options),
    Install(install::InstallOptions),
    Uninstall(install::UninstallOptions),
    Bench(bench::Options),
}

/// What a task that ran to its end found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Bad,
    /// Nothing is wrong as far as it could be checked.
    Open,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Build(options) => build::run(&options),
        Task::Image(options) => image::run(&options),
        Task::Boot(options) => boot::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::Install(options) => install::install(&options),
        Task::Uninstall(options) => install::uninstall(&options),
        Task::Bench(options) => bench::run(&options),
    };
    match outcome {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::from(1),
        Ok(Verdict::Open) => ExitCode::from(3),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(3)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
