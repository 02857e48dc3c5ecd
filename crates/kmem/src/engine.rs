//! The engine of this build, and what the fast paths know of it before anything runs.
//!
//! # Theory
//! A kernel is configured with one allocator, and so is a binary with this crate: the features `slab` and `slob` choose
//! another engine than SLUB for the process-wide heap. [`Heap`] is the only type that depends on the choice;
//! everything above it is the same source.
//!
//! The fast paths work on constants: which stack serves a size (`place_for`) with an alignment (`place_aligned`), and what proves
//! that an object of a class starts at an address (`CHECKS`, `tag_at`). Both come from the classes and from the engine's geometry,
//! so from the type as well. An engine without stacks or without classes has neither: `REGULAR` is false, the
//! compiler drops the fast paths, and every request goes to the engine.
//!
//! # Invariants
//! - I-ENGINE-1: an entry of `CHECKS` is the geometry that the heap gives the class when it makes it: both are the answer
//!   of one function to one request.
//!
//! # Never
//! Nothing here takes a lock, writes memory, or divides.

pub(crate) mod check;

use core::hint::cold_path;

use kmem_core::Kmem;
use kmem_core::config::{USER_RULES, USER_SLAB_RULES, UserConfig};
use kmem_core::engine::Engine;
use kmem_core::engine::beside::{self, Beside};
use kmem_core::engine::geometry::Request;
use kmem_core::engine::slab::{self, Slab};
use kmem_core::engine::slob::Slob;
use kmem_core::engine::slub::{self, Slub};
use kmem_core::kmalloc::MAX_CLASSES;
use kmem_core::kmalloc::classes::ClassSet;
use kmem_core::kmalloc::classes::{MAX_BYTES, lead_of, slab_rules};
use kmem_core::percpu::StackId;
use kmem_core::platform::{PAGE_SHIFT, PAGE_SIZE};

use check::Check;

use crate::heap::HARDENED;
use crate::host::{Host, HostCpus, Span};

#[cfg(all(feature = "slab", feature = "slob"))]
compile_error!("a heap has one engine: choose the feature `slab`, or `slob`, or neither of them for SLUB");

/// The engine of the process-wide heap.
#[cfg(not(any(feature = "slab", feature = "slob")))]
pub type Chosen = Slub;
/// The engine of the process-wide heap.
#[cfg(feature = "slab")]
pub type Chosen = Slab;
/// The engine of the process-wide heap.
#[cfg(feature = "slob")]
pub type Chosen = Slob;

#[cfg(all(feature = "hardened", any(feature = "slab", feature = "slob")))]
compile_error!("the hardened heap has the engine SLUB: choose no other");

/// The configuration of the process-wide heap.
#[cfg(not(any(feature = "slab", feature = "slob", feature = "hardened")))]
pub type ChosenConfig = kmem_core::config::Headed<UserConfig<Slub>>;
/// The configuration of the process-wide heap.
#[cfg(any(feature = "slab", feature = "slob"))]
pub type ChosenConfig = UserConfig<Chosen>;
/// The configuration of the process-wide heap.
#[cfg(feature = "hardened")]
pub type ChosenConfig = kmem_core::config::Hardened<UserConfig<Slub>>;

/// The size classes of the process-wide heap. Those of an engine without classes are never asked for: the tables below just
/// have some.
#[cfg(not(any(feature = "slab", feature = "slob", feature = "hardened")))]
pub(crate) type Classes = kmem_core::kmalloc::classes::HeadedSet;
/// The size classes of the process-wide heap.
#[cfg(any(feature = "slab", feature = "slob"))]
pub(crate) type Classes = kmem_core::kmalloc::classes::ShortSet;
/// The size classes of the process-wide heap.
#[cfg(feature = "hardened")]
pub(crate) type Classes = kmem_core::kmalloc::classes::SealedSet;

/// The type of the process-wide heap.
pub type Heap = Kmem<Host, ChosenConfig>;

