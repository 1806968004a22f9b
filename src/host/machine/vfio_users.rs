//! Who uses functions through `/dev/vfio`: virtual machine monitors, mostly.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

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

/// A process of this machine that has this IOMMU group open. Root sees all of them, anybody else their own.
pub fn of_group(group: u32) -> Option<User> {
    in_procfs(Path::new("/proc"), group)
}

fn in_procfs(proc: &Path, group: u32) -> Option<User> {
    let node = PathBuf::from(format!("/dev/vfio/{group}"));
    fs::read_dir(proc).ok()?.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let files = fs::read_dir(process.path().join("fd")).ok()?;
        let mut files = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        files.any(|file| file == node).then(|| {
            let name = fs::read(process.path().join("comm")).unwrap_or_default();
            User { pid, name: String::from_utf8_lossy(&name).trim_end().to_owned() }
        })
    })
}

/// The same, once whoever has just let go of a function has had the time to let go of its group.
pub fn that_stays(group: u32) -> Option<User> {
    /// Less than any step may take.
    const GRACE: Duration = Duration::from_millis(500);
    let deadline = Instant::now() + GRACE;
    loop {
        let user = of_group(group)?;
        if Instant::now() >= deadline {
            return Some(user);
        }
        thread::sleep(GRACE / 10);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn whoever_has_the_group_open_is_named() {
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
        process("self", "never", &["/dev/vfio/6"]);
        let user = |group| in_procfs(proc.path(), group).map(|user| user.to_string());
        assert_eq!(user(5).unwrap(), "qemu-system\\u{1b} (process 230)");
        assert_eq!(user(6), None);
        assert_eq!(user(50), None);
        assert_eq!(in_procfs(Path::new("/nonexistent"), 5), None);
    }
}
