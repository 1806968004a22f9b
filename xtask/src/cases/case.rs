// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one boot is given and what must come of it: the vocabulary of `cases.rs`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::cases::judge::{Expectation, Fate};
use crate::ground::arch::{Arch, Libc, Serial, X86_64};
use crate::guest::accelerator::Patience;
use crate::guest::archive::Archive;
use crate::guest::evidence::Evidence;
use crate::guest::image::Drivers;
use crate::guest::kernels;
use crate::guest::machine::{self, Driver, Machine, full_address};
use crate::guest::modules::Modules;
use crate::guest::modules::Presence::{Absent, Builtin, Module};
use crate::guest::programs::Program;

/// The driver that a rule without `=` names.
const VFIO: &str = "vfio-pci";

/// MiB for a kernel and an image, which are in an image, unpacked, and copied by the kernel.
const SECOND_KERNEL: u32 = 256;

/// A boot on each kernel.
///
/// Every function of the machine is judged: those that are not said to be taken must be left to
/// the host's driver, if the kernel has one.
#[derive(Clone)]
pub struct Case {
    pub name: String,
    pub arch: &'static Arch,
    /// The kernels that it is booted on, as `--kernel` takes them.
    kernels: Vec<&'static str>,
    /// Those of them that it is booted on for every change; all if it does not say. The others are for `--all`.
    mostly: Option<Vec<&'static str>>,
    /// Why these are not all that there are.
    pub limits: Option<&'static str>,
    pub machine: Machine,
    pub libc: Libc,
    pub mode: Mode,
    /// Kernel parameters, `vfio.override=` among them.
    pub parameters: Vec<String>,
    /// Modules that are loaded before the early binary runs.
    pub loaded_before: Vec<&'static str>,
    /// Files that go into the image besides, or in place of, the usual ones.
    pub files: Archive,
    /// Programs that the image, or a display's ROM, holds besides the early binary.
    pub programs: Vec<Program>,
    /// Whether the image holds the kernel and itself as well, in /second.
    pub has_second_kernel: bool,
    /// What must become of the functions that are not left to the host.
    fates: Vec<(String, Wanted)>,
    /// Who must have probed a function, in order, where it is not only those that have to.
    histories: Vec<(String, History)>,
    /// Texts that the early binary's log must hold, each in one record.
    pub logged: Vec<String>,
    /// The early binary's exit status, in hook mode.
    pub status: i32,
    /// The latest start of the real init after the early binary's, in rdinit mode.
    pub init_within: Option<Duration>,
    /// What the scene tells, line by line.
    pub told: Vec<String>,
    /// For a boot that shows that the harness sees what goes wrong.
    pub fault: Option<Fault>,
    /// Changes how long the guest may take.
    pub patience: fn(&mut Patience),
    /// Asked too what is wrong with the boot.
    pub also: Vec<Check>,
    /// What a failure is told with.
    pub story: Option<String>,
}

/// What the harness has to find wrong with a boot.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: FaultKind,
    /// A part of what it has to say.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// What is tested is wrong.
    Test,
    /// It could not be tested.
    Infrastructure,
}

/// Looks at all that is known about a boot, and says what is wrong with it.
pub type Check = Arc<dyn Fn(&Evidence) -> Vec<String> + Send + Sync>;

/// What must become of a function, as far as it does not depend on the kernel.
#[derive(Clone, Debug)]
enum Wanted {
    /// Kept for this driver, which has it in the end.
    TakenBy(String),
    /// Kept for vfio-pci, which tries to take it and cannot.
    Kept,
    /// Kept for a driver that is not there.
    KeptFor(String),
    /// Selected by no rule, but vfio-pci is told its IDs: whoever is first has it.
    Stray { is_vfio_first: bool },
}

/// Who probed a function, and whom the early binary took it from.
#[derive(Clone, Debug)]
struct History {
    drivers: Vec<&'static str>,
    unbound_from: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// /init runs the early binary, as an initramfs hook does.
    Hook,
    /// The kernel runs the early binary as PID 1.
    Rdinit,
    /// Nobody runs it.
    Control,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Hook => "hook",
            Self::Rdinit => "rdinit",
            Self::Control => "control",
        })
    }
}

/// The real init's arguments in rdinit mode.
pub const INIT_ARGUMENTS: [&str; 2] = ["--first", "second"];

/// What the kernel hands to the real init's environment in rdinit mode.
pub const INIT_VARIABLE: &str = "GUEST_VARIABLE=kept";

