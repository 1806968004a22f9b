// SPDX-License-Identifier: MIT OR Apache-2.0
//! A fault at every system call of a run, made by strace on the binary that ships: whichever call fails, and
//! with whatever errno the kernel has for it, the run ends by itself, nothing else is lost, the log says what
//! failed, and as PID 1 the real init starts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::early::{Root, Run, binaries, unshare};
use crate::support::figures;
use crate::support::tree::{self, Function, Sysfs};

const BRIDGE: &str = "0000:00:01.0";
/// Behind the bridge.
const CARD: &str = "0000:01:00.0";
const AUDIO: &str = "0000:02:00.0";
const OTHER: &str = "0000:03:00.0";
/// In the group of `OTHER`.
const COMPANION: &str = "0000:03:00.1";
const TAKEN: [&str; 4] = [CARD, AUDIO, OTHER, COMPANION];
/// A path, a pass over all functions, a group, and variant drivers.
const RULES: &str = "00:01.0/00.0=auto,class:04,03:00.0+group";

/// What a call may come to instead: errnos, and lengths shorter than what was asked for.
type Faults = (&'static [&'static str], &'static [usize]);

/// What the kernel has for a call on sysfs, procfs, devtmpfs and tmpfs, or for the want of memory, descriptors
/// and processes: section ERRORS of each manual page, without what only a wrong argument can give.
fn faults(call: &str) -> Faults {
    const OPEN: &[&str] = &[
        "EACCES", "EAGAIN", "EBUSY", "EINTR", "EIO", "ELOOP", "EMFILE", "ENFILE", "ENODEV",
        "ENOENT", "ENOMEM", "ENOTDIR", "ENXIO", "EPERM", "EROFS",
    ];
    // `EXDEV` where a link leads out, `EAGAIN` where it cannot be told, `ENOSYS` before Linux 5.6.
    const OPEN_BENEATH: &[&str] = &[
        "EACCES", "EAGAIN", "EBUSY", "EINTR", "EIO", "ELOOP", "EMFILE", "ENFILE", "ENODEV",
        "ENOENT", "ENOMEM", "ENOSYS", "ENOTDIR", "ENXIO", "EPERM", "EROFS", "EXDEV",
    ];
    const READ: &[&str] =
        &["EIO", "EACCES", "EAGAIN", "EINTR", "EINVAL", "EISDIR", "ENODEV", "ENOMEM"];
    const WRITE: &[&str] = &[
        "EIO", "EACCES", "EAGAIN", "EBUSY", "EINTR", "EINVAL", "ENODEV", "ENOMEM", "ENOSPC",
        "EPERM", "EPIPE",
    ];
    const EXECVE: &[&str] = &[
        "ENOENT", "EACCES", "EAGAIN", "E2BIG", "EINVAL", "EIO", "EISDIR", "ELIBBAD", "ELOOP",
        "EMFILE", "ENFILE", "ENOEXEC", "ENOMEM", "ENOTDIR", "EPERM", "ETXTBSY",
    ];
    const LINK: &[&str] = &["EACCES", "EINVAL", "EIO", "ELOOP", "ENOENT", "ENOMEM", "ENOTDIR"];
    match call {
        "access" => (&["ENOENT", "EACCES", "EIO", "ELOOP", "ENOMEM", "ENOTDIR"], &[]),
        "clone" => (&["EAGAIN", "ENOMEM"], &[]),
        "close_range" => (&["ENOSYS", "EMFILE", "ENOMEM"], &[]),
        "execve" => (EXECVE, &[]),
        "fcntl" => (&["EINVAL"], &[]),
        "getdents64" => (&["EIO", "EINTR", "ENOENT", "ENOMEM"], &[]),
        "mkdir" => (&["EROFS", "EACCES", "EEXIST", "EIO", "ENOMEM", "ENOSPC", "EPERM"], &[]),
        "mount" => (&["EPERM", "EACCES", "EBUSY", "EINVAL", "ENODEV", "ENOENT", "ENOMEM"], &[]),
        "open" | "openat" => (OPEN, &[]),
        "openat2" => (OPEN_BENEATH, &[]),
        "poll" => (&["ENOMEM"], &[]),
        "read" => (READ, &[]),
        "pread64" => (READ, &[0]),
        "readlinkat" => (LINK, &[]),
        "umount2" => (&["EBUSY", "EINVAL", "ENOENT", "ENOMEM", "EPERM"], &[]),
        "unlinkat" => (&["EBUSY", "EACCES", "EIO", "ENOENT", "ENOMEM", "EPERM", "EROFS"], &[]),
        "rt_sigtimedwait" => (&["EINTR"], &[]),
        "wait4" => (&["ECHILD", "EINTR"], &[]),
        "write" => (WRITE, &[0, 1]),
        // These cannot fail as they are called here: no file that is closed has anything to flush.
        "close" | "exit_group" | "gettid" | "kill" | "rt_sigaction" | "rt_sigprocmask"
        | "uname" => (&[], &[]),
        call => panic!("what can become of {call}? Add it to the table"),
    }
}

