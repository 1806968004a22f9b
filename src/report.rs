//! Saying: every sentence of the log.
//!
//! One line each, with what, where and what to do. Texts that are not ours are escaped and cut, so
//! that a record stays one line of bounded length.

use core::fmt;

use log::{Level, Log, Record};
use nix::errno::Errno;

use crate::apply::Bound;
use crate::cmdline;
use crate::failure::{Failure, Limit};
use crate::pci::{Address, Function};
use crate::plan::{Outcome, Refusal};
use crate::rule::{Action, Driver, NOBODY, Rule, Selector};
use crate::ruleset::{Entry, MAX_RULES, RuleNumber};
use crate::survey::{MAX_FUNCTIONS, MAX_OBSTACLES, MAX_PATH_BREADTH, MAX_PATH_ENDS, MAX_VARIANTS};
use crate::system::ErrnoName;
use crate::text::{Decimal, Escaped, Quoted};

/// The target of every record.
pub const TARGET: &str = "vfio-override";

/// Where the sentences go.
#[derive(Clone, Copy)]
pub struct Journal<'a> {
    log: &'a dyn Log,
    debug: bool,
}

impl<'a> Journal<'a> {
    /// A journal on this logger; with `debug`, every decision is told.
    #[must_use]
    pub const fn new(log: &'a dyn Log, debug: bool) -> Self {
        Self { log, debug }
    }

    /// Writes one record.
    #[inline(never)]
    pub fn say(&self, level: Level, sentence: &dyn fmt::Display) {
        if level < Level::Debug || self.debug {
            let args = format_args!("{sentence}");
            self.log.log(&Record::builder().target(TARGET).level(level).args(args).build());
        }
    }
}

struct Described<'a>(&'a Function);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Function { address, id, class, group, .. } = self.0;
        write!(f, "{address} [{id}] class {class} ")?;
        match group {
            Some(group) => write!(f, "group {}", Decimal(*group)),
            None => f.write_str("no group"),
        }
    }
}

/// What is true of a function that was taken.
pub struct FunctionLine<'a> {
    /// The function.
    pub function: &'a Function,
    /// The number of its rule.
    pub rule: RuleNumber,
    /// The driver that it is kept for.
    pub driver: &'a [u8],
    /// Whether its override had to be written, and what became of its binding.
    pub result: &'a Result<(bool, Bound), Failure>,
}

impl FunctionLine<'_> {
    /// How loud the line is.
    #[must_use]
    pub const fn level(&self) -> Level {
        match self.result {
            Ok((_, Bound { was_probed: true, is_bound: false, .. })) => Level::Warn,
            Ok(_) => Level::Info,
            Err(_) => Level::Error,
        }
    }
}

impl fmt::Display for FunctionLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = Escaped(self.driver);
        write!(f, "{}, rule {}: ", Described(self.function), Decimal(self.rule.into()))?;
        let (was_written, bound) = match self.result {
            Ok(result) => result,
            Err(failure) => return write!(f, "failed: {failure}"),
        };
        if *was_written {
            write!(f, "driver_override set to {driver}, ")?;
        } else {
            write!(f, "driver_override is {driver} already, ")?;
        }
        if let Some(left) = &bound.left {
            write!(f, "unbound from {}, ", Escaped(left))?;
        }
        if bound.is_bound {
            write!(f, "bound to {driver}")
        } else if bound.was_probed {
            write!(f, "not bound: {driver} did not take it and says why in its own messages")
        } else if self.driver == NOBODY {
            f.write_str("no driver has it")
        } else {
            write!(f, "no driver has it until {driver} loads")
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => {
                fault.fmt(f)?;
                match fault.errno {
                    Errno::EACCES | Errno::EPERM | Errno::EROFS => {
                        f.write_str("; it takes root and a writable sysfs")
                    }
                    Errno::ENOENT => f.write_str("; the kernel should have this attribute"),
                    Errno::ENODEV => f.write_str("; the function has gone"),
                    Errno::EXDEV => f.write_str("; a link leads out of the sysfs root"),
                    _ => Ok(()),
                }
            }
            Self::NotHeld(address) => {
                write!(
                    f,
                    "{address} does not keep its driver_override; is something else setting it?"
                )
            }
            Self::Exceeded(limit) => limit.fmt(f),
            Self::StillBound(address) => {
                write!(f, "another driver has {address} still; find it with lspci -k and unload it")
            }
        }
    }
}

