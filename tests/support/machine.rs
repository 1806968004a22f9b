// SPDX-License-Identifier: MIT OR Apache-2.0
//! A PCI bus in memory, which answers as the kernel's sysfs does and remembers what it was asked.

use std::collections::BTreeMap;
use std::fmt::Display;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use vfio_override::path::{Attribute, Path};
use vfio_override::pci::Address;
use vfio_override::system::{File, System, Text};

/// The function with this sysfs name.
pub fn address(name: &str) -> Address {
    Address::from_sysfs(name.as_bytes()).unwrap_or_else(|| panic!("{name} is no address"))
}

/// One PCI function.
#[derive(Clone, Debug)]
pub struct Function {
    pub address: Address,
    /// The bridge whose directory holds that of the function.
    pub parent: Option<Address>,
    pub id: (u16, u16),
    pub subsystem: (u16, u16),
    pub class: u32,
    pub group: Option<u32>,
    pub boot_vga: bool,
    pub driver: Option<String>,
    /// What `driver_override` holds.
    pub kept_for: Option<String>,
    /// The driver that takes the function where no override forbids it.
    host_driver: Option<String>,
    missing: Vec<Attribute>,
    modalias: Option<Vec<u8>>,
    forgets_override: bool,
    returns_to_driver: bool,
    in_flight: InFlight,
}

/// How far a driver is that is about to have the function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum InFlight {
    #[default]
    No,
    /// It matches, which is seen without the device's lock.
    Matched,
    /// It has the lock, and the `driver` link is there.
    Probing,
}

/// A function of this class.
pub fn function(name: &str, class: u32) -> Function {
    Function {
        address: address(name),
        parent: None,
        id: (0x1234, 0x1111),
        subsystem: (0x1af4, 0x1100),
        class,
        group: None,
        boot_vga: false,
        driver: None,
        kept_for: None,
        host_driver: None,
        missing: Vec::new(),
        modalias: None,
        forgets_override: false,
        returns_to_driver: false,
        in_flight: InFlight::No,
    }
}

/// A VGA controller.
pub fn vga(name: &str) -> Function {
    function(name, 0x03_00_00)
}

/// The audio function of a graphics card.
pub fn audio(name: &str) -> Function {
    function(name, 0x04_03_00).with_id(0x10de, 0x1aef)
}

/// An Ethernet controller.
pub fn network(name: &str) -> Function {
    function(name, 0x02_00_00).with_id(0x8086, 0x10d3)
}

/// A solid-state drive.
pub fn nvme(name: &str) -> Function {
    function(name, 0x01_08_02).with_id(0x1b36, 0x0010)
}

/// A PCI-to-PCI bridge.
pub fn bridge(name: &str) -> Function {
    Function { subsystem: (0, 0), ..function(name, 0x06_04_00).with_id(0x8086, 0x3420) }
}

impl Function {
    /// The driver that may have it.
    fn wanted(&self) -> Option<&str> {
        self.kept_for.as_deref().or(self.host_driver.as_deref())
    }

    fn end_probe(&mut self) {
        if self.in_flight == InFlight::Probing && self.wanted() != self.driver.as_deref() {
            self.driver = None;
        }
        if self.in_flight == InFlight::Probing {
            self.in_flight = InFlight::No;
        }
    }

    pub fn with_id(self, vendor: u16, device: u16) -> Self {
        Self { id: (vendor, device), ..self }
    }

    pub fn behind(self, bridge: &str) -> Self {
        Self { parent: Some(address(bridge)), ..self }
    }

    pub fn in_group(self, group: u32) -> Self {
        Self { group: Some(group), ..self }
    }

    pub fn that_the_firmware_booted_on(self) -> Self {
        Self { boot_vga: true, ..self }
    }

    pub fn bound_to(self, driver: &str) -> Self {
        Self { driver: Some(driver.to_owned()), host_driver: Some(driver.to_owned()), ..self }
    }

