//! The grammar of a rule: what is read is what was written, and what is not understood is pointed at.

use std::fmt::Write as _;

use proptest::prelude::*;
use vfio_override::grammar::{self, Expected, SyntaxError};
use vfio_override::pci::{Address, Class, Id};
use vfio_override::rule::{
    Action, Driver, Expansion, Ids, MAX_DRIVER, MAX_HOPS, Place, Rule, Selector, Statement,
};
use vfio_override::ruleset::RuleSet;

/// What a rule is made of, its driver's name owned.
#[derive(Clone, Debug)]
struct Parts {
    selector: Selector,
    guard: Option<Id>,
    expansion: Option<Expansion>,
    fate: Fate,
}

#[derive(Clone, Debug)]
enum Fate {
    Exclude,
    Default,
    Nobody,
    Auto,
    Named(String),
}

impl Parts {
    fn rule(&self) -> Rule<'_> {
        let action = match &self.fate {
            Fate::Exclude => Action::Exclude,
            Fate::Default => Action::Take(Driver::DEFAULT),
            Fate::Nobody => Action::Take(Driver::Nobody),
            Fate::Auto => Action::Take(Driver::Auto),
            Fate::Named(name) => Action::Take(Driver::Named(name.as_bytes())),
        };
        let Self { selector, guard, expansion, .. } = self.clone();
        Rule { selector, guard, expansion, action }
    }
}

fn place(function: impl Strategy<Value = Option<u8>>) -> impl Strategy<Value = Place> {
    (0..=0x1f_u8, function).prop_map(|(device, function)| Place { device, function })
}

fn any_place() -> impl Strategy<Value = Place> {
    place(proptest::option::of(0..=7_u8))
}

/// Domains of every length, small ones as often as large ones.
fn domain() -> impl Strategy<Value = u32> {
    (any::<u32>(), 0..=32_u32).prop_map(|(domain, bits)| domain.checked_shr(bits).unwrap_or(0))
}

fn addresses() -> impl Strategy<Value = Selector> {
    (domain(), any::<u8>(), any_place()).prop_map(|(domain, bus, place)| Selector::Address {
        domain,
        bus,
        place,
    })
}

fn paths() -> impl Strategy<Value = Selector> {
    let start = (domain(), any::<u8>(), 0..=0x1f_u8, 0..=7_u8)
        .prop_map(|(domain, bus, device, f)| Address::new(domain, bus, device, f).unwrap());
    (start, proptest::collection::vec(any_place(), 1..=MAX_HOPS))
        .prop_map(|(start, hops)| Selector::Path { start, hops: hops.into_iter().collect() })
}

/// IDs of every length, small ones as often as large ones.
fn id() -> impl Strategy<Value = u16> {
    (any::<u16>(), 0..=16_u32).prop_map(|(id, bits)| id.checked_shr(bits).unwrap_or(0))
}

fn ids() -> impl Strategy<Value = Selector> {
    let any_id = || proptest::option::of(id());
    let class = proptest::option::of((0..=0x00ff_ffff_u32, 0..=0x00ff_ffff_u32));
    (any_id(), any_id(), any_id(), any_id(), class).prop_map(
        |(vendor, device, subvendor, subdevice, class)| {
            let (class, mask) = class.map_or((None, 0), |(code, mask)| (Class::new(code), mask));
            Selector::Ids(Ids { vendor, device, subvendor, subdevice, class, mask })
        },
    )
}

fn classes() -> impl Strategy<Value = Selector> {
    (prop_oneof![Just(2_u8), Just(4), Just(6)], 0..=0x00ff_ffff_u32).prop_map(|(digits, code)| {
        Selector::Class { prefix: code & ((1 << (4 * u32::from(digits))) - 1), digits }
    })
}

fn fates() -> impl Strategy<Value = Fate> {
    let name = proptest::string::string_regex("[A-Za-z0-9_.+-]{1,64}").unwrap();
    let is_name = |name: &String| !["none", "auto", "vfio-pci"].contains(&name.as_str());
    prop_oneof![
        Just(Fate::Exclude),
        Just(Fate::Default),
        Just(Fate::Nobody),
        Just(Fate::Auto),
        name.prop_filter("has a meaning of its own", is_name).prop_map(Fate::Named),
    ]
}

