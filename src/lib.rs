// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps host drivers away from the PCI functions named by `vfio.override=` on the kernel command
//! line.
//!
//! The way of a rule: [`cmdline`] finds it, [`grammar`] reads it into a [`rule::Rule`], [`ruleset::RuleSet`] numbers
//! it, [`survey`] looks at the functions it concerns, [`plan::Plan`] decides what becomes of each, [`apply`] does it
//! through [`system::System`], and [`report`] logs it in the words of [`message`]. [`run::Run`] is all of this in
//! order.
//!
//! Nothing here allocates, and nothing can panic: the early binary is checked for both when it is
//! linked.

#![no_std]
#![forbid(unsafe_code)]

pub mod apply;
pub mod beneath;
pub mod cmdline;
pub mod grammar;
pub mod message;
pub mod modalias;
pub mod path;
pub mod pci;
pub mod plan;
pub mod problem;
pub mod report;
pub mod rule;
pub mod ruleset;
pub mod run;
pub mod survey;
pub mod system;
pub mod text;
pub mod warnings;

// A file of the host tool. It must be part of this crate, since it implements `Display` for types of this crate.
#[cfg(feature = "canonical")]
#[path = "host/rules/canonical.rs"]
mod canonical;
