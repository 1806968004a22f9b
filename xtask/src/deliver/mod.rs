//! What is put on other systems.

pub mod changelog;
pub mod dist;
pub mod first;
pub mod install;
