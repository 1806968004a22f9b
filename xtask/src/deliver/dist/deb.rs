// SPDX-License-Identifier: MIT OR Apache-2.0
//! The .deb, by dpkg-deb.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Job, write};
use crate::deliver::install;
use crate::ground::command;

/// The sums of all that is installed, in an order that is the same everywhere.
const SUMS: &str = r#"cd "$1" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum"#;

impl Job<'_> {
    pub(super) fn deb(&self) -> Result<()> {
        let root = self.scratch.join("deb");
        fs::create_dir(&root)?;
        let tree = self.tree();
        install::install_to(&root, &tree, &tree.join("built"))?;

        let documents = root.join("usr/share/doc/vfio-override");
        let licence = fs::read_to_string(tree.join("LICENSE-MIT"))?;
        let paragraph = |line: &str| if line.is_empty() { " .".into() } else { format!(" {line}") };
        // Its heading and its copyright stand elsewhere.
        let licence: Vec<String> = licence.lines().skip(4).map(paragraph).collect();
        let copyright = self.template("debian/copyright", &[("@MIT@", &licence.join("\n"))])?;
        write(&documents.join("copyright"), &copyright)?;
        let control = self.template("debian/control", &[("@ARCH@", self.arch.debian)])?;
        let maintainer = control.lines().find_map(|line| line.strip_prefix("Maintainer: "));
        let changelog = self.release.for_debian(maintainer.context("nobody maintains it")?)?;
        write(&documents.join("changelog"), &changelog)?;
        let mut gzip = Command::new("gzip");
        command::check(gzip.args(["-9", "-n"]).arg(documents.join("changelog")))?;
        write(
            &root.join("usr/share/lintian/overrides/vfio-override"),
            &self.template("debian/lintian-overrides", &[])?,
        )?;

        let control_files = root.join("DEBIAN");
        fs::create_dir(&control_files)?;
        let sums = command::stdout(Command::new("sh").args(["-c", SUMS, "sh"]).arg(&root))?;
        write(&control_files.join("md5sums"), &sums)?;
        let mut size = Command::new("sh");
        size.args(["-c", "find \"$1/usr\" -type f -printf '%s\\n'", "sh"]).arg(&root);
        let sizes = command::stdout(&mut size)?;
        let kibibytes: u64 = sizes
            .lines()
            .filter_map(|line| line.parse::<u64>().ok())
            .map(|size| size.div_ceil(1024))
            .sum();
        write(&control_files.join("control"), &control.replace("@SIZE@", &kibibytes.to_string()))?;
        for (name, mode) in [("triggers", 0o644), ("postinst", 0o755), ("prerm", 0o755)] {
            let path = control_files.join(name);
            write(&path, &self.template(&format!("debian/{name}"), &[])?)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        let mut modes = Command::new("chmod");
        command::check(modes.args(["-R", "go=rX,u+rwX"]).arg(&root))?;

        let name = format!("vfio-override_{}_{}.deb", self.release.version, self.arch.debian);
        let mut dpkg = self.dated("dpkg-deb");
        dpkg.args(["--root-owner-group", "-Zxz", "--build"]).arg(&root).arg(self.out.join(name));
        command::check(&mut dpkg).map(drop)
    }
}