    /// One that this driver takes when it is loaded.
    pub fn wanted_by(self, driver: &str) -> Self {
        Self { host_driver: Some(driver.to_owned()), ..self }
    }

    pub fn kept_for(self, driver: &str) -> Self {
        Self { kept_for: Some(driver.to_owned()), ..self }
    }

    /// One whose attribute is not there.
    pub fn without(mut self, attribute: Attribute) -> Self {
        self.missing.push(attribute);
        self
    }

    /// One whose `modalias` holds this.
    pub fn with_modalias(self, text: &[u8]) -> Self {
        Self { modalias: Some(text.to_vec()), ..self }
    }

    /// One whose override something else resets at once.
    pub fn that_forgets_its_override(self) -> Self {
        Self { forgets_override: true, ..self }
    }

    /// One that its driver takes back at once.
    pub fn that_returns_to_its_driver(self) -> Self {
        Self { returns_to_driver: true, ..self }
    }

    /// `modalias_show` in `drivers/pci/pci-sysfs.c`.
    fn modalias(&self) -> Vec<u8> {
        if let Some(text) = &self.modalias {
            return text.clone();
        }
        let ((vendor, device), (subvendor, subdevice)) = (self.id, self.subsystem);
        let class = self.class;
        let (base, sub, interface) = (class >> 16, class >> 8 & 0xff, class & 0xff);
        let text = format!(
            "pci:v{vendor:08X}d{device:08X}sv{subvendor:08X}sd{subdevice:08X}\
             bc{base:02X}sc{sub:02X}i{interface:02X}\n"
        );
        text.into_bytes()
    }

    fn has(&self, attribute: Attribute) -> bool {
        !self.missing.contains(&attribute)
            && match attribute {
                Attribute::BootVga => self.class >> 8 == 0x0300,
                Attribute::IommuGroup => self.group.is_some(),
                Attribute::Driver | Attribute::DriverUnbind => self.driver.is_some(),
                Attribute::BridgeModalias => self.parent.is_some(),
                Attribute::Modalias | Attribute::DriverOverride => true,
            }
    }
}

/// What was asked of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Open(OFlag),
    Read,
    Write(Vec<u8>),
    ReadLink,
    List,
    FindDriver,
    Probe,
    Stream,
}

/// One operation, in the order they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub asked: Asked,
    /// Below the sysfs root; the function's name for a probe, and the text's for a stream.
    pub path: String,
}

impl Operation {
    /// The function that the operation looks at or changes.
    pub fn function(&self) -> Option<Address> {
        let name = match self.asked {
            Asked::Probe => &self.path,
            _ => self.path.strip_prefix("bus/pci/devices/")?.split('/').next()?,
        };
        Address::from_sysfs(name.as_bytes())
    }

    /// Whether it asks for a change of the machine.
    pub fn changes(&self) -> bool {
        matches!(self.asked, Asked::Write(_) | Asked::Probe)
    }

    /// Whether it writes a `driver_override`.
    pub fn sets_override(&self) -> bool {
        matches!(self.asked, Asked::Write(_)) && self.path.ends_with("/driver_override")
    }

    /// How the log names the operation, and the path as the log shows it.
    pub fn told(&self) -> (&'static str, &str) {
        match self.asked {
            Asked::Open(_) => ("open", &self.path),
            Asked::Read => ("read", &self.path),
            Asked::Write(_) => ("write", &self.path),
            Asked::ReadLink => ("read link", &self.path),
            Asked::List => ("list", &self.path),
            Asked::FindDriver => ("find", &self.path),
            Asked::Probe => ("write", "bus/pci/drivers_probe"),
            Asked::Stream => ("stream", &self.path),
        }
    }
}

/// The operation that fails.
#[derive(Clone, Copy, Debug)]
struct Fault {
    /// Counted from 1.
    at: usize,
    errno: Errno,
    /// How many entries a list hands over before it fails.
    after: usize,
}

