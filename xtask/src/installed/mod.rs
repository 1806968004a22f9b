// SPDX-License-Identifier: MIT OR Apache-2.0
//! Installed systems that boot as people's do: from an image of their own generator, to the systemd on their own disk, which
//! reports in the end as other guests do at once.

pub mod contest;
pub mod monitors;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cases::case::{Case, Mode};
use crate::cases::suite::{self, Judgement};
use crate::ground::workspace::Workspace;
use crate::guest::evidence::Evidence;
use crate::guest::image::{Drivers, guest_init};
use crate::guest::kernel::Kernel;
use crate::guest::machine::Machine;
use crate::guest::session::{Interaction, Session};
use crate::trials::debian;
use crate::trials::root::{Generator, Layer, System};

/// The kernel parameters of such a guest: its root, and nothing of systemd's on the console, which tells how far it came.
const PARAMETERS: &str = "root=/dev/vda rw systemd.show_status=0 systemd.getty_auto=0";

/// Where its root disk is.
const DISK: &str = "00:07.0";

/// What reports, from `tests/guest/installed`.
const UNITS: [(&str, &str); 2] = [
    ("guest-report.target", include_str!("../../../tests/guest/installed/guest-report.target")),
    ("guest-report.service", include_str!("../../../tests/guest/installed/guest-report.service")),
];

const PATIENT: &str =
    "[Manager]\nDefaultTimeoutStartSec=infinity\nDefaultDeviceTimeoutSec=infinity\n";

/// Makes the disk of all that is there but what lies in /tmp, its own file among it.
const MAKE_DISK: &str = r"mkdir -p /tmp/root
mount --bind / /tmp/root
mount -t tmpfs none /tmp/root/tmp
mke2fs -q -F -t ext4 -d /tmp/root /tmp/disk.img ";

/// A boot of a system with this disk: nobody of the harness runs what is ours.
pub fn case(name: &str, machine: Machine, disk: &Path) -> Case {
    Case::new(name, machine.disk(DISK, disk))
        .mode(Mode::Control)
        .parameter(PARAMETERS)
        .patience(|patience| patience.boot *= 4)
}

/// A system that is about to boot.
pub struct Site<'a> {
    pub layer: Layer,
    kernel: &'a Kernel,
}

impl<'a> Site<'a> {
    /// One that reports, after it has loaded these drivers once more.
    pub fn prepare(
        system: &System,
        kernel: &'a Kernel,
        workspace: &Workspace,
        drivers: &Drivers,
    ) -> Result<Self> {
        let layer = Layer::above(&system.prepare(workspace)?, workspace)?;
        for (name, text) in UNITS {
            layer.write(&format!("etc/systemd/system/{name}"), text)?;
        }
        layer.write("init", fs::read(guest_init(workspace))?)?;
        for (stage, modules) in
            [("first", &drivers.first), ("host", &drivers.host), ("vfio", &drivers.passthrough)]
        {
            let lines: String = modules.iter().flat_map(|module| [*module, "\n"]).collect();
            layer.write(&format!("etc/drivers.{stage}"), lines)?;
        }
        // Without an identity systemd asks for what a first boot has to settle.
        layer.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n")?;
        // It would give up what takes long on an emulated machine under load.
        layer.write("etc/systemd/system.conf.d/guest.conf", PATIENT)?;
        layer.run("chmod +x /init; systemctl set-default guest-report.target 2>&1")?;
        Ok(Self { layer, kernel })
    }

    /// The image that this generator makes there, told to load the host's drivers as early as it can, and set up by this
    /// script.
    pub fn image(&self, generator: Generator, setup: &str) -> Result<Vec<u8>> {
        let make = match generator {
            Generator::InitramfsTools => "mkinitramfs -o /tmp/image",
            Generator::Dracut => "dracut --force --tmpdir /tmp /tmp/image",
        };
        let release = &self.kernel.release;
        self.layer.run(&format!("{}\n{setup}\n{make} {release}", debian::setting(generator)))?;
        fs::read(self.layer.changed("tmp/image")).context("no image was made")
    }

    /// Its root disk, of so many MiB, most of which take no room.
    pub fn disk(&self, mebibytes: u32) -> Result<PathBuf> {
        self.layer.run(&format!("{MAKE_DISK}{mebibytes}M"))?;
        Ok(self.layer.changed("tmp/disk.img"))
    }

    /// Boots such an image of it, which the case says all else of.
    pub fn boot(
        &self,
        workspace: &Workspace,
        name: &str,
        case: &Case,
        image: Vec<u8>,
        judge: impl Fn(&Evidence) -> Vec<String>,
    ) -> Result<Judgement> {
        let session = Session {
            name,
            kernel: self.kernel,
            image,
            parameters: case.command_line(),
            machine: &case.machine,
            tests_pid1: false,
            patience: case.patience,
            interaction: Interaction::Silent,
        };
        suite::observe(workspace, &session, case, judge)
    }
}