/// How the binary is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// As a hook, with `--modprobe`.
    Hook,
    /// For one function, as udev does.
    Device,
    /// As PID 1, with all file systems there and a function that another driver has.
    Init,
    /// As PID 1, with nothing mounted.
    BareInit,
}

impl Mode {
    const ALL: [Self; 4] = [Self::Hook, Self::Device, Self::Init, Self::BareInit];

    fn is_init(self) -> bool {
        matches!(self, Self::Init | Self::BareInit)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Hook => "as a hook",
            Self::Device => "for one device",
            Self::Init => "as PID 1",
            Self::BareInit => "as PID 1 with nothing mounted",
        }
    }
}

/// A root file system for a run, and what a run leaves there.
struct Stage {
    root: Root,
    mode: Mode,
}

impl Stage {
    fn new(binary: &Path, mode: Mode) -> Self {
        let root = Root::new(binary);
        for init in ["init", "sbin/init"] {
            // No process but its own, whose calls nobody counts.
            root.script(init, "echo started > /report\n");
        }
        root.script("sbin/modprobe", ":\n");
        let stage = Self { root, mode };
        if mode != Mode::BareInit {
            stage.furnish();
        }
        stage
    }

    fn furnish(&self) {
        let path = self.root.path("sys");
        let sys = Sysfs(&path);
        sys.make();
        let card =
            |address: &'static str, group| Function { address, group: Some(group), ..tree::CARD };
        sys.add(&Function { class: "060400", ..card(BRIDGE, 1) });
        sys.add(&Function { parent: Some(BRIDGE), ..card(CARD, 2) });
        sys.add(&Function { class: "040300", ..card(AUDIO, 3) });
        sys.add(&card(OTHER, 4));
        sys.add(&card(COMPANION, 4));
        sys.add_driver("vfio-pci");
        if self.mode == Mode::Init {
            sys.bind(CARD, "nouveau");
        }
        self.root.write("proc/cmdline", &format!("vfio.override={RULES}\n"));
        self.root.write("usr/lib/vfio-override/variants", "");
    }

    /// Puts everything back that a run changes.
    fn reset(&self) {
        let _ = fs::remove_file(self.root.path("report"));
        if self.mode == Mode::BareInit {
            return;
        }
        self.root.write("dev/kmsg", "");
        self.root.write("sys/bus/pci/drivers_probe", "");
        self.root.write("sys/bus/pci/drivers/nouveau/unbind", "");
        for function in TAKEN {
            let path = format!("sys/bus/pci/devices/{function}/driver_override");
            self.root.write(&path, "(null)\n");
        }
    }

    /// Runs the binary under strace with these options.
    fn run(&self, strace: &[&str]) -> Run {
        self.reset();
        let root = self.root.root().to_str().unwrap();
        let mut command = if self.mode.is_init() {
            // The tracer is a child of PID 1, which becomes the binary.
            let mut command =
                unshare(&["--pid", "--fork", "--kill-child", "--mount", "strace", "-D"]);
            command.args(strace).args(["chroot", root, "/early", "quiet"]);
            command
        } else {
            let mut command = unshare(&["--mount", "strace"]);
            command.args(strace).args(["chroot", root, "/early"]);
            match self.mode {
                Mode::Device => command.args(["--device", OTHER]),
                _ => command.arg("--modprobe"),
            };
            command
        };
        Run::of(&mut command, &self.root.path("dev/kmsg"))
    }

