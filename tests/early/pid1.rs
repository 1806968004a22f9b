//! The early binary as PID 1, in namespaces of its own: whatever becomes of its work, the real init
//! finds the machine as if it had been started by the kernel.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::early::{Root, Run, add_function, binaries, unshare};
use crate::support::tree::Sysfs;
use nix::libc::O_NONBLOCK;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

const CARD: &str = "0000:01:00.0";
const OTHER: &str = "0000:02:00.0";

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
    let option = format!("--root={}", root.root().display());
    unshare(&["--pid", "--fork", "--kill-child", "--mount", &option, program, "quiet", "a b", "--"])
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
            let expected: Vec<_> = names[..index].iter().map(|n| format!("{n}: EACCES")).collect();
            assert_eq!(passed_over, expected[index.saturating_sub(1)..], "{}", run.story());
        }
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

/// The process that does the work, once it waits for something: in the root file system, and not PID 1
/// there.
fn worker(root: &Root) -> Pid {
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let is_ours =
                fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == root.path("early"));
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let is_first =
                status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"));
            let is_asleep = status.contains("\nState:\tS");
            if is_ours
                && !is_first
                && is_asleep
                && let Ok(pid) = entry.file_name().to_str().unwrap().parse()
            {
                return Pid::from_raw(pid);
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("there is no worker");
}

/// Makes the work hang where it opens this file, since nobody opens the other end.
fn hang_in_open(root: &Root, path: &str) {
    let path = root.path(path);
    fs::remove_file(&path).unwrap();
    mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
}

/// Makes the work hang where it writes to this file: a pipe that nobody empties, and that stays open as
/// long as what is returned.
fn hang_in_write(root: &Root, path: &str) -> fs::File {
    hang_in_open(root, path);
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
            hang_in_open(&root, "sys/bus/pci/drivers_probe");
            let start_time = Instant::now();
            let child = start(&root, "/early");
            kill(worker(&root), signal).unwrap();
            let told = format!("killed by signal {}: every override is set", signal as i32);
            check_survival(&root, child, &told);
            assert!(start_time.elapsed() < Duration::from_secs(4), "the boot does not wait");
        }
    }
}

/// A way to hang, and what keeps it so.
type Trap = fn(&Root) -> Option<fs::File>;

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_worker_that_hangs_delays_the_boot_by_five_seconds() {
    let traps: [(&str, Trap); 5] = [
        ("opening a function's attribute", |root| {
            hang_in_open(root, "sys/bus/pci/devices/0000:01:00.0/modalias");
            None
        }),
        ("opening drivers_probe", |root| {
            hang_in_open(root, "sys/bus/pci/drivers_probe");
            None
        }),
        ("writing to drivers_probe", |root| Some(hang_in_write(root, "sys/bus/pci/drivers_probe"))),
        ("writing to unbind", |root| {
            Sysfs(&root.path("sys")).bind(CARD, "nouveau");
            Some(hang_in_write(root, "sys/bus/pci/drivers/nouveau/unbind"))
        }),
        ("reading the command line", |root| {
            hang_in_open(root, "proc/cmdline");
            None
        }),
    ];
    for binary in binaries() {
        thread::scope(|scope| {
            for (what, set) in traps {
                let binary = &binary;
                scope.spawn(move || {
                    let root = root_with_machine(binary);
                    let trap = set(&root);
                    let start_time = Instant::now();
                    let run = finish(start(&root, "/early"), &root);
                    let seconds = start_time.elapsed().as_secs_f64();
                    assert!((3.9..8.0).contains(&seconds), "{what}: {seconds} s");
                    assert!(root.path("report").exists(), "{what}: {}", run.story());
                    assert!(run.says("not done after 4 s, killed: "), "{what}: {}", run.story());
                    drop(trap);
                });
            }
            scope.spawn(|| {
                let root = root_with_machine(&binary);
                hang_in_open(&root, "sys/bus/pci/drivers_probe");
                let child = start(&root, "/early");
                kill(worker(&root), Signal::SIGSTOP).unwrap();
                check_survival(&root, child, "not done after 4 s, killed: every override is set");
            });
        });
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_hang_leaves_no_function_unprotected() {
    for binary in binaries() {
        let root = root_with_machine(&binary);
        hang_in_open(&root, "sys/bus/pci/drivers_probe");
        let child = start(&root, "/early");
        kill(worker(&root), Signal::SIGKILL).unwrap();
        let run = finish(child, &root);
        for card in [CARD, OTHER] {
            let path = root.path("sys/bus/pci/devices").join(card).join("driver_override");
            assert_eq!(fs::read_to_string(path).unwrap(), "vfio-pci\n", "{}", run.story());
        }
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
        hang_in_open(&without_reader, "dev/kmsg");
        let full = root_with_machine(&binary);
        let pipe = hang_in_write(&full, "dev/kmsg");
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
