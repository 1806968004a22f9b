// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is touched when functions are taken, beyond what the early binary can tell at boot: what a person would have
//! wished to know before.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;

use vfio_override::pci::Address;
use vfio_override::run::Run;

use crate::machine::disks::names;
use crate::machine::functions::{Device, Devices};
use crate::machine::inputs::Input;
use crate::machine::usage::Usage;
use crate::machine::{Machine, addresses_in, inside};
use crate::systems::advice::Advice;

/// All advice about the functions that a run takes.
pub fn about(
    machine: &Machine,
    devices: &Devices,
    run: &Run<'_>,
    usage: &Usage,
    advice: &mut Vec<Advice>,
) {
    let taken: BTreeSet<Address> = run.plan.taken().map(|step| step.function.address).collect();
    if taken.is_empty() {
        return;
    }
    let touched = Touched { machine, devices, usage, taken: &taken };
    touched.away_with_their_maker(advice);
    advice.extend(touched.console());
    advice.extend(touched.keyboard());
    for device in touched.taken() {
        advice.extend(touched.virtual_functions(device));
        advice.extend(touched.physical_function(device));
        advice.extend(touched.behind_taken(device));
        advice.extend(touched.special(device));
    }
    let groups: BTreeSet<u32> = touched.taken().filter_map(|device| device.group).collect();
    for group in groups {
        advice.extend(touched.reserved(group));
        advice.extend(touched.bridges(group));
    }
}

struct Touched<'a> {
    machine: &'a Machine,
    devices: &'a Devices,
    usage: &'a Usage,
    taken: &'a BTreeSet<Address>,
}

impl<'a> Touched<'a> {
    fn taken(&self) -> impl Iterator<Item = &'a Device> + use<'a> {
        let Self { devices, taken, .. } = *self;
        devices.all.iter().filter(|device| taken.contains(&device.function.address))
    }

    /// What of a group stays with the host only as long as the function that makes it: this keeps no group from being
    /// used. At boot it is not there yet, and the log does not warn.
    fn away_with_their_maker(&self, advice: &mut Vec<Advice>) {
        let mut told = Vec::new();
        for of_group in advice.iter_mut().filter(|advice| advice.kind == "group-not-viable") {
            let members: Option<Vec<&Device>> =
                of_group.functions.iter().map(|address| self.named(address)).collect();
            let members = members.unwrap_or_default();
            let maker = members.first().and_then(|member| self.maker(member));
            let Some(maker) = maker.filter(|_| members.iter().all(|it| self.maker(it).is_some()))
            else {
                continue;
            };
            // The sentence of the log, where that sees them.
            of_group.severity = "note";
            told.push(Advice::note(
                "goes-along",
                of_group.functions.clone(),
                &format_args!(
                    "that is no obstacle: {} there only as long as the host's driver has {maker}, and not at boot",
                    is_or_are(&of_group.functions)
                ),
            ));
        }
        advice.extend(told);
    }

