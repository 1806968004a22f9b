// SPDX-License-Identifier: MIT OR Apache-2.0
//! The grammar of one rule: text to [`Statement`], or the column and what was expected there.
//!
//! ```text
//! RULE      = [ "?" ] PLACE [ "@" VENDOR ":" DEVICE ] [ EXPANSION ] [ "=" DRIVER ]
//!           | [ "?" ] KIND [ EXPANSION ] [ "=" DRIVER ]
//!           | "!" ( PLACE | KIND ) [ EXPANSION ]
//!           | "off" | "debug"
//! PLACE     = ADDRESS | PATH
//! KIND      = IDS | "class:" CLASS | "boot_vga"
//! ADDRESS   = [ DOMAIN ":" ] BUS ":" DEV "." FN
//! PATH      = [ DOMAIN ":" ] BUS ":" DEV "." F ( "/" DEV "." FN )+
//! IDS       = VENDOR ":" DEVICE [ ":" SUBVENDOR [ ":" SUBDEVICE [ ":" CLASS [ ":" MASK ] ] ] ]
//!           | "pci:" VENDOR ":" DEVICE [ ":" SUBVENDOR ":" SUBDEVICE ]
//! EXPANSION = "+slot" | "+group"
//! DRIVER    = "none" | "auto" | the name of a driver, of letters, digits, "_", "-", "." and "+", at most 64
//! ```
//!
//! A selector with a `.` is an address or a path, one without is a list of IDs. `BUS:DEV` and `DOMAIN:BUS:DEV`, with
//! as many digits as lspci prints, are errors: they name a slot, not a function.

use crate::pci::{Address, Class, Id, MAX_DEVICE};
use crate::rule::{
    Action, Driver, Expansion, Ids, MAX_DRIVER, MAX_HOPS, NOBODY, Place, Rule, Selector, Statement,
};
use crate::text::number;

/// Where a text stops being a rule, and what could have stood there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// The byte at which the rule goes wrong, counted from 1; one past the end where it is too short.
    pub column: u32,
    /// What was expected there.
    pub expected: &'static str,
}

const COLON: &str = "\":\"";
const DEVICE: &str = "a device from 00 to 1f";
const CLASS: &str = "a class of 2, 4 or 6 hexadecimal digits";
const DRIVER: &str = "a driver name of letters, digits and _ - . +, or none or auto";
const BARE_EXCLUSION: &str = "the end: an exclusion has a selector and an expansion, nothing else";
const NOTHING_MORE: &str = "nothing more";
const LONG_DRIVER: &str = "the end: a driver name has at most 64 characters";
const LONG_PATH: &str = "the end: a path has at most 16 hops";
const _: () = assert!(MAX_DRIVER == 64 && MAX_HOPS == 16, "the texts above say so");

/// Reads one rule, blanks around it already taken off.
pub fn parse(text: &[u8]) -> Result<Statement<'_>, SyntaxError> {
    match text {
        b"off" => Ok(Statement::Off),
        b"debug" => Ok(Statement::Debug),
        _ => Cursor::read(text, |cursor| cursor.rule().map(Statement::Rule)),
    }
}

/// Reads one address, `[DOMAIN:]BUS:DEV.F`, and nothing else.
pub fn parse_address(text: &[u8]) -> Result<Address, SyntaxError> {
    Cursor::read(text, |cursor| {
        let (domain, bus) = cursor.bus()?;
        let place = cursor.place(false)?;
        match place.addresses(domain, bus).next() {
            Some(address) if cursor.rest.is_empty() => Some(address),
            _ => cursor.fail(NOTHING_MORE),
        }
    })
}

/// The rest of a text that is being read. After an error, `rest` begins where the text is wrong, and `expected` is
/// what was expected there.
struct Cursor<'a> {
    rest: &'a [u8],
    expected: &'static str,
}