    fn outcome(&self) -> Traces {
        let read = |path: &str| fs::read_to_string(self.root.path(path)).unwrap_or_default();
        let kept = |function: &&str| {
            let path = format!("sys/bus/pci/devices/{function}/driver_override");
            (function.to_string(), read(&path))
        };
        Traces {
            kept: TAKEN.iter().map(kept).collect(),
            unbound: read("sys/bus/pci/drivers/nouveau/unbind"),
            probed: read("sys/bus/pci/drivers_probe"),
            is_started: self.root.path("report").exists(),
        }
    }
}

/// What a run left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Traces {
    /// The override of each function.
    kept: BTreeMap<String, String>,
    unbound: String,
    probed: String,
    /// The real init ran.
    is_started: bool,
}

impl Traces {
    /// What became of one function.
    fn of(&self, function: &str) -> (Option<&String>, bool, bool) {
        let kept = self.kept.get(function);
        (kept, self.unbound.contains(function), self.probed.contains(function))
    }
}

/// One system call of a run without faults.
#[derive(Clone, Debug)]
struct Call {
    name: String,
    /// The file that it is about, where strace can be told to look at this one alone.
    path: Option<String>,
    /// How many of this name and path its process has made, itself counted.
    number: usize,
    /// As strace shows it.
    text: String,
}

impl Call {
    /// Whether what becomes of the function may hang on the call.
    fn concerns(&self, function: &str) -> bool {
        let Self { name, text, .. } = self;
        let has = |part: &str| text.contains(part);
        let is_about = |other: &str| has(&format!("/{other}")) || has(&format!("\"{other}"));
        if has("/kmsg>") || has("/dev/kmsg") {
            return false;
        }
        let is_below = ["</sys>, \"", "</sys/devices/", "</sys/bus/", "</sys/kernel/"];
        if is_below.into_iter().any(has) {
            let is_list = has("\"bus/pci/devices\"") || has("/bus/pci/devices>");
            return is_about(function)
                || function == CARD && is_about(BRIDGE)
                || function == COMPANION && (is_about(OTHER) || has("/iommu_groups/"))
                || function == AUDIO && is_list
                // The first to be probed opens the file for all.
                || has("/drivers_probe\"")
                || has("/drivers/vfio-pci\"");
        }
        // Those that the work as a whole hangs on.
        has("/proc")
            || has("/sys")
            || matches!(&**name, "clone" | "rt_sigtimedwait" | "wait4" | "kill")
    }

    /// Words of which the log has one where the call's failure is told.
    fn words(&self) -> &'static [&'static str] {
        match &*self.name {
            // To the log, opening it is part of writing to it.
            "openat2" if self.text.contains("drivers_probe") => &["write "],
            "open" | "openat" | "openat2" => {
                &["open ", "list ", "read link ", "cannot open ", "cannot read ", "can be read"]
            }
            "read" | "pread64" => &["read "],
            "write" => &["write "],
            "readlinkat" => &["read link "],
            "getdents64" => &["list "],
            "mount" | "mkdir" => &["mount "],
            "clone" => &["cannot fork: ", "cannot be started: "],
            "wait4" => &["cannot wait for "],
            "execve" => &["modprobe"],
            _ => &[],
        }
    }

    /// The last component of what it is about, as the log shows it.
    fn object(&self) -> &str {
        let mut parts = self.path.as_deref().unwrap_or_default().rsplit('/');
        parts.find(|part| *part != "..").unwrap_or_default()
    }

    fn is_told(&self, run: &Run, errno: &str) -> bool {
        let lines = run.log.iter().map(|(_, line)| &**line).chain(run.stderr.lines());
        lines.into_iter().any(|line| {
            let is_named = line.contains(self.object());
            // A function is there or is not: where that cannot be told, what fails then is.
            let is_question = self.name == "readlinkat" && self.object().contains(':');
            // What was written and is not read back is told without an errno.
            let is_doubted = errno.is_empty() && line.contains("does not keep its driver_override");
            // The driver of `auto` is looked up before the others.
            let is_lookup = self.text.contains("\"bus/pci/drivers/")
                && line.contains(&format!("auto finds no PCI driver of its module ({errno})"));
            let is_word = self.words().iter().any(|word| line.contains(word));
            is_named && (is_question || is_word && line.contains(errno)) || is_doubted || is_lookup
        })
    }

    /// Whether the errno says that there is no such thing, which is an answer and no fault.
    fn is_answered_by(&self, errno: &str) -> bool {
        ["ENOENT", "ENODEV", "ENOTDIR"].contains(&errno) && self.text.contains("/sys/")
    }
}

