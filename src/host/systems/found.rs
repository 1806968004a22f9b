// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which entries of the table a machine is described by.

use super::sign::Facts;
use super::table::{Image, Line, SYSTEMS, System};

/// What is found of a machine's system.
pub struct Found {
    /// What boots it, its page, and where its command line is; `None` where that is not known.
    pub loader: Option<(&'static str, &'static str, &'static Line)>,
    /// Whether the system has ways of its own for all, and nothing else counts.
    pub is_alone: bool,
    /// Each page and maker of images that is there.
    pub images: Vec<(&'static str, &'static Image)>,
}

impl Found {
    pub fn of(facts: &Facts<'_>) -> Self {
        let alone = SYSTEMS.iter().find(|system| system.is_alone && facts.show(&system.sign));
        let systems: Vec<&'static System> = match alone {
            Some(system) => vec![system],
            None => SYSTEMS
                .iter()
                .filter(|system| !system.is_alone && facts.show(&system.sign))
                .collect(),
        };
        Self {
            is_alone: alone.is_some(),
            loader: systems
                .iter()
                .find_map(|system| Some((system.name, system.page, system.line.as_ref()?))),
            images: systems
                .iter()
                .filter_map(|system| Some((system.page, system.image.as_ref()?)))
                .collect(),
        }
    }
}
