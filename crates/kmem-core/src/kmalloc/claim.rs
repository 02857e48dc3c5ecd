//! How a block was asked for, and what is claimed about it when it is given back.
//!
//! # Theory
//! C and C++ have several pairs of calls that ask for memory and give it back. Mixing them works by chance, because all end in
//! one heap, until a program runs on another. A checked class notes by which call a block was asked for, its alignment, and
//! its size ([`Origin`], [`Asked`]); a free that says more than an address is compared with that. Of a block without such a
//! note only the room is known: claims that do not fit into it are wrong.
//!
//! # Never
//! Nothing here frees anything: a mismatch is reported, and what then happens to the block is the caller's affair.

use core::fmt;

use crate::config::Config;
use crate::debug::{Asked, Origin, Reporter};
use crate::engine::Engine;
use crate::heap::Kmem;
use crate::kmalloc::Block;
use crate::kmalloc::large::pages_for;
use crate::platform::{PAGE_SHIFT, PAGE_SIZE, Platform};

/// What a free says about its block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The call.
    pub origin: Origin,
    /// Its size.
    pub size: Option<usize>,
    /// Its alignment.
    pub align: Option<usize>,
}

/// Every block is aligned to this much: a smaller alignment was no wish.
const LEAST_ALIGN: usize = 16;

/// What is wrong with a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It was asked for by other calls.
    Origin {
        /// Asked for by.
        made: Origin,
        /// Given back to.
        told: Origin,
    },
    /// It has another size.
    Size {
        /// Bytes that were asked for, or that it has room for.
        asked: usize,
        /// Bytes that are said to have been.
        told: usize,
    },
    /// It was not asked for with this alignment.
    Align {
        /// The alignment that is said to have been asked for.
        told: usize,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Origin { made, told } => write!(f, "Allocated by {made}, given back by {}", told.free()),
            Self::Size { asked, told } => write!(f, "Given back as {told} bytes, allocated as {asked}"),
            Self::Align { told } => {
                write!(f, "Given back with an alignment of {told}, allocated with another")
            }
        }
    }
}

impl Claim {
    /// What is wrong, by what was noted.
    fn against(&self, request: &Asked) -> Option<Mismatch> {
        if self.origin != request.origin {
            return Some(Mismatch::Origin { made: request.origin, told: self.origin });
        }
        if let Some(told) = self.align
            && (!told.is_power_of_two() || told.max(LEAST_ALIGN) != request.align.max(LEAST_ALIGN))
        {
            return Some(Mismatch::Align { told });
        }
        match self.size {
            Some(told) if told > request.size || told != request.size && request.exact => {
                Some(Mismatch::Size { asked: request.size, told })
            }
            _ => None,
        }
    }

    /// What is wrong, by the room of a block at `address` of which no more is known. `whole`: it has no more pages than
    /// its size needs.
    fn against_room(&self, address: usize, room: usize, whole: bool) -> Option<Mismatch> {
        match (self.align, self.size) {
            (Some(told), _) if !told.is_power_of_two() || !address.is_multiple_of(told) => {
                Some(Mismatch::Align { told })
            }
            (_, Some(told)) if told > room || whole && !fills(told, room) => {
                Some(Mismatch::Size { asked: room, told })
            }
            _ => None,
        }
    }
}

