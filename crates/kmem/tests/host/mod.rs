//! What the tests of the host's CPU layer share: a rig of one number with a stack on every CPU, and objects
//! that know who owns them.
//!
//! The CPU layer never looks into an object, so an object is just a number made to look like an address;
//! its owner's mark lies in a table here.
#![allow(dead_code)]

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use kmem::host::{Host, Options};
use kmem_core::percpu::{CpuArea, FULL, Pushed, StackId, empty, install, nothing};
use kmem_core::platform::Platform;

/// A number that is published at the start.
pub(crate) const ID: StackId = 7;

pub(crate) struct Rig {
    pub(crate) host: &'static Host,
    pub(crate) id: StackId,
    owners: Vec<AtomicU32>,
    bases: Vec<usize>,
}

/// Set when any thread has failed: the others must not wait for it for ever.
static FAILED: AtomicBool = AtomicBool::new(false);

pub(crate) fn failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}

struct Watched;

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            FAILED.store(true, Ordering::Relaxed);
        }
    }
}

/// A host of its own; never freed, as its mappings are not.
pub(crate) fn host(portable: bool) -> &'static Host {
    let host: &'static Host = Box::leak(Box::new(Host::new()));
    let options = Options { window_pages: 1 << 18, portable, ..Options::DEFAULT };
    // SAFETY: first use of a host that never moves.
    unsafe { host.init(&options) }.expect("a host");
    host
}

impl Rig {
    /// `objects` objects, dealt evenly to the stacks of all CPUs; each stack could hold them all.
    pub(crate) fn new(host: &'static Host, id: StackId, objects: usize) -> Self {
        let area = host.cpu_area();
        area.publish(id);
        let cpus = host.cpus();
        let mut next = 0;
        let bases = (0..cpus)
            .map(|cpu| {
                let mut words = vec![std::ptr::null_mut::<u8>(); objects + 2];
                words[0] = nothing();
                words[objects + 1] = FULL;
                let share = (cpu + 1) * objects / cpus - next;
                for word in &mut words[1..=share] {
                    *word = Self::object(next);
                    next += 1;
                }
                let base = words.leak()[1..].as_mut_ptr();
                // SAFETY: an array with sentinels and `share` objects that lives for ever.
                assert!(unsafe { install(area.hot(cpu, id), base, share) });
                base as usize
            })
            .collect();
        Self { host, id, owners: (0..objects).map(|_| AtomicU32::new(0)).collect(), bases }
    }

    pub(crate) fn objects(&self) -> usize {
        self.owners.len()
    }

    fn object(index: usize) -> *mut u8 {
        (16 * (index + 1)) as *mut u8
    }

    fn owner(&self, object: *mut u8) -> &AtomicU32 {
        assert!(!object.is_null() && (object as usize).is_multiple_of(16), "not an object: {object:?}");
        &self.owners[object as usize / 16 - 1]
    }

    /// Marks an object as owned by `me`. It must have had no owner.
    pub(crate) fn take(&self, object: *mut u8, me: u32) {
        let before = self.owner(object).swap(me, Ordering::Relaxed);
        assert_eq!(before, 0, "{object:?} has two owners: {before} and {me}");
    }

    /// Gives up the mark.
    pub(crate) fn give(&self, object: *mut u8, me: u32) {
        let before = self.owner(object).swap(0, Ordering::Relaxed);
        assert_eq!(before, me, "{object:?} was taken away from {me} by {before}");
    }

    pub(crate) fn pop(&self, me: u32) -> *mut u8 {
        // SAFETY: the number is published and has arrays.
        let object = unsafe { self.host.cpu_area().pop(self.id) };
        if !object.is_null() {
            self.take(object, me);
        }
        object
    }

    /// The mark goes before the object does.
    pub(crate) fn push(&self, object: *mut u8, me: u32) -> bool {
        self.give(object, me);
        // SAFETY: as in `pop`; the object was ours.
        let pushed = unsafe { self.host.cpu_area().push(self.id, object) };
        assert_ne!(pushed, Pushed::Double);
        if pushed == Pushed::Full {
            self.take(object, me);
        }
        pushed == Pushed::Done
    }

    pub(crate) fn pop_many(&self, out: &mut [*mut u8], me: u32) -> usize {
        // SAFETY: as in `pop`.
        let count = unsafe { self.host.cpu_area().pop_many(self.id, out) };
        out[..count].iter().for_each(|&object| self.take(object, me));
        count
    }

    pub(crate) fn push_many(&self, objects: &[*mut u8], me: u32) -> usize {
        objects.iter().for_each(|&object| self.give(object, me));
        // SAFETY: as in `push`.
        let count = unsafe { self.host.cpu_area().push_many(self.id, objects) };
        objects[count..].iter().for_each(|&object| self.take(object, me));
        count
    }

