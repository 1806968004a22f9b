// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a task found.

use std::fmt;

/// What a task that ran to its end found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Bad,
    /// Nothing is wrong as far as it could be checked.
    Open,
}

/// Why something cannot be tested here, which is told apart from a failure: the context of an error.
#[derive(Debug)]
pub struct NotTestable(pub String);

impl fmt::Display for NotTestable {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}