    fn named(&self, address: &str) -> Option<&'a Device> {
        self.devices.all.iter().find(|device| device.address == address)
    }

    /// The function that is taken, and whose host driver makes this one.
    fn maker(&self, device: &Device) -> Option<Address> {
        let is_maker = |maker: &&Address| {
            device.physical_function == Some(**maker)
                || device.is_behind(**maker)
                    && self.devices.get(**maker).is_some_and(Device::is_endpoint)
        };
        self.taken.iter().find(is_maker).copied()
    }

    /// That a function goes with the controller that it is behind, before any rule is applied to it.
    fn behind_taken(&self, device: &Device) -> Option<Advice> {
        let maker = self.maker(device).filter(|_| device.physical_function.is_none())?;
        let (address, functions) = (&device.address, vec![device.address.clone()]);
        Some(Advice::warning(
            "never-there",
            functions,
            &format_args!(
                "{address} will not be there: {maker} is taken, whose host driver makes it; pass {maker} alone, and all \
                 behind it goes along"
            ),
        ))
    }

    /// That no display stays that could show a console.
    fn console(&self) -> Option<Advice> {
        let is_screen = |device: &&Device| shows_a_console(device);
        let mut screens = self.devices.all.iter().filter(is_screen).peekable();
        screens.peek()?;
        if screens.any(|device| !self.taken.contains(&device.function.address))
            || has_display_off_pci(self.machine)
        {
            return None;
        }
        let taken = self.taken().filter(is_screen).map(|device| device.address.clone());
        Some(Advice::warning(
            "no-console",
            taken.collect(),
            &"no console is left: the host keeps no display, so have ssh or a serial console ready before the next boot",
        ))
    }

    /// That no keyboard stays.
    fn keyboard(&self) -> Option<Advice> {
        let (kind, behind) = self.usage.keyboards();
        let keyboards: Vec<&Device> = behind
            .into_iter()
            .filter_map(|address| self.devices.get(address))
            .filter(|device| device.is_endpoint())
            .collect();
        let is_taken = |device: &&Device| self.taken.contains(&device.function.address);
        // A keyboard of the chassis is on no PCI function that shows it.
        let has_other = names(&self.machine.sysfs.join("bus/serio/devices")).len() > 1;
        (!keyboards.is_empty() && keyboards.iter().all(is_taken) && !has_other).then(|| {
            Advice::warning(
                "no-keyboard",
                keyboards.iter().map(|device| device.address.clone()).collect(),
                &format_args!(
                    "no USB {} is left to the host: have ssh or a serial console ready before the next boot",
                    if kind == Input::Keyboard { "keyboard" } else { "input device" }
                ),
            )
        })
    }

    /// The virtual functions that go with their physical one.
    fn virtual_functions(&self, device: &Device) -> Option<Advice> {
        let own: Vec<String> = self
            .devices
            .all
            .iter()
            .filter(|other| other.physical_function == Some(device.function.address))
            .map(|other| other.address.clone())
            .collect();
        let address = &device.address;
        (!own.is_empty()).then(|| {
            Advice::warning(
                "virtual-functions",
                own.clone(),
                &format_args!(
                    "{address} has {}, which its driver {} makes: without that driver there {} none; to pass one of \
                     them through, leave {address} to the host",
                    counted(&own, "virtual function"),
                    device.driver.as_deref().unwrap_or("of the host"),
                    if own.len() == 1 { "is" } else { "are" },
                ),
            )
        })
    }

    /// What a virtual function needs of the host.
    fn physical_function(&self, device: &Device) -> Option<Advice> {
        let physical = device.physical_function?;
        let (address, functions) = (&device.address, vec![device.address.clone()]);
        Some(if self.taken.contains(&physical) {
            Advice::warning(
                "virtual-functions",
                functions,
                &format_args!(
                    "{address} will not be there: {physical} is taken, whose host driver makes it"
                ),
            )
        } else {
            Advice::note(
                "virtual-functions",
                functions,
                &format_args!(
                    "{address} is a virtual function: it is there once the driver of {physical} has made it, and a rule \
                     with ? before it holds from then on, and is no failure before"
                ),
            )
        })
    }

    /// What is special about a single function.
    fn special(&self, device: &Device) -> Option<Advice> {
        const SECURITY: u32 = 0x10_80;
        let address = &device.address;
        let about = |kind, text: &dyn Display| {
            Some(Advice::warning(
                kind,
                vec![device.address.clone()],
                &format_args!("{address} {text}"),
            ))
        };
        if let Some(text) = firmware(device) {
            return about("firmware", &text);
        }
        if let Some(text) = management(device) {
            return about("management", &text);
        }
        if device.is_thunderbolt() {
            let text = "is a Thunderbolt controller: without its driver nothing that is connected to it appears";
            return about("thunderbolt", &text);
        }
        if device.has_class(SECURITY) && device.function.id.vendor == AMD {
            let text = "is the processor's security processor: it may hold the firmware's TPM, with the keys of the host's disks";
            return about("firmware", &text);
        }
        if self.usage.is_unseen(device.function.address) {
            let text = "is a USB controller: whether a keyboard or a disk is connected to it cannot be seen here";
            return about("usb-unknown", &text);
        }
        None
    }

    /// That the firmware keeps memory of its own for a group, so that the kernel does not give it away.
    fn reserved(&self, group: u32) -> Option<Advice> {
        let ranges = reserved(self.machine, group);
        (!ranges.is_empty()).then(|| {
            Advice::warning(
                "reserved-memory",
                self.members(group),
                &format_args!(
                    "the firmware reserves memory for group {group} (RMRR or IVMD, {}): the kernel refuses to pass it \
                     through; look for a switch in the firmware's setup (HPE: conrep, shared memory), or take another slot",
                    ranges.join(", ")
                ),
            )
        })
    }

    /// Bridges of a group whose driver keeps the group from being used.
    fn bridges(&self, group: u32) -> Vec<Advice> {
        let bridges = self.devices.all.iter().filter(|device| device.group == Some(group));
        let hindering = bridges.filter_map(|device| Some((device, hindering_driver(device)?)));
        hindering
            .map(|(device, driver)| {
                let address = &device.address;
                Advice::warning(
                    "bridge-driver",
                    vec![address.clone()],
                    &format_args!(
                        "the bridge {address} of group {group} has the driver {driver}, with which the kernel refuses the \
                         group (since Linux 5.19): take the bridge from it first, by \
                         echo {address} > /sys/bus/pci/drivers/{driver}/unbind"
                    ),
                )
            })
            .collect()
    }

    fn members(&self, group: u32) -> Vec<String> {
        let members = self.taken().filter(|device| device.group == Some(group));
        members.map(|device| device.address.clone()).collect()
    }
}

