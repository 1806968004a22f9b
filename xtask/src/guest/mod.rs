// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine that boots: its devices, kernel, image, console and what it tells.

pub mod accelerator;
pub mod acpi;
pub mod archive;
pub mod arm64;
pub mod busybox;
pub mod bzimage;
pub mod evidence;
pub mod image;
pub mod kernel;
pub mod kernels;
pub mod machine;
pub mod modules;
pub mod option_rom;
pub mod probes;
pub mod programs;
pub mod qemu;
pub mod qmp;
pub mod serial;
pub mod session;
