// SPDX-License-Identifier: MIT OR Apache-2.0
//! Words on a kernel command line as it stands in a file: added and taken out, all others left as they are.

use std::collections::BTreeSet;

use vfio_override::cmdline;

/// Whether it is a name as configuration files have them, of letters, digits, ".", "_" and "-".
pub fn is_name(word: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !word.is_empty() && word.bytes().all(is_part)
}

/// What is to be added to a command line, and what is in the way there.
#[derive(Default)]
pub struct Change {
    pub add: Vec<String>,
    pub drop: BTreeSet<Unwanted>,
    /// Values of `vfio.override=` that the new ones stand in for.
    pub replaced: Vec<String>,
}

/// What stands in the way on a command line. The rule `off` always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unwanted {
    /// `vfio-pci.ids=` and its like, which take functions by ID that no rule selects.
    Ids,
    /// What switches the IOMMU off.
    IommuOff,
}

impl Change {
    /// The line with the change.
    pub fn of(&self, line: &str) -> String {
        let all = split(line);
        // What stands behind is for init.
        let end = all.iter().position(|word| *word == "--").unwrap_or(all.len());
        let (ours, others) = all.split_at(end);
        let mut words: Vec<String> = ours.iter().filter_map(|word| self.wanted(word)).collect();
        let missing: Vec<String> =
            self.add.iter().filter(|word| !words.contains(word)).cloned().collect();
        words.extend(missing);
        words.extend(others.iter().map(|word| (*word).to_owned()));
        words.join(" ")
    }

    /// The words of a line that the change takes out or shortens, and what it makes of each.
    pub fn dropped<'l>(&self, line: &'l str) -> Vec<(&'l str, Option<String>)> {
        let words = split(line).into_iter().take_while(|word| *word != "--");
        let changed = words.map(|word| (word, self.wanted(word)));
        changed.filter(|(word, wanted)| wanted.as_deref() != Some(word)).collect()
    }

    /// The words to be added, as they stand behind others.
    pub fn added(&self) -> String {
        self.add.join(" ")
    }

    /// What is left of a word.
    fn wanted(&self, word: &str) -> Option<String> {
        let is_new = self.add.iter().any(|new| new == word);
        let mut values = cmdline::overrides(word.as_bytes()).map(String::from_utf8_lossy);
        if !is_new && values.any(|value| self.replaced.iter().any(|old| *old == value)) {
            return None;
        }
        let word = without_off(word)?;
        let is_in_the_way = self.drop.iter().any(|unwanted| unwanted.is(&word));
        if !is_in_the_way {
            return Some(word);
        }
        // Of a list such as `iommu=off,pt` the rest is kept.
        let plain = word.replace('"', "");
        let (name, value) = plain.split_once('=')?;
        let left: Vec<&str> = value.split(',').filter(|part| *part != "off").collect();
        let is_list = name.ends_with("iommu") && !left.is_empty();
        is_list.then(|| format!("{name}={}", left.join(",")))
    }
}

impl Unwanted {
    /// Whether this word is of the kind.
    pub fn is(self, word: &str) -> bool {
        let Some(parameter) = cmdline::parameters(word.as_bytes()).next() else { return false };
        let name = String::from_utf8_lossy(parameter.name).replace('-', "_");
        let value = parameter.value.map(String::from_utf8_lossy).unwrap_or_default();
        let has_off = value.split(',').any(|part| part == "off");
        match self {
            Self::Ids => ["vfio_pci.ids", "pci_stub.ids"].contains(&name.as_str()),
            Self::IommuOff => match name.as_str() {
                "iommu" | "intel_iommu" | "amd_iommu" => has_off,
                // Without its tables nobody knows where the IOMMU is.
                "acpi" => value == "off",
                _ => false,
            },
        }
    }
}

/// The words of a line, which are separated by blanks that no quotes protect.
pub fn split(line: &str) -> Vec<&str> {
    let mut is_quoted = false;
    let is_end = |letter: char| {
        is_quoted ^= letter == '"';
        letter.is_ascii_whitespace() && !is_quoted
    };
    line.split(is_end).filter(|word| !word.is_empty()).collect()
}

/// A word without the rule `off`, if it is one of ours; `None` where no rule is left.
fn without_off(word: &str) -> Option<String> {
    let Some(value) = cmdline::overrides(word.as_bytes()).next() else {
        return Some(word.to_owned());
    };
    let value = String::from_utf8_lossy(value);
    let rules = value.split(',');
    let left: Vec<&str> = rules.clone().filter(|rule| rule.trim() != "off").collect();
    if left.len() == rules.count() {
        return Some(word.to_owned());
    }
    let left = left.join(",");
    let quote = if left.contains(char::is_whitespace) { "\"" } else { "" };
    (!left.trim().is_empty()).then(|| format!("vfio.override={quote}{left}{quote}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(line: &str) -> String {
        let drop = BTreeSet::from([Unwanted::Ids, Unwanted::IommuOff]);
        let replaced = vec!["01:00.0+slot".to_owned()];
        Change { add: vec!["vfio.override=01:00.0".to_owned()], drop, replaced }.of(line)
    }

    #[test]
    fn all_other_words_stay_as_they_are() {
        for (line, expected) in [
            ("", "vfio.override=01:00.0"),
            ("quiet  ro", "quiet ro vfio.override=01:00.0"),
            ("quiet -- single", "quiet vfio.override=01:00.0 -- single"),
            ("dyndbg=\"file dd.c  +p\" ro", "dyndbg=\"file dd.c  +p\" ro vfio.override=01:00.0"),
            ("vfio.override=01:00.0 ro", "vfio.override=01:00.0 ro"),
            ("-- vfio-pci.ids=1:2", "vfio.override=01:00.0 -- vfio-pci.ids=1:2"),
            ("ro -- vfio.override=01:00.0", "ro vfio.override=01:00.0 -- vfio.override=01:00.0"),
            ("vfio.override=02:00.0", "vfio.override=02:00.0 vfio.override=01:00.0"),
        ] {
            assert_eq!(changed(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_in_the_way_goes_in_every_spelling() {
        for word in [
            "vfio.override=off",
            "vfio.override=\"off\"",
            "\"vfio.override=off\"",
            "vfio.override=off,",
            "vfio.override=\" off , off\"",
            "vfio.override=off vfio.override=off",
            "vfio.override=01:00.0+slot",
            "\"vfio.override=01:00.0+slot\"",
            "amd_iommu=off",
            "\"iommu=off\"",
            "intel_iommu=\"off\"",
            "acpi=off",
            "vfio-pci.ids=10de:2204,10de:1aef",
            "vfio_pci.ids=\"10de:2204\"",
        ] {
            assert_eq!(changed(word), "vfio.override=01:00.0", "{word}");
        }
        for (word, left) in [
            ("vfio.override=02:00.0,off", "vfio.override=02:00.0"),
            ("vfio.override=\"off, 02:00.0\"", "vfio.override=\" 02:00.0\""),
            ("iommu=off,pt", "iommu=pt"),
            ("intel_iommu=on,sm_off", "intel_iommu=on,sm_off"),
            ("vfio-pci.disable_vga=1", "vfio-pci.disable_vga=1"),
            ("amd_iommu=off2", "amd_iommu=off2"),
        ] {
            assert_eq!(changed(word), format!("{left} vfio.override=01:00.0"), "{word}");
        }
    }
}
