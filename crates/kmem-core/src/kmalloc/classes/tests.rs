//! Each set by its definition. Captured tables are checked in `tests/golden_kmalloc.rs`.

use super::*;

/// I-CLASS-1 and I-CLASS-2, by search instead of arithmetic.
fn check_set<S: ClassSet>() {
    assert!(S::SIZES.is_sorted_by(|a, b| a < b));
    assert_eq!((S::SIZES.len(), S::CHOSEN.len()), (S::COUNT, S::COUNT));
    assert!(S::SIZES.iter().zip(S::CHOSEN).all(|(size, chosen)| chosen <= size));
    assert!(S::SLAB_CLASSES <= S::COUNT);
    let mut expected = 0;
    for size in 0..=S::LARGEST {
        while (S::CHOSEN[expected] as usize) < size {
            expected += 1;
        }
        assert_eq!(S::class_of(size), expected, "{} {size}", S::LABEL);
    }
    for size in [S::LARGEST + 1, MAX_BYTES + 1, isize::MAX as usize, usize::MAX - 1, usize::MAX] {
        assert!(S::class_of(size) >= S::COUNT, "{} {size}", S::LABEL);
    }
    for index in 0..S::COUNT {
        for version in [KernelVersion::V6_1, KernelVersion::V6_12, KernelVersion::V7_0] {
            let align = S::align_of(index, version);
            let slot = S::size_of(index) + S::beside(index).bytes();
            assert!(align.is_power_of_two() && align >= S::MIN_ALIGN && slot.is_multiple_of(align));
            if slot.is_power_of_two() {
                assert_eq!(align, slot);
            }
        }
        check_names::<S>(index);
    }
}

fn check_names<S: ClassSet>(index: usize) {
    for kind in Kind::ALL {
        let prefix = match kind {
            Kind::Normal => "kmalloc-",
            Kind::Account => "kmalloc-cg-",
            Kind::Reclaim => "kmalloc-rcl-",
            Kind::Dma => "dma-kmalloc-",
        };
        let size = S::size_of(index);
        let text = if size.is_multiple_of(1024) { format!("{}k", size / 1024) } else { size.to_string() };
        assert_eq!(S::name(kind, index), format!("{prefix}{text}"));
    }
}

#[test]
fn each_set_keeps_its_invariants() {
    check_set::<KernelSet>();
    check_set::<KernelSet<16>>();
    check_set::<KernelSet<32>>();
    check_set::<FineSet>();
    check_set::<ShortSet>();
    check_set::<SealedSet>();
    check_set::<HeadedSet>();
}

#[test]
fn the_fine_set_is_what_its_rule_says() {
    let mut sizes: Vec<u32> = (1..=8).map(|i| i * 16).collect();
    let mut doubling = 128;
    while doubling < 2048 {
        sizes.extend((1..=4).map(|quarter| doubling + doubling / 4 * quarter));
        doubling *= 2;
    }
    sizes.extend([14, 12, 11, 10, 9, 8, 7, 6, 5, 4].map(|objects| 32768 / objects / 64 * 64));
    sizes.push(65536 / 15 / 16 * 16);
    sizes.sort_unstable();
    assert_eq!(sizes.len(), FineSet::SLAB_CLASSES);
    sizes.extend((3..=8).map(|pages| pages * 4096));
    assert_eq!(ShortSet::SIZES, sizes);
    doubling = 32 << 10;
    while (doubling as usize) < MAX_BYTES {
        sizes.extend((1..=4).map(|quarter| doubling + doubling / 4 * quarter));
        doubling *= 2;
    }
    assert_eq!(FineSet::SIZES, sizes);
}