fn rules() -> impl Strategy<Value = Parts> {
    let selector = prop_oneof![addresses(), paths(), ids(), classes(), Just(Selector::BootVga)];
    let guard = proptest::option::of((id(), id()));
    let expansion =
        proptest::option::of(prop_oneof![Just(Expansion::Slot), Just(Expansion::Group)]);
    (selector, guard, expansion, fates()).prop_map(|(selector, guard, expansion, fate)| {
        let takes_guard = matches!(selector, Selector::Address { .. } | Selector::Path { .. })
            && !matches!(fate, Fate::Exclude);
        let guard = guard.filter(|_| takes_guard).map(|(vendor, device)| Id { vendor, device });
        Parts { selector, guard, expansion, fate }
    })
}

/// Decides, number by number, how a rule is spelled.
struct Spelling<'a> {
    choices: std::iter::Cycle<std::slice::Iter<'a, bool>>,
    text: String,
}

impl<'a> Spelling<'a> {
    fn new(choices: &'a [bool]) -> Self {
        Self { choices: choices.iter().cycle(), text: String::new() }
    }

    fn choose(&mut self) -> bool {
        *self.choices.next().unwrap()
    }

    fn either_case(&mut self, digits: &str) {
        let text = if self.choose() { digits.to_uppercase() } else { digits.to_owned() };
        self.text += &text;
    }

    /// A number of at most `digits` digits, with or without leading zeros, in either case.
    fn number(&mut self, value: u32, digits: usize) {
        let digits = if self.choose() { digits } else { 1 };
        let text = format!("{value:0digits$x}");
        self.either_case(&text);
    }

    fn prefixed(&mut self, value: u32, digits: usize) {
        if self.choose() {
            let prefix = if self.choose() { "0x" } else { "0X" };
            self.text += prefix;
        }
        self.number(value, digits);
    }

    fn any(&mut self) {
        let all = ["*", "ffffffff", "FFFFffff", "0xffffffff", "0XFFFFFFFF"];
        let index = (0..3).fold(0, |index, _| index * 2 + usize::from(self.choose()));
        self.text += all[index % all.len()];
    }

    fn id(&mut self, id: Option<u16>) {
        match id {
            Some(id) => self.prefixed(id.into(), 4),
            None => self.any(),
        }
    }

    /// In the `pci:` form 0 means any.
    fn kernel_id(&mut self, id: Option<u16>) {
        match id {
            None if self.choose() => self.prefixed(0, 4),
            id => self.id(id),
        }
    }

    fn bus(&mut self, domain: u32, bus: u8) {
        if domain != 0 || self.choose() {
            self.number(domain, 8);
            self.text += ":";
        }
        self.number(bus.into(), 2);
        self.text += ":";
    }

    fn place(&mut self, place: Place) {
        self.number(place.device.into(), 2);
        match place.function {
            Some(function) => write!(self.text, ".{function}").unwrap(),
            None => self.text += ".*",
        }
    }

    fn ids(&mut self, ids: &Ids) {
        let has_zero = [ids.vendor, ids.device, ids.subvendor, ids.subdevice].contains(&Some(0));
        if ids.class.is_none() && !has_zero && self.choose() {
            return self.kernel_ids(ids);
        }
        self.id(ids.vendor);
        self.text += ":";
        self.id(ids.device);
        let fields = [ids.subvendor.is_some(), ids.subdevice.is_some(), ids.class.is_some()];
        let needed = fields.iter().rposition(|is_needed| *is_needed).map_or(0, |last| last + 1);
        for field in 0..3 {
            if field >= needed && self.choose() {
                return;
            }
            self.text += ":";
            match (field, ids.class) {
                (0, _) => self.id(ids.subvendor),
                (1, _) => self.id(ids.subdevice),
                (_, Some(class)) => self.prefixed(class.code(), 6),
                (_, None) => self.any(),
            }
        }
        // A mask says nothing where there is no class; a mask of 0 is what a missing one means.
        if ids.mask != 0 || self.choose() {
            self.text += ":";
            if ids.mask == 0x00ff_ffff && self.choose() {
                self.text += "0xffffffff";
            } else {
                self.prefixed(ids.mask, 6);
            }
        }
    }

