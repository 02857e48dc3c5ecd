//! Failures by who asks: threads, stacks, and what has not begun.

use std::sync::atomic::{AtomicBool, Ordering};

use kmem_core::config::KernelConfig;
use kmem_core::fault::{Attributes, Kind, Task};
use kmem_core::platform::Platform;

use crate::rule;
use crate::support::{QUIET, Rig};

fn fails(rig: &Rig<KernelConfig>, attributes: Attributes) -> bool {
    let cache = rig.cache("some", 64);
    rig.heap.inject(Kind::Slab, Some(rule(attributes)));
    let object = rig.alloc(cache, QUIET);
    rig.heap.inject(Kind::Slab, None);
    if !object.is_null() {
        rig.give(cache, vec![object]);
    }
    assert_eq!(rig.destroy(cache), Ok(true));
    object.is_null()
}

#[test]
fn stacks_choose() {
    let rig = Rig::<KernelConfig>::new();
    let always = Attributes::ALWAYS;
    let through = |calls| Attributes { stack: Some(calls), ..always };
    let not_through = |calls| Attributes { not_stack: Some(calls), ..always };
    rig.machine.set_calls(&["kvmalloc+0x4/0x40", "ext4_mount+0x12/0x300", "do_mount+0x1/0x20"]);
    assert!(fails(&rig, through("ext4_mount")) && fails(&rig, through("xfs_*|ext4_*")));
    assert!(fails(&rig, through("ext4_mount+0x12/0x300")) && !fails(&rig, through("ext4")));
    assert!(!fails(&rig, not_through("do_mount")) && fails(&rig, not_through("umount")));
    let both = Attributes { stack: Some("do_mount"), not_stack: Some("ext4_*"), ..always };
    assert!(!fails(&rig, both));
    assert!(fails(&rig, Attributes { depth: 3, ..through("do_mount") }));
    assert!(!fails(&rig, Attributes { depth: 2, ..through("do_mount") }));
    rig.machine.set_calls(&[]);
    assert!(!fails(&rig, through("*")), "without a stack nobody is on it");
    assert!(fails(&rig, not_through("*")));
}

#[test]
fn requests_that_a_filter_drops_are_not_counted() {
    let rig = Rig::<KernelConfig>::new();
    let cache = rig.cache("some", 64);
    let fault = rule(Attributes { stack: Some("wanted"), ..Attributes::nth(2) });
    rig.heap.inject(Kind::Slab, Some(fault));
    let mut got = Vec::new();
    for call in ["wanted+0x1/0x2", "other+0x1/0x2", "other+0x1/0x2", "wanted+0x1/0x2"] {
        rig.machine.set_calls(&[call]);
        got.push(rig.alloc(cache, QUIET));
    }
    let failed: Vec<bool> = got.iter().map(|object| object.is_null()).collect();
    assert_eq!((failed, fault.asked()), (vec![false, false, false, true], 2));
}

#[test]
fn threads_choose() {
    let rig = Rig::<KernelConfig>::new();
    let me = rig.machine.thread();
    assert!(fails(&rig, Attributes { task: Task::Thread(me), ..Attributes::ALWAYS }));
    assert!(!fails(&rig, Attributes { task: Task::Thread(me + 1), ..Attributes::ALWAYS }));
}

static BEGUN: AtomicBool = AtomicBool::new(false);

fn begun() -> bool {
    BEGUN.load(Ordering::Relaxed)
}

#[test]
fn nothing_counts_before_the_beginning() {
    let rig = Rig::<KernelConfig>::new();
    let cache = rig.cache("some", 64);
    let fault = rule(Attributes { started: Some(begun), ..Attributes::nth(1) });
    rig.heap.inject(Kind::Slab, Some(fault));
    let early = rig.alloc(cache, QUIET);
    assert!(!early.is_null());
    BEGUN.store(true, Ordering::Relaxed);
    assert!(rig.alloc(cache, QUIET).is_null());
    assert_eq!(fault.asked(), 1);
    rig.give(cache, vec![early]);
}

/// Each thread's own n-th request fails, whatever the others ask meanwhile.
#[test]
fn threads_count_for_themselves() {
    let rig = Rig::<KernelConfig>::new();
    let each = rule(Attributes { task: Task::Each, ..Attributes::nth(3) });
    rig.heap.inject(Kind::Slab, Some(each));
    let failed = |rig: &Rig<KernelConfig>| {
        let asks = (1..=6).map(|_| rig.heap.kmalloc(100, QUIET));
        asks.map(|block| if block.is_null() { true } else { rig.kfree(block).is_err() }).collect::<Vec<_>>()
    };
    let expected = [false, false, true, false, false, false];
    assert_eq!(failed(&rig), expected);
    assert_eq!((each.failed(), each.asked()), (1, 6));
    let me = rig.heap.platform().thread();
    assert_eq!((each.left(me), each.left(me + 1)), (Some(0), None));
    assert!(each.arm(me, 1));
    assert_eq!(failed(&rig), [true, false, false, false, false, false]);
    each.restart();
    assert_eq!(failed(&rig), expected, "as new");
    // Only those that arm themselves.
    let armed = rule(Attributes::armed());
    rig.heap.inject(Kind::Slab, Some(armed));
    assert_eq!(failed(&rig), [false; 6]);
    assert!(armed.arm(me, 5) && armed.is_armed());
    assert_eq!(failed(&rig), [false, false, false, false, true, false]);
    armed.disarm(me);
    assert!(!armed.is_armed());
    rig.heap.inject(Kind::Slab, None);
}
