//! What is said of a fault at the edge of a block: the line before the program dies of it.
//!
//! # Theory
//! Guard pages, walls and the addresses of freed blocks stop a program by the processor: SIGSEGV, and nobody says why. Here
//! somebody does. The handler of faults ([`crate::host::fault`]) shows each fault on its way to the program's own handler or to the
//! system's default, which is not kept from anything; if the address is one that the heap had made inaccessible, one line says
//! which block lies there, or lay there.
//!
//! | where | known from |
//! |---|---|
//! | beside a block | the table of mappings; how long its walls are |
//! | in, or beside, a block that was freed | the ranges that wait inaccessible, and those that went last |
//! | in a region's wall, in a region of a cache that was destroyed | the descriptors of pages |
//! | in the window, where nothing is mapped | the window's bounds |
//!
//! The system says whether anything is mapped there; what does not fit to that is not said. So a page that the program itself
//! protected is nobody's affair but the program's, wherever it lies.
//!
//! # Never
//! Nothing is read that a program which misuses its memory could have written: no block, no word beside one. No lock is waited for
//! (the thread may hold it, or have been stopped with it): where one is taken for longer than [`TURNS`] tries the line is not said.
//! Nothing allocates, and nothing of a fault changes: a second one at the same instruction ends the program as if nobody had looked.

use core::fmt;

use kmem_core::debug::report;
use kmem_core::guard::Access;
use kmem_core::kmalloc::classes::{ClassSet, Kind};
use kmem_core::kmalloc::huge::Busy;
use kmem_core::page::Wall;

use crate::engine::{Classes, Heap};
use crate::guard;
use crate::host::fault::{self, Fault, Reason};

/// How often a lock is tried.
const TURNS: usize = 100;

/// Where an access went that the system refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At, or beside, a block.
    Block {
        /// What was touched.
        address: usize,
        /// The block's first byte.
        start: usize,
        /// Bytes that were asked for.
        size: usize,
        /// It was freed.
        freed: bool,
    },
    /// In the wall of a region of that class; of one that has no block in use, or is not of malloc's: nothing.
    Wall(Option<&'static str>),
    /// In memory of a cache that was destroyed.
    Ended,
    /// Between the heap's addresses.
    Nothing,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Block { address, start, size, freed } => {
                let plural = |count: usize| if count == 1 { "" } else { "s" };
                let distance =
                    |f: &mut fmt::Formatter<'_>, bytes, how| write!(f, "{bytes} byte{} {how}", plural(bytes));
                match address.checked_sub(start) {
                    None => distance(f, start - address, "before")?,
                    Some(0) if size > 0 => f.write_str("at the start of")?,
                    Some(at) if at < size => distance(f, at, "into")?,
                    Some(at) if at == size => f.write_str("right behind")?,
                    Some(at) => distance(f, at - size, "behind")?,
                }
                write!(f, " a block of {size} byte{}", plural(size))?;
                f.write_str(if freed { " that was freed" } else { "" })
            }
            Self::Wall(None) => f.write_str("in the wall behind a region"),
            Self::Wall(Some(class)) => write!(f, "in the wall behind a region of {class}"),
            Self::Ended => f.write_str("in memory of a cache that was destroyed"),
            Self::Nothing => f.write_str("between the heap's blocks, where nothing is"),
        }
    }
}

/// From now on says which block it was when the program faults at the edge of one, or in one that was freed. For a hardened build
/// only. A library calls it when it is loaded; where nobody did, the first large block does.
pub fn name_faults() {
    fault::watch(guard::judge);
}

/// Says of a fault what the heap knows about it: one line, or nothing.
pub(crate) fn tell_of_fault(heap: &Heap, fault: &Fault) {
    if let Some(place) = place_of(heap, fault.address, fault.reason) {
        say(heap, fault, place);
    }
}

/// Apart from the way that every other fault takes too: a handler's stack may be small.
#[cold]
#[inline(never)]
fn say(heap: &Heap, fault: &Fault, place: Place) {
    let (verb, to) = match fault.access {
        Access::Read => ("read", "of"),
        access => (access.verb(), "to"),
    };
    let text = format_args!("kmem: {verb} {to} {:#x}, {place}", fault.address);
    report::tell(heap.platform(), heap.debug(), "", text);
}

fn place_of(heap: &Heap, address: usize, reason: Reason) -> Option<Place> {
    let host = heap.platform();
    let in_window = address.wrapping_sub(host.span().base()) < host.span().end();
    let block = |freed| move |(start, size)| Place::Block { address, start, size, freed };
    let freed = |gone| patiently(|| host.freed_apart(address, gone)).map(block(true));
    match reason {
        Reason::Unmapped if in_window => Some(Place::Nothing),
        Reason::Unmapped => freed(true),
        Reason::Forbidden if in_window => {
            let Wall::Behind { tag } = heap.pages().wall_at(address)? else { return Some(Place::Ended) };
            let class = usize::from(tag).checked_sub(1).filter(|&class| class < Classes::COUNT);
            Some(Place::Wall(class.map(|class| Classes::name(Kind::Normal, class))))
        }
        Reason::Forbidden => {
            let beside = || heap.mapping_beside(address, |len| host.walls_apart(len));
            patiently(beside).map(block(false)).or_else(|| freed(false))
        }
        Reason::Other => None,
    }
}

/// Asks until nobody is changing what is looked at, but not for long.
fn patiently<T>(ask: impl Fn() -> Result<Option<T>, Busy>) -> Option<T> {
    for _ in 0..TURNS {
        if let Ok(answer) = ask() {
            return answer;
        }
        // SAFETY: lets others run; no requirements.
        unsafe { libc::sched_yield() };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_in_bytes() {
        let told = |address, size, freed| Place::Block { address, start: 1000, size, freed }.to_string();
        assert_eq!(told(999, 100, false), "1 byte before a block of 100 bytes");
        assert_eq!(told(990, 100, true), "10 bytes before a block of 100 bytes that was freed");
        assert_eq!(told(1000, 100, true), "at the start of a block of 100 bytes that was freed");
        assert_eq!(told(1001, 100, true), "1 byte into a block of 100 bytes that was freed");
        assert_eq!(told(1100, 100, false), "right behind a block of 100 bytes");
        assert_eq!(told(1101, 100, false), "1 byte behind a block of 100 bytes");
        assert_eq!(told(1000, 0, false), "right behind a block of 0 bytes");
        assert_eq!(told(1005, 1, false), "4 bytes behind a block of 1 byte");
    }

    #[test]
    fn who_is_in_the_way_is_asked_again_and_not_for_ever() {
        let left = core::cell::Cell::new(3_u32);
        let ask = || match left.replace(left.get().saturating_sub(1)) {
            0 => Ok(Some(7)),
            1.. => Err(Busy),
        };
        assert_eq!(patiently(ask), Some(7));
        let asked = core::cell::Cell::new(0);
        let never: Option<()> = patiently(|| {
            asked.set(asked.get() + 1);
            Err(Busy)
        });
        assert_eq!((never, asked.get()), (None, TURNS));
    }
}
