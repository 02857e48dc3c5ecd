//! Names from a file's own symbol table, read piece by piece.
//!
//! The file is read, not mapped: one that somebody shortens meanwhile must not end the program. What is read is believed
//! only as far as it can be checked; a broken file has no names.

use core::ffi::{CStr, c_int};
use core::mem::MaybeUninit;

use super::PATH_BYTES;
use crate::host::sys;

/// The longest name that is shown.
const NAME_BYTES: usize = 256;

const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;
const PT_LOAD: u32 = 1;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;

/// Types of which every pattern of bytes is a value.
///
/// # Safety
/// Only integers inside, no padding that matters.
unsafe trait Plain: Copy {}

macro_rules! plain {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        #[repr(C)]
        #[allow(dead_code)] // the layout is the format's
        struct $name { $($field: $type),* }
        // SAFETY: integers only.
        unsafe impl Plain for $name {}
    };
}

plain!(
    /// The file header.
    Header {
        ident: [u8; 16],
        kind: u16,
        machine: u16,
        version: u32,
        entry: u64,
        segments: u64,
        sections: u64,
        flags: u32,
        header_size: u16,
        segment_size: u16,
        segment_count: u16,
        section_size: u16,
        section_count: u16,
        names: u16,
    }
);
plain!(
    /// A program header.
    Segment {
        kind: u32,
        flags: u32,
        offset: u64,
        address: u64,
        physical: u64,
        file_size: u64,
        memory_size: u64,
        align: u64,
    }
);
plain!(
    /// A section header.
    Section {
        name: u32,
        kind: u32,
        flags: u64,
        address: u64,
        offset: u64,
        size: u64,
        link: u32,
        info: u32,
        align: u64,
        entry_size: u64,
    }
);
plain!(
    /// An entry of a symbol table.
    Entry { name: u32, info: u8, other: u8, section: u16, value: u64, size: u64 }
);

/// An open ELF file of this machine's word size and byte order.
struct Elf {
    fd: c_int,
    header: Header,
}

impl Drop for Elf {
    fn drop(&mut self) {
        sys::close(self.fd);
    }
}

impl Elf {
    fn open(path: &CStr) -> Option<Self> {
        let fd = sys::open(path, libc::O_RDONLY, 0).ok()?;
        let Some(header) = value::<Header>(fd, 0) else {
            sys::close(fd);
            return None;
        };
        let elf = Self { fd, header };
        let order = if cfg!(target_endian = "little") { 1 } else { 2 };
        let known = header.ident.starts_with(b"\x7fELF") && header.ident[4] == 2 && header.ident[5] == order;
        let sizes = usize::from(header.section_size) == size_of::<Section>()
            && usize::from(header.segment_size) == size_of::<Segment>();
        (known && sizes).then_some(elf)
    }

    fn section(&self, index: u32) -> Option<Section> {
        if index >= u32::from(self.header.section_count) {
            return None;
        }
        let at = u64::from(index).checked_mul(size_of::<Section>() as u64)?;
        value(self.fd, self.header.sections.checked_add(at)?)
    }

    fn section_of_kind(&self, kind: u32) -> Option<Section> {
        let mut sections = (0..u32::from(self.header.section_count)).map_while(|index| self.section(index));
        sections.find(|section| section.kind == kind)
    }
}

/// A value that lies in a file at `offset`.
fn value<T: Plain>(fd: c_int, offset: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: bytes of the value's own memory, which are only written.
    let bytes = unsafe { core::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
    if sys::read_at(fd, bytes, offset) != Ok(size_of::<T>()) {
        return None;
    }
    // SAFETY: all bytes were read, and any are a value (`Plain`).
    Some(unsafe { value.assume_init() })
}

/// The address that the byte at `offset` of a file has before the file is loaded anywhere.
pub(super) fn address_of(path: &CStr, offset: u64) -> Option<u64> {
    let elf = Elf::open(path)?;
    (0..elf.header.segment_count).find_map(|index| {
        let at = elf.header.segments.checked_add(u64::from(index) * size_of::<Segment>() as u64)?;
        let segment: Segment = value(elf.fd, at)?;
        let end = segment.offset.checked_add(segment.file_size)?;
        let inside = segment.kind == PT_LOAD && (segment.offset..end).contains(&offset);
        inside.then(|| segment.address.wrapping_add(offset - segment.offset))
    })
}

/// A function.
pub(super) struct Symbol<'a> {
    /// What the linker calls it.
    pub(super) name: &'a str,
    /// Its address in the file.
    pub(super) start: u64,
    /// Its bytes.
    pub(super) size: u64,
}

