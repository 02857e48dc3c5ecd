//! The window: growth, limits, obstacles, giving back; and mappings beside it.

#[path = "host/mod.rs"]
mod support;

use std::process::Command;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use kmem::host::{BLOCK_SIZE, Host, Options, TAGS_BELOW};
use kmem_core::page::{PAGEBLOCK_PAGES, ZoneKind};
use kmem_core::platform::{BLOCK_PAGES, PAGE_SIZE, PageRange, Platform};
use support::host;

/// Set in the environment of a test's own process.
const ALONE: &str = "KMEM_TEST_ALONE";

/// Runs the test of that name in a process of its own, where this is true: windows lie at random places, and what is said about
/// all of one does not hold where another test has put a mapping into it. In the process of all tests it is false.
fn alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let program = std::env::current_exe().expect("the path of this program");
    let arguments = [test, "--exact", "--test-threads=1"];
    let ended = Command::new(program).args(arguments).env(ALONE, "1").output().expect("a process");
    let said = [ended.stdout, ended.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(ended.status.success() && said[0].contains("1 passed"), "{}: {}", ended.status, said.concat());
    false
}

fn address(host: &Host, page: usize) -> *mut u8 {
    (host.window().base + page * PAGE_SIZE) as *mut u8
}

/// Everything about a range that the contract promises.
fn check_fresh(host: &Host, range: PageRange) {
    let window = host.window();
    assert!(range.first.is_multiple_of(BLOCK_PAGES) && range.count.is_multiple_of(BLOCK_PAGES));
    assert!(range.count > 0 && range.first + range.count <= window.pages);
    for page in (range.first..range.first + range.count).step_by(97).chain([range.first + range.count - 1]) {
        // SAFETY: memory, descriptors and tags of a range that was just given to us.
        unsafe {
            let words = address(host, page).cast::<u64>();
            for i in (0..PAGE_SIZE / 8).step_by(63) {
                assert_eq!(words.add(i).read(), 0);
            }
            words.write(0x1234);
            let desc = window.descs.add(page).cast::<u64>();
            for i in 0..8 {
                assert_eq!(desc.add(i).read(), 0);
            }
            desc.write(7);
            assert_eq!((*window.tags.add(page)).load(Ordering::Relaxed), 0);
            (*window.tags.add(page)).store(3, Ordering::Relaxed);
        }
    }
}

fn is_mapped(address: *mut u8, len: usize) -> bool {
    let mut state = vec![0u8; len.div_ceil(PAGE_SIZE)];
    // SAFETY: asks about pages; the kernel writes a byte for each.
    unsafe { libc::mincore(address.cast(), len, state.as_mut_ptr()) == 0 }
}

#[test]
fn zones_and_the_grown_end() {
    if !alone("zones_and_the_grown_end") {
        return;
    }
    let host = host(false);
    let window = host.window();
    assert!(window.base.is_multiple_of(BLOCK_SIZE));
    assert_eq!(window.pages, 1 << 18);
    assert_eq!(host.span().end(), 0);
    assert_eq!(window.tags as usize, window.base - TAGS_BELOW);
    let [dma, dma32] = host.zone_ends();
    assert!(0 < dma && dma < dma32 && dma32 < window.pages);

    let normal = host.grow(0, ZoneKind::Normal, 1).expect("memory");
    assert_eq!(normal, PageRange { first: dma32, count: BLOCK_PAGES });
    check_fresh(host, normal);
    let end = host.span().end();
    assert_eq!(end, (normal.first + normal.count) * PAGE_SIZE);
    // Tags are readable all the way below the end, in the empty zones too.
    for page in 0..end / PAGE_SIZE {
        // SAFETY: what `Span::end` promises.
        unsafe { (*host.span().tags().add(page)).load(Ordering::Relaxed) };
    }
    let low = host.grow(0, ZoneKind::Dma, 1).expect("low memory");
    assert!(low.first + low.count <= dma);
    check_fresh(host, low);
    let middle = host.grow(0, ZoneKind::Dma32, BLOCK_PAGES + 1).expect("memory");
    assert!(middle.first >= dma && middle.first + middle.count <= dma32);
    assert_eq!(middle.count, 2 * BLOCK_PAGES);
    check_fresh(host, middle);
    assert_eq!(host.span().end(), end, "the end only counts what lies above");
    assert_eq!(host.mapped_pages(), normal.count + low.count + middle.count);
}

