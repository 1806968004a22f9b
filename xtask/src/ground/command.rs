// SPDX-License-Identifier: MIT OR Apache-2.0
//! Child processes whose failure is told in one message.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// How much of a failed program's output goes into the error.
const SHOWN_LINES: usize = 120;

/// Runs a program to its end without a terminal and keeps what it prints.
pub fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", name(command)))
}

/// Like [`output`], but a failure of the program is an error with the end of what it printed.
pub fn check(command: &mut Command) -> Result<Output> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "{} failed ({}):\n{}",
            line(command),
            output.status,
            last_lines(&text_of(&output), SHOWN_LINES)
        );
    }
    Ok(output)
}

/// Standard output of a program that must succeed.
pub fn stdout(command: &mut Command) -> Result<String> {
    let output = check(command)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Both output streams, the way a terminal would have shown them at best.
pub fn text_of(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// The last `count` lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A command as one line that can be pasted into a shell.
pub fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quote(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_pasted() {
        let mut command = Command::new("qemu");
        command.args(["-append", r#"dyndbg="file dd.c +p""#, "it's", "", "a=b,c"]);
        assert_eq!(line(&command), r#"qemu -append 'dyndbg="file dd.c +p"' 'it'\''s' '' a=b,c"#);
    }

    #[test]
    fn a_failure_shows_what_was_printed() {
        let error = check(Command::new("sh").args(["-c", "echo one; echo two >&2; exit 4"]));
        let text = format!("{:#}", error.expect_err("the command fails"));
        assert!(text.contains("exit status: 4"), "{text}");
        assert!(text.ends_with("one\ntwo"), "{text}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = output(&mut Command::new("/no/such/program"));
        let text = format!("{:#}", error.expect_err("there is no such program"));
        assert!(text.starts_with("cannot start /no/such/program"), "{text}");
    }

    #[test]
    fn last_lines_copes_with_short_texts() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
        assert_eq!(last_lines("", 2), "");
    }
}
