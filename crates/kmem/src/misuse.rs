//! What is said about a call that was given what it cannot serve, and what happens then.
//!
//! The call has changed nothing. So the process ends, as with the C library, unless its user wants to go on after errors
//! (`KMEM_ON_ERROR=warn`): then the call fails, and a free does nothing. The caller may be a signal handler on a stack of a few KiB: what
//! is said is put together on another one then ([`kmem_core::platform::Platform::with_room`]).

use core::fmt;

use kmem_core::debug::report::brief;
use kmem_core::kmalloc::FreeError;
use kmem_core::kmalloc::classes::{ClassSet, Kind};

use crate::engine::Classes;

use crate::heap::Heap;

/// The call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Malloc,
    Free,
    Realloc,
    UsableSize,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malloc => "malloc",
            Self::Free => "free",
            Self::Realloc => "realloc",
            Self::UsableSize => "malloc_usable_size",
        })
    }
}

/// Why it was refused. A core's error speaks of a free.
struct Reason(Call, FreeError);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(call, error) = *self;
        match error {
            _ if call == Call::Free => error.fmt(f),
            FreeError::Double { address, cache } => {
                write!(f, "{address:#x} was freed before (cache {cache})")
            }
            FreeError::Interior { address, cache } => {
                write!(f, "invalid pointer {address:#x}: no object of cache {cache} starts there")
            }
            FreeError::Disputed { address, cache } => {
                write!(
                    f,
                    "invalid pointer {address:#x}: of cache {cache}, and of another by the map of pages"
                )
            }
            FreeError::NotObject(address) => {
                write!(f, "invalid pointer {address:#x}: nothing is allocated there")
            }
            FreeError::Foreign(address) => write!(f, "invalid pointer {address:#x}: not memory of this heap"),
            _ => error.fmt(f),
        }
    }
}

/// Says why a call was refused. The process ends, or goes on.
#[cold]
#[inline(never)]
pub(crate) fn refused(heap: &Heap, call: Call, error: FreeError) {
    let cache = match error {
        FreeError::Double { cache, .. }
        | FreeError::Interior { cache, .. }
        | FreeError::Disputed { cache, .. } => cache,
        _ => "",
    };
    brief(heap.platform(), heap.debug(), cache, format_args!("kmem: {call}(): {}", Reason(call, error)));
}

/// Says that a free block of a class is not as a free left it. The process ends, or the block is left alone.
#[cold]
#[inline(never)]
pub(crate) fn written_when_free(heap: &Heap, block: *mut u8, class: Option<usize>) {
    let cache = class.map_or("?", |class| Classes::name(Kind::Normal, class));
    let what = "was written to after its free, or freed twice";
    let text = format_args!("kmem: malloc(): {block:p} (cache {cache}) {what}");
    brief(heap.platform(), heap.debug(), cache, text);
}

/// What of the words beside a block was written over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    Header,
    Tail,
}

/// Says that the word beside a block was written over. The process ends, or the call goes on.
#[cold]
#[inline(never)]
pub(crate) fn damaged(heap: &Heap, call: Call, block: *mut u8, class: Option<usize>, damage: Damage) {
    let cache = class.map_or("?", |class| Classes::name(Kind::Normal, class));
    damaged_of(heap, call, block, cache, damage);
}

/// The same of a block of whole pages, of which the core found out.
///
/// # Safety
/// The caller's block, which a call just refused for it. It is whole again when this returns.
#[cold]
#[inline(never)]
pub(crate) unsafe fn overflowed(heap: &Heap, call: Call, block: *mut u8, cache: &str) {
    damaged_of(heap, call, block, cache, Damage::Tail);
    // SAFETY: the caller's promise.
    unsafe { heap.mend_large(block) };
}

fn damaged_of(heap: &Heap, call: Call, block: *mut u8, cache: &str, damage: Damage) {
    let what = match damage {
        Damage::Header => "was written before its start, or the block before it past its end",
        Damage::Tail => "was written past its end",
    };
    let text = format_args!("kmem: {call}(): {block:p} (cache {cache}) {what}");
    brief(heap.platform(), heap.debug(), cache, text);
}
