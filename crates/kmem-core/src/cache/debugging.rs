//! Debugging a heap's caches: options, validation, traces, and the reports of calls that should not have been made.
//!
//! What a check is and what is done about what it finds is the engine's affair; here is who asks for it.

use core::fmt;
use core::sync::atomic::Ordering;

use crate::cache::{CacheRef, CreateError, KmemCache};
use crate::config::Config;
use crate::debug::locations::Locations;
use crate::debug::report::{Symbol, caution};
use crate::debug::track::Track;
use crate::debug::{Debug, Reporter, Which, options};
use crate::engine::Engine;
use crate::engine::geometry::Rules;
use crate::flags::SlabFlags;
use crate::heap::Kmem;
use crate::kmalloc::FreeError;
use crate::platform::{MAX_ORDER, Platform};
use crate::report;

/// The kernel's numbers of the errors that a creation answers.
const ENOMEM: u32 = 12;
/// See [`ENOMEM`].
const EINVAL: u32 = 22;

/// What a validation found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validation {
    /// Slabs looked at.
    pub slabs: u64,
    /// Mappings looked at.
    pub mappings: u64,
    /// Reports made and repairs done meanwhile, each one.
    pub errors: u64,
}

/// The cache has no debug letter, so that there is nothing to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotChecked;

impl fmt::Display for NotChecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cache is not checked")
    }
}

