//! Tracks: who allocated an object last, and who freed it last.
//!
//! A track is 32 bytes in the object's own slot, behind the object. It is written under the lock that the
//! object's slab is changed under; its stack is saved before that lock is taken.

use crate::debug::Debug;
use crate::debug::stacks::{Handle, MAX_FRAMES};
use crate::page::Pages;
use crate::platform::Platform;

/// Nanoseconds in the unit that ages are printed in, the tick of a kernel that makes 250 of them in a second.
pub const TICK: u64 = 4_000_000;

/// Which of an object's two tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// That of its allocation.
    Alloc,
    /// That of its free.
    Free,
}

impl Which {
    /// Where the track lies among an object's tracks, in bytes.
    #[must_use]
    pub const fn offset(self) -> usize {
        match self {
            Self::Alloc => 0,
            Self::Free => size_of::<Track>(),
        }
    }

    /// How a report calls it.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Alloc => "Allocated",
            Self::Free => "Freed",
        }
    }
}

/// One track. All zero: nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Track {
    /// The call site; 0 where the platform cannot tell it.
    pub address: usize,
    /// Its stack.
    pub stack: Handle,
    /// The CPU.
    pub cpu: u32,
    /// The thread.
    pub thread: u32,
    /// 1: the track was written.
    pub known: u32,
    /// When, in nanoseconds of the platform's clock.
    pub time: u64,
}

const _: () = assert!(size_of::<Track>() == 32);

impl Track {
    /// The caller of the heap at this moment. Not under a lock.
    pub fn capture<P: Platform>(debug: &Debug, platform: &P, pages: &Pages<P>) -> Self {
        let mut frames = [0; MAX_FRAMES];
        let found = platform.backtrace(&mut frames).min(MAX_FRAMES);
        Self {
            address: frames[..found].first().copied().unwrap_or_default(),
            stack: debug.stacks.save(platform, pages, &frames[..found]),
            cpu: platform.current_cpu() as u32,
            thread: platform.thread(),
            known: 1,
            time: platform.now(),
        }
    }

    /// Ticks since it was written.
    #[must_use]
    pub fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.time) / TICK
    }
}
