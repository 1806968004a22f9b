//! Texts that are not ours: what an operator, the kernel or a device wrote.

use core::fmt::{self, Write};
use core::ops::Deref;

use crate::hex;

/// Bytes as a log or a terminal may show them: printable ASCII as it is, the rest as `\x1b`.
pub(crate) struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&byte| {
            if matches!(byte, b' '..=b'~') {
                return f.write_char(char::from(byte));
            }
            f.write_str("\\x")?;
            hex::write(f, byte.into(), 2)
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
/// `core::fmt` could do it, with its padding, signs and three widths of integers: a fortieth of what
/// the early binary may weigh.
pub struct Decimal(
    /// The number.
    pub u32,
);

/// A number past [`u32::MAX`] is shown as that: nothing that is counted here comes near.
impl From<usize> for Decimal {
    fn from(number: usize) -> Self {
        Self(u32::try_from(number).unwrap_or(u32::MAX))
    }
}

impl Decimal {
    /// Its digits, no zero before them.
    #[must_use]
    pub fn digits(&self) -> Digits {
        let (mut rest, mut digits) = (self.0, Digits { bytes: [b'0'; 10], first: 0 });
        for (index, byte) in digits.bytes.iter_mut().enumerate().rev() {
            *byte += u8::try_from(rest % 10).unwrap_or(0);
            digits.first = index;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        digits
    }
}

/// The digits of a number in decimal.
pub struct Digits {
    bytes: [u8; 10],
    first: usize,
}

impl Deref for Digits {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.first..).unwrap_or_default()
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digits().iter().try_for_each(|&digit| f.write_char(char::from(digit)))
    }
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
