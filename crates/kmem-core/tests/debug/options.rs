//! Options as a heap follows them.

use kmem_core::cache::CacheArgs;
use kmem_core::config::KernelConfig;
use kmem_core::flags::SlabFlags;
use kmem_sim::Machine;

use crate::rig::{F, FZPU, P, Rig, U, Z};

fn heap(options: &'static str) -> Rig<KernelConfig> {
    let rig = Rig::raw(Machine::builder().build());
    assert!(rig.heap.set_debug_options(options));
    assert!(rig.init());
    rig
}

fn letters(rig: &Rig<KernelConfig>, name: &str, flags: SlabFlags) -> SlabFlags {
    let cache =
        rig.create(name, 100, CacheArgs { flags: Some(flags), ..CacheArgs::default() }).expect("a cache");
    // SAFETY: the cache is alive.
    let geometry = unsafe { cache.get() }.geometry();
    assert_eq!(geometry.sheaf_capacity == 0, geometry.is_debug(), "a checked cache has no stacks");
    geometry.flags & (SlabFlags::DEBUG | SlabFlags::FAILSLAB)
}

#[test]
fn caches_follow_the_options() {
    let rig = heap("FZ,dentry;,inode*;-,quiet;P");
    let none = SlabFlags::empty();
    assert_eq!(letters(&rig, "dentry", none), F | Z);
    assert_eq!(letters(&rig, "inode_cache", none), FZPU);
    assert_eq!(letters(&rig, "quiet", none), none);
    assert_eq!(letters(&rig, "other", none), P);
    assert_eq!(letters(&rig, "other", U), P | U);
    assert_eq!(letters(&rig, "dentry", SlabFlags::NO_USER_FLAGS), none);
    assert_eq!(rig.said(), "");
    assert!(!rig.heap.set_debug_options("F"), "only once");
}

#[test]
fn unknown_letters_are_said() {
    let rig = heap("FX9");
    let said = rig.said();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines, ["slub_debug option 'X' unknown. skipped", "slub_debug option '9' unknown. skipped"]);
    assert_eq!(letters(&rig, "a", SlabFlags::empty()), F);
}

/// Objects of 4096 bytes: their metadata would take the least order from 0 to 1.
#[test]
fn the_letter_o_drops_what_would_raise_the_order() {
    let size = 4096;
    for (options, expected) in [("FZPU", FZPU), ("FZPUO", F), ("O;FZPU", FZPU)] {
        let rig = heap(options);
        let cache = rig.create("page", size, CacheArgs::default()).expect("a cache");
        // SAFETY: the cache is alive.
        let geometry = unsafe { cache.get() }.geometry();
        let (kept, expected) = (geometry.flags & SlabFlags::DEBUG, expected);
        let expected = if options == "O;FZPU" { F } else { expected };
        assert_eq!(kept, expected, "{options}");
    }
}

#[test]
fn a_heap_without_options_checks_nothing_by_itself() {
    let rig = Rig::<KernelConfig>::new();
    rig.heap.for_each_cache(|cache| assert!(!cache.geometry().is_debug(), "{}", cache.name()));
    let cache = rig.cache("plain", 64);
    // SAFETY: the cache is alive.
    assert!(unsafe { rig.heap.validate(cache) }.is_err());
    assert_eq!(rig.heap.validate_all().slabs, 0);
}

/// The geometry of every cache under `slub_debug=FZPU`, as a real kernel shows it.
#[test]
fn slabinfo_under_all_letters() {
    let rig = Rig::<KernelConfig>::raw(Machine::builder().cpus(4).build());
    assert!(rig.heap.set_debug_options("FZPU"));
    assert!(rig.init());
    let captured = include_str!("../../../../golden/slabinfo_slub_debug.txt");
    let mut compared = 0;
    rig.heap.for_each_cache(|cache| {
        let found = captured.lines().find(|line| line.split(' ').next() == Some(cache.name()));
        let Some(line) = found.filter(|_| cache.name().contains("kmalloc")) else { return };
        let row: Vec<&str> = line.split_whitespace().collect();
        let geometry = cache.geometry();
        let ours = [geometry.size, geometry.objects, cache.pages_per_slab()].map(|n| n.to_string());
        assert_eq!(ours, [row[3], row[4], row[5]], "{}", cache.name());
        compared += 1;
    });
    assert!(compared >= 13, "{compared} classes");
}
