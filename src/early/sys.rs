// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system calls that nix does not have, or only with allocation, and those that are used everywhere.

pub mod memory;

use core::ffi::{CStr, c_char, c_int};
use core::fmt;
use core::mem::{self, MaybeUninit};
use core::slice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, close, read, write};

use crate::line::Line;

/// How this process was started, and how it starts the next program: the arguments, the environment, which signals
/// are blocked, and what is done on `SIGCHLD`.
#[derive(Clone, Copy)]
pub struct Process {
    arguments: *mut *const c_char,
    environment: *const *const c_char,
    blocked: Signals,
    on_child: usize,
}

impl Process {
    /// Makes the signals what they were when the process was started.
    fn give_back_signals(self) {
        on_child(self.on_child);
        change_blocked(libc::SIG_SETMASK, self.blocked);
    }

    /// The arguments, the program's name first.
    pub fn arguments(self) -> impl Iterator<Item = &'static CStr> {
        let mut next = self.arguments;
        core::iter::from_fn(move || {
            // SAFETY: the array ends with a null pointer, behind which `next` is never moved; each
            // string before it is valid for as long as the process runs.
            unsafe {
                if (*next).is_null() {
                    return None;
                }
                let argument = CStr::from_ptr(*next);
                next = next.add(1);
                Some(argument)
            }
        })
    }

    /// Becomes another program with the same arguments, its own name first, and the same environment.
    /// Returns only where that fails.
    pub fn exec(self, program: &CStr) -> Errno {
        if self.arguments().next().is_none() {
            return exec(program, &[program], self);
        }
        self.give_back_signals();
        // SAFETY: there is a first argument, and the array is writable; `program` outlives the call, and
        // nothing reads the array after a call that fails.
        unsafe {
            *self.arguments = program.as_ptr();
            libc::execve(program.as_ptr(), self.arguments.cast(), self.environment);
        }
        Errno::last()
    }
}

/// The C library's start calls this, with arrays of C strings that end with a null pointer and live, like the strings,
/// until the process ends. The array of arguments is writable.
#[unsafe(no_mangle)]
extern "C" fn main(
    _: c_int,
    arguments: *mut *const c_char,
    environment: *const *const c_char,
) -> c_int {
    let (blocked, on_child) = (change_blocked(libc::SIG_BLOCK, OURS), on_child(libc::SIG_DFL));
    crate::start(Process { arguments, environment, blocked, on_child })
}

/// The most arguments of a program that [`exec`] starts.
const MAX_ARGUMENTS: usize = 4;

/// Becomes another program, with these arguments and this process's environment. Returns only where
/// that fails.
pub fn exec(program: &CStr, arguments: &[&CStr], process: Process) -> Errno {
    let mut array = [core::ptr::null(); MAX_ARGUMENTS + 1];
    for (slot, argument) in array.iter_mut().take(MAX_ARGUMENTS).zip(arguments) {
        *slot = argument.as_ptr();
    }
    process.give_back_signals();
    // SAFETY: both arrays end with a null pointer, the first because its last slot is never filled.
    unsafe { libc::execve(program.as_ptr(), array.as_ptr(), process.environment) };
    Errno::last()
}

/// A set of signals as the kernel has it: signal 1 is the lowest bit. The C library's own type leaves out the signals
/// that the library reserves. With it, the next program would not find all signals as they were.
type Signals = u64;

/// Signals that end or stop a process that writes to a pipe without a reader, past `RLIMIT_FSIZE`, or to a terminal
/// in the background. While they are blocked, the write fails instead. Those of a terminal that hangs up, and of timers
/// that were set before this program was started, would end the parent before its child has protected anything.
/// `SIGCHLD` is blocked because [`watch`] waits for it.
const OURS: Signals = 1 << (libc::SIGPIPE - 1)
    | 1 << (libc::SIGXFSZ - 1)
    | 1 << (libc::SIGTTOU - 1)
    | 1 << (libc::SIGHUP - 1)
    | 1 << (libc::SIGALRM - 1)
    | 1 << (libc::SIGVTALRM - 1)
    | 1 << (libc::SIGPROF - 1)
    | CHILD_ENDS;
const CHILD_ENDS: Signals = 1 << (libc::SIGCHLD - 1);

/// Blocks signals, or sets what is blocked; returns what was before.
fn change_blocked(how: c_int, signals: Signals) -> Signals {
    let mut before = 0;
    // SAFETY: the kernel reads one set and writes another, both of the size that it is told.
    unsafe {
        let size = size_of::<Signals>();
        libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const signals, &raw mut before, size);
    }
    before
}

/// Sets what is done on `SIGCHLD`; returns what was done before. If the signal is ignored, the kernel stores no
/// status of a child and reports its end to nobody. A program always starts without a handler, so this was the
/// default or to ignore it.
fn on_child(handler: usize) -> usize {
    let mut action = [handler, 0, 0, 0];
    // SAFETY: the kernel reads and then writes a `struct kernel_sigaction`, four words on 64-bit machines
    // (`include/linux/signal_types.h`), the handler first.
    unsafe {
        let (action, size) = (&raw mut action, size_of::<Signals>());
        libc::syscall(libc::SYS_rt_sigaction, libc::SIGCHLD, action, action, size);
    }
    let [before, ..] = action;
    before
}

