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