impl Case {
    /// A boot of this machine in hook mode, without a rule, that leaves everything to the host.
    pub fn new(name: impl Into<String>, machine: Machine) -> Self {
        let has_efi_driver = machine.functions().any(|function| function.model.has_efi_driver);
        Self {
            name: name.into(),
            arch: X86_64,
            kernels: kernels::of(X86_64),
            mostly: None,
            limits: None,
            machine,
            libc: Libc::Musl,
            mode: Mode::Hook,
            parameters: Vec::new(),
            loaded_before: Vec::new(),
            files: Archive::default(),
            programs: has_efi_driver.then_some(Program::EfiDisplay).into_iter().collect(),
            has_second_kernel: false,
            fates: Vec::new(),
            histories: Vec::new(),
            logged: Vec::new(),
            status: 0,
            init_within: None,
            told: Vec::new(),
            fault: None,
            patience: |_| {},
            also: Vec::new(),
            story: None,
        }
    }

    /// Boots on a machine of this architecture.
    #[must_use]
    pub fn on(mut self, arch: &'static Arch) -> Self {
        self.arch = arch;
        self.kernels = kernels::of(arch);
        self
    }

    /// Boots on no other kernels than these, for a reason that is told below the table of boots.
    #[must_use]
    pub fn only_on(mut self, kernels: &[&'static str], reason: &'static str) -> Self {
        self.kernels = kernels.to_vec();
        self.limits = Some(reason);
        self
    }

    /// Boots on the kernels that have the drivers of every device, for a reason that is told below the table of boots.
    #[must_use]
    pub fn with_drivers(self, reason: &'static str) -> Self {
        self.only_on(&kernels::with_drivers(), reason)
    }

    /// Boots on these kernels for every change, and on the others with `--all` only.
    #[must_use]
    pub fn mostly_on(mut self, kernels: &[&'static str]) -> Self {
        self.mostly = Some(kernels.to_vec());
        self
    }

    /// Whether a boot on this kernel is too long for every change.
    pub fn is_long_on(&self, kernel: &str) -> bool {
        self.mostly.as_ref().is_some_and(|kernels| !kernels.contains(&kernel))
    }

    pub fn kernels(&self) -> &[&'static str] {
        &self.kernels
    }

    /// Runs the early binary in this way.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Runs the early binary with this C library instead of the one with musl.
    #[must_use]
    pub fn libc(mut self, libc: Libc) -> Self {
        self.libc = libc;
        self
    }

    /// Adds `vfio.override=` with these rules to the command line.
    #[must_use]
    pub fn rules(self, rules: &str) -> Self {
        // The quotes are the kernel's: rules may hold blanks.
        self.parameter(&format!("\"vfio.override={rules}\""))
    }

    /// Adds a kernel parameter.
    #[must_use]
    pub fn parameter(mut self, parameter: &str) -> Self {
        self.parameters.push(parameter.to_owned());
        self
    }

    /// Loads these modules before the early binary runs; those that the kernel lacks are left out.
    #[must_use]
    pub fn loaded_before(mut self, modules: &[&'static str]) -> Self {
        self.loaded_before.extend(modules);
        self
    }

    /// Changes the image.
    #[must_use]
    pub fn image(mut self, change: impl FnOnce(&mut Archive)) -> Self {
        change(&mut self.files);
        self
    }

    /// Once all drivers are loaded, the program of tests/guest/passthrough uses these functions through
    /// /dev/vfio; what it prints must be `transcript`.
    #[must_use]
    pub fn passthrough(mut self, places: &[&str], transcript: &str) -> Self {
        self.programs.push(Program::Passthrough);
        let addresses: Vec<String> = places.iter().map(|place| full_address(place)).collect();
        let run = format!("passthrough {}", addresses.join(" "));
        self.scene(&format!("{run} | while read -r line; do tell \"$line\"; done"), transcript)
    }

    /// Once all drivers are loaded, the guest starts the same kernel and the same image again, without a reset of the
    /// machine: what is judged is that second boot, which tells that it is one.
    #[must_use]
    pub fn kexec(mut self) -> Self {
        self.programs.push(Program::Kexec);
        self.has_second_kernel = true;
        self.machine = self.machine.with_image(SECOND_KERNEL);
        let script = "if [ -n \"$(parameter second)\" ]; then tell the second kernel; else\n\
                      kexec /second/vmlinuz /second/initrd \"guest.second $(cat /proc/cmdline)\"; fi";
        self.scene(script, "the second kernel")
    }

    /// Once all drivers are loaded, this scene runs the host tool, `tool` for short: it tells the command and its
    /// exit status, and leaves what it printed in /screen.
    #[must_use]
    pub fn host_tool(mut self, script: &str, transcript: &str) -> Self {
        self.programs.push(Program::Passthrough);
        self.with_host_tool().scene(script, transcript)
    }

    fn with_host_tool(mut self) -> Self {
        self.programs.push(Program::HostTool);
        self.files.file("etc/host-tool", include_str!("../../../tests/guest/host-tool"));
        self
    }

    /// The report must hold what the host tool's plan says before the early binary runs, or after it if that is
    /// PID 1, and what its status says in the end.
    #[must_use]
    pub fn plan_and_status(mut self) -> Self {
        // The host tool asks the kernel's own list, of which the image's is an extract.
        let prologue = "cat /usr/lib/vfio-override/variants >>\"/lib/modules/$(uname -r)/modules.alias\"\n\
                        report_tool plan\n";
        self.files.file("etc/prologue", prologue);
        self.with_host_tool().scene("report_tool status\n", "")
    }

    /// These functions must be vfio-pci's, and no other driver may have probed them.
    #[must_use]
    pub fn taken<S: AsRef<str>>(self, places: impl IntoIterator<Item = S>) -> Self {
        self.taken_by(VFIO, places)
    }

    /// These functions must be this driver's, and no other may have probed them.
    #[must_use]
    pub fn taken_by<S: AsRef<str>>(
        self,
        driver: &str,
        places: impl IntoIterator<Item = S>,
    ) -> Self {
        self.want(&Wanted::TakenBy(driver.to_owned()), places)
    }

    /// These functions must be kept for vfio-pci, which alone must have tried to take them, in vain.
    #[must_use]
    pub fn kept<S: AsRef<str>>(self, places: impl IntoIterator<Item = S>) -> Self {
        self.want(&Wanted::Kept, places)
    }

    /// These functions must be kept for this driver, which is not there: no other may have probed them.
    #[must_use]
    pub fn kept_for<S: AsRef<str>>(
        self,
        driver: &str,
        places: impl IntoIterator<Item = S>,
    ) -> Self {
        self.want(&Wanted::KeptFor(driver.to_owned()), places)
    }

    /// No rule may have selected these functions; vfio-pci, which is told their IDs, must have them, since it is loaded
    /// before the host's drivers.
    #[must_use]
    pub fn strays<S: AsRef<str>>(self, places: impl IntoIterator<Item = S>) -> Self {
        self.want(&Wanted::Stray { is_vfio_first: true }, places)
    }

    /// The same where the host's drivers are loaded before vfio-pci, which must have what is without one.
    #[must_use]
    pub fn late_strays<S: AsRef<str>>(self, places: impl IntoIterator<Item = S>) -> Self {
        self.want(&Wanted::Stray { is_vfio_first: false }, places)
    }

    /// No driver may ever have probed these functions.
    #[must_use]
    pub fn nobodys<S: AsRef<str>>(self, places: impl IntoIterator<Item = S>) -> Self {
        self.kept_for("none", places)
    }

    /// These drivers, and no others, must have probed a function, in this order, several probes in a
    /// row by one driver counting once; and the early binary must have unbound it from this driver.
    #[must_use]
    pub fn history(
        mut self,
        place: &str,
        drivers: &[&'static str],
        unbound_from: Option<&'static str>,
    ) -> Self {
        let history = History { drivers: drivers.to_vec(), unbound_from };
        self.histories.push((full_address(place), history));
        self
    }

    fn want<S: AsRef<str>>(mut self, wanted: &Wanted, places: impl IntoIterator<Item = S>) -> Self {
        let fate = |place: S| (full_address(place.as_ref()), wanted.clone());
        self.fates.extend(places.into_iter().map(fate));
        self
    }

    /// One record of the early binary must hold this text.
    #[must_use]
    pub fn logged(mut self, text: &str) -> Self {
        self.logged.push(text.to_owned());
        self
    }

    /// The early binary must end with this exit status, in hook mode.
    #[must_use]
    pub fn status(mut self, status: i32) -> Self {
        self.status = status;
        self
    }

    /// The real init must start this soon after the early binary, in rdinit mode.
    #[must_use]
    pub fn init_within(mut self, time: Duration) -> Self {
        self.init_within = Some(time);
        self
    }

    /// Once all drivers are loaded, /init sources this shell script, whose functions are those of
    /// tests/guest/init; the lines that it tells must be those of `transcript`.
    #[must_use]
    pub fn scene(mut self, script: &str, transcript: &str) -> Self {
        self.files.file("etc/scene", script);
        self.told = transcript.lines().map(str::to_owned).collect();
        self
    }

    /// The harness must find this wrong with the boot, in these words.
    #[must_use]
    pub fn must_fail(mut self, kind: FaultKind, text: &str) -> Self {
        self.fault = Some(Fault { kind, text: text.to_owned() });
        self
    }

    /// Changes how long the guest may take.
    #[must_use]
    pub fn patience(mut self, change: fn(&mut Patience)) -> Self {
        self.patience = change;
        self
    }

    /// This is asked too what is wrong with the boot.
    #[must_use]
    pub fn also(
        mut self,
        check: impl Fn(&Evidence) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        self.also.push(Arc::new(check));
        self
    }

    /// A failure is told with this: what the case was made of.
    #[must_use]
    pub fn told_as(mut self, story: String) -> Self {
        self.story = Some(story);
        self
    }

    /// The guest's kernel parameters, but for those that every guest gets.
    pub fn command_line(&self) -> String {
        let mut case = self.parameters.join(" ");
        if self.arch.guest.serial == Serial::One {
            case = format!("guest.one_port {case}");
        }
        match self.mode {
            Mode::Hook | Mode::Control => format!("guest.mode={} {case}", self.mode),
            Mode::Rdinit => format!(
                "guest.mode=rdinit rdinit=/vfio-override-early {INIT_VARIABLE} {case} -- {}",
                INIT_ARGUMENTS.join(" ")
            ),
        }
    }

    /// The modules that the image holds and /init loads.
    pub fn drivers(&self) -> Drivers {
        let mut drivers = Drivers::of(&self.machine);
        drivers.first.clone_from(&self.loaded_before);
        drivers
    }

    /// What must become of every function on a kernel with these modules. One that is anybody's only must
    /// not be selected.
    pub fn expectations(&self, modules: &Modules) -> Vec<Expectation> {
        let settled = self.machine.functions().filter(|function| !function.model.is_anybodys);
        let of_machine = settled.map(machine::Function::address);
        let mut addresses: Vec<String> = of_machine.collect();
        let fates = self.fates.iter().map(|(address, _)| address);
        for address in fates.chain(self.histories.iter().map(|(address, _)| address)) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        let expect = |address: String| {
            let fate = self.fate(&address, modules);
            Expectation { address, fate }
        };
        addresses.into_iter().map(expect).collect()
    }

    fn fate(&self, address: &str, modules: &Modules) -> Fate {
        let host = self.host_driver(address).filter(|driver| driver.presence(modules) != Absent);
        let first = self.first_driver(address, modules);
        let fate = match self.fates.iter().rev().find(|(known, _)| known == address) {
            None => Fate::host(host.map(|driver| driver.name)),
            Some((_, Wanted::KeptFor(keeper))) => Fate::unclaimed(keeper, first),
            Some((_, Wanted::TakenBy(taker))) => Fate::taken(taker, first),
            Some((_, Wanted::Kept)) => Fate::kept(VFIO, first),
            Some((_, Wanted::Stray { is_vfio_first: true })) => {
                Fate::host(Some(first.unwrap_or(VFIO)))
            }
            Some((_, Wanted::Stray { is_vfio_first: false })) => {
                Fate::host(Some(host.map_or(VFIO, |driver| driver.name)))
            }
        };
        match self.histories.iter().find(|(known, _)| known == address) {
            None => fate,
            Some((_, history)) => fate.after(&history.drivers, history.unbound_from),
        }
    }

    /// The driver that has a function before the early binary can run: it is built into the kernel,
    /// or the case loads it first.
    pub fn first_driver(&self, address: &str, modules: &Modules) -> Option<&'static str> {
        let driver = self.host_driver(address)?;
        let is_first = match driver.presence(modules) {
            Builtin => true,
            Module => self.loaded_before.iter().any(|module| driver.is_in(module)),
            Absent => false,
        };
        is_first.then_some(driver.name)
    }

    fn host_driver(&self, address: &str) -> Option<Driver> {
        self.machine.functions().find(|function| function.address() == address)?.model.driver
    }
}
