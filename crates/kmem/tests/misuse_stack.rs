//! Reports of misuse take no room on a handler's stack: double frees by handlers of signals on the least alternate stack that the system
//! allows.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod stacks;

use std::cell::Cell;
use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::Output;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use kmem::engine::Chosen;
use kmem::{debugging, heap};
use kmem_core::engine::Engine;
use stacks::{CASE, alternate, child, least_stack, mask};

/// What a free takes that finds out that it must not be, beside what the kernel puts on the stack. A report of one line takes three times as
/// much.
const LITTLE: usize = 1536;
/// And one of a checked cache.
const CHECKED: usize = 4096;

thread_local! {
    /// What the handler frees, and where it ran.
    static BLOCK: Cell<usize> = const { Cell::new(0) };
    static RAN_AT: Cell<usize> = const { Cell::new(0) };
}

#[inline(never)]
extern "C" fn free_again(_: i32) {
    let here = 0_u8;
    RAN_AT.set((&raw const here).addr());
    // SAFETY: none; that is the point. The heap refuses it.
    unsafe { heap::free(BLOCK.get() as *mut u8) };
}

/// A block that was freed, and is not handed out again meanwhile.
fn freed(size: usize) -> usize {
    let block = heap::malloc(size);
    // SAFETY: allocated just now.
    unsafe { heap::free(block) };
    block.addr()
}

/// Frees a freed block once more, in a handler on this thread's alternate stack.
fn in_a_handler(block: usize) {
    // SAFETY: a handler that takes the signal alone.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = free_again as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, null_mut()), 0);
        BLOCK.set(block);
        assert_eq!(libc::raise(libc::SIGUSR1), 0);
    }
}

/// One double free on a stack with so much to spare. All is as it was afterwards.
fn one(little: usize, size: usize) {
    thread::spawn(move || {
        let (stack, bytes) = least_stack(little);
        let before = mask();
        // One beside it, so that the slab stays.
        let beside = heap::malloc(size);
        in_a_handler(freed(size));
        let now = alternate();
        assert_eq!((now.ss_sp.cast::<u8>(), now.ss_size, now.ss_flags), (stack, bytes, 0));
        assert_eq!(mask(), before);
        assert!((stack.addr()..stack.addr() + bytes).contains(&RAN_AT.get()), "the handler, on its stack");
        // The heap works as before, there and here.
        in_a_handler(0);
        let block = heap::malloc(size);
        assert!(!block.is_null());
        in_a_handler(block.addr());
        in_a_handler(beside.addr());
    })
    .join()
    .expect("it lives");
}

const THREADS: usize = 4;
const ROUNDS: usize = 25;

