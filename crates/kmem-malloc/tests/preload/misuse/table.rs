//! What becomes of each misuse: under the C library's own allocator, by default, hardened, and with debug
//! letters.
//!
//! The tests run every row's program and compare; the page `docs/misuse.md` is made from the same rows. So neither can say
//! what is not true. A row's program commits one sin, or does the nearest legal thing, about which nobody may complain.

use End::{Broken, Dies, Fault, Later, Perhaps, Reads, Stopped, Unnoticed};

/// How a program ends that misused memory. A text is a part of what is printed; `{}` in it is the misused address,
/// in hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Stopped (SIGABRT) in the call that is wrong, or at the next use of the block, with a message.
    Stopped(&'static str),
    /// Stopped with a message when the heap was used for something else.
    Later(&'static str),
    /// [`End::Stopped`], [`End::Later`] or [`End::Unnoticed`], as the address falls.
    Perhaps(&'static str),
    /// The processor refuses the access (SIGSEGV): where and why is for the user to find out.
    Fault,
    /// One of the three above; it differs from run to run.
    Dies,
    /// What is read tells that it is no content: it goes on with this byte.
    Reads(&'static str),
    /// It goes on. The heap is as good as before.
    Unnoticed,
    /// It goes on, and the heap hands out memory that is in use.
    Broken,
}

/// A misuse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Its name in its program.
    pub(crate) case: &'static str,
    /// What is done.
    pub(crate) what: &'static str,
    /// Under the C library's own allocator, version [`GLIBC`].
    pub(crate) glibc: End,
    /// With the library as it is.
    pub(crate) default: End,
    /// With the hardened library.
    pub(crate) hardened: End,
    /// With the debug letters F Z P U, if errors stop the program. If they do not, it goes on where it is [`End::Stopped`] or
    /// [`End::Later`] here, and its heap is whole.
    pub(crate) debug: End,
}

/// A program of `tests/c/misuse`, and all its rows.
pub(crate) struct Program {
    /// The name of its source, without what follows the last dot.
    pub(crate) name: &'static str,
    /// What its rows have in common.
    pub(crate) title: &'static str,
    /// Why the library stops less than the C library, in rows where it does. Empty: it never does.
    pub(crate) remark: &'static str,
    pub(crate) rows: &'static [Row],
}

/// The version of the C library that the column is about.
pub(crate) const GLIBC: &str = "2.36";

const fn row(case: &'static str, what: &'static str, ends: [End; 4]) -> Row {
    let [glibc, default, hardened, debug] = ends;
    Row { case, what, glibc, default, hardened, debug }
}

pub(crate) const PROGRAMS: &[Program] = &[
    Program {
        name: "double_free",
        title: "A block is freed twice",
        remark: "A block of at most 1024 bytes that was written over from end to end between its frees looks like one in use, if others were freed after it. So it does to the C library up to 128 bytes, and as long as there are no more than seven of its size.",
        rows: &[
            row(
                "small",
                "a block of 64 bytes, at once",
                [
                    Stopped("free(): double free detected in tcache 2"),
                    Stopped("double free of {} (cache kmalloc-64)"),
                    Stopped("double free of {} (cache kmalloc-80)"),
                    Stopped("Slab has 0 allocated objects but 1 are to be freed"),
                ],
            ),
            row(
                "medium",
                "of 2000 bytes, at once",
                [
                    Stopped("double free or corruption (top)"),
                    Stopped("double free of {} (cache kmalloc-2k)"),
                    Stopped("double free of {} (cache kmalloc-2k)"),
                    Stopped("Slab has 0 allocated objects but 1 are to be freed"),
                ],
            ),
            row(
                "pages",
                "of 20000 bytes, at once",
                [
                    Stopped("double free or corruption (top)"),
                    Stopped("double free of {} (cache kmalloc-20k)"),
                    Stopped("double free of {} (cache kmalloc-20k)"),
                    Stopped("Slab has 0 allocated objects but 1 are to be freed"),
                ],
            ),
            row(
                "large",
                "of 200000 bytes, at once",
                [
                    Fault,
                    Stopped("invalid free of {}: nothing is allocated there"),
                    Stopped("invalid free of {}: not memory of this heap"),
                    Stopped("invalid free of {}: nothing is allocated there"),
                ],
            ),
            row(
                "huge",
                "of 8 MiB, at once",
                [
                    Fault,
                    Stopped("invalid free of {}: not memory of this heap"),
                    Stopped("invalid free of {}: not memory of this heap"),
                    Stopped("invalid free of {}: not memory of this heap"),
                ],
            ),
            row(
                "after-one",
                "after another block was freed",
                [
                    Stopped("free(): double free detected in tcache 2"),
                    Stopped("double free of {} (cache kmalloc-64)"),
                    Stopped("double free of {} (cache kmalloc-80)"),
                    Stopped("Slab has 0 allocated objects but 1 are to be freed"),
                ],
            ),
            row(
                "after-many",
                "after hundreds of others were freed",
                [
                    Dies,
                    Stopped("double free of {} (cache kmalloc-64)"),
                    Stopped("double free of {} (cache kmalloc-80)"),
                    Stopped("invalid free of {}: nothing is allocated there"),
                ],
            ),
            row(
                "medium-after-many",
                "of 2000 bytes, after dozens of others were freed",
                [
                    Stopped("double free or corruption (!prev)"),
                    Stopped("double free of {} (cache kmalloc-2k)"),
                    Stopped("double free of {} (cache kmalloc-2k)"),
                    Stopped("invalid free of {}: nothing is allocated there"),
                ],
            ),
            row(
                "first-elsewhere",
                "freed by a thread on another CPU first",
                [
                    Dies,
                    Stopped("double free of {} (cache kmalloc-64)"),
                    Stopped("double free of {} (cache kmalloc-80)"),
                    Stopped("Slab has 0 allocated objects but 1 are to be freed"),
                ],
            ),
            row(
                "then-elsewhere",
                "then by a thread on another CPU",
                [
                    Dies,
                    Stopped("double free of {} (cache kmalloc-64)"),
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
                    Stopped("double free of {} (cache kmalloc-64)"),
                    Stopped("double free of {} (cache kmalloc-80)"),
                    Stopped("Object already free"),
                ],
            ),
            row(
                "aligned",
                "of `aligned_alloc`",
                [
                    Stopped("free(): double free detected in tcache 2"),
                    Stopped("double free of {} (cache kmalloc-512)"),
                    Stopped("double free of {} (cache kmalloc-768)"),
                    Stopped("Slab has 0 allocated objects but 1 are to be freed"),
                ],
            ),
            row(
                "small-overwritten",
                "written over in between",
                [
                    Broken,
                    Stopped("double free of {} (cache kmalloc-64)"),
                    Stopped("double free of {} (cache kmalloc-80)"),
                    Stopped("Slab has 0 allocated objects but 1 are to be freed"),
                ],
            ),
            row(
                "small-overwritten-after-one",
                "written over in between, after another was freed",
                [
                    Broken,
                    Broken,
                    Stopped("double free of {} (cache kmalloc-80)"),
                    Stopped("Slab has 0 allocated objects but 1 are to be freed"),
                ],
            ),
            row(
                "middling-overwritten-after-many",
                "the same, 400 bytes, after many others",
                [
                    Stopped("double free or corruption (!prev)"),
                    Broken,
                    Stopped("double free of {} (cache kmalloc-448)"),
                    Stopped("Object already free"),
                ],
            ),
            row(
                "medium-overwritten-after-one",
                "the same, 2000 bytes",
                [
                    Stopped("double free or corruption (!prev)"),
                    Later("{} (cache kmalloc-2k) was written to after its free, or freed twice"),
                    Stopped("double free of {} (cache kmalloc-2k)"),
                    Stopped("Object already free"),
                ],
            ),
            row(
                "pages-overwritten-after-one",
                "the same, 20000 bytes",
                [
                    Stopped("double free or corruption (!prev)"),
                    Later("{} (cache kmalloc-20k) was written to after its free, or freed twice"),
                    Stopped("double free of {} (cache kmalloc-20k)"),
                    Stopped("Slab has 0 allocated objects but 1 are to be freed"),
                ],
            ),
            row(
                "neighbour-wrote",
                "the byte before the block zeroed in between",
                [
                    Stopped("free(): double free detected in tcache 2"),
                    Stopped("double free of {} (cache kmalloc-256)"),
                    Stopped("double free of {} (cache kmalloc-320)"),
                    Stopped("Object already free"),
                ],
            ),
        ],
    },
    Program {
        name: "invalid_free",
        title: "What is freed is no block",
        remark: "",
        rows: &[
            row(
                "interior",
                "16 bytes into a block of 64",
                [
                    Stopped("free(): invalid pointer"),
                    Stopped("invalid free of {}: no object of cache kmalloc-64 starts there"),
                    Stopped("invalid free of {}: no object of cache kmalloc-80 starts there"),
                    Stopped("Invalid object pointer {}"),
                ],
            ),
            row(
                "interior-odd",
                "1 byte into a block of 64",
                [
                    Stopped("free(): invalid pointer"),
                    Stopped("invalid free of {}: no object of cache kmalloc-64 starts there"),
                    Stopped("invalid free of {}: no object of cache kmalloc-80 starts there"),
                    Stopped("Invalid object pointer {}"),
                ],
            ),
            row(
                "interior-medium",
                "8 bytes into a block of 2048",
                [
                    Stopped("free(): invalid pointer"),
                    Stopped("invalid free of {}: no object of cache kmalloc-2k starts there"),
                    Stopped("invalid free of {}: no object of cache kmalloc-2304 starts there"),
                    Stopped("Invalid object pointer {}"),
                ],
            ),
            row(
                "interior-large",
                "a page into a block of 200000",
                [
                    Stopped("free(): invalid pointer"),
                    Stopped("invalid free of {}: nothing is allocated there"),
                    Stopped("invalid free of {}: not memory of this heap"),
                    Stopped("invalid free of {}: nothing is allocated there"),
                ],
            ),
            row(
                "interior-large-near",
                "16 bytes into a block of 200000",
                [
                    Stopped("free(): invalid pointer"),
                    Stopped("invalid free of {}: nothing is allocated there"),
                    Stopped("invalid free of {}: not memory of this heap"),
                    Stopped("invalid free of {}: nothing is allocated there"),
                ],
            ),
            row(
                "interior-huge",
                "a page into a block of 8 MiB",
                [
                    Stopped("free(): invalid pointer"),
                    Stopped("invalid free of {}: not memory of this heap"),
                    Stopped("invalid free of {}: not memory of this heap"),
                    Stopped("invalid free of {}: not memory of this heap"),
                ],
            ),
            row(
                "interior-huge-near",
                "16 bytes into a block of 8 MiB",
                [
                    Stopped("free(): invalid pointer"),
                    Stopped("invalid free of {}: not memory of this heap"),
                    Stopped("invalid free of {}: not memory of this heap"),
                    Stopped("invalid free of {}: not memory of this heap"),
                ],
            ),
            row(
                "behind-the-last",
                "behind the last block of a slab",
                [
                    Dies,
                    Stopped("invalid free of {}: no object of cache kmalloc-2304 starts there"),
                    Stopped("invalid free of {}: no object of cache kmalloc-2688 starts there"),
                    Stopped("Invalid object pointer {}"),
                ],
            ),
            row(
                "never-allocated",
                "a place for a block that nobody ever had, 2048 bytes",
                [
                    Stopped("free(): invalid pointer"),
                    Stopped("double free of {} (cache kmalloc-2k)"),
                    Stopped("invalid free of {}: no object of cache kmalloc-2304 starts there"),
                    Stopped("Invalid object pointer {}"),
                ],
            ),
            row(
                "never-allocated-near",
                "the same between live blocks, 300 bytes",
                [
                    Stopped("double free or corruption (top)"),
                    Stopped("double free of {} (cache kmalloc-320)"),
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
                    Stopped("realloc(): invalid pointer {}: no object of cache kmalloc-64 starts there"),
                    Stopped("realloc(): invalid pointer {}: no object of cache kmalloc-80 starts there"),
                    Stopped("realloc(): invalid pointer {}: no object of cache kmalloc-64 starts there"),
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
    },
    Program {
        name: "after_free",
        title: "A block is used after its free",
        remark: "Large blocks that are freed stay with the heap, where the C library gives the first of them back to the system.",
        rows: &[
            row("read", "a byte of 64 read", [Reads("0x1"), Reads("0x1"), Reads("0"), Reads("0x6b")]),
            row("read-huge", "a byte of 8 MiB read", [Fault, Fault, Fault, Fault]),
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
                    Stopped("End Poison overwritten"),
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
            row("write-large", "a byte of 200000", [Fault, Unnoticed, Fault, Unnoticed]),
            row("write-huge", "a byte of 8 MiB", [Fault, Fault, Fault, Fault]),
            row(
                "write-everything",
                "all bytes of hundreds of blocks",
                [
                    Dies,
                    Stopped("kmalloc-64"),
                    Stopped("(cache kmalloc-80) was written to after it was freed"),
                    Stopped("Poison overwritten"),
                ],
            ),
            row(
                "realloc",
                "`realloc` to another size",
                [
                    Unnoticed,
                    Stopped("realloc(): {} was freed before (cache kmalloc-64)"),
                    Stopped("realloc(): {} was freed before (cache kmalloc-80)"),
                    Stopped("Object already free"),
                ],
            ),
            row(
                "realloc-in-place",
                "`realloc` to nearly the same size",
                [
                    Unnoticed,
                    Stopped("realloc(): {} was freed before (cache kmalloc-64)"),
                    Stopped("realloc(): {} was freed before (cache kmalloc-80)"),
                    Stopped("Object already free"),
                ],
            ),
            row(
                "realloc-large",
                "`realloc`, 200000 bytes",
                [
                    Fault,
                    Stopped("realloc(): invalid pointer {}: nothing is allocated there"),
                    Stopped("realloc(): invalid pointer {}: not memory of this heap"),
                    Stopped("realloc(): invalid pointer {}: nothing is allocated there"),
                ],
            ),
            row(
                "realloc-huge",
                "`realloc`, 8 MiB",
                [
                    Fault,
                    Stopped("realloc(): invalid pointer {}: not memory of this heap"),
                    Stopped("realloc(): invalid pointer {}: not memory of this heap"),
                    Stopped("realloc(): invalid pointer {}: not memory of this heap"),
                ],
            ),
            row(
                "usable-size",
                "`malloc_usable_size`",
                [
                    Unnoticed,
                    Stopped("malloc_usable_size(): {} was freed before (cache kmalloc-64)"),
                    Stopped("malloc_usable_size(): {} was freed before (cache kmalloc-80)"),
                    Stopped("Object already free"),
                ],
            ),
        ],
    },
    Program {
        name: "overflow",
        title: "Bytes outside of a block are written",
        remark: "The C library has a word of its own in front of each block. A write that leaves a block hits it, and the damage shows later: by this the program is stopped. Here nothing of the heap lies between blocks. The write ends in the neighbour, or in nothing; the heap is whole. A checked heap tells all of them.",
        rows: &[
            row(
                "right-1",
                "one byte behind what may be used of 64",
                [
                    Later("malloc assertion failure in sysmalloc"),
                    Unnoticed,
                    Stopped("{} (cache kmalloc-80) was written past its end"),
                    Stopped("Right Redzone overwritten"),
                ],
            ),
            row(
                "right-1-medium",
                "the same of 2000",
                [
                    Later("malloc assertion failure in sysmalloc"),
                    Unnoticed,
                    Stopped("{} (cache kmalloc-2k) was written past its end"),
                    Stopped("Right Redzone overwritten"),
                ],
            ),
            row(
                "right-1-pages",
                "the same of 20000",
                [
                    Later("malloc assertion failure in sysmalloc"),
                    Unnoticed,
                    Stopped("{} (cache kmalloc-20k) was written past its end"),
                    Stopped("Right Redzone overwritten"),
                ],
            ),
            row("right-1-large", "the same of 200000", [Unnoticed, Unnoticed, Fault, Unnoticed]),
            row(
                "right-8",
                "eight bytes behind 64",
                [
                    Later("malloc(): corrupted top size"),
                    Unnoticed,
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
                    Unnoticed,
                    Perhaps("(cache kmalloc-80) was written to after it was freed"),
                    Stopped("Left Redzone overwritten"),
                ],
            ),
            row(
                "left-8",
                "eight bytes in front",
                [
                    Stopped("double free or corruption (out)"),
                    Unnoticed,
                    Perhaps("(cache kmalloc-80) was written to after it was freed"),
                    Stopped("Left Redzone overwritten"),
                ],
            ),
            row("left-1-large", "one byte in front of 200000", [Unnoticed, Unnoticed, Fault, Unnoticed]),
            row(
                "into-the-next",
                "on into the next block",
                [
                    Stopped("double free or corruption (out)"),
                    Unnoticed,
                    Stopped("{} (cache kmalloc-80) was written past its end"),
                    Stopped("Left Redzone overwritten"),
                ],
            ),
            row(
                "far",
                "on over the whole next block",
                [
                    Stopped("double free or corruption (out)"),
                    Unnoticed,
                    Stopped("{} (cache kmalloc-80) was written past its end"),
                    Stopped("Right Redzone overwritten"),
                ],
            ),
            row(
                "into-a-free-one",
                "on into a free block",
                [
                    Later("double free or corruption (out)"),
                    Unnoticed,
                    Stopped("{} (cache kmalloc-80) was written past its end"),
                    Stopped("Right Redzone overwritten"),
                ],
            ),
            row(
                "beside-a-free-one",
                "one byte behind, a free block follows",
                [
                    Unnoticed,
                    Unnoticed,
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
    },
    Program {
        name: "free_list",
        title: "The first word of every free block is changed, where an allocator may keep its list",
        remark: "",
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
            row(
                "zero",
                "zeroed",
                [Dies, Stopped("Freechain corrupt"), Unnoticed, Stopped("Poison overwritten")],
            ),
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
    },
    Program {
        name: "mismatch",
        title: "A block is given back as what it is not",
        remark: "",
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
                [Unnoticed, Unnoticed, Unnoticed, Stopped("Given back as 100000 bytes, allocated as 200704")],
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
                    Perhaps("{}: it is not aligned to 4096"),
                    Stopped("Given back with an alignment of 4096, allocated with another"),
                ],
            ),
            row(
                "free-aligned-bad-align",
                "of an alignment of 256 as 24",
                [
                    Unnoticed,
                    Unnoticed,
                    Unnoticed,
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
                    Perhaps("{}: it is not aligned to 4096"),
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
                    Perhaps("{}: it is not aligned to 64"),
                    Stopped("Allocated by new, given back by aligned delete"),
                ],
            ),
            row(
                "new-realloc",
                "`new`, `realloc`",
                [Unnoticed, Unnoticed, Unnoticed, Stopped("Allocated by new, given back by free")],
            ),
        ],
    },
];

/// The library by default says what is wrong, and the C library does not, or not always.
pub(crate) fn better(row: &Row) -> bool {
    let says = |end: End| matches!(end, Stopped(_) | Later(_));
    says(row.default) && !says(row.glibc)
}

/// The C library notices, and the library by default does not.
pub(crate) fn worse(row: &Row) -> bool {
    let notices = |end: End| matches!(end, Stopped(_) | Later(_) | Fault | Dies);
    notices(row.glibc) && !notices(row.default)
}
