// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads `modalias`, the one attribute that holds all IDs of a function and its class, and the aliases by which VFIO
//! variant drivers match it.

use crate::pci::{Address, Class, Function, Id};
use crate::rule::{Ids, MAX_DRIVER, VFIO_PCI};
use crate::text::number;

/// The fields of a `modalias` and of an alias, each with the number of its digits (`do_pci_entry` in
/// `scripts/mod/file2alias.c`). An ID has 16 bits, and is written as if it had 32.
const FIELDS: [(&[u8], usize); 7] =
    [(b"v", 8), (b"d", 8), (b"sv", 8), (b"sd", 8), (b"bc", 2), (b"sc", 2), (b"i", 2)];

/// The IDs and the class in these fields, and how many fields are `*`, which means any; `None` if the text does not
/// have these fields.
fn fields(mut text: &[u8]) -> Option<(Ids, usize)> {
    let mut numbers = [None; 7];
    for (slot, (name, digits)) in numbers.iter_mut().zip(FIELDS) {
        for letter in name {
            text = text.split_first().filter(|(first, _)| *first == letter)?.1;
        }
        text = if let [b'*', after @ ..] = text {
            after
        } else {
            let (field, after) = text.split_at_checked(digits)?;
            let field = field.strip_prefix(b"0000").unwrap_or(field);
            *slot = Some(u16::try_from(number::<16>(field, digits)?).ok()?);
            after
        };
    }
    let [vendor, device, subvendor, subdevice, class @ ..] = numbers;
    let (mut code, mut mask) = (0, 0);
    for part in class {
        code = code << 8 | u32::from(part.unwrap_or(0));
        mask = mask << 8 | if part.is_some() { 0xff } else { 0 };
    }
    let ids = Ids { vendor, device, subvendor, subdevice, class: Class::new(code), mask };
    let wildcards = numbers.iter().filter(|number| number.is_none()).count();
    matches!(text, [] | [b'\n', ..]).then_some((ids, wildcards))
}

/// Reads the function at this address from its `modalias`, such as
/// `pci:v000010DEd00002204sv00001043sd000087B8bc03sc00i00`; `None` for any other text (`modalias_show` in
/// `drivers/pci/pci-sysfs.c`).
pub(crate) fn function(address: Address, text: &[u8]) -> Option<Function> {
    let (ids, 0) = fields(text.strip_prefix(b"pci:")?)? else { return None };
    Some(Function {
        address,
        id: Id { vendor: ids.vendor?, device: ids.device? },
        subsystem: Id { vendor: ids.subvendor?, device: ids.subdevice? },
        class: ids.class?,
        ..Function::default()
    })
}

/// One line of `modules.alias` that belongs to a VFIO driver:
/// `alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci`
/// (`do_pci_entry` in `scripts/mod/file2alias.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias<'a> {
    /// The functions that it matches.
    pub ids: Ids,
    /// How many fields match anything: the alias with the fewest is the most specific.
    pub wildcards: usize,
    module: &'a [u8],
}

