//! Page tables: all memory at one distance, and the map of page descriptors.
//!
//! ```text
//!   0x0000_0000_0000_0000   the first 4 GiB at their own addresses: image, early memory, devices (entry.s)
//!   0xffff_8880_0000_0000   DIRECT    all memory, at physical address + DIRECT: the heap's window
//!   0xffff_ea00_0000_0000   DESCS     64 bytes for each page of the window, where it has memory
//!   0xffff_ec00_0000_0000   TAGS      2 bytes for each page of the window, likewise
//! ```
//! Entries are only ever added, by the first CPU, before others start.

use core::arch::asm;

use kmem_core::page::Page;
use kmem_core::platform::PAGE_SIZE;

use super::early;
use crate::cpu;

/// Where all memory is mapped.
pub(crate) const DIRECT: usize = 0xffff_8880_0000_0000;
/// Where the page descriptors are mapped.
pub(crate) const DESCS: usize = 0xffff_ea00_0000_0000;
/// Where the page tags are mapped.
pub(crate) const TAGS: usize = 0xffff_ec00_0000_0000;

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bytes of a large page.
const LARGE_SIZE: usize = 2 << 20;

unsafe extern "C" {
    static mut boot_pml4: [u64; 512];
}

/// Where the memory at a physical address is reached by the kernel itself: beyond 4 GiB in the direct map.
pub(crate) fn reach(physical: usize) -> *mut u8 {
    let distance = if physical < early::IDENTITY_END { 0 } else { DIRECT };
    core::ptr::with_exposed_provenance_mut(physical + distance)
}

/// No memory for a page table.
#[derive(Debug)]
pub(crate) struct NoTable;

/// The entry for `address` in the table `levels` floors below the root (3: 4 KiB pages, 2: large pages).
fn entry(address: usize, levels: usize, node: usize) -> Result<*mut u64, NoTable> {
    let mut table = (&raw mut boot_pml4).cast::<u64>();
    for level in 0..=levels {
        let at = table.wrapping_add(address >> (39 - 9 * level) & 511);
        if level == levels {
            return Ok(at);
        }
        // SAFETY: tables lie in the image or in early memory, both mapped where they are reached; only the first CPU is here.
        let value = unsafe { at.read() };
        table = if value & PRESENT != 0 {
            assert!(value & LARGE == 0 || level == 0, "a large page at {address:#x} is in the way");
            reach((value & ADDRESS) as usize).cast()
        } else {
            let new = early::take_below(usize::MAX, PAGE_SIZE, PAGE_SIZE, node).ok_or(NoTable)?;
            // SAFETY: as above.
            unsafe { at.write(new as u64 | PRESENT | WRITE) };
            reach(new).cast()
        };
    }
    unreachable!("the loop ends at its last level")
}

/// Maps all memory at its distance. From then on all of it can be taken.
pub(crate) fn map_memory() -> Result<(), NoTable> {
    let mut result = Ok(());
    early::for_each(|range, node| {
        let mut at = range.start & !(LARGE_SIZE - 1);
        while at < range.end && result.is_ok() {
            result = entry(DIRECT + at, 2, node).map(|entry| {
                // SAFETY: a live table of ours.
                unsafe { entry.write(at as u64 | PRESENT | WRITE | LARGE | GLOBAL | NO_EXECUTE) };
            });
            at += LARGE_SIZE;
        }
    });
    if result.is_ok() {
        early::mapped();
    }
    result
}

/// Makes `bytes` at `address` memory of `node`, zero where it was not before.
fn back(address: usize, bytes: usize, node: usize) -> Result<(), NoTable> {
    let first = address & !(PAGE_SIZE - 1);
    for at in (first..address + bytes).step_by(PAGE_SIZE) {
        let entry = entry(at, 3, node)?;
        // SAFETY: a live table of ours.
        unsafe {
            if entry.read() & PRESENT == 0 {
                let page = early::take_below(usize::MAX, PAGE_SIZE, PAGE_SIZE, node).ok_or(NoTable)?;
                entry.write(page as u64 | PRESENT | WRITE | GLOBAL | NO_EXECUTE);
                cpu::forget_page(at);
            }
        }
    }
    Ok(())
}

/// Makes the descriptors and tags of pages `first .. first + count` memory of `node`.
pub(crate) fn map_descriptors(first: usize, count: usize, node: usize) -> Result<(), NoTable> {
    back(DESCS + first * size_of::<Page>(), count * size_of::<Page>(), node)?;
    back(TAGS + first * size_of::<u16>(), count * size_of::<u16>(), node)
}

/// Fills memory with zeros, eight bytes at a time.
///
/// # Safety
/// `at` and `bytes` are multiples of 8, and the memory is the caller's.
pub(crate) unsafe fn clear(at: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "rep stosq",
            inout("rcx") bytes / 8 => _, inout("rdi") at => _, in("rax") 0_u64,
            options(nostack, preserves_flags)
        );
    }
}
