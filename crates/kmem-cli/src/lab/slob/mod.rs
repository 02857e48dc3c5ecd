//! SLOB's script: no slabs, blocks of all sizes side by side in shared pages, first fit, and joining what is freed.

mod draw;
mod picture;
mod read;

use kmem_core::engine::slob::Where;
use kmem_core::platform::PAGE_SIZE;

use super::draw::{hexdump, plural};
use super::heap::Heap;
use super::stage::Stage;
use super::steps;
use crate::cli::LabArgs;
use crate::failure::Result;
use picture::{Page, Picture, UNIT, What};
use read::{HEADER, Slobs};

/// Sizes that kmalloc is asked for: one for each list, and a power of two.
const SIZES: [usize; 4] = [20, 64, 300, 1500];
/// Where the lists of small and medium blocks end.
const BOUNDS: [usize; 3] = [256, 1024, PAGE_SIZE];

/// Plays it.
///
/// # Errors
/// The heap refuses to create the cache.
pub(crate) fn play<C: Slobs>(stage: Stage, heap: Heap<C>, args: &LabArgs) -> Result<()> {
    let mut lab = Lab { stage, heap, mine: Vec::new() };
    lab.create(args)?;
    if !lab.allocate(args.count as usize) {
        return Ok(());
    }
    steps::write(&mut lab.stage, &mut lab.heap, &lab.mine, |heap, object| read::picture(heap).label(object));
    let blocks = lab.kmalloc();
    if lab.heap.cache_size() < PAGE_SIZE {
        lab.move_on();
        lab.join();
        lab.give_back();
    }
    lab.kfree(&blocks);
    lab.stats();
    steps::destroy(&mut lab.stage, &mut lab.heap, &mut lab.mine);
    Ok(())
}

struct Lab<C: Slobs> {
    stage: Stage,
    heap: Heap<C>,
    /// Objects in the order of their allocation.
    mine: Vec<usize>,
}

impl<C: Slobs> Lab<C> {
    fn say(&self, text: &str) {
        self.stage.say(text);
    }

    fn picture(&self) -> Picture {
        let picture = read::picture(&self.heap);
        debug_assert_eq!(picture.check(), Ok(()));
        picture
    }

    /// Draws the pages of these addresses, and the lists.
    fn draw(&self, addresses: &[usize]) {
        let picture = self.picture();
        let mut drawn: Vec<usize> = Vec::new();
        for page in addresses.iter().filter_map(|address| Some(picture.locate(*address)?.0)) {
            if !drawn.contains(&page.name) {
                drawn.push(page.name);
                self.say(&draw::page(page, self.stage.style));
            }
        }
        self.say(&draw::legend(self.stage.style));
        self.say(&draw::lists(&picture, self.stage.style));
    }

    fn create(&mut self, args: &LabArgs) -> Result<()> {
        steps::create(&mut self.stage, &mut self.heap, args)?;
        let geometry = self.heap.descriptor().geometry();
        let (size, align) = (geometry.size, geometry.align);
        if size >= PAGE_SIZE {
            self.say(&format!("  An object is a run of {}.", plural(1_u64 << geometry.order, "page")));
        } else {
            self.say(&format!(
                "  An object takes {} of {UNIT} bytes at a multiple of {align} bytes: {} from one to the next, if they lie side by side.",
                plural(size.div_ceil(UNIT), "unit"),
                size.next_multiple_of(align)
            ));
        }
        self.say("  There are no slabs: it lies wherever a page has room, beside blocks of any size.");
        self.say(&draw::lists(&self.picture(), self.stage.style));
        Ok(())
    }

    /// Allocates on CPU 0. False when the first object was not to be had.
    fn allocate(&mut self, count: usize) -> bool {
        self.stage.step("kbuf = kmem_cache_alloc(my_cache, GFP_KERNEL)");
        let before = self.picture();
        let Some(first) = self.heap.alloc(0) else {
            self.say("kmem_cache_alloc failed");
            return false;
        };
        self.mine.push(first);
        let picture = self.picture();
        self.say(&format!("kmem_cache_alloc ok: {} at {first:#x}", picture.label(first)));
        if let Some((page, offset)) = picture.locate(first) {
            let new = before.locate(first).is_none();
            let others = page.is.blocks.saturating_sub(1);
            self.say(&match page.is.place {
                Where::Whole(pages) => format!("  It has {} to itself.", plural(pages, "page")),
                _ if new => "  No page had room for it, so a page was fetched.".to_owned(),
                _ => format!(
                    "  Page {} has {} more, of others: there was room at unit {}.",
                    page.label(),
                    plural(others, "block"),
                    offset / UNIT
                ),
            });
        }
        self.draw(&[first]);
        if count > 1 {
            self.stage.step(&format!("{} more times", count - 1));
            let labels = |heap: &Heap<C>, objects: &[usize]| {
                let picture = read::picture(heap);
                objects.iter().map(|object| picture.label(*object)).collect()
            };
            steps::allocate_more(&self.stage, &mut self.heap, &mut self.mine, count, labels);
            self.draw(&self.mine[self.mine.len() - 1..]);
        }
        true
    }

