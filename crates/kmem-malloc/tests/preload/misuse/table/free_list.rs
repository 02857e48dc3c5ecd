//! Free blocks whose first word is changed.

use super::End::{Dies, Stopped, Unnoticed};
use super::{Program, row};

pub(super) const PROGRAM: Program = Program {
    name: "free_list",
    title: "The first word of every free block is changed, where an allocator may keep its list",
    rows: &[
        row(
            "one-bit",
            "one bit flipped",
            [
                Dies,
                Stopped("Freechain corrupt"),
                Stopped("(cache kmalloc-80) was written to after it was freed"),
                Stopped("Poison overwritten"),
            ],
        ),
        row("zero", "zeroed", [Dies, Stopped("Freechain corrupt"), Unnoticed, Stopped("Poison overwritten")]),
        row(
            "self",
            "the block's own address",
            [
                Dies,
                Stopped("Freechain corrupt"),
                Stopped("(cache kmalloc-80) was written to after it was freed"),
                Stopped("Poison overwritten"),
            ],
        ),
        row(
            "static-address",
            "the address of a static object",
            [
                Dies,
                Stopped("Freechain corrupt"),
                Stopped("(cache kmalloc-80) was written to after it was freed"),
                Stopped("Poison overwritten"),
            ],
        ),
        row(
            "another-block",
            "the address of another free block",
            [
                Dies,
                Stopped("Freechain corrupt"),
                Stopped("(cache kmalloc-80) was written to after it was freed"),
                Stopped("Poison overwritten"),
            ],
        ),
        row(
            "garbage",
            "any word",
            [
                Dies,
                Stopped("Freechain corrupt"),
                Stopped("(cache kmalloc-80) was written to after it was freed"),
                Stopped("Poison overwritten"),
            ],
        ),
    ],
};
