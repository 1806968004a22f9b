// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfio-override`: what `vfio.override=` will do on this host, and what it did.
//!
//! Whatever it shows of rules comes from the early binary's own library.

#![deny(unsafe_code)]

mod args;
mod change;
mod commands;
mod machine;
mod picture;
mod rules;
mod screen;
mod systems;
mod verdict;

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use args::{Arguments, Command};
use clap::Parser;
use commands::{apply, claims, collect, list, manual, plan, release, status, suggest};
use machine::Machine;
use verdict::Verdict;

fn main() -> ExitCode {
    let verdict = match Arguments::try_parse() {
        Ok(arguments) => run(&arguments),
        Err(told) => Ok(told_by_clap(&told)),
    };
    let verdict = verdict.and_then(|verdict| match screen::failure() {
        Some(error) => Err(anyhow!("cannot write to standard output: {error}")),
        None => Ok(verdict),
    });
    match verdict {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::from(1),
        Err(error) => {
            screen::error(&format!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Help and version are what was asked for, and go to standard output.
fn told_by_clap(told: &clap::Error) -> Verdict {
    let printed = told.print();
    if told.use_stderr() {
        std::process::exit(told.exit_code());
    }
    screen::note(printed);
    Verdict::Good
}

fn run(arguments: &Arguments) -> Result<Verdict> {
    let json = arguments.json;
    let machine = || Machine::open(&arguments.source);
    match &arguments.command {
        Command::List(options) => list::run(&mut machine()?, options, json),
        Command::Plan(options) => plan::run(&mut machine()?, &options.rules, json),
        Command::Claims(options) => claims::run(&mut machine()?, options.publish.as_deref()),
        Command::Status => status::run(&mut machine()?, json),
        Command::Suggest(options) => suggest::run(&mut machine()?, &options.addresses, json),
        Command::Apply(options) => apply::run(&mut machine()?, options, json),
        Command::Release(options) => release::run(&mut machine()?, options, json),
        Command::Collect(options) => collect::run(&mut machine()?, &options.file, json),
        Command::Generate(options) => manual::write(&options.directory),
    }
}
