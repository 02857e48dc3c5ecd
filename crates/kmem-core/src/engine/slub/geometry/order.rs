//! How many pages a slab has, and the numbers that follow from it.
//!
//! A slab of 2^order pages holds as many objects as fit; what is left at its end, the *tail*, is lost.
//! A high order loses less and visits the page allocator less often; a low order is easier to get
//! when memory is fragmented. The rules here weigh the two from the size of a slot and the number
//! of CPUs alone, so that every cache of one size has slabs of one shape.
//!
//! # Invariants
//! - I-ORDER-1: a slab never holds more than [`MAX_OBJECTS`] objects (a 15-bit count).
//! - I-ORDER-2: the order chosen holds at least one object and is at most [`MAX_ORDER`].
//!
//! Pure functions: no memory, no lock, no state.

use super::{KernelVersion, Rules, WORD};
use crate::platform::{MAX_ORDER, PAGE_SIZE};

/// The most objects one slab may hold: the counter of a slab has 15 bits.
pub const MAX_OBJECTS: usize = 32767;

/// Partial slabs a node keeps even when they are empty: never fewer than this…
const MIN_PARTIAL: u32 = 5;
/// … and never more than this.
const MAX_PARTIAL: u32 = 10;

/// The smallest order whose block holds `bytes` bytes (`0` for `0`). May exceed [`MAX_ORDER`].
#[must_use]
pub const fn order_of(bytes: usize) -> u32 {
    let pages = bytes.div_ceil(PAGE_SIZE);
    if pages <= 1 { 0 } else { usize::BITS - (pages - 1).leading_zeros() }
}

/// Objects of `size` bytes that fit in 2^`order` pages.
///
/// # Panics
/// When `size` is 0.
#[must_use]
pub const fn objects_in(order: u32, size: usize) -> usize {
    (PAGE_SIZE << order) / size
}

/// Objects a slab should hold: as many as asked for at start, or by the number of CPUs.
///
/// More CPUs mean more slabs in use at once and more traffic on a node's lists, so each trip should
/// bring more objects. It grows with the logarithm: 8, 12, 16, 20, 24, 32 for 1, 2, 4, 8, 16, 64 CPUs.
/// The CPUs present count; where only one is, those that may yet appear do.
#[must_use]
pub const fn wanted_objects(rules: &Rules) -> u32 {
    if rules.min_objects != 0 {
        return rules.min_objects;
    }
    let mut cpus = rules.cpus_present;
    if cpus <= 1 {
        cpus = if rules.cpus_possible > 1 { rules.cpus_possible } else { 1 };
    }
    4 * ((u32::BITS - cpus.leading_zeros()) + 1)
}

/// The order of a normal slab of slots of `size` bytes, or `None` when not even one fits in the
/// largest block.
///
/// # Panics
/// When `size` is 0.
#[must_use]
pub const fn slab_order(size: usize, rules: &Rules) -> Option<u32> {
    if order_of(size) > MAX_ORDER {
        return None;
    }
    let limits = Limits::of(rules);
    let order = match rules.version {
        KernelVersion::V2_6 | KernelVersion::V6_1 => search_6_1(size, rules, limits),
        KernelVersion::V6_12 | KernelVersion::V7_0 => search_6_12(size, rules, limits),
    };
    if order <= MAX_ORDER { Some(below_max_objects(order, size)) } else { None }
}

/// The two tunables, brought into range.
#[derive(Clone, Copy)]
struct Limits {
    min: u32,
    max: u32,
}

impl Limits {
    const fn of(rules: &Rules) -> Self {
        let mut max = at_most(rules.max_order, MAX_ORDER);
        if rules.tiny {
            max = at_most(max, 1);
        }
        Self { min: at_most(rules.min_order, MAX_ORDER), max }
    }
}