/// Free's fast path is written for blocks with headers, and runs of pages.
#[cfg(target_arch = "x86_64")]
pub(crate) const QUICK: bool = REGULAR && Classes::HEADED != 0;

/// Requests are served by the CPUs' stacks of size classes, and an object's place in its slab follows from its address.
pub(crate) const REGULAR: bool = Chosen::STACKS && Chosen::CLASSES;

/// The slabs of a class.
#[derive(Clone, Copy)]
struct Slabs {
    /// Bytes of one: a power of two, to which it is aligned.
    bytes: usize,
    /// Objects in one.
    objects: usize,
}

/// What the fast paths must know of an engine.
trait Shape: Engine {
    /// By class, for those in slabs.
    const SLABS: [Slabs; Classes::SLAB_CLASSES];

    /// The first object need not open the slab: a look at the slab tells where it lies.
    const LEADS: bool;

    /// Bytes from the start of a slab, at the address `slab`, to its first object.
    ///
    /// # Safety
    /// With [`Shape::LEADS`], a page of the slab has the tag of its class.
    unsafe fn lead(span: &Span, slab: usize) -> u32;
}

impl Shape for Slub {
    const SLABS: [Slabs; Classes::SLAB_CLASSES] = {
        let mut table = [Slabs { bytes: 0, objects: 0 }; Classes::SLAB_CLASSES];
        let mut class = 0;
        while class < table.len() {
            let slot = slot_of(class);
            let request = Request { align: lead_of(slot), ..Request::new(slot) };
            let Ok(mut geometry) = slub::geometry::compute(&request, &slab_rules(request.size, USER_RULES))
            else {
                panic!("a size class has a geometry");
            };
            geometry = match beside(class) {
                Beside::Nothing => geometry,
                Beside::Header => geometry.with_header(lead_of(slot)),
                Beside::Tail => geometry.with_tail(),
            };
            table[class] = Slabs { bytes: PAGE_SIZE << geometry.order, objects: geometry.objects };
            class += 1;
        }
        table
    };

    const LEADS: bool = false;

    #[inline(always)]
    unsafe fn lead(_span: &Span, _slab: usize) -> u32 {
        0
    }
}

impl Shape for Slab {
    const SLABS: [Slabs; Classes::SLAB_CLASSES] = {
        let mut table = [Slabs { bytes: 0, objects: 0 }; Classes::SLAB_CLASSES];
        let mut class = 0;
        while class < table.len() {
            let request = Request::new(Classes::SIZES[class] as usize);
            let Ok(shape) = slab::geometry::compute(&request, &slab_rules(request.size, USER_SLAB_RULES))
            else {
                panic!("a size class has a geometry");
            };
            table[class] = Slabs { bytes: shape.slab_bytes(), objects: shape.geometry.objects };
            class += 1;
        }
        table
    };

    /// Slabs of one class begin at different colours; the descriptor knows at which.
    const LEADS: bool = true;

    #[inline(always)]
    unsafe fn lead(span: &Span, slab: usize) -> u32 {
        // SAFETY: the page has a tag, so it is part of the heap and has a descriptor, or it had one when the tag was read.
        unsafe { Slab::lead(span.descriptor(slab)) }
    }
}

impl Shape for Slob {
    /// No class has slabs.
    const SLABS: [Slabs; Classes::SLAB_CLASSES] = [Slabs { bytes: 1, objects: 0 }; Classes::SLAB_CLASSES];
    const LEADS: bool = false;

    #[inline(always)]
    unsafe fn lead(_span: &Span, _slab: usize) -> u32 {
        0
    }
}

/// Bytes from one block of a class to the next.
const fn slot_of(class: usize) -> usize {
    Classes::SIZES[class] as usize + beside(class).bytes()
}

/// What lies beside the blocks of a class.
pub(crate) const fn beside(class: usize) -> Beside {
    if class < Classes::BESIDE.len() { Classes::BESIDE[class] } else { Beside::Nothing }
}

/// The stack of this place is that of a class whose blocks have headers.
#[inline(always)]
pub(crate) const fn is_headed(place: usize) -> bool {
    place <= Classes::HEADED * size_of::<Check>() && Classes::HEADED != 0
}

