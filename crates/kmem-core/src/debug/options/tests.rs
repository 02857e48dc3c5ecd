//! The grammar, case by case.

use super::*;

const NONE: SlabFlags = SlabFlags::empty();
const F: SlabFlags = SlabFlags::CONSISTENCY_CHECKS;
const Z: SlabFlags = SlabFlags::RED_ZONE;
const P: SlabFlags = SlabFlags::POISON;
const U: SlabFlags = SlabFlags::STORE_USER;
const T: SlabFlags = SlabFlags::TRACE;
const A: SlabFlags = SlabFlags::FAILSLAB;

#[test]
fn the_grammar_table() {
    // Text, name of the cache, what it gets.
    let table: [(Option<&str>, &str, SlabFlags); 39] = [
        (None, "dentry", NONE),
        (Some(""), "dentry", F | Z | P | U),
        (Some("F"), "dentry", F),
        (Some("f"), "dentry", F),
        (Some("FZPUTA"), "dentry", F | Z | P | U | T | A),
        (Some("fzputa"), "dentry", F | Z | P | U | T | A),
        (Some("-"), "dentry", NONE),
        (Some("FZ-P"), "dentry", P),
        (Some("FZP-"), "dentry", NONE),
        (Some("O"), "dentry", NONE),
        (Some("ZO"), "dentry", Z),
        (Some("XZ9"), "dentry", Z),
        // Blocks without names: the last wins.
        (Some("Z;P"), "dentry", P),
        (Some(";;Z;;P;;"), "dentry", P),
        (Some(";"), "dentry", NONE),
        // Names only.
        (Some(",dentry"), "dentry", F | Z | P | U),
        (Some(",dentry"), "inode", NONE),
        // Letters and names.
        (Some("Z,dentry"), "dentry", Z),
        (Some("Z,dentry"), "dentry2", NONE),
        (Some("Z,dentry"), "dent", NONE),
        (Some("Z,a,dentry,b"), "dentry", Z),
        (Some("Z,a,,dentry"), "dentry", Z),
        (Some("Z,"), "dentry", NONE),
        (Some("Z,a,"), "a", Z),
        // Stars: a prefix, whatever stands behind.
        (Some("Z,den*"), "dentry", Z),
        (Some("Z,den*xyz"), "dentry", Z),
        (Some("Z,*"), "dentry", Z),
        (Some("Z,dentry*"), "dentry", Z),
        (Some("Z,kmalloc-*"), "kmalloc-rcl-64", Z),
        (Some("Z,kmalloc-*"), "dma-kmalloc-64", NONE),
        // The first block that matches counts, and the default is not added.
        (Some("Z,dentry;P,den*"), "dentry", Z),
        (Some("P,den*;Z,dentry"), "dentry", P),
        (Some("F;Z,dentry"), "dentry", Z),
        (Some("F;Z,dentry"), "inode", F),
        (Some("Z,dentry;F"), "inode", F),
        (Some("FZPU;-,zs_handle,zspage"), "zspage", NONE),
        (Some("FZPU;-,zs_handle,zspage"), "zs", F | Z | P | U),
        // A name in the place of letters is letters.
        (Some("putz"), "putz", P | U | T | Z),
        (Some("Z,a;,b"), "b", F | Z | P | U),
    ];
    for (text, name, expected) in table {
        assert_eq!(flags_for(text, NONE, name, NONE), expected, "{text:?} {name}");
    }
}

#[test]
fn the_creators_flags_stay_and_may_refuse() {
    assert_eq!(flags_for(Some("Z"), NONE, "a", P | SlabFlags::PANIC), Z | P | SlabFlags::PANIC);
    assert_eq!(flags_for(Some("-,a"), NONE, "a", P), P, "a dash takes nothing from the creator");
    let refuses = P | SlabFlags::NO_USER_FLAGS;
    assert_eq!(flags_for(Some(""), NONE, "a", refuses), refuses);
    assert_eq!(flags_for(Some("FZU,a"), NONE, "a", refuses), refuses);
    let hidden = SlabFlags::NOLEAKTRACE;
    assert_eq!(flags_for(Some(""), NONE, "a", hidden), F | Z | P | hidden);
    assert_eq!(flags_for(Some("U"), NONE, "a", hidden | U), U | hidden, "the creator's own U stays");
    assert_eq!(flags_for(Some("U,a"), NONE, "a", hidden), U | hidden);
}