/// Version 6.1 gives up wanted objects one by one, and for each number tries ever larger tails. So
/// it prefers a small slab with a small tail to a large slab with a large one.
const fn search_6_1(size: usize, rules: &Rules, limits: Limits) -> u32 {
    let mut want = lesser(wanted_objects(rules) as usize, objects_in(limits.max, size));
    while want > 1 {
        let start = at_least(limits.min, order_of(size * want));
        let mut share = 16;
        while share >= 4 {
            if let Some(order) = first_with_tail(size, start, limits.max, share) {
                return order;
            }
            share /= 2;
        }
        want -= 1;
    }
    // One object a slab, whatever the tail.
    at_least(limits.min, order_of(size))
}

/// Version 6.12 keeps the number of objects and lets the tail grow up to half of the slab.
const fn search_6_12(size: usize, rules: &Rules, limits: Limits) -> u32 {
    let fit = objects_in(limits.max, size);
    let want = if fit == 0 { 1 } else { lesser(wanted_objects(rules) as usize, fit) };
    let start = at_least(limits.min, order_of(size * want));
    if objects_in(start, size) > MAX_OBJECTS {
        return start;
    }
    let mut share = 16;
    while share > 1 {
        if let Some(order) = first_with_tail(size, start, limits.max, share) {
            return order;
        }
        share /= 2;
    }
    order_of(size)
}

/// The smallest order from `start` to `last` whose tail is at most one `share`-th of the slab.
const fn first_with_tail(size: usize, start: u32, last: u32, share: usize) -> Option<u32> {
    let mut order = start;
    while order <= last {
        let slab = PAGE_SIZE << order;
        if slab % size <= slab / share {
            return Some(order);
        }
        order += 1;
    }
    None
}

/// Lowers an order until I-ORDER-1 holds. Only a start option that asks for large slabs of tiny
/// objects ever gets here with more.
const fn below_max_objects(mut order: u32, size: usize) -> u32 {
    while order > 0 && objects_in(order, size) > MAX_OBJECTS {
        order -= 1;
    }
    order
}

/// Partial slabs that a node keeps even when empty: half the logarithm of the slot size, 5 to 10.
/// Pages of large objects cost more to fetch again, so more of them stay.
#[must_use]
pub const fn min_partial(size: usize, rules: &Rules) -> u32 {
    if rules.tiny {
        return 0;
    }
    at_most(at_least(size.ilog2() / 2, MIN_PARTIAL), MAX_PARTIAL)
}

/// Free objects a CPU may hold in partial slabs of its own. Fewer of the large ones, as they bind
/// more memory; none where every object is checked.
#[must_use]
pub const fn cpu_partial(size: usize, debug: bool, rules: &Rules) -> u32 {
    match size {
        _ if debug || rules.tiny => 0,
        PAGE_SIZE.. => 6,
        1024.. => 24,
        256.. => 52,
        _ => 120,
    }
}

/// The same limit in slabs. A partial slab is taken to be half full, and the count is rounded up.
#[must_use]
pub const fn cpu_partial_slabs(cpu_partial: u32, objects: usize) -> u32 {
    (cpu_partial * 2).div_ceil(objects as u32)
}

/// Objects in a sheaf (an array of pointers to free objects) of a cache with slots of `size` bytes;
/// 0 where every object is checked.
///
/// A sheaf is itself a kmalloc block, a header of four words and the pointers, so the capacity is
/// raised to fill its size class. `asked` is a lower limit.
#[must_use]
pub const fn sheaf_capacity(size: usize, asked: u32, debug: bool, rules: &Rules) -> u32 {
    const HEADER: usize = 4 * WORD;
    let base: usize = match size {
        _ if debug || rules.tiny => return 0,
        PAGE_SIZE.. => 4,
        1024.. => 12,
        256.. => 26,
        _ => 60,
    };
    // All four lie in the range of the power-of-two classes.
    let filled = ((HEADER + base * WORD).next_power_of_two() - HEADER) / WORD;
    at_least(filled as u32, asked)
}

