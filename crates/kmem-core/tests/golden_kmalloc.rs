//! Size classes against the tables captured from Linux 6.1: SLUB's, and SLAB's with its larger minimum.

mod golden_support;

use golden_support::{rows, slabinfo};
use kmem_core::engine::slub::geometry::{KernelVersion, Request, Rules, compute};
use kmem_core::flags::SlabFlags;
use kmem_core::kmalloc::classes::{ClassSet, KernelSet, Kind, MAX_BYTES};

/// Checks ksize, backing and size_roundup of every row; how many were (nothing, slab, pages, refused).
fn check_ksize<S: ClassSet>(allocator: &str) -> [usize; 4] {
    let mut counts = [0; 4];
    for row in rows(golden!("kmalloc_ksize.csv")) {
        let n = row.number("n");
        let column = |what| format!("{allocator}_{what}");
        let (backing, usable) = if n == 0 {
            ("zero_size_ptr", Some(0))
        } else if n <= S::LARGEST {
            ("slab", Some(S::size_of(S::class_of(n))))
        } else {
            let bytes = S::large_pages(n).map(|pages| pages * 4096);
            (if bytes.is_some() { "page" } else { "none" }, bytes)
        };
        assert_eq!(row.text(&column("backing")), backing, "{row}");
        match usable {
            Some(bytes) => {
                assert_eq!(row.number(&column("ksize")), bytes, "ksize in {row}");
                assert_eq!(row.number(&column("size_roundup")), S::size_roundup(n), "size_roundup in {row}");
            }
            None => {
                assert_eq!(row.text(&column("ksize")), "NULL", "{row}");
                assert!(n > MAX_BYTES && S::size_roundup(n) == n, "{row}");
            }
        }
        let outcome = ["zero_size_ptr", "slab", "page", "none"].iter().position(|known| *known == backing);
        counts[outcome.expect("one of them")] += 1;
    }
    counts
}

#[test]
fn every_row_of_kmalloc_ksize() {
    let counts = check_ksize::<KernelSet>("slub");
    assert_eq!((counts.iter().sum::<usize>(), counts), (6591, [1, 6554, 34, 2]));
    assert_eq!(check_ksize::<KernelSet<32>>("slab"), counts);
}

/// The lowest bit over the addresses of many blocks of one size. Blocks of a class lie one slot apart
/// in slabs aligned to their bytes, so it is the lowest bit of the slot; larger blocks are aligned to themselves.
#[test]
fn every_slub_row_of_kmalloc_natural_alignment() {
    let (mut natural, mut others) = (0, 0);
    for row in rows(golden!("kmalloc_natural_alignment.csv")) {
        if !["slub", "slub_debian"].contains(&row.text("allocator")) {
            continue;
        }
        let n = row.number("n");
        let expected = if n <= <KernelSet>::LARGEST {
            let class = <KernelSet>::class_of(n);
            let align = <KernelSet>::align_of(class, KernelVersion::V6_1);
            let request = Request { align, flags: SlabFlags::KMALLOC, ..Request::new(n) };
            let slot = compute(&request, &Rules::LINUX_6_1.with_cpus(4)).expect("fits").size;
            assert_eq!(slot, n);
            assert!(1 << slot.trailing_zeros() >= align);
            1 << slot.trailing_zeros()
        } else {
            <KernelSet>::size_roundup(n)
        };
        assert_eq!(row.number("lowest_set_bit_over_all_addresses"), expected, "{row}");
        if n.is_power_of_two() {
            assert_eq!((expected, row.number("naturally_aligned")), (n, 1), "{row}");
            natural += 1;
        } else {
            // 96 and 192: whether addresses are multiples of them is chance, and both kernels differ.
            others += 1;
        }
    }
    assert_eq!((natural, others), (2 * 18, 2 * 2));
}

/// The names, sizes and order of creation of all classes of a kernel with every copy of them.
#[test]
fn names_as_listed() {
    let listed = slabinfo(golden!("slabinfo_slub.txt"));
    let mut listed = listed.iter().rev().filter(|cache| cache.name.contains("kmalloc-"));
    for kind in Kind::ALL {
        for index in 0..<KernelSet>::COUNT {
            let cache = listed.next().expect("another class");
            let expected = (<KernelSet>::name(kind, index), <KernelSet>::size_of(index));
            assert_eq!((cache.name, cache.size), expected);
        }
    }
    assert!(listed.next().is_none());
}
