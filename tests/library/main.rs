// SPDX-License-Identifier: MIT OR Apache-2.0
//! The library: the grammar, what is decided and done, and every message, against the model and fakes.

mod auto;
mod corpus;
mod exhaustive;
mod faults;
mod grammar;
mod interleave;
mod let_go;
mod limits;
mod messages;
mod oracle;
mod strays;

#[path = "../support/mod.rs"]
mod support;
