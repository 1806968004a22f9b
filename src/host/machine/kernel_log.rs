// SPDX-License-Identifier: MIT OR Apache-2.0
//! What vfio-override wrote to the kernel log since this boot.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use serde::Serialize;
use vfio_override::message::TARGET;

use crate::machine::{Kind, Machine, file};

/// Where a copy, and the kernel, have the log; below the root.
pub const FILE: &str = "dev/kmsg";

/// The lines of ours, and whether there may have been more.
#[derive(Serialize)]
pub struct KernelLog {
    /// `kernel`, `journal`, or `none` where neither could be read.
    pub source: &'static str,
    /// Whether it reaches back to the start of the boot.
    pub complete: bool,
    /// What is wrong with it, and what to do.
    pub trouble: Option<String>,
    pub lines: Vec<Line>,
}

#[derive(Clone, Serialize)]
pub struct Line {
    /// Since the start of the boot; `null` where the source does not tell.
    pub seconds: Option<f64>,
    /// As the kernel counts: 3 is an error, 4 a warning, 5 a notice.
    pub level: Option<u8>,
    pub text: String,
    /// Whether it was written at boot or for a function that appeared, and not by `apply` or `release`.
    #[serde(skip)]
    is_of_boot: bool,
}

/// How the first record ends that `apply` and `release` write: all later ones of the same process are theirs.
pub const BY_HAND: &str = " on the running host";

impl KernelLog {
    /// Reads the kernel's own log, and the journal where that does not reach back.
    pub fn of(machine: &Machine) -> Self {
        let Some(root) = machine.root.as_ref().filter(|_| machine.kind != Kind::Directory) else {
            let trouble = Some("there is no kernel log with this directory".to_owned());
            return Self { source: "none", complete: false, trouble, lines: Vec::new() };
        };
        let (found, problem) = match records(&root.path(FILE)) {
            Ok(text) => {
                let log = parse(&text);
                if log.complete {
                    return log;
                }
                (
                    Some(log),
                    "the kernel log has wrapped, so that its first lines are lost".to_owned(),
                )
            }
            Err(Errno::EPERM | Errno::EACCES) => {
                (None, "reading the kernel log takes root (kernel.dmesg_restrict)".to_owned())
            }
            Err(Errno::ENOENT) if machine.kind == Kind::Copy => {
                (None, "the copy holds no kernel log: it takes root to collect it".to_owned())
            }
            Err(errno) => (None, format!("the kernel log cannot be read: {errno}")),
        };
        if machine.kind == Kind::Live
            && let Some(lines) = journal()
        {
            let complete = journal_is_complete();
            let trouble = (!complete).then(|| {
                format!("{problem}, and the journal does not reach back to the start of the boot")
            });
            return Self { source: "journal", complete, trouble, lines };
        }
        let (source, lines) = found.map_or(("none", Vec::new()), |log| ("kernel", log.lines));
        Self { source, complete: false, trouble: Some(problem), lines }
    }

    /// What was written at boot, or for a function that appeared later.
    pub fn of_boot(&self) -> impl DoubleEndedIterator<Item = &Line> {
        self.lines.iter().filter(|line| line.is_of_boot)
    }
}

impl Line {
    /// What it says of a function, if it says this.
    pub fn about(&self, address: &str, says: &str) -> Option<&str> {
        let (_, text) = self.text.split_once("]: ")?;
        (text.starts_with(address) && text.contains(says)).then_some(text)
    }
}

/// Sets apart what was written by hand.
fn tell_apart(mut lines: Vec<Line>) -> Vec<Line> {
    let mut by_hand = BTreeSet::new();
    for line in &mut lines {
        let (writer, text) = line.text.split_once("]: ").unwrap_or(("", &line.text));
        if text.ends_with(BY_HAND) {
            by_hand.insert(writer.to_owned());
        }
        line.is_of_boot = !by_hand.contains(writer);
    }
    lines
}

/// All records that the kernel has, one a line, in the format of `/dev/kmsg`
/// (`Documentation/ABI/testing/dev-kmsg`).
pub fn records(path: &Path) -> Result<String, Errno> {
    let errno = |error: &std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    if !fs::metadata(path).map_err(|error| errno(&error))?.file_type().is_char_device() {
        return file::read_text(path).map_err(|error| errno(&error));
    }
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| errno(&error))?;
    let mut text = String::new();
    let mut record = [0; 8192];
    loop {
        match file.read(&mut record) {
            Ok(0) => return Ok(text),
            Ok(length) => text.push_str(&String::from_utf8_lossy(&record[..length])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(text),
            // Records were overwritten meanwhile; the next read goes on with the oldest.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(errno(&error)),
        }
    }
}

/// `level,sequence,microseconds,flags[,…];text`, continued by lines that begin with a blank.
fn parse(text: &str) -> KernelLog {
    let mut first = None;
    let mut lines = Vec::new();
    for record in text.lines() {
        let Some((head, text)) = record.split_once(';').filter(|_| !record.starts_with(' ')) else {
            continue;
        };
        let mut numbers = head.split(',').map(str::parse::<u64>);
        let (Some(Ok(priority)), Some(Ok(sequence)), Some(Ok(time))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            continue;
        };
        first.get_or_insert(sequence);
        if is_ours(text) {
            lines.push(Line {
                seconds: Some(seconds(time)),
                level: u8::try_from(priority & 7).ok(),
                text: text.to_owned(),
                is_of_boot: true,
            });
        }
    }
    let lines = tell_apart(lines);
    KernelLog { source: "kernel", complete: first == Some(0), trouble: None, lines }
}

