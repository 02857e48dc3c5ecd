//! kmalloc's classes with letters: sizes are kept, the slack is guarded since 6.2, `ksize` says what may be used.

use kmem_core::config::{Config, KernelConfig, UserConfig};
use kmem_core::debug::OnError;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::FreeError;
use kmem_core::kmalloc::classes::Kind;
use kmem_core::{Kmem, cache::CacheRef};
use kmem_sim::Machine;

use crate::rig::{Rig, peek, poke};

fn heap<C: Config>(options: &'static str) -> Rig<C> {
    let rig = Rig::raw(Machine::builder().cpus(2).build());
    assert!(rig.heap.set_debug_options(options));
    assert!(rig.init());
    rig.heap.debug().set_on_error(OnError::Warn);
    rig
}

fn sound<C: Config>(rig: &Rig<C>) {
    assert_eq!((rig.heap.validate_all().errors, rig.said().as_str()), (0, ""));
}

/// Blocks of all sizes live, move and die under every letter, on both configurations.
fn all_sizes<C: Config>() {
    let rig = heap::<C>("FZPU");
    let mut blocks = Vec::new();
    for size in (1..300).chain([511, 512, 1000, 4096, 5000, 8192, 10_000, 40_000, 1 << 20]) {
        let block = rig.kmalloc(size);
        let usable = rig.ksize(block);
        assert!(usable >= size);
        // SAFETY: the block has that many bytes, as ksize says.
        unsafe { block.write_bytes(0x5c, usable) };
        blocks.push(block);
        let zero = rig.heap.kmalloc(size, Gfp::KERNEL | Gfp::ZERO);
        assert!((0..size).all(|i| peek(zero, i as isize) == 0), "{size}");
        blocks.push(zero);
        let aligned = rig.heap.allocate_aligned(64, size, Gfp::KERNEL);
        assert!(aligned.addr().is_multiple_of(64));
        // SAFETY: as asked.
        unsafe { aligned.write_bytes(0x5c, size) };
        blocks.push(aligned);
    }
    sound(&rig);
    for (i, block) in blocks.into_iter().enumerate() {
        if i % 3 == 0 {
            let moved = rig.krealloc(block, 700 + i, Gfp::KERNEL).expect("a good block");
            assert_eq!(peek(moved, 0), 0x5c);
            // SAFETY: as asked.
            unsafe { moved.write_bytes(0x5d, 700 + i) };
            assert_eq!(rig.kfree(moved), Ok(()));
        } else {
            assert_eq!(rig.kfree(block), Ok(()));
        }
    }
    sound(&rig);
    assert_eq!(rig.heap.debug().errors(), 0);
}

#[test]
fn all_sizes_in_the_kernels_classes() {
    all_sizes::<KernelConfig>();
}

#[test]
fn all_sizes_in_the_fine_classes() {
    all_sizes::<UserConfig>();
}

#[test]
fn usable_size_of_checked_blocks() {
    // Any red zone or poison: what the class promises; tracks alone: up to the metadata; nothing: all of the slot.
    for (options, expected) in [("Z", 64), ("P", 64), ("U", 64), ("F", 64), ("FZPU", 64)] {
        let rig = heap::<KernelConfig>(options);
        let block = rig.kmalloc(50);
        assert_eq!(rig.ksize(block), expected, "{options}");
        assert_eq!(rig.kfree(block), Ok(()));
    }
}

/// The kernel's unit test: 18 bytes asked of a class of 32 with Z and U, byte 18 written.
#[test]
fn test_kmalloc_redzone_access() {
    let rig = heap::<UserConfig>("ZU");
    let block = rig.kmalloc(18);
    let class = rig.heap.cache_of_block(block);
    rig.heap.debug().set_quiet(true);
    poke(block, 18, 0xab);
    // SAFETY: classes live as long as the heap.
    assert_eq!(unsafe { rig.heap.validate(class) }.expect("checked").errors, 2);
    // SAFETY: as above.
    assert_eq!(unsafe { rig.heap.validate(class) }.expect("checked").errors, 0);
    rig.heap.debug().set_quiet(false);
    assert_eq!(peek(block, 18), 0xcc, "restored");
    assert_eq!(rig.kfree(block), Ok(()));
    assert_eq!(rig.said(), "");
}

