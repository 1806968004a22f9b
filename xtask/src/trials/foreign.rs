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
    expect_unified(layer, &newer)?;
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
    expect_hooks_told(layer)?;
    let newer = bring(layer, &packages.later_pacman())?;
    layer.run(&format!("pacman --noconfirm -U {newer} && pacman -Qk vfio-override"))?;
    expect_same(&installed, &layer.listing()?)?;
    expect_kept(layer, "pacman --noconfirm -R vfio-override")?;
    layer.run("pacman --noconfirm -R vfio-override")?;
    ensure!(layer.run(LOOK)?.trim() == "0", "the image still holds what was removed");
    expect_same(&before, &layer.listing()?)
}

/// Where kernel-install makes the images, it is asked for that of each kernel, if there is any.
fn expect_unified(layer: &Layer, package: &str) -> Result<()> {
    let install = |kernels: &str| {
        layer.run(&format!(
            r#"program=/usr/bin/kernel-install settings=/etc/kernel/install.conf.d
            [ ! -e $program ] || mv $program /tmp/kept
            printf '#!/bin/sh\necho "called: $*"\n' >$program && chmod 755 $program
            mkdir -p $settings && echo ' layout = uki' >$settings/own.conf
            for kernel in {kernels}; do mkdir -p /usr/lib/modules/$kernel && : >/usr/lib/modules/$kernel/vmlinuz; done
            rpm -U --replacepkgs {package}
            for kernel in {kernels}; do rm -r /usr/lib/modules/$kernel; done
            rm $settings/own.conf $program && rmdir -p --ignore-fail-on-non-empty $settings
            [ ! -e /tmp/kept ] || mv /tmp/kept $program"#
        ))
    };
    let said = install("1.0 2.0")?;
    for kernel in ["1.0", "2.0"] {
        let call = format!("called: add {kernel} /usr/lib/modules/{kernel}/vmlinuz\n");
        ensure!(said.contains(&call), "kernel-install is not asked for {kernel}:\n{said}");
    }
    let said = install("")?;
    ensure!(!said.contains("called") && !said.contains("scriptlet failed"), "{said}");
    Ok(())
}

/// Whoever has the hook already is not told to write it, in whatever way mkinitcpio is told of hooks.
fn expect_hooks_told(layer: &Layer) -> Result<()> {
    for (main, more, is_there) in [
        ("HOOKS=(base udev)", "", false),
        ("HOOKS=(base udev) # vfio-override comes before udev", "", false),
        ("#HOOKS=(base vfio-override udev)\nHOOKS=(base udev)", "", false),
        ("HOOKS=(base vfio-override udev)", "", true),
        ("HOOKS=(\n  base\n  vfio-override\n  udev\n)", "", true),
        ("HOOKS=(base udev)\nHOOKS+=(vfio-override)", "", true),
        ("HOOKS=(base udev)", "HOOKS=(base vfio-override systemd)", true),
        ("HOOKS=(base vfio-override udev)", "HOOKS=(base udev)", false),
    ] {
        layer.write("etc/mkinitcpio.conf", main)?;
        layer.write("etc/mkinitcpio.conf.d/own.conf", more)?;
        for (function, words, is_told) in [
            ("post_install", "Put vfio-override before udev", !is_there),
            ("post_remove", "Take vfio-override out of HOOKS", is_there),
        ] {
            let said = layer.run(&format!(
                "mkinitcpio() {{ :; }}; . /var/lib/pacman/local/vfio-override-*/install; {function}"
            ))?;
            ensure!(said.contains(words) == is_told, "{function}, {main:?}, {more:?}: {said}");
        }
    }
    layer.run("rm -r /etc/mkinitcpio.conf /etc/mkinitcpio.conf.d").map(drop)
}

/// It is in the image, and the host tool starts.
fn expect_used(layer: &Layer) -> Result<()> {
    ensure!(layer.run(LOOK)?.trim() != "0", "no image with the hook was made");
    expect_plan(layer)
}

fn without_version(listing: &str) -> String {
    listing.lines().filter(|line| !line.contains("share/licenses")).collect::<Vec<_>>().join("\n")
}