impl<'a> Cursor<'a> {
    fn read<T>(
        text: &'a [u8],
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Result<T, SyntaxError> {
        let mut cursor = Self { rest: text, expected: NOTHING_MORE };
        read(&mut cursor).ok_or_else(|| {
            let before = text.len() - cursor.rest.len();
            let column = u32::try_from(before + 1).unwrap_or(u32::MAX);
            SyntaxError { column, expected: cursor.expected }
        })
    }

    /// Skips this many bytes. There must be at least as many.
    #[inline(never)]
    fn skip(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
    }

    /// Skips `text` if it comes next. Returns whether it did.
    #[inline(never)]
    fn eat(&mut self, text: &[u8]) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// [`Cursor::eat`] for one byte.
    fn eat_byte(&mut self, byte: u8) -> bool {
        let is_next = self.rest.first() == Some(&byte);
        self.skip(is_next.into());
        is_next
    }

    /// Stores what was expected at the cursor. Returns `None`, so that the caller can return it.
    fn fail<T>(&mut self, expected: &'static str) -> Option<T> {
        self.expected = expected;
        None
    }

    fn expect(&mut self, byte: u8, expected: &'static str) -> Option<()> {
        if self.eat_byte(byte) { Some(()) } else { self.fail(expected) }
    }

    /// Reads all hexadecimal digits that come next. There must be 1 to `max` (at most 8).
    fn hex(&mut self, max: usize, expected: &'static str) -> Option<u32> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let value = self.rest.get(..digits).and_then(|text| number::<16>(text, max));
        self.skip(digits.min(max));
        if value.is_some() { value } else { self.fail(expected) }
    }

    fn rule(&mut self) -> Option<Rule<'a>> {
        let excludes = self.eat_byte(b'!');
        let may_be_absent = !excludes && self.eat_byte(b'?');
        let selector = self.selector()?;

        let mut after = "\"@\", \"+\", \"=\" or the end of the rule";
        let mut guard = None;
        if let [b'@', ..] = self.rest {
            if excludes {
                return self.fail(BARE_EXCLUSION);
            }
            if selector.needs_scan() {
                return self.fail("no guard: only an address or a path can have one");
            }
            self.skip(1);
            let vendor = self.id("a vendor ID of 1 to 4 hexadecimal digits")?;
            self.expect(b':', COLON)?;
            let device = self.id("a device ID of 1 to 4 hexadecimal digits")?;
            guard = Some(Id { vendor, device });
            after = "\"+\", \"=\" or the end of the rule";
        }

        let mut expansion = None;
        if self.eat_byte(b'+') {
            expansion = Some(if self.eat(b"slot") {
                Expansion::Slot
            } else if self.eat(b"group") {
                Expansion::Group
            } else {
                return self.fail("slot or group");
            });
            after = "\"=\" or the end of the rule";
        }

        let action = match self.rest {
            [] if excludes => Action::Exclude,
            [] => Action::Take(Driver::DEFAULT),
            [b'=', ..] if excludes => return self.fail(BARE_EXCLUSION),
            [b'=', ..] => {
                self.skip(1);
                Action::Take(self.driver()?)
            }
            _ => return self.fail(after),
        };
        Some(Rule { selector, guard, expansion, action, may_be_absent })
    }

