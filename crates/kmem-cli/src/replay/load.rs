//! From a trace to an array of operations.
//!
//! Blocks get *slots*: places in an array that are used again, so that a pass needs memory for the blocks that live at
//! one time only. That no block ends twice is checked here; a pass believes it.

use kmem_trace::{Error, Event, Header, Trace};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Make a block.
    Alloc,
    /// Make a zeroed block.
    Zeroed,
    /// Make a block aligned to `1 << shift`.
    Aligned,
    /// End the slot's block.
    Free,
    /// Give the slot's block another size.
    Resize,
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    /// Bytes; 0 of a free.
    pub(crate) size: u64,
    /// Where the block is kept.
    pub(crate) slot: u32,
    /// What to do.
    pub(crate) kind: Kind,
    /// Of [`Kind::Aligned`].
    pub(crate) shift: u8,
}

/// A trace, ready to be replayed.
#[derive(Debug)]
pub(crate) struct Work {
    header: Header,
    /// The calls.
    pub(crate) ops: Vec<Op>,
    /// Slots needed.
    pub(crate) slots: usize,
    /// Calls that ask for a block, resizing included.
    allocs: u64,
    /// The most bytes alive.
    peak: u64,
    /// The call after which they are, from 0.
    pub(crate) peak_at: usize,
    bytes: u64,
}

/// What there is to say of a trace beside its operations.
#[derive(Clone, Debug)]
pub(crate) struct About {
    /// The program's name.
    pub(crate) program: String,
    /// Its process.
    pub(crate) pid: u32,
    /// Calls.
    pub(crate) calls: u64,
    /// Of these, calls that ask for a block.
    pub(crate) allocs: u64,
    /// Bytes of records.
    pub(crate) bytes: u64,
    /// The most bytes alive.
    pub(crate) peak: u64,
    /// The call after which they are, from 0.
    pub(crate) peak_at: u64,
}

/// Why a trace cannot be replayed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It is damaged.
    Trace(Error),
    /// It ends a block that had ended: call and block.
    Ended(u64, u64),
    /// More blocks live at a time than there are slots.
    Many,
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Trace(error) => error.fmt(f),
            Self::Ended(call, block) => {
                write!(f, "damaged: call {call} ends block {block}, which had ended")
            }
            Self::Many => f.write_str("too many blocks live at a time"),
        }
    }
}

/// Where the blocks are while the trace is read.
#[derive(Default)]
struct Slots {
    /// Slot by block; [`ENDED`] of one that ended.
    of: Vec<u32>,
    free: Vec<u32>,
    /// Bytes by slot.
    sizes: Vec<u64>,
}

/// No slot.
const ENDED: u32 = u32::MAX;

impl Slots {
    fn take(&mut self, size: u64) -> Result<u32, Unfit> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.sizes.push(0);
                u32::try_from(self.sizes.len() - 1).ok().filter(|slot| *slot != ENDED).ok_or(Unfit::Many)?
            }
        };
        self.sizes[slot as usize] = size;
        self.of.push(slot);
        Ok(slot)
    }

    /// The slot of a block, which ends.
    fn end(&mut self, block: u64, call: usize) -> Result<u32, Unfit> {
        let slot = std::mem::replace(&mut self.of[block as usize], ENDED);
        if slot == ENDED { Err(Unfit::Ended(call as u64, block)) } else { Ok(slot) }
    }
}

