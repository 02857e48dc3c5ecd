//! The debug letters of caches that are in use.
//!
//! # Theory
//! A cache is laid out by the letters that it has when it is made. Where its engine can ([`Engine::SWITCHES`]) it gets others
//! later: slabs that are made from then on follow, old ones keep their layout, and each object is checked by that of its slab. One
//! cache is given its letters by whoever has it ([`Kmem::set_debug_letters`]); a text of the options' grammar, by all that
//! it names, and by those of that name which are made later ([`Kmem::change_debug_options`]).
//!
//! # Lock order
//! Changes hold the registry's lock: no cache comes or goes meanwhile, and changes do not cross.

use core::fmt;
use core::sync::atomic::Ordering;

use crate::cache::{CacheRef, KmemCache, life};
use crate::config::Config;
use crate::debug::options;
use crate::engine::geometry::Request;
use crate::engine::{Engine, Switch};
use crate::flags::SlabFlags;
use crate::heap::Kmem;
use crate::kmalloc::classes::slab_rules;
use crate::platform::{PAGE_SIZE, Platform};

/// Why a cache did not get other letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchError {
    /// The cache belongs to the heap itself.
    Internal,
    /// The cache was destroyed.
    Destroyed,
    /// The layout is not possible: a slot with its metadata would be too large.
    Geometry,
    /// The engine has no checks for some of the letters, or its caches keep those that they were made with.
    Unsupported,
    /// No memory.
    NoMemory,
}

impl fmt::Display for SwitchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Internal => "the cache belongs to the heap",
            Self::Destroyed => "the cache was destroyed",
            Self::Geometry => "objects do not fit with what the letters add",
            Self::Unsupported => "the engine cannot do that",
            Self::NoMemory => "out of memory",
        })
    }
}

impl core::error::Error for SwitchError {}

/// A cache that was to have certain letters.
#[derive(Clone, Copy, Debug)]
pub struct Switched<'a> {
    /// Its name.
    pub name: &'a str,
    /// The letters; none: it was to lose those that it has.
    pub letters: SlabFlags,
    /// Whether it has them now; else it has those that it had.
    pub result: Result<(), SwitchError>,
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// The debug letters that a cache has now.
    ///
    /// # Safety
    /// The cache is alive.
    pub unsafe fn debug_letters(&self, cache: CacheRef<C::Engine>) -> SlabFlags {
        // SAFETY: the caller's promise.
        C::Engine::letters(&unsafe { cache.get() }.engine)
    }

    /// Gives a cache other debug letters while it is used (those of `letters` that are some; none switches all
    /// checks off). Slabs that are made from now on follow; old ones keep their layout, and their objects are
    /// checked by it as long as they live. F and T count for all of them at once.
    ///
    /// From the first change on, what is freed goes straight to its slab, and the cache takes no aliases any
    /// more. A cache that was made with letters stays without CPU stacks when it loses them.
    ///
    /// # Errors
    /// See [`SwitchError`]; nothing changed.
    ///
    /// # Safety
    /// The cache is alive.
    pub unsafe fn set_debug_letters(
        &self,
        cache: CacheRef<C::Engine>,
        letters: SlabFlags,
    ) -> Result<(), SwitchError> {
        let _registry = self.registry.lock(&self.platform);
        // SAFETY: the caller's promise.
        self.give_letters(unsafe { cache.get() }, letters)
    }

    /// [`Kmem::set_debug_letters`] of a cache that cannot go: the registry's lock is held.
    fn give_letters(&self, cache: &KmemCache<C::Engine>, letters: SlabFlags) -> Result<(), SwitchError> {
        if cache.refcount.load(Ordering::Relaxed) < 0 {
            return Err(SwitchError::Internal);
        }
        if !life::is_alive(cache.life.load(Ordering::Relaxed)) {
            return Err(SwitchError::Destroyed);
        }
        let all = SlabFlags::DEBUG | SlabFlags::FAILSLAB;
        let old = cache.geometry();
        let letters = letters & all;
        let runs = cache.engine.exact_pages != 0 && cache.object_size() > Self::PAGES_FROM;
        let long = runs && !C::Engine::CHECKS_RUNS;
        if !C::Engine::SWITCHES || !C::Engine::switchable(&cache.engine).contains(letters) || long {
            return Err(SwitchError::Unsupported);
        }
        // What reads a free object reads around the link: it stays where it is, if it is in the object.
        let chosen = old.flags.contains(SlabFlags::TYPESAFE_BY_RCU) && !old.freeptr_outside();
        let request = Request {
            size: cache.object_size(),
            align: old.align,
            flags: (old.flags - all) | letters,
            has_ctor: cache.is_constructed(),
            freeptr_offset: chosen.then_some(old.offset),
            sheaf_capacity: 0,
        };
        let mut rules = self.rules();
        if cache.engine.flags().contains(SlabFlags::KMALLOC) {
            rules = slab_rules(cache.object_size(), rules);
        }
        let mut geometry = C::Engine::geometry(&request, &rules).map_err(|_| SwitchError::Geometry)?;
        let mut exact_pages = 0;
        if cache.engine.exact_pages != 0 {
            geometry.objects = 1;
            geometry.min_objects = 1;
            exact_pages = geometry.size.div_ceil(PAGE_SIZE);
        }
        let switch = Switch { letters, geometry: &geometry, exact_pages };
        // What comes back is looked up from now on: nothing of a checked slab may get onto a stack.
        cache.life.store(life::MIXED, Ordering::Relaxed);
        cache.gate.shut_for_letters();
        cache.engine.distrust();
        if !C::Engine::switch(self.floor(), &cache.engine, &switch) {
            return Err(SwitchError::NoMemory);
        }
        self.flush(cache);
        self.follow_faults(cache);
        Ok(())
    }

    /// Other debug options from now on: the caches that `text` speaks of get these letters at once, as by
    /// [`Kmem::set_debug_letters`], and caches that are made later, and blocks without a cache, follow `joined`: what holds for those, in the same
    /// grammar ([`options::joined`] makes it of `text` and of what held before). `tell` hears of each cache that had or got letters,
    /// or did not get them; it must not use the heap.
    ///
    /// Letters that the engine has no checks for are left out, as [`Kmem::set_debug_options`] does.
    pub fn change_debug_options(
        &self,
        text: &str,
        joined: &'static &'static str,
        tell: &mut dyn FnMut(&Switched<'_>),
    ) {
        let known = C::Engine::LETTERS | SlabFlags::FAILSLAB;
        let registry = self.registry.lock(&self.platform);
        self.debug.replace_options(joined);
        let mut next = registry.newest();
        while let Some(cache) = next {
            next = cache.older();
            // The heap's own have those that they were made with.
            if cache.refcount.load(Ordering::Relaxed) < 0 {
                continue;
            }
            let has = C::Engine::letters(&cache.engine) & (SlabFlags::DEBUG | SlabFlags::FAILSLAB);
            let Some(said) = options::said_of(text, cache.name(), cache.geometry().flags) else { continue };
            let wanted = said & known;
            if wanted != has || !has.is_empty() {
                let result = if wanted == has { Ok(()) } else { self.give_letters(cache, wanted) };
                tell(&Switched { name: cache.name(), letters: wanted, result });
            }
        }
    }
}
