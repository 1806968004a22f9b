// SPDX-License-Identifier: MIT OR Apache-2.0
//! The .rpm and the pacman package, by the managers of their distributions, which Debian has, with a real dracut.

use anyhow::{Result, ensure};

use super::root::Layer;
use super::{Packages, bring, expect_kept, expect_plan, expect_same};

/// The image of a distribution that names it so.
const LOOK: &str = "ls /boot/initr* | while read -r image; do lsinitrd \"$image\"; done | grep -c vfio-override-early || :";

/// What rpm's database knows of the system, the shells, which Debian's packages brought; and directories that every
/// distribution with rpm or zypper has.
const SYSTEM: &str = r#"mkdir -p /tmp/rpm /usr/share/licenses /var/adm/update-scripts && cd /tmp/rpm && cat >system.spec <<'END'
Name: system
Version: 1
Release: 1
Summary: What the system has
License: MIT
BuildArch: noarch
Provides: /bin/sh
Provides: /bin/bash
%description
Shells.
%files
END
rpmbuild -bb --quiet --define "_rpmdir /tmp/rpm" --define "_build_name_fmt system.rpm" system.spec
rpm -i system.rpm && rm -rf /tmp/rpm"#;

pub fn rpm(layer: &Layer, packages: &Packages) -> Result<()> {
    layer.run(SYSTEM)?;
    let package = bring(layer, &packages.rpm())?;
    let before = layer.listing()?;
    let previous = packages.bring_previous(layer, ".x86_64.rpm")?;
    for package in previous.iter().chain([&package]) {
        layer.run(&format!(
            "dnf --disablerepo='*' --setopt=install_weak_deps=0 -y install {package}"
        ))?;
    }
    expect_used(layer)?;
    let installed = layer.listing()?;
    let newer = bring(layer, &packages.later_rpm())?;
    layer.run(&format!(
        "zypper --non-interactive --no-refresh install --allow-unsigned-rpm {newer} && rpm -V vfio-override"
    ))?;
    expect_same(&without_version(&installed), &without_version(&layer.listing()?))?;
    expect_used(layer)?;
    let remove = "zypper --non-interactive --no-refresh remove vfio-override";
    for remove in [remove, "dnf -y remove vfio-override", "rpm -e vfio-override"] {
        expect_kept(layer, remove)?;
    }
    layer.run(remove)?;
    ensure!(layer.run(LOOK)?.trim() == "0", "the image still holds what was removed");
    expect_same(&before, &layer.listing()?)
}

pub fn pacman(layer: &Layer, packages: &Packages) -> Result<()> {
    layer.run("mkdir -p /var/lib/pacman")?;
    let package = bring(layer, &packages.pacman())?;
    let before = layer.listing()?;
    let previous = packages.bring_previous(layer, "-x86_64.pkg.tar.zst")?;
    for package in previous.iter().chain([&package]) {
        layer.run(&format!("pacman --noconfirm -U {package}"))?;
    }
    expect_used(layer)?;
    let installed = layer.listing()?;
    let newer = bring(layer, &packages.later_pacman())?;
    layer.run(&format!("pacman --noconfirm -U {newer} && pacman -Qk vfio-override"))?;
    expect_same(&installed, &layer.listing()?)?;
    expect_kept(layer, "pacman --noconfirm -R vfio-override")?;
    layer.run("pacman --noconfirm -R vfio-override")?;
    ensure!(layer.run(LOOK)?.trim() == "0", "the image still holds what was removed");
    expect_same(&before, &layer.listing()?)
}

/// It is in the image, and the host tool starts.
fn expect_used(layer: &Layer) -> Result<()> {
    ensure!(layer.run(LOOK)?.trim() != "0", "no image with the hook was made");
    expect_plan(layer)
}

fn without_version(listing: &str) -> String {
    listing.lines().filter(|line| !line.contains("share/licenses")).collect::<Vec<_>>().join("\n")
}
