//! `modalias`, the one attribute that tells all IDs of a function and its class, and the patterns that
//! are made for it.

use crate::hex;
use crate::pci::{Class, Id};

/// The fields of a pattern, each with how many digits its number has (`do_pci_entry` in
/// `scripts/mod/file2alias.c`).
const FIELDS: [(&[u8], usize); 7] =
    [(b"v", 8), (b"d", 8), (b"sv", 8), (b"sd", 8), (b"bc", 2), (b"sc", 2), (b"i", 2)];

/// What a function says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub id: Id,
    pub subsystem: Id,
    pub class: Class,
}

impl Identity {
    /// Reads `pci:v000010DEd00002204sv00001043sd000087B8bc03sc00i00`; `None` for any other text. IDs
    /// have 16 bits, and are written as if they had 32 (`modalias_show` in `drivers/pci/pci-sysfs.c`).
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        #[rustfmt::skip]
        let &[
            b'p', b'c', b'i', b':',
            b'v', b'0', b'0', b'0', b'0', v3, v2, v1, v0,
            b'd', b'0', b'0', b'0', b'0', d3, d2, d1, d0,
            b's', b'v', b'0', b'0', b'0', b'0', sv3, sv2, sv1, sv0,
            b's', b'd', b'0', b'0', b'0', b'0', sd3, sd2, sd1, sd0,
            b'b', b'c', b1, b0, b's', b'c', s1, s0, b'i', i1, i0,
        ] = text else {
            return None;
        };
        let id = |vendor, device| {
            let half = |digits: [u8; 4]| u16::try_from(hex::number(&digits, 4)?).ok();
            Some(Id { vendor: half(vendor)?, device: half(device)? })
        };
        Some(Self {
            id: id([v3, v2, v1, v0], [d3, d2, d1, d0])?,
            subsystem: id([sv3, sv2, sv1, sv0], [sd3, sd2, sd1, sd0])?,
            class: Class::new(hex::number(&[b1, b0, s1, s0, i1, i0], 6)?)?,
        })
    }

    /// Whether a pattern without its `pci:` or `vfio_pci:` is meant for this, where `*` is any number.
    pub(crate) fn matches(self, pattern: &[u8]) -> bool {
        let class = self.class.code();
        let values = [
            self.id.vendor.into(),
            self.id.device.into(),
            self.subsystem.vendor.into(),
            self.subsystem.device.into(),
            class >> 16,
            class >> 8 & 0xff,
            class & 0xff,
        ];
        let mut rest = pattern;
        for ((name, digits), value) in FIELDS.into_iter().zip(values) {
            let Some(field) = rest.strip_prefix(name) else { return false };
            rest = match field {
                [b'*', after @ ..] => after,
                _ => match field.split_at_checked(digits) {
                    Some((number, after)) if hex::number(number, digits) == Some(value) => after,
                    _ => return false,
                },
            };
        }
        rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::format;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_the_kernel_writes_is_read_back(
            ids: [u16; 4], class in 0..=0x00ff_ffff_u32, position in 0..53_usize, byte: u8,
        ) {
            let [vendor, device, subvendor, subdevice] = ids;
            let (base, sub, interface) = (class >> 16, class >> 8 & 0xff, class & 0xff);
            // The kernel's own format string, in Rust's.
            let text = format!(
                "pci:v{vendor:08X}d{device:08X}sv{subvendor:08X}sd{subdevice:08X}\
                 bc{base:02X}sc{sub:02X}i{interface:02X}"
            );
            let identity = Identity {
                id: Id { vendor, device },
                subsystem: Id { vendor: subvendor, device: subdevice },
                class: Class::new(class).unwrap(),
            };
            prop_assert_eq!(Identity::parse(text.as_bytes()), Some(identity));
            prop_assert!(identity.matches(&text.as_bytes()[4..]));

            // One wrong byte is noticed: it is no identity, or another one. Numbers are in capitals.
            let right = text.as_bytes()[position];
            let is_same = byte == right
                || right.is_ascii_uppercase() && byte.eq_ignore_ascii_case(&right);
            let mut wrong = text.into_bytes();
            wrong[position] = byte;
            prop_assert_eq!(Identity::parse(&wrong) == Some(identity), is_same, "{:?}", wrong);
        }
    }

    #[test]
    fn what_is_cut_or_goes_on_is_no_identity() {
        let text = b"pci:v000010DEd00002204sv00001043sd000087B8bc03sc00i00";
        assert!(Identity::parse(text).is_some());
        for end in 0..text.len() {
            assert_eq!(Identity::parse(&text[..end]), None, "{end}");
        }
        assert_eq!(Identity::parse(&[&text[..], b"0"].concat()), None);
        // Sixteen bits are all that a vendor has.
        assert_eq!(Identity::parse(b"pci:v000110DEd00002204sv00001043sd000087B8bc03sc00i00"), None);
    }
}
