// SPDX-License-Identifier: MIT OR Apache-2.0
//! Machines of `tests/machines`, each one text, unfolded into a directory as `collect` lays one out.
//!
//! A line is one of
//!
//! ```text
//! # a comment
//! kernel RELEASE
//! cmdline TEXT
//! ADDRESS CLASS ID SUBSYSTEM GROUP|- DRIVER|- [boot] [=OVERRIDE]      further in: behind the one above
//! driver NAME                                    registered, though it has no function
//! attr ADDRESS NAME VALUE                        one more attribute of a function, or another value
//! cut ADDRESS NAME                               an attribute that is missing
//! physfn VF PF                                   VF is a virtual function of PF
//! disk NAME MAJOR:MINOR ADDRESS PATH             a block device, PATH being its directory below the function
//! mapping NAME MAJOR:MINOR SLAVE [DM-NAME]       a block device on another
//! multipath NAME MAJOR:MINOR ADDRESS PATH        one that has its controller, PATH below the function, beside it
//! partition NAME MAJOR:MINOR DISK                of such a one
//! holder NAME DISK                               NAME, which may be no block device here, stands on DISK
//! mount MAJOR:MINOR PLACE TYPE SOURCE [ro]
//! net NAME ADDRESS up|down
//! vnet NAME up|down                              an interface of no function, such as a bridge's
//! route NAME                                     the default route goes through it
//! file PATH [LINE]                               a file of the host, or one more line of it
//! dir PATH                                       a directory of the host
//! ln PATH TARGET                                 a symbolic link of the host
//! old PATH                                       a file that is older than all others
//! ```

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::tree::{Function, Sysfs, up_from};

/// Every machine, by name.
pub fn names() -> Vec<String> {
    let files = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    let machines = files.filter(|path| path.extension().is_some_and(|end| end == "machine"));
    let mut names: Vec<String> =
        machines.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Where the machines are, and `pci.ids` with the names of what they have.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machines")
}

/// Makes the machine of this name a directory.
pub fn unfold(name: &str, directory: &Path) {
    let text = fs::read_to_string(self::directory().join(format!("{name}.machine"))).unwrap();
    unfold_text(&text, directory);
}

/// Makes a machine of such lines a directory.
pub fn unfold_text(text: &str, directory: &Path) {
    let mut copy = Copy { root: directory.to_owned(), way: Vec::new() };
    Sysfs(&copy.path("sys")).make();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        copy.add(line);
    }
}

struct Copy {
    root: PathBuf,
    /// The functions on the way to the last, each with how far in it stands.
    way: Vec<(usize, String)>,
}

impl Copy {
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn add(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let mut word = || words.next().unwrap_or_else(|| panic!("{line:?} is too short"));
        match word() {
            "kernel" => self.append("proc/sys/kernel/osrelease", word()),
            "cmdline" => self.append("proc/cmdline", rest(line, 1)),
            "driver" => Sysfs(&self.path("sys")).add_driver(word()),
            "attr" => {
                let place = self.place(word()).join(word());
                write(&place, rest(line, 3));
            }
            "cut" => {
                let path = self.place(word()).join(word());
                fs::remove_file(path).unwrap();
            }
            "physfn" => self.virtual_function(word(), word()),
            "holder" => self.holder(word(), word()),
            "disk" => {
                let (name, number, address, path) = (word(), word(), word(), word());
                let place = Sysfs(&self.path("sys")).place(address).join(path);
                self.block(name, number, &place);
            }
            "mapping" => {
                let (name, number, slave) = (word(), word(), word());
                let dm_name = line.split_whitespace().nth(4);
                let place = PathBuf::from("devices/virtual/block").join(name);
                self.block(name, number, &place);
                let slaves = self.path("sys").join(&place).join("slaves");
                fs::create_dir_all(&slaves).unwrap();
                let class = up_from(&place).join("../class/block").join(slave);
                symlink(class, slaves.join(slave)).unwrap();
                if let Some(dm_name) = dm_name {
                    self.append(&format!("sys/{}/dm/name", place.display()), dm_name);
                }
            }
            "multipath" => {
                let (name, number, address, path) = (word(), word(), word(), word());
                let subsystem = PathBuf::from("devices/virtual/nvme-subsystem/nvme-subsys0");
                self.block(name, number, &subsystem.join(name));
                let controller = Sysfs(&self.path("sys")).place(address).join(path);
                fs::create_dir_all(self.path("sys").join(&controller)).unwrap();
                let beside =
                    self.path("sys").join(&subsystem).join(controller.file_name().unwrap());
                symlink(up_from(&subsystem).join(controller), beside).unwrap();
            }
            "partition" => {
                let (name, number, disk) = (word(), word(), word());
                let place = fs::read_link(self.path("sys/class/block").join(disk)).unwrap();
                self.block(name, number, &place.strip_prefix("../..").unwrap().join(name));
            }
            "mount" => {
                let (number, place, kind, source) = (word(), word(), word(), word());
                let access = line.split_whitespace().nth(5).unwrap_or("rw");
                let line = format!("36 35 {number} / {place} {access} - {kind} {source} rw");
                self.append("proc/self/mountinfo", &line);
            }
            "net" => {
                let (name, address, state) = (word(), word(), word());
                let place = Sysfs(&self.path("sys")).place(address).join("net").join(name);
                self.class("net", name, &place);
                self.append(&format!("sys/{}/operstate", place.display()), state);
            }
            "vnet" => {
                let (name, state) = (word(), word());
                let place = PathBuf::from("devices/virtual/net").join(name);
                self.class("net", name, &place);
                self.append(&format!("sys/{}/operstate", place.display()), state);
            }
            "route" => {
                self.append("proc/net/route", "Iface Destination");
                self.append("proc/net/route", &format!("{} 00000000", word()));
            }
            "file" => {
                let path = word();
                self.append(path, rest(line, 2));
            }
            "dir" => fs::create_dir_all(self.path(word())).unwrap(),
            "ln" => {
                let (path, target) = (self.path(word()), word());
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                symlink(target, path).unwrap();
            }
            "old" => {
                let path = word();
                self.append(path, "");
                let file = OpenOptions::new().append(true).open(self.path(path)).unwrap();
                file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
            }
            _ => self.function(line),
        }
    }

