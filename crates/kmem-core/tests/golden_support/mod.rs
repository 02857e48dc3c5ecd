//! Reading the captured tables of `golden/`. Shared by the `golden_*` tests.
#![allow(dead_code)]

use kmem_core::flags::SlabFlags;

/// The text of a file of `golden/`, built into the test.
#[macro_export]
macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/", $name))
    };
}

/// One row of a table with the header's names for its fields.
pub(crate) struct Row<'a> {
    header: &'a str,
    text: &'a str,
}

impl<'a> Row<'a> {
    /// The field of this name. Stops the test when there is no such column or the row is too short.
    pub(crate) fn text(&self, column: &str) -> &'a str {
        let index = self.header.split(',').position(|name| name == column);
        let index = index.unwrap_or_else(|| panic!("no column {column}"));
        self.text.split(',').nth(index).unwrap_or_else(|| panic!("no {column} in {self}"))
    }

    /// The same as a number, decimal or hexadecimal with `0x`.
    pub(crate) fn number(&self, column: &str) -> usize {
        let text = self.text(column);
        let parsed = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        let number = parsed.unwrap_or_else(|_| panic!("{column} in {self} is no number"));
        // The tables are of a 64-bit machine; its largest number means "none", and so does the largest here.
        usize::try_from(number).unwrap_or(usize::MAX)
    }
}

impl std::fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text)
    }
}

/// All rows of a table.
pub(crate) fn rows(table: &str) -> impl Iterator<Item = Row<'_>> {
    let mut lines = table.lines();
    let header = lines.next().expect("a header");
    lines.map(move |text| Row { header, text })
}

/// One cache of a `/proc/slabinfo` capture.
pub(crate) struct SlabinfoRow<'a> {
    pub(crate) name: &'a str,
    pub(crate) size: usize,
    pub(crate) objects: usize,
    pub(crate) pages: usize,
}

/// The caches of a slabinfo capture, newest first as in the file.
pub(crate) fn slabinfo(text: &str) -> Vec<SlabinfoRow<'_>> {
    let parse = |line| {
        let fields: Vec<&str> = str::split_whitespace(line).collect();
        let number = |i: usize| fields[i].parse().unwrap_or_else(|_| panic!("{line}"));
        SlabinfoRow { name: fields[0], size: number(3), objects: number(4), pages: number(5) }
    };
    text.lines().skip(2).map(parse).collect()
}

/// The flags a request column stands for.
pub(crate) fn request_flags(text: &str) -> SlabFlags {
    match text {
        "0" => SlabFlags::empty(),
        "ACCT" => SlabFlags::ACCOUNT,
        "RECL" => SlabFlags::RECLAIM_ACCOUNT,
        letters => letters.chars().fold(SlabFlags::empty(), |flags, letter| {
            flags
                | match letter {
                    'F' => SlabFlags::CONSISTENCY_CHECKS,
                    'H' => SlabFlags::HWCACHE_ALIGN,
                    'P' => SlabFlags::POISON,
                    'R' => SlabFlags::TYPESAFE_BY_RCU,
                    'U' => SlabFlags::STORE_USER,
                    'Z' => SlabFlags::RED_ZONE,
                    _ => panic!("flag letter {letter} in {letters}"),
                }
        }),
    }
}
