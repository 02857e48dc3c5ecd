//! `kmem lab`: what a student reads.

mod support;

use std::io::Write;
use std::process::Stdio;

use support::{kmem, said};

fn lab(arguments: &[&str]) -> String {
    let said = said(kmem().arg("lab").args(arguments));
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""), "{arguments:?}");
    said.out
}

#[test]
fn the_messages_of_the_classic_lab_come_in_their_order() {
    let text = lab(&[]);
    let mut rest = text.as_str();
    for expected in [
        "[1] kmem_cache_create(\"mycache\", 20, 8, 0, NULL)\nkmem_cache_create ok\n",
        "A slab is 1 page and holds 170 objects, 24 bytes from one to the next; 16 bytes at its end are left over.",
        "kmem_cache_alloc ok: A0 at 0x",
        "10 of 10 objects read back as written.",
        "A0 freed on CPU 1: it is now on CPU 1's stack.",
        "A9 freed on CPU 0: it is now on CPU 0's stack.",
        "kmem_cache_alloc ok: A9 at 0x",
        "the object freed last is the first to be used again",
        "partial slabs     A (9 of 170 in use)",
        "slabinfo - version: 2.1",
        "mycache                9    170     24  170    1 : tunables    0    0    0 : slabdata      1      1      0",
        "destroyed my_cache",
    ] {
        let at = rest.find(expected).unwrap_or_else(|| panic!("'{expected}' is not in\n{rest}\nof\n{text}"));
        rest = &rest[at + expected.len()..];
    }
    assert!(!text.contains('\x1b'));
}

#[test]
fn the_free_pointer_that_is_shown_leads_where_the_list_says() {
    let text = lab(&["--ascii"]);
    let list = text.lines().rfind(|line| line.starts_with("  free in slab A")).unwrap();
    let objects: Vec<&str> = list.trim_start_matches("  free in slab A").trim().split(" > ").collect();
    let shown = text.lines().find(|line| line.contains("The list runs through")).unwrap();
    assert!(shown.contains(&format!("{} holds, at byte 8, 0x", objects[0])), "{shown}");
    assert!(shown.ends_with(&format!(": the address of {}.", objects[1])), "{shown}");
}

#[test]
fn hwcache_align_spreads_the_objects() {
    let text = lab(&["--flags", "hwcache-align"]);
    assert!(text.contains("kmem_cache_create(\"mycache\", 20, 8, SLAB_HWCACHE_ALIGN, NULL)"));
    assert!(text.contains("holds 128 objects, 32 bytes from one to the next"), "{text}");
}

#[test]
fn a_remote_free_goes_to_the_slab() {
    let text = lab(&["--cpus", "4", "--nodes", "2", "--count", "400"]);
    let line = text.lines().find(|line| line.contains("freed on CPU 3")).unwrap();
    assert_eq!(
        line,
        "  A0 freed on CPU 3: it is now on its slab's own list, since CPU 3 is on node 1 and the slab on node 0."
    );
}

#[test]
fn merging_is_shown() {
    let text = lab(&["--merge"]);
    assert!(text.contains("elder fits as well: 'mycache' is one more name for it"), "{text}");
    assert!(text.contains("destroyed my_cache: elder goes on under its other names"));
}

#[test]
fn exhaustion_is_an_answer() {
    let text = lab(&["--count", "5000", "--size", "8000"]);
    assert!(text.contains("kmem_cache_alloc failed: the machine has no memory after "), "{text}");
    assert!(text.ends_with("destroyed my_cache\n"));
}

#[test]
fn one_object_and_one_cpu_are_enough() {
    let text = lab(&["--count", "1", "--cpus", "1"]);
    assert!(text.contains("A0 freed on CPU 0: it is now on CPU 0's stack."));
    assert!(text.ends_with("destroyed my_cache\n"));
}

#[test]
fn ascii_is_ascii() {
    assert!(lab(&["--ascii"]).is_ascii());
    assert!(!lab(&[]).is_ascii());
}

#[test]
fn the_student_sets_the_pace() {
    let mut command = kmem();
    command.args(["lab", "--step"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"\n\n").unwrap();
    let output = child.wait_with_output().unwrap();
    // Two keys, then the end of the input: the rest runs through.
    assert_eq!(String::from_utf8_lossy(&output.stderr).matches("[Enter]").count(), 3);
    // The same text as without waiting, but for the addresses.
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().count(), lab(&[]).lines().count());
}

#[test]
fn impossible_wishes_are_one_line() {
    for (arguments, message) in [
        (&["--size", "0"][..], "kmem: no cache 'mycache': object size is zero\n"),
        (&["--align", "3"], "kmem: no cache 'mycache': alignment is not a power of two\n"),
        (&["--nodes", "3"], "kmem: 3 nodes need as many CPUs: --cpus 3\n"),
        (&["--name", ""], "kmem: no cache '': the name is empty or too long\n"),
        (
            &["--flags", "shiny"],
            "kmem: invalid value 'shiny' for '--flags <FLAGS>' [possible values: hwcache-align, typesafe-by-rcu, \
             reclaim-account, account] (see 'kmem --help')\n",
        ),
    ] {
        let said = said(kmem().arg("lab").args(arguments));
        assert_eq!((said.status, said.err.as_str()), (Some(1), message), "{arguments:?}");
    }
}

