// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the early binary that ships reaches below `--sysfs`: everything that is there, wherever it lies, and
//! nothing outside.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use crate::support::early::{Copy, Run, binaries};
use crate::support::tree::{self, Function, Sysfs};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

const CARD: &str = "0000:01:00.0";
const OTHER: &str = "0000:02:00.0";

/// A machine with two cards, both kept by a rule of their own; the first has a driver.
fn two_cards() -> Copy {
    let copy = Copy::with_rules("01:00.0,02:00.0").and(CARD).and(OTHER);
    copy.and_driver("vfio-pci").and_bound(CARD, "nouveau")
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn no_attribute_leads_out_of_the_tree() {
    for binary in binaries() {
        let copy = two_cards();
        let outside = copy.path("outside");
        fs::write(&outside, "untouched").unwrap();
        let attributes = [
            copy.attribute(CARD, "driver_override"),
            copy.path("sys/bus/pci/drivers/nouveau/unbind"),
            copy.path("sys/bus/pci/drivers_probe"),
        ];
        for attribute in attributes {
            fs::remove_file(&attribute).unwrap();
            symlink(&outside, &attribute).unwrap();
        }
        let run = copy.run(&binary);
        assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched", "{}", run.story());
        assert_eq!(run.status, Some(1), "{}", run.story());
        assert!(run.says("0000:01:00.0/driver_override: ELOOP"), "{}", run.story());
        assert_eq!(copy.kept_for(OTHER), "vfio-pci\n", "{}", run.story());
    }
}

/// What could be reached outside: a function, and a driver.
fn furnish_outside(copy: &Copy) {
    let outside = copy.path("outside");
    fs::create_dir_all(outside.join(CARD)).unwrap();
    let modalias = copy.attribute(CARD, "modalias");
    fs::copy(modalias, outside.join(CARD).join("modalias")).unwrap();
    fs::write(outside.join(CARD).join("driver_override"), "untouched").unwrap();
    fs::write(outside.join("unbind"), "untouched").unwrap();
    fs::write(outside.join("drivers_probe"), "untouched").unwrap();
}

fn replace_by_link(path: &Path, target: &Path) {
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
    symlink(target, path).unwrap();
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn no_link_on_the_way_leads_out_of_the_tree() {
    type Trap = (&'static str, fn(&Copy));
    // Whether a link leads out by what it says or by going up too often does not matter.
    let traps: [Trap; 6] = [
        ("the link to a function, from the root", |copy| {
            let link = copy.path("sys/bus/pci/devices").join(CARD);
            replace_by_link(&link, &copy.path("outside").join(CARD));
        }),
        ("the link to a function, going up", |copy| {
            let link = copy.path("sys/bus/pci/devices").join(CARD);
            replace_by_link(&link, &Path::new("../../../../outside").join(CARD));
        }),
        ("a function's directory", |copy| {
            let link = copy.path("sys/bus/pci/devices").join(CARD);
            let directory = fs::canonicalize(link).unwrap();
            replace_by_link(&directory, &copy.path("outside").join(CARD));
        }),
        ("the directory of its bus", |copy| {
            let link = copy.path("sys/bus/pci/devices").join(CARD);
            let directory = fs::canonicalize(link).unwrap();
            replace_by_link(directory.parent().unwrap(), &copy.path("outside"));
        }),
        ("the link to its driver", |copy| {
            replace_by_link(&copy.attribute(CARD, "driver"), &copy.path("outside"));
        }),
        ("the bus", |copy| {
            fs::create_dir(copy.path("outside/devices")).unwrap();
            symlink(copy.path("outside").join(CARD), copy.path("outside/devices").join(CARD))
                .unwrap();
            replace_by_link(&copy.path("sys/bus/pci"), &copy.path("outside"));
        }),
    ];
    for binary in binaries() {
        for (name, set) in traps {
            let copy = two_cards();
            furnish_outside(&copy);
            set(&copy);
            let run = copy.run(&binary);
            let story = run.story();
            for file in [&format!("{CARD}/driver_override"), "unbind", "drivers_probe"] {
                let content = fs::read_to_string(copy.path("outside").join(file)).unwrap();
                assert_eq!(content, "untouched", "{name}: {file}\n{story}");
            }
            assert_eq!(run.status, Some(1), "{name}\n{story}");
            assert!(run.says("EXDEV"), "{name}\n{story}");
            if name != "the bus" {
                assert_eq!(copy.kept_for(OTHER), "vfio-pci\n", "{name}\n{story}");
            }
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn functions_of_a_bus_may_lie_anywhere_in_the_tree() {
    for binary in binaries() {
        for rules in ["01:00.*", "class:03", "01:00.1+slot"] {
            let addresses: Vec<String> =
                (0..4).map(|number| format!("0000:01:00.{number}")).collect();
            let copy = addresses.iter().fold(Copy::with_rules(rules), |copy, name| copy.and(name));
            let copy = copy.and_bound(&addresses[2], "nouveau");
            let devices = copy.path("sys/bus/pci/devices");
            // One is somewhere else, one has another name there, and one is where the links are.
            for (number, place) in
                [(1, "devices/elsewhere/0000:01:00.1"), (2, "devices/somewhere/another")]
            {
                let link = devices.join(&addresses[number]);
                let place = Path::new(place);
                fs::create_dir_all(copy.path("sys").join(place).parent().unwrap()).unwrap();
                fs::rename(fs::canonicalize(&link).unwrap(), copy.path("sys").join(place)).unwrap();
                replace_by_link(&link, &Path::new("../../..").join(place));
            }
            let link = devices.join(&addresses[3]);
            let directory = fs::canonicalize(&link).unwrap();
            fs::remove_file(&link).unwrap();
            fs::rename(directory, &link).unwrap();

            let run = copy.run(&binary);
            for name in &addresses {
                assert_eq!(copy.kept_for(name), "vfio-pci\n", "{rules}, {name}\n{}", run.story());
            }
            let unbound = copy.path("sys/bus/pci/drivers/nouveau/unbind");
            assert_eq!(
                fs::read_to_string(unbound).unwrap(),
                addresses[2],
                "{rules}\n{}",
                run.story()
            );
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn more_functions_than_files_can_be_open_are_all_taken() {
    for binary in binaries() {
        // More than are left open, and more than may be.
        for (functions, descriptors) in [(640, "1024"), (64, "24")] {
            let name = |number: usize| {
                let (bus, device) = (number >> 3 & 0xff, number & 7);
                format!("0000:{bus:02x}:{device:02x}.0")
            };
            let copy = Copy::with_rules("class:03");
            let sys = copy.path("sys");
            for (group, number) in (0..).zip(0..functions) {
                let function =
                    Function { address: &name(number), group: Some(group), ..tree::CARD };
                Sysfs(&sys).add(&function);
            }
            let mut command = Command::new("sh");
            command.args(["-c", r#"ulimit -n "$0" && exec "$@""#, descriptors]);
            command.arg(&binary).args(copy.command(&binary).get_args());
            let run = Run::of(&mut command, &copy.path("kmsg"));
            assert_eq!(run.status, Some(0), "{}", run.story());
            for number in 0..functions {
                assert_eq!(
                    copy.kept_for(&name(number)),
                    "vfio-pci\n",
                    "{descriptors} {}",
                    name(number)
                );
            }
            // One line for each, and the summary.
            assert_eq!(run.log.len(), functions + 1, "{descriptors}");
            assert!(run.says(&format!("functions: {functions} taken, 0 bound")));
        }
    }
}

/// Makes something of a path where a plain file was expected.
type Maker = fn(&Path);

/// What may be where a file of sysfs should be, in a copy that somebody made.
const ODDITIES: [(&str, Maker); 6] = [
    ("a FIFO", |path| mkfifo(path, Mode::from_bits_truncate(0o666)).unwrap()),
    ("a link to nothing", |path| symlink("nothing", path).unwrap()),
    ("a link to itself", |path| symlink(path.file_name().unwrap(), path).unwrap()),
    ("a directory", |path| fs::create_dir(path).unwrap()),
    ("a socket", |path| drop(UnixListener::bind(path).unwrap())),
    ("a device", |path| {
        // Without the right to make one, the kernel's that takes everything and never has anything.
        let device = mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3));
        device.unwrap_or_else(|_| symlink("/dev/null", path).unwrap());
    }),
];

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn what_is_no_directory_is_told_and_not_waited_for() {
    for binary in binaries() {
        for place in ["sys", "sys/bus/pci"] {
            for (oddity, make) in ODDITIES.iter().filter(|(oddity, _)| *oddity != "a directory") {
                let copy = two_cards();
                fs::remove_dir_all(copy.path(place)).unwrap();
                make(&copy.path(place));
                let run = copy.run(&binary);
                let story = || format!("{place}, {oddity}: {}", run.story());
                assert_eq!(run.status, Some(1), "{}", story());
                let told = format!("cannot open {}/bus/pci: ", copy.path("sys").display());
                assert!(run.says(&told), "{}", story());
                assert!(!run.says("no sign of life"), "{}", story());
            }
        }
    }
}

/// A target that was cut at the end of the buffer would be another one.
#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn a_link_that_is_too_long_is_no_link_to_its_first_part() {
    for binary in binaries() {
        for (length, is_read) in [(255, true), (256, false), (300, false)] {
            let copy = two_cards();
            let (start, end) = ("../../../../../..", "bus/pci/drivers/vfio-pci");
            let slashes = "/".repeat(length - start.len() - end.len());
            let target = format!("{start}{slashes}{end}");
            let link = copy.attribute(CARD, "driver");
            fs::remove_file(&link).unwrap();
            symlink(&target, &link).unwrap();
            let run = copy.run(&binary);
            assert_eq!(run.says("bound to vfio-pci"), is_read, "{length}: {}", run.story());
            let told = "read link bus/pci/devices/0000:01:00.0/driver: ENAMETOOLONG";
            assert_eq!(run.says(told), !is_read, "{length}: {}", run.story());
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn the_framebuffer_is_looked_for_beside_the_command_line() {
    const IOMEM: &str = "d0000000-dfffffff : 0000:01:00.0\n  d0000000-d02fffff : efifb\n";
    for binary in binaries() {
        // As sysfs on machines whose kernel has no `boot_vga`.
        let copy = two_cards();
        let _ = fs::remove_file(copy.attribute(CARD, "boot_vga"));
        fs::write(copy.path("iomem"), IOMEM).unwrap();
        let run = copy.run(&binary);
        assert!(run.says("holds memory of 0000:01:00.0"), "{}", run.story());
        // By a relative path, without a slash and with one.
        for name in ["cmdline", "./cmdline"] {
            let mut command = copy.command(&binary);
            command.args(["--cmdline", name]).current_dir(copy.root());
            let run = Run::of(&mut command, &copy.path("kmsg"));
            assert!(run.says("holds memory of 0000:01:00.0"), "{name}: {}", run.story());
        }
        // A path that is too long for the other file costs the warning and nothing else.
        for length in [248, 250, 252, 400] {
            let copy = two_cards();
            let _ = fs::remove_file(copy.attribute(CARD, "boot_vga"));
            fs::write(copy.path("iomem"), IOMEM).unwrap();
            let name = format!("{}cmdline", "./".repeat(length / 2));
            let mut command = copy.command(&binary);
            command.args(["--cmdline", &name]).current_dir(copy.root());
            let run = Run::of(&mut command, &copy.path("kmsg"));
            assert_eq!(copy.kept_for(CARD), "vfio-pci\n", "{length}: {}", run.story());
            let is_near = run.says("holds memory of 0000:01:00.0");
            assert_eq!(is_near, length <= 250, "{length}: {}", run.story());
        }
    }
}

#[test]
#[ignore = "needs the binary that cargo xtask build makes"]
fn what_is_no_file_costs_one_function_and_plan_says_the_same() {
    // The file, and whether plan looks at it too.
    let files = [
        ("sys/bus/pci/devices/0000:01:00.0/modalias", true),
        ("sys/bus/pci/devices/0000:01:00.0/iommu_group", true),
        ("sys/kernel/iommu_groups/1/devices", true),
        ("sys/bus/pci/devices/0000:01:00.0/driver_override", false),
        ("sys/bus/pci/devices/0000:01:00.0/driver", false),
        ("sys/bus/pci/drivers/nouveau/unbind", false),
        ("sys/bus/pci/drivers_probe", false),
        ("sys/bus/pci/drivers/vfio-pci", false),
        ("iomem", false),
    ];
    for binary in binaries() {
        for (file, is_planned) in files {
            for (oddity, make) in ODDITIES {
                let rules = "01:00.0+group,02:00.0";
                let copy = Copy::with_rules(rules).and(CARD).and(OTHER);
                let copy = copy.and_driver("vfio-pci");
                // What follows from a driver that stays, plan cannot know.
                let copy = if is_planned { copy } else { copy.and_bound(CARD, "nouveau") };
                let path = copy.path(file);
                if path.is_dir() && !path.is_symlink() {
                    fs::remove_dir_all(&path).unwrap();
                } else if path.symlink_metadata().is_ok() {
                    fs::remove_file(&path).unwrap();
                }
                make(&path);
                let planned = Command::new(env!("CARGO_BIN_EXE_vfio-override"))
                    .args(["plan", "--sysfs"])
                    .arg(copy.path("sys"))
                    .arg("--cmdline")
                    .arg(copy.path("cmdline"))
                    .output()
                    .unwrap();
                let planned = String::from_utf8(planned.stdout).unwrap();
                let run = copy.run(&binary);
                let story = || format!("{file}, {oddity}: {}\n{planned}", run.story());
                assert!(!run.says("no sign of life"), "{}", story());
                assert!(run.says("functions: "), "{}", story());
                assert_eq!(copy.kept_for(OTHER), "vfio-pci\n", "{}", story());
                let mut lines = run.log.iter().map(|(_, line)| &**line);
                let said = lines.find(|line| line.starts_with("rule 1 \"01:00.0+group\": failed"));
                if is_planned {
                    let said = said.map(str::to_owned).or_else(|| {
                        planned.contains("rule 1 \"01:00.0+group\": applied").then(String::new)
                    });
                    assert!(
                        planned.contains(&said.unwrap_or_else(|| panic!("{}", story()))),
                        "{}",
                        story()
                    );
                }
            }
        }
    }
}