/// Microseconds as seconds: a boot of 285 years loses one.
#[expect(clippy::cast_precision_loss, reason = "as said above")]
fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

fn is_ours(text: &str) -> bool {
    text.strip_prefix(TARGET).is_some_and(|rest| rest.starts_with('['))
}

/// The records that a copy needs: ours, and the first, whose number tells whether there were others before.
pub fn records_to_keep(text: &str) -> String {
    let mut kept = String::new();
    for (index, record) in text.lines().enumerate() {
        let Some((head, text)) = record.split_once(';') else { continue };
        if is_ours(text) {
            kept.push_str(record);
            kept.push('\n');
        } else if index == 0 {
            kept.push_str(head);
            kept.push_str(";\n");
        }
    }
    kept
}

/// The records that the kernel has lost and the journal has, as the kernel would have them.
pub fn records_of(log: &KernelLog) -> String {
    let first = u64::from(!log.complete);
    let mut records = format!("6,{first},0,-;\n");
    for (number, line) in (first + 1..).zip(&log.lines) {
        let level = line.level.unwrap_or(5);
        let time = Duration::try_from_secs_f64(line.seconds.unwrap_or(0.0)).unwrap_or_default();
        let _ = writeln!(records, "{level},{number},{},-;{}", time.as_micros(), line.text);
    }
    records
}

/// What the journal says of this boot when it is asked so.
fn ask_journal(arguments: &[&str]) -> Command {
    let mut command = Command::new("journalctl");
    command
        .args(["--boot", "--quiet", "--no-pager", "--output=short-monotonic"])
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// What the journal has of this boot, if there is one that we may read.
fn journal() -> Option<Vec<Line>> {
    // Anybody may log under our name; only root writes to the kernel's log.
    let identifier = format!("SYSLOG_IDENTIFIER={TARGET}");
    let output = ask_journal(&["_TRANSPORT=kernel", &identifier]).output().ok();
    let output = output.filter(|output| output.status.success())?;
    // [    3.141592] host vfio-override[75]: text
    let lines: Vec<Line> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let (time, rest) = line.trim_start().strip_prefix('[')?.split_once(']')?;
            let text = rest.split_once(TARGET).map(|(_, text)| format!("{TARGET}{text}"))?;
            Some(Line { seconds: time.trim().parse().ok(), level: None, text, is_of_boot: true })
        })
        .collect();
    // An empty journal says as little as none: whoever may not read it sees it empty.
    (!lines.is_empty()).then(|| tell_apart(lines))
}

/// Whether the journal has the first that the kernel said.
fn journal_is_complete() -> bool {
    let Ok(mut asked) = ask_journal(&["--dmesg"]).stdout(Stdio::piped()).spawn() else {
        return false;
    };
    let mut first = String::new();
    let is_read = asked.stdout.take().map(|out| BufReader::new(out).read_line(&mut first));
    // The rest of it may be long.
    let _ = asked.kill();
    let _ = asked.wait();
    matches!(is_read, Some(Ok(_))) && first.contains(": Linux version ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDS: &str = "\
6,0,0,-;Linux version 6.1.0
 SUBSYSTEM=pci
4,310,1234567,-,caller=T1;vfio-override[75]: rules: 1 applied
12,311,1234569,-;vfio-overridex: not ours
13,400,2234567,-;vfio-override[900]: 0000:01:00.0 [10de:2204]: said later
";

    #[test]
    fn our_records_are_found_with_time_and_level() {
        let log = parse(RECORDS);
        assert!(log.complete);
        let told: Vec<_> =
            log.lines.iter().map(|line| (line.seconds, line.level, line.text.as_str())).collect();
        assert_eq!(
            told,
            [
                (Some(1.234_567), Some(4), "vfio-override[75]: rules: 1 applied"),
                (
                    Some(2.234_567),
                    Some(5),
                    "vfio-override[900]: 0000:01:00.0 [10de:2204]: said later"
                ),
            ]
        );
        let last = &log.lines[1];
        assert_eq!(
            last.about("0000:01:00.0", "said"),
            Some("0000:01:00.0 [10de:2204]: said later")
        );
        assert_eq!(last.about("0000:01:00.1", "said"), None);
    }

    #[test]
    fn a_log_whose_start_is_gone_is_not_complete() {
        let wrapped = RECORDS.split_once("pci\n").unwrap().1;
        assert!(!parse(wrapped).complete);
        assert!(!parse("").complete);
    }

    #[test]
    fn a_copy_keeps_what_is_needed_and_no_more() {
        let kept = records_to_keep(RECORDS);
        assert_eq!(kept.lines().count(), 3);
        assert!(kept.starts_with("6,0,0,-;\n"), "{kept}");
        assert!(!kept.contains("Linux"));
        assert_eq!(parse(&kept).lines.len(), 2);
    }
}
