//! From the loader to a machine that a heap can be built on.
//!
//! | step | module |
//! |---|---|
//! | 32-bit entry, page tables for the first 4 GiB, long mode | `entry.s` |
//! | the loader's memory map and command line | [`pvh`] |
//! | processors and nodes, from the firmware's tables | [`acpi`] |
//! | memory before there is a heap | [`early`] |
//! | the direct map, descriptors' map | [`paging`] |

pub(crate) mod acpi;
pub(crate) mod early;
pub(crate) mod paging;
pub(crate) mod pvh;

use core::arch::global_asm;

global_asm!(include_str!("entry.s"), options(att_syntax));