/// The path by which strace picks the call out, if it has one that it can be picked out by.
fn path_of(name: &str, text: &str) -> Option<String> {
    match name {
        "read" | "pread64" | "write" | "getdents64" => {
            let path = text.split_once('<')?.1.split('>').next()?;
            path.starts_with('/').then(|| path.to_owned())
        }
        "open" | "openat" | "openat2" | "readlinkat" | "execve" => {
            Some(text.split('"').nth(1)?.to_owned())
        }
        _ => None,
    }
}

/// The calls of every process of a run, from `main` to the start of the real init: before, the C library
/// starts, which nobody can help where it cannot.
fn calls(trace: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut counts: BTreeMap<(&str, String, Option<String>), usize> = BTreeMap::new();
    let mut first = None;
    let mut has_begun = false;
    let mut has_ended = BTreeSet::new();
    for line in trace.lines() {
        let Some((pid, text)) = line.split_once(' ') else { continue };
        let text = text.trim_start();
        // The end of a call that another process's call came between.
        if has_begun && text.starts_with("<... execve resumed>") && text.ends_with("= 0") {
            has_ended.insert(pid);
        }
        let Some((name, _)) = text.split_once('(').filter(|_| !text.starts_with("<...")) else {
            continue;
        };
        let is_first = *first.get_or_insert(pid) == pid;
        let path = path_of(name, text);
        let number = counts.entry((pid, name.to_owned(), path.clone())).or_default();
        *number += 1;
        // What no C library does before `main`.
        has_begun |= is_first && name == "rt_sigaction" && text.contains("SIGCHLD");
        if !has_begun || has_ended.contains(pid) {
            continue;
        }
        if name == "execve" && text.ends_with("= 0") {
            has_ended.insert(pid);
        }
        let (name, text) = (name.to_owned(), text.to_owned());
        calls.push(Call { name, path, number: *number, text });
    }
    calls
}

/// One fault: what strace makes of every process's call of this name, path and number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    name: String,
    path: Option<String>,
    number: usize,
    fault: String,
}

impl Case {
    fn strikes(&self, call: &Call) -> bool {
        (&self.name, &self.path, self.number) == (&call.name, &call.path, call.number)
    }

    /// The options that make strace do it, in this root file system.
    fn options(&self, root: &Path) -> Vec<String> {
        let Self { name, path, number, fault } = self;
        let mut options =
            vec![format!("--trace={name}"), format!("--inject={name}:{fault}:when={number}")];
        if let Some(path) = path {
            // That of a descriptor has the root file system before it.
            let is_descriptor = ["read", "pread64", "write", "getdents64"].contains(&&**name);
            let prefix = if is_descriptor { root.to_str().unwrap() } else { "" };
            options.push(format!("--trace-path={prefix}{path}"));
        }
        options
    }
}

fn cases(calls: &[Call], mode: Mode, is_thorough: bool) -> BTreeSet<Case> {
    let mut cases = BTreeSet::new();
    for call in calls {
        // What is not found is mounted, and hides the machine of plain files. `BareInit` has these.
        if mode == Mode::Init && call.name == "access" {
            continue;
        }
        let (errnos, lengths) = faults(&call.name);
        let errnos = errnos.iter().take(if is_thorough { usize::MAX } else { 1 });
        let faults = errnos.map(|errno| format!("error={errno}"));
        let lengths = lengths.iter().map(|length| format!("retval={length}"));
        cases.extend(faults.chain(lengths).map(|fault| Case {
            name: call.name.clone(),
            path: call.path.clone(),
            number: call.number,
            fault,
        }));
    }
    cases
}