/// A PCI bus with its functions and drivers.
#[derive(Clone, Debug)]
pub struct Machine {
    functions: BTreeMap<Address, Function>,
    /// Each registered driver, and whether its probe succeeds.
    drivers: BTreeMap<String, bool>,
    /// Each loaded module that was given with its drivers, as `module/NAME/drivers` names them.
    modules: BTreeMap<String, Vec<String>>,
    aliases: Result<Vec<u8>, Errno>,
    iomem: Result<Vec<u8>, Errno>,
    has_bus: bool,
    /// IOMMUs that make groups only when a driver takes a function.
    iommus: Vec<String>,
    fault: Option<Fault>,
    pub operations: Vec<Operation>,
    /// Whether a write to `driver_override` waits for a probe that has begun.
    overrides_wait: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// A machine without functions and drivers.
    pub fn new() -> Self {
        Self {
            functions: BTreeMap::new(),
            drivers: BTreeMap::new(),
            modules: BTreeMap::new(),
            aliases: Err(Errno::ENOENT),
            iomem: Ok(Vec::new()),
            has_bus: true,
            overrides_wait: true,
            iommus: Vec::new(),
            fault: None,
            operations: Vec::new(),
        }
    }

    /// With one more function, and its driver registered if it has one.
    pub fn with(mut self, function: Function) -> Self {
        if let Some(driver) = &function.driver {
            self.drivers.insert(driver.clone(), true);
        }
        self.functions.insert(function.address, function);
        self
    }

    /// With this driver loaded or built in.
    pub fn with_driver(mut self, name: &str) -> Self {
        self.drivers.insert(name.to_owned(), true);
        self
    }

    /// With this driver loaded, whose probe always fails.
    pub fn with_failing_driver(mut self, name: &str) -> Self {
        self.drivers.insert(name.to_owned(), false);
        self
    }

    /// With these lines of `modules.alias`.
    pub fn with_aliases(self, text: impl AsRef<[u8]>) -> Self {
        Self { aliases: Ok(text.as_ref().to_vec()), ..self }
    }

    /// With an IOMMU whose groups come only when a driver takes a function.
    pub fn with_late_groups(self) -> Self {
        self.with_iommu("smmu3.0x0000000009050000")
    }

    /// With an IOMMU of this name.
    pub fn with_iommu(mut self, name: &str) -> Self {
        self.iommus.push(name.to_owned());
        self
    }

    /// With this `/proc/iomem`.
    pub fn with_iomem(self, text: &str) -> Self {
        Self { iomem: Ok(text.as_bytes().to_vec()), ..self }
    }

    /// Whose operation of this number, counted from 1, fails.
    pub fn failing_at(self, at: usize, errno: Errno) -> Self {
        Self { fault: Some(Fault { at, errno, after: 0 }), ..self }
    }

    /// The same, and where the operation is a list or a text, it hands over this many entries or pieces before.
    pub fn failing_late_at(self, at: usize, errno: Errno, after: usize) -> Self {
        Self { fault: Some(Fault { at, errno, after }), ..self }
    }

    /// Loads a driver, which takes what it may at once (`driver_attach` in `drivers/base/dd.c`).
    pub fn load(&mut self, driver: &str) {
        self.drivers.insert(driver.to_owned(), true);
        let addresses: Vec<Address> = self.functions.keys().copied().collect();
        for address in addresses {
            self.attach(address);
        }
    }

    /// Loads a module, which registers these drivers, each named with its bus.
    pub fn load_module(&mut self, module: &str, drivers: &[&str]) {
        let names = drivers.iter().map(|&driver| driver.to_owned()).collect();
        self.modules.insert(module.to_owned(), names);
        for driver in drivers.iter().filter_map(|driver| driver.strip_prefix("pci:")) {
            self.load(driver);
        }
    }

    /// Loads a driver, which is matched with the functions that it may have (`__driver_attach` in
    /// `drivers/base/dd.c`).
    pub fn match_driver(&mut self, driver: &str) {
        self.drivers.insert(driver.to_owned(), true);
        for function in self.functions.values_mut().filter(|function| function.driver.is_none()) {
            if function.wanted() == Some(driver) {
                function.in_flight = InFlight::Matched;
            }
        }
    }

