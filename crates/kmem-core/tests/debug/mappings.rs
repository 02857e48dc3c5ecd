//! Blocks beyond 32 KiB with letters: classes of whole pages are checked as all others; what is longer is a mapping, with a red zone
//! behind it and an entry that remembers who asked.

use kmem_core::config::UserConfig;
use kmem_core::debug::OnError;
use kmem_core::debug::Origin;
use kmem_core::debug::leaks::Totals;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::FreeError;
use kmem_core::kmalloc::aligned::Resized;
use kmem_core::kmalloc::claim::{Claim, Mismatch};
use kmem_core::kmalloc::classes::{ClassSet, FineSet, Kind};
use kmem_core::platform::PAGE_SIZE;
use kmem_sim::Machine;

use crate::rig::{FZPU, P, Rig, U, peek, poke};

const MIB: usize = 1 << 20;
/// The longest block that its letters fit beside.
const LONGEST_CHECKED: usize = 3584 << 10;

fn heap(options: &'static str) -> Rig<UserConfig> {
    let rig = Rig::raw(Machine::builder().cpus(1).build());
    assert!(rig.heap.set_debug_options(options));
    assert!(rig.init());
    rig.heap.debug().set_on_error(OnError::Warn);
    rig.machine.set_calls(&["asker+0x1/0x2", "main+0x3/0x4"]);
    rig
}

/// A block of a program; all of it is written.
fn ask(rig: &Rig<UserConfig>, size: usize) -> *mut u8 {
    let block = rig.heap.allocate(size, Gfp::KERNEL);
    assert!(!block.is_null());
    // SAFETY: the block has that many bytes.
    unsafe { block.write_bytes(0x11, size) };
    block
}

fn free(rig: &Rig<UserConfig>, block: *mut u8) -> Result<(), FreeError> {
    rig.machine.set_calls(&["freer+0x1/0x2", "main+0x3/0x4"]);
    let freed = rig.kfree(block);
    rig.machine.set_calls(&["asker+0x1/0x2", "main+0x3/0x4"]);
    freed
}

fn mappings(rig: &Rig<UserConfig>) -> u64 {
    rig.heap.validate_all().mappings
}

/// Every class of whole pages, at its smallest and largest request: a byte too many is found at the free, and one too few is not.
#[test]
fn classes_of_whole_pages_are_checked() {
    let rig = heap("FZPU");
    for class in FineSet::SLAB_CLASSES..FineSet::COUNT - 1 {
        let (least, most) = (FineSet::size_of(class - 1) + 1, FineSet::size_of(class));
        let name = FineSet::name(Kind::Normal, class);
        for (size, zone) in [(least, "kmalloc Redzone"), (most, "Right Redzone")] {
            let block = ask(&rig, size);
            assert_eq!(mappings(&rig), 0, "{name} has pages");
            poke(block, size as isize - 1, 0x22);
            assert_eq!(free(&rig, block), Ok(()));
            assert_eq!(rig.said(), "", "{name}");
            let block = ask(&rig, size);
            poke(block, size as isize, 0x22);
            assert_eq!(free(&rig, block), Ok(()));
            let said = rig.said();
            assert!(said.contains(&format!("BUG {name} (")) && said.contains(zone), "{said}");
            assert!(said.contains("Allocated in asker+0x1/0x2"), "{said}");
            // Repaired, it can go.
            assert_eq!(free(&rig, block), Ok(()));
            assert_eq!(rig.said(), "");
        }
    }
}

/// What is written after the free shows when the block is used again; and a second free at once.
#[test]
fn large_objects_have_poison() {
    let rig = heap("FZPU");
    for size in [40 << 10, 200_000, LONGEST_CHECKED] {
        let block = ask(&rig, size);
        assert_eq!(free(&rig, block), Ok(()));
        assert_eq!((peek(block, 0), peek(block, size as isize / 2)), (0x6b, 0x6b));
        assert_eq!(free(&rig, block), Ok(()));
        assert!(rig.said().contains("Slab has 0 allocated objects but 1 are to be freed"));
        poke(block, size as isize / 2, 0x22);
        let other = ask(&rig, size);
        let said = rig.said();
        assert!(said.contains("Poison overwritten") && said.contains("Freed in freer+0x1/0x2"), "{said}");
        assert_ne!(other, block, "isolated");
        assert_eq!(free(&rig, other), Ok(()));
        // Zero is zero, and the rest of the class is guarded all the same.
        let zero = rig.heap.allocate(size - 100, Gfp::KERNEL | Gfp::ZERO);
        assert!((0..size as isize - 100).all(|at| peek(zero, at) == 0));
        poke(zero, size as isize - 100, 1);
        assert_eq!(free(&rig, zero), Ok(()));
        assert!(rig.said().contains("Redzone overwritten"));
    }
}

