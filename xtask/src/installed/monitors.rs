// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real virtual machine monitors use a function that was kept at boot: Debian's QEMU and libvirt, both inside the guest.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::Site;
use crate::cases::suite::{self, Judgement};
use crate::deliver::install;
use crate::ground::pool;
use crate::ground::progress;
use crate::ground::setup;
use crate::ground::workspace::Workspace;
use crate::guest::image::{Drivers, Ingredients};
use crate::guest::kernel::Kernel;
use crate::guest::machine::{E1000E, Machine};
use crate::trials::root::{Besides, Generator, System};

/// Debian 13 with both monitors.
const SYSTEM: System = System {
    besides: Some(Besides {
        name: "monitors",
        packages: &[
            "busybox-static",
            "cpio",
            "libvirt-clients",
            "libvirt-daemon-driver-qemu",
            "libvirt-daemon-system",
            "qemu-system-x86",
            "seabios",
        ],
    }),
    ..System::of("trixie", Generator::Dracut)
};

/// MiB of its root disk.
const DISK_SIZE: u32 = 2048;

/// MiB for the second guest, the monitor, and the first guest's image.
const MEMORY: u32 = 1024;

/// The network card that is kept; the host has its twin.
const KEPT: &str = "00:04.0";
const TWIN: &str = "00:03.0";

/// How long the second guest may take, which an emulated machine emulates.
const PATIENCE: Duration = Duration::from_secs(45 * 60);

/// What the second guest does.
const SECOND_SCENE: &str = r#"tell_drivers 00:03.0
ip link set eth0 up
for _ in $(seq 600); do
	dmesg | grep -q 'Link is Up' && break
	sleep 1
done
tell "$(dmesg | grep -o 'e1000e .*Link is Up.*')"
"#;

/// What a monitor does in the guest.
pub struct Monitor {
    pub name: &'static str,
    scene: &'static str,
    told: &'static str,
}

pub const MONITORS: [Monitor; 2] = [
    Monitor {
        name: "monitor: QEMU in the guest",
        scene: r#"qemu-system-x86_64 -M q35,sata=off -accel tcg -m 160 -nodefaults -display none -no-reboot -bios qboot.rom \
	-kernel /second/vmlinux -initrd /second/image \
	-append 'console=ttyS0 loglevel=3 panic=-1 cryptomgr.notests audit=0 no_timer_check guest.mode=control' \
	-serial file:/second/console -serial file:/second/report -serial file:/second/log \
	-device vfio-pci,host=0000:00:04.0,addr=03.0 || tell "QEMU: $?"
sed -n 's/^@guest tell //p' /second/report | tr -d '\r' >/second/told
while read -r line; do
	tell "the second guest: $line"
	report "figure the second guest: $line"
done </second/told
"#,
        told: "the second guest: 00:03.0 e1000e\n\
               the second guest: e1000e 0000:00:03.0 eth0: NIC Link is Up 1000 Mbps Full Duplex, Flow Control: Rx/Tx",
    },
    Monitor {
        name: "monitor: libvirt, managed='yes'",
        scene: r#"tell_override() {
	read -r value </sys/bus/pci/devices/0000:00:04.0/driver_override
	tell "$value"
}
for _ in 1 2; do
	virsh create /second/domain.xml
	tell "create: $?, $(virsh domstate second)"
	ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q '/vfio/[0-9]' && tell in use
	tell_drivers 00:04.0
	virsh destroy second
	tell "destroy: $?"
	tell_drivers 00:04.0
	tell_override
done
"#,
        told: "create: 0, running\n\
               in use\n\
               00:04.0 vfio-pci\n\
               destroy: 0\n\
               00:04.0 vfio-pci\n\
               vfio-pci\n\
               create: 0, running\n\
               in use\n\
               00:04.0 vfio-pci\n\
               destroy: 0\n\
               00:04.0 vfio-pci\n\
               vfio-pci",
    },
];

const DOMAIN: &str = "<domain type='qemu'>
  <name>second</name>
  <memory unit='MiB'>160</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>/second/vmlinux</kernel>
    <initrd>/second/image</initrd>
    <cmdline>console=ttyS0 no_timer_check guest.mode=control</cmdline>
  </os>
  <devices>
    <hostdev mode='subsystem' type='pci' managed='yes'>
      <source>
        <address domain='0x0000' bus='0x00' slot='0x04' function='0x0'/>
      </source>
    </hostdev>
  </devices>
</domain>
";

/// Runs them two at a time, each in a boot of a system that has both, with what is ours installed.
pub fn run<'a>(
    workspace: &Workspace,
    early: &Path,
    monitors: &'a [&Monitor],
) -> Result<Vec<(&'a Monitor, Result<Judgement>)>> {
    setup::ensure(&[&setup::MMDEBSTRAP])?;
    let kernel = SYSTEM.kernel(workspace)?;
    let built = install::gather_for_tests(workspace, early)?;
    let outcomes = pool::each(monitors, |monitor| {
        progress::phase(monitor.name, || monitor.boot(workspace, &kernel, &built))
    });
    Ok(monitors.iter().copied().zip(outcomes).collect())
}

impl Monitor {
    fn boot(&self, workspace: &Workspace, kernel: &Kernel, built: &Path) -> Result<Judgement> {
        let machine = Machine::new().with_image(MEMORY).with(TWIN, E1000E).with(KEPT, E1000E);
        let site = Site::prepare(&SYSTEM, kernel, workspace, &Drivers::of(&machine))?;
        install::install_to(&site.layer.changes(), &workspace.root, built)?;
        let image = site.image(Generator::Dracut, "")?;

        let drivers = Drivers { host: vec!["e1000e"], ..Drivers::default() };
        let mut second = Ingredients::of(workspace, kernel)?.without_early(kernel, &drivers)?;
        second.file("etc/scene", SECOND_SCENE);
        site.layer.write("second/image", second.to_bytes()?)?;
        site.layer.write("second/vmlinux", fs::read(&kernel.fastest)?)?;
        site.layer.write("second/domain.xml", DOMAIN)?;
        site.layer.write("etc/scene", self.scene)?;

        let mut case = super::case(self.name, machine, &site.disk(DISK_SIZE)?)
            .rules(KEPT)
            .taken([KEPT])
            .patience(|patience| {
                patience.boot *= 4;
                patience.drivers = PATIENCE;
            });
        case.told = self.told.lines().map(str::to_owned).collect();
        site.boot(workspace, "monitor", &case, image, |evidence| {
            suite::judge_case(&case, &kernel.modules, evidence)
        })
    }
}