/// What came of a rule.
pub struct RuleLine<'a, 'r> {
    /// Its number.
    pub number: RuleNumber,
    /// Its text and meaning.
    pub entry: &'a Entry<'r>,
    /// The outcome.
    pub outcome: Outcome,
}

impl RuleLine<'_, '_> {
    fn excludes(&self) -> bool {
        self.entry.rule().is_some_and(|rule| rule.action == Action::Exclude)
    }

    /// How loud the line is: a warning where the operator has something to mend.
    #[must_use]
    pub fn level(&self) -> Level {
        match self.outcome {
            Outcome::Absent => Level::Info,
            Outcome::Unmatched if self.excludes() => Level::Info,
            Outcome::Unmatched | Outcome::Refused(_) | Outcome::Invalid(_) | Outcome::Failed(_) => {
                Level::Warn
            }
            Outcome::Setting
            | Outcome::Applied
            | Outcome::Excluded
            | Outcome::Overruled
            | Outcome::Elsewhere => Level::Debug,
        }
    }
}

impl fmt::Display for RuleLine<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} {}: ", Decimal(self.number.into()), Quoted(self.entry.text))?;
        match self.outcome {
            Outcome::Setting => f.write_str("in force"),
            Outcome::Applied => f.write_str("applied"),
            Outcome::Excluded => f.write_str("excluded"),
            Outcome::Overruled => f.write_str("overruled: later rules decide all that it matches"),
            Outcome::Elsewhere => f.write_str("does not concern this function"),
            Outcome::Unmatched | Outcome::Absent => {
                let is_absent = self.outcome == Outcome::Absent;
                f.write_str(if is_absent { "absent: " } else { "unmatched: " })?;
                f.write_str(match self.entry.rule().map(|rule| &rule.selector) {
                    Some(Selector::Address { .. }) => "there is no function at this address",
                    Some(Selector::Path { .. }) => "the path leads to no function",
                    Some(Selector::Ids(_)) => {
                        "no function has these IDs, bridges aside, which are never taken"
                    }
                    Some(Selector::Class { .. }) => {
                        "no function has this class, bridges aside, which are never taken"
                    }
                    Some(Selector::BootVga) | None => "no function is the boot display",
                })?;
                f.write_str(if is_absent { "" } else { "; compare with lspci -Dnn" })
            }
            Outcome::Refused(Refusal::Bridge(address, class)) => write!(
                f,
                "refused: {address} is a bridge (class {class}); name the functions behind it"
            ),
            Outcome::Refused(Refusal::Guard(address, found)) => {
                write!(
                    f,
                    "refused: {address} is [{found}], not what the guard says; nothing is written"
                )
            }
            Outcome::Refused(Refusal::LostExclusion(lost)) => write!(
                f,
                "refused: rule {} is an exclusion that cannot be honoured, and may have protected any function",
                Decimal(lost.into())
            ),
            Outcome::Invalid(error) => {
                write!(
                    f,
                    "invalid at column {}: expected {}",
                    Decimal(error.column),
                    error.expected
                )
            }
            Outcome::Failed(failure) => write!(f, "failed: {failure}"),
        }
    }
}