/// The bytes behind a mapping's end, also where it fills its pages: found at the free, by validation, and when it is resized.
#[test]
fn mappings_have_a_red_zone() {
    for size in [LONGEST_CHECKED + 1, 4 * MIB, 8 * MIB, 8 * MIB + 1, 9 * MIB - 9] {
        let rig = heap("FZPU");
        let block = ask(&rig, size);
        assert_eq!((mappings(&rig), rig.ksize(block)), (1, size));
        assert_eq!(free(&rig, block), Ok(()));
        assert_eq!((mappings(&rig), rig.said().as_str()), (0, ""));

        let block = ask(&rig, size);
        poke(block, size as isize, 0x22);
        let before = rig.heap.debug().errors();
        assert_eq!(free(&rig, block), Ok(()));
        let said = rig.said();
        let at = block.addr() + size;
        assert!(
            said.contains("BUG kmalloc-large (") && said.contains("): Right Redzone overwritten\n"),
            "{said}"
        );
        assert!(
            said.contains(&format!(
                "{at:#018x}-{at:#018x} @offset={size}. First byte 0x22 instead of 0xcc\n"
            )),
            "{said}"
        );
        assert!(said.contains("Allocated in asker+0x1/0x2 age=0 cpu=0 pid="), "{said}");
        assert!(said.contains(&format!("Object {:#018x} @offset=0 size={size} ", block.addr())), "{said}");
        assert!(said.contains("FIX kmalloc-large: Restoring Right Redzone"), "{said}");
        assert!(said.contains(" not freed\n"), "{said}");
        assert_eq!(rig.heap.debug().errors() - before, 3);
        // Repaired, and still in use.
        assert_eq!((mappings(&rig), rig.said().as_str()), (1, ""));
        poke(block, size as isize + 1, 0x22);
        assert_eq!(rig.heap.validate_all().errors, 2);
        assert!(rig.said().contains("Right Redzone overwritten"));
        assert_eq!(free(&rig, block), Ok(()));
        assert_eq!((mappings(&rig), rig.said().as_str()), (0, ""));
    }
}

/// A second free names both that there were; an address inside names the block.
#[test]
fn wrong_frees_of_mappings_are_told_apart() {
    let rig = heap("FZPU");
    let (block, other) = (ask(&rig, 8 * MIB), ask(&rig, 5 * MIB));
    // SAFETY: inside the block.
    let inside = unsafe { block.add(PAGE_SIZE) };
    let cache = "kmalloc-large";
    assert_eq!(free(&rig, inside), Err(FreeError::Interior { address: inside.addr(), cache }));
    let said = rig.said();
    assert!(said.contains(&format!("): Invalid object pointer {:#018x}\n", inside.addr())), "{said}");
    assert!(said.contains("Allocated in asker+0x1/0x2"), "{said}");
    assert_eq!(free(&rig, block), Ok(()));
    assert_eq!(free(&rig, other), Ok(()));
    for (gone, size) in [(block, 8 * MIB), (other, 5 * MIB)] {
        let address = gone.addr();
        assert_eq!(free(&rig, gone), Err(FreeError::Double { address, cache }));
        let said = rig.said();
        assert!(
            said.contains("): Object already free\n") && said.contains(&format!("size={size}\n")),
            "{said}"
        );
        assert!(
            said.contains("Allocated in asker+0x1/0x2") && said.contains("Freed in freer+0x1/0x2"),
            "{said}"
        );
    }
    // Nobody's, and never was.
    let foreign = core::ptr::without_provenance_mut(0x1000);
    assert_eq!(free(&rig, foreign), Err(FreeError::Foreign(0x1000)));
    assert_eq!(rig.said(), "");
}

/// Resizing looks at the zone, moves it, and is a new allocation to whoever asks.
#[test]
fn a_resized_mapping_keeps_its_letters() {
    let rig = heap("FZPU");
    let mut block = ask(&rig, 5 * MIB);
    rig.machine.set_calls(&["grower+0x1/0x2"]);
    for size in [5 * MIB + 1, 6 * MIB, 20 * MIB + 5, 7 * MIB, 7 * MIB - 1] {
        // SAFETY: the block is the test's own.
        match unsafe { rig.heap.resize(block, size) } {
            Ok(Resized::Moved(moved)) => block = moved,
            other => panic!("{size}: {other:?}"),
        }
        assert_eq!((peek(block, 0), rig.ksize(block), mappings(&rig)), (0x11, size, 1));
        poke(block, size as isize - 1, 0x33);
        assert_eq!(rig.said(), "", "{size}");
    }
    poke(block, 7 * MIB as isize - 1, 0x22);
    // SAFETY: as above.
    let Ok(Resized::Moved(grown)) = (unsafe { rig.heap.resize(block, 8 * MIB) }) else { panic!("no memory") };
    let said = rig.said();
    assert!(
        said.contains("Right Redzone overwritten") && said.contains("Allocated in grower+0x1/0x2"),
        "{said}"
    );
    assert_eq!(free(&rig, grown), Ok(()));
    assert_eq!(rig.said(), "");
}

