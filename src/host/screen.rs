// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a person sees: tables as wide as the terminal, and colour where it is wanted.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::{self, Write};
use std::sync::OnceLock;

use anstyle::{AnsiColor, Style};
use comfy_table::{Table, presets};
use serde::Serialize;

/// The version of the JSON that is printed, as docs/json.md has it.
pub const SCHEMA: u32 = 1;

pub const PLAIN: Style = Style::new();
pub const HEAD: Style = Style::new().bold();
/// What a rule takes.
pub const TAKEN: Style = AnsiColor::Cyan.on_default().bold();
pub const GOOD: Style = AnsiColor::Green.on_default();
pub const WARN: Style = AnsiColor::Yellow.on_default();
pub const BAD: Style = AnsiColor::Red.on_default().bold();
pub const QUIET: Style = Style::new().dimmed();

/// Whether a terminal obeys this letter instead of showing it: a control character, or one that changes the
/// direction of a text, breaks its line or has no width (Unicode Standard Annex 9, 2; Annex 14; chapter 23.2).
fn is_obeyed(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(letter, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text without what a terminal would obey: it may come from a stranger's copy.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let escape = |letter: char| {
        if is_obeyed(letter) { letter.escape_unicode().collect() } else { String::from(letter) }
    };
    Cow::Owned(text.chars().map(escape).collect())
}

/// Writes a question to standard error, as it is. Where that is full or closed, nobody can be asked.
pub fn ask(text: &str) {
    let _ = write!(io::stderr(), "{text}");
}

/// Writes an error to standard error. Where that is full or closed, nobody can be told.
pub fn error(text: &str) {
    let _ = writeln!(anstream::stderr(), "{BAD}error:{BAD:#} {}", printable(text));
}

static FAILURE: OnceLock<io::Error> = OnceLock::new();

/// The first failure to write to standard output. Nothing that is being done ends for it.
pub fn failure() -> Option<&'static io::Error> {
    FAILURE.get()
}

/// Takes down what came of writing to standard output.
pub fn note(written: io::Result<()>) {
    match written {
        // Whoever closes the pipe has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let _ = FAILURE.set(error);
        }
        _ => {}
    }
}

/// Standard output, for people.
pub struct Screen {
    out: anstream::Stdout,
    /// Of the terminal; whole lines where there is none.
    width: Option<u16>,
}

impl Screen {
    pub fn new() -> Self {
        let given = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let terminal = || {
            let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
            Some(width.0)
        };
        Self { out: anstream::stdout(), width: given.or_else(terminal).filter(|&width| width > 0) }
    }

    /// Writes one line.
    pub fn line(&mut self, style: Style, text: impl Display) {
        let text = text.to_string();
        let text = printable(&text);
        note(writeln!(self.out, "{style}{text}{style:#}"));
    }

    pub fn blank(&mut self) {
        self.line(PLAIN, "");
    }

    /// Writes a line that begins with a word in colour; more lines stand under the text.
    pub fn marked(&mut self, style: Style, word: &str, text: impl Display) {
        let (word, text) = (printable(word), text.to_string());
        let text = printable(&text);
        let indent = word.len() + 2;
        let width = self.width.map_or(usize::MAX, usize::from).max(indent + 20) - indent;
        let lines = wrap(&text, width);
        for (index, line) in lines.iter().enumerate() {
            note(if index == 0 {
                writeln!(self.out, "{style}{word}:{style:#} {line}")
            } else {
                writeln!(self.out, "{:indent$}{line}", "")
            });
        }
    }

    /// Writes rows of cells, one line each; of the last column no more than fits.
    pub fn table(&mut self, indent: usize, head: &[&str], rows: Vec<(Style, Vec<String>)>) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let mut styles = Vec::new();
        if !head.is_empty() {
            table.add_row(head.to_vec());
            styles.push(HEAD);
        }
        for (style, cells) in rows {
            table.add_row(cells.iter().map(|cell| printable(cell)));
            styles.push(style);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for (line, style) in table.lines().zip(styles) {
            let line = format!("{:indent$}{}", "", line.trim_end());
            self.line(style, self.cut(line));
        }
    }

    /// As much of a line as the terminal shows, with a sign where there was more.
    fn cut(&self, line: String) -> String {
        match self.width.map(usize::from) {
            Some(width) if line.chars().count() > width => {
                let start: String = line.chars().take(width - 1).collect();
                format!("{}…", start.trim_end())
            }
            _ => line,
        }
    }
}

/// Tells on standard error what stands before an answer.
pub fn complain(text: &str) {
    let _ = writeln!(anstream::stderr(), "{BAD}{}{BAD:#}", printable(text));
}

/// Breaks a text at blanks into lines of at most `width` characters, a longer word left whole.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// Prints what a command found as JSON.
pub fn json(command: &str, report: &impl Serialize) -> anyhow::Result<()> {
    raw(&json_text(command, report)?);
    Ok(())
}

/// Writes a text to standard output as it is.
pub fn raw(text: &str) {
    note(writeln!(io::stdout().lock(), "{text}"));
}

/// What a command found, as JSON.
pub fn json_text(command: &str, report: &impl Serialize) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Envelope<'a, T> {
        schema: u32,
        command: &'a str,
        #[serde(flatten)]
        report: &'a T,
    }
    let envelope = Envelope { schema: SCHEMA, command, report };
    let text = serde_json::to_string_pretty(&envelope)?;
    // Of what a terminal obeys JSON itself escapes the control characters of ASCII only; outside of strings there
    // is nothing but ASCII and line ends.
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter != '\n' && is_obeyed(letter) {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(letter);
        }
    }
    Ok(escaped)
}
