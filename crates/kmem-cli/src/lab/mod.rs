//! `kmem lab`: the classic exercise, live. A cache is made, used and destroyed on a simulated machine, and after each
//! step its slabs are drawn.
//!
//! Everything that is said is read from the heap at that moment: the script decides what is done, never what is
//! seen. The heap's own messages appear where they occur.
//!
//! [`heap`] is the bench, [`picture`] what is seen, [`draw`] how it looks.

mod draw;
mod heap;
mod picture;

use std::io::{self, BufRead, IsTerminal, Write};

use kmem_core::engine::slub::Slub;
use kmem_core::flags::SlabFlags;
use kmem_core::platform::PAGE_SIZE;
use kmem_core::{Config, KernelConfig, UserConfig};

use crate::cli::{CacheFlag, LabArgs, LabConfig};
use crate::failure::{Failure, Result};
use crate::slabinfo::Slabinfo;
use crate::table::Paint;
use draw::Style;
use heap::{Heap, Wish};
use picture::{Picture, State};

/// Allocations that are told one by one.
const TOLD: usize = 4;

/// The cache that is there before ours when it is to be merged.
const ELDER: &str = "elder";

/// Runs the command.
///
/// # Errors
/// Arguments of which no machine can be made, or a cache that the heap refuses to create.
pub(crate) fn run(args: &LabArgs) -> Result<u8> {
    if args.nodes > args.cpus {
        return Err(Failure::input(format!("{} nodes need as many CPUs: --cpus {}", args.nodes, args.nodes)));
    }
    match args.config {
        LabConfig::Kernel => lab::<KernelConfig>(args),
        LabConfig::User => lab::<UserConfig>(args),
    }
}

fn lab<C: Config<Engine = Slub>>(args: &LabArgs) -> Result<u8> {
    let heap: Heap<C> = Heap::new(args.cpus.into(), args.nodes.into())
        .ok_or_else(|| Failure::input("the machine has too little memory for a heap"))?;
    let terminal = io::stdout().is_terminal();
    let style = Style { ascii: args.ascii, paint: Paint::for_terminal(terminal) };
    let mut lab = Lab { heap, style, wait: args.step, steps: 0, mine: Vec::new() };
    lab.say(&format!("A machine with {} and {}.", plural(args.cpus, "CPU"), plural(args.nodes, "node")));
    lab.create(args)?;
    if !lab.allocate(args.count as usize) {
        return Ok(0);
    }
    lab.write();
    lab.free(usize::from(args.cpus) - 1);
    lab.allocate_again();
    lab.shrink();
    lab.table();
    lab.destroy();
    Ok(0)
}

struct Lab<C: Config<Engine = Slub>> {
    heap: Heap<C>,
    style: Style,
    wait: bool,
    steps: usize,
    /// Objects in the order of their allocation.
    mine: Vec<usize>,
}

impl<C: Config<Engine = Slub>> Lab<C> {
    /// Starts a step: waits for the student, then prints the call it makes.
    fn step(&mut self, call: &str) {
        if self.wait && self.steps > 0 {
            eprint!("{}", self.style.paint.dim("[Enter] "));
            let mut line = String::new();
            // An end of input means that nobody will press a key any more.
            if io::stdin().lock().read_line(&mut line).unwrap_or(0) == 0 {
                eprintln!();
                self.wait = false;
            }
        }
        self.steps += 1;
        let heading = self.style.paint.bold(&format!("[{}] {call}", self.steps));
        self.say(&format!("\n{heading}"));
    }

    /// Prints a line, and before it whatever the heap had to say.
    fn say(&self, text: &str) {
        let console = self.heap.console();
        let mut out = io::stdout().lock();
        // A closed stdout ends the command by SIGPIPE; any other failure has nobody left to be told to.
        for line in console.lines() {
            let _ = writeln!(out, "{}", self.style.paint.warn(&format!("heap: {line}")));
        }
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    }

