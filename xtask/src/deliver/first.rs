// SPDX-License-Identifier: MIT OR Apache-2.0
//! What 0.1.0 installed, as its sources have it: what every upgrade is tried with.

/// Each file's place below /usr, one a line.
pub const PLACES: &str = include_str!("first.txt");