/// Each of these in the text, in this order.
fn in_order(text: &str, expected: &[&str]) {
    let mut rest = text;
    for expected in expected {
        let at = rest.find(expected).unwrap_or_else(|| panic!("'{expected}' is not in\n{rest}\nof\n{text}"));
        rest = &rest[at + expected.len()..];
    }
}

#[test]
fn slab_has_arrays_indexes_and_turns() {
    let text = lab(&["--engine", "slab"]);
    in_order(
        &text,
        &[
            "A slab is 1 page and holds 163 objects, 24 bytes from one to the next.",
            "an index of 163 bytes",
            "up to 120 free objects in an array; 60 move at a time",
            "byte 360 of its slab",
            "CPU 0 was filled with 16 objects, and handed one out.",
            "[16 17 18 19 20 21",
            "6 allocations emptied it. The next one was refilled with 60 objects; batchcount is 60.",
            "A15 freed on CPU 1: it is now in CPU 1's array.",
            "the object freed last is used again first",
            "The array had 120, so its 60 oldest",
            "60 of them are in the node's shared array, 0 in their slabs.",
            "CPU 1 was refilled with 60 objects.",
            "no slab was looked at.",
            "the first begins at byte 64\n",
            "the first begins at byte 128\n",
            "the first begins at byte 192\n",
            "cache_reap on every CPU, each 2 seconds",
            "echo \"mycache 60 15 2\" > /proc/slabinfo",
            ": tunables   60   15    2 :",
            "The next allocation on CPU 0 was refilled with 15 objects.",
            "destroyed my_cache",
        ],
    );
    let lines: Vec<&str> = text.lines().collect();
    let turns = lines.iter().position(|line| line.starts_with("  seconds ")).unwrap();
    let quiet: Vec<&str> = lines[turns + 16].split_whitespace().collect();
    assert_eq!(quiet[..2], ["30", "0"], "after half a minute without use nothing is in a CPU's array");
    assert!(quiet[2].parse::<usize>().unwrap() < 10, "and little in shared ones: {quiet:?}");
}

#[test]
fn slab_keeps_objects_of_another_node_apart() {
    let text = lab(&["--engine", "slab", "--cpus", "4", "--nodes", "2"]);
    assert!(text.contains("it is now in node 1's array for node 0, since CPU 3 is on node 1"), "{text}");
}

#[test]
fn slab_shows_an_index_in_a_free_object() {
    let text = lab(&["--engine", "slab", "--size", "1000"]);
    assert!(text.contains("  index             in the free object "), "{text}");
}

#[test]
fn slob_has_pages_that_all_share() {
    in_order(
        &lab(&["--engine", "slob"]),
        &[
            "24 from one to the next, if they lie side by side.",
            "There are no slabs",
            "others' blocks",
            "10 of 10 objects read back as written.",
            "kmalloc(300) ok: ",
            "the page's list: medium (< 1024)",
            "The first two bytes are 20;",
            "kmalloc(1500): 8 of header, 1500 for the user",
            "the older hole is left for later.",
            ", the middle one: it lies in a free block of 72 bytes",
            "the page went back with its last object.",
            "destroyed my_cache",
        ],
    );
}

#[test]
fn every_engine_plays_in_every_setting() {
    for engine in ["slub", "slab", "slob"] {
        for setting in [
            &["--config", "user"][..],
            &["--cpus", "1", "--count", "1"],
            &["--cpus", "4", "--nodes", "2", "--count", "300"],
            &["--size", "700", "--flags", "hwcache-align"],
            &["--size", "5000"],
            &["--size", "8000", "--count", "5000"],
            &["--merge"],
        ] {
            let text = lab(&[&["--engine", engine, "--ascii"][..], setting].concat());
            assert!(text.contains("\ndestroyed my_cache"), "{engine} {setting:?}\n{text}");
            assert!(text.is_ascii(), "{engine} {setting:?}");
            assert!(!text.contains("heap: BUG"), "{engine} {setting:?}\n{text}");
        }
    }
}

#[test]
fn drawings_fit_a_terminal() {
    for engine in ["slab", "slob"] {
        let text = lab(&["--engine", engine]);
        for line in text.lines().filter(|line| !line.contains(" : tunables ")) {
            assert!(line.chars().count() <= 120, "{engine}: {line}");
        }
        // What is drawn, not what is said.
        for line in text.lines().filter(|line| line.starts_with("      ") || line.starts_with("  array")) {
            assert!(line.chars().count() <= 80, "{engine}: {line}");
        }
    }
}
