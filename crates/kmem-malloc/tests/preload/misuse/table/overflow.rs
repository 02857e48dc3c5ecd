//! Bytes outside of a block that are written.

use super::End::{Dies, Fault, Later, Named, Noticed, Stopped, Unnoticed};
use super::{Program, row};

pub(super) const PROGRAM: Program = Program {
    name: "overflow",
    title: "Bytes outside of a block are written",
    rows: &[
        row(
            "right-1",
            "one byte behind what may be used of 64",
            [
                Later("malloc assertion failure in sysmalloc"),
                Noticed("(cache kmalloc-72) was written"),
                Stopped("{} (cache kmalloc-80) was written past its end"),
                Stopped("Right Redzone overwritten"),
            ],
        ),
        row(
            "right-1-medium",
            "the same of 2000",
            [
                Later("malloc assertion failure in sysmalloc"),
                Stopped("(cache kmalloc-2040) was written past its end"),
                Stopped("{} (cache kmalloc-2k) was written past its end"),
                Stopped("Right Redzone overwritten"),
            ],
        ),
        row(
            "right-1-pages",
            "the same of 20000",
            [
                Later("malloc assertion failure in sysmalloc"),
                Stopped("(cache kmalloc-20472) was written past its end"),
                Stopped("{} (cache kmalloc-20k) was written past its end"),
                Stopped("Right Redzone overwritten"),
            ],
        ),
        row(
            "right-1-page",
            "the same of 4096",
            [
                Later("malloc assertion failure in sysmalloc"),
                Stopped("(cache kmalloc-4360) was written past its end"),
                Stopped("{} (cache kmalloc-4368) was written past its end"),
                Stopped("Right Redzone overwritten"),
            ],
        ),
        row(
            "right-1-buffer",
            "the same of 65536",
            [
                Later("malloc assertion failure in sysmalloc"),
                Stopped("(cache kmalloc-81912) was written past its end"),
                Stopped("{} (cache kmalloc-80k) was written past its end"),
                Stopped("Right Redzone overwritten"),
            ],
        ),
        row(
            "right-1-zeroed",
            "the same of 65528 from `calloc`",
            [
                Later("malloc assertion failure in sysmalloc"),
                Stopped("(cache kmalloc-large) was written past its end"),
                Stopped("{} (cache kmalloc-64k) was written past its end"),
                Stopped("Right Redzone overwritten"),
            ],
        ),
        row(
            "right-1-aligned",
            "the same of 1000, aligned to 64 KiB",
            [
                Dies,
                Stopped("(cache kmalloc-large) was written past its end"),
                Named("3096 bytes behind a block of 1000 bytes"),
                Stopped("Right Redzone overwritten"),
            ],
        ),
        row(
            "right-1-last",
            "the same of 64, of the last block before a page's end",
            [
                Later("malloc assertion failure in sysmalloc"),
                Stopped("(cache kmalloc-72) was written past its end"),
                Stopped("{} (cache kmalloc-80) was written past its end"),
                Stopped("Right Redzone overwritten"),
            ],
        ),
        row(
            "right-1-large",
            "the same of 200000",
            [
                Unnoticed,
                Unnoticed,
                Named("704 bytes behind a block of 200000 bytes"),
                Stopped("Right Redzone overwritten"),
            ],
        ),
        row(
            "right-8",
            "eight bytes behind 64",
            [
                Later("malloc(): corrupted top size"),
                Noticed("(cache kmalloc-72) was written"),
                Stopped("{} (cache kmalloc-80) was written past its end"),
                Stopped("Right Redzone overwritten"),
            ],
        ),
        row(
            "slack",
            "one byte behind the 50 that were asked for",
            [
                Unnoticed,
                Unnoticed,
                Stopped("{} (cache kmalloc-64) was written past its end"),
                Stopped("kmalloc Redzone overwritten"),
            ],
        ),
        row(
            "slack-large",
            "one byte behind the 200100",
            [Unnoticed, Unnoticed, Unnoticed, Stopped("kmalloc Redzone overwritten")],
        ),
        row(
            "slack-huge",
            "one byte behind the 8 MiB and 100 bytes",
            [Unnoticed, Unnoticed, Unnoticed, Stopped("Right Redzone overwritten")],
        ),
        row(
            "zero-bytes",
            "the first byte of a block of none",
            [
                Unnoticed,
                Unnoticed,
                Stopped("{} (cache kmalloc-16) was written past its end"),
                Stopped("kmalloc Redzone overwritten"),
            ],
        ),
        row(
            "left-1",
            "one byte in front of 64",
            [
                Stopped("double free or corruption (out)"),
                Stopped(
                    "(cache kmalloc-72) was written before its start, or the block before it past its end",
                ),
                Stopped(
                    "(cache kmalloc-80) was written before its start, or the block before it past its end",
                ),
                Stopped("Left Redzone overwritten"),
            ],
        ),
        row(
            "left-8",
            "eight bytes in front",
            [
                Stopped("double free or corruption (out)"),
                Stopped(
                    "(cache kmalloc-72) was written before its start, or the block before it past its end",
                ),
                Stopped(
                    "(cache kmalloc-80) was written before its start, or the block before it past its end",
                ),
                Stopped("Left Redzone overwritten"),
            ],
        ),
        row(
            "left-1-large",
            "one byte in front of 200000",
            [
                Unnoticed,
                Fault,
                Named("1 byte before a block of 200000 bytes"),
                Stopped("Left Redzone overwritten"),
            ],
        ),
        row(
            "into-the-next",
            "on into the next block",
            [
                Stopped("double free or corruption (out)"),
                Stopped(
                    "(cache kmalloc-72) was written before its start, or the block before it past its end",
                ),
                Stopped(
                    "(cache kmalloc-80) was written before its start, or the block before it past its end",
                ),
                Stopped("Left Redzone overwritten"),
            ],
        ),
        row(
            "far",
            "on over the whole next block",
            [
                Stopped("double free or corruption (out)"),
                Stopped(
                    "(cache kmalloc-72) was written before its start, or the block before it past its end",
                ),
                Stopped("{} (cache kmalloc-80) was written past its end"),
                Stopped("Right Redzone overwritten"),
            ],
        ),
        row(
            "into-a-free-one",
            "on into a free block",
            [
                Later("double free or corruption (out)"),
                Later("(cache kmalloc-72) was written before its start, or the block before it past its end"),
                Stopped("{} (cache kmalloc-80) was written past its end"),
                Stopped("Right Redzone overwritten"),
            ],
        ),
        row(
            "beside-a-free-one",
            "one byte behind, a free block follows",
            [
                Unnoticed,
                Stopped(
                    "(cache kmalloc-72) was written before its start, or the block before it past its end",
                ),
                Stopped("{} (cache kmalloc-80) was written past its end"),
                Stopped("Right Redzone overwritten"),
            ],
        ),
        row(
            "calloc-product",
            "`calloc` of a product that does not fit",
            [Unnoticed, Unnoticed, Unnoticed, Unnoticed],
        ),
        row(
            "array-product",
            "`reallocarray` of a product that does not fit",
            [Unnoticed, Unnoticed, Unnoticed, Unnoticed],
        ),
    ],
};
