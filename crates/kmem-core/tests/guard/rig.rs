//! A heap that guards everything, and accesses to it.

use kmem_core::cache::CacheArgs;
use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::guard::{Access, EVERY};
use kmem_core::kmalloc::FreeError;
use kmem_core::platform::{PAGE_SIZE, Platform};
use kmem_sim::Machine;

pub(crate) use crate::support::{Cache, Rig};

pub(crate) const RULE: &str = "==================================================================";

/// Makes one test for each engine from a function that is generic over the configuration.
macro_rules! for_each_engine {
    ($($name:ident)*) => {
        mod slub {
            use kmem_core::{config::KernelConfig, engine::slub::Slub};
            $( #[test] fn $name() { super::$name::<KernelConfig<Slub>>(); } )*
        }
        mod slab {
            use kmem_core::{config::KernelConfig, engine::slab::Slab};
            $( #[test] fn $name() { super::$name::<KernelConfig<Slab>>(); } )*
        }
        mod slob {
            use kmem_core::{config::KernelConfig, engine::slob::Slob};
            $( #[test] fn $name() { super::$name::<KernelConfig<Slob>>(); } )*
        }
    };
}
pub(crate) use for_each_engine;

/// Where an object comes from: kmalloc, or a cache.
pub(crate) struct Bed<C: Config> {
    pub(crate) rig: Rig<C>,
    pub(crate) cache: Option<Cache<C>>,
    pub(crate) size: usize,
}

/// On which end of its page an object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

impl<C: Config> Bed<C> {
    fn on(cache: Option<&str>, size: usize, args: CacheArgs) -> Self {
        let rig = Rig::on(Machine::builder().cpus(1).build());
        let cache = cache.map(|name| rig.create(name, size, args).expect("a cache"));
        rig.heap.set_guard_interval(EVERY);
        rig.machine.advance(1_234_567_000);
        rig.said();
        Self { rig, cache, size }
    }

    /// Both beds, for objects of `size` bytes.
    pub(crate) fn both(size: usize) -> [Self; 2] {
        [Self::kmalloc(size), Self::cache(size)]
    }

    pub(crate) fn kmalloc(size: usize) -> Self {
        Self::on(None, size, CacheArgs::default())
    }

    pub(crate) fn cache(size: usize) -> Self {
        Self::cache_with(size, CacheArgs::default())
    }

    pub(crate) fn cache_with(size: usize, args: CacheArgs) -> Self {
        Self::on(Some("test"), size, args)
    }

    /// The name that reports have for the objects' cache.
    pub(crate) fn cache_name(&self) -> String {
        use kmem_core::engine::Engine;
        match self.cache {
            Some(_) => "test".to_owned(),
            None if !C::Engine::CLASSES => C::Engine::NAME.to_owned(),
            None if (65..=96).contains(&self.size) => "kmalloc-96".to_owned(),
            None => format!("kmalloc-{}", self.size.next_power_of_two()),
        }
    }

    fn take(&self, gfp: Gfp) -> *mut u8 {
        let object = match self.cache {
            Some(cache) => self.rig.alloc(cache, gfp),
            None => self.rig.heap.kmalloc(self.size, gfp),
        };
        assert!(!object.is_null());
        object
    }

    /// A guarded object, allocated by `test_alloc`. What is left on CPUs' stacks from before comes first and is kept.
    pub(crate) fn alloc(&self) -> *mut u8 {
        self.alloc_with(Gfp::KERNEL)
    }

    pub(crate) fn alloc_with(&self, gfp: Gfp) -> *mut u8 {
        self.rig.machine.set_calls(&["test_alloc+0xfe/0x738", "test+0x1f/0x90"]);
        let guard = self.rig.heap.guard();
        (0..500).map(|_| self.take(gfp)).find(|object| guard.holds(object.addr())).expect("a guarded object")
    }

    /// A guarded object on that end of its page.
    pub(crate) fn alloc_at(&self, side: Side) -> *mut u8 {
        (0..100).map(|_| self.alloc()).find(|object| self.side(*object) == side).expect("both sides come")
    }

    pub(crate) fn side(&self, object: *mut u8) -> Side {
        if object.addr().is_multiple_of(PAGE_SIZE) { Side::Left } else { Side::Right }
    }

    /// Frees, by `test_free`.
    pub(crate) fn free(&self, object: *mut u8) -> Result<(), FreeError> {
        self.rig.machine.set_calls(&["test_free+0x2c/0xfd", "test+0x4e/0x90"]);
        match self.cache {
            Some(cache) => self.rig.free(cache, object),
            None => self.rig.kfree(object),
        }
    }

    /// Touches a byte, by `test`: as on a machine that forbids pages. True when that was reported.
    pub(crate) fn touch(&self, at: *mut u8, access: Access) -> bool {
        if !self.rig.machine.is_forbidden(at.addr()) {
            if access == Access::Write {
                // SAFETY: the tests touch the pool's pages.
                unsafe { at.write(at.read() ^ 0xff) };
            }
            return false;
        }
        self.rig.machine.set_calls(&["test+0x60/0x90"]);
        let mut frames = [0; 4];
        let found = self.rig.machine.backtrace(&mut frames);
        let reported = self.rig.heap.report_fault(at.addr(), access, &frames[..found]);
        assert!(reported && !self.rig.machine.is_forbidden(at.addr()), "the program goes on");
        true
    }

    /// What was said since the last call, line by line, with the number of the object taken out.
    pub(crate) fn said(&self) -> Vec<String> {
        self.rig.said().lines().map(unnumbered).collect()
    }

    /// The report that the guard should have made. `freed`: the object was freed before.
    pub(crate) fn report(
        &self,
        title: &str,
        line: &str,
        by: &[&str],
        object: *mut u8,
        freed: bool,
    ) -> Vec<String> {
        let mut report =
            vec![RULE.to_owned(), format!("BUG: kmem: {title} in {}", by[0]), String::new(), line.to_owned()];
        report.extend(by.iter().map(|frame| format!(" {frame}")));
        let (first, last) = (object.addr(), object.addr() + self.size - 1);
        report.push(String::new());
        report.push(format!(
            "guard-#N: {first:#018x}-{last:#018x}, size={}, cache={}",
            self.size,
            self.cache_name()
        ));
        let thread = self.rig.machine.thread();
        let mut track = |verb: &str, frames: [&str; 2]| {
            report.push(String::new());
            report.push(format!("{verb} by task {thread} on cpu 0 at 2.234567s (0.0s ago):"));
            report.extend(frames.map(|frame| format!(" {frame}")));
        };
        track("allocated", ["test_alloc+0xfe/0x738", "test+0x1f/0x90"]);
        if freed {
            track("freed", ["test_free+0x2c/0xfd", "test+0x4e/0x90"]);
        }
        report.extend([String::new(), format!("CPU: 0 PID: {thread} Not tainted"), RULE.to_owned()]);
        report
    }

    /// Nothing was said, nothing is left in use, and nothing was a bug.
    pub(crate) fn assert_silent(&self) {
        assert_eq!(self.said(), Vec::<String>::new());
        assert_eq!((self.rig.heap.guard().stats().bugs, self.rig.heap.debug().errors()), (0, 0));
    }
}

/// `guard-#12` without its number.
fn unnumbered(line: &str) -> String {
    let Some((before, after)) = line.split_once("guard-#") else { return line.to_owned() };
    format!("{before}guard-#N{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
}
