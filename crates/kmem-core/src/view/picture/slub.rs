//! One slab of SLUB, object by object, and where each of its free objects hangs.

use core::sync::atomic::Ordering;

use crate::cache::KmemCache;
use crate::config::Config;
use crate::engine::slub::{self, Slub, word};
use crate::heap::Kmem;
use crate::platform::Platform;

/// Where one object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Never handed out: the slab was not carved so far.
    Fresh,
    /// In use.
    User,
    /// Free, at this position from the top of a CPU's stack.
    CpuStack {
        /// The CPU.
        cpu: usize,
        /// 0 is the object that the next allocation gets.
        position: usize,
    },
    /// Free, at this position of the CPU slab's chain.
    CpuChain {
        /// The CPU.
        cpu: usize,
        /// 0 is the chain's head.
        position: usize,
    },
    /// Free, at this position of the slab's own list.
    SlabList {
        /// 0 is the list's head.
        position: usize,
    },
    /// Free, in the barn of a node.
    Barn,
}

/// Whose a slab is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlabOwner {
    /// The slab that a CPU allocates from.
    Cpu(usize),
    /// In the partial chain of a CPU.
    CpuPartial(usize),
    /// On the partial list of its node, at this position.
    NodePartial(usize, usize),
    /// On no list: nothing is free in it.
    Full,
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
    /// Whose it is.
    pub owner: SlabOwner,
    /// Objects that fit.
    pub objects: usize,
    /// Objects carved so far.
    pub carved: usize,
    /// The slab's count of objects in use (all of them while a CPU owns it).
    pub inuse: usize,
    /// Owned by a CPU.
    pub frozen: bool,
}

impl<P: Platform, C: Config<Engine = Slub>> Kmem<P, C> {
    /// The slab that the object or address lies in, when it belongs to the cache.
    pub fn slab_of(&self, cache: &KmemCache, address: usize) -> Option<SlabPicture> {
        let slab = self.pages.head(self.pages.at(address)?);
        if slab.cache.load(Ordering::Relaxed) != core::ptr::from_ref(cache).cast_mut().cast() {
            return None;
        }
        let state = word::load(slab);
        let number = self.pages.index(slab) as u32 + 1;
        let mut owner = SlabOwner::Full;
        for cpu in 0..self.platform.cpus() {
            let Some(here) = cache.engine.cpu(&self.platform, cpu) else { continue };
            if here.slab_number() == number {
                owner = SlabOwner::Cpu(cpu);
            }
            let mut next = here.stack.lock(&self.platform).own.chain;
            while let Some(link) = (next as usize).checked_sub(1).and_then(|index| self.pages.page(index)) {
                if next == number {
                    owner = SlabOwner::CpuPartial(cpu);
                }
                next = link.chain.load(Ordering::Relaxed) as u32;
            }
        }
        for node in 0..self.platform.nodes() {
            let list = cache.engine.node(node).own.list.lock(&self.platform);
            for (position, here) in list.with_room(&self.pages).enumerate() {
                if core::ptr::eq(here, slab) {
                    owner = SlabOwner::NodePartial(node, position);
                }
            }
        }
        Some(SlabPicture {
            base: self.pages.address(slab) as usize,
            pages: slab.pages(),
            node: slab.node(),
            owner,
            objects: slab.objects.load(Ordering::Relaxed).into(),
            carved: slab.carved.load(Ordering::Relaxed).into(),
            inuse: state.inuse().into(),
            frozen: state.frozen(),
        })
    }

    /// Where object number `index` of the slab is, and its address.
    pub fn object_place(&self, cache: &KmemCache, slab: &SlabPicture, index: usize) -> (usize, Place) {
        let object = cache.engine.object(slab.base, index);
        let address = object as usize;
        let place = self
            .on_cpu_stack(cache, object)
            .or_else(|| self.in_cpu_chain(cache, slab, address))
            .or_else(|| self.on_slab_list(cache, slab, address))
            .or_else(|| self.in_barn(cache, object).then_some(Place::Barn))
            .unwrap_or_else(|| if self.is_carved(cache, slab, index) { Place::User } else { Place::Fresh });
        (address, place)
    }

