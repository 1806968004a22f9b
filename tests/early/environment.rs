// SPDX-License-Identifier: MIT OR Apache-2.0
//! The early binary that ships, started as nobody should start a program: no environment costs a line of the
//! log, a function, or the end of the run.

use std::fs;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::early::{Copy, Run, binaries, unshare};
use nix::libc::{self, O_NONBLOCK};

const CARD: &str = "0000:01:00.0";
const OTHER: &str = "0000:02:00.0";

/// Two cards, one of which has a driver, and vfio-pci to be probed with.
fn two_cards() -> Copy {
    let copy = Copy::with_rules("class:03").and(CARD).and(OTHER);
    copy.and_driver("vfio-pci").and_bound(CARD, "nouveau")
}

/// The command, started by this shell script as `"$@"`.
fn by_script(script: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
    shell
}

/// What became of the functions, and whether ours was probed for both.
fn outcome(copy: &Copy) -> [String; 4] {
    [
        copy.kept_for(CARD),
        copy.kept_for(OTHER),
        fs::read_to_string(copy.path("sys/bus/pci/drivers/nouveau/unbind")).unwrap(),
        fs::read_to_string(copy.path("sys/bus/pci/drivers_probe")).unwrap(),
    ]
}

/// Whether as much was done as by a run that nothing is wrong with.
fn check_outcome(copy: &Copy, binary: &Path, what: &str) {
    let healthy = two_cards();
    healthy.run(binary);
    assert_eq!(outcome(copy), outcome(&healthy), "{what}");
}

/// Whether a run did, and said, what one does that nothing is wrong with.
fn check(run: &Run, copy: &Copy, binary: &Path, what: &str) {
    let healthy = two_cards().run(binary);
    assert_eq!((run.status, &run.log), (healthy.status, &healthy.log), "{what}");
    check_outcome(copy, binary, what);
}