    fn kernel_ids(&mut self, ids: &Ids) {
        self.text += "pci:";
        self.kernel_id(ids.vendor);
        self.text += ":";
        self.kernel_id(ids.device);
        if ids.subvendor.is_some() || ids.subdevice.is_some() || self.choose() {
            self.text += ":";
            self.kernel_id(ids.subvendor);
            self.text += ":";
            self.kernel_id(ids.subdevice);
        }
    }

    fn rule(mut self, rule: &Rule<'_>) -> String {
        if rule.action == Action::Exclude {
            self.text += "!";
        }
        match &rule.selector {
            Selector::Address { domain, bus, place } => {
                self.bus(*domain, *bus);
                self.place(*place);
            }
            Selector::Path { start, hops } => {
                self.bus(start.domain(), start.bus());
                self.place(Place { device: start.device(), function: Some(start.function()) });
                for hop in hops {
                    self.text += "/";
                    self.place(*hop);
                }
            }
            Selector::Ids(ids) => self.ids(ids),
            Selector::Class { prefix, digits } => {
                let digits = usize::from(*digits);
                let text = format!("{prefix:0digits$x}");
                self.text += "class:";
                self.either_case(&text);
            }
            Selector::BootVga => self.text += "boot_vga",
        }
        if let Some(guard) = rule.guard {
            self.text += "@";
            self.prefixed(guard.vendor.into(), 4);
            self.text += ":";
            self.prefixed(guard.device.into(), 4);
        }
        self.text += match rule.expansion {
            Some(Expansion::Slot) => "+slot",
            Some(Expansion::Group) => "+group",
            None => "",
        };
        match rule.action {
            Action::Exclude => {}
            Action::Take(Driver::DEFAULT) => {
                if self.choose() {
                    self.text += "=vfio-pci";
                }
            }
            Action::Take(Driver::Named(name)) => {
                write!(self.text, "={}", str::from_utf8(name).unwrap()).unwrap();
            }
            Action::Take(Driver::Nobody) => self.text += "=none",
            Action::Take(Driver::Auto) => self.text += "=auto",
        }
        self.text
    }
}

/// Bytes that come close to a rule far more often than any bytes do.
fn almost_a_rule() -> impl Strategy<Value = Vec<u8>> {
    let words = proptest::sample::select(vec![
        "!",
        "0000:",
        "03:",
        "00.0",
        "1f.*",
        "20.",
        "/",
        "0.8",
        "10de:",
        "2204",
        "*",
        "ffffffff",
        "fffffffff",
        "0x",
        "pci:",
        "0:0",
        "class:",
        "03",
        "boot_vga",
        "@",
        "+",
        "slot",
        "group",
        "=",
        "none",
        "auto",
        "off",
        "debug",
        " ",
        "\0",
        "\u{7f}",
        ".",
        ":",
    ]);
    let almost = proptest::collection::vec(words, 0..12);
    let mixed = (almost, proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())));
    let mixed = mixed.prop_map(|(words, change)| {
        let mut text = words.concat().into_bytes();
        if let Some((index, byte)) = change.filter(|_| !text.is_empty()) {
            let index = index.index(text.len());
            text[index] = byte;
        }
        text
    });
    prop_oneof![4 => mixed, 1 => proptest::collection::vec(any::<u8>(), 0..100)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_rule_is_read_back_from_its_text(parts in rules()) {
        let rule = parts.rule();
        let text = rule.to_string();
        prop_assert_eq!(grammar::parse(text.as_bytes()), Ok(Statement::Rule(rule)), "{}", text);
    }

    #[test]
    fn every_spelling_of_a_rule_means_the_same(
        parts in rules(),
        choices in proptest::collection::vec(any::<bool>(), 1..40),
    ) {
        let rule = parts.rule();
        let text = Spelling::new(&choices).rule(&rule);
        prop_assert_eq!(grammar::parse(text.as_bytes()), Ok(Statement::Rule(rule)), "{}", text);
    }

    #[test]
    fn an_error_points_into_the_text_or_just_behind_it(text in almost_a_rule()) {
        if let Err(error) = grammar::parse(&text) {
            let column = usize::try_from(error.column).unwrap();
            prop_assert!((1..=text.len() + 1).contains(&column), "column {} of {:?}", column, text);
        }
    }

    #[test]
    fn what_is_understood_has_a_text_that_means_the_same(text in almost_a_rule()) {
        if let Ok(statement) = grammar::parse(&text) {
            let canonical = statement.to_string();
            prop_assert_eq!(grammar::parse(canonical.as_bytes()), Ok(statement), "{}", canonical);
        }
    }
}

