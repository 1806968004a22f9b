// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a program costs: time, system calls, processes, memory, instructions.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

use crate::ground::command;

/// What can be counted, and is the same on every run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// System calls of all processes, the first `execve` among them.
    pub calls: u64,
    /// Processes that were started by the first.
    pub forks: u64,
    /// The most memory that one of the processes had resident, in KiB.
    pub peak_kib: u64,
    /// The calls among all that grow the heap or map memory.
    pub maps: u64,
    /// The calls up to the last that writes an override, that one among them.
    pub protecting: u64,
}

/// Runs a program that must succeed, and counts.
pub fn count(command: &Command) -> Result<Counts> {
    // A shell that stops, to be followed from then on, and becomes the program.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.env_clear().envs(variables(command));
    shell.current_dir(directory(command));
    quiet(&mut shell);
    let child = shell.spawn().with_context(|| command::line(command))?;
    let first = Pid::from_raw(i32::try_from(child.id())?);
    let mut counts = Counts::default();
    let status = trace(first, &mut counts)?;
    ensure!(status == 0, "{} ended with status {status}", command::line(command));
    Ok(counts)
}

/// Follows a process that stops, and all its descendants, to their ends; the first's status.
fn trace(first: Pid, counts: &mut Counts) -> Result<i32> {
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEEXIT;
    waitpid(first, Some(WaitPidFlag::WUNTRACED)).context("the shell does not stop")?;
    ptrace::seize(first, options)?;
    kill(first, Signal::SIGCONT)?;

    let mut is_program = false;
    let mut alive = 1;
    let mut result = None;
    let mut within_call = BTreeSet::new();
    let mut waiting = Vec::new();
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Err(Errno::ECHILD) => return result.context("the traced program never ended"),
            status => status?,
        };
        let (process, signal) = match status {
            WaitStatus::Exited(process, status) => {
                alive -= 1;
                if process == first {
                    result = Some(status);
                }
                for process in waiting.drain(..) {
                    ptrace::syscall(process, None)?;
                }
                continue;
            }
            WaitStatus::Signaled(process, signal, _) => bail!("{process} died of {signal}"),
            WaitStatus::PtraceSyscall(process) => {
                if within_call.insert(process) {
                    counts.calls += 1;
                    if writes_override(process) {
                        counts.protecting = counts.calls;
                    }
                    match call(process) {
                        Some(libc::SYS_brk | libc::SYS_mmap | libc::SYS_mremap) => counts.maps += 1,
                        // The watchdog's five seconds do not begin before the work has ended, which
                        // takes far longer under this; it may have ended already.
                        Some(libc::SYS_poll) if alive > 1 => {
                            waiting.push(process);
                            continue;
                        }
                        _ => {}
                    }
                } else {
                    within_call.remove(&process);
                }
                (process, None)
            }
            WaitStatus::PtraceEvent(process, _, event) => {
                match event {
                    // The shell was no part of it; this call is.
                    libc::PTRACE_EVENT_EXEC if !is_program => {
                        is_program = true;
                        *counts = Counts { calls: 1, ..Counts::default() };
                    }
                    libc::PTRACE_EVENT_FORK
                    | libc::PTRACE_EVENT_VFORK
                    | libc::PTRACE_EVENT_CLONE => {
                        alive += 1;
                        counts.forks += 1;
                    }
                    libc::PTRACE_EVENT_EXIT => {
                        counts.peak_kib = counts.peak_kib.max(peak(process)?);
                    }
                    _ => {}
                }
                (process, None)
            }
            WaitStatus::Stopped(process, signal) => (process, Some(signal)),
            _ => continue,
        };
        match ptrace::syscall(process, signal) {
            // It was killed meanwhile.
            Err(Errno::ESRCH) => {}
            continued => continued?,
        }
    }
}

/// The number of the call that the process is about to make.
fn call(process: Pid) -> Option<i64> {
    i64::try_from(ptrace::getregs(process).ok()?.orig_rax).ok()
}

