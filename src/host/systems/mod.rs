//! What is known of distributions, boot loaders and initramfs generators.

pub mod advice;
pub mod bootloader;
pub mod generator;
pub mod steps;