const AMD: u16 = 0x1022;

/// A display with connectors: not a 3D controller (class 0302), and no virtual function.
fn shows_a_console(device: &Device) -> bool {
    const WITHOUT_CONNECTORS: u32 = 0x03_02;
    device.function.class.is_display()
        && !device.has_class(WITHOUT_CONNECTORS)
        && device.physical_function.is_none()
}

/// Whether a display that is on no PCI function has a driver, as on most boards of Arm.
fn has_display_off_pci(machine: &Machine) -> bool {
    let class = Path::new("class/drm");
    names(&machine.sysfs.join(class)).iter().any(|name| {
        let is_card = name.strip_prefix("card").is_some_and(|number| number.parse::<u8>().is_ok());
        let place = inside::resolve(&machine.sysfs, class.join(name)).filter(|_| is_card);
        // What vkms and simpledrm make shows nothing that the card does not.
        place.is_some_and(|place| {
            let text = place.to_string_lossy();
            addresses_in(&place).is_empty()
                && !["vkms", "framebuffer"].iter().any(|made_up| text.contains(made_up))
        })
    })
}

/// What a function is that belongs to the board's firmware.
pub fn firmware(device: &Device) -> Option<&'static str> {
    const INTEL: u16 = 0x8086;
    /// Serial bus, other: where the vendor is Intel, the flash with the firmware (`drivers/mtd/spi-nor`, intel-spi).
    const SPI: u32 = 0x0c_80;
    match device.function.class.code() >> 8 {
        0x06_01 => Some(
            "is the board's ISA or LPC bridge: behind it are the host's own clocks, sensors and often its TPM",
        ),
        0x0c_05 => Some(
            "is the board's SMBus: by it a guest reaches the memory modules and the board's voltages",
        ),
        SPI if device.function.id.vendor == INTEL && device.function.address.bus() == 0 => Some(
            "gives access to the flash with this machine's firmware: a guest may change what the machine boots",
        ),
        _ => None,
    }
}

/// What a function is that belongs to the board's management controller (BMC).
fn management(device: &Device) -> Option<&'static str> {
    const ASPEED: u16 = 0x1a03;
    const MATROX: u16 = 0x102b;
    const HUAWEI_BMC: (u16, u16) = (0x19e5, 0x1711);
    const HPE: u16 = 0x103c;
    const IPMI: u32 = 0x0c_07;
    let id = device.function.id;
    // The G200 of servers: e, eW, eR, eH and their like (`drivers/gpu/drm/mgag200`).
    let is_g200 = id.vendor == MATROX && (0x0522..=0x0540).contains(&id.device);
    let is_display = device.function.class.is_display();
    if is_display && (id.vendor == ASPEED || is_g200 || (id.vendor, id.device) == HUAWEI_BMC) {
        return Some(
            "is the display of the board's management controller (BMC): its remote console goes dark",
        );
    }
    let is_ilo = id.vendor == HPE && (0x3300..=0x3310).contains(&id.device);
    (id.vendor == ASPEED || device.has_class(IPMI) || is_ilo).then_some(
        "belongs to the board's management controller (BMC): the host loses IPMI, and with it its sensors and watchdog",
    )
}

/// The ranges of memory that the firmware reserves for a group and that no guest can have: `direct`, where
/// `direct-relaxable` does no harm (`Documentation/ABI/testing/sysfs-kernel-iommu_groups`).
pub fn reserved(machine: &Machine, group: u32) -> Vec<String> {
    let file = format!("kernel/iommu_groups/{group}/reserved_regions");
    let text = inside::read(&machine.sysfs, file).unwrap_or_default();
    let direct = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (start, end, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "direct").then(|| format!("{start}-{end}"))
    });
    direct.collect()
}

/// The driver of a bridge, if it is one with which the kernel refuses the bridge's group: one that does not manage DMA for
/// itself (`driver_managed_dma` of `struct pci_driver`, which only these have).
pub fn hindering_driver(device: &Device) -> Option<&str> {
    const HARMLESS: [&str; 4] = ["pcieport", "pci-stub", "vfio-pci", "xen-pciback"];
    let driver = device.driver.as_deref().filter(|_| !device.is_endpoint())?;
    (!HARMLESS.contains(&driver)).then_some(driver)
}

fn counted(addresses: &[String], what: &str) -> String {
    match addresses {
        [one] => format!("the {what} {one}"),
        several => format!("{} {what}s", several.len()),
    }
}

fn is_or_are(addresses: &[String]) -> String {
    match addresses {
        [one] => format!("{one} is"),
        _ => "they are".to_owned(),
    }
}