    /// What was matched is locked, and its `driver` link made (`really_probe`).
    pub fn begin_probes(&mut self, driver: &str) {
        for function in self.functions.values_mut() {
            if function.in_flight == InFlight::Matched && function.driver.is_none() {
                function.driver = Some(driver.to_owned());
                function.in_flight = InFlight::Probing;
            }
        }
    }

    /// The driver is matched once more (`pci_device_probe`), and has the function or has not.
    pub fn end_probes(&mut self) {
        self.functions.values_mut().for_each(Function::end_probe);
    }

    /// A kernel in which a write to `driver_override` takes no device lock: Linux 7.1, and stable ones with the same
    /// patch.
    pub fn whose_overrides_wait_for_nobody(self) -> Self {
        Self { overrides_wait: false, ..self }
    }

    /// Adds a function while the machine runs: a driver that is loaded takes it at once
    /// (`pci_bus_add_device` in `drivers/pci/bus.c`).
    pub fn plug(&mut self, function: Function) {
        let address = function.address;
        self.functions.insert(address, function);
        self.attach(address);
    }

    /// Removes a function while the machine runs.
    pub fn unplug(&mut self, address: Address) {
        self.functions.remove(&address);
    }

    /// Sets an override as other programs do: driverctl, libvirt.
    pub fn keep(&mut self, address: Address, driver: &str) {
        if let Some(function) = self.functions.get_mut(&address) {
            function.kept_for = Some(driver.to_owned());
        }
    }

    pub fn functions(&self) -> impl Iterator<Item = &Function> {
        self.functions.values()
    }

    pub fn function(&self, name: &str) -> &Function {
        &self.functions[&address(name)]
    }

    /// The driver that each function with an override is kept for.
    pub fn kept(&self) -> BTreeMap<Address, String> {
        let kept = |function: &Function| Some((function.address, function.kept_for.clone()?));
        self.functions().filter_map(kept).collect()
    }

    /// The driver that each function is bound to.
    pub fn bound(&self) -> BTreeMap<Address, String> {
        let bound = |function: &Function| Some((function.address, function.driver.clone()?));
        self.functions().filter_map(bound).collect()
    }

    /// The operation at which the fault struck, if it did.
    pub fn struck(&self) -> Option<&Operation> {
        self.fault.and_then(|fault| self.operations.get(fault.at - 1))
    }

    /// Records the operation, and fails where a fault is due.
    fn record(&mut self, asked: Asked, path: impl Display) -> Result<(), Errno> {
        self.operations.push(Operation { asked, path: path.to_string() });
        match self.due() {
            Some(fault) if fault.after == 0 => Err(fault.errno),
            _ => Ok(()),
        }
    }

    fn due(&self) -> Option<Fault> {
        self.fault.filter(|fault| fault.at == self.operations.len())
    }

    /// The function and the attribute that a path names.
    fn resolve(&self, path: Path) -> Result<(&Function, Attribute), Errno> {
        let Path::Attribute(address, attribute) = path else { return Err(Errno::EISDIR) };
        let function = self.functions.get(&address).ok_or(Errno::ENODEV)?;
        if function.has(attribute) { Ok((function, attribute)) } else { Err(Errno::ENOENT) }
    }

    fn text(&self, path: Path) -> Result<Vec<u8>, Errno> {
        let (function, attribute) = self.resolve(path)?;
        Ok(match attribute {
            Attribute::Modalias => function.modalias(),
            Attribute::BridgeModalias => {
                self.functions[&function.parent.ok_or(Errno::ENOENT)?].modalias()
            }
            Attribute::BootVga => format!("{}\n", u8::from(function.boot_vga)).into_bytes(),
            Attribute::DriverOverride => {
                let text = function.kept_for.as_deref().unwrap_or("(null)");
                format!("{text}\n").into_bytes()
            }
            _ => return Err(Errno::EIO),
        })
    }

