//! Loading the drivers that rules name.

use core::ffi::CStr;

use log::Level;
use nix::errno::Errno;
use nix::libc;
use vfio_override::report::{Journal, Loading, LoadingResult};
use vfio_override::rule::MAX_DRIVER;
use vfio_override::run::Run;

use crate::sys::{self, Process};
use crate::tree::Tree;

const MODPROBES: [&CStr; 4] =
    [c"/sbin/modprobe", c"/usr/sbin/modprobe", c"/bin/modprobe", c"/usr/bin/modprobe"];
/// What a shell answers where a program is missing.
const MISSING: i32 = 127;
/// Above it, the error number that a program could not be started for. No modprobe ends with one of these.
const NOT_STARTED: i32 = 128;

/// Loads each driver that does not have all its functions yet, and says what came of it.
pub fn load_drivers(run: &Run<'_>, tree: &mut Tree, process: Process, journal: Journal<'_>) {
    for driver in run.drivers() {
        let (kept, bound) = run.bound_to(tree, driver);
        if bound == kept {
            continue;
        }
        let result = load(driver, process);
        let (kept, bound) = run.bound_to(tree, driver);
        let loading = Loading { driver, result, kept, bound };
        journal.say(if bound == kept { Level::Info } else { Level::Warn }, &loading);
    }
}

fn load(driver: &[u8], process: Process) -> LoadingResult {
    let mut name = heapless::Vec::<u8, { MAX_DRIVER + 1 }>::new();
    if name.extend_from_slice(driver).is_err() || name.push(0).is_err() {
        return LoadingResult::NotStarted(Errno::ENAMETOOLONG);
    }
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    match sys::fork() {
        Ok(None) => {
            let mut status = MISSING;
            for modprobe in MODPROBES {
                // A name that begins with a dash is no option.
                match sys::exec(modprobe, &[c"modprobe", c"-q", c"--", name], process) {
                    Errno::ENOENT => {}
                    errno => status = NOT_STARTED + errno as i32,
                }
            }
            sys::exit(status);
        }
        Ok(Some(child)) => match sys::wait(child) {
            Ok(status) if libc::WIFEXITED(status) => match libc::WEXITSTATUS(status) {
                0 => LoadingResult::Loaded,
                MISSING => LoadingResult::NoModprobe,
                status if status > NOT_STARTED => {
                    LoadingResult::NotStarted(Errno::from_raw(status - NOT_STARTED))
                }
                status => LoadingResult::Refused(status),
            },
            Ok(_) => LoadingResult::Crashed,
            Err(errno) => LoadingResult::NotStarted(errno),
        },
        Err(errno) => LoadingResult::NotStarted(errno),
    }
}
