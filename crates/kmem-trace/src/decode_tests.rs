//! Tests of writing and reading together.

use super::*;
use crate::encode::Encoder;
use crate::header::BYTES;

/// A trace of these records, which hold `events` calls.
fn file(records: &[u8], events: u64) -> Vec<u8> {
    let header = Header { pid: 1, page_size: 4096, events, used: records.len() as u64, ..Header::default() };
    let mut file = header.to_bytes().to_vec();
    file.extend_from_slice(records);
    file
}

/// Records of every kind, and the events they stand for.
fn sample() -> (Vec<u8>, Vec<Event>) {
    let mut encoder = Encoder::new();
    let mut records = Vec::new();
    let mut put = |bytes: record::Bytes| records.extend_from_slice(bytes.as_slice());
    assert!(encoder.thread(0).is_none());
    put(encoder.alloc(100));
    put(encoder.zeroed(0));
    put(encoder.thread(3).unwrap());
    assert!(encoder.thread(3).is_none());
    put(encoder.aligned(12, 1 << 40));
    put(encoder.time(5_000));
    put(encoder.resize(0, 70_000));
    put(encoder.free(1));
    put(encoder.time(4_000)); // a clock that goes back
    put(encoder.time(6_000));
    put(encoder.thread(-2).unwrap());
    put(encoder.free(3));
    assert_eq!(encoder.next_block(), 4);
    let events = vec![
        Event::Alloc { block: 0, size: 100, align: 1, zeroed: false },
        Event::Alloc { block: 1, size: 0, align: 1, zeroed: true },
        Event::Thread(3),
        Event::Alloc { block: 2, size: 1 << 40, align: 4096, zeroed: false },
        Event::Time(5_000),
        Event::Resize { old: 0, block: 3, size: 70_000 },
        Event::Free { block: 1 },
        Event::Time(5_000),
        Event::Time(6_000),
        Event::Thread(-2),
        Event::Free { block: 3 },
    ];
    (records, events)
}

fn read(bytes: &[u8]) -> Result<Vec<Event>, Error> {
    Trace::parse(bytes)?.events().collect()
}

#[test]
fn what_was_written_is_read() {
    let (records, events) = sample();
    let calls = events.iter().filter(|event| event.is_call()).count() as u64;
    assert_eq!(calls, 6);
    let mut bytes = file(&records, calls);
    assert_eq!(read(&bytes), Ok(events.clone()));
    // What a killed writer leaves behind its records.
    bytes.resize(bytes.len() + 1000, 0);
    assert_eq!(read(&bytes), Ok(events));
}

#[test]
fn a_trace_cut_anywhere_says_so() {
    let (records, _) = sample();
    let bytes = file(&records, 6);
    for end in 0..bytes.len() {
        let error = read(&bytes[..end]).unwrap_err();
        match end {
            0 => assert_eq!(error, Error::NotATrace),
            1..BYTES => assert_eq!(error, Error::Header, "{end} bytes"),
            _ => {
                let found = (end - BYTES) as u64;
                assert_eq!(error, Error::Cut { expected: records.len() as u64, found });
                assert!(error.to_string().starts_with("the trace is cut off: "));
            }
        }
    }
}

#[test]
fn damage_is_found_where_it_stands() {
    let offset = BYTES as u64;
    for (records, calls, expected) in [
        (&[0x00][..], 1, Error::Record { offset, problem: Problem::Kind(0) }),
        (&[0x38], 1, Error::Record { offset, problem: Problem::Short }),
        (&[0x80], 1, Error::Record { offset, problem: Problem::Block }),
        (&[0x21, 0x81], 2, Error::Record { offset: offset + 1, problem: Problem::Block }),
        (&[0x7a, 64, 0, 0, 8], 1, Error::Record { offset, problem: Problem::Large }),
        (&[0x3f, 0, 0, 0, 0, 0, 0, 0, 0x80], 1, Error::Record { offset, problem: Problem::Large }),
        (&[0x21], 2, Error::Count { expected: 2, found: 1 }),
        (&[0x21, 0x80], 1, Error::Count { expected: 1, found: 2 }),
    ] {
        assert_eq!(read(&file(records, calls)), Err(expected), "{records:x?}");
        assert!(expected.to_string().starts_with("damaged"), "{expected}");
    }
}

#[test]
fn no_bytes_make_the_reader_panic() {
    // A small generator, seeded by a constant: the same bytes in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let mut whole = 0;
    for len in 0..400 {
        let records: Vec<u8> = (0..len).map(|_| byte()).collect();
        match read(&file(&records, 0)) {
            Ok(events) => whole += events.len(),
            Err(Error::Record { offset, .. }) => assert!((offset as usize) < BYTES + len),
            Err(error) => assert!(matches!(error, Error::Count { .. }), "{error}"),
        }
    }
    assert_eq!(whole, 0, "only the empty trace is whole");
}

#[test]
fn an_iterator_that_failed_has_ended() {
    let bytes = file(&[0x21, 0, 0x21], 2);
    let mut events = Trace::parse(&bytes).unwrap().events();
    assert!(events.next().unwrap().is_ok());
    assert!(events.next().unwrap().is_err());
    assert!(events.next().is_none());
}
