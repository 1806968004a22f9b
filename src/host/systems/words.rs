// SPDX-License-Identifier: MIT OR Apache-2.0
//! Words on a kernel command line as it stands in a file: added and taken out, all others left as they are.

use vfio_override::cmdline;

use crate::rules::preview::overrides;

/// Whether it is a name as configuration files have them, of letters, digits, ".", "_" and "-".
pub fn is_name(word: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !word.is_empty() && word.bytes().all(is_part)
}

/// What is to be added to a command line, and what is in the way there.
#[derive(Default)]
pub struct Change {
    pub add: Vec<String>,
    /// Words that go wherever they stand, behind `--` too.
    pub gone: Vec<String>,
    /// Values of `vfio.override=` that the new ones stand in for.
    pub replaced: Vec<String>,
    /// Whether what switches the IOMMU off goes.
    pub has_iommu: bool,
}

impl Change {
    /// The line with the change.
    pub fn of(&self, line: &str) -> String {
        let all = split(line);
        let (ours, of_init) = all.split_at(end_of_ours(&all));
        let mut words: Vec<String> = ours.iter().filter_map(|word| self.wanted(word)).collect();
        let missing: Vec<String> =
            self.add.iter().filter(|word| !words.contains(word)).cloned().collect();
        words.extend(missing);
        let of_init = of_init.iter().map(|word| (*word).to_owned());
        words.extend(of_init.filter(|word| !self.gone.contains(word)));
        // Nothing is left for init.
        if words.last().is_some_and(|word| word == "--") {
            words.pop();
        }
        words.join(" ")
    }

    /// The words of a line that the change takes out or shortens, and what it makes of each.
    pub fn dropped<'l>(&self, line: &'l str) -> Vec<(&'l str, Option<String>)> {
        let all = split(line);
        let (ours, of_init) = all.split_at(end_of_ours(&all));
        let changed = ours.iter().map(|word| (*word, self.wanted(word)));
        let changed = changed.filter(|(word, wanted)| wanted.as_deref() != Some(word));
        let is_gone = |word: &&&str| self.gone.iter().any(|gone| gone == *word);
        changed.chain(of_init.iter().filter(is_gone).map(|word| (*word, None))).collect()
    }

    /// The words to be added, as they stand behind others.
    pub fn added(&self) -> String {
        self.add.join(" ")
    }

    /// What is left of a word.
    fn wanted(&self, word: &str) -> Option<String> {
        if self.gone.iter().any(|gone| gone == word) {
            return None;
        }
        let is_new = self.add.iter().any(|new| new == word);
        let mut values = overrides(word.as_bytes()).map(String::from_utf8_lossy);
        if !is_new && values.any(|value| self.replaced.iter().any(|old| *old == value)) {
            return None;
        }
        let word = without_off(word)?;
        if !self.has_iommu || !switches_iommu_off(&word) {
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

/// The parameters that give a driver IDs, with `_` for each `-`, and that driver.
const IDS: [(&str, &str); 2] = [("vfio_pci.ids", "vfio-pci"), ("pci_stub.ids", "pci-stub")];
/// The parameters by which modprobe, or dracut, loads no module of these names.
pub const BLACKLISTS: [&str; 2] = ["modprobe.blacklist", "rd.driver.blacklist"];

/// Whether programs read a parameter of this name behind `--`, too, where the kernel does not.
pub fn is_read_behind(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).replace('-', "_");
    IDS.iter().any(|(its, _)| *its == name) || BLACKLISTS.contains(&name.as_str())
}

/// Whether this word switches the IOMMU off.
pub fn switches_iommu_off(word: &str) -> bool {
    let Some((name, value)) = parameter(word) else { return false };
    match name.as_str() {
        "iommu" | "intel_iommu" | "amd_iommu" => value.split(',').any(|part| part == "off"),
        // Without its tables nobody knows where the IOMMU is.
        "acpi" => value == "off",
        _ => false,
    }
}

/// A word that gives a driver IDs, by which it takes functions that no rule selects.
pub struct Ids<'l> {
    pub word: &'l str,
    /// Whether it stands behind `--`, where only modprobe reads it.
    pub is_behind: bool,
}

