//! Texts that are not ours: what an operator, the kernel or a device wrote.

use core::fmt::{self, Write};

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

impl From<usize> for Decimal {
    fn from(number: usize) -> Self {
        Self(u32::try_from(number).unwrap_or(u32::MAX))
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut power = 1;
        while self.0 / 10 >= power {
            power *= 10;
        }
        while power > 0 {
            let digit = self.0 / power % 10;
            f.write_char(char::from_digit(digit, 10).unwrap_or('0'))?;
            power /= 10;
        }
        Ok(())
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