    /// Asks kmalloc for blocks of several sizes; returns them.
    fn kmalloc(&mut self) -> Vec<usize> {
        self.stage.step(&format!("kmalloc of {SIZES:?} bytes"));
        let mut blocks = Vec::new();
        for size in SIZES {
            match self.heap.kmalloc(0, size) {
                Some(block) => blocks.push(block),
                None => self.say(&format!("kmalloc({size}) failed")),
            }
        }
        let picture = self.picture();
        for block in &blocks {
            let list = match picture.locate(*block).map(|(page, _)| page.is.place) {
                Some(Where::Ring(ring)) => draw::RINGS[ring],
                _ => "none",
            };
            self.say(&format!(
                "kmalloc({}) ok: {} at {block:#x}, ksize {}; the page's list: {list}",
                self.heap.blocks()[block],
                picture.label(*block),
                self.heap.usable(*block)
            ));
        }
        let Some(&first) = blocks.first() else { return blocks };
        self.say(&format!(
            "  Nothing but a header of {HEADER} bytes in front of a block tells how long it is. That of {}, and the block:",
            picture.label(first)
        ));
        self.say(&hexdump(&self.heap.look_block(first, HEADER)));
        let header = self.heap.look_block(first, HEADER);
        self.say(&format!(
            "  The first two bytes are {}; the rest is a check by which a bad pointer is told.",
            u16::from_ne_bytes([header[0], header[1]])
        ));
        self.draw(&blocks);
        blocks
    }

    /// Shows that a search begins where the last one succeeded.
    fn move_on(&mut self) {
        self.stage.step("first fit moves on");
        let Some((&first, ring)) = self.mine.first().zip(self.ring()) else { return };
        // Until an object lies in another page than the first.
        let home = self.picture().locate(first).map(|(page, _)| page.is.base);
        let mut new = 0;
        loop {
            let Some(object) = self.heap.alloc(0) else {
                self.say("kmem_cache_alloc failed");
                return;
            };
            self.mine.push(object);
            new += 1;
            if self.picture().locate(object).map(|(page, _)| page.is.base) != home {
                break;
            }
        }
        let picture = self.picture();
        let (Some((old, _)), Some(page)) = (picture.locate(first), self.newest_page(&picture)) else {
            return;
        };
        let (old, page) = (old.label(), page.label());
        self.say(&format!(
            "  {} filled page {old}; the last lies in page {page}.",
            plural(new, "allocation")
        ));
        let object = self.mine.remove(0);
        self.heap.free(0, object);
        let picture = self.picture();
        self.say(&format!("  {} was freed, so page {old} has room for one.", picture.label(object)));
        self.say_ring(&picture, ring);
        // Longer than any free block of the old page, and still a block of this list.
        let longest = picture.locate(object).and_then(|(page, _)| page.holes().map(|run| run.bytes).max());
        let bytes = longest.unwrap_or(0) + 8;
        if bytes < BOUNDS[ring]
            && bytes > HEADER
            && let Some(block) = self.heap.kmalloc(0, bytes - HEADER)
        {
            let picture = self.picture();
            self.say(&format!(
                "  kmalloc({}) with its header is longer than what is free in page {old}: it is {}.",
                bytes - HEADER,
                picture.label(block)
            ));
            self.say_ring(&picture, ring);
            let Some(next) = self.heap.alloc(0) else { return };
            self.mine.push(next);
            let picture = self.picture();
            let place = picture.locate(next).map(|(page, _)| page.label()).unwrap_or_default();
            let why = if place == old {
                "the search began with that page"
            } else {
                "the search began behind, and the older hole is left for later"
            };
            self.say(&format!("  The next object is {}: {why}.", picture.label(next)));
            self.heap.kfree(0, block);
        }
        self.draw(&[object]);
    }

