//! Both kinds of index against a model, and what they make of damage.

use super::*;

/// Memory for an index of up to 300 objects with guards around it.
struct Memory {
    words: [u32; 304],
}

const GUARD: u32 = 0x5a5a_5a5a;

impl Memory {
    fn new() -> Self {
        Self { words: [GUARD; 304] }
    }

    fn entries(&mut self) -> *mut u32 {
        self.words[2..302].as_mut_ptr()
    }

    /// Nothing outside the first `bytes` bytes was written.
    fn assert_guards(&self, bytes: usize) {
        let used = bytes.div_ceil(4);
        assert_eq!(self.words[..2], [GUARD; 2]);
        assert!(self.words[2 + used..].iter().all(|word| *word == GUARD));
    }
}

/// A permutation of `0..n`: the multiples of a number without common divisor.
fn shuffled(n: u32) -> impl Iterator<Item = u32> {
    (0..n).map(move |i| (i * 7 + 3) % n)
}

fn packed(memory: &mut Memory, objects: u32, active: u32) -> Packed<'_> {
    // SAFETY: the memory holds 300 entries of 4 bytes, is initialised, and is borrowed for as long as the view.
    unsafe { Packed::new(memory.entries().cast(), objects, active) }
}

fn linked(memory: &mut Memory, objects: u32, first: u32) -> Linked<'_> {
    // SAFETY: the memory holds 300 entries, is initialised, and is borrowed for as long as the view.
    unsafe { Linked::new(memory.entries(), objects, first) }
}

#[test]
fn packed_takes_in_the_order_filled() {
    for objects in [1, 2, 240, 255, 256, 300] {
        let mut memory = Memory::new();
        {
            let mut index = packed(&mut memory, objects, 0);
            index.fill_ascending();
            for object in 0..objects {
                assert!(index.is_free(object));
                assert_eq!(index.take(), Ok(object));
                assert!(!index.is_free(object));
            }
            assert_eq!((index.take(), index.active()), (Err(TakeError::Empty), objects));
            if objects % 7 != 0 {
                index.fill(shuffled(objects), None);
                assert!(shuffled(objects).all(|object| index.take() == Ok(object)));
            }
        }
        memory.assert_guards(objects as usize * Packed::entry_bytes(objects));
    }
}

#[test]
fn home_is_the_last_taken_until_the_slab_is_full() {
    let mut memory = Memory::new();
    let mut index = packed(&mut memory, 10, 0);
    index.fill(shuffled(10), Some(4));
    let first: [_; 9] = core::array::from_fn(|_| index.take().expect("free"));
    assert!(!first.contains(&4));
    // Whatever comes back and goes, the last entry stays.
    assert!(index.put(first[8]) && index.put(first[0]) && index.put(first[3]));
    for expected in [first[3], first[0], first[8], 4] {
        assert_eq!(index.take(), Ok(expected));
    }
    assert_eq!(index.take(), Err(TakeError::Empty));
    // The first to come back is the new home.
    assert!(index.put(first[5]) && index.put(4));
    assert_eq!([index.take(), index.take()], [Ok(4), Ok(first[5])]);
}

#[test]
fn packed_refuses_what_cannot_come_back() {
    let mut memory = Memory::new();
    let mut index = packed(&mut memory, 5, 0);
    index.fill_ascending();
    assert!(!index.put(0), "every object is free");
    let object = index.take().expect("free");
    assert!(!index.put(5) && !index.put(u32::MAX), "no such objects");
    assert!(!index.is_free(object) && index.is_free(4) && !index.is_free(5));
    assert!(index.put(object) && index.is_free(object) && index.active() == 0);
}

#[test]
fn packed_notices_damage() {
    for (objects, byte) in [(5_u32, 5_u8), (5, 0xff), (300, 0xff)] {
        let mut memory = Memory::new();
        packed(&mut memory, objects, 0).fill_ascending();
        let entry = Packed::entry_bytes(objects);
        // SAFETY: the third entry lies in the memory.
        unsafe { memory.entries().cast::<u8>().add(2 * entry).write_bytes(byte, entry) };
        let mut index = packed(&mut memory, objects, 2);
        assert_eq!((index.take(), index.active()), (Err(TakeError::Damaged), 2));
        assert!(!index.is_free(2));
    }
}

#[test]
fn linked_takes_in_the_order_filled() {
    for objects in [1, 2, 202, 300] {
        let mut memory = Memory::new();
        {
            let mut index = linked(&mut memory, objects, Linked::END);
            index.fill_ascending();
            for object in 0..objects {
                assert!(index.is_free(object));
                assert_eq!((index.first(), index.take()), (object, Ok(object)));
                assert!(!index.is_free(object));
            }
            assert_eq!((index.take(), index.first()), (Err(TakeError::Empty), Linked::END));
            index.fill(shuffled(objects));
            assert!(shuffled(objects).all(|object| index.take() == Ok(object)));
        }
        memory.assert_guards(objects as usize * 4);
    }
}

#[test]
fn linked_notices_a_second_put() {
    let mut memory = Memory::new();
    let mut index = linked(&mut memory, 4, Linked::END);
    index.fill_ascending();
    assert!(!index.put(2), "free already");
    let (a, b) = (index.take().expect("free"), index.take().expect("free"));
    assert!(!index.put(4) && !index.put(Linked::END));
    assert!(index.put(a) && !index.put(a) && index.put(b) && !index.put(a));
    assert_eq!([index.take(), index.take(), index.take()], [Ok(b), Ok(a), Ok(2)]);
}

#[test]
fn linked_notices_damage() {
    let mut memory = Memory::new();
    linked(&mut memory, 4, Linked::END).fill_ascending();
    for link in [4, 1000, Linked::OUT] {
        memory.words[2] = link;
        let mut index = linked(&mut memory, 4, 0);
        assert_eq!((index.take(), index.first()), (Err(TakeError::Damaged), 0));
    }
    assert_eq!(linked(&mut memory, 4, 9).take(), Err(TakeError::Damaged));
}

/// Thousands of random takes and puts: both kinds agree with a set at every step.
#[test]
fn both_agree_with_a_model() {
    const OBJECTS: u32 = 37;
    let (mut bytes, mut words) = (Memory::new(), Memory::new());
    let mut first = packed(&mut bytes, OBJECTS, 0);
    let mut second = linked(&mut words, OBJECTS, Linked::END);
    first.fill(shuffled(OBJECTS), None);
    second.fill(shuffled(OBJECTS));
    let mut out = [false; OBJECTS as usize];
    let mut random = 12345_u64;
    for _ in 0..5000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let object = (random >> 33) as u32 % OBJECTS;
        if random >> 63 == 0 {
            let taken = first.take();
            // Last in, first out: they give the same objects.
            assert_eq!(taken, second.take());
            match taken {
                Ok(taken) => assert!(!core::mem::replace(&mut out[taken as usize], true)),
                Err(error) => assert!(error == TakeError::Empty && out.iter().all(|out| *out)),
            }
        } else if out[object as usize] {
            assert!(first.put(object) && second.put(object));
            out[object as usize] = false;
        } else {
            assert!(first.is_free(object) && !second.put(object));
        }
        let free = |object: u32| !out[object as usize];
        assert!((0..OBJECTS).all(|o| first.is_free(o) == free(o) && second.is_free(o) == free(o)));
        assert_eq!(first.active() as usize, out.iter().filter(|out| **out).count());
    }
}
