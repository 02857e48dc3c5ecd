//! Tests of the slabinfo text against captures of a running kernel.

use super::*;

fn golden(name: &str) -> String {
    let path = format!("{}/../../golden/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One debug-build text, written by hand from the column widths.
fn statistics_text() -> String {
    format!(
        "{VERSION}{STATISTICS}\n{TITLE}{TITLE_STATISTICS}\n\
         demo                   1      2     48   83    1 : tunables   32   16    8 : slabdata      1      1      0 \
         : globalstat      16     16     1    0    0    0    0    0    0 : cpustat      9      1      0      0\n"
    )
}

#[test]
fn captures_come_back_byte_for_byte() {
    for (name, rows) in
        [("slabinfo_slub.txt", 145), ("slabinfo_slub_small.txt", 92), ("slabinfo_slub_debug.txt", 92)]
    {
        let text = golden(name);
        let parsed = Slabinfo::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(parsed.to_string(), text, "{name}");
        assert_eq!(parsed.rows.len(), rows, "{name}");
        assert!(!parsed.statistics);
    }
}

#[test]
fn a_row_is_read_field_by_field() {
    let text = golden("slabinfo_slub.txt");
    let parsed = Slabinfo::parse(&text).unwrap();
    let row = parsed.rows.iter().find(|row| row.name == "kmalloc-32").unwrap();
    assert_eq!((row.active_objs, row.num_objs, row.objsize), (901, 1664, 32));
    assert_eq!((row.objperslab, row.pagesperslab), (128, 1));
    assert_eq!((row.active_slabs, row.num_slabs, row.sharedavail), (13, 13, 0));
    assert_eq!((row.held(), row.active(), row.waste()), (13 * 4096, 901 * 32, 13 * 4096 - 901 * 32));
    // This name is longer than its column: the row shifts and the numbers stay.
    let long = parsed.rows.iter().find(|row| row.name == "request_sock_subflow_v6").unwrap();
    assert_eq!((long.objsize, long.objperslab, long.pagesperslab), (384, 21, 2));
}

#[test]
fn statistics_of_a_debug_build() {
    let text = statistics_text();
    let parsed = Slabinfo::parse(&text).unwrap();
    assert!(parsed.statistics);
    assert_eq!(parsed.rows[0].tunables, [32, 16, 8]);
    assert_eq!(parsed.rows[0].statistics, Some(([16, 16, 1, 0, 0, 0, 0, 0, 0], [9, 1, 0, 0])));
    assert_eq!(parsed.to_string(), text);
}

#[test]
fn an_empty_table_is_a_table() {
    let text = format!("{VERSION}\n{TITLE}\n");
    assert_eq!(Slabinfo::parse(&text).unwrap().rows, []);
}

#[test]
fn every_prefix_of_a_capture_is_refused_or_complete_rows() {
    let text = golden("slabinfo_slub_small.txt");
    let complete = Slabinfo::parse(&text).unwrap();
    for end in 0..text.len() {
        match Slabinfo::parse(&text[..end]) {
            Ok(part) => {
                assert_eq!(text.as_bytes()[end - 1], b'\n');
                assert_eq!(part.rows, complete.rows[..part.rows.len()]);
            }
            Err(error) => assert!(end == 0 || error.line <= text[..end].split('\n').count()),
        }
    }
}

#[test]
fn defects_are_named_with_their_line() {
    let row = "demo                   1      2     24  170    1 : tunables    0    0    0 : slabdata      1      1      0";
    let good = format!("{VERSION}\n{TITLE}\n{row}\n");
    assert!(Slabinfo::parse(&good).is_ok());
    for (from, to, line, reason) in [
        ("2.1", "2.0", 1, "not a slabinfo text of version 2.1"),
        ("version: 2.1\n", "version: 2.1 (statistics)\n", 2, "not the column titles of version 2.1"),
        ("<limit>", "<limits>", 2, "not the column titles of version 2.1"),
        ("     1      2 ", "     3      2 ", 3, "demo: 3 active of 2 objects"),
        ("     1      1      0\n", "     2      1      0\n", 3, "demo: 2 active of 1 slabs"),
        ("  170 ", " 170 ", 3, "not in the column layout of version 2.1"),
        ("  170 ", "  17x ", 3, "'17x' is not a number"),
        ("  170 ", "   -1 ", 3, "'-1' is not a number"),
        ("tunables    0", "tunable     0", 3, "'tunable' where 'tunables' should be"),
        (" : slabdata      1      1      0", "", 3, "no 'slabdata' section"),
        ("demo     ", "         ", 3, "a row without a name"),
        ("0\n", "0 : cpustat 1\n", 3, "unexpected 'cpustat 1'"),
        ("0\n", "0\n\n", 4, "'' is not a number"),
        ("0\n", "0", 3, "cut off: the last line does not end"),
    ] {
        let at = if from == "0\n" { good.rfind(from) } else { good.find(from) }.unwrap();
        let bad = format!("{}{to}{}", &good[..at], &good[at + from.len()..]);
        assert_ne!(bad, good, "the defect '{from}' -> '{to}' changed nothing");
        let error = Slabinfo::parse(&bad).expect_err(reason);
        assert_eq!((error.line, error.reason.as_str()), (line, reason));
    }
}
