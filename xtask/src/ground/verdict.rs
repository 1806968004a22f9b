//! What a task found.

/// What a task that ran to its end found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Bad,
    /// Nothing is wrong as far as it could be checked.
    Open,
}
