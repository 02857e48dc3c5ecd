//! Which file an address lies in, and where in it.
//!
//! The C library is asked first, by a call without locks (`_dl_find_object`). Where that is not to be had, the kernel's
//! list of mappings tells (`/proc/self/maps`), and the program headers of the file translate.

use core::ffi::CStr;

use super::{PATH_BYTES, elf};
use crate::host::{sys, trace};

/// A place in a file.
pub(super) struct Place<'a> {
    /// The file.
    pub(super) path: &'a CStr,
    /// The address it has there, before the file was loaded anywhere.
    pub(super) offset: usize,
    /// It is the program itself.
    pub(super) is_program: bool,
}

impl<'a> Place<'a> {
    /// The place of an address; `None`: no file is mapped there. `path` is room for its name.
    /// `own` is room for another.
    pub(super) fn find(
        address: usize,
        path: &'a mut [u8; PATH_BYTES],
        own: &mut [u8; PATH_BYTES],
    ) -> Option<Self> {
        if let Some((base, name)) = trace::file_at(address) {
            let is_program = name.is_empty();
            if is_program {
                program(path)?;
            } else {
                let room = path.get_mut(..name.to_bytes_with_nul().len())?;
                room.copy_from_slice(name.to_bytes_with_nul());
            }
            return Some(Self {
                path: CStr::from_bytes_until_nul(path).ok()?,
                offset: address - base,
                is_program,
            });
        }
        let in_file = mapped(address, path)?;
        let path = CStr::from_bytes_until_nul(path).ok()?;
        let offset = elf::address_of(path, in_file)? as usize;
        program(own)?;
        let is_program = CStr::from_bytes_until_nul(own) == Ok(path);
        Some(Self { path, offset, is_program })
    }

    /// The file's name without its directories.
    pub(super) fn file(&self) -> &'a str {
        let bytes = self.path.to_bytes();
        let start = bytes.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        core::str::from_utf8(&bytes[start..]).unwrap_or("?")
    }
}

/// The program's own file.
pub(super) fn program(path: &mut [u8; PATH_BYTES]) -> Option<()> {
    let len = sys::read_link(c"/proc/self/exe", &mut path[..PATH_BYTES - 1]).ok()?;
    path[len] = 0;
    Some(())
}

/// The file mapped at an address, into `path`, and where in it.
fn mapped(address: usize, path: &mut [u8; PATH_BYTES]) -> Option<u64> {
    let fd = sys::open(c"/proc/self/maps", libc::O_RDONLY, 0).ok()?;
    let found = search(fd, address, path);
    sys::close(fd);
    found
}

/// Reads line by line: `start-end rights offset device inode   path`.
fn search(fd: i32, address: usize, line: &mut [u8; PATH_BYTES]) -> Option<u64> {
    let mut chunk = [0; 512];
    let mut len = 0;
    loop {
        let got = sys::read(fd, &mut chunk).ok().filter(|&got| got > 0)?;
        for &byte in &chunk[..got] {
            if byte != b'\n' {
                // What does not fit is no line that can be used.
                if len < PATH_BYTES {
                    line[len] = byte;
                }
                len += 1;
                continue;
            }
            if len < PATH_BYTES
                && let Some((offset, path)) = parse(&line[..len], address)
            {
                line.copy_within(path..len, 0);
                line[len - path] = 0;
                return Some(offset);
            }
            len = 0;
        }
    }
}

/// The offset in the file, and where its path begins in the line, if the line is that of a file at `address`.
fn parse(line: &[u8], address: usize) -> Option<(u64, usize)> {
    let text = core::str::from_utf8(line).ok()?;
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    if !(start..end).contains(&address) {
        return None;
    }
    let offset = u64::from_str_radix(words.nth(1)?, 16).ok()?;
    let path = text.find('/')?;
    Some((offset + (address - start) as u64, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mappings() {
        let line = b"7f00-7f80 r-xp 00001000 08:01 123     /usr/lib/a b.so";
        assert_eq!(parse(line, 0x7f10), Some((0x1010, 38)));
        assert_eq!(&line[38..], b"/usr/lib/a b.so");
        assert_eq!(parse(line, 0x7f80), None);
        assert_eq!(parse(line, 0x7eff), None);
        assert_eq!(parse(b"7f00-7f80 rw-p 00000000 00:00 0 ", 0x7f00), None);
        assert_eq!(parse(b"7f00-7f80 rw-p 00000000 00:00 0   [heap]", 0x7f00), None);
        assert_eq!(parse(b"garbage", 0x7f00), None);
    }

    #[test]
    fn the_program_is_found_in_the_kernels_list() {
        let address = the_program_is_found_in_the_kernels_list as *const () as usize;
        let mut path = [0; PATH_BYTES];
        let in_file = mapped(address, &mut path).expect("a file");
        let path = CStr::from_bytes_until_nul(&path).unwrap();
        assert_eq!(path.to_str().unwrap(), std::env::current_exe().unwrap().to_str().unwrap());
        assert!(elf::address_of(path, in_file).unwrap() > 0);
        assert!(mapped(8, &mut [0; PATH_BYTES]).is_none());
    }
}
