// SPDX-License-Identifier: MIT OR Apache-2.0
//! PID 1: it mounts what is missing, does the work, undoes the mounts, and becomes the real init, as if the kernel
//! had started that.

use core::ffi::{CStr, c_int};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, Pid, UnlinkatFlags, access, mkdir, unlinkat};
use vfio_override::message::Message;

use crate::args::Options;
use crate::kmsg::Kmsg;
use crate::sys::{self, Process};
use crate::watchdog;

/// `/init` of an initramfs, then what the kernel itself tries (`kernel_init` in `init/main.c`).
const INITS: [&CStr; 5] = [c"/init", c"/sbin/init", c"/etc/init", c"/bin/init", SHELL];
const SHELL: &CStr = c"/bin/sh";

/// A file system that the work needs.
struct FileSystem {
    at: &'static CStr,
    kind: &'static CStr,
    /// A path that is there once the file system is mounted.
    proof: &'static CStr,
}

const FILE_SYSTEMS: [FileSystem; 3] = [
    FileSystem { at: c"/proc", kind: c"proc", proof: c"/proc/cmdline" },
    FileSystem { at: c"/sys", kind: c"sysfs", proof: c"/sys/bus" },
    FileSystem { at: c"/dev", kind: c"devtmpfs", proof: c"/dev/kmsg" },
];

/// Does the work and becomes the real init. Returns only where there is none, which makes the kernel
/// panic.
pub fn run(process: Process, pid: Pid) -> c_int {
    let provided = FILE_SYSTEMS.each_ref().map(provide);

    let options = Options::DEFAULT;
    let kmsg = Kmsg::open(options.kmsg, pid);
    watchdog::supervise(&options, process, &kmsg);
    // These are logged only now, since a console may take a while to print them.
    for (file_system, provided) in FILE_SYSTEMS.iter().zip(&provided) {
        if let Err(errno) = provided {
            Message::Mount(file_system.at.to_bytes(), *errno).log(&kmsg);
        }
    }

    kmsg.close();
    for (file_system, provided) in FILE_SYSTEMS.iter().zip(&provided).rev() {
        if let Ok(Some(made_directory)) = *provided {
            // Detached, so that a child which is stuck in it cannot keep it mounted.
            let _ = umount2(file_system.at, MntFlags::MNT_DETACH);
            remove_directory(file_system.at, made_directory);
        }
    }

    // This program may stand at one or several of these paths. It must not start itself for ever, so it tries only
    // the paths after the one by which it was started.
    let this = process.arguments().next();
    let next = INITS.iter().position(|init| Some(*init) == this).map_or(0, |at| at + 1);
    // The log may be gone with /dev; the console is the standard error stream of PID 1.
    let say: &dyn Fn(&Message<'_>) = &|message| message.log(&Kmsg::open(options.kmsg, pid));
    let mut buffer = [0; 4096];
    for init in INITS.iter().skip(next) {
        if *init == SHELL {
            say(&Message::Shell);
        }
        let errno = process.exec(init);
        let needed = needed_by(init, errno, &mut buffer);
        if errno != Errno::ENOENT || needed.is_some() {
            say(&Message::Init(init.to_bytes(), errno, needed));
        }
    }
    say(&Message::NoInit);
    1
}

/// What a program lacks if it is there and the kernel still answers ENOENT: the target of its link, or the
/// interpreter, which the first line of a script names, or the header of a binary.
#[inline(never)]
fn needed_by<'b>(program: &CStr, errno: Errno, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    if errno != Errno::ENOENT {
        return None;
    }
    let Ok(length) = sys::read_file(program, buffer).map(<[u8]>::len) else {
        let length = sys::read_link(AT_FDCWD, program, buffer).ok()?;
        return buffer.get(..length);
    };
    let start = buffer.get(..length)?;
    let is_script = start.starts_with(b"#!");
    let words = start.split(|byte| matches!(byte, 0 | b'\t' | b'\n' | b' ' | b'!'));
    // In a header, the interpreter's path is the first text that begins with `/`.
    let needed = words.skip(1).find(|word| word.len() > 4 && (is_script || word.starts_with(b"/")));
    needed.or(Some(b"its interpreter"))
}

/// Removes a directory that was made to mount something.
fn remove_directory(at: &CStr, was_made: bool) {
    if was_made {
        let _ = unlinkat(AT_FDCWD, at, UnlinkatFlags::RemoveDir);
    }
}

/// Mounts a file system where it is missing, and returns whether a directory was made for it; `None` where it is not
/// missing.
fn provide(file_system: &FileSystem) -> nix::Result<Option<bool>> {
    let FileSystem { at, kind, proof } = *file_system;
    if access(proof, AccessFlags::F_OK).is_ok() {
        return Ok(None);
    }
    let made_directory = mkdir(at, Mode::from_bits_truncate(0o755)).is_ok();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let mounted = mount(Some(kind), at, Some(kind), flags, None::<&CStr>);
    // This program has mounted nothing there. If something else is mounted there, the directory stays.
    remove_directory(at, made_directory && mounted.is_err());
    mounted.map(|()| Some(made_directory))
}
