// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ioctls of `include/uapi/linux/vfio.h` that are needed to use a device, each behind a safe
//! function.

use std::ffi::CStr;
use std::fs::File;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_GROUP_FLAGS_VIABLE, VFIO_TYPE,
    VFIO_TYPE1v2_IOMMU, vfio_group_status, vfio_iommu_type1_dma_map, vfio_iommu_type1_dma_unmap,
    vfio_region_info,
};

/// The requests, none of which says anything about its argument in its number.
mod request {
    use super::{
        VFIO_BASE, VFIO_TYPE, vfio_group_status, vfio_iommu_type1_dma_map,
        vfio_iommu_type1_dma_unmap, vfio_region_info,
    };

    macro_rules! number {
        ($offset:literal) => {
            nix::request_code_none!(VFIO_TYPE, VFIO_BASE + $offset)
        };
    }

    nix::ioctl_none_bad!(get_api_version, number!(0));
    nix::ioctl_write_int_bad!(check_extension, number!(1));
    nix::ioctl_write_int_bad!(set_iommu, number!(2));
    nix::ioctl_readwrite_bad!(group_get_status, number!(3), vfio_group_status);
    nix::ioctl_write_ptr_bad!(group_set_container, number!(4), i32);
    nix::ioctl_write_ptr_bad!(group_get_device_fd, number!(6), u8);
    nix::ioctl_readwrite_bad!(device_get_region_info, number!(8), vfio_region_info);
    nix::ioctl_write_ptr_bad!(iommu_map_dma, number!(13), vfio_iommu_type1_dma_map);
    nix::ioctl_readwrite_bad!(iommu_unmap_dma, number!(14), vfio_iommu_type1_dma_unmap);
}

/// What a device may read and write: whole pages, of 16 KiB at most.
#[repr(C, align(16384))]
pub struct Page([u8; 16384]);

impl Page {
    /// A page that is never given back: what is mapped for a device must stay where it is.
    pub fn new() -> &'static mut Self {
        Box::leak(Box::new(Self([0; 16384])))
    }
}

/// Fills in the size that every structure of this interface begins with.
fn size_of_argument<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

pub fn api_version(container: &File) -> Result<u32, Errno> {
    // SAFETY: the request takes no argument.
    let version = unsafe { request::get_api_version(container.as_raw_fd()) }?;
    Ok(version.unsigned_abs())
}

/// Whether the kernel has the type 1 IOMMU, the one of x86 and most others.
pub fn has_type1(container: &File) -> Result<bool, Errno> {
    // SAFETY: the request takes a number.
    let answer = unsafe {
        request::check_extension(container.as_raw_fd(), VFIO_TYPE1v2_IOMMU.cast_signed())
    }?;
    Ok(answer == 1)
}

pub fn is_viable(group: &File) -> Result<bool, Errno> {
    let mut status = vfio_group_status { argsz: size_of_argument::<vfio_group_status>(), flags: 0 };
    // SAFETY: the kernel reads and writes this structure during the call only.
    unsafe { request::group_get_status(group.as_raw_fd(), &raw mut status) }?;
    Ok(status.flags & VFIO_GROUP_FLAGS_VIABLE != 0)
}

pub fn set_container(group: &File, container: &File) -> Result<(), Errno> {
    let container = container.as_raw_fd();
    // SAFETY: the kernel reads one descriptor's number during the call only.
    unsafe { request::group_set_container(group.as_raw_fd(), &raw const container) }.map(drop)
}

pub fn set_type1(container: &File) -> Result<(), Errno> {
    // SAFETY: the request takes a number.
    unsafe { request::set_iommu(container.as_raw_fd(), VFIO_TYPE1v2_IOMMU.cast_signed()) }.map(drop)
}

pub fn device(group: &File, name: &CStr) -> Result<File, Errno> {
    // SAFETY: the kernel reads a string, up to its NUL, during the call only.
    let fd = unsafe { request::group_get_device_fd(group.as_raw_fd(), name.as_ptr().cast()) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Where a region of the device lies in its file.
pub fn region_offset(device: &File, index: u32) -> Result<u64, Errno> {
    let mut info = vfio_region_info {
        argsz: size_of_argument::<vfio_region_info>(),
        index,
        ..vfio_region_info::default()
    };
    // SAFETY: the kernel reads and writes this structure during the call only, and nothing behind
    // it, since its size is given.
    unsafe { request::device_get_region_info(device.as_raw_fd(), &raw mut info) }?;
    Ok(info.offset)
}

/// Lets the devices of the container read and write the page at this address of theirs.
pub fn map(container: &File, page: &'static mut Page, iova: u64) -> Result<(), Errno> {
    let map = vfio_iommu_type1_dma_map {
        argsz: size_of_argument::<vfio_iommu_type1_dma_map>(),
        flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: (&raw mut page.0).addr() as u64,
        iova,
        size: page.0.len() as u64,
    };
    // SAFETY: the kernel reads this structure during the call only; the page that it names is never
    // given back, and nobody but the devices can reach it from here on.
    unsafe { request::iommu_map_dma(container.as_raw_fd(), &raw const map) }.map(drop)
}

/// Ends [`map`]. Returns how many bytes are no longer mapped.
pub fn unmap(container: &File, iova: u64) -> Result<u64, Errno> {
    let mut unmap = vfio_iommu_type1_dma_unmap {
        argsz: size_of_argument::<vfio_iommu_type1_dma_unmap>(),
        iova,
        size: size_of::<Page>() as u64,
        ..vfio_iommu_type1_dma_unmap::default()
    };
    // SAFETY: the kernel reads and writes this structure during the call only.
    unsafe { request::iommu_unmap_dma(container.as_raw_fd(), &raw mut unmap) }?;
    Ok(unmap.size)
}