/// Requests up to here find their class in a table. Their blocks have headers, or no block has.
pub(crate) const TABLE_LIMIT: usize = 1024;
const _: () = assert!(Classes::HEADED == 0 || Classes::SIZES[Classes::HEADED - 1] as usize >= TABLE_LIMIT);

/// Blocks are multiples of 16 bytes long, or 8 bytes more.
const BESIDE: usize = if Classes::HEADED != 0 { 16 - Beside::Header.bytes() } else { 0 };

/// Place of the CPU stack for requests of 0, 1 to 16, 17 to 32, … bytes; with headers of 0 to 8, 9 to 24, …
pub(crate) static PLACES: [u16; TABLE_LIMIT / 16 + 1] = {
    let mut table = [0; TABLE_LIMIT / 16 + 1];
    let mut class = 0;
    let mut i = 0;
    while i < table.len() {
        while (Classes::CHOSEN[class] as usize) < i * 16 + BESIDE {
            class += 1;
        }
        table[i] = HostCpus::place(Heap::class_id(class)) as u16;
        i += 1;
    }
    table
};

/// Requests up to here find their class in a second table: all that lie in slabs, where blocks have headers. Longer ones find it by
/// their pages there ([`run_for`]), and by arithmetic elsewhere.
const MIDDLING_LIMIT: usize =
    if Classes::HEADED != 0 { Classes::SIZES[Classes::SLAB_CLASSES - 1] as usize } else { 32 << 10 };

/// Its steps, as a power of two: what lies beside blocks makes their sizes odd multiples of 8.
const MIDDLING_STEP: u32 = if Classes::HEADED != 0 { 3 } else { 4 };

/// Tag of the class for requests of 0, 1 to one step, … bytes.
static TAGS: [u8; (MIDDLING_LIMIT >> MIDDLING_STEP) + 1] = {
    let mut table = [0; (MIDDLING_LIMIT >> MIDDLING_STEP) + 1];
    let mut class = 0;
    let mut i = 0;
    while i < table.len() {
        while (Classes::CHOSEN[class] as usize) < i << MIDDLING_STEP {
            class += 1;
        }
        table[i] = class as u8 + 1;
        i += 1;
    }
    table
};

/// The number of the stacks at a place.
#[inline(always)]
pub(crate) const fn stack_of(place: usize) -> StackId {
    (place / HostCpus::place(1)) as StackId
}

/// The place of no class. No stack is ever installed there, so that every pop fails.
pub(crate) const NO_PLACE: usize = HostCpus::place(0);

/// The place in [`PLACES`] of a request of up to [`TABLE_LIMIT`] bytes.
#[inline(always)]
fn step_of(size: usize) -> usize {
    const ROUND: usize = 15 - BESIDE;
    debug_assert!(size <= TABLE_LIMIT);
    #[cfg(target_arch = "x86_64")]
    {
        let step;
        // SAFETY: arithmetic. In 32 bits, two bytes less, which the compiler makes 64 of: with them malloc is longer than two cache lines.
        unsafe {
            core::arch::asm!(
                "lea {step:e}, [{size} + {round}]",
                "shr {step:e}, 4",
                step = lateout(reg) step,
                size = in(reg) size,
                round = const ROUND,
                options(pure, nomem, nostack),
            );
        }
        step
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        (size + ROUND) >> 4
    }
}

/// Place of the CPU stack for a request of any size: [`NO_PLACE`] beyond the largest class.
#[inline(always)]
pub(crate) fn place_for(size: usize) -> usize {
    if size <= TABLE_LIMIT {
        let step = step_of(size);
        // SAFETY: the table has a place for each step up to the limit's.
        return unsafe { usize::from(*PLACES.get_unchecked(step)) };
    }
    // So the usual way has no jump in it.
    cold_path();
    if size <= MIDDLING_LIMIT {
        usize::from(TAGS[(size + (1 << MIDDLING_STEP) - 1) >> MIDDLING_STEP]) * size_of::<Check>()
    } else if size <= Classes::LARGEST {
        (Classes::class_of(size) + 1) * size_of::<Check>()
    } else {
        NO_PLACE
    }
}