/// What is written to the kernel log while this runs, if this machine has one to write to.
fn with_kernel_log(run: impl FnOnce()) -> Option<Vec<String>> {
    fs::OpenOptions::new().write(true).open("/dev/kmsg").ok()?;
    let mut log =
        fs::OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open("/dev/kmsg").ok()?;
    log.seek(SeekFrom::End(0)).ok()?;
    run();
    let mut records = Vec::new();
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(length) => records.push(String::from_utf8_lossy(&record[..length]).into_owned()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(_) => return Some(records),
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn every_line_is_in_the_kernel_log_whichever_standard_streams_are_closed() {
    const CLOSED: [&str; 8] =
        ["", "<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"];
    for binary in binaries() {
        for closed in CLOSED {
            let functions = (0..20).map(|number| format!("0000:{number:02x}:00.0"));
            let none = Copy::with_rules("class:03");
            let copy = functions.fold(none, |copy, function| copy.and(&function));
            let mut command = Command::new(&binary);
            for (option, file) in [("--sysfs", "sys"), ("--cmdline", "cmdline")] {
                command.arg(option).arg(copy.path(file));
            }
            // The shell's number is the program's: it becomes it.
            let script = format!("echo $$ >{}; exec \"$@\" {closed}", copy.path("pid").display());
            let mut shell = by_script(&script, &command);
            let records = with_kernel_log(|| {
                assert_eq!(shell.status().unwrap().code(), Some(0));
            });
            let Some(records) = records else {
                eprintln!("not tested: /dev/kmsg cannot be written to here");
                return;
            };
            let pid = fs::read_to_string(copy.path("pid")).unwrap();
            let ours = format!(";vfio-override[{}]: ", pid.trim());
            let lines = records.iter().filter(|record| record.contains(&ours)).count();
            assert_eq!(lines, 21, "with {closed:?} closed: {records:#?}");
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_standard_error_stream_that_nobody_reads_costs_nothing() {
    for binary in binaries() {
        let copy = two_cards();
        fs::remove_file(copy.path("kmsg")).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = copy.command(&binary);
        // A child of the standard library's gets SIGPIPE as it is by default.
        let status = command.stdin(Stdio::null()).stderr(writer).status().unwrap();
        assert_eq!(status.code(), Some(1), "{status}: the plain file does not unbind");
        check_outcome(&copy, &binary, "nobody reads");

        // The parent says it, where the work cannot be done.
        let copy = two_cards();
        fs::remove_file(copy.path("kmsg")).unwrap();
        fs::remove_file(copy.path("cmdline")).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = copy.command(&binary).stderr(writer).status().unwrap();
        assert_eq!(status.code(), Some(1), "{status}");
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn signals_that_were_ignored_or_blocked_change_nothing() {
    for binary in binaries() {
        for options in [
            &["--ignore-signal=CHLD"][..],
            &["--ignore-signal"],
            &["--block-signal"],
            &["--ignore-signal", "--block-signal"],
            &["--default-signal", "--block-signal=CHLD,PIPE"],
        ] {
            let copy = Copy::with_rules("class:03").and(CARD).and(OTHER);
            let command = copy.command(&binary);
            let mut env = Command::new("env");
            env.args(options).arg(command.get_program()).args(command.get_args());
            let run = Run::of(&mut env, &copy.path("kmsg"));
            assert_eq!(run.status, Some(0), "{options:?}: {}", run.story());
            assert_eq!(run.log.len(), 3, "{options:?}: {}", run.story());
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_limit_on_files_is_told_and_ends_nothing_by_a_signal() {
    for binary in binaries() {
        // No file may be longer than nothing: sysfs knows no such limit, the plain files of a copy do.
        let copy = two_cards();
        fs::remove_file(copy.path("kmsg")).unwrap();
        let run = Run::of(
            &mut by_script("ulimit -f 0; exec \"$@\"", &copy.command(&binary)),
            Path::new("/dev/null"),
        );
        assert_eq!(run.status, Some(1), "{}", run.story());
        let told = "write bus/pci/devices/0000:01:00.0/driver_override: EFBIG";
        assert!(run.stderr.contains(told), "{}", run.story());
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_limit_on_processes_is_told() {
    for binary in binaries() {
        // Root may have any number.
        let copy = two_cards();
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
        if nix::unistd::geteuid().is_root() {
            fs::set_permissions(copy.root(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .unwrap();
            let kmsg = copy.path("kmsg");
            fs::set_permissions(&kmsg, std::os::unix::fs::PermissionsExt::from_mode(0o666))
                .unwrap();
            let shared = copy.path("early");
            crate::support::program::copy(&binary, &shared);
            let early = copy.command(&shared);
            command.args(["prlimit", "--nproc=0"]).arg(early.get_program()).args(early.get_args());
            let run = Run::of(&mut command, &kmsg);
            assert_eq!(run.status, Some(1), "{}", run.story());
            assert!(run.says("cannot fork: EAGAIN; no rule is applied"), "{}", run.story());
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn few_descriptors_and_many_that_were_left_open_cost_no_function() {
    for binary in binaries() {
        for script in [
            "exec 3</dev/null 5<. 7</dev/zero 9>/dev/null; exec \"$@\"",
            "exec 0<. 1</ 2</dev/null; exec \"$@\"",
            "d=$(mktemp -d); cd \"$d\"; rmdir \"$d\"; exec \"$@\"",
            "ulimit -s 256; exec \"$@\"",
            "exec taskset -c 0 \"$@\"",
            "exec env -i \"$@\"",
        ] {
            let copy = two_cards();
            let run = Run::of(&mut by_script(script, &copy.command(&binary)), &copy.path("kmsg"));
            check(&run, &copy, &binary, script);
        }
        // What the standard streams, the log and the root leave, and a directory that is read, and two files more.
        for limit in 8..16 {
            let (copy, healthy) = (two_cards(), two_cards());
            let script = format!("ulimit -n {limit}; exec \"$@\"");
            let run = Run::of(&mut by_script(&script, &copy.command(&binary)), &copy.path("kmsg"));
            assert_eq!(run.log, healthy.run(&binary).log, "{script}");
            let ([.., wanted], [.., probed]) = (outcome(&healthy), outcome(&copy));
            assert_eq!(wanted, format!("{CARD}{OTHER}"));
            // A plain file that is opened again is written from its start.
            assert!([&wanted, OTHER].contains(&probed.as_str()), "{script}: {probed}");
            assert_eq!(outcome(&copy)[..3], outcome(&healthy)[..3], "{script}");
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn where_no_file_can_be_opened_that_is_told_and_the_run_ends() {
    for binary in binaries() {
        for limit in 3..7 {
            let copy = two_cards();
            let script = format!("exec timeout 20 prlimit --nofile={limit} \"$@\"");
            let run = Run::of(&mut by_script(&script, &copy.command(&binary)), &copy.path("kmsg"));
            assert_eq!(run.status, Some(1), "{script}: {}", run.story());
            assert!(run.says("EMFILE") || run.stderr.contains("EMFILE"), "{}", run.story());
            assert_eq!(outcome(&copy), outcome(&two_cards()), "{script}: {}", run.story());
        }
    }
}

/// A terminal may stop whoever writes to it from the background (`TOSTOP` in termios(3)).
#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_terminal_stops_no_run_in_the_background() {
    for binary in binaries() {
        let copy = two_cards();
        let early = copy.command(&binary);
        let arguments: Vec<_> = early.get_args().map(|text| text.to_str().unwrap()).collect();
        let script = format!(
            "stty tostop; set -m; {} {} --kmsg /nonexistent & sleep 1; jobs -l; kill -KILL %1; true",
            binary.display(),
            arguments.join(" ")
        );
        let mut terminal = Command::new("script");
        terminal.args(["-qec", &format!("bash -c '{script}'"), "/dev/null"]);
        let run = Run::of(&mut terminal, &copy.path("kmsg"));
        assert!(run.stdout.contains("functions: 2 taken"), "{}", run.story());
        assert!(!run.stdout.contains("Stopped"), "{}", run.story());
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_huge_environment_and_an_empty_name_change_nothing() {
    for binary in binaries() {
        let copy = two_cards();
        let mut command = copy.command(&binary);
        command.envs((0..20).map(|number| (format!("V{number}"), "x".repeat(100_000))));
        let run = Run::of(&mut command, &copy.path("kmsg"));
        check(&run, &copy, &binary, "a huge environment");

        // The kernel makes one of no arguments at all (`do_execveat_common` in `fs/exec.c`, since 5.18).
        let copy = two_cards();
        let mut command = copy.command(&binary);
        command.arg0("");
        let run = Run::of(&mut command, &copy.path("kmsg"));
        check(&run, &copy, &binary, "an empty name");
    }
}

/// A process that may have no more memory than the program needs is as good as any; with less, the kernel does not
/// start it, or glibc ends it with 127 before any code of ours (`_dl_early_allocate` in `csu/libc-tls.c`).
#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_limit_on_memory_costs_all_or_nothing() {
    for binary in binaries() {
        // In KiB.
        let is_enough = |limit: u32| {
            let copy = two_cards();
            let script = format!("ulimit -v {limit}; exec \"$@\"");
            let run = Run::of(&mut by_script(&script, &copy.command(&binary)), &copy.path("kmsg"));
            if run.log.is_empty() {
                assert_eq!(outcome(&copy), outcome(&two_cards()), "{script}: {}", run.story());
                assert!(matches!(run.status, None | Some(127)), "{script}: {}", run.story());
            } else {
                check(&run, &copy, &binary, &script);
            }
            !run.log.is_empty()
        };
        let first = (256..=4_096).step_by(256).find(|limit| is_enough(*limit)).expect("a limit");
        let mut pages = (first - 256..first + 64).step_by(16);
        pages.find(|limit| is_enough(*limit)).expect("a limit");
        for limit in pages {
            assert!(is_enough(limit), "{limit} KiB are less than what was enough");
        }
    }
}

/// A filter of system calls that refuses new processes, as a sandbox has it.
#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_filter_that_refuses_processes_is_told() {
    for binary in binaries() {
        let copy = two_cards();
        let mut command = copy.command(&binary);
        refuse(&mut command, &[libc::SYS_clone, libc::SYS_clone3]);
        let run = Run::of(&mut command, &copy.path("kmsg"));
        assert_eq!(run.status, Some(1), "{}", run.story());
        assert!(run.says("cannot fork: EPERM; no rule is applied"), "{}", run.story());
        assert_eq!(outcome(&copy), outcome(&two_cards()), "{}", run.story());
    }
}

/// Makes the command's process get EPERM for these system calls.
fn refuse(command: &mut Command, calls: &'static [libc::c_long]) {
    let load = [libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 }];
    let answer = |k| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k };
    let refusals = calls.iter().flat_map(|call| {
        let number = u32::try_from(*call).unwrap();
        let is_it = libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: number };
        [is_it, answer(libc::SECCOMP_RET_ERRNO | 1)]
    });
    let mut filter: Vec<libc::sock_filter> = load.into_iter().chain(refusals).collect();
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    let install = move || {
        let program = libc::sock_fprog {
            len: u16::try_from(filter.len()).unwrap(),
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: the kernel copies the filter, which lives longer than the calls.
        let results = unsafe {
            [
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program),
            ]
        };
        if results == [0, 0] { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: it makes two system calls and allocates nothing.
    unsafe { command.pre_exec(install) };
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_sysfs_that_is_mounted_read_only_is_told() {
    for binary in binaries() {
        let copy = two_cards();
        let command = copy.command(&binary);
        let script = format!(
            "mount --bind {0} {0} && mount -o remount,ro,bind {0} && exec \"$@\"",
            copy.path("sys").display()
        );
        let mut unshare = unshare(&["--mount"]);
        let script = by_script(&script, &command);
        unshare.arg(script.get_program()).args(script.get_args());
        let run = Run::of(&mut unshare, &copy.path("kmsg"));
        assert_eq!(run.status, Some(1), "{}", run.story());
        for function in [CARD, OTHER] {
            let told = format!("open bus/pci/devices/{function}/driver_override: EROFS");
            assert!(run.says(&told), "{}", run.story());
        }
        assert!(run.says("rules: 1 failed; functions: 0 taken"), "{}", run.story());
        assert_eq!(outcome(&copy), outcome(&two_cards()), "{}", run.story());
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn no_umask_and_no_clock_that_runs_out_costs_anything() {
    for binary in binaries() {
        let copy = two_cards();
        let mut command = by_script("umask 0777; exec \"$@\"", &copy.command(&binary));
        let run = Run::of(&mut command, &copy.path("kmsg"));
        check(&run, &copy, &binary, "umask");

        // The rules come after these signals.
        for signal in ["ALRM", "HUP", "VTALRM", "PROF"] {
            let copy = two_cards();
            let line = fs::read(copy.path("cmdline")).unwrap();
            fs::remove_file(copy.path("cmdline")).unwrap();
            nix::unistd::mkfifo(&copy.path("cmdline"), nix::sys::stat::Mode::S_IRWXU).unwrap();
            let script = format!("(sleep 0.3; kill -{signal} $$) & exec \"$@\"");
            let fifo = copy.path("cmdline");
            let writer = std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(900));
                fs::write(fifo, line).unwrap();
            });
            let run = Run::of(&mut by_script(&script, &copy.command(&binary)), &copy.path("kmsg"));
            writer.join().unwrap();
            check(&run, &copy, &binary, signal);
        }
    }
}

/// A serial console of 9,600 baud takes 150 ms for a line, and whoever writes to the log waits for it.
#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_slow_console_costs_no_function_and_no_line() {
    for binary in binaries() {
        let functions: Vec<_> = (0..40).map(|number| format!("0000:{number:02x}:00.0")).collect();
        let none = Copy::with_rules("class:03").and_driver("vfio-pci");
        let copy = functions
            .iter()
            .fold(none, |copy, function| copy.and(function).and_bound(function, "nouveau"));
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "--inject=write:delay_exit=150000", "-P"]);
        strace.arg(copy.path("kmsg")).arg(&binary).args(copy.command(&binary).get_args());
        let run = Run::of(&mut strace, &copy.path("kmsg"));
        let probed = fs::read_to_string(copy.path("sys/bus/pci/drivers_probe")).unwrap();
        assert_eq!(probed, functions.concat(), "{}", run.story());
        for function in &functions {
            assert!(run.says(&format!("{function} [10de:2204]")), "{}", run.story());
        }
        assert!(run.says("functions: 40 taken"), "{}", run.story());
    }
}