/// A block of whole pages for `size` bytes has this room. What it has less than its pages is its tail.
const fn fills(size: usize, room: usize) -> bool {
    let whole = room.next_multiple_of(PAGE_SIZE);
    let size = if size == 0 { 1 } else { size };
    pages_for(size + (whole - room)) << PAGE_SHIFT == whole
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Notes by which calls, and with which alignment, a block was asked for, where that is kept. Another address than a block's
    /// is left alone.
    ///
    /// # Safety
    /// The caller owns the block.
    pub unsafe fn note_origin(&self, ptr: *mut u8, origin: Origin, align: usize) {
        match self.block_at(ptr) {
            Ok(Block::Object(cache)) => {
                // SAFETY: the caller's promise.
                unsafe { C::Engine::note_origin(self.floor(), &cache.engine, ptr, origin, align) };
            }
            Ok(Block::Huge(_)) => self.huge.change(&self.platform, ptr.addr(), |entry| {
                entry.asked = Asked { origin, align, ..entry.asked };
            }),
            _ => {}
        }
    }

    /// Compares what a free says about a block with what is known of it. A mismatch is reported, and is the answer where the report
    /// does not stop the program. What is no block at all is not reported here.
    pub fn check_claim(&self, ptr: *mut u8, claim: &Claim) -> Option<Mismatch> {
        let address = ptr.addr();
        match self.block_at(ptr).ok()? {
            Block::Object(cache) => {
                let slab = self.pages.head(self.pages.at(address)?);
                let request = C::Engine::request_of(self.floor(), &cache.engine, slab, address);
                let wrong = match request {
                    Some(request) => claim.against(&request),
                    None => claim.against_room(address, self.room(cache, ptr), false),
                }?;
                C::Engine::report_object(self.floor(), &cache.engine, slab, address, format_args!("{wrong}"));
                Some(wrong)
            }
            Block::Unclassed(room) | Block::Guarded(room) => {
                self.wrong_block(address, claim.against_room(address, room, false)?)
            }
            Block::Large(bytes) => {
                let wrong = claim.against_room(address, bytes, C::EXACT_LARGE)?;
                self.wrong_block(address, wrong)
            }
            Block::Huge(bytes) => {
                let wrong = match self.mapping_request(address) {
                    Some(request) => claim.against(&request),
                    None => claim.against_room(address, bytes.next_multiple_of(PAGE_SIZE), true),
                }?;
                self.wrong_block(address, wrong)
            }
        }
    }

    /// Reports a mismatch of a block that is no object.
    fn wrong_block(&self, address: usize, wrong: Mismatch) -> Option<Mismatch> {
        let report =
            Reporter { platform: &self.platform, debug: &self.debug, name: "kmalloc", abort: C::ABORT };
        report.bug(format_args!("{wrong}"));
        report.line(format_args!("Block {address:#018x}"));
        report.end();
        Some(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked { origin: Origin::New, align: 64, size: 100, exact: true };

    #[test]
    fn what_is_told_must_be_what_was_asked() {
        let told = |origin, size, align| Claim { origin, size, align }.against(&ASKED);
        assert_eq!(told(Origin::New, None, None), None);
        assert_eq!(told(Origin::New, Some(100), Some(64)), None);
        let origin = Mismatch::Origin { made: Origin::New, told: Origin::Malloc };
        assert_eq!(told(Origin::Malloc, Some(100), None), Some(origin));
        assert_eq!(told(Origin::New, Some(99), None), Some(Mismatch::Size { asked: 100, told: 99 }));
        assert_eq!(told(Origin::New, None, Some(128)), Some(Mismatch::Align { told: 128 }));
        assert_eq!(told(Origin::New, None, Some(63)), Some(Mismatch::Align { told: 63 }));
        // Whoever asked how much there is may use it all, and then nobody knows what was asked for.
        let full = Asked { size: 112, exact: false, ..ASKED };
        let told = |size| Claim { origin: Origin::New, size, align: None }.against(&full);
        assert_eq!((told(Some(100)), told(Some(112))), (None, None));
        assert_eq!(told(Some(113)), Some(Mismatch::Size { asked: 112, told: 113 }));
    }

    #[test]
    fn without_a_note_the_room_decides() {
        let told = |size, align, whole| {
            Claim { origin: Origin::Malloc, size, align }.against_room(0x3000, 8192, whole)
        };
        assert_eq!(told(Some(100), None, false), None);
        assert_eq!(told(Some(8193), None, false), Some(Mismatch::Size { asked: 8192, told: 8193 }));
        assert_eq!(told(Some(5000), Some(4096), true), None);
        assert_eq!(told(Some(4096), None, true), Some(Mismatch::Size { asked: 8192, told: 4096 }));
        assert_eq!(told(None, Some(8192), false), Some(Mismatch::Align { told: 8192 }));
        // The last word of the pages is a tail.
        let told = |size| {
            let claim = Claim { origin: Origin::Malloc, size: Some(size), align: None };
            claim.against_room(0x3000, 8184, true)
        };
        assert_eq!((told(8184), told(4089)), (None, None));
        assert_eq!(told(8185), Some(Mismatch::Size { asked: 8184, told: 8185 }));
        assert_eq!(told(4088), Some(Mismatch::Size { asked: 8184, told: 4088 }));
    }
}
