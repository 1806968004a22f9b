//! Hexadecimal digits, one by one: `from_str_radix` would accept `+1f`.

use core::fmt;

/// The value of one digit, either case.
pub(crate) fn digit(byte: u8) -> Option<u32> {
    char::from(byte).to_digit(16)
}

/// The value of `text`, when it is 1 to `max_digits` (at most 8) digits and nothing else.
pub(crate) fn number(text: &[u8], max_digits: usize) -> Option<u32> {
    if text.is_empty() || text.len() > max_digits {
        return None;
    }
    text.iter().try_fold(0, |value, &byte| Some(value << 4 | digit(byte)?))
}

/// Writes `value` in lower case with at least `min_digits` (at most 8) digits.
///
/// `core::fmt` could do it; its `{:04x}` costs ten times the instructions, and a boot formats little
/// else than addresses.
pub(crate) fn write(f: &mut fmt::Formatter<'_>, value: u32, min_digits: u32) -> fmt::Result {
    let significant = (u32::BITS - value.leading_zeros()).div_ceil(4);
    for position in (0..significant.max(min_digits)).rev() {
        let nibble = value >> (position * 4) & 0xf;
        fmt::Write::write_char(f, char::from_digit(nibble, 16).unwrap_or('0'))?;
    }
    Ok(())
}
