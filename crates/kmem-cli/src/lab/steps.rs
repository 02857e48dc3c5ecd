//! The steps that all engines' scripts have.

use kmem_core::Config;
use kmem_core::flags::SlabFlags;

use super::draw::hexdump;
use super::heap::{Heap, Wish};
use super::stage::Stage;
use crate::cli::{CacheFlag, LabArgs};
use crate::failure::{Failure, Result};
use crate::slabinfo::Slabinfo;

/// Allocations that are told one by one.
const TOLD: usize = 4;

/// Bytes of an object that are shown.
pub(crate) const SHOWN: usize = 64;

/// The cache that is there before ours when it is to be merged.
const ELDER: &str = "elder";

/// Creates the cache, and tells whose slabs it got.
///
/// # Errors
/// The heap refuses it.
pub(crate) fn create<C: Config>(stage: &mut Stage, heap: &mut Heap<C>, args: &LabArgs) -> Result<()> {
    let mut flags = SlabFlags::empty();
    let mut names = Vec::new();
    for flag in &args.flags {
        let (flag, name) = match flag {
            CacheFlag::HwcacheAlign => (SlabFlags::HWCACHE_ALIGN, "SLAB_HWCACHE_ALIGN"),
            CacheFlag::TypesafeByRcu => (SlabFlags::TYPESAFE_BY_RCU, "SLAB_TYPESAFE_BY_RCU"),
            CacheFlag::ReclaimAccount => (SlabFlags::RECLAIM_ACCOUNT, "SLAB_RECLAIM_ACCOUNT"),
            CacheFlag::Account => (SlabFlags::ACCOUNT, "SLAB_ACCOUNT"),
        };
        flags |= flag;
        names.push(name);
    }
    let shown = if names.is_empty() { "0".to_owned() } else { names.join(" | ") };
    stage
        .step(&format!("kmem_cache_create(\"{}\", {}, {}, {shown}, NULL)", args.name, args.size, args.align));
    // The teacher's cache stays visible: by itself the heap would let it share the slabs of another.
    let flags = if args.merge { flags } else { flags | SlabFlags::NO_MERGE };
    let wish = Wish { name: &args.name, size: args.size, align: args.align, flags };
    if args.merge {
        let elder = Wish { name: ELDER, ..wish };
        let made = heap.create_elder(&elder);
        made.map_err(|error| Failure::input(format!("no cache '{ELDER}': {error}")))?;
        stage.say(&format!("  (A cache '{ELDER}' of the same kind was created before.)"));
    }
    if let Err(error) = heap.create(&wish) {
        stage.say("kmem_cache_create failed.");
        return Err(Failure::input(format!("no cache '{}': {error}", args.name)));
    }
    stage.say("kmem_cache_create ok");
    let name = heap.descriptor().name();
    if name != args.name {
        stage.say(&format!(
            "  {name} fits as well: '{}' is one more name for it, and shares its slabs.",
            args.name
        ));
    } else if args.merge {
        stage.say(&format!("  It is a cache of its own: this heap does not let '{ELDER}' take it in."));
    }
    Ok(())
}

/// Allocates on CPU 0 until the student has `count` objects, or there is no memory. Tells of the first few: `label` names
/// an object once all are there.
pub(crate) fn allocate_more<C: Config>(
    stage: &Stage,
    heap: &mut Heap<C>,
    mine: &mut Vec<usize>,
    count: usize,
    label: impl Fn(&Heap<C>, &[usize]) -> Vec<String>,
) {
    let before = mine.len();
    let mut failed = false;
    while mine.len() < count && !failed {
        match heap.alloc(0) {
            Some(object) => mine.push(object),
            None => failed = true,
        }
    }
    let told: Vec<usize> = mine[before..].iter().take(TOLD).copied().collect();
    for (object, label) in told.iter().zip(label(heap, &told)) {
        stage.say(&format!("kmem_cache_alloc ok: {label} at {object:#x}"));
    }
    let untold = mine.len() - before - told.len();
    if untold > 0 {
        stage.say(&format!("  and {untold} more"));
    }
    if failed {
        stage
            .say(&format!("kmem_cache_alloc failed: the machine has no memory after {} objects", mine.len()));
    }
}

/// Writes to every object and reads it back. The bytes of the last one are shown.
pub(crate) fn write<C: Config>(
    stage: &mut Stage,
    heap: &mut Heap<C>,
    mine: &[usize],
    label: impl Fn(&Heap<C>, usize) -> String,
) {
    let (object_size, size) = (heap.descriptor().object_size(), heap.descriptor().geometry().size);
    stage.step("write to every object, and read back");
    let content = |number: usize| {
        let mut bytes = format!("object {number} ").into_bytes();
        bytes.resize(object_size, b'.');
        bytes
    };
    for (number, object) in mine.iter().enumerate() {
        heap.write(*object, &content(number));
    }
    let same = |(number, object): &(usize, &usize)| heap.look(**object)[..object_size] == content(*number);
    let good = mine.iter().enumerate().filter(same).count();
    stage.say(&format!("  {good} of {} objects read back as written.", mine.len()));
    let Some(&last) = mine.last() else { return };
    stage.say(&format!("  {} of {size} bytes:", label(heap, last)));
    let bytes = heap.look(last);
    stage.say(&hexdump(&bytes[..bytes.len().min(SHOWN)]));
}

/// The slab table, without the caches that have no slab.
pub(crate) fn table<C: Config>(stage: &mut Stage, heap: &Heap<C>) {
    stage.step("cat /proc/slabinfo");
    let text = heap.slabinfo();
    let mut table = match Slabinfo::parse(&text) {
        Ok(table) => table,
        Err(error) => unreachable!("the heap writes its table as we read it: {error}"),
    };
    let all = table.rows.len();
    table.rows.retain(|row| row.num_slabs > 0);
    let mine = heap.descriptor().name();
    for line in table.to_string().lines() {
        let row = line.split(' ').next() == Some(mine);
        stage.say(&if row { stage.style.paint.bold(line) } else { line.to_owned() });
    }
    let left_out = all - table.rows.len();
    if left_out > 0 {
        stage.say(&format!("  ({left_out} caches without a slab are left out)"));
    }
}

/// Frees what the student has, and destroys the cache.
pub(crate) fn destroy<C: Config>(stage: &mut Stage, heap: &mut Heap<C>, mine: &mut Vec<usize>) {
    stage.step("kmem_cache_free for all objects, then kmem_cache_destroy(my_cache)");
    let name = heap.descriptor().name().to_owned();
    for object in mine.drain(..) {
        heap.free(0, object);
    }
    match heap.destroy() {
        Ok(true) => stage.say("destroyed my_cache"),
        Ok(false) => stage.say(&format!("destroyed my_cache: {name} goes on under its other names")),
        Err(error) => stage.say(&format!("kmem_cache_destroy failed: {error}")),
    }
}
