// SPDX-License-Identifier: MIT OR Apache-2.0
//! The .rpm, by rpmbuild.

use std::path::Path;

use anyhow::Result;

use super::{Job, write};
use crate::ground::command;

/// Who the changelog says made it.
const MAINTAINER: &str = "The vfio-override developers <vfio-override@users.noreply.github.com>";

impl Job<'_> {
    pub(super) fn rpm(&self, archive: &Path) -> Result<()> {
        let changelog = self.release.for_rpm(MAINTAINER)?;
        let spec = self.template("rpm/vfio-override.spec", &[("@CHANGELOG@", &changelog)])?;
        let directory = self.scratch.join("rpm");
        let path = directory.join("vfio-override.spec");
        write(&path, &spec)?;
        let sources = archive.parent().unwrap_or(archive);
        let mut rpmbuild = self.dated("rpmbuild");
        rpmbuild.args(["-bb", "--quiet", "--target", &format!("{}-linux", self.arch)]);
        for (name, value) in [
            // The rpm of RHEL 8 and 9 reads no other, and rpm 6 makes another.
            ("_rpmformat", "4".to_owned()),
            ("_topdir", directory.display().to_string()),
            ("_sourcedir", sources.display().to_string()),
            ("_rpmdir", self.out.display().to_string()),
            ("_build_name_fmt", "%%{NAME}-%%{VERSION}.%%{ARCH}.rpm".to_owned()),
            ("_buildhost", "localhost".to_owned()),
            ("_build_id_links", "none".to_owned()),
            ("_binary_payload", "w19.zstdio".to_owned()),
            ("_docdir", "/usr/share/doc".to_owned()),
            ("_docdir_fmt", "%%{NAME}".to_owned()),
            ("packager", MAINTAINER.to_owned()),
            ("_prefix", "/usr".to_owned()),
            ("use_source_date_epoch_as_buildtime", "1".to_owned()),
            ("clamp_mtime_to_source_date_epoch", "1".to_owned()),
        ] {
            rpmbuild.args(["--define", &format!("{name} {value}")]);
        }
        command::check(rpmbuild.arg(&path)).map(drop)
    }
}
