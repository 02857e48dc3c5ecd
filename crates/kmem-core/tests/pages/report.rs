//! The kernel's two tables.

use kmem_core::page::ZoneKind::{Dma, Dma32};
use kmem_core::platform::{BLOCK_PAGES, Platform};

use super::{Heap, small};

const BUDDYINFO: &str = include_str!("../../../../golden/buddyinfo.txt");
const PAGETYPEINFO: &str = include_str!("../../../../golden/pagetypeinfo.txt");

/// A heap with the zones of the captured machine, DMA and DMA32, both in use.
fn heap() -> Heap {
    let heap = Heap::new(small(0).zones([4 * BLOCK_PAGES, 220 * BLOCK_PAGES]));
    for zone in [Dma, Dma32] {
        let range = heap.machine.grow(0, zone, heap.machine.zone_range(0, zone).count).expect("memory");
        // SAFETY: the machine just gave the range, to this test alone.
        unsafe { heap.pages.add_memory(&heap.machine, range, 0, zone) }.expect("fresh");
    }
    heap
}

fn buddyinfo(heap: &Heap) -> String {
    let mut text = String::new();
    heap.pages.buddyinfo(&heap.machine, &mut text).expect("writing to a string");
    text
}

fn pagetypeinfo(heap: &Heap) -> String {
    let mut text = String::new();
    heap.pages.pagetypeinfo(&heap.machine, &mut text).expect("writing to a string");
    text
}

/// The text with every number replaced, in its own column: what is left is the format.
fn format_of(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_inclusive(' ').collect();
        for word in words {
            let number = word.trim_end();
            if !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()) {
                // Right-aligned columns: the spaces before shrink as the number grows.
                let blank = out.len() - out.trim_end_matches(' ').len();
                out.truncate(out.len() - blank);
                out.push_str(&format!("<{}>", blank + number.len()));
                out.push_str(&word[number.len()..]);
            } else {
                out.push_str(word);
            }
        }
        out.push('\n');
    }
    out
}

#[test]
fn buddyinfo_has_the_kernels_columns() {
    let heap = heap();
    assert_eq!(format_of(&buddyinfo(&heap)), format_of(BUDDYINFO));
    let run = heap.alloc(0).expect("memory");
    assert_eq!(format_of(&buddyinfo(&heap)), format_of(BUDDYINFO));
    heap.free(run);
    heap.check(0);
}

#[test]
fn pagetypeinfo_has_the_kernels_columns() {
    let heap = heap();
    assert_eq!(format_of(&pagetypeinfo(&heap)), format_of(PAGETYPEINFO));
}

#[test]
fn the_tables_count_every_free_page() {
    let heap = heap();
    let runs: Vec<_> = (0..100).map(|i| heap.alloc(i % 7).expect("memory")).collect();
    heap.drain();
    let free = heap.check(runs.iter().map(|run| run.pages()).sum()).free;
    let sum = |numbers: &mut dyn Iterator<Item = &str>| -> usize {
        numbers.enumerate().map(|(order, count)| count.parse::<usize>().expect("a number") << order).sum()
    };
    let by_buddyinfo: usize =
        buddyinfo(&heap).lines().map(|line| sum(&mut line.split_whitespace().skip(4))).sum();
    assert_eq!(by_buddyinfo, free);
    let table = pagetypeinfo(&heap);
    let by_type: usize = table
        .lines()
        .filter(|line| line.contains(", type"))
        .map(|line| sum(&mut line.split_whitespace().skip(6)))
        .sum();
    assert_eq!(by_type, free);
    let pageblocks: usize = table
        .lines()
        .skip_while(|line| !line.starts_with("Number of blocks"))
        .skip(1)
        .flat_map(|line| line.split_whitespace().skip(4))
        .map(|count| count.parse::<usize>().expect("a number"))
        .sum();
    assert_eq!(pageblocks, 224 * 2);
    heap.free_all(runs);
    heap.check(0);
}
