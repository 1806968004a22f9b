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
//! A selector with a `.` is an address or a path, one without is a list of IDs. `BUS:DEV` and `DOMAIN:BUS:DEV`, written
//! as lspci does, are neither: they are meant for a slot, and no function is named.

use core::fmt;

use crate::hex;
use crate::pci::{Address, Class, Id, MAX_DEVICE};
use crate::rule::{
    Action, Driver, Expansion, Ids, MAX_DRIVER, MAX_HOPS, NOBODY, Place, Rule, Selector, Statement,
};

/// Where a text stops being a rule, and what could have stood there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// The byte at which the rule goes wrong, counted from 1; one past the end where it is too short.
    pub column: u32,
    /// What was expected there.
    pub expected: Expected,
}

/// What the grammar expects at some point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "their texts say it")]
pub enum Expected {
    Selector,
    NameOfLspci,
    FunctionOfSlot,
    Domain,
    Bus,
    Device,
    Function,
    FunctionOrAny,
    OneFunction,
    Colon,
    Dot,
    VendorOrAny,
    DeviceIdOrAny,
    SubvendorOrAny,
    SubdeviceOrAny,
    SubdeviceOfPair,
    ClassOrAny,
    Mask,
    ClassDigits,
    GuardVendor,
    GuardDevice,
    GuardOnAddress,
    Expansion,
    Driver,
    ShorterDriver,
    ShorterPath,
    BareExclusion,
    AfterSelector,
    AfterGuard,
    AfterExpansion,
    End,
}

const _: () = assert!(MAX_DRIVER == 64 && MAX_HOPS == 16, "the texts below say so");

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Selector => "an address (03:00.0), a path, IDs (10de:2204), class:03 or boot_vga",
            Self::NameOfLspci => {
                "0000:01:00.0 for libvirt's pci_0000_01_00_0, or .* for the whole slot"
            }
            Self::FunctionOfSlot => ".0, or .* for the whole slot (IDs like this take 4 digits)",
            Self::Domain => "a domain of 1 to 8 hexadecimal digits",
            Self::Bus => "a bus of 1 or 2 hexadecimal digits",
            Self::Device => "a device from 00 to 1f",
            Self::Function => "a function from 0 to 7",
            Self::FunctionOrAny => "a function from 0 to 7, or *",
            Self::OneFunction => {
                "one function: a path starts at a single bridge, * may only follow a /"
            }
            Self::Colon => "\":\"",
            Self::Dot => "\".\"",
            Self::VendorOrAny => "a vendor ID of 1 to 4 hexadecimal digits, or *",
            Self::DeviceIdOrAny => "a device ID of 1 to 4 hexadecimal digits, or *",
            Self::SubvendorOrAny => "a subsystem vendor ID of 1 to 4 hexadecimal digits, or *",
            Self::SubdeviceOrAny => "a subsystem device ID of 1 to 4 hexadecimal digits, or *",
            Self::SubdeviceOfPair => {
                "\":\" and a subsystem device ID: in the pci: form the two come as a pair"
            }
            Self::ClassOrAny => "a class of 1 to 6 hexadecimal digits, or *",
            Self::Mask => "a class mask of 1 to 6 hexadecimal digits",
            Self::ClassDigits => "a class of 2, 4 or 6 hexadecimal digits",
            Self::GuardVendor => "a vendor ID of 1 to 4 hexadecimal digits",
            Self::GuardDevice => "a device ID of 1 to 4 hexadecimal digits",
            Self::GuardOnAddress => "no guard: only an address or a path can have one",
            Self::Expansion => "slot or group",
            Self::Driver => "a driver name of letters, digits and _ - . +, or none or auto",
            Self::ShorterDriver => "the end: a driver name has at most 64 characters",
            Self::ShorterPath => "the end: a path has at most 16 hops",
            Self::BareExclusion => {
                "the end: an exclusion has a selector and an expansion, nothing else"
            }
            Self::AfterSelector => "\"@\", \"+\", \"=\" or the end of the rule",
            Self::AfterGuard => "\"+\", \"=\" or the end of the rule",
            Self::AfterExpansion => "\"=\" or the end of the rule",
            Self::End => "nothing more",
        })
    }
}

