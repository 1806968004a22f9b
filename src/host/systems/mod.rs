// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of distributions, boot loaders and initramfs generators, and of who else takes functions.

pub mod advice;
pub mod found;
pub mod initramfs;
pub mod iommu;
pub mod own;
pub mod sign;
pub mod steps;
pub mod table;
pub mod takers;
pub mod words;
