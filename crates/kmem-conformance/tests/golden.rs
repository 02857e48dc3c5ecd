//! Live caches against the tables captured from Linux 6.1, for every engine: what the addresses and slabinfo say, not what
//! the rules compute. Built as the kernel was, on a machine with as many CPUs.

#[path = "../../kmem-core/tests/golden_support/mod.rs"]
mod golden_support;

use golden_support::{Row, request_flags, rows};
use kmem_core::Kmem;
use kmem_core::cache::{CacheArgs, CacheRef};
use kmem_core::config::{Config, KernelConfig};
use kmem_core::engine::Engine;
use kmem_core::engine::slab::Slab;
use kmem_core::engine::slob::Slob;
use kmem_core::engine::slub::Slub;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::ZERO_SIZE_PTR;
use kmem_core::page::Kind;
use kmem_core::view::slabinfo::write_row;
use kmem_sim::Machine;

/// The tests below for each engine.
macro_rules! engines {
    ($($name:ident: $engine:ty: $($test:ident)+;)+) => {
        $(mod $name {
            use super::*;
            $(#[test] fn $test() { super::$test::<KernelConfig<$engine>>(); })+
        })+
    };
}

engines! {
    slub: Slub: every_row_of_the_geometry every_row_of_allocation_order every_row_of_ksize
        every_row_of_natural_alignment the_caches_of_the_boot;
    slab: Slab: every_row_of_the_geometry every_row_of_allocation_order every_row_of_ksize
        every_row_of_natural_alignment the_caches_of_the_boot;
    slob: Slob: every_row_of_the_geometry every_row_of_ksize every_row_of_natural_alignment;
}

struct Live<C: Config> {
    machine: Machine,
    heap: Box<Kmem<Machine, C>>,
}

type Cache<C> = CacheRef<<C as Config>::Engine>;

fn live<C: Config>() -> Live<C> {
    let machine = Machine::builder().cpus(4).memory_per_node(32 << 10).build();
    let heap = Box::new(Kmem::new(machine.clone()));
    // SAFETY: the heap is boxed and shared with nobody yet.
    unsafe { heap.init() }.expect("memory");
    Live { machine, heap }
}

impl<C: Config> Live<C> {
    fn name(&self) -> &'static str {
        C::Engine::NAME
    }

    fn cache(&self, size: usize, args: CacheArgs) -> Option<Cache<C>> {
        let flags = args.flags.unwrap_or(SlabFlags::empty()) | SlabFlags::NO_MERGE;
        self.heap.create("mycache", size, CacheArgs { flags: Some(flags), ..args }).ok()
    }

    fn take(&self, cache: Cache<C>, n: usize) -> Vec<*mut u8> {
        // SAFETY: the test holds the cache.
        let objects: Vec<_> = (0..n).map(|_| unsafe { self.heap.alloc(cache, Gfp::KERNEL) }).collect();
        assert!(objects.iter().all(|object| !object.is_null()));
        objects
    }

    fn free(&self, cache: Cache<C>, object: *mut u8) {
        // SAFETY: the test holds cache and object.
        unsafe { self.heap.free(cache, object) }.expect("a good object");
    }

    fn destroy(&self, cache: Cache<C>) {
        // SAFETY: the test holds the cache, and no object.
        assert_eq!(unsafe { self.heap.destroy(cache) }, Ok(true));
    }

    /// Bytes from the start of its slab to an object.
    fn offset(&self, object: *mut u8) -> usize {
        let pages = self.heap.pages();
        let head = pages.head(pages.at(object.addr()).expect("an address of the heap"));
        object.addr() - pages.address(head).addr()
    }
}

fn lowest_bit(addresses: &[*mut u8]) -> usize {
    1 << addresses.iter().fold(0, |bits, address| bits | address.addr()).trailing_zeros()
}

unsafe extern "C" fn construct(_object: *mut u8) {}

/// The table of an engine's geometry.
fn geometry_table(engine: &str) -> &'static str {
    match engine {
        "slub" => golden!("slub_geometry.csv"),
        "slab" => golden!("slab_geometry.csv"),
        "slob" => golden!("slob_geometry.csv"),
        _ => panic!("no table for {engine}"),
    }
}

