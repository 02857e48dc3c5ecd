//! The store of call stacks: each distinct stack is kept once and named by a number.
//!
//! # Theory
//! A tracked object remembers who allocated and who freed it. Programs have thousands of such stacks and
//! millions of objects, so an object keeps a number of 32 bits and the stack itself lies here, once. The store
//! only grows: a number stays good for the life of the heap.
//!
//! Its memory comes from the page floor, never from the heap it watches. A chunk of pages is filled from its
//! start; a hash table leads to the records.
//!
//! # Invariants
//! - I-STACKS-1: a record is written before a bucket leads to it, and never after.
//! - I-STACKS-2: words below the position are taken, each by one thread.
//!
//! # Never
//! No lock: a signal handler, and a thread that holds any lock of the heap, may look stacks up. Saving one may
//! fetch pages, and must not be done under a lock. Without memory the answer is 0, "no stack".

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::gfp::Gfp;
use crate::page::Pages;
use crate::platform::{PAGE_SIZE, Platform};

/// Frames of a stack that are kept: the nearest ones.
pub const MAX_FRAMES: usize = 16;

/// Names a stack; 0 is none.
pub type Handle = u32;

const CHUNK_ORDER: u32 = 4;
const CHUNK_WORDS: usize = (PAGE_SIZE << CHUNK_ORDER) / 8;
const CHUNKS: usize = 1024;
const BUCKETS: usize = 4096;
const DIRECTORY_ORDER: u32 = 3;

/// What leads to everything. Made at the first save.
struct Directory {
    chunks: [AtomicPtr<u64>; CHUNKS],
    /// The first free word, counted over all chunks.
    position: AtomicU64,
    /// Distinct stacks.
    count: AtomicU32,
    buckets: [AtomicU32; BUCKETS],
}

const _: () = assert!(size_of::<Directory>() <= PAGE_SIZE << DIRECTORY_ORDER);

/// A record: this, then its frames.
#[repr(C)]
struct Record {
    hash: u32,
    next: u32,
    frames: u64,
}

const HEAD_WORDS: usize = size_of::<Record>() / 8;

/// The store of one heap. Empty it takes no memory but this.
pub struct Stacks {
    directory: AtomicPtr<Directory>,
}

impl Stacks {
    /// An empty store.
    #[must_use]
    pub const fn new() -> Self {
        Self { directory: AtomicPtr::new(ptr::null_mut()) }
    }

    fn directory(&self) -> Option<&Directory> {
        // Acquire pairs with the Release of `make_directory`.
        // SAFETY: the directory is written before it is stored, and stays for the life of the heap.
        unsafe { self.directory.load(Ordering::Acquire).as_ref() }
    }

    /// Distinct stacks in the store.
    pub fn len(&self) -> usize {
        self.directory().map_or(0, |directory| directory.count.load(Ordering::Relaxed) as usize)
    }

    /// True when no stack was saved yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of this stack, which is kept now if it was not yet; frames beyond [`MAX_FRAMES`] are dropped.
    /// 0: no frames, or no memory. Not under a lock.
    pub fn save<P: Platform>(&self, platform: &P, pages: &Pages<P>, frames: &[usize]) -> Handle {
        let frames = &frames[..frames.len().min(MAX_FRAMES)];
        if frames.is_empty() {
            return 0;
        }
        let Some(directory) = self.directory().or_else(|| self.make_directory(platform, pages)) else {
            return 0;
        };
        let hash = hash(frames);
        let bucket = &directory.buckets[hash as usize % BUCKETS];
        // Acquire pairs with the Release below: who sees the number sees the record (I-STACKS-1).
        let mut first = bucket.load(Ordering::Acquire);
        if let Some(known) = directory.find(first, hash, frames) {
            return known;
        }
        let Some((handle, place)) = directory.reserve(platform, pages, HEAD_WORDS + frames.len()) else {
            return 0;
        };
        loop {
            // SAFETY: these words were reserved for this record, and nobody knows them yet (I-STACKS-2).
            unsafe {
                place.cast::<Record>().write(Record { hash, next: first, frames: frames.len() as u64 });
                ptr::copy_nonoverlapping(frames.as_ptr(), place.add(HEAD_WORDS).cast(), frames.len());
            }
            match bucket.compare_exchange(first, handle, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => first = now,
            }
            // Another thread may have saved the same stack: its number serves, the words are lost.
            if let Some(known) = directory.find(first, hash, frames) {
                return known;
            }
        }
        directory.count.fetch_add(1, Ordering::Relaxed);
        handle
    }

