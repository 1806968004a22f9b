// SPDX-License-Identifier: MIT OR Apache-2.0
//! The systems that are known: how each is recognised, where its kernel parameters go, how its image is made.
//!
//! Of the entries whose sign is there, the first that says where the parameter goes and the first that says how the
//! image is made count; one that is `alone` counts for both, whatever else is found. What no entry says is not known.
//! A new system is one entry here, one machine in `tests/machines`, one page in `docs`.

use super::sign::Sign::{
    self, All, Any, Has, Loader, Not, Os, ReadOnly, RootOn, Says, SomeSays, Stub, UsrOn, Word,
};

/// A system, or the part of one that boots it or makes its image.
pub struct System {
    pub name: &'static str,
    /// Its page in `docs`.
    pub page: &'static str,
    pub sign: Sign,
    /// Whether nothing else that is found beside it counts.
    pub is_alone: bool,
    pub line: Option<Line>,
    pub image: Option<Image>,
}

/// Where the kernel command line is.
pub struct Line {
    pub place: Location,
    /// What comes between a change there and what makes it count.
    pub before: Option<Before>,
    /// What makes a change there count: the first whose program is there, else the last.
    pub then: &'static [(&'static str, &'static str)],
    /// How this boot loader is told of one more archive beside the image.
    pub second: Option<Second>,
}

