//! Fault injection into requests that no cache is named in: blocks without classes, those of programs, mappings.

use crate::config::Config;
use crate::debug::options;
use crate::engine::Engine;
use crate::fault::{Fault, Kind};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::heap::Kmem;
use crate::kmalloc::classes::{ClassSet, Kind as ClassKind};
use crate::platform::{PAGE_SHIFT, Platform};

impl<P: Platform, C: Config> Kmem<P, C> {
    /// [`Kmem::refuses_object`] for a block of an engine without classes.
    #[inline]
    pub(crate) fn refuses_unclassed(&self, size: usize, gfp: Gfp) -> bool {
        let ask = |fault| self.ask(fault, Kind::Slab, C::Engine::NAME, false, size, gfp);
        self.faults.slab.get().is_some_and(ask)
    }

    /// True: a program's request for `size` bytes fails by the rule for such requests ([`Kind::Malloc`]). For those
    /// who serve programs: nothing here asks it.
    #[inline]
    pub fn refuses_program(&self, size: usize, gfp: Gfp) -> bool {
        self.faults.malloc.get().is_some_and(|fault| self.program_fails(fault, size, gfp))
    }

    #[cold]
    #[inline(never)]
    fn program_fails(&self, fault: &Fault, size: usize, gfp: Gfp) -> bool {
        let (name, marked) = if size > C::Classes::LARGEST {
            ("", false)
        } else if !C::Engine::CLASSES {
            (C::Engine::NAME, false)
        } else {
            let class = C::Classes::class_of(size.max(1));
            let name = C::Classes::name(ClassKind::Normal, class);
            let letters = match self.kmalloc_cache(ClassKind::Normal, class) {
                Some(cache) => C::Engine::letters(&cache.engine),
                // It is not made for the question.
                None => {
                    options::flags_for(self.debug.options(), SlabFlags::empty(), name, SlabFlags::KMALLOC)
                }
            };
            (name, letters.contains(SlabFlags::FAILSLAB))
        };
        self.ask(fault, Kind::Malloc, name, marked, size, gfp)
    }

    /// True: a mapping of `size` bytes, or its growth, fails although there may be memory.
    #[inline]
    pub(crate) fn refuses_mapping(&self, size: usize, gfp: Gfp) -> bool {
        if self.pages.fault().is_none() {
            return false;
        }
        let pages = (size >> PAGE_SHIFT).max(1);
        self.pages.refuses(&self.platform, gfp, pages.ilog2(), size)
    }
}
