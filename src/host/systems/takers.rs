// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who else takes PCI functions on this host, or keeps drivers from them: what people set up before, or beside.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;

use vfio_override::cmdline;
use vfio_override::pci::Address;
use vfio_override::plan::Step as Taken;
use vfio_override::run::Run;

use super::advice::Advice;
use super::steps::{ELSE, Step, Written};
use super::words::{BLACKLISTS, Ids, is_name, split};
use crate::machine::Machine;
use crate::machine::functions::{Device, Devices};
use crate::machine::modules::{self, Driver};
use crate::machine::root::{self, Root};
use crate::rules::preview::Asked;

/// What was found, and how to undo it.
#[derive(Default)]
pub struct Takers {
    pub advice: Vec<Advice>,
    /// What has to be done beside the kernel command line. Each stands for itself.
    pub steps: Vec<Step>,
    /// What takes these back, for who wants what was there before.
    pub undo: Vec<Step>,
    /// Words that are to be taken off the kernel command line.
    pub words: Vec<String>,
    /// What is left as it is, and keeps functions from the host's drivers without any rule.
    pub left: Vec<String>,
    /// Whether the image holds a copy of something that these steps change.
    pub is_in_image: bool,
}

/// Where modprobe's configuration is (modprobe.d(5)).
const MODPROBE: [&str; 5] = [
    "etc/modprobe.d",
    "run/modprobe.d",
    "usr/local/lib/modprobe.d",
    "usr/lib/modprobe.d",
    "lib/modprobe.d",
];
/// What a file of modprobe's is made from, where that is no place to write: the value, and its own file.
const MADE: (&str, &str, &str) = (
    "etc/modprobe.d/nixos.conf",
    "boot.extraModprobeConfig in /etc/nixos/configuration.nix",
    "/etc/nixos/configuration.nix",
);
/// Lists of modules of which each line may have options, too (modules(5), initramfs-tools(7)).
const WITH_OPTIONS: [&str; 2] = ["etc/modules", "etc/initramfs-tools/modules"];
/// Where people put programs that set overrides: rules of udev's, scripts and hooks of images.
const SCRIPTS: [&str; 9] = [
    "etc/udev/rules.d",
    "etc/initramfs-tools/scripts/init-top",
    "etc/initramfs-tools/scripts/init-premount",
    "etc/initramfs-tools/scripts/local-top",
    "etc/initcpio/hooks",
    "etc/libvirt/hooks",
    "etc/local.d",
    "etc/systemd/system",
    "usr/local/bin",
];
/// Programs that bind functions after the boot where their configuration says so.
const PROGRAMS: [(&str, &str, &str); 2] = [
    (
        "boot/config/vfio-pci.cfg",
        "BIND=",
        "has functions bound after the boot, by address (Tools > System Devices): take out there what a rule takes",
    ),
    (
        "etc/supergfxd.conf",
        "\"vfio_enable\": true",
        "lets supergfxctl bind a laptop's card and take it back: leave its mode as it is while a rule takes that card",
    ),
];
/// Lists of modules that go into an image, or are loaded at boot.
const MODULE_LISTS: [&str; 7] = [
    "etc/mkinitcpio.conf",
    "etc/initramfs-tools/modules",
    "etc/modules",
    "etc/booster.yaml",
    "etc/mkinitcpio.conf.d",
    "etc/dracut.conf.d",
    "etc/modules-load.d",
];

impl Takers {
    /// What others do to the functions of a run, or in its place.
    pub fn of(machine: &mut Machine, devices: &Devices, taken: &[(Address, String)]) -> Self {
        let mut takers = Self::default();
        takers.by_ids(machine, devices, taken);
        let machine = &*machine;
        let Some(root) = &machine.root else { return takers };
        takers.by_modprobe(machine, root, devices, taken);
        takers.by_driverctl(root, devices, taken);
        takers.by_scripts(root);
        takers.by_libvirt(root, taken);
        takers.by_old_modules(machine, root);
        takers
    }