    fn newest_page<'a>(&self, picture: &'a Picture) -> Option<&'a Page> {
        Some(picture.locate(*self.mine.last()?)?.0)
    }

    /// The list that the cache's objects are on.
    fn ring(&self) -> Option<usize> {
        BOUNDS.iter().position(|bound| self.heap.cache_size() < *bound)
    }

    fn say_ring(&self, picture: &Picture, ring: usize) {
        let text = draw::ring_text(picture, ring, self.stage.style);
        self.say(&format!("    list ({}): {text}", draw::RINGS[ring]));
    }

    /// Frees three neighbours, the middle one last.
    fn join(&mut self) {
        self.stage.step("kmem_cache_free of three neighbours, the middle one last");
        let picture = self.picture();
        let Some(three) = picture.pages.iter().find_map(neighbours) else {
            self.say("  No three objects lie side by side.");
            return;
        };
        for (object, what) in [(three[0], "the first"), (three[2], "the third"), (three[1], "the middle one")]
        {
            self.mine.retain(|mine| *mine != object);
            let label = self.picture().label(object);
            self.heap.free(0, object);
            let picture = self.picture();
            let hole = picture.locate(object).and_then(|(page, offset)| {
                let count = page.holes().count();
                let hole = page.holes().find(|run| (run.offset..run.offset + run.bytes).contains(&offset))?;
                Some((*hole, count))
            });
            self.say(&match hole {
                Some((hole, count)) => format!(
                    "  {label}, {what}: it lies in a free block of {} bytes, units {}..{}; the page has {count} free blocks.",
                    hole.bytes,
                    hole.offset / UNIT,
                    (hole.offset + hole.bytes) / UNIT
                ),
                None => format!("  {label}, {what}: its page went back."),
            });
        }
        self.draw(&[three[1]]);
    }

    /// Frees all objects of a page that nobody else has a block in.
    fn give_back(&mut self) {
        self.stage.step("kmem_cache_free of all objects of a page");
        let picture = self.picture();
        let objects = |page: &Page| -> Vec<usize> {
            let objects = page.runs.iter().filter(|run| run.what == What::Object);
            objects.map(|run| page.is.base + run.offset).collect()
        };
        let only_objects = |page: &&Page| {
            let none_else = page.runs.iter().all(|run| matches!(run.what, What::Object | What::Free));
            page.is_mine() && none_else && !objects(page).is_empty()
        };
        let Some(page) = picture.pages.iter().find(only_objects) else {
            self.say("  Every page has blocks of others.");
            return;
        };
        for object in objects(page) {
            self.mine.retain(|mine| *mine != object);
            self.heap.free(0, object);
        }
        let after = self.picture();
        let gone = !after.pages.iter().any(|other| other.is.base == page.is.base);
        self.say(&format!(
            "  Page {} had {}. SLOB had {} and has {}: {}.",
            page.label(),
            plural(objects(page).len(), "object"),
            plural(picture.pages.len(), "page"),
            after.pages.len(),
            if gone { "the page went back with its last object" } else { "the page is still there" }
        ));
        self.say(&draw::lists(&after, self.stage.style));
    }

    fn kfree(&mut self, blocks: &[usize]) {
        self.stage.step("kfree of the blocks of kmalloc");
        for block in blocks {
            let label = self.picture().label(*block);
            self.heap.kfree(0, *block);
            let freed = self.picture();
            let place = match freed.locate(*block) {
                Some((page, _)) => format!("page {} has {} bytes free", page.label(), page.is.free),
                None => "its page went back".to_owned(),
            };
            self.say(&format!("  {label}: {place}."));
        }
    }

    fn stats(&mut self) {
        self.stage.step("what SLOB has now (it has no /proc/slabinfo)");
        let stats = self.heap.kmem().slob_stats();
        self.say(&format!(
            "  {}, with {} in use and {} bytes free; {} that are one object.",
            plural(stats.pages, "shared page"),
            plural(stats.blocks, "block"),
            stats.free_bytes,
            plural(stats.wholes, "run")
        ));
        self.say(&draw::lists(&self.picture(), self.stage.style));
    }
}

/// Three objects of a page with at most free bytes between them, ascending.
fn neighbours(page: &Page) -> Option<[usize; 3]> {
    let mut row = Vec::new();
    for run in &page.runs {
        match run.what {
            What::Object => row.push(page.is.base + run.offset),
            What::Free => {}
            What::Block(_) | What::Other => row.clear(),
        }
        if let [a, b, c] = row[..] {
            return Some([a, b, c]);
        }
    }
    None
}
