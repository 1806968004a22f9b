// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for what is too large for the stack, and the allocator that must not be used.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// A static value that is handed out once. Pages of it that are never touched cost nothing.
pub struct Once<T> {
    is_handed_out: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: only the one caller that finds `is_handed_out` unset ever gets at the value.
unsafe impl<T: Send> Sync for Once<T> {}

impl<T> Once<T> {
    pub const fn new(value: T) -> Self {
        Self { is_handed_out: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// The value, the first time.
    #[expect(clippy::mut_from_ref, reason = "it is handed out once")]
    pub fn hand_out(&'static self) -> Option<&'static mut T> {
        let is_first = !self.is_handed_out.swap(true, Ordering::Relaxed);
        // SAFETY: the swap lets one caller pass, so this is the only reference, for good.
        is_first.then(|| unsafe { &mut *self.value.get() })
    }
}

/// An allocator that no linked program can reach.
struct NoAllocator;

unsafe extern "C" {
    /// Defined nowhere: a program in which an allocation is reachable does not link.
    fn vfio_override_early_must_not_allocate() -> !;
}

// SAFETY: no method returns.
unsafe impl GlobalAlloc for NoAllocator {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        // SAFETY: a program with this call cannot be linked, and so never runs.
        unsafe { vfio_override_early_must_not_allocate() }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {
        // SAFETY: as above.
        unsafe { vfio_override_early_must_not_allocate() }
    }
}

/// Has the atomics that compiler-builtins outlines stay with exclusive loads and stores, which every aarch64
/// has. What would find out whether there is more runs before `main`, weighs a kilobyte and calls the C
/// library's `getauxval`.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
static __aarch64_have_lse_atomics: u8 = 0;

#[global_allocator]
static ALLOCATOR: NoAllocator = NoAllocator;