/// What is wrong with a run that had this fault.
fn check(
    case: &Case,
    struck: &[&Call],
    run: &Run,
    stage: &Stage,
    healthy: &Healthy,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let outcome = stage.outcome();
    if stage.mode.is_init() && !outcome.is_started {
        wrong.push("the real init did not start".to_owned());
    }
    if !matches!(run.status, Some(0 | 1)) {
        wrong.push("it did not end by itself".to_owned());
    }
    for function in TAKEN {
        let is_concerned = struck.iter().any(|call| call.concerns(function));
        if !is_concerned && outcome.of(function) != healthy.outcome.of(function) {
            wrong.push(format!("{function} is lost: {:?}", outcome.of(function)));
        }
    }
    let is_lost = outcome != healthy.outcome || run.status != healthy.status;
    let errno = case.fault.strip_prefix("error=").unwrap_or_default();
    if errno == "EINTR" && (is_lost || run.log != healthy.log) {
        wrong.push("an interrupted call is not repeated".to_owned());
    }
    let is_settled = |call: &&Call| call.is_told(run, errno) || call.is_answered_by(errno);
    if is_lost && !struck.iter().any(is_settled) {
        wrong.push("what was lost is not told".to_owned());
    }
    wrong
}

/// A run without faults.
struct Healthy {
    calls: Vec<Call>,
    outcome: Traces,
    status: Option<i32>,
    log: Vec<(u8, String)>,
}

impl Healthy {
    fn of(stage: &Stage) -> Self {
        if stage.mode.is_init() {
            // The tracer ends with PID 1, and is to tell everything before.
            stage.root.script("init", "echo started > /report; exec /bin/busybox sleep 1\n");
        }
        let log = stage.root.path("trace");
        let run = stage.run(&["-f", "-qq", "-y", "-s", "256", "-o", log.to_str().unwrap()]);
        // Paths as they are seen from inside, the same for every root file system.
        let trace = fs::read_to_string(&log).unwrap();
        let calls = calls(&trace.replace(stage.root.root().to_str().unwrap(), ""));
        assert!(calls.iter().any(|call| call.name == "exit_group"), "{}", run.story());
        stage.root.script("init", "echo started > /report\n");
        let run = stage.run(&["-f", "-qq", "-e", "trace=none", "-o", "/dev/null"]);
        Self { calls, outcome: stage.outcome(), status: run.status, log: run.log }
    }
}

/// Runs every case, and returns how many there were.
fn inject(binary: &Path, mode: Mode, is_thorough: bool, wrong: &Mutex<Vec<String>>) -> usize {
    let healthy = Healthy::of(&Stage::new(binary, mode));
    let cases: Vec<Case> = cases(&healthy.calls, mode, is_thorough).into_iter().collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let stage = Stage::new(binary, mode);
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let options = case.options(stage.root.root());
            let mut arguments = vec!["-f", "-qq", "-o", "/dev/null"];
            arguments.extend(options.iter().map(String::as_str));
            let run = stage.run(&arguments);
            let struck: Vec<&Call> =
                healthy.calls.iter().filter(|call| case.strikes(call)).collect();
            for what in check(case, &struck, &run, &stage, &healthy) {
                let texts: Vec<&str> = struck.iter().map(|call| &*call.text).collect();
                wrong.lock().unwrap().push(format!(
                    "{mode:?}, strace -f {}: {what}\n  {}\n{}\n",
                    options.join(" "),
                    texts.join("\n  "),
                    run.story()
                ));
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    cases.len()
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn every_fault_of_every_call_is_survived_and_told() {
    let wrong = Mutex::new(Vec::new());
    for mode in Mode::ALL {
        let mut count = 0;
        for (index, binary) in binaries().iter().enumerate() {
            // The binaries differ in the C library alone: of the others one fault of each call will do.
            count += inject(binary, mode, index == 0, &wrong);
        }
        figures::tell(&format!("faults injected {}: {count}", mode.name()));
    }
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