/// The columns of slabinfo that the table tells, by the names it uses for them.
fn expected_columns(engine: &str, row: &Row<'_>) -> [usize; 6] {
    let number = |column| row.number(column);
    match engine {
        "slub" => [number("size"), number("objs_per_slab"), 1 << number("order"), 0, 0, 0],
        _ => [
            number("size"),
            number("objs_per_slab"),
            number("pagesperslab"),
            number("limit"),
            number("batchcount"),
            number("shared"),
        ],
    }
}

fn every_row_of_the_geometry<C: Config>() {
    let live = live::<C>();
    let (mut made, mut refused) = (0, 0);
    for row in rows(geometry_table(live.name())) {
        let align = row.number("req_align");
        let args = CacheArgs {
            align,
            flags: Some(request_flags(row.text("req_flags"))),
            ctor: (row.number("ctor") == 1).then_some(construct as _),
            ..CacheArgs::default()
        };
        let created = live.cache(row.number("req_size"), args);
        // The kernel takes alignments of 24 and does not keep them.
        if row.text("object_size") == "FAILED" || (align != 0 && !align.is_power_of_two()) {
            assert!(created.is_none(), "{row}");
            refused += 1;
            continue;
        }
        let cache = created.unwrap_or_else(|| panic!("refused: {row}"));
        // SAFETY: the cache is alive.
        let descriptor = unsafe { cache.get() };
        let geometry = descriptor.geometry();
        assert_eq!(geometry.size, row.number("size"), "{row}");
        assert_eq!(geometry.object_size, row.number("object_size"), "{row}");
        assert_eq!(geometry.align, row.number("align"), "{row}");
        if live.name() == "slob" {
            if row.number("first_obj_offset") == usize::MAX {
                // The kernel made the cache, but an object and its footer are larger than any block of pages.
                // SAFETY: the cache is alive.
                assert!(unsafe { live.heap.alloc(cache, Gfp::KERNEL) }.is_null(), "{row}");
                live.destroy(cache);
                continue;
            }
            let objects = live.take(cache, 3);
            assert!(lowest_bit(&objects) >= row.number("align"), "{row}");
            objects.into_iter().for_each(|object| live.free(cache, object));
        } else {
            let info = live.heap.slabinfo_row(descriptor);
            let [limit, batch, shared] = info.tunables.map(|number| number as usize);
            let columns = [info.objsize, info.objperslab, info.pagesperslab, limit, batch, shared];
            assert_eq!(columns, expected_columns(live.name(), &row), "{row}");
            let objects = live.take(cache, row.number("objs_per_slab"));
            let lowest = objects.iter().map(|&object| live.offset(object)).min();
            assert_eq!(lowest, Some(row.number("first_obj_offset")), "{row}");
            // Of a single object it would be chance: where its slab happens to lie.
            if objects.len() > 1 && row.number("observed_align") != 0 {
                assert_eq!(lowest_bit(&objects), row.number("observed_align"), "{row}");
            }
            objects.into_iter().for_each(|object| live.free(cache, object));
        }
        live.destroy(cache);
        made += 1;
    }
    assert!(made > 1300 && refused > 20, "{made} made, {refused} refused");
}

fn every_row_of_allocation_order<C: Config>() {
    let live = live::<C>();
    let mut checked = 0;
    let mut table = rows(golden!("allocation_order.csv")).filter(|row| row.text("allocator") == live.name());
    while let Some(row) = table.next() {
        assert_eq!(row.text("step"), "fresh");
        let args = CacheArgs { flags: Some(request_flags(row.text("req_flags"))), ..CacheArgs::default() };
        let cache = live.cache(row.number("req_size"), args).expect("a cache");
        // SAFETY: the cache is alive.
        let geometry = *unsafe { cache.get() }.geometry();
        let indices = |objects: &[*mut u8]| {
            let index = |&object: &*mut u8| {
                ((live.offset(object) - geometry.red_left_pad) / geometry.size).to_string()
            };
            objects.iter().map(index).collect::<Vec<_>>().join(" ")
        };
        let mut objects = live.take(cache, 12);
        assert_eq!(indices(&objects), row.text("object_indices"), "{row}");
        for position in [3, 7, 5] {
            live.free(cache, objects[position - 1]);
        }
        let again = table.next().expect("the second step");
        assert_eq!(again.text("step"), "realloc");
        let taken = live.take(cache, 3);
        assert_eq!(indices(&taken), again.text("object_indices"), "{again}");
        for (position, object) in [3, 7, 5].into_iter().zip(taken) {
            objects[position - 1] = object;
        }
        objects.into_iter().for_each(|object| live.free(cache, object));
        live.destroy(cache);
        checked += 1;
    }
    assert_eq!(checked, 12);
}