    /// `vfio-pci.ids=` and its like, on the command line and in modprobe's configuration.
    fn by_ids(&mut self, machine: &mut Machine, devices: &Devices, taken: &[(Address, String)]) {
        let line = machine.cmdline().unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut found: Vec<(String, String)> = Vec::new();
        let written = Written::of(machine);
        let (file, text) = written.map(|it| (it.file, it.text)).unwrap_or_default();
        let places =
            [(line, "on the kernel command line".to_owned()), (text, format!("in {file}"))];
        for (line, place) in places {
            for Ids { word, is_behind } in
                Ids::of(&line, |driver| modules::is_built_in(machine, driver))
            {
                if self.words.iter().any(|known| known == word) {
                    continue;
                }
                self.words.push(word.to_owned());
                let (name, ids) = word.split_once('=').unwrap_or((word, ""));
                let name = name.trim_matches('"');
                let place = if is_behind {
                    format!("{name} behind -- {place}, which modprobe reads all the same,")
                } else {
                    format!("{name} {place}")
                };
                found.push((place, ids.trim_matches('"').to_owned()));
            }
        }
        for (file, text) in options_of(machine) {
            let mut words = text.split_whitespace();
            let Some(ids) = words.find_map(|word| word.strip_prefix("ids=")) else { continue };
            found.push((format!("ids= in /{file}"), ids.trim_matches('"').to_owned()));
            self.is_in_image = true;
            // Other options may stand in the same line, or a module that has to be loaded.
            let part = if text.starts_with("options ") && !text.ends_with(ELSE) {
                text.clone()
            } else {
                format!("ids={ids}")
            };
            let (place, file) = match MADE {
                (made, value, source) if made == file => (value.to_owned(), source.to_owned()),
                _ => (format!("/{file}"), format!("/{file}")),
            };
            let what = format!("In {place}, take out (the image may hold a copy of it)");
            self.steps.push(Step::write(what, file.clone(), part.clone()));
            let what = format!(
                "To have back what {place} did, too, write there again, and make the image anew"
            );
            self.undo.push(Step::write(what, file, part));
        }
        for (place, ids) in found {
            let asked = Asked::Given(vec![ids]);
            let run = asked.preview(machine);
            let all = run.plan.taken().map(|step| step.function.address);
            let others: Vec<Address> =
                all.filter(|address| !taken.iter().any(|(taken, _)| taken == address)).collect();
            let names: Vec<String> = others.iter().map(ToString::to_string).collect();
            let advice = if others.is_empty() {
                Advice::note(
                    "ids-left",
                    names,
                    &format_args!("{place} is not needed with vfio.override=: take it out"),
                )
            } else {
                let boot = others.iter().filter_map(|address| devices.get(*address));
                let boot = if boot.into_iter().any(|device| device.boot_display) {
                    " (the boot display among them)"
                } else {
                    ""
                };
                let message = format_args!(
                    "{place} makes vfio-pci take what no rule selects, too: {}{boot}; take it out",
                    names.join(", ")
                );
                Advice::warning("ids-left", names.clone(), &message)
            };
            self.advice.push(advice);
        }
    }

    /// Lines and words that order modules or keep drivers away.
    fn by_modprobe(
        &mut self,
        machine: &Machine,
        root: &Root,
        devices: &Devices,
        taken: &[(Address, String)],
    ) {
        let is_taken =
            |device: &&Device| taken.iter().any(|(taken, _)| *taken == device.function.address);
        // What a distribution brings along is as it wants it.
        let of_files = modprobe_lines(root, &MODPROBE[..1]).into_iter();
        let of_files = of_files.map(|(file, text)| (format!("/{file}"), text));
        for (place, text) in of_files.chain(blacklisted(machine)) {
            let words: Vec<&str> = text.split_whitespace().collect();
            let message = match words.as_slice() {
                ["softdep", module, "pre:", ..] => format!(
                    "{place} has {module} wait for vfio-pci, which is not needed: overrides are set before either loads"
                ),
                ["install", "vfio-pci" | "vfio_pci", ..] => {
                    self.left.push(format!("the command in place of vfio-pci in {place}"));
                    format!(
                        "{place} has a command run in place of vfio-pci, which may take functions that no rule selects"
                    )
                }
                ["blacklist", module] | ["install", module, _] => {
                    let module = module.replace('-', "_");
                    let has = |device: &&Device| {
                        device
                            .driver
                            .as_ref()
                            .is_some_and(|driver| driver.replace('-', "_") == module)
                    };
                    let is_for = |device: &&Device| has(device) || is_driver_of(&module, device);
                    if !devices.all.iter().filter(is_taken).any(|device| is_for(&device)) {
                        continue;
                    }
                    let others: Vec<&Device> = devices
                        .all
                        .iter()
                        .filter(|device| has(device) && !is_taken(device))
                        .collect();
                    self.left.push(format!("what keeps {module} away in {place}"));
                    let harm = match others.first() {
                        Some(device) => format!(", and {} needs it", device.address),
                        None => String::new(),
                    };
                    format!(
                        "{place} keeps {module} from being loaded for any function, which vfio.override= does not need{harm}"
                    )
                }
                _ => continue,
            };
            self.advice.push(Advice::note("modprobe-left", Vec::new(), &message));
        }
    }

