//! SLAB's script: arrays of free objects that are filled and emptied in batches, indexes beside the objects, colours, tunables,
//! and reaping by time.

mod draw;
mod picture;
mod read;

use kmem_core::Kmem;
use kmem_core::flags::SlabFlags;
use kmem_core::platform::PAGE_SIZE;
use kmem_core::view::picture::slab::List;
use kmem_sim::Machine;

use super::draw::plural;
use super::heap::{Heap, Wish};
use super::stage::Stage;
use super::steps;
use crate::cli::LabArgs;
use crate::failure::Result;
use picture::{Picture, State};
use read::Slabs;

/// Slabs that are made to see their colours.
const COLOURED: usize = 4;
/// What is made where the student's cache has no colours: five objects leave more than half a kilobyte of a page.
const STRIPED: Wish<'_> = Wish { name: "striped", size: 704, align: 64, flags: SlabFlags::NO_MERGE };
/// Turns of reaping, at most.
const TURNS: usize = 16;

/// Plays it.
///
/// # Errors
/// The heap refuses to create the cache.
pub(crate) fn play<C: Slabs>(stage: Stage, heap: Heap<C>, args: &LabArgs) -> Result<()> {
    let mut lab = Lab { stage, heap, mine: Vec::new() };
    lab.create(args)?;
    if !lab.allocate(args.count as usize) {
        return Ok(());
    }
    lab.refill();
    steps::write(&mut lab.stage, &mut lab.heap, &lab.mine, |heap, object| read::picture(heap).label(object));
    lab.free(usize::from(args.cpus) - 1);
    lab.allocate_again();
    lab.spill();
    lab.share();
    lab.colours();
    lab.reap();
    lab.tune();
    lab.shrink();
    steps::table(&mut lab.stage, &lab.heap);
    steps::destroy(&mut lab.stage, &mut lab.heap, &mut lab.mine);
    Ok(())
}

struct Lab<C: Slabs> {
    stage: Stage,
    heap: Heap<C>,
    /// Objects in the order of their allocation.
    mine: Vec<usize>,
}

impl<C: Slabs> Lab<C> {
    fn say(&self, text: &str) {
        self.stage.say(text);
    }

    fn picture(&self) -> Picture {
        read::picture(&self.heap)
    }

    fn draw(&self) -> Picture {
        let picture = self.picture();
        debug_assert_eq!(picture.check(), Ok(()));
        self.say(&draw::picture(&picture, self.stage.style));
        picture
    }

    fn create(&mut self, args: &LabArgs) -> Result<()> {
        steps::create(&mut self.stage, &mut self.heap, args)?;
        let facts = read::facts(&self.heap);
        let left = facts.pages * PAGE_SIZE - facts.objects * facts.size;
        self.say(&format!(
            "  A slab is {} and holds {}, {} bytes from one to the next. {left} bytes are left over.",
            plural(facts.pages, "page"),
            plural(facts.objects, "object"),
            facts.size,
        ));
        if facts.index_bytes > 0 {
            self.say(&format!(
                "  Which of them are free tells an index of {} bytes; nothing of it lies in an object in use.",
                facts.index_bytes
            ));
        }
        match facts.colours {
            0 | 1 => self.say(&format!(
                "  Too little is left over to colour slabs, in steps of {} bytes: all begin alike.",
                facts.colour_step
            )),
            colours => self.say(&format!(
                "  Its slabs begin at {colours} colours, {} bytes from one to the next.",
                facts.colour_step
            )),
        }
        let [limit, batch, shared] = facts.tunables;
        if limit > 0 {
            self.say(&format!(
                "  Each CPU may keep up to {limit} free objects in an array; {batch} move at a time."
            ));
        }
        if shared > 0 {
            self.say(&format!("  The CPUs of a node share an array of {shared} such batches."));
        }
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
        let picture = self.picture();
        let place = match picture.locate(first) {
            Some((slab, _)) => first - picture.slabs[slab].is.base,
            None => 0,
        };
        self.say(&format!(
            "kmem_cache_alloc ok: {} at {first:#x}, byte {place} of its slab",
            picture.label(first)
        ));
        self.say(&format!(
            "  There was no free object anywhere, so a slab was made. CPU 0 was filled with {}, and handed one out.",
            plural(picture.cpus[0].array.len() + 1, "object")
        ));
        self.draw();
        if count > 1 {
            self.stage.step(&format!("{} more times", count - 1));
            let labels = |heap: &Heap<C>, objects: &[usize]| {
                let picture = read::picture(heap);
                objects.iter().map(|object| picture.label(*object)).collect()
            };
            steps::allocate_more(&self.stage, &mut self.heap, &mut self.mine, count, labels);
            self.draw();
        }
        true
    }