#[test]
fn the_slack_is_reported_by_its_name() {
    let rig = heap::<UserConfig>("FZU");
    let block = rig.kmalloc(18);
    poke(block, 18, 0xab);
    assert_eq!(rig.kfree(block), Ok(()));
    let said = rig.said();
    assert!(said.contains("kmalloc Redzone overwritten") && said.contains("not freed"), "{said}");
    assert!(said.contains("First byte 0xab instead of 0xcc"), "{said}");
}

#[test]
fn who_asks_for_the_usable_size_may_use_it() {
    let rig = heap::<UserConfig>("FZU");
    let block = rig.kmalloc(18);
    let usable = rig.ksize(block);
    // SAFETY: ksize said so.
    unsafe { block.write_bytes(1, usable) };
    assert_eq!(rig.kfree(block), Ok(()));
    // A block that grows in place, too.
    let block = rig.kmalloc(100);
    let grown = rig.krealloc(block, 104, Gfp::KERNEL).expect("a good block");
    // SAFETY: as asked.
    unsafe { grown.write_bytes(1, 104) };
    assert_eq!(rig.kfree(grown), Ok(()));
    sound(&rig);
}

#[test]
fn the_slack_is_no_red_zone_in_6_1() {
    let rig = heap::<KernelConfig>("FZU");
    let block = rig.kmalloc(18);
    poke(block, 18, 0xab);
    assert_eq!(rig.kfree(block), Ok(()));
    sound(&rig);
}

#[test]
fn an_interior_pointer_is_reported_and_refused() {
    let rig = heap::<KernelConfig>("F");
    let block = rig.kmalloc(64);
    let refused = rig.kfree(block.wrapping_add(16));
    assert!(matches!(refused, Err(FreeError::Interior { .. })));
    let said = rig.said();
    assert!(said.contains("BUG kmalloc-64 (Not tainted): Invalid object pointer 0x"), "{said}");
    assert_eq!(rig.heap.debug().errors(), 2);
    // To ask about it is no error.
    assert!(rig.heap.ksize(block.wrapping_add(16)).is_err());
    assert_eq!(rig.heap.debug().errors(), 2);
    assert_eq!(rig.kfree(block), Ok(()));
    sound(&rig);
}

/// The heap's own caches are checked too, from the first on.
#[test]
fn everything_checked() {
    for options in ["F", "Z", "P", "U", "FZPU", "FZPUO"] {
        let rig = heap::<KernelConfig>(options);
        let mut checked = 0;
        rig.heap.for_each_cache(|cache| checked += usize::from(cache.geometry().is_debug()));
        assert!(checked > 20, "{options}");
        let cache = rig.cache("one", 100);
        let objects = rig.take(cache, 200);
        rig.give(cache, objects);
        assert_eq!(rig.destroy(cache), Ok(true));
        sound(&rig);
        rig.holdings();
    }
}

trait OfBlock<C: Config> {
    fn cache_of_block(&self, block: *mut u8) -> CacheRef<C::Engine>;
}

impl<C: Config> OfBlock<C> for Kmem<Machine, C> {
    /// The class that a block is of: the one whose objects in use go down when it is freed is not asked; its name is.
    fn cache_of_block(&self, block: *mut u8) -> CacheRef<C::Engine> {
        let mut text = String::new();
        assert_eq!(self.dump_obj(block, &mut text), Ok(true));
        let name = text.split(' ').nth(1).expect("a name").to_owned();
        let class = (0..kmem_core::kmalloc::MAX_CLASSES)
            .filter_map(|index| self.kmalloc_cache(Kind::Normal, index))
            .find(|cache| cache.name() == name);
        CacheRef::new(class.expect("a class"))
    }
}
