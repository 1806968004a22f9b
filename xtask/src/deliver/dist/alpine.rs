// SPDX-License-Identifier: MIT OR Apache-2.0
//! Alpine's recipe, in the archive: abuild, which no Debian has, makes the package there.

use std::fs;

use anyhow::{Context, Result};

use super::{Job, write};

const FILES: [&str; 5] = [
    "APKBUILD",
    "vfio-override.post-deinstall",
    "vfio-override.post-install",
    "vfio-override.pre-deinstall",
    "vfio-override.trigger",
];

/// What more than one of them has.
const IMAGES: &str = "packaging/alpine/images";

impl Job<'_> {
    pub(super) fn alpine(&self) -> Result<()> {
        let text = fs::read_to_string(self.workspace.root.join(IMAGES)).context(IMAGES)?;
        // What stands above the first empty line is for whoever reads that file.
        let (_, images) = text.split_once("\n\n").context(IMAGES)?;
        let words = [("@ARCH@", self.arch.name), ("@IMAGES@", images.trim_end())];
        for name in FILES {
            let text = self.template(&format!("alpine/{name}"), &words)?;
            write(&self.tree().join("packaging/alpine").join(name), &text)?;
        }
        Ok(())
    }
}
