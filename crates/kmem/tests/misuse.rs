//! Misuse of caches, a child process for each kind: what is said, what the call answers, and that the caches work afterwards.
//!
//! The same for blocks of malloc is a table of its own, in the tests of the C library (`docs/misuse.md`).
#![cfg(not(feature = "slob"))]

use std::process::Command;

use kmem::heap;
use kmem_core::cache::{CacheArgs, DestroyError};
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::FreeError;

/// Runs `row` in a child, checked or not; returns its standard error. The child must have come to its end.
fn child(row: &str, checked: bool) -> String {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command.args(["--exact", "a_row", "--nocapture"]).env("KMEM_TEST_ROW", row).env("KMEM_SYMBOLIZER", "");
    command.env_remove("KMEM_DEBUG").env_remove("KMEM_ON_ERROR").env_remove("KMEM_LOG");
    if checked {
        command.env("KMEM_DEBUG", "FZPU,misuse-*").env("KMEM_ON_ERROR", "warn");
    }
    let output = command.output().expect("the child runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{row}, checked {checked}: {}\n{errors}", output.status);
    errors
}

/// What a child does; nothing in the parent.
#[test]
fn a_row() {
    let Ok(row) = std::env::var("KMEM_TEST_ROW") else { return };
    let heap = heap::heap().expect("memory");
    // Of different sizes, so that none is an alias of the other.
    let [first, second] = [("misuse-first", 200), ("misuse-second", 456)]
        .map(|(name, size)| heap.create(name, size, CacheArgs::default()).expect("a cache"));
    // SAFETY: the caches are alive until they are destroyed below; what is wrong with the rest is the subject.
    unsafe {
        let object = heap.alloc(first, Gfp::KERNEL);
        let other = heap.alloc(second, Gfp::KERNEL);
        assert!(!object.is_null() && !other.is_null());
        let mut remains = false;
        match row.as_str() {
            "legal" => assert_eq!(heap.free(first, object), Ok(())),
            "wrong-cache" => assert_eq!(heap.free(second, object), Ok(())),
            "twice" => {
                assert_eq!(heap.free(first, object), Ok(()));
                let again = heap.free(first, object);
                assert!(matches!(again, Ok(()) | Err(FreeError::Double { .. })), "{again:?}");
            }
            "interior" => {
                let inside = heap.free(first, object.add(8));
                assert!(matches!(inside, Err(FreeError::Interior { .. })), "{inside:?}");
                assert_eq!(heap.free(first, object), Ok(()));
            }
            "foreign" => {
                let mut local = 0_u64;
                let foreign = heap.free(first, (&raw mut local).cast());
                assert!(matches!(foreign, Err(FreeError::Foreign(_))), "{foreign:?}");
                assert_eq!(heap.free(first, object), Ok(()));
            }
            "overflow" => {
                object.add(200).write_volatile(1);
                assert_eq!(heap.free(first, object), Ok(()));
                remains = true;
            }
            "after-free" => {
                assert_eq!(heap.free(first, object), Ok(()));
                object.add(100).write_volatile(1);
                let _ = heap.validate(first);
            }
            "live" => {
                assert_eq!(heap.destroy(first), Err(DestroyError::ObjectsRemain(1)));
                // Its objects may still come home.
                assert_eq!(heap.free(first, object), Ok(()));
            }
            "live-twice" => {
                assert_eq!(heap.destroy(first), Err(DestroyError::ObjectsRemain(1)));
                assert_eq!(heap.destroy(first), Err(DestroyError::Destroyed));
                assert_eq!(heap.free(first, object), Ok(()));
            }
            "bulk-null" => {
                let freed = heap.free_bulk(Some(first), &mut [core::ptr::null_mut(), object]);
                assert_eq!(freed, Err(FreeError::Foreign(0)));
            }
            "bulk-foreign" => {
                let mut local = 0_u64;
                let freed = heap.free_bulk(Some(first), &mut [object, (&raw mut local).cast()]);
                assert!(matches!(freed, Err(FreeError::Foreign(_))), "{freed:?}");
            }
            "bulk-other" => {
                // An object of another cache goes home, and is told of.
                let more = heap.alloc(second, Gfp::KERNEL);
                assert_eq!(heap.free_bulk(Some(first), &mut [object, more]), Ok(()));
            }
            "bulk-twice" => {
                let again = heap.free_bulk(Some(first), &mut [object, object]);
                assert!(matches!(again, Ok(()) | Err(FreeError::Double { .. })), "{again:?}");
            }
            "usercopy" => {
                // Bytes 8 to 72 of an object may be copied.
                let args = CacheArgs { useroffset: 8, usersize: 64, ..CacheArgs::default() };
                let third = heap.create("misuse-third", 328, args).expect("a cache");
                let window = heap.alloc(third, Gfp::KERNEL);
                assert_eq!(heap.check_usercopy(window.add(8), 64), Ok(()));
                for (from, bytes) in [(7, 2), (8, 65), (0, 8), (72, 1)] {
                    assert!(heap.check_usercopy(window.add(from), bytes).is_err(), "{from} {bytes}");
                }
                assert_eq!(heap.free(third, window), Ok(()));
                assert_eq!(heap.destroy(third), Ok(true));
                assert_eq!(heap.free(first, object), Ok(()));
            }
            other => panic!("no row {other}"),
        }
        assert_eq!(heap.free(second, other), Ok(()));
        if !row.starts_with("live") {
            let end = heap.destroy(first);
            assert!(end == Ok(true) || remains && end == Err(DestroyError::ObjectsRemain(1)), "{end:?}");
        }
        assert_eq!(heap.destroy(second), Ok(true));
    }
}

/// What must be said, checked, in a heap of SLUB.
const SAID: [(&str, &str); 14] = [
    ("legal", ""),
    ("wrong-cache", "cache_from_obj: Wrong slab cache. misuse-second but object is from misuse-first"),
    ("twice", "Slab has 0 allocated objects but 1 are to be freed"),
    ("interior", "Invalid object pointer"),
    ("foreign", "virt_to_cache: Object is not a Slab page!"),
    ("overflow", "Right Redzone overwritten"),
    ("after-free", "Poison overwritten"),
    ("live", "Objects remaining in misuse-first on __kmem_cache_shutdown()"),
    ("live-twice", "Objects remaining in misuse-first on __kmem_cache_shutdown()"),
    ("bulk-null", "virt_to_cache: Object is not a Slab page!"),
    ("bulk-foreign", "virt_to_cache: Object is not a Slab page!"),
    ("bulk-other", "cache_from_obj: Wrong slab cache. misuse-first but object is from misuse-second"),
    ("bulk-twice", "are to be freed"),
    ("usercopy", ""),
];

#[test]
fn checked_caches_tell_what_is_wrong_and_go_on() {
    if cfg!(feature = "slab") {
        return;
    }
    for (row, text) in SAID {
        let said = child(row, true);
        assert_eq!(text.is_empty(), said.is_empty(), "{row}: {said}");
        assert!(said.contains(text), "{row}: {said}");
    }
}

#[test]
fn unchecked_caches_answer_what_they_know_and_go_on() {
    for row in ["legal", "twice", "interior", "foreign", "bulk-null", "bulk-foreign", "usercopy"] {
        assert_eq!(child(row, false), "", "{row}");
    }
    assert!(child("wrong-cache", false).contains("Wrong slab cache"));
    assert!(child("bulk-other", false).contains("Wrong slab cache"));
    for row in ["live", "live-twice"] {
        assert!(child(row, false).contains("Objects remaining in misuse-first"), "{row}");
    }
}
