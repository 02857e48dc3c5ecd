//! Blocks that are freed twice.

use super::End::{Broken, Dies, Fault, Later, Stopped};
use super::{Program, row};

pub(super) const PROGRAM: Program = Program {
    name: "double_free",
    title: "A block is freed twice",
    rows: &[
        row(
            "small",
            "a block of 64 bytes, at once",
            [
                Stopped("free(): double free detected in tcache 2"),
                Stopped("double free of {} (cache kmalloc-72)"),
                Stopped("double free of {} (cache kmalloc-80)"),
                Stopped("Slab has 0 allocated objects but 1 are to be freed"),
            ],
        ),
        row(
            "medium",
            "of 2000 bytes, at once",
            [
                Stopped("double free or corruption (top)"),
                Stopped("double free of {} (cache kmalloc-2040)"),
                Stopped("double free of {} (cache kmalloc-2k)"),
                Stopped("Slab has 0 allocated objects but 1 are to be freed"),
            ],
        ),
        row(
            "pages",
            "of 20000 bytes, at once",
            [
                Stopped("double free or corruption (top)"),
                Stopped("invalid free of {}: nothing is allocated there"),
                Stopped("double free of {} (cache kmalloc-20k)"),
                Stopped("Slab has 0 allocated objects but 1 are to be freed"),
            ],
        ),
        row(
            "large",
            "of 200000 bytes, at once",
            [
                Fault,
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("Slab has 0 allocated objects but 1 are to be freed"),
            ],
        ),
        row(
            "huge",
            "of 8 MiB, at once",
            [
                Fault,
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("invalid free of {}: not memory of this heap"),
                Stopped("Object already free"),
            ],
        ),
        row(
            "after-one",
            "after another block was freed",
            [
                Stopped("free(): double free detected in tcache 2"),
                Stopped("double free of {} (cache kmalloc-72)"),
                Stopped("double free of {} (cache kmalloc-80)"),
                Stopped("Slab has 0 allocated objects but 1 are to be freed"),
            ],
        ),
        row(
            "after-many",
            "after hundreds of others were freed",
            [
                Dies,
                Stopped("double free of {} (cache kmalloc-72)"),
                Stopped("double free of {} (cache kmalloc-80)"),
                Stopped("invalid free of {}: nothing is allocated there"),
            ],
        ),
        row(
            "medium-after-many",
            "of 2000 bytes, after dozens of others were freed",
            [
                Stopped("double free or corruption (!prev)"),
                Stopped("double free of {} (cache kmalloc-2040)"),
                Stopped("double free of {} (cache kmalloc-2k)"),
                Stopped("invalid free of {}: nothing is allocated there"),
            ],
        ),
        row(
            "first-elsewhere",
            "freed by a thread on another CPU first",
            [
                Dies,
                Stopped("double free of {} (cache kmalloc-72)"),
                Stopped("double free of {} (cache kmalloc-80)"),
                Stopped("Slab has 0 allocated objects but 1 are to be freed"),
            ],
        ),
        row(
            "then-elsewhere",
            "then by a thread on another CPU",
            [
                Dies,
                Stopped("double free of {} (cache kmalloc-72)"),
                Stopped("double free of {} (cache kmalloc-80)"),
                Stopped("Slab has 0 allocated objects but 1 are to be freed"),
            ],
        ),
        row(
            "slab-gone",
            "after its memory went back to the system",
            [
                Dies,
                Stopped("invalid free of {}: nothing is allocated there"),
                Stopped("invalid free of {}: nothing is allocated there"),
                Stopped("invalid free of {}: nothing is allocated there"),
            ],
        ),
        row(
            "after-realloc",
            "of a block that `realloc` moved",
            [
                Stopped("free(): double free detected in tcache 2"),
                Stopped("double free of {} (cache kmalloc-72)"),
                Stopped("double free of {} (cache kmalloc-80)"),
                Stopped("Object already free"),
            ],
        ),
        row(
            "aligned",
            "of `aligned_alloc`",
            [
                Stopped("free(): double free detected in tcache 2"),
                Stopped("double free of {} (cache kmalloc-760)"),
                Stopped("double free of {} (cache kmalloc-768)"),
                Stopped("Slab has 0 allocated objects but 1 are to be freed"),
            ],
        ),
        row(
            "grown",
            "of a block that `realloc` made longer",
            [
                Stopped("double free or corruption (!prev)"),
                Stopped("double free of {} (cache kmalloc-252k)"),
                Stopped("double free of {} (cache kmalloc-5440)"),
                Stopped("Slab has 0 allocated objects but 1 are to be freed"),
            ],
        ),
        row(
            "small-overwritten",
            "written over in between",
            [
                Broken,
                Stopped("double free of {} (cache kmalloc-72)"),
                Stopped("double free of {} (cache kmalloc-80)"),
                Stopped("Slab has 0 allocated objects but 1 are to be freed"),
            ],
        ),
        row(
            "small-overwritten-after-one",
            "written over in between, after another was freed",
            [
                Broken,
                Stopped("double free of {} (cache kmalloc-72)"),
                Stopped("double free of {} (cache kmalloc-80)"),
                Stopped("Slab has 0 allocated objects but 1 are to be freed"),
            ],
        ),
        row(
            "middling-overwritten-after-many",
            "the same, 400 bytes, after many others",
            [
                Stopped("double free or corruption (!prev)"),
                Stopped("double free of {} (cache kmalloc-408)"),
                Stopped("double free of {} (cache kmalloc-448)"),
                Stopped("Object already free"),
            ],
        ),
        row(
            "medium-overwritten-after-one",
            "the same, 2000 bytes",
            [
                Stopped("double free or corruption (!prev)"),
                Later("{} (cache kmalloc-2040) was written to after its free, or freed twice"),
                Stopped("double free of {} (cache kmalloc-2k)"),
                Stopped("Object already free"),
            ],
        ),
        row(
            "pages-overwritten-after-one",
            "the same, 20000 bytes",
            [
                Stopped("double free or corruption (!prev)"),
                Stopped("invalid free of {}: nothing is allocated there"),
                Stopped("double free of {} (cache kmalloc-20k)"),
                Stopped("Slab has 0 allocated objects but 1 are to be freed"),
            ],
        ),
        row(
            "neighbour-wrote",
            "the byte before the block zeroed in between",
            [
                Stopped("free(): double free detected in tcache 2"),
                Stopped(
                    "{} (cache kmalloc-264) was written before its start, or the block before it past its end",
                ),
                Stopped("double free of {} (cache kmalloc-320)"),
                Stopped("Object already free"),
            ],
        ),
    ],
};
