// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules, the functions they are about, and what must come of them: what the library's tests and the soak
//! share.
//!
//! The types are the library's. Nothing else of it is asked: how a rule is written, what it matches and who
//! has the last word is said here a second time.

pub mod aim;
pub mod invalid;
pub mod oracle;
pub mod reader;
pub mod rules;
pub mod spelling;
pub mod told;
