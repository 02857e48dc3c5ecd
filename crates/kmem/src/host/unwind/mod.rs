//! Walking the stack by rules that are kept: what makes a call stack for every request payable.
//!
//! # Theory
//! The tables of an object file say for each place in its code how to come from a frame to its caller's. Reading them is what
//! an unwinder spends its time with: search, decode, interpret, for every frame of every stack, although a program has only
//! so many places that it calls from. Here each place's answer is found out once and kept as a [`Rule`], a few bits:
//!
//! ```text
//! CFA = rsp + n   or   rbp + n   or   what lies at rbp + n        (the stack pointer before the call)
//! return address at CFA - 8;   rbp as it is, or saved at CFA - 8k, or where rbp points
//! ```
//! That is what compilers make on x86-64, with frame pointers and without. A frame then costs some ten instructions. Whatever is not
//! of this kind (code without a file, hand-written rules, other processors) is left to the compiler's unwinder, the whole stack: the
//! answer is the same in all cases, only dearer.
//!
//! | file | decides |
//! |---|---|
//! | [`rule`] | what a rule says, its bits, and the table that keeps them |
//! | [`tables`] | the rule of a place, from its file's `.eh_frame` |
//! | [`files`] | which files the kept rules are from: code may be unloaded |
//!
//! # Invariants
//! - I-UNWIND-1: only words between the first frame's stack pointer and the end of this thread's stack are read, each frame above the
//!   last. A walk may begin on the stack that faults are judged on; it goes on where that stack was come to from, once.
//!   A stack of the program's own making (coroutines, a signal's) is left to the compiler's unwinder.
//! - I-UNWIND-2: a rule is kept only with all of its place's address, so one that is found is that place's.
//!
//! # Never
//! Nothing here allocates, waits, or takes a lock; a walk may interrupt another one (signals).

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

mod files;
mod rule;
mod tables;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

pub(super) use files::after_fork_child;
use rule::{Kind, Rule};

use super::{fault, misc, weak};

/// The farthest that a stack's end is looked for, in bytes: what lies further away is not this thread's stack.
const FARTHEST: usize = 64 << 20;
/// In what a signal's handler was given (`ucontext_t`): where the interrupted registers lie, and which of them are these.
const REGISTERS: usize = 40;
const SAVED_RBP: usize = 10;
const SAVED_RSP: usize = 15;
const SAVED_RIP: usize = 16;

/// Where a walk begins.
#[derive(Clone, Copy)]
pub(super) struct Registers {
    pc: usize,
    sp: usize,
    bp: usize,
}

impl Registers {
    /// Those of the function that this is inlined into.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn here() -> Self {
        let (pc, sp, bp);
        // SAFETY: reads three registers. The place that it names lies inside of it, where the stack is as around it.
        unsafe {
            core::arch::asm!(
                "lea {pc}, [rip]",
                "mov {sp}, rsp",
                "mov {bp}, rbp",
                pc = out(reg) pc,
                sp = out(reg) sp,
                bp = out(reg) bp,
                options(nomem, nostack, preserves_flags),
            );
        }
        Self { pc, sp, bp }
    }

    /// Nowhere: walks by rules are for x86-64.
    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    pub(super) fn here() -> Self {
        Self { pc: 0, sp: 0, bp: 0 }
    }
}

/// The end of the stack that `sp` is on, if that is this thread's own. The C library keeps a thread's own data above its stack;
/// the first thread's stack ends where the loader found it.
fn stack_end(sp: usize) -> Option<usize> {
    if let Some(end) = fault::own_stack_end(sp) {
        return Some(end);
    }
    let near = |end: usize| (end > sp && end - sp < FARTHEST).then_some(end);
    let initial = weak::stack_end();
    // SAFETY: the loader's variable, where there is one; it does not change any more.
    let initial = if initial.is_null() { 0 } else { unsafe { initial.read() }.addr() };
    near(initial).or_else(|| near(misc::thread_pointer()))
}

/// The stack that a frame with its stack pointer at `sp` was come to from: where its own words begin, and its end. `None`: its caller,
/// whose stack pointer was `from`, is on no other stack that can be walked.
#[cold]
fn other_stack(from: usize, sp: usize) -> Option<(usize, usize)> {
    let left = fault::own_stack_left(sp)?;
    (from.checked_sub(fault::STEP) == Some(left)).then_some(())?;
    Some((left, stack_end(left)?))
}

/// Shows the places of the frames from `from` on, the nearest first, until `visit` says false. False: this stack cannot be walked by
/// rules, and what was shown means nothing.
pub(super) fn walk(from: Registers, mut visit: impl FnMut(usize) -> bool) -> bool {
    if cfg!(not(target_arch = "x86_64")) {
        return false;
    }
    let Registers { mut pc, mut sp, mut bp } = from;
    let Some(mut end) = stack_end(sp) else { return false };
    // SAFETY: the address is checked by the caller below: aligned, in this thread's stack (I-UNWIND-1).
    let word = |at: usize| unsafe { (at as *const usize).read_volatile() };
    let within = |at: usize, sp: usize, end: usize| at >= sp && at < end && at.is_multiple_of(8);
    // A call is looked up by the address it returns to, which belongs to the code before it; an interrupted instruction by its own.
    let mut exact = true;
    loop {
        if !visit(pc) {
            return true;
        }
        let inside = |at: usize, sp: usize| within(at, sp, end);
        let rule = rule::find(pc + usize::from(exact));
        let kind = rule.kind();
        let from = match kind {
            // Nearly all code that has no frame pointers, and then that which has: two branches instead of a table of jumps.
            _ if kind == Kind::Rsp => sp.wrapping_add_signed(rule.offset()),
            _ if kind == Kind::Rbp => bp.wrapping_add_signed(rule.offset()),
            Kind::End => return true,
            Kind::Rsp | Kind::Rbp | Kind::Other => return false,
            Kind::Signal => {
                let saved = |register: usize| sp + REGISTERS + 8 * register;
                if !inside(saved(SAVED_RIP), sp) || !inside(sp, sp) {
                    return false;
                }
                let next = word(saved(SAVED_RSP));
                if !inside(next, sp) {
                    return false;
                }
                (pc, bp, sp, exact) = (word(saved(SAVED_RIP)), word(saved(SAVED_RBP)), next, true);
                if pc == 0 {
                    return true;
                }
                continue;
            }
            Kind::AtRbp => {
                let at = bp.wrapping_add_signed(rule.offset());
                if !inside(at, sp) || !inside(bp, sp) {
                    return false;
                }
                word(at)
            }
        };
        // The frame's return address and what else it saved lie between its stack pointer and the caller's.
        if from <= sp || !inside(from - 8, sp) {
            let Some(other) = other_stack(from, sp) else { return false };
            (sp, end) = other;
        }
        let inside = |at: usize, sp: usize| within(at, sp, end);
        match rule.saved_rbp() {
            0 => {}
            Rule::WHERE_IT_POINTS => {
                if !inside(bp, sp) {
                    return false;
                }
                bp = word(bp);
            }
            words => {
                let at = from.wrapping_sub(8 * words);
                if !inside(at, sp) {
                    return false;
                }
                bp = word(at);
            }
        }
        (pc, sp, exact) = (word(from - 8), from, false);
        if pc == 0 {
            return true;
        }
    }
}
