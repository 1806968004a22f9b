// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the integration tests share: a machine that exists in memory only, and a log that remembers.

#![allow(dead_code, reason = "each test program uses its own part of this module")]

pub mod capture;
pub mod copy;
pub mod early;
pub mod figures;
pub mod machine;
pub mod program;
pub mod sketch;
pub mod targets;
pub mod tree;