const fn lesser(a: usize, b: usize) -> usize {
    if a < b { a } else { b }
}

const fn at_least(a: u32, b: u32) -> u32 {
    if a > b { a } else { b }
}

const fn at_most(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_of_bytes() {
        for (bytes, order) in
            [(0, 0), (1, 0), (4096, 0), (4097, 1), (8192, 1), (8193, 2), (4 << 20, 10), ((4 << 20) + 1, 11)]
        {
            assert_eq!(order_of(bytes), order, "{bytes}");
        }
        assert!(order_of(usize::MAX) > MAX_ORDER);
    }

    #[test]
    fn wanted_objects_by_cpus() {
        for (cpus, want) in [(1, 8), (2, 12), (4, 16), (8, 20), (16, 24), (64, 32), (256, 40)] {
            assert_eq!(wanted_objects(&Rules::DEFAULT.with_cpus(cpus)), want, "{cpus} CPUs");
        }
        // One CPU present of eight possible counts as eight; two present of eight count as two.
        let one = Rules { cpus_present: 1, cpus_possible: 8, ..Rules::DEFAULT };
        let two = Rules { cpus_present: 2, cpus_possible: 8, ..Rules::DEFAULT };
        assert_eq!((wanted_objects(&one), wanted_objects(&two)), (20, 12));
        assert_eq!(wanted_objects(&Rules { min_objects: 5, ..one }), 5);
        assert_eq!(wanted_objects(&Rules { cpus_present: 0, cpus_possible: 0, ..Rules::DEFAULT }), 8);
    }

    /// I-ORDER-1 and I-ORDER-2 under every start option, also senseless ones.
    #[test]
    fn limits_hold_under_any_option() {
        let mut checked = 0;
        for version in [KernelVersion::V6_1, KernelVersion::V6_12] {
            for min_order in [0, 1, 3, 6, 8, 10, 40] {
                for max_order in [0, 3, 7, 10, 40] {
                    for min_objects in [0, 1, 64, 60_000, u32::MAX] {
                        for size in [8, 16, 24, 96, 4096, 5000, 32768, 40000, 4 << 20] {
                            let rules =
                                Rules { version, min_order, max_order, min_objects, ..Rules::DEFAULT };
                            let order = slab_order(size, &rules).expect("fits the largest block");
                            assert!(order <= MAX_ORDER);
                            let objects = objects_in(order, size);
                            assert!((1..=MAX_OBJECTS).contains(&objects), "{size} {rules:?}: {objects}");
                            checked += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(checked, 2 * 7 * 5 * 5 * 9);
        assert_eq!(slab_order((4 << 20) + 8, &Rules::DEFAULT), None);
    }

    #[test]
    fn sheaves_fill_their_class() {
        let rules = Rules::DEFAULT;
        for (size, capacity) in
            [(8, 60), (255, 60), (256, 28), (1024, 12), (4095, 12), (4096, 4), (1 << 20, 4)]
        {
            assert_eq!(sheaf_capacity(size, 0, false, &rules), capacity, "{size}");
        }
        assert_eq!(sheaf_capacity(4096, 100, false, &rules), 100);
        assert_eq!(sheaf_capacity(8, 7, false, &rules), 60);
        assert_eq!(sheaf_capacity(8, 100, true, &rules), 0);
        assert_eq!(sheaf_capacity(8, 100, false, &Rules { tiny: true, ..rules }), 0);
    }

    #[test]
    fn tiny_keeps_nothing_back() {
        let tiny = Rules { tiny: true, ..Rules::DEFAULT };
        assert_eq!((min_partial(4096, &tiny), cpu_partial(8, false, &tiny)), (0, 0));
        assert_eq!(slab_order(2048, &tiny), Some(1));
        assert_eq!(slab_order(4096, &tiny), Some(1));
        assert_eq!(slab_order(5000, &tiny), Some(1));
    }
}
