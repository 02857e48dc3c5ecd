//! Other debug letters for the caches of a running program.

use core::fmt::{self, Write};

use kmem_core::cache::Switched;
use kmem_core::config::Config;
use kmem_core::debug::options;
use kmem_core::engine::Engine;
use kmem_core::flags::SlabFlags;
use kmem_core::report::Text;

use super::ask::{ok, refuse};
use crate::debugging::LettersError;
use crate::engine::ChosenConfig;
use crate::heap::Heap;
use crate::host::file::Output;
use crate::host::misc;

/// Caches that are named when they did not get their letters.
const NAMED: usize = 8;

/// Gives the caches that `text` speaks of their letters, and says how many there are.
///
/// What cannot be is refused: in the environment it is skipped, but who asks now would wait for reports that never come.
pub(super) fn change(heap: &Heap, text: &str, out: &mut Output) -> fmt::Result {
    let (mut given, mut refused) = (0, 0);
    let mut named = Text::<1024>::new();
    let joined = give(heap, text, &mut |cache| match cache.result {
        Ok(()) => given += 1,
        Err(why) => {
            refused += 1;
            if refused <= NAMED {
                let letters = options::shown(cache.letters);
                let _ = writeln!(named, "{}: not {letters}: {why}", cache.name);
            }
        }
    });
    let joined = match joined {
        Ok(joined) => joined,
        Err(why) => return refuse(out, format_args!("{why}")),
    };
    ok(out)?;
    write!(out, "{given} {} these letters", if given == 1 { "cache has" } else { "caches have" })?;
    if refused > 0 {
        write!(out, ", {refused} {} not", if refused == 1 { "does" } else { "do" })?;
    }
    write!(out, "\n{}caches to come: {joined}\n", named.as_str())
}

/// Gives the caches that `text` speaks of their letters; `tell` hears of each. Returns what holds for caches to come.
///
/// # Errors
/// See [`LettersError`]; nothing changed.
pub(crate) fn give(
    heap: &Heap,
    text: &str,
    tell: &mut dyn FnMut(&Switched<'_>),
) -> Result<&'static str, LettersError> {
    type Chosen = <ChosenConfig as Config>::Engine;
    if let Some(letter) = options::unknown(text).next() {
        return Err(LettersError::Unknown(letter));
    }
    let missing = options::asked(text) - Chosen::LETTERS - SlabFlags::FAILSLAB;
    if !missing.is_empty() {
        return Err(LettersError::NoChecks(missing));
    }
    let joined = keep(text, heap.debug().options()).ok_or(LettersError::TooMany)?;
    heap.change_debug_options(text, joined, tell);
    Ok(joined)
}

/// What holds for new caches from now on, in a page of its own that stays: somebody may still read what held before.
fn keep(text: &str, before: Option<&str>) -> Option<&'static &'static str> {
    #[repr(C)]
    struct Page {
        text: &'static str,
        bytes: [u8; ROOM],
    }
    const ROOM: usize = misc::PAGE - size_of::<&str>();

    struct Room {
        bytes: &'static mut [u8; ROOM],
        used: usize,
    }
    impl Write for Room {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let place = self.bytes.get_mut(self.used..self.used + text.len()).ok_or(fmt::Error)?;
            place.copy_from_slice(text.as_bytes());
            self.used += text.len();
            Ok(())
        }
    }

    let page: *mut Page = misc::map_page()?.cast();
    // SAFETY: a page of zeroes that nobody else knows, which is a value of its bytes.
    let bytes = unsafe { &mut (*page).bytes };
    let mut room = Room { bytes, used: 0 };
    if options::joined(&mut room, text, before).is_err() {
        // SAFETY: mapped above, and known to nobody.
        unsafe { misc::unmap_page(page.cast()) };
        return None;
    }
    let text = core::str::from_utf8(&room.bytes[..room.used]).unwrap_or_default();
    // SAFETY: the page is this function's; its text is not read before it is written, and never written again.
    unsafe {
        (&raw mut (*page).text).write(text);
        Some(&(*page).text)
    }
}
