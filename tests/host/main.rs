// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host tool as its users run it.

mod bad_input;
mod commands;
mod manual;
mod readme;
#[path = "../support/mod.rs"]
mod support;
mod systems;
