//! The first 256 bytes of a trace: whose it is, and how far it goes.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | [`MAGIC`] |
//! | 8 | 4 | [`VERSION`] |
//! | 12 | 4 | offset of the first record |
//! | 16 | 4 | process id |
//! | 20 | 4 | its parent's |
//! | 24 | 4 | page size, bytes |
//! | 28 | 4 | flags: [`ENDED`], [`STOPPED`] |
//! | 32 | 8 | start, nanoseconds since 1970 |
//! | 40 | 8 | events: records that are calls |
//! | 48 | 8 | bytes of records |
//! | 56 | 8 | calls that could not be recorded |
//! | 64 | 8 | blocks freed or resized that the trace does not know |
//! | 72 | 8 | requests that failed |
//! | 80 | 16 | the program's name, filled up with zeroes |

/// How a trace begins. The first byte is no text, the last is changed by transfers that take it for text.
pub const MAGIC: [u8; 8] = *b"\x8bkmemtr\n";
/// Version of the format.
pub const VERSION: u32 = 1;
/// Bytes of a header.
pub const BYTES: usize = 256;

/// Flag: the process came to its end, and the trace with it. Without it something cut it off: a signal, `exec`, or the
/// process still runs.
pub const ENDED: u32 = 1;
/// Flag: the writer gave up before that: no room on the disk, a limit, no memory.
pub const STOPPED: u32 = 2;

/// Offset of the flags.
pub const AT_FLAGS: usize = 28;
/// Offset of the number of events.
pub const AT_EVENTS: usize = 40;
/// Offset of the bytes of records.
pub const AT_USED: usize = 48;
/// Offset of the calls that could not be recorded.
pub const AT_LOST: usize = 56;
/// Offset of the blocks that the trace does not know.
pub const AT_UNKNOWN: usize = 64;
/// Offset of the requests that failed.
pub const AT_FAILED: usize = 72;

/// A header's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The process.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// Bytes of a page.
    pub page_size: u32,
    /// [`ENDED`], [`STOPPED`].
    pub flags: u32,
    /// When recording began, in nanoseconds since 1970.
    pub start: u64,
    /// Records that are calls.
    pub events: u64,
    /// Bytes of records.
    pub used: u64,
    /// Calls that could not be recorded: a signal handler made them inside another one's record.
    pub lost: u64,
    /// Blocks freed or resized that were made before the trace began.
    pub unknown: u64,
    /// Requests for which there was no memory. They are not recorded.
    pub failed: u64,
    /// The program's name, as the kernel has it.
    pub name: [u8; 16],
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// They begin otherwise.
    Magic,
    /// Another version's.
    Version(u32),
    /// They end too early.
    Short,
    /// The records begin inside the header.
    Offset(u32),
}

impl Header {
    /// The header as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        let words = [VERSION, BYTES as u32, self.pid, self.parent, self.page_size, self.flags];
        for (place, word) in bytes[8..32].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let words = [self.start, self.events, self.used, self.lost, self.unknown, self.failed];
        for (place, word) in bytes[32..80].chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes[80..96].copy_from_slice(&self.name);
        bytes
    }

    /// Reads a header; also says at which offset the first record stands.
    ///
    /// # Errors
    /// There is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<(Self, usize), Bad> {
        let magic = bytes.get(..8).unwrap_or(bytes);
        if magic != &MAGIC[..magic.len()] || magic.is_empty() {
            return Err(Bad::Magic);
        }
        let word = |at: usize| -> Result<u32, Bad> {
            let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).ok_or(Bad::Short)?;
            Ok(u32::from_le_bytes(four))
        };
        let long =
            |at: usize| -> Result<u64, Bad> { Ok(u64::from(word(at)?) | u64::from(word(at + 4)?) << 32) };
        match word(8)? {
            VERSION => {}
            other => return Err(Bad::Version(other)),
        }
        let first = word(12)?;
        if (first as usize) < BYTES {
            return Err(Bad::Offset(first));
        }
        let name = bytes.get(80..96).and_then(|name| name.try_into().ok()).ok_or(Bad::Short)?;
        if bytes.len() < first as usize {
            return Err(Bad::Short);
        }
        let header = Self {
            pid: word(16)?,
            parent: word(20)?,
            page_size: word(24)?,
            flags: word(AT_FLAGS)?,
            start: long(32)?,
            events: long(AT_EVENTS)?,
            used: long(AT_USED)?,
            lost: long(AT_LOST)?,
            unknown: long(AT_UNKNOWN)?,
            failed: long(AT_FAILED)?,
            name,
        };
        Ok((header, first as usize))
    }

    /// The program's name as text; `?` where it is none.
    #[must_use]
    pub fn name(&self) -> &str {
        let len = self.name.iter().position(|&byte| byte == 0).unwrap_or(self.name.len());
        match core::str::from_utf8(&self.name[..len]) {
            Ok(name) if !name.is_empty() && !name.chars().any(char::is_control) => name,
            _ => "?",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header {
            pid: 7,
            parent: 1,
            page_size: 4096,
            flags: ENDED,
            start: 1 << 60,
            events: 5,
            used: 1 << 33,
            lost: 2,
            unknown: 3,
            failed: 4,
            name: *b"python3\0\0\0\0\0\0\0\0\0",
        }
    }

    #[test]
    fn a_header_comes_back() {
        let bytes = sample().to_bytes();
        assert_eq!(Header::from_bytes(&bytes), Ok((sample(), BYTES)));
        assert_eq!(sample().name(), "python3");
        let at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let fields = [at(AT_EVENTS), at(AT_USED), at(AT_LOST), at(AT_UNKNOWN), at(AT_FAILED)];
        assert_eq!(fields, [5, 1 << 33, 2, 3, 4]);
        assert_eq!(bytes[AT_FLAGS], 1);
    }

    #[test]
    fn every_other_beginning_is_refused() {
        let good = sample().to_bytes();
        for end in 1..BYTES {
            assert_eq!(Header::from_bytes(&good[..end]), Err(Bad::Short), "{end} bytes");
        }
        assert_eq!(Header::from_bytes(&[]), Err(Bad::Magic));
        assert_eq!(Header::from_bytes(b"some text that is long enough to be a header"), Err(Bad::Magic));
        let mut newer = good;
        newer[8] = 2;
        assert_eq!(Header::from_bytes(&newer), Err(Bad::Version(2)));
        let mut inside = good;
        inside[12..16].copy_from_slice(&16u32.to_le_bytes());
        assert_eq!(Header::from_bytes(&inside), Err(Bad::Offset(16)));
    }

    #[test]
    fn names_that_are_no_text() {
        assert_eq!(Header::default().name(), "?");
        assert_eq!(Header { name: [0xff; 16], ..sample() }.name(), "?");
        assert_eq!(Header { name: *b"sixteen-letters!", ..sample() }.name(), "sixteen-letters!");
    }
}
