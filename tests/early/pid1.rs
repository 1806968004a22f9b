// SPDX-License-Identifier: MIT OR Apache-2.0
//! The early binary as PID 1, in namespaces of its own: whatever becomes of its work, the real init
//! finds the machine as if it had been started by the kernel.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::early::{Root, Run, add_function, binaries, unshare};
use crate::support::tree::Sysfs;
use nix::libc::O_NONBLOCK;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

const CARD: &str = "0000:01:00.0";
const OTHER: &str = "0000:02:00.0";
/// The file that a function's name is written to so that its driver is probed, below the root of sysfs.
const PROBE: &str = "bus/pci/drivers_probe";

/// What an init can see of how it was started.
const INIT: &str = r#"
{
    echo "I am $0, PID $$, with" "$@"
    /bin/busybox env | /bin/busybox sort
    echo "below /:" && /bin/busybox ls -R / | /bin/busybox grep -v report
    echo "in" "$PWD" "with umask" "$(umask)"
    /bin/busybox mount -t proc proc /tmp
    echo "mounts:" && /bin/busybox cat /tmp/mounts
    echo "signals:" && /bin/busybox grep -E "^Sig(Blk|Ign|Cgt)" /tmp/self/status
    echo "descriptors:" /tmp/self/fd/*
    set -- /tmp/[0-9]*
    echo "processes: $#"
} > /report
"#;

/// A root file system with `INIT` as its init.
fn root(binary: &Path) -> Root {
    let root = Root::new(binary);
    root.script("init", INIT);
    root
}

/// The same with a machine made of plain files in /sys, where two cards are to be taken, and with a log;
/// nothing of it is mounted over.
fn root_with_machine(binary: &Path) -> Root {
    let root = root(binary);
    root.write("proc/cmdline", "quiet vfio.override=class:03\n");
    root.write("dev/kmsg", "");
    root.write("sys/bus/pci/drivers_probe", "");
    for card in [CARD, OTHER] {
        add_function(&root.path("sys"), card);
    }
    Sysfs(&root.path("sys")).add_driver("vfio-pci");
    root
}

/// Starts a program of the root file system as PID 1.
fn start(root: &Root, program: &str) -> Child {
    start_with(root, program, &[])
}

/// The same where this befalls a call, in strace's words, of a file that is named as the call does.
fn start_where(root: &Root, file: &str, happens: &str) -> Child {
    start_with(root, "/early", &[&format!("--inject={happens}"), &format!("--trace-path={file}")])
}

fn start_with(root: &Root, program: &str, strace: &[&str]) -> Child {
    let option = format!("--root={}", root.root().display());
    let unshared = unshare(&[
        "--pid",
        "--fork",
        "--kill-child",
        "--mount",
        &option,
        program,
        "quiet",
        "a b",
        "--",
    ]);
    let mut command = Command::new(if strace.is_empty() { "env" } else { "strace" });
    if !strace.is_empty() {
        // From outside: a tracer is no process of the machine.
        command.args(["-f", "-qq", "-o", "/dev/null"]).args(strace);
    }
    command
        .arg(unshared.get_program())
        .args(unshared.get_args())
        .env_clear()
        .envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/"), ("TERM", "linux")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare starts")
}

/// Waits for the end of the real init, and not for ever.
fn end(mut child: Child) -> Output {
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("PID 1 hangs");
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

fn finish(child: Child, root: &Root) -> Run {
    Run::new(end(child), &root.path("dev/kmsg"))
}

/// What the init of this root file system sees, started by the early binary or, the control, itself.
fn report_of(root: &Root, program: &str) -> String {
    let run = finish(start(root, program), root);
    let report = fs::read_to_string(root.path("report"));
    report.unwrap_or_else(|error| {
        panic!("{program} did not reach the init: {error}\n{}", run.story())
    })
}

/// Whether the init saw the same as one that is started directly in a copy of the root file system.
fn assert_init_sees_no_difference(report: &str, control: &Root) {
    let expected = report_of(control, "/init");
    assert!(expected.contains("PID 1, with quiet a b --"), "{expected}");
    assert_eq!(report, expected);
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn the_real_init_sees_no_difference() {
    for binary in binaries() {
        let root = root(&binary);
        for directory in ["proc", "sys", "dev"] {
            fs::create_dir(root.path(directory)).unwrap();
        }
        let report = report_of(&root, "/early");
        assert_init_sees_no_difference(&report, &root);
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn directories_that_are_missing_are_missing_again() {
    for binary in binaries() {
        let present = [&[][..], &["proc"], &["sys"], &["dev"], &["proc", "sys"]];
        for directories in present {
            let make = || {
                let root = root(&binary);
                for name in directories {
                    fs::create_dir(root.path(name)).unwrap();
                }
                root
            };
            assert_init_sees_no_difference(&report_of(&make(), "/early"), &make());
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn what_another_mounted_stays_where_ours_cannot_be_mounted() {
    for binary in binaries() {
        let root = root_with_machine(&binary);
        root.script("init", "echo /dev/*\n");
        // Nobody mounts a devtmpfs in a user namespace.
        let script =
            r#"mount -t tmpfs none "$0/dev" && : >"$0/dev/mine" && exec chroot "$0" /early"#;
        let mut command = unshare(&["--user", "--map-root-user", "--pid", "--fork", "--mount"]);
        let run =
            Run::of(command.args(["sh", "-c", script]).arg(root.root()), Path::new("/dev/null"));
        assert_eq!(run.stdout, "/dev/mine\n", "{}", run.story());
        assert!(run.stderr.contains("cannot mount /dev: EPERM"), "{}", run.story());
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn an_init_gets_no_descriptor_of_ours_for_a_closed_one() {
    for binary in binaries() {
        let report = |program: &str| {
            let root = root_with_machine(&binary);
            let option = format!("--root={}", root.root().display());
            let mut command = unshare(&["--pid", "--fork", "--kill-child", "--mount", &option]);
            command.args([program, "quiet"]).env_clear().stdin(Stdio::null());
            let mut closed = Command::new("sh");
            closed.args(["-c", r#"exec "$@" 2>&-"#, "sh"]).arg(command.get_program());
            closed.args(command.get_args());
            let status = closed.status().unwrap();
            assert!(status.success());
            let report = fs::read_to_string(root.path("report")).expect("the init ran");
            report.lines().find(|line| line.starts_with("descriptors:")).unwrap().to_owned()
        };
        assert_eq!(report("/early"), report("/init"));
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn the_work_is_done_with_what_is_there() {
    for binary in binaries() {
        let root = root_with_machine(&binary);
        let run = finish(start(&root, "/early"), &root);
        assert!(root.path("report").exists(), "{}", run.story());
        for card in [CARD, OTHER] {
            let path = root.path("sys/bus/pci/devices").join(card).join("driver_override");
            assert_eq!(fs::read_to_string(path).unwrap(), "vfio-pci\n", "{}", run.story());
        }
        assert!(run.says("functions: 2 taken"), "{}", run.story());
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn nothing_can_be_started_from_what_it_mounts() {
    for binary in binaries() {
        let root = root(&binary);
        let log = root.root().with_extension("strace");
        let strace = ["-o", log.to_str().unwrap(), "--trace=mount"];
        finish(start_with(&root, "/early", &strace), &root);
        let calls = fs::read_to_string(&log).unwrap();
        fs::remove_file(&log).unwrap();
        for at in ["/proc", "/sys", "/dev"] {
            let is_ours = |call: &&str| call.contains(&format!("\"{at}\", \""));
            let call = calls.lines().find(is_ours).unwrap_or_else(|| panic!("{at}: {calls}"));
            assert!(call.contains("MS_NOSUID|MS_NOEXEC,"), "{call}");
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_root_that_cannot_be_written_to_stops_nothing() {
    for binary in binaries() {
        let root = root(&binary);
        root.script("init", "echo init runs as PID $$\n");
        // On a root file system that is its own mount, and read-only.
        let script =
            r#"mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec chroot "$0" /early"#;
        let mut command = unshare(&["--pid", "--fork", "--mount", "sh", "-c", script]);
        let run = Run::of(command.arg(root.root()), &root.path("dev/kmsg"));
        assert_eq!(run.stdout, "init runs as PID 1\n", "{}", run.story());
        for directory in ["/proc", "/sys", "/dev"] {
            assert!(
                run.stderr.contains(&format!("cannot mount {directory}: ENOENT")),
                "{}",
                run.story()
            );
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn the_first_init_that_starts_is_taken() {
    let names = ["init", "sbin/init", "etc/init", "bin/init", "bin/sh"];
    for binary in binaries() {
        for (index, name) in names.iter().enumerate() {
            let root = Root::new(&binary);
            // One that is no program is passed over.
            if index > 0 {
                root.write(names[index - 1], "no program");
            }
            for name in &names[index..] {
                root.script(name, "echo $0 runs as PID $$ with \"$@\"\n");
            }
            let run = finish(start(&root, "/early"), &root);
            assert_eq!(
                run.stdout,
                format!("/{name} runs as PID 1 with quiet a b --\n"),
                "{}",
                run.story()
            );
            assert_eq!(run.status, Some(0));
            let told = "]: cannot start /";
            let passed_over: Vec<_> =
                run.stderr.lines().filter_map(|line| Some(line.split_once(told)?.1)).collect();
            let expected: Vec<_> = names[..index]
                .iter()
                .map(|name| format!("{name}: EACCES; it is no file that may be executed"))
                .collect();
            assert_eq!(passed_over, expected[index.saturating_sub(1)..], "{}", run.story());
        }
    }
}

/// How /init is spoilt, and what is said of it.
type Spoilt = (fn(&Root), &'static str);

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn an_init_that_cannot_be_started_is_told_with_what_it_lacks() {
    fn program(root: &Root, machine: u8) {
        // Enough of a 64-bit program to have an interpreter: a header of each kind and the name.
        let mut bytes = vec![0; 0x100];
        bytes[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
        for (at, value) in
            [(16, 2), (18, machine), (20, 1), (32, 64), (52, 64), (54, 56), (56, 2), (64, 3)]
        {
            bytes[at] = value;
        }
        bytes[64 + 8] = 0xc0;
        bytes[64 + 32] = 24;
        bytes[64 + 56] = 1;
        bytes[0xc0..0xc0 + 23].copy_from_slice(b"/lib64/ld-made-up.so.99");
        let path = root.path("init");
        fs::write(root.path("bytes"), bytes).unwrap();
        crate::support::program::copy(&root.path("bytes"), &path);
    }
    // The machine's own number (`include/uapi/linux/elf-em.h`), and that of a VAX.
    const OWN: u8 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    const VAX: u8 = 75;
    let spoilt: [Spoilt; 8] = [
        (
            |root| crate::support::program::write(&root.path("init"), "#!/bin/gone sh\n"),
            "cannot start /init: ENOENT; /bin/gone, or what that needs, is missing",
        ),
        (
            |root| crate::support::program::write(&root.path("init"), "#! \tgone-too\n"),
            "cannot start /init: ENOENT; gone-too, or what that needs, is missing",
        ),
        (
            |root| program(root, OWN),
            "cannot start /init: ENOENT; /lib64/ld-made-up.so.99, or what that needs, is missing",
        ),
        (
            |root| symlink("usr/lib/systemd/systemd", root.path("init")).unwrap(),
            "cannot start /init: ENOENT; usr/lib/systemd/systemd, or what that needs, is missing",
        ),
        (
            |root| program(root, VAX),
            "cannot start /init: ENOEXEC; it is no program, or one for another architecture",
        ),
        (
            |root| root.write("init", "#!/bin/busybox sh\n"),
            "cannot start /init: EACCES; it is no file that may be executed",
        ),
        (
            |root| fs::create_dir(root.path("init")).unwrap(),
            "cannot start /init: EACCES; it is no file that may be executed",
        ),
        (|root| symlink("init", root.path("init")).unwrap(), "cannot start /init: ELOOP; "),
    ];
    for binary in binaries() {
        for (spoil, told) in spoilt {
            let root = root_with_machine(&binary);
            fs::remove_file(root.path("init")).unwrap();
            spoil(&root);
            root.script("bin/sh", "echo a shell\n");
            let run = finish(start(&root, "/early"), &root);
            assert_eq!(run.stdout, "a shell\n", "{}", run.story());
            let lines: Vec<&str> = run.log.iter().map(|(_, line)| &**line).collect();
            let last = lines.last_chunk::<2>().expect("both are told");
            assert!(last[0].starts_with(told), "{told}\n{}", run.story());
            assert_eq!(last[1], "no init can be started: /bin/sh is next");
        }
    }
}

/// What becomes of signals is what the program before this one left.
#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn the_real_init_finds_signals_as_they_were() {
    for binary in binaries() {
        let report = |program: &str| {
            let root = root_with_machine(&binary);
            let mut command = unshare(&["--pid", "--fork", "--kill-child", "--mount"]);
            command.args(["env", "--ignore-signal=CHLD", "--ignore-signal=USR1"]);
            command.args(["--block-signal=PIPE", "--block-signal=RTMIN", "chroot"]);
            let status = command.arg(root.root()).arg(program).status().unwrap();
            assert!(status.success(), "{status}");
            let report = fs::read_to_string(root.path("report")).expect("the init ran");
            let signals = report.lines().skip_while(|line| *line != "signals:").skip(1).take(3);
            signals.map(str::to_owned).collect::<Vec<_>>()
        };
        let signals = report("/early");
        assert_eq!(signals.len(), 3);
        assert_eq!(signals, report("/init"));
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn an_init_is_called_by_its_own_name() {
    for binary in binaries() {
        let root = Root::new(&binary);
        // Busybox is what its name says, and a shell takes its first argument for a script.
        fs::copy(root.path("bin/busybox"), root.path("bin/sh")).unwrap();
        root.write("quiet", "echo a shell runs as PID $$ with \"$@\"\n");
        let run = finish(start(&root, "/early"), &root);
        assert_eq!(run.stdout, "a shell runs as PID 1 with a b --\n", "{}", run.story());
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn as_the_init_itself_it_starts_the_next_one() {
    for binary in binaries() {
        let root = Root::new(&binary);
        // Under two names, neither of which must start the other for ever.
        fs::copy(&binary, root.path("init")).unwrap();
        fs::copy(&binary, root.path("sbin/init")).unwrap();
        root.script("etc/init", "echo $0 runs as PID $$\n");
        let run = finish(start(&root, "/init"), &root);
        assert_eq!(run.stdout, "/etc/init runs as PID 1\n", "{}", run.story());
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn where_there_is_no_init_it_says_so_and_ends() {
    for binary in binaries() {
        let root = root_with_machine(&binary);
        fs::remove_file(root.path("init")).unwrap();
        let run = finish(start(&root, "/early"), &root);
        assert_eq!(run.status, Some(1));
        let (level, last) = run.log.last().expect("it is told");
        assert_eq!(*level, 3);
        assert!(last.starts_with("there is no /init, /sbin/init, "), "{}", run.story());
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn without_an_init_and_without_a_log_the_reason_is_the_last_thing_on_the_console() {
    for binary in binaries() {
        // The log goes with the /dev that it was mounted for.
        let root = Root::new(&binary);
        let run = finish(start(&root, "/early"), &root);
        assert_eq!(run.status, Some(1));
        let last = run.stderr.lines().last().unwrap_or_default();
        assert!(last.contains("]: there is no /init, /sbin/init, "), "{}", run.story());
        assert!(last.contains("to start; boot without rdinit= or init="), "{}", run.story());
    }
}

/// Puts a FIFO there, of which nobody opens the other end.
fn put_fifo(root: &Root, path: &str) {
    let path = root.path(path);
    fs::remove_file(&path).unwrap();
    mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
}

/// Puts a pipe there that nobody empties, and that stays open as long as what is returned.
fn put_full_pipe(root: &Root, path: &str) -> fs::File {
    put_fifo(root, path);
    let mut options = fs::OpenOptions::new();
    let mut pipe =
        options.read(true).write(true).custom_flags(O_NONBLOCK).open(root.path(path)).unwrap();
    while pipe.write(&[0; 4096]).is_ok() {}
    while pipe.write(&[0]).is_ok() {}
    pipe
}

/// What the real init of a machine whose worker is in trouble sees must be what one sees on a machine
/// like it that is started directly.
fn check_survival(root: &Root, child: Child, told: &str) {
    let run = finish(child, root);
    assert_eq!(run.status, Some(0), "{}", run.story());
    assert!(run.says(told), "{told}\n{}", run.story());
    // What is true of the functions is logged, though the work did not come to it.
    assert!(run.says("functions: 2 taken"), "{told}\n{}", run.story());
    let report = fs::read_to_string(root.path("report")).expect("the init ran");
    fs::remove_file(root.path("report")).unwrap();
    assert_init_sees_no_difference(&report, root);
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_worker_that_crashes_or_is_killed_does_not_stop_the_boot() {
    for binary in binaries() {
        for signal in [Signal::SIGSEGV, Signal::SIGKILL, Signal::SIGILL, Signal::SIGBUS] {
            let root = root_with_machine(&binary);
            let start_time = Instant::now();
            let happens = format!("openat2:signal={}", signal.as_str());
            let child = start_where(&root, PROBE, &happens);
            let told = format!("killed by signal {}: every override is set", signal as i32);
            check_survival(&root, child, &told);
            assert!(start_time.elapsed() < Duration::from_secs(4), "the boot does not wait");
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_worker_that_hangs_delays_the_boot_by_five_seconds() {
    const STUCK: &str = "delay_enter=6000000";
    let places = [
        ("openat2", "0000:01:00.0/modalias"),
        ("openat2", PROBE),
        ("openat2", "bus/pci/devices/0000:01:00.0/driver/unbind"),
        ("readlinkat", "0000:02:00.0/driver"),
        ("openat", "/proc/cmdline"),
    ];
    for binary in binaries() {
        thread::scope(|scope| {
            for (call, file) in places {
                let binary = &binary;
                scope.spawn(move || {
                    let root = root_with_machine(binary);
                    Sysfs(&root.path("sys")).bind(CARD, "nouveau");
                    let start_time = Instant::now();
                    let child = start_where(&root, file, &format!("{call}:{STUCK}"));
                    let run = finish(child, &root);
                    let seconds = start_time.elapsed().as_secs_f64();
                    assert!(root.path("report").exists(), "{file}: {}", run.story());
                    let told = "no sign of life for 4 s, killed: ";
                    assert!(run.says(told), "{file}: {}", run.story());
                    // What hangs before the first override hangs its rescuer too.
                    let is_known = !matches!(file, "0000:01:00.0/modalias" | "/proc/cmdline");
                    // The tracer ends when the call of a rescuer would have: the first sets the overrides, the second
                    // reads the links.
                    let is_followed = is_known && call != "readlinkat";
                    let most = if is_followed { 8.0 } else { 13.0 };
                    assert!((3.9..most).contains(&seconds), "{file}: {seconds} s {}", run.story());
                    let told = if is_known {
                        ": every override is set"
                    } else {
                        ": whether every override is set is unknown"
                    };
                    assert!(run.says(told), "{file}: {}", run.story());
                    for card in [CARD, OTHER].iter().filter(|_| is_known) {
                        let function = root.path("sys/bus/pci/devices").join(card);
                        let kept = fs::read_to_string(function.join("driver_override")).unwrap();
                        assert_eq!(kept, "vfio-pci\n", "{file}: {}", run.story());
                    }
                });
            }
            scope.spawn(|| {
                let root = root_with_machine(&binary);
                let child = start_where(&root, PROBE, "openat2:signal=SIGSTOP");
                let told = "no sign of life for 4 s, killed: every override is set";
                check_survival(&root, child, told);
            });
        });
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_console_that_takes_nothing_does_not_stop_the_boot() {
    for binary in binaries() {
        // Where the kernel log cannot be opened it gets all lines, and these are more than a pipe takes.
        let root = root_with_machine(&binary);
        fs::remove_file(root.path("dev/kmsg")).unwrap();
        fs::create_dir(root.path("dev/kmsg")).unwrap();
        root.write("proc/cmdline", &format!("vfio.override=class:03,{}\n", "no-rule,".repeat(500)));
        let start_time = Instant::now();
        let mut child = start(&root, "/early");
        let console = child.stderr.take();
        assert_eq!(end(child).status.code(), Some(0));
        assert!(start_time.elapsed() < Duration::from_secs(4), "the boot does not wait");
        assert!(root.path("report").exists());
        let path = root.path("sys/bus/pci/devices").join(CARD).join("driver_override");
        assert_eq!(fs::read_to_string(path).unwrap(), "vfio-pci\n");
        drop(console);
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_log_that_nobody_reads_does_not_stop_the_boot() {
    for binary in binaries() {
        let without_reader = root_with_machine(&binary);
        put_fifo(&without_reader, "dev/kmsg");
        let full = root_with_machine(&binary);
        let pipe = put_full_pipe(&full, "dev/kmsg");
        for root in [&without_reader, &full] {
            let output = end(start(root, "/early"));
            assert_eq!(output.status.code(), Some(0));
            assert!(root.path("report").exists());
            let path = root.path("sys/bus/pci/devices").join(CARD).join("driver_override");
            assert_eq!(fs::read_to_string(path).unwrap(), "vfio-pci\n");
        }
        drop(pipe);
    }
}
