//! Reports of faults take no room on the program's stacks: the guard on threads with the least alternate stack that the system allows.
//!
//! A report too much for such a stack kills the process, so each case is this program again, as a child.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod stacks;

use std::cell::Cell;
use std::env;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use kmem::host::fault;
use kmem::{debugging, guard, heap};
use stacks::{CASE, alternate, least_stack, mask};

/// What a handler that finds out that it has nothing to do may need, beside what the kernel puts on its stack.
const LITTLE: usize = 1536;

/// Where a guarded block was that is freed.
fn freed() -> usize {
    for _ in 0..10_000 {
        let block = heap::malloc(48);
        if heap::heap().expect("made").guard().holds(block.addr()) {
            // SAFETY: allocated just now.
            unsafe { heap::free(block) };
            return block.addr();
        }
    }
    panic!("nobody is guarded");
}

#[inline(never)]
fn reads(at: usize) {
    // SAFETY: none; that is the point. The page is mapped, and the heap opens it after its report, or the program's handler.
    std::hint::black_box(unsafe { (at as *const u8).read_volatile() });
}

/// Has the program's handler of SIGSEGV run on the alternate stack with these flags too.
fn set_handler(handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void), flags: i32) {
    // SAFETY: a handler that takes these arguments, kept by the heap as a preloaded library has it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | flags;
        assert_eq!(fault::sigaction(libc::SIGSEGV, &raw const action, null_mut()), 0);
    }
}

/// A page of the program's own that nobody may touch, until its handler opens it.
static PAGE: AtomicPtr<u8> = AtomicPtr::new(null_mut());
static RAN_AT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn open_page(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let here = 0_u8;
    RAN_AT.store((&raw const here).addr(), Ordering::Relaxed);
    let page = PAGE.load(Ordering::Relaxed);
    // SAFETY: the kernel's structure; a page of this program's. What was not its page is not lived through.
    unsafe {
        if (*info).si_addr().addr() != page.addr() {
            libc::_exit(99);
        }
        libc::mprotect(page.cast(), 4096, libc::PROT_READ | libc::PROT_WRITE);
    }
}

