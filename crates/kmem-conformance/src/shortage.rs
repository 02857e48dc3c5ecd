//! A heap without pages, and then with a few: how a check reaches every request for memory inside the heap.
//!
//! The platform refuses to give more ([`crate::Faulty`]), and the check takes all pages that are left. They are chained
//! through their own first words, so that this needs no memory either.

use kmem_core::gfp::Gfp;

use crate::failure::{Failure, Outcome, ensure, fail};
use crate::{Bench, Driver};

/// All free pages of a heap, held by a check, and a platform that gives no more. [`Shortage::end`] ends it.
#[must_use = "pages that are not given back are lost"]
pub(crate) struct Shortage {
    first: *mut u8,
    pages: usize,
}

const NO_WAIT: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::MEMALLOC);

impl Shortage {
    /// Takes all pages there are, of all nodes and zones, or only of one node.
    pub(crate) fn begin<D: Driver>(bench: &Bench<'_, D>, node: Option<usize>) -> Self {
        let heap = bench.heap();
        bench.faults().set_full(true);
        let mut shortage = Self { first: core::ptr::null_mut(), pages: 0 };
        let nodes = node.map_or(0..bench.nodes(), |node| node..node + 1);
        for node in nodes {
            for zone in [Gfp::empty(), Gfp::DMA32, Gfp::DMA] {
                let gfp = NO_WAIT | Gfp::THISNODE | zone;
                while let Some(run) = heap.pages().alloc(heap.platform(), gfp, 0, Some(node)) {
                    let page = heap.pages().address(heap.pages().into_head(run));
                    shortage.hold(page);
                }
            }
        }
        shortage
    }

    fn hold(&mut self, page: *mut u8) {
        // SAFETY: the page is this shortage's alone.
        unsafe { page.cast::<*mut u8>().write(self.first) };
        self.first = page;
        self.pages += 1;
    }

    /// Pages held.
    #[must_use]
    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    /// Gives some pages back.
    ///
    /// # Errors
    /// The heap does not take one.
    pub(crate) fn relent<D: Driver>(&mut self, bench: &Bench<'_, D>, count: usize) -> Outcome {
        let heap = bench.heap();
        for _ in 0..count {
            if self.first.is_null() {
                break;
            }
            let page = self.first;
            // SAFETY: the page is this shortage's alone; `hold` wrote the link.
            self.first = unsafe { page.cast::<*mut u8>().read() };
            self.pages -= 1;
            // SAFETY: as above; no token of the page exists.
            if let Err(error) = unsafe { heap.pages().free_at(heap.platform(), page.addr(), Some(0)) } {
                fail!("a page that the check held was not taken back: {error:?}");
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
        self.relent(bench, usize::MAX)
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
