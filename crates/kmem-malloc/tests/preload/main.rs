//! Conformance of `libkmem_malloc.so` as a C program sees it.
//!
//! Each subject is a small C program in `tests/c`. It runs with the library preloaded, once as the
//! machine offers it, once with restartable sequences refused; and where the expectation is the C
//! library's own behaviour also on the C library's allocator, which proves the program right. Exit status,
//! standard output and standard error are all checked, and a program that does not end is killed and fails.
//!
//! Needs `gcc`, `g++` and `readelf`. `KMEM_TEST_ENGINE` (`slab`, `slob`, `hardened`) tests the library with another engine than SLUB,
//! or the hardened one;
//! where the expectation is one engine's own, the test says so. `KMEM_LIB` names another library to test.

mod callbacks;
mod conformance;
mod debug;
mod fail;
mod guard;
mod hardened;
mod library;
mod live;
mod misuse;
mod reach;
mod reports;
mod stacks;
mod support;
mod wake;
mod watch;
