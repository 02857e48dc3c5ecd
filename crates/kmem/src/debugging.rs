//! The debug options of the process-wide heap, from the environment.
//!
//! | variable | what it says |
//! |---|---|
//! | `KMEM_DEBUG` | which caches are checked how, in the grammar of [`kmem_core::debug::options`]; set and empty: all, F Z P U |
//! | `KMEM_ON_ERROR` | `abort` (the default): the first report ends the process; `warn`: damage is repaired or isolated, and it goes on |
//!
//! Both are read once, before the heap is made, and mean nothing in a process with raised privileges.

use core::cell::UnsafeCell;

use kmem_core::debug::OnError;
use kmem_core::report;

use crate::heap::Heap;
use crate::host::misc;

/// The longest text of options.
const MAX_TEXT: usize = 4096;

/// The options' text. The environment's own may be changed by the program.
struct Text(UnsafeCell<[u8; MAX_TEXT]>);

// SAFETY: written by `configure` only, which one thread calls before anybody reads.
unsafe impl Sync for Text {}

static TEXT: Text = Text(UnsafeCell::new([0; MAX_TEXT]));

/// Gives the heap the options of the environment. What cannot be understood is said and left out.
///
/// # Safety
/// The heap is being made, by this thread alone; as for [`misc::getenv`].
pub(crate) unsafe fn configure(heap: &Heap) {
    // There are options: an attempt before this one found no memory for the heap.
    if misc::secure_exec() || heap.debug().options().is_some() {
        return;
    }
    // SAFETY: the caller's promise.
    let (letters, on_error) = unsafe { (misc::getenv("KMEM_DEBUG"), misc::getenv("KMEM_ON_ERROR")) };
    if let Some(bytes) = letters {
        // SAFETY: the caller's promise.
        match unsafe { keep(bytes) } {
            Some(text) => {
                heap.set_debug_options(text);
            }
            None => report::say(
                heap.platform(),
                format_args!("kmem: KMEM_DEBUG is too long or no text: no debug options"),
            ),
        }
    }
    match on_error {
        None | Some(b"") => {}
        Some(b"abort") => heap.debug().set_on_error(OnError::Abort),
        Some(b"warn") => heap.debug().set_on_error(OnError::Warn),
        Some(_) => report::say(heap.platform(), format_args!("kmem: KMEM_ON_ERROR is `abort` or `warn`")),
    }
}

/// A copy that stays.
///
/// # Safety
/// As [`configure`].
unsafe fn keep(bytes: &[u8]) -> Option<&'static str> {
    let text = core::str::from_utf8(bytes).ok()?;
    // SAFETY: nobody else uses the place until this thread says that the heap is made; afterwards nobody writes.
    let place: &'static mut [u8; MAX_TEXT] = unsafe { &mut *TEXT.0.get() };
    let place = place.get_mut(..text.len())?;
    place.copy_from_slice(text.as_bytes());
    core::str::from_utf8(place).ok()
}
