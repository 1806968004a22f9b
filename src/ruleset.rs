// SPDX-License-Identifier: MIT OR Apache-2.0
//! All rules of a kernel command line, numbered from 1, and what came of each.

use heapless::Vec;

use crate::cmdline;
use crate::grammar::{self, SyntaxError};
use crate::pci::Function;
use crate::plan::Step;
use crate::problem::Problem;
use crate::rule::{Action, Driver, Rule, Selector, Statement};

/// The most rules that are stored.
pub const MAX_RULES: usize = 512;

/// The number of a rule: 1 for the first of a command line.
pub type RuleNumber = u16;

const _: () = assert!(
    cmdline::MAX_LENGTH / 2 <= RuleNumber::MAX as usize,
    "each rule takes two bytes of a command line"
);

/// One rule as it was written, and what it means.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Its number.
    pub number: RuleNumber,
    /// The rule's text, without the blanks around it.
    pub text: &'a [u8],
    /// Its meaning, or why it has none.
    pub parsed: Result<Statement<'a>, SyntaxError>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing has been decided yet; with `off`, nothing will be.
    NotInForce,
    /// `off` or `debug`, which select nothing.
    Setting,
    /// It decided at least one function.
    Applied,
    /// An exclusion that matched.
    Excluded,
    /// Later rules decided all its functions.
    Overruled,
    /// Nothing that it selects is there.
    Unmatched,
    /// Nothing that it selects is there, and its `?` allows that.
    Absent,
    /// Only one function was asked for, and the rule does not concern it.
    Elsewhere,
    /// It must not be applied.
    Refused(Problem),
    /// It is not a rule.
    Invalid(SyntaxError),
    /// An operation failed on a function that it decided, or that it names.
    Failed(Problem),
}

impl Outcome {
    /// The word for it, as the log and the host tool's JSON have it.
    #[inline(never)]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NotInForce => "off",
            Self::Setting => "setting",
            Self::Applied => "applied",
            Self::Excluded => "excluded",
            Self::Overruled => "overruled",
            Self::Unmatched => "unmatched",
            Self::Absent => "absent",
            Self::Elsewhere => "elsewhere",
            Self::Refused(_) => "refused",
            Self::Invalid(_) => "invalid",
            Self::Failed(_) => "failed",
        }
    }
}

impl<'a> Entry<'a> {
    /// The rule, where this is a valid one that selects functions.
    pub fn rule(&self) -> Option<&Rule<'a>> {
        let Ok(Statement::Rule(rule)) = &self.parsed else { return None };
        Some(rule)
    }
}

/// The rules of a command line, in their order.
#[derive(Debug, Default)]
pub struct RuleSet<'a> {
    /// Every rule that is stored, in its order.
    pub entries: Vec<Entry<'a>, MAX_RULES>,
    /// How many rules there are past [`MAX_RULES`], of which none is applied.
    pub surplus: usize,
    /// The number of the rule `off`, if there is one, wherever it stands.
    pub off: Option<RuleNumber>,
    /// Whether a rule is `debug`.
    pub debug: bool,
    /// The number of the last exclusion that cannot be honoured; all rules before it are refused.
    pub lost_exclusion: Option<RuleNumber>,
    /// Whether the command line was longer than [`cmdline::MAX_LENGTH`].
    pub line_is_cut: bool,
    /// The last value of `vfio-pci.ids=`, the one that the kernel obeys.
    pub(crate) ids: Option<&'a [u8]>,
}

