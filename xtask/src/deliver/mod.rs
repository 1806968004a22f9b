// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is put on other systems.

pub mod changelog;
pub mod dist;
pub mod first;
pub mod install;
