//! The pacman package, by makepkg.

use std::fs;
use std::path::Path;

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

/// makepkg refuses to be root, and writes into the package where it was made: that is the same everywhere in a name
/// space of its own.
const ENTER: &str = r#"mount --bind "$1" /mnt && cd /mnt &&
    exec unshare --map-user=1000 --map-group=1000 makepkg --config makepkg.conf --nodeps --force --clean"#;

impl Job<'_> {
    pub(super) fn pacman(&self, archive: &Path) -> Result<()> {
        let directory = self.scratch.join("pacman");
        let name = archive.file_name().context("it is a file")?;
        let recipe = self.template("arch/PKGBUILD", &[])?;
        write(&directory.join("PKGBUILD"), &recipe)?;
        for name in ["vfio-override.hook", "vfio-override.install"] {
            write(&directory.join(name), &self.template(&format!("arch/{name}"), &[])?)?;
        }
        let configuration = CONFIGURATION.replace("@CARCH@", self.arch.name);
        write(&directory.join("makepkg.conf"), &configuration)?;
        fs::copy(archive, directory.join(name))?;
        let mut makepkg = self.dated("unshare");
        makepkg.args(["--map-root-user", "--mount", "sh", "-c", ENTER, "sh"]).arg(&directory);
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
