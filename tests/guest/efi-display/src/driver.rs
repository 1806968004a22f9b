// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver itself.

use core::ffi::c_void;
use core::panic::PanicInfo;
use core::ptr;

use r_efi::efi::{self, Handle, Status, SystemTable};
use r_efi::protocols::graphics_output::{self, BltOperation, BltPixel, Mode, ModeInformation};
use r_efi::protocols::{loaded_image, pci_io};

const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;
const BYTES_PER_PIXEL: u32 = 4;

/// Where the address of a function's first memory is in its configuration space, and what of it says other things.
const FIRST_BAR: u32 = 0x10;
const BAR_FLAGS: u32 = 0xf;

/// What the firmware, and after it the kernel, reads.
struct Display {
    output: graphics_output::Protocol,
    mode: Mode,
    information: ModeInformation,
}

/// Called by the firmware with the display as the device that this was loaded from.
#[unsafe(no_mangle)]
extern "efiapi" fn efi_main(image: Handle, table: *mut SystemTable) -> Status {
    // SAFETY: the firmware calls this with its table.
    match unsafe { install(image, table) } {
        Ok(()) => Status::SUCCESS,
        Err(status) => status,
    }
}

/// # Safety
///
/// The table must be the firmware's.
unsafe fn install(image: Handle, table: *mut SystemTable) -> Result<(), Status> {
    // SAFETY: the firmware's table holds valid pointers, and what it says to be an interface is one.
    unsafe {
        let services = &*(*table).boot_services;
        let interface = |handle, mut guid| {
            let mut found: *mut c_void = ptr::null_mut();
            checked((services.handle_protocol)(handle, &raw mut guid, &raw mut found))?;
            Ok(found)
        };
        let loaded =
            interface(image, loaded_image::PROTOCOL_GUID)?.cast::<loaded_image::Protocol>();
        let function = interface((*loaded).device_handle, pci_io::PROTOCOL_GUID)?;
        let function = function.cast::<pci_io::Protocol>();
        let mut bar = 0_u32;
        let to = (&raw mut bar).cast::<c_void>();
        checked(((*function).pci.read)(function, pci_io::WIDTH_UINT32, FIRST_BAR, 1, to))?;
        // The kernel takes no framebuffer for one whose memory is not to be reached.
        checked(((*function).attributes)(
            function,
            pci_io::ATTRIBUTE_OPERATION_ENABLE,
            pci_io::ATTRIBUTE_MEMORY,
            ptr::null_mut(),
        ))?;

        let mut memory: *mut c_void = ptr::null_mut();
        let size = size_of::<Display>();
        checked((services.allocate_pool)(efi::BOOT_SERVICES_DATA, size, &raw mut memory))?;
        let display = memory.cast::<Display>();
        display.write(Display {
            information: ModeInformation {
                version: 0,
                horizontal_resolution: WIDTH,
                vertical_resolution: HEIGHT,
                pixel_format: graphics_output::PIXEL_BLUE_GREEN_RED_RESERVED_8_BIT_PER_COLOR,
                pixel_information: graphics_output::PixelBitmask {
                    red_mask: 0,
                    green_mask: 0,
                    blue_mask: 0,
                    reserved_mask: 0,
                },
                pixels_per_scan_line: WIDTH,
            },
            mode: Mode {
                max_mode: 1,
                mode: 0,
                info: &raw mut (*display).information,
                size_of_info: size_of::<ModeInformation>(),
                frame_buffer_base: u64::from(bar & !BAR_FLAGS),
                frame_buffer_size: (WIDTH * HEIGHT * BYTES_PER_PIXEL) as usize,
            },
            output: graphics_output::Protocol {
                query_mode,
                set_mode,
                blt,
                mode: &raw mut (*display).mode,
            },
        });
        let mut guid = graphics_output::PROTOCOL_GUID;
        let mut handle: Handle = ptr::null_mut();
        let output = (&raw mut (*display).output).cast::<c_void>();
        checked((services.install_protocol_interface)(
            &raw mut handle,
            &raw mut guid,
            efi::NATIVE_INTERFACE,
            output,
        ))
    }
}

fn checked(status: Status) -> Result<(), Status> {
    if status.is_error() { Err(status) } else { Ok(()) }
}

extern "efiapi" fn query_mode(
    _: *mut graphics_output::Protocol,
    _: u32,
    _: *mut usize,
    _: *mut *mut ModeInformation,
) -> Status {
    Status::UNSUPPORTED
}

extern "efiapi" fn set_mode(_: *mut graphics_output::Protocol, _: u32) -> Status {
    Status::UNSUPPORTED
}

extern "efiapi" fn blt(
    _: *mut graphics_output::Protocol,
    _: *mut BltPixel,
    _: BltOperation,
    _: usize,
    _: usize,
    _: usize,
    _: usize,
    _: usize,
    _: usize,
    _: usize,
) -> Status {
    Status::UNSUPPORTED
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    loop {}
}
