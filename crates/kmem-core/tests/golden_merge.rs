//! Merging against `slub_merge.csv`: into which of its own caches a running Linux 6.1 put a new one.
//!
//! The table names the cache that took the new one and how many names it then had. To predict both, the
//! test rebuilds the registry of that boot: the same kernel's `/proc/slabinfo` with merging off lists all caches,
//! newest first, and here they are created again, oldest first, with merging on.
//!
//! slabinfo does not tell the properties of a cache. Those that had to be known are below; they come
//! from the sysfs directory of a kernel with merging on, which shows each alias as a link to a name that
//! tells size and kind, and each cache that can have no alias as a directory.

mod golden_support;

use golden_support::{request_flags, rows, slabinfo};
use kmem_core::cache::merge::{Candidate, Wanted, find};
use kmem_core::engine::slub::geometry::{Request, Rules, compute};
use kmem_core::flags::SlabFlags;

const CAPTURED: Rules = Rules { accounting: false, ..Rules::LINUX_6_1.with_cpus(4) };

/// Caches that take no alias and become none: constructed, read during a grace period, or with a window for copies to users.
/// (bio-160 and bio-224 stand for bio-192 and bio-256 of that listing, made by the same code.)
const ALONE: [&str; 16] = [
    "anon_vma",
    "bdev_cache",
    "bio-160",
    "bio-224",
    "dentry",
    "inode_cache",
    "mm_struct",
    "names_cache",
    "proc_dir_entry",
    "proc_inode_cache",
    "radix_tree_node",
    "shmem_inode_cache",
    "sighand_cache",
    "skbuff_head_cache",
    "sock_inode_cache",
    "task_struct",
];
/// Caches of the bootstrap: their reference count is below zero.
const BOOT: [&str; 2] = ["kmem_cache_node", "kmem_cache"];
/// Caches of reclaimable objects among the others.
const RECLAIMABLE: [&str; 1] = ["buffer_head"];
/// Made by the program that printed the listing, not by the kernel; the boot of the merge table had none.
const NOT_THERE: [&str; 2] = ["mycache_hw", "mycache"];

struct Named<'a> {
    name: &'a str,
    cache: Candidate,
}

/// The registry of the boot, oldest first, with aliases already taken.
fn registry(listing: &str) -> Vec<Named<'_>> {
    let mut registry: Vec<Named<'_>> = Vec::new();
    let listed = slabinfo(listing);
    assert_eq!(listed.len(), 92);
    let mut special = 0;
    for row in listed.iter().rev() {
        if NOT_THERE.contains(&row.name) {
            special += 1;
            continue;
        }
        let mut request = Request::new(row.size);
        if RECLAIMABLE.contains(&row.name) {
            request.flags |= SlabFlags::RECLAIM_ACCOUNT;
            special += 1;
        }
        // The classes of kmalloc may be copied to and from users as a whole.
        let class = row.name.starts_with("kmalloc-");
        // Only the size of the slot matters here; a sign for "alone" is as good as the real reason.
        let usersize = if class || ALONE.contains(&row.name) { row.size } else { 0 };
        special += usize::from(ALONE.contains(&row.name));
        let wanted = Wanted::of(&request, usersize, &CAPTURED);
        if let Some(wanted) = wanted
            && let Some(position) = find(registry.iter().map(|named| &named.cache), &wanted)
        {
            registry[position].cache.take(&wanted);
            continue;
        }
        let geometry = compute(&request, &CAPTURED).expect("it ran");
        let mut cache = Candidate::new(&geometry, false, usersize);
        if BOOT.contains(&row.name) {
            cache.refcount = -1;
            special += 1;
        }
        registry.push(Named { name: row.name, cache });
    }
    // Every name above was met.
    assert_eq!(special, ALONE.len() + BOOT.len() + RECLAIMABLE.len() + NOT_THERE.len());
    registry
}

/// Every row, every column: nothing is left undecided.
#[test]
fn every_row_of_slub_merge() {
    let registry = registry(golden!("slabinfo_slub_small.txt"));
    let (mut merged, mut alone) = (0, 0);
    for row in rows(golden!("slub_merge.csv")) {
        assert_eq!(row.number("ncpu"), 4);
        let request = Request {
            align: row.number("req_align"),
            flags: request_flags(row.text("req_flags")),
            ..Request::new(row.number("req_size"))
        };
        let wanted = Wanted::of(&request, 0, &CAPTURED);
        let found = wanted.and_then(|wanted| {
            let position = find(registry.iter().map(|named| &named.cache), &wanted)?;
            let mut cache = registry[position].cache;
            cache.take(&wanted);
            Some((registry[position].name, cache))
        });
        let (name, cache) = found.unwrap_or_else(|| {
            ("slm_test", Candidate::new(&compute(&request, &CAPTURED).expect("fits"), false, 0))
        });
        assert_eq!(usize::from(found.is_some()), row.number("merged"), "{row}");
        assert_eq!(name, row.text("name"), "{row}");
        assert_eq!(cache.refcount, row.number("refcount") as i32, "refcount in {row}");
        assert_eq!(cache.object_size, row.number("object_size"), "object_size in {row}");
        assert_eq!(cache.size, row.number("size"), "size in {row}");
        if found.is_some() { merged += 1 } else { alone += 1 }
    }
    assert_eq!((merged, alone), (274, 494));
}

/// The registry itself is plausible: as many names as the listing has, in fewer caches.
#[test]
fn the_registry_of_that_boot() {
    let registry = registry(golden!("slabinfo_slub_small.txt"));
    let names: i32 = registry.iter().map(|named| named.cache.refcount.abs()).sum();
    assert_eq!(names as usize, 92 - NOT_THERE.len());
    let of = |name| registry.iter().find(|named| named.name == name).map(|named| named.cache.refcount);
    assert_eq!(
        (of("maple_node"), of("vmap_area"), of("filp"), of("kmem_cache")),
        (Some(5), Some(4), None, Some(-1))
    );
}
