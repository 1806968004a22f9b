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

/// The eight digits of `value`, in lower case. All at once, since a run writes little else than
/// addresses: they are spread over the bytes of a word first, then each becomes a letter.
pub(crate) fn digits(value: u32) -> [u8; 8] {
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
pub(crate) fn write(f: &mut fmt::Formatter<'_>, value: u32, min_digits: u32) -> fmt::Result {
    let zeros = (value.leading_zeros() / 4).min(8_u32.saturating_sub(min_digits));
    let mut digits = digits(value).into_iter().skip(zeros as usize);
    digits.try_for_each(|digit| fmt::Write::write_char(f, char::from(digit)))
}