#[test]
fn a_full_window_and_its_kernel_limits() {
    if !alone("a_full_window_and_its_kernel_limits") {
        return;
    }
    let host: &'static Host = Box::leak(Box::new(Host::new()));
    assert_eq!(host.span().end(), 0);
    // SAFETY: first use.
    unsafe { host.init(&Options::DEFAULT) }.expect("a host");
    // A guarded heap has states below its window, and so less of it.
    assert_eq!(host.window().pages, 1 << if cfg!(feature = "hardened") { 26 } else { 28 });
    assert_eq!(host.zone_ends(), [(16 << 20) / PAGE_SIZE, (4 << 30) / PAGE_SIZE]);
    let range = host.grow(0, ZoneKind::Normal, 40 * BLOCK_PAGES).expect("a large piece");
    assert_eq!(range, PageRange { first: (4 << 30) / PAGE_SIZE, count: 40 * BLOCK_PAGES });
    check_fresh(host, range);
    // Steps grow with the heap, up to 64 MiB.
    let steps: Vec<_> =
        (0..12).map(|_| host.grow(0, ZoneKind::Normal, 1).expect("memory").count / BLOCK_PAGES).collect();
    assert!(steps.is_sorted() && steps[0] == 5 && steps.iter().all(|&step| step <= 16), "{steps:?}");
}

#[test]
fn every_zone_ends() {
    if !alone("every_zone_ends") {
        return;
    }
    let host = host(false);
    let [dma, dma32] = host.zone_ends();
    for (zone, size) in
        [(ZoneKind::Dma, dma), (ZoneKind::Dma32, dma32 - dma), (ZoneKind::Normal, (1 << 18) - dma32)]
    {
        assert!(host.grow(0, zone, size + 1).is_none(), "more than {zone:?} can ever have");
        assert!(host.grow(0, zone, usize::MAX).is_none());
        let mut got = Vec::new();
        while let Some(range) = host.grow(0, zone, 1) {
            assert!(got.iter().all(|old: &PageRange| {
                old.first + old.count <= range.first || range.first + range.count <= old.first
            }));
            got.push(range);
        }
        assert_eq!(got.iter().map(|range| range.count).sum::<usize>(), size, "all of {zone:?}");
    }
    assert_eq!(host.mapped_pages(), 1 << 18);
}

#[test]
fn what_is_released_comes_again_as_new() {
    if !alone("what_is_released_comes_again_as_new") {
        return;
    }
    let host = host(false);
    let first = host.grow(0, ZoneKind::Normal, 4 * BLOCK_PAGES).expect("memory");
    let second = host.grow(0, ZoneKind::Normal, 2 * BLOCK_PAGES).expect("memory");
    check_fresh(host, first);
    check_fresh(host, second);
    let end = host.span().end();
    // In pieces, out of order: they join.
    let part = |first, count| PageRange { first, count };
    for range in [
        part(first.first + 3 * BLOCK_PAGES, BLOCK_PAGES),
        part(first.first, BLOCK_PAGES),
        part(first.first + BLOCK_PAGES, 2 * BLOCK_PAGES),
    ] {
        // SAFETY: nobody uses it any more.
        unsafe { host.release(range) };
        assert!(!is_mapped(address(host, range.first), range.count * PAGE_SIZE));
    }
    assert_eq!(host.mapped_pages(), second.count);
    assert_eq!(host.span().end(), end, "the end never comes down");
    let again = host.grow(0, ZoneKind::Normal, 4 * BLOCK_PAGES).expect("memory");
    assert_eq!(again, first, "the joined piece is used first");
    check_fresh(host, again);
}

#[test]
fn more_holes_than_anybody_remembers() {
    if !alone("more_holes_than_anybody_remembers") {
        return;
    }
    let host = host(false);
    let mut blocks = Vec::new();
    while let Some(range) = host.grow(0, ZoneKind::Normal, 1) {
        blocks.extend((range.first..range.first + range.count).step_by(BLOCK_PAGES));
    }
    let holes: Vec<_> =
        blocks.iter().step_by(2).map(|&first| PageRange { first, count: BLOCK_PAGES }).collect();
    for &hole in &holes {
        check_fresh(host, hole);
        // SAFETY: nobody uses it any more.
        unsafe { host.release(hole) };
    }
    assert!(holes.len() > 64, "{} holes", holes.len());
    let mut again = 0;
    while let Some(range) = host.grow(0, ZoneKind::Normal, 1) {
        assert!(holes.contains(&range));
        check_fresh(host, range);
        again += 1;
    }
    assert_eq!(again, 64, "as many as are remembered; the others are lost addresses, no more");
}

