//! The reader's half: from bytes to events.
//!
//! Nothing in the bytes is believed: every field is checked, and what is wrong is an [`Error`] with the place where it
//! stands. Whether a block is freed twice is for the reader of the events to notice, who keeps the blocks anyway.

use core::fmt;

use crate::header::{self, Header};
use crate::record::{self, Kind, unzigzag};

/// One record, with its block numbers worked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A block is made.
    Alloc {
        /// Its number: blocks are counted from 0.
        block: u64,
        /// Bytes asked for; may be 0.
        size: u64,
        /// Alignment asked for, a power of two; 1: malloc's own.
        align: u64,
        /// Its bytes are to be 0.
        zeroed: bool,
    },
    /// A block ends.
    Free {
        /// Its number.
        block: u64,
    },
    /// A block ends and another one begins with its content.
    Resize {
        /// The old block.
        old: u64,
        /// The number of the new one.
        block: u64,
        /// Bytes of the new one, not 0.
        size: u64,
    },
    /// The thread that makes the following calls, by its id less the process's.
    Thread(i64),
    /// Nanoseconds from the beginning to here.
    Time(u64),
}

impl Event {
    /// True for what the program asked; false for the marks between.
    #[must_use]
    pub const fn is_call(&self) -> bool {
        !matches!(self, Self::Thread(_) | Self::Time(_))
    }
}

/// Why a file is no trace, or not a whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It is something else.
    NotATrace,
    /// It is of another version.
    Version(u32),
    /// The header is not whole, or impossible.
    Header,
    /// It ends before the records do that its header tells of.
    Cut {
        /// Bytes of records there should be.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A record is none.
    Record {
        /// Where it stands in the file.
        offset: u64,
        /// What is wrong.
        problem: Problem,
    },
    /// The header tells of another number of calls.
    Count {
        /// What the header says.
        expected: u64,
        /// What there are.
        found: u64,
    },
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No record begins with this byte.
    Kind(u8),
    /// The records end inside it.
    Short,
    /// A field is larger than it can be.
    Large,
    /// It speaks of a block that was not made yet.
    Block,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotATrace => f.write_str("not a trace"),
            Self::Version(version) => {
                write!(f, "a trace of version {version}; this program reads version {}", header::VERSION)
            }
            Self::Header => f.write_str("the trace's header is damaged or cut off"),
            Self::Cut { expected, found } => {
                write!(f, "the trace is cut off: {found} of {expected} bytes of records are there")
            }
            Self::Record { offset, problem } => {
                write!(f, "damaged at byte {offset}: ")?;
                match problem {
                    Problem::Kind(byte) => write!(f, "no record begins with {byte:#04x}"),
                    Problem::Short => f.write_str("the records end inside this one"),
                    Problem::Large => f.write_str("a number is too large"),
                    Problem::Block => f.write_str("it names a block that was not made yet"),
                }
            }
            Self::Count { expected, found } => {
                write!(f, "damaged: its header tells of {expected} calls, and there are {found}")
            }
        }
    }
}

impl core::error::Error for Error {}

/// A trace in memory.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    header: Header,
    first: usize,
    records: &'a [u8],
}

impl<'a> Trace<'a> {
    /// Looks at the header of a trace. Bytes beyond the records are ignored: a writer that was killed leaves some.
    ///
    /// # Errors
    /// It is no trace, or not all of it is there.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let (header, first) = Header::from_bytes(bytes).map_err(|bad| match bad {
            header::Bad::Magic => Error::NotATrace,
            header::Bad::Version(version) => Error::Version(version),
            header::Bad::Short | header::Bad::Offset(_) => Error::Header,
        })?;
        let rest = &bytes[first..];
        let records = usize::try_from(header.used).ok().and_then(|used| rest.get(..used));
        let records = records.ok_or(Error::Cut { expected: header.used, found: rest.len() as u64 })?;
        Ok(Self { header, first, records })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The records, in order. Ends after the first error.
    #[must_use]
    pub fn events(&self) -> Events<'a> {
        Events {
            rest: self.records,
            offset: self.first as u64,
            expected: self.header.events,
            calls: 0,
            next: 0,
            time: 0,
            done: false,
        }
    }
}

/// The events of a trace.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    rest: &'a [u8],
    offset: u64,
    expected: u64,
    calls: u64,
    next: u64,
    time: u64,
    done: bool,
}

impl Events<'_> {
    fn event(&mut self) -> Result<Event, Problem> {
        let read = record::read(self.rest).map_err(|bad| match bad {
            record::Bad::Short => Problem::Short,
            record::Bad::Kind(byte) => Problem::Kind(byte),
            record::Bad::Large => Problem::Large,
        })?;
        let sized = |size: u64| if size <= isize::MAX as u64 { Ok(size) } else { Err(Problem::Large) };
        let next = self.next;
        let aged = |age: u64| next.checked_sub(age).and_then(|n| n.checked_sub(1)).ok_or(Problem::Block);
        let event = match read.kind {
            Kind::Alloc | Kind::Zeroed => Event::Alloc {
                block: next,
                size: sized(read.first)?,
                align: 1,
                zeroed: read.kind == Kind::Zeroed,
            },
            Kind::Aligned => {
                let align = 1u64.checked_shl(read.first.min(64) as u32).ok_or(Problem::Large)?;
                Event::Alloc { block: next, size: sized(read.second)?, align: sized(align)?, zeroed: false }
            }
            Kind::Free => Event::Free { block: aged(read.first)? },
            Kind::Resize => Event::Resize { old: aged(read.first)?, block: next, size: sized(read.second)? },
            Kind::Thread => Event::Thread(unzigzag(read.first)),
            Kind::Time => {
                self.time = self.time.checked_add(read.first).ok_or(Problem::Large)?;
                Event::Time(self.time)
            }
        };
        if matches!(event, Event::Alloc { .. } | Event::Resize { .. }) {
            self.next += 1;
        }
        self.calls += u64::from(event.is_call());
        self.rest = &self.rest[read.len..];
        self.offset += read.len as u64;
        Ok(event)
    }
}

impl Iterator for Events<'_> {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        if self.rest.is_empty() {
            self.done = true;
            let Self { expected, calls: found, .. } = *self;
            return (expected != found).then_some(Err(Error::Count { expected, found }));
        }
        let event = self.event().map_err(|problem| Error::Record { offset: self.offset, problem });
        self.done = event.is_err();
        Some(event)
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