/// The slots are those of the fine set, some between them, and 16 bytes more than its powers of two, from 128 to 2048. Slots of whole
/// pages, and those of a page and more, are there once without a tail.
#[test]
fn the_headed_set_is_what_its_rule_says() {
    let mut slots: Vec<usize> =
        FineSet::SIZES[..FineSet::SLAB_CLASSES].iter().map(|&size| size as usize).collect();
    slots.extend([176, 208, 240, 288, 352, 416]);
    slots.extend([4096, 4368, 8192]);
    slots.extend([128, 256, 512, 1024, 2048].map(|power| power + 16));
    slots.push(65536 / 7 / 64 * 64);
    slots.sort_unstable();
    let in_slabs = HeadedSet::SLAB_CLASSES;
    assert_eq!(slots.len(), in_slabs);
    slots.extend(FineSet::SIZES[FineSet::SLAB_CLASSES..].iter().map(|&size| size as usize));
    // The one for blocks that grow, a page less than 256 KiB.
    slots.insert(slots.len() - 17, 252 << 10);
    let slot = |class| HeadedSet::size_of(class) + HeadedSet::beside(class).bytes();
    assert!((0..HeadedSet::COUNT).map(slot).eq(slots));
    for class in 0..HeadedSet::COUNT {
        let whole = [4096, 4368, 8192].contains(&HeadedSet::size_of(class));
        let beside = match slot(class) {
            ..=1040 => Beside::Header,
            long if whole || long > 128 << 10 => Beside::Nothing,
            _ => Beside::Tail,
        };
        assert_eq!(HeadedSet::beside(class), beside);
        assert_eq!(class < HeadedSet::HEADED, beside == Beside::Header);
        assert!(class < in_slabs || slot(class).is_multiple_of(PAGE_SIZE));
    }
}

/// No size and no alignment is served by the class of blocks that grow.
#[test]
fn blocks_that_grow_have_a_class_of_their_own() {
    let growing = HeadedSet::GROWING.expect("there is one");
    let bytes = HeadedSet::size_of(growing);
    assert!((0..=HeadedSet::LARGEST).all(|size| HeadedSet::class_of(size) != growing));
    for align in (0..=22).map(|power| 1 << power) {
        assert!(
            [bytes - 1, bytes].into_iter().all(|size| HeadedSet::class_of_aligned(align, size) > growing)
        );
    }
    assert_eq!((KernelSet::<8>::GROWING, FineSet::GROWING, SealedSet::GROWING), (None, None, None));
}

/// Who asks for whole pages gets them where they must be aligned so, and a class with a tail else.
#[test]
fn whole_pages_are_for_aligned_blocks() {
    let of = |align, size| HeadedSet::size_of(HeadedSet::class_of_aligned(align, size));
    for pages in [1, 2] {
        let bytes = pages * PAGE_SIZE;
        assert_eq!((of(4096, bytes), of(8192, bytes), of(4096, bytes - 7)), (bytes, bytes, bytes));
        let tailed = HeadedSet::class_of(bytes);
        assert!(HeadedSet::size_of(tailed) > bytes && HeadedSet::beside(tailed) == Beside::Tail);
        assert_eq!(of(2048, bytes), HeadedSet::size_of(tailed));
        assert_eq!(of(4096, bytes - 8), bytes - 8);
        assert_eq!(of(4096, bytes + 1), HeadedSet::size_of(HeadedSet::class_of(bytes + 1)));
    }
    assert_eq!((of(4096, 0), of(4096, 1), of(65536, 65536)), (8, 8, 81912));
    assert_eq!(of(4096, HeadedSet::LARGEST), HeadedSet::LARGEST);
}

/// The last block of a slab ends in it, and one more would not.
#[test]
fn blocks_with_a_word_beside_them_fill_their_slabs() {
    use crate::config::USER_RULES;
    use crate::engine::geometry::Request;
    use crate::engine::slub::geometry::compute;

    for class in 0..HeadedSet::SLAB_CLASSES {
        let beside = HeadedSet::beside(class);
        let slot = HeadedSet::size_of(class) + beside.bytes();
        let lead = lead_of(slot);
        let request = Request { align: lead, ..Request::new(slot) };
        let geometry = compute(&request, &slab_rules(slot, USER_RULES)).unwrap();
        let headed = beside == Beside::Header;
        let geometry = match beside {
            Beside::Nothing => geometry,
            Beside::Header => geometry.with_header(lead),
            Beside::Tail => geometry.with_tail(),
        };
        let bytes = PAGE_SIZE << geometry.order;
        let end = |objects| {
            let end = geometry.object(0, objects - 1) + geometry.usable_size();
            if headed { end } else { end + beside.bytes() }
        };
        assert!(end(geometry.objects) <= bytes && end(geometry.objects + 1) > bytes, "{slot}");
        assert!(!headed || geometry.object(0, 0) >= Beside::Header.bytes());
        assert!(!headed || end(geometry.objects) + Beside::Header.bytes() <= bytes, "a tail for the last");
        assert_eq!(geometry.usable_size(), HeadedSet::size_of(class));
        // Few bytes are lost: at most the slab's sixteenth and what a block's length costs.
        assert!(bytes - end(geometry.objects) < bytes / 16 + slot, "{slot}");
    }
}