/// What an operator should know, though everything was done as asked.
pub enum Warning<'a, 'r> {
    /// Nothing is in an IOMMU group.
    NoIommu,
    /// The function is in none, though others are.
    NoGroup(Address),
    /// A group of which functions stay with the host.
    NotViable(u32, &'a dyn fmt::Display),
    /// The display that the firmware booted on is taken.
    BootDisplay(Address),
    /// A mass-storage controller is taken.
    Storage(&'a Function),
    /// A network controller is taken.
    Network(&'a Function),
    /// A firmware framebuffer's driver holds memory of a taken function.
    Framebuffer(Address),
    /// A rule that may not mean what its author meant.
    Doubtful(RuleNumber, &'a Entry<'r>, Doubt),
    /// `auto` without a list of variant drivers.
    NoAliases(Errno),
}

impl fmt::Display for Warning<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoIommu => f.write_str(
                "the IOMMU is off: no IOMMU groups, and vfio-pci takes nothing without them; \
                 enable it in the firmware (VT-d, AMD-Vi), and on Intel add intel_iommu=on",
            ),
            Self::NoGroup(address) => write!(
                f,
                "{address} is in no IOMMU group: no IOMMU serves its part of the machine, and vfio-pci \
                 takes nothing without one"
            ),
            Self::NotViable(group, left) => write!(
                f,
                "group {} is not viable while the host keeps {left}; \
                 take all along with +group, or leave the group alone",
                Decimal(*group)
            ),
            Self::BootDisplay(address) => write!(
                f,
                "{address} is the boot display: the console freezes when it is taken, \
                 which is no hang; !boot_vga leaves it to the host"
            ),
            Self::Storage(Function { address, class, .. }) => {
                write!(f, "{address} is mass storage (class {class}): the host loses its disks")
            }
            Self::Network(Function { address, class, .. }) => {
                write!(
                    f,
                    "{address} is a network function (class {class}): the host loses its links"
                )
            }
            Self::Framebuffer(address) => write!(
                f,
                "a framebuffer driver (efifb, simpledrm, vesafb) holds memory of {address}; \
                 if vfio-pci then says \"can't reserve\", boot with initcall_blacklist=sysfb_init"
            ),
            Self::Doubtful(number, entry, doubt) => {
                write!(f, "rule {} {}: {doubt}", Decimal((*number).into()), Quoted(entry.text))
            }
            Self::NoAliases(errno) => write!(
                f,
                "auto is vfio-pci: neither /usr/lib/vfio-override/variants nor modules.alias can be \
                 read ({})",
                ErrnoName(*errno)
            ),
        }
    }
}

/// Why a valid rule may not mean what its author meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// A class in a list of IDs, and no mask that makes it count.
    ClassWithoutMask,
    /// A module's name where a driver's was expected.
    ModuleName,
    /// An expansion behind the driver, which makes it part of the driver's name.
    ExpansionInDriver,
}

impl Doubt {
    /// What is doubtful about the rule.
    #[must_use]
    pub fn about(rule: &Rule<'_>) -> Option<Self> {
        if let Selector::Ids(ids) = &rule.selector
            && ids.class.is_some()
            && ids.mask == 0
        {
            return Some(Self::ClassWithoutMask);
        }
        match rule.action {
            Action::Take(Driver::Named(b"vfio_pci" | b"pci_stub")) => Some(Self::ModuleName),
            Action::Take(Driver::Named(name))
                if name.ends_with(b"+slot") || name.ends_with(b"+group") =>
            {
                Some(Self::ExpansionInDriver)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClassWithoutMask => {
                "the class counts for nothing without a mask; add one, such as :ffff00"
            }
            Self::ModuleName => {
                "this is a module's name, and never binds; the driver's has a - for the _"
            }
            Self::ExpansionInDriver => {
                "this is the name of a driver that is not there; write the expansion before the ="
            }
        })
    }
}

/// What was not done, and concerns no rule that is told so by a line of its own.
pub enum Omission {
    /// A function that rules with IDs, a class or `boot_vga` may have meant was not looked at.
    Function(Failure),
    /// There was more than this program has room for.
    Exceeded(Limit),
    /// Rules past the limit.
    Surplus(usize),
    /// A command line past the limit.
    LongLine,
}