/// What has to be done before a change of the command line is made to count; `{page}` is the page of this loader.
pub enum Before {
    /// Once, so that there is a way back; with what has the firmware start it, where no boot menu lists what is kept.
    Keep(Given, Option<&'static WithoutMenu>),
    /// With each change.
    Make(&'static str),
}

/// How the firmware starts the image that is kept, unless it is told to start the new one, at one boot.
pub struct WithoutMenu {
    /// Behind the keeping.
    pub entry: Given,
    /// Before the boot.
    pub next: Given,
    /// Once that boot was as asked.
    pub end: Given,
}

pub enum Location {
    /// The value of a shell variable in this file; the name is with its `=`.
    Variable { file: &'static str, name: &'static str, more: Option<More> },
    /// The one line of this file.
    Whole(&'static str),
    /// What is described so, in this file, where each word is written so.
    Part { file: &'static str, to: &'static str, word: &'static str },
    /// A line of one's own in this file, with all words of ours, or with the `{whole}` command line.
    Own { file: &'static str, line: &'static str },
    /// No file, but commands.
    Command(Command),
    /// A file of one's own in this directory, which is put beside unified kernel images and has words and an archive.
    Addon(&'static str),
}

/// More files that are read behind the first, where a program is there.
pub struct More {
    pub program: &'static str,
    pub directory: &'static str,
    pub end: &'static str,
}

/// A command that changes the command line.
pub struct Command {
    pub start: &'static str,
    /// An option for what is added, and one for what is taken out.
    pub add: &'static str,
    pub drop: &'static str,
    /// Whether each word takes an option of its own.
    pub each: bool,
}

/// One more archive beside the image.
pub struct Second {
    /// Where it has to be.
    pub archive: &'static str,
    /// What tells the boot loader of it, where being there does not.
    pub edit: Option<Edit>,
}

/// A line that goes into a file, at a place that is described.
pub struct Edit {
    pub file: &'static str,
    pub what: &'static str,
    pub line: &'static str,
}

/// How the image is made.
pub struct Image {
    pub maker: &'static str,
    /// A path that is in every image of this maker's, and in no other's.
    pub mark: Option<&'static str>,
    /// Where the image of the running kernel is, below the root: `{release}`, `{package}`.
    pub files: &'static [&'static str],
    pub way: Way,
    /// Makes it anew, with all others.
    pub rebuild: &'static str,
    /// Lists what an image holds, the image being its last argument.
    pub list: Option<&'static str>,
}

/// How the early binary gets into an image and is started there.
pub enum Way {
    /// A hook that is at this path, of which one component may end behind a `*`, and is in every image once it is there.
    Hook(&'static str),
    /// mkinitcpio's, which has to be in `HOOKS` too.
    Listed(&'static str),
    /// A hook like the first; but images come ready made, so that it has to be installed and built in as said here.
    /// `undo` takes that back, where the system's own image can be had again.
    ReadyMade { hook: &'static str, install: Given, build: Given, undo: Option<Given> },
    /// Steps of the system's own. With them, and never without, the kernel is told to start the early binary; `check`
    /// tells whether it can, once all is made.
    /// `left` is what may be taken away once a boot without the words went well.
    Steps { steps: &'static [Given], start: &'static str, check: Option<Given>, left: &'static str },
    /// There is no hook: an archive beside the image, where the boot loader can load one. What has vfio-pci loaded, which
    /// is not there before.
    Archive(Given),
    /// It does not, as far as is known, for this reason.
    Not(&'static str),
}

/// A step that is the same everywhere.
pub struct Given {
    pub what: &'static str,
    pub file: Option<&'static str>,
    pub line: Option<&'static str>,
    pub command: Option<&'static str>,
}

const fn command(what: &'static str, command: &'static str) -> Given {
    Given { what, file: None, line: None, command: Some(command) }
}

const fn line(what: &'static str, line: &'static str) -> Given {
    Given { what, file: None, line: Some(line), command: None }
}

/// An entry that says only how the image is made.
const fn maker(page: &'static str, sign: Sign, image: Image) -> System {
    System { name: image.maker, page, sign, is_alone: false, line: None, image: Some(image) }
}

/// An entry that says only where the parameter goes.
const fn loader(name: &'static str, page: &'static str, sign: Sign, line: Line) -> System {
    System { name, page, sign, is_alone: false, line: Some(line), image: None }
}

/// Which has no `/usr` to install anything in.
pub const NIXOS: Sign = Any(&[Has("etc/NIXOS"), Os("nixos"), Word("init", "/nix/store/")]);
/// Where such a system's page unpacks vfio-override, below the home directory.
pub const HOMES: &str = "vfio-override";

const GRUB: Location = Location::Variable {
    file: "etc/default/grub",
    // The one that the recovery entries do not use, so that they stay a way out.
    name: "GRUB_CMDLINE_LINUX_DEFAULT=",
    more: Some(More {
        program: "usr/sbin/update-grub",
        directory: "etc/default/grub.d",
        end: ".cfg",
    }),
};
const KERNEL_INSTALL: Location = Location::Whole("etc/kernel/cmdline");
const INITRAMFS_TOOLS: &str = "usr/share/initramfs-tools/hooks/vfio-override";
const DRACUT: &str = "usr/lib/dracut/modules.d/*vfio-override";
const MKINITCPIO: Way = Way::Listed("usr/lib/initcpio/install/vfio-override");
const MKINITCPIO_FILES: &[&str] = &[
    "boot/initramfs-{package}.img",
    "efi/initramfs-{package}.img",
    "boot/initramfs-{package}-fallback.img",
    "efi/initramfs-{package}-fallback.img",
];
/// What mkinitcpio puts into every image.
const MKINITCPIO_MARK: &str = "buildconfig";
const DRACUT_MARK: &str = "lib/dracut";
const DRACUT_FILES: &[&str] = &[
    "boot/initramfs-{package}.img",
    "boot/initramfs-{package}-fallback.img",
    "boot/initramfs-{release}.img",
    "boot/initrd-{release}",
    "boot/initrd.img-{release}",
];
const DRACUT_HERE: Sign = Any(&[Has("usr/bin/dracut"), Has("usr/sbin/dracut")]);
/// Arch names kernels and images by package; dracut by itself names them by release, and nothing boots what it makes then.
const DRACUT_BY_PACKAGE: &str = "sh -c 'for p in /lib/modules/*/pkgbase; do m=${p%/*}; dracut --force \
                                 /boot/initramfs-$(cat $p).img ${m##*/}; done'";
const fn dracut(rebuild: &'static str) -> Image {
    Image {
        maker: "dracut",
        mark: Some(DRACUT_MARK),
        files: DRACUT_FILES,
        way: Way::Hook(DRACUT),
        rebuild,
        list: Some("lsinitrd"),
    }
}
const KERNEL_INSTALL_UKI: Sign =
    All(&[Stub(0), Has("usr/bin/kernel-install"), Has("etc/kernel/cmdline")]);
/// GRUB names the kernel in each line that it hands over (`LINUX_IMAGE` in its loaders), and no image; the name that the firmware keeps may be that of one which started GRUB.
const BY_GRUB: Sign = All(&[Word("BOOT_IMAGE", "/"), Not(&Word("initrd", ""))]);
const SYSTEMD_BOOT: Sign = All(&[Loader("systemd-boot"), Not(&BY_GRUB)]);
/// As its package does it for each kernel that is installed: by itself it makes the image of the running one alone.
const MKINITFS: &str = "sh -c 'for k in /usr/share/kernel/*; do mkinitfs -o /boot/initramfs-${k##*/} $(cat $k/kernel.release); \
                        done'";
/// Another one booted, and Limine's files lie there as well.
const NO_OTHER_THAN_LIMINE: Sign =
    Not(&Any(&[BY_GRUB, SYSTEMD_BOOT, Loader("GRUB"), Loader("rEFInd")]));
/// limine-entry-tool writes the entries, for one of these.
const BY_LIMINE_S_TOOL: Sign = All(&[
    Any(&[
        Has("usr/bin/limine-mkinitcpio"),
        Has("usr/bin/limine-dracut"),
        Has("usr/bin/limine-update"),
    ]),
    NO_OTHER_THAN_LIMINE,
]);
const LIMINE_TOOLS: &[(&str, &str)] = &[
    ("usr/bin/limine-mkinitcpio", "limine-mkinitcpio"),
    ("usr/bin/limine-dracut", "limine-dracut"),
    ("usr/bin/limine-update", "limine-update"),
];
const LIMINE_FILE: &str = "/etc/default/limine";
/// Images that kernel-install never gives such names, in entries that were written by hand.
const BY_HAND: Sign = Any(&[
    Word("initrd", "initramfs-linux"),
    Word("initrd", "initramfs-cachyos"),
    Word("initrd", "booster-"),
]);
const PROXMOX: Sign = Has("etc/kernel/proxmox-boot-uuids");
const PROXMOX_REFRESH: &[(&str, &str)] = &[("", "proxmox-boot-tool refresh")];
/// `kernel-install add-all` is there since systemd 256, and finds no kernel in Debian 13, which has it in /boot.
const KERNEL_INSTALL_ALL: &str = "sh -c 'for m in /lib/modules/*; do v=${m##*/}; for k in $m/vmlinuz /boot/vmlinuz-$v; do \
                                  if [ -e $k ]; then kernel-install add $v $k; break; fi; done; done'";
const REINSTALL: &[(&str, &str)] = &[
    ("usr/bin/reinstall-kernels", "reinstall-kernels"),
    // Debian's systemd-boot has kernel-install called for each image that is made anew.
    ("etc/initramfs/post-update.d/systemd-boot", UPDATE_INITRAMFS),
    ("", KERNEL_INSTALL_ALL),
];
const UPDATE_INITRAMFS: &str = "update-initramfs -u -k all";
/// What it starts by kexec has neither a kernel's name nor an image's on its line, and still sees what the stub that
/// `ZFSBootMenu` came with told the firmware.
const BY_ZFSBOOTMENU: Sign = All(&[
    Has("usr/bin/zbm-kcl"),
    Has("etc/zfsbootmenu"),
    RootOn(&["zfs"]),
    Not(&Any(&[Word("BOOT_IMAGE", ""), Word("initrd", "")])),
]);
/// One that mkinitcpio makes, where no image by itself was booted.
const MKINITCPIO_UKI: Sign = All(&[
    Has("usr/bin/mkinitcpio"),
    SomeSays("etc/mkinitcpio.d", ".preset", "_uki="),
    Not(&Word("initrd", "")),
    Not(&Loader("GRUB")),
]);
/// systemd-boot sorts what has a `~` below its like (`strverscmp_improved`, by which it compares names), so that the
/// new image stays the one that boots by itself.
const KEEP_MKINITCPIO_UKI: Before = Before::Keep(
    command(
        "Keep the image that boots, as the way back, if the partition has room",
        "bash -c '. /etc/mkinitcpio.d/$(cat /usr/lib/modules/$(uname -r)/pkgbase).preset; cp -n \"$default_uki\" \
         \"${default_uki%.efi}~before.efi\"'",
    ),
    Some(&FIRMWARE_STARTS_KEPT),
);
/// `efibootmgr --create` puts its entry in front of all others (efibootmgr(8)), and `--bootnext` counts for one boot.
const FIRMWARE_STARTS_KEPT: WithoutMenu = WithoutMenu {
    entry: command(
        "No boot loader whose menu lists such images has told its name here: the firmware starts the image, and may show no menu. \
         Have it start the kept one from now on (efibootmgr is a package of its own; where a menu lists the images, leave this and the \
         other two steps with efibootmgr out)",
        "bash -c '. /etc/mkinitcpio.d/$(cat /usr/lib/modules/$(uname -r)/pkgbase).preset; f=${default_uki%.efi}~before.efi; \
         p=$(findmnt -nvo SOURCE -T \"$f\" | tail -n 1); m=$(findmnt -no TARGET -T \"$f\" | tail -n 1); f=${f#\"$m\"}; \
         efibootmgr --create --disk /dev/$(lsblk -dno PKNAME $p) --part $(cat /sys/class/block/${p##*/}/partition) \
         --label before-vfio-override --loader \"${f//\\//\\\\}\"'",
    ),
    next: command(
        "Have the firmware start the new image at the next boot alone. Where that one does not start, switch the machine off and on: \
         the kept one does",
        "sh -c 'efibootmgr --bootnext $(efibootmgr | sed -n \"s/^BootCurrent: //p\")'",
    ),
    end: command(
        "Once that boot is as asked, have the firmware start the new image at each boot again: take the entry of the kept one away",
        "sh -c 'for n in $(efibootmgr | sed -n \"s/^Boot\\([0-9A-F]*\\)[* ] *before-vfio-override.*/\\1/p\"); do \
         efibootmgr --bootnum $n --delete-bootnum; done'",
    ),
};
const KEEP_UKI: Before = Before::Keep(
    Given {
        what: "Keep the image that boots, as the way back, if the partition has room: {page} says how, where the firmware shows no \
               menu, too",
        file: None,
        line: None,
        command: None,
    },
    None,
);
/// systemd, `OpenRC` and the scripts of Void look there.
pub const LOAD: Given = Given {
    what: "In /etc/modules-load.d/vfio-pci.conf, add the line, since vfio-pci does not load by itself",
    file: Some("/etc/modules-load.d/vfio-pci.conf"),
    line: Some("vfio-pci"),
    command: None,
};

/// An image that nothing here can change.
const fn ready_made(load: Given) -> Image {
    Image {
        maker: "this system",
        mark: None,
        files: &[],
        way: Way::Archive(load),
        rebuild: "",
        list: None,
    }
}
/// Unraid, whose root file system, `/etc` and `/usr` with it, is made anew at each boot.
pub const UNRAID_SIGN: Sign = Has("etc/unraid-version");

const UNRAID: Image = ready_made(Given {
    what: "In /boot/config/go, add the line, since vfio-pci does not load by itself",
    file: Some("/boot/config/go"),
    line: Some("modprobe vfio-pci"),
    command: None,
});
/// openSUSE's tool, where it writes the boot loader's entries.
const SDBOOTUTIL: Sign = All(&[
    Has("usr/bin/sdbootutil"),
    Any(&[
        Has("boot/efi/EFI/systemd/installed_by_sdbootutil"),
        Says("etc/sysconfig/bootloader", "LOADER_TYPE=\"systemd-boot\""),
        Says("etc/sysconfig/bootloader", "LOADER_TYPE=\"grub2-bls\""),
        SYSTEMD_BOOT,
    ]),
]);
/// A root file system of snapshots, each of which is changed before it is booted.
const TRANSACTIONAL: Sign = All(&[
    Has("usr/sbin/transactional-update"),
    Any(&[
        ReadOnly,
        Os("opensuse-microos"),
        Os("opensuse-aeon"),
        Os("opensuse-kalpa"),
        Os("opensuse-leap-micro"),
        Os("sle-micro"),
        Os("sl-micro"),
    ]),
]);
const OF_A_SNAPSHOT: Image = Image {
    maker: "dracut",
    mark: Some(DRACUT_MARK),
    files: DRACUT_FILES,
    way: Way::ReadyMade {
        hook: DRACUT,
        install: command(
            "Install vfio-override's package into a new snapshot, since the root file system is read-only here",
            "transactional-update pkg install ./vfio-override-*.rpm",
        ),
        build: command(
            "Have the image of that snapshot made anew, so that it holds the hook",
            "transactional-update --continue initrd",
        ),
        undo: None,
    },
    rebuild: "transactional-update --continue initrd",
    list: Some("lsinitrd"),
};
const BEHIND: &str = "below the line that begins with initrd, add the line";

/// An archive that is put into the image itself.
const INTO_UKI: Second = Second {
    archive: "boot/vfio-override.cpio.gz",
    edit: Some(Edit {
        file: "the call of ukify that makes the unified kernel image",
        what: "add behind the other --initrd, then make and sign that image anew",
        line: "--initrd /boot/vfio-override.cpio.gz",
    }),
};

/// The first of systemd's stubs that takes an initrd from an addon, too.
pub const ADDONS: u32 = 257;

const fn addon(sign: Sign, directory: &'static str) -> System {
    let line = Line { place: Location::Addon(directory), before: None, then: &[], second: None };
    loader("UKI", "uki.md", sign, line)
}

/// Where tools keep the keys that unified kernel images are signed with: the key, and the certificate.
pub const KEYS: [(&str, &str); 2] = [
    ("var/lib/sbctl/keys/db/db.key", "var/lib/sbctl/keys/db/db.pem"),
    ("etc/kernel/secure-boot-private-key.pem", "etc/kernel/secure-boot-certificate.pem"),
];

const OF_ENTRY: &str = "the line that begins with options, of each entry that is to have it (sudo bootctl list tells which boots)";

const fn entries(sign: Sign, file: &'static str, archive: &'static str) -> System {
    let edit = Edit { file, what: BEHIND, line: "initrd  /vfio-override.cpio.gz" };
    let second = Second { archive, edit: Some(edit) };
    let place = Location::Part { file, to: OF_ENTRY, word: "{}" };
    let line = Line { place, before: None, then: &[], second: Some(second) };
    loader("systemd-boot", "systemd-boot.md", sign, line)
}

/// systemd-boot tells the firmware its name, which what the firmware starts by itself does not.
const NOT_BY_OTHERS: Sign = Not(&Any(&[
    Loader("rEFInd"),
    All(&[
        Has("sys/firmware/efi/efivars/BootCurrent-8be4df61-93ca-11d2-aa0d-00e098032b8c"),
        Not(&Has("sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")),
        Not(&BY_GRUB),
    ]),
]));

const fn unknown(name: &'static str, sign: Sign, why: &'static str) -> System {
    System {
        name,
        page: "appliances.md",
        sign,
        is_alone: true,
        line: None,
        image: Some(Image {
            maker: name,
            mark: None,
            files: &[],
            way: Way::Not(why),
            rebuild: "",
            list: None,
        }),
    }
}

pub static SYSTEMS: &[System] = &[
    unknown(
        "a container",
        Any(&[Has("run/systemd/container"), Has("run/.containerenv"), Has(".dockerenv")]),
        "it sees the functions of its host, and not what boots that: run this on the host itself",
    ),
    System {
        name: "NixOS",
        page: "nixos.md",
        sign: NIXOS,
        is_alone: true,
        line: Some(Line {
            place: Location::Part {
                file: "/etc/nixos/configuration.nix",
                to: "the list boot.kernelParams (make one if there is none; a second one is an error)",
                word: "\"{}\"",
            },
            before: None,
            then: &[("", "nixos-rebuild boot")],
            second: None,
        }),
        image: Some(Image {
            maker: "NixOS",
            mark: None,
            files: &[],
            way: Way::Steps {
                steps: &[
                    Given {
                        what: "Beside configuration.nix, make an archive that holds the early binary (nix-shell -p cpio \
                               has cpio; in a flake, git add it)",
                        file: Some("/etc/nixos/vfio-override.cpio"),
                        line: None,
                        command: Some(
                            "sh -c \"cd {early} && echo vfio-override-early | cpio -o -H newc \
                             >/etc/nixos/vfio-override.cpio\"",
                        ),
                    },
                    Given {
                        what: "In /etc/nixos/configuration.nix, add to the list boot.initrd.prepend (make one if there \
                               is none)",
                        file: Some("/etc/nixos/configuration.nix"),
                        line: Some("\"${./vfio-override.cpio}\""),
                        command: None,
                    },
                    Given {
                        what: "There, add to the list boot.kernelModules, since vfio-pci does not load by itself",
                        file: Some("/etc/nixos/configuration.nix"),
                        line: Some("\"vfio-pci\""),
                        command: None,
                    },
                ],
                start: "rdinit=/vfio-override-early",
                // The processor's microcode is an archive in front, behind which cpio would not look.
                check: Some(command(
                    "Before you reboot, see that the image holds the early binary: its name must come. Else take rdinit= \
                     out again, and nixos-rebuild boot",
                    "grep -a -o vfio-override-early /nix/var/nix/profiles/system/initrd",
                )),
                left: "what these steps added to boot.initrd.prepend and boot.kernelModules, and \
                       /etc/nixos/vfio-override.cpio",
            },
            rebuild: "nixos-rebuild boot",
            list: None,
        }),
    },
    unknown(
        "Red Hat CoreOS",
        Os("rhcos"),
        "its operator sets the image and the kernel parameters of every node, and takes a node whose own differ for \
         broken: there a MachineConfig has both (kernelArguments, and an image of one's own with the hook in it)",
    ),
    System {
        name: "rpm-ostree",
        page: "ostree.md",
        sign: All(&[Has("run/ostree-booted"), Has("usr/bin/rpm-ostree")]),
        is_alone: true,
        line: Some(Line {
            place: Location::Command(Command {
                start: "rpm-ostree kargs",
                add: "--append-if-missing={}",
                drop: "--delete-if-present={}",
                each: true,
            }),
            before: None,
            then: &[],
            second: None,
        }),
        image: Some(Image {
            maker: "dracut",
            mark: Some(DRACUT_MARK),
            files: &[],
            way: Way::ReadyMade {
                hook: DRACUT,
                install: command(
                    "Layer vfio-override's package ({page} says where it is), since /usr is read-only here",
                    "rpm-ostree install ./vfio-override-*.rpm",
                ),
                build: command(
                    "Once, have the image made on this machine, so that it holds the hook: those that come with the \
                     system do not",
                    "rpm-ostree initramfs --enable",
                ),
                undo: Some(command(
                    "That is enough. To have the image that comes with the system again, too, unless it was made on this \
                     machine before",
                    "sh -c 'rpm-ostree initramfs --disable && rpm-ostree uninstall vfio-override'",
                )),
            },
            rebuild: "rpm-ostree initramfs --enable",
            list: Some("lsinitrd"),
        }),
    },
    System {
        name: "bootc",
        page: "ostree.md",
        sign: All(&[Has("usr/bin/bootc"), Any(&[Has("run/ostree-booted"), Word("composefs", "")])]),
        is_alone: true,
        line: Some(Line {
            place: Location::Own {
                file: "/usr/lib/bootc/kargs.d/50-vfio-override.toml of the container image",
                line: "kargs = [{list}]",
            },
            before: Some(Before::Make(
                "Build that image, and push it to where this machine has its image from, which sudo bootc status shows ({page})",
            )),
            then: &[("", "bootc upgrade")],
            second: None,
        }),
        image: Some(Image {
            maker: "dracut",
            mark: Some(DRACUT_MARK),
            files: &[],
            way: Way::ReadyMade {
                hook: DRACUT,
                install: line(
                    "In the Containerfile of the image, behind COPY vfio-override-*.rpm /tmp/, which brings vfio-override's \
                     package along, add",
                    "RUN dnf -y install /tmp/vfio-override-*.rpm && rm /tmp/vfio-override-*.rpm",
                ),
                build: line(
                    "Behind that, make the initramfs anew, so that it holds the hook",
                    "RUN kver=$(ls /usr/lib/modules) && DRACUT_NO_XATTR=1 dracut --force --no-hostonly --reproducible \
                     --add ostree /usr/lib/modules/$kver/initramfs.img $kver",
                ),
                undo: None,
            },
            rebuild: "bootc upgrade",
            list: Some("lsinitrd"),
        }),
    },
    unknown(
        "an ostree system",
        Has("run/ostree-booted"),
        "this system's images come ready made, and what makes them anew with a hook is not known here",
    ),
    unknown(
        "Talos",
        Os("talos"),
        "Talos makes its image by its own imager and reads no hook, so that nothing here gets into it; its own way is a \
         document PCIDriverRebindConfig of the machine configuration for each function, which takes it from the \
         host's driver after that had it",
    ),
    unknown(
        "Guix",
        Any(&[Os("guix"), Word("gnu.system", "")]),
        "Guix makes its image from the system's configuration, which is a program, and no hook of another one gets into it; \
         its own way is kernel-arguments and initrd-modules there, which go by IDs",
    ),
    unknown(
        "postmarketOS",
        Os("postmarketos"),
        "its mkinitfs is a program of its own, and how it has something started before drivers is not known here",
    ),
    unknown(
        "an appliance",
        Any(&[
            Os("flatcar"),
            Os("cos"),
            Os("haos"),
            Os("bottlerocket"),
            Os("kairos"),
            Os("sle-micro-rancher"),
            Has("etc/harvester-release.yaml"),
            Os("steamos"),
            Os("holoiso"),
            Os("chimeraos"),
            Has("usr/bin/frzr-deploy"),
            Os("ubuntu-core"),
            Word("snapd_recovery_mode", ""),
            Has("usr/bin/abroot"),
            Os("kde-linux"),
            Os("org.gnome.os"),
            Os("gnome-os"),
            Os("libreelec"),
            Os("coreelec"),
            Os("lakka"),
            Os("batocera"),
            Os("vyos"),
            Os("openwrt"),
            Os("nitrux"),
            Os("chromeos"),
            Os("chromiumos"),
            Says("etc/lsb-release", "CHROMEOS_RELEASE"),
            Has("etc/qubes-release"),
        ]),
        "this system comes as a whole and replaces its image with every update, and how anything of one's own stays in \
         it is not known here",
    ),
    unknown(
        "Alpine, run from memory",
        Word("modloop", ""),
        "its image and its kernel parameters are on the medium that it boots from, as they came, and mkinitfs here makes \
         another one; install it onto a disk (setup-disk), or make a medium of your own (mkimage)",
    ),
    unknown(
        "a live system",
        Any(&[
            Word("boot", "live"),
            Word("boot", "casper"),
            Word("root", "live:"),
            Word("archisobasedir", ""),
            Word("misobasedir", ""),
        ]),
        "it boots from a medium that holds image and kernel parameters as they came, so that what is changed here is gone \
         with the next boot; install it first",
    ),
    unknown(
        "a machine that boots over the network",
        Any(&[Word("root", "/dev/nfs"), Word("nfsroot", ""), Word("BOOTIF", "")]),
        "its kernel, its image and its kernel parameters come from a server, and what is changed here changes none of them: \
         the hook goes into the image there, and the parameter into the server's file",
    ),
    System {
        name: "TrueNAS",
        page: "appliances.md",
        sign: Has("usr/bin/midclt"),
        is_alone: true,
        line: Some(Line {
            place: Location::Command(Command {
                start: "midclt call system.advanced.update",
                add: "{\"kernel_extra_options\": \"{}\"}",
                drop: "",
                each: false,
            }),
            before: None,
            then: &[],
            second: None,
        }),
        image: Some(Image {
            maker: "initramfs-tools",
            mark: Some("scripts/init-top"),
            files: &["boot/initrd.img-{release}"],
            way: Way::ReadyMade {
                hook: INITRAMFS_TOOLS,
                install: Given {
                    what: "TrueNAS keeps /usr read-only and replaces it with every update: install vfio-override's package \
                           as {page} says, and again after each update. (TrueNAS' own setting, Isolated GPU Device(s), needs \
                           none of this; it goes by IDs, and takes both of two equal cards)",
                    file: None,
                    line: None,
                    command: None,
                },
                build: command("Have the image made anew", UPDATE_INITRAMFS),
                undo: None,
            },
            rebuild: UPDATE_INITRAMFS,
            list: Some("lsinitramfs"),
        }),
    },
    System {
        name: "Unraid",
        page: "limine.md",
        sign: All(&[UNRAID_SIGN, Has("boot/limine.conf")]),
        is_alone: true,
        line: Some(Line {
            place: Location::Part {
                file: "/boot/limine.conf",
                to: "the line that begins with cmdline:",
                word: "{}",
            },
            before: None,
            then: &[],
            second: Some(Second {
                archive: "boot/vfio-override.cpio.gz",
                edit: Some(Edit {
                    file: "/boot/limine.conf",
                    what: "below the line that begins with module_path:, add the line",
                    line: "module_path: boot():/vfio-override.cpio.gz",
                }),
            }),
        }),
        image: Some(UNRAID),
    },
    System {
        name: "Unraid",
        page: "appliances.md",
        sign: UNRAID_SIGN,
        is_alone: true,
        line: Some(Line {
            place: Location::Part {
                file: "/boot/syslinux/syslinux.cfg",
                to: "the first line that begins with append",
                word: "{}",
            },
            before: None,
            then: &[],
            second: Some(Second {
                archive: "boot/vfio-override.cpio.gz",
                edit: Some(Edit {
                    file: "/boot/syslinux/syslinux.cfg",
                    what: "in the first line that begins with append, make initrd=/bzroot",
                    line: "initrd=/bzroot,/vfio-override.cpio.gz",
                }),
            }),
        }),
        image: Some(UNRAID),
    },
    loader(
        "Proxmox, systemd-boot",
        "proxmox.md",
        // It serves either, and both files are there.
        All(&[PROXMOX, Any(&[SYSTEMD_BOOT, Not(&Has("etc/default/grub"))])]),
        Line { place: KERNEL_INSTALL, before: None, then: PROXMOX_REFRESH, second: None },
    ),
    loader(
        "Proxmox, GRUB",
        "proxmox.md",
        PROXMOX,
        Line { place: GRUB, before: None, then: PROXMOX_REFRESH, second: None },
    ),
    System {
        name: "openSUSE MicroOS, sdbootutil",
        page: "opensuse.md",
        sign: All(&[TRANSACTIONAL, SDBOOTUTIL]),
        is_alone: true,
        line: Some(Line {
            place: KERNEL_INSTALL,
            before: None,
            then: &[("", "sdbootutil update-all-entries")],
            second: None,
        }),
        image: Some(OF_A_SNAPSHOT),
    },
    System {
        name: "openSUSE MicroOS, GRUB",
        page: "opensuse.md",
        sign: TRANSACTIONAL,
        is_alone: true,
        line: Some(Line {
            place: GRUB,
            before: None,
            then: &[("", "transactional-update --continue grub.cfg")],
            second: None,
        }),
        image: Some(OF_A_SNAPSHOT),
    },
    System {
        name: "openSUSE, sdbootutil",
        page: "opensuse.md",
        sign: SDBOOTUTIL,
        is_alone: true,
        line: Some(Line {
            place: KERNEL_INSTALL,
            before: None,
            then: &[("", "sdbootutil update-all-entries")],
            second: None,
        }),
        image: Some(Image {
            maker: "dracut",
            mark: Some(DRACUT_MARK),
            files: &[],
            way: Way::Hook(DRACUT),
            rebuild: "sdbootutil mkinitrd",
            list: Some("lsinitrd"),
        }),
    },
    System {
        name: "clr-boot-manager",
        page: "kernel-install.md",
        sign: Has("usr/bin/clr-boot-manager"),
        is_alone: true,
        line: Some(Line {
            place: Location::Own { file: "/etc/kernel/cmdline.d/vfio-override.conf", line: "{}" },
            before: None,
            then: &[("", "clr-boot-manager update")],
            // It hands over whatever is there.
            second: Some(Second {
                archive: "etc/kernel/initrd.d/vfio-override.cpio.gz",
                edit: None,
            }),
        }),
        image: Some(ready_made(LOAD)),
    },
    unknown(
        "a root file system that is not changed in place",
        Any(&[
            UsrOn(&["overlay", "squashfs", "erofs"]),
            RootOn(&["overlay", "squashfs", "erofs", "tmpfs", "ramfs", "rootfs", "iso9660"]),
            ReadOnly,
        ]),
        "it is read-only, or made anew at each boot, and how anything of one's own gets into this system's image and stays \
         there is not known here",
    ),
    loader(
        "Limine",
        "limine.md",
        All(&[
            BY_LIMINE_S_TOOL,
            Any(&[
                Says("etc/default/limine", "root="),
                SomeSays("etc/limine-entry-tool.d", ".conf", "root="),
                Says("etc/limine-entry-tool.conf", "root="),
            ]),
        ]),
        Line {
            place: Location::Own { file: LIMINE_FILE, line: "KERNEL_CMDLINE[default]+=\" {}\"" },
            before: None,
            then: LIMINE_TOOLS,
            second: None,
        },
    ),
    // Its tool took /etc/kernel/cmdline or /proc/cmdline, and reads neither where that file has but one word for the kernel.
    loader(
        "Limine",
        "limine.md",
        BY_LIMINE_S_TOOL,
        Line {
            place: Location::Own { file: LIMINE_FILE, line: "KERNEL_CMDLINE[default]=\"{whole}\"" },
            before: None,
            then: LIMINE_TOOLS,
            second: None,
        },
    ),
    maker(
        "limine.md",
        All(&[Has("usr/bin/mkinitcpio"), Has("usr/bin/limine-mkinitcpio"), NO_OTHER_THAN_LIMINE]),
        Image {
            maker: "mkinitcpio",
            mark: Some(MKINITCPIO_MARK),
            files: MKINITCPIO_FILES,
            way: MKINITCPIO,
            rebuild: "limine-mkinitcpio",
            list: Some("lsinitcpio"),
        },
    ),
    maker(
        "limine.md",
        All(&[DRACUT_HERE, Has("usr/bin/limine-dracut"), NO_OTHER_THAN_LIMINE]),
        dracut("limine-dracut"),
    ),
    loader(
        "ZFSBootMenu",
        "zfsbootmenu.md",
        BY_ZFSBOOTMENU,
        Line {
            place: Location::Command(Command {
                start: "zbm-kcl",
                add: "-a {}",
                drop: "-r {}",
                each: true,
            }),
            before: None,
            then: &[],
            second: None,
        },
    ),
    loader(
        "UKI by mkinitcpio",
        "uki.md",
        All(&[MKINITCPIO_UKI, SomeSays("etc/mkinitcpio.d", ".preset", "--cmdline")]),
        Line {
            place: Location::Part {
                file: "the file that --cmdline names in /etc/mkinitcpio.d, for the image that boots (where it names none for \
                       that, /etc/kernel/cmdline)",
                to: "its one line",
                word: "{}",
            },
            before: Some(KEEP_MKINITCPIO_UKI),
            then: &[("", "mkinitcpio -P")],
            second: None,
        },
    ),
    loader(
        "UKI by mkinitcpio",
        "uki.md",
        All(&[MKINITCPIO_UKI, SomeSays("etc/cmdline.d", ".conf", "")]),
        Line {
            place: Location::Own { file: "/etc/cmdline.d/vfio-override.conf", line: "{}" },
            before: Some(KEEP_MKINITCPIO_UKI),
            then: &[("", "mkinitcpio -P")],
            second: None,
        },
    ),
    loader(
        "UKI by mkinitcpio",
        "uki.md",
        MKINITCPIO_UKI,
        Line {
            place: KERNEL_INSTALL,
            before: Some(KEEP_MKINITCPIO_UKI),
            then: &[("", "mkinitcpio -P")],
            second: None,
        },
    ),
    loader(
        "UKI by kernel-install",
        "uki.md",
        KERNEL_INSTALL_UKI,
        Line {
            place: KERNEL_INSTALL,
            before: Some(KEEP_UKI),
            then: REINSTALL,
            second: Some(INTO_UKI),
        },
    ),
    addon(All(&[Stub(ADDONS), Has("efi/EFI")]), "/efi/loader/addons"),
    addon(All(&[Stub(ADDONS), Has("boot/EFI")]), "/boot/loader/addons"),
    // What is below it only root sees.
    addon(All(&[Stub(ADDONS), Has("boot/efi")]), "/boot/efi/loader/addons"),
    loader(
        "UKI",
        "uki.md",
        Stub(0),
        Line {
            place: Location::Part {
                file: "the file that the unified kernel image has its command line from",
                to: "the command line, then make and sign that image anew",
                word: "{}",
            },
            before: None,
            then: &[],
            second: Some(INTO_UKI),
        },
    ),
    loader(
        "kernelstub",
        "systemd-boot.md",
        Has("etc/kernelstub/configuration"),
        Line {
            place: Location::Command(Command {
                start: "kernelstub",
                add: "--add-options={}",
                drop: "--delete-options={}",
                each: false,
            }),
            before: None,
            then: &[],
            second: None,
        },
    ),
    loader(
        "grubby",
        "grub.md",
        All(&[
            Any(&[Has("usr/sbin/grubby"), Has("usr/bin/grubby")]),
            // What it writes to there is made anew from that file.
            Not(&All(&[SYSTEMD_BOOT, Has("etc/kernel/cmdline")])),
        ]),
        Line {
            place: Location::Command(Command {
                start: "grubby --update-kernel=ALL",
                add: "--args={}",
                drop: "--remove-args={}",
                each: false,
            }),
            before: None,
            then: &[],
            second: None,
        },
    ),
    loader(
        "GRUB, by entries",
        "grub.md",
        // Fedora's and Red Hat's read them as they are, whatever /etc/default/grub says.
        All(&[
            Has("usr/lib/kernel/install.d/20-grub.install"),
            Has("boot/loader/entries"),
            BY_GRUB,
        ]),
        Line {
            place: Location::Part {
                file: "/boot/loader/entries/*.conf (and in /etc/kernel/cmdline, where that is there, for kernels to come)",
                to: "the line that begins with options, of each entry that is to have it",
                word: "{}",
            },
            before: None,
            then: &[],
            second: None,
        },
    ),
    loader(
        "Alpine, extlinux",
        "alpine.md",
        Has("etc/update-extlinux.conf"),
        Line {
            place: Location::Variable {
                file: "etc/update-extlinux.conf",
                name: "default_kernel_opts=",
                more: None,
            },
            before: None,
            then: &[("", "update-extlinux")],
            second: None,
        },
    ),
    loader(
        "u-boot-menu",
        "alpine.md",
        All(&[Has("usr/sbin/u-boot-update"), Has("etc/default/u-boot")]),
        Line {
            place: Location::Variable {
                file: "etc/default/u-boot",
                name: "U_BOOT_PARAMETERS=",
                more: None,
            },
            before: None,
            then: &[("", "u-boot-update")],
            second: None,
        },
    ),
    loader(
        "Armbian",
        "raspberry-pi.md",
        // U-Boot reads the other file first, and this one not at all then.
        All(&[Has("boot/armbianEnv.txt"), Not(&Has("boot/extlinux/extlinux.conf"))]),
        Line {
            place: Location::Part {
                file: "/boot/armbianEnv.txt",
                to: "the line that begins with extraargs= (make one if there is none)",
                word: "{}",
            },
            before: None,
            then: &[],
            second: None,
        },
    ),
    loader(
        "Raspberry Pi",
        "raspberry-pi.md",
        Has("boot/firmware/cmdline.txt"),
        Line {
            place: Location::Whole("boot/firmware/cmdline.txt"),
            before: None,
            then: &[],
            second: None,
        },
    ),
    loader(
        "Raspberry Pi",
        "raspberry-pi.md",
        All(&[Has("boot/cmdline.txt"), Has("boot/config.txt")]),
        Line { place: Location::Whole("boot/cmdline.txt"), before: None, then: &[], second: None },
    ),
    loader(
        "LILO",
        "appliances.md",
        // It names an entry of its file, not a path.
        All(&[
            Has("etc/lilo.conf"),
            Word("BOOT_IMAGE", ""),
            Not(&Any(&[Word("BOOT_IMAGE", "/"), Word("BOOT_IMAGE", "\\")])),
        ]),
        Line {
            place: Location::Part {
                file: "/etc/lilo.conf",
                to: "the text of append=, in its quotes",
                word: "{}",
            },
            before: None,
            then: &[("", "lilo")],
            second: None,
        },
    ),
    loader(
        "ELILO",
        "appliances.md",
        Word("BOOT_IMAGE", "\\EFI\\Slackware"),
        Line {
            place: Location::Part {
                file: "/boot/efi/EFI/Slackware/elilo.conf",
                to: "the text of append=, in its quotes",
                word: "{}",
            },
            before: None,
            then: &[],
            second: None,
        },
    ),
    loader(
        "GRUB",
        "grub.md",
        // One that was there before may have left its files.
        All(&[
            Has("etc/default/grub"),
            Any(&[
                BY_GRUB,
                Not(&Any(&[
                    SYSTEMD_BOOT,
                    Loader("Limine"),
                    Loader("rEFInd"),
                    Word("initrd", ""),
                    Has("boot/limine.conf"),
                    Has("boot/refind_linux.conf"),
                    Has("boot/extlinux/extlinux.conf"),
                ])),
            ]),
        ]),
        Line {
            place: GRUB,
            before: None,
            then: &[
                ("usr/sbin/update-grub", "update-grub"),
                ("usr/sbin/grub2-mkconfig", "grub2-mkconfig -o /boot/grub2/grub.cfg"),
                ("", "grub-mkconfig -o /boot/grub/grub.cfg"),
            ],
            second: Some(Second {
                archive: "boot/vfio-override.cpio",
                edit: Some(Edit {
                    file: "/etc/default/grub",
                    what: "write the line, with what it names already in front",
                    line: "GRUB_EARLY_INITRD_LINUX_CUSTOM=\"vfio-override.cpio\"",
                }),
            }),
        },
    ),
    loader(
        "GRUB of ALT",
        "grub.md",
        All(&[Has("etc/sysconfig/grub2"), Has("usr/sbin/make-initrd")]),
        Line {
            place: Location::Variable {
                file: "etc/sysconfig/grub2",
                name: "GRUB_CMDLINE_LINUX_DEFAULT=",
                more: None,
            },
            before: None,
            then: &[("", "update-grub")],
            second: None,
        },
    ),
    loader(
        "systemd-boot",
        "kernel-install.md",
        All(&[Has("etc/kernel/cmdline"), Not(&BY_HAND), Not(&Loader("rEFInd"))]),
        Line { place: KERNEL_INSTALL, before: None, then: REINSTALL, second: None },
    ),
    loader(
        "sdboot-manage",
        "systemd-boot.md",
        // It writes the entries anew with each kernel.
        All(&[Has("usr/bin/sdboot-manage"), NOT_BY_OTHERS]),
        Line {
            place: Location::Variable {
                file: "etc/sdboot-manage.conf",
                name: "LINUX_OPTIONS=",
                more: None,
            },
            before: None,
            then: &[("", "sdboot-manage gen")],
            second: None,
        },
    ),
    loader(
        "gen-systemd-boot",
        "systemd-boot.md",
        All(&[Has("usr/bin/gen-systemd-boot"), NOT_BY_OTHERS]),
        Line {
            place: Location::Variable {
                file: "etc/default/systemd-boot",
                name: "SD_BOOT_CMDLINE_DEFAULT=",
                more: None,
            },
            before: None,
            then: &[("", "gen-systemd-boot")],
            second: None,
        },
    ),
    entries(
        All(&[Has("boot/loader/entries"), NOT_BY_OTHERS]),
        "/boot/loader/entries/*.conf",
        "boot/vfio-override.cpio.gz",
    ),
    entries(
        All(&[Has("efi/loader/entries"), NOT_BY_OTHERS]),
        "/efi/loader/entries/*.conf",
        "efi/vfio-override.cpio.gz",
    ),
    entries(
        All(&[Has("boot/efi/loader/entries"), NOT_BY_OTHERS]),
        "/boot/efi/loader/entries/*.conf",
        "boot/efi/vfio-override.cpio.gz",
    ),
    loader(
        "systemd-boot",
        "systemd-boot.md",
        // Its files are where only root sees them, or on a partition that is not mounted.
        SYSTEMD_BOOT,
        Line {
            place: Location::Part {
                file: "the entry that boots, which sudo bootctl list shows",
                to: "the line that begins with options",
                word: "{}",
            },
            before: None,
            then: &[],
            second: None,
        },
    ),
    loader(
        "rEFInd",
        "refind.md",
        Has("boot/refind_linux.conf"),
        Line {
            place: Location::Part {
                file: "/boot/refind_linux.conf",
                to: "the second text in quotes of the first line",
                word: "{}",
            },
            before: None,
            then: &[],
            second: Some(Second {
                archive: "boot/vfio-override.cpio.gz",
                edit: Some(Edit {
                    file: "/boot/refind_linux.conf",
                    what: "in the second text in quotes of the first line, add behind the other initrd= (and with its \
                       directory)",
                    line: "initrd=\\vfio-override.cpio.gz",
                }),
            }),
        },
    ),
    loader(
        "Limine",
        "limine.md",
        Has("boot/limine.conf"),
        Line {
            place: Location::Part {
                file: "/boot/limine.conf",
                to: "the line that begins with cmdline: (where a tool writes that file, its own configuration)",
                word: "{}",
            },
            before: None,
            then: &[],
            second: Some(Second {
                archive: "boot/vfio-override.cpio.gz",
                edit: Some(Edit {
                    file: "/boot/limine.conf",
                    what: "below the line that begins with module_path:, add the line",
                    line: "module_path: boot():/vfio-override.cpio.gz",
                }),
            }),
        },
    ),
    loader(
        "extlinux",
        "alpine.md",
        Has("boot/extlinux/extlinux.conf"),
        Line {
            place: Location::Part {
                file: "/boot/extlinux/extlinux.conf",
                to: "the line that begins with append",
                word: "{}",
            },
            before: None,
            then: &[],
            second: None,
        },
    ),
    maker(
        "mkinitcpio.md",
        // Void has no presets, of which `-P` would make images.
        All(&[Has("usr/bin/mkinitcpio"), Os("void")]),
        Image {
            maker: "mkinitcpio",
            mark: Some(MKINITCPIO_MARK),
            files: &["boot/initramfs-{release}.img"],
            way: MKINITCPIO,
            rebuild: "sh -c 'for m in /lib/modules/*; do mkinitcpio -k ${m##*/} -g /boot/initramfs-${m##*/}.img; done'",
            list: Some("lsinitcpio"),
        },
    ),
    maker(
        "mkinitcpio.md",
        Has("usr/bin/mkinitcpio"),
        Image {
            maker: "mkinitcpio",
            mark: Some(MKINITCPIO_MARK),
            files: MKINITCPIO_FILES,
            way: MKINITCPIO,
            rebuild: "mkinitcpio -P",
            list: Some("lsinitcpio"),
        },
    ),
    maker(
        "initramfs-tools.md",
        Has("usr/sbin/mkinitramfs"),
        Image {
            maker: "initramfs-tools",
            mark: Some("scripts/init-top"),
            files: &["boot/initrd.img-{release}"],
            way: Way::Hook(INITRAMFS_TOOLS),
            rebuild: UPDATE_INITRAMFS,
            list: Some("lsinitramfs"),
        },
    ),
    // Where kernel-install puts the images, dracut's own command makes others, which nothing boots.
    maker(
        "dracut.md",
        All(&[DRACUT_HERE, Has("usr/bin/reinstall-kernels")]),
        dracut("reinstall-kernels"),
    ),
    maker(
        "dracut.md",
        All(&[
            DRACUT_HERE,
            Any(&[SYSTEMD_BOOT, Stub(0)]),
            Has("usr/bin/kernel-install"),
            Has("etc/kernel/cmdline"),
            Not(&BY_HAND),
        ]),
        dracut(KERNEL_INSTALL_ALL),
    ),
    // EndeavourOS, Garuda.
    maker(
        "dracut.md",
        All(&[DRACUT_HERE, Has("usr/bin/dracut-rebuild")]),
        dracut("dracut-rebuild"),
    ),
    maker("dracut.md", All(&[DRACUT_HERE, Os("arch")]), dracut(DRACUT_BY_PACKAGE)),
    maker("dracut.md", DRACUT_HERE, dracut("dracut --force --regenerate-all")),
    maker(
        "overlay.md",
        Has("usr/bin/genkernel"),
        Image {
            maker: "genkernel",
            mark: Some("etc/initrd.defaults"),
            files: &["boot/initramfs-{release}.img"],
            way: Way::Archive(LOAD),
            rebuild: "genkernel initramfs",
            list: None,
        },
    ),
    maker(
        "overlay.md",
        Has("usr/sbin/make-initrd"),
        Image {
            maker: "make-initrd",
            mark: None,
            files: &["boot/initrd-{release}.img"],
            way: Way::Archive(LOAD),
            rebuild: "make-initrd",
            list: None,
        },
    ),
    maker(
        "overlay.md",
        Has("usr/bin/booster"),
        Image {
            maker: "Booster",
            mark: Some("etc/booster.init.yaml"),
            files: &["boot/booster-{package}.img", "boot/booster-{release}.img"],
            way: Way::Archive(LOAD),
            rebuild: "/usr/lib/booster/regenerate_images",
            list: None,
        },
    ),
    maker(
        "overlay.md",
        Has("etc/slackware-version"),
        Image {
            maker: "Slackware's mkinitrd",
            mark: None,
            files: &["boot/initrd.gz"],
            way: Way::Archive(Given {
                what: "In /etc/rc.d/rc.modules.local, which has to be executable (chmod +x), add the line, since vfio-pci does not \
                       load by itself",
                file: Some("/etc/rc.d/rc.modules.local"),
                line: Some("/sbin/modprobe vfio-pci"),
                command: None,
            }),
            rebuild: "geninitrd",
            list: None,
        },
    ),
    maker(
        "alpine.md",
        Any(&[Has("sbin/mkinitfs"), Has("usr/sbin/mkinitfs")]),
        Image {
            maker: "mkinitfs",
            mark: None,
            files: &["boot/initramfs-lts", "boot/initramfs-virt", "boot/initramfs-stable"],
            way: Way::Steps {
                steps: &[
                    Given {
                        what: "In /etc/mkinitfs/features.d/vfio-override.files, a new file (the .apk brings it), name the early binary",
                        file: Some("/etc/mkinitfs/features.d/vfio-override.files"),
                        line: Some("/usr/lib/vfio-override/vfio-override-early"),
                        command: None,
                    },
                    Given {
                        what: "In /etc/mkinitfs/mkinitfs.conf, add to the value of features",
                        file: Some("/etc/mkinitfs/mkinitfs.conf"),
                        line: Some("vfio-override"),
                        command: None,
                    },
                    Given {
                        what: "In /etc/modules, add the line, since vfio-pci does not load by itself",
                        file: Some("/etc/modules"),
                        line: Some("vfio-pci"),
                        command: None,
                    },
                    command("Make the image of each kernel anew", MKINITFS),
                    command(
                        "See that each holds the early binary: a line must come for every image. An image without it does not \
                         boot with the next steps",
                        "sh -c 'for i in /boot/initramfs-*; do echo $i: $(zcat $i | cpio -t | grep vfio-override-early); done'",
                    ),
                ],
                start: "rdinit=/usr/lib/vfio-override/vfio-override-early",
                check: None,
                left: "what these steps added to /etc/mkinitfs/mkinitfs.conf, /etc/mkinitfs/features.d and /etc/modules",
            },
            rebuild: MKINITFS,
            list: None,
        },
    ),
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::sign::LOADERS;
    use super::*;

    #[test]
    fn every_system_has_a_page_that_is_installed_and_in_the_index() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
        let (index, files) = (read("docs/README.md"), read("packaging/files"));
        for page in SYSTEMS.iter().map(|system| system.page) {
            assert!(root.join("docs").join(page).is_file(), "{page}");
            assert!(index.contains(&format!("({page})")), "{page}");
            assert!(files.contains(&format!(" share/doc/vfio-override/{page}\n")), "{page}");
        }
        for entry in fs::read_dir(root.join("docs")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name != "README.md" && name.contains(".md") {
                assert!(index.contains(&format!("({name})")), "{name}");
            }
        }
    }

    /// A name that is looked for and never found would have its system never recognised.
    #[test]
    fn every_loader_that_is_a_sign_is_looked_for() {
        let mut names = Vec::new();
        for system in SYSTEMS {
            system.sign.each(&mut |sign| {
                if let Loader(name) = sign {
                    names.push(*name);
                }
            });
        }
        assert!(!names.is_empty());
        for name in names {
            assert!(LOADERS.contains(&name), "{name}");
        }
    }

    /// A shell that reads the value must not find more in it than the words.
    #[test]
    fn every_place_can_be_written_to() {
        for system in SYSTEMS {
            match system.line.as_ref().map(|line| &line.place) {
                Some(Location::Part { word, .. }) => {
                    assert!(word.contains("{}"), "{}", system.name);
                }
                Some(Location::Own { line, .. }) => {
                    let ours = ["{}", "{list}", "{whole}"];
                    assert!(ours.iter().any(|ours| line.contains(ours)), "{}", system.name);
                }
                Some(Location::Variable { name, .. }) => {
                    assert!(name.ends_with('='), "{}", system.name);
                }
                Some(Location::Command(command)) => {
                    assert!(command.add.contains("{}"), "{}", system.name);
                }
                Some(Location::Whole(file)) => assert!(!file.starts_with('/'), "{}", system.name),
                Some(Location::Addon(directory)) => {
                    assert!(directory.starts_with('/'), "{}", system.name);
                }
                None => {}
            }
        }
    }
}
