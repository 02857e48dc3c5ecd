//! Migration and interruption at every scheduling point of every operation.
//!
//! The heap is brought into a state that makes an operation take its longest way, then the operation runs with one
//! disturbance at its first point, again with one at its second, and so on to its end. After each run the book
//! must agree and every structure must be sound.

use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::{Machine, Shadow};

use crate::rig::{Cache, Rig, enter, leave};

crate::for_each_config! {
    one_migration_anywhere
    one_interruption_anywhere
    one_interruption_from_another_cpu_anywhere
}

const SIZE: usize = 192;

/// A heap with one cache, the blocks that the test holds, and their book.
struct World<C: Config> {
    rig: Rig<C>,
    cache: Cache<C>,
    book: Shadow,
    held: Vec<*mut u8>,
}

/// States to start from.
#[derive(Clone, Copy, Debug)]
enum Start {
    /// Nothing was ever allocated.
    Empty,
    /// Every CPU's stack is full.
    FullStacks,
    /// Every CPU's stack is empty, slabs are partly used.
    Partial,
}

const STARTS: [Start; 3] = [Start::Empty, Start::FullStacks, Start::Partial];

impl<C: Config> World<C> {
    fn new(start: Start) -> Self {
        let machine = Machine::builder().cpus(3).nodes(1).memory_per_node(4 * BLOCK_PAGES).build();
        let rig = Rig::<C>::new(&machine);
        let cache = rig.cache("world", SIZE);
        let mut world = Self { rig, cache, book: Shadow::new(), held: Vec::new() };
        match start {
            Start::Empty => {}
            Start::FullStacks => {
                for cpu in 0..3 {
                    world.on(cpu, |world| (0..150).for_each(|_| world.alloc()));
                }
                for cpu in 0..3 {
                    world.on(cpu, |world| (0..130).for_each(|_| world.free()));
                }
            }
            Start::Partial => {
                for cpu in 0..3 {
                    world.on(cpu, |world| (0..150).for_each(|_| world.alloc()));
                }
                let mut keep = Vec::new();
                for (i, object) in std::mem::take(&mut world.held).into_iter().enumerate() {
                    if i % 4 == 0 {
                        leave(&mut world.book, object);
                        world.rig.free(world.cache, object);
                    } else {
                        keep.push(object);
                    }
                }
                world.held = keep;
                (0..3).for_each(|cpu| world.rig.heap.cpu_dead(cpu));
            }
        }
        world
    }

    fn on(&mut self, cpu: usize, work: impl FnOnce(&mut Self)) {
        let machine = self.rig.machine.clone();
        machine.on_cpu(cpu, || work(self));
    }

    fn alloc(&mut self) {
        let object = self.rig.alloc(self.cache, Gfp::KERNEL);
        assert!(!object.is_null());
        enter(&mut self.book, object, SIZE);
        self.held.push(object);
    }

    fn free(&mut self) {
        if let Some(object) = self.held.pop() {
            leave(&mut self.book, object);
            self.rig.free(self.cache, object);
        }
    }

    /// One operation of the heap, by number.
    fn operate(&mut self, operation: usize) {
        match operation {
            0 => (0..9).for_each(|_| self.alloc()),
            1 => (0..9).for_each(|_| self.free()),
            2 => {
                let mut objects = [std::ptr::null_mut(); 70];
                assert!(self.rig.alloc_bulk(self.cache, &mut objects));
                for object in objects {
                    enter(&mut self.book, object, SIZE);
                    self.held.push(object);
                }
            }
            3 => {
                let mut objects = self.held.split_off(self.held.len().saturating_sub(70));
                objects.iter().for_each(|&object| leave(&mut self.book, object));
                self.rig.free_bulk(self.cache, &mut objects);
            }
            4 => {
                self.rig.shrink(self.cache);
            }
            5 => (0..3).for_each(|cpu| self.rig.heap.cpu_dead(cpu)),
            6 => {
                let object = self.rig.alloc_node(self.cache, Gfp::KERNEL | Gfp::THISNODE, 0);
                assert!(!object.is_null());
                enter(&mut self.book, object, SIZE);
                self.held.push(object);
            }
            _ => {
                let block = self.rig.heap.kmalloc(600, Gfp::KERNEL);
                enter(&mut self.book, block, 600);
                leave(&mut self.book, block);
                self.rig.kfree(block);
            }
        }
    }

