// SPDX-License-Identifier: MIT OR Apache-2.0
//! What people use, each in the same guest: which drivers probed the card that it was to keep, and which its twin.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use super::Site;
use crate::cases::suite::Judgement;
use crate::deliver::install;
use crate::ground::apt::Lists;
use crate::ground::arch::X86_64;
use crate::ground::pool;
use crate::ground::progress;
use crate::ground::workspace::Workspace;
use crate::guest::evidence::Evidence;
use crate::guest::image::Drivers;
use crate::guest::kernel::Kernel;
use crate::guest::machine::{HDA, Machine, ROOT_PORT, VGA, full_address};
use crate::guest::probes;
use crate::trials::root::{Besides, Generator, System};

/// Debian 13 with both generators.
const SYSTEM: System = System {
    besides: Some(Besides {
        name: "contest",
        packages: &["busybox-static", "cpio", "initramfs-tools-core"],
    }),
    ..System::of("trixie", Generator::Dracut)
};

/// The suite that has the driverctl that is newest.
const NEWEST: &str = "sid";

/// MiB of its root disk.
const DISK_SIZE: u32 = 2048;

/// MiB for the images, which are large.
const IMAGE_MEMORY: u32 = 512;

const VFIO: &str = "vfio-pci";
const NOBODY: &str = "nobody";

/// The card to be kept, and the one that is the host's; each a display and its sound.
const KEPT: [&str; 2] = ["02:00.0", "02:00.1"];
const TWIN: [&str; 2] = ["01:00.0", "01:00.1"];

/// What somebody does to keep a card.
pub struct Peer {
    pub name: &'static str,
    pub selects: &'static str,
    /// Where it says what it did.
    pub says: &'static str,
    generator: Generator,
    parameters: &'static str,
    /// What is done to the system before its image is made.
    setup: &'static [&'static str],
    needs: Needs,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Driverctl,
    /// What is ours.
    Us,
}

/// What became of a card.
#[derive(Default)]
pub struct Fate {
    /// Every driver that probed one of its functions, in order.
    pub probed_by: Vec<String>,
    /// Who has them.
    pub drivers: Vec<String>,
}

/// What came of one peer.
pub struct Row {
    pub peer: &'static Peer,
    pub kept: Fate,
    pub twin: Fate,
}

/// All rows, and what they were seen on.
pub struct Contest {
    pub rows: Vec<Row>,
    pub on: String,
}

impl Contest {
    /// What is wrong with what is ours; or with the boots, which show nothing unless a card that nobody keeps is the host's.
    pub fn complaints(&self) -> Vec<String> {
        let hosts = |fate: &Fate| {
            fate.probed_by == fate.drivers
                && !fate.drivers.is_empty()
                && !fate.drivers.iter().any(|driver| driver == VFIO || driver == NOBODY)
        };
        let is_as_expected = |row: &&Row| match row.peer.needs {
            Needs::Us => {
                let Fate { probed_by, drivers } = &row.kept;
                *probed_by == [VFIO] && *drivers == [VFIO] && hosts(&row.twin)
            }
            Needs::Nothing if row.peer.setup.is_empty() => hosts(&row.kept) && hosts(&row.twin),
            Needs::Nothing | Needs::Driverctl => true,
        };
        let wrong = self.rows.iter().filter(|row| !is_as_expected(row));
        wrong.map(|row| format!("{}: not what it has to be", row.peer.name)).collect()
    }
}

const HOOK: &str = concat!(
    "cat >/tmp/hook <<'END'\n#!/bin/sh\ncase $1 in prereqs) exit ;; esac\nEND\n",
    "cat >>/tmp/hook <<'END'\n",
    include_str!("../../peers/usual-hook.sh"),
    "modprobe -i vfio-pci\nEND\nchmod +x /tmp/hook\necho vfio-pci >>/etc/initramfs-tools/modules\n",
);

const QUBES: &str = r#"module=/usr/lib/dracut/modules.d/90hide
mkdir $module
cat >$module/module-setup.sh <<'END'
#!/bin/bash
check() { return 0; }
install() { inst_hook cmdline 02 "$moddir/hide.sh"; }
installkernel() { hostonly='' instmods vfio-pci; }
END
cat >$module/hide.sh <<'END'
for address in $(getarg rd.hide_pci= | tr ',' ' '); do
	device=/sys/bus/pci/devices/0000:$address
	[ ! -e "$device/driver" ] || echo "0000:$address" >"$device/driver/unbind"
	echo vfio-pci >"$device/driver_override"
done
modprobe vfio-pci
END
"#;

/// In front of everything that udev loads drivers by.
const RULE: &str = r#"cat >/etc/udev/rules.d/10-vfio.rules <<'END'
ACTION=="add", SUBSYSTEM=="pci", KERNEL=="0000:02:00.[01]", ATTR{driver_override}="vfio-pci"
END
"#;

