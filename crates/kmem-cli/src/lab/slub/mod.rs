//! SLUB's script: free objects are chained inside the slab they lie in, and stacks and barns stand in front.

mod draw;
mod picture;
mod read;

use kmem_core::platform::PAGE_SIZE;

use super::draw::{hexdump, plural};
use super::heap::Heap;
use super::stage::Stage;
use super::steps;
use crate::cli::LabArgs;
use crate::failure::Result;
use picture::{Picture, State};
use read::Slubs;

/// Plays it.
///
/// # Errors
/// The heap refuses to create the cache.
pub(crate) fn play<C: Slubs>(stage: Stage, heap: Heap<C>, args: &LabArgs) -> Result<()> {
    let mut lab = Lab { stage, heap, mine: Vec::new() };
    lab.create(args)?;
    if !lab.allocate(args.count as usize) {
        return Ok(());
    }
    steps::write(&mut lab.stage, &mut lab.heap, &lab.mine, |heap, object| read::picture(heap).label(object));
    lab.free(usize::from(args.cpus) - 1);
    lab.allocate_again();
    lab.shrink();
    steps::table(&mut lab.stage, &lab.heap);
    steps::destroy(&mut lab.stage, &mut lab.heap, &mut lab.mine);
    Ok(())
}

struct Lab<C: Slubs> {
    stage: Stage,
    heap: Heap<C>,
    /// Objects in the order of their allocation.
    mine: Vec<usize>,
}

impl<C: Slubs> Lab<C> {
    fn say(&self, text: &str) {
        self.stage.say(text);
    }

    fn draw(&self) -> Picture {
        let picture = read::picture(&self.heap);
        debug_assert_eq!(picture.check(), Ok(()));
        self.say(&draw::picture(&picture, self.stage.style));
        picture
    }

    fn create(&mut self, args: &LabArgs) -> Result<()> {
        steps::create(&mut self.stage, &mut self.heap, args)?;
        let facts = read::facts(&self.heap);
        let bytes = facts.pages * PAGE_SIZE;
        self.say(&format!(
            "  A slab is {} and holds {} objects, {} bytes from one to the next; {} bytes at its end are left over.",
            plural(facts.pages, "page"),
            facts.objects,
            facts.size,
            bytes - facts.objects * facts.size
        ));
        if facts.stack_capacity > 0 {
            self.say(&format!(
                "  Each CPU may keep up to {} free objects on a stack of its own.",
                facts.stack_capacity
            ));
        }
        self.say(&draw::layout(&facts, self.stage.style));
        self.say(&format!("{} has no slab yet: creating a cache takes no memory for objects.", facts.name));
        Ok(())
    }

    /// Allocates on CPU 0. False when the first object was not to be had.
    fn allocate(&mut self, count: usize) -> bool {
        self.stage.step("kbuf = kmem_cache_alloc(my_cache, GFP_KERNEL)");
        let Some(first) = self.heap.alloc(0) else {
            self.say("kmem_cache_alloc failed");
            return false;
        };
        self.mine.push(first);
        let picture = read::picture(&self.heap);
        self.say(&format!("kmem_cache_alloc ok: {} at {first:#x}", picture.label(first)));
        self.say(&format!(
            "  There was no free object anywhere, so a slab of {} was made. CPU 0 took {} more for its stack.",
            plural(picture.facts.pages, "page"),
            picture.cpus[0].stack.len()
        ));
        self.draw();
        if count == 1 {
            return true;
        }
        self.stage.step(&format!("{} more times", count - 1));
        steps::allocate_more(&self.stage, &mut self.heap, &mut self.mine, count, |heap, objects| {
            let picture = read::picture(heap);
            objects.iter().map(|object| picture.label(*object)).collect()
        });
        self.draw();
        true
    }

    /// Frees the last object on CPU 0, and the first on another CPU if there is one.
    fn free(&mut self, other: usize) {
        self.stage.step("kmem_cache_free(my_cache, kbuf)");
        let mut freed = Vec::new();
        if self.mine.len() > 1 && other > 0 {
            let object = self.mine.remove(0);
            self.heap.free(other, object);
            freed.push((object, other));
        }
        if let Some(object) = self.mine.pop() {
            self.heap.free(0, object);
            freed.push((object, 0));
        }
        let picture = read::picture(&self.heap);
        for (object, cpu) in freed {
            let place = whereabouts(&picture, object, cpu);
            self.say(&format!("  {} freed on CPU {cpu}: it is now {place}.", picture.label(object)));
        }
        self.draw();
    }

    fn allocate_again(&mut self) {
        self.stage.step("kmem_cache_alloc(my_cache, GFP_KERNEL) again");
        let top = read::picture(&self.heap).cpus[0].stack.first().copied();
        let Some(object) = self.heap.alloc(0) else {
            self.say("kmem_cache_alloc failed");
            return;
        };
        self.mine.push(object);
        let picture = read::picture(&self.heap);
        let why = if top == Some(object) {
            "the top of CPU 0's stack: the object freed last is the first to be used again, still warm in the cache"
        } else {
            "nothing was on CPU 0's stack"
        };
        self.say(&format!("kmem_cache_alloc ok: {} at {object:#x}", picture.label(object)));
        self.say(&format!("  It is {why}."));
    }

    fn shrink(&mut self) {
        self.stage.step("kmem_cache_shrink(my_cache)");
        let left = self.heap.shrink();
        self.say("  CPUs and barns gave their free objects back to the slabs, and empty slabs went back to the pages.");
        let picture = self.draw();
        if !left {
            return;
        }
        // A free object followed by another: its free pointer can be shown.
        let Some(pair) = picture.slabs.iter().find_map(|slab| slab.list.get(..2)) else { return };
        let at = picture.facts.free_pointer;
        let bytes = read::look(&self.heap, pair[0]);
        let word = bytes[at..at + size_of::<usize>()].try_into().expect("a word");
        let stored = usize::from_ne_bytes(word);
        let next = picture.label(pair[1]);
        let reading = if stored == pair[1] {
            format!("the address of {next}")
        } else {
            format!("the address of {next}, {:#x}, encoded with a secret of the cache", pair[1])
        };
        self.say(&format!(
            "  The list runs through the free objects themselves. {} holds, at byte {at}, {stored:#x}: {reading}.",
            picture.label(pair[0])
        ));
        self.say(&hexdump(&bytes[..bytes.len().min(64)]));
    }
}

/// Where an object that was freed on `cpu` is, in words.
fn whereabouts(picture: &Picture, object: usize, cpu: usize) -> String {
    let Some((slab, number)) = picture.locate(object) else {
        return "gone with its slab".to_owned();
    };
    match picture.states()[slab][number] {
        State::InUse => "in use".to_owned(),
        State::Stack(cpu) => format!("on CPU {cpu}'s stack"),
        State::CpuList(cpu) => format!("on the list of CPU {cpu}'s slab"),
        State::SlabList => {
            let (here, home) = (picture.cpus[cpu].node, picture.slabs[slab].node);
            let reason = if here != home {
                format!(", since CPU {cpu} is on node {here} and the slab on node {home}")
            } else if picture.facts.stack_capacity == 0 {
                ", since the cache has no stacks".to_owned()
            } else {
                String::new()
            };
            format!("on its slab's own list{reason}")
        }
        State::Barn(node) => format!("in the barn of node {node}"),
        State::Fresh => "as if never handed out".to_owned(),
    }
}
