// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfio-override-early`: applies `vfio.override=` before any driver loads.
//!
//! No allocation and no panic is reachable here: the first fails the link, the second the check of
//! the linked file (`cargo xtask build`).

#![no_main]
#![deny(unsafe_code)]

mod args;
mod init;
mod kmsg;
mod line;
mod modprobe;
#[expect(unsafe_code, reason = "the one module that has it")]
mod sys;
mod tree;
mod watchdog;

use core::ffi::c_int;

use args::Options;
use kmsg::Kmsg;
use sys::Fd;
use sys::memory::Once;
use tree::{Buses, Tree};
use vfio_override::cmdline;
use vfio_override::message::Message;
use vfio_override::run::Run;
use vfio_override::system::View;
use watchdog::{DONE, NOT_DONE, UNKNOWN};

/// Room for a run, which is too much for a stack.
struct Room {
    /// The command line, with one byte more than is used, so that a longer line is noticed.
    line: [u8; cmdline::MAX_LENGTH + 1],
    run: Run<'static>,
    buses: Buses,
}

static ROOM: Once<Room> =
    Once::new(Room { line: [0; cmdline::MAX_LENGTH + 1], run: Run::new(), buses: [None; 256] });

/// The program, once the C library has started.
fn start(process: sys::Process) -> c_int {
    let pid = sys::this_process();
    if pid.as_raw() == 1 {
        return init::run(process, pid);
    }
    let options = match args::parse(&mut process.arguments().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            sys::print(
                Fd::STDOUT,
                format_args!(concat!("vfio-override-early ", env!("CARGO_PKG_VERSION"))),
            );
            return 0;
        }
        Err(error) => {
            sys::print(Fd::STDERR, format_args!("{error}"));
            return 2;
        }
    };
    let kmsg = Kmsg::open(options.kmsg, pid);
    status(watchdog::supervise(&options, process, &kmsg))
}

/// The whole run, in the child. Returns whether every rule was applied, as an exit status.
///
/// All is done before the first line is logged: a console may take a while to print it.
fn work(options: &Options, process: sys::Process, kmsg: &Kmsg) -> c_int {
    let Some((run, mut tree)) = prepare(options, kmsg) else { return NOT_DONE };
    run.apply(&mut tree);
    let loadings = if options.modprobe {
        modprobe::load_drivers(run, &mut tree, process)
    } else {
        heapless::Vec::new()
    };
    let is_applied = run.report(kmsg);
    if !is_applied && let Err(errno) = tree.find_bus() {
        Message::Sysfs(options.sysfs.to_bytes(), errno).log(kmsg);
    }
    for loading in &loadings {
        Message::Loading(loading).log(kmsg);
    }
    status(is_applied)
}

/// What a new child does if the run came to no end. Where `holds` is `None`, it sets the overrides; otherwise `holds`
/// is whether they are set, and it logs. Returns, as an exit status, whether every override is set, or every rule was
/// applied.
#[inline(never)]
fn rescue(options: &Options, kmsg: &Kmsg, holds: Option<bool>) -> c_int {
    let Some((run, mut tree)) = prepare(options, kmsg) else { return UNKNOWN };
    let is_done = match holds {
        None => run.protect(&mut tree),
        Some(holds) => {
            run.look_back(&mut View::of(&mut tree), holds);
            run.report(kmsg)
        }
    };
    status(is_done)
}

fn status(is_done: bool) -> c_int {
    if is_done { DONE } else { NOT_DONE }
}

/// Reads the rules, and opens the sysfs root below which they are applied.
fn prepare(options: &Options, kmsg: &Kmsg) -> Option<(&'static mut Run<'static>, Tree)> {
    let Room { line, run, buses } = ROOM.hand_out()?;
    // The root is first, since all that is opened after it may be closed.
    let problem = match (tree::open_root(options.sysfs), sys::read_file(options.cmdline, line)) {
        (Ok(root), Ok(line)) => {
            run.rules.add_line(line);
            run.plan.only = options.device;
            return Some((run, Tree::below(root, buses, options.cmdline)));
        }
        (_, Err(errno)) => Message::CommandLine(options.cmdline.to_bytes(), errno),
        (Err(errno), _) => Message::Sysfs(options.sysfs.to_bytes(), errno),
    };
    problem.log(kmsg);
    None
}