    /// All objects are where the book says, and giving them back leaves an empty cache.
    fn finish(mut self) {
        assert_eq!(self.rig.in_use(self.cache), self.held.len() as u64);
        self.rig.check();
        while !self.held.is_empty() {
            self.free();
        }
        assert!(self.book.is_empty());
        assert_eq!(self.rig.in_use(self.cache), 0);
        assert_eq!(self.rig.destroy(self.cache), Ok(true));
        self.rig.check();
    }
}

const OPERATIONS: usize = 8;

/// How many points to skip between tries: none in optimised builds.
const STRIDE: u64 = if cfg!(debug_assertions) { 3 } else { 1 };

/// At most this many points of one operation are tried: the flushing ones have many that are alike.
const POINTS: u64 = if cfg!(debug_assertions) { 60 } else { 400 };

fn one_migration_anywhere<C: Config>() {
    let mut moves = 0;
    for start in STARTS {
        for operation in 0..OPERATIONS {
            let mut n = 1;
            loop {
                let mut world = World::<C>::new(start);
                let machine = world.rig.machine.clone();
                let before = machine.counters().migrations;
                machine.migrating(n, 1 + (n as usize % 2), || world.operate(operation));
                let moved = machine.counters().migrations > before;
                world.finish();
                n += STRIDE;
                moves += u64::from(moved);
                if !moved || n > POINTS {
                    break;
                }
            }
        }
    }
    assert!(moves > 100, "only {moves} migrations happened");
}

/// Runs `operation` with all of `other` in the middle of it, at every point.
fn interruptions<C: Config>(other_cpu: Option<usize>) {
    for start in STARTS {
        for operation in 0..OPERATIONS {
            for other in 0..OPERATIONS {
                let mut n = 1;
                loop {
                    let mut world = World::<C>::new(start);
                    let machine = world.rig.machine.clone();
                    // The interruption has a book of its own: the two never hold the same block.
                    let (cache, rig) = (world.cache, &raw const world.rig);
                    let mut guest_held: Vec<*mut u8> = Vec::new();
                    let mut mine = world.held.split_off(world.held.len() / 2);
                    mine.iter().for_each(|&object| leave(&mut world.book, object));
                    let ((), ran) = machine.interrupted(
                        n,
                        || {
                            // SAFETY: the rig outlives the call and is only ever shared.
                            let rig = unsafe { &*rig };
                            let cpu = other_cpu.unwrap_or(0);
                            machine.on_cpu(cpu, || guest(rig, cache, other, &mut mine, &mut guest_held));
                        },
                        || world.operate(operation),
                    );
                    for object in mine.into_iter().chain(guest_held) {
                        enter(&mut world.book, object, SIZE);
                        world.held.push(object);
                    }
                    world.finish();
                    n += STRIDE;
                    if !ran || n > POINTS / 4 {
                        break;
                    }
                }
            }
        }
    }
}

/// What the interruption does: the same operations, on blocks of its own.
fn guest<C: Config>(
    rig: &Rig<C>,
    cache: Cache<C>,
    operation: usize,
    mine: &mut Vec<*mut u8>,
    held: &mut Vec<*mut u8>,
) {
    match operation {
        0 => held.extend((0..9).map(|_| rig.alloc(cache, Gfp::KERNEL))),
        1 => (0..9).filter_map(|_| mine.pop()).for_each(|object| rig.free(cache, object)),
        2 => {
            let mut objects = [std::ptr::null_mut(); 70];
            assert!(rig.alloc_bulk(cache, &mut objects));
            held.extend(objects);
        }
        3 => rig.free_bulk(cache, &mut mine.split_off(mine.len().saturating_sub(70))),
        4 => {
            rig.shrink(cache);
        }
        5 => (0..3).for_each(|cpu| rig.heap.cpu_dead(cpu)),
        6 => held.push(rig.alloc_node(cache, Gfp::KERNEL | Gfp::THISNODE, 0)),
        _ => rig.kfree(rig.heap.kmalloc(600, Gfp::KERNEL)),
    }
}

fn one_interruption_anywhere<C: Config>() {
    interruptions::<C>(None);
}

fn one_interruption_from_another_cpu_anywhere<C: Config>() {
    interruptions::<C>(Some(1));
}
