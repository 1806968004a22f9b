// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pacman package, by makepkg.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Job, write};
use crate::ground::command;

/// Nothing of the machine's own configuration is in the package.
const CONFIGURATION: &str = r"CARCH=@CARCH@
CHOST=@CARCH@-pc-linux-gnu
PACKAGER='The vfio-override developers <vfio-override@users.noreply.github.com>'
BUILDENV=(fakeroot)
OPTIONS=(docs emptydirs !strip !zipman !purge !debug !lto)
INTEGRITY_CHECK=(sha256)
PKGEXT=.pkg.tar.zst
SRCEXT=.src.tar.gz
COMPRESSZST=(zstd -c -q -19 -T1 -)
DLAGENTS=()
VCSCLIENTS=()
";

/// What makes the image anew, in the shell: the first that is there, with those before that call another one and put its
/// image where it boots (`CachyOS` and Omarchy, `EndeavourOS`, Garuda).
const MAKE_IMAGES: &str = "for make in limine-mkinitcpio \"mkinitcpio -P\" limine-dracut reinstall-kernels dracut-rebuild \"dracut --force --regenerate-all\"; do if command -v ${make%% *} >/dev/null; then $make; break; fi; done";

/// makepkg refuses to be root, and writes into the package where it was made: that is the same everywhere in a name
/// space of its own.
const ENTER: &str = r#"mount --bind "$1" /mnt && cd /mnt &&
    exec unshare --map-user=1000 --map-group=1000 makepkg --config makepkg.conf --nodeps --force --clean"#;

const FILES: [&str; 4] =
    ["PKGBUILD", "vfio-override-removal.hook", "vfio-override.hook", "vfio-override.install"];

impl Job<'_> {
    pub(super) fn pacman(&self, archive: &Path) -> Result<()> {
        let directory = self.recipe()?;
        fs::copy(archive, directory.join(archive.file_name().context("it is a file")?))?;
        self.makepkg(&directory, "archive")
    }

    /// The same from the sources, as a tag of them is published.
    pub(super) fn pacman_from_sources(&self) -> Result<()> {
        let directory = self.recipe()?;
        let root = &self.workspace.root;
        let name = format!("vfio-override-{}", self.release.version);
        let mut files = OsString::new();
        for file in self.workspace.sources()? {
            files.push(file.strip_prefix(root)?);
            files.push("\n");
        }
        let list = self.scratch.join("sources");
        fs::write(&list, files.as_encoded_bytes())?;
        let mut tar = Command::new("tar");
        tar.args(["--create", "--gzip", "--transform", &format!("s,^,{name}/,"), "--file"])
            .arg(directory.join(format!("{name}.tar.gz")))
            .arg("--directory")
            .arg(root)
            .arg("--files-from")
            .arg(list);
        command::check(&mut tar)?;
        self.makepkg(&directory, "source")
    }

    /// A folder with the PKGBUILD and what it takes along.
    fn recipe(&self) -> Result<PathBuf> {
        let directory = self.scratch.join("pacman");
        for name in FILES {
            let text = self.template(&format!("arch/{name}"), &[("@MAKE_IMAGES@", MAKE_IMAGES)])?;
            write(&directory.join(name), &text)?;
        }
        let configuration = CONFIGURATION.replace("@CARCH@", self.arch.name);
        write(&directory.join("makepkg.conf"), &configuration)?;
        Ok(directory)
    }

    fn makepkg(&self, directory: &Path, from: &str) -> Result<()> {
        let mut makepkg = self.dated("unshare");
        // What is compiled there is compiled once.
        makepkg.env("CARGO_TARGET_DIR", self.workspace.scratch("from-sources")?);
        makepkg.args(["--map-root-user", "--mount", "sh", "-c", ENTER, "sh"]).arg(directory);
        makepkg.env("VFIO_OVERRIDE_FROM", from);
        // It would list in the package what this machine has installed, and makepkg 7.1 ends where it is not there.
        makepkg.env("PACMAN", "true");
        for variable in ["SRCDEST", "PKGDEST", "BUILDDIR", "LOGDEST"] {
            makepkg.env_remove(variable);
        }
        command::check(&mut makepkg)?;
        let package = format!("vfio-override-{}-1-{}.pkg.tar.zst", self.release.version, self.arch);
        fs::copy(directory.join(&package), self.out.join(&package))
            .with_context(|| format!("makepkg made no {package}"))?;
        Ok(())
    }
}
