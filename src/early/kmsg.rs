// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel log as a [`log::Log`], in the record format of the crate kernlog, which is not used because it
//! allocates.

use core::ffi::CStr;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use log::{Log, Metadata, Record};
use nix::fcntl::OFlag;
use nix::unistd::Pid;
use vfio_override::message::TARGET;
use vfio_override::text::Decimal;

use crate::line::Line;
use crate::sys::{self, Fd};

/// How many records are written before the log is opened again: the kernel drops what one open file
/// writes beyond ten records in five seconds (`devkmsg_open` in `kernel/printk/printk.c`). The
/// watchdog writes to a file whose first nine records its child may have written.
const RECORDS_PER_OPEN: u32 = 9;

/// The record, counted from 0, before which a sign of life is sent: late enough that a short log sends none.
const LIVELY: u32 = 3;

/// The log: `/dev/kmsg` or the file of `--kmsg`; where that cannot be opened, the standard error stream.
pub struct Kmsg {
    path: &'static CStr,
    /// Atomic because a [`Log`] must work with several threads. Here is only one.
    fd: AtomicI32,
    records: AtomicU32,
    /// The process that was started. A child has its parent's number here.
    process: Pid,
    /// What each line begins with, after its level.
    start: Line,
}

impl Kmsg {
    /// Opens the log for this process. All records carry its number, also those of its child: they
    /// belong to one run.
    pub fn open(path: &'static CStr, process: Pid) -> Self {
        let mut start = Line::default();
        start.add_bytes(TARGET.as_bytes());
        start.add(format_args!("[{}]: ", Decimal(process.as_raw().unsigned_abs())));
        Self { path, fd: open_log(path).number().into(), records: 0.into(), process, start }
    }

    /// Closes the log, before the file system that it is on is unmounted.
    pub fn close(self) {
        let log = Fd::numbered(self.fd.into_inner());
        if !log.is_standard() {
            log.close();
        }
    }
}

/// Opens the log under a number that is no standard stream's. If one of these streams was closed, it then has the log,
/// or a file that cannot be written, so that no later file gets its number, and with it its messages.
fn open_log(path: &CStr) -> Fd {
    // A write must not wait: the parent writes too, and nobody watches over the parent.
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NONBLOCK;
    while let Ok(log) = sys::open(path, flags) {
        if !log.is_standard() {
            return log;
        }
    }
    sys::occupy_standard_streams();
    Fd::STDERR
}

impl Log for Kmsg {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        let mut log = Fd::numbered(self.fd.load(Ordering::Relaxed));
        let records = self.records.fetch_add(1, Ordering::Relaxed);
        if records == LIVELY {
            sys::sign_of_life(self.process);
        }
        if !log.is_standard() && records >= RECORDS_PER_OPEN {
            log.close();
            log = open_log(self.path);
            self.fd.store(log.number(), Ordering::Relaxed);
            self.records.store(1, Ordering::Relaxed);
        }

        let mut line = Line::default();
        if !log.is_standard() {
            // From <3>, `KERN_ERR`, on.
            line.add_bytes(&[b'<', b'2' + record.level() as u8, b'>']);
        }
        line.add_bytes(self.start.text());
        line.add(*record.args());
        sys::write_line(log, &mut line);
    }

    fn flush(&self) {}
}
