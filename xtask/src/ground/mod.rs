// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every task stands on.

pub mod apt;
pub mod arch;
pub mod command;
pub mod pool;
pub mod progress;
pub mod setup;
pub mod table;
pub mod verdict;
pub mod workspace;
