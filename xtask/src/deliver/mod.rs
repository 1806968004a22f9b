//! What is put on other systems.

pub mod install;