impl core::error::Error for NotChecked {}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// The debug state: errors, the hook, what happens after a report.
    pub fn debug(&self) -> &Debug {
        &self.debug
    }

    /// Sets the debug options, in the grammar of [`crate::debug::options`]: once, before [`Kmem::init`], so
    /// that the heap's own caches follow them too; a cache follows what is set when it is made. Letters that
    /// mean nothing, and those that the engine has no checks for, are named on the console and skipped. False:
    /// there are options already.
    pub fn set_debug_options(&self, text: &'static str) -> bool {
        let set = self.debug.set_options(text);
        if set {
            for letter in options::unknown(text) {
                report::say(&self.platform, format_args!("slub_debug option '{letter}' unknown. skipped"));
            }
            let missing = options::asked(text) - C::Engine::LETTERS - SlabFlags::FAILSLAB;
            if !missing.is_empty() {
                let (letters, engine) = (options::shown(missing), C::Engine::NAME);
                report::say(
                    &self.platform,
                    format_args!("slub_debug letters {letters} have no checks in engine {engine}. skipped"),
                );
            }
        }
        set
    }

    /// The flags of a new cache of this name, with what the options add.
    pub(crate) fn debug_flags(&self, name: &str, flags: SlabFlags) -> SlabFlags {
        let wanted = options::flags_for(self.debug.options(), SlabFlags::empty(), name, flags);
        // The letter A is no engine's affair.
        flags | (wanted & (C::Engine::LETTERS | SlabFlags::FAILSLAB))
    }

    /// The rules of geometry, with what the options change.
    pub(crate) fn rules(&self) -> Rules {
        let rules = C::rules(self.platform.cpus() as u32);
        let may_raise = rules.metadata_may_raise_order && !options::keep_order(self.debug.options());
        let letters = self.debug.options().is_some();
        Rules { metadata_may_raise_order: may_raise, letters, ..rules }
    }

    /// Checks every slab of a cache now, reports what is wrong, and repairs what can be.
    ///
    /// # Errors
    /// [`NotChecked`].
    ///
    /// # Safety
    /// The cache is alive.
    pub unsafe fn validate(&self, cache: CacheRef<C::Engine>) -> Result<Validation, NotChecked> {
        // SAFETY: the caller's promise.
        self.validate_one(unsafe { cache.get() })
    }

    fn validate_one(&self, cache: &KmemCache<C::Engine>) -> Result<Validation, NotChecked> {
        let before = self.debug.errors();
        let slabs = C::Engine::check(self.floor(), &cache.engine).ok_or(NotChecked)?;
        Ok(Validation { slabs, mappings: 0, errors: self.debug.errors() - before })
    }

    /// [`Kmem::validate`] for every checked cache, and for the mappings whose letters ask for it.
    pub fn validate_all(&self) -> Validation {
        let mut sum = Validation::default();
        self.for_each_cache(|cache| {
            if let Ok(found) = self.validate_one(cache) {
                sum.slabs += found.slabs;
                sum.errors += found.errors;
            }
        });
        let before = self.debug.errors();
        sum.mappings = self.check_mappings();
        sum.errors += self.debug.errors() - before;
        sum
    }

    /// Writes who allocated (or freed last) the objects of a cache that are in use, added up by call site, the
    /// most frequent first: the text of `alloc_traces` and `free_traces`, see [`crate::debug::locations`]. `No
    /// data` for a cache without tracks, and where there is no memory for the sums.
    ///
    /// # Errors
    /// What `out` answers.
    ///
    /// # Safety
    /// The cache is alive.
    pub unsafe fn write_traces(
        &self,
        cache: CacheRef<C::Engine>,
        which: Which,
        out: &mut dyn fmt::Write,
    ) -> fmt::Result {
        // SAFETY: the caller's promise.
        let cache = unsafe { cache.get() };
        for order in 2..=MAX_ORDER {
            // The table is there before any lock is taken; one that is too small is thrown away.
            let Some(mut table) = Locations::new(&self.platform, &self.pages, order) else { break };
            C::Engine::visit_tracks(self.floor(), &cache.engine, which, &mut |_, track, waste, node| {
                table.add(track, waste, node);
            });
            if !table.overflowed() || order == MAX_ORDER {
                return table.write(&self.debug, out);
            }
        }
        out.write_str("No data\n")
    }

    /// [`Kmem::write_traces`] of what has no cache: mappings, and blocks of pages, where the options ask for their stacks. Who freed
    /// them is not kept.
    ///
    /// # Errors
    /// What `out` answers.
    pub fn write_large_traces(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        for order in 2..=MAX_ORDER {
            let Some(mut table) = Locations::new(&self.platform, &self.pages, order) else { break };
            self.each_large_track(&mut |track, waste| table.add(track, waste, 0));
            if !table.overflowed() || order == MAX_ORDER {
                return table.write(&self.debug, out);
            }
        }
        out.write_str("No data\n")
    }

    /// True if [`Kmem::write_large_traces`] has something to write.
    pub fn has_large_traces(&self) -> bool {
        let mut any = false;
        self.each_large_track(&mut |_, _| any = true);
        any
    }

    /// True if [`Kmem::write_traces`] has something to write.
    ///
    /// # Safety
    /// The cache is alive.
    pub unsafe fn has_traces(&self, cache: CacheRef<C::Engine>, which: Which) -> bool {
        // SAFETY: the caller's promise.
        let cache = unsafe { cache.get() };
        let mut any = false;
        C::Engine::visit_tracks(self.floor(), &cache.engine, which, &mut |_, _, _, _| any = true);
        any
    }

    /// Shows the objects in use: address, stack, call site, the bytes that were asked for, and all. Only caches with the letter U tell.
    pub(crate) fn each_tracked(&self, visit: &mut dyn FnMut(usize, &Track, usize, usize)) {
        self.for_each_cache(|cache| {
            // The heap's own objects are nobody's leak.
            if cache.refcount.load(Ordering::Relaxed) < 0 {
                return;
            }
            let size = cache.object_size();
            C::Engine::visit_tracks(
                self.floor(),
                &cache.engine,
                Which::Alloc,
                &mut |object, track, waste, _| {
                    visit(object, track, size.saturating_sub(waste), size);
                },
            );
        });
    }

    fn reporter<'a>(&'a self, cache: &'a KmemCache<C::Engine>) -> Reporter<'a, P> {
        self.floor().reporter(&cache.engine)
    }

    /// Reports that a cache dies with objects in use.
    pub(crate) fn report_remaining(&self, cache: &KmemCache<C::Engine>, objects: u64, slabs: u64) {
        let mut caller = [0];
        self.platform.backtrace(&mut caller);
        C::Engine::report_remaining(self.floor(), &cache.engine, objects, slabs);
        self.reporter(cache).warn(
            "kmem_cache_destroy",
            format_args!(
                "kmem_cache_destroy {}: Slab cache still has objects when called from {}",
                cache.name(),
                Symbol(&self.platform, caller[0])
            ),
        );
    }

    /// Complaints that no cache's letters ask for are a kernel's, word for word: the heap was given debug options, and errors do
    /// not stop it.
    pub(crate) fn speaks_as_kernel(&self) -> bool {
        self.debug.options().is_some() && !self.debug.stops(C::ABORT)
    }

    /// A cache cannot be made. A kernel tells the number of the error only; the reason is in the answer.
    #[cold]
    pub(crate) fn report_not_created(&self, name: &str, error: CreateError) {
        let number = match error {
            CreateError::NoMemory => ENOMEM,
            CreateError::BadName | CreateError::BadFlags(_) | CreateError::Geometry(_) => EINVAL,
        };
        let reporter = Reporter { platform: &self.platform, debug: &self.debug, name, abort: false };
        reporter.speak();
        reporter.line(format_args!("kmem_cache_create_usercopy({name}) failed with error -{number}"));
        reporter.here();
    }

    /// A cache with tracks was made: its traces would lie in the directory of another that lives and has its name.
    pub(crate) fn report_twin(&self, cache: &KmemCache<C::Engine>) {
        let tracks =
            |cache: &KmemCache<C::Engine>| C::Engine::letters(&cache.engine).contains(SlabFlags::STORE_USER);
        if !tracks(cache) || !self.speaks_as_kernel() {
            return;
        }
        let mut twins = 0;
        self.for_each_cache(|other| twins += usize::from(other.name() == cache.name() && tracks(other)));
        // It is on the list itself.
        if twins > 1 {
            let name = cache.name();
            report::say(
                &self.platform,
                format_args!("debugfs: Directory '{name}' with parent 'slab' already present!"),
            );
        }
    }

    /// A block was asked for that no size of pages serves. Once for a heap, as in a kernel, where it speaks as one.
    #[cold]
    pub(crate) fn report_too_large(&self, size: usize) {
        if !self.speaks_as_kernel() {
            report::say(
                &self.platform,
                format_args!("kmalloc of {size} bytes: more than the largest block, 4 MiB"),
            );
        } else if !self.debug.told_of_large() {
            let (platform, debug) = (&self.platform, &self.debug);
            let reporter = Reporter { platform, debug, name: "kmalloc", abort: false };
            reporter.warn("__alloc_pages", format_args!(""));
        }
    }

    /// An object was given to `wanted` that is from `real`.
    #[cold]
    pub(crate) fn wrong_cache(
        &self,
        wanted: &KmemCache<C::Engine>,
        real: &KmemCache<C::Engine>,
        object: *mut u8,
    ) {
        if !C::Engine::letters(&wanted.engine).contains(SlabFlags::CONSISTENCY_CHECKS) {
            let (wanted, real) = (wanted.name(), real.name());
            let text = format_args!(
                "cache_from_obj: Wrong slab cache. {wanted} but object {object:p} is from {real}"
            );
            caution(&self.platform, &self.debug, wanted, text);
            return;
        }
        self.reporter(wanted).warn(
            "kmem_cache_free",
            format_args!(
                "cache_from_obj: Wrong slab cache. {} but object is from {}",
                wanted.name(),
                real.name()
            ),
        );
        // SAFETY: an object of its own cache, as was found.
        unsafe { C::Engine::print_tracks(self.floor(), &real.engine, object) };
    }

    /// An address was given to a cache that is not an object's.
    #[cold]
    pub(crate) fn refused_by(&self, wanted: &KmemCache<C::Engine>, error: FreeError) -> FreeError {
        match error {
            FreeError::Interior { .. } => self.refused(error),
            FreeError::NotObject(_) | FreeError::Foreign(_)
                if C::Engine::letters(&wanted.engine).contains(SlabFlags::CONSISTENCY_CHECKS) =>
            {
                self.reporter(wanted)
                    .warn("kmem_cache_free", format_args!("virt_to_cache: Object is not a Slab page!"));
                error
            }
            _ => error,
        }
    }

    /// An address cannot be freed: reported where its cache is checked, or where the heap was given debug options.
    #[cold]
    pub(crate) fn refused(&self, error: FreeError) -> FreeError {
        match error {
            FreeError::Interior { address, .. } => {
                if let Some((cache, slab)) = self.slab_at(address) {
                    C::Engine::report_invalid_free(self.floor(), &cache.engine, slab, address);
                }
            }
            FreeError::NotObject(address) if self.debug.options().is_some() => {
                let (platform, debug) = (&self.platform, &self.debug);
                let report = Reporter { platform, debug, name: "kmalloc", abort: false };
                report.warn("free_large_kmalloc", format_args!(""));
                report.line(format_args!("object pointer: {address:#018x}"));
            }
            FreeError::Foreign(address) => return self.refused_mapping(address),
            _ => {}
        }
        error
    }

    /// An address that is no block was given to a call that wants one: reported if it was a mapping's or lies in one.
    #[cold]
    #[inline(never)]
    pub(crate) fn unknown(&self, error: FreeError) -> FreeError {
        match error {
            FreeError::Foreign(address) => self.refused_mapping(address),
            _ => error,
        }
    }
}