impl fmt::Display for Omission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(failure) => write!(f, "{failure}; no rule is applied to it"),
            Self::Exceeded(limit) => limit.fmt(f),
            Self::Surplus(count) => {
                let (limit, count) = (Decimal::from(MAX_RULES), Decimal::from(*count));
                write!(
                    f,
                    "more than {limit} rules: the last {count} are not applied; use wider rules"
                )
            }
            Self::LongLine => write!(
                f,
                "the kernel command line is longer than {} bytes: the rest is ignored",
                Decimal::from(cmdline::MAX_LENGTH)
            ),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, rest) = match self {
            Self::Functions => {
                (MAX_FUNCTIONS, "functions: the rest is not protected; use narrower rules")
            }
            Self::PathBreadth => {
                (MAX_PATH_BREADTH, "functions at one hop: the rest is not followed; do without *")
            }
            Self::PathEnds => {
                (MAX_PATH_ENDS, "functions at the ends of paths: the rest is not protected")
            }
            Self::Variants => (MAX_VARIANTS, "variant drivers: the rest is kept for vfio-pci"),
            Self::Obstacles => (MAX_OBSTACLES, "failures: the rest is not told"),
        };
        write!(f, "more than {} ", Decimal::from(limit))?;
        f.write_str(rest)
    }
}

/// The last line of a run.
#[derive(Default)]
pub struct Summary {
    /// The number of rules of each outcome, in the order of `WORDS`.
    counts: [usize; 8],
    /// How many functions were taken: their override is set.
    pub taken: usize,
    /// How many of them their driver has.
    pub bound: usize,
}

impl Summary {
    /// Nothing counted yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { counts: [0; 8], taken: 0, bound: 0 }
    }

    const WORDS: [&'static str; 8] =
        ["applied", "excluded", "overruled", "absent", "unmatched", "refused", "invalid", "failed"];

    /// Counts a rule.
    pub fn count(&mut self, outcome: Outcome) {
        let index = match outcome {
            Outcome::Setting | Outcome::Elsewhere => return,
            Outcome::Applied => 0,
            Outcome::Excluded => 1,
            Outcome::Overruled => 2,
            Outcome::Absent => 3,
            Outcome::Unmatched => 4,
            Outcome::Refused(_) => 5,
            Outcome::Invalid(_) => 6,
            Outcome::Failed(_) => 7,
        };
        if let Some(count) = self.counts.get_mut(index) {
            *count += 1;
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rules: ")?;
        let mut separator = "";
        for (count, word) in self.counts.iter().zip(Self::WORDS).filter(|(count, _)| **count > 0) {
            f.write_str(separator)?;
            write!(f, "{} ", Decimal::from(*count))?;
            f.write_str(word)?;
            separator = ", ";
        }
        let (taken, bound) = (Decimal::from(self.taken), Decimal::from(self.bound));
        write!(f, "; functions: {taken} taken, {bound} bound to their driver")
    }
}

/// The line of a boot without rules: it shows that the hook ran.
pub struct NoRules;

impl fmt::Display for NoRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no vfio.override= on the kernel command line, nothing to do")
    }
}

/// The line of a boot with `off`.
pub struct Off(
    /// The number of the rule that says so.
    pub RuleNumber,
);

impl fmt::Display for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} \"off\": nothing is touched", Decimal(self.0.into()))
    }
}

/// With `debug`: who decides about a function that is not taken.
pub struct LeftAlone<'a> {
    /// The function.
    pub function: &'a Function,
    /// The number of the exclusion, if one decides.
    pub rule: Option<RuleNumber>,
}

impl fmt::Display for LeftAlone<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its group was mostly not looked at.
        let Function { address, id, class, .. } = self.function;
        write!(f, "{address} [{id}] class {class}")?;
        match self.rule {
            Some(rule) => write!(f, ", rule {}: left alone", Decimal(rule.into())),
            None => f.write_str(": no rule takes it"),
        }
    }
}