    fn selector(&mut self) -> Option<Selector> {
        let selector =
            self.rest.split(|byte| matches!(byte, b'@' | b'+' | b'=')).next().unwrap_or_default();
        // Any other word is no selector, rather than a bad number, even where its first letter is a hexadecimal digit,
        // as in `boot`.
        let mut first_field = selector.iter().take_while(|byte| **byte != b':');
        let is_word = first_field.any(|byte| matches!(byte | 0x20, b'g'..=b'w' | b'y' | b'z'));
        if selector == b"boot_vga" {
            self.skip(selector.len());
            Some(Selector::BootVga)
        } else if self.eat(b"class:") {
            self.class()
        } else if self.eat(b"pci:") {
            self.ids(true)
        } else if selector.starts_with(b"pci_") {
            self.fail("0000:01:00.0 for libvirt's pci_0000_01_00_0, or .* for the whole slot")
        } else if is_word
            || !matches!(selector, [b'*' | b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F', ..])
        {
            self.fail("an address (03:00.0), a path, IDs (10de:2204), class:03 or boot_vga")
        } else if selector.contains(&b'.') {
            self.address_or_path()
        } else if is_slot(selector) {
            self.skip(selector.len());
            self.fail(".0, or .* for the whole slot (IDs like this take 4 digits)")
        } else {
            self.ids(false)
        }
    }

    fn address_or_path(&mut self) -> Option<Selector> {
        let (domain, bus) = self.bus()?;
        let before_place = self.rest;
        let place = self.place(true)?;
        if !self.rest.starts_with(b"/") {
            return Some(Selector::Address { domain, bus, place });
        }
        let Some(start) = place.function.and_then(|f| Address::new(domain, bus, place.device, f))
        else {
            // The error is at the `*`, which stands for any function.
            self.rest = before_place;
            self.skip(before_place.iter().take_while(|byte| **byte != b'*').count());
            return self
                .fail("one function: a path starts at a single bridge, * may only follow a /");
        };
        let mut hops = heapless::Vec::new();
        while let [b'/', ..] = self.rest {
            if hops.is_full() {
                return self.fail(LONG_PATH);
            }
            self.skip(1);
            let _ = hops.push(self.place(true)?);
        }
        Some(Selector::Path { start, hops })
    }

    /// `[DOMAIN:]BUS:`
    fn bus(&mut self) -> Option<(u32, u8)> {
        let address = self.rest.split(|&byte| byte == b'.').next().unwrap_or_default();
        let mut domain = 0;
        if address.iter().filter(|&&byte| byte == b':').count() > 1 {
            domain = self.hex(8, "a domain of 1 to 8 hexadecimal digits")?;
            self.expect(b':', COLON)?;
        }
        let bus = self.hex(2, "a bus of 1 or 2 hexadecimal digits")?;
        self.expect(b':', COLON)?;
        Some((domain, u8::try_from(bus).ok()?))
    }

    /// `DEV.FN`, where FN may be `*` if that `may_be_any`.
    fn place(&mut self, may_be_any: bool) -> Option<Place> {
        let before = self.rest;
        let device = u8::try_from(self.hex(2, DEVICE)?).ok()?;
        if device > MAX_DEVICE {
            self.rest = before;
            return self.fail(DEVICE);
        }
        self.expect(b'.', "\".\"")?;
        let function = match self.rest {
            [digit @ b'0'..=b'7', ..] => Some(digit - b'0'),
            [b'*', ..] if may_be_any => None,
            _ if may_be_any => return self.fail("a function from 0 to 7, or *"),
            _ => return self.fail("a function from 0 to 7"),
        };
        self.skip(1);
        Some(Place { device, function })
    }

    fn class(&mut self) -> Option<Selector> {
        let before = self.rest.len();
        let prefix = self.hex(6, CLASS)?;
        match u8::try_from(before - self.rest.len()) {
            Ok(digits @ (2 | 4 | 6)) => Some(Selector::Class { prefix, digits }),
            _ => self.fail(CLASS),
        }
    }

    /// The form of `vfio-pci.ids=` (`vfio_pci_fill_ids` in `drivers/vfio/pci/vfio_pci.c`), or behind
    /// `pci:` that of the kernel's `<pci_dev>` (`pci_dev_str_match` in `drivers/pci/pci.c`), in which 0
    /// means any.
    fn ids(&mut self, is_pci_dev: bool) -> Option<Selector> {
        const FIELDS: [&str; 4] = [
            "a vendor ID of 1 to 4 hexadecimal digits, or *",
            "a device ID of 1 to 4 hexadecimal digits, or *",
            "a subsystem vendor ID of 1 to 4 hexadecimal digits, or *",
            "a subsystem device ID of 1 to 4 hexadecimal digits, or *",
        ];
        const PAIR: &str =
            "\":\" and a subsystem device ID: in the pci: form the two come as a pair";
        let mut ids = [None; 4];
        for (at, (id, expected)) in ids.iter_mut().zip(FIELDS).enumerate() {
            match at {
                0 => {}
                1 => self.expect(b':', COLON)?,
                3 if is_pci_dev => self.expect(b':', PAIR)?,
                _ if self.eat_byte(b':') => {}
                _ => break,
            }
            *id = self.number_or_any(4, expected)?.filter(|&id| !is_pci_dev || id != 0);
        }
        let [vendor, device, subvendor, subdevice] = ids.map(|id| u16::try_from(id?).ok());
        let (mut class, mut mask) = (None, 0);
        if !is_pci_dev && self.eat_byte(b':') {
            class = self.number_or_any(6, "a class of 1 to 6 hexadecimal digits, or *")?;
            if self.eat_byte(b':') {
                // To the kernel, `ffffffff` is a mask like any other, and it compares only 24 bits.
                mask = if !self.rest.starts_with(b"*") && self.eat_any() {
                    0x00ff_ffff
                } else {
                    self.prefixed_number(6, "a class mask of 1 to 6 hexadecimal digits")?
                };
            }
            mask = class.map_or(0, |_| mask);
        }
        let class = class.and_then(Class::new);
        Some(Selector::Ids(Ids { vendor, device, subvendor, subdevice, class, mask }))
    }

    /// Skips `*`, or `ffffffff`, which is the kernel's `PCI_ANY_ID`. Returns whether it did.
    fn eat_any(&mut self) -> bool {
        if self.eat_byte(b'*') {
            return true;
        }
        let rest = self.rest;
        let digits = rest.strip_prefix(b"0x").or(rest.strip_prefix(b"0X")).unwrap_or(rest);
        let any = digits.get(..8).is_some_and(|text| text.eq_ignore_ascii_case(b"ffffffff"))
            && !digits.get(8).is_some_and(u8::is_ascii_hexdigit);
        if any {
            self.skip(rest.len() - digits.len() + 8);
        }
        any
    }

    fn prefixed_number(&mut self, max: usize, expected: &'static str) -> Option<u32> {
        let _ = self.eat(b"0x") || self.eat(b"0X");
        self.hex(max, expected)
    }

    /// Reads a number, or what means any number, which is `Some(None)`.
    #[expect(clippy::option_option, reason = "the outer one is the error")]
    fn number_or_any(&mut self, max: usize, expected: &'static str) -> Option<Option<u32>> {
        if self.eat_any() { Some(None) } else { self.prefixed_number(max, expected).map(Some) }
    }

    fn id(&mut self, expected: &'static str) -> Option<u16> {
        u16::try_from(self.prefixed_number(4, expected)?).ok()
    }

    fn driver(&mut self) -> Option<Driver<'a>> {
        let name = self.rest;
        let is_valid = |byte: &&u8| byte.is_ascii_alphanumeric() || b"_-.+".contains(byte);
        let valid = name.iter().take_while(is_valid).count();
        let (skipped, error) = match name {
            // A driver has a directory in sysfs, and none has one of these names.
            b"." | b".." | b"" => (0, Some(DRIVER)),
            _ if valid < name.len() => (valid, Some(DRIVER)),
            _ if valid > MAX_DRIVER => (MAX_DRIVER, Some(LONG_DRIVER)),
            _ => (valid, None),
        };
        self.skip(skipped);
        match (error, name) {
            (Some(error), _) => self.fail(error),
            (None, NOBODY) => Some(Driver::Nobody),
            (None, b"auto") => Some(Driver::Auto),
            (None, name) => Some(Driver::Named(name)),
        }
    }
}

/// Whether the text is `BUS:DEV` or `DOMAIN:BUS:DEV`, with as many digits as lspci prints. If it were read as IDs, an
/// exclusion like this would protect nothing.
fn is_slot(text: &[u8]) -> bool {
    let &[ref domain @ .., b1, b0, b':', d1, d0] = text else { return false };
    let has_domain = domain
        .strip_suffix(b":")
        .is_some_and(|digits| digits.len() == 4 && number::<16>(digits, 4).is_some());
    (domain.is_empty() || has_domain)
        && number::<16>(&[b1, b0, d1, d0], 4)
            .is_some_and(|numbers| numbers & 0xff <= MAX_DEVICE.into())
}