#[test]
fn places_that_others_took_are_skipped() {
    if !alone("places_that_others_took_are_skipped") {
        return;
    }
    let host = host(false);
    let [_, start] = host.zone_ends();
    // Somebody lives in the second and the fifth block.
    for block in [1, 4] {
        let place = address(host, start + block * BLOCK_PAGES);
        // SAFETY: a free place, and the mapping stays ours.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            let got = libc::mmap(place.cast(), PAGE_SIZE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_eq!(got.cast(), place);
            place.write(42);
        }
    }
    let first = host.grow(0, ZoneKind::Normal, BLOCK_PAGES).expect("memory");
    assert_eq!(first.first, start);
    let second = host.grow(0, ZoneKind::Normal, 2 * BLOCK_PAGES).expect("memory behind the first obstacle");
    assert_eq!(second.first, start + 2 * BLOCK_PAGES);
    let third = host.grow(0, ZoneKind::Normal, 3 * BLOCK_PAGES).expect("memory behind the second obstacle");
    assert!(third.first > start + 4 * BLOCK_PAGES);
    for range in [first, second, third] {
        check_fresh(host, range);
    }
    for block in [1, 4] {
        // SAFETY: our own mapping.
        assert_eq!(unsafe { address(host, start + block * BLOCK_PAGES).read() }, 42, "a neighbour was hurt");
    }
}

#[test]
fn discarded_pages_are_gone_and_zero() {
    let host = host(false);
    let range = host.grow(0, ZoneKind::Normal, BLOCK_PAGES).expect("memory");
    let resident = |range: PageRange| {
        let mut state = vec![0u8; range.count];
        // SAFETY: a byte for each page of mapped memory.
        let done = unsafe {
            libc::mincore(address(host, range.first).cast(), range.count * PAGE_SIZE, state.as_mut_ptr())
        };
        assert_eq!(done, 0);
        state.iter().filter(|&&byte| byte & 1 != 0).count()
    };
    // SAFETY: our own memory.
    unsafe { address(host, range.first).write_bytes(9, range.count * PAGE_SIZE) };
    assert_eq!(resident(range), range.count);
    let middle = PageRange { first: range.first + 16, count: 500 };
    // SAFETY: as above.
    assert!(unsafe { host.discard(middle) });
    assert_eq!(resident(range), range.count - 500);
    // SAFETY: as above.
    unsafe {
        assert_eq!(address(host, middle.first).read(), 0);
        assert_eq!(address(host, middle.first - 1).read(), 9);
        assert_eq!(address(host, middle.first + middle.count).read(), 9);
    }
}

/// Pages of a range that are in memory.
fn present(address: *mut u8, pages: usize) -> usize {
    let mut state = vec![0u8; pages];
    // SAFETY: asks about pages; the kernel writes a byte for each.
    assert_eq!(unsafe { libc::mincore(address.cast(), pages * PAGE_SIZE, state.as_mut_ptr()) }, 0);
    state.iter().filter(|&&byte| byte & 1 != 0).count()
}

/// Mappings that the range lies in.
fn mappings(address: *mut u8, len: usize) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux tells its mappings");
    let bounds = |line: &str| {
        let (from, to) = line.split_once(' ')?.0.split_once('-')?;
        Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
    };
    let inside = |&(from, to): &(usize, usize)| from < address.addr() + len && address.addr() < to;
    maps.lines().filter_map(bounds).filter(inside).count()
}