    /// Pops and pushes for `rounds` rounds, singly and in batches; ends owning nothing.
    pub(crate) fn worker(&self, me: u32, rounds: usize) -> u64 {
        let _watched = Watched;
        let mut random = u64::from(me).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut held: Vec<*mut u8> = Vec::with_capacity(16);
        let mut operations = 0;
        for _ in 0..rounds {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let dice = random >> 56;
            if dice < 8 {
                let mut out = [std::ptr::null_mut(); 8];
                let room = (16 - held.len()).min(dice as usize + 1);
                let count = self.pop_many(&mut out[..room], me);
                held.extend_from_slice(&out[..count]);
                operations += count as u64;
            } else if dice < 16 {
                let batch = held.split_off(held.len().saturating_sub(dice as usize - 7));
                let count = self.push_many(&batch, me);
                held.extend_from_slice(&batch[count..]);
            } else if held.is_empty() || (held.len() < 16 && dice & 1 == 0) {
                let object = self.pop(me);
                if !object.is_null() {
                    held.push(object);
                    operations += 1;
                }
            } else if let Some(object) = held.pop()
                && !self.push(object, me)
            {
                held.push(object);
            }
        }
        while let Some(object) = held.pop() {
            // Any stack can hold all objects, but a seizer may have taken it for the moment.
            while !self.push(object, me) && !failed() {
                std::thread::yield_now();
            }
        }
        operations
    }

    /// Takes the stack of each CPU away and counts what is there; nothing may be owned, missing or doubled.
    pub(crate) fn count(&self) -> usize {
        let mut total = 0;
        for cpu in 0..self.host.cpus() {
            let objects = self.seize(cpu, u32::MAX);
            total += objects.len();
            objects.iter().for_each(|&object| self.give(object, u32::MAX));
            self.put_back(cpu, objects.len());
        }
        total
    }

    /// The objects of one CPU's stack, which is left without an array; all marked as owned by `me`.
    pub(crate) fn seize(&self, cpu: usize, me: u32) -> &[*mut u8] {
        // SAFETY: one seizer at a time, by the tests' construction.
        let top = unsafe { self.host.cpu_area().seize(cpu, self.id) };
        if top == empty() {
            return &[];
        }
        let base = self.bases[cpu] as *mut *mut u8;
        let len = (top as usize - base as usize) / 8;
        assert!(len <= self.objects(), "top of CPU {cpu} is off its array");
        // SAFETY: entries below the top of a detached array.
        let objects = unsafe { std::slice::from_raw_parts(base, len) };
        objects.iter().for_each(|&object| self.take(object, me));
        objects
    }

    pub(crate) fn put_back(&self, cpu: usize, len: usize) {
        let base = self.bases[cpu] as *mut *mut u8;
        // SAFETY: the array that was seized, with what it held.
        assert!(unsafe { install(self.host.cpu_area().hot(cpu, self.id), base, len) });
    }
}

/// Many threads at once: no object ever has two owners, none is lost, and the counters are about right.
pub(crate) fn stress(rig: &Rig, threads: u32, rounds: usize) {
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for me in 1..=threads {
            let done = &done;
            scope.spawn(move || done.fetch_add(rig.worker(me, rounds), Ordering::Relaxed));
        }
    });
    assert_eq!(rig.count(), rig.objects());
    assert!(done.into_inner() > u64::from(threads), "nobody got anything");
}

