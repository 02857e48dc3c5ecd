//! What a thread is on a machine: where it runs, which locks it holds, what the script has in store for it.
//!
//! # Theory
//! A real thread of the test is a thread of the machine, and a thread of several machines when a test
//! has several. Its *seat* on a machine is thread-local: no other thread ever sees it, so none of this
//! needs synchronisation.
//!
//! A *scheduling point* is a place where a real machine could stop this thread and the world would go
//! on without it: the start of each CPU operation, the moment before a lock, the moment after the
//! question "which CPU is this". At such a point the schedule may move the thread to another CPU, or
//! run a whole piece of other work (an interrupt handler, or a thread that gets the CPU for a while).
//!
//! # Invariants
//! - I-SIM-1: an interruption runs only while the thread holds no lock of the heap: another thread
//!   could wait for such a lock, the same thread never could.
//! - I-SIM-2: the closure of an interruption is reachable only while [`Schedule::interrupted`] runs.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::rng::{Rng, hits, threshold};

/// A thread remembers its seats on this many machines; the one unused for longest goes.
const SEATS: usize = 16;

type Interrupt = *mut (dyn FnMut() + 'static);

struct Seat {
    machine: u64,
    cpu: usize,
    points: u64,
    rng: Rng,
    /// Move to this CPU at this point.
    migrate: Option<(u64, usize)>,
    /// Run this at this point, or at the first after it without a lock.
    interrupt: Option<(u64, Interrupt)>,
    inside: bool,
    /// Ranks of the locks held, in the order taken.
    held: Vec<u8>,
    /// All locks are being taken for a fork.
    forking: bool,
}

impl Seat {
    fn idle(&self) -> bool {
        self.held.is_empty() && self.migrate.is_none() && self.interrupt.is_none() && !self.inside
    }
}

thread_local! {
    static SEAT: RefCell<Vec<Seat>> = const { RefCell::new(Vec::new()) };
    static TOKEN: u32 = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed);
}

static NEXT_TOKEN: AtomicU32 = AtomicU32::new(1);
static NEXT_MACHINE: AtomicU64 = AtomicU64::new(1);

/// The number of the running thread.
pub(crate) fn token() -> u32 {
    TOKEN.with(|token| *token)
}

/// The threads of one machine.
#[derive(Debug)]
pub(crate) struct Schedule {
    machine: u64,
    cpus: usize,
    seed: u64,
    seats: AtomicU64,
    chance: AtomicU64,
}

/// What a point did.
#[derive(Clone, Copy, Default)]
pub(crate) struct Happened {
    pub(crate) migrated: bool,
    pub(crate) interrupted: bool,
}

impl Schedule {
    pub(crate) fn new(cpus: usize, seed: u64) -> Self {
        Self {
            machine: NEXT_MACHINE.fetch_add(1, Ordering::Relaxed),
            cpus,
            seed,
            seats: AtomicU64::new(0),
            chance: AtomicU64::new(0),
        }
    }

    fn seat<R>(&self, f: impl FnOnce(&mut Seat) -> R) -> R {
        SEAT.with_borrow_mut(|seats| {
            if let Some(place) = seats.iter().position(|seat| seat.machine == self.machine) {
                // The last one is the one in use: found at once next time.
                let last = seats.len() - 1;
                seats.swap(place, last);
                return f(&mut seats[last]);
            }
            if seats.len() >= SEATS
                && let Some(old) = seats.iter().position(Seat::idle)
            {
                seats.remove(old);
            }
            let number = self.seats.fetch_add(1, Ordering::Relaxed);
            seats.push(Seat {
                machine: self.machine,
                cpu: 0,
                points: 0,
                rng: Rng::new(self.seed ^ number.wrapping_mul(0xA24B_AED4_963E_E407)),
                migrate: None,
                interrupt: None,
                inside: false,
                held: Vec::new(),
                forking: false,
            });
            let last = seats.len() - 1;
            f(&mut seats[last])
        })
    }

    pub(crate) fn set_chance(&self, p: f64) {
        self.chance.store(threshold(p), Ordering::Relaxed);
    }

    pub(crate) fn cpu(&self) -> usize {
        self.seat(|seat| seat.cpu)
    }

    pub(crate) fn set_cpu(&self, cpu: usize) -> usize {
        assert!(cpu < self.cpus, "CPU {cpu} of a machine with {}", self.cpus);
        self.seat(|seat| std::mem::replace(&mut seat.cpu, cpu))
    }

