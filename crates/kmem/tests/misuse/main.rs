//! Misuse of caches, a child process for each kind: what is said, what the call answers, and that the caches work afterwards.
//!
//! The same for blocks of malloc is a table of its own, in the tests of the C library (`docs/misuse.md`).
#![cfg(not(feature = "slob"))]

mod table;

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use kmem::heap;
use kmem_core::cache::{CacheArgs, DestroyError};
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::FreeError;
use table::{End, ROWS, Row};

/// How the caches are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// As the heap comes.
    Plain,
    /// With F Z P U; errors stop the process.
    Checked,
    /// The same; they do not.
    Warned,
}

/// Runs a row in a child; returns the signal that ended it, if one did, and what it said. It must have come to its end otherwise.
fn child(row: &str, mode: Mode) -> (Option<i32>, String) {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command.args(["--exact", "a_row", "--nocapture"]).env("KMEM_TEST_ROW", row).env("KMEM_SYMBOLIZER", "");
    for name in ["KMEM_DEBUG", "KMEM_ON_ERROR", "KMEM_LOG"] {
        command.env_remove(name);
    }
    if mode != Mode::Plain {
        command.env("KMEM_DEBUG", "FZPU,misuse-*");
    }
    if mode == Mode::Warned {
        command.env("KMEM_ON_ERROR", "warn");
    }
    let output = command.output().expect("the child runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let signal = output.status.signal();
    assert!(output.status.success() || signal.is_some(), "{row}, {mode:?}: {}\n{errors}", output.status);
    (signal, errors)
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
                let more: Vec<_> = (0..100).map(|_| heap.alloc(first, Gfp::KERNEL)).collect();
                for object in more {
                    assert_eq!(heap.free(first, object), Ok(()));
                }
                remains = true;
            }
            "freed-zone" => {
                assert_eq!(heap.free(first, object), Ok(()));
                object.add(200).write_volatile(1);
                let _ = heap.validate(first);
            }
            "gone-write" | "gone-kfree" => {
                heap::name_faults();
                assert_eq!(heap.free(first, object), Ok(()));
                assert_eq!(heap.destroy(first), Ok(true));
                if row == "gone-write" {
                    object.write_volatile(1);
                } else {
                    let freed = heap.kfree(object);
                    assert!(matches!(freed, Err(FreeError::NotObject(_))), "{freed:?}");
                }
            }
            "gone-alloc" | "gone-zalloc" | "gone-bulk" | "gone-free" | "gone-destroy" => {
                assert_eq!(heap.free(first, object), Ok(()));
                assert_eq!(heap.destroy(first), Ok(true));
                match row.as_str() {
                    "gone-alloc" => assert!(heap.alloc(first, Gfp::KERNEL).is_null()),
                    "gone-zalloc" => assert!(heap.zalloc(first, Gfp::KERNEL).is_null()),
                    "gone-bulk" => {
                        assert!(!heap.alloc_bulk(first, Gfp::KERNEL, &mut [core::ptr::null_mut(); 16]))
                    }
                    "gone-free" => {
                        // Of a cache that lives: this one has none any more.
                        let lost = heap.alloc(second, Gfp::KERNEL);
                        assert!(matches!(heap.free(first, lost), Err(FreeError::NotObject(_))));
                        assert_eq!(heap.free(second, lost), Ok(()));
                    }
                    _ => assert_eq!(heap.destroy(first), Err(DestroyError::Destroyed)),
                }
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
        if !row.starts_with("live") && !row.starts_with("gone") {
            let end = heap.destroy(first);
            assert!(
                end == Ok(true) || remains && matches!(end, Err(DestroyError::ObjectsRemain(_))),
                "{end:?}"
            );
        }
        assert_eq!(heap.destroy(second), Ok(true));
    }
}

/// Complains where a row did not end as the table says.
fn judge(row: &Row, end: End, mode: Mode) -> Option<String> {
    let (signal, said) = child(row.case, mode);
    let good = match end {
        End::Stopped(text) if mode == Mode::Warned => signal.is_none() && said.contains(text),
        End::Stopped(text) => signal == Some(libc::SIGABRT) && said.contains(text),
        End::Told(text) => signal.is_none() && said.contains(text),
        End::Fault(text) => signal == Some(libc::SIGSEGV) && said.contains(text),
        End::Answers(_) | End::Unnoticed => signal.is_none() && said.is_empty(),
    };
    let (case, what) = (row.case, row.what);
    (!good).then(|| format!("\n{case} ({what}), {mode:?}: expected {end:?}; signal {signal:?}, said {said}"))
}

fn each(of: fn(&Row) -> End, mode: Mode) {
    let wrong: Vec<_> = ROWS.iter().filter_map(|row| judge(row, of(row), mode)).collect();
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

/// What SLAB says has other words: `crates/kmem-core/tests/debug_slab`.
const SLUB: bool = cfg!(not(feature = "slab"));

#[test]
fn as_the_heap_comes() {
    if SLUB {
        each(|row| if heap::HARDENED { row.hardened } else { row.default }, Mode::Plain);
    }
}

#[test]
fn checked() {
    if SLUB && !heap::HARDENED {
        each(|row| row.debug, Mode::Checked);
    }
}

#[test]
fn checked_and_going_on() {
    if SLUB && !heap::HARDENED {
        each(|row| row.debug, Mode::Warned);
    }
}

/// The nearest legal program.
#[test]
fn nobody_complains_of_what_is_right() {
    for mode in [Mode::Plain, Mode::Checked, Mode::Warned] {
        assert_eq!(child("legal", mode), (None, String::new()), "{mode:?}");
    }
}
