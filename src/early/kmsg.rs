// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel log as a [`log::Log`], in the record format of the crate kernlog, which allocates.

use core::ffi::CStr;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::os::fd::{IntoRawFd, RawFd};

use log::{Level, Log, Metadata, Record};
use nix::fcntl::OFlag;
use nix::unistd::{Pid, close};
use vfio_override::message::TARGET;
use vfio_override::text::Decimal;

use crate::line::Line;
use crate::sys;

/// How many records are written before the log is opened again: the kernel drops what one open file
/// writes beyond ten records in five seconds (`devkmsg_open` in `kernel/printk/printk.c`). The
/// watchdog writes to a file whose first nine records its child may have written.
const RECORDS_PER_OPEN: u32 = 9;

/// Which of them is preceded by a sign of life: late enough to cost a short log nothing.
const LIVELY: u32 = 3;

/// The log: `/dev/kmsg` or what was given for it, and the standard error stream where that cannot be
/// opened.
pub struct Kmsg {
    path: &'static CStr,
    /// Atomic as a [`Log`] has to be for any thread; there is one.
    fd: AtomicI32,
    records: AtomicU32,
    /// The process that was started, also for its child.
    process: Pid,
    /// What each line begins with behind its level.
    start: Line,
}

impl Kmsg {
    /// Opens the log for this process. All records carry its number, also those of its child: they
    /// belong to one run.
    pub fn open(path: &'static CStr, process: Pid) -> Self {
        let mut start = Line::default();
        start.add_text(TARGET);
        start.add_text("[");
        start.add_bytes(&Decimal(process.as_raw().unsigned_abs()).digits());
        start.add_text("]: ");
        Self { path, fd: open_log(path).into(), records: 0.into(), process, start }
    }

    /// Closes the log, before the file system that it is on is unmounted.
    pub fn close(self) {
        close_log(self.fd.into_inner());
    }
}

/// Opens the log under a number that is no standard stream's, and sees to it that none of these has a file
/// to which a message for it could be written.
fn open_log(path: &CStr) -> RawFd {
    // Not to wait: the parent writes too, and nobody watches over it.
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NONBLOCK;
    loop {
        match sys::open(path, flags).map(IntoRawFd::into_raw_fd) {
            Ok(fd) if fd > sys::STDERR => return fd,
            Ok(fd) => {
                let _ = close(fd);
                sys::occupy_standard_streams();
            }
            Err(_) => {
                sys::occupy_standard_streams();
                return sys::STDERR;
            }
        }
    }
}

fn close_log(fd: RawFd) {
    if fd != sys::STDERR {
        let _ = close(fd);
    }
}

impl Log for Kmsg {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        let mut fd = self.fd.load(Ordering::Relaxed);
        let records = self.records.fetch_add(1, Ordering::Relaxed);
        if records == LIVELY {
            sys::sign_of_life(self.process);
        }
        if fd != sys::STDERR && records >= RECORDS_PER_OPEN {
            close_log(fd);
            fd = open_log(self.path);
            self.fd.store(fd, Ordering::Relaxed);
            self.records.store(1, Ordering::Relaxed);
        }

        let mut line = Line::default();
        if fd != sys::STDERR {
            line.add_text(match record.level() {
                Level::Error => "<3>",
                Level::Warn => "<4>",
                Level::Info => "<5>",
                Level::Debug => "<6>",
                Level::Trace => "<7>",
            });
        }
        line.add_bytes(self.start.text());
        line.add(*record.args());
        sys::write_line(fd, &mut line);
    }

    fn flush(&self) {}
}
