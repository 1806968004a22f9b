//! PID 1: what is missing is mounted, the work is done, the mounts are undone, and the real init
//! takes over as if it had been started by the kernel.

use core::ffi::{CStr, c_int};

use heapless::Vec;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, Pid, UnlinkatFlags, access, mkdir, unlinkat};
use vfio_override::message::Message;

use crate::args::Options;
use crate::kmsg::Kmsg;
use crate::sys::Process;
use crate::watchdog;

/// `/init` of an initramfs, then what the kernel itself tries (`kernel_init` in `init/main.c`).
const INITS: [&CStr; 5] = [c"/init", c"/sbin/init", c"/etc/init", c"/bin/init", c"/bin/sh"];

/// A file system that the work needs.
struct FileSystem {
    at: &'static CStr,
    kind: &'static CStr,
    /// There once it is mounted.
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
    let mut undo = Vec::<Undo, { FILE_SYSTEMS.len() }>::new();
    let mut failures = Vec::<Message<'_>, { FILE_SYSTEMS.len() }>::new();
    for file_system in &FILE_SYSTEMS {
        match provide(file_system) {
            Ok(None) => {}
            // There is room for each.
            Ok(Some(mounted)) => {
                let _ = undo.push(mounted);
            }
            Err(errno) => {
                let _ = failures.push(Message::Mount(file_system.at.to_bytes(), errno));
            }
        }
    }

    let options = Options::DEFAULT;
    let kmsg = Kmsg::open(options.kmsg, pid);
    watchdog::supervise(&kmsg, &|| crate::work(&options, process, &kmsg), &|| {
        crate::protect(&options, &kmsg)
    });
    // Only now: a console may take a while to print them.
    for failure in &failures {
        failure.log(&kmsg);
    }

    kmsg.close();
    for mounted in undo.iter().rev() {
        mounted.undo();
    }

    // Where this program is itself an init, it must not start itself for ever, under its own name or by turns
    // under several.
    let this = process.arguments().next();
    let next = INITS.iter().position(|init| Some(*init) == this).map_or(0, |at| at + 1);
    // The log may be gone with /dev; the console is the standard error stream of PID 1.
    let say = |message: Message<'_>| message.log(&Kmsg::open(options.kmsg, pid));
    for init in INITS.iter().skip(next) {
        match process.exec(init) {
            Errno::ENOENT => {}
            errno => say(Message::Init(init.to_bytes(), errno)),
        }
    }
    say(Message::NoInit);
    1
}

/// What was done for a file system.
struct Undo {
    at: &'static CStr,
    made_directory: bool,
}

impl Undo {
    /// Detaches the file system, so that a child which is stuck in it cannot keep it mounted.
    fn undo(&self) {
        let _ = umount2(self.at, MntFlags::MNT_DETACH);
        if self.made_directory {
            remove_directory(self.at);
        }
    }
}

fn remove_directory(at: &CStr) {
    let _ = unlinkat(AT_FDCWD, at, UnlinkatFlags::RemoveDir);
}

/// Mounts a file system where it is missing; `None` where it is not.
fn provide(file_system: &FileSystem) -> nix::Result<Option<Undo>> {
    let FileSystem { at, kind, proof } = *file_system;
    if access(proof, AccessFlags::F_OK).is_ok() {
        return Ok(None);
    }
    let made_directory = mkdir(at, Mode::from_bits_truncate(0o755)).is_ok();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let mounted = mount(Some(kind), at, Some(kind), flags, None::<&CStr>);
    if mounted.is_err() && made_directory {
        // Nothing of ours is mounted there, though something of another's may be.
        remove_directory(at);
    }
    mounted.map(|()| Some(Undo { at, made_directory }))
}