#[test]
fn the_built_in_default_stands_until_a_block_without_names() {
    assert_eq!(flags_for(None, F, "a", NONE), F);
    assert_eq!(flags_for(Some("Z,a"), F, "b", NONE), F);
    assert_eq!(flags_for(Some("Z,a"), F, "a", NONE), Z);
    assert_eq!(flags_for(Some("-"), F, "a", NONE), NONE);
    assert_eq!(flags_for(Some("P;Z,a"), F, "b", NONE), P);
}

#[test]
fn the_order_letter_is_a_global_switch() {
    assert!(!keep_order(None) && !keep_order(Some("")) && !keep_order(Some("FZPU,o")));
    assert!(keep_order(Some("O")) && keep_order(Some("FZo")) && keep_order(Some("Z;PO,a")));
    assert!(keep_order(Some("O-")), "a dash does not clear it");
}

#[test]
fn unknown_letters_are_named() {
    let found = |text| unknown(text).collect::<String>();
    assert_eq!(found("FZPUTAO-fzputao"), "");
    assert_eq!(found("Fx;Zq,name;,other;9"), "xq9");
}

#[test]
fn letters_come_back_as_they_are_written() {
    assert_eq!(shown(U | F | Z).to_string(), "FZU");
    assert_eq!(shown(NONE).to_string(), "-");
    for text in ["F", "Z", "P", "U", "T", "A", "FZPUTA"] {
        assert_eq!(shown(flags_for(Some(text), NONE, "a", NONE)).to_string(), text);
    }
}

#[test]
fn what_is_said_while_a_heap_is_used() {
    // Text, name, creator's flags, the letters that the cache shall have.
    let table: [(&str, &str, SlabFlags, Option<SlabFlags>); 13] = [
        ("", "dentry", NONE, Some(F | Z | P | U)),
        ("Z", "dentry", NONE, Some(Z)),
        ("-", "dentry", F | Z, Some(NONE)),
        ("Z,dentry", "dentry", NONE, Some(Z)),
        ("Z,dentry", "inode", NONE, None),
        (",dentry", "dentry", NONE, Some(F | Z | P | U)),
        ("-,kmalloc-*", "kmalloc-64", U, Some(NONE)),
        ("-,kmalloc-*;U", "kmalloc-64", U, Some(NONE)),
        ("-,kmalloc-*;U", "dentry", NONE, Some(U)),
        ("ZU", "quiet", SlabFlags::NOLEAKTRACE, Some(Z)),
        ("ZU,quiet", "quiet", SlabFlags::NOLEAKTRACE, Some(Z | U)),
        ("Z", "own", SlabFlags::NO_USER_FLAGS, None),
        (";;", "dentry", NONE, None),
    ];
    for (text, name, flags, letters) in table {
        assert_eq!(said_of(text, name, flags), letters, "{text:?} of {name}");
    }
}

#[test]
fn later_texts_come_before_earlier_ones() {
    // What was said, what held before, what holds for new caches.
    let table: [(&str, Option<&str>, &str); 7] = [
        ("Z,a", None, "Z,a"),
        ("Z,a", Some("P,b"), "Z,a;P,b"),
        ("Z,a", Some("F;P,a"), "Z,a;F;P,a"),
        ("Z,a", Some(""), "Z,a;FZPU"),
        ("Z", Some("P,b"), "Z"),
        ("", Some("P,b"), ""),
        ("-;Z,a", Some("P,b"), "-;Z,a"),
    ];
    for (text, before, after) in table {
        let mut joint = String::new();
        joined(&mut joint, text, before).expect("room");
        assert_eq!(joint, after);
    }
    let joint = Some("Z,a;F;P,a");
    assert_eq!(flags_for(joint, NONE, "a", NONE), Z);
    assert_eq!(flags_for(joint, NONE, "b", NONE), F);
}
