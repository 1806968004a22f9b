// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest's serial console: every byte goes to a file, lines go to whoever waits for them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How waiting for a line ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Wait {
    /// With the line.
    Matched(String),
    TimedOut,
    /// The other side closed the line, which is what QEMU's exit looks like.
    Ended,
}

/// What to do with the bytes besides the log file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    Quiet,
    /// Show them as they come, for a person at the guest's prompt, from this line on.
    After(&'static str),
}

pub struct Console {
    lines: Receiver<String>,
}

impl Console {
    /// Starts reading `source` into `log`.
    pub fn read(source: impl Read + Send + 'static, log: &Path, echo: Echo) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            // The log is evidence, not a result: a full disk must not hang the guest.
            let _ = pump(BufReader::new(source), log, echo, |line| {
                // Nobody may be waiting any more.
                let _ = sender.send(line);
            });
        });
        Ok(Self { lines })
    }

    /// Waits for a line that contains `mark`.
    pub fn wait_for(&self, mark: &str, patience: Duration) -> Wait {
        self.wait(patience, |line| line.contains(mark))
    }

    /// Waits for a line that contains one of the marks.
    pub fn wait_for_any(&self, marks: &[&str], patience: Duration) -> Wait {
        self.wait(patience, |line| marks.iter().any(|mark| line.contains(mark)))
    }

    /// Waits until the other side closes the line.
    pub fn wait_for_end(&self, patience: Duration) -> Wait {
        self.wait(patience, |_| false)
    }

    fn wait(&self, patience: Duration, is_wanted: impl Fn(&str) -> bool) -> Wait {
        // There is none for a person at a prompt, whose patience is Duration::MAX.
        let deadline = Instant::now().checked_add(patience);
        loop {
            let left = deadline
                .map_or(patience, |deadline| deadline.saturating_duration_since(Instant::now()));
            match self.lines.recv_timeout(left) {
                Ok(line) if is_wanted(&line) => return Wait::Matched(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Wait::TimedOut,
                Err(RecvTimeoutError::Disconnected) => return Wait::Ended,
            }
        }
    }
}

/// Copies until the end; a prompt has no end of line, so that bytes are not held back for one.
fn pump(
    mut source: impl BufRead,
    mut log: impl Write,
    echo: Echo,
    mut on_line: impl FnMut(String),
) -> Result<()> {
    let mut screen = std::io::stdout();
    let mut echoing = false;
    let mut line = Vec::new();
    loop {
        let bytes = source.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        log.write_all(bytes)?;
        if echoing {
            screen.write_all(bytes)?;
            screen.flush()?;
        }
        for &byte in bytes {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if let Echo::After(mark) = echo {
                echoing |= text.contains(mark);
            }
            on_line(text);
        }
        let count = bytes.len();
        source.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(text: &'static str) -> Result<(tempfile::TempDir, Console)> {
        let directory = tempfile::tempdir()?;
        let log = directory.path().join("log");
        let console = Console::read(text.as_bytes(), &log, Echo::Quiet)?;
        Ok((directory, console))
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_line_is_found_and_the_end_is_told() -> Result<()> {
        let (_directory, console) = console("one\r\n[ 1.0] @guest start\r\nlast\r\n")?;
        let line = "[ 1.0] @guest start".to_owned();
        assert_eq!(console.wait_for_any(&["@guest x", "@guest start"], SOON), Wait::Matched(line));
        assert_eq!(console.wait_for("@guest start", Duration::MAX), Wait::Ended);
        Ok(())
    }

    #[test]
    fn silence_times_out() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let (reader, _writer) = std::io::pipe()?;
        let console = Console::read(reader, &directory.path().join("log"), Echo::Quiet)?;
        assert_eq!(console.wait_for("x", Duration::from_millis(20)), Wait::TimedOut);
        Ok(())
    }

    #[test]
    fn every_byte_is_logged() -> Result<()> {
        let (directory, console) = console("bytes \u{fffd}\r\nprompt # ")?;
        assert_eq!(console.wait_for_end(SOON), Wait::Ended);
        let log = std::fs::read(directory.path().join("log"))?;
        assert_eq!(log, "bytes \u{fffd}\r\nprompt # ".as_bytes());
        Ok(())
    }
}
