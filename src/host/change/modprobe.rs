//! Loads modules, and says what came of it.

use std::fmt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use vfio_override::report::LoadingResult;

/// What came of loading a module. What the early binary says of it speaks of its image.
pub struct Loading<'a> {
    /// The module or an alias of it.
    pub name: &'a str,
    pub result: LoadingResult,
}

impl fmt::Display for Loading<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match self.result {
            LoadingResult::Loaded => write!(f, "{name} loaded"),
            LoadingResult::Refused(status) => {
                write!(f, "modprobe {name} ended with status {status}")
            }
            LoadingResult::Crashed => write!(f, "modprobe {name} was killed"),
            LoadingResult::NoModprobe => write!(f, "there is no modprobe to load {name}"),
            LoadingResult::NotStarted(errno) => {
                write!(f, "modprobe {name} cannot be started: {errno}")
            }
        }
    }
}

/// Loads a module by its name or alias.
pub fn modprobe(name: &str) -> LoadingResult {
    let mut command = Command::new("modprobe");
    command.args(["-q", "--", name]).stdin(Stdio::null());
    match command.status() {
        Ok(status) => match status.code() {
            Some(0) => LoadingResult::Loaded,
            Some(status) => LoadingResult::Refused(status),
            None => LoadingResult::Crashed,
        },
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            None | Some(Errno::ENOENT) => LoadingResult::NoModprobe,
            Some(errno) => LoadingResult::NotStarted(errno),
        },
    }
}