    fn draw(&self) -> Picture {
        let picture = self.heap.picture();
        debug_assert_eq!(picture.check(), Ok(()));
        self.say(draw::picture(&picture, self.style).trim_end());
        picture
    }

    fn create(&mut self, args: &LabArgs) -> Result<()> {
        let mut flags = SlabFlags::empty();
        let mut names = Vec::new();
        for flag in &args.flags {
            let (flag, name) = match flag {
                CacheFlag::HwcacheAlign => (SlabFlags::HWCACHE_ALIGN, "SLAB_HWCACHE_ALIGN"),
                CacheFlag::TypesafeByRcu => (SlabFlags::TYPESAFE_BY_RCU, "SLAB_TYPESAFE_BY_RCU"),
                CacheFlag::ReclaimAccount => (SlabFlags::RECLAIM_ACCOUNT, "SLAB_RECLAIM_ACCOUNT"),
                CacheFlag::Account => (SlabFlags::ACCOUNT, "SLAB_ACCOUNT"),
            };
            flags |= flag;
            names.push(name);
        }
        let shown = if names.is_empty() { "0".to_owned() } else { names.join(" | ") };
        self.step(&format!(
            "kmem_cache_create(\"{}\", {}, {}, {shown}, NULL)",
            args.name, args.size, args.align
        ));
        // The teacher's cache stays visible: by itself the heap would let it share the slabs of another.
        let flags = if args.merge { flags } else { flags | SlabFlags::NO_MERGE };
        let wish = Wish { name: &args.name, size: args.size, align: args.align, flags };
        if args.merge {
            let elder = Wish { name: ELDER, ..wish };
            let made = self.heap.create_elder(&elder);
            made.map_err(|error| Failure::input(format!("no cache '{ELDER}': {error}")))?;
            self.say(&format!("  (A cache '{ELDER}' of the same kind was created before.)"));
        }
        if let Err(error) = self.heap.create(&wish) {
            self.say("kmem_cache_create failed.");
            return Err(Failure::input(format!("no cache '{}': {error}", args.name)));
        }
        self.say("kmem_cache_create ok");
        let facts = self.heap.facts();
        if facts.name != args.name {
            self.say(&format!(
                "  {} fits as well: '{}' is one more name for it, and shares its slabs.",
                facts.name, args.name
            ));
        }
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
        self.say(draw::layout(&facts, self.style).trim_end());
        self.say(&format!("{} has no slab yet: creating a cache takes no memory for objects.", facts.name));
        Ok(())
    }

    /// Allocates on CPU 0. False when the first object was not to be had.
    fn allocate(&mut self, count: usize) -> bool {
        self.step("kbuf = kmem_cache_alloc(my_cache, GFP_KERNEL)");
        let Some(first) = self.heap.alloc(0) else {
            self.say("kmem_cache_alloc failed");
            return false;
        };
        self.mine.push(first);
        let picture = self.heap.picture();
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
        self.step(&format!("{} more times", count - 1));
        let mut failed = false;
        while self.mine.len() < count && !failed {
            match self.heap.alloc(0) {
                Some(object) => self.mine.push(object),
                None => failed = true,
            }
        }
        let picture = self.heap.picture();
        for object in self.mine.iter().skip(1).take(TOLD) {
            self.say(&format!("kmem_cache_alloc ok: {} at {object:#x}", picture.label(*object)));
        }
        let untold = self.mine.len().saturating_sub(1 + TOLD);
        if untold > 0 {
            self.say(&format!("  and {} more", untold));
        }
        if failed {
            self.say(&format!(
                "kmem_cache_alloc failed: the machine has no memory after {} objects",
                self.mine.len()
            ));
        }
        self.draw();
        true
    }