/// From so many bytes on blocks are runs of pages, where small ones have headers.
pub(crate) const UNHEADED_FROM: usize = MIDDLING_LIMIT + 1;

/// Place of the stack by the last page of a run that is to be served, from 0 on: [`NO_PLACE`] where no class is.
static RUN_PLACES: [u16; MAX_BYTES >> PAGE_SHIFT] = {
    let mut table = [NO_PLACE as u16; MAX_BYTES >> PAGE_SHIFT];
    let mut class = Classes::SLAB_CLASSES;
    let mut page = 0;
    while page < table.len() {
        while class < Classes::COUNT && (is_growing(class) || slot_of(class) < (page + 1) << PAGE_SHIFT) {
            class += 1;
        }
        if class < Classes::COUNT {
            table[page] = HostCpus::place(Heap::class_id(class)) as u16;
        }
        page += 1;
    }
    table
};

/// The class is that of blocks that grow by resizing, which is chosen for no size.
pub(crate) const fn is_growing(class: usize) -> bool {
    matches!(Classes::GROWING, Some(growing) if growing == class)
}

/// Where the stack of a class of runs is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunPlace {
    /// Its blocks have tails.
    Tailed(usize),
    /// They have none.
    Bare(usize),
    /// No class serves the request.
    Nowhere,
}

/// The place for a request of [`UNHEADED_FROM`] bytes or more, where small blocks have headers.
#[inline(always)]
// Where no block has a tail nothing is as short.
#[allow(clippy::unnecessary_min_or_max)]
pub(crate) fn run_for(size: usize) -> RunPlace {
    let place = |last: usize| usize::from(RUN_PLACES[last >> PAGE_SHIFT]);
    let tail = Beside::Tail.bytes();
    if size <= Classes::TAILED.saturating_sub(tail) {
        RunPlace::Tailed(place(size + tail - 1))
    } else if size <= MAX_BYTES {
        // The longest class with tails is too short for all of its slot.
        RunPlace::Bare(place((size - 1).max(Classes::TAILED)))
    } else {
        RunPlace::Nowhere
    }
}

/// Alignments below 2 to this power have their classes in [`FITS`].
const FIT_POWERS: usize = 32;

/// By the tag of the class that serves a size, and the binary logarithm of an alignment: the tag of the class that serves both,
/// or 0 where none does. The rule is `Kmem::class_aligned`'s.
static FITS: [[u8; FIT_POWERS]; MAX_CLASSES + 1] = {
    let mut table = [[0; FIT_POWERS]; MAX_CLASSES + 1];
    let mut class = 0;
    while class < Classes::COUNT {
        let mut power = 0;
        while power < FIT_POWERS {
            let mut fit = class;
            while fit < Classes::COUNT && natural_log2(fit) < power {
                fit += 1;
            }
            if fit < Classes::COUNT && (fit == class || 1 << power <= PAGE_SIZE) {
                table[class + 1][power] = fit as u8 + 1;
            }
            power += 1;
        }
        class += 1;
    }
    table
};

/// Binary logarithm of what the blocks of a class are aligned to. A slab is aligned to its own length, and its first object opens
/// it; a run of pages is cut from the front of a block of the next power of two.
const fn natural_log2(class: usize) -> usize {
    let slot = slot_of(class);
    let power = if class < Classes::SLAB_CLASSES { lead_of(slot) } else { slot.next_power_of_two() }.ilog2();
    power as usize
}

/// Place of the CPU stack for a request of any size with an alignment, which is a power of two: [`NO_PLACE`] where no class
/// serves it.
#[inline(always)]
pub(crate) fn place_aligned(align: usize, size: usize) -> usize {
    let power = align.trailing_zeros() as usize;
    if align >= PAGE_SIZE && HAS_WHOLE_PAGES {
        return place_in_pages(align, size);
    }
    fit(place_for(size) / size_of::<Check>(), power)
}