#[test]
fn a_pageblock_is_backed_by_itself_and_goes_piece_by_piece() {
    let host = host(false);
    let range = host.grow(0, ZoneKind::Normal, 2 * BLOCK_PAGES).expect("memory");
    let block = PageRange { first: range.first + PAGEBLOCK_PAGES, count: PAGEBLOCK_PAGES };
    let start = address(host, range.first);
    // SAFETY: the first page of memory that was just given to us.
    unsafe { start.write(1) };
    if !host.back_whole(block) {
        // A hardened heap, or a kernel without huge pages, or before Linux 5.14: one by one.
        assert_eq!(present(address(host, block.first), block.count), 0);
        return;
    }
    assert_eq!(present(address(host, block.first), block.count), PAGEBLOCK_PAGES);
    assert_eq!(present(start, range.count), PAGEBLOCK_PAGES + 1, "no more than what was asked for");
    assert_eq!(mappings(start, range.count * PAGE_SIZE), 1, "asking leaves a seam");
    for page in block.first..block.first + block.count {
        // SAFETY: memory of ours.
        assert_eq!(unsafe { address(host, page).replace(9) }, 0);
    }
    let piece = PageRange { first: block.first + 16, count: 16 };
    // SAFETY: nobody uses it.
    assert!(unsafe { host.discard(piece) });
    assert_eq!(present(address(host, block.first), block.count), PAGEBLOCK_PAGES - 16);
    // SAFETY: memory of ours, once more.
    unsafe {
        assert_eq!(address(host, piece.first).replace(9), 0);
        assert_eq!(address(host, piece.first - 1).read(), 9);
    }
    assert_eq!(
        present(address(host, block.first), block.count),
        PAGEBLOCK_PAGES - 15,
        "a touch fills one page"
    );
}

#[test]
fn mappings_of_every_alignment() {
    let host = host(false);
    let before = size();
    for align in [PAGE_SIZE, 1 << 16, 1 << 22, 1 << 25, 1 << 30] {
        for len in [PAGE_SIZE, 5 * PAGE_SIZE, (4 << 20) + PAGE_SIZE, 64 << 20] {
            let block = host.map(len, align).expect("a mapping");
            let start = block.as_ptr();
            assert!(start.addr().is_multiple_of(align));
            let base = host.window().base;
            assert!(start.addr() >= base + (1 << 30) || start.addr() + len <= base, "inside the window");
            // SAFETY: our own memory.
            unsafe {
                assert_eq!(start.read(), 0);
                start.write(1);
                start.add(len - 1).write(1);
                host.unmap(block, len);
            }
        }
    }
    // Other tests run beside this one; a block left behind by each of the largest would be gigabytes.
    assert!(size() < before + (8 << 30) / PAGE_SIZE, "something was left behind");
    assert!(host.map(usize::MAX & !4095, PAGE_SIZE).is_none());
    assert!(host.map(isize::MAX as usize & !4095, PAGE_SIZE).is_none());
    assert!(host.map(1 << 60, 1 << 62).is_none());
    assert!(host.map(0, PAGE_SIZE).is_none());
}

/// Pages of address space that this process has.
fn size() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
    statm.split(' ').next().expect("a size").parse().expect("a number")
}

#[test]
fn mappings_leave_no_neighbours() {
    let host = host(false);
    let block = |_| host.map(PAGE_SIZE, 1 << 24).expect("a mapping");
    let before = size();
    let blocks: Vec<_> = (0..50).map(block).collect();
    // Other tests run beside this one; 50 pages against 50 times 16 MiB is still plain.
    assert!(size() < before + 50 * (1 << 24) / PAGE_SIZE / 4, "the cut-off parts stayed mapped");
    for block in blocks {
        // SAFETY: our own mapping.
        unsafe { host.unmap(block, PAGE_SIZE) };
    }
}

#[test]
fn mappings_grow_shrink_and_move() {
    let host = host(false);
    let mib = 1 << 20;
    let fill = |block: NonNull<u8>, from: usize, to: usize| {
        for i in (from..to).step_by(PAGE_SIZE) {
            // SAFETY: our own memory.
            unsafe { block.as_ptr().add(i).write((i / PAGE_SIZE) as u8 | 1) };
        }
    };
    let check = |block: NonNull<u8>, from: usize, to: usize, filled: bool| {
        for i in (from..to).step_by(PAGE_SIZE) {
            let want = if filled { (i / PAGE_SIZE) as u8 | 1 } else { 0 };
            // SAFETY: our own memory.
            assert_eq!(unsafe { block.as_ptr().add(i).read() }, want, "byte {i}");
        }
    };
    let mut block = host.map(5 * mib, PAGE_SIZE).expect("a mapping");
    fill(block, 0, 5 * mib);
    // SAFETY: our own mappings, with the lengths they have.
    unsafe {
        block = host.remap(block, 5 * mib, 40 * mib, true).expect("growth");
        check(block, 0, 5 * mib, true);
        check(block, 5 * mib, 40 * mib, false);
        fill(block, 5 * mib, 40 * mib);
        let same = host.remap(block, 40 * mib, 3 * mib, false).expect("shrinking never needs to move");
        assert_eq!(same, block);
        check(block, 0, 3 * mib, true);
        // Something right behind it, and no leave to move.
        let wall = libc::mmap(
            block.as_ptr().add(3 * mib).cast(),
            PAGE_SIZE,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        );
        let walled = wall == block.as_ptr().add(3 * mib).cast();
        if walled {
            assert!(host.remap(block, 3 * mib, 6 * mib, false).is_none());
            check(block, 0, 3 * mib, true);
        }
        let moved = host.remap(block, 3 * mib, 6 * mib, true).expect("growth");
        assert!(!walled || moved != block);
        check(moved, 0, 3 * mib, true);
        check(moved, 3 * mib, 6 * mib, false);
        assert!(host.remap(moved, 6 * mib, usize::MAX & !4095, true).is_none());
        check(moved, 0, 3 * mib, true);
        host.unmap(moved, 6 * mib);
        if wall != libc::MAP_FAILED {
            libc::munmap(wall, PAGE_SIZE);
        }
    }
}

