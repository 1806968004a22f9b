// SPDX-License-Identifier: MIT OR Apache-2.0
//! One line of text of bounded length, for a log or a terminal.

use core::fmt::{self, Write};

/// Together with the kernel's own prefix, less than the kernel refuses (`LOG_LINE_MAX` in `kernel/printk/printk.c`).
const MAX_LINE: usize = 960;
/// How each line ends.
const NEWLINE: &[u8] = b"\n";

/// One line of bounded length; what does not fit is cut off.
#[derive(Default)]
pub struct Line(heapless::Vec<u8, MAX_LINE>);

impl Line {
    pub fn add(&mut self, sentence: fmt::Arguments) {
        // It only fails where a `Display` does, and none of ours does.
        let _ = self.write_fmt(sentence);
    }

    #[inline(never)]
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        let room = MAX_LINE.saturating_sub(self.0.len() + NEWLINE.len());
        let _ = self.0.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    pub fn text(&self) -> &[u8] {
        &self.0
    }

    /// The line with its newline.
    pub fn finish(&mut self) -> &[u8] {
        let _ = self.0.extend_from_slice(NEWLINE);
        &self.0
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.add_bytes(text.as_bytes());
        Ok(())
    }

    fn write_char(&mut self, character: char) -> fmt::Result {
        // Every text of ours is ASCII, and any other is escaped.
        let byte = u8::try_from(character).unwrap_or(b'?');
        if self.0.len() < MAX_LINE - NEWLINE.len() {
            let _ = self.0.push(byte);
        }
        Ok(())
    }
}
