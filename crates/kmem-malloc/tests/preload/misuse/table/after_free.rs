//! Blocks that are used after their free.

use super::End::{Dies, Fault, Named, Reads, Stopped, Unnoticed};
use super::{Program, row};

pub(super) const PROGRAM: Program = Program {
    name: "after_free",
    title: "A block is used after its free",
    rows: &[
        row("read", "a byte of 64 read", [Reads("0x1"), Reads("0x1"), Reads("0"), Reads("0x6b")]),
        row(
            "read-huge",
            "a byte of 8 MiB read",
            [Fault, Fault, Named("4194304 bytes into a block of 8388608 bytes that was freed"), Fault],
        ),
        row(
            "write-first",
            "the first byte of 64 written",
            [
                Unnoticed,
                Unnoticed,
                Stopped("{} (cache kmalloc-80) was written to after it was freed"),
                Stopped("Poison overwritten"),
            ],
        ),
        row(
            "write-middle",
            "a byte in the middle",
            [
                Unnoticed,
                Unnoticed,
                Stopped("{} (cache kmalloc-80) was written to after it was freed"),
                Stopped("Poison overwritten"),
            ],
        ),
        row(
            "write-last",
            "the last byte",
            [
                Unnoticed,
                Unnoticed,
                Stopped("{} (cache kmalloc-80) was written to after it was freed"),
                Stopped("Poison overwritten"),
            ],
        ),
        row(
            "write-behind",
            "the byte behind it, in front of a block that stays",
            [
                Unnoticed,
                Unnoticed,
                Stopped("{} (cache kmalloc-80) was written to after it was freed"),
                Stopped("Right Redzone overwritten"),
            ],
        ),
        row(
            "write-medium",
            "a byte of 2000",
            [
                Unnoticed,
                Unnoticed,
                Stopped("{} (cache kmalloc-2k) was written to after it was freed"),
                Stopped("Poison overwritten"),
            ],
        ),
        row(
            "write-pages",
            "a byte of 20000",
            [
                Unnoticed,
                Unnoticed,
                Stopped("{} (cache kmalloc-20k) was written to after it was freed"),
                Stopped("Poison overwritten"),
            ],
        ),
        row(
            "write-large",
            "a byte of 200000",
            [
                Fault,
                Fault,
                Named("100000 bytes into a block of 200000 bytes that was freed"),
                Stopped("Poison overwritten"),
            ],
        ),
        row(
            "write-huge",
            "a byte of 8 MiB",
            [Fault, Fault, Named("4194304 bytes into a block of 8388608 bytes that was freed"), Fault],
        ),
        row(
            "write-everything",
            "all bytes of hundreds of blocks",
            [
                Dies,
                Stopped("kmalloc-72"),
                Stopped("(cache kmalloc-80) was written to after it was freed"),
                Stopped("Poison overwritten"),
            ],
        ),
        row(
            "write-grown",
            "all bytes of a block that `realloc` made longer",
            [
                Dies,
                Stopped("(cache kmalloc-252k) was written to after its free, or freed twice"),
                Stopped("{} (cache kmalloc-5440) was written to after it was freed"),
                Stopped("Poison overwritten"),
            ],
        ),
        row(
            "realloc",
            "`realloc` to another size",
            [
                Unnoticed,
                Stopped("realloc(): {} was freed before (cache kmalloc-72)"),
                Stopped("realloc(): {} was freed before (cache kmalloc-80)"),
                Stopped("Object already free"),
            ],
        ),
        row(
            "realloc-in-place",
            "`realloc` to nearly the same size",
            [
                Unnoticed,
                Stopped("realloc(): {} was freed before (cache kmalloc-72)"),
                Stopped("realloc(): {} was freed before (cache kmalloc-80)"),
                Stopped("Object already free"),
            ],
        ),
        row(
            "realloc-large",
            "`realloc`, 200000 bytes",
            [
                Fault,
                Stopped("realloc(): invalid pointer {}: not memory of this heap"),
                Stopped("realloc(): invalid pointer {}: not memory of this heap"),
                Stopped("Object already free"),
            ],
        ),
        row(
            "realloc-huge",
            "`realloc`, 8 MiB",
            [
                Fault,
                Stopped("realloc(): invalid pointer {}: not memory of this heap"),
                Stopped("realloc(): invalid pointer {}: not memory of this heap"),
                Stopped("Object already free"),
            ],
        ),
        row(
            "usable-size",
            "`malloc_usable_size`",
            [
                Unnoticed,
                Stopped("malloc_usable_size(): {} was freed before (cache kmalloc-72)"),
                Stopped("malloc_usable_size(): {} was freed before (cache kmalloc-80)"),
                Stopped("Object already free"),
            ],
        ),
    ],
};
