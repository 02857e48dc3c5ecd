//! What becomes of misuse of a cache of one's own: by default, hardened, and with the debug letters F Z P U.
//!
//! The tests run each row and compare; the second half of the page `docs/misuse.md` is made from the same rows.

use End::{Answers, Fault, Stopped, Told, Unnoticed};

/// How a row ends. A text is a part of what is said; `{}` in it stands for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The process stops (SIGABRT) with a message. With letters, where errors do not stop it (`KMEM_ON_ERROR=warn`), it goes on
    /// with the same message.
    Stopped(&'static str),
    /// A message is given, and the process goes on in any case.
    Told(&'static str),
    /// The processor refuses the access (SIGSEGV), and a line says where it was.
    Fault(&'static str),
    /// Nothing is said: the call answers so.
    Answers(&'static str),
    /// Nothing is said, and no call answers.
    Unnoticed,
}

/// A misuse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Its name, by which the test runs it.
    pub(crate) case: &'static str,
    /// What is done.
    pub(crate) what: &'static str,
    /// With the heap as it is.
    pub(crate) default: End,
    /// With the hardened heap.
    pub(crate) hardened: End,
    /// With F Z P U on the caches that are misused.
    pub(crate) debug: End,
}

const fn row(case: &'static str, what: &'static str, [default, hardened, debug]: [End; 3]) -> Row {
    Row { case, what, default, hardened, debug }
}

const WRONG: &str = "cache_from_obj: Wrong slab cache. misuse-second but object";
const BULK_WRONG: &str = "cache_from_obj: Wrong slab cache. misuse-first but object";
const REMAIN: &str = "Objects remaining in misuse-first on __kmem_cache_shutdown()";
const NO_SLAB: &str = "virt_to_cache: Object is not a Slab page!";
const GONE: &str = "which was destroyed";

/// All rows.
pub(crate) const ROWS: &[Row] = &[
    row("wrong-cache", "an object is freed to another cache; it goes home", [Told(WRONG); 3]),
    row(
        "twice",
        "an object is freed twice",
        [
            Answers("`FreeError::Double`"),
            Answers("`FreeError::Double`"),
            Stopped("Slab has 0 allocated objects but 1 are to be freed"),
        ],
    ),
    row(
        "interior",
        "8 bytes into an object are freed",
        [
            Answers("`FreeError::Interior`"),
            Answers("`FreeError::Interior`"),
            Stopped("Invalid object pointer"),
        ],
    ),
    row(
        "foreign",
        "the stack is freed to a cache",
        [Answers("`FreeError::Foreign`"), Answers("`FreeError::Foreign`"), Told(NO_SLAB)],
    ),
    row(
        "overflow",
        "the byte behind an object is written",
        [Unnoticed, Unnoticed, Stopped("Right Redzone overwritten")],
    ),
    row(
        "after-free",
        "a byte of a freed object is written; more are allocated",
        [Unnoticed, Stopped("was written to after it was freed"), Stopped("Poison overwritten")],
    ),
    row(
        "freed-zone",
        "the byte behind a freed object is written; the cache is validated",
        [Unnoticed, Unnoticed, Stopped("Right Redzone overwritten")],
    ),
    row(
        "live",
        "a cache with an object in use is destroyed; its objects may still come home",
        [Told(REMAIN); 3],
    ),
    row("live-twice", "the same, twice: the second answers `DestroyError::Destroyed`", [Told(REMAIN); 3]),
    row("gone-alloc", "a destroyed cache is asked for an object", [Stopped(GONE); 3]),
    row("gone-zalloc", "the same, for a zeroed one", [Stopped(GONE); 3]),
    row("gone-bulk", "the same, for sixteen at once", [Stopped(GONE); 3]),
    row("gone-free", "an object is freed to a destroyed cache", [Stopped(GONE); 3]),
    row(
        "gone-write",
        "an object of a destroyed cache is written to",
        [Unnoticed, Fault("in memory of a cache that was destroyed"), Unnoticed],
    ),
    row(
        "gone-kfree",
        "an object of a destroyed cache is freed by `kfree`",
        [Answers("`FreeError::NotObject`"), Answers("`FreeError::NotObject`"), Told("at free_large_kmalloc")],
    ),
    row("gone-destroy", "a destroyed cache is destroyed", [Answers("`DestroyError::Destroyed`"); 3]),
    row(
        "bulk-null",
        "null is freed among others",
        [Answers("`FreeError::Foreign`"), Answers("`FreeError::Foreign`"), Told(NO_SLAB)],
    ),
    row(
        "bulk-foreign",
        "the stack is freed among others",
        [Answers("`FreeError::Foreign`"), Answers("`FreeError::Foreign`"), Told(NO_SLAB)],
    ),
    row("bulk-other", "an object of another cache is freed among others", [Told(BULK_WRONG); 3]),
    row(
        "bulk-twice",
        "an object is there twice among those that are freed",
        [Answers("`FreeError::Double`"), Answers("`FreeError::Double`"), Stopped("are to be freed")],
    ),
    row(
        "usercopy",
        "bytes outside of a cache's window are about to be copied (`check_usercopy`)",
        [Answers("`UsercopyError`"); 3],
    ),
];