/// Bytes of address space that this process has, found without allocation; 0: that cannot be found.
fn own_size() -> usize {
    let mut text = [0u8; 64];
    // SAFETY: a constant path, and a buffer of that length.
    let read = unsafe {
        let file = libc::open(c"/proc/self/statm".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let read = libc::read(file, text.as_mut_ptr().cast(), text.len());
        libc::close(file);
        usize::try_from(read).unwrap_or(0)
    };
    let digits = text[..read].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |pages: usize, digit| pages * 10 + usize::from(digit - b'0')) * PAGE_SIZE
}

/// Runs `work` in a child that may have `room` more bytes of addresses than it has. No allocation and no panic there.
fn in_limited_child(room: usize, work: fn() -> i32) {
    // SAFETY: the child calls only the host and leaves by `_exit`.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            // Asked here, where nobody else is: the tests beside this one map and unmap gigabytes meanwhile.
            let size = own_size();
            let limit = (size + room) as libc::rlim_t;
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
            if size == 0 || libc::setrlimit(libc::RLIMIT_AS, &limit) != 0 {
                libc::_exit(99);
            }
            libc::_exit(work());
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        assert!(libc::WIFEXITED(status), "killed by signal {}", libc::WTERMSIG(status));
        assert_eq!(libc::WEXITSTATUS(status), 0, "see the numbers in the child's function");
    }
}

static LIMITED: Host = Host::new();

#[test]
fn growth_under_an_address_space_limit() {
    in_limited_child(256 << 20, || {
        // SAFETY: first use in this process.
        if unsafe { LIMITED.init(&Options::DEFAULT) }.is_err() {
            return 1;
        }
        // More than there is; then all there is, in the smallest requests: the larger steps must not fail them.
        if LIMITED.grow(0, ZoneKind::Normal, (1 << 30) / PAGE_SIZE).is_some() {
            return 2;
        }
        let mut total = 0;
        let mut last = PageRange { first: 0, count: 0 };
        while let Some(range) = LIMITED.grow(0, ZoneKind::Normal, 1) {
            total += range.count;
            last = range;
        }
        // All but what the records of two CPUs and the last incomplete block cost.
        if total * PAGE_SIZE < 200 << 20 {
            return 3;
        }
        // Even now: what is released can be had again.
        // SAFETY: nobody uses it.
        unsafe { LIMITED.release(last) };
        if LIMITED.grow(0, ZoneKind::Normal, 1).is_none() {
            return 4;
        }
        i32::from(LIMITED.map(64 << 20, PAGE_SIZE).is_some()) * 5
    });
}

#[test]
fn a_host_that_cannot_start_says_so() {
    in_limited_child(64 << 10, || {
        // SAFETY: first use in this process.
        match unsafe { LIMITED.init(&Options::DEFAULT) } {
            Err(error) if error.0 == libc::ENOMEM => i32::from(LIMITED.span().base() != 0) * 3,
            Err(_) => 1,
            Ok(()) => 2,
        }
    });
}

#[test]
fn many_grow_at_once() {
    if !alone("many_grow_at_once") {
        return;
    }
    let host = host(false);
    let mut got: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| std::iter::from_fn(|| host.grow(0, ZoneKind::Normal, 1)).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect()
    });
    got.sort_by_key(|range| range.first);
    assert!(got.windows(2).all(|pair| pair[0].first + pair[0].count == pair[1].first));
    let total: usize = got.iter().map(|range| range.count).sum();
    assert_eq!(total, (1 << 18) - host.zone_ends()[1]);
}