    fn is_carved(&self, cache: &KmemCache, slab: &SlabPicture, index: usize) -> bool {
        if cache.engine.own.sequence.is_null() || slab.objects != cache.engine.geometry.objects {
            return index < slab.carved;
        }
        let Some(page) = self.pages.at(slab.base) else { return false };
        let start = usize::from(page.start.load(Ordering::Relaxed));
        (0..slab.carved).any(|i| {
            // SAFETY: the sequence has as many entries as a normal slab has objects, and the position wraps below that.
            let at = unsafe { *cache.engine.own.sequence.add((start + i) % slab.objects) };
            usize::from(at) == index
        })
    }

    fn on_cpu_stack(&self, cache: &KmemCache, object: *mut u8) -> Option<Place> {
        (0..self.platform.cpus()).find_map(|cpu| {
            let mut from_bottom = None;
            let len = self.each_on_stack(cache, cpu, |i, here| {
                if here == object {
                    from_bottom = Some(i);
                }
            });
            from_bottom.map(|i| Place::CpuStack { cpu, position: len - 1 - i })
        })
    }

    /// Looks at the slab's free objects while its owner's lock keeps it from being given back; nothing when it has
    /// another owner by now.
    fn while_owned(
        &self,
        cache: &KmemCache,
        slab: &SlabPicture,
        look: impl FnOnce() -> Option<Place>,
    ) -> Option<Place> {
        let page = self.pages.at(slab.base)?;
        let number = self.pages.index(page) as u32 + 1;
        match slab.owner {
            SlabOwner::Cpu(cpu) => {
                let here = cache.engine.cpu(&self.platform, cpu)?;
                let _inner = here.stack.lock(&self.platform);
                if here.slab_number() == number { look() } else { None }
            }
            SlabOwner::CpuPartial(cpu) => {
                let here = cache.engine.cpu(&self.platform, cpu)?;
                let inner = here.stack.lock(&self.platform);
                let mut next = inner.own.chain;
                while let Some(link) = (next as usize).checked_sub(1).and_then(|index| self.pages.page(index))
                {
                    if next == number {
                        return look();
                    }
                    next = link.chain.load(Ordering::Relaxed) as u32;
                }
                None
            }
            SlabOwner::NodePartial(node, _) => {
                let list = cache.engine.node(node).own.list.lock(&self.platform);
                if list.with_room(&self.pages).any(|here| core::ptr::eq(here, page)) { look() } else { None }
            }
            SlabOwner::Full => None,
        }
    }

    fn in_cpu_chain(&self, cache: &KmemCache, slab: &SlabPicture, address: usize) -> Option<Place> {
        let SlabOwner::Cpu(cpu) = slab.owner else { return None };
        let here = cache.engine.cpu(&self.platform, cpu)?;
        self.while_owned(cache, slab, || {
            let head = here.head_of_chain(&self.pages);
            let position = self.position_in(cache, slab, head as usize, address)?;
            Some(Place::CpuChain { cpu, position })
        })
    }

    fn on_slab_list(&self, cache: &KmemCache, slab: &SlabPicture, address: usize) -> Option<Place> {
        self.while_owned(cache, slab, || {
            let head = word::load(self.pages.at(slab.base)?).head()?;
            let position = self.position_in(cache, slab, slab.base + head as usize, address)?;
            Some(Place::SlabList { position })
        })
    }

    /// Where `address` stands in the chain from `head`. The caller holds the lock of the slab's owner.
    fn position_in(
        &self,
        cache: &KmemCache,
        slab: &SlabPicture,
        mut head: usize,
        address: usize,
    ) -> Option<usize> {
        let extent = slub::extent(self.floor(), self.pages.at(slab.base)?);
        for position in 0..slab.objects {
            if head.wrapping_sub(extent.base) >= extent.len {
                return None;
            }
            if head == address {
                return Some(position);
            }
            // SAFETY: the object lies in the slab, whose memory stays while its owner's lock is held; every link is
            // checked to lie in the slab.
            head = match unsafe { cache.engine.checked_link(head as *mut u8, extent) } {
                Ok(Some(offset)) => slab.base + offset as usize,
                _ => 0,
            };
        }
        None
    }

    fn in_barn(&self, cache: &KmemCache, object: *mut u8) -> bool {
        (0..self.platform.nodes())
            .any(|node| cache.engine.node(node).own.barn.lock(&self.platform).contains(object))
    }
}