    fn store(&mut self, path: Path, text: &[u8]) -> Result<(), Errno> {
        let (function, attribute) = self.resolve(path)?;
        let address = function.address;
        match attribute {
            Attribute::DriverOverride => self.set_override(address, text),
            Attribute::DriverUnbind => self.unbind(address, text),
            _ => Err(Errno::EIO),
        }
    }

    /// `driver_set_override` in `drivers/base/driver.c`.
    fn set_override(&mut self, address: Address, text: &[u8]) -> Result<(), Errno> {
        if text.len() >= 4095 {
            return Err(Errno::EINVAL);
        }
        let function = self.functions.get_mut(&address).ok_or(Errno::ENODEV)?;
        let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        // A write of no bytes never reaches the kernel's store function.
        if self.overrides_wait {
            function.end_probe();
        }
        if !function.forgets_override && !text.is_empty() {
            let line = String::from_utf8(line.to_vec()).map_err(|_| Errno::EINVAL)?;
            function.kept_for = Some(line).filter(|line| !line.is_empty());
        }
        Ok(())
    }

    /// `unbind_store` in `drivers/base/bus.c`.
    fn unbind(&mut self, address: Address, text: &[u8]) -> Result<(), Errno> {
        let function = self.functions.get_mut(&address).ok_or(Errno::ENODEV)?;
        if text.trim_ascii_end() != address.to_string().as_bytes() {
            return Err(Errno::ENODEV);
        }
        // It takes the device's lock, as a probe does.
        function.end_probe();
        if !function.returns_to_driver {
            function.driver = None;
        }
        Ok(())
    }

    /// `drivers_probe_store` in `drivers/base/bus.c`, which does not tell what came of it.
    fn probe_drivers(&mut self, address: Address) -> Result<(), Errno> {
        self.functions.get(&address).ok_or(Errno::ENODEV)?;
        self.attach(address);
        Ok(())
    }

    /// Binds the function to the driver that may have it, if that is loaded.
    fn attach(&mut self, address: Address) {
        let Some(function) = self.functions.get_mut(&address) else { return };
        if function.driver.is_none() {
            let taker = function.wanted().filter(|driver| self.drivers.get(*driver) == Some(&true));
            function.driver = taker.map(str::to_owned);
        }
    }

    fn link(&self, path: Path) -> Result<String, Errno> {
        // In a directory that is open there is no such link, whether the function has it or is gone.
        let (function, attribute) = self.resolve(path).map_err(|errno| match errno {
            Errno::ENODEV => Errno::ENOENT,
            errno => errno,
        })?;
        match (attribute, &function.driver, function.group) {
            (Attribute::Driver, Some(driver), _) => {
                Ok(format!("../../../bus/pci/drivers/{driver}"))
            }
            (Attribute::IommuGroup, _, Some(group)) => {
                Ok(format!("../../../kernel/iommu_groups/{group}"))
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn entries(&self, path: Path) -> Result<Vec<String>, Errno> {
        let names = |keep: &dyn Fn(&Function) -> bool| -> Vec<String> {
            let kept = self.functions.values().filter(|function| keep(function));
            // Directories come in no order.
            kept.map(|function| function.address.to_string()).rev().collect()
        };
        match path {
            Path::Devices if self.has_bus => Ok(names(&|_| true)),
            Path::Device(address) if self.functions.contains_key(&address) => {
                let below = names(&|other| other.parent == Some(address));
                let own = ["power", "modalias", "driver_override", "pci_bus"].map(str::to_owned);
                let service = format!("{address}:pcie001");
                Ok(own.into_iter().chain(below).chain([service]).collect())
            }
            Path::Groups => {
                let groups = self.functions.values().filter_map(|function| function.group);
                Ok(groups.map(|group| group.to_string()).collect())
            }
            Path::Iommus => Ok(self.iommus.clone()),
            Path::GroupDevices(group) => Ok(names(&|other| other.group == Some(group))),
            Path::VfioPci => {
                let has = |other: &Function| other.driver.as_deref() == Some("vfio-pci");
                Ok(["bind", "module", "new_id"]
                    .map(str::to_owned)
                    .into_iter()
                    .chain(names(&has))
                    .collect())
            }
            Path::Attribute(..) | Path::DriversProbe => Err(Errno::ENOTDIR),
            Path::Devices | Path::Device(_) => Err(Errno::ENOENT),
        }
    }
}

/// An attribute of a [`Machine`].
pub struct OpenAttribute<'a> {
    machine: &'a mut Machine,
    path: Path,
    access: OFlag,
}

impl File for OpenAttribute<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.machine.record(Asked::Read, self.path)?;
        if self.access == OFlag::O_WRONLY {
            return Err(Errno::EBADF);
        }
        let text = self.machine.text(self.path)?;
        let length = text.len().min(buffer.len());
        buffer[..length].copy_from_slice(&text[..length]);
        Ok(length)
    }