/// The calls that a mapping came and goes by, and its size.
#[test]
fn claims_about_mappings_are_compared() {
    let rig = heap("FZPU");
    let size = 6 * MIB + 5;
    let block = ask(&rig, size);
    // SAFETY: the test's own block.
    unsafe { rig.heap.note_origin(block, Origin::New, 64) };
    let claim = Claim { origin: Origin::New, size: Some(size), align: Some(64) };
    assert_eq!(rig.heap.check_claim(block, &claim), None);
    let told = |wrong| rig.heap.check_claim(block, &wrong);
    let origin = Mismatch::Origin { made: Origin::New, told: Origin::Malloc };
    assert_eq!(told(Claim { origin: Origin::Malloc, ..claim }), Some(origin));
    assert_eq!(
        told(Claim { size: Some(size - 1), ..claim }),
        Some(Mismatch::Size { asked: size, told: size - 1 })
    );
    assert_eq!(told(Claim { align: Some(32), ..claim }), Some(Mismatch::Align { told: 32 }));
    assert_eq!(rig.said().matches("BUG kmalloc ").count(), 3);
    assert_eq!(free(&rig, block), Ok(()));
}

/// Leaks and traces name what is long by those who asked, in the sizes that they asked for.
#[test]
fn long_blocks_are_somebodys() {
    let rig = heap("U");
    for size in [100_000, 3 * MIB, 10 * MIB + 1] {
        ask(&rig, size);
    }
    let mut text = String::new();
    let totals = rig.heap.write_leaks(&mut |_| true, &mut text).expect("a String").expect("memory");
    let all = 100_000 + 13 * MIB as u64 + 1;
    let sums = Totals { groups: 2, objects: 3, bytes: all, ..Totals::default() };
    assert_eq!(totals, sums, "{text}");
    assert!(rig.heap.has_large_traces());
    let mut traces = String::new();
    rig.heap.write_large_traces(&mut traces).expect("a String");
    assert!(traces.starts_with("      1 asker+0x1/0x2 waste=4095/4095 age=0 pid="), "{traces}");
    assert!(traces.contains("        main+0x3/0x4\n"), "{traces}");
}

/// What no letter asks for is not done: a heap with other options, and letters for some classes only.
#[test]
fn letters_are_for_those_they_name() {
    for (options, zone, tracked, checked) in [
        ("FZPU,kmalloc-64", false, false, false),
        ("P", false, false, true),
        ("U,kmalloc-large", false, true, false),
        ("FZ,kmalloc-large", true, false, false),
        ("FZ,kmalloc-2*", false, false, true),
    ] {
        let rig = heap(options);
        let huge = ask(&rig, 8 * MIB);
        assert_eq!((mappings(&rig) == 1, rig.heap.has_large_traces()), (zone, tracked), "{options}");
        let block = ask(&rig, 200_000);
        let class = rig.heap.kmalloc_cache(Kind::Normal, FineSet::class_of(200_000));
        // SAFETY: caches of classes live as long as the heap.
        let letters =
            class.map(|class| unsafe { rig.heap.debug_letters(kmem_core::cache::CacheRef::new(class)) });
        assert_eq!(letters.is_some_and(|letters| letters.intersects(FZPU)), checked, "{options}");
        for block in [huge, block] {
            assert_eq!(free(&rig, block), Ok(()), "{options}");
        }
        assert_eq!(rig.said(), "", "{options}");
    }
}

/// Letters may come while a class of whole pages is used, as for every cache.
#[test]
fn letters_of_a_long_class_change_while_it_is_used() {
    let rig = Rig::<UserConfig>::on(Machine::builder().cpus(1).build());
    rig.heap.debug().set_on_error(OnError::Warn);
    let size = 100_000;
    let old = rig.heap.kmalloc(size, Gfp::KERNEL);
    let class = rig.heap.kmalloc_cache(Kind::Normal, FineSet::class_of(size)).expect("it is in use");
    let cache = kmem_core::cache::CacheRef::new(class);
    // SAFETY: caches of classes live as long as the heap.
    unsafe { rig.heap.set_debug_letters(cache, FZPU) }.expect("letters");
    let new = ask(&rig, size);
    poke(new, size as isize, 1);
    assert_eq!((rig.kfree(new), rig.kfree(old)), (Ok(()), Ok(())));
    assert!(rig.said().contains("kmalloc Redzone overwritten"));
    // SAFETY: as above.
    unsafe { rig.heap.set_debug_letters(cache, P | U) }.expect("letters");
    let third = rig.heap.allocate(size, Gfp::KERNEL | Gfp::ZERO);
    assert_eq!(peek(third, size as isize - 1), 0);
    assert_eq!(rig.kfree(third), Ok(()));
    assert_eq!(rig.said(), "");
}