    /// What driverctl has saved, and sets again after the boot.
    fn by_driverctl(&mut self, root: &Root, devices: &Devices, taken: &[(Address, String)]) {
        const SAVED: &str = "etc/driverctl.d";
        const PARTS: [&str; 3] = [
            "usr/lib/udev/rules.d/05-driverctl.rules",
            "lib/udev/rules.d/05-driverctl.rules",
            "usr/sbin/driverctl",
        ];
        if root.first(&PARTS).is_none() {
            return;
        }
        for name in root.names(SAVED) {
            let Some(address) = Address::from_sysfs(name.as_bytes()) else { continue };
            let is_driver = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.+".contains(&byte);
            let is_first = Cell::new(true);
            let keep = |line: &str| {
                let driver = line.trim();
                let is_it = !driver.is_empty() && is_first.replace(false);
                (is_it && driver.bytes().all(is_driver)).then(|| driver.to_owned())
            };
            let lines = root.lines(&format!("{SAVED}/{name}"), keep);
            let Some(driver) = lines.unwrap_or_default().into_iter().next() else {
                continue;
            };
            let Some((_, asked)) = taken.iter().find(|(taken, _)| *taken == address) else {
                continue;
            };
            // It gives vfio-pci the IDs, not the address.
            let id = devices.get(address).map(|device| device.function.id);
            let twins: Vec<String> = devices
                .all
                .iter()
                .filter(|device| Some(device.function.id) == id && driver == "vfio-pci")
                .filter(|device| !taken.iter().any(|(taken, _)| *taken == device.function.address))
                .map(|device| device.address.clone())
                .collect();
            let undo = format!("driverctl unset-override {address}");
            let functions = vec![address.to_string()];
            let advice = if driver != *asked {
                Advice::warning(
                    "driverctl",
                    functions,
                    &format_args!(
                        "driverctl has {driver} saved for {address} and sets that again after the boot, against the rule: {undo}"
                    ),
                )
            } else if twins.is_empty() {
                Advice::note(
                    "driverctl",
                    functions,
                    &format_args!(
                        "driverctl has {driver} saved for {address} too, which is not needed: {undo}"
                    ),
                )
            } else {
                Advice::warning(
                    "driverctl",
                    functions,
                    &format_args!(
                        "driverctl has {driver} saved for {address} and gives vfio-pci its IDs, so that it may take {} too: {undo}",
                        twins.join(", ")
                    ),
                )
            };
            self.advice.push(advice);
            let what = format!("To have back what driverctl did for {address}, too");
            self.undo.push(Step::run(what, format!("driverctl set-override {address} {driver}")));
            self.steps
                .push(Step::run(
                    format!(
                        "With no guest that uses it running, since this acts at once, take back what driverctl has saved for {address}"
                    ),
                    undo,
                ));
        }
    }

    /// What people wrote to set overrides, or to bind by hand, beside what is known by name.
    fn by_scripts(&mut self, root: &Root) {
        // The last one is of rules that switch a laptop's card off.
        const SIGNS: [&str; 3] = ["driver_override", "drivers/vfio-pci/new_id", "ATTR{remove}"];
        let names = |directory: &str| {
            let names = root.names(directory).into_iter();
            names.map(|name| format!("{directory}/{name}")).collect::<Vec<_>>()
        };
        for file in SCRIPTS.into_iter().flat_map(names) {
            let keep = |line: &str| {
                let sign = SIGNS.iter().find(|sign| line.contains(**sign));
                let sign = sign.filter(|_| !line.trim_start().starts_with('#'));
                sign.map(|sign| (*sign).to_owned())
            };
            // Ours are there, too, where they were put by hand.
            let is_ours = file.ends_with("vfio-override") || file.ends_with("vfio-override.rules");
            if is_ours || root.matches(&file, keep).is_empty() {
                continue;
            }
            self.left.push(format!("what /{file} binds"));
            let message = format_args!(
                "/{file} sets driver_override, or binds or removes functions, too: see that it agrees with the rules, or take it \
                 away"
            );
            self.advice.push(Advice::note("udev-left", Vec::new(), &message));
        }
        for (file, sign, told) in PROGRAMS {
            let keep = |line: &str| line.contains(sign).then(|| sign.to_owned());
            if !root.matches(file, keep).is_empty() {
                self.left.push(format!("what /{file} binds"));
                let message = format_args!("/{file} {told}");
                self.advice.push(Advice::note("udev-left", Vec::new(), &message));
            }
        }
    }

