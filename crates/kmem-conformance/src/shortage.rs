//! A heap without pages, and then with a few: how a check reaches every request for memory inside the heap.
//!
//! The platform refuses to give more ([`crate::Faulty`]), and the check takes all pages that are left. They are chained
//! through their own first words, so that this needs no memory either.

use kmem_core::gfp::Gfp;
use kmem_core::platform::MAX_ORDER;

use crate::failure::{Failure, Outcome, ensure, fail};
use crate::{Bench, Driver};

/// All free pages of a heap, held by a check, and a platform that gives no more. [`Shortage::end`] ends it.
///
/// They are taken in runs as large as there are, since a check begins dozens of shortages; a run is broken up when single pages of
/// it are given back.
#[must_use = "pages that are not given back are lost"]
pub(crate) struct Shortage {
    first: *mut Held,
    pages: usize,
}

/// At the start of a run of pages that is held.
struct Held {
    /// The one that was taken before.
    next: *mut Held,
    order: u32,
}

/// What reaches every zone, the one for most first.
const ZONES: [Gfp; 3] = [Gfp::empty(), Gfp::DMA32, Gfp::DMA];
const NO_WAIT: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::MEMALLOC);

impl Shortage {
    /// Takes all pages there are, of all nodes and zones, or only of one node.
    pub(crate) fn begin<D: Driver>(bench: &Bench<'_, D>, node: Option<usize>) -> Self {
        bench.faults().set_full(true);
        let mut shortage = Self { first: core::ptr::null_mut(), pages: 0 };
        let nodes = node.map_or(0..bench.nodes(), |node| node..node + 1);
        for order in (0..=MAX_ORDER).rev() {
            for node in nodes.clone() {
                for zone in ZONES {
                    while shortage.take(bench, Gfp::THISNODE | zone, order, Some(node)) {}
                }
            }
        }
        shortage
    }

    /// Takes one run, if there is one.
    fn take<D: Driver>(&mut self, bench: &Bench<'_, D>, gfp: Gfp, order: u32, node: Option<usize>) -> bool {
        let heap = bench.heap();
        let Some(run) = heap.pages().alloc(heap.platform(), NO_WAIT | gfp, order, node) else { return false };
        let held = heap.pages().address(heap.pages().into_head(run)).cast::<Held>();
        // SAFETY: the pages are this shortage's alone, and aligned.
        unsafe { held.write(Held { next: self.first, order }) };
        self.first = held;
        self.pages += 1 << order;
        true
    }

    /// Pages held.
    #[must_use]
    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    /// Gives the run that was taken last back; its order.
    fn give<D: Driver>(&mut self, bench: &Bench<'_, D>) -> Result<u32, Failure> {
        let heap = bench.heap();
        let run = self.first;
        // SAFETY: the caller has seen that one is held; its pages are this shortage's alone, and `take` wrote this.
        let Held { next, order } = unsafe { run.read() };
        self.first = next;
        self.pages -= 1 << order;
        // SAFETY: as above; no token of the run exists.
        if let Err(error) = unsafe { heap.pages().free_at(heap.platform(), run.addr(), Some(order)) } {
            fail!("pages that the check held were not taken back: {error:?}");
        }
        Ok(order)
    }

    /// Gives some pages back.
    ///
    /// # Errors
    /// The heap does not take one.
    pub(crate) fn relent<D: Driver>(&mut self, bench: &Bench<'_, D>, count: usize) -> Outcome {
        for _ in 0..count {
            if self.first.is_null() {
                break;
            }
            let order = self.give(bench)?;
            // Nothing else is free, so these are its pages; all but one.
            for _ in 1..1 << order {
                let taken = ZONES.into_iter().any(|zone| self.take(bench, zone, 0, None));
                ensure!(taken, "pages that were given back cannot be had");
            }
        }
        Ok(())
    }

    /// Gives all pages back, and lets the platform give more.
    ///
    /// # Errors
    /// The heap does not take one.
    pub(crate) fn end<D: Driver>(mut self, bench: &Bench<'_, D>) -> Outcome {
        bench.faults().set_full(false);
        while !self.first.is_null() {
            self.give(bench)?;
        }
        Ok(())
    }
}

/// Something that programs do, with every refusal accepted and everything given back. True when nothing was refused.
pub(crate) type Scenario<D> = fn(&Bench<'_, D>) -> Result<bool, Failure>;

/// Runs a scenario with each of its requests to the platform refused in turn (that one; that and all later ones), then
/// with 0, 1, 2, … pages left, until it succeeds. After each run nothing may be lost, and in the end it must succeed.
/// (Arrays of stacks are compared in the end only, by [`crate::run`].)
///
/// # Errors
/// Something was lost, or the scenario itself found something wrong.
pub(crate) fn everywhere<D: Driver>(bench: &Bench<'_, D>, scenario: Scenario<D>) -> Outcome {
    ensure!(scenario(bench)?, "it fails with memory to spare");
    let before = bench.quick_holdings()?;
    let faults = bench.faults();
    for all_later in [false, true] {
        let mut n = 1;
        loop {
            // So that it has to ask the platform: nothing is kept but what is in use.
            bench.heap().trim(0);
            let refused = faults.refused();
            if all_later {
                faults.fail_from(n)
            } else {
                faults.fail_nth(n)
            }
            let done = scenario(bench);
            faults.fail_none();
            let met = faults.refused() > refused;
            ensure!(done? || met, "it fails although request {n} was not refused");
            before.same(&bench.quick_holdings()?)?;
            if !met {
                break;
            }
            n += 1;
            ensure!(n < 10_000, "it asks the platform without end");
        }
    }
    let mut left = 0;
    loop {
        let mut shortage = Shortage::begin(bench, None);
        let held = shortage.pages();
        let done = match shortage.relent(bench, left) {
            Ok(()) => scenario(bench),
            Err(failure) => Err(failure),
        };
        shortage.end(bench)?;
        let done = done?;
        before.same(&bench.quick_holdings()?)?;
        if done {
            break;
        }
        ensure!(left < held.max(1) * 2, "it fails with all {held} pages");
        left += 1 + left / if cfg!(debug_assertions) { 4 } else { 16 };
    }
    ensure!(scenario(bench)?, "it fails with memory again");
    before.same(&bench.quick_holdings()?)
}