    pub(crate) fn points(&self) -> u64 {
        self.seat(|seat| seat.points)
    }

    /// A scheduling point of the running thread.
    pub(crate) fn point(&self) -> Happened {
        let chance = self.chance.load(Ordering::Relaxed);
        let mut happened = Happened::default();
        let (interrupt, home) = self.seat(|seat| {
            seat.points += 1;
            if let Some((at, cpu)) = seat.migrate
                && seat.points >= at
            {
                seat.migrate = None;
                happened.migrated = seat.cpu != cpu;
                seat.cpu = cpu;
            } else if chance > 0 && self.cpus > 1 && hits(chance, seat.rng.next_u64()) {
                seat.cpu = (seat.cpu + 1 + seat.rng.below(self.cpus - 1)) % self.cpus;
                happened.migrated = true;
            }
            // I-SIM-1: not while a lock is held, and an interruption is not interrupted.
            let due = |&mut (at, _): &mut (u64, Interrupt)| {
                seat.points >= at && seat.held.is_empty() && !seat.inside
            };
            let interrupt = seat.interrupt.take_if(due);
            seat.inside |= interrupt.is_some();
            (interrupt, seat.cpu)
        });
        if let Some((_, run)) = interrupt {
            happened.interrupted = true;
            let _end = OnDrop(|| {
                self.seat(|seat| {
                    seat.inside = false;
                    seat.cpu = home;
                });
            });
            // SAFETY: I-SIM-2: `interrupted` is on this thread's stack below us, owns the closure and lends it
            // to nobody; `take_if` gave it to us once.
            unsafe { (*run)() };
        }
        happened
    }

    pub(crate) fn migrating<R>(&self, n: u64, cpu: usize, body: impl FnOnce() -> R) -> R {
        assert!(n > 0 && cpu < self.cpus, "points are counted from 1, CPUs to {}", self.cpus - 1);
        let before = self.seat(|seat| seat.migrate.replace((seat.points + n, cpu)));
        assert!(before.is_none(), "this thread has a migration in store already");
        let _end = OnDrop(|| self.seat(|seat| seat.migrate = None));
        body()
    }

    pub(crate) fn interrupted<R>(&self, n: u64, work: impl FnOnce(), body: impl FnOnce() -> R) -> (R, bool) {
        assert!(n > 0, "points are counted from 1");
        let mut work = Some(work);
        let mut ran = false;
        let mut run = || {
            if let Some(work) = work.take() {
                ran = true;
                work();
            }
        };
        let run: *mut (dyn FnMut() + '_) = &raw mut run;
        // SAFETY: only the lifetime changes; I-SIM-2 keeps every use within this function: the guard below takes the
        // pointer out of the seat on every way out, and the seat is of this thread.
        let run: Interrupt = unsafe { std::mem::transmute(run) };
        let before = self.seat(|seat| seat.interrupt.replace((seat.points + n, run)));
        assert!(before.is_none(), "this thread has an interruption in store already");
        let result = {
            let _end = OnDrop(|| self.seat(|seat| seat.interrupt = None));
            body()
        };
        (result, ran)
    }

    /// Runs `body` with several locks of one rank allowed, as a fork takes them all.
    pub(crate) fn forking<R>(&self, body: impl FnOnce() -> R) -> R {
        self.seat(|seat| seat.forking = true);
        let _end = OnDrop(|| self.seat(|seat| seat.forking = false));
        body()
    }

    /// Notes a lock. The held rank that forbids it, if any; the lock is then not noted.
    pub(crate) fn lock_taken(&self, rank: u8) -> Result<usize, u8> {
        self.seat(|seat| {
            let top = seat.held.iter().copied().max();
            match top {
                Some(top) if top > rank || (top == rank && !seat.forking) => Err(top),
                _ => {
                    seat.held.push(rank);
                    Ok(seat.cpu)
                }
            }
        })
    }

    /// Forgets a lock. False when none of this rank is held.
    pub(crate) fn lock_released(&self, rank: u8) -> bool {
        self.seat(|seat| match seat.held.iter().rposition(|&held| held == rank) {
            Some(place) => {
                seat.held.remove(place);
                true
            }
            None => false,
        })
    }

    /// The highest rank held by the running thread.
    pub(crate) fn highest_held(&self) -> Option<u8> {
        self.seat(|seat| seat.held.iter().copied().max())
    }
}

/// Runs a closure at the end of a scope, a panic included.
pub(crate) struct OnDrop<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