impl<'l> Ids<'l> {
    /// Those of a line that count. The kernel reads nothing behind `--`; modprobe does (seen with kmod 30 and 34.2), so
    /// that what stands there counts for a driver that is a module.
    pub fn of(line: &'l str, is_built_in: impl Fn(&str) -> bool) -> Vec<Self> {
        let all = split(line);
        let end = end_of_ours(&all);
        let counts = |(place, word): (usize, &&'l str)| {
            let (name, _) = parameter(word)?;
            let (_, driver) = IDS.iter().find(|(its, _)| *its == name)?;
            let is_behind = place > end;
            (!is_behind || !is_built_in(driver)).then_some(Ids { word, is_behind })
        };
        all.iter().enumerate().filter_map(counts).collect()
    }
}

/// The name of a word, with `_` for each `-`, and its value.
fn parameter(word: &str) -> Option<(String, String)> {
    let parameter = cmdline::parameters(word.as_bytes()).next()?;
    let name = String::from_utf8_lossy(parameter.name).replace('-', "_");
    Some((name, parameter.value.map(String::from_utf8_lossy).unwrap_or_default().into_owned()))
}

/// How many words come before `--`: what stands behind is for init.
fn end_of_ours(words: &[&str]) -> usize {
    words.iter().position(|word| *word == "--").unwrap_or(words.len())
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

/// The word that has this value of ours.
pub fn word_of(value: &str) -> String {
    let quote = if value.contains(char::is_whitespace) { "\"" } else { "" };
    format!("vfio.override={quote}{value}{quote}")
}

/// A word without the rule `off`, if it is one of ours; `None` where no rule is left.
fn without_off(word: &str) -> Option<String> {
    let Some(value) = overrides(word.as_bytes()).next() else {
        return Some(word.to_owned());
    };
    let value = String::from_utf8_lossy(value);
    let rules = value.split(',');
    let left: Vec<&str> = rules.clone().filter(|rule| rule.trim() != "off").collect();
    if left.len() == rules.count() {
        return Some(word.to_owned());
    }
    let left = left.join(",");
    (!left.trim().is_empty()).then(|| word_of(&left))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(line: &str) -> String {
        let gone = Ids::of(line, |driver| driver == "pci-stub");
        let gone = gone.iter().map(|ids| ids.word.to_owned()).collect();
        let replaced = vec!["01:00.0+slot".to_owned()];
        let add = vec!["vfio.override=01:00.0".to_owned()];
        Change { add, gone, replaced, has_iommu: true }.of(line)
    }

    #[test]
    fn all_other_words_stay_as_they_are() {
        for (line, expected) in [
            ("", "vfio.override=01:00.0"),
            ("quiet  ro", "quiet ro vfio.override=01:00.0"),
            ("quiet -- single", "quiet vfio.override=01:00.0 -- single"),
            ("dyndbg=\"file dd.c  +p\" ro", "dyndbg=\"file dd.c  +p\" ro vfio.override=01:00.0"),
            ("vfio.override=01:00.0 ro", "vfio.override=01:00.0 ro"),
            // modprobe reads it there, too, and the kernel does not, where the driver is built in.
            ("-- vfio-pci.ids=1:2 x", "vfio.override=01:00.0 -- x"),
            ("-- pci-stub.ids=1:2 x", "vfio.override=01:00.0 -- pci-stub.ids=1:2 x"),
            ("-- vfio-pci.ids=1:2", "vfio.override=01:00.0"),
            ("pci-stub.ids=1:2 -- x", "vfio.override=01:00.0 -- x"),
            ("quiet -- amd_iommu=off", "quiet vfio.override=01:00.0 -- amd_iommu=off"),
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
