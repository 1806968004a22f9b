// SPDX-License-Identifier: MIT OR Apache-2.0
//! Uses PCI functions as a virtual machine monitor does, through /dev/vfio.
//!
//! For each address on its command line it goes as far as it gets, and writes one line for each step:
//!
//! ```text
//! 0000:01:00.0 group 8
//! 0000:01:00.0 viable yes
//! 0000:01:00.0 container type1
//! 0000:01:00.0 device open
//! 0000:01:00.0 vendor 1234
//! 0000:01:00.0 map 16384
//! 0000:01:00.0 unmap 16384
//! 0000:01:00.0 verdict works
//! ```
//!
//! or, in the place of the step that fails, `failed OPERATION ERRNO`, and then `verdict refused`. A group
//! that is not viable is told so and tried all the same: it is the kernel that has to refuse it.
//!
//! With `--hold` before it, a function that works is kept in use until this program is killed.
//!
//! Exit status: 0 everything works, 1 something was refused, 2 wrong use.

mod vfio;

use std::ffi::CString;
use std::fmt::Display;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;

use nix::errno::Errno;
use vfio_bindings::bindings::vfio::{VFIO_API_VERSION, VFIO_PCI_CONFIG_REGION_INDEX};

/// Where the devices find the page: anywhere but in the range of message-signalled interrupts.
const IOVA: u64 = 0x10_0000;

fn main() -> ExitCode {
    let mut addresses: Vec<String> = std::env::args().skip(1).collect();
    let is_to_hold = addresses.first().is_some_and(|first| first == "--hold");
    if is_to_hold {
        addresses.remove(0);
    }
    if addresses.is_empty() {
        eprintln!("usage: passthrough [--hold] ADDRESS...");
        return ExitCode::from(2);
    }
    let mut status = ExitCode::SUCCESS;
    let mut held = Vec::new();
    for address in addresses {
        let function = Function { address };
        let verdict = match function.use_it() {
            Ok(in_use) => {
                held.extend(is_to_hold.then_some(in_use));
                "works"
            }
            Err(Failure { step, operation, errno }) => {
                function.say(step, format_args!("failed {operation} {errno:?}"));
                status = ExitCode::FAILURE;
                "refused"
            }
        };
        function.say("verdict", verdict);
    }
    while !held.is_empty() {
        std::thread::park();
    }
    status
}

/// One PCI function, by its name in sysfs.
struct Function {
    address: String,
}

/// The group, the container and the device: all three are the program's while it has them open.
type InUse = [File; 3];

/// The step that failed, and why.
struct Failure {
    step: &'static str,
    operation: &'static str,
    errno: Errno,
}

impl Function {
    fn say(&self, step: &str, result: impl Display) {
        println!("{} {step} {result}", self.address);
    }

    fn use_it(&self) -> Result<InUse, Failure> {
        let link = format!("/sys/bus/pci/devices/{}/iommu_group", self.address);
        let link = attempt("group", "readlink", fs::read_link(link).map_err(errno))?;
        let number = link.file_name().unwrap_or_default().display().to_string();
        let group = attempt("group", "open", open(&Path::new("/dev/vfio").join(&number)))?;
        self.say("group", number);

        let is_viable = attempt("viable", "VFIO_GROUP_GET_STATUS", vfio::is_viable(&group))?;
        self.say("viable", if is_viable { "yes" } else { "no" });

        let container = type1(&group)?;
        self.say("container", "type1");

        let name =
            attempt("device", "name", CString::new(&*self.address).map_err(|_| Errno::EINVAL))?;
        let device = attempt("device", "VFIO_GROUP_GET_DEVICE_FD", vfio::device(&group, &name))?;
        self.say("device", "open");

        let config = vfio::region_offset(&device, VFIO_PCI_CONFIG_REGION_INDEX);
        let config = attempt("vendor", "VFIO_DEVICE_GET_REGION_INFO", config)?;
        let mut vendor = [0; 2];
        attempt("vendor", "pread", device.read_exact_at(&mut vendor, config).map_err(errno))?;
        self.say("vendor", format_args!("{:04x}", u16::from_le_bytes(vendor)));

        let page = vfio::Page::new();
        attempt("map", "VFIO_IOMMU_MAP_DMA", vfio::map(&container, page, IOVA))?;
        self.say("map", size_of::<vfio::Page>());

        let unmapped = vfio::unmap(&container, IOVA);
        self.say("unmap", attempt("unmap", "VFIO_IOMMU_UNMAP_DMA", unmapped)?);
        Ok([group, container, device])
    }
}

/// A container with the type 1 IOMMU, and the group in it.
fn type1(group: &File) -> Result<File, Failure> {
    let step = "container";
    let container = attempt(step, "open", open(Path::new("/dev/vfio/vfio")))?;
    let version = attempt(step, "VFIO_GET_API_VERSION", vfio::api_version(&container))?;
    let is_known = if version == VFIO_API_VERSION { Ok(()) } else { Err(Errno::ENOTSUP) };
    attempt(step, "VFIO_GET_API_VERSION", is_known)?;
    let has_type1 = attempt(step, "VFIO_CHECK_EXTENSION", vfio::has_type1(&container))?;
    attempt(step, "VFIO_CHECK_EXTENSION", if has_type1 { Ok(()) } else { Err(Errno::ENOTSUP) })?;
    attempt(step, "VFIO_GROUP_SET_CONTAINER", vfio::set_container(group, &container))?;
    attempt(step, "VFIO_SET_IOMMU", vfio::set_type1(&container))?;
    Ok(container)
}

fn open(path: &Path) -> Result<File, Errno> {
    File::options().read(true).write(true).open(path).map_err(errno)
}

fn attempt<T>(
    step: &'static str,
    operation: &'static str,
    result: Result<T, Errno>,
) -> Result<T, Failure> {
    result.map_err(|errno| Failure { step, operation, errno })
}

/// What `read_exact_at` says of a short file has no number.
#[expect(clippy::needless_pass_by_value, reason = "it stands behind `map_err`")]
fn errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
