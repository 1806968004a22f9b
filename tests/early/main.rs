// SPDX-License-Identifier: MIT OR Apache-2.0
//! The early binary itself, on real files, in name spaces, and with a fault at each system call.

mod behaviour;
mod below;
mod cost;
mod environment;
mod inject;
mod pid1;
#[path = "../support/mod.rs"]
mod support;
