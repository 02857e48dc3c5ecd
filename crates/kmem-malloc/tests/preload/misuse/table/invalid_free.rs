//! Frees of what is no block.

use super::End::{Dies, Fault, Stopped, Unnoticed};
use super::{Program, row};

pub(super) const PROGRAM: Program = Program {
    name: "invalid_free",
    title: "What is freed is no block",
    rows: &[
        row(
            "interior",
            "16 bytes into a block of 64",
            [
                Stopped("free(): invalid pointer"),
                Stopped("invalid free of {}: no object of cache kmalloc-72 starts there"),
                Stopped("invalid free of {}: no object of cache kmalloc-80 starts there"),
                Stopped("Invalid object pointer {}"),
            ],
        ),
        row(
            "interior-odd",
            "1 byte into a block of 64",
            [
                Stopped("free(): invalid pointer"),
                Stopped("invalid free of {}: no object of cache kmalloc-72 starts there"),
                Stopped("invalid free of {}: no object of cache kmalloc-80 starts there"),
                Stopped("Invalid object pointer {}"),
            ],
        ),
        row(
            "interior-medium",
            "8 bytes into a block of 2048",
            [
                Stopped("free(): invalid pointer"),
                Stopped("invalid free of {}: no object of cache kmalloc-2056 starts there"),
                Stopped("invalid free of {}: no object of cache kmalloc-2304 starts there"),
                Stopped("Invalid object pointer {}"),
            ],
        ),
        row(
            "interior-large",
            "a page into a block of 200000",
            [
                Stopped("free(): invalid pointer"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("Invalid object pointer {}"),
            ],
        ),
        row(
            "interior-large-near",
            "16 bytes into a block of 200000",
            [
                Stopped("free(): invalid pointer"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("Invalid object pointer {}"),
            ],
        ),
        row(
            "interior-huge",
            "a page into a block of 8 MiB",
            [
                Stopped("free(): invalid pointer"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("Invalid object pointer {}"),
            ],
        ),
        row(
            "interior-huge-near",
            "16 bytes into a block of 8 MiB",
            [
                Stopped("free(): invalid pointer"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("Invalid object pointer {}"),
            ],
        ),
        row(
            "behind-the-last",
            "behind the last block of a slab",
            [
                Dies,
                Stopped("invalid free of {}: no object of cache kmalloc-2296 starts there"),
                Stopped("invalid free of {}: no object of cache kmalloc-2304 starts there"),
                Stopped("Invalid object pointer {}"),
            ],
        ),
        row(
            "never-allocated",
            "a place for a block that nobody ever had, 2048 bytes",
            [
                Stopped("free(): invalid pointer"),
                Stopped("double free of {} (cache kmalloc-2056)"),
                Stopped("invalid free of {}: no object of cache kmalloc-2304 starts there"),
                Stopped("Invalid object pointer {}"),
            ],
        ),
        row(
            "never-allocated-near",
            "the same between live blocks, 300 bytes",
            [
                Stopped("double free or corruption (top)"),
                Stopped("double free of {} (cache kmalloc-312)"),
                Stopped("double free of {} (cache kmalloc-320)"),
                Stopped("Object already free"),
            ],
        ),
        row(
            "stack",
            "the stack",
            [
                Stopped("free(): invalid pointer"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
            ],
        ),
        row(
            "static",
            "a static object",
            [
                Stopped("free(): invalid pointer"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
            ],
        ),
        row(
            "text",
            "code",
            [
                Dies,
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
            ],
        ),
        row(
            "mapping",
            "a page of the program's own mapping",
            [
                Stopped("free(): invalid pointer"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
            ],
        ),
        row(
            "unmapped-low",
            "0x1000, where nothing is mapped",
            [
                Fault,
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
            ],
        ),
        row(
            "unmapped-high",
            "0x7ffffffff000, where nothing is mapped",
            [
                Fault,
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
            ],
        ),
        row(
            "high-bit",
            "a block's address with the highest bit set",
            [
                Fault,
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
            ],
        ),
        row(
            "address-one",
            "address 1",
            [
                Fault,
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
            ],
        ),
        row(
            "realloc-stack",
            "`realloc` of the stack",
            [
                Stopped("realloc(): invalid pointer"),
                Stopped("realloc(): invalid pointer {}: not memory of this heap"),
                Stopped("realloc(): invalid pointer {}: not memory of this heap"),
                Stopped("realloc(): invalid pointer {}: not memory of this heap"),
            ],
        ),
        row(
            "realloc-inside",
            "`realloc` 16 bytes into a block",
            [
                Stopped("realloc(): invalid pointer"),
                Stopped("realloc(): invalid pointer {}: no object of cache kmalloc-72 starts there"),
                Stopped("realloc(): invalid pointer {}: no object of cache kmalloc-80 starts there"),
                Stopped("realloc(): invalid pointer {}: no object of cache kmalloc-72 starts there"),
            ],
        ),
        row(
            "usable-size-static",
            "`malloc_usable_size` of a static object",
            [
                Unnoticed,
                Stopped("malloc_usable_size(): invalid pointer {}: not memory of this heap"),
                Stopped("malloc_usable_size(): invalid pointer {}: not memory of this heap"),
                Stopped("malloc_usable_size(): invalid pointer {}: not memory of this heap"),
            ],
        ),
    ],
};
