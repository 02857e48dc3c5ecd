//! A cache of SLAB: the slabs on its nodes' lists with their indexes, and the arrays of free objects in front of them.
//!
//! An object that is in an array counts as out of its slab; so what users hold is what is out and in no array.

use core::sync::atomic::Ordering;

use crate::cache::KmemCache;
use crate::config::Config;
use crate::engine::slab::Slab;
use crate::engine::slab::geometry::{IndexKind, Layout, Management};
use crate::engine::slab::index::{Linked, Packed};
use crate::engine::slab::tunables::Tunables;
use crate::heap::Kmem;
use crate::page::Page;
use crate::percpu::CpuArea;
use crate::platform::Platform;

/// The list that a slab is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum List {
    /// Some of its objects are out.
    Partial,
    /// All are out.
    Full,
    /// None is out.
    Free,
}

/// Where the index of a slab lies now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexHome {
    /// A slab of one object has none.
    None,
    /// In the slab, so many bytes from its start.
    OnSlab(usize),
    /// At this address, outside.
    OffSlab(usize),
    /// In the free object with this number.
    InObject(usize),
    /// In an object that is free; but none is, so there is no index.
    Nowhere,
}

/// A slab as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlabPicture {
    /// First byte.
    pub base: usize,
    /// Pages.
    pub pages: usize,
    /// Node of the memory.
    pub node: usize,
    /// Which list of the node it is on.
    pub list: List,
    /// How many slabs are before it there.
    pub position: usize,
    /// Objects it holds.
    pub objects: usize,
    /// Objects that are out: in use, or in an array.
    pub active: usize,
    /// Bytes from its start to its first object: its colour, and what lies before the objects.
    pub first: usize,
    /// Where its index is.
    pub index: IndexHome,
}

/// The index of a slab, while the lock of its node is held.
pub struct Index<'a> {
    kind: Kind<'a>,
    objects: u32,
    active: u32,
}

enum Kind<'a> {
    None,
    Packed(Packed<'a>),
    Linked(Linked<'a>),
}

impl Index<'_> {
    /// All entries as they stand, also those without a meaning. None where there is no index.
    pub fn entries(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.objects).map_while(|at| match &self.kind {
            Kind::None => None,
            Kind::Packed(index) => index.entry(at),
            Kind::Linked(index) => index.entry(at),
        })
    }

    /// The free objects in the order in which they will be taken. Ends early where the index is damaged.
    pub fn order(&self) -> impl Iterator<Item = u32> + '_ {
        let mut at = match &self.kind {
            Kind::None => 0,
            Kind::Packed(_) => self.active,
            Kind::Linked(index) => index.first(),
        };
        let mut left = self.objects.saturating_sub(self.active);
        core::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            match &self.kind {
                Kind::None => Some(0),
                Kind::Packed(index) => {
                    at += 1;
                    index.entry(at - 1)
                }
                Kind::Linked(index) => {
                    let object = at;
                    at = index.entry(object)?;
                    Some(object)
                }
            }
        })
    }
}

/// An array in front of the slabs of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeArray {
    /// That which the node's CPUs share.
    Shared,
    /// That for the objects of this other node.
    Alien(usize),
}

/// What a node keeps, beside slabs and arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePicture {
    /// Free objects in its slabs.
    pub free_objects: u64,
    /// With more of them free slabs are given back.
    pub free_limit: u64,
    /// Objects that the shared array holds; 0: there is none now.
    pub shared_room: usize,
    /// The shared array was used since the node was last reaped.
    pub shared_touched: bool,
    /// Free slabs were used since then.
    pub free_touched: bool,
    /// When the node is to be reaped next, by the platform's clock.
    pub next_reap: u64,
}

