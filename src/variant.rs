//! VFIO variant drivers, as the `vfio_pci:` aliases of kernel modules name them.

use crate::modalias::Identity;
use crate::pci::Function;
use crate::rule::{MAX_DRIVER, VFIO_PCI};

/// The name of a variant driver.
pub type Name = heapless::Vec<u8, MAX_DRIVER>;

/// One line of `modules.alias` that belongs to a VFIO driver:
/// `alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci`
/// (`do_pci_entry` in `scripts/mod/file2alias.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias<'a> {
    pattern: &'a [u8],
    module: &'a [u8],
}

impl<'a> Alias<'a> {
    /// Reads one line; `None` for any other line of the file.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
        if words.next()? != b"alias" {
            return None;
        }
        let pattern = words.next()?.strip_prefix(b"vfio_pci:")?;
        let module = words.next()?;
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
        (words.next().is_none() && module.len() <= MAX_DRIVER && module.iter().all(is_name))
            .then_some(Self { pattern, module })
    }

    /// The name of the driver in this module, as far as it is known before the module is loaded: nearly all
    /// variant drivers are called as their module is (`KBUILD_MODNAME`).
    #[must_use]
    pub fn driver(&self) -> &'a [u8] {
        match self.module {
            b"vfio_pci" => VFIO_PCI,
            // `drivers/vfio/pci/xe/main.c`
            b"xe_vfio_pci" => b"xe-vfio-pci",
            module => module,
        }
    }

    /// How many fields may be anything: the alias with the fewest is the most specific.
    #[must_use]
    pub fn wildcards(&self) -> usize {
        self.pattern.iter().filter(|&&byte| byte == b'*').count()
    }

    /// Whether the alias is meant for the function.
    #[must_use]
    pub fn match_function(&self, function: &Function) -> bool {
        let Function { id, subsystem, class, .. } = *function;
        Identity { id, subsystem, class }.matches(self.pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::{Address, Class, Id};

    fn function() -> Function {
        Function {
            address: Address::new(0, 1, 0, 0).unwrap(),
            id: Id { vendor: 0x15b3, device: 0x101e },
            subsystem: Id { vendor: 0x15b3, device: 0x0020 },
            class: Class::new(0x02_00_00).unwrap(),
            group: None,
            boot_vga: false,
        }
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
            ("alias vfio_pci:v000015B3d0000101E a", "a", 0, false),
            ("alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i*x a", "a", 5, false),
        ] {
            let alias = Alias::parse(line.as_bytes()).unwrap();
            assert_eq!(alias.driver(), driver.as_bytes(), "{line}");
            assert_eq!(alias.wildcards(), wildcards, "{line}");
            assert_eq!(alias.match_function(&function()), matches, "{line}");
        }
    }

    #[test]
    fn other_lines_are_no_aliases() {
        for line in [
            "# Aliases extracted from modules themselves.",
            "alias pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_core",
            "alias vfio_pci:v*d*sv*sd*bc*sc*i*",
            "alias vfio_pci:v*d*sv*sd*bc*sc*i* ../evil",
            "alias vfio_pci:v*d*sv*sd*bc*sc*i* a b",
            "",
        ] {
            assert_eq!(Alias::parse(line.as_bytes()), None, "{line}");
        }
    }
}