    /// Empties CPU 0's array to see how many objects the next refill brings.
    fn refill(&mut self) {
        let left = self.picture().cpus[0].array.len();
        self.stage.step("kmem_cache_alloc until CPU 0's array is empty, and once more");
        for _ in 0..=left {
            let Some(object) = self.heap.alloc(0) else {
                self.say("kmem_cache_alloc failed");
                return;
            };
            self.mine.push(object);
        }
        let after = self.picture();
        let [_, batch, _] = after.facts.tunables;
        self.say(&format!(
            "  {} emptied it. The next one was refilled with {}; batchcount is {batch}.",
            plural(left, "allocation"),
            plural(after.cpus[0].array.len() + 1, "object"),
        ));
        self.draw();
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
        let picture = self.picture();
        for (object, cpu) in freed {
            let place = whereabouts(&picture, object, cpu);
            self.say(&format!("  {} freed on CPU {cpu}: it is now {place}.", picture.label(object)));
        }
        self.draw();
    }

    fn allocate_again(&mut self) {
        self.stage.step("kmem_cache_alloc(my_cache, GFP_KERNEL) again");
        let newest = self.picture().cpus[0].array.last().copied();
        let Some(object) = self.heap.alloc(0) else {
            self.say("kmem_cache_alloc failed");
            return;
        };
        self.mine.push(object);
        self.say(&format!("kmem_cache_alloc ok: {} at {object:#x}", self.picture().label(object)));
        self.say(if newest == Some(object) {
            "  It is the newest of CPU 0's array: the object freed last is used again first, still warm."
        } else {
            "  CPU 0's array was empty."
        });
    }

    /// Frees on CPU 0 until its array is full, to see which objects leave it.
    fn spill(&mut self) {
        let [limit, batch, _] = read::facts(&self.heap).tunables;
        if limit == 0 {
            return;
        }
        self.stage.step("kmem_cache_free on CPU 0 until its array is full, and once more");
        let held = self.picture().cpus[0].array.len();
        // Twice the limit: allocating takes what the array has, and it must be filled from nothing.
        let mut extra: Vec<usize> = Vec::new();
        while extra.len() + held < 2 * limit as usize + 1 {
            match self.heap.alloc(0) {
                Some(object) => extra.push(object),
                None => break,
            }
        }
        let (mut gone, mut which) = (Vec::new(), "");
        while gone.is_empty() {
            let Some(object) = extra.pop() else { break };
            let before = self.picture().cpus[0].array.clone();
            self.heap.free(0, object);
            let after = self.picture();
            let here = &after.cpus[0].array;
            gone = before.iter().copied().filter(|object| !here.contains(object)).collect();
            which = if before.starts_with(&gone) {
                "oldest"
            } else if before.ends_with(&gone) {
                "newest"
            } else {
                "objects"
            };
        }
        let picture = self.picture();
        self.say(&match (gone.first(), gone.last()) {
            (Some(oldest), Some(youngest)) => format!(
                "  The array had {limit}, so its {} {which}, {} to {}, made room (batchcount {batch}).\n  {}",
                gone.len(),
                picture.label(*oldest),
                picture.label(*youngest),
                tally(&picture, &gone)
            ),
            _ => "  There was not enough memory to fill it.".to_owned(),
        });
        self.draw();
        for object in extra {
            self.heap.free(0, object);
        }
    }

