//! One slot: the walk from the object to the end of its metadata.
//!
//! The picture of a slot is in [the parent module](super). What is decided here is only which regions
//! there are; each begins where the one before ends, so that they cannot overlap (I-GEO-4).
//!
//! Pure functions: no memory, no lock, no state.

use super::{KernelVersion, Request, TRACK_SIZE, WORD, round_up};
use crate::flags::SlabFlags;

/// The regions of one slot.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) inuse: usize,
    pub(super) offset: usize,
    pub(super) tracks: Option<usize>,
    pub(super) original_size: Option<usize>,
    pub(super) metadata_end: usize,
    pub(super) red_left_pad: usize,
    pub(super) size: usize,
}

impl Slot {
    /// Walks over the slot from the object to its end. Precondition: the request passed the check of [`compute`](super::compute).
    pub(super) const fn lay_out(
        request: &Request,
        flags: SlabFlags,
        align: usize,
        version: KernelVersion,
    ) -> Self {
        let red_zone = flags.contains(SlabFlags::RED_ZONE);
        let track = flags.contains(SlabFlags::STORE_USER);
        let keep_original_size = track && flags.contains(SlabFlags::KMALLOC);

        let mut end = request.size.next_multiple_of(WORD);
        // The bytes that rounding left are the right red zone. No bytes left: one word more.
        if red_zone && end == request.size {
            end += WORD;
        }
        let inuse = end;

        // Since 6.2 a size class guards the bytes past the size asked, which a free pointer could lie in.
        let guards_object =
            keep_original_size && !matches!(version, KernelVersion::V2_6 | KernelVersion::V6_1);
        let content_matters = flags.contains(SlabFlags::POISON)
            || (red_zone && (request.size < WORD || guards_object))
            || ((request.has_ctor || flags.contains(SlabFlags::TYPESAFE_BY_RCU))
                && request.freeptr_offset.is_none());
        let offset = match request.freeptr_offset {
            _ if content_matters => {
                end += WORD;
                inuse
            }
            Some(chosen) => chosen,
            None => request.size / 2 / WORD * WORD,
        };

        let mut tracks = None;
        let mut original_size = None;
        if track {
            tracks = Some(end);
            end += 2 * TRACK_SIZE;
        }
        if keep_original_size {
            original_size = Some(end);
            end += if matches!(version, KernelVersion::V2_6 | KernelVersion::V6_1) { 4 } else { WORD };
        }
        let metadata_end = end;

        let mut red_left_pad = 0;
        if red_zone {
            // A word at the end tells an underflow of the next object from damage to this one's tracks.
            end += WORD;
            // Before the object: at least a word, and whole alignment units (I-GEO-1).
            red_left_pad = round_up(WORD, align);
            end += red_left_pad;
        }
        Self { inuse, offset, tracks, original_size, metadata_end, red_left_pad, size: round_up(end, align) }
    }
}
