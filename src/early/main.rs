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

use core::ffi::{CStr, c_int};

use args::{Options, Request};
use kmsg::Kmsg;
use log::Level;
use sys::memory::Once;
use tree::Tree;
use vfio_override::cmdline;
use vfio_override::report::{Journal, Trouble};
use vfio_override::run::Run;

/// What is read of the command line: one byte more than counts, to see that there is more.
static LINE: Once<[u8; cmdline::MAX_LENGTH + 1]> = Once::new([0; cmdline::MAX_LENGTH + 1]);
static RUN: Once<Run<'static>> = Once::new(Run::new());

/// The program, once the C library has started.
fn start(process: sys::Process) -> c_int {
    let pid = nix::unistd::getpid();
    if pid.as_raw() == 1 {
        return init::run(process, pid);
    }
    let options = match args::parse(process.arguments().skip(1)) {
        Ok(Request::Run(options)) => options,
        Ok(Request::Version) => {
            sys::print(sys::STDOUT, &args::Version);
            return 0;
        }
        Err(error) => {
            sys::print(sys::STDERR, &error);
            return 2;
        }
    };
    let kmsg = Kmsg::open(options.kmsg, pid);
    c_int::from(!watchdog::supervise(&kmsg, &|| work(&options, process, &kmsg)))
}

/// The whole run, in the child. Returns whether every rule was applied.
fn work(options: &Options, process: sys::Process, kmsg: &Kmsg) -> bool {
    let journal = Journal::new(kmsg, false);
    let (Some(line), Some(run)) = (LINE.take(), RUN.take()) else { return false };
    let line = match sys::read_file(options.cmdline, line) {
        Ok(line) => line,
        Err(errno) => {
            journal.say(Level::Error, &Trouble::CommandLine(text(options.cmdline), errno));
            return false;
        }
    };
    let root = match tree::open_root(options.sysfs) {
        Ok(root) => root,
        Err(errno) => {
            journal.say(Level::Error, &Trouble::Sysfs(text(options.sysfs), errno));
            return false;
        }
    };
    let mut tree = Tree::below(root, options.cmdline);
    run.rules_mut().add_line(line);
    let is_applied = run.apply(&mut tree, options.device, kmsg);
    if let Err(errno) = if is_applied { Ok(()) } else { tree.find_bus() } {
        journal.say(Level::Error, &Trouble::Sysfs(text(options.sysfs), errno));
    }
    if options.modprobe {
        modprobe::load_drivers(run, &mut tree, process, journal);
    }
    // The process ends here, and all its descriptors with it.
    core::mem::forget(tree);
    is_applied
}

fn text(path: &CStr) -> &[u8] {
    path.to_bytes()
}