    /// Allocates on another CPU of CPU 0's node, whose array is refilled from the shared one.
    fn share(&mut self) {
        let before = self.picture();
        let node = before.cpus[0].node;
        let other = (1..before.cpus.len()).find(|cpu| before.cpus[*cpu].node == node);
        let (Some(other), [_, _, 1_u32..=u32::MAX]) = (other, before.facts.tunables) else { return };
        self.stage.step(&format!("kmem_cache_alloc on CPU {other} until its array is empty, and once more"));
        for _ in 0..=before.cpus[other].array.len() {
            let Some(object) = self.heap.alloc(other) else {
                self.say("kmem_cache_alloc failed");
                return;
            };
            self.mine.push(object);
        }
        let after = self.picture();
        let got = after.cpus[other].array.len() + 1;
        let (had, has) = (before.nodes[node].shared.len(), after.nodes[node].shared.len());
        self.say(&format!(
            "  CPU {other} was refilled with {}. The shared array of node {node} had {had} and has {has}: {}",
            plural(got, "object"),
            if had - has == got { "no slab was looked at." } else { "the slabs had to help." }
        ));
        let Some(last) = self.mine.last() else { return };
        let why = if before.nodes[node].shared.last() == Some(last) {
            ", which came to the shared array last"
        } else {
            ""
        };
        self.say(&format!("  What CPU {other} got first is {}{why}.", after.label(*last)));
        self.draw();
    }

    /// Makes several slabs of this cache, or where that has no colours of another, to see where they begin.
    fn colours(&mut self) {
        let own = read::facts(&self.heap).colours > 1;
        if own {
            self.stage.step(&format!("kmem_cache_alloc until there are {COLOURED} slabs"));
            let slabs = slabs_of(&mut self.heap);
            self.say_colours(&slabs);
            let surplus: Vec<usize> =
                self.heap.live().iter().copied().filter(|object| !self.mine.contains(object)).collect();
            for object in surplus {
                self.heap.free(0, object);
            }
            return;
        }
        self.stage.step(&format!(
            "kmem_cache_create(\"{}\", {}, {}, 0, NULL), and {COLOURED} slabs of it",
            STRIPED.name, STRIPED.size, STRIPED.align
        ));
        match self.heap.aside(&STRIPED, |heap| slabs_of(heap)) {
            Ok(slabs) => self.say_colours(&slabs),
            Err(error) => self.say(&format!("kmem_cache_create failed: {error}")),
        }
    }

    fn say_colours(&self, picture: &Picture) {
        let facts = &picture.facts;
        self.say(&format!(
            "  {}: {} of {} bytes in {}; {} colours, {} bytes from one to the next.",
            facts.name,
            plural(facts.objects, "object"),
            facts.size,
            plural(facts.pages, "page"),
            facts.colours,
            facts.colour_step
        ));
        let mut slabs: Vec<&picture::Slab> = picture.slabs.iter().collect();
        slabs.sort_by_key(|slab| slab.name);
        for slab in slabs.iter().take(COLOURED) {
            self.say(&draw::title(slab, self.stage.style));
        }
        self.say(
            "  So the first objects of its slabs do not compete for the same lines of a processor's cache.",
        );
    }

    /// Lets time pass, and gives every CPU its turns.
    fn reap(&mut self) {
        let seconds = Kmem::<Machine, C>::REAP_INTERVAL / 1_000_000_000;
        self.stage.step(&format!("cache_reap on every CPU, each {seconds} seconds"));
        self.say("  seconds  in CPU arrays  in shared arrays  free in slabs  slabs  free slabs");
        let mut last = String::new();
        let mut quiet = 0;
        for turn in 0..=TURNS {
            if turn > 0 {
                self.heap.reap();
            }
            let picture = self.picture();
            let numbers = [
                picture.cpus.iter().map(|cpu| cpu.array.len()).sum::<usize>(),
                picture.nodes.iter().map(|node| node.shared.len()).sum(),
                picture.slabs.iter().map(|slab| slab.order.len()).sum(),
                picture.slabs.len(),
                picture.slabs.iter().filter(|slab| slab.is.list == List::Free).count(),
            ];
            let [arrays, shared, free, slabs, free_slabs] = numbers;
            let line = format!("{arrays:>13}  {shared:>16}  {free:>13}  {slabs:>5}  {free_slabs:>10}");
            self.say(&format!("  {:>7}  {line}", turn as u64 * seconds));
            quiet = if line == last { quiet + 1 } else { 0 };
            last = line;
            if quiet == 2 {
                break;
            }
        }
        self.say("  What was touched since the last turn is left alone once; what was not loses a fifth of its limit a turn.");
        self.draw();
    }

