//! What a heap holds, at rest, for comparing before and after.
//!
//! Every structure is validated on the way. What comes with use and stays is evened out: the arrays behind CPU stacks come with a CPU's first use of a cache, so they are counted less the stacks. The
//! caches of kmalloc's classes may come at first use too: [`Bench::new`] has them made.

use core::sync::atomic::Ordering;

use kmem_core::cache::CacheRef;
use kmem_core::config::Config;
use kmem_core::engine::Engine;
use kmem_core::percpu::{CpuArea, empty};
use kmem_core::platform::Platform;

use crate::failure::{Failure, Outcome, equal, fail};
use crate::{Bench, Driver};

/// Caches that are told apart; those beyond are added up in the last place.
const PLACES: usize = 120;
/// Bytes kept of a name.
const NAME: usize = 20;

#[derive(Clone, Copy)]
struct Place {
    name: [u8; NAME],
    in_use: u64,
}

/// What a heap holds.
pub(crate) struct Holdings {
    places: [Place; PLACES],
    used: usize,
    arrays: i64,
    large_bytes: u64,
    huge_bytes: u64,
    huge_blocks: u64,
    slabless_pages: u64,
}

impl Holdings {
    /// `at_rest`: sends home what CPUs and nodes keep, and counts arrays; otherwise arrays are left out, which is much faster
    /// where there are many CPUs. The other numbers are the same either way.
    pub(crate) fn of<D: Driver>(bench: &Bench<'_, D>, at_rest: bool) -> Result<Self, Failure> {
        let heap = bench.heap();
        if at_rest {
            // Free pages may stay: what is asked is what is in use.
            heap.trim(usize::MAX);
        }
        let mut held = Self {
            places: [Place { name: [0; NAME], in_use: 0 }; PLACES],
            used: 0,
            arrays: 0,
            large_bytes: 0,
            huge_bytes: 0,
            huge_blocks: 0,
            slabless_pages: 0,
        };
        let mut fault = Ok(());
        let mut slab_pages = 0;
        heap.for_each_cache(|cache| {
            let reference = CacheRef::new(cache);
            // SAFETY: the cache is listed, and nobody works on the heap.
            let (counts, found) = unsafe { (heap.counts(reference), heap.validate_cache(reference)) };
            if let Err(found) = found
                && fault.is_ok()
            {
                fault = Err((short(cache.name()), found));
            }
            slab_pages += counts.slabs * cache.pages_per_slab() as u64;
            // SAFETY: as above.
            let id = unsafe { reference.stack_id() };
            let area = heap.platform().cpu_area();
            let stacks = (0..heap.platform().cpus())
                .filter(|&cpu| id != 0 && area.hot(cpu, id).top.load(Ordering::Relaxed) != empty())
                .count();
            held.arrays -= stacks as i64;
            if cache.name().starts_with("sheaf-") {
                held.arrays += counts.in_use() as i64;
            } else {
                held.add(cache.name(), counts.in_use());
            }
        });
        if let Err((name, found)) = fault {
            fail!("cache {} is damaged: {found:?}", text(&name));
        }
        let stats = match heap.pages().validate(heap.platform()) {
            Ok(stats) => stats,
            Err(fault) => fail!("the page floor is damaged: {fault:?}"),
        };
        let totals = heap.totals();
        if !at_rest {
            held.arrays = 0;
        }
        held.large_bytes = totals.large_bytes;
        held.huge_bytes = totals.huge_bytes;
        held.huge_blocks = totals.huge_blocks;
        if <D::Config as Config>::Engine::STACKS {
            held.slabless_pages = (stats.in_use as u64).saturating_sub(slab_pages);
        }
        Ok(held)
    }

    fn place(&mut self, name: &str) -> &mut Place {
        let name = short(name);
        let at = self.places[..self.used].iter().position(|place| place.name == name).unwrap_or_else(|| {
            self.used = (self.used + 1).min(PLACES);
            self.places[self.used - 1].name = name;
            self.used - 1
        });
        &mut self.places[at]
    }

    fn add(&mut self, name: &str, in_use: u64) {
        if in_use > 0 {
            self.place(name).in_use += in_use;
        }
    }

    /// Compares with what is held later.
    ///
    /// # Errors
    /// The first difference.
    pub(crate) fn same(&self, later: &Self) -> Outcome {
        for (left, right) in [(self, later), (later, self)] {
            for place in left.places[..left.used].iter().filter(|place| place.in_use != 0) {
                let other = right.places[..right.used].iter().find(|other| other.name == place.name);
                if other.map_or(0, |other| other.in_use) != place.in_use {
                    let count = |held: &Self| {
                        let found = held.places[..held.used].iter().find(|other| other.name == place.name);
                        found.map_or(0, |place| place.in_use)
                    };
                    fail!(
                        "{} objects of {} are in use, {} were before",
                        count(later),
                        text(&place.name),
                        count(self)
                    );
                }
            }
        }
        equal!(later.large_bytes, self.large_bytes, "bytes of large blocks");
        equal!(later.huge_bytes, self.huge_bytes, "bytes of mappings");
        equal!(later.huge_blocks, self.huge_blocks, "mappings");
        equal!(later.arrays, self.arrays, "arrays that are behind no stack");
        equal!(later.slabless_pages, self.slabless_pages, "pages in use that are in no slab");
        Ok(())
    }
}

fn short(name: &str) -> [u8; NAME] {
    let mut bytes = [0; NAME];
    for (byte, &letter) in bytes.iter_mut().zip(name.as_bytes()) {
        *byte = letter;
    }
    bytes
}

fn text(name: &[u8; NAME]) -> &str {
    let len = name.iter().position(|&byte| byte == 0).unwrap_or(NAME);
    core::str::from_utf8(&name[..len]).unwrap_or("?")
}
