//! One line of text of bounded length, for a log or a terminal.

use core::fmt::{self, Write};
use core::ops::Deref;

/// The kernel refuses longer records (`LOG_LINE_MAX` in `kernel/printk/printk.c`).
const MAX_LINE: usize = 960;

/// One line of bounded length; what does not fit is cut off.
#[derive(Default)]
pub struct Line(heapless::Vec<u8, MAX_LINE>);

impl Line {
    pub fn add(&mut self, text: &dyn fmt::Display) {
        // It only fails where a `Display` does, and none of ours does.
        let _ = write!(self, "{text}");
    }

    /// The line with its newline.
    pub fn finish(mut self) -> impl Deref<Target = [u8]> {
        let _ = self.0.push(b'\n');
        self.0
    }

    /// How many bytes still fit, one kept for the newline.
    fn room(&self) -> usize {
        MAX_LINE.saturating_sub(self.0.len() + 1)
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fitting = text.as_bytes().get(..self.room()).unwrap_or(text.as_bytes());
        self.0.extend_from_slice(fitting).map_err(|_| fmt::Error)
    }

    fn write_char(&mut self, character: char) -> fmt::Result {
        // Every text of ours is ASCII, and any other is escaped.
        let byte = u8::try_from(character).unwrap_or(b'?');
        if self.room() > 0 {
            let _ = self.0.push(byte);
        }
        Ok(())
    }
}