/// Fifteen of them fill the slab that they are for; all others stay with the rules of the heap.
#[test]
fn the_class_for_a_page_and_more_has_longer_slabs() {
    use crate::config::USER_RULES;
    use crate::engine::geometry::Request;
    use crate::engine::slub::geometry::compute;

    for &size in FineSet::SIZES {
        let size = size as usize;
        let of =
            |rules| compute(&Request::new(size), &slab_rules(size, rules)).map(|it| (it.order, it.objects));
        let plain = compute(&Request::new(size), &USER_RULES).map(|it| (it.order, it.objects));
        assert_eq!(of(USER_RULES), if size == 4368 { Ok((4, 15)) } else { plain }, "{size}");
    }
    let small = Rules { max_order: 2, ..USER_RULES };
    assert_eq!(slab_rules(4368, small), small);
}

#[test]
fn alignment_by_version() {
    let kernel = |size, version| KernelSet::<8>::align_of(<KernelSet>::class_of(size), version);
    assert_eq!((kernel(96, KernelVersion::V6_1), kernel(192, KernelVersion::V6_1)), (8, 8));
    assert_eq!((kernel(96, KernelVersion::V6_12), kernel(192, KernelVersion::V6_12)), (32, 64));
    let fine = |size| FineSet::align_of(FineSet::class_of(size), KernelVersion::V6_12);
    assert_eq!(
        [16, 48, 96, 1280, 4672, 8192, 12288, 20480].map(fine),
        [16, 16, 32, 256, 64, 8192, 4096, 4096]
    );
}

#[test]
fn large_blocks() {
    let kernel = |size| (<KernelSet>::large_pages(size), <KernelSet>::size_roundup(size));
    assert_eq!(kernel(8193), (Some(4), 16384));
    assert_eq!(kernel(MAX_BYTES), (Some(1024), MAX_BYTES));
    assert_eq!(kernel(MAX_BYTES + 1), (None, MAX_BYTES + 1));
    assert_eq!(kernel(usize::MAX), (None, usize::MAX));
    let fine = |size| (FineSet::large_pages(size), FineSet::size_roundup(size));
    assert_eq!((fine(32769), ShortSet::size_roundup(32769)), ((Some(9), 40960), 36864));
    assert_eq!(fine(MAX_BYTES - 1), (Some(1024), MAX_BYTES));
    assert_eq!(fine(MAX_BYTES + 1), (None, MAX_BYTES + 1));
    assert_eq!(
        (FineSet::size_roundup(0), FineSet::size_roundup(1), FineSet::size_roundup(8193)),
        (0, 16, 12288)
    );
}

/// Bytes lost of all bytes handed out, when every size from 1 to 4096 is asked for once, and the worst
/// loss of one request above `floor` bytes.
fn waste<S: ClassSet>(floor: usize) -> (f64, f64) {
    let (mut asked, mut given, mut worst) = (0, 0, 0.0_f64);
    for size in 1..=4096 {
        let class = S::size_of(S::class_of(size));
        asked += size;
        given += class;
        if size > floor {
            worst = worst.max((class - size) as f64 / class as f64);
        }
    }
    ((given - asked) as f64 / given as f64, worst)
}

#[test]
fn waste_of_each_set() {
    let (average, worst) = waste::<KernelSet>(256);
    assert!((average - 0.249).abs() < 0.0005 && (0.499..0.5).contains(&worst), "{average} {worst}");
    let (average, worst) = waste::<HeadedSet>(64);
    assert!((average - 0.0596).abs() < 0.0005 && (0.187..0.189).contains(&worst), "{average} {worst}");
    let (average, worst) = waste::<FineSet>(64);
    assert!((average - 0.061).abs() < 0.0005 && (0.199..0.2).contains(&worst), "{average} {worst}");
}

#[test]
fn kinds_by_flags() {
    for (gfp, kind) in [
        (Gfp::KERNEL, Kind::Normal),
        (Gfp::ATOMIC | Gfp::ZERO, Kind::Normal),
        (Gfp::KERNEL | Gfp::ACCOUNT, Kind::Account),
        (Gfp::KERNEL | Gfp::ACCOUNT | Gfp::RECLAIMABLE, Kind::Reclaim),
        (Gfp::KERNEL | Gfp::ACCOUNT | Gfp::RECLAIMABLE | Gfp::DMA, Kind::Dma),
        (Gfp::DMA32, Kind::Normal),
    ] {
        assert_eq!(Kind::of(gfp), kind, "{gfp:?}");
    }
    for (i, kind) in Kind::ALL.iter().enumerate() {
        assert_eq!(*kind as usize, i);
    }
}