/// Many threads at work while another takes the stacks away `turns` times.
pub(crate) fn stress_under_seizure(rig: &Rig, threads: u32, turns: usize) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for me in 1..=threads {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) && !failed() {
                    rig.worker(me, 1000);
                }
            });
        }
        let _watched = Watched;
        let mut left = turns;
        while left > 0 && !failed() {
            for cpu in 0..rig.host.cpus() {
                let objects = rig.seize(cpu, 1000);
                // Others run into the missing stack meanwhile.
                objects.iter().for_each(|&object| rig.give(object, 1000));
                rig.put_back(cpu, objects.len());
                left = left.saturating_sub(usize::from(!objects.is_empty()));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(rig.count(), rig.objects());
}

static STORM: std::sync::OnceLock<Rig> = std::sync::OnceLock::new();
static IN_HANDLER: AtomicU64 = AtomicU64::new(0);
static GOT: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_signal(_: libc::c_int) {
    let Some(rig) = STORM.get() else { return };
    // Handlers on several threads may run at once: each needs a mark of its own.
    let me = 5000 + IN_HANDLER.fetch_add(1, Ordering::Relaxed) as u32;
    let mut held = [std::ptr::null_mut(); 3];
    for place in &mut held {
        *place = rig.pop(me);
    }
    for &object in held.iter().filter(|object| !object.is_null()) {
        GOT.fetch_add(1, Ordering::Relaxed);
        // The interrupted frame may own the slot: then there is no room, and the object waits its turn.
        if !rig.push(object, me) {
            rig.give(object, me);
            LEFT.lock_free_push(object);
        }
    }
}

/// Objects that handlers could not put back.
struct Left([AtomicU64; 512]);
static LEFT: Left = Left([const { AtomicU64::new(0) }; 512]);
impl Left {
    fn lock_free_push(&self, object: *mut u8) {
        for place in &self.0 {
            if place.compare_exchange(0, object as u64, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return;
            }
        }
        panic!("too many left");
    }
    fn count(&self) -> usize {
        self.0.iter().filter(|place| place.load(Ordering::Relaxed) != 0).count()
    }
}

/// How many signals make a storm.
const SIGNALS: u64 = 5000;

/// Workers whose every few instructions a signal handler interrupts, which pops and pushes too.
pub(crate) fn signal_storm(host: &'static Host, threads: u32, rounds: usize) {
    let rig = STORM.get_or_init(|| Rig::new(host, ID + 1, 256));
    // SAFETY: a handler that only uses atomics and the CPU layer.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
        // A handler that waits for the frame it interrupted waits for ever: then the process is killed.
        libc::alarm(120);
    }
    let ids: Vec<AtomicU64> = (0..threads).map(|_| AtomicU64::new(0)).collect();
    let working = AtomicU32::new(threads);
    let end = Barrier::new(threads as usize + 1);
    std::thread::scope(|scope| {
        for me in 1..=threads {
            let (ids, working, end) = (&ids, &working, &end);
            scope.spawn(move || {
                // SAFETY: always answers.
                ids[me as usize - 1].store(unsafe { libc::pthread_self() }, Ordering::SeqCst);
                while IN_HANDLER.load(Ordering::Relaxed) < SIGNALS && !failed() {
                    rig.worker(me, rounds);
                }
                working.fetch_sub(1, Ordering::SeqCst);
                end.wait();
            });
        }
        while working.load(Ordering::SeqCst) > 0 && !failed() {
            for id in ids.iter().map(|id| id.load(Ordering::SeqCst)).filter(|&id| id != 0) {
                // SAFETY: no worker ends before this thread reaches the barrier.
                unsafe { libc::pthread_kill(id, libc::SIGUSR1) };
            }
            // On one CPU nobody would get anywhere otherwise.
            std::thread::sleep(std::time::Duration::from_micros(20));
        }
        assert!(!failed(), "a worker failed");
        end.wait();
    });
    // SAFETY: takes the deadline back.
    unsafe { libc::alarm(0) };
    assert_eq!(rig.count() + LEFT.count(), rig.objects());
    assert!(GOT.load(Ordering::Relaxed) > 10, "the handlers got nothing");
}

/// Forks while other threads are busy; each child finds sound stacks and works on.
pub(crate) fn fork_under_fire(rig: &Rig, threads: u32, forks: usize) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for me in 1..=threads {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) && !failed() {
                    rig.worker(me, 1000);
                }
            });
        }
        for _ in 0..forks {
            rig.host.prefork();
            // SAFETY: the child uses nothing but the host and leaves by `_exit`.
            let child = unsafe { libc::fork() };
            assert!(child >= 0);
            if child == 0 {
                let code = in_child(rig);
                // SAFETY: leaves without running anything of the parent's.
                unsafe { libc::_exit(code) };
            }
            // SAFETY: paired with the call above.
            unsafe { rig.host.postfork_parent() };
            let mut status = 0;
            // SAFETY: waits for our own child.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert!(libc::WIFEXITED(status), "the child was killed by signal {}", libc::WTERMSIG(status));
            assert_eq!(libc::WEXITSTATUS(status), 0, "the child's report (see in_child)");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(rig.count(), rig.objects());
}

/// No panics and no allocation here: other threads are gone, with whatever locks of `std` they held.
fn in_child(rig: &Rig) -> i32 {
    // SAFETY: the parent called `prefork`. A child that waits for somebody who is not here is killed.
    unsafe {
        libc::alarm(30);
        rig.host.postfork_child();
    }
    let area = rig.host.cpu_area();
    let mut seen = [false; 1024];
    let mut total = 0;
    for cpu in 0..rig.host.cpus() {
        // SAFETY: the only thread.
        let top = unsafe { area.seize(cpu, rig.id) };
        if top == empty() {
            return 10;
        }
        let base = rig.bases[cpu] as *mut *mut u8;
        let len = (top as usize).wrapping_sub(base as usize) / 8;
        if len > rig.objects() {
            return 11;
        }
        for i in 0..len {
            // SAFETY: entries of a detached array.
            let index = unsafe { *base.add(i) } as usize / 16 - 1;
            if index >= rig.objects() || seen[index] {
                return 12;
            }
            seen[index] = true;
            total += 1;
        }
        // SAFETY: the array that was seized, with what it held.
        if !unsafe { install(area.hot(cpu, rig.id), base, len) } {
            return 13;
        }
    }
    if total > rig.objects() {
        return 14;
    }
    // The child's own operations, through thousands of preemptions' worth of time.
    for _ in 0..20_000 {
        // SAFETY: as everywhere.
        unsafe {
            let mut out = [std::ptr::null_mut(); 4];
            let count = area.pop_many(rig.id, &mut out);
            if area.push_many(rig.id, &out[..count]) != count {
                return 15;
            }
            let object = area.pop(rig.id);
            if !object.is_null() && area.push(rig.id, object) != Pushed::Done {
                return 16;
            }
        }
    }
    0
}
