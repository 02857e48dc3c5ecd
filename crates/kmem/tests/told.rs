//! What a program in Rust is told by its heap: lines, errors, decisions, validation, and leaks at its end.
//!
//! Options are read when the heap is made, so each case is this program again, as a child with an environment of its own.
//!
//! What is told is SLUB's, the usual heap's and the hardened one's. SLAB's letters know nothing of the bytes that a request did not ask for,
//! and its reports read otherwise; SLOB has neither letters nor caches to name.

#![cfg(not(feature = "slob"))]

use std::env;
use std::fmt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use kmem::debugging::{self, Error, leaks, pace};
use kmem::{Cache, heap};
use kmem_core::debug::OnError;
use kmem_core::flags::SlabFlags;

const CASE: &str = "KMEM_TEST_CASE";

/// Runs a case of this program; its status, and what it said on its standard error.
fn child(case: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env::current_exe().unwrap());
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"KMEM_")) {
        command.env_remove(name);
    }
    command.args(["--exact", "a_case", "--nocapture", "--test-threads=1"]);
    command.env(CASE, case).env("KMEM_SYMBOLIZER", "").envs(variables.iter().copied());
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What each case asks for.
const BYTES: usize = 50;
/// Where it comes from. SLUB's usual heap keeps a word beside each block, and so has classes of other sizes.
const CLASS: &str =
    if cfg!(any(feature = "slab", feature = "hardened")) { "kmalloc-64" } else { "kmalloc-56" };

/// A block with one byte too many written, and freed.
fn overflow() {
    let block = heap::malloc(BYTES);
    // SAFETY: on purpose beyond what was asked for, within what the block has.
    unsafe {
        block.add(BYTES).write(1);
        heap::free(block);
    }
}

/// Three blocks of whole pages, of each of which a byte is written, behind its end or the last that is its own, before it is asked
/// for its size, resized, and freed. All is as it should be then.
fn pages(behind: bool) {
    const SIZE: usize = 65_528;
    let damaged = |block: *mut u8, room: usize| {
        let at = if behind { room } else { room - 1 };
        // SAFETY: on purpose beyond what may be used, within what the heap has there; the block is the caller's.
        unsafe { block.add(at).write(block.add(at).read() ^ 0x20) };
        block
    };
    // SAFETY: each block is this function's own until it is freed, once.
    unsafe {
        for _ in 0..3 {
            let block = damaged(heap::calloc(SIZE), SIZE);
            assert_eq!(heap::usable_size(block), SIZE);
            assert_eq!(heap::usable_size(block), SIZE, "it is whole again");
            block.write_bytes(7, SIZE);
            let longer = heap::realloc(damaged(block, SIZE), 100_000);
            let room = heap::usable_size(longer);
            assert!(room >= 100_000);
            let kept = std::slice::from_raw_parts(longer, SIZE - 1);
            assert!(kept.iter().all(|&byte| byte == 7));
            heap::free(damaged(longer, room));
        }
        let again = heap::calloc(SIZE);
        assert!(std::slice::from_raw_parts(again, SIZE).iter().all(|&byte| byte == 0));
        heap::free(again);
    }
}

static LINES: AtomicUsize = AtomicUsize::new(0);
static BUGS: AtomicUsize = AtomicUsize::new(0);
static FIXES: AtomicUsize = AtomicUsize::new(0);
static ASKED: AtomicUsize = AtomicUsize::new(0);

fn receive(line: &str) {
    assert!(line.ends_with('\n'));
    LINES.fetch_add(1, Ordering::Relaxed);
}

/// A line that stands alone says whose it is.
fn receive_one(line: &str) {
    let begin = format!("[{}]: free(): double free of 0x", std::process::id());
    let end = format!("(cache {CLASS})\n");
    assert!(line.starts_with("kmem: ") && line.contains(&begin) && line.ends_with(&end), "{line}");
    LINES.fetch_add(1, Ordering::Relaxed);
}

fn note(what: Error, cache: &str, _text: fmt::Arguments<'_>) {
    assert_eq!(cache, CLASS);
    match what {
        Error::Bug => BUGS.fetch_add(1, Ordering::Relaxed),
        _ => FIXES.fetch_add(1, Ordering::Relaxed),
    };
}

/// The first time it may go on.
fn judge(cache: &str) -> OnError {
    assert_eq!(cache, CLASS);
    match ASKED.fetch_add(1, Ordering::Relaxed) {
        0 => OnError::Warn,
        _ => OnError::Abort,
    }
}

