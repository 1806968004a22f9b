// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loads modules, and says what came of it.

use std::fmt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use vfio_override::message::Answer;

/// What came of loading a module. What the early binary says of it speaks of its image.
pub struct Loading<'a> {
    /// The module or an alias of it.
    pub name: &'a str,
    pub answer: Answer,
}

impl fmt::Display for Loading<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match self.answer {
            Answer::Loaded => write!(f, "{name} loaded"),
            Answer::Refused(status) => {
                write!(f, "modprobe {name} ended with status {status}")
            }
            Answer::Crashed => write!(f, "modprobe {name} was killed"),
            Answer::NoModprobe => write!(f, "there is no modprobe to load {name}"),
            Answer::NotStarted(errno) => {
                write!(f, "modprobe {name} cannot be started: {errno}")
            }
        }
    }
}

/// Loads a module by its name or alias.
pub fn modprobe(name: &str) -> Answer {
    let mut command = Command::new("modprobe");
    command.args(["-q", "--", name]).stdin(Stdio::null());
    match command.status() {
        Ok(status) => match status.code() {
            Some(0) => Answer::Loaded,
            Some(status) => Answer::Refused(status),
            None => Answer::Crashed,
        },
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            None | Some(Errno::ENOENT) => Answer::NoModprobe,
            Some(errno) => Answer::NotStarted(errno),
        },
    }
}
