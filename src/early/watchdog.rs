// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the work in a child. The parent goes on in any case.

use core::ffi::c_int;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use vfio_override::message::{Message, WorkerEnd};

use crate::args::Options;
use crate::kmsg::Kmsg;
use crate::sys::{self, Process};

/// How long the work may take without a sign of life, in milliseconds. While it logs, the work sends signs of life: a
/// slow console takes its time for each line, which is not the fault of the work.
const LIMIT: u16 = 4_000;
/// How long the rescue may take, in milliseconds, to set the overrides.
const RESCUE_LIMIT: u16 = 1_000;
/// How long the rescue may take, in milliseconds, to log what is true.
const REPORT_LIMIT: u16 = 500;
/// How long a killed child may take to end, in milliseconds. A child that is stuck in the kernel does not end.
const GRACE: u16 = 100;

/// Exit statuses of a child.
pub const DONE: c_int = 0;
pub const NOT_DONE: c_int = 1;
pub const UNKNOWN: c_int = 2;

/// Does the work in a child, and returns whether it ended in time as [`DONE`]. If it did not end by itself, a second
/// child sets the overrides, and a third one, which gets to know whether that was done, logs what is true. They are
/// two because the second child may wait for a lock that the killed work still holds.
pub fn supervise(options: &Options, process: Process, kmsg: &Kmsg) -> bool {
    let rescue = |holds| crate::rescue(options, kmsg, holds);
    let message = match run(&|| crate::work(options, process, kmsg), LIMIT) {
        Ok(Ok(status)) => return status == DONE,
        Ok(Err(end)) => {
            let holds = match run(&|| rescue(None), RESCUE_LIMIT) {
                Ok(Ok(DONE)) => Some(true),
                Ok(Ok(NOT_DONE)) => Some(false),
                _ => None,
            };
            let _ = run(&|| rescue(Some(holds == Some(true))), REPORT_LIMIT);
            Message::Worker(end, holds)
        }
        Err(message) => message,
    };
    message.log(kmsg);
    false
}

/// Runs `work` in a child, and returns its exit status, or how else it ended.
fn run(work: &dyn Fn() -> c_int, limit: u16) -> Result<Result<c_int, WorkerEnd>, Message<'static>> {
    let child = sys::spawn(work).map_err(Message::NoWorker)?;
    let end = match sys::watch(child, limit) {
        Ok(Some(status)) if libc::WIFEXITED(status) => return Ok(Ok(libc::WEXITSTATUS(status))),
        Ok(Some(status)) => return Ok(Err(WorkerEnd::Killed(libc::WTERMSIG(status)))),
        Ok(None) => WorkerEnd::Late(limit / 1_000),
        // It is better to end the child early than to leave it to itself.
        Err(errno) => WorkerEnd::Lost(errno),
    };
    let _ = kill(child, Signal::SIGKILL);
    let _ = sys::watch(child, GRACE);
    Ok(Err(end))
}
