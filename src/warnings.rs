// SPDX-License-Identifier: MIT OR Apache-2.0
//! What only warnings need: nothing here decides anything.

use core::mem;

use nix::errno::Errno;

use crate::apply::is_name;
use crate::message::Message;
use crate::path::{Attribute, Path};
use crate::pci::{Address, Function};
use crate::plan::{Plan, Step};
use crate::ruleset::RuleSet;
use crate::survey::{self, Groups, Scope, boot_vga, list_group};
use crate::system::{System, Text, View};

/// Looks at what an operator should know of the functions that are taken. If that fails, a warning is lost and
/// nothing else.
pub(crate) fn gather(view: &mut View<'_, impl System>, rules: &RuleSet<'_>, plan: &mut Plan) {
    surroundings(view, plan, Step::is_taken);
    if rules.ids.is_some() && rules.off.is_none() {
        find_strays(view, rules, plan, Path::Devices);
    }
}

/// Looks for what no rule takes and vfio-pci does: in the directory of all functions what `vfio-pci.ids=` on the command line
/// names, in that of vfio-pci what it has without an override, because modprobe.d has `ids=`.
pub(crate) fn find_strays(
    view: &mut View<'_, impl System>,
    rules: &RuleSet<'_>,
    plan: &mut Plan,
    directory: Path,
) {
    let _ = view.list(directory, |view, address| {
        let path = Path::Attribute(address, Attribute::DriverOverride);
        if plan.is_for(address)
            && plan.get_mut(address).is_none_or(|step| !step.is_taken())
            && match directory {
                Path::VfioPci => {
                    view.read(path, &mut [0; 1]).is_ok_and(|held| !is_name(held))
                }
                _ => matches!(survey::read_function(view, address), Ok(Some(function)) if rules.ids_take(&function)),
            }
        {
            let _ = plan.strays.push(address);
        }
    });
}

/// Looks at the IOMMU groups of these functions, the boot display, and the firmware's framebuffer.
pub fn surroundings(
    view: &mut View<'_, impl System>,
    plan: &mut Plan,
    is_wanted: fn(&Step) -> bool,
) {
    let mut may_be_lit = false;
    for index in 0..plan.steps.len() {
        let Some(step) = plan.steps.get_mut(index).filter(|step| is_wanted(step)) else {
            continue;
        };
        let function = &mut step.function;
        if function.class.is_display() && !plan.seeks_console {
            let said = boot_vga(view, function).unwrap_or(None);
            function.boot_vga = said == Some(true);
            may_be_lit |= survey::may_be_lit(said);
        }
        may_be_lit |= function.boot_vga;
        if function.group.is_none() {
            let address = function.address;
            neighbours(view, plan, address);
        }
    }
    if may_be_lit && plan.framebuffer.is_none() {
        let _ = framebuffer(view, &mut plan.framebuffer);
    }
}

/// Looks at the IOMMU group of a function, and at the other functions in it.
fn neighbours(view: &mut View<'_, impl System>, plan: &mut Plan, address: Address) {
    if plan.groups != Groups::None {
        let listed = list_group(view, address, |view, group, member| {
            if let Some(step) = plan.get_mut(member) {
                step.function.group = Some(group);
            } else if let Ok(Some(function)) = survey::read_function(view, member) {
                let mut next = Function { group: Some(group), ..function };
                // In order, so that the same group is told in the same words from any copy of the tree.
                for stored in &mut plan.neighbours {
                    if next.address < stored.address {
                        mem::swap(stored, &mut next);
                    }
                }
                let _ = plan.neighbours.push(next);
            }
        });
        if !matches!(listed, Ok(None)) {
            return;
        }
    }
    if plan.groups == Groups::Unasked {
        plan.groups = if view.has_entry(Path::Iommus, makes_groups_late) {
            Groups::Later
        } else if view.has_entry(Path::Groups, |_| true) {
            Groups::Some
        } else if view.has_entry(Path::Iommus, |_| true) {
            Groups::Later
        } else {
            Groups::None
        };
    }
    if let Some(step) = plan.get_mut(address) {
        step.is_groupless = true;
    }
}

/// Finds the display in whose memory the firmware's framebuffer is, if any; an error where the file cannot be read.
#[inline(never)]
pub(crate) fn framebuffer(
    view: &mut View<'_, impl System>,
    found: &mut Option<Address>,
) -> Result<(), Errno> {
    let mut nesting = Nesting::default();
    view.lines(Text::IoMemory, &mut |line| *found = found.or(nesting.framebuffer(line)))
}

/// Whether an IOMMU of this name may get its functions only when drivers take them. Before Linux 6.15, this is so for
/// each IOMMU that the firmware describes by ACPI's IORT or VIOT, or by a device tree. Those of Intel and AMD have
/// their functions from the start (`alloc_iommu` in `drivers/iommu/intel/dmar.c`, `iommu_init_pci` in
/// `drivers/iommu/amd/init.c`).
fn makes_groups_late(iommu: &[u8]) -> bool {
    !iommu.starts_with(b"dmar") && !iommu.starts_with(b"ivhd")
}

/// Hands over a message about each thing that an operator should know of the functions that are taken, by rules or by
/// `vfio-pci.ids=`.
pub fn each<'a>(plan: &'a Plan, warn: &mut dyn FnMut(&Message<'a>)) {
    let mut is_off = false;
    for step in plan.taken() {
        let function = &step.function;
        if step.needs_iommu() && step.is_groupless {
            match plan.groups {
                Groups::None => is_off = true,
                Groups::Some => warn(&Message::NoGroup(function.address)),
                Groups::Later | Groups::Unasked => {}
            }
        }
        let has_framebuffer = plan.framebuffer == Some(function.address);
        let is_console = has_framebuffer || plan.framebuffer.is_none() && function.boot_vga;
        if function.class.is_display() && is_console {
            warn(&Message::BootDisplay(function.address));
        }
        if function.class.is_storage() || function.class.is_network() {
            warn(&Message::HostLoses(function));
        }
        if has_framebuffer {
            warn(&Message::Framebuffer(function.address));
        }
    }
    for (index, function) in plan.left().enumerate() {
        let is_same = |group: Option<u32>| group == function.group;
        if let Some(group) = function.group
            && !plan.left().take(index).any(|other| is_same(other.group))
            && plan.taken().any(|step| is_same(step.function.group) && step.needs_iommu())
        {
            warn(&Message::NotViable(group, plan));
        }
    }
    if is_off {
        warn(&Message::NoIommu);
    }
    let mut last = None;
    while let Some(next) = plan.strays.iter().filter(|stray| Some(**stray) > last).min() {
        warn(&Message::Stray(*next));
        last = Some(*next);
    }
    for (_, problem) in plan.problems.iter().filter(|(scope, _)| *scope == Scope::Aliases) {
        warn(&Message::Problem(*problem));
    }
}

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

/// Follows the nesting of `/proc/iomem` line by line.
#[derive(Default)]
struct Nesting {
    function: Option<(usize, Address)>,
}

impl Nesting {
    /// The function that has a framebuffer in its memory, if this line is that framebuffer's.
    fn framebuffer(&mut self, line: &[u8]) -> Option<Address> {
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
