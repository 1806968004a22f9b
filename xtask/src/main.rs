// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask`: builds, audits and boots vfio-override. Run `cargo xtask help` for the list.

#![forbid(unsafe_code)]

mod bench;
mod boot;
mod build;
mod cases;
mod deliver;
mod foreign;
mod fuzz;
mod generators;
mod ground;
mod guest;
mod installed;
mod soak;
mod test;
mod trials;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ground::verdict::Verdict;

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
    Image(guest::image::Options),
    Boot(boot::Options),
    Test(test::Options),
    Fuzz(fuzz::Options),
    Soak(soak::Options),
    Install(deliver::install::InstallOptions),
    Uninstall(deliver::install::UninstallOptions),
    Dist(deliver::dist::Options),
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Build(options) => build::run(&options),
        Task::Image(options) => guest::image::run(&options),
        Task::Boot(options) => boot::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::Install(options) => deliver::install::install(&options),
        Task::Uninstall(options) => deliver::install::uninstall(&options),
        Task::Dist(options) => deliver::dist::run(&options),
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
