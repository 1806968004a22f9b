// SPDX-License-Identifier: MIT OR Apache-2.0
//! From functions to rules, and from rules to what they would do.

pub mod companions;
pub mod parameter;
pub mod preview;
pub mod prospect;
pub mod touched;
