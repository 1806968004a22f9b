// SPDX-License-Identifier: MIT OR Apache-2.0
//! The early binary that ships, as a hook calls it, on copies of sysfs.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::support::early::{Copy, Root, Run, add_function, binaries, unshare};
use crate::support::tree::{self, Function, Sysfs};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const CARD: &str = "0000:01:00.0";
const OTHER: &str = "0000:02:00.0";

/// A machine with two cards and these rules.
fn two_cards(rules: &str) -> Copy {
    Copy::with_rules(rules).and(CARD).and(OTHER)
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn the_exit_status_is_0_where_every_rule_is_applied() {
    for binary in binaries() {
        for rules in ["", "01:00.0", "class:03,!02:00.0", "off", "01:00.0,!09:00.0"] {
            let run = two_cards(rules).run(&binary);
            assert_eq!(run.status, Some(0), "{rules}: {}", run.story());
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn what_vfio_pci_takes_by_ids_and_no_rule_takes_is_told_and_no_failure() {
    for binary in binaries() {
        for name in ["vfio-pci.ids", "vfio_pci.ids"] {
            let line = format!("quiet {name}=1:2,10de:2204 vfio.override=01:00.0\n");
            let copy = Copy::with_line(line.as_bytes()).and(CARD).and(OTHER);
            let run = copy.run(&binary);
            assert_eq!(run.status, Some(0), "{}", run.story());
            let told = |card: &str| {
                let text = format!("vfio-pci.ids= has vfio-pci take {card}, which no rule does");
                run.log.iter().filter(|(level, line)| *level == 4 && line.contains(&text)).count()
            };
            assert_eq!((told(CARD), told(OTHER)), (0, 1), "{}", run.story());
            assert_eq!(copy.kept_for(OTHER), two_cards("").kept_for(OTHER));

            fs::write(copy.path("kmsg"), "").unwrap();
            let of_one = copy.run_with(&binary, &["--device", CARD]);
            assert!(!of_one.story().contains("vfio-pci.ids="), "{}", of_one.story());
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn the_exit_status_is_1_where_a_rule_is_not_applied() {
    for binary in binaries() {
        for rules in ["09:00.0", "01:00.0,gpu", "01:00.0@dead:beef", "!gpu", "gpu,off"] {
            let run = two_cards(rules).run(&binary);
            assert_eq!(run.status, Some(1), "{rules}: {}", run.story());
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn wrong_use_is_explained_and_its_exit_status_is_2() {
    let uses: [&[&[u8]]; 10] = [
        &[b"--help"],
        &[b"-v"],
        &[b"01:00.0"],
        &[b""],
        &[b"--sysfs"],
        &[b"--cmdline"],
        &[b"--kmsg"],
        &[b"--modprobe", b"--device"],
        &[b"--device", b"01:00"],
        &[b"--sysfs=/sys\xff\x1b[2J"],
    ];
    for binary in binaries() {
        let mut transcript = String::new();
        for arguments in uses {
            let arguments = arguments.iter().map(|bytes| OsString::from_vec(bytes.to_vec()));
            let output = Command::new(&binary).args(arguments.clone()).output().unwrap();
            assert_eq!(output.status.code(), Some(2));
            assert_eq!(output.stdout, b"");
            let words: Vec<String> =
                arguments.map(|word| word.as_encoded_bytes().escape_ascii().to_string()).collect();
            let said = String::from_utf8(output.stderr).unwrap();
            transcript += &["$ vfio-override-early ", &words.join(" "), "\n", &said].concat();
        }
        insta::assert_snapshot!("wrong_use", transcript);
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn it_tells_its_version() {
    for binary in binaries() {
        let output = Command::new(&binary).args(["--version", "--nonsense"]).output().unwrap();
        let version = concat!("vfio-override-early ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), version);
        assert_eq!(output.stderr, b"");
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_taken_function_holds_the_name_of_its_driver_and_the_log_says_so() {
    for binary in binaries() {
        let copy = two_cards("02:00.0");
        let run = copy.run(&binary);
        assert_eq!(copy.kept_for(OTHER), "vfio-pci\n");
        assert_eq!(copy.kept_for(CARD), "(null)\n");
        assert_eq!(run.stderr + &run.stdout, "");
        let said = [
            (
                5,
                "0000:02:00.0 [10de:2204] class 030000 group 2, rule 1: driver_override set to vfio-pci, no driver has it until vfio-pci loads",
            ),
            (5, "rules: 1 applied; functions: 1 taken, 0 bound to their driver"),
        ];
        assert_eq!(run.log, said.map(|(level, text)| (level, text.to_owned())));
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn an_empty_or_longer_override_is_replaced() {
    for binary in binaries() {
        for before in ["", "\n", "(null)\n", "some-driver-with-a-long-name\n"] {
            let copy = two_cards("01:00.0");
            fs::write(copy.attribute(CARD, "driver_override"), before).unwrap();
            let run = copy.run(&binary);
            assert_eq!(run.status, Some(0), "{before:?}: {}", run.story());
            assert_eq!(copy.kept_for(CARD).lines().next(), Some("vfio-pci"), "{before:?}");
            let again = copy.run(&binary);
            assert!(again.says("driver_override is vfio-pci already"), "{}", again.story());
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_foreign_driver_is_unbound_and_ours_is_probed_after_all_overrides_are_written() {
    for binary in binaries() {
        let copy = two_cards("class:03").and_bound(CARD, "nouveau").and_driver("vfio-pci");
        // Nothing reads the file, so the function stays bound.
        let run = copy.run(&binary);
        let unbind = fs::read_to_string(copy.path("sys/bus/pci/drivers/nouveau/unbind")).unwrap();
        assert_eq!(unbind, CARD);
        let probed = fs::read_to_string(copy.path("sys/bus/pci/drivers_probe")).unwrap();
        assert_eq!(probed, format!("{CARD}{OTHER}"));
        assert!(run.says("another driver has 0000:01:00.0 still"), "{}", run.story());
        assert_eq!(run.status, Some(1));
        assert_eq!((&*copy.kept_for(CARD), &*copy.kept_for(OTHER)), ("vfio-pci\n", "vfio-pci\n"));
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_missing_command_line_or_sysfs_is_told() {
    for binary in binaries() {
        let copy = two_cards("01:00.0");
        fs::remove_file(copy.path("cmdline")).unwrap();
        let run = copy.run(&binary);
        assert_eq!(run.status, Some(1));
        assert!(
            run.says("/cmdline: ENOENT; no rule is applied; is proc mounted?"),
            "{}",
            run.story()
        );

        let copy = two_cards("01:00.0");
        fs::remove_dir_all(copy.path("sys/bus")).unwrap();
        let run = copy.run(&binary);
        assert_eq!(run.status, Some(1));
        assert!(
            run.says("/sys/bus/pci: ENOENT; no rule is applied; is sysfs mounted?"),
            "{}",
            run.story()
        );
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn without_a_kernel_log_the_standard_error_stream_is_the_log() {
    for binary in binaries() {
        let copy = two_cards("01:00.0");
        fs::remove_file(copy.path("kmsg")).unwrap();
        let run = copy.run(&binary);
        assert_eq!(run.status, Some(0));
        assert!(!copy.path("kmsg").exists(), "the log is not made");
        let (names, lines): (Vec<_>, Vec<_>) =
            run.stderr.lines().filter_map(|line| line.split_once("]: ")).unzip();
        assert_eq!(lines.len(), 2, "{}", run.stderr);
        assert!(names.iter().all(|name| name.starts_with("vfio-override[")), "{}", run.stderr);
        assert!(lines[0].starts_with("0000:01:00.0 [10de:2204]"), "{}", run.stderr);
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_log_that_takes_nothing_does_not_matter() {
    for binary in binaries() {
        let copy = two_cards("01:00.0");
        let status = Command::new(&binary)
            .arg("--sysfs")
            .arg(copy.path("sys"))
            .arg("--cmdline")
            .arg(copy.path("cmdline"))
            .args(["--kmsg", "/dev/full"])
            .status();
        assert_eq!(status.unwrap().code(), Some(0));
        assert_eq!(copy.kept_for(CARD), "vfio-pci\n");
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn closed_standard_streams_do_not_matter() {
    for binary in binaries() {
        // The log's own descriptor may then have the number of a standard stream.
        let copy = two_cards("01:00.0");
        let script = r#"exec "$0" "$@" <&- >&- 2>&-"#;
        let mut closed = Command::new("sh");
        closed.args(["-c", script]).arg(&binary).args(copy.command(&binary).get_args());
        let run = Run::of(&mut closed, &copy.path("kmsg"));
        assert_eq!(run.status, Some(0), "{}", run.story());
        assert_eq!(run.log.len(), 2, "{}", run.story());
        assert_eq!(copy.kept_for(CARD), "vfio-pci\n");
    }
}

/// What is wrong with the first card, and what the log says of it.
type Defect = (fn(&Copy), &'static str);

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn an_attribute_that_cannot_be_used_is_told_and_costs_no_other_function() {
    fn replace_by_directory(path: &Path) {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }
    let defects: [Defect; 6] = [
        (
            |copy| fs::remove_file(copy.attribute(CARD, "driver_override")).unwrap(),
            "open bus/pci/devices/0000:01:00.0/driver_override: ENOENT",
        ),
        (
            |copy| replace_by_directory(&copy.attribute(CARD, "driver_override")),
            "open bus/pci/devices/0000:01:00.0/driver_override: EISDIR",
        ),
        (
            |copy| fs::remove_file(copy.attribute(CARD, "modalias")).unwrap(),
            "open bus/pci/devices/0000:01:00.0/modalias: ENOENT",
        ),
        (
            |copy| replace_by_directory(&copy.attribute(CARD, "modalias")),
            "read bus/pci/devices/0000:01:00.0/modalias: EISDIR",
        ),
        (
            |copy| fs::write(copy.attribute(CARD, "modalias"), b"\xff\0\n").unwrap(),
            "read bus/pci/devices/0000:01:00.0/modalias: EBADMSG",
        ),
        (
            |copy| fs::write(copy.attribute(CARD, "driver"), "").unwrap(),
            "read link bus/pci/devices/0000:01:00.0/driver: EINVAL",
        ),
    ];
    for binary in binaries() {
        for (damage, told) in defects {
            let copy = two_cards("01:00.0,02:00.0");
            damage(&copy);
            let run = copy.run(&binary);
            assert!(run.says(told), "{told}\n{}", run.story());
            assert_eq!(run.status, Some(1));
            assert_eq!(copy.kept_for(OTHER), "vfio-pci\n");
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn what_links_and_files_hold_reaches_the_log_as_printable_text() {
    const EVIL: &str = "\x1b[2J\n<0>evil\r";
    for binary in binaries() {
        let copy = two_cards("01:00.0,02:00.0=auto").and_bound(CARD, EVIL);
        fs::write(copy.attribute(OTHER, "driver_override"), EVIL).unwrap();
        fs::write(copy.attribute(OTHER, "modalias"), format!("pci:v{EVIL}\n")).unwrap();
        // Reading the log checks that every line of it is a record of ours.
        let run = copy.run(&binary);
        assert!(
            run.log.iter().all(|(_, line)| line.bytes().all(|byte| matches!(byte, b' '..=b'~')))
        );
        assert!(run.says("0000:01:00.0"), "{}", run.story());
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn what_is_missing_is_not_made() {
    for binary in binaries() {
        let copy = two_cards("01:00.0,02:00.0").and_bound(CARD, "nouveau").and_driver("vfio-pci");
        let missing = [
            copy.path("sys/bus/pci/drivers/nouveau/unbind"),
            copy.path("sys/bus/pci/drivers_probe"),
            copy.attribute(OTHER, "driver_override"),
        ];
        for path in &missing {
            fs::remove_file(path).unwrap();
        }
        let run = copy.run(&binary);
        assert_eq!(run.status, Some(1), "{}", run.story());
        for path in missing {
            assert!(!path.exists(), "{}", path.display());
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_read_only_sysfs_is_told() {
    for binary in binaries() {
        let copy = two_cards("01:00.0,02:00.0");
        let sys = copy.path("sys");
        let script = r#"mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@""#;
        let mut command = unshare(&["--mount", "sh", "-c", script]);
        command.arg(&sys).arg(&binary).args(copy.command(&binary).get_args());
        let run = Run::of(&mut command, &copy.path("kmsg"));
        assert_eq!(run.status, Some(1), "{}", run.story());
        for card in [CARD, OTHER] {
            let told = format!(
                "open bus/pci/devices/{card}/driver_override: EROFS; it takes root and a writable sysfs"
            );
            assert!(run.says(&told), "{}", run.story());
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn of_64_functions_no_line_is_lost() {
    for binary in binaries() {
        let functions = (0..64).map(|number| format!("0000:{number:02x}:00.0"));
        let none = Copy::with_rules("class:03");
        let copy = functions.clone().fold(none, |copy, function| copy.and(&function));
        let run = copy.run(&binary);
        assert_eq!(run.status, Some(0));
        let told: Vec<&str> = run.log.iter().map(|(_, line)| &line[..12]).collect();
        let expected: Vec<String> = functions.chain(["rules: 1 app".to_owned()]).collect();
        assert_eq!(told, expected);
    }
}

/// Every file below, with its content and the time of its last change.
fn state(directory: &Path) -> Vec<(PathBuf, Vec<u8>, SystemTime)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            files.extend(state(&path));
        } else if metadata.is_file() {
            let content = fs::read(&path).unwrap();
            files.push((path, content, metadata.modified().unwrap()));
        }
    }
    files.sort();
    files
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_second_run_changes_nothing() {
    for binary in binaries() {
        let copy = two_cards("class:03").and_bound(OTHER, "vfio-pci");
        let fresh = state(&copy.path("sys"));
        assert_eq!(copy.run(&binary).status, Some(0));
        let after_first = state(&copy.path("sys"));
        assert_ne!(fresh, after_first);
        // The function without a driver would be offered to one that is registered.
        fs::remove_dir_all(copy.path("sys/bus/pci/drivers/vfio-pci")).unwrap();
        let before = state(&copy.path("sys"));
        let run = copy.run(&binary);
        assert_eq!(run.status, Some(0), "{}", run.story());
        assert_eq!(state(&copy.path("sys")), before);
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_run_for_one_device_applies_the_rules_to_it_alone() {
    for binary in binaries() {
        let copy = two_cards("class:03,gpu");
        let run = copy.run_with(&binary, &["--device", "1:0.0"]);
        assert_eq!(copy.kept_for(CARD), "vfio-pci\n", "{}", run.story());
        assert_eq!(copy.kept_for(OTHER), "(null)\n", "{}", run.story());

        let copy = two_cards("class:03");
        let run = copy.run_with(&binary, &["--device", "0000:09:00.0"]);
        assert_eq!(run.log, [], "what the rules have to say was said at boot");
        assert_eq!(copy.kept_for(CARD), "(null)\n");
    }
}

/// Command lines that often hold our parameter.
fn lines() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "vfio.override=",
        " ",
        "\"",
        "\n",
        "--",
        ",",
        "01:00.0",
        "class:03",
        "!",
        "10de:2204",
        "=",
        "off",
        "debug",
        "\0",
        "+group",
        "@",
        "/",
        "boot_vga",
        "auto",
        "\u{e9}",
        "fffffffff",
        "\\",
    ]);
    let telling = prop::collection::vec(words, 0..40).prop_map(|words| words.concat().into_bytes());
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    (telling, bytes, any::<bool>()).prop_map(|(telling, bytes, is_turned)| {
        if is_turned { [bytes, telling].concat() } else { [telling, bytes].concat() }
    })
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn any_bytes_on_the_command_line_end_in_0_or_1_and_a_log_of_whole_records() {
    for binary in binaries() {
        let mut runner =
            TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
        let copy = two_cards("");
        runner
            .run(&lines(), |line| {
                fs::write(copy.path("cmdline"), &line).unwrap();
                fs::write(copy.path("kmsg"), "").unwrap();
                // Reading the log checks every record of it.
                let run = copy.run(&binary);
                prop_assert!(matches!(run.status, Some(0 | 1)), "{}", run.story());
                prop_assert!(!run.log.is_empty());
                prop_assert_eq!(&*run.stderr, "");
                Ok(())
            })
            .unwrap();
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_command_line_of_any_length_is_read_as_far_as_it_counts() {
    for binary in binaries() {
        for length in [64 * 1024, 64 * 1024 + 1, 1 << 20] {
            for start in [&b"vfio.override=01:00.0 "[..], b"quiet "] {
                let copy = two_cards("");
                let mut line = fs::File::create(copy.path("cmdline")).unwrap();
                line.write_all(start).unwrap();
                line.write_all(&vec![b'x'; length - start.len()]).unwrap();
                let run = copy.run(&binary);
                let is_cut = length > 64 * 1024;
                assert_eq!(run.status, Some(i32::from(is_cut)), "{}", run.story());
                assert_eq!(run.says("more than 65536 bytes"), is_cut, "{}", run.story());
                let has_rule = start.starts_with(b"vfio");
                assert_eq!(run.says("nothing to do"), !has_rule && !is_cut, "{}", run.story());
                let kept = if has_rule { "vfio-pci\n" } else { "(null)\n" };
                assert_eq!(copy.kept_for(CARD), kept);
            }
        }
    }
}

/// The kernel refuses a record of more than about 1,000 bytes.
#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_record_that_is_too_long_is_cut_and_stays_one_line() {
    for binary in binaries() {
        for path in ["x".repeat(2_000), "\u{1}".repeat(2_000), "/\u{1}x".repeat(700)] {
            let copy = two_cards("vfio.override=01:00.0");
            let status = copy.command(&binary).args(["--cmdline", &path]).status().unwrap();
            assert_eq!(status.code(), Some(1));
            let record = fs::read_to_string(copy.path("kmsg")).unwrap();
            assert!((956..=960).contains(&record.len()), "{}", record.len());
            assert!(record.starts_with("<3>") && record.ends_with('\n'), "{record:?}");
            assert_eq!(record.lines().count(), 1, "{record:?}");
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_command_line_that_arrives_in_pieces_is_read_whole() {
    for binary in binaries() {
        let copy = two_cards("");
        let path = copy.path("cmdline");
        fs::remove_file(&path).unwrap();
        mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        let run = thread::scope(|scope| {
            scope.spawn(|| {
                let mut line = fs::File::create(&path).unwrap();
                line.write_all(b"vfio.override=01:").unwrap();
                thread::sleep(Duration::from_millis(50));
                line.write_all(b"00.0\n").unwrap();
            });
            copy.run(&binary)
        });
        assert_eq!(run.status, Some(0), "{}", run.story());
        assert_eq!(copy.kept_for(CARD), "vfio-pci\n");
    }
}

/// Runs `/early` in a root file system of its own that holds the machine as `/sys` and `/cmdline`.
fn run_in(root: &Root, arguments: &[&str]) -> Run {
    let option = format!("--root={}", root.root().display());
    let mut command = unshare(&["--mount", &option, "/early"]);
    command.args(["--cmdline", "/cmdline", "--kmsg", "/kmsg"]).args(arguments);
    Run::of(&mut command, &root.path("kmsg"))
}

/// A root file system with a card at `CARD` and these rules.
fn root(binary: &Path, rules: &str) -> Root {
    let root = root_without_functions(binary, rules);
    add_function(&root.path("sys"), CARD);
    root
}

fn root_without_functions(binary: &Path, rules: &str) -> Root {
    let root = Root::new(binary);
    root.write("sys/bus/pci/drivers_probe", "");
    root.write("cmdline", &format!("vfio.override={rules}\n"));
    root.write("kmsg", "");
    root
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn auto_takes_the_variants_of_the_image_and_else_those_of_the_running_kernel() {
    const PATTERN: &str = "alias vfio_pci:v000010DEd00002204sv*sd*bc*sc*i*";
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let modules = format!("lib/modules/{}/modules.alias", release.trim());
    for binary in binaries() {
        let root = root(&binary, "01:00.0=auto");
        let kept = || {
            let path = root.path("sys/bus/pci/devices").join(CARD).join("driver_override");
            fs::read_to_string(path).unwrap().lines().next().unwrap().to_owned()
        };
        let run = run_in(&root, &[]);
        assert!(run.says("auto is vfio-pci: neither"), "{}", run.story());
        assert_eq!(kept(), "vfio-pci");

        root.write(&modules, &format!("{PATTERN} kernel_variant\n"));
        let run = run_in(&root, &[]);
        assert_eq!(kept(), "kernel_variant", "{}", run.story());

        root.write("usr/lib/vfio-override/variants", &format!("{PATTERN} image_variant\n"));
        let run = run_in(&root, &[]);
        assert_eq!(kept(), "image_variant", "{}", run.story());
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn auto_is_looked_at_again_once_the_module_is_loaded() {
    for binary in binaries() {
        let none = "auto finds no PCI driver of its module (ENOENT); write =DRIVER";
        for (module, drivers, kept, status, told) in [
            ("new_vfio_pci", "new-vfio-pci", "new-vfio-pci", 0, "set to new-vfio-pci, "),
            ("new-vfio_pci", "z x y", "x", 0, "driver_override set to x, "),
            ("new_vfio_pci", "", "new_vfio_pci", 1, none),
        ] {
            let root = root(&binary, "01:00.0=auto");
            let alias = format!("alias vfio_pci:v000010DEd00002204sv*sd*bc*sc*i* {module}\n");
            root.write("usr/lib/vfio-override/variants", &alias);
            root.script(
                "sbin/modprobe",
                &format!(
                    "for driver in {drivers}; do\n\
                     /bin/busybox mkdir -p /sys/module/new_vfio_pci/drivers/pci:$driver\n\
                     /bin/busybox mkdir -p /sys/bus/pci/drivers/$driver\n\
                     done\n"
                ),
            );
            let run = run_in(&root, &["--modprobe"]);
            assert_eq!(run.status, Some(status), "{}", run.story());
            assert!(run.says(told), "{}", run.story());
            let path = root.path("sys/bus/pci/devices").join(CARD).join("driver_override");
            assert_eq!(fs::read_to_string(path).unwrap().lines().next(), Some(kept));
            let probed = fs::read_to_string(root.path("sys/bus/pci/drivers_probe")).unwrap();
            assert_eq!(probed, if status == 0 { CARD } else { "" }, "{}", run.story());
        }
    }
}

/// A modprobe, and what the log says of it.
type Modprobe = (Option<&'static str>, u8, &'static str);

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn the_drivers_that_rules_name_are_loaded_after_all_else() {
    let modprobes: [Modprobe; 5] = [
        (
            Some(
                "echo \"$@\" > /arguments\n\
                 /bin/busybox cp /sys/bus/pci/devices/*/driver_override /override\n\
                 /bin/busybox ln -s ../../drivers/vfio-pci /sys/bus/pci/devices/0000:01:00.0/driver\n",
            ),
            5,
            "vfio-pci loaded, 1 of 1 functions bound",
        ),
        (Some("exit 3"), 4, "modprobe vfio-pci ended with status 3, "),
        (Some("kill -9 $$"), 4, "modprobe vfio-pci was killed, "),
        (None, 4, "there is no modprobe to load vfio-pci, "),
        // What is no program.
        (Some(""), 4, "modprobe vfio-pci cannot be started: EACCES, "),
    ];
    for binary in binaries() {
        for (script, level, told) in modprobes {
            let root = root(&binary, "01:00.0");
            match script {
                Some("") => root.write("sbin/modprobe", "no program"),
                Some(script) => root.script("sbin/modprobe", script),
                None => {}
            }
            let run = run_in(&root, &["--modprobe"]);
            let line = run.log.last().expect("modprobe is told of");
            assert_eq!(line.0, level, "{}", run.story());
            assert!(line.1.starts_with(told), "{}", run.story());
            assert_eq!(run.status, Some(0), "a module that comes later is no failure");
            if script.is_some_and(|script| script.contains("/arguments")) {
                assert_eq!(fs::read_to_string(root.path("arguments")).unwrap(), "-q -- vfio-pci\n");
                assert_eq!(fs::read_to_string(root.path("override")).unwrap(), "vfio-pci\n");
            }
        }
    }
}

/// The boot of the three functions whose log the README has.
#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn the_log_is_as_the_readme_shows_it() {
    let readme = include_str!("../../README.md");
    let (_, shown) = readme.split_once("# dmesg | grep vfio-override\n").unwrap();
    let shown = shown.split("```").next().unwrap();
    let shown: Vec<_> =
        shown.lines().map(|line| line.strip_prefix("vfio-override[75]: ")).collect();
    for binary in binaries() {
        let root = root_without_functions(&binary, "01:00.0+slot");
        let sys = root.path("sys");
        for (address, class, id) in [
            (CARD, "030000", "1234:1111"),
            ("0000:01:00.1", "040300", "8086:2668"),
            ("0000:01:00.2", "0c0330", "1b36:000d"),
        ] {
            Sysfs(&sys).add(&Function { address, class, id, group: Some(8), ..tree::CARD });
        }
        let bind = "for function in /sys/bus/pci/devices/*; do\n\
                    /bin/busybox ln -s ../../drivers/vfio-pci $function/driver\n\
                    done\n";
        root.script("sbin/modprobe", bind);
        let run = run_in(&root, &["--modprobe"]);
        let said: Vec<_> = run.log.iter().map(|(_, text)| Some(text.as_str())).collect();
        assert_eq!(said, shown, "{}", run.story());
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn nothing_is_loaded_for_nobody_nor_where_all_is_bound_nor_without_being_asked() {
    for binary in binaries() {
        for (rules, arguments) in [
            ("01:00.0=none", &["--modprobe"][..]),
            ("01:00.0=bound", &["--modprobe"]),
            ("01:00.0", &[]),
        ] {
            let root = root(&binary, rules);
            if rules.ends_with("=bound") {
                Sysfs(&root.path("sys")).bind(CARD, "bound");
            }
            root.script("sbin/modprobe", "echo called > /called\n");
            let run = run_in(&root, arguments);
            assert_eq!(run.status, Some(0), "{}", run.story());
            assert!(!root.path("called").exists(), "{rules}: {}", run.story());
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_hang_ends_within_five_seconds_with_exit_status_1() {
    for binary in binaries() {
        let root = root(&binary, "01:00.0");
        // It outlives the run, and must not hold the streams that the test reads.
        root.script("sbin/modprobe", "exec /bin/busybox sleep 9 >/out 2>&1\n");
        let start = Instant::now();
        let run = run_in(&root, &["--modprobe"]);
        let seconds = start.elapsed().as_secs_f64();
        assert!((3.9..8.0).contains(&seconds), "{seconds} s");
        assert_eq!(run.status, Some(1), "{}", run.story());
        assert!(
            run.says("no sign of life for 4 s, killed: every override is set"),
            "{}",
            run.story()
        );
    }
}

/// As many functions as this, each of which a driver of the host's has, and vfio-pci loaded.
fn crowd(count: usize) -> (Copy, String) {
    let name = |number: usize| format!("0000:{:02x}:00.0", number + 1);
    let copy = (0..count)
        .fold(Copy::with_rules("class:03").and_driver("vfio-pci"), |copy, number| {
            copy.and(&name(number)).and_bound(&name(number), "nouveau")
        });
    (copy, name(count - 1))
}

/// A serial console of 9,600 baud takes 150 ms for a line.
#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn all_work_comes_before_the_first_line_of_the_log() {
    for binary in binaries() {
        let (copy, _) = crowd(40);
        let trace = copy.path("trace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-e", "trace=write,pwrite64", "-o"]).arg(&trace);
        strace.arg(&binary).args(copy.command(&binary).get_args());
        let run = Run::of(&mut strace, &copy.path("kmsg"));
        let trace = fs::read_to_string(&trace).unwrap();
        let lines: Vec<&str> = trace.lines().collect();
        let written = |path: &str| lines.iter().filter(|line| line.contains(path)).count();
        assert_eq!(written("/driver_override>"), 40, "{}", run.story());
        assert_eq!(written("/nouveau/unbind>"), 40, "{}", run.story());
        let last = lines.iter().rposition(|line| line.contains("/sys/")).unwrap();
        let first = lines.iter().position(|line| line.contains("/kmsg>")).unwrap();
        assert!(last < first, "{trace}");
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_console_that_takes_its_time_costs_no_line_and_no_function() {
    for binary in binaries() {
        let (copy, last) = crowd(40);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "--inject=write:delay_enter=150000", "-P"]);
        strace.arg(copy.path("kmsg")).arg(&binary).args(copy.command(&binary).get_args());
        let run = Run::of(&mut strace, &copy.path("kmsg"));
        assert_eq!(run.status, Some(1), "{}", run.story());
        for function in ["sys/bus/pci/drivers/nouveau/unbind", "sys/bus/pci/drivers_probe"] {
            let written = fs::read_to_string(copy.path(function)).unwrap();
            assert!(written.ends_with(&last), "{written}\n{}", run.story());
        }
        // In a copy no driver lets go.
        let told = "rules: 1 failed; functions: 40 taken, 0 bound to their driver";
        assert!(run.says(told), "{}", run.story());
        // Each line is a sign of life.
        let lines = run.log.iter().filter(|(_, line)| line.contains(", rule 1: failed: ")).count();
        assert_eq!(lines, 40, "{}", run.story());
        assert!(!run.says("not done after"), "{}", run.story());
    }
}

/// What the kernel does where a driver that probes the function holds its lock
/// (`driver_set_override` in `drivers/base/driver.c`).
#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn an_override_that_cannot_be_written_in_time_costs_no_other_function() {
    for binary in binaries() {
        for (slow, other) in [(CARD, OTHER), (OTHER, CARD)] {
            let copy = two_cards("class:03");
            let attribute = copy.attribute(slow, "driver_override").canonicalize().unwrap();
            let mut strace = Command::new("strace");
            strace.args(["-f", "-o", "/dev/null", "--inject=write:delay_enter=6000000", "-P"]);
            strace.arg(attribute).arg(&binary).args(copy.command(&binary).get_args());
            let run = Run::of(&mut strace, &copy.path("kmsg"));
            assert_eq!(run.status, Some(1), "{}", run.story());
            assert_eq!(copy.kept_for(other), "vfio-pci\n", "{}", run.story());
            let told = "no sign of life for 4 s, killed: whether every override is set is unknown";
            assert!(run.says(told), "{}", run.story());
        }
    }
}