const RULE_IN_INITRAMFS_TOOLS: &str = r#"cat >/etc/initramfs-tools/hooks/vfio <<'END'
#!/bin/sh
case $1 in prereqs) exit ;; esac
mkdir -p "$DESTDIR/etc/udev/rules.d"
cp /etc/udev/rules.d/10-vfio.rules "$DESTDIR/etc/udev/rules.d"
END
chmod +x /etc/initramfs-tools/hooks/vfio
echo vfio-pci >>/etc/initramfs-tools/modules
"#;

/// Every card has these IDs, which is why they are identical.
const IDS: &str = "vfio-pci.ids=1234:1111,8086:2668";

/// What is compared: the first is what happens without any.
static PEERS: [Peer; 13] = [
    Peer::new("nobody", Generator::Dracut),
    Peer {
        selects: "IDs",
        says: "the driver's probe messages",
        parameters: IDS,
        setup: &["echo vfio-pci >>/etc/initramfs-tools/modules"],
        ..Peer::new(
            "`vfio-pci.ids=`, vfio-pci in initramfs-tools' `modules`",
            Generator::InitramfsTools,
        )
    },
    Peer {
        selects: "IDs",
        says: "the driver's probe messages",
        parameters: IDS,
        setup: &[
            "printf 'softdep %s pre: vfio-pci\\n' bochs snd_hda_intel >/etc/modprobe.d/vfio.conf",
            "echo 'force_drivers+=\" vfio-pci \"' >/etc/dracut.conf.d/vfio.conf",
        ],
        ..Peer::new("`vfio-pci.ids=`, vfio-pci loaded first (`softdep`)", Generator::Dracut)
    },
    Peer {
        selects: "address",
        says: "on its standard output",
        setup: &[
            "dpkg --install /tmp/driverctl*.deb >/dev/null; mkdir -p /etc/driverctl.d",
            "for place in 0 1; do echo vfio-pci >/etc/driverctl.d/pci-0000:02:00.$place; done",
        ],
        needs: Needs::Driverctl,
        ..Peer::new("driverctl, an override that is saved", Generator::Dracut)
    },
    Peer {
        setup: &[HOOK, "mv /tmp/hook /etc/initramfs-tools/scripts/init-top/vfio"],
        ..Peer::hook(
            "the usual shell hook, initramfs-tools' `init-top/vfio`",
            Generator::InitramfsTools,
        )
    },
    Peer {
        setup: &[HOOK, "mv /tmp/hook /etc/initramfs-tools/scripts/init-top/00-vfio"],
        ..Peer::hook("the same, before `udev` by its name", Generator::InitramfsTools)
    },
    Peer {
        setup: &[HOOK, "mv /tmp/hook /etc/initramfs-tools/scripts/init-top/00-vfio"],
        ..Peer::hook("the same, with dracut and systemd, which ignore it", Generator::Dracut)
    },
    Peer {
        setup: &[RULE, RULE_IN_INITRAMFS_TOOLS],
        ..Peer::rule(
            "a udev rule, `ATTR{driver_override}=`, in initramfs-tools' image",
            Generator::InitramfsTools,
        )
    },
    Peer {
        setup: &[
            RULE,
            "echo 'install_items+=\" /etc/udev/rules.d/10-vfio.rules \"' >/etc/dracut.conf.d/vfio.conf",
            "echo 'add_drivers+=\" vfio-pci \"' >>/etc/dracut.conf.d/vfio.conf",
        ],
        ..Peer::rule("the same, in dracut's image", Generator::Dracut)
    },
    Peer {
        selects: "address",
        says: "a wrong address stops the boot",
        parameters: "rd.hide_pci=02:00.0,02:00.1",
        setup: &[QUBES],
        ..Peer::new("a hook of dracut's at `cmdline 02`, as Qubes has it", Generator::Dracut)
    },
    Peer::us("**vfio-override**, initramfs-tools", Generator::InitramfsTools),
    Peer::us("**vfio-override**, dracut with systemd", Generator::Dracut),
    Peer {
        parameters: "vfio.override=02:00.0+slot rdinit=/vfio-override-early",
        ..Peer::us("**vfio-override**, `rdinit=`", Generator::Dracut)
    },
];

impl Peer {
    const fn new(name: &'static str, generator: Generator) -> Self {
        Self {
            name,
            selects: "-",
            says: "-",
            generator,
            parameters: "",
            setup: &[],
            needs: Needs::Nothing,
        }
    }

    const fn hook(name: &'static str, generator: Generator) -> Self {
        let selects = "address or IDs, as copied";
        Self { selects, says: "mostly nothing", ..Self::new(name, generator) }
    }

    const fn rule(name: &'static str, generator: Generator) -> Self {
        Self { selects: "whatever udev knows", says: "nothing", ..Self::new(name, generator) }
    }

    const fn us(name: &'static str, generator: Generator) -> Self {
        Self {
            selects: "address, path, IDs, class, boot display; slot, group, exclusions, guards",
            says: "one line a device, with what is true after",
            parameters: "vfio.override=02:00.0+slot",
            needs: Needs::Us,
            ..Self::new(name, generator)
        }
    }