    /// libvirt's managed mode.
    fn by_libvirt(&mut self, root: &Root, taken: &[(Address, String)]) {
        let managed = managed(root);
        for (address, _) in taken.iter().filter(|(address, _)| managed.contains(address)) {
            let message = format_args!(
                "libvirt has {address} in a domain with managed='yes', which does no harm: the function is vfio-pci's already"
            );
            self.advice.push(Advice::note("libvirt-managed", vec![address.to_string()], &message));
        }
    }

    /// `vfio_virqfd` among the modules of an image.
    fn by_old_modules(&mut self, machine: &Machine, root: &Root) {
        const OLD: &str = "vfio_virqfd";
        let files = MODULE_LISTS.iter().flat_map(|path| match root.names(path) {
            names if names.is_empty() => vec![(*path).to_owned()],
            names => names.into_iter().map(|name| format!("{path}/{name}")).collect(),
        });
        let keep = |line: &str| {
            let text = line.split('#').next().unwrap_or_default();
            text.contains(OLD).then(|| OLD.to_owned())
        };
        let files: Vec<String> = files
            .filter(|file| root.lines(file, keep).is_ok_and(|lines| !lines.is_empty()))
            .collect();
        if files.is_empty() || modules::find(machine, OLD) != Some(Driver::Missing) {
            return;
        }
        for file in files {
            let message = format_args!(
                "/{file} names {OLD}, which is no module of its own since Linux 6.2: take it out, or the next image is built with \
                 an error"
            );
            self.advice.push(Advice::warning("old-module", Vec::new(), &message));
            let what = format!("In /{file}, take out");
            self.steps.push(Step::write(what, format!("/{file}"), OLD));
        }
    }
}

/// The modules that words on the kernel command line keep away, each with that word and as a line of modprobe's.
fn blacklisted(machine: &Machine) -> Vec<(String, String)> {
    let line = machine.cmdline().unwrap_or_default();
    let line = String::from_utf8_lossy(&line).into_owned();
    let mut is_behind = false;
    let mut found = Vec::new();
    for word in split(&line) {
        is_behind |= word == "--";
        let Some(parameter) = cmdline::parameters(word.as_bytes()).next() else { continue };
        // The kernel's own is not read behind `--`.
        let own = (!is_behind).then_some("module_blacklist");
        let name = BLACKLISTS.into_iter().chain(own).find(|it| it.as_bytes() == parameter.name);
        let Some(name) = name else { continue };
        let value = parameter.value.map(String::from_utf8_lossy).unwrap_or_default();
        found.extend(value.split(',').filter(|module| is_name(module)).map(|module| {
            (format!("{name}= on the kernel command line"), format!("blacklist {module}"))
        }));
    }
    found
}

/// Whether a driver that people keep away for the sake of passthrough is for a function of this kind.
fn is_driver_of(module: &str, device: &Device) -> bool {
    let function = &device.function;
    let is_display = function.class.is_display();
    match module {
        "nouveau" | "nvidia" | "nvidia_drm" => is_display && function.id.vendor == 0x10de,
        "amdgpu" | "radeon" => is_display && function.id.vendor == 0x1002,
        "i915" | "xe" => is_display && function.id.vendor == 0x8086,
        "snd_hda_intel" => function.class.code() >> 8 == 0x04_03,
        _ => false,
    }
}

/// The options of vfio-pci and pci-stub that name IDs, wherever they stand, each with its file.
fn options_of(machine: &Machine) -> Vec<(String, String)> {
    let Some(root) = &machine.root else { return Vec::new() };
    let modprobe = modprobe_lines(root, &MODPROBE).into_iter();
    let mut found: Vec<(String, String)> =
        modprobe.filter(|(_, text)| text.starts_with("options ")).collect();
    for file in WITH_OPTIONS {
        let keep = |line: &str| {
            let text = line.trim_start();
            let options = of_modprobe(&format!("options {text}"))?;
            Some(options.strip_prefix("options ")?.to_owned())
        };
        found.extend(root.matches(file, keep).into_iter().map(|line| (file.to_owned(), line)));
    }
    found
}

