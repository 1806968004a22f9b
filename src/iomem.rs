//! `/proc/iomem`: the memory of a PCI function that a firmware framebuffer's driver holds.

use crate::pci::Address;

/// The names under which a firmware framebuffer's memory is claimed: by its drivers, and by the
/// kernel before they load (`drivers/video/fbdev/{efifb,vesafb,simplefb}.c`,
/// `drivers/gpu/drm/sysfb/{simpledrm,efidrm,vesadrm}.c`, `drivers/firmware/sysfb*.c`).
const FRAMEBUFFERS: [&[u8]; 9] = [
    b"efifb",
    b"vesafb",
    b"simplefb",
    b"simpledrm",
    b"efidrm",
    b"vesadrm",
    b"BOOTFB",
    b"simple-framebuffer",
    b"efi-framebuffer",
];

/// Follows the nesting of the file line by line.
#[derive(Default)]
pub(crate) struct Nesting {
    function: Option<(usize, Address)>,
}

impl Nesting {
    /// The function inside whose memory this line has a framebuffer.
    pub(crate) fn framebuffer(&mut self, line: &[u8]) -> Option<Address> {
        let depth = line.iter().take_while(|&&byte| byte == b' ').count();
        let name = line.splitn(2, |&byte| byte == b':').nth(1)?.trim_ascii();
        if self.function.is_some_and(|(outer, _)| depth <= outer) {
            self.function = None;
        }
        if let Some(address) = Address::from_sysfs(name) {
            self.function = Some((depth, address));
        }
        let base = name.split(|&byte| byte == b'.').next().unwrap_or_default();
        let (_, address) = self.function?;
        FRAMEBUFFERS.contains(&base).then_some(address)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::{String, ToString};
    use std::vec::Vec;

    use super::*;

    #[test]
    fn a_framebuffer_belongs_to_the_function_around_it() {
        let text = "\
00000000-00000fff : Reserved
  000a0000-000bffff : PCI Bus 0000:00
c0000000-febfffff : PCI Bus 0000:00
  fc000000-fcffffff : 0000:00:01.0
  fd000000-fdffffff : 0000:00:02.0
    fd000000-fd7fffff : vesafb
  fe000000-fe003fff : 0000:00:03.0
    fe000000-fe003fff : virtio-pci-modern
  fe100000-fe1fffff : PCI Bus 0000:01
    fe100000-fe10ffff : 0000:01:00.0
      fe100000-fe10ffff : simple-framebuffer.0
  fe200000-fe2fffff : efifb";
        let mut nesting = Nesting::default();
        let found: Vec<String> = text
            .lines()
            .filter_map(|line| nesting.framebuffer(line.as_bytes()))
            .map(|address| address.to_string())
            .collect();
        assert_eq!(found, ["0000:00:02.0", "0000:01:00.0"]);
    }
}