#[test]
fn settings_are_two_words() {
    assert_eq!(grammar::parse(b"off"), Ok(Statement::Off));
    assert_eq!(grammar::parse(b"debug"), Ok(Statement::Debug));
}

#[test]
fn each_number_may_be_as_long_and_as_large_as_documented() {
    let longest_path = format!("ffffffff:ff:1f.7{}", "/1f.7".repeat(MAX_HOPS));
    let longest_driver = format!("00:00.0={}", "d".repeat(MAX_DRIVER));
    for text in [
        "0:0:0.0",
        "ffffffff:ff:1f.7",
        "ff:1f.*",
        "ffff:ffff:ffff:ffff:ffffff:ffffff",
        "0x0:0X0:0x0:0x0:0x0:0x0",
        "pci:ffff:ffff:ffff:ffff",
        "class:ff",
        "class:ffff",
        "class:ffffff",
        "00:00.0@ffff:0xffff",
        &longest_path,
        &longest_driver,
    ] {
        assert!(grammar::parse(text.as_bytes()).is_ok(), "{text}");
    }
}

/// Texts that are no rules, each wrong in one way. Those at the end of a range are one more than the
/// last of `each_number_may_be_as_long_and_as_large_as_documented`.
const INVALID: &[&str] = &[
    // No selector.
    "",
    "!",
    "!!03:00.0",
    "Off",
    "OFF",
    "!off",
    "!debug",
    "boot",
    "BOOT_VGA",
    "boot_vga0",
    "Class:03",
    "gpu",
    "=vfio-pci",
    "+slot",
    "@10de:2204",
    " 03:00.0",
    "+1f:00.0",
    "-1:00.0",
    ":2204",
    ".0",
    "/00.0",
    // Addresses.
    "100000000:00:00.0",
    "123456789:00:00.0",
    "*:00:00.0",
    "0x0:00:00.0",
    "0000::00.0",
    "0000:100:00.0",
    "100:00.0",
    "0x3:00.0",
    "03.0",
    "*:00.0",
    "00:00:00:00.0",
    "03:.0",
    "03:20.0",
    "03:100.0",
    "03:*.0",
    "03:0x1.0",
    "03:1:.0",
    "03:00.",
    "03:00.8",
    "03:00.a",
    "03:00.00",
    "03:00.0.0",
    "03:00.0 ",
    "03:00.0-",
    "03:00.**",
    "03:00. 0",
    // Paths.
    "00:01.0/",
    "00:01.0/00",
    "00:01.0/20.0",
    "00:01.0/00.8",
    "00:01.0/01:00.0",
    "00:01.*/00.0",
    "00:01.0//00.0",
    "00:01.0/00.*/",
    "00:01.0/1.0/1.0/1.0/1.0/1.0/1.0/1.0/1.0/1.0/1.0/1.0/1.0/1.0/1.0/1.0/1.0/1.0",
    // IDs.
    "10de",
    "10de:",
    "10de:2204:",
    "10de:2204:1:",
    "10de:2204:1:2:",
    "10de:2204:1:2:3:",
    "10de:2204:1:2:3:4:",
    "10de:2204:1:2:3:4:5",
    "10000:2204",
    "10de:10000",
    "10de:2204:10000",
    "10de:2204:1:10000",
    "10de:2204:1:2:1000000",
    "10de:2204:1:2:3:1000000",
    "10de:2204:1:2:3:*",
    "10de:22g4",
    "10de:0x",
    "10de:0x0x1",
    "10de:+1f",
    "10de:-1",
    "10de:fffffffff",
    "10de:fffffff",
    "10de;2204",
    "**:2204",
    "10de:2204 ",
    "pci:",
    "pci:10de",
    "pci:10de:2204:1",
    "pci:10de:2204:1:",
    "pci:10de:2204:1:2:3",
    "PCI:10de:2204",
    // Classes.
    "class:",
    "class:0",
    "class:030",
    "class:03000",
    "class:0300000",
    "class:0x03",
    "class:03*",
    "class:03:00.0",
    // Guards.
    "03:00.0@",
    "03:00.0@10de",
    "03:00.0@:2204",
    "03:00.0@10de:",
    "03:00.0@10000:2204",
    "03:00.0@10de:10000",
    "03:00.0@10de:*",
    "03:00.0@*:2204",
    "03:00.0@10de:2204:1",
    "03:00.0@10de:2204@10de:2204",
    "10de:2204@10de:2204",
    "class:03@10de:2204",
    "boot_vga@10de:2204",
    "!03:00.0@10de:2204",
    "!10de:2204@10de:2204",
    // Expansions.
    "03:00.0+",
    "03:00.0+Slot",
    "03:00.0+bus",
    "03:00.0+slots",
    "03:00.0+slot+group",
    "03:00.0+group@10de:2204",
    "03:00.0+slot ",
    // Drivers.
    "03:00.0=",
    "03:00.0=vfio pci",
    "03:00.0=vfio/pci",
    "03:00.0=vfio-pci!",
    "03:00.0=\u{e9}",
    "03:00.0==a",
    "03:00.0=dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddde",
    "!03:00.0=vfio-pci",
    "!03:00.0+slot=none",
];

