// SPDX-License-Identifier: MIT OR Apache-2.0
//! The .deb, by dpkg, on Debian.

use anyhow::{Context, Result, bail, ensure};

use super::root::{Generator, Layer};
use super::{Packages, Trial, boot, bring, expect_kept, expect_plan, expect_same};
use crate::cases::suite::Judgement;
use crate::deliver::first;
use crate::generators;
use crate::ground::verdict::NotTestable;
use crate::ground::workspace::Workspace;

/// What makes the image small, and loads the host's drivers in it.
const INITRAMFS_TOOLS: &str =
    "sed -i 's/^MODULES=.*/MODULES=list/' /etc/initramfs-tools/initramfs.conf
    printf '%s\\n' @DRIVERS@ >/etc/initramfs-tools/modules";
const DRACUT: &str = r#"mkdir -p /etc/dracut.conf.d; cat >/etc/dracut.conf.d/trial.conf <<'END'
hostonly=yes
hostonly_cmdline=no
use_fstab=yes
compress="zstd -q -1"
add_dracutmodules+=" systemd-initrd dracut-systemd "
omit_dracutmodules+=" network network-legacy network-manager systemd-networkd nfs plymouth "
filesystems+=" ext4 "
add_drivers+=" @ROOT@ "
force_drivers+=" @DRIVERS@ "
END
: >/etc/fstab"#;

/// Whether the image holds the early binary.
const LOOK: &str = r#"image=$(echo /boot/initrd.img-*)
if command -v lsinitramfs >/dev/null; then lsinitramfs "$image"; else lsinitrd "$image"; fi | grep -c vfio-override-early || :"#;

/// What a generator is told, as a script.
pub fn setting(generator: Generator) -> String {
    let [root, forced] = generators::drivers().map(|drivers| drivers.join(" "));
    match generator {
        Generator::InitramfsTools => {
            INITRAMFS_TOOLS.replace("@DRIVERS@", &format!("{root} {forced}"))
        }
        Generator::Dracut => DRACUT.replace("@ROOT@", &root).replace("@DRIVERS@", &forced),
    }
}

pub fn run(
    trial: &Trial,
    layer: &Layer,
    workspace: &Workspace,
    packages: &Packages,
) -> Result<Judgement> {
    layer.run(&setting(trial.system.generator))?;
    let before = layer.listing()?;
    let deb = bring(layer, &packages.deb())?;

    // Over what 0.1.0 installed, of which one file is gone.
    for place in first::PLACES.lines().skip(1) {
        layer.write(&format!("usr/{place}"), "0.1.0")?;
    }
    let said = layer.run(&format!("dpkg -i {deb}"))?;
    expect_clean(&said)?;
    let installed = layer.listing()?;
    let old = first::PLACES
        .lines()
        .find(|place| place.contains("90vfio") && installed.contains(&format!("/usr/{place}\n")));
    ensure!(old.is_none(), "what 0.1.0 had is still there: {old:?}");
    ensure!(layer.run(LOOK)?.trim() != "0", "the trigger made no image with the hook:\n{said}");
    ensure!(layer.run("dpkg --audit")?.is_empty(), "dpkg is not content");
    expect_plan(layer)?;
    expect_idle_udev(layer)?;
    let kernel = trial.system.kernel(workspace)?;
    let image = format!("boot/initrd.img-{}", kernel.release);
    let generator = match trial.system.generator {
        Generator::Dracut => generators::Generator::DracutSystemd,
        Generator::InitramfsTools => generators::Generator::InitramfsTools,
    };
    let outcome = boot(trial, layer, workspace, &kernel, (&image, generator))?;

    // The list of files is that of a package that nothing was there before.
    let newer = bring(layer, &packages.later_deb())?;
    expect_clean(&layer.run(&format!("dpkg -i {newer}"))?)?;
    expect_same(&installed, &layer.listing()?)?;
    expect_kept(layer, "dpkg -r vfio-override")?;
    layer.run("dpkg -r vfio-override")?;
    ensure!(layer.run(LOOK)?.trim() == "0", "the image still holds what was removed");
    layer.run("dpkg -P vfio-override")?;
    expect_same(&before, &layer.listing()?)?;

    if let Some(previous) = packages.bring_previous(layer, "_amd64.deb")? {
        layer.run(&format!("dpkg -i {previous}"))?;
        expect_clean(&layer.run(&format!("dpkg -i {deb}"))?)?;
        expect_same(&installed, &layer.listing()?)?;
        layer.run("dpkg -P vfio-override")?;
        expect_same(&before, &layer.listing()?)?;
    }

    let tree = unpack_archive(layer, packages)?;
    install_over(layer, &tree, &deb)?;
    expect_same(&before, &layer.listing()?)?;
    install_over_half(layer, &tree, &deb)?;
    expect_same(&installed, &layer.listing()?)?;
    layer.run("dpkg -P vfio-override")?;
    expect_same(&before, &layer.listing()?)?;
    Ok(outcome)
}

