// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who ever probed a device, from the kernel's driver core.
//!
//! The debug lines of drivers/base/dd.c changed their shape: 6.1 names the device at the end,
//! later kernels only in the prefix of the record.

/// The kernel parameters that turn the lines on and make room for them from the start.
pub const PARAMETERS: &str = r#"dyndbg="file drivers/base/dd.c +p" log_buf_len=4M"#;

/// One attempt of a driver to take a PCI function.
#[derive(Debug, PartialEq, Eq)]
pub struct Probe<'log> {
    pub address: &'log str,
    pub driver: &'log str,
}

/// Every attempt in a kernel log, in the order of the log.
pub fn probes(log: &str) -> impl Iterator<Item = Probe<'_>> {
    log.lines().filter_map(parse)
}

fn parse(line: &str) -> Option<Probe<'_>> {
    let (prefix, message) = line.split_once("bus: 'pci': really_probe: probing driver ")?;
    let (driver, device) = message.split_once(" with device")?;
    let at_the_end = device.trim();
    let address = if at_the_end.is_empty() { in_prefix(prefix)? } else { at_the_end };
    Some(Probe { address, driver })
}

/// `[    1.28] pci 0000:00:1c.0: ` or, while no driver is known, `[    1.28]  0000:00:1c.0: `.
fn in_prefix(prefix: &str) -> Option<&str> {
    prefix.trim_end().strip_suffix(':')?.split(' ').next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Option<(&str, &str)> {
        parse(line).map(|probe| (probe.address, probe.driver))
    }

    #[test]
    fn lines_of_6_1() {
        assert_eq!(
            one("[    1.673495] bus: 'pci': really_probe: probing driver bochs-drm with device \
                 0000:00:02.0"),
            Some(("0000:00:02.0", "bochs-drm"))
        );
        assert_eq!(
            one("[    2.466515] bus: 'pci': really_probe: probing driver nvme with device \
                 0000:00:05.0\r"),
            Some(("0000:00:05.0", "nvme"))
        );
    }

    #[test]
    fn lines_of_6_12() {
        assert_eq!(
            one("[    1.284406] pci 0000:00:1c.0: bus: 'pci': really_probe: probing driver \
                 pcieport with device"),
            Some(("0000:00:1c.0", "pcieport"))
        );
        assert_eq!(
            one("[    2.905345]  0000:00:05.0: bus: 'pci': really_probe: probing driver nvme \
                 with device"),
            Some(("0000:00:05.0", "nvme"))
        );
    }

    #[test]
    fn other_lines_of_dd_c_are_no_probes() {
        for line in [
            "[    1.153067] bus: 'pci_express': really_probe: probing driver aer with device \
             0000:00:1c.0:pcie002",
            "[    1.155309] bus: 'pci': really_probe: bound device 0000:00:1c.0 to driver pcieport",
            "[    1.909912] bus: 'pci': __driver_probe_device: matched device 0000:01:00.1 with \
             driver snd_hda_intel",
            "[    1.290975] pcieport 0000:00:1c.0: bus: 'pci': really_probe: bound device to \
             driver pcieport",
            "",
        ] {
            assert_eq!(one(line), None, "{line}");
        }
    }
}
