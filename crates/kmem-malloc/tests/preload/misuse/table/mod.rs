//! What becomes of each misuse: under the C library's own allocator, by default, hardened, and with debug
//! letters.
//!
//! The tests run every row's program and compare; the page `docs/misuse.md` is made from the same rows. So neither can say
//! what is not true. A row's program commits one sin, or does the nearest legal thing, about which nobody may complain.

mod after_free;
mod double_free;
mod free_list;
mod invalid_free;
mod leak;
mod mismatch;
mod overflow;

use End::{Later, Noticed, Stopped};

pub(crate) use leak::{LEAKS, Leak};

/// How a program ends that misused memory. A text is a part of what is printed; `{}` in it is the misused address,
/// in hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Stopped (SIGABRT) in the call that is wrong, or at the next use of the block, with a message.
    Stopped(&'static str),
    /// Stopped with a message when the heap was used for something else.
    Later(&'static str),
    /// [`End::Stopped`] or [`End::Later`], as the address falls.
    Noticed(&'static str),
    /// The processor refuses the access (SIGSEGV): where and why is for the user to find out.
    Fault,
    /// The same, and the line before says where it was.
    Named(&'static str),
    /// [`End::Stopped`], [`End::Later`] or [`End::Fault`]; it differs from run to run.
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
    pub(crate) rows: &'static [Row],
}

/// The version of the C library that the column is about.
pub(crate) const GLIBC: &str = "2.36";

const fn row(case: &'static str, what: &'static str, ends: [End; 4]) -> Row {
    let [glibc, default, hardened, debug] = ends;
    Row { case, what, glibc, default, hardened, debug }
}

/// All programs, a module each.
pub(crate) const PROGRAMS: &[Program] = &[
    double_free::PROGRAM,
    invalid_free::PROGRAM,
    after_free::PROGRAM,
    overflow::PROGRAM,
    free_list::PROGRAM,
    mismatch::PROGRAM,
    leak::PROGRAM,
];

/// The library by default says what is wrong, and the C library does not, or not always.
pub(crate) fn better(row: &Row) -> bool {
    let says = |end: End| matches!(end, Stopped(_) | Later(_) | Noticed(_));
    says(row.default) && !says(row.glibc)
}
