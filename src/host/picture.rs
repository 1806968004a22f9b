// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tree of a machine's bridges and functions with its IOMMU groups, as text and as SVG: why a group cannot be split,
//! and where a card would have a group of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use vfio_override::pci::Address;

use crate::machine::functions::{AddressStyle, Device, Devices};
use crate::screen::{self, PLAIN, QUIET, Screen, TAKEN, printable};
use crate::systems::advice;

/// A picture of some functions of a machine, with all that is above them.
pub struct Picture<'a> {
    devices: &'a Devices,
    style: AddressStyle,
    rows: Vec<Row<'a>>,
    /// The groups with functions of more than one slot: those of one slot are one card, mostly.
    shared: BTreeSet<u32>,
}

struct Row<'a> {
    device: &'a Device,
    /// For each level above: whether more follows there. The last is its own.
    levels: Vec<bool>,
}

impl<'a> Picture<'a> {
    pub fn of(devices: &'a Devices, is_wanted: impl Fn(&Device) -> bool) -> Self {
        let wanted: Vec<&Device> = devices.all.iter().filter(|device| is_wanted(device)).collect();
        let shown: BTreeSet<Address> = wanted
            .iter()
            .flat_map(|device| device.above.iter().copied().chain([device.function.address]))
            .collect();
        let mut children = BTreeMap::<Option<Address>, Vec<&Device>>::new();
        for device in devices.all.iter().filter(|it| shown.contains(&it.function.address)) {
            // One whose bridge is not listed stands for itself.
            let parent = device.parent().filter(|parent| devices.get(*parent).is_some());
            children.entry(parent).or_default().push(device);
        }
        let mut rows = Vec::new();
        let mut next: Vec<(&Device, Vec<bool>)> = Vec::new();
        let mut push = |next: &mut Vec<_>, parent, levels: &[bool]| {
            let below: Vec<&Device> = children.remove(&parent).unwrap_or_default();
            let last = below.len().saturating_sub(1);
            for (index, device) in below.into_iter().enumerate().rev() {
                next.push((device, [levels, &[index < last]].concat()));
            }
        };
        push(&mut next, None, &[]);
        while let Some((device, levels)) = next.pop() {
            push(&mut next, Some(device.function.address), &levels);
            rows.push(Row { device, levels });
        }
        let mut slots = BTreeMap::<u32, BTreeSet<Address>>::new();
        for device in devices.all.iter().filter(|device| device.is_endpoint()) {
            if let Some(group) = device.group {
                slots.entry(group).or_default().insert(device.function.address.sibling(0));
            }
        }
        let shared = slots.into_iter().filter(|(_, slots)| slots.len() > 1);
        let shared = shared.map(|(group, _)| group).collect();
        Self { devices, style: devices.style(), rows, shared }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn show(&self, screen: &mut Screen) {
        let rows = self.rows.iter().map(|row| {
            let device = row.device;
            let cells = vec![
                format!(
                    "{:>5}{}",
                    device.group_text(),
                    if self.is_shared(device) { "*" } else { "" }
                ),
                format!("{}{}", branches(&row.levels), self.style.text(device.function.address)),
                device.id.clone(),
                device.driver.clone().unwrap_or_else(|| "-".to_owned()),
                device.title(),
            ];
            let style = match device {
                device if !device.is_endpoint() => QUIET,
                device if device.kept_for.is_some() => TAKEN,
                _ => PLAIN,
            };
            (style, cells)
        });
        let rows: Vec<_> = rows.collect();
        screen.table(0, &["GROUP", "ADDRESS", "ID", "DRIVER", "DEVICE"], rows);
        let sentences = self.sentences();
        if !sentences.is_empty() {
            screen.blank();
        }
        for (word, sentence) in sentences {
            screen.marked(PLAIN, &word, sentence);
        }
    }

    fn is_shared(&self, device: &Device) -> bool {
        device.group.is_some_and(|group| self.shared.contains(&group))
    }

    /// What the picture shows, in words: a mark, and a sentence.
    fn sentences(&self) -> Vec<(String, String)> {
        let shown: BTreeSet<u32> = self.rows.iter().filter_map(|row| row.device.group).collect();
        let mut sentences: Vec<(String, String)> = self
            .shared
            .intersection(&shown)
            .map(|group| (format!("group {group}*"), self.why(*group)))
            .collect();
        if self.devices.has_groups() {
            let ports: Vec<String> = self.good_ports();
            let sentence = match ports.as_slice() {
                [] => "none: what is behind a port shares its group with something else".to_owned(),
                ports => {
                    format!(
                        "a card behind {} shares no group with anything else",
                        list(ports, "or")
                    )
                }
            };
            sentences.push(("good places".to_owned(), sentence));
        }
        sentences
    }

    /// Why a group cannot be split.
    fn why(&self, group: u32) -> String {
        let of_group: Vec<&Device> =
            self.devices.all.iter().filter(|device| device.group == Some(group)).collect();
        let text = |device: &&Device| self.style.text(device.function.address);
        let (members, bridges): (Vec<&Device>, Vec<&Device>) =
            of_group.iter().partition(|device| device.is_endpoint());
        let is_maker = |maker: &&&Device| {
            members.iter().any(|device| device.is_behind(maker.function.address))
        };
        let maker = members.iter().find(is_maker).map(text);
        let members: Vec<String> = members.iter().map(text).collect();
        let bridges: Vec<String> = bridges.iter().map(text).collect();
        let why = match (maker, bridges.as_slice()) {
            (Some(maker), _) => format!("for the IOMMU, what is behind {maker} is {maker}"),
            (None, []) => "nothing between them keeps them apart".to_owned(),
            (None, [one]) => {
                format!("the bridge {one} does not keep what is behind it apart (ACS)")
            }
            (None, bridges) => format!(
                "the bridges {} do not keep what is behind them apart (ACS)",
                advice::list(bridges)
            ),
        };
        format!("{} go together or not at all: {why}", list(&members, "and"))
    }

    /// The ports behind which nothing shares a group with anything that is elsewhere: the lowest of each way, with what is
    /// there now.
    fn good_ports(&self) -> Vec<String> {
        let all_devices = &self.devices.all;
        let is_port = |device: &&Device| device.has_class(0x06_04);
        let ports = all_devices.iter().filter(is_port).filter(|port| {
            let address = port.function.address;
            !all_devices.iter().any(|it| !it.is_endpoint() && it.parent() == Some(address))
        });
        let good = ports.filter(|port| {
            let address = port.function.address;
            let inside = |device: &Device| device.is_behind(address);
            let groups: BTreeSet<u32> = all_devices
                .iter()
                .filter(|device| inside(device) || device.function.address == address)
                .filter_map(|device| device.group)
                .collect();
            let is_shared = |device: &Device| {
                device.is_endpoint() && device.group.is_some_and(|group| groups.contains(&group))
            };
            !groups.is_empty()
                && !all_devices.iter().any(|device| !inside(device) && is_shared(device))
        });
        good.map(|port| {
            let address = self.style.text(port.function.address);
            let is_empty = !all_devices.iter().any(|it| it.parent() == Some(port.function.address));
            if is_empty { format!("{address} (empty)") } else { address }
        })
        .collect()
    }

    /// The picture as an SVG file.
    pub fn svg(&self) -> String {
        let labels: Vec<String> = self.rows.iter().map(|row| self.label(row.device)).collect();
        let right = |row: &Row<'_>, label: &String| text_start(row) + letters(label) * LETTER;
        let widest = self.rows.iter().zip(&labels).map(|(row, label)| right(row, label)).max();
        let width = widest.unwrap_or(0).max(80 * LETTER) + 2 * EDGE;
        let per_line = (width - 2 * EDGE) / LETTER;
        let sentences: Vec<String> = self
            .sentences()
            .iter()
            .flat_map(|(word, sentence)| screen::wrap(&format!("{word}: {sentence}"), per_line))
            .collect();
        let height = (self.rows.len() + sentences.len() + 1) * ROW + 2 * EDGE;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"ui-monospace, 'DejaVu Sans Mono', monospace\" \
             font-size=\"13\">\n<title>PCI functions and their IOMMU groups</title>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        self.bands(&mut svg, width);
        for (index, (row, label)) in self.rows.iter().zip(&labels).enumerate() {
            lines(&mut svg, row, index);
            let (x, y) = (text_start(row), base(index));
            let fill = if row.device.is_endpoint() { "#111111" } else { "#777777" };
            let weight = if row.device.is_offered() { " font-weight=\"bold\"" } else { "" };
            let _ = writeln!(
                svg,
                "<text x=\"{x}\" y=\"{y}\" fill=\"{fill}\"{weight}>{}</text>",
                escaped(label)
            );
        }
        for (index, sentence) in sentences.iter().enumerate() {
            let y = base(self.rows.len() + 1 + index);
            let text = escaped(sentence);
            let _ = writeln!(svg, "<text x=\"{EDGE}\" y=\"{y}\" fill=\"#333333\">{text}</text>");
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// A band behind all rows of a group that stand together: in colour where the group goes as a whole.
    fn bands(&self, svg: &mut String, width: usize) {
        /// Told apart by everybody (Okabe and Ito, without black and yellow).
        const COLOURS: [&str; 6] =
            ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
        let mut start = 0;
        for rows in self.rows.chunk_by(|one, next| one.device.group == next.device.group) {
            let (first, group) = (start, rows[0].device.group);
            start += rows.len();
            let Some(group) = group else { continue };
            let place = self.shared.iter().position(|shared| *shared == group);
            let colour = place.and_then(|place| COLOURS.get(place % COLOURS.len()));
            let (y, height) = (EDGE + first * ROW + 1, rows.len() * ROW - 2);
            let _ = writeln!(
                svg,
                "<rect x=\"{EDGE}\" y=\"{y}\" width=\"{}\" height=\"{height}\" rx=\"4\" fill=\"{}\" \
                 fill-opacity=\"{}\"/>\n<text x=\"{}\" y=\"{}\" fill=\"{}\">group {group}{}</text>",
                width - 2 * EDGE,
                colour.unwrap_or(&"#888888"),
                if colour.is_some() { "0.22" } else { "0.08" },
                EDGE + LETTER,
                base(first),
                if colour.is_some() { "#111111" } else { "#777777" },
                if colour.is_some() { "*" } else { "" },
            );
        }
    }

    fn label(&self, device: &Device) -> String {
        /// What pci.ids calls a function may be long.
        const MOST: usize = 100;
        let title = device.title();
        let mut name: String = title.chars().take(MOST).collect();
        if letters(&title) > MOST {
            name.push('…');
        }
        let address = self.style.text(device.function.address);
        match &device.driver {
            Some(driver) => format!("{address}  {name}  ({driver})"),
            None => format!("{address}  {name}"),
        }
    }
}

/// Pixels of a row, of a letter, between the edge and the picture, of the names of groups, and of one level of the tree.
const ROW: usize = 22;
const LETTER: usize = 8;
const EDGE: usize = 16;
const GROUPS: usize = 12 * LETTER;
const LEVEL: usize = 20;

/// Where the text of a row begins.
fn text_start(row: &Row<'_>) -> usize {
    EDGE + GROUPS + row.levels.len() * LEVEL
}

/// The line on which the text of a row stands.
fn base(index: usize) -> usize {
    EDGE + index * ROW + ROW * 7 / 10
}

/// The lines from what is above a function to it.
fn lines(svg: &mut String, row: &Row<'_>, index: usize) {
    let (top, middle, bottom) =
        (EDGE + index * ROW, EDGE + index * ROW + ROW / 2, EDGE + (index + 1) * ROW);
    let last = row.levels.len() - 1;
    let mut path = String::new();
    for (level, more) in row.levels.iter().enumerate().skip(1) {
        let x = EDGE + GROUPS + level * LEVEL - LEVEL / 2;
        let end = if *more { bottom } else { middle };
        if *more || level == last {
            let _ = write!(path, "M{x} {top}V{end}");
        }
        if level == last {
            let _ = write!(path, "M{x} {middle}H{}", text_start(row) - LEVEL / 4);
        }
    }
    if !path.is_empty() {
        let _ = writeln!(svg, "<path d=\"{path}\" stroke=\"#999999\" fill=\"none\"/>");
    }
}

fn letters(text: &str) -> usize {
    text.chars().count()
}

/// A text that is nothing but text in XML: it may come from a stranger's copy.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for letter in printable(text).chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// The lines of the tree before a function.
fn branches(levels: &[bool]) -> String {
    let Some((own, above)) = levels.split_last() else { return String::new() };
    // The root buses are no row.
    let Some((_, above)) = above.split_first() else { return String::new() };
    let mut text = String::new();
    for more in above {
        text.push_str(if *more { "│  " } else { "   " });
    }
    text.push_str(if *own { "├─ " } else { "└─ " });
    text
}

/// A whole list in words.
fn list(words: &[String], last_word: &str) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => {
            format!("{} {last_word} {last}", first.join(", "))
        }
        words => words.join(", "),
    }
}