/// The function that covers an address of a file. `room` is for the table, piece by piece, and then for the name.
pub(super) fn symbol<'a>(path: &CStr, address: u64, room: &'a mut [u8; PATH_BYTES]) -> Option<Symbol<'a>> {
    let elf = Elf::open(path)?;
    let mut best = None;
    // The second table is a part of the first, and all that stripping leaves.
    for kind in [SHT_SYMTAB, SHT_DYNSYM] {
        let Some(table) = elf.section_of_kind(kind) else { continue };
        best = search(&elf, &table, address, room).map(|entry| (entry, table));
        if best.is_some() {
            break;
        }
    }
    let (entry, table) = best?;
    let strings = elf.section(table.link)?;
    let at = strings.offset.checked_add(entry.name.into())?;
    let got = sys::read_at(elf.fd, &mut room[..NAME_BYTES], at).ok()?;
    let len = room[..got].iter().position(|&byte| byte == 0).unwrap_or(got);
    let name = core::str::from_utf8(&room[..len]).ok().filter(|name| !name.is_empty())?;
    Some(Symbol { name, start: entry.value, size: entry.size })
}

/// The function of a table that covers an address: the one that begins last.
fn search(elf: &Elf, table: &Section, address: u64, room: &mut [u8; PATH_BYTES]) -> Option<Entry> {
    const SIZE: usize = size_of::<Entry>();
    let piece = PATH_BYTES / SIZE * SIZE;
    let mut best: Option<Entry> = None;
    let mut done = 0;
    while done < table.size {
        let wanted = piece.min((table.size - done) as usize);
        let at = table.offset.checked_add(done)?;
        let got = sys::read_at(elf.fd, &mut room[..wanted], at).ok()?;
        if got < SIZE {
            break;
        }
        for bytes in room[..got].chunks_exact(SIZE) {
            // SAFETY: as many bytes as an entry has, and any are one (`Plain`).
            let entry = unsafe { bytes.as_ptr().cast::<Entry>().read_unaligned() };
            let function = matches!(entry.info & 0xf, STT_FUNC | STT_GNU_IFUNC);
            let covers = entry.value <= address && address - entry.value < entry.size.max(1);
            let later = best.is_none_or(|best| best.value < entry.value);
            if function && entry.section != 0 && covers && later {
                best = Some(entry);
            }
        }
        done += (got / SIZE * SIZE) as u64;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_this_program_have_names() {
        let exe =
            std::ffi::CString::new(std::env::current_exe().unwrap().into_os_string().into_encoded_bytes());
        let exe = exe.unwrap();
        let mut room = [0; PATH_BYTES];
        let mut path = [0; PATH_BYTES];
        let here = functions_of_this_program_have_names as *const () as usize;
        let place = super::super::place::Place::find(here, &mut path, &mut [0; PATH_BYTES]).unwrap();
        assert_eq!((place.path, place.is_program), (exe.as_c_str(), true));
        let symbol = symbol(&exe, place.offset as u64, &mut room).unwrap();
        assert!(symbol.name.contains("functions_of_this_program_have_names"), "{}", symbol.name);
        assert_eq!(symbol.start, place.offset as u64);
        assert!(symbol.size > 0);
    }

    #[test]
    fn what_is_no_such_file_has_no_names() {
        let mut room = [0; PATH_BYTES];
        for path in [c"/nonexistent", c"/proc/self/maps", c"/", c"/dev/null", c""] {
            assert!(symbol(path, 0x1000, &mut room).is_none(), "{path:?}");
            assert!(address_of(path, 0x1000).is_none(), "{path:?}");
        }
    }
}
