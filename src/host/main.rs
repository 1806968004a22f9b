//! `vfio-override`: what `vfio.override=` will do on this host, and what it did.
//!
//! Whatever it shows of rules comes from the early binary's own library.

#![deny(unsafe_code)]

mod advice;
mod apply;
mod args;
mod bootloader;
mod change;
mod collect;
mod companions;
mod functions;
mod generator;
mod inside;
mod kernel_log;
mod list;
mod machine;
mod manual;
mod modules;
mod names;
mod parameter;
mod plan;
mod preview;
mod release;
mod root;
mod screen;
mod status;
mod steps;
mod suggest;
mod tree;
mod usage;
mod vfio_users;
#[expect(unsafe_code, reason = "it forks")]
mod worker;

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use args::{Arguments, Command};
use clap::Parser;
use machine::Machine;

/// What the exit status tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is as asked: 0.
    Good,
    /// Something differs, or a rule is not applied: 1.
    Bad,
}

impl Verdict {
    fn of(is_good: bool) -> Self {
        if is_good { Self::Good } else { Self::Bad }
    }
}

fn main() -> ExitCode {
    let verdict = run(&Arguments::parse()).and_then(|verdict| match screen::failure() {
        Some(error) => Err(anyhow!("cannot write to standard output: {error}")),
        None => Ok(verdict),
    });
    match verdict {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::from(1),
        Err(error) => {
            let error = format!("{error:#}");
            let error = screen::printable(&error);
            anstream::eprintln!("{}error:{:#} {error}", screen::BAD, screen::BAD);
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<Verdict> {
    let json = arguments.json;
    let machine = || Machine::open(&arguments.source);
    match &arguments.command {
        Command::List(options) => list::run(&mut machine()?, options, json),
        Command::Plan(options) => plan::run(&mut machine()?, &options.rules, json),
        Command::Status => status::run(&mut machine()?, json),
        Command::Suggest(options) => suggest::run(&mut machine()?, &options.addresses, json),
        Command::Apply(options) => apply::run(&mut machine()?, options, json),
        Command::Release(options) => release::run(&mut machine()?, options, json),
        Command::Collect(options) => collect::run(&mut machine()?, &options.file, json),
        Command::Generate(options) => manual::write(&options.directory),
    }
}