/// The lines in these directories that are about drivers of PCI functions, each with its file.
fn modprobe_lines(root: &Root, directories: &[&str]) -> Vec<(String, String)> {
    let names = |directory: &&str| {
        let names = root.names(directory).into_iter().filter(|name| root::has_end(name, "conf"));
        names.map(|name| format!("{directory}/{name}")).collect::<Vec<_>>()
    };
    // Where /lib is a link to /usr/lib, what is there is named once.
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for file in directories.iter().flat_map(names) {
        if fs::canonicalize(root.path(&file)).is_ok_and(|place| seen.insert(place)) {
            let lines = root.matches(&file, of_modprobe).into_iter();
            found.extend(lines.map(|line| (file.clone(), line)));
        }
    }
    found
}

/// What is of use of a line of modprobe's configuration.
fn of_modprobe(line: &str) -> Option<String> {
    let text = line.split('#').next().unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    let is_module = |word: &&str| {
        word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    let module = words.get(1).filter(|word| is_module(word))?;
    let is_vfio = ["vfio-pci", "pci-stub"].contains(&module.replace('_', "-").as_str());
    Some(match words.as_slice() {
        ["options", _, options @ ..] if is_vfio => {
            let ids = options.iter().find(|option| option.starts_with("ids="))?;
            let is_plain = |byte: u8| byte.is_ascii_hexdigit() || b"ids=\":,".contains(&byte);
            let ids = if ids.bytes().all(is_plain) { ids } else { "ids=" };
            let more = if options.len() > 1 { format!(" {ELSE}") } else { String::new() };
            format!("options {module} {ids}{more}")
        }
        ["softdep", _, "pre:", before @ ..] => {
            before.iter().find(|word| ["vfio-pci", "vfio_pci"].contains(*word))?;
            format!("softdep {module} pre: vfio-pci")
        }
        ["install", _, command, ..] if is_nothing(command) => format!("install {module} {command}"),
        ["install", ..] if is_vfio => format!("install {module} {ELSE}"),
        ["blacklist", _] => format!("blacklist {module}"),
        _ => return None,
    })
}

/// Whether a command does nothing, so that a module that it is run for is never loaded.
fn is_nothing(command: &str) -> bool {
    ["/bin/false", "/bin/true", "/usr/bin/false", "/usr/bin/true"].contains(&command)
}

/// The functions of libvirt's domains that it manages. What the domains are called is nobody's business.
fn managed(root: &Root) -> Vec<Address> {
    const DOMAINS: &str = "etc/libvirt/qemu";
    let mut found = Vec::new();
    for name in root.names(DOMAINS).into_iter().filter(|name| root::has_end(name, "xml")) {
        let Some(text) = root.text(&format!("{DOMAINS}/{name}")) else { continue };
        for device in text.split("<hostdev").skip(1) {
            let device = device.split("</hostdev>").next().unwrap_or_default();
            let (head, body) = device.split_once('>').unwrap_or((device, ""));
            if !head.contains("managed='yes'") && !head.contains("managed=\"yes\"") {
                continue;
            }
            let source = body.split("</source>").next().unwrap_or_default();
            let number = |name: &str| {
                let (_, rest) = source.split_once(&format!("{name}="))?;
                let digits = rest.trim_start_matches(['\'', '"']).trim_start_matches("0x");
                let digits: String = digits.chars().take_while(char::is_ascii_hexdigit).collect();
                u32::from_str_radix(&digits, 16).ok()
            };
            let address = || {
                let (domain, bus) = (number("domain")?, number("bus")?);
                let (slot, function) = (number("slot")?, number("function")?);
                Address::from_sysfs(
                    format!("{domain:04x}:{bus:02x}:{slot:02x}.{function:x}").as_bytes(),
                )
            };
            found.extend(address());
        }
    }
    if !found.is_empty() {
        let line = |address: &Address| {
            let text = address.to_string();
            let mut parts = text.split([':', '.']);
            let mut part = || parts.next().unwrap_or_default();
            let (domain, bus, slot, function) = (part(), part(), part(), part());
            format!(
                "<hostdev managed='yes'><source><address domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' \
                 function='0x{function}'/></source></hostdev>"
            )
        };
        let lines: Vec<String> = found.iter().map(line).collect();
        root.remember(&format!("{DOMAINS}/domain.xml"), &lines.join("\n"));
    }
    found
}

/// What a run takes, and for which driver.
pub fn taken(run: &Run<'_>) -> Vec<(Address, String)> {
    let name = |step: &Taken| (step.function.address, step.driver.escape_ascii().to_string());
    run.plan.taken().map(name).collect()
}