/// A report on the least stack; then a fault that is not the heap's.
fn small() {
    let block = freed();
    set_handler(open_page, 0);
    thread::spawn(move || {
        let (stack, size) = least_stack(LITTLE);
        let before = mask();
        reads(block);
        assert_eq!((guard::stats().bugs, mask()), (1, before));
        let now = alternate();
        assert_eq!((now.ss_sp.cast::<u8>(), now.ss_size, now.ss_flags), (stack, size, 0));

        // SAFETY: a new mapping; it is touched, and the handler opens it.
        unsafe {
            let page =
                libc::mmap(null_mut(), 4096, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
            PAGE.store(page.cast(), Ordering::Relaxed);
            page.cast::<u8>().write_volatile(1);
        }
        let ran = RAN_AT.load(Ordering::Relaxed);
        assert!((stack.addr()..stack.addr() + size).contains(&ran), "the program's handler, on its stack");
        assert_eq!(guard::stats().bugs, 1);
    })
    .join()
    .expect("it lives");
}

/// The same fault, on a thread's own stack.
fn without() {
    let block = freed();
    thread::spawn(move || {
        let none = libc::stack_t { ss_sp: null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: nobody is on the one that goes.
        assert_eq!(unsafe { libc::sigaltstack(&raw const none, null_mut()) }, 0);
        reads(block);
        assert_eq!(guard::stats().bugs, 1);
        assert_ne!(alternate().ss_flags & libc::SS_DISABLE, 0);
    })
    .join()
    .expect("it lives");
}

const THREADS: usize = 4;
const ROUNDS: usize = 12;

/// Threads that fault at once, again and again.
fn at_once() {
    let start = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let blocks: Vec<_> = (0..ROUNDS).map(|_| freed()).collect();
            let start = Arc::clone(&start);
            thread::spawn(move || {
                least_stack(LITTLE);
                for block in blocks {
                    start.wait();
                    reads(block);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("it lives"));
    assert_eq!(guard::stats().bugs, (THREADS * ROUNDS) as u64);
}

/// What the reports' lines go to touches another block.
static NEXT: AtomicUsize = AtomicUsize::new(0);
thread_local! {
    static LINES: Cell<u32> = const { Cell::new(0) };
}

fn touch(line: &str) {
    eprint!("{line}");
    LINES.set(LINES.get() + 1);
    let next = NEXT.swap(0, Ordering::Relaxed);
    if next != 0 {
        reads(next);
    }
}

/// A fault in a report, on the least stack, and one in a handler of the program's that runs there.
fn nested() {
    extern "C" fn in_handler(_: i32) {
        reads(NEXT.swap(0, Ordering::Relaxed));
    }
    let blocks = [freed(), freed(), freed()];
    // A fault in a report must not find its signal blocked.
    set_handler(open_page, libc::SA_NODEFER);
    debugging::set_receiver(Some(touch));
    thread::spawn(move || {
        let (stack, size) = least_stack(LITTLE);
        NEXT.store(blocks[1], Ordering::Relaxed);
        let before = mask();
        reads(blocks[0]);
        assert_eq!((guard::stats().bugs, mask(), alternate().ss_sp.cast()), (2, before, stack));
        assert!(LINES.get() > 10);

        // Two frames of the kernel's, so twice the stack.
        // SAFETY: the mapping that `least_stack` made has room above; a handler that takes the signal alone.
        unsafe {
            let size = 2 * size;
            assert_eq!(libc::mprotect(stack.cast(), size, libc::PROT_READ | libc::PROT_WRITE), 0);
            let larger = libc::stack_t { ss_sp: stack.cast(), ss_flags: 0, ss_size: size };
            assert_eq!(libc::sigaltstack(&raw const larger, null_mut()), 0);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = in_handler as *const () as usize;
            action.sa_flags = libc::SA_ONSTACK;
            assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, null_mut()), 0);
            NEXT.store(blocks[2], Ordering::Relaxed);
            assert_eq!(libc::raise(libc::SIGUSR1), 0);
        }
        assert_eq!(guard::stats().bugs, 3);
    })
    .join()
    .expect("it lives");
    debugging::set_receiver(None);
}

/// What a hardened heap says of a fault, and then the program's own handler, on the least stack.
fn edge() {
    const SIZE: usize = 100_000;
    let block = heap::malloc(SIZE).addr();
    let behind = (block + SIZE).next_multiple_of(4096);
    set_handler(open_page, 0);
    PAGE.store(behind as *mut u8, Ordering::Relaxed);
    thread::spawn(move || {
        let (stack, size) = least_stack(LITTLE);
        reads(behind);
        assert!((stack.addr()..stack.addr() + size).contains(&RAN_AT.load(Ordering::Relaxed)));
    })
    .join()
    .expect("it lives");
    let distance = behind - block - SIZE;
    eprintln!(
        "expected: {behind:#x}, {}",
        if distance == 0 { "right behind".into() } else { format!("{distance} bytes behind") }
    );
}

#[test]
fn a_case() {
    match env::var(CASE).as_deref() {
        Ok("small") => small(),
        Ok("without") => without(),
        Ok("at once") => at_once(),
        Ok("nested") => nested(),
        Ok("edge") => edge(),
        _ => {}
    }
}

/// Runs a case; what it said on its standard error.
fn child(case: &str) -> String {
    let begin = Instant::now();
    let output = stacks::child(case, &[("KMEM_GUARD", "all"), ("KMEM_ON_ERROR", "warn")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{case}: {:?}: {said}", output.status);
    // Whoever waits for what does not come waits for longer.
    assert!(begin.elapsed() < Duration::from_secs(13), "{case}: {said}");
    said
}

/// The functions on the stack of a report's access, the nearest first.
fn stack(said: &str) -> Vec<&str> {
    let mut lines = said.lines().skip_while(|line| !line.starts_with("Use-after-free read at "));
    assert!(lines.next().is_some(), "{said}");
    lines
        .take_while(|line| !line.is_empty())
        .map(|line| line.trim().split("+0x").next().unwrap_or_default())
        .collect()
}

#[test]
fn a_report_needs_no_room_on_a_small_stack() {
    let said = child("small");
    assert_eq!(said.matches("BUG: kmem: use-after-free read").count(), 1, "{said}");
    // The stack is that of a thread without alternate stack, walked through two others.
    let plain = child("without");
    let depth = |stack: &[&str]| {
        let at = stack.iter().position(|frame| frame.contains("rust_begin_short_backtrace"));
        at.filter(|&at| at > 0).map(|at| stack.len() - at)
    };
    let (found, expected) = (stack(&said), stack(&plain));
    assert!(depth(&found) > Some(3) && depth(&found) == depth(&expected), "{said}{plain}");
}

#[test]
fn all_who_fault_at_once_are_reported() {
    let said = child("at once");
    assert_eq!(said.matches("BUG: kmem: use-after-free read").count(), THREADS * ROUNDS, "{said}");
}

#[test]
fn a_fault_in_a_report_is_reported_too() {
    let said = child("nested");
    assert_eq!(said.matches("BUG: kmem: use-after-free read").count(), 3, "{said}");
}

#[test]
#[cfg(feature = "hardened")]
fn a_named_fault_needs_no_room_either() {
    let said = child("edge");
    let expected = said.lines().find_map(|line| line.strip_prefix("expected: ")).expect("its last line");
    let line = format!("read of {expected} a block of 100000 bytes");
    assert_eq!(said.lines().filter(|said| said.ends_with(&line)).count(), 1, "{line}: {said}");
}
