// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes of a live machine, in a process of their own, so that a driver that does not let go cannot
//! hold up whoever waits.
//!
//! A write to `unbind` ends when the driver's `remove` ends, and no signal ends it before. The process that
//! writes tells each step before it takes it; this one waits, and says so when a step takes too long.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdout, fork, pipe};
use vfio_override::pci::Address;

/// Where a [`Tree`](crate::machine::tree::Tree) tells what it is about to do.
#[derive(Default)]
pub struct Progress(Option<File>);

impl Progress {
    pub fn about_to_write(&mut self, path: &Path) {
        self.tell('>', &format!("write {}", path.display()));
    }

    pub fn about_to_probe(&mut self, name: &[u8]) {
        self.tell('>', &format!("write {} to drivers_probe", name.escape_ascii()));
    }

    pub fn about_to_run(&mut self, command: &str) {
        self.tell('>', command);
    }

    /// The override of this function was written.
    pub fn has_overridden(&mut self, address: Address) {
        self.tell('+', &address.to_string());
    }

    fn tell(&mut self, kind: char, text: &str) {
        if let Some(pipe) = &mut self.0 {
            let line = format!("{kind}{}\n", text.replace('\n', " "));
            // A waiter that has gone is no reason to leave things half done.
            let _ = pipe.write_all(line.as_bytes());
        }
    }

    /// A second way to tell.
    pub fn share(&self) -> Self {
        Self(self.0.as_ref().and_then(|pipe| pipe.try_clone().ok()))
    }

    /// A line for the person who waits.
    pub fn say(&mut self, line: &str) {
        self.tell('=', line);
    }
}

/// What the work tells while it goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Told<'a> {
    /// A line for the person who waits.
    Said(&'a str),
    /// The override of the function at this address was written.
    Overridden(&'a str),
}

/// How the work ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// By itself; whether all went well.
    Done(bool),
    /// This step was not done in time. The kernel may still be at it.
    Stuck(String),
    /// It crashed at this step.
    Crashed(String),
}

/// Does the work in a child process, hands over what it tells as it comes, and gives it this much time for
/// each step. Signals that would end this process wait until then, so that nothing is left half done.
pub fn supervise(
    limit: Duration,
    mut tell: impl FnMut(Told<'_>),
    work: impl FnOnce(Progress) -> bool,
) -> Result<End> {
    let (read, write) = pipe().context("cannot make a pipe")?;
    let mut deadly = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        deadly.add(signal);
    }
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&deadly), Some(&mut before))?;
    // SAFETY: this process has one thread, so that the child may do whatever a process may.
    let child = match unsafe { fork() }.context("cannot start a process")? {
        ForkResult::Child => {
            drop(read);
            // Whoever reads our output is not to wait for a step that never ends.
            if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
                let _ = dup2_stdout(&null);
                let _ = dup2_stderr(&null);
            }
            let is_done = work(Progress(Some(File::from(write))));
            std::process::exit(i32::from(!is_done));
        }
        ForkResult::Parent { child } => child,
    };
    drop(write);
    let end = watch(File::from(read), limit, &mut tell)?;
    let end = match end {
        Watched::Ended(step) => match waitpid(child, None)? {
            WaitStatus::Exited(_, status @ (0 | 1)) => End::Done(status == 0),
            _ => End::Crashed(step),
        },
        Watched::Late(step) => {
            let _ = kill(child, Signal::SIGKILL);
            // Not to wait for it: that may take as long as the step.
            let _ = waitpid(child, Some(WaitPidFlag::WNOHANG));
            End::Stuck(step)
        }
    };
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    Ok(end)
}

enum Watched {
    Ended(String),
    Late(String),
}

fn watch(read: File, limit: Duration, tell: &mut impl FnMut(Told<'_>)) -> Result<Watched> {
    let mut lines = BufReader::new(read);
    let mut step = "nothing".to_owned();
    let mut deadline = Instant::now() + limit;
    loop {
        if lines.buffer().is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut pipe = [PollFd::new(lines.get_ref().as_fd(), PollFlags::POLLIN)];
            match poll(&mut pipe, timeout) {
                Ok(0) => return Ok(Watched::Late(step)),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno).context("cannot wait for the work"),
            }
        }
        let mut text = String::new();
        // Whole lines only are written, each with one call.
        if lines.read_line(&mut text)? == 0 {
            return Ok(Watched::Ended(step));
        }
        deadline = Instant::now() + limit;
        let text = text.trim_end();
        if let Some(about) = text.strip_prefix('>') {
            about.clone_into(&mut step);
        } else if let Some(said) = text.strip_prefix('=') {
            tell(Told::Said(said));
        } else if let Some(address) = text.strip_prefix('+') {
            tell(Told::Overridden(address));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(2);
    const LATE: Duration = Duration::from_secs(60);

    #[test]
    fn work_is_told_as_it_goes_and_ends_as_it_ends() {
        for is_good in [true, false] {
            let mut told = Vec::new();
            let end = supervise(
                LATE,
                |what| told.push(format!("{what:?}")),
                |mut progress| {
                    progress.say("one");
                    progress.about_to_run("modprobe");
                    progress.share().has_overridden(Address::new(0, 1, 0, 0).unwrap());
                    is_good
                },
            );
            assert_eq!(end.unwrap(), End::Done(is_good));
            assert_eq!(told, [r#"Said("one")"#, r#"Overridden("0000:01:00.0")"#]);
        }
    }

    #[test]
    fn a_step_that_does_not_end_is_named() {
        let end = supervise(
            SOON,
            |_| {},
            |mut progress| {
                progress.about_to_write(Path::new("driver/unbind"));
                std::thread::sleep(LATE);
                true
            },
        );
        assert_eq!(end.unwrap(), End::Stuck("write driver/unbind".to_owned()));
    }

    #[test]
    fn a_crash_is_no_success() {
        let end = supervise(
            LATE,
            |_| {},
            |mut progress| {
                progress.about_to_probe(b"0000:01:00.0");
                std::process::abort();
            },
        );
        let step = "write 0000:01:00.0 to drivers_probe".to_owned();
        assert_eq!(end.unwrap(), End::Crashed(step));
    }
}