    fn write(&mut self, text: &[u8]) -> Result<(), Errno> {
        self.machine.record(Asked::Write(text.to_vec()), self.path)?;
        if self.access == OFlag::O_RDONLY {
            return Err(Errno::EBADF);
        }
        self.machine.store(self.path, text)
    }
}

impl System for Machine {
    type File<'a> = OpenAttribute<'a>;

    fn open(&mut self, path: Path, access: OFlag) -> Result<OpenAttribute<'_>, Errno> {
        self.record(Asked::Open(access), path)?;
        self.resolve(path)?;
        Ok(OpenAttribute { machine: self, path, access })
    }

    fn read_link(&mut self, path: Path, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.record(Asked::ReadLink, path)?;
        let target = self.link(path)?;
        let length = target.len().min(buffer.len());
        buffer[..length].copy_from_slice(&target.as_bytes()[..length]);
        Ok(length)
    }

    fn list(&mut self, path: Path, each: &mut dyn FnMut(&mut Self, &[u8])) -> Result<(), Errno> {
        self.record(Asked::List, path)?;
        let due = self.due();
        let entries = self.entries(path)?;
        let most = due.map_or(usize::MAX, |fault| fault.after);
        for name in entries.iter().take(most) {
            each(self, name.as_bytes());
        }
        due.map_or(Ok(()), |fault| Err(fault.errno))
    }

    fn find_driver(&mut self, name: &[u8]) -> Result<(), Errno> {
        let name = String::from_utf8_lossy(name).into_owned();
        self.record(Asked::FindDriver, format_args!("bus/pci/drivers/{name}"))?;
        self.drivers.get(&name).map(drop).ok_or(Errno::ENOENT)
    }

    fn module_drivers(&mut self, module: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let module = String::from_utf8_lossy(module).replace('-', "_");
        self.record(Asked::FindDriver, format_args!("module/{module}/drivers"))?;
        let drivers = self.modules.get(&module).filter(|drivers| !drivers.is_empty());
        for driver in drivers.ok_or(Errno::ENOENT)? {
            each(driver.as_bytes());
        }
        Ok(())
    }

    fn probe(&mut self, name: &[u8]) -> Result<(), Errno> {
        let name = String::from_utf8_lossy(name).into_owned();
        self.record(Asked::Probe, &name)?;
        self.probe_drivers(Address::from_sysfs(name.as_bytes()).ok_or(Errno::ENODEV)?)
    }

    fn stream(&mut self, text: Text, each: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        self.record(Asked::Stream, format_args!("{text:?}"))?;
        let whole = match text {
            Text::Aliases => self.aliases.clone()?,
            Text::IoMemory => self.iomem.clone()?,
        };
        let due = self.due();
        // Pieces end anywhere, not at lines.
        whole.chunks(7).take(due.map_or(usize::MAX, |fault| fault.after)).for_each(each);
        due.map_or(Ok(()), |fault| Err(fault.errno))
    }
}
