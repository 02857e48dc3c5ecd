//! What a process knows about itself: time, tokens, chance, sleep, the environment; and that none of it
//! shows in `errno`.

#[path = "host/mod.rs"]
mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kmem::host::{Host, misc};
use kmem_core::page::ZoneKind;
use kmem_core::platform::{PAGE_SIZE, PageRange, Platform};
use support::host;

#[test]
fn tokens_tell_threads_apart() {
    let host = host(false);
    let mine = host.lock_token();
    assert_eq!(mine, host.lock_token());
    let barrier = std::sync::Barrier::new(32);
    let mut seen: HashSet<u32> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..32)
            .map(|_| {
                scope.spawn(|| {
                    // All alive at once: only then must they differ.
                    barrier.wait();
                    let token = host.lock_token();
                    barrier.wait();
                    token
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    assert_eq!(seen.len(), 32);
    assert!(seen.insert(mine));
    assert!(seen.iter().all(|&token| token != 0 && token <= i32::MAX as u32));
}

#[test]
fn chance() {
    let host = host(false);
    let numbers: HashSet<u64> = (0..10_000).map(|_| host.entropy()).collect();
    assert_eq!(numbers.len(), 10_000);
    // Each bit is set about half the time: 5,000 of 10,000, and 400 is eight standard deviations.
    for bit in 0..64 {
        let set = numbers.iter().filter(|&&number| number >> bit & 1 != 0).count();
        assert!((4_600..5_400).contains(&set), "bit {bit} set {set} times");
    }
    assert!(!numbers.contains(&support::host(false).entropy()), "another heap, other numbers");
    // Parent and child of a fork part ways.
    let pair = fork_and_ask(host);
    assert_ne!(pair.0, pair.1);
}

fn fork_and_ask(host: &Host) -> (u64, u64) {
    let mut ends = [0; 2];
    // SAFETY: a pipe, a child that only calls the host and `write`, and our own descriptors.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        host.prefork();
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            host.postfork_child();
            let number = host.entropy();
            libc::write(ends[1], (&raw const number).cast(), 8);
            libc::_exit(0);
        }
        host.postfork_parent();
        let mine = host.entropy();
        let mut theirs = 0u64;
        assert_eq!(libc::read(ends[0], (&raw mut theirs).cast(), 8), 8);
        libc::waitpid(child, std::ptr::null_mut(), 0);
        libc::close(ends[0]);
        libc::close(ends[1]);
        (mine, theirs)
    }
}

#[test]
fn time_goes_on() {
    let host = host(false);
    let before = host.now();
    std::thread::sleep(Duration::from_millis(50));
    let passed = host.now() - before;
    assert!((30_000_000..20_000_000_000).contains(&passed), "{passed} ns");
}

#[test]
fn sleepers_wake() {
    let host = host(false);
    let word = AtomicU32::new(1);
    // The value is another one already: no sleep.
    host.lock_wait(&word, 2);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            while word.load(Ordering::Acquire) == 1 {
                host.lock_wait(&word, 1);
            }
        });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!sleeper.is_finished());
        word.store(0, Ordering::Release);
        host.lock_wake(&word);
    });
}

#[test]
fn the_environment() {
    // Cargo sets this one.
    // SAFETY: nothing changes the environment here.
    unsafe {
        assert_eq!(misc::getenv("CARGO_PKG_NAME"), Some(&b"kmem"[..]));
        assert_eq!(misc::getenv("CARGO_PKG"), None, "a prefix is not the name");
        assert_eq!(misc::getenv("KMEM_NO_SUCH_THING"), None);
    }
    assert!(!misc::secure_exec());
}

#[test]
fn nodes_and_cpus_are_in_range() {
    let host = host(false);
    for _ in 0..1000 {
        assert!(host.current_cpu() < host.cpus());
        assert!(host.current_node() < host.nodes());
    }
    assert_eq!(host.nearest_node(0, 0), 0);
}

#[test]
fn errno_is_the_callers() {
    let host = host(false);
    // SAFETY: this thread's errno.
    let errno = unsafe { &mut *libc::__errno_location() };
    *errno = 12345;
    assert!(host.map(1 << 60, PAGE_SIZE).is_none());
    assert!(host.grow(0, ZoneKind::Normal, 1 << 30).is_none());
    let range = host.grow(0, ZoneKind::Normal, 1).expect("memory");
    // SAFETY: our own memory; then a range that is not mapped at all, which the kernel refuses.
    unsafe {
        assert!(host.discard(range));
        assert!(!host.discard(PageRange { first: range.first + (1 << 16), count: 1 }));
    }
    host.lock_wait(&AtomicU32::new(1), 2);
    host.now();
    host.entropy();
    let _ = misc::secure_exec();
    let _ = support::host(false);
    assert_eq!(*errno, 12345);
}

#[test]
fn the_console_gets_the_whole_message() {
    let mut ends = [0; 2];
    // SAFETY: a child with its standard error in a pipe, which calls only the host.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        let host = host(false);
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            libc::dup2(ends[1], 2);
            // More than the pipe holds: written in parts.
            for _ in 0..200 {
                host.console(TEXT);
            }
            host.fatal();
        }
        libc::close(ends[1]);
        let mut total = 0;
        let mut buffer = vec![0u8; 4096];
        loop {
            let got = libc::read(ends[0], buffer.as_mut_ptr().cast(), buffer.len());
            if got <= 0 {
                break;
            }
            total += got as usize;
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT);
        assert_eq!(total, 200 * TEXT.len());
    }
}

const TEXT: &str = match core::str::from_utf8(&[b'x'; 1000]) {
    Ok(text) => text,
    Err(_) => "",
};