/// Repeats a call that a signal interrupted.
pub fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// An open file. Only [`Fd::close`] and [`close_between`] close it.
#[derive(Clone, Copy)]
pub struct Fd(BorrowedFd<'static>);

impl Fd {
    // SAFETY: it is open, or the calls that get it fail.
    pub const STDOUT: Self = Self(unsafe { BorrowedFd::borrow_raw(1) });
    // SAFETY: as above.
    pub const STDERR: Self = Self(unsafe { BorrowedFd::borrow_raw(2) });

    pub const fn keep(file: OwnedFd) -> Self {
        // SAFETY: both are a number (`repr(transparent)`), and nothing else closes the file.
        Self(unsafe { mem::transmute::<OwnedFd, BorrowedFd<'static>>(file) })
    }

    /// The file of this number, and of a number that no file has the standard error stream.
    pub fn numbered(number: RawFd) -> Self {
        if number < 0 {
            return Self::STDERR;
        }
        // SAFETY: as above.
        Self(unsafe { BorrowedFd::borrow_raw(number) })
    }

    pub fn number(self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Whether it has the number of a standard stream.
    pub fn is_standard(self) -> bool {
        self.number() <= 2
    }

    pub fn close(self) {
        let _ = close(self.number());
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0
    }
}

/// Closes the files that were opened after `first`, up to `last`, in one call (Linux 5.9), or one by one: no number
/// between them is free.
pub fn close_between(first: Fd, last: Option<Fd>) {
    let (first, last) = (first.number() + 1, last.map_or(RawFd::MAX, |last| last.number() - 1));
    if first > last {
        return;
    }
    // SAFETY: nothing uses these files afterwards.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result != 0 {
        let _ = (first..=last).try_for_each(close);
    }
}

/// Opens a file that is closed when another program is started.
pub fn open(path: &CStr, flags: OFlag) -> nix::Result<Fd> {
    // musl's `open` makes a second system call for this flag.
    retry(|| openat(AT_FDCWD, path, flags | OFlag::O_CLOEXEC, Mode::empty())).map(Fd::keep)
}

/// Reads a whole file, except what does not fit into `buffer`. The file stays open.
pub fn read_file<'b>(path: &CStr, buffer: &'b mut [u8]) -> nix::Result<&'b [u8]> {
    let file = open(path, OFlag::O_RDONLY)?;
    let length = fill(buffer, &mut |free, _| read(file, free))?;
    Ok(buffer.get(..length).unwrap_or_default())
}

/// Fills the buffer as far as there is text, with a call that reads into what is free from an offset. Returns the
/// length of the text.
#[inline(never)]
pub fn fill(
    buffer: &mut [u8],
    read: &mut dyn FnMut(&mut [u8], i64) -> nix::Result<usize>,
) -> nix::Result<usize> {
    let mut length = 0;
    while let Some(free) = buffer.get_mut(length..).filter(|free| !free.is_empty()) {
        let offset = i64::try_from(length).map_err(|_| Errno::EOVERFLOW)?;
        length += match retry(|| read(free, offset))? {
            0 => break,
            count => count,
        };
        // Every attribute, and the kernel's command line, ends with this newline. To stop here saves the call that
        // would find the end.
        if buffer.get(..length).is_some_and(|text| text.ends_with(b"\n")) {
            break;
        }
    }
    Ok(length)
}

/// Reads a symbolic link into `buffer`.
pub fn read_link(directory: impl AsFd, path: &CStr, buffer: &mut [u8]) -> nix::Result<usize> {
    let directory = directory.as_fd().as_raw_fd();
    let start = buffer.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most as many bytes as the buffer holds.
    let length = unsafe { libc::readlinkat(directory, path.as_ptr(), start, buffer.len()) };
    usize::try_from(length).map_err(|_| Errno::last())
}

/// Hands over the name of each entry of an open directory, except `.` and `..`.
pub fn read_directory(directory: Fd, mut each: impl FnMut(&[u8])) -> nix::Result<()> {
    /// Where the fields of `struct linux_dirent64` begin (`include/linux/dirent.h`).
    const OFFSET: usize = 8;
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    /// The offset at the end of a directory: the first one in sysfs (`kernfs_name_hash` and `kernfs_fop_readdir` in
    /// `fs/kernfs/dir.c`), the second one in ext4 and btrfs. No entry is at that offset. To stop there saves the call
    /// that would find no more entries.
    const ENDS: [i64; 2] = [i32::MAX as i64, i64::MAX];
    /// Aligned for the structure's 64-bit fields.
    #[repr(align(8))]
    struct Buffer([MaybeUninit<u8>; 4096]);

    let directory = directory.number();
    let mut buffer = Buffer([const { MaybeUninit::uninit() }; 4096]);
    let mut offset = 0;
    while !ENDS.contains(&offset) {
        let start = buffer.0.as_mut_ptr().cast::<u8>();
        let size = buffer.0.len();
        let filled = retry(|| {
            // SAFETY: the kernel writes at most `size` bytes from `start`.
            Errno::result(unsafe { libc::syscall(libc::SYS_getdents64, directory, start, size) })
        })?;
        let filled = usize::try_from(filled).unwrap_or_default();
        if filled == 0 {
            break;
        }
        // SAFETY: these are the bytes that the kernel wrote.
        let mut entries = unsafe { slice::from_raw_parts(start.cast_const(), filled) };
        while let Some(&[low, high]) = entries.get(LENGTH..LENGTH + 2) {
            let length = usize::from(u16::from_ne_bytes([low, high]));
            let Some((entry, rest)) = entries.split_at_checked(length.max(NAME)) else { break };
            if let Some(next) = entry.get(OFFSET..).and_then(<[u8]>::first_chunk) {
                offset = i64::from_ne_bytes(*next);
            }
            let mut names = entry.get(NAME..).unwrap_or_default().split(|&byte| byte == 0);
            if let Some(name) = names.next().filter(|name| !matches!(*name, b"." | b"..")) {
                each(name);
            }
            entries = rest;
        }
    }
    Ok(())
}

/// Opens each closed standard stream on something that cannot be written to, so that no attribute gets the number of
/// a stream to which messages go. For the next program these streams are closed again.
pub fn occupy_standard_streams() {
    while open(c"/", OFlag::O_PATH).is_ok_and(Fd::is_standard) {}
}

/// The number of this process, which is that of its only thread: musl need not ask the kernel for it.
pub fn this_process() -> Pid {
    // SAFETY: it has no conditions.
    Pid::from_raw(unsafe { libc::gettid() })
}

/// Runs `work` in a child, which ends with the status that it returns, at once, without what a C library does on the
/// way out.
///
/// This is the bare system call. A C library's `fork` takes locks and runs handlers, for threads that do not exist:
/// that is five system calls and 2 KiB of code.
pub fn spawn(work: impl FnOnce() -> c_int) -> nix::Result<Pid> {
    // SAFETY: a child with a copy of everything and without a new stack, as fork makes it. This process
    // has one thread, and nothing after this asks the C library for the thread's number, which goes stale.
    let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    let child = libc::pid_t::try_from(Errno::result(child)?).map_err(|_| Errno::EOVERFLOW)?;
    if child == 0 {
        let status = work();
        // SAFETY: nothing has to be undone or flushed.
        unsafe { libc::_exit(status) }
    }
    Ok(Pid::from_raw(child))
}

/// Waits for the end of a child and returns its status.
pub fn wait(child: Pid) -> nix::Result<c_int> {
    wait_with(child, 0).map(Option::unwrap_or_default)
}

/// Returns the status of a child that has ended; `None` if it has not, which only `WNOHANG` allows.
fn wait_with(child: Pid, options: c_int) -> nix::Result<Option<c_int>> {
    let mut status = 0;
    // nix's own decodes the status with an assertion, which is a panic.
    let ended = retry(|| {
        // SAFETY: the kernel writes one `int` to `status`.
        Errno::result(unsafe { libc::waitpid(child.as_raw(), &raw mut status, options) })
    })?;
    Ok((ended != 0).then_some(status))
}

/// Waits for the end of a child, and returns its status; `None` if `limit` milliseconds pass without a sign of life
/// from it.
pub fn watch(child: Pid, limit: u16) -> nix::Result<Option<c_int>> {
    let limit = libc::timespec {
        tv_sec: (limit / 1_000).into(),
        tv_nsec: i64::from(limit % 1_000) * 1_000_000,
    };
    loop {
        let (signals, size) = (CHILD_ENDS, size_of::<Signals>());
        let (signals, limit) = (&raw const signals, &raw const limit);
        let no_details = core::ptr::null_mut::<libc::siginfo_t>();
        let call = libc::SYS_rt_sigtimedwait;
        // SAFETY: the kernel reads the set, of the size that it is told, and the time.
        let waited = unsafe { libc::syscall(call, signals, no_details, limit, size) };
        let waited = Errno::result(waited);
        match (wait_with(child, libc::WNOHANG)?, waited) {
            (None, Ok(_) | Err(Errno::EINTR)) => {}
            (None, Err(errno)) if errno != Errno::EAGAIN => return Err(errno),
            (status, _) => return Ok(status),
        }
    }
}

/// Sends a sign of life to the process that watches over this one.
pub fn sign_of_life(watcher: Pid) {
    let _ = kill(watcher, Signal::SIGCHLD);
}

/// Writes a line to a standard stream, if that is open.
pub fn print(stream: Fd, sentence: fmt::Arguments) {
    let mut line = Line::default();
    line.add(sentence);
    write_line(stream, &mut line);
}

/// Writes to a descriptor, which need not be open. Nothing is written to a standard stream that takes nothing now,
/// since a terminal that is stopped, or a full pipe, would stop the boot.
pub fn write_line(stream: Fd, line: &mut Line) {
    let mut room = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    if stream.is_standard() && poll(&mut room, PollTimeout::ZERO) == Ok(0) {
        return;
    }
    let line = line.finish();
    // There is nowhere left to report an error.
    let _ = retry(|| write(stream, line));
}
