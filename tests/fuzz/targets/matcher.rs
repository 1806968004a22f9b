#![no_main]
// SPDX-License-Identifier: MIT OR Apache-2.0

#[path = "../../support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|data: &[u8]| support::targets::matcher(data));
