//! `kmem lab`: the classic exercise, live. A cache is made, used and destroyed on a simulated machine, and after each
//! step its slabs are drawn.
//!
//! Everything that is said is read from the heap at that moment: a script decides what is done, never what is
//! seen. The heap's own messages appear where they occur.
//!
//! Each engine has a script of its own, for what is worth seeing differs: [`slub`], [`slab`], [`slob`]. In each, `read` takes a
//! picture of the live heap, `picture` is that picture as plain data, and `draw` how it looks. Common to them are the
//! bench ([`heap`]), the stage on which a step is played ([`stage`]), the steps that are alike ([`steps`]) and the parts of
//! drawings ([`draw`]).

mod draw;
mod heap;
mod slab;
mod slob;
mod slub;
mod stage;
mod steps;

use kmem_core::engine::slab::Slab;
use kmem_core::engine::slob::Slob;
use kmem_core::engine::slub::Slub;
use kmem_core::{Config, KernelConfig, UserConfig};

use crate::cli::{Engine, LabArgs, LabConfig};
use crate::failure::{Failure, Result};
use draw::plural;
use heap::Heap;
use stage::Stage;

/// Runs the command.
///
/// # Errors
/// Arguments of which no machine can be made, or a cache that the heap refuses to create.
pub(crate) fn run(args: &LabArgs) -> Result<u8> {
    if args.nodes > args.cpus {
        return Err(Failure::input(format!("{} nodes need as many CPUs: --cpus {}", args.nodes, args.nodes)));
    }
    match (args.engine, args.config) {
        (Engine::Slub, LabConfig::Kernel) => play::<KernelConfig<Slub>>(args, slub::play),
        (Engine::Slub, LabConfig::User) => play::<UserConfig<Slub>>(args, slub::play),
        (Engine::Slab, LabConfig::Kernel) => play::<KernelConfig<Slab>>(args, slab::play),
        (Engine::Slab, LabConfig::User) => play::<UserConfig<Slab>>(args, slab::play),
        (Engine::Slob, LabConfig::Kernel) => play::<KernelConfig<Slob>>(args, slob::play),
        (Engine::Slob, LabConfig::User) => play::<UserConfig<Slob>>(args, slob::play),
    }
}

/// Sets the stage, and plays a script on it.
fn play<C: Config>(args: &LabArgs, script: fn(Stage, Heap<C>, &LabArgs) -> Result<()>) -> Result<u8> {
    let heap: Heap<C> = Heap::new(args.cpus.into(), args.nodes.into())
        .ok_or_else(|| Failure::input("the machine has too little memory for a heap"))?;
    let stage = Stage::new(heap.machine().clone(), args);
    stage.say(&format!("A machine with {} and {}.", plural(args.cpus, "CPU"), plural(args.nodes, "node")));
    script(stage, heap, args)?;
    Ok(0)
}
