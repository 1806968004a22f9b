//! What is put on other systems.

mod changelog;
pub mod dist;
pub mod install;