fn at_once() {
    let start = Arc::new(Barrier::new(THREADS));
    // Each second block stays, so that no slab goes; nobody else asks for this size.
    let blocks: Vec<usize> = (0..2 * THREADS * ROUNDS).map(|_| heap::malloc(2900).addr()).collect();
    let freed: Vec<usize> = blocks.into_iter().step_by(2).collect();
    // SAFETY: allocated just now.
    freed.iter().for_each(|&block| unsafe { heap::free(block as *mut u8) });
    let threads: Vec<_> = freed
        .chunks(ROUNDS)
        .map(|blocks| {
            let (start, blocks) = (Arc::clone(&start), blocks.to_vec());
            thread::spawn(move || {
                least_stack(LITTLE);
                for block in blocks {
                    start.wait();
                    in_a_handler(block);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("it lives"));
}

/// What a report's line is written by, and frees once more.
static NEXT: AtomicUsize = AtomicUsize::new(0);
static WROTE_AT: AtomicUsize = AtomicUsize::new(0);

fn write(line: &str) {
    let here = 0_u8;
    WROTE_AT.store((&raw const here).addr(), Ordering::Relaxed);
    eprint!("{line}");
    let next = NEXT.swap(0, Ordering::Relaxed);
    if next != 0 {
        free_again_of(next);
    }
}

fn free_again_of(block: usize) {
    // SAFETY: none; as above.
    unsafe { heap::free(block as *mut u8) };
}

/// A report in a report: who is on the heap's own stack already goes on there.
fn nested() {
    debugging::set_receiver(Some(write));
    thread::spawn(|| {
        let (stack, bytes) = least_stack(LITTLE);
        NEXT.store(freed(5000), Ordering::Relaxed);
        in_a_handler(freed(100));
        let wrote = WROTE_AT.load(Ordering::Relaxed);
        assert!(!(stack.addr()..stack.addr() + bytes).contains(&wrote));
        assert_eq!(alternate().ss_sp.cast::<u8>(), stack);
    })
    .join()
    .expect("it lives");
    debugging::set_receiver(None);
}

/// An alternate stack with room enough is not left.
fn large() {
    const BYTES: usize = 200_000;
    debugging::set_receiver(Some(write));
    thread::spawn(|| {
        let memory = Box::leak(vec![0_u8; BYTES].into_boxed_slice());
        let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: BYTES };
        // SAFETY: the memory stays for ever.
        assert_eq!(unsafe { libc::sigaltstack(&raw const stack, null_mut()) }, 0);
        in_a_handler(freed(100));
        let wrote = WROTE_AT.load(Ordering::Relaxed);
        assert!((memory.as_ptr().addr()..memory.as_ptr().addr() + BYTES).contains(&wrote));
    })
    .join()
    .expect("it lives");
    debugging::set_receiver(None);
}

#[test]
fn a_case() {
    match env::var(CASE).as_deref() {
        Ok("one") => one(LITTLE, 100),
        Ok("checked") => one(CHECKED, 100),
        Ok("at once") => at_once(),
        Ok("nested") => nested(),
        Ok("large") => large(),
        _ => {}
    }
}

/// What a case said that must live.
fn said(case: &str, debug: Option<&str>) -> String {
    let mut variables = vec![("KMEM_ON_ERROR", "warn")];
    variables.extend(debug.map(|letters| ("KMEM_DEBUG", letters)));
    let begin = Instant::now();
    let Output { status, stderr, .. } = child(case, &variables);
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(status.success(), "{case}: {status:?}: {said}");
    // Whoever waits for what does not come waits for longer.
    assert!(begin.elapsed() < Duration::from_secs(13), "{case}: {said}");
    said
}

/// Lines that tell of a double free. Where the slab is gone nobody knows what was there.
fn double_frees(said: &str) -> usize {
    let told = |line: &&str| {
        ["free(): double free of 0x", "free(): invalid free of 0x"].iter().any(|text| line.contains(text))
    };
    said.lines().filter(told).count()
}

/// A hardened heap never goes on.
fn stops() -> bool {
    heap::HARDENED
}

#[test]
fn a_double_free_is_told_on_the_least_stack() {
    if !stops() {
        let said = said("one", None);
        assert_eq!(double_frees(&said), 1, "{said}");
    }
}

#[test]
fn the_process_ends_by_the_right_signal() {
    let Output { status, stderr, .. } = child("one", &[]);
    let said = String::from_utf8_lossy(&stderr);
    assert_eq!((status.signal(), double_frees(&said)), (Some(libc::SIGABRT), 1), "{said}");
}

#[test]
fn a_checked_cache_tells_with_its_stack() {
    let told = match Chosen::NAME {
        "slub" => "Object already free",
        "slab" => "double free detected in cache",
        // It has no letters.
        _ => return,
    };
    for letters in ["FZ", "FZPU"] {
        let said = said("checked", Some(letters));
        assert_eq!(said.matches(told).count(), 1, "{letters}: {said}");
        assert!(said.contains("free_again"), "{letters}: {said}");
        // With U each of the handler's calls took a stack.
        assert_eq!(said.contains("Freed in "), letters.contains('U'), "{letters}: {said}");
    }
}

#[test]
fn all_who_misuse_at_once_are_told_of() {
    if !stops() {
        let said = said("at once", None);
        assert_eq!(double_frees(&said), THREADS * ROUNDS, "{said}");
    }
}

#[test]
fn misuse_in_a_report_is_told_of_too() {
    if !stops() {
        let said = said("nested", None);
        assert_eq!(double_frees(&said), 2, "{said}");
    }
}

#[test]
fn a_large_alternate_stack_is_enough() {
    if !stops() {
        let said = said("large", None);
        assert_eq!(double_frees(&said), 1, "{said}");
    }
}
