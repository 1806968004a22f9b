// SPDX-License-Identifier: MIT OR Apache-2.0
//! Alpine's package, made by abuild and installed by apk, with images by mkinitfs: all three from checkouts, for no Debian has them.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::root::Layer;
use super::{Packages, Trial, boot, bring, expect_plan, expect_same};
use crate::cases::suite::Judgement;
use crate::generators::{self, Checkouts, Project};
use crate::ground::command;
use crate::ground::verdict::NotTestable;
use crate::ground::workspace::Workspace;

/// What the checkouts are built with, and what abuild and mkinitfs call.
pub const PACKAGES: [&str; 16] = [
    "busybox",
    "cpio",
    "fakeroot",
    "gcc",
    "git",
    "libblkid-dev",
    "libc6-dev",
    "libcap2-bin",
    "libcryptsetup-dev",
    "libkmod-dev",
    "libssl-dev",
    "meson",
    "openssl",
    "pax-utils",
    "pkgconf",
    "zlib1g-dev",
];

/// `setup` and `make`, which it ends with calling.
const SCRIPT: &str = include_str!("alpine.sh");

const IMAGE: &str = "boot/initramfs-lts";

/// How often the image has the early binary.
const LOOK: &str = "zcat /boot/initramfs-lts | cpio --quiet -t | grep -c vfio-override-early || :";

/// Installs it, or what makes it of this version.
const ADD: &str = "apk add --repository /home/maker/packages/packaging --upgrade vfio-override";

const EARLY: &str = "/usr/lib/vfio-override/vfio-override-early";

/// Has mkinitfs fail when the old image is gone.
const BREAK: &str = "echo complevel_gzip=--none-such >>/etc/mkinitfs/mkinitfs.conf";
const MEND: &str = "sed -i /none-such/d /etc/mkinitfs/mkinitfs.conf";

pub fn run(
    trial: &Trial,
    layer: &Layer,
    workspace: &Workspace,
    packages: &Packages,
    checkouts: &Checkouts,
) -> Result<Judgement> {
    let kernel = trial.system.kernel(workspace)?;
    set_up(layer, checkouts, &kernel.release)?;
    for archive in [packages.archive(), packages.later_archive()] {
        let archive = bring(layer, &archive)?;
        let said = layer.run(&format!("{SCRIPT}\nmake {archive}"))?;
        ensure!(!said.contains("WARNING: vfio-override"), "abuild is not content:\n{said}");
    }
    let before = layer.listing()?;

    // In an image that nobody asked to have it, it is not.
    let said = layer.run(&format!("{ADD}={}-r0", packages.version))?;
    ensure!(said.contains("vfio-override suggest"), "nobody is told what to do:\n{said}");
    ensure!(!is_in_image(layer)?, "it is in the image, and features= has not the word");
    expect_plan(layer)?;
    let refused = layer.run_to_failure("make -C /home/maker/vfio-override-99* install")?;
    ensure!(refused.contains("installed as a package here"), "{refused}");
    let installed = layer.listing()?;

    layer.run(r#"sed -i 's/^features="/&vfio-override /' /etc/mkinitfs/mkinitfs.conf"#)?;
    layer.run(BREAK)?;
    let without = fs::read(layer.changed(IMAGE))?;
    let said = layer.run_to_failure(ADD)?;
    ensure!(said.contains("mkinitfs failed, and /boot/initramfs-lts is the old one"), "{said}");
    ensure!(without == fs::read(layer.changed(IMAGE))?, "the image is not the old one");
    layer.run(MEND)?;
    layer.run("apk fix --repository /home/maker/packages/packaging vfio-override")?;
    layer.run(&format!("apk info -e 'vfio-override>{}'", packages.version))?;
    expect_same(&installed, &layer.listing()?)?;
    ensure!(is_in_image(layer)?, "the trigger made no image with it");
    let outcome = boot(trial, layer, workspace, &kernel, (IMAGE, generators::Generator::Mkinitfs))?;

    // As long as a boot loader has the word, the next kernel's image is one that boots.
    for word in ["rdinit", "init"] {
        layer.write("boot/extlinux.conf", format!("APPEND {word}={EARLY}\n"))?;
        let said = layer.run("apk del vfio-override")?;
        let is_told = said.contains("/boot/extlinux.conf") && said.contains("So that is left");
        ensure!(is_told, "nobody is told what is left, and why:\n{said}");
        layer.run(&format!("test -x {EARLY} && mkinitfs -o /{IMAGE} {}", kernel.release))?;
        ensure!(is_in_image(layer)?, "the next image does not boot");
        layer.run(&format!("rm /boot/extlinux.conf && {ADD}"))?;
        expect_same(&installed, &layer.listing()?)?;
    }

    let said = layer.run("apk del vfio-override")?;
    ensure!(said.contains("Take vfio-override out of features"), "{said}");
    ensure!(!is_in_image(layer)?, "the image still holds what was removed");
    expect_same(&before, &layer.listing()?)?;
    Ok(outcome)
}

fn set_up(layer: &Layer, checkouts: &Checkouts, release: &str) -> Result<()> {
    let missing = "no checkouts of what Alpine's packages are made with";
    let checkouts = checkouts.alpine().with_context(|| NotTestable(missing.to_owned()))?;
    fs::create_dir_all(layer.changed("tmp"))?;
    for (name, from) in checkouts {
        let place = layer.changed("tmp").join(name);
        command::check(Command::new("cp").arg("-rT").arg(from).arg(place))?;
    }
    let modules = generators::drivers().concat().join(" ");
    let mkinitfs = Project::Mkinitfs.script();
    layer.write("tmp/mkinitfs.sh", mkinitfs)?;
    layer.run(&format!(
        "cd /tmp/mkinitfs && sh ../mkinitfs.sh setup && sh ../mkinitfs.sh load {release} '{modules}'"
    ))?;
    layer.run(&format!("{SCRIPT}\nsetup {release}")).map(drop)
}

fn is_in_image(layer: &Layer) -> Result<bool> {
    Ok(layer.run(LOOK)?.trim() != "0")
}