impl<'a> RuleSet<'a> {
    /// A set without rules.
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
            surplus: 0,
            off: None,
            debug: false,
            lost_exclusion: None,
            line_is_cut: false,
            ids: None,
        }
    }

    /// Adds the rules of every `vfio.override=` on a kernel command line. Stores the value of its `vfio-pci.ids=`.
    pub fn add_line(&mut self, line: &'a [u8]) {
        self.line_is_cut |= line.len() > cmdline::MAX_LENGTH;
        for (name, value) in cmdline::values(line) {
            match name {
                cmdline::PARAMETER => self.add_value(value),
                b"vfio-pci.ids" | b"vfio_pci.ids" => self.ids = Some(value),
                _ => {}
            }
        }
    }

    /// Whether `vfio-pci.ids=` takes this function.
    pub(crate) fn ids_take(&self, function: &Function) -> bool {
        let ids = self.ids.unwrap_or_default();
        ids.split(|&byte| byte == b',').any(|text| match grammar::parse(text) {
            Ok(Statement::Rule(Rule { selector: Selector::Ids(ids), .. })) => {
                ids.match_function(function) && !function.class.is_bridge()
            }
            _ => false,
        })
    }

    /// Adds the rules of one value of the parameter.
    pub fn add_value(&mut self, value: &'a [u8]) {
        for text in value.split(|&byte| byte == b',').map(trim).filter(|text| !text.is_empty()) {
            self.add(text);
        }
    }

    fn add(&mut self, text: &'a [u8]) {
        let number = RuleNumber::try_from(self.count() + 1).unwrap_or(RuleNumber::MAX);
        let parsed = grammar::parse(text);
        let outcome = match parsed {
            Err(error) => Outcome::Invalid(error),
            Ok(Statement::Off | Statement::Debug) => Outcome::Setting,
            Ok(Statement::Rule(_)) => Outcome::NotInForce,
        };
        self.debug |= matches!(parsed, Ok(Statement::Debug));
        if matches!(parsed, Ok(Statement::Off)) {
            self.off = self.off.or(Some(number));
        }
        // An exclusion that cannot be parsed, or stored, may have protected any function. A `!` counts wherever it
        // stands: behind a quote, for example, an exclusion may have been meant.
        let is_full = self.entries.is_full();
        if (parsed.is_err() || is_full) && text.contains(&b'!') {
            self.lost_exclusion = Some(number);
        }
        self.surplus += usize::from(is_full);
        let _ = self.entries.push(Entry { number, text, parsed, outcome });
    }

    /// How many rules were written.
    pub fn count(&self) -> usize {
        self.entries.len() + self.surplus
    }

    pub(crate) fn entry_mut(&mut self, number: RuleNumber) -> Option<&mut Entry<'a>> {
        self.entries.get_mut(usize::from(number).checked_sub(1)?)
    }

    /// Makes this problem the outcome of the rule, if the rule counts as applied so far: only its first problem
    /// counts.
    pub(crate) fn fail(&mut self, number: RuleNumber, problem: Problem) {
        if let Some(entry) = self.entry_mut(number)
            && matches!(entry.outcome, Outcome::Applied)
        {
            entry.outcome = Outcome::Failed(problem);
        }
    }

    /// Refuses all rules before this exclusion, since it may have protected any function.
    pub(crate) fn refuse_before(&mut self, exclusion: RuleNumber) {
        for entry in &mut self.entries {
            if entry.number < exclusion && entry.rule().is_some() {
                entry.outcome = Outcome::Refused(Problem::LostExclusion(exclusion));
            }
        }
    }

    /// Every rule that may select functions, with its number: valid, and not before an exclusion that
    /// cannot be honoured.
    pub fn rules(&self) -> impl Iterator<Item = (RuleNumber, &Rule<'a>)> {
        let entries = self.entries.iter().skip(self.lost_exclusion.unwrap_or(0).into());
        entries.filter_map(|entry| Some((entry.number, entry.rule()?)))
    }

    /// Whether `is_like_this` holds for any rule of [`RuleSet::rules`].
    #[inline(never)]
    pub(crate) fn any(&self, is_like_this: fn(&Rule<'_>) -> bool) -> bool {
        self.rules().any(|(_, rule)| is_like_this(rule))
    }

    /// The rule of this number.
    pub fn entry(&self, number: RuleNumber) -> Option<&Entry<'a>> {
        self.entries.get(usize::from(number).checked_sub(1)?)
    }

    /// Whether a rule with `auto` decides on the function.
    #[inline(never)]
    pub(crate) fn is_auto(&self, step: &Step) -> bool {
        matches!(step.rule.and_then(|rule| self.driver(rule)), Some(Driver::Auto))
    }

    /// The driver that the rule of this number keeps its functions for.
    pub fn driver(&self, number: RuleNumber) -> Option<Driver<'a>> {
        let Action::Take(driver) = self.entry(number)?.rule()?.action else { return None };
        Some(driver)
    }
}

fn trim(text: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !cmdline::is_space(*byte);
    let start = text.iter().position(is_text).unwrap_or_default();
    let end = text.iter().rposition(is_text).map_or(start, |last| last + 1);
    text.get(start..end).unwrap_or_default()
}