impl Work {
    /// Reads a trace to its end.
    ///
    /// # Errors
    /// It is damaged.
    pub(crate) fn of(trace: &Trace<'_>) -> Result<Self, Unfit> {
        let header = *trace.header();
        let mut work =
            Work { header, ops: Vec::new(), slots: 0, allocs: 0, peak: 0, peak_at: 0, bytes: header.used };
        let mut slots = Slots::default();
        let mut live = 0u64;
        for event in trace.events() {
            let op = match event.map_err(Unfit::Trace)? {
                Event::Alloc { size, align, zeroed, .. } => {
                    let kind = match (zeroed, align) {
                        (true, _) => Kind::Zeroed,
                        (false, 1) => Kind::Alloc,
                        (false, _) => Kind::Aligned,
                    };
                    live = live.saturating_add(size);
                    Op { size, slot: slots.take(size)?, kind, shift: align.ilog2() as u8 }
                }
                Event::Free { block } => {
                    let slot = slots.end(block, work.ops.len())?;
                    slots.free.push(slot);
                    live -= slots.sizes[slot as usize];
                    Op { size: 0, slot, kind: Kind::Free, shift: 0 }
                }
                Event::Resize { old, size, .. } => {
                    let slot = slots.end(old, work.ops.len())?;
                    slots.of.push(slot);
                    let before = std::mem::replace(&mut slots.sizes[slot as usize], size);
                    live = (live - before).saturating_add(size);
                    Op { size, slot, kind: Kind::Resize, shift: 0 }
                }
                Event::Thread(_) | Event::Time(_) => continue,
            };
            work.allocs += u64::from(op.kind != Kind::Free);
            if live > work.peak {
                (work.peak, work.peak_at) = (live, work.ops.len());
            }
            work.ops.push(op);
        }
        work.slots = slots.sizes.len();
        Ok(work)
    }

    /// What there is to say of it.
    pub(crate) fn about(&self) -> About {
        About {
            program: self.header.name().to_owned(),
            pid: self.header.pid,
            calls: self.ops.len() as u64,
            allocs: self.allocs,
            bytes: self.bytes,
            peak: self.peak,
            peak_at: self.peak_at as u64,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use kmem_trace::encode::Encoder;
    use kmem_trace::record::Bytes;

    /// A trace of these calls.
    pub(in super::super) fn file(
        calls: u64,
        write: impl FnOnce(&mut Encoder, &mut dyn FnMut(Bytes)),
    ) -> Vec<u8> {
        let mut records = Vec::new();
        write(&mut Encoder::new(), &mut |bytes| records.extend_from_slice(bytes.as_slice()));
        let used = records.len() as u64;
        let header = Header {
            pid: 42,
            events: calls,
            used,
            name: *b"prog\0\0\0\0\0\0\0\0\0\0\0\0",
            ..Header::default()
        };
        let mut file = header.to_bytes().to_vec();
        file.extend(records);
        file
    }

    #[test]
    fn slots_are_used_again_and_the_peak_is_found() {
        let bytes = file(7, |encoder, put| {
            put(encoder.alloc(100)); // block 0
            put(encoder.zeroed(50)); // block 1
            put(encoder.resize(0, 300)); // block 2
            put(encoder.time(1));
            put(encoder.free(1));
            put(encoder.aligned(6, 10)); // block 3
            put(encoder.free(2));
            put(encoder.alloc(0)); // block 4
        });
        let work = Work::of(&Trace::parse(&bytes).unwrap()).unwrap();
        let op = |size, slot, kind, shift| Op { size, slot, kind, shift };
        let expected = [
            op(100, 0, Kind::Alloc, 0),
            op(50, 1, Kind::Zeroed, 0),
            op(300, 0, Kind::Resize, 0),
            op(0, 1, Kind::Free, 0),
            op(10, 1, Kind::Aligned, 6),
            op(0, 0, Kind::Free, 0),
            op(0, 0, Kind::Alloc, 0),
        ];
        assert_eq!(work.ops, expected);
        assert_eq!(work.slots, 2);
        let about = work.about();
        assert_eq!((about.peak, about.peak_at, about.calls, about.allocs), (350, 2, 7, 5));
        assert_eq!((about.program.as_str(), about.pid), ("prog", 42));
    }

    #[test]
    fn a_block_ends_once() {
        for twice in [Encoder::free, |encoder: &mut Encoder, block| encoder.resize(block, 1)] {
            let bytes = file(3, |encoder, put| {
                put(encoder.alloc(1));
                put(encoder.free(0));
                put(twice(encoder, 0));
            });
            assert_eq!(Work::of(&Trace::parse(&bytes).unwrap()).unwrap_err(), Unfit::Ended(2, 0));
        }
        let cut = file(2, |encoder, put| put(encoder.alloc(1)));
        let error = Work::of(&Trace::parse(&cut).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "damaged: its header tells of 2 calls, and there are 1");
    }
}
