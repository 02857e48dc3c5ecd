//! The free blocks of one page, against a map of its units.

use super::*;

#[repr(C, align(4096))]
struct Memory([u8; PAGE_SIZE]);

/// A page with its free blocks.
struct Fixture {
    memory: Box<Memory>,
    room: Room,
}

impl Fixture {
    fn new() -> Self {
        let mut memory = Box::new(Memory([0xaa; PAGE_SIZE]));
        let base = NonNull::from(&mut memory.0).cast();
        // SAFETY: the page lives as long as the fixture, which alone uses it.
        let room = unsafe { Room::whole(base) };
        Self { memory, room }
    }

    fn take(&mut self, bytes: usize, align: usize, offset: usize) -> Option<u16> {
        self.room.take(units(bytes) as u16, align, offset).expect("sound")
    }

    fn holes(&self) -> Vec<(u16, u16)> {
        self.room.holes().map(|hole| hole.map(|hole| (hole.at, hole.units)).expect("sound")).collect()
    }

    fn unit(&mut self, at: u16) -> &mut [u8] {
        &mut self.memory.0[usize::from(at) * 2..][..2]
    }
}

#[test]
fn first_fit_cuts_from_the_front() {
    let mut page = Fixture::new();
    assert_eq!(page.take(24, 8, 0), Some(0));
    assert_eq!(page.take(30, 8, 0), Some(12));
    // 54 bytes are taken: the next aligned place leaves one unit before it.
    assert_eq!(page.take(8, 8, 0), Some(28));
    assert_eq!(page.holes(), [(27, 1), (32, 2016)]);
    // The single unit is found by what fits in it.
    assert_eq!(page.take(2, 2, 0), Some(27));
    assert_eq!((page.holes(), page.room.free), (vec![(32, 2016)], 2016));
}

#[test]
fn an_alignment_counts_from_its_offset() {
    let mut page = Fixture::new();
    // The byte behind a header of 8 is aligned to 2048: the block begins 8 bytes before.
    assert_eq!(page.take(2056, 2048, 8), Some((2048 - 8) / 2));
    assert_eq!(page.holes(), [(0, 1020)]);
    assert_eq!(page.take(2056, 2048, 8), None);
    assert_eq!(page.take(2040, 8, 0), Some(0));
    assert_eq!((page.holes(), page.room.free), (vec![], 0));
    assert_eq!(page.take(2, 8, 0), None);
}

#[test]
fn freed_blocks_join_at_both_sides() {
    let mut page = Fixture::new();
    let at: Vec<u16> = (0..4).map(|_| page.take(16, 8, 0).expect("room")).collect();
    assert_eq!(at, [0, 8, 16, 24]);
    page.room.give(0, 8).expect("in use");
    page.room.give(16, 8).expect("in use");
    assert_eq!(page.holes(), [(0, 8), (16, 8), (32, 2016)]);
    page.room.give(8, 8).expect("in use");
    assert_eq!(page.holes(), [(0, 24), (32, 2016)]);
    page.room.give(24, 8).expect("in use");
    assert_eq!((page.holes(), page.room.free), (vec![(0, 2048)], UNITS));
}

#[test]
fn what_is_free_is_refused() {
    let mut page = Fixture::new();
    assert_eq!(page.take(PAGE_SIZE, 4096, 0), Some(0));
    page.room.give(8, 8).expect("in use");
    let before = page.holes();
    for (at, units) in [(8, 8), (8, 1), (15, 1), (0, 9), (15, 4), (0, 2048), (10, 2)] {
        assert_eq!(page.room.give(at, units), Err(Refused::Free), "{at}+{units}");
    }
    assert_eq!((page.holes(), page.room.free), (before, 8));
    assert_eq!(page.room.is_free(7), Ok(false));
    assert_eq!(page.room.is_free(8), Ok(true));
    assert_eq!(page.room.is_free(15), Ok(true));
    assert_eq!(page.room.is_free(16), Ok(false));
}

/// Every value in the first unit of a free block, and in its link: either the chain stays sound or it is
/// refused. It never leaves the page, never ends the walk with a panic, and never changes anything when
/// refused.
#[test]
fn a_broken_chain_is_noticed() {
    let (mut refused, mut sound) = (0, 0);
    for at in [100, 101, 2000, 2001] {
        for value in i16::MIN..=i16::MAX {
            let mut page = Fixture::new();
            assert_eq!(page.take(PAGE_SIZE, 8, 0), Some(0));
            page.room.give(100, 8).expect("in use");
            page.room.give(2000, 8).expect("in use");
            page.unit(at).copy_from_slice(&value.to_ne_bytes());
            let memory = page.memory.0;
            match page.room.give(500, 4) {
                Err(Refused::Damage(Damage { at: seen })) => {
                    assert!(
                        seen == 100 || seen == 2000 || i32::from(seen) == i32::from(value).abs(),
                        "{value} at {at}"
                    );
                    assert!(page.memory.0 == memory && page.room.free == 16, "{value} at {at}");
                    refused += 1;
                }
                // A length that stays in front of the next block cannot be told from a right one.
                Ok(()) | Err(Refused::Free) => sound += 1,
            }
        }
    }
    assert!(refused > 4 * 65_536 / 2, "{refused} of {} were noticed", refused + sound);
    assert!(sound > 4, "{sound}");
}

/// Random blocks against a map of the page's units.
#[test]
fn a_page_agrees_with_a_map_of_its_units() {
    let mut state = 7_u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for _ in 0..20 {
        let mut page = Fixture::new();
        let mut used = vec![false; usize::from(UNITS)];
        let mut blocks: Vec<(u16, u16)> = Vec::new();
        for _ in 0..600 {
            if below(100) < 55 {
                let most = [8, 64, 300, 2000][below(4)];
                let bytes = 1 + below(most);
                let (align, offset) = ([2, 8, 8, 64, 512][below(5)], [0, 8][below(2)]);
                let wanted = units(bytes);
                // The first place where a free run of units has it.
                let expected = (0..=2048 - wanted).find(|&at| {
                    (at * 2 + offset) % align == 0 && used[at..at + wanted].iter().all(|&used| !used)
                });
                let found = page.take(bytes, align, offset);
                assert_eq!(found.map(usize::from), expected, "{bytes} bytes at {align} + {offset}");
                if let Some(at) = found {
                    used[usize::from(at)..][..wanted].fill(true);
                    blocks.push((at, wanted as u16));
                }
            } else if !blocks.is_empty() {
                let (at, units) = blocks.swap_remove(below(blocks.len()));
                used[usize::from(at)..][..usize::from(units)].fill(false);
                page.room.give(at, units).expect("in use");
                assert_eq!(page.room.give(at, units), Err(Refused::Free));
            }
            let mut seen = vec![true; usize::from(UNITS)];
            page.holes()
                .iter()
                .for_each(|&(at, units)| seen[usize::from(at)..][..usize::from(units)].fill(false));
            assert_eq!(seen, used);
            assert_eq!(usize::from(page.room.free), used.iter().filter(|used| !**used).count());
        }
    }
}