    fn function(&mut self, line: &str) {
        let indent = line.len() - line.trim_start().len();
        self.way.retain(|(outer, _)| *outer < indent);
        let mut words = line.split_whitespace();
        let mut word = || words.next().unwrap_or_else(|| panic!("{line:?} is too short"));
        let given = |text: &'static str| (text != "-").then_some(text);
        let mut next = || -> &'static str { word().to_owned().leak() };
        let (address, class, id, subsystem) = (next(), next(), next(), next());
        let (group, driver) = (given(next()), given(next()));
        let more: Vec<&str> = words.collect();
        let parent = self.way.last().map(|(_, address)| address.clone());
        Sysfs(&self.path("sys")).add(&Function {
            address,
            parent: parent.as_deref(),
            class,
            id,
            subsystem,
            group: group.map(|group| group.parse().unwrap()),
            driver,
            kept_for: more.iter().find_map(|word| word.strip_prefix('=')),
            boot_display: more.contains(&"boot"),
        });
        self.way.push((indent, address.to_owned()));
    }

    /// Where a function's attributes are.
    fn place(&self, address: &str) -> PathBuf {
        let sysfs = self.path("sys");
        sysfs.join(Sysfs(&sysfs).place(address))
    }

    fn virtual_function(&self, virtual_one: &str, physical: &str) {
        let (own, its) = (self.place(virtual_one), self.place(physical));
        symlink(Path::new("..").join(physical), own.join("physfn")).unwrap();
        let mut names = (0..).map(|number| its.join(format!("virtfn{number}")));
        let free = names.find(|link| !link.is_symlink()).unwrap();
        symlink(Path::new("..").join(virtual_one), free).unwrap();
    }

    fn holder(&self, name: &str, disk: &str) {
        let place = fs::read_link(self.path("sys/class/block").join(disk)).unwrap();
        let place = place.strip_prefix("../..").unwrap().join("holders");
        let holders = self.path("sys").join(&place);
        fs::create_dir_all(&holders).unwrap();
        let target = up_from(&place).join("devices/virtual/block").join(name);
        symlink(target, holders.join(name)).unwrap();
    }

    fn block(&self, name: &str, number: &str, place: &Path) {
        self.class("block", name, place);
        self.append(&format!("sys/{}/dev", place.display()), number);
    }

    /// Makes a device's directory, and the link of its class to it.
    fn class(&self, class: &str, name: &str, place: &Path) {
        fs::create_dir_all(self.path("sys").join(place)).unwrap();
        let links = self.path("sys/class").join(class);
        fs::create_dir_all(&links).unwrap();
        symlink(Path::new("../..").join(place), links.join(name)).unwrap();
    }

    fn append(&self, path: &str, line: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("{text}\n")).unwrap();
}

/// What follows this many words and the blank behind them.
fn rest(line: &str, words: usize) -> &str {
    line.splitn(words + 1, ' ').nth(words).unwrap_or_default()
}