    /// Boots it; an error if the guest does not come to its end.
    fn boot(&'static self, workspace: &Workspace, tools: &Tools) -> Result<Row> {
        let machine = machine();
        let site = Site::prepare(&SYSTEM, &tools.kernel, workspace, &Drivers::of(&machine))?;
        match self.needs {
            Needs::Nothing => {}
            Needs::Driverctl => {
                site.layer.write("tmp/driverctl.deb", &*tools.driverctl)?;
            }
            Needs::Us => {
                install::install_to(&site.layer.changes(), &workspace.root, &tools.built)?;
            }
        }
        let image = site.image(self.generator, &self.setup.join("\n"))?;
        let case = super::case(self.name, machine, &site.disk(DISK_SIZE)?);
        let case = case.parameter(self.parameters);
        let seen = Mutex::new(None);
        let outcome = site.boot(workspace, "contest", &case, image, |evidence| {
            let cards = [KEPT, TWIN].map(|card| Fate::of(evidence, &card));
            if let Ok(mut seen) = seen.lock() {
                *seen = Some(cards);
            }
            Vec::new()
        })?;
        match (outcome, seen.into_inner().ok().flatten()) {
            (Judgement::Passed(_), Some([kept, twin])) => Ok(Row { peer: self, kept, twin }),
            (Judgement::Failed(reason) | Judgement::NotTested(reason), _) => bail!(reason),
            (Judgement::Passed(_), None) => bail!("nothing was seen"),
        }
    }
}

impl Fate {
    /// Function by function; a name that is there already is not added again.
    fn of(evidence: &Evidence, card: &[&str]) -> Self {
        let mut fate = Self::default();
        let add = |names: &mut Vec<String>, name: &str| {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        };
        for address in card.iter().map(|place| full_address(place)) {
            for probe in probes::probes(&evidence.log).filter(|probe| probe.address == address) {
                add(&mut fate.probed_by, probe.driver);
            }
            let devices = &evidence.report.devices;
            let device = devices.iter().find(|device| device.address == address);
            let driver = device.and_then(|device| device.driver.as_deref());
            add(&mut fate.drivers, driver.unwrap_or(NOBODY));
        }
        fate
    }
}

/// What is fetched and built for all.
struct Tools {
    kernel: Kernel,
    driverctl: Vec<u8>,
    built: PathBuf,
}

/// Two identical cards behind ports of their own.
fn machine() -> Machine {
    Machine::new()
        .lit()
        .with_image(IMAGE_MEMORY)
        .bridge("00:1c.0", ROOT_PORT, "01")
        .with(TWIN[0], VGA)
        .with(TWIN[1], HDA)
        .bridge("00:1d.0", ROOT_PORT, "02")
        .with(KEPT[0], VGA)
        .with(KEPT[1], HDA)
}

/// Boots every peer, two at a time.
pub fn run(workspace: &Workspace, early: &Path) -> Result<Contest> {
    let directory = tempfile::tempdir()?;
    Lists::of(workspace, NEWEST, X86_64.debian)?
        .download(&["driverctl".to_owned()], directory.path())?;
    let package = fs::read_dir(directory.path())?.next().context("no driverctl came")??;
    let name = package.file_name().display().to_string();
    let tools = Tools {
        kernel: SYSTEM.kernel(workspace)?,
        driverctl: fs::read(package.path())?,
        built: install::gather_for_tests(workspace, early)?,
    };
    let boots = pool::each(&PEERS, |peer| {
        progress::phase(peer.name, || peer.boot(workspace, &tools)).context(peer.name)
    });
    let version = name.split('_').nth(1).unwrap_or_default();
    let on = format!("Debian 13, Linux {}, driverctl {version}", tools.kernel.release);
    Ok(Contest { rows: boots.into_iter().collect::<Result<_>>()?, on })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: [&str; 2] = ["bochs-drm", "snd_hda_intel"];

    fn fate(probed_by: &[&str], drivers: &[&str]) -> Fate {
        let [probed_by, drivers] =
            [probed_by, drivers].map(|names| names.iter().copied().map(str::to_owned).collect());
        Fate { probed_by, drivers }
    }

    /// Complaints about one row: this peer's, by what happened to the card that it was to keep.
    fn complaints(is_ours: bool, kept: Fate) -> usize {
        let index = if is_ours { PEERS.len() - 1 } else { 0 };
        let row = Row { peer: &PEERS[index], kept, twin: fate(&HOSTS, &HOSTS) };
        Contest { rows: vec![row], on: String::new() }.complaints().len()
    }

    #[test]
    fn what_is_ours_has_to_keep_the_card_and_the_control_must_not() {
        let kept = || fate(&[VFIO], &[VFIO]);
        let lost = || fate(&HOSTS, &HOSTS);
        assert_eq!([complaints(true, kept()), complaints(true, lost())], [0, 1]);
        assert_eq!([complaints(false, kept()), complaints(false, lost())], [1, 0]);
        let late = fate(&["bochs-drm", "snd_hda_intel", VFIO], &[VFIO]);
        assert_eq!(complaints(true, late), 1);
        assert_eq!(complaints(false, fate(&[], &[NOBODY])), 1);
    }
}