    /// Changes the tunables while the cache is in use.
    fn tune(&mut self) {
        let facts = read::facts(&self.heap);
        let [limit, ..] = facts.tunables;
        if limit == 0 {
            return;
        }
        let new = [(limit / 2).max(1), (limit / 8).max(1), 2];
        let line = format!("{} {} {} {}", facts.name, new[0], new[1], new[2]);
        self.stage.step(&format!("echo \"{line}\" > /proc/slabinfo"));
        if let Err(error) = self.heap.kmem().write_slabinfo_tunables(line.as_bytes()) {
            self.say(&format!("write: {error}"));
            return;
        }
        let table = self.heap.slabinfo();
        let row = table.lines().find(|row| row.split(' ').next() == Some(facts.name.as_str()));
        self.say(&format!("  {}", row.unwrap_or("(no row)")));
        let empty = self.picture().cpus.iter().all(|cpu| cpu.array.is_empty());
        if let Some(object) = self.heap.alloc(0) {
            self.mine.push(object);
            let got = self.picture().cpus[0].array.len() + 1;
            self.say(&format!(
                "  All arrays were emptied: {}. The next allocation on CPU 0 was refilled with {}.",
                if empty { "so they are" } else { "but some are not" },
                plural(got, "object")
            ));
        }
    }

    fn shrink(&mut self) {
        self.stage.step("kmem_cache_shrink(my_cache)");
        let before = self.picture().slabs.len();
        self.heap.shrink();
        let after = self.picture();
        let arrays: usize = after.cpus.iter().map(|cpu| cpu.array.len()).sum::<usize>()
            + after.nodes.iter().map(|node| node.shared.len()).sum::<usize>();
        self.say(&format!(
            "  {} are in arrays now; of {} {} left.",
            plural(arrays, "object"),
            plural(before, "slab"),
            after.slabs.len()
        ));
        self.draw();
    }
}

/// Allocates on CPU 0 until the cache has enough slabs, or there is no memory.
fn slabs_of<C: Slabs>(heap: &mut Heap<C>) -> Picture {
    loop {
        let picture = read::picture(heap);
        if picture.slabs.len() >= COLOURED || heap.alloc(0).is_none() {
            return picture;
        }
    }
}

/// Where objects that left an array are now: `60 are in node 0's shared array.`
fn tally(picture: &Picture, objects: &[usize]) -> String {
    let states = picture.states();
    let state = |object: &usize| picture.locate(*object).map(|(slab, number)| states[slab][number]);
    let shared = objects.iter().filter(|object| matches!(state(object), Some(State::Shared(_)))).count();
    let free =
        objects.iter().filter(|object| matches!(state(object), Some(State::Free | State::Home))).count();
    format!("{shared} of them are in the node's shared array, {free} in their slabs.")
}

/// Where an object that was freed on `cpu` is, in words.
fn whereabouts(picture: &Picture, object: usize, cpu: usize) -> String {
    let Some((slab, number)) = picture.locate(object) else {
        return "gone with its slab".to_owned();
    };
    match picture.states()[slab][number] {
        State::InUse => "in use".to_owned(),
        State::Array(cpu) => format!("in CPU {cpu}'s array"),
        State::Shared(node) => format!("in the shared array of node {node}"),
        State::Alien(node) => format!(
            "in node {node}'s array for node {}, since CPU {cpu} is on node {} and the slab on node {}",
            picture.slabs[slab].is.node, picture.cpus[cpu].node, picture.slabs[slab].is.node
        ),
        State::Free => "free in its slab".to_owned(),
        State::Home => "free in its slab, and holds the slab's index".to_owned(),
    }
}
