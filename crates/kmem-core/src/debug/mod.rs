//! What all checking of a heap shares: options, patterns, tracks, stacks, reports.
//!
//! # Theory
//! A cache whose flags have a debug letter is *checked*: its engine keeps no free objects on CPUs, works object
//! by object under a lock, lays patterns around and into free objects, and looks whether they are still there.
//! How, is the engine's own affair: its layout decides what can be checked (`engine::slub::checked`). Here is
//! what engines do that with.
//!
//! An unchecked cache pays nothing: whether a cache is checked is asked only where it has no CPU stacks.
//!
//! # Errors
//! Each report, each repair and each warning is one error. They are counted ([`Debug::errors`]), shown to a hook
//! ([`Debug::set_hook`]), and printed unless the heap is told to be quiet. After a report the program stops, or
//! goes on with the repair: as the user chose ([`Debug::set_on_error`]), else as the heap was built.
//!
//! # Lock order
//! Nothing here takes a lock. Stacks are saved before a lock is taken; reports are printed under any.

pub mod asked;
pub mod leaks;
pub mod limit;
pub mod locations;
pub mod options;
pub mod pattern;
pub mod report;
pub mod stacks;
pub mod track;

pub use asked::{Asked, Origin};
pub use report::Reporter;
pub use track::{Track, Which};

use crate::flags::SlabFlags;

use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// What options call the blocks without a cache: pages and mappings of their own.
pub const LARGE: &str = "kmalloc-large";

/// What an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A report.
    Bug,
    /// A repair.
    Fix,
    /// A warning.
    Warning,
}

/// What happens after a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum OnError {
    /// What the heap was built for.
    #[default]
    Default = 0,
    /// The program stops.
    Abort = 1,
    /// The damage is repaired or isolated, and the program goes on.
    Warn = 2,
    /// A function of the program is asked: [`Debug::set_judge`].
    Callback = 3,
}

/// Asked after a report what shall happen, with the cache's name, empty where none is known. It must not use the heap: its locks may be held.
/// [`OnError::Abort`] stops the program, [`OnError::Warn`] lets it go on, everything else means what the heap was built for.
pub type Judge = fn(&str) -> OnError;

