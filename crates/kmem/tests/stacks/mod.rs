//! What tests of small stacks share.
//!
//! What is too much for such a stack kills the process, so each case is the test program again, as a child.

use std::env;
use std::process::{Command, Output};
use std::ptr::{null, null_mut};

/// The variable that tells a child its case.
pub(crate) const CASE: &str = "KMEM_TEST_CASE";

pub(crate) fn alternate() -> libc::stack_t {
    // SAFETY: zero is a value; asks only.
    unsafe {
        let mut stack = std::mem::zeroed();
        assert_eq!(libc::sigaltstack(null(), &raw mut stack), 0);
        stack
    }
}

pub(crate) fn mask() -> u64 {
    let mut mask = 0_u64;
    // SAFETY: the kernel writes 64 bits; nothing is set.
    let asked = unsafe { libc::syscall(libc::SYS_rt_sigprocmask, 0, null::<u64>(), &raw mut mask, 8) };
    assert_eq!(asked, 0);
    mask
}

/// Gives this thread an alternate stack of the kernel's least size and `little` more, with nothing below; its start and size.
pub(crate) fn least_stack(little: usize) -> (*mut u8, usize) {
    const PAGES: usize = 64 << 10;
    // SAFETY: always answers.
    let least = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
    let size = (if least == 0 { libc::MINSIGSTKSZ } else { least } + little).next_multiple_of(64);
    assert!(size < PAGES);
    // SAFETY: new mappings, the first of which ends the other one's pages where the stack ends; the stack stays for ever.
    unsafe {
        let all = libc::mmap(
            null_mut(),
            2 * PAGES,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(all, libc::MAP_FAILED);
        let (page, above) = (4096, all.cast::<u8>().add(PAGES));
        let used = size.next_multiple_of(page);
        assert_eq!(libc::mprotect(above.cast(), used, libc::PROT_READ | libc::PROT_WRITE), 0);
        // Its lowest byte is the page's, so that one too many is the protected one's: what is above is not used.
        let stack = libc::stack_t { ss_sp: above.cast(), ss_flags: 0, ss_size: size };
        assert_eq!(libc::sigaltstack(&raw const stack, null_mut()), 0);
        (above, size)
    }
}

/// Runs the test `a_case` of this program with its case and variables of the heap.
pub(crate) fn child(case: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env::current_exe().expect("own path"));
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"KMEM_")) {
        command.env_remove(name);
    }
    command.args(["--exact", "a_case", "--nocapture", "--test-threads=1"]);
    command.env(CASE, case).env("KMEM_SYMBOLIZER", "").env("KMEM_RATELIMIT", "0");
    command.envs(variables.iter().copied());
    command.output().expect("it starts")
}
