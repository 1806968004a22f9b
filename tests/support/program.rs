// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that a test puts somewhere and runs.
//!
//! Another process writes them: a descriptor that this one has open for writing is inherited by whatever
//! another test starts meanwhile, and a file that anybody may write to is not executed (ETXTBSY).

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Copies a program.
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("install").arg(from).arg(to).status().unwrap();
    assert!(status.success(), "cannot copy {} to {}", from.display(), to.display());
}

/// Writes a script.
pub fn write(to: &Path, text: &str) {
    let mut install = Command::new("install");
    let mut writer = install.arg("/dev/stdin").arg(to).stdin(Stdio::piped()).spawn().unwrap();
    writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success(), "cannot write {}", to.display());
}