/// Some classes are for blocks aligned to pages alone.
const HAS_WHOLE_PAGES: bool = Classes::HEADED != 0;

/// [`place_aligned`] where such a class may be what is asked for.
#[cold]
#[inline(never)]
fn place_in_pages(align: usize, size: usize) -> usize {
    let tag = if size <= Classes::LARGEST { Classes::class_of_aligned(align, size) + 1 } else { 0 };
    fit(tag, align.trailing_zeros() as usize)
}

/// Place of the CPU stack for a request of up to [`MIDDLING_LIMIT`] bytes at a page's start, by steps of [`MIDDLING_STEP`].
static PAGE_PLACES: [u16; (MIDDLING_LIMIT >> MIDDLING_STEP) + 1] = {
    let mut table = [NO_PLACE as u16; (MIDDLING_LIMIT >> MIDDLING_STEP) + 1];
    let mut i = 0;
    while i < table.len() {
        let size = i << MIDDLING_STEP;
        // The first class that is long enough, also of those that are chosen for nothing else, and aligned so.
        let mut class = 0;
        while class < Classes::COUNT
            && ((Classes::SIZES[class] as usize) < size || (1 << natural_log2(class)) < PAGE_SIZE)
        {
            class += 1;
        }
        if class < Classes::COUNT {
            table[i] = HostCpus::place(Heap::class_id(class)) as u16;
        }
        i += 1;
    }
    table
};

/// Place of the CPU stack for a request of less than [`UNHEADED_FROM`] bytes that begins a page.
#[inline(always)]
pub(crate) fn page_place(size: usize) -> usize {
    debug_assert!(size <= MIDDLING_LIMIT);
    usize::from(PAGE_PLACES[(size + (1 << MIDDLING_STEP) - 1) >> MIDDLING_STEP])
}

/// The place of the class that serves what the class with this tag does, aligned to 2 to a power.
#[inline(always)]
fn fit(tag: usize, power: usize) -> usize {
    // SAFETY: all places are those of tags up to the number of classes: a test looks at each that the tables have.
    unsafe { core::hint::assert_unchecked(tag <= MAX_CLASSES) };
    FITS[tag].get(power).map_or(NO_PLACE, |&fit| usize::from(fit) * size_of::<Check>())
}

/// What proves that an object of a class starts at an address, by tag, which is the number of the class's stacks; tag 0 is no
/// class and passes nothing.
pub(crate) static CHECKS: [Check; MAX_CLASSES + 1] = {
    assert!(Heap::class_id(0) == 1 && HostCpus::place(1) == size_of::<Check>());
    let mut table = [Check::NONE; MAX_CLASSES + 1];
    let mut class = 0;
    while class < Classes::COUNT {
        let size = slot_of(class);
        let lead = if matches!(beside(class), Beside::Header) { lead_of(size) } else { 0 };
        let bare = matches!(beside(class), Beside::Nothing) && !HARDENED;
        let tail_end = if bare { 0 } else { size / beside::BYTES };
        assert!(tail_end <= u16::MAX as usize);
        let Slabs { bytes, objects } = if class < Classes::SLAB_CLASSES {
            <Chosen as Shape>::SLABS[class]
        } else {
            Slabs { bytes: size.next_power_of_two(), objects: 1 }
        };
        if objects > 0 {
            table[class + 1] = Check { tail_end: tail_end as u16, ..Check::new(bytes, size, objects, lead) };
        }
        class += 1;
    }
    table
};

/// The block at `ptr`, of the stack at this place, is the last one of a slab with headers.
#[cold]
pub(crate) fn is_last(ptr: *const u8, place: usize) -> bool {
    let (tag, check) = (place / size_of::<Check>(), CHECKS[place / size_of::<Check>()]);
    let slot = slot_of(tag - 1);
    let within = (ptr.addr() & check.mask as usize) + slot;
    // The slots behind the last one do not fit.
    is_headed(place) && within + slot > check.mask as usize + 1
}

