//! The roots: memory that a program can write and that is not its heap, as the kernel lists it (`/proc/self/maps`).
//!
//! Of a stack only the live part counts: what lies below its thread's stack pointer are calls that returned. Pages of large
//! mappings that nobody ever wrote are passed over (`/proc/self/pagemap`), where that can be asked.

use crate::debugging::leaks::Here;
use crate::host::memory::{self, Pagemap};
use crate::host::threads::Stopped;
use crate::host::trace;

/// From this size on the kernel is asked which pages are there.
const LARGE: usize = 256 << 10;
/// The longest line that is understood; paths beyond are cut.
const LINE: usize = 512;

/// A line of the list, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
    /// Readable, writable and private.
    counts: bool,
    /// Nobody may touch it: what guards a stack.
    closed: bool,
    is_stack: bool,
}

/// Shows the ranges of all roots. `not`: what belongs to the heap. False: the kernel's list cannot be read.
pub(super) fn each(
    here: &Here,
    stopped: &Stopped,
    not: [(usize, usize); 4],
    visit: &mut dyn FnMut(usize, usize),
) -> bool {
    let [first, second, third, fourth] = not;
    let not = [first, second, third, fourth, trace::own()];
    let mut before = Mapping { start: 0, end: 0, counts: false, closed: false, is_stack: false };
    let pages = Pagemap::open();
    let mut any = false;
    let read = memory::each_line(c"/proc/self/maps", &mut [0; LINE], &mut |line| {
        let Some(mapping) = parse(line) else { return };
        let guarded = mapping.is_stack || (before.closed && before.end == mapping.start);
        before = mapping;
        if !mapping.counts {
            return;
        }
        any = true;
        let mut start = mapping.start;
        if guarded {
            let lows = stopped.saved().chain([here.stack_pointer()]);
            let low = lows.filter(|low| (mapping.start..mapping.end).contains(low)).min();
            start = low.unwrap_or(start);
        }
        without(start, mapping.end, &not, &mut |start, end| {
            if end - start < LARGE {
                visit(start, end);
            } else {
                pages.each_present(start, end, visit);
            }
        });
    });
    read && any
}

/// Shows what of a range lies in none of others.
fn without(start: usize, end: usize, others: &[(usize, usize)], visit: &mut dyn FnMut(usize, usize)) {
    if start >= end {
        return;
    }
    match others.split_first() {
        None => visit(start, end),
        Some((&(from, to), others)) if from < end && to > start => {
            without(start, from, others, visit);
            without(to, end, others, visit);
        }
        Some((_, others)) => without(start, end, others, visit),
    }
}

/// `start-end rights offset device inode   path`
fn parse(line: &[u8]) -> Option<Mapping> {
    let text = core::str::from_utf8(line).ok()?;
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let rights = words.next()?;
    let name = words.nth(3).unwrap_or_default();
    Some(Mapping {
        start,
        end,
        counts: rights.starts_with("rw") && rights.ends_with('p') && !name.starts_with("/dev/"),
        closed: rights.starts_with("---"),
        is_stack: name == "[stack]",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_list() {
        let mapping = |line: &str| parse(line.as_bytes());
        let stack = mapping("7ffd1000-7ffd2000 rw-p 00000000 00:00 0          [stack]").unwrap();
        assert!(stack.counts && stack.is_stack && (stack.start, stack.end) == (0x7ffd_1000, 0x7ffd_2000));
        let guard = mapping("7f00-7f80 ---p 00000000 00:00 0 ").unwrap();
        assert!(guard.closed && !guard.counts);
        for other in [
            "10-20 r-xp 0 08:01 5 /bin/cat",
            "10-20 rw-s 0 08:01 5 /tmp/x",
            "10-20 rw-p 0 00:05 5 /dev/dri/card0",
        ] {
            assert!(!mapping(other).unwrap().counts, "{other}");
        }
        assert_eq!(mapping("garbage"), None);
    }

    #[test]
    fn what_belongs_to_the_heap_is_cut_out() {
        let cut = |others: &[(usize, usize)]| {
            let mut left = Vec::new();
            without(10, 100, others, &mut |start, end| left.push((start, end)));
            left
        };
        assert_eq!(cut(&[]), [(10, 100)]);
        assert_eq!(cut(&[(20, 30)]), [(10, 20), (30, 100)]);
        assert_eq!(cut(&[(0, 10), (100, 200)]), [(10, 100)]);
        assert_eq!(cut(&[(0, 50)]), [(50, 100)]);
        assert_eq!(cut(&[(5, 200)]), []);
        assert_eq!(cut(&[(20, 30), (40, 50)]), [(10, 20), (30, 40), (50, 100)]);
    }
}