/// Whether the process is about to write to a `driver_override`.
fn writes_override(process: Pid) -> bool {
    let Ok(registers) = ptrace::getregs(process) else { return false };
    let file = || fs::read_link(format!("/proc/{process}/fd/{}", registers.rdi));
    i64::try_from(registers.orig_rax).is_ok_and(|call| call == libc::SYS_write)
        && file().is_ok_and(|file| file.ends_with("driver_override"))
}

/// The most memory that the process ever had resident, in KiB.
fn peak(process: Pid) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(number.with_context(|| format!("{path} has no VmHWM"))?.parse()?)
}

/// The user instructions of a program and all its descendants, counted by callgrind.
pub fn instructions(valgrind: &Path, scratch: &Path, command: &Command) -> Result<u64> {
    let logs = tempfile::tempdir_in(scratch)?;
    let mut wrapped = Command::new(valgrind);
    wrapped
        .args(["--tool=callgrind", "--trace-children=yes", "--callgrind-out-file=/dev/null"])
        .arg(format!("--log-file={}/%p", logs.path().display()))
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(variables(command))
        .current_dir(directory(command));
    quiet(&mut wrapped);
    let status = wrapped.status().with_context(|| command::line(&wrapped))?;
    ensure!(status.success(), "{} ended with {status}", command::line(&wrapped));
    let mut sum = 0;
    for log in fs::read_dir(logs.path())? {
        let log = fs::read_to_string(log?.path())?;
        let collected = log.lines().filter_map(|line| line.split_once("Collected : "));
        for (_, count) in collected {
            sum += count.trim().parse::<u64>()?;
        }
    }
    ensure!(sum > 0, "callgrind counted nothing of {}", command::line(command));
    Ok(sum)
}

/// How long a program takes, from before it is started until it is gone.
pub fn time(command: &mut Command) -> Result<Duration> {
    quiet(command);
    let start = Instant::now();
    let status = command.status().with_context(|| command::line(command))?;
    let duration = start.elapsed();
    ensure!(status.success(), "{} ended with {status}", command::line(command));
    Ok(duration)
}

/// How long the programs take, one after the other, until the last of these files is written.
pub fn time_until_written(commands: &mut [Command], files: &[PathBuf]) -> Result<Duration> {
    let events = Inotify::init(InitFlags::IN_CLOEXEC)?;
    for file in files {
        events.add_watch(file, AddWatchFlags::IN_MODIFY)?;
    }
    let end = NamedTempFile::new()?;
    let end_watch = events.add_watch(end.path(), AddWatchFlags::IN_MODIFY)?;
    let listener = thread::spawn(move || -> Result<Option<Instant>> {
        let mut last = None;
        loop {
            let batch = events.read_events()?;
            let now = Instant::now();
            if batch.iter().any(|event| event.wd != end_watch) {
                last = Some(now);
            }
            if batch.iter().any(|event| event.wd == end_watch) {
                return Ok(last);
            }
        }
    });
    let start = Instant::now();
    let ran = commands.iter_mut().try_for_each(|command| time(command).map(drop));
    // A batch that ends the listener may hold what was written before: it is read only when all is quiet.
    thread::sleep(Duration::from_millis(1));
    fs::write(end.path(), "end")?;
    let last = listener.join().map_err(|_| anyhow!("the listener panicked"))??;
    ran?;
    Ok(last.context("no override was written")?.duration_since(start))
}

/// The middle one.
pub fn median<T: PartialOrd + Copy>(values: &mut [T]) -> Option<T> {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len() / 2).copied()
}

/// Where the program is to be started.
fn directory(command: &Command) -> &Path {
    command.get_current_dir().unwrap_or(Path::new("."))
}

/// The environment that was set for a program.
fn variables(command: &Command) -> impl Iterator<Item = (&OsStr, &OsStr)> {
    command.get_envs().filter_map(|(name, value)| Some((name, value?)))
}

fn quiet(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
}