/// Bytes from a block of the stack at this place to its tail, of a slab's last block where blocks have headers; 0: it has none.
#[inline(always)]
pub(crate) fn tail_at(place: usize) -> usize {
    if Classes::HEADED == 0 {
        return 0;
    }
    debug_assert!(place < size_of_val(&CHECKS));
    // SAFETY: places of classes are within the table.
    let words = usize::from(unsafe { (*CHECKS.as_ptr().byte_add(place)).tail_end });
    (words * beside::BYTES).saturating_sub(beside::BYTES)
}

/// The tag of the block at `ptr` (one more than its class); see [`place_at`].
#[inline(always)]
pub(crate) fn tag_at(span: &Span, ptr: *const u8) -> Option<usize> {
    place_at(span, ptr).map(|place| place / size_of::<Check>())
}

/// The place of the block's CPU stack, its tag times 16, when a class's page lies at `ptr` and arithmetic says that an
/// object starts there.
#[inline(always)]
pub(crate) fn place_at(span: &Span, ptr: *const u8) -> Option<usize> {
    if !REGULAR {
        return None;
    }
    place_in(span, ptr, usize::from(span.tag(ptr.addr())?))
}

/// [`place_at`] on a page with this tag.
#[inline(always)]
pub(crate) fn place_in(span: &Span, ptr: *const u8, tag: usize) -> Option<usize> {
    // Tag 0 passes no check; but there may be nothing to look at.
    if tag > Classes::COUNT || (<Chosen as Shape>::LEADS && tag == 0) {
        return None;
    }
    // One product finds proof and stack.
    let place = tag * size_of::<Check>();
    // SAFETY: `tag` is one of the table's indexes.
    let check = unsafe { &*CHECKS.as_ptr().byte_add(place) };
    // SAFETY: the tag is that of this class, and not 0 where that matters.
    let lead = unsafe { lead_of_slab(span, check, ptr.addr()) };
    check.starts(ptr.addr(), lead).then_some(place)
}

