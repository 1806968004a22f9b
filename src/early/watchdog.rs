//! The work in a child, and a parent that goes on in any case.

use core::mem::ManuallyDrop;
use std::os::fd::AsFd;

use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use vfio_override::message::{Message, WorkerEnd};

use crate::kmsg::Kmsg;
use crate::sys::{self, retry};

/// How long the work may take, in milliseconds.
const LIMIT: u16 = 4_000;
/// How long it may take, in milliseconds, to hold the overrides where the work failed.
const RESCUE_LIMIT: u16 = 1_000;
/// How long a killed child may take to go, in milliseconds. One that is stuck in the kernel never does.
const GRACE: u16 = 100;

/// Runs `work` in a child, and returns whether it ended in time and said yes. Where it did not end by itself,
/// `rescue` has a child of its own.
pub fn supervise(kmsg: &Kmsg, work: &dyn Fn() -> bool, rescue: &dyn Fn() -> bool) -> bool {
    let message = match run(work, LIMIT) {
        Ok(Ok(is_done)) => return is_done,
        Ok(Err(end)) => Message::Worker(end, matches!(run(rescue, RESCUE_LIMIT), Ok(Ok(true)))),
        Err(message) => message,
    };
    message.log(kmsg);
    false
}

/// Runs this in a child, and returns what it said, or how else it ended.
fn run(work: &dyn Fn() -> bool, limit: u16) -> Result<Result<bool, WorkerEnd>, Message<'static>> {
    // The child alone holds the writing end, so that its end, however it comes, is the pipe's. The
    // reading end is left to the end of this process, or to the program that it becomes.
    let (ended, running) = match pipe2(OFlag::O_CLOEXEC) {
        Ok((ended, running)) => (ManuallyDrop::new(ended), running),
        Err(errno) => return Err(Message::NoWorker("make a pipe", errno)),
    };
    let child = match sys::fork() {
        Ok(None) => {
            let is_done = work();
            sys::exit(i32::from(!is_done));
        }
        Ok(Some(child)) => child,
        Err(errno) => return Err(Message::NoWorker("fork", errno)),
    };
    drop(running);

    let has_ended = hangs_up(ended.as_fd(), limit);
    if has_ended != Ok(true) {
        // Also where nothing tells whether it ends: better to end it early than to leave it to itself.
        give_up(child, ended.as_fd());
    }
    Ok(match has_ended {
        Ok(true) => match sys::wait(child) {
            Ok(status) if libc::WIFEXITED(status) => Ok(libc::WEXITSTATUS(status) == 0),
            Ok(status) => Err(WorkerEnd::Killed(libc::WTERMSIG(status))),
            Err(errno) => Err(WorkerEnd::Lost(errno)),
        },
        Ok(false) => Err(WorkerEnd::Late(limit / 1_000)),
        Err(errno) => Err(WorkerEnd::Lost(errno)),
    })
}

fn give_up(child: Pid, ended: impl AsFd) {
    let _ = kill(child, Signal::SIGKILL);
    if hangs_up(ended, GRACE) == Ok(true) {
        let _ = sys::wait(child);
    }
}

/// Whether the other end of the pipe is closed within this many milliseconds.
fn hangs_up(pipe: impl AsFd, limit: u16) -> nix::Result<bool> {
    // No signal is handled here, so that none but SIGCONT interrupts the wait and starts it anew.
    retry(|| poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::from(limit)))
        .map(|ready| ready > 0)
}