/// What the early binary itself ran into.
pub enum Trouble<'a> {
    /// The kernel command line cannot be read.
    CommandLine(&'a [u8], Errno),
    /// There is no PCI bus below the sysfs root.
    Sysfs(&'a [u8], Errno),
    /// A file system cannot be mounted.
    Mount(&'a [u8], Errno),
    /// The child that does the work cannot be started, because this cannot be done.
    NoWorker(&'static str, Errno),
    /// It ended like this, and then another one did or did not hold every override.
    Worker(WorkerEnd, bool),
    /// An init is there and cannot be started.
    Init(&'a [u8], Errno),
    /// No init can be started.
    NoInit,
}

/// How the work ended before it was done.
#[derive(Clone, Copy)]
pub enum WorkerEnd {
    /// It took more than this many seconds, and was killed.
    Late(u16),
    /// It was ended by this signal.
    Killed(i32),
    /// It cannot be waited for.
    Lost(Errno),
}

impl fmt::Display for Trouble<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine(path, errno) => write!(
                f,
                "cannot read {}: {}; no rule is applied; is proc mounted?",
                Escaped(path),
                ErrnoName(*errno)
            ),
            Self::Sysfs(path, errno) => write!(
                f,
                "cannot open {}/bus/pci: {}; no rule is applied; is sysfs mounted?",
                Escaped(path),
                ErrnoName(*errno)
            ),
            Self::Mount(path, errno) => {
                write!(f, "cannot mount {}: {}", Escaped(path), ErrnoName(*errno))
            }
            Self::NoWorker(what, errno) => {
                f.write_str("cannot ")?;
                f.write_str(what)?;
                write!(f, ": {}; no rule is applied; the boot goes on", ErrnoName(*errno))
            }
            Self::Worker(end, holds) => {
                match end {
                    WorkerEnd::Late(seconds) => {
                        write!(f, "not done after {} s, killed", Decimal((*seconds).into()))?;
                    }
                    WorkerEnd::Killed(signal) => {
                        write!(f, "killed by signal {}", Decimal(signal.unsigned_abs()))?;
                    }
                    WorkerEnd::Lost(errno) => {
                        write!(f, "cannot wait for the work: {}", ErrnoName(*errno))?;
                    }
                }
                f.write_str(if *holds {
                    ": every override is set"
                } else {
                    ": not every override could be set"
                })?;
                f.write_str(", the lines above tell what else was done; the boot goes on")
            }
            Self::Init(path, errno) => {
                write!(f, "cannot start {}: {}", Escaped(path), ErrnoName(*errno))
            }
            Self::NoInit => f.write_str(
                "there is no /init, /sbin/init, /etc/init, /bin/init or /bin/sh to start; \
                 boot without rdinit= or init= to leave vfio-override out",
            ),
        }
    }
}

/// What came of loading a driver.
pub struct Loading<'a> {
    /// The driver.
    pub driver: &'a [u8],
    /// What modprobe answered.
    pub result: LoadingResult,
    /// How many functions are kept for the driver.
    pub kept: usize,
    /// How many of them it has now.
    pub bound: usize,
}

/// What modprobe answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadingResult {
    /// Yes.
    Loaded,
    /// This status.
    Refused(i32),
    /// Nothing: a signal ended it.
    Crashed,
    /// Nothing: there is none.
    NoModprobe,
    /// Nothing: it could not be started.
    NotStarted(Errno),
}

impl fmt::Display for Loading<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = Escaped(self.driver);
        match &self.result {
            LoadingResult::Loaded => write!(f, "{driver} loaded, ")?,
            LoadingResult::Refused(status) => write!(
                f,
                "modprobe {driver} ended with status {}, its module may not be in this image, ",
                Decimal(status.unsigned_abs())
            )?,
            LoadingResult::Crashed => write!(f, "modprobe {driver} was killed, ")?,
            LoadingResult::NoModprobe => write!(f, "there is no modprobe to load {driver}, ")?,
            LoadingResult::NotStarted(errno) => {
                write!(f, "modprobe {driver} cannot be started: {}, ", ErrnoName(*errno))?;
            }
        }
        let (bound, kept) = (Decimal::from(self.bound), Decimal::from(self.kept));
        write!(f, "{bound} of {kept} functions bound")?;
        if self.bound < self.kept { f.write_str("; the others wait, untouched") } else { Ok(()) }
    }
}
