// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the log says, read back.

use std::collections::BTreeSet;

use vfio_override::pci::Address;

use crate::oracle::{Outcome, Warning};

/// What a line of the log says of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleLine<'a> {
    /// The rule's number.
    pub number: usize,
    /// The rule's text, as the log shows it.
    pub text: &'a str,
    /// The first word of what came of it.
    pub word: &'a str,
}

impl<'a> RuleLine<'a> {
    /// Reads `rule 3 "01:00.0": unmatched: …`; `None` for lines that do not tell what came of a rule.
    #[must_use]
    pub fn read(line: &'a str) -> Option<Self> {
        let (number, rest) = line.strip_prefix("rule ")?.split_once(" \"")?;
        let (text, outcome) = rest.split_once("\": ")?;
        let is_word = |word: &&str| Outcome::ALL.iter().any(|known| known.word() == Some(word));
        let word = outcome.split([' ', ':']).next().filter(is_word)?;
        Some(Self { number: number.parse().ok()?, text, word })
    }
}

/// A rule's text as the log shows it: one line of printable ASCII, cut after 100 bytes.
#[must_use]
pub fn shown(text: &str) -> String {
    let end = if text.len() > 100 { "..." } else { "" };
    let show = |byte: u8| match byte {
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    text.bytes().take(100).map(show).collect::<String>() + end
}

/// Every warning that these lines tell. Of a group that is not viable the log names the first eight
/// functions that stay, so that one with more is left out here.
#[must_use]
pub fn warnings<'a>(lines: impl IntoIterator<Item = &'a str>) -> BTreeSet<Warning> {
    lines.into_iter().filter_map(warning).filter(is_named_in_full).collect()
}

/// Whether the log can name all that the warning is about.
#[must_use]
pub fn is_named_in_full(warning: &Warning) -> bool {
    !matches!(warning, Warning::NotViable(_, left) if left.len() > 8 || left.is_empty())
}

/// The warning that this line tells.
#[must_use]
pub fn warning(line: &str) -> Option<Warning> {
    type Form = (&'static str, &'static str, fn(Address) -> Warning);
    const FORMS: [Form; 6] = [
        ("", " is the boot display", Warning::BootDisplay),
        ("", " is mass storage", Warning::Storage),
        ("", " is a network function", Warning::Network),
        ("", " is in no IOMMU group", Warning::NoGroup),
        (
            "a framebuffer driver (efifb, simpledrm, vesafb) holds memory of ",
            ";",
            Warning::Framebuffer,
        ),
        ("vfio-pci.ids= has vfio-pci take ", ", which no rule does", Warning::Stray),
    ];
    if line.starts_with("the IOMMU is off") {
        return Some(Warning::NoIommu);
    }
    if let Some(rest) = line.strip_prefix("group ") {
        let (group, rest) = rest.split_once(" is not viable while the host keeps ")?;
        let (left, _) = rest.split_once(';')?;
        let left = left.split(", ").map(address).collect::<Option<_>>().unwrap_or_default();
        return Some(Warning::NotViable(group.parse().ok()?, left));
    }
    FORMS.into_iter().find_map(|(before, behind, warning)| {
        let (name, _) = line.strip_prefix(before)?.split_once(behind)?;
        Some(warning(address(name)?))
    })
}

fn address(name: &str) -> Option<Address> {
    Address::from_sysfs(name.as_bytes())
}