/// Bytes from the start of the slab around an address to its first object.
///
/// # Safety
/// The page at the address has the tag that the check is for.
#[inline(always)]
unsafe fn lead_of_slab(span: &Span, check: &Check, address: usize) -> u32 {
    if Classes::HEADED != 0 {
        u32::from(check.lead)
    } else {
        // SAFETY: the caller's promise.
        unsafe { <Chosen as Shape>::lead(span, check.slab_of(address)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap;
    use kmem_core::kmalloc::classes::Kind;

    /// The tables say what the set's own arithmetic and the heap's search for an alignment say.
    #[test]
    fn places_are_those_of_the_classes() {
        let place_of =
            |class: Option<usize>| class.map_or(NO_PLACE, |class| HostCpus::place(Heap::class_id(class)));
        let edges =
            Classes::SIZES.iter().flat_map(|&size| [size as usize - 1, size as usize, size as usize + 1]);
        let sizes = (0..=2 * MIDDLING_LIMIT).chain(edges).chain([isize::MAX as usize, usize::MAX]);
        for size in sizes {
            let class = (size <= Classes::LARGEST).then(|| Classes::class_of(size));
            assert_eq!(place_for(size), place_of(class), "{size} bytes");
        }
        if !REGULAR {
            // The heap has no classes, and the fast paths do not ask.
            return;
        }
        if Classes::HEADED != 0 {
            let edges =
                Classes::SIZES.iter().flat_map(|&size| [size as usize - 1, size as usize, size as usize + 1]);
            let near = (MAX_BYTES - 2 * PAGE_SIZE)..=(MAX_BYTES + 2);
            for size in
                (UNHEADED_FROM..1 << 19).chain(edges.filter(|&size| size >= UNHEADED_FROM)).chain(near)
            {
                let class = (size <= Classes::LARGEST).then(|| Classes::class_of(size));
                let wanted = class.map_or(RunPlace::Nowhere, |class| match beside(class) {
                    Beside::Tail => RunPlace::Tailed(place_of(Some(class))),
                    _ => RunPlace::Bare(place_of(Some(class))),
                });
                assert_eq!(run_for(size), wanted, "{size} bytes");
            }
            for size in 0..=MIDDLING_LIMIT {
                let wanted = Heap::class_aligned(PAGE_SIZE, size);
                assert_eq!(page_place(size), place_of(wanted), "{size} bytes at a page");
                assert!(wanted.is_some_and(|class| beside(class) != Beside::Header));
            }
        }
        let edges = Classes::SIZES.iter().flat_map(|&size| [size as usize, size as usize + 1]);
        for size in [0, 1].into_iter().chain(edges).chain([usize::MAX]) {
            for power in 0..usize::BITS {
                let wanted = Heap::class_aligned(1 << power, size);
                assert_eq!(place_aligned(1 << power, size), place_of(wanted), "{size} bytes at 2^{power}");
            }
        }
    }

    /// I-ENGINE-1, and that a check accepts the objects of a live slab and nothing between them.
    #[test]
    fn checks_are_the_geometry_of_the_classes() {
        // From the first free of the largest block on, no other is a mapping for being one of the first.
        // SAFETY: a live block, freed once.
        unsafe { heap::free(heap::malloc(kmem_core::kmalloc::classes::MAX_BYTES)) };
        for class in 0..Classes::COUNT {
            let size = Classes::size_of(class);
            // A hardened block has its seal beside what is asked for.
            let asked = if heap::HARDENED { size - 8 } else { size };
            // Some are for aligned blocks alone.
            let aligned = Classes::CHOSEN[class] as usize != size;
            // SAFETY: a live block, and only the answer is used.
            let grown = || unsafe { heap::realloc(heap::malloc(1), PAGE_SIZE) };
            let block = || match Classes::GROWING {
                Some(growing) if growing == class => grown(),
                _ if aligned => heap::memalign(PAGE_SIZE, asked),
                _ => heap::malloc(asked),
            };
            let blocks: Vec<*mut u8> = (0..3).map(|_| block()).collect();
            let heap = heap::heap().expect("made");
            let span = heap.platform().span();
            for &block in &blocks {
                let accepted = tag_at(span, block);
                assert_eq!(accepted, REGULAR.then_some(class + 1), "{size} bytes at {block:p}");
            }
            if REGULAR {
                let cache = heap.kmalloc_cache(Kind::Normal, class).expect("used");
                let check = CHECKS[class + 1];
                let bytes = check.slab_bytes();
                if class < Classes::SLAB_CLASSES {
                    assert_eq!(bytes, cache.pages_per_slab() * PAGE_SIZE, "{size} bytes");
                    assert_eq!(cache.geometry().min_order, cache.geometry().order);
                }
                let slab = blocks[0].map_addr(|address| address & !(bytes - 1));
                let in_run = |address: usize| address - slab.addr() < cache.pages_per_slab() * PAGE_SIZE;
                // SAFETY: a slab of the class, with a live block.
                let lead = unsafe { lead_of_slab(span, &check, slab.addr()) };
                let places =
                    || (0..bytes).map(|offset| slab.wrapping_add(offset)).filter(|at| in_run(at.addr()));
                let starts = places()
                    .filter(|at| check.starts(at.addr(), lead))
                    .map(|at| at.addr())
                    .collect::<Vec<_>>();
                // Pages of which nothing was handed out yet may have no tag.
                assert!(places().all(|at| match tag_at(span, at) {
                    Some(tag) => tag == class + 1 && starts.contains(&at.addr()),
                    None => true,
                }));
                assert_eq!(starts.len(), cache.geometry().objects, "{size} bytes");
                assert!(
                    starts.windows(2).all(|pair| pair[1] - pair[0] == slot_of(class)),
                    "{size} bytes: {starts:x?}"
                );
                assert!(starts.contains(&blocks[0].addr()), "{size} bytes");
            }
            for block in blocks {
                // SAFETY: a live block, freed once.
                unsafe { heap::free(block) };
            }
        }
    }
}