/// The text, a caret under the column, and what was expected there.
fn point(text: &str, error: SyntaxError) -> String {
    let indent = usize::try_from(error.column).unwrap();
    format!("|{text}|\n{:>width$} {}\n", "^", error.expected, width = indent + 1)
}

#[test]
fn every_invalid_form_is_pointed_at() {
    let pointed: String = INVALID
        .iter()
        .map(|text| match grammar::parse(text.as_bytes()) {
            Ok(statement) => panic!("{text:?} is understood as {statement}"),
            Err(error) => point(text, error),
        })
        .collect();
    insta::assert_snapshot!(pointed);
}

#[test]
fn a_lone_address_is_pointed_at_as_in_a_rule() {
    let invalid = ["", "03:00", "03:00.", "03:00.*", "03:00.8", "03:00.0/00.0", "03:00.0+slot"];
    let pointed: String = invalid
        .iter()
        .map(|text| match grammar::parse_address(text.as_bytes()) {
            Ok(address) => panic!("{text:?} is understood as {address}"),
            Err(error) => point(text, error),
        })
        .collect();
    insta::assert_snapshot!(pointed);
    assert_eq!(
        grammar::parse_address(b"10000:3:1F.7"),
        Ok(Address::new(0x10000, 3, 0x1f, 7).unwrap())
    );
}

/// Lists the variants, and does not compile where one is left out.
macro_rules! variants {
    ($($variant:ident)*) => {{
        const fn is_listed(expected: Expected) -> bool {
            match expected {
                $(Expected::$variant => true,)*
            }
        }
        [$(Expected::$variant,)*].into_iter().filter(|expected| is_listed(*expected))
    }};
}

#[test]
fn every_expectation_is_met_with() {
    let rules = INVALID.iter().map(|text| grammar::parse(text.as_bytes()).err());
    let addresses = ["03:00.0/00.0", "03:00.*"].map(|text| grammar::parse_address(text.as_bytes()));
    let met: Vec<Expected> =
        rules.chain(addresses.map(Result::err)).flatten().map(|error| error.expected).collect();
    let unmet: Vec<Expected> = variants! {
        Selector Domain Bus Device Function FunctionOrAny OneFunction Colon Dot VendorOrAny
        DeviceIdOrAny SubvendorOrAny SubdeviceOrAny SubdeviceOfPair ClassOrAny Mask ClassDigits
        GuardVendor GuardDevice GuardOnAddress Expansion Driver ShorterDriver ShorterPath
        BareExclusion AfterSelector AfterGuard AfterExpansion End
    }
    .filter(|expected| !met.contains(expected))
    .collect();
    assert_eq!(unmet, []);
}

#[test]
fn empty_rules_are_not_numbered_and_blanks_around_rules_do_not_count() {
    let mut rules = RuleSet::new();
    rules.add_line(
        b"vfio.override=,03:00.0,,off x vfio.override=\" 04:00.0\t, ,05:00.0 \" vfio.override=,",
    );
    let numbered: Vec<String> = rules
        .entries()
        .map(|(number, entry)| format!("{number} {}", entry.text.escape_ascii()))
        .collect();
    assert_eq!(numbered, ["1 03:00.0", "2 off", "3 04:00.0", "4 05:00.0"]);
    assert!(rules.entries().all(|(_, entry)| entry.parsed.is_ok()));
}
