// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tool tells people on the systems that it knows, and on those that it does not.

use std::fs;

use crate::commands::{Desk, json};
use crate::support::copy;

/// Machines, each with the commands that show what is told there.
const MACHINES: &[(&str, &[&str])] = &[
    ("booster", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("booster-and-mkinitcpio", &["suggest 01:00.0"]),
    ("dracut-omitted", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("stub", &["suggest 01:00.0"]),
    ("uki-addon", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("driverctl-saved", &["plan", "suggest 25:00.0"]),
    ("display-0380", &["plan class:03,!boot_vga", "suggest c1:00.0", "suggest c3:00.0"]),
    ("framebuffer", &["plan b3:00.0+slot", "suggest b3:00.0"]),
    ("dock-away", &["plan", "status"]),
    ("iommu-switched-off", &["suggest c1:00.0", "plan c1:00.0"]),
    ("laptop-apu", &["suggest 65:00.0"]),
    ("limine", &["suggest 01:00.0"]),
    ("mkinitcpio-not-listed", &["suggest 01:00.0", "plan"]),
    ("mkinitcpio-uki", &["suggest 01:00.0"]),
    ("nvswitch", &["plan", "suggest 51:00.0 43:00.0"]),
    ("opensuse-bls", &["suggest 01:00.0"]),
    ("ostree", &["suggest 01:00.0"]),
    ("ostree-hook", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("raspi", &["suggest 0001:01:00.1"]),
    ("vfio-ids-left", &["plan", "suggest 25:00.0", "status"]),
    ("alpine", &["suggest 01:00.0"]),
    ("bootc", &["suggest 01:00.0"]),
    ("cmdline-d", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("left-over", &["plan 01:00.0+slot", "suggest 01:00.0"]),
    ("limine-by-hand", &["suggest 01:00.0"]),
    ("nixos", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("opensuse-grub2-bls", &["suggest 01:00.0"]),
    ("proxmox", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    (
        "slot-form",
        &[
            "plan 01:00",
            "plan 0000:01:00",
            "plan pci_0000_01_00_0",
            "plan 0000:82.0.0",
            "plan (01:00.0)(01:00.1)",
            "plan 01:00.0;01:00.1",
            "plan class:03,!0000:00:02",
        ],
    ),
    ("strict", &["suggest 01:00.0", "plan"]),
    ("talos", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("truenas", &["suggest 01:00.0"]),
    ("ubuntu-both", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("ubuntu-unread", &["suggest 01:00.0", "plan 01:00.0+slot"]),
    ("unknown", &["suggest 01:00.0"]),
    ("unraid", &["suggest 01:00.0"]),
    ("vf-off", &["suggest 01:00.1"]),
    (
        "vfs-later",
        &[
            "plan",
            "status",
            "plan ?8086:1889",
            "plan ?8086:1889,?03:00.4",
            "plan ?8086:1889,!03:00.2",
        ],
    ),
    ("x670e", &["plan 0c:00.0", "suggest 0c:00.0"]),
];

/// What is told, but for whole lines of configuration files: a copy does not hold the words of others in them.
fn without_lines_of_files(told: &str) -> String {
    let (mut kept, mut is_line) = (String::new(), false);
    for line in told.lines() {
        let places = [
            ", replace the line by this",
            ", leave the line as it is",
            ", write as its one line",
            ", leave the one line as it is",
            ", add to the one line",
            ", add to the value of ",
            ", add the whole command line",
        ];
        let place = places.iter().find_map(|place| line.split_once(place));
        if !is_line {
            kept.push_str(place.map_or(line, |(before, _)| before));
            kept.push('\n');
        }
        is_line = place.is_some();
    }
    kept
}

#[test]
fn each_system_is_told_what_is_right_there() {
    for (machine, commands) in MACHINES {
        let desk = Desk::with(&[machine]);
        let lines: Vec<String> =
            commands.iter().map(|command| format!("{command} --from {machine}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let told = desk.screen(&lines);
        // A copy tells the same.
        assert!(desk.run(&format!("collect --from {machine} copy.tar")).status.success());
        let of_copy: Vec<String> =
            commands.iter().map(|command| format!("{command} --from copy.tar")).collect();
        let of_copy: Vec<&str> = of_copy.iter().map(String::as_str).collect();
        let name = format!("--from {machine}\n");
        let told_of_copy = without_lines_of_files(&desk.screen(&of_copy));
        let own = told.replace(&name, "--from copy.tar\n");
        assert_eq!(told_of_copy, without_lines_of_files(&own), "{machine}");
        insta::assert_snapshot!(format!("system_{machine}"), told);
    }
}

/// What each of these machines has besides a card at 01:00.0, and a display of its own.
const MACHINE: &str = "\
kernel 6.12.30
0000:00:00.0    060000 8086:4660 1043:8694  0 -
0000:00:01.0    060400 8086:460d 1043:8694  2 pcieport
  0000:01:00.0  030000 10de:2204 10de:1454 15 nouveau
  0000:01:00.1  040300 10de:1aef 10de:1454 15 snd_hda_intel
0000:00:02.0    030000 8086:4680 1043:8694  1 i915 boot
file lib/modules/6.12.30/modules.dep kernel/drivers/vfio/pci/vfio-pci.ko:
file lib/modules/6.12.30/modules.builtin
";

/// Systems by no more than what they are recognised by, each with its kernel command line.
const MADE_UP: &[(&str, &str, &[&str])] = &[
    (
        "alpine-from-memory",
        "modules=loop,squashfs,sd-mod,usb-storage modloop=/boot/modloop-lts quiet",
        &["file etc/os-release ID=alpine", "file sbin/mkinitfs", "mount 0:1 / tmpfs tmpfs"],
    ),
    (
        "armbian",
        "root=UUID=0 rootwait",
        &["file boot/armbianEnv.txt verbosity=1", "file usr/sbin/mkinitramfs"],
    ),
    (
        "chimeraos",
        "initrd=\\chimeraos-45\\initramfs-linux.img root=gpt-auto",
        &[
            "file etc/os-release ID=chimeraos",
            "file etc/os-release ID_LIKE=arch",
            "file usr/bin/mkinitcpio",
            "dir boot/loader/entries",
        ],
    ),
    (
        "clear",
        "initrd=\\EFI\\org.clearlinux\\initrd root=PARTUUID=0",
        &["file etc/os-release ID=clear-linux-os", "file usr/bin/clr-boot-manager"],
    ),
    (
        "clear-without-initramfs",
        "root=PARTUUID=0",
        &["file usr/bin/clr-boot-manager", "file initramfs.given no"],
    ),
    ("container-optimized", "dm_verity.error_behavior=3", &["file etc/os-release ID=cos"]),
    (
        "endless",
        "ostree=/ostree/boot.1/eos/0/0",
        &["file run/ostree-booted", "file etc/os-release ID=endless", "file usr/bin/dracut"],
    ),
    (
        "gentoo-genkernel",
        "BOOT_IMAGE=/vmlinuz root=UUID=0",
        &[
            "file usr/bin/genkernel",
            "file boot/initramfs-6.12.30.img",
            "file etc/default/grub #GRUB_CMDLINE_LINUX_DEFAULT=",
        ],
    ),
    (
        "gentoo-without-initramfs",
        "BOOT_IMAGE=/vmlinuz root=/dev/nvme0n1p2",
        &["file initramfs.given no", "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"\""],
    ),
    (
        "grub-and-an-image-of-nobody",
        "BOOT_IMAGE=/vmlinuz root=UUID=0",
        &[
            "file boot/initrd.img",
            "file usr/bin/update-grub",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"",
        ],
    ),
    (
        "guix",
        "root=0 gnu.system=/gnu/store/0-system gnu.load=/gnu/store/0-system/boot",
        &["file etc/os-release ID=guix"],
    ),
    (
        "harvester",
        "root=LABEL=COS_STATE cos-img/filename=/cOS/active.img",
        &["file etc/harvester-release.yaml harvester: v1.6.0", "file usr/bin/dracut"],
    ),
    (
        "live",
        "BOOT_IMAGE=/live/vmlinuz boot=live components",
        &["file usr/sbin/mkinitramfs", "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"\""],
    ),
    (
        "microos-grub",
        "BOOT_IMAGE=/boot/vmlinuz root=UUID=0",
        &[
            "file etc/os-release ID=\"opensuse-microos\"",
            "file usr/sbin/transactional-update",
            "file usr/bin/dracut",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"",
        ],
    ),
    (
        "microos-bls",
        "initrd=\\opensuse-microos\\initrd root=UUID=0",
        &[
            "file etc/os-release ID=\"opensuse-aeon\"",
            "file usr/sbin/transactional-update",
            "file usr/bin/sdbootutil",
            "file etc/sysconfig/bootloader LOADER_TYPE=\"systemd-boot\"",
            "file usr/bin/dracut",
            "file etc/kernel/cmdline quiet",
        ],
    ),
    (
        "openshift",
        "ostree=/ostree/boot.1/rhcos/0/0",
        &["file run/ostree-booted", "file usr/bin/rpm-ostree", "file etc/os-release ID=\"rhcos\""],
    ),
    (
        "read-only",
        "root=UUID=0 ro",
        &[
            "file usr/sbin/mkinitramfs",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"\"",
            "mount 8:1 / ext4 /dev/sda1 ro",
        ],
    ),
    (
        "remade-at-each-boot",
        "root=UUID=0",
        &["file usr/bin/mkinitcpio", "mount 0:22 / overlay overlayroot"],
    ),
    (
        "slackware",
        "auto BOOT_IMAGE=Linux ro root=801",
        &["file etc/lilo.conf append=\"\"", "file sbin/mkinitrd", "file boot/initrd.gz"],
    ),
    (
        "steamos",
        "BOOT_IMAGE=/boot/vmlinuz-linux-neptune steamos.efi=PARTUUID=0",
        &[
            "file etc/os-release ID=steamos",
            "file usr/bin/mkinitcpio",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"",
        ],
    ),
    (
        "u-boot-menu",
        "root=UUID=0",
        &[
            "file usr/sbin/u-boot-update",
            "file usr/sbin/mkinitramfs",
            "file etc/default/u-boot U_BOOT_PARAMETERS=\"ro quiet\"",
            "file boot/extlinux/extlinux.conf",
        ],
    ),
    (
        "ubuntu-core",
        "snapd_recovery_mode=run console=tty1",
        &["file etc/os-release ID=ubuntu-core"],
    ),
    (
        "vanilla",
        "BOOT_IMAGE=/.system/boot/vmlinuz root=UUID=0",
        &["file usr/bin/abroot", "file usr/sbin/mkinitramfs"],
    ),
    (
        "void",
        "BOOT_IMAGE=/boot/vmlinuz-6.12.30_1 root=UUID=0",
        &[
            "file etc/os-release ID=\"void\"",
            "file usr/bin/dracut",
            "file usr/sbin/update-grub",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"loglevel=4\"",
        ],
    ),
    (
        "arch-after-an-update",
        "initrd=\\initramfs-linux.img root=UUID=0 rw",
        &[
            "file etc/os-release ID=arch",
            "file usr/bin/mkinitcpio",
            "file etc/mkinitcpio.conf HOOKS=(base udev autodetect modconf block filesystems)",
            "dir boot/loader/entries",
            "file boot/initramfs-linux.img",
        ],
    ),
    (
        "endeavouros",
        "initrd=\\0\\6.12.30\\initrd root=UUID=0 rw",
        &[
            "file etc/os-release ID=endeavouros",
            "file usr/bin/dracut",
            "file usr/bin/reinstall-kernels",
            "file usr/bin/kernel-install",
            "file etc/kernel/cmdline quiet",
            "dir efi/loader/entries",
            "file efi/0/6.12.30/initrd",
        ],
    ),
    (
        "fedora",
        "BOOT_IMAGE=(hd0,gpt2)/vmlinuz-6.12.30 root=UUID=0 ro rhgb quiet",
        &[
            "file etc/os-release ID=fedora",
            "file usr/bin/dracut",
            "file usr/bin/grubby",
            "file etc/default/grub GRUB_CMDLINE_LINUX=\"rhgb quiet\"",
            "file boot/initramfs-6.12.30.img",
            "dir boot/loader/entries",
        ],
    ),
    (
        "fedora-uki",
        "root=UUID=0 ro",
        &[
            "file etc/os-release ID=fedora",
            "file usr/bin/dracut",
            "file usr/bin/grubby",
            "file usr/bin/kernel-install",
            "file etc/kernel/cmdline quiet",
            "file sys/firmware/efi/efivars/StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-stub 253.1",
        ],
    ),
    (
        "flatcar",
        "BOOT_IMAGE=/flatcar/vmlinuz-a mount.usr=PARTUUID=0",
        &["file etc/os-release ID=flatcar"],
    ),
    (
        "manjaro",
        "BOOT_IMAGE=/boot/vmlinuz-6.12-x86_64 root=UUID=0 rw",
        &[
            "file etc/os-release ID=manjaro",
            "file etc/os-release ID_LIKE=arch",
            "file usr/bin/mkinitcpio",
            "file etc/mkinitcpio.conf HOOKS=(base udev autodetect kms modconf block filesystems)",
            "file usr/bin/update-grub",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT='quiet splash'",
            "file boot/initramfs-6.12-x86_64.img",
        ],
    ),
    (
        "opensuse-grub",
        "BOOT_IMAGE=/boot/vmlinuz-6.12.30 root=UUID=0 splash=silent",
        &[
            "file etc/os-release ID=\"opensuse-tumbleweed\"",
            "file usr/bin/dracut",
            "file usr/sbin/grub2-mkconfig",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"splash=silent\" # theirs",
            "file etc/sysconfig/bootloader LOADER_TYPE=\"grub2-efi\"",
            "file boot/initrd-6.12.30",
        ],
    ),
    (
        "pop",
        "initrd=\\EFI\\Pop_OS-0\\initrd.img root=UUID=0 ro quiet",
        &[
            "file etc/os-release ID=pop",
            "file etc/os-release ID_LIKE=\"ubuntu debian\"",
            "file etc/kernelstub/configuration",
            "file usr/sbin/mkinitramfs",
            "file boot/initrd.img-6.12.30",
            "file usr/sbin/update-grub",
        ],
    ),
    (
        "proxmox-zfs",
        "initrd=\\EFI\\proxmox\\6.12.30\\initrd.img-6.12.30 root=ZFS=rpool/ROOT/pve-1 boot=zfs",
        &[
            "file etc/os-release ID=debian",
            "file etc/kernel/proxmox-boot-uuids 0",
            "file etc/kernel/cmdline quiet",
            "file usr/sbin/mkinitramfs",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"",
            "file usr/sbin/update-grub",
            "file sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-boot 257",
            "file boot/initrd.img-6.12.30",
            "file etc/modules vfio",
            "file etc/modprobe.d/pve-blacklist.conf blacklist nouveau",
            "file etc/modprobe.d/vfio.conf options vfio-pci ids=10de:2204,10de:1aef disable_vga=1 # both",
        ],
    ),
    (
        "words-behind-the-end",
        "BOOT_IMAGE=/vmlinuz root=UUID=0 quiet dyndbg=\"file dd.c +p\" -- single",
        &[
            "file usr/sbin/mkinitramfs",
            "file usr/sbin/update-grub",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT='quiet dyndbg=\"file dd.c +p\" -- single'",
            "file boot/initrd.img-6.12.30",
        ],
    ),
    (
        "gentoo-kernel-install",
        "root=UUID=0 ro",
        &[
            "file etc/os-release ID=gentoo",
            "file usr/bin/dracut",
            "file usr/bin/kernel-install",
            "file sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-boot 257",
            "file etc/kernel/cmdline quiet",
        ],
    ),
    (
        "limine-beside-grub",
        "root=UUID=0 rw quiet",
        &[
            "file usr/bin/mkinitcpio",
            "file usr/bin/limine-mkinitcpio",
            "file etc/default/limine",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"",
            "file sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f GRUB 2.12",
            "file etc/mkinitcpio.conf HOOKS=(base systemd)",
        ],
    ),
    (
        "limine-with-drop-ins",
        "quiet root=UUID=0 rw",
        &[
            "file usr/bin/mkinitcpio",
            "file usr/bin/limine-mkinitcpio",
            "file etc/limine-entry-tool.d/defaults.conf KERNEL_CMDLINE[default]+=\" quiet\"",
            "file etc/limine-entry-tool.d/root.conf KERNEL_CMDLINE[default]+=\" root=UUID=0 rw\"",
            "file etc/mkinitcpio.conf HOOKS=(base vfio-override systemd)",
            "file usr/lib/initcpio/install/vfio-override",
        ],
    ),
    (
        "limine-with-drop-ins-without-root",
        "initrd=/initramfs root=UUID=0 rw quiet vfio-pci.ids=10de:2204",
        &[
            "file usr/bin/mkinitcpio",
            "file usr/bin/limine-mkinitcpio",
            "file etc/default/limine ESP_PATH=\"/boot\"",
            "file etc/default/limine #KERNEL_CMDLINE[default]+=\"root=UUID=1\"",
            "file etc/limine-entry-tool.d/defaults.conf KERNEL_CMDLINE[default]+=\" quiet\"",
            "file etc/mkinitcpio.conf HOOKS=(base vfio-override systemd)",
            "file usr/lib/initcpio/install/vfio-override",
        ],
    ),
    (
        "rules-there",
        "BOOT_IMAGE=/vmlinuz-6.12.30 root=UUID=0 ro quiet vfio.override=01:00.0+slot",
        &[
            "file usr/sbin/mkinitramfs",
            "file boot/initrd.img-6.12.30",
            "file initramfs.list usr/lib/vfio-override/vfio-override-early",
            "file usr/sbin/update-grub",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"quiet vfio.override=01:00.0+slot\"",
        ],
    ),
    (
        "rules-there-for-others",
        "BOOT_IMAGE=/vmlinuz-6.12.30 root=UUID=0 ro vfio.override=00:02.0,?03:00.1,!01:00.2",
        &[
            "file usr/sbin/mkinitramfs",
            "file boot/initrd.img-6.12.30",
            "file initramfs.list usr/lib/vfio-override/vfio-override-early",
            "file usr/sbin/update-grub",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"vfio.override=00:02.0,?03:00.1,!01:00.2\"",
        ],
    ),
    (
        "several-loaders-by-its-image",
        "initrd=\\initramfs-linux.img root=UUID=0 rw quiet",
        &[
            "file usr/bin/mkinitcpio",
            "dir boot/loader/entries",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"",
            "file boot/initramfs-linux.img",
            "file etc/mkinitcpio.conf HOOKS=(base systemd autodetect)",
        ],
    ),
    (
        "several-loaders-one-starts-grub",
        "BOOT_IMAGE=/vmlinuz-linux root=UUID=0 rw quiet",
        &[
            "file usr/bin/mkinitcpio",
            "dir boot/loader/entries",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"",
            "file sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-boot 257",
            "file boot/initramfs-linux.img",
            "file etc/mkinitcpio.conf HOOKS=(base systemd autodetect)",
        ],
    ),
    (
        "several-loaders-refind",
        "initrd=boot\\initramfs-linux.img root=UUID=0 rw",
        &[
            "file usr/bin/mkinitcpio",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"",
            "dir boot/loader/entries",
            "file boot/refind_linux.conf \"Boot\" \"root=UUID=0 rw\"",
            "file sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f rEFInd 0.14.2",
            "file etc/mkinitcpio.conf HOOKS=(base udev)",
        ],
    ),
    (
        "entries-by-hand-beside-kernel-install",
        "initrd=\\initramfs-linux.img root=UUID=0 rw quiet",
        &[
            "file etc/os-release ID=arch",
            "file usr/bin/mkinitcpio",
            "file usr/bin/kernel-install",
            "file etc/kernel/cmdline root=UUID=0 rw",
            "dir boot/loader/entries",
            "file boot/initramfs-linux.img",
            "file etc/mkinitcpio.conf HOOKS=(base systemd autodetect)",
            "file sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-boot 257",
        ],
    ),
    (
        "entries-out-of-sight",
        "initrd=\\initramfs-linux.img root=UUID=0 rw",
        &[
            "file usr/bin/mkinitcpio",
            "file etc/mkinitcpio.conf HOOKS=(base vfio-override systemd)",
            "file usr/lib/initcpio/install/vfio-override",
            "file sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-boot 257",
            "dir boot",
        ],
    ),
    (
        "debian-dracut-systemd-boot",
        "initrd=\\0\\6.12.30\\initrd.img-6.12.30 root=UUID=0 ro quiet",
        &[
            "file etc/os-release ID=debian",
            "file usr/bin/dracut",
            "file usr/bin/kernel-install",
            "file etc/kernel/cmdline root=UUID=0 ro quiet",
            "file sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-boot 257",
            "dir boot/efi/loader/entries",
            "file boot/initrd.img-6.12.30",
        ],
    ),
    (
        "debian-systemd-boot",
        "initrd=\\0\\6.12.30\\initrd.img-6.12.30 root=UUID=0 ro quiet",
        &[
            "file etc/os-release ID=debian",
            "file usr/sbin/mkinitramfs",
            "file usr/bin/kernel-install",
            "file etc/initramfs/post-update.d/systemd-boot",
            "file etc/kernel/cmdline root=UUID=0 ro quiet",
            "file sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-boot 252",
            "dir boot/efi/loader/entries",
            "file boot/initrd.img-6.12.30",
        ],
    ),
    (
        "fedora-systemd-boot",
        "initrd=\\0\\6.12.30\\initrd root=UUID=0 ro",
        &[
            "file etc/os-release ID=fedora",
            "file usr/bin/dracut",
            "file usr/sbin/grubby",
            "file usr/bin/kernel-install",
            "file etc/kernel/cmdline root=UUID=0 ro",
            "file sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-boot 257",
            "dir boot/efi/loader/entries",
        ],
    ),
    (
        "limine-dracut",
        "root=UUID=0 rw",
        &[
            "file etc/os-release ID=cachyos",
            "file etc/default/limine",
            "file usr/bin/limine-update",
            "file usr/bin/limine-dracut",
            "file usr/bin/dracut",
            "file sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f Limine 9.0",
        ],
    ),
    (
        "etc-is-read-only",
        "BOOT_IMAGE=/vmlinuz root=UUID=0",
        &[
            "file usr/sbin/mkinitramfs",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"\"",
            "mount 8:1 / ext4 /dev/sda1",
            "mount 0:33 /etc overlay overlay ro",
        ],
    ),
    (
        "boot-is-read-only",
        "BOOT_IMAGE=/vmlinuz root=UUID=0",
        &[
            "file usr/sbin/mkinitramfs",
            "file usr/sbin/update-grub",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"\"",
            "0000:00:17.0 010601 8086:7ae2 1043:8694 3 ahci",
            "disk sda 8:0 0000:00:17.0 ata1/sda",
            "partition sda1 8:1 sda",
            "partition sda2 8:2 sda",
            "mount 8:1 / ext4 /dev/sda1",
            "mount 8:2 /boot ext4 /dev/sda2 ro",
        ],
    ),
    (
        "chromeos",
        "cros_secure loglevel=7",
        &["file etc/lsb-release CHROMEOS_RELEASE_NAME=Chrome OS"],
    ),
    (
        "slackware-elilo",
        "BOOT_IMAGE=dev000:\\EFI\\Slackware\\vmlinuz root=/dev/sda2 ro",
        &["file etc/slackware-version Slackware 15.0", "file boot/initrd.gz"],
    ),
    (
        "slackware-without-initramfs",
        "BOOT_IMAGE=Linux ro root=801",
        &[
            "file etc/slackware-version Slackware 15.0",
            "file etc/lilo.conf append=\"\"",
            "file initramfs.given no",
        ],
    ),
    (
        "armbian-extlinux",
        "root=UUID=0 ro",
        &[
            "file boot/armbianEnv.txt verbosity=1",
            "file boot/extlinux/extlinux.conf append root=UUID=0",
            "file usr/sbin/mkinitramfs",
        ],
    ),
    (
        "void-mkinitcpio",
        "BOOT_IMAGE=/boot/vmlinuz-6.12.30_1 root=UUID=0",
        &[
            "file etc/os-release ID=\"void\"",
            "file usr/bin/mkinitcpio",
            "file usr/sbin/update-grub",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"\"",
            "file etc/mkinitcpio.conf HOOKS=(base udev autodetect)",
        ],
    ),
    (
        "postmarketos",
        "root=UUID=0",
        &[
            "file etc/os-release ID=postmarketos",
            "file etc/os-release ID_LIKE=alpine",
            "file usr/sbin/mkinitfs",
        ],
    ),
    (
        "alpine-two-kernels",
        "BOOT_IMAGE=vmlinuz-lts initrd=initramfs-lts root=UUID=0",
        &[
            "file etc/os-release ID=alpine",
            "file sbin/mkinitfs",
            "file etc/update-extlinux.conf default_kernel_opts=\"quiet\"",
            "file boot/initramfs-lts",
            "file boot/initramfs-virt",
        ],
    ),
    (
        "crash-kernel",
        "BOOT_IMAGE=/vmlinuz root=UUID=0 crashkernel=384M-:128M",
        &[
            "file usr/bin/booster",
            "file boot/booster-6.12.30.img",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"\"",
            "file usr/sbin/update-grub",
            "file etc/default/kdump-tools USE_KDUMP=1",
        ],
    ),
    (
        "crash-kernel-with-a-hook",
        "BOOT_IMAGE=(hd0,gpt2)/vmlinuz-6.12.30 root=UUID=0 ro crashkernel=1G-4G:192M",
        &[
            "file usr/bin/dracut",
            "file usr/sbin/grubby",
            "file etc/sysconfig/kdump KDUMP_COMMANDLINE_APPEND=\"irqpoll\"",
        ],
    ),
    ("crash-kernel-unknown", "root=UUID=0 crashkernel=256M", &[]),
    (
        "uki-own-keys",
        "root=UUID=0 rw",
        &[
            "file usr/bin/mkinitcpio",
            "file etc/mkinitcpio.conf HOOKS=(base systemd autodetect)",
            "file etc/mkinitcpio.d/linux.preset default_uki=\"/efi/EFI/Linux/arch-linux.efi\"",
            "file etc/kernel/cmdline root=UUID=0 rw",
            "file sys/firmware/efi/efivars/StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-stub 257",
            "file sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c \u{1}",
            "dir efi/EFI",
            "file usr/bin/sbctl",
        ],
    ),
    (
        "uki-of-nobody-without-ukify",
        "root=UUID=0 rw",
        &[
            "file usr/bin/dracut",
            "file etc/dracut.conf.d/uki.conf uefi=\"yes\"",
            "file sys/firmware/efi/efivars/StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-stub 257",
            "dir efi/EFI",
        ],
    ),
    (
        "written-and-not-booted",
        "BOOT_IMAGE=/vmlinuz-6.12.30 root=UUID=0 ro",
        &[
            "file usr/sbin/mkinitramfs",
            "file usr/sbin/update-grub",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"quiet vfio.override=01:00.0+slot\"",
            "file boot/initrd.img-6.12.30",
            "file initramfs.list usr/lib/vfio-override/vfio-override-early",
        ],
    ),
    (
        "gentoo-without-initramfs-and-usr-apart",
        "BOOT_IMAGE=/vmlinuz root=/dev/nvme0n1p2",
        &[
            "file initramfs.given no",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"\"",
            "0000:00:17.0 010802 144d:a808 144d:a801 3 nvme",
            "disk nvme0n1 259:0 0000:00:17.0 nvme/nvme0/nvme0n1",
            "partition nvme0n1p2 259:2 nvme0n1",
            "partition nvme0n1p3 259:3 nvme0n1",
            "mount 259:2 / ext4 /dev/nvme0n1p2",
            "mount 259:3 /usr ext4 /dev/nvme0n1p3",
        ],
    ),
    (
        "gentoo-without-initramfs-with-an-init",
        "BOOT_IMAGE=/vmlinuz root=/dev/nvme0n1p2 init=/usr/lib/systemd/systemd",
        &["file initramfs.given no", "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"\""],
    ),
    (
        "gentoo-without-initramfs-again",
        "BOOT_IMAGE=/vmlinuz root=/dev/nvme0n1p2 init=/usr/lib/vfio-override/vfio-override-early",
        &["file initramfs.given no", "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"\""],
    ),
    (
        "grub-by-entries-without-grubby",
        "BOOT_IMAGE=(hd0,gpt2)/vmlinuz-6.12.30 root=UUID=0 ro",
        &[
            "file usr/bin/dracut",
            "file usr/sbin/grub2-mkconfig",
            "file etc/default/grub GRUB_CMDLINE_LINUX=\"rhgb quiet\"",
            "file usr/lib/kernel/install.d/20-grub.install",
            "dir boot/loader/entries",
            "file boot/initramfs-6.12.30.img",
        ],
    ),
    (
        "arch-fallback-beside-booster",
        "initrd=\\amd-ucode.img initrd=\\initramfs-linux-fallback.img root=UUID=0 rw",
        &[
            "file usr/bin/mkinitcpio",
            "file usr/bin/booster",
            "file etc/mkinitcpio.conf HOOKS=(base systemd)",
            "dir boot/loader/entries",
            "file boot/initramfs-linux-fallback.img",
            "file boot/booster-linux.img",
            "file lib/modules/6.12.30/pkgbase linux",
        ],
    ),
    (
        "container-of-a-session",
        "BOOT_IMAGE=(hd0,gpt2)/ostree/fedora-0/vmlinuz-6.12.30 root=UUID=0 rw ostree=/ostree/boot.1/fedora/0/0",
        &[
            "file run/.containerenv engine=\"podman\"",
            "file usr/bin/dracut",
            "file etc/os-release ID=fedora",
        ],
    ),
    (
        "container-of-a-system",
        "BOOT_IMAGE=/boot/vmlinuz-6.12.30 root=/dev/mapper/pve-root ro quiet",
        &[
            "file run/systemd/container lxc",
            "file etc/os-release ID=debian",
            "file usr/sbin/mkinitramfs",
        ],
    ),
    (
        "sdboot-manage",
        "initrd=\\initramfs-linux-cachyos.img root=UUID=0 rw quiet",
        &[
            "file etc/os-release ID=cachyos",
            "file usr/bin/mkinitcpio",
            "file etc/mkinitcpio.conf HOOKS=(base systemd autodetect)",
            "file usr/bin/sdboot-manage",
            "file etc/sdboot-manage.conf LINUX_OPTIONS=\"nowatchdog splash\"",
            "dir boot/loader/entries",
            "file boot/initramfs-linux-cachyos.img",
            "file sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-boot 257",
        ],
    ),
    (
        "chimera",
        "initrd=\\initrd.img-6.12.30 root=UUID=0 ro",
        &[
            "file etc/os-release ID=chimera",
            "file usr/bin/mkinitramfs",
            "file usr/bin/gen-systemd-boot",
            "dir boot/loader/entries",
            "file boot/initrd.img-6.12.30",
        ],
    ),
    (
        "zfsbootmenu-where-grub-was",
        "spl_hostid=0x00bab10c root=zfs:zroot/ROOT/void loglevel=4",
        &[
            "file etc/os-release ID=void",
            "file usr/bin/dracut",
            "file usr/bin/zbm-kcl",
            "file etc/zfsbootmenu/config.yaml Global:",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"loglevel=4\"",
            "file sys/firmware/efi/efivars/StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-stub 257",
            "dir boot/efi",
            "mount 0:28 / zfs zroot/ROOT/void",
        ],
    ),
    (
        "endeavouros-grub",
        "BOOT_IMAGE=/boot/vmlinuz-linux root=UUID=0 rw quiet",
        &[
            "file etc/os-release ID=endeavouros",
            "file usr/bin/dracut",
            "file usr/bin/dracut-rebuild",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT='nowatchdog'",
            "file boot/initramfs-linux.img",
            "file lib/modules/6.12.30/pkgbase linux",
        ],
    ),
    (
        "arch-dracut",
        "initrd=\\initramfs-linux.img root=UUID=0 rw quiet",
        &[
            "file etc/os-release ID=arch",
            "file usr/bin/dracut",
            "file usr/bin/kernel-install",
            "file etc/kernel/cmdline root=UUID=0",
            "file sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-boot 257",
            "file usr/lib/dracut/modules.d/50vfio-override",
            "dir boot/loader/entries",
            "file boot/initramfs-linux.img",
            "file lib/modules/6.12.30/pkgbase linux",
        ],
    ),
    (
        "limine-left-where-grub-boots",
        "BOOT_IMAGE=/boot/vmlinuz-linux root=UUID=0 rw quiet",
        &[
            "file usr/bin/mkinitcpio",
            "file usr/bin/limine-mkinitcpio",
            "file etc/default/limine",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"",
            "file etc/mkinitcpio.conf HOOKS=(base systemd)",
        ],
    ),
    (
        "grub-left-where-limine-boots",
        "root=UUID=0 rw quiet",
        &[
            "file usr/bin/mkinitcpio",
            "file boot/limine.conf /Arch",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"",
            "file etc/mkinitcpio.conf HOOKS=(base systemd)",
        ],
    ),
    (
        "entries-left-where-the-firmware-boots",
        "initrd=\\initramfs-linux.img root=UUID=0 rw",
        &[
            "file usr/bin/mkinitcpio",
            "file etc/mkinitcpio.conf HOOKS=(base systemd)",
            "dir boot/loader/entries",
            "file sys/firmware/efi/efivars/BootCurrent-8be4df61-93ca-11d2-aa0d-00e098032b8c x",
        ],
    ),
    (
        "uki-by-a-preset-with-a-file-of-its-own",
        "root=UUID=0 rw",
        &[
            "file usr/bin/mkinitcpio",
            "file usr/bin/kernel-install",
            "file etc/mkinitcpio.conf HOOKS=(base systemd autodetect)",
            "file etc/mkinitcpio.d/linux.preset default_uki=\"/efi/EFI/Linux/arch-linux.efi\"",
            "file etc/mkinitcpio.d/linux.preset default_options=\"--cmdline /etc/kernel/cmdline-arch\"",
            "file etc/kernel/cmdline root=UUID=old",
            "file sys/firmware/efi/efivars/StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-stub 257",
        ],
    ),
    (
        "usr-is-an-image",
        "root=gpt-auto usrhash=0",
        &[
            "file etc/os-release ID=particleos",
            "file usr/bin/dracut",
            "file sys/firmware/efi/efivars/StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-stub 258",
            "mount 8:1 / btrfs /dev/sda1",
            "mount 254:0 /usr erofs /dev/mapper/usr ro",
        ],
    ),
    (
        "usr-is-merged",
        "BOOT_IMAGE=(hd0,gpt2)/vmlinuz-6.12.30 root=UUID=0 ro",
        &[
            "file etc/os-release ID=fedora",
            "file usr/bin/dracut",
            "file usr/sbin/grubby",
            "mount 8:1 / btrfs /dev/sda1",
            "mount 0:40 /usr overlay sysext ro",
        ],
    ),
    (
        "over-the-network",
        "BOOT_IMAGE=debian/vmlinuz initrd=debian/initrd.img root=/dev/nfs nfsroot=10.0.0.1:/srv ip=dhcp",
        &[
            "file usr/sbin/mkinitramfs",
            "file usr/sbin/update-grub",
            "file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"",
            "mount 0:30 / nfs4 10.0.0.1:/srv",
        ],
    ),
    (
        "xcp-ng",
        "root=LABEL=root ro hpet=disable",
        &[
            "file sys/hypervisor/type xen",
            "file sys/hypervisor/uuid 00000000-0000-0000-0000-000000000000",
            "file usr/bin/dracut",
            "dir boot/grub",
        ],
    ),
];

/// What is at the top, and what to do.
#[test]
fn each_other_system_is_told_what_is_safe_there() {
    let desk = Desk::with(&[]);
    let mut screen = String::new();
    for (name, line, files) in MADE_UP {
        let text = format!("{MACHINE}cmdline {line}\n{}\n", files.join("\n"));
        copy::unfold_text(&text, &desk.path(name));
        let told = desk.screen(&[&format!("suggest --from {name} 01:00.0")]);
        let plan = desk.screen(&[&format!("plan --from {name} 01:00.0")]);
        assert!(![&told, &plan].iter().any(|text| text.contains("{page}")), "{told}\n{plan}");
        let is_table = |line: &&str| line.starts_with("  takes") || line.starts_with("  leaves");
        screen.extend(told.lines().filter(|line| !is_table(line)).flat_map(|line| [line, "\n"]));
        // A copy tells the same.
        assert!(desk.run(&format!("collect --from {name} {name}.tar")).status.success());
        let again = desk.screen(&[&format!("suggest --from {name}.tar 01:00.0")]);
        let again = without_lines_of_files(&again.replace(".tar", ""));
        assert_eq!(again, without_lines_of_files(&told));
    }
    insta::assert_snapshot!(screen);
}

/// Whatever the host boots from stays; what it has mounted besides is no surprise at the next boot.
#[test]
fn nothing_goes_that_the_host_boots_from() {
    const DISKS: &str = "\
kernel 6.12.30
cmdline BOOT_IMAGE=/vmlinuz root=UUID=0
0000:00:00.0    060000 8086:4660 1043:8694  0 -
0000:00:01.0    060400 8086:460d 1043:8694  2 pcieport
  0000:01:00.0  010802 144d:a808 144d:a801 15 nvme
0000:00:01.1    060400 8086:460d 1043:8694  3 pcieport
  0000:02:00.0  010802 144d:a808 144d:a801 16 nvme
0000:00:14.0    0c0330 8086:7ae0 1043:8694  4 xhci_hcd
disk nvme0n1 259:0 0000:01:00.0 nvme/nvme0/nvme0n1
disk nvme1n1 259:1 0000:02:00.0 nvme/nvme1/nvme1n1
disk sda 8:0 0000:00:14.0 usb2/2-1/2-1:1.0/host0/target0:0:0/0:0:0:0/block/sda
file usr/sbin/mkinitramfs
";
    const POOL: &str = "mount 0:30 / zfs rpool/ROOT\n";
    const MEMBER: &str = "file run/udev/data/b259:1 E:ID_FS_TYPE=zfs_member\n";
    const BOTH: &str =
        "mapping md0 9:0 nvme0n1\nln sys/devices/virtual/block/md0/slaves/nvme1n1 ../../nvme1n1";
    let cases = [
        ("mount 259:0 / ext4 /dev/nvme0n1", "01:00.0", "no", "nvme0n1 is mounted at /"),
        (
            "mount 259:0 /sysroot xfs /dev/nvme0n1",
            "01:00.0",
            "no",
            "nvme0n1 is mounted at /sysroot",
        ),
        ("mount 259:0 /nix ext4 /dev/nvme0n1", "01:00.0", "no", "nvme0n1 is mounted at /nix"),
        ("mount 8:0 / ext4 /dev/sda", "00:14.0", "no", "sda is mounted at /"),
        ("mapping dm-0 252:0 nvme0n1 r\nmount 252:0 / ext4 /dev/mapper/r", "01:00.0", "no", "dm-0"),
        ("mount 259:0 / ext4 /dev/nvme0n1", "02:00.0", "yes", ""),
        ("mount 259:1 /srv ext4 /dev/nvme1n1", "02:00.0", "yes", "nvme1n1 is mounted at /srv"),
        ("mount 8:0 /srv ext4 /dev/sda", "00:14.0", "yes", "sda is mounted at /srv"),
        // Whether it is a mirror, or half of each file is on either, is not known.
        (&format!("{BOTH}\nmount 9:0 / ext4 /dev/md0"), "01:00.0", "no", "md0 is mounted at /"),
    ];
    // Which pool a member is of is not known, nor, without udev's database, what is a member.
    for (lines, asked, may_go) in [
        (format!("{POOL}{MEMBER}"), "02:00.0", true),
        (format!("{POOL}{MEMBER}"), "01:00.0", false),
        (format!("{POOL}{MEMBER}"), "00:14.0", false),
        (POOL.to_owned(), "01:00.0", true),
        (format!("mount 259:0 / ext4 /dev/nvme0n1\n{MEMBER}"), "02:00.0", false),
    ] {
        let desk = Desk::with(&[]);
        copy::unfold_text(&format!("{DISKS}{lines}"), &desk.path("m"));
        let told = json(&desk.run(&format!("suggest --json --from m {asked}")));
        let first = told["steps"][0]["command"] == "zpool status -L -P";
        assert_eq!(first, may_go, "{lines} {asked}: {}", told["steps"]);
    }
    for (lines, asked, possible, says) in cases {
        let desk = Desk::with(&[]);
        copy::unfold_text(&format!("{DISKS}{lines}\n"), &desk.path("m"));
        let told = desk.run(&format!("suggest --json --from m {asked}"));
        assert_eq!(told.status.code(), Some(i32::from(possible != "yes")), "{lines} {asked}");
        let told = json(&told);
        assert_eq!(told["possible"], possible, "{lines} {asked}: {}", told["verdict"]);
        if possible == "no" {
            let verdict = told["verdict"].as_str().unwrap();
            assert!(verdict.contains("the host itself boots from what goes"), "{verdict}");
            assert!(verdict.contains(says), "{verdict}");
            assert_eq!(told["steps"].as_array().unwrap().len(), 0, "{lines} {asked}");
            continue;
        }
        // What is mounted otherwise is taken care of before anything else.
        let first = told["steps"][0]["what"].as_str().unwrap();
        let waits = first.starts_with("See that the next boot waits for nothing that goes (");
        assert_eq!(waits, !says.is_empty(), "{lines} {asked}: {first}");
        assert!(first.contains(says), "{first}");
    }
}

/// A line of HOOKS is printed only where it has all that was there: without a hook that was in a variable the next image may
/// not find its root file system.
#[test]
fn no_line_is_printed_that_loses_a_hook() {
    const HOW: &str = "have it in HOOKS, before udev";
    let cases = [
        (
            "HOOKS=(base udev block filesystems)",
            "HOOKS=(base vfio-override udev block filesystems)",
        ),
        ("HOOKS=\"base udev block\" # mine", "HOOKS=(base vfio-override udev block)"),
        ("HOOKS=( 'base' 'systemd' )", "HOOKS=(base vfio-override systemd)"),
        ("HOOKS=(base udev ${CRYPT} filesystems)", HOW),
        ("HOOKS=(base udev $(cat /etc/hooks) filesystems)", HOW),
        ("HOOKS=(base udev \"${MORE[@]}\")", HOW),
        ("HOOKS=(base udev block); HOOKS+=(encrypt)", HOW),
        ("HOOKS=(base udev block) MODULES=(nvme)", HOW),
        ("HOOKS=(base udev\nfile etc/mkinitcpio.conf   encrypt)", HOW),
        ("HOOKS=(\nfile etc/mkinitcpio.conf base udev # first\nfile etc/mkinitcpio.conf )", HOW),
        ("HOOKS=(base udev)\nfile etc/mkinitcpio.conf HOOKS+=(encrypt)", HOW),
        ("HOOKS=(base \"${X#y}\" udev)", HOW),
    ];
    for (hooks, told) in cases {
        let desk = Desk::with(&[]);
        let text = format!(
            "{MACHINE}cmdline quiet\nfile usr/bin/mkinitcpio\nfile usr/lib/initcpio/install/vfio-override\n\
             file etc/mkinitcpio.conf {hooks}\n"
        );
        copy::unfold_text(&text, &desk.path("m"));
        assert!(desk.run("collect --from m m.tar").status.success());
        for machine in ["m", "m.tar"] {
            let screen = desk.screen(&[&format!("suggest --from {machine} 01:00.0")]);
            assert!(screen.contains(told), "{machine} {hooks}\n{screen}");
            assert_eq!(screen.contains("HOOKS=("), told != HOW, "{machine} {hooks}\n{screen}");
        }
    }
}

/// Nor is it taken from the host while that runs.
#[test]
fn apply_leaves_what_the_host_runs_from() {
    const SOUND: &str = "  0000:01:00.1";
    let desk = Desk::with(&[]);
    let more = format!("  0000:01:00.2  010802 144d:a808 144d:a801 15 nvme\n{SOUND}");
    let text = format!(
        "{}cmdline quiet\ndisk nvme0n1 259:0 0000:01:00.2 nvme/nvme0/nvme0n1\nmount 259:0 / ext4 /dev/nvme0n1\n",
        MACHINE.replace(SOUND, &more)
    );
    copy::unfold_text(&text, &desk.path("m"));
    let told = desk.screen(&["apply --sysfs m/sys --cmdline m/proc/cmdline 01:00.*"]);
    let says = "error: the host runs from 0000:01:00.2 (nvme0n1 is mounted at /), and would stop: nothing was done";
    assert!(told.contains(says), "{told}");
    assert!(told.contains("(exit status 2)"), "{told}");
    for function in 0..=2 {
        let path = format!("m/sys/bus/pci/devices/0000:01:00.{function}/driver_override");
        assert_eq!(fs::read_to_string(desk.path(&path)).unwrap(), "(null)\n");
    }
}

/// A file that is made from something else is changed there.
#[test]
fn nixos_is_not_told_to_edit_what_it_makes() {
    let desk = Desk::with(&[]);
    let text = format!(
        "{MACHINE}cmdline init=/nix/store/0/init\nfile etc/NIXOS\nfile etc/modprobe.d/nixos.conf options vfio-pci \
         ids=8086:4680\n"
    );
    copy::unfold_text(&text, &desk.path("m"));
    let told = json(&desk.run("suggest --json --from m 01:00.0"));
    let steps = told["steps"].as_array().unwrap();
    let about_ids = |step: &&serde_json::Value| step["line"] == "options vfio-pci ids=8086:4680";
    let files: Vec<_> = steps.iter().filter(about_ids).map(|step| step["file"].clone()).collect();
    assert_eq!(files, ["/etc/nixos/configuration.nix", "/etc/nixos/configuration.nix"]);
}

/// Under WSL the hypervisor is not one that could be told of an IOMMU.
#[test]
fn wsl_is_told_what_cannot_be_there() {
    let desk = Desk::with(&[]);
    let text = "kernel 6.6.87.2-microsoft-standard-WSL2\ncmdline initrd=\\initrd.img WSL_ROOT_INIT=1\n\
                5582:00:00.0 030200 1414:008e 0000:0000 - dxgkrnl\nfile proc/cpuinfo flags : fpu hypervisor\n";
    copy::unfold_text(text, &desk.path("m"));
    let told = desk.run("suggest --json --from m 5582:00:00.0");
    assert_eq!(told.status.code(), Some(1));
    let told = json(&told);
    assert_eq!(told["possible"], "no");
    assert!(told["verdict"].as_str().unwrap().contains("this is WSL"), "{}", told["verdict"]);
}

/// Each of these takes functions that no rule selects, or may.
#[test]
fn what_else_takes_functions_is_named_wherever_it_stands() {
    let places = [
        ("etc/modprobe.d/x.conf", "options vfio-pci ids=8086:4680", "ids-left"),
        ("etc/modprobe.d/x.conf", "options vfio_pci disable_vga=1 ids=8086:4680", "ids-left"),
        (
            "etc/modprobe.d/x.conf",
            "options vfio-pci \\\nfile etc/modprobe.d/x.conf   disable_vga=1 \\\nfile etc/modprobe.d/x.conf ids=8086:4680",
            "ids-left",
        ),
        ("usr/lib/modprobe.d/x.conf", "options pci-stub ids=8086:4680", "ids-left"),
        ("run/modprobe.d/x.conf", "options vfio-pci ids=8086:4680", "ids-left"),
        ("etc/modules", "vfio-pci ids=8086:4680 disable_vga=1", "ids-left"),
        ("etc/initramfs-tools/modules", "vfio_pci ids=8086:4680", "ids-left"),
        ("etc/udev/rules.d/x.rules", "ATTR{driver_override}=\"vfio-pci\"", "udev-left"),
        (
            "etc/initramfs-tools/scripts/init-top/vfio",
            "echo vfio-pci >\"$DEV/driver_override\"",
            "udev-left",
        ),
        (
            "etc/initcpio/hooks/vfio",
            "echo 10de 2204 >/sys/bus/pci/drivers/vfio-pci/new_id",
            "udev-left",
        ),
        (
            "etc/systemd/system/vfio.service",
            "ExecStart=/bin/sh -c 'echo vfio-pci >/sys/x/driver_override'",
            "udev-left",
        ),
        (
            "etc/udev/rules.d/50-remove.rules",
            "ATTR{vendor}==\"0x10de\", ATTR{remove}=\"1\"",
            "udev-left",
        ),
        ("etc/supergfxd.conf", "  \"vfio_enable\": true,", "udev-left"),
        ("boot/config/vfio-pci.cfg", "BIND=0000:01:00.0|10de:2204", "udev-left"),
    ];
    for (file, line, kind) in places {
        let desk = Desk::with(&[]);
        copy::unfold_text(
            &format!("{MACHINE}cmdline quiet\nfile {file} {line}\n"),
            &desk.path("m"),
        );
        let told = |command: &str| json(&desk.run(&format!("{command} --json --from m")));
        for command in ["plan 01:00.0+slot", "suggest 01:00.0"] {
            let advice = told(command)["advice"].clone();
            let mut named =
                advice.as_array().unwrap().iter().filter(|advice| advice["kind"] == kind);
            let message =
                named.next().unwrap_or_else(|| panic!("{file} {command}"))["message"].clone();
            let message = message.as_str().unwrap();
            assert!(message.contains(&format!("/{file}")), "{message}");
            assert!(kind != "ids-left" || message.contains("0000:00:02.0"), "{message}");
            assert_eq!(named.next(), None, "{file}");
        }
        let steps = told("suggest 01:00.0")["steps"].to_string();
        assert!(kind != "ids-left" || steps.contains("ids=8086:4680"), "{file}: {steps}");
        // What people have commented out is not there; the last two have no comments.
        if ["etc/supergfxd.conf", "boot/config/vfio-pci.cfg"].contains(&file) {
            continue;
        }
        let desk = Desk::with(&[]);
        copy::unfold_text(
            &format!("{MACHINE}cmdline quiet\nfile {file} # {line}\n"),
            &desk.path("m"),
        );
        let told = json(&desk.run("plan --json --from m 01:00.0+slot"));
        assert!(!told["advice"].to_string().contains(kind), "{file}");
    }
}

/// Drivers that people keep from all functions, each spelling once.
#[test]
fn a_driver_that_the_command_line_keeps_away_is_named() {
    let told = |line: &str| {
        let desk = Desk::with(&[]);
        copy::unfold_text(&format!("{MACHINE}cmdline {line}\n"), &desk.path("m"));
        let told: Vec<_> = ["plan 01:00.0+slot", "suggest 01:00.0"]
            .map(|command| json(&desk.run(&format!("{command} --json --from m")))["advice"].clone())
            .map(|advice| {
                let advice = advice.as_array().unwrap().iter();
                let named = advice.filter(|advice| advice["kind"] == "modprobe-left");
                named.map(|advice| advice["message"].as_str().unwrap().to_owned()).collect()
            })
            .into();
        assert_eq!(told[0], told[1], "{line}");
        told.into_iter().next().unwrap()
    };
    for name in ["modprobe.blacklist", "module_blacklist", "rd.driver.blacklist"] {
        let keeps = |module: &str| {
            format!(
                "{name}= on the kernel command line keeps {module} from being loaded for any function, which \
                 vfio.override= does not need"
            )
        };
        let of_line = |value: &str| -> Vec<String> { told(&format!("quiet {name}={value}")) };
        assert_eq!(of_line("nouveau"), [keeps("nouveau")]);
        assert_eq!(of_line("pcspkr,nouveau,nvidia"), [keeps("nouveau"), keeps("nvidia")]);
        assert_eq!(of_line("snd-hda-intel"), [keeps("snd_hda_intel")]);
        // What stands behind `--` is for init, and all but the kernel read it there, too.
        if name != "module_blacklist" {
            assert_eq!(told(&format!("quiet -- {name}=nouveau")), [keeps("nouveau")]);
        }
        // What is for no function that a rule takes, what is no name, and what is init's.
        for value in ["i915", "pcspkr", "", "nouveau;x", "x -- module_blacklist=nouveau"] {
            assert_eq!(of_line(value), [""; 0], "{value}");
        }
    }
}

/// Whoever boots an older kernel has the rules there only once its image was made anew.
#[test]
fn an_image_of_another_kernel_that_lacks_the_hook_is_named() {
    let kernels = |lines: &str| {
        let desk = Desk::with(&[]);
        let text = format!(
            "{MACHINE}cmdline vfio.override=01:00.0+slot\nfile usr/sbin/mkinitramfs\n\
             file initramfs.list usr/lib/vfio-override/vfio-override-early\n\
             file usr/share/initramfs-tools/hooks/vfio-override\nfile boot/initrd.img-6.12.30\n{lines}"
        );
        copy::unfold_text(&text, &desk.path("m"));
        assert!(desk.run("collect --from m m.tar").status.success());
        let told = ["m", "m.tar"].map(|machine| {
            let commands = ["plan", "suggest 01:00.0", "status"];
            commands.map(|command| {
                let told = json(&desk.run(&format!("{command} --json --from {machine}")));
                let advice = told["advice"].as_array().unwrap().iter();
                let named = advice.filter(|advice| advice["kind"] == "other-kernels");
                let text =
                    |advice: &serde_json::Value| advice["message"].as_str().unwrap().to_owned();
                named.map(text).collect::<String>()
            })
        });
        assert_eq!(told[0], told[1], "{lines}");
        told.into_iter().next().unwrap()
    };
    let dep = |release: &str| format!("file lib/modules/{release}/modules.dep\n");
    let older = format!("{}old boot/initrd.img-6.11.0\n", dep("6.11.0"));
    let is_older = "the image of 6.11.0 is older than the hook, so that nothing applies the rules, or a former version does, when \
                    that kernel boots: run update-initramfs -u -k all";
    assert_eq!(kernels(&older), [is_older; 3]);
    let newer = format!("{}file boot/initrd.img-6.11.0\n", dep("6.11.0"));
    assert_eq!(kernels(&newer), [""; 3]);
    // What a removed kernel left is none.
    assert_eq!(kernels("dir lib/modules/6.1.0/updates\n"), [""; 3]);
    let unknown = "whether the image of 6.1.0 holds the hook is not known";
    let note = format!(
        "{unknown}; update-initramfs -u -k all makes the images of all kernels that it knows anew"
    );
    assert_eq!(kernels(&dep("6.1.0")), [note.as_str(), note.as_str(), ""]);
    let both = format!("{is_older}; {unknown}");
    assert_eq!(kernels(&format!("{older}{}", dep("6.1.0"))), [both.as_str(); 3]);
    // Where this kernel's image has to be made anew, that makes all of them.
    assert_eq!(kernels(&format!("{older}old boot/initrd.img-6.12.30\n")), [""; 3]);
}

/// The image that is kept boots by itself until the new one is known to, where no menu lists it; the commands say to
/// efibootmgr what it takes.
#[test]
fn where_no_menu_lists_the_kept_image_the_firmware_starts_it() {
    let told = |loader: &str| {
        let desk = Desk::with(&[]);
        let name = "file sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
        let loader = if loader.is_empty() { String::new() } else { format!("{name} {loader}\n") };
        let text = format!(
            "{MACHINE}cmdline root=UUID=0\nfile usr/bin/mkinitcpio\nfile etc/kernel/cmdline root=UUID=0\n\
             file etc/mkinitcpio.d/linux.preset default_uki=\"/efi/EFI/Linux/arch-linux.efi\"\n{loader}"
        );
        copy::unfold_text(&text, &desk.path("m"));
        let told = json(&desk.run("suggest --json --from m 01:00.0"));
        let steps = told["steps"].as_array().unwrap().iter();
        let texts = steps.map(|step| {
            (step["what"].to_string(), step["command"].as_str().unwrap_or("").to_owned())
        });
        texts.collect::<Vec<_>>()
    };
    let at = |steps: &[(String, String)], part: &str| {
        steps.iter().position(|(_, command)| command.contains(part))
    };
    for (loader, has_menu) in
        [("systemd-boot 257.5", true), ("rEFInd 0.14", true), ("Limine 9", false), ("", false)]
    {
        let steps = told(loader);
        let keep = at(&steps, "cp -n").unwrap();
        assert_eq!(
            steps[keep].0.contains(loader.split(' ').next().unwrap()),
            has_menu || loader.is_empty(),
            "{loader}"
        );
        let places = ["--create", "mkinitcpio -P", "--bootnext", "status", "--delete-bootnum"];
        let places = places.map(|part| at(&steps, part));
        if has_menu {
            assert_eq!([places[0], places[2], places[4]], [None; 3], "{loader}");
        } else {
            assert!(places.is_sorted() && Some(keep) < places[0], "{loader} {places:?}");
        }
    }
    // What the commands call is written down by programs in their place.
    let desk = Desk::with(&[]);
    let directory = desk.path("bin");
    fs::create_dir_all(&directory).unwrap();
    for (name, script) in [
        (
            "findmnt",
            "case $* in *TARGET*) echo /efi;; *) echo systemd-1; echo /dev/nvme0n1p2;; esac",
        ),
        ("lsblk", "echo nvme0n1"),
        ("uname", "echo 6.12.30"),
        (
            "efibootmgr",
            "[ $# = 0 ] || { printf '%s\\n' \"$*\" >>$LOG; exit; }; printf 'BootCurrent: 0004\\nBootOrder: 0007,0004\\n\
             Boot0004* Arch\\tHD(1)\\nBoot0007* before-vfio-override\\tHD(1)\\nBoot00A1  before-vfio-override\\tHD(1)\\n'",
        ),
    ] {
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    copy::unfold_text(
        "file etc/mkinitcpio.d/linux.preset default_uki=\"/efi/EFI/Linux/arch-linux.efi\"\n\
         file usr/lib/modules/6.12.30/pkgbase linux\nfile sys/class/block/nvme0n1p2/partition 2\n",
        &desk.path("root"),
    );
    for (_, command) in told("").iter().filter(|(_, command)| command.contains("efibootmgr")) {
        let root = desk.path("root").display().to_string();
        let below = ["/etc/", "/usr/lib/", "/sys/"]
            .iter()
            .fold(command.clone(), |text, place| text.replace(place, &format!("{root}{place}")));
        let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &below]).env("PATH", path).env("LOG", desk.path("log"));
        assert!(shell.status().unwrap().success(), "{below}");
    }
    let log = fs::read_to_string(desk.path("log")).unwrap();
    assert_eq!(
        log,
        "--create --disk /dev/nvme0n1 --part 2 --label before-vfio-override --loader \\EFI\\Linux\\arch-linux~before.efi\n\
         --bootnext 0004\n--bootnum 0007 --delete-bootnum\n--bootnum 00A1 --delete-bootnum\n"
    );
}

/// modprobe reads the whole line, the kernel only up to `--`.
#[test]
fn ids_behind_the_end_are_taken_out_where_they_count() {
    const IDS: &str = "vfio_pci.ids=8086:4680";
    for (modules, counts) in [
        ("modules.dep kernel/drivers/vfio/pci/vfio-pci.ko:", true),
        ("modules.builtin kernel/drivers/vfio/pci/vfio-pci.ko", false),
    ] {
        let desk = Desk::with(&[]);
        let text = format!(
            "{}file lib/modules/6.12.30/modules.builtin\nfile lib/modules/6.12.30/modules.dep\n\
             file lib/modules/6.12.30/{modules}\ncmdline quiet -- {IDS} single\nfile usr/sbin/update-grub\n\
             file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"quiet -- {IDS} single\"\n",
            MACHINE.split("file ").next().unwrap()
        );
        copy::unfold_text(&text, &desk.path("m"));
        assert!(desk.run("collect --from m m.tar").status.success());
        for (machine, is_copy) in [("m", false), ("m.tar", true)] {
            for command in ["plan 01:00.0+slot", "suggest 01:00.0"] {
                let told = desk.screen(&[&format!("{command} --from {machine}")]);
                let warning = "vfio_pci.ids behind -- on the kernel command line, which modprobe reads all the same, makes";
                assert_eq!(told.contains(warning), counts, "{command} {modules}\n{told}");
                let back = format!("did, too, write again where these words stood\n       {IDS}");
                assert_eq!(told.contains(&back), counts && command.starts_with('s'), "{told}");
                let end =
                    if counts { " -- single\"" } else { " -- vfio_pci.ids=8086:4680 single\"" };
                assert!(command.starts_with('p') || is_copy || told.contains(end), "{told}");
            }
        }
    }
}

/// Takes the words of the new rule out of the line that was suggested, as the undo says, and looks who is taken then.
#[test]
fn an_undo_gives_the_device_back_or_names_what_keeps_it() {
    let machine = |desk: &Desk, name: &str, running: &str, written: &str| {
        let files =
            "file usr/sbin/update-grub\nfile usr/sbin/mkinitramfs\nfile boot/initrd.img-6.12.30";
        let text = format!(
            "{MACHINE}cmdline {running}\n{files}\nfile etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=\"{written}\"\n"
        );
        copy::unfold_text(&text, &desk.path(name));
    };
    let taken = |desk: &Desk, name: &str| -> Vec<String> {
        let told = json(&desk.run(&format!("plan --json --from {name}")));
        let rules = told["rules"].as_array().unwrap().iter();
        let functions = rules.flat_map(|rule| rule["functions"].as_array().unwrap());
        let taken = functions.filter(|function| !function["kept_for"].is_null());
        taken.map(|function| function["address"].as_str().unwrap().to_owned()).collect()
    };
    for (number, former) in [
        "vfio.override=01:00.0+slot,off",
        "vfio.override=off vfio.override=class:03",
        "vfio.override=class:03,off",
        "vfio.override=01:00.0",
        "vfio.override=01:00.0,01:00.1",
        "vfio.override=class:03",
        "vfio.override=10de:2204,?05:00.0",
        "vfio.override=class:03,!boot_vga",
        "vfio.override=00:02.0",
        "vfio.override=\"01:00.0, 00:02.0\"",
    ]
    .into_iter()
    .enumerate()
    {
        for running in [former, "quiet"] {
            let desk = Desk::with(&[]);
            let written = format!("quiet {}", former.replace('"', ""));
            let written =
                if former.contains('"') { "quiet vfio.override=01:00.0,00:02.0" } else { &written };
            machine(&desk, "before", running, written);
            let told = json(&desk.run("suggest --json --from before 01:00.0"));
            let steps = told["steps"].as_array().unwrap();
            let line = steps.iter().find_map(|step| {
                step["line"].as_str()?.strip_prefix("GRUB_CMDLINE_LINUX_DEFAULT=")
            });
            let line = line.unwrap().trim_matches(['"', '\'']);
            machine(&desk, "with", line, line);
            let new = format!("vfio.override={}", told["parameter"].as_str().unwrap());
            let undone = line.replace(&new, "");
            machine(&desk, "undone", &undone, &undone);
            let left = taken(&desk, "undone");
            let is_off = former.contains("off");
            assert!(
                !is_off || left.is_empty() && taken(&desk, "with").len() == 2,
                "{former}: {line}"
            );
            let names = |word: &str| {
                let has = |step: &serde_json::Value| {
                    let what = step["what"].as_str().unwrap();
                    what.contains("take out what concerns it: ") && what.contains(word)
                };
                steps.iter().any(has)
            };
            let is_kept = left.iter().any(|address| address.starts_with("0000:01:00."));
            assert_eq!(is_kept, names("vfio.override="), "{number} {former}: {left:?} {told}");
            // What is taken out can be had again.
            let is_back = |step: &serde_json::Value| {
                step["what"].as_str().unwrap().starts_with("To have back the rules of before")
            };
            assert_eq!(steps.iter().any(is_back), !undone.contains("override"), "{former}: {told}");
        }
    }
}

/// `docs/others.md` has a boot with `off` tell what takes functions besides the rules.
#[test]
fn with_the_rules_off_what_else_took_a_function_is_named() {
    let page = include_str!("../../docs/others.md");
    let says = "which no rule of the kernel command line asks for";
    assert_eq!(page.matches(says).count(), 2);
    for (driver, is_told) in [("vfio-pci", true), ("nouveau", false)] {
        let desk = Desk::with(&[]);
        let functions = MACHINE.replace("15 nouveau", &format!("15 {driver}"));
        let text = format!("{functions}cmdline quiet vfio.override=01:00.0 vfio.override=off\n");
        copy::unfold_text(&text, &desk.path("m"));
        let status = desk.screen(&["status --from m"]);
        assert_eq!(
            status.contains(&format!("01:00.0: {driver} has it, {says}")),
            is_told,
            "{status}"
        );
        let list = desk.screen(&["list --from m"]);
        assert!(
            list.lines().any(|line| line.contains("01:00.0") && line.contains(driver)),
            "{list}"
        );
    }
}

/// What is on the command line by a command is had again by one.
#[test]
fn what_a_command_takes_out_is_had_again_by_one() {
    let desk = Desk::with(&[]);
    let text = format!(
        "{MACHINE}cmdline quiet vfio-pci.ids=8086:4680 vfio.override=01:00.0\nfile run/ostree-booted\nfile usr/bin/rpm-ostree\n"
    );
    copy::unfold_text(&text, &desk.path("m"));
    let told = desk.screen(&["suggest --from m 01:00.0"]);
    for back in [
        "To have back what vfio-pci.ids did, too\n       sudo rpm-ostree kargs --append-if-missing='vfio-pci.ids=8086:4680'",
        "To have back the rules of before, too\n       sudo rpm-ostree kargs --append-if-missing='vfio.override=01:00.0'",
    ] {
        assert!(told.contains(back), "{told}");
    }
}

/// Rules that are written where the boot loader reads them, and did not come along, are told until they do.
#[test]
fn rules_that_were_written_and_not_booted_are_told() {
    const GRUB: &str =
        "file usr/sbin/update-grub\nfile etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT=";
    const UKI: &str = "file usr/bin/mkinitcpio\nfile etc/mkinitcpio.d/linux.preset default_uki=\"/efi/x.efi\"\n\
                       file etc/kernel/cmdline ";
    let cases = [
        (GRUB, "\"quiet vfio.override=01:00.0\"", "root=UUID=0", true),
        (GRUB, "\"quiet vfio.override=01:00.0\"", "root=UUID=0 -- vfio.override=01:00.0", true),
        (GRUB, "\"quiet\"", "root=UUID=0", false),
        (GRUB, "\"quiet -- vfio.override=01:00.0\"", "root=UUID=0", false),
        (GRUB, "\"quiet vfio.override=01:00.0\"", "root=UUID=0 vfio.override=01:00.0", false),
        (UKI, "root=UUID=0 vfio.override=01:00.0", "root=UUID=0", true),
        (UKI, "root=UUID=0", "root=UUID=0", false),
    ];
    for (file, text, line, is_told) in cases {
        let desk = Desk::with(&[]);
        copy::unfold_text(&format!("{MACHINE}cmdline {line}\n{file}{text}\n"), &desk.path("m"));
        for command in ["plan", "status"] {
            let told = desk.screen(&[&format!("{command} --from m")]);
            let says = " has vfio.override=01:00.0, which this boot did not get: run ";
            assert_eq!(told.contains(says), is_told, "{command} {file}{text} {line}\n{told}");
        }
    }
}

const SECRET: &str = "5ec2e7";

/// A machine each of whose files that are looked at has a secret in what is of use, beside it, and behind it.
const SECRETS: &str = r#"
kernel 6.12.30
cmdline BOOT_IMAGE=/5ec2e7/vmlinuz initrd=\5ec2e7\6.12.30\initrd root=UUID=5ec2e7 cryptdevice=5ec2e7:x quiet init=/home/5ec2e7/init vfio-pci.ids=10de:2204 ip=5ec2e7 vfio.override=25:00.0
0000:00:00.0    060000 8086:4660 1043:8694  0 -
0000:00:01.0    060400 8086:460d 1043:8694  2 pcieport
  0000:01:00.0  030000 10de:2204 10de:1454 15 nouveau
  0000:01:00.1  040300 10de:1aef 10de:1454 15 snd_hda_intel
  0000:01:00.2  010802 144d:a808 144d:a801 15 nvme
0000:00:02.0    030000 8086:4680 1043:8694  1 i915 boot
disk nvme0n1 259:0 0000:01:00.2 nvme/nvme0/nvme0n1
mount 259:0 / btrfs /dev/nvme0n1
vnet wg-5ec2e7 up
file lib/modules/6.12.30/modules.dep kernel/drivers/vfio/pci/vfio-pci.ko: kernel/5ec2e7.ko
file lib/modules/6.12.30/modules.builtin
file lib/modules/6.12.30/pkgbase linux
file lib/modules/6.12.30/pkgbase 5ec2e7
file boot/5ec2e7/6.12.30/initrd
file boot/5ec2e7/6.11.0/initrd
file lib/modules/6.11.0/modules.dep 5ec2e7
file initramfs.list usr/lib/vfio-override/vfio-override-early
file initramfs.list etc/5ec2e7/vfio-5ec2e7.conf
file initramfs.list usr/share/5ec2e7/buildconfig
file etc/os-release NAME="5ec2e7"
file etc/os-release ID=arch # 5ec2e7
file etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT="quiet key=5ec2e7" # 5ec2e7
file etc/default/grub GRUB_PASSWORD=5ec2e7
file etc/kernel/cmdline quiet root=UUID=5ec2e7 # 5ec2e7
file etc/cmdline.d/x.conf key=5ec2e7
file etc/default/limine KERNEL_CMDLINE[default]="5ec2e7"
file boot/limine.conf cmdline: 5ec2e7
file boot/loader/entries/x.conf options root=5ec2e7
file etc/sysconfig/bootloader LOADER_TYPE="grub2" # 5ec2e7
file usr/bin/mkinitcpio
file usr/bin/dracut
file usr/bin/driverctl
file usr/sbin/driverctl
file usr/lib/initcpio/install/vfio-override
file etc/mkinitcpio.d/linux.preset default_uki="/5ec2e7/x.efi"
file etc/mkinitcpio.d/linux.preset default_options="--skiphooks vfio-override,5ec2e7"
file etc/mkinitcpio.conf HOOKS=(base udev "pass=5ec2e7" block) KEY=5ec2e7 # 5ec2e7
file etc/mkinitcpio.conf.d/x.conf MODULES=(vfio_virqfd key:5ec2e7) # 5ec2e7
file etc/dracut.conf.d/x.conf omit_dracutmodules+=" vfio-override 5ec2e7 "
file etc/modules vfio_virqfd 5ec2e7 # 5ec2e7
file etc/modprobe.d/x.conf options vfio-pci ids=10de:2204 key=5ec2e7 # 5ec2e7
file etc/modprobe.d/x.conf options pci-stub ids=5ec2e7:1:zz
file etc/modprobe.d/x.conf install vfio-pci /usr/local/bin/x --token=5ec2e7
file etc/modprobe.d/x.conf install nouveau /bin/false 5ec2e7
file etc/modprobe.d/x.conf softdep nouveau pre: vfio-pci x5ec2e7
file etc/modprobe.d/x.conf blacklist nouveau # 5ec2e7
file etc/modprobe.d/x.conf blacklist x:5ec2e7
file etc/driverctl.d/0000:01:00.0 key:5ec2e7
file etc/driverctl.d/0000:01:00.1 nouveau
file etc/driverctl.d/0000:01:00.1 5ec2e7
file etc/udev/rules.d/x.rules ATTR{driver_override}="5ec2e7"
file etc/libvirt/qemu/5ec2e7.xml <name>5ec2e7</name><hostdev managed='yes'><source><address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source><x>5ec2e7</x></hostdev>
file run/udev/data/b259:0 E:ID_SERIAL=5ec2e7
file run/udev/data/b259:0 E:ID_FS_TYPE=btrfs
file sys/class/dmi/id/sys_vendor 5ec2e7
file proc/cpuinfo Serial : 5ec2e7
file sys/firmware/acpi/tables/DMAR
file dev/kmsg 6,0,0,-;Linux version 6.12.30 5ec2e7
file dev/kmsg 6,1,0,-;Command line: 5ec2e7
file sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f systemd-boot 257 5ec2e7
"#;

#[test]
fn a_copy_holds_no_more_of_a_file_than_is_of_use() {
    let boots = [
        "",
        // Other systems look at other files.
        "file etc/NIXOS",
        "file usr/bin/midclt",
        "file run/ostree-booted\nfile usr/bin/rpm-ostree",
        "file etc/unraid-version 5ec2e7",
        "file etc/update-extlinux.conf default_kernel_opts=\"quiet key=5ec2e7\"",
        "file boot/firmware/cmdline.txt quiet key=5ec2e7",
        "file etc/kernel/proxmox-boot-uuids 5ec2e7",
        "file usr/bin/sdbootutil",
        "file etc/default/u-boot U_BOOT_PARAMETERS=\"quiet 5ec2e7\"\nfile usr/sbin/u-boot-update",
        "file etc/kernelstub/configuration 5ec2e7",
    ];
    for boot in boots {
        let desk = Desk::with(&[]);
        copy::unfold_text(&format!("{SECRETS}{boot}\n"), &desk.path("machine"));
        assert!(desk.run("collect --from machine copy.tar").status.success(), "{boot}");
        let copy = fs::read(desk.path("copy.tar")).unwrap();
        let text = String::from_utf8_lossy(&copy);
        if let Some(at) = text.find(SECRET) {
            let start = text[..at].rfind('\0').map_or(0, |nul| nul.saturating_sub(600));
            let around: String =
                text[start..at + 60].chars().filter(|letter| *letter != '\0').collect();
            panic!("{boot}: {around}");
        }
        for command in
            ["suggest 01:00.0", "suggest 01:00.1", "plan", "plan 01:00.*", "status", "list"]
        {
            let answer = |machine: &str| desk.screen(&[&format!("{command} --from {machine}")]);
            let own = answer("machine").replace("machine", "copy.tar");
            assert_eq!(answer("copy.tar"), own, "{boot} {command}");
        }
    }
}

/// The kernel panics where the file that `rdinit=` names is not in the image.
#[test]
fn no_word_is_told_without_the_step_that_makes_it_safe() {
    for machine in copy::names() {
        let desk = Desk::with(&[&machine]);
        let list = json(&desk.run(&format!("list --json --from {machine}")));
        for function in list["functions"].as_array().unwrap() {
            let address = function["address"].as_str().unwrap();
            let told = desk.run(&format!("suggest --json --from {machine} {address}"));
            if told.status.code() == Some(2) {
                continue;
            }
            let told = json(&told);
            let steps = told["steps"].as_array().unwrap();
            let text = |step: &serde_json::Value| {
                ["what", "file", "line", "command"]
                    .map(|part| step[part].as_str().unwrap_or("").to_owned())
                    .join(" ")
            };
            let is_good = told["possible"] == "yes";
            assert!(
                is_good || told["possible"] == "not-yet" || steps.is_empty(),
                "{machine} {address}"
            );
            assert!(!is_good || told["parameter"].is_string(), "{machine} {address}");
            let first = steps.iter().position(|step| text(step).contains("rdinit="));
            if let Some(first) = first {
                // An addon has the archive and the word, or neither.
                let has_both =
                    text(&steps[first]).contains(" --initrd=/boot/vfio-override.cpio.gz");
                let before = steps[..first].iter().map(text).collect::<String>();
                let puts = before.contains("vfio-override-early");
                let loads = has_both
                    || before.contains("initrd")
                    || before.contains("mkinitfs")
                    || before.contains("module_path");
                assert!(puts && loads, "{machine} {address}: {before}");
            }
            for advice in told["advice"].as_array().unwrap() {
                assert!(!text(advice).contains("rdinit="), "{machine} {address}: {advice}");
                assert!(
                    !advice["message"].as_str().unwrap().contains("rdinit="),
                    "{machine} {address}"
                );
            }
        }
        for command in ["plan", "plan class:03", "status", "suggest"] {
            let screen = desk.screen(&[&format!("{command} --from {machine}")]);
            assert!(
                !screen.contains("rdinit=") || screen.contains("1. "),
                "{machine} {command}: {screen}"
            );
        }
    }
}
