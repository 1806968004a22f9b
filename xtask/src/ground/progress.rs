// SPDX-License-Identifier: MIT OR Apache-2.0
//! One line for each phase with the seconds it took; updated in place on a terminal.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Runs `work` as a phase. Everything goes to standard error: standard output is for results.
pub fn phase<T, E>(name: impl Into<String>, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let phase = Phase::begin(name.into());
    let result = work();
    phase.end(if result.is_ok() { "" } else { "  FAILED" });
    result
}

/// A remark between phases.
pub fn note(text: impl fmt::Display) {
    eprintln!("  {text}");
}

struct Phase {
    name: String,
    start: Instant,
    ticker: Option<Ticker>,
}

impl Phase {
    fn begin(name: String) -> Self {
        let start = Instant::now();
        let ticker = std::io::stderr().is_terminal().then(|| Ticker::start(name.clone(), start));
        Self { name, start, ticker }
    }

    fn end(self, suffix: &str) {
        let in_place = self.ticker.is_some();
        if let Some(ticker) = self.ticker {
            ticker.stop();
        }
        let back = if in_place { "\r\x1b[K" } else { "" };
        eprintln!("{back}{}{suffix}", line(&self.name, self.start.elapsed()));
    }
}

/// The thread that keeps the seconds running while a phase works.
struct Ticker {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Ticker {
    fn start(name: String, start: Instant) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            loop {
                eprint!("\r\x1b[K{} …", line(&name, start.elapsed()));
                // A progress line that cannot be flushed is no reason to stop the work.
                let _ = std::io::stderr().flush();
                match stopped.recv_timeout(Duration::from_millis(100)) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        // Either call fails only if the thread has ended already.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

fn line(name: &str, elapsed: Duration) -> String {
    format!("  {name:<58} {:>6.1} s", elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seconds_stand_in_one_column() {
        let short = line("boot", Duration::from_millis(4_120));
        let long = line("build vfio-override-early", Duration::from_secs(61));
        assert_eq!(short.len(), long.len());
        assert!(short.ends_with("   4.1 s"), "{short}");
        assert!(long.ends_with("  61.0 s"), "{long}");
    }

    #[test]
    fn a_phase_hands_back_what_its_work_returned() {
        assert_eq!(phase("good", || Ok::<_, ()>(3)), Ok(3));
        assert_eq!(phase("bad", || Err::<(), _>("no")), Err("no"));
    }
}
