// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernels that guests boot: tests/kernels.toml.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::ground::arch::{Arch, X86_64};

/// A kernel of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// As cases and `--kernel` call it.
    pub name: String,
    /// The suite of Debian that it comes from.
    pub suite: String,
    /// Its package there, in which `{arch}` stands for Debian's name of the architecture.
    pub package: String,
    /// Debian's name of the only architecture that has it; none if all have.
    only: Option<String>,
    /// Whether it is no mistake that it lacks the drivers that a case is about.
    #[serde(default)]
    pub few_drivers: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    kernels: Vec<Source>,
}

/// Every kernel of the file, in its order.
pub fn all() -> &'static [Source] {
    static FILE: LazyLock<File> = LazyLock::new(|| {
        toml::from_str(include_str!("../../../tests/kernels.toml"))
            .expect("a test reads tests/kernels.toml")
    });
    &FILE.kernels
}

/// The names of those that an architecture has.
pub fn of(arch: &Arch) -> Vec<&'static str> {
    let is_there = |source: &&Source| source.only.as_deref().is_none_or(|only| only == arch.debian);
    all().iter().filter(is_there).map(|source| &*source.name).collect()
}

/// The names of those that have the drivers of every device that a case may use.
pub fn with_drivers() -> Vec<&'static str> {
    let has_drivers = |name: &&str| named(name).is_some_and(|source| !source.few_drivers);
    of(X86_64).into_iter().filter(has_drivers).collect()
}

/// The kernel of this name.
pub fn named(name: &str) -> Option<&'static Source> {
    all().iter().find(|source| source.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_kernel_has_a_name_of_its_own_that_is_no_path() {
        let names: BTreeSet<&str> = all().iter().map(|source| &*source.name).collect();
        assert_eq!(names.len(), all().len());
        assert!(names.iter().all(|name| *name != "auto" && !name.contains('/')), "{names:?}");
    }

    #[test]
    fn the_first_kernel_is_one_to_fall_back_to() {
        assert!(!all()[0].few_drivers);
    }
}
