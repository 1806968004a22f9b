// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a command found.

/// What the exit status tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is as asked: 0.
    Good,
    /// Something differs, or a rule is not applied: 1.
    Bad,
}

impl Verdict {
    /// Good where everything is as asked.
    pub fn of(is_good: bool) -> Self {
        if is_good { Self::Good } else { Self::Bad }
    }
}