impl<P: Platform, C: Config<Engine = Slab>> Kmem<P, C> {
    /// Shows every slab of a cache, node by node, list by list, each list in its order.
    pub fn each_slab(&self, cache: &KmemCache<Slab>, mut see: impl FnMut(&SlabPicture, &Index<'_>)) {
        for node in 0..self.platform.nodes() {
            let lists = cache.engine.node(node).own.lists.lock(&self.platform);
            for (list, slabs) in
                [(List::Partial, &lists.partial), (List::Full, &lists.full), (List::Free, &lists.free)]
            {
                let mut next = slabs.first(&self.pages);
                let mut position = 0;
                while let Some(slab) = next {
                    let picture = self.slab_picture(cache, slab, list, position);
                    // SAFETY: the lock of the slab's node is held, and outlives the view.
                    see(&picture, &unsafe { index_of(cache, slab, &picture) });
                    position += 1;
                    next = slabs.after(&self.pages, slab);
                }
            }
        }
    }

    fn slab_picture(&self, cache: &KmemCache<Slab>, slab: &Page, list: List, position: usize) -> SlabPicture {
        let base = self.pages.address(slab) as usize;
        let objects = usize::from(slab.objects.load(Ordering::Relaxed));
        let first = Slab::lead(slab) as usize + cache.geometry().red_left_pad;
        let index = slab.chain.load(Ordering::Relaxed) as usize;
        let home = match cache.engine.own.layout.management {
            _ if objects == 1 => IndexHome::None,
            Management::OnSlab => IndexHome::OnSlab(index.wrapping_sub(base)),
            Management::OffSlab => IndexHome::OffSlab(index),
            Management::InObject if index == 0 => IndexHome::Nowhere,
            Management::InObject => {
                IndexHome::InObject(index.wrapping_sub(base + first) / cache.geometry().size)
            }
        };
        let active = slab.word.load(Ordering::Relaxed) as u32 as usize;
        SlabPicture {
            base,
            pages: slab.pages(),
            node: slab.node(),
            list,
            position,
            objects,
            active,
            first,
            index: home,
        }
    }

    /// Shows what a node keeps, and each free object in its arrays, the oldest of each first.
    pub fn node_arrays(
        &self,
        cache: &KmemCache<Slab>,
        node: usize,
        mut see: impl FnMut(NodeArray, *mut u8),
    ) -> NodePicture {
        let own = &cache.engine.node(node).own;
        for home in (0..self.platform.nodes()).filter(|&home| home != node) {
            own.each_alien(&self.platform, home, |&object| see(NodeArray::Alien(home), object));
        }
        let lists = own.lists.lock(&self.platform);
        lists.shared.objects().iter().for_each(|&object| see(NodeArray::Shared, object));
        NodePicture {
            free_objects: lists.free_objects,
            free_limit: cache.engine.own.free_limit(
                &self.platform,
                cache.geometry().objects,
                lists.dead_cpus,
            ),
            shared_room: lists.shared.room(),
            shared_touched: lists.shared.touched,
            free_touched: lists.free_touched,
            next_reap: lists.next_reap,
        }
    }

    /// True when a CPU allocated from its array since it was last reaped.
    pub fn is_touched(&self, cache: &KmemCache<Slab>, cpu: usize) -> bool {
        let Some(here) = cache.engine.cpu(&self.platform, cpu) else { return false };
        let hot = self.platform.cpu_area().hot(cpu, cache.engine.id);
        here.own.touched(hot.allocs.load(Ordering::Relaxed))
    }

    /// Where everything lies in a cache's slabs.
    pub fn slab_layout(&self, cache: &KmemCache<Slab>) -> Layout {
        cache.engine.own.layout
    }

    /// The numbers now in effect that steer a cache's arrays.
    pub fn slab_tunables(&self, cache: &KmemCache<Slab>) -> Tunables {
        cache.engine.own.tunables(&cache.engine)
    }

    /// Name of the cache that the object at an address is of.
    pub fn name_at(&self, address: usize) -> Option<&str> {
        self.cache_of(core::ptr::without_provenance_mut(address)).ok().map(KmemCache::name)
    }
}

/// The index of a slab.
///
/// # Safety
/// The lock of the slab's node is held while the answer lives, which is only read.
unsafe fn index_of<'a>(cache: &KmemCache<Slab>, slab: &Page, picture: &SlabPicture) -> Index<'a> {
    let (objects, active) = (picture.objects as u32, picture.active as u32);
    let memory = core::ptr::with_exposed_provenance_mut::<u8>(slab.chain.load(Ordering::Relaxed) as usize);
    let kind = match (picture.index, cache.engine.own.layout.index) {
        (IndexHome::None | IndexHome::Nowhere, _) => Kind::None,
        // SAFETY: the index of a slab has room for its objects and is filled; it changes under the lock only.
        (_, IndexKind::Packed) => Kind::Packed(unsafe { Packed::new(memory, objects, active) }),
        (_, IndexKind::Linked) => {
            let first = (slab.word.load(Ordering::Relaxed) >> 32) as u32;
            // SAFETY: as above.
            Kind::Linked(unsafe { Linked::new(memory.cast(), objects, first) })
        }
    };
    Index { kind, objects, active }
}
