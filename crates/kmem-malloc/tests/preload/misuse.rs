//! Bad frees end the process with a message that names the address, and the cache when the block had one.

use std::ffi::OsStr;

use crate::support::{Heap, KMEM, command, compiled, engine, outcome};

const SIGABRT: i32 = 6;

/// Runs one case of `misuse.c`. `cache` is the name the report must contain. SLOB has no caches of blocks, and no slab with a
/// last one.
fn detected(case: &str, cache: Option<&str>) {
    if engine() == "slob" && case == "behind-the-last" {
        return;
    }
    let cache = cache.filter(|_| engine() != "slob");
    for &heap in KMEM {
        let outcome = outcome(command(&compiled("misuse.c", &[]), heap).arg(case));
        let told = || format!("{case} on {heap:?}: {outcome:#?}");
        assert_eq!(outcome.signal(), Some(SIGABRT), "{}", told());
        let address = outcome.stdout.strip_suffix('\n').unwrap_or_else(|| panic!("{}", told()));
        assert!(address.starts_with("0x") && !address.contains('\n'), "{}", told());
        let digits = &address[2..];
        assert!(outcome.stderr.contains(digits), "the report names {address}: {}", told());
        if let Some(cache) = cache {
            assert!(outcome.stderr.contains(cache), "the report names {cache}: {}", told());
        }
    }
}

macro_rules! cases {
    ($($name:ident: $case:literal, $cache:expr;)*) => {$(
        #[test]
        fn $name() {
            detected($case, $cache);
        }
    )*};
}

cases! {
    twice_small: "twice-64", Some("kmalloc-64");
    twice_page_sized: "twice-2048", Some("kmalloc-2k");
    twice_pages: "twice-20000", None;
    twice_large: "twice-200000", None;
    twice_huge: "twice-huge", None;
    twice_after_one: "twice-after-one", Some("kmalloc-64");
    twice_after_others: "twice-after-others", Some("kmalloc-64");
    twice_first_in_another_thread: "twice-other-thread", Some("kmalloc-64");
    twice_then_in_another_thread: "twice-in-thread", Some("kmalloc-64");
    twice_slab_gone: "twice-slab-gone", None;
    twice_after_realloc: "twice-after-realloc", Some("kmalloc-64");
    realloc_of_a_freed_block: "realloc-freed", Some("kmalloc-64");
    interior_aligned: "interior-16", Some("kmalloc-64");
    interior_odd: "interior-1", Some("kmalloc-64");
    interior_of_a_page: "interior-8", Some("kmalloc-2k");
    behind_the_last_of_a_slab: "behind-the-last", Some("kmalloc-2304");
    interior_of_pages: "interior-large", None;
    interior_of_pages_aligned: "interior-large-16", None;
    interior_of_a_mapping: "interior-huge", None;
    interior_of_a_mapping_aligned: "interior-huge-16", None;
    stack: "stack", None;
    static_object: "static", None;
    foreign_mapping: "mapping", None;
    unmapped_low: "unmapped-low", None;
    unmapped_high: "unmapped-high", None;
    not_canonical: "not-canonical", None;
    address_one: "one", None;
    realloc_of_the_stack: "realloc-stack", None;
    usable_size_of_a_static: "usable-static", None;
}

#[test]
fn new_without_a_runtime() {
    for &heap in KMEM {
        let outcome = outcome(&mut command(&compiled("new_without_runtime.c", &[]), heap));
        assert_eq!(outcome.signal(), Some(SIGABRT), "{outcome:#?}");
        assert_eq!(outcome.stdout, "ok\n", "{outcome:#?}");
        assert!(outcome.stderr.starts_with("kmem: operator new: no memory for "), "{outcome:#?}");
    }
}

#[test]
fn the_cases_are_all_there() {
    // A case that the program does not know would end with status 1, not with a signal.
    let outcome =
        outcome(command(&compiled("misuse.c", &[]), Heap::Preloaded).arg(OsStr::new("no such case")));
    assert_eq!(outcome.status.code(), Some(1), "{outcome:#?}");
}
