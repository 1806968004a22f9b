// SPDX-License-Identifier: MIT OR Apache-2.0
//! Digits, and texts that this program did not write: an operator, the kernel or a device did.

use core::fmt::{self, Write};

/// Bytes as a log or a terminal may show them: printable ASCII as it is, any other byte like `\x1b`.
pub(crate) struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&byte| {
            if matches!(byte, b' '..=b'~') {
                return f.write_char(char::from(byte));
            }
            f.write_str("\\x")?;
            write_hex(f, byte.into(), 2)
        })
    }
}

/// The same in quotes, and cut after 100 bytes.
pub struct Quoted<'a>(
    /// The text.
    pub &'a [u8],
);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 100;
        let (shown, end) = match self.0.split_at_checked(MOST) {
            Some((start, rest)) if !rest.is_empty() => (start, "...\""),
            _ => (self.0, "\""),
        };
        f.write_str("\"")?;
        Escaped(shown).fmt(f)?;
        f.write_str(end)
    }
}

/// A number in decimal.
///
/// `core::fmt` could do it, but its padding, its signs and its three widths of integers are a fortieth of the size
/// that the early binary may have.
pub struct Decimal(
    /// The number.
    pub u32,
);

/// A number above [`u32::MAX`] is shown as [`u32::MAX`]. No count here is that large.
impl From<usize> for Decimal {
    fn from(number: usize) -> Self {
        Self(u32::try_from(number).unwrap_or(u32::MAX))
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > 9 {
            Self(self.0 / 10).fmt(f)?;
        }
        f.write_char(char::from_digit(self.0 % 10, 10).unwrap_or_default())
    }
}

/// The value of `text`, if it is 1 to `max_digits` digits to this base, and nothing else: `from_str_radix` would accept
/// `+1f`. So many digits must fit: 8 hexadecimal ones do, and 9 decimal ones.
pub(crate) fn number<const BASE: u32>(text: &[u8], max_digits: usize) -> Option<u32> {
    if text.is_empty() || text.len() > max_digits {
        return None;
    }
    text.iter().try_fold(0, |value, &byte| Some(value * BASE + char::from(byte).to_digit(BASE)?))
}

/// The eight digits of `value`, in lower case. They are made all at once, since a run writes little else than
/// addresses: first they are spread over the bytes of a word, then each becomes a character.
pub(crate) fn hex_digits(value: u32) -> [u8; 8] {
    /// The byte eight times.
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let mut word = u64::from(value);
    word = (word << 16 | word) & 0x0000_ffff_0000_ffff;
    word = (word << 8 | word) & 0x00ff_00ff_00ff_00ff;
    word = (word << 4 | word) & 0x0f0f_0f0f_0f0f_0f0f;
    let is_letter = (word + each(6)) >> 4 & each(1);
    (word + each(b'0') + is_letter * u64::from(b'a' - b'0' - 10)).to_be_bytes()
}

/// Writes `value` in lower case with at least `min_digits` (at most 8) digits.
///
/// `core::fmt` could do it; its `{:04x}` costs ten times the instructions, and a boot formats little
/// else than addresses and IDs.
pub(crate) fn write_hex(f: &mut fmt::Formatter<'_>, value: u32, min_digits: u32) -> fmt::Result {
    let zeros = (value.leading_zeros() / 4).min(8_u32.saturating_sub(min_digits));
    let mut digits = hex_digits(value).into_iter().skip(zeros as usize);
    digits.try_for_each(|digit| f.write_char(char::from(digit)))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decimals_are_as_the_standard_library_writes_them(number: u32) {
            prop_assert_eq!(Decimal(number).to_string(), number.to_string());
        }
    }

    #[test]
    fn only_printable_ascii_is_shown_as_it_is() {
        assert_eq!(Escaped(b"a b~\x1b[31m\xff\n\\").to_string(), r"a b~\x1b[31m\xff\x0a\");
        assert_eq!(Decimal(0).to_string(), "0");
        assert_eq!(Decimal(u32::MAX).to_string(), u32::MAX.to_string());
    }

    #[test]
    fn long_texts_are_cut() {
        let text = [b'x'; 101];
        assert_eq!(Quoted(&text[..100]).to_string().len(), 102);
        assert!(Quoted(&text).to_string().ends_with("xxx...\""));
    }
}
