// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host tool as its users run it.

use std::env;
use std::sync::LazyLock;

mod bad_input;
mod commands;
mod manual;
mod readme;
#[path = "../support/mod.rs"]
mod support;
mod systems;
mod touched;

/// The tool under test: cargo's, unless `cargo xtask test` names another, as that of another architecture.
fn tool() -> &'static str {
    static TOOL: LazyLock<String> = LazyLock::new(|| {
        env::var("VFIO_OVERRIDE_TOOL")
            .unwrap_or_else(|_| env!("CARGO_BIN_EXE_vfio-override").to_owned())
    });
    &TOOL
}
