//! Which block lives at an address: the writer's map.
//!
//! An open table over memory that its owner provides: linear probing, and removal by moving back what follows, so that
//! there are no marks of removed entries and no cleaning up. At most [half](Live::is_crowded) full, so that a search
//! is a step or two.
//!
//! - I-LIVE-1: between an entry's own place and where it stands there is no empty place.

/// An entry of the table: address and block number. All zero is an empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Entry {
    address: u64,
    block: u64,
}

/// The map. Keeps no memory of its own: every call is given the table, whose length is a power of two and which is
/// all zero at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Live {
    count: usize,
}

impl Live {
    /// For an empty table.
    #[must_use]
    pub const fn new() -> Self {
        Self { count: 0 }
    }

    /// Number of blocks in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// No blocks.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The table wants to be replaced by a larger one ([`Live::move_to`]) before the next insertion.
    #[must_use]
    pub const fn is_crowded(&self, table: &[Entry]) -> bool {
        self.count >= table.len() / 2
    }

    #[inline]
    fn place(address: u64, len: usize) -> usize {
        debug_assert!(len.is_power_of_two() && len > 1);
        // The high bits of a product by the golden ratio: neighbours part, and the low bits of an address are 0 anyway.
        ((address >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - len.ilog2())) as usize
    }

    /// Says that `block` lives at `address`, which is not 0. Returns the block that was said to live there before.
    ///
    /// # Panics
    /// When the table is full.
    pub fn insert(&mut self, table: &mut [Entry], address: u64, block: u64) -> Option<u64> {
        debug_assert!(address != 0);
        assert!(self.count < table.len());
        let mask = table.len() - 1;
        let mut at = Self::place(address, table.len());
        while table[at].address != 0 {
            if table[at].address == address {
                return Some(core::mem::replace(&mut table[at].block, block));
            }
            at = (at + 1) & mask;
        }
        table[at] = Entry { address, block };
        self.count += 1;
        None
    }

    /// Forgets the block at `address`; `None` when there is none.
    pub fn remove(&mut self, table: &mut [Entry], address: u64) -> Option<u64> {
        if address == 0 || self.count == 0 {
            return None;
        }
        let mask = table.len() - 1;
        let mut hole = Self::place(address, table.len());
        while table[hole].address != address {
            if table[hole].address == 0 {
                return None;
            }
            hole = (hole + 1) & mask;
        }
        let block = table[hole].block;
        let mut next = hole;
        loop {
            next = (next + 1) & mask;
            let entry = table[next];
            if entry.address == 0 {
                break;
            }
            // It may fill the hole if its own place is not behind the hole (I-LIVE-1), going round the end.
            let own = Self::place(entry.address, table.len());
            if (next.wrapping_sub(own) & mask) >= (next.wrapping_sub(hole) & mask) {
                table[hole] = entry;
                hole = next;
            }
        }
        table[hole] = Entry::default();
        self.count -= 1;
        Some(block)
    }

    /// Puts all blocks of `old` into `new`, an empty table with room for them.
    pub fn move_to(&mut self, old: &[Entry], new: &mut [Entry]) {
        self.count = 0;
        for entry in old.iter().filter(|entry| entry.address != 0) {
            self.insert(new, entry.address, entry.block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn it_is_a_map() {
        let mut table = vec![Entry::default(); 16];
        let mut live = Live::new();
        let mut model = HashMap::new();
        let mut state = 88_172_645_463_325_252u64;
        let mut removed = 0;
        for step in 0..200_000u64 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Few different addresses, so that most of them meet again; runs of them collide.
            let address = 0x7f00_0000_0000 + (state % 5000) * 16;
            if state >> 40 & 1 == 0 {
                if live.is_crowded(&table) {
                    let mut larger = vec![Entry::default(); table.len() * 2];
                    live.move_to(&table, &mut larger);
                    table = larger;
                }
                assert_eq!(live.insert(&mut table, address, step), model.insert(address, step));
            } else {
                let expected = model.remove(&address);
                removed += usize::from(expected.is_some());
                assert_eq!(live.remove(&mut table, address), expected);
            }
            assert_eq!(live.len(), model.len());
        }
        assert!(removed > 10_000 && table.len() >= 4096, "{removed} removed of a table of {}", table.len());
        for (address, block) in model {
            assert_eq!(live.remove(&mut table, address), Some(block));
        }
        assert!(live.is_empty() && table.iter().all(|entry| *entry == Entry::default()));
    }

    #[test]
    fn nothing_is_at_address_zero() {
        let mut table = vec![Entry::default(); 4];
        assert_eq!(Live::new().remove(&mut table, 0), None);
    }
}
