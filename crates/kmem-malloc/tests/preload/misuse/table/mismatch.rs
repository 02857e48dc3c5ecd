//! Blocks that are given back as what they are not.

use super::End::{Stopped, Unnoticed};
use super::{Program, row};

pub(super) const PROGRAM: Program = Program {
    name: "mismatch",
    title: "A block is given back as what it is not",
    rows: &[
        row(
            "free-sized-smaller",
            "`free_sized` of 64 bytes as 32",
            [
                Unnoticed,
                Unnoticed,
                Stopped("invalid free of {}: it has 64 bytes, not 32"),
                Stopped("Given back as 32 bytes, allocated as 64"),
            ],
        ),
        row(
            "free-sized-larger",
            "as 1000",
            [
                Unnoticed,
                Unnoticed,
                Stopped("invalid free of {}: it has 64 bytes, not 1000"),
                Stopped("Given back as 1000 bytes, allocated as 64"),
            ],
        ),
        row(
            "free-sized-near",
            "as 60",
            [
                Unnoticed,
                Unnoticed,
                Stopped("invalid free of {}: it has 64 bytes, not 60"),
                Stopped("Given back as 60 bytes, allocated as 64"),
            ],
        ),
        row(
            "free-sized-large",
            "of 200000 bytes as 100000",
            [
                Unnoticed,
                Unnoticed,
                Stopped("invalid free of {}: it has 200704 bytes, not 100000"),
                Stopped("Given back as 100000 bytes, allocated as 200000"),
            ],
        ),
        row(
            "free-aligned-size",
            "`free_aligned_sized` of 512 bytes as 64",
            [
                Unnoticed,
                Unnoticed,
                Stopped("invalid free of {}: it has 512 bytes, not 64"),
                Stopped("Given back as 64 bytes, allocated as 512"),
            ],
        ),
        row(
            "free-aligned-align",
            "of an alignment of 256 as 4096",
            [
                Unnoticed,
                Unnoticed,
                Stopped("{}: not asked for with an alignment of 4096"),
                Stopped("Given back with an alignment of 4096, allocated with another"),
            ],
        ),
        row(
            "free-aligned-bad-align",
            "of an alignment of 256 as 24",
            [
                Unnoticed,
                Unnoticed,
                Stopped("{}: not asked for with an alignment of 24"),
                Stopped("Given back with an alignment of 24, allocated with another"),
            ],
        ),
        row(
            "delete-smaller",
            "`delete` of 64 bytes as 32",
            [
                Unnoticed,
                Unnoticed,
                Stopped("invalid free of {}: it has 64 bytes, not 32"),
                Stopped("Given back as 32 bytes, allocated as 64"),
            ],
        ),
        row(
            "delete-larger",
            "as 1000",
            [
                Unnoticed,
                Unnoticed,
                Stopped("invalid free of {}: it has 64 bytes, not 1000"),
                Stopped("Given back as 1000 bytes, allocated as 64"),
            ],
        ),
        row(
            "delete-array-smaller",
            "`delete[]` of 640 bytes as 64",
            [
                Unnoticed,
                Unnoticed,
                Stopped("invalid free of {}: it has 640 bytes, not 64"),
                Stopped("Given back as 64 bytes, allocated as 640"),
            ],
        ),
        row(
            "delete-other-align",
            "`delete` of an alignment of 64 as 4096",
            [
                Unnoticed,
                Unnoticed,
                Stopped("{}: not asked for with an alignment of 4096"),
                Stopped("Given back with an alignment of 4096, allocated with another"),
            ],
        ),
        row(
            "malloc-delete",
            "`malloc`, `delete`",
            [Unnoticed, Unnoticed, Unnoticed, Stopped("Allocated by malloc, given back by delete")],
        ),
        row(
            "malloc-delete-array",
            "`malloc`, `delete[]`",
            [Unnoticed, Unnoticed, Unnoticed, Stopped("Allocated by malloc, given back by delete[]")],
        ),
        row(
            "new-free",
            "`new`, `free`",
            [Unnoticed, Unnoticed, Unnoticed, Stopped("Allocated by new, given back by free")],
        ),
        row(
            "new-array-free",
            "`new[]`, `free`",
            [Unnoticed, Unnoticed, Unnoticed, Stopped("Allocated by new[], given back by free")],
        ),
        row(
            "new-delete-array",
            "`new`, `delete[]`",
            [Unnoticed, Unnoticed, Unnoticed, Stopped("Allocated by new, given back by delete[]")],
        ),
        row(
            "new-array-delete",
            "`new[]`, `delete`",
            [Unnoticed, Unnoticed, Unnoticed, Stopped("Allocated by new[], given back by delete")],
        ),
        row(
            "aligned-delete",
            "`aligned_alloc`, `delete`",
            [Unnoticed, Unnoticed, Unnoticed, Stopped("Allocated by malloc, given back by delete")],
        ),
        row(
            "aligned-new-free",
            "aligned `new`, `free`",
            [Unnoticed, Unnoticed, Unnoticed, Stopped("Allocated by aligned new, given back by free")],
        ),
        row(
            "aligned-new-plain-delete",
            "aligned `new`, `delete` without alignment",
            [Unnoticed, Unnoticed, Unnoticed, Stopped("Allocated by aligned new, given back by delete")],
        ),
        row(
            "new-aligned-delete",
            "`new`, `delete` with alignment",
            [
                Unnoticed,
                Unnoticed,
                Stopped("{}: not asked for with an alignment of 64"),
                Stopped("Allocated by new, given back by aligned delete"),
            ],
        ),
        row(
            "new-realloc",
            "`new`, `realloc`",
            [Unnoticed, Unnoticed, Unnoticed, Stopped("Allocated by new, given back by free")],
        ),
    ],
};
