//! The index of a slab: which of its objects are free.
//!
//! Two kinds, both views of memory that belongs to one slab. The few numbers that a slab's descriptor keeps
//! (how many objects are out, which is the first free one) come in when a view is made and are read back from it
//! when it is done with.
//!
//! [`Packed`] (6.1) has one number for each object. The first `active` entries mean nothing; the others are the
//! free objects in the order in which they will be taken:
//!
//! ```text
//!            active
//!               v
//!   | . | . | . | 4 | 0 | 7 |          take: the entry at active, then active + 1
//!                                      put:  active - 1, then the number goes there
//! ```
//! So the last entry changes only when a slab that was full gets its first object back. That object is the last
//! that will be taken again, and may hold the index itself until then: its *home*.
//!
//! [`Linked`] (2.6) has for each free object the number of the next one, for others a mark.
//!
//! # Invariants
//! - I-INDEX-1: the entries of a `Packed` from `active` on are different objects, exactly the free ones.
//! - I-INDEX-2: the links of a `Linked` from `first` on visit exactly the objects without the mark, and end.
//!
//! An index may be damaged, as one in a free object lies where a program with a bug may write. What comes out
//! is therefore checked before it is used as a number of an object; what a view never does is to touch memory
//! outside its entries, whatever they hold.
//!
//! An object in an array of a CPU or a node counts as out. Locks: the caller holds the node's lock of the slab.

use core::marker::PhantomData;

/// Why no object could be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeError {
    /// Every object is out.
    Empty,
    /// What stands in the index is no object. Nothing changed.
    Damaged,
}

/// The index of 6.1: an array of numbers with those of the free objects at its end.
///
/// Up to 255 objects an entry is a byte, else two.
#[derive(Debug)]
pub struct Packed<'a> {
    entries: *mut u8,
    objects: u32,
    active: u32,
    memory: PhantomData<&'a mut [u8]>,
}

