//! `kmem info`: the slab table, and what procps makes of it.

mod support;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use support::{Scratch, kmem, said, slabtop};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden")).join(name)
}

const CAPTURES: &[&str] = &["slabinfo_slub", "slabinfo_slub_small", "slabinfo_slub_debug"];

#[test]
fn captures_are_printed_byte_for_byte() {
    for name in CAPTURES {
        let path = golden(&format!("{name}.txt"));
        let text = fs::read_to_string(&path).unwrap();
        let from_file = said(kmem().arg("info").arg(&path));
        assert_eq!((from_file.status, from_file.out, from_file.err.as_str()), (Some(0), text.clone(), ""));

        let mut child =
            kmem().args(["info", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap(), text);
    }
}

#[test]
fn rows_can_be_sorted_and_stay_rows() {
    let path = golden("slabinfo_slub.txt");
    let plain = said(kmem().arg("info").arg(&path)).out;
    let sorted = said(kmem().args(["info", "--sort", "held"]).arg(&path)).out;
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&sorted)[..2], lines(&plain)[..2]);
    assert!(lines(&sorted)[2].starts_with("inode_cache "), "the largest cache in the captured slabtop");
    let (mut left, mut right) = (lines(&sorted), lines(&plain));
    left.sort();
    right.sort();
    assert_eq!(left, right);
    let reversed = said(kmem().args(["info", "--sort", "held", "--reverse"]).arg(&path)).out;
    assert!(reversed.lines().last().unwrap().starts_with("inode_cache "));
}

#[test]
fn what_is_no_slab_table_is_refused_with_its_line() {
    let scratch = Scratch::new("info");
    let text = fs::read_to_string(golden("slabinfo_slub_small.txt")).unwrap();
    let cut = scratch.file("cut", &text[..text.len() - 7]);
    let lines = text.lines().count();
    let said_cut = said(kmem().arg("info").arg(&cut));
    assert_eq!((said_cut.status, said_cut.out.as_str()), (Some(1), ""));
    assert_eq!(
        said_cut.err,
        format!("kmem: {}: line {lines}: cut off: the last line does not end\n", cut.display())
    );
    let missing = said(kmem().args(["info", "/no/such/file"]));
    assert_eq!(missing.err, "kmem: /no/such/file: No such file or directory (os error 2)\n");
    assert_eq!(missing.status, Some(1));
    let key = said(kmem().args(["info", "--sort", "colour"]));
    assert_eq!((key.status, key.err.lines().count()), (Some(1), 1));
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let kmem_path = env!("CARGO_BIN_EXE_kmem");
    let line = format!("{kmem_path} info {} | head -n 1", golden("slabinfo_slub.txt").display());
    let said = said(Command::new("sh").args(["-c", &line]));
    assert_eq!((said.out.as_str(), said.err.as_str()), ("slabinfo - version: 2.1\n", ""));
}

#[test]
fn slabtop_reads_what_a_run_leaves() {
    let scratch = Scratch::new("slabtop");
    let table = scratch.path("table");
    let run = said(kmem().args(["run", "--slabinfo"]).arg(&table).args(["--", "true"]));
    assert_eq!((run.status, run.err.as_str()), (Some(0), ""));
    let Some(text) = slabtop(&table) else { return };
    // kmalloc-1k 16 of 16, kmalloc-64 130 of 192.
    assert!(text.contains("Active / Total Objects (% used)    : 146 / 208 (70.2%)"), "{text}");
    assert!(text.contains("Active / Total Slabs (% used)      : 4 / 4 (100.0%)"), "{text}");
    assert!(text.contains("Active / Total Caches (% used)     : 2 / 2 (100.0%)"), "{text}");
    let human = said(kmem().args(["info", "--human"]).arg(&table)).out;
    let total: Vec<&str> = human.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(total, ["2", "of", "2", "caches", "146", "208", "70.2", "4", "28.0K", "3.9K"]);
}

#[test]
fn slabtop_says_the_same_of_our_text_as_of_the_kernels() {
    let scratch = Scratch::new("slabtop");
    for name in CAPTURES {
        let ours = said(kmem().arg("info").arg(golden(&format!("{name}.txt")))).out;
        let Some(text) = slabtop(&scratch.file(name, &ours)) else { return };
        let expected = fs::read_to_string(golden(&format!("slabtop_{name}.expected.txt"))).unwrap();
        assert_eq!(text.trim(), expected.trim(), "{name}");
    }
}