#[test]
fn a_case() {
    match env::var(CASE).as_deref() {
        Ok("functions") => {
            debugging::set_receiver(Some(receive));
            debugging::set_hook(Some(note));
            debugging::set_judge(judge);
            overflow();
            let seen = [&LINES, &BUGS, &FIXES, &ASKED].map(|count| count.load(Ordering::Relaxed));
            assert!(seen[0] > 10 && seen[1..] == [1, 2, 1], "{seen:?}");
            debugging::set_receiver(None);
            overflow();
            unreachable!("the second report stops the process");
        }
        Ok("brief") => {
            // Without letters a double free is one line; hook and judge are asked all the same.
            debugging::set_receiver(Some(receive_one));
            debugging::set_hook(Some(note));
            debugging::set_judge(judge);
            let block = heap::malloc(BYTES);
            // SAFETY: freed twice on purpose: the second is refused.
            unsafe {
                heap::free(block);
                heap::free(block);
            }
            let seen = [&LINES, &BUGS, &FIXES, &ASKED].map(|count| count.load(Ordering::Relaxed));
            assert_eq!(seen, [1, 1, 0, 1]);
        }
        Ok("pages" | "pages-legal") => pages(env::var(CASE).as_deref() == Ok("pages")),
        Ok("validate") => {
            let block = heap::malloc(BYTES);
            assert_eq!(pace::validate().errors, 0);
            // SAFETY: as in `overflow`.
            unsafe { block.add(BYTES).write(1) };
            let found = pace::validate();
            assert!(found.slabs > 0 && found.errors > 0, "{found:?}");
            assert_eq!(pace::validate().errors, 0, "it was repaired");
        }
        Ok("letters") => {
            static RECORDS: Cache<[u64; 6]> = Cache::with_flags("told_record", SlabFlags::NO_MERGE);
            assert_eq!(debugging::set_letters("FX"), Err(debugging::LettersError::Unknown('X')));
            // Before it is made, and while it is used.
            assert_eq!(RECORDS.validate(), None);
            assert_eq!(debugging::set_letters("-;fzu,told_*"), Ok(0));
            let mut one = RECORDS.alloc([1; 6]).unwrap();
            assert_eq!(RECORDS.validate().map(|found| (found.slabs, found.errors)), Some((1, 0)));
            let address = (&raw mut *one).cast::<u8>();
            // SAFETY: on purpose: the byte behind the value is the red zone of its slot.
            unsafe { address.add(size_of::<[u64; 6]>()).write_volatile(1) };
            assert_eq!(RECORDS.validate().map(|found| found.errors), Some(2), "a report and a repair");
            assert_eq!(RECORDS.validate().map(|found| found.errors), Some(0));
            drop(one);
            assert_eq!(debugging::set_letters("-,told_*"), Ok(0));
            drop(RECORDS.alloc([1; 6]).unwrap());
            assert_eq!(RECORDS.counts().in_use(), 0);
        }
        Ok("leak") => {
            assert!(!heap::malloc(777).is_null());
            leaks::set_wanted(env::var_os("KMEM_TEST_SILENT").is_none().then_some(leaks::Show::InUse));
        }
        _ => {}
    }
}

#[test]
#[cfg_attr(feature = "slab", ignore = "SLUB's letters")]
fn a_programs_functions_are_called() {
    let (status, said) = child("functions", &[("KMEM_DEBUG", "FZPU")]);
    assert_eq!(status, None, "a signal ended it: {said}");
    // The first report went to the function, the second to standard error.
    assert_eq!(said.matches(&format!("BUG {CLASS}")).count(), 1, "{said}");
    assert!(said.contains("kfree_any"), "stacks name functions: {said}");
}

#[test]
fn a_single_line_has_receiver_hook_and_judge_too() {
    let (status, said) = child("brief", &[]);
    // A hardened heap asks nobody whether to go on: it ends the program once all was told.
    assert_eq!(status, if cfg!(feature = "hardened") { None } else { Some(0) }, "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(!said.contains("double free"), "{said}");
}

#[test]
#[cfg(not(any(feature = "slab", feature = "hardened")))]
fn what_is_written_behind_pages_is_told_by_who_comes_next() {
    let behind = "(cache kmalloc-large) was written past its end";
    let (status, said) = child("pages", &[("KMEM_ON_ERROR", "warn")]);
    assert_eq!(status, Some(0), "{said}");
    let calls: Vec<_> = said.lines().filter_map(|line| line.split(": ").nth(2)).collect();
    // In three rounds.
    assert_eq!(calls.len(), 9, "{said}");
    assert!(said.lines().all(|line| line.starts_with("kmem: ") && line.ends_with(behind)), "{said}");
    for told in calls.chunks(3) {
        assert!(told[0].starts_with("malloc_usable_size()"), "{said}");
        assert!(told[1].starts_with("realloc()"), "{said}");
        assert!(told[2].starts_with("free()"), "{said}");
    }
    let (status, said) = child("pages", &[]);
    assert_eq!(status, None, "a signal ended it: {said}");
    assert_eq!(said.matches(behind).count(), 1, "{said}");
    for warn in [&[][..], &[("KMEM_ON_ERROR", "warn")]] {
        let (status, said) = child("pages-legal", warn);
        assert_eq!((status, said.as_str()), (Some(0), ""));
    }
}

#[test]
#[cfg_attr(feature = "slab", ignore = "SLUB's letters")]
fn validation_on_demand() {
    let (status, said) = child("validate", &[("KMEM_DEBUG", "FZPU"), ("KMEM_ON_ERROR", "warn")]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said.matches(&format!("BUG {CLASS}")).count(), 1, "{said}");
}

/// The grammar of `KMEM_DEBUG` by a function, and one cache validated.
#[test]
#[cfg_attr(feature = "slab", ignore = "SLUB's letters")]
fn letters_from_the_program() {
    let (status, said) = child("letters", &[("KMEM_ON_ERROR", "warn")]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said.matches("BUG told_record (Not tainted): Right Redzone overwritten").count(), 1, "{said}");
    assert!(said.contains("\nAllocated in ") && said.contains("FIX told_record: Restoring"), "{said}");
}

#[test]
#[cfg_attr(feature = "slab", ignore = "SLUB's letters")]
fn leaks_at_the_end() {
    let (status, said) = child("leak", &[("KMEM_LEAKS", "1"), ("KMEM_LEAKS_EXIT", "44")]);
    assert_eq!(status, Some(44), "{said}");
    assert!(said.contains("777 bytes in 1 object of 777 bytes, allocated at\n"), "{said}");
    assert!(said.contains("SUMMARY: 777 bytes in 1 object leaked, from 1 place"), "{said}");
    let (status, said) = child("leak", &[("KMEM_LEAKS", "1"), ("KMEM_TEST_SILENT", "1")]);
    assert_eq!(status, Some(0), "{said}");
    assert!(!said.contains("SUMMARY"), "{said}");
}
