// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who uses functions through `/dev/vfio`: virtual machine monitors, mostly.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use vfio_override::pci::Function;

/// A process.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    pid: u32,
    name: String,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name.escape_debug(), self.pid)
    }
}

/// The character devices by which a function can be in use: that of its IOMMU group, which each user of a function
/// holds (`noiommu-` comes before its number where there is no IOMMU, `drivers/vfio/group.c`), and those of the group's
/// functions (iommufd; `vfio-dev` in sysfs, Linux 6.6), which need no group's.
pub fn nodes(sysfs: &Path, function: &Function) -> Vec<PathBuf> {
    let mut nodes = Vec::new();
    let mut functions = vec![sysfs.join(format!("bus/pci/devices/{}", function.address))];
    if let Some(group) = function.group {
        nodes.push(PathBuf::from(format!("/dev/vfio/{group}")));
        nodes.push(PathBuf::from(format!("/dev/vfio/noiommu-{group}")));
        let members = fs::read_dir(sysfs.join(format!("kernel/iommu_groups/{group}/devices")));
        functions.extend(members.into_iter().flatten().flatten().map(|member| member.path()));
    }
    for function in functions {
        nodes.extend(node_of(&function).filter(|node| !nodes.contains(node)));
    }
    nodes
}

/// The character device of the function whose directory this is, while vfio-pci has it.
pub fn node_of(directory: &Path) -> Option<PathBuf> {
    let entry = fs::read_dir(directory.join("vfio-dev")).ok()?.flatten().next()?;
    Some(Path::new("/dev/vfio/devices").join(entry.file_name()))
}

/// A process of this machine that has one of these open. Root sees all of them, anybody else their own.
pub fn of(nodes: &[PathBuf]) -> Option<User> {
    in_procfs(Path::new("/proc"), nodes)
}

fn in_procfs(proc: &Path, nodes: &[PathBuf]) -> Option<User> {
    fs::read_dir(proc).ok()?.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let files = fs::read_dir(process.path().join("fd")).ok()?;
        let mut files = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        files.any(|file| nodes.contains(&file)).then(|| {
            let name = fs::read(process.path().join("comm")).unwrap_or_default();
            User { pid, name: String::from_utf8_lossy(&name).trim_end().to_owned() }
        })
    })
}

/// The same, once whoever has just let go of a function has had the time to let go of its group.
pub fn that_stays(nodes: &[PathBuf]) -> Option<User> {
    /// Less than any step may take.
    const GRACE: Duration = Duration::from_millis(500);
    let deadline = Instant::now() + GRACE;
    loop {
        let user = of(nodes)?;
        if Instant::now() >= deadline {
            return Some(user);
        }
        thread::sleep(GRACE / 10);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use vfio_override::pci::{Address, Class, Id};

    use super::*;

    #[test]
    fn whoever_uses_the_group_or_a_function_of_it_is_named() {
        let proc = tempfile::tempdir().unwrap();
        let process = |pid: &str, name: &str, files: &[&str]| {
            let directory = proc.path().join(pid);
            fs::create_dir_all(directory.join("fd")).unwrap();
            fs::write(directory.join("comm"), format!("{name}\n")).unwrap();
            for (number, file) in files.iter().enumerate() {
                symlink(file, directory.join("fd").join(number.to_string())).unwrap();
            }
        };
        process("1", "init", &["/dev/console", "/dev/vfio/vfio"]);
        process("230", "qemu-system\u{1b}", &["/dev/null", "/dev/vfio/vfio", "/dev/vfio/5"]);
        process("231", "crosvm", &["/dev/iommu", "/dev/vfio/devices/vfio3"]);
        process("232", "dpdk", &["/dev/vfio/noiommu-9"]);
        process("self", "never", &["/dev/vfio/6"]);

        let sysfs = tempfile::tempdir().unwrap();
        let user = |group: u32, character_device: Option<&str>| {
            let member = format!("kernel/iommu_groups/{group}/devices/0000:0{group}:00.1");
            let member = sysfs.path().join(member);
            fs::create_dir_all(&member).unwrap();
            if let Some(name) = character_device {
                fs::create_dir_all(member.join("vfio-dev").join(name)).unwrap();
            }
            let function = Function {
                address: Address::new(0, u8::try_from(group).unwrap(), 0, 0).unwrap(),
                id: Id { vendor: 0x10de, device: 0x1ff2 },
                subsystem: Id { vendor: 0x17aa, device: 0x1613 },
                class: Class::new(0x03_00_00).unwrap(),
                group: Some(group),
                boot_vga: false,
            };
            let nodes = nodes(sysfs.path(), &function);
            in_procfs(proc.path(), &nodes).map(|user| user.to_string())
        };
        assert_eq!(user(5, None).unwrap(), "qemu-system\\u{1b} (process 230)");
        assert_eq!(user(6, None), None);
        assert_eq!(user(7, Some("vfio2")), None);
        assert_eq!(user(9, None).unwrap(), "dpdk (process 232)");
        // Whoever uses another function of the group keeps the host's drivers from this one, too.
        assert_eq!(user(8, Some("vfio3")).unwrap(), "crosvm (process 231)");
        assert_eq!(in_procfs(Path::new("/nonexistent"), &["/dev/vfio/5".into()]), None);
    }
}
