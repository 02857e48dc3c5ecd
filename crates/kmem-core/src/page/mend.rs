//! Lists whose links were written over, put together again.
//!
//! # Theory
//! Descriptors are memory, and a program that writes anywhere may hit one. A list is linked both ways, so one damaged link says less
//! than what the others know: from the front on, as far as each member leads back to the one before, and from the end on in the
//! same way, there is nothing to doubt. The two parts are joined. Where one descriptor is damaged they are
//! the whole list; what lies between two damaged ones is lost.

use core::sync::atomic::Ordering::Relaxed;

use super::Page;

/// The ends of a list, by numbers (page index + 1; 0: none), and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    /// The first member.
    pub(crate) first: u32,
    /// The last.
    pub(crate) last: u32,
    /// How many there are.
    pub(crate) len: u32,
}

/// Joins what is sound of a list. `at` finds a page by its number, wherever that came from. Under the lock of the list.
#[cold]
#[inline(never)]
pub(crate) fn mend<'a>(ends: Ends, at: impl Fn(u32) -> Option<&'a Page>) -> Ends {
    // The last sound member from the front on, and how many they are.
    let (mut front, mut front_len, mut next) = (0, 0, ends.first);
    while front_len < ends.len
        && let Some(page) = at(next)
        && page.prev.load(Relaxed) == front
    {
        (front, front_len, next) = (next, front_len + 1, page.next.load(Relaxed));
    }
    let whole = front == ends.last;
    // The same from the end.
    let (mut back, mut back_len, mut prev) = (0, 0, ends.last);
    while !whole
        && front_len + back_len < ends.len
        && let Some(page) = at(prev)
        && page.next.load(Relaxed) == back
    {
        (back, back_len, prev) = (prev, back_len + 1, page.prev.load(Relaxed));
    }
    if let Some(page) = at(front) {
        page.next.store(back, Relaxed);
    }
    if let Some(page) = at(back) {
        page.prev.store(front, Relaxed);
    }
    Ends {
        first: if front_len > 0 { ends.first } else { back },
        last: if back_len > 0 { ends.last } else { front },
        len: front_len + back_len,
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering::Relaxed;

    use super::*;

    /// A list of the pages 1 to 5.
    fn list() -> (Vec<Page>, Ends) {
        // SAFETY: all zero is a page that is not managed.
        let pages: Vec<Page> = (0..6).map(|_| unsafe { core::mem::zeroed() }).collect();
        for (number, page) in (1_u32..).zip(&pages[1..]) {
            page.prev.store(number - 1, Relaxed);
            page.next.store(if number < 5 { number + 1 } else { 0 }, Relaxed);
        }
        (pages, Ends { first: 1, last: 5, len: 5 })
    }

    /// What is on the list afterwards, forth and back.
    fn mended(pages: &[Page], ends: Ends) -> Vec<u32> {
        let at = |number: u32| pages.get(number as usize).filter(|_| number != 0);
        let ends = mend(ends, at);
        let forth: Vec<u32> =
            core::iter::successors(Some(ends.first), |&at| Some(pages[at as usize].next.load(Relaxed)))
                .take_while(|&at| at != 0)
                .collect();
        let mut back: Vec<u32> =
            core::iter::successors(Some(ends.last), |&at| Some(pages[at as usize].prev.load(Relaxed)))
                .take_while(|&at| at != 0)
                .collect();
        back.reverse();
        assert_eq!(forth, back);
        assert_eq!((forth.first().copied().unwrap_or(0), forth.len()), (ends.first, ends.len as usize));
        forth
    }

    #[test]
    fn one_damaged_descriptor_loses_nothing() {
        for number in 1..=5 {
            for wild in [0, 1, 2, 3, 4, 5, 77, u32::MAX] {
                let (pages, ends) = list();
                pages[number].next.store(wild, Relaxed);
                assert_eq!(mended(&pages, ends), [1, 2, 3, 4, 5], "{number}.next = {wild}");
                let (pages, ends) = list();
                pages[number].prev.store(wild, Relaxed);
                assert_eq!(mended(&pages, ends), [1, 2, 3, 4, 5], "{number}.prev = {wild}");
                let (pages, ends) = list();
                pages[number].next.store(wild, Relaxed);
                pages[number].prev.store(wild, Relaxed);
                let left = mended(&pages, ends);
                let others: Vec<u32> = (1..=5).filter(|&other| other as usize != number).collect();
                assert!(left == others || left == [1, 2, 3, 4, 5], "{number}: both {wild}: {left:?}");
            }
        }
    }

    #[test]
    fn two_lose_what_lies_between_at_most() {
        let (pages, ends) = list();
        pages[2].next.store(77, Relaxed);
        pages[2].prev.store(77, Relaxed);
        pages[4].next.store(77, Relaxed);
        pages[4].prev.store(77, Relaxed);
        assert_eq!(mended(&pages, ends), [1, 5]);
    }

    #[test]
    fn a_list_of_none_stays_one() {
        assert_eq!(mended(&list().0, Ends { first: 0, last: 0, len: 0 }), []);
    }
}
