//! What the loader tells: the PVH start information, read once and copied.

use core::cell::UnsafeCell;
use core::ffi::CStr;

use crate::cpu::serial::println;

/// The mark at the beginning of the start information.
const MAGIC: u32 = 0x336e_c578;
/// Kind of a range of the map that is memory for use.
const RAM: u32 = 1;
/// Ranges of memory that are kept.
pub(crate) const MAX_RANGES: usize = 16;
/// Bytes of the command line that are kept.
const MAX_LINE: usize = 256;

#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    modules_at: u64,
    command_line: u64,
    rsdp: u64,
    map: u64,
    map_entries: u32,
    reserved: u32,
}

#[repr(C)]
struct MapEntry {
    base: u64,
    bytes: u64,
    kind: u32,
    reserved: u32,
}

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// What the loader told.
pub(crate) struct Told {
    ranges: [Range; MAX_RANGES],
    count: usize,
    line: [u8; MAX_LINE],
    line_len: usize,
    /// Where the firmware's tables begin; 0: not told.
    pub(crate) rsdp: usize,
}

impl Told {
    /// Memory for use, lowest first as the loader orders it.
    pub(crate) fn memory(&self) -> &[Range] {
        &self.ranges[..self.count]
    }

    /// The command line.
    pub(crate) fn command_line(&self) -> &str {
        core::str::from_utf8(&self.line[..self.line_len]).unwrap_or_default()
    }

    /// The value of `key=value` on the command line; nothing for the `key` alone.
    pub(crate) fn option(&self, key: &str) -> Option<&str> {
        self.command_line().split_ascii_whitespace().find_map(|word| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            (name == key).then_some(value)
        })
    }

    /// As [`Told::option`], for a number.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.option(key)?.parse().ok()
    }
}

struct Kept(UnsafeCell<Told>);
// SAFETY: written once, by the first CPU, before anybody reads it (`read`).
unsafe impl Sync for Kept {}

static TOLD: Kept = Kept(UnsafeCell::new(Told {
    ranges: [Range { start: 0, end: 0 }; MAX_RANGES],
    count: 0,
    line: [0; MAX_LINE],
    line_len: 0,
    rsdp: 0,
}));

/// Reads the start information at `info`, and prints the map.
///
/// # Panics
/// When there is none there, or it has no map.
///
/// # Safety
/// `info` is what the loader left in ebx; nothing was written to memory outside the kernel's image since. Called once, before there is
/// another CPU.
pub(crate) unsafe fn read(info: usize) -> &'static Told {
    // SAFETY: the caller's promise; the first 4 GiB are mapped.
    let start = unsafe { &*(info as *const StartInfo) };
    assert!(start.magic == MAGIC, "the loader left no start information ({:#x})", start.magic);
    assert!(start.version >= 1 && start.map_entries > 0, "the loader tells no memory map");
    // SAFETY: by the caller's promise nobody else has it yet.
    let told = unsafe { &mut *TOLD.0.get() };
    told.rsdp = start.rsdp as usize;
    for i in 0..start.map_entries as usize {
        // SAFETY: the loader's array has that many entries.
        let entry = unsafe { &*(start.map as *const MapEntry).add(i) };
        let range = Range { start: entry.base as usize, end: (entry.base + entry.bytes) as usize };
        println!("memory {:#014x}-{:#014x} kind {}", range.start, range.end, entry.kind);
        if entry.kind == RAM && told.count < MAX_RANGES {
            told.ranges[told.count] = range;
            told.count += 1;
        }
    }
    if start.command_line != 0 {
        // SAFETY: the loader's command line is a C string.
        let line = unsafe { CStr::from_ptr(start.command_line as *const _) }.to_bytes();
        told.line_len = line.len().min(MAX_LINE);
        told.line[..told.line_len].copy_from_slice(&line[..told.line_len]);
    }
    told
}