fn every_row_of_ksize<C: Config>() {
    let live = live::<C>();
    let pages = live.heap.pages();
    let mut blocks = 0;
    for row in rows(golden!("kmalloc_ksize.csv")) {
        let column = |name: &str| format!("{}_{name}", live.name());
        let n = row.number("n");
        let block = live.heap.kmalloc(n, Gfp::KERNEL | Gfp::NOWARN);
        let kind = pages.at(block.addr()).map(|page| pages.head(page).kind());
        let backing = match kind {
            Some(Kind::Slab | Kind::Slob) => "slab",
            Some(Kind::Large) => "page",
            _ if block == ZERO_SIZE_PTR => "zero_size_ptr",
            _ => "none",
        };
        assert_eq!(backing, row.text(&column("backing")), "{row}");
        if !block.is_null() {
            assert_eq!(live.heap.ksize(block), Ok(row.number(&column("ksize"))), "{row}");
            let roundup = Kmem::<Machine, C>::kmalloc_size_roundup(n);
            assert_eq!(roundup, row.number(&column("size_roundup")), "{row}");
            blocks += 1;
        }
        // SAFETY: the test holds the block, if there is one.
        assert_eq!(unsafe { live.heap.kfree(block) }, Ok(()));
    }
    assert_eq!(blocks, 6591 - 2);
    assert!(live.machine.outstanding().map_bytes == 0);
}

fn every_row_of_natural_alignment<C: Config>() {
    let live = live::<C>();
    let mut checked = 0;
    for row in rows(golden!("kmalloc_natural_alignment.csv")) {
        if row.text("allocator") != live.name() {
            continue;
        }
        let (n, count) = (row.number("n"), row.number("count"));
        let blocks: Vec<*mut u8> = (0..count).map(|_| live.heap.kmalloc(n, Gfp::KERNEL)).collect();
        assert!(blocks.iter().all(|block| !block.is_null()));
        let lowest = row.number("lowest_set_bit_over_all_addresses");
        // The captured one was over these addresses; with few blocks a higher one may be chance, a lower one is wrong.
        assert!(lowest_bit(&blocks) >= lowest, "{row}: {}", lowest_bit(&blocks));
        if count > 8 {
            assert_eq!(lowest_bit(&blocks), lowest, "{row}");
        }
        // SAFETY: the test holds the blocks.
        blocks.into_iter().for_each(|block| assert_eq!(unsafe { live.heap.kfree(block) }, Ok(())));
        checked += 1;
    }
    assert_eq!(checked, 20);
}

/// The classes of kmalloc in a captured slabinfo: our lines for them have the same columns.
fn the_caches_of_the_boot<C: Config>() {
    let live = live::<C>();
    let captured = match live.name() {
        "slub" => golden!("slabinfo_slub_small.txt"),
        _ => golden!("slabinfo_slab.txt"),
    };
    let columns = |line: &str| {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        [&words[0], &words[3], &words[4], &words[5], &words[8], &words[9], &words[10]].map(Clone::clone)
    };
    let mut ours = Vec::new();
    live.heap.for_each_cache(|cache| {
        let mut line = String::new();
        write_row(&mut line, cache.name(), &live.heap.slabinfo_row(cache)).expect("a String takes all");
        ours.push(columns(&line));
    });
    let mut checked = 0;
    for line in
        captured.lines().filter(|line| line.starts_with("kmalloc-") && !line.starts_with("kmalloc-cg"))
    {
        let line = columns(line);
        assert!(ours.contains(&line), "{line:?} is not among {ours:?}");
        checked += 1;
    }
    assert!(checked >= 11, "{checked} classes");
}