impl Packed<'_> {
    /// Bytes of an entry in a slab of `objects` objects. The index must be aligned to it.
    #[must_use]
    pub const fn entry_bytes(objects: u32) -> usize {
        if objects <= 0xff { 1 } else { 2 }
    }

    /// A view of the index at `entries`, of a slab with `objects` objects of which `active` are out.
    /// A new slab has `active == 0`, and its index is to be [filled](Self::fill).
    ///
    /// # Safety
    /// For as long as the view lives, `entries` points to `objects * entry_bytes(objects)` bytes, aligned to
    /// `entry_bytes(objects)`, initialised, that nobody else reads or writes. (An object that holds its own
    /// index is part of this until the view is gone, even when the view gave it out.)
    #[must_use]
    pub const unsafe fn new(entries: *mut u8, objects: u32, active: u32) -> Self {
        debug_assert!(objects <= 0xffff && active <= objects);
        Self { entries, objects, active, memory: PhantomData }
    }

    /// Objects that are out now.
    #[must_use]
    pub const fn active(&self) -> u32 {
        self.active
    }

    /// Objects of the slab.
    #[must_use]
    pub const fn objects(&self) -> u32 {
        self.objects
    }

    /// Makes every object free, in ascending order.
    pub fn fill_ascending(&mut self) {
        self.active = 0;
        (0..self.objects).for_each(|at| self.write(at, at));
    }

    /// Makes every object free, to be taken in this order; but `home`, when given, as the last.
    /// `order` gives each number below `objects` once.
    pub fn fill(&mut self, order: impl IntoIterator<Item = u32>, home: Option<u32>) {
        self.active = 0;
        let others = order.into_iter().filter(|object| Some(*object) != home);
        let mut at = 0;
        for object in others.chain(home) {
            debug_assert!(object < self.objects && at < self.objects, "not a permutation");
            if at < self.objects {
                self.write(at, object);
                at += 1;
            }
        }
        debug_assert!(at == self.objects, "not a permutation");
        // Too short an order is a mistake that should cost objects, not hand one out twice.
        for missing in at..self.objects {
            self.write(missing, u32::MAX);
        }
    }

    /// Takes the next free object.
    ///
    /// # Errors
    /// [`TakeError`]; nothing changed.
    #[inline]
    pub fn take(&mut self) -> Result<u32, TakeError> {
        if self.active >= self.objects {
            return Err(TakeError::Empty);
        }
        let object = self.read(self.active);
        if object >= self.objects {
            return Err(TakeError::Damaged);
        }
        self.active += 1;
        Ok(object)
    }

    /// Takes free objects as long as `with` takes their numbers, of a slab of up to 64 with a bit for each free one. False
    /// when what stands in the index is no free object; that one was not taken.
    #[inline(always)]
    pub fn take_each(&mut self, bits: &mut u64, most: usize, mut with: impl FnMut(u32)) -> bool {
        debug_assert!(self.objects <= u64::BITS);
        let end = self.active + (most as u32).min(self.objects.saturating_sub(self.active));
        while self.active < end {
            // SAFETY: `end` is at most `objects`, and by the contract of `new` the entry, a byte, is ours.
            let object = unsafe { self.entries.add(self.active as usize).read() } % 64;
            if *bits >> object & 1 == 0 {
                return false;
            }
            *bits ^= 1 << object;
            self.active += 1;
            with(object.into());
        }
        true
    }

    /// Gives an object back. False, and nothing changed, when there is no such object or none is out.
    /// An object that is free already is not noticed here, only by [`Self::is_free`].
    #[must_use]
    #[inline]
    pub fn put(&mut self, object: u32) -> bool {
        if object >= self.objects || self.active == 0 || self.active > self.objects {
            return false;
        }
        self.active -= 1;
        self.write(self.active, object);
        true
    }

    /// Gives objects back, each by its address, as long as they are objects and out; the first begins at `first`. Returns how
    /// many. For slabs of up to 255 objects.
    pub(crate) fn put_plain(&mut self, first: usize, size: usize, addresses: &[*mut u8]) -> usize {
        debug_assert!(Self::entry_bytes(self.objects) == 1 && self.active <= self.objects);
        let mut free = [0_u64; 4];
        for at in self.active..self.objects {
            let object = self.read(at);
            free[object as usize / 64] |= 1 << (object % 64);
        }
        let (size, extent) = (size as u32, self.objects as usize * size);
        for (done, address) in addresses.iter().enumerate() {
            let distance = address.addr().wrapping_sub(first);
            let number = distance as u32 / size;
            if distance >= extent || number * size != distance as u32 {
                return done;
            }
            let (word, bit) = (&mut free[number as usize / 64 % 4], 1 << (number % 64));
            if *word & bit != 0 || self.active == 0 {
                return done;
            }
            *word |= bit;
            self.active -= 1;
            // SAFETY: below `objects`, so by the contract of `new` the entry, a byte, is ours.
            unsafe { self.entries.add(self.active as usize).write(number as u8) };
        }
        addresses.len()
    }

    /// True when this object is free. Looks at each free object in turn.
    #[must_use]
    pub fn is_free(&self, object: u32) -> bool {
        if object >= self.objects || self.active >= self.objects {
            return false;
        }
        if Self::entry_bytes(self.objects) == 1 {
            let (from, len) = (self.active as usize, (self.objects - self.active) as usize);
            // SAFETY: entries `active..objects` are ours and initialised, by the contract of `new`. Searched as bytes: every
            // object that goes back to its slab comes this way.
            let free = unsafe { core::slice::from_raw_parts(self.entries.add(from), len) };
            return holds(free, object as u8);
        }
        (self.active..self.objects).any(|at| self.read(at) == object)
    }

    /// What stands at a place of the index, without a look at what it means.
    #[must_use]
    pub fn entry(&self, at: u32) -> Option<u32> {
        (at < self.objects).then(|| self.read(at))
    }

    #[inline]
    fn read(&self, at: u32) -> u32 {
        assert!(at < self.objects);
        let at = at as usize;
        // SAFETY: `at` is below `objects`, so by the contract of `new` the entry is ours, initialised and aligned.
        unsafe {
            if Self::entry_bytes(self.objects) == 1 {
                u32::from(self.entries.add(at).read())
            } else {
                u32::from(self.entries.cast::<u16>().add(at).read())
            }
        }
    }

    /// Numbers too large for an entry become its largest value, which is no object.
    #[inline]
    fn write(&mut self, at: u32, object: u32) {
        assert!(at < self.objects);
        let at = at as usize;
        // SAFETY: `at` is below `objects`, so by the contract of `new` the entry is ours and aligned.
        unsafe {
            if Self::entry_bytes(self.objects) == 1 {
                self.entries.add(at).write(u8::try_from(object).unwrap_or(u8::MAX));
            } else {
                self.entries.cast::<u16>().add(at).write(u16::try_from(object).unwrap_or(u16::MAX));
            }
        }
    }
}

