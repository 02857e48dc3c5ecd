//! Which objects of a slab are free.

use core::sync::atomic::Ordering;

use crate::engine::slub::checked::Checked;
use crate::engine::slub::{slab, word};
use crate::platform::Platform;

/// Objects of the largest slab.
const MOST: usize = 1 << 15;

/// One bit for each object.
pub(super) struct Map([u64; MOST / 64]);

impl Map {
    fn set(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    /// True when this object is free.
    pub(super) fn has(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    /// Free objects.
    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The free objects of a slab: those on its chain, as far as that can be followed, and those never carved.
    /// Also for slabs that are not checked, when nobody works on them.
    pub(super) fn of<P: Platform>(slab: &Checked<'_, P>) -> Self {
        let mut map = Self([0; MOST / 64]);
        let objects = usize::from(slab.objects());
        let mut next = word::load(slab.slab).head().map_or(0, |offset| slab.extent.base + offset as usize);
        for _ in 0..objects {
            let Some(index) = slab.geometry.index_of(slab.extent.base, next, objects) else { break };
            map.set(index);
            next = slab.next(next);
        }
        let start = usize::from(slab.slab.start.load(Ordering::Relaxed));
        for position in usize::from(slab.slab.carved.load(Ordering::Relaxed))..objects {
            map.set(slab::index_at(slab.cache, objects, start, position));
        }
        map
    }
}
