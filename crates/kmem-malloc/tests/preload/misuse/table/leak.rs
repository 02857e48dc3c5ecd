//! Blocks that are never freed: nobody knows before the end, and then who was asked to look.

use super::End::Unnoticed;
use super::{Program, row};

pub(super) const PROGRAM: Program = Program {
    name: "leak",
    title: "A block is never freed",
    rows: &[row(
        "lost",
        "twenty blocks of 48 bytes that nothing points to any more",
        [Unnoticed, Unnoticed, Unnoticed, Unnoticed],
    )],
};

/// What is said at the end of the row above by who was asked for leaks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leak {
    /// The options of `kmem run`.
    pub(crate) options: &'static str,
    /// The variables that they stand for.
    pub(crate) variables: &'static [(&'static str, &'static str)],
    pub(crate) default: &'static str,
    pub(crate) hardened: &'static str,
}

const WITH_STACK: &str = "960 bytes in 20 objects of 48 bytes, definitely lost, allocated at";

/// Without letters a block is known by its cache, which has room for what the heap keeps beside a block: a header, or a seal.
pub(crate) const LEAKS: &[Leak] = &[
    Leak { options: "--leaks", variables: &[("KMEM_LEAKS", "1")], default: WITH_STACK, hardened: WITH_STACK },
    Leak {
        options: "--leaks --debug=U",
        variables: &[("KMEM_LEAKS", "1"), ("KMEM_DEBUG", "U")],
        default: WITH_STACK,
        hardened: WITH_STACK,
    },
    Leak {
        options: "--leaks --debug=-",
        variables: &[("KMEM_LEAKS", "1"), ("KMEM_DEBUG", "-")],
        default: "1120 bytes in 20 objects of 56 bytes, definitely lost, of cache kmalloc-56",
        hardened: "1280 bytes in 20 objects of 64 bytes, definitely lost, of cache kmalloc-64",
    },
];
