// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every message of the log.
//!
//! Each is one line, with what, where and what to do. Texts that this program did not write are escaped and cut, so
//! that a record stays one line of bounded length.

use core::fmt::{self, Display as _};

use log::{Level, Log, Record};
use nix::errno::Errno;

use crate::apply::DriverName;
use crate::grammar::SyntaxError;
use crate::pci::{Address, Function};
use crate::plan::{Held, Plan, State, Step};
use crate::problem::{ErrnoName, Problem};
use crate::rule::{Action, Driver, NOBODY, Rule, Selector};
use crate::ruleset::{Entry, Outcome, RuleNumber, RuleSet};
use crate::text::{Decimal, Escaped, Quoted};

/// The target of every record.
pub const TARGET: &str = "vfio-override";

/// Writes one record.
#[inline(never)]
pub fn log(log: &dyn Log, level: Level, text: &dyn fmt::Display) {
    let args = format_args!("{text}");
    log.log(&Record::builder().target(TARGET).level(level).args(args).build());
}

/// A line of the log.
pub enum Message<'a> {
    /// A boot without rules: it shows that the hook ran.
    NoRules,
    /// The rule of this number is `off`.
    Off(RuleNumber),
    /// What came of a rule.
    Rule(&'a Entry<'a>),
    /// A rule that may not mean what its author meant.
    Doubtful(&'a Entry<'a>, &'static str),
    /// Something was not done, or not as well as it could be.
    Problem(Problem),
    /// Something could not be looked at, and no rule has that as its outcome: a rule that selects by attributes may
    /// have missed a function.
    Unseen(Problem),

    /// There are no IOMMU groups.
    NoIommu,
    /// The function is in no IOMMU group, though others are in one.
    NoGroup(Address),
    /// An IOMMU group of which some functions are taken and others stay with the host.
    NotViable(u32, &'a Plan),
    /// The display that the firmware booted on is taken.
    BootDisplay(Address),
    /// A mass-storage or a network controller is taken.
    HostLoses(&'a Function),
    /// A firmware framebuffer's driver holds memory of a taken function.
    Framebuffer(Address),
    /// `vfio-pci.ids=` takes a function that no rule takes.
    Stray(Address),

    /// With `debug`: a function that is not taken, with the rule that leaves it alone, if there is one.
    LeftAlone(&'a Step),
    /// What became of a function that is taken.
    Function(&'a Step),
    /// The counts of a run: the last line of a report, or its first where the log may be cut short.
    Summary(&'a RuleSet<'a>, &'a Plan),
    /// What came of loading a driver.
    Loading(&'a Loading),

    /// The kernel command line cannot be read.
    CommandLine(&'a [u8], Errno),
    /// There is no PCI bus below the sysfs root.
    Sysfs(&'a [u8], Errno),
    /// A file system cannot be mounted.
    Mount(&'a [u8], Errno),
    /// The child that does the work cannot be started.
    NoWorker(Errno),
    /// The child that does the work ended like this. Then: whether another child set every override; `None` if that
    /// is unknown.
    Worker(WorkerEnd, Option<bool>),
    /// An init is there and cannot be started. Then: the missing file that it needs, if that is known.
    Init(&'a [u8], Errno, Option<&'a [u8]>),
    /// No init can be started, so the shell is tried.
    Shell,
    /// No init can be started.
    NoInit,
}

/// What came of loading a driver.
pub struct Loading {
    /// The driver.
    pub driver: DriverName,
    /// What modprobe answered.
    pub answer: Answer,
    /// How many functions are kept for the driver, and how many of them it has now.
    pub counts: (usize, usize),
}

/// What modprobe answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
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

/// How the work ended before it was done.
#[derive(Clone, Copy)]
pub enum WorkerEnd {
    /// It took more than this many seconds without a sign of life, and was killed.
    Late(u16),
    /// It was ended by this signal.
    Killed(i32),
    /// It cannot be waited for.
    Lost(Errno),
}

/// Why a valid rule may not mean what its author meant.
pub fn doubt(rule: &Rule<'_>) -> Option<&'static str> {
    match (&rule.selector, rule.action) {
        (Selector::Ids(ids), _) if ids.class.is_some() && ids.mask == 0 => {
            Some("the class counts for nothing without a mask; add one, such as :ffff00")
        }
        (_, Action::Take(Driver::Named(b"vfio_pci" | b"pci_stub"))) => {
            Some("this is a module's name, and never binds; the driver's has a - for the _")
        }
        (_, Action::Take(Driver::Named(name)))
            if name.ends_with(b"+slot") || name.ends_with(b"+group") =>
        {
            Some("this is the name of a driver that is not there; write the expansion before the =")
        }
        _ => None,
    }
}

impl Message<'_> {
    /// How severe the message is: a warning where the operator has something to mend.
    pub fn level(&self) -> Level {
        match self {
            Self::NoRules | Self::Off(_) => Level::Info,
            Self::Summary(rules, _) if all_applied(rules) => Level::Info,
            Self::LeftAlone(_) => Level::Debug,
            Self::Rule(entry) => match entry.outcome {
                Outcome::Absent => Level::Info,
                Outcome::Unmatched if excludes(entry) => Level::Info,
                Outcome::NotInForce
                | Outcome::Setting
                | Outcome::Applied
                | Outcome::Excluded
                | Outcome::Overruled
                | Outcome::Elsewhere => Level::Debug,
                _ => Level::Warn,
            },
            Self::Function(step) => match step.state {
                State::Failed(_) => Level::Error,
                State::Offered => Level::Warn,
                State::Planned | State::Held | State::Waiting | State::Bound => Level::Info,
            },
            Self::Loading(Loading { counts: (kept, bound), .. }) if kept == bound => Level::Info,
            Self::CommandLine(..) | Self::Sysfs(..) | Self::Mount(..) | Self::NoWorker(..) => {
                Level::Error
            }
            Self::Worker(..) | Self::Init(..) | Self::Shell | Self::NoInit => Level::Error,
            // What an operator should know about what was done.
            _ => Level::Warn,
        }
    }

    /// Writes it to the log.
    #[inline(never)]
    pub fn log(&self, to: &dyn Log) {
        log(to, self.level(), self);
    }
}

/// Whether no rule is left that the operator has to mend.
pub(crate) fn all_applied(rules: &RuleSet<'_>) -> bool {
    let is_bad = |entry| Message::Rule(entry).level() == Level::Warn;
    rules.surplus == 0 && !rules.entries.iter().any(is_bad)
}

fn excludes(entry: &Entry<'_>) -> bool {
    entry.rule().is_some_and(|rule| rule.action == Action::Exclude)
}

impl fmt::Display for Message<'_> {
    #[expect(clippy::too_many_lines, reason = "one arm for each message")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoRules => {
                f.write_str("no vfio.override= on the kernel command line, nothing to do")
            }
            Self::Off(number) => {
                write!(f, "rule {} \"off\": nothing is touched", Decimal(number.into()))
            }
            Self::Rule(entry) => write_rule(f, entry),
            Self::Doubtful(entry, doubt) => {
                write!(f, "rule {} {}: ", Decimal(entry.number.into()), Quoted(entry.text))?;
                f.write_str(doubt)
            }
            Self::Problem(problem) => problem.fmt(f),
            Self::Unseen(problem) => write!(f, "{problem}; no rule is applied to it"),

            Self::LeftAlone(step) => {
                // Without its group, which a run mostly does not look at where the function is not taken.
                write_identity(f, &step.function)?;
                match step.rule {
                    Some(rule) => write!(f, ", rule {}: left alone", Decimal(rule.into())),
                    None => f.write_str(": no rule takes it"),
                }
            }
            Self::Function(step) => write_function(f, step),
            Self::Summary(rules, plan) => write_summary(f, rules, plan),
            Self::Loading(loading) => {
                let (driver, (kept, bound)) = (Escaped(&loading.driver), loading.counts);
                match loading.answer {
                    Answer::Loaded => write!(f, "{driver} loaded, ")?,
                    Answer::Refused(status) => write!(
                        f,
                        "modprobe {driver} ended with status {}, its module may not be in this image, ",
                        Decimal(status.unsigned_abs())
                    )?,
                    Answer::Crashed => write!(f, "modprobe {driver} was killed, ")?,
                    Answer::NoModprobe => write!(f, "there is no modprobe to load {driver}, ")?,
                    Answer::NotStarted(errno) => {
                        write!(f, "modprobe {driver} cannot be started: {}, ", ErrnoName(errno))?;
                    }
                }
                write!(f, "{} of {} functions bound", Decimal::from(bound), Decimal::from(kept))?;
                f.write_str(if bound < kept { "; the others wait, untouched" } else { "" })
            }

            Self::NoIommu => f.write_str(
                "the IOMMU is off: no IOMMU groups, and vfio-pci takes nothing without them; \
                 enable it in the firmware (VT-d, AMD-Vi, SMMU), and on Intel add intel_iommu=on",
            ),
            Self::NoGroup(address) => write!(
                f,
                "{address} is in no IOMMU group: no IOMMU serves its part of the machine, and vfio-pci \
                 takes nothing without one"
            ),
            Self::NotViable(group, plan) => {
                write!(f, "group {} is not viable while the host keeps ", Decimal(group))?;
                write_left(f, group, plan)?;
                f.write_str("; take all along with +group, or leave the group alone")
            }
            Self::BootDisplay(address) => write!(
                f,
                "{address} is the boot display: the console freezes when it is taken, \
                 which is no hang; !boot_vga leaves it to the host"
            ),
            Self::HostLoses(Function { address, class, .. }) => {
                let is_disk = class.is_storage();
                address.fmt(f)?;
                f.write_str(if is_disk { " is mass storage" } else { " is a network function" })?;
                write!(f, " (class {class}): the host loses its ")?;
                f.write_str(if is_disk { "disks" } else { "links" })
            }
            Self::Framebuffer(address) => write!(
                f,
                "a framebuffer driver (efifb, simpledrm, vesafb) holds memory of {address}; \
                 if vfio-pci then says \"can't reserve\", boot with initcall_blacklist=sysfb_init"
            ),
            Self::Stray(address) => write!(
                f,
                "vfio-pci.ids= has vfio-pci take {address}, which no rule does; take it out of the command line, \
                 or of modprobe.d and the image"
            ),
            Self::CommandLine(path, errno) => {
                let (path, errno) = (Escaped(path), ErrnoName(errno));
                write!(f, "cannot read {path}: {errno}; no rule is applied; is proc mounted?")
            }
            Self::Sysfs(path, errno) => {
                let (root, errno) = (Escaped(path), ErrnoName(errno));
                write!(
                    f,
                    "cannot open {root}/bus/pci: {errno}; no rule is applied; is sysfs mounted?"
                )
            }
            Self::Mount(path, errno) => {
                write!(f, "cannot mount {}: {}", Escaped(path), ErrnoName(errno))
            }
            Self::NoWorker(errno) => {
                write!(f, "cannot fork: {}; no rule is applied; the boot goes on", ErrnoName(errno))
            }
            Self::Worker(end, holds) => {
                match end {
                    WorkerEnd::Late(seconds) => {
                        write!(f, "no sign of life for {} s, killed", Decimal(seconds.into()))?;
                    }
                    WorkerEnd::Killed(signal) => {
                        write!(f, "killed by signal {}", Decimal(signal.unsigned_abs()))?;
                    }
                    WorkerEnd::Lost(errno) => {
                        write!(f, "cannot wait for the work ({})", ErrnoName(errno))?;
                    }
                }
                f.write_str(match holds {
                    Some(true) => ": every override is set",
                    Some(false) => ": not every override could be set",
                    None => ": whether every override is set is unknown",
                })?;
                f.write_str(", the lines above tell what else was done; the boot goes on")
            }
            Self::Init(path, errno, needed) => {
                write!(f, "cannot start {}: {}; ", Escaped(path), ErrnoName(errno))?;
                match (errno, needed) {
                    (_, Some(needed)) => {
                        write!(f, "{}, or what that needs, is missing", Escaped(needed))
                    }
                    (Errno::EACCES, _) => f.write_str("it is no file that may be executed"),
                    (Errno::ENOEXEC, _) => {
                        f.write_str("it is no program, or one for another architecture")
                    }
                    _ => f.write_str("the next one is tried"),
                }
            }
            Self::Shell => f.write_str("no init can be started: /bin/sh is next"),
            Self::NoInit => f.write_str(
                "there is no /init, /sbin/init, /etc/init, /bin/init or /bin/sh to start; \
                 boot without rdinit= or init= to leave vfio-override out",
            ),
        }
    }
}

fn write_rule(f: &mut fmt::Formatter<'_>, entry: &Entry<'_>) -> fmt::Result {
    write!(f, "rule {} {}: ", Decimal(entry.number.into()), Quoted(entry.text))?;
    f.write_str(match entry.outcome {
        Outcome::NotInForce => "not in force",
        Outcome::Setting => "in force",
        Outcome::Elsewhere => "does not concern this function",
        outcome => outcome.word(),
    })?;
    match entry.outcome {
        Outcome::Overruled => f.write_str(": later rules decide all that it matches"),
        Outcome::Unmatched | Outcome::Absent => {
            f.write_str(match entry.rule().map(|rule| &rule.selector) {
                Some(Selector::Address { .. }) => ": there is no function at this address",
                Some(Selector::Path { .. }) => ": the path leads to no function",
                Some(Selector::Ids(_)) => {
                    ": no function has these IDs, bridges aside, which are never taken"
                }
                Some(Selector::Class { .. }) => {
                    ": no function has this class, bridges aside, which are never taken"
                }
                Some(Selector::BootVga) | None => ": no function is the boot display",
            })?;
            let is_absent = matches!(entry.outcome, Outcome::Absent);
            f.write_str(if is_absent { "" } else { "; compare with lspci -Dnn" })
        }
        Outcome::Invalid(SyntaxError { column, expected }) => {
            write!(f, " at column {}: expected ", Decimal(column))?;
            f.write_str(expected)
        }
        Outcome::Refused(problem) | Outcome::Failed(problem) => write!(f, ": {problem}"),
        _ => Ok(()),
    }
}

/// The functions of a group that stay with the host, the first few by name.
fn write_left(f: &mut fmt::Formatter<'_>, group: u32, plan: &Plan) -> fmt::Result {
    const MOST_NAMED: usize = 8;
    let mut count = 0;
    for function in plan.left().filter(|function| function.group == Some(group)) {
        if count < MOST_NAMED {
            f.write_str(if count > 0 { ", " } else { "" })?;
            function.address.fmt(f)?;
        }
        count += 1;
    }
    let Some(more @ 1..) = count.checked_sub(MOST_NAMED) else { return Ok(()) };
    write!(f, " and {} more", Decimal::from(more))
}

fn write_function(f: &mut fmt::Formatter<'_>, step: &Step) -> fmt::Result {
    write_identity(f, &step.function)?;
    if let Some(group) = step.function.group {
        f.write_str(" group ")?;
        Decimal(group).fmt(f)?;
    } else {
        f.write_str(" no group")?;
    }
    f.write_str(", rule ")?;
    Decimal(step.rule.unwrap_or(0).into()).fmt(f)?;
    f.write_str(": ")?;
    let driver = Escaped(&step.driver);
    if let State::Failed(problem) = step.state {
        return write!(f, "failed: {problem}");
    }
    if step.is_held() {
        let is_new = step.held == Held::Written;
        f.write_str(if is_new { "driver_override set to " } else { "driver_override is " })?;
        driver.fmt(f)?;
        f.write_str(if is_new { ", " } else { " already, " })?;
    }
    if !step.freed_from.is_empty() {
        write!(f, "unbound from {}, ", Escaped(&step.freed_from))?;
    }
    let (start, end) = match step.state {
        State::Bound => ("bound to ", ""),
        State::Offered => ("not bound: ", " did not take it and says why in its own messages"),
        State::Waiting if step.driver != NOBODY => ("no driver has it until ", " loads"),
        _ => return f.write_str("no driver has it"),
    };
    f.write_str(start)?;
    driver.fmt(f)?;
    f.write_str(end)
}

/// Written part by part: `write!` took a fifth of a run's instructions here.
fn write_identity(f: &mut fmt::Formatter<'_>, function: &Function) -> fmt::Result {
    function.address.fmt(f)?;
    f.write_str(" [")?;
    function.id.fmt(f)?;
    f.write_str("] class ")?;
    function.class.fmt(f)
}

fn write_summary(f: &mut fmt::Formatter<'_>, rules: &RuleSet<'_>, plan: &Plan) -> fmt::Result {
    const WORDS: [&str; 8] =
        ["applied", "excluded", "overruled", "absent", "unmatched", "refused", "invalid", "failed"];
    f.write_str("rules: ")?;
    let mut separator = "";
    for word in WORDS {
        let count = rules.entries.iter().filter(|entry| entry.outcome.word() == word).count();
        if count > 0 {
            f.write_str(separator)?;
            Decimal::from(count).fmt(f)?;
            f.write_str(" ")?;
            f.write_str(word)?;
            separator = ", ";
        }
    }
    let taken = Decimal::from(plan.taken().filter(|step| step.is_held()).count());
    let bound = Decimal::from(plan.taken().filter(|step| step.is_bound()).count());
    write!(f, "; functions: {taken} taken, {bound} bound to their driver")
}
