//! Asking the processor for memory before it is needed.
//!
//! # Theory
//! Objects that are freed in no order lie in as many slabs, so whoever takes a batch of them to their slabs waits for one cache line after
//! the other: the descriptor's, the object's. Asked for all at once they come together. To ask is a hint: it reads nothing,
//! no address is wrong, and where there is no such instruction nothing happens.

/// Asks for the cache line around an address, which need not be mapped.
#[inline(always)]
pub(crate) fn line<T>(address: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the instruction neither reads nor writes as the language sees it, and faults on no address. It is there in every x86-64.
    unsafe {
        core::arch::asm!("prefetcht0 [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: as above; it is part of the base architecture.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = address;
}