    fn write(&mut self) {
        let facts = self.heap.facts();
        self.step("write to every object, and read back");
        let content = |number: usize| {
            let mut bytes = format!("object {number} ").into_bytes();
            bytes.resize(facts.object_size, b'.');
            bytes
        };
        for (number, object) in self.mine.iter().enumerate() {
            self.heap.write(*object, &content(number));
        }
        let same = |(number, object): (usize, &usize)| {
            self.heap.look(*object)[..facts.object_size] == content(number)
        };
        let good = self.mine.iter().enumerate().filter(|(number, object)| same((*number, *object))).count();
        self.say(&format!("  {good} of {} objects read back as written.", self.mine.len()));
        let last = self.mine.len() - 1;
        let picture = self.heap.picture();
        self.say(&format!("  {} of {} bytes:", picture.label(self.mine[last]), facts.size));
        let bytes = self.heap.look(self.mine[last]);
        self.say(draw::hexdump(&bytes[..bytes.len().min(64)]).trim_end());
    }

    /// Frees the last object on CPU 0, and the first on another CPU if there is one.
    fn free(&mut self, other: usize) {
        self.step("kmem_cache_free(my_cache, kbuf)");
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
        let picture = self.heap.picture();
        for (object, cpu) in freed {
            let place = whereabouts(&picture, object, cpu);
            self.say(&format!("  {} freed on CPU {cpu}: it is now {place}.", picture.label(object)));
        }
        self.draw();
    }

    fn allocate_again(&mut self) {
        self.step("kmem_cache_alloc(my_cache, GFP_KERNEL) again");
        let top = self.heap.picture().cpus[0].stack.first().copied();
        let Some(object) = self.heap.alloc(0) else {
            self.say("kmem_cache_alloc failed");
            return;
        };
        self.mine.push(object);
        let picture = self.heap.picture();
        let why = if top == Some(object) {
            "the top of CPU 0's stack: the object freed last is the first to be used again, still warm in the cache"
        } else {
            "nothing was on CPU 0's stack"
        };
        self.say(&format!("kmem_cache_alloc ok: {} at {object:#x}", picture.label(object)));
        self.say(&format!("  It is {why}."));
    }

    fn shrink(&mut self) {
        self.step("kmem_cache_shrink(my_cache)");
        let left = self.heap.shrink();
        self.say("  CPUs and barns gave their free objects back to the slabs, and empty slabs went back to the pages.");
        let picture = self.draw();
        if !left {
            return;
        }
        // A free object followed by another: its free pointer can be shown.
        let Some(pair) = picture.slabs.iter().find_map(|slab| slab.list.get(..2)) else { return };
        let at = picture.facts.free_pointer;
        let bytes = self.heap.look(pair[0]);
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
        self.say(draw::hexdump(&bytes[..bytes.len().min(64)]).trim_end());
    }

    /// The slab table, without the caches that have no slab.
    fn table(&mut self) {
        self.step("cat /proc/slabinfo");
        let text = self.heap.slabinfo();
        let mut table = match Slabinfo::parse(&text) {
            Ok(table) => table,
            Err(error) => unreachable!("the heap writes its table as we read it: {error}"),
        };
        let all = table.rows.len();
        table.rows.retain(|row| row.num_slabs > 0);
        let mine = self.heap.facts().name;
        for line in table.to_string().lines() {
            let row = line.split(' ').next() == Some(mine.as_str());
            self.say(&if row { self.style.paint.bold(line) } else { line.to_owned() });
        }
        let left_out = all - table.rows.len();
        if left_out > 0 {
            self.say(&format!("  ({left_out} caches without a slab are left out)"));
        }
    }

    fn destroy(&mut self) {
        self.step("kmem_cache_free for all objects, then kmem_cache_destroy(my_cache)");
        let name = self.heap.facts().name;
        for object in self.mine.drain(..) {
            self.heap.free(0, object);
        }
        match self.heap.destroy() {
            Ok(true) => self.say("destroyed my_cache"),
            Ok(false) => self.say(&format!("destroyed my_cache: {name} goes on under its other names")),
            Err(error) => self.say(&format!("kmem_cache_destroy failed: {error}")),
        }
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

fn plural(number: impl TryInto<u64>, word: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}