/// Whether a byte is among others: sixteen at a time, which the compiler makes one comparison.
fn holds(bytes: &[u8], wanted: u8) -> bool {
    fn sixteen(bytes: &[u8; 16], wanted: u8) -> bool {
        bytes.iter().fold(0, |found, byte| found | u8::from(*byte == wanted)) != 0
    }
    let Some(last) = bytes.last_chunk() else { return bytes.contains(&wanted) };
    bytes.as_chunks().0.iter().any(|chunk| sixteen(chunk, wanted)) || sixteen(last, wanted)
}

/// The index of 2.6: for each free object the number of the next one.
#[derive(Debug)]
pub struct Linked<'a> {
    entries: *mut u32,
    objects: u32,
    first: u32,
    memory: PhantomData<&'a mut [u32]>,
}

impl Linked<'_> {
    /// In place of a number: no object follows.
    pub const END: u32 = u32::MAX;
    /// In the entry of an object that is out.
    const OUT: u32 = u32::MAX - 1;

    /// A view of the index at `entries`, of a slab with `objects` objects of which `first` is the first free
    /// one, [`Self::END`] when there is none. The index of a new slab is to be [filled](Self::fill).
    ///
    /// # Safety
    /// For as long as the view lives, `entries` points to `objects` numbers, aligned, initialised, that
    /// nobody else reads or writes.
    #[must_use]
    pub const unsafe fn new(entries: *mut u32, objects: u32, first: u32) -> Self {
        debug_assert!(objects < Self::OUT);
        Self { entries, objects, first, memory: PhantomData }
    }

    /// The first free object now, or [`Self::END`].
    #[must_use]
    pub const fn first(&self) -> u32 {
        self.first
    }

    /// Makes every object free, in ascending order.
    pub fn fill_ascending(&mut self) {
        self.fill(0..self.objects);
    }

    /// Makes every object free, to be taken in this order. `order` gives each number below `objects` once.
    pub fn fill(&mut self, order: impl IntoIterator<Item = u32>) {
        for object in 0..self.objects {
            self.write(object, Self::OUT);
        }
        self.first = Self::END;
        let mut last = None;
        for object in order {
            let fresh = object < self.objects && self.read(object) == Self::OUT;
            debug_assert!(fresh, "not a permutation");
            if !fresh {
                continue;
            }
            match last {
                None => self.first = object,
                Some(last) => self.write(last, object),
            }
            self.write(object, Self::END);
            last = Some(object);
        }
    }

    /// Takes the next free object.
    ///
    /// # Errors
    /// [`TakeError`]; nothing changed.
    pub fn take(&mut self) -> Result<u32, TakeError> {
        let object = self.first;
        if object == Self::END {
            return Err(TakeError::Empty);
        }
        if object >= self.objects {
            return Err(TakeError::Damaged);
        }
        let next = self.read(object);
        if next != Self::END && next >= self.objects {
            return Err(TakeError::Damaged);
        }
        self.write(object, Self::OUT);
        self.first = next;
        Ok(object)
    }

    /// Gives an object back. False, and nothing changed, when there is no such object or it is not out.
    #[must_use]
    pub fn put(&mut self, object: u32) -> bool {
        if object >= self.objects || self.read(object) != Self::OUT {
            return false;
        }
        self.write(object, self.first);
        self.first = object;
        true
    }

    /// True when this object is free.
    #[must_use]
    pub fn is_free(&self, object: u32) -> bool {
        object < self.objects && self.read(object) != Self::OUT
    }

    /// What stands at a place of the index, without a look at what it means.
    #[must_use]
    pub fn entry(&self, at: u32) -> Option<u32> {
        (at < self.objects).then(|| self.read(at))
    }

    fn read(&self, at: u32) -> u32 {
        assert!(at < self.objects);
        // SAFETY: `at` is below `objects`, so by the contract of `new` the entry is ours, initialised and aligned.
        unsafe { self.entries.add(at as usize).read() }
    }

    fn write(&mut self, at: u32, object: u32) {
        assert!(at < self.objects);
        // SAFETY: `at` is below `objects`, so by the contract of `new` the entry is ours and aligned.
        unsafe { self.entries.add(at as usize).write(object) }
    }
}

#[cfg(test)]
#[path = "index/tests.rs"]
mod tests;