/// What udev starts for the PCI functions of this machine as they are added, by its own account, and how many there are that
/// nothing was written to.
const ADD: &str = r#"for function in /sys/bus/pci/devices/*; do
    udevadm test --action=add "$function" 2>&1 || test $? = 1
done | grep -cE "Running (PROGRAM|command) ?.*vfio-override-early --modprobe --device" || :
grep -lx '(null)' /sys/bus/pci/devices/*/driver_override | wc -l"#;

/// Without the parameter udev starts no process for any function; with it one for each that is not kept yet.
fn expect_idle_udev(layer: &Layer) -> Result<()> {
    for (line, is_asked) in [
        ("quiet", false),
        ("vfio.overrides=1 xvfio.override=1 vfio.override=", false),
        ("quiet vfio.override=ffff:00:00.0 rw", true),
    ] {
        let udev = format!("export SYSTEMD_LOG_LEVEL=debug SYSTEMD_PROC_CMDLINE='{line}'\n{ADD}");
        let said = layer.run_with_sysfs(&udev)?;
        let [started, functions] = said
            .split_whitespace()
            .map(str::parse::<usize>)
            .collect::<Result<Vec<_>, _>>()
            .ok()
            .and_then(|counts| counts.try_into().ok())
            .with_context(|| format!("no two counts: {said}"))?;
        if functions == 0 {
            bail!(NotTestable("this machine has no PCI function to show udev".to_owned()));
        }
        let expected = if is_asked { functions } else { 0 };
        ensure!(
            started == expected,
            "{line}: udev starts {started} processes for {functions} functions"
        );
    }
    Ok(())
}

/// The archive's Makefile and the package, one over the other.
fn install_over(layer: &Layer, tree: &str, deb: &str) -> Result<()> {
    layer.run(&format!("make -C {tree} install"))?;
    let by_make = layer.listing()?;
    let said = layer.run(&format!("dpkg -i {deb} && dpkg --verify vfio-override"))?;
    expect_clean(&said)?;
    let refused = layer.run_to_failure(&format!("make -C {tree} install"))?;
    ensure!(refused.contains("installed as a package here"), "{refused}");
    let refused = layer.run_to_failure(&format!("make -C {tree} uninstall"))?;
    ensure!(refused.contains("installed as a package here"), "{refused}");
    layer.run(&format!("dpkg -P vfio-override && make -C {tree} install"))?;
    expect_same(&by_make, &layer.listing()?)?;
    expect_kept(layer, &format!("make -C {tree} uninstall"))?;
    layer.run(&format!("make -C {tree} uninstall")).map(drop)
}

/// The package over what a `make install` left that was cut short, and over itself when it was cut short.
fn install_over_half(layer: &Layer, tree: &str, deb: &str) -> Result<()> {
    const HALF: &str = "/usr/lib/vfio-override/.incomplete";
    layer.write("tmp/cut/mv", CUT)?;
    layer.run("chmod 755 /tmp/cut/mv")?;
    layer.run_to_failure(&format!("PATH=/tmp/cut:$PATH make -C {tree} install"))?;
    layer.run(&format!("test -e {HALF} && test -e /usr/bin/.vfio-override-new-vfio-override"))?;
    layer.run(&format!("dpkg --unpack --no-triggers {deb}"))?;
    expect_clean(&layer.run(&format!("dpkg -i {deb} && dpkg --verify vfio-override"))?)
}

/// A renaming of a file that is the last thing to happen: what called it is killed.
const CUT: &str = "#!/bin/sh\nkill -KILL \"$PPID\"\n";

/// The archive, below /tmp.
fn unpack_archive(layer: &Layer, packages: &Packages) -> Result<String> {
    let archive = bring(layer, &packages.archive())?;
    layer
        .run(&format!("mkdir /tmp/tree && tar -xf {archive} -C /tmp/tree --strip-components=1"))?;
    Ok("/tmp/tree".to_owned())
}

/// Neither dpkg nor the generator complains of what is ours.
fn expect_clean(said: &str) -> Result<()> {
    let complaint = said.lines().find(|line| {
        let is_ours = line.contains("vfio-override");
        is_ours
            && ["W: ", "E: ", "warning", "dracut[W]", "dracut[E]"]
                .iter()
                .any(|sign| line.contains(sign))
    });
    ensure!(complaint.is_none(), "{complaint:?}");
    Ok(())
}