    /// The frames of a stack, nearest first; none for 0 and for numbers that are none.
    pub fn get(&self, handle: Handle) -> &[usize] {
        self.directory().and_then(|directory| directory.record(handle)).map_or(&[], |(_, frames)| frames)
    }

    fn make_directory<P: Platform>(&self, platform: &P, pages: &Pages<P>) -> Option<&Directory> {
        let run = pages.alloc(platform, Gfp::NOWAIT | Gfp::NOWARN, DIRECTORY_ORDER, None)?;
        // SAFETY: fresh pages of this thread.
        unsafe { run.address().write_bytes(0, PAGE_SIZE << DIRECTORY_ORDER) };
        let made = run.address().cast::<Directory>();
        // Release pairs with the Acquire of `directory`; zero is an empty directory.
        match self.directory.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                pages.into_head(run);
            }
            Err(_) => pages.free(platform, run),
        }
        self.directory()
    }
}

impl Default for Stacks {
    fn default() -> Self {
        Self::new()
    }
}

impl Directory {
    /// Takes so many words in a row. The number is that of the first, plus one.
    fn reserve<P: Platform>(
        &self,
        platform: &P,
        pages: &Pages<P>,
        words: usize,
    ) -> Option<(Handle, *mut u64)> {
        let mut old = self.position.load(Ordering::Relaxed);
        let at = loop {
            let room = CHUNK_WORDS - old as usize % CHUNK_WORDS;
            // A record does not cross chunks.
            let at = if room < words { old as usize + room } else { old as usize };
            if at / CHUNK_WORDS >= CHUNKS {
                return None;
            }
            match self.position.compare_exchange_weak(
                old,
                (at + words) as u64,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => break at,
                Err(now) => old = now,
            }
        };
        let chunk = &self.chunks[at / CHUNK_WORDS];
        let mut base = chunk.load(Ordering::Acquire);
        if base.is_null() {
            let run = pages.alloc(platform, Gfp::NOWAIT | Gfp::NOWARN, CHUNK_ORDER, None)?;
            base = run.address().cast();
            // Release pairs with the Acquire of `record`.
            match chunk.compare_exchange(ptr::null_mut(), base, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    pages.into_head(run);
                }
                Err(other) => {
                    pages.free(platform, run);
                    base = other;
                }
            }
        }
        // SAFETY: the words lie in the chunk.
        Some((at as Handle + 1, unsafe { base.add(at % CHUNK_WORDS) }))
    }

    fn record(&self, handle: Handle) -> Option<(&Record, &[usize])> {
        let at = (handle as usize).checked_sub(1)?;
        // Acquire pairs with the Release of `reserve`.
        let base = self.chunks.get(at / CHUNK_WORDS)?.load(Ordering::Acquire);
        if base.is_null() || at as u64 >= self.position.load(Ordering::Relaxed) {
            return None;
        }
        // SAFETY: numbers that the store gave out name complete records (I-STACKS-1). One that a program
        // damaged still leads into a chunk, and its length is cut to what the chunk has.
        unsafe {
            let place = base.add(at % CHUNK_WORDS);
            let room = (CHUNK_WORDS - at % CHUNK_WORDS).checked_sub(HEAD_WORDS)?;
            let record = &*place.cast::<Record>();
            let len = (record.frames as usize).min(MAX_FRAMES).min(room);
            Some((record, core::slice::from_raw_parts(place.add(HEAD_WORDS).cast(), len)))
        }
    }

    /// The stack in the chain from `first`.
    fn find(&self, first: Handle, hash: u32, frames: &[usize]) -> Option<Handle> {
        let mut handle = first;
        while let Some((record, known)) = self.record(handle) {
            if record.hash == hash && known == frames {
                return Some(handle);
            }
            handle = record.next;
        }
        None
    }
}

/// FNV-1a over the frames' words.
fn hash(frames: &[usize]) -> u32 {
    let mixed = frames
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &frame| (hash ^ frame as u64).wrapping_mul(0x100_0000_01b3));
    (mixed ^ mixed >> 32) as u32
}
