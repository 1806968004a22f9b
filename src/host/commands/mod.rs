// SPDX-License-Identifier: MIT OR Apache-2.0
//! One command a file.

pub mod apply;
pub mod claims;
pub mod collect;
pub mod list;
pub mod manual;
pub mod plan;
pub mod release;
pub mod status;
pub mod suggest;
