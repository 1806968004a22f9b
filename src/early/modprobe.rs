// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loads the drivers that functions are kept for.

use core::ffi::CStr;

use heapless::Vec;
use nix::errno::Errno;
use nix::libc;
use vfio_override::message::{Answer, Loading};
use vfio_override::path::PathText;
use vfio_override::run::{MAX_DRIVERS, Run};

use crate::sys::{self, Process};
use crate::tree::Tree;

const MODPROBES: [&CStr; 4] =
    [c"/sbin/modprobe", c"/usr/sbin/modprobe", c"/bin/modprobe", c"/usr/bin/modprobe"];
/// What a shell answers where a program is missing.
const MISSING: i32 = 127;
/// A status above it is this plus the error number with which a program could not be started. modprobe itself ends
/// with none of these.
const NOT_STARTED: i32 = 128;

/// Loads each driver that does not have all its functions yet.
pub fn load_drivers(
    run: &mut Run<'_>,
    tree: &mut Tree,
    process: Process,
) -> Vec<Loading, MAX_DRIVERS> {
    let mut loadings = Vec::new();
    // By reference: an iterator that owns them can panic when it is dropped.
    for driver in &mut run.drivers() {
        let (kept, bound) = run.bound_to(driver);
        if bound == kept {
            continue;
        }
        let answer = load(driver, process);
        run.verify_loaded(tree, driver, matches!(answer, Answer::Loaded));
        let counts = run.bound_to(driver);
        // There is room for each.
        let _ = loadings.push(Loading { driver: driver.clone(), answer, counts });
    }
    loadings
}

fn load(driver: &[u8], process: Process) -> Answer {
    // A driver's name is shorter than any path may be.
    let name = PathText::of(&[driver]);
    let child = sys::spawn(|| {
        let mut status = MISSING;
        for modprobe in MODPROBES {
            // A name that begins with a dash is no option.
            match sys::exec(modprobe, &[c"modprobe", c"-q", c"--", name.as_c_str()], process) {
                Errno::ENOENT => {}
                errno => status = NOT_STARTED + errno as i32,
            }
        }
        status
    });
    match child.and_then(sys::wait) {
        Ok(status) if libc::WIFEXITED(status) => match libc::WEXITSTATUS(status) {
            0 => Answer::Loaded,
            MISSING => Answer::NoModprobe,
            status if status > NOT_STARTED => {
                Answer::NotStarted(Errno::from_raw(status - NOT_STARTED))
            }
            status => Answer::Refused(status),
        },
        Ok(_) => Answer::Crashed,
        Err(errno) => Answer::NotStarted(errno),
    }
}