impl<'a> Alias<'a> {
    /// Reads one line as depmod writes it (`output_aliases` in kmod's `tools/depmod.c`); `None`
    /// for any other line of the file.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_prefix(b"alias vfio_pci:")?;
        let (pattern, after) = line.split_at(line.iter().position(|&byte| byte == b' ')?);
        let module = after.get(1..)?;
        let (ids, wildcards) = fields(pattern)?;
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
        (matches!(module.len(), 1..=MAX_DRIVER) && module.iter().all(is_name)).then_some(Self {
            ids,
            wildcards,
            module,
        })
    }

    /// The name of the driver in this module, as far as it is known before the module is loaded: nearly all variant
    /// drivers have the name of their module (`KBUILD_MODNAME`).
    pub fn driver(&self) -> &'a [u8] {
        match self.module {
            b"vfio_pci" => VFIO_PCI,
            // `drivers/vfio/pci/xe/main.c`
            b"xe_vfio_pci" => b"xe-vfio-pci",
            module => module,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::format;

    use proptest::prelude::*;

    use super::*;

    const FUNCTION: Function = Function {
        address: Address::new(0, 1, 0, 0).unwrap(),
        id: Id { vendor: 0x15b3, device: 0x101e },
        subsystem: Id { vendor: 0x15b3, device: 0x0020 },
        class: Class::new(0x02_00_00).unwrap(),
        group: None,
        boot_vga: false,
    };

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
            let told = Function {
                id: Id { vendor, device },
                subsystem: Id { vendor: subvendor, device: subdevice },
                class: Class::new(class).unwrap(),
                ..FUNCTION
            };
            prop_assert_eq!(function(FUNCTION.address, text.as_bytes()), Some(told));
            let (ids, wildcards) = fields(&text.as_bytes()[4..]).unwrap();
            prop_assert!(ids.match_function(&told));
            prop_assert_eq!(wildcards, 0);

            // One wrong byte is noticed: it is no function's, or another one's. Numbers are in capitals.
            let right = text.as_bytes()[position];
            let is_same = byte == right
                || right.is_ascii_uppercase() && byte.eq_ignore_ascii_case(&right);
            let mut wrong = text.into_bytes();
            wrong[position] = byte;
            prop_assert_eq!(function(FUNCTION.address, &wrong) == Some(told), is_same, "{:?}", wrong);
        }
    }

    #[test]
    fn what_is_cut_or_goes_on_is_no_functions() {
        let text = b"pci:v000010DEd00002204sv00001043sd000087B8bc03sc00i00";
        assert!(function(FUNCTION.address, text).is_some());
        for end in 0..text.len() {
            assert_eq!(function(FUNCTION.address, &text[..end]), None, "{end}");
        }
        assert_eq!(function(FUNCTION.address, &[&text[..], b"0"].concat()), None);
        // Sixteen bits are all that a vendor has.
        assert_eq!(
            function(FUNCTION.address, b"pci:v000110DEd00002204sv00001043sd000087B8bc03sc00i00"),
            None
        );
    }

    #[test]
    fn aliases_match_field_by_field() {
        for (line, driver, wildcards, matches) in [
            (
                "alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci",
                "mlx5_vfio_pci",
                5,
                true,
            ),
            ("alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci", "vfio-pci", 7, true),
            ("alias vfio_pci:v*d*sv*sd*bc02sc*i* xe_vfio_pci", "xe-vfio-pci", 6, true),
            ("alias vfio_pci:v*d*sv*sd*bc02sc00i00 a", "a", 4, true),
            ("alias vfio_pci:v*d*sv*sd*bc03sc*i* a", "a", 6, false),
            ("alias vfio_pci:v000015B3d0000101Fsv*sd*bc*sc*i* a", "a", 5, false),
        ] {
            let alias = Alias::parse(line.as_bytes()).unwrap();
            assert_eq!(alias.driver(), driver.as_bytes(), "{line}");
            assert_eq!(alias.wildcards, wildcards, "{line}");
            assert_eq!(alias.ids.match_function(&FUNCTION), matches, "{line}");
        }
    }

    #[test]
    fn other_lines_are_no_aliases() {
        for line in [
            "# Aliases extracted from modules themselves.",
            "alias pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_core",
            "alias vfio_pci:v*d*sv*sd*bc*sc*i*",
            "alias vfio_pci:v*d*sv*sd*bc*sc*i* ",
            "alias vfio_pci:v*d*sv*sd*bc*sc*i* ../evil",
            "alias vfio_pci:v*d*sv*sd*bc*sc*i* a b",
            "alias vfio_pci:v000015B3d0000101E a",
            "alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i*x a",
            "",
        ] {
            assert_eq!(Alias::parse(line.as_bytes()), None, "{line}");
        }
    }
}