/// Called for each error: what it is, the cache's name, the text. It must not use the heap: its locks may be held.
pub type Hook = fn(Error, &str, fmt::Arguments<'_>);

/// What was wrong before, as a set of bits.
pub mod taint {
    /// A report was made.
    pub const BAD_PAGE: u8 = 1;
    /// A warning was given.
    pub const WARN: u8 = 2;
}

/// The debug state of a heap.
pub struct Debug {
    /// Start and length of the options' text; null: none.
    options: AtomicPtr<u8>,
    options_len: AtomicUsize,
    claimed: AtomicBool,
    /// Options that came later, in place of those; null: none.
    replaced: AtomicPtr<&'static str>,
    /// Letters of what has no cache, as [`SlabFlags`].
    large: AtomicU32,
    told_of_large: AtomicBool,
    gathered: AtomicBool,
    /// What the heap was built to do after a report: stop the program.
    abort: bool,
    errors: AtomicU64,
    quiet: AtomicBool,
    on_error: AtomicU8,
    /// What was chosen before a judge came.
    without_judge: AtomicU8,
    taint: AtomicU8,
    hook: AtomicPtr<()>,
    judge: AtomicPtr<()>,
    /// The call stacks that tracks name.
    pub stacks: stacks::Stacks,
    /// How many reports are printed at a time.
    pub limit: limit::Limit,
}

impl Debug {
    /// No options, no errors. `abort`: the heap is built to stop the program after a report.
    #[must_use]
    pub const fn new(abort: bool) -> Self {
        Self {
            options: AtomicPtr::new(ptr::null_mut()),
            options_len: AtomicUsize::new(0),
            claimed: AtomicBool::new(false),
            replaced: AtomicPtr::new(ptr::null_mut()),
            large: AtomicU32::new(0),
            told_of_large: AtomicBool::new(false),
            gathered: AtomicBool::new(false),
            abort,
            errors: AtomicU64::new(0),
            quiet: AtomicBool::new(false),
            on_error: AtomicU8::new(OnError::Default as u8),
            without_judge: AtomicU8::new(OnError::Default as u8),
            taint: AtomicU8::new(0),
            hook: AtomicPtr::new(ptr::null_mut()),
            judge: AtomicPtr::new(ptr::null_mut()),
            stacks: stacks::Stacks::new(),
            limit: limit::Limit::new(),
        }
    }

    /// The options in force.
    pub fn options(&self) -> Option<&'static str> {
        // Acquire pairs with the Release of `replace_options`.
        let replaced = self.replaced.load(Ordering::Acquire);
        // SAFETY: null, or the address of a static text.
        if let Some(text) = unsafe { replaced.as_ref() } {
            return Some(text);
        }
        // Acquire pairs with the Release of `set_options`: the length was stored before.
        let text = self.options.load(Ordering::Acquire);
        if text.is_null() {
            return None;
        }
        // SAFETY: both come from one `&'static str`, stored once.
        unsafe {
            let bytes = core::slice::from_raw_parts(text, self.options_len.load(Ordering::Relaxed));
            Some(core::str::from_utf8_unchecked(bytes))
        }
    }

    /// Sets the options, once: false when there are some already.
    pub fn set_options(&self, text: &'static str) -> bool {
        if self.claimed.swap(true, Ordering::Relaxed) {
            return false;
        }
        let large = options::flags_for(Some(text), SlabFlags::empty(), LARGE, SlabFlags::empty());
        self.large.store(large.bits(), Ordering::Relaxed);
        self.options_len.store(text.len(), Ordering::Relaxed);
        self.options.store(text.as_ptr().cast_mut(), Ordering::Release);
        true
    }

    /// Other options from now on, for the caches that are made later and for blocks without a cache.
    pub(crate) fn replace_options(&self, text: &'static &'static str) {
        let large = options::flags_for(Some(text), SlabFlags::empty(), LARGE, SlabFlags::empty());
        self.large.store(large.bits(), Ordering::Relaxed);
        self.claimed.store(true, Ordering::Relaxed);
        // Release pairs with the Acquire in `options`.
        self.replaced.store(ptr::from_ref(text).cast_mut(), Ordering::Release);
    }

    /// The options ask for the stacks that allocate blocks without a cache: the letter U for all, or for [`LARGE`].
    pub fn tracks_large(&self) -> bool {
        self.large_letters().contains(SlabFlags::STORE_USER)
    }

    /// The letters of blocks without a cache: those of all, or of [`LARGE`].
    pub fn large_letters(&self) -> SlabFlags {
        // Relaxed: a block follows what is there when it is allocated, and remembers nothing else.
        SlabFlags::from_bits_retain(self.large.load(Ordering::Relaxed)) & SlabFlags::DEBUG
    }

    /// Whether somebody was told before that a block is too large for pages; from now on, yes.
    pub(crate) fn told_of_large(&self) -> bool {
        // Relaxed: nothing else depends on it.
        self.told_of_large.swap(true, Ordering::Relaxed)
    }

    /// CPUs keep nothing of caches without tracks ([`Kmem::quieten`](crate::heap::Kmem::quieten)).
    pub(crate) fn is_gathered(&self) -> bool {
        // Relaxed: who looks is who settled.
        self.gathered.load(Ordering::Relaxed)
    }

    pub(crate) fn set_gathered(&self, gathered: bool) {
        self.gathered.store(gathered, Ordering::Relaxed);
    }

    /// Errors so far: reports, repairs and warnings.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// While quiet, errors are counted and shown to the hook, and not printed.
    pub fn set_quiet(&self, quiet: bool) {
        self.quiet.store(quiet, Ordering::Relaxed);
    }

    /// Errors are not printed.
    pub fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    /// Chooses what happens after a report.
    pub fn set_on_error(&self, what: OnError) {
        self.on_error.store(what as u8, Ordering::Relaxed);
    }

    /// Has `judge` decide what happens after each report from now on.
    pub fn set_judge(&self, judge: Judge) {
        // Release pairs with the Acquire of `decide`: what the function uses was made before.
        self.judge.store(judge as *mut (), Ordering::Release);
        let before = self.on_error.swap(OnError::Callback as u8, Ordering::Relaxed);
        if before != OnError::Callback as u8 {
            self.without_judge.store(before, Ordering::Relaxed);
        }
    }

    /// Nobody is asked any more: what was chosen before [`Debug::set_judge`] holds again, unless something else was chosen since. A
    /// thread that is about to ask may still do so.
    pub fn clear_judge(&self) {
        let before = self.without_judge.load(Ordering::Relaxed);
        let callback = OnError::Callback as u8;
        let _ = self.on_error.compare_exchange(callback, before, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether a report about this cache stops the program: [`Debug::stops`], and who is to be asked is asked.
    pub fn decide(&self, cache: &str, by_default: bool) -> bool {
        if self.on_error.load(Ordering::Relaxed) != OnError::Callback as u8 {
            return self.stops(by_default);
        }
        let judge = self.judge.load(Ordering::Acquire);
        if judge.is_null() {
            return by_default;
        }
        // SAFETY: only `set_judge` stores here, and it stores functions of this type.
        match unsafe { core::mem::transmute::<*mut (), Judge>(judge) }(cache) {
            OnError::Abort => true,
            OnError::Warn => false,
            OnError::Default | OnError::Callback => by_default,
        }
    }

    /// Whether a report stops the program, if nobody is to be asked; `by_default`: what the heap was built for.
    pub fn stops(&self, by_default: bool) -> bool {
        match self.on_error.load(Ordering::Relaxed) {
            choice if choice == OnError::Abort as u8 => true,
            choice if choice == OnError::Warn as u8 => false,
            _ => by_default,
        }
    }

    /// What the heap was built to do after a report, when its user did not choose: stop the program.
    pub fn built_to_abort(&self) -> bool {
        self.abort
    }

    /// Whether a report of damage stops the program, where no cache is named.
    pub fn aborts(&self) -> bool {
        self.decide("", self.abort)
    }

    /// Shows each error to `hook` from now on.
    pub fn set_hook(&self, hook: Option<Hook>) {
        let hook = hook.map_or(ptr::null_mut(), |hook| hook as *mut ());
        // Release pairs with the Acquire of `note`: what the hook uses was made before.
        self.hook.store(hook, Ordering::Release);
    }

    /// Counts an error and shows it to the hook.
    pub fn note(&self, what: Error, cache: &str, text: fmt::Arguments<'_>) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let hook = self.hook.load(Ordering::Acquire);
        if !hook.is_null() {
            // SAFETY: only `set_hook` stores here, and it stores functions of this type.
            let hook = unsafe { core::mem::transmute::<*mut (), Hook>(hook) };
            hook(what, cache, text);
        }
    }

    /// Remembers that something was wrong.
    pub(crate) fn add_taint(&self, what: u8) {
        self.taint.fetch_or(what, Ordering::Relaxed);
    }

    /// What was wrong before, as a kernel prints it: B a report, W a warning.
    pub fn taint(&self) -> Taint {
        Taint(self.taint.load(Ordering::Relaxed))
    }
}

/// A set of taints, to be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taint(u8);

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("Not tainted");
        }
        let letter = |bit, letter| if self.0 & bit != 0 { letter } else { ' ' };
        // The places of the letters among the kernel's nineteen.
        write!(f, "Tainted: G    {}   {}         ", letter(taint::BAD_PAGE, 'B'), letter(taint::WARN, 'W'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_stand_where_a_kernel_puts_them() {
        assert_eq!(Taint(0).to_string(), "Not tainted");
        let both = Taint(taint::BAD_PAGE | taint::WARN).to_string();
        assert_eq!(both, "Tainted: G    B   W         ");
        assert_eq!(both.len(), "Tainted: G    B   W  O      ".len());
        assert_eq!(Taint(taint::WARN).to_string(), "Tainted: G        W         ");
    }

    #[test]
    fn options_are_set_once() {
        let debug = Debug::new(false);
        assert_eq!(debug.options(), None);
        assert!(debug.set_options("FZ,a"));
        assert!(!debug.set_options("P"));
        assert_eq!(debug.options(), Some("FZ,a"));
        let empty = Debug::new(false);
        assert!(empty.set_options(""));
        assert_eq!(empty.options(), Some(""));
    }

    #[test]
    fn options_are_replaced() {
        for debug in [Debug::new(false), Debug::new(false)] {
            debug.replace_options(&"Z,a;U,kmalloc-large");
            assert_eq!(debug.options(), Some("Z,a;U,kmalloc-large"));
            assert!(debug.tracks_large() && !debug.set_options("P"));
            debug.replace_options(&"-");
            assert_eq!(debug.options(), Some("-"));
            assert!(!debug.tracks_large());
        }
    }

    #[test]
    fn a_judge_decides() {
        let debug = Debug::new(false);
        debug.set_judge(|cache| match cache {
            "bad" => OnError::Abort,
            "good" => OnError::Warn,
            _ => OnError::Default,
        });
        assert!(debug.decide("bad", false) && !debug.decide("good", true));
        assert!(debug.decide("x", true) && !debug.decide("x", false));
        debug.set_on_error(OnError::Warn);
        assert!(!debug.decide("bad", true));
        debug.set_on_error(OnError::Callback);
        assert!(debug.decide("bad", false));
    }

    #[test]
    fn a_judge_goes_and_the_choice_before_holds_again() {
        let debug = Debug::new(false);
        debug.clear_judge();
        assert!(debug.decide("", true) && !debug.decide("", false));
        debug.set_on_error(OnError::Warn);
        debug.set_judge(|_| OnError::Abort);
        debug.set_judge(|_| OnError::Abort);
        assert!(debug.decide("", false));
        debug.clear_judge();
        assert!(!debug.decide("", true));
        debug.set_judge(|_| OnError::Warn);
        debug.set_on_error(OnError::Abort);
        debug.clear_judge();
        assert!(debug.decide("", false), "a later choice is left alone");
    }

    #[test]
    fn the_users_choice_comes_before_the_builds() {
        let debug = Debug::new(false);
        assert!(debug.stops(true) && !debug.stops(false));
        debug.set_on_error(OnError::Abort);
        assert!(debug.stops(true) && debug.stops(false));
        debug.set_on_error(OnError::Warn);
        assert!(!debug.stops(true) && !debug.stops(false));
        assert!(!Debug::new(false).aborts() && Debug::new(true).aborts());
    }
}