/// Reads one rule, blanks around it already taken off.
pub fn parse(text: &[u8]) -> Result<Statement<'_>, SyntaxError> {
    match text {
        b"off" => Ok(Statement::Off),
        b"debug" => Ok(Statement::Debug),
        _ => Cursor { length: text.len(), rest: text }.rule().map(Statement::Rule),
    }
}

/// Reads one address, `[DOMAIN:]BUS:DEV.F`, and nothing else.
pub fn parse_address(text: &[u8]) -> Result<Address, SyntaxError> {
    let mut cursor = Cursor { length: text.len(), rest: text };
    let (domain, bus) = cursor.bus()?;
    let place = cursor.place(Expected::Function)?;
    match place.addresses(domain, bus).next() {
        Some(address) if cursor.rest.is_empty() => Ok(address),
        _ => cursor.fail(Expected::End),
    }
}

/// What is left of a text of this length.
struct Cursor<'a> {
    length: usize,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Goes on by this many bytes, of which there must be as many.
    #[inline(never)]
    fn skip(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
    }

    #[inline(never)]
    fn eat(&mut self, text: &[u8]) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    #[inline(never)]
    fn error(&self, expected: Expected) -> SyntaxError {
        let before = self.length - self.rest.len();
        SyntaxError { column: u32::try_from(before + 1).unwrap_or(u32::MAX), expected }
    }

    fn fail<T>(&self, expected: Expected) -> Result<T, SyntaxError> {
        Err(self.error(expected))
    }

    fn expect(&mut self, byte: u8, expected: Expected) -> Result<(), SyntaxError> {
        if self.eat(&[byte]) { Ok(()) } else { self.fail(expected) }
    }

    /// As many hexadecimal digits as there are, 1 to `max` (at most 8).
    fn number(&mut self, max: usize, expected: Expected) -> Result<u32, SyntaxError> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let value = self.rest.get(..digits).and_then(|text| hex::number(text, max));
        self.skip(digits.min(max));
        value.map_or_else(|| self.fail(expected), Ok)
    }

    fn rule(mut self) -> Result<Rule<'a>, SyntaxError> {
        let exclude = self.eat(b"!");
        let may_be_absent = !exclude && self.eat(b"?");
        let selector = self.selector()?;

        let mut after = Expected::AfterSelector;
        let mut guard = None;
        if self.peek() == Some(b'@') {
            if exclude {
                return self.fail(Expected::BareExclusion);
            }
            if selector.needs_scan() {
                return self.fail(Expected::GuardOnAddress);
            }
            self.skip(1);
            let vendor = self.id_of_guard(Expected::GuardVendor)?;
            self.expect(b':', Expected::Colon)?;
            guard = Some(Id { vendor, device: self.id_of_guard(Expected::GuardDevice)? });
            after = Expected::AfterGuard;
        }

        let mut expansion = None;
        if self.eat(b"+") {
            expansion = Some(if self.eat(b"slot") {
                Expansion::Slot
            } else if self.eat(b"group") {
                Expansion::Group
            } else {
                return self.fail(Expected::Expansion);
            });
            after = Expected::AfterExpansion;
        }

        let action = match self.peek() {
            Some(b'=') if !exclude => {
                self.skip(1);
                Action::Take(self.driver()?)
            }
            Some(b'=') => return self.fail(Expected::BareExclusion),
            Some(_) => return self.fail(after),
            None if exclude => Action::Exclude,
            None => Action::Take(Driver::DEFAULT),
        };
        Ok(Rule { selector, guard, expansion, action, may_be_absent })
    }

    fn selector(&mut self) -> Result<Selector, SyntaxError> {
        let selector =
            self.rest.split(|byte| matches!(byte, b'@' | b'+' | b'=')).next().unwrap_or_default();
        if selector == b"boot_vga" {
            self.skip(selector.len());
            return Ok(Selector::BootVga);
        }
        if self.eat(b"class:") {
            return self.class();
        }
        if self.eat(b"pci:") {
            return self.ids(true).map(Selector::Ids);
        }
        if selector.starts_with(b"pci_") {
            return self.fail(Expected::NameOfLspci);
        }
        // A word is not a number gone wrong, even one that begins with a digit, as `boot` does.
        let mut first_field = selector.iter().take_while(|byte| **byte != b':');
        let is_word = first_field.any(|byte| matches!(byte | 0x20, b'g'..=b'w' | b'y' | b'z'));
        if is_word || !matches!(selector, [b'*' | b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F', ..]) {
            return self.fail(Expected::Selector);
        }
        if selector.contains(&b'.') {
            self.address_or_path()
        } else if is_slot(selector) {
            self.skip(selector.len());
            self.fail(Expected::FunctionOfSlot)
        } else {
            self.ids(false).map(Selector::Ids)
        }
    }

    fn address_or_path(&mut self) -> Result<Selector, SyntaxError> {
        let (domain, bus) = self.bus()?;
        let place = self.place(Expected::FunctionOrAny)?;
        if self.peek() != Some(b'/') {
            return Ok(Selector::Address { domain, bus, place });
        }
        let start = place.function.and_then(|f| Address::new(domain, bus, place.device, f));
        let Some(start) = start else {
            let SyntaxError { column, expected } = self.error(Expected::OneFunction);
            return Err(SyntaxError { column: column - 1, expected });
        };
        let mut hops = heapless::Vec::new();
        while self.peek() == Some(b'/') {
            if hops.is_full() {
                return self.fail(Expected::ShorterPath);
            }
            self.skip(1);
            let place = self.place(Expected::FunctionOrAny)?;
            if hops.push(place).is_err() {
                return self.fail(Expected::ShorterPath);
            }
        }
        Ok(Selector::Path { start, hops })
    }

    /// `[DOMAIN:]BUS:`
    fn bus(&mut self) -> Result<(u32, u8), SyntaxError> {
        let address = self.rest.split(|&byte| byte == b'.').next().unwrap_or_default();
        let has_domain = address.iter().filter(|&&byte| byte == b':').count() > 1;
        let mut domain = 0;
        if has_domain {
            domain = self.number(8, Expected::Domain)?;
            self.expect(b':', Expected::Colon)?;
        }
        let bus = self.number(2, Expected::Bus)?;
        self.expect(b':', Expected::Colon)?;
        u8::try_from(bus).map_or_else(|_| self.fail(Expected::Bus), |bus| Ok((domain, bus)))
    }

    /// `DEV.FN`, where `function` says whether `*` is allowed.
    fn place(&mut self, function: Expected) -> Result<Place, SyntaxError> {
        let error = self.error(Expected::Device);
        let device = u8::try_from(self.number(2, Expected::Device)?).unwrap_or(u8::MAX);
        if device > MAX_DEVICE {
            return Err(error);
        }
        self.expect(b'.', Expected::Dot)?;
        let place = match self.peek() {
            Some(digit @ b'0'..=b'7') => Place { device, function: Some(digit - b'0') },
            Some(b'*') if function == Expected::FunctionOrAny => Place { device, function: None },
            _ => return self.fail(function),
        };
        self.skip(1);
        Ok(place)
    }

    fn class(&mut self) -> Result<Selector, SyntaxError> {
        let before = self.rest.len();
        let prefix = self.number(6, Expected::ClassDigits)?;
        match before - self.rest.len() {
            digits @ (2 | 4 | 6) => {
                Ok(Selector::Class { prefix, digits: u8::try_from(digits).unwrap_or(6) })
            }
            _ => self.fail(Expected::ClassDigits),
        }
    }

    /// The form of `vfio-pci.ids=` (`vfio_pci_fill_ids` in `drivers/vfio/pci/vfio_pci.c`), or behind
    /// `pci:` that of the kernel's `<pci_dev>` (`pci_dev_str_match` in `drivers/pci/pci.c`), in which 0
    /// means any.
    fn ids(&mut self, is_pci_dev: bool) -> Result<Ids, SyntaxError> {
        let mut ids = Ids { vendor: self.id_or_any(Expected::VendorOrAny)?, ..Ids::default() };
        self.expect(b':', Expected::Colon)?;
        ids.device = self.id_or_any(Expected::DeviceIdOrAny)?;
        if self.eat(b":") {
            ids.subvendor = self.id_or_any(Expected::SubvendorOrAny)?;
            if self.eat(b":") {
                ids.subdevice = self.id_or_any(Expected::SubdeviceOrAny)?;
                if !is_pci_dev && self.eat(b":") {
                    (ids.class, ids.mask) = self.class_and_mask()?;
                }
            } else if is_pci_dev {
                return self.fail(Expected::SubdeviceOfPair);
            }
        }
        if is_pci_dev {
            for id in [&mut ids.vendor, &mut ids.device, &mut ids.subvendor, &mut ids.subdevice] {
                *id = id.filter(|&id| id != 0);
            }
        }
        Ok(ids)
    }

    fn class_and_mask(&mut self) -> Result<(Option<Class>, u32), SyntaxError> {
        let class = self.class_or_any()?;
        let mask = if self.eat(b":") { self.mask()? } else { 0 };
        Ok((class, if class.is_some() { mask } else { 0 }))
    }

    /// `*`, and `ffffffff` as the kernel's `PCI_ANY_ID` is written.
    fn eat_any(&mut self) -> bool {
        if self.eat(b"*") {
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

    fn prefixed_number(&mut self, max: usize, expected: Expected) -> Result<u32, SyntaxError> {
        let _ = self.eat(b"0x") || self.eat(b"0X");
        self.number(max, expected)
    }

    fn id_or_any(&mut self, expected: Expected) -> Result<Option<u16>, SyntaxError> {
        if self.eat_any() {
            return Ok(None);
        }
        let id = self.prefixed_number(4, expected)?;
        Ok(u16::try_from(id).ok())
    }

    fn id_of_guard(&mut self, expected: Expected) -> Result<u16, SyntaxError> {
        let id = self.prefixed_number(4, expected)?;
        u16::try_from(id).or_else(|_| self.fail(expected))
    }

    fn class_or_any(&mut self) -> Result<Option<Class>, SyntaxError> {
        if self.eat_any() {
            return Ok(None);
        }
        Ok(Class::new(self.prefixed_number(6, Expected::ClassOrAny)?))
    }

    /// `ffffffff` is a mask like any other to the kernel, which compares 24 bits all the same.
    fn mask(&mut self) -> Result<u32, SyntaxError> {
        if self.peek() != Some(b'*') && self.eat_any() {
            return Ok(0x00ff_ffff);
        }
        self.prefixed_number(6, Expected::Mask)
    }

    fn driver(&mut self) -> Result<Driver<'a>, SyntaxError> {
        let name = self.rest;
        // A driver has a directory in sysfs, and these name none of its own.
        if matches!(name, b"." | b"..") {
            return self.fail(Expected::Driver);
        }
        let valid =
            name.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"_-.+".contains(byte));
        let valid = valid.count();
        if valid < name.len() || name.is_empty() {
            self.skip(valid);
            return self.fail(Expected::Driver);
        }
        if name.len() > MAX_DRIVER {
            self.skip(MAX_DRIVER);
            return self.fail(Expected::ShorterDriver);
        }
        self.skip(name.len());
        Ok(match name {
            NOBODY => Driver::Nobody,
            b"auto" => Driver::Auto,
            name => Driver::Named(name),
        })
    }
}

/// Whether this is a bus and a device, after a domain or not, each with as many digits as lspci gives it. Taken for IDs,
/// such an exclusion would protect nothing.
fn is_slot(text: &[u8]) -> bool {
    let &[ref domain @ .., b1, b0, b':', d1, d0] = text else { return false };
    let has_domain = domain
        .strip_suffix(b":")
        .is_some_and(|digits| digits.len() == 4 && hex::number(digits, 4).is_some());
    (domain.is_empty() || has_domain)
        && hex::number(&[b1, b0, d1, d0], 4)
            .is_some_and(|numbers| numbers & 0xff <= MAX_DEVICE.into())
}
