//! Models of the lock-free protocols of `kmem-core`.
//!
//! # Theory
//! A stress test runs the interleavings that the machine happens to make. A model runs all of them, up to a number of
//! preemptions, and also every value that a weakly ordered machine may let a load return. The price is that the model is
//! not the code: each file here restates one protocol, with indices for addresses, function by function under the
//! names of the code it specifies. Who changes one changes the other.
//!
//! | file | specifies | in `kmem-core/src` |
//! |---|---|---|
//! | `slab_word` | the word of a slab, its node's list, the CPUs' chains | `engine/slub/{word,free,alloc,maintain}.rs` |
//! | `transaction` | the transaction word of a CPU slab | `engine/slub/cpu.rs` |
//! | `lock` | the lock that spins and then sleeps | `sync.rs` |
//! | `nolock` | the list of frees that could not wait | `kmalloc/nolock.rs` |
//! | `claim` | which of two frees gets a large block | `page/desc.rs`, `kmalloc/large.rs` |
//!
//! A model that cannot fail proves nothing. So each has planted bugs, the mistakes that one would make, and a test for
//! each of them that passes only when the model finds it.
//!
//! # How it is checked
//! - What a protocol protects without atomics (links in free objects, `carved`, what a lock guards) is a checked cell: two
//!   accesses that nothing orders are a failure, whatever values they see.
//! - Marks that the code does not have say who holds an object. Handing out one that is held fails.
//! - At the end of each execution, when all threads are joined, a `validate` looks for every object and every slab.
//!
//! All threads of a model are coroutines of one system thread, so what they share hangs on an `Rc`.
//!
//! The tests exist under `--cfg loom` only; `docs/concurrency.md` says how to run them and what they cannot see.

#[cfg(all(loom, test))]
mod claim;
#[cfg(all(loom, test))]
mod lock;
#[cfg(all(loom, test))]
mod nolock;
#[cfg(all(loom, test))]
mod slab_word;
#[cfg(all(loom, test))]
mod transaction;

/// Runs `model` in every interleaving with at most `preemptions` involuntary switches.
#[cfg(all(loom, test))]
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}
