//! The host tool as its users run it.

mod commands;
mod manual;
mod readme;
#[path = "../support/mod.rs"]
mod support;
