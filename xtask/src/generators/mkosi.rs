// SPDX-License-Identifier: MIT OR Apache-2.0
//! mkosi-initrd, which makes an image of its own from a distribution's packages, and so takes an installed system.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::deliver::install;
use crate::ground::workspace::Workspace;
use crate::guest::kernel::Kernel;
use crate::trials::root::{Besides, Generator, Layer, System};

/// The root in whose place it stands.
pub const ROOT: &str = "Debian sid";

const SYSTEM: System = System {
    besides: Some(Besides { name: "mkosi", packages: &["mkosi", "mount"] }),
    ..System::of("sid", Generator::InitramfsTools)
};

/// It mounts layers of its own, which cannot lie above another layer; and a machine without firmware it does not know.
const MAKE: &str = "mkdir -p /usr/lib/firmware
mount -t tmpfs tmpfs /var/tmp
mount -t tmpfs tmpfs /tmp
apt-get -o Acquire::Check-Valid-Until=false update
mkosi-initrd --generic --kernel-version @RELEASE@ --output-dir /out --output image";

/// Makes an image with the extra tree of the page on it.
pub fn make(workspace: &Workspace, built: &Path, kernel: &Kernel, image: &Path) -> Result<String> {
    let layer = Layer::above(&SYSTEM.prepare(workspace)?, workspace)?;
    install::install_to(&layer.changes(), &workspace.root, built)?;
    layer.run(&commands(workspace)?)?;
    let said = layer.run(&MAKE.replace("@RELEASE@", &kernel.release))?;
    fs::copy(layer.changed("out/image"), image).context("no image was made")?;
    Ok(said)
}

/// The commands that the page shows, for root.
fn commands(workspace: &Workspace) -> Result<String> {
    let page = fs::read_to_string(workspace.root.join("docs/overlay.md"))?;
    let (_, section) = page.split_once("## mkosi-initrd").context("the page has no section")?;
    let lines = section.lines().skip_while(|line| !line.starts_with("    "));
    let shown = lines.map_while(|line| line.strip_prefix("    "));
    Ok(shown.fold(String::new(), |text, line| text + &line.replace("sudo ", "") + "\n"))
}

/// Its version, as the table has it.
pub fn version(workspace: &Workspace) -> Result<String> {
    let layer = Layer::above(&SYSTEM.prepare(workspace)?, workspace)?;
    let version = layer.run("dpkg-query -Wf '${source:Upstream-Version}' mkosi")?;
    Ok(format!("mkosi {version}"))
}
