//! Both ways to walk a stack show the same frames.

use std::cell::RefCell;

use crate::host::trace::{Way, backtrace, set_way};

thread_local! {
    static STACKS: RefCell<[Vec<usize>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

// The ends of [`stack`]'s code, which has a section of its own: what lies around it is the linker's choice, and may be the walk's own.
unsafe extern "C" {
    static __start_kmem_tests_stack: u8;
    static __stop_kmem_tests_stack: u8;
}

/// The callers of the caller: the same return addresses whichever way was asked for.
#[unsafe(link_section = "kmem_tests_stack")]
#[inline(never)]
fn stack(way: Way) -> Vec<usize> {
    set_way(way);
    let mut frames = [0; 96];
    let len = backtrace(&mut frames);
    set_way(Way::Rules);
    let here = (&raw const __start_kmem_tests_stack).addr()..(&raw const __stop_kmem_tests_stack).addr();
    // The nearest frames are the walk's own; the last of these is here.
    let own = frames[..len].iter().position(|&frame| here.contains(&frame));
    frames[own.expect("this function is on the stack") + 1..len].to_vec()
}

#[inline(never)]
fn both() -> usize {
    assert!(super::walk(super::Registers::here(), |_| true), "no rules for this stack");
    let stacks = [Way::Rules, Way::Tables].map(stack);
    assert_eq!(stacks[0][1..], stacks[1][1..]);
    stacks[0].len()
}

/// Frames of several sizes, some with saved registers, one that is aligned.
#[inline(never)]
fn deep(left: u32, numbers: &mut [u64; 4]) -> usize {
    #[repr(align(64))]
    struct Wide([u8; 256]);
    let mut wide = Wide([left as u8; 256]);
    std::hint::black_box(&mut wide.0);
    numbers[left as usize % 4] = numbers[0].wrapping_mul(3) + u64::from(left);
    let depth = if left == 0 { both() } else { deep(left - 1, std::hint::black_box(numbers)) };
    std::hint::black_box(numbers);
    depth
}

#[test]
fn the_same_frames_on_a_threads_stack() {
    let shallow = both();
    assert!(shallow >= 3, "{shallow}");
    assert_eq!(deep(20, &mut [1; 4]), deep(0, &mut [1; 4]) + 20);
}

#[test]
fn the_same_frames_with_kept_rules_and_with_new_ones() {
    let first = deep(5, &mut [1; 4]);
    super::rule::forget();
    assert_eq!(deep(5, &mut [1; 4]), first);
}

#[test]
fn the_same_frames_from_a_sort_of_the_c_library() {
    extern "C" fn compare(_: *const libc::c_void, _: *const libc::c_void) -> libc::c_int {
        assert!(both() >= 4);
        0
    }
    let mut numbers = [3_u32, 1, 2];
    // SAFETY: three numbers, and a function that compares.
    unsafe { libc::qsort(numbers.as_mut_ptr().cast(), 3, 4, Some(compare)) };
}

#[test]
fn the_same_frames_through_the_stack_of_faults() {
    let here = both();
    // `both` sees that they can be walked by rules.
    assert!(crate::host::fault::on_own_stack(both) > here);
    assert!(crate::host::fault::on_own_stack(|| deep(5, &mut [1; 4])) > here + 5);
}

#[test]
fn the_same_frames_through_a_signal() {
    extern "C" fn handler(_: libc::c_int) {
        STACKS.with(|stacks| *stacks.borrow_mut() = [Way::Rules, Way::Tables].map(stack));
    }
    // SAFETY: a handler that runs on this thread's stack while it waits in `raise`.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = handler as extern "C" fn(libc::c_int) as usize;
        assert_eq!(libc::sigaction(libc::SIGURG, &raw const action, core::ptr::null_mut()), 0);
        assert_eq!(libc::raise(libc::SIGURG), 0);
    }
    let stacks = STACKS.with(|stacks| stacks.take());
    assert!(stacks[0].len() >= 5, "{stacks:?}");
    assert_eq!(stacks[0][1..], stacks[1][1..]);
}
