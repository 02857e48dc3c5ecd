//! The leak report: what a process still holds when it ends, by the stacks that allocated it.
//!
//! ```text
//! =============================================================================
//! LEAKS <program> (pid <n>): objects in use at the end
//! -----------------------------------------------------------------------------
//!
//! <groups: kmem_core::debug::leaks>
//! SUMMARY: <n> bytes in <n> objects leaked, from <n> places[; <what is not shown>]
//! ```
//! Nothing is written where nothing is lost. What the program can still come to (`reach`) is only added up, or written as
//! well ([`Show`]). Where that cannot be found out all that was not freed is written, and the summary says so.
//!
//! # What is suppressed
//! - A stack without any frame of the program or of a library of its own: the C and C++ runtime's memory, which nobody frees.
//! - A stack whose innermost frame is in the dynamic loader, or is the C library's buffer of a stream.
//! - Patterns of `KMEM_LEAKS_SUPPRESS`, with commas between: one that is found in any line of the stack, as it is printed
//!   (function, library, file). `*` stands for anything; a pattern that begins with `^` is only looked for in
//!   the innermost line.
//!
//! Blocks beyond the largest size class are pages or mappings of their own. Their stacks are kept where U is set for all
//! caches or for `kmalloc-large`; their sizes are those of the pages.
//!
//! # Invariants
//! - I-LEAKS-1: only the process that owns the memory image reports, once. A child of `vfork` borrows its parent's and is silent.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, Ordering};

use kmem_core::debug::leaks::Class;
use kmem_core::report::{self, Text};

use super::number;
use super::reach::Reach;
use crate::heap::Heap;
use crate::host::{fault, misc, names, sink};

const PATTERNS: usize = 2048;

/// What is reported: nothing, or a [`Show`].
static WANTED: AtomicU8 = AtomicU8::new(0);
/// The exit status of a process with leaks; -1: its own.
static STATUS: AtomicI32 = AtomicI32::new(-1);
/// The process whose memory this is, and whether it was forked.
static OWNER: AtomicU32 = AtomicU32::new(0);
static FORKED: AtomicBool = AtomicBool::new(false);
/// The end was told.
static ENDED: AtomicBool = AtomicBool::new(false);
/// `KMEM_LEAKS_SUPPRESS`, ending in 0. Written before the heap is made.
static SUPPRESSED: [AtomicU8; PATTERNS] = [const { AtomicU8::new(0) }; PATTERNS];

/// Always suppressed.
const BUILT_IN: &str = "^_IO_file_doallocate,^_IO_wfile_doallocate,^[ld-linux,^ld-linux";
/// The runtime's files, as frames name them.
const RUNTIME: [&str; 5] = ["ld-linux", "libc.so", "libstdc++.so", "libgcc_s.so", "libkmem_"];

/// Reads the variables. True: tracks are needed.
pub(super) fn configure(variable: &dyn Fn(&str) -> Option<&'static [u8]>, say: &dyn Fn(&str)) -> bool {
    OWNER.store(misc::process(), Ordering::Relaxed);
    match variable("KMEM_LEAKS") {
        None | Some(b"" | b"0") => return false,
        Some(b"1") => WANTED.store(Show::Lost as u8, Ordering::Relaxed),
        Some(b"all") => WANTED.store(Show::All as u8, Ordering::Relaxed),
        Some(b"in-use") => WANTED.store(Show::InUse as u8, Ordering::Relaxed),
        Some(_) => {
            say("KMEM_LEAKS is `0`, `1`, `all` or `in-use`");
            return false;
        }
    }
    if let Some(text) = variable("KMEM_LEAKS_EXIT").filter(|text| !text.is_empty()) {
        match number(text).filter(|&status| status < 256) {
            Some(status) => STATUS.store(status as i32, Ordering::Relaxed),
            None => say("KMEM_LEAKS_EXIT is an exit status"),
        }
    }
    if let Some(text) = variable("KMEM_LEAKS_SUPPRESS") {
        if text.len() < PATTERNS {
            for (slot, &byte) in SUPPRESSED.iter().zip(text) {
                slot.store(byte, Ordering::Relaxed);
            }
        } else {
            say("KMEM_LEAKS_SUPPRESS is too long");
        }
    }
    true
}

/// Leaks are to be reported.
pub(super) fn wanted() -> bool {
    WANTED.load(Ordering::Relaxed) != 0
}

/// What a leak report shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Show {
    /// What the program cannot come to any more; of the rest the sums.
    Lost = 1,
    /// That, and what it can.
    All = 2,
    /// All that was not freed; nobody looks for pointers.
    InUse = 3,
}

/// Reports leaks at the end from now on, or no longer. Only caches with the letter U know whose an object is.
pub fn set_wanted(wanted: Option<Show>) {
    OWNER.store(misc::process(), Ordering::Relaxed);
    WANTED.store(wanted.map_or(0, |show| show as u8), Ordering::Relaxed);
}

/// What the thread that asks has at hand: where its stack's live part begins, and registers that nobody saved there yet.
pub(super) struct Here {
    stack_pointer: usize,
    registers: [usize; 6],
}

impl Here {
    /// Of the function that this is inlined into.
    #[inline(always)]
    fn now() -> Self {
        let mut registers = [0; 6];
        let stack_pointer: usize;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: reads registers, and writes the array.
        unsafe {
            core::arch::asm!(
                "mov [{to}], rbx",
                "mov [{to} + 8], rbp",
                "mov [{to} + 16], r12",
                "mov [{to} + 24], r13",
                "mov [{to} + 32], r14",
                "mov [{to} + 40], r15",
                "mov {sp}, rsp",
                to = in(reg) registers.as_mut_ptr(),
                sp = out(reg) stack_pointer,
                options(nostack, preserves_flags),
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            // The caller saved what this function uses; the rest is below, and counts too.
            stack_pointer = (&raw mut registers).addr() & !4095;
        }
        Self { stack_pointer, registers }
    }

    /// Where the live part of the thread's stack begins: of the program's, if this runs on the heap's own.
    pub(super) fn stack_pointer(&self) -> usize {
        fault::own_stack_left(self.stack_pointer).unwrap_or(self.stack_pointer)
    }

    pub(super) fn words(&self) -> &[usize] {
        &self.registers
    }
}

pub(super) fn after_fork_child() {
    OWNER.store(misc::process(), Ordering::Relaxed);
    FORKED.store(true, Ordering::Relaxed);
    ENDED.store(false, Ordering::Relaxed);
}

/// True once, for the process that owns the memory (I-LEAKS-1).
pub(super) fn may_end(forked_too: bool) -> bool {
    let owner = OWNER.load(Ordering::Relaxed);
    owner == misc::process()
        && (forked_too || !FORKED.load(Ordering::Relaxed))
        && !ENDED.swap(true, Ordering::Relaxed)
}

/// The process ends.
fn is_over() -> bool {
    ENDED.load(Ordering::Relaxed)
}

/// Writes the report, if one is wanted. The exit status that was asked for, when there are leaks.
pub(super) fn report(heap: &Heap) -> Option<i32> {
    let show = match WANTED.load(Ordering::Relaxed) {
        0 => return None,
        1 => Show::Lost,
        2 => Show::All,
        _ => Show::InUse,
    };
    write(heap, show).then(|| STATUS.load(Ordering::Relaxed)).filter(|&status| status >= 0)
}

/// Writes the report now, to where messages go. True: there are leaks.
pub fn write(heap: &Heap, show: Show) -> bool {
    write_to(heap, show, &mut ToMessages(heap))
}

/// Writes the report now. True: there are leaks.
#[inline(never)]
pub(crate) fn write_to(heap: &Heap, show: Show, to: &mut dyn Write) -> bool {
    // Before anything else: what lies below here on the stack is nobody's.
    let here = Here::now();
    // Caches without tracks tell, too, what of theirs is in use.
    let _quiet = heap.quieten();
    let reach = if show == Show::InUse { None } else { Reach::find(heap, &here) };
    write_with(heap, show, reach, to)
}

#[inline(never)]
fn write_with(heap: &Heap, show: Show, mut reach: Option<Reach>, to: &mut dyn Write) -> bool {
    let mut patterns = [0; PATTERNS];
    for (to, from) in patterns.iter_mut().zip(&SUPPRESSED) {
        *to = from.load(Ordering::Relaxed);
    }
    let len = patterns.iter().position(|&byte| byte == 0).unwrap_or(PATTERNS);
    let patterns = core::str::from_utf8(&patterns[..len]).unwrap_or_default();
    let mut out = Lines { line: Text::new(), begun: false, to };
    let mut shown = |frames: &[usize]| !is_suppressed(frames, patterns);
    let mut class_of = |block| reach.as_mut().map_or(Class::InUse, |reach| reach.class_of(block));
    let Ok(Some(found)) = heap.write_leaks_by(&mut class_of, &mut shown, show == Show::All, &mut out) else {
        return false;
    };
    if found.groups == 0 && !out.begun {
        return false;
    }
    out.begin();
    let mut line = Text::<512>::new();
    let _ = write!(
        line,
        "SUMMARY: {} bytes in {} object{} leaked, from {} place{}",
        found.bytes,
        found.objects,
        plural(found.objects),
        found.groups,
        plural(found.groups)
    );
    if found.reachable_objects > 0 {
        let (bytes, objects) = (found.reachable_bytes, found.reachable_objects);
        let _ = write!(line, "; still reachable: {bytes} bytes in {objects} object{}", plural(objects));
    }
    if show != Show::InUse && reach.is_none() {
        let _ = line.write_str("; which of them can be reached is not known");
    }
    if found.hidden_objects > 0 {
        let (bytes, objects) = (found.hidden_bytes, found.hidden_objects);
        let _ = write!(line, "; suppressed: {bytes} bytes in {objects} object{}", plural(objects));
    }
    out.line(format_args!("{}", line.as_str()));
    if found.nameless > 0 {
        let hint = "Who allocated objects of a cache is known where it has the letter U: KMEM_DEBUG=U, or 'kmem run --leaks' \
                    without --debug";
        out.line(format_args!("{hint}"));
    }
    found.groups > 0
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Takes whole lines, to where messages go.
struct ToMessages<'a>(&'a Heap);

impl Write for ToMessages<'_> {
    fn write_str(&mut self, line: &str) -> fmt::Result {
        report::line(self.0.platform(), format_args!("{}", line.trim_end_matches('\n')));
        Ok(())
    }
}

/// Text that goes on line by line, each in one piece, after a title.
struct Lines<'a> {
    line: Text<1024>,
    begun: bool,
    to: &'a mut dyn Write,
}

impl Lines<'_> {
    fn begin(&mut self) {
        if self.begun {
            return;
        }
        self.begun = true;
        let mut program = Text::<64>::new();
        let _ = sink::program(&mut program);
        let when = if is_over() { "at the end" } else { "now" };
        self.line(format_args!("{}", report::RULE));
        self.line(format_args!(
            "LEAKS {} (pid {}): objects in use {when}",
            program.as_str(),
            misc::process()
        ));
        self.line(format_args!("{}", report::LINE));
        self.line(format_args!(""));
    }

    /// A line of its own. What does not fit into one is cut; where it cannot be written it is lost.
    fn line(&mut self, text: fmt::Arguments<'_>) {
        let mut line = Text::<1025>::new();
        let _ = line.write_fmt(text);
        line.end_line();
        let _ = self.to.write_str(line.as_str());
    }
}

impl Write for Lines<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.begin();
        for part in text.split_inclusive('\n') {
            let _ = self.line.write_str(part.trim_end_matches('\n'));
            if part.ends_with('\n') {
                let line = core::mem::take(&mut self.line);
                self.line(format_args!("{}", line.as_str()));
            }
        }
        Ok(())
    }
}

fn is_suppressed(frames: &[usize], patterns: &str) -> bool {
    let mut runtime = !frames.is_empty();
    for (depth, &frame) in frames.iter().enumerate() {
        let mut line = Text::<1024>::new();
        let _ = names::write_line(frame, &mut line);
        let line = line.as_str();
        if matches_any(BUILT_IN, line, depth) || matches_any(patterns, line, depth) {
            return true;
        }
        runtime &= RUNTIME.iter().any(|file| is_in(line, file));
    }
    runtime
}

/// Whether a frame's line says that it is in a file whose name begins so.
fn is_in(line: &str, file: &str) -> bool {
    line.starts_with(file) || line.split(" [").skip(1).any(|rest| rest.starts_with(file))
}

fn matches_any(patterns: &str, line: &str, depth: usize) -> bool {
    patterns.split(',').filter(|pattern| !pattern.is_empty()).any(|pattern| match pattern.strip_prefix('^') {
        Some(innermost) => depth == 0 && is_found(innermost, line),
        None => is_found(pattern, line),
    })
}

/// Whether the parts of a pattern, between its `*`, are found one behind the other.
fn is_found(pattern: &str, line: &str) -> bool {
    let mut rest = line;
    pattern.split('*').all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_found_in_lines() {
        let line = "store::Map::insert+0x12/0x80 [libstore.so] src/map.c:12";
        for (pattern, found) in [
            ("insert", true),
            ("Map*map.c", true),
            ("map.c*Map", false),
            ("libstore.so", true),
            ("other", false),
            ("other,insert", true),
            (",", false),
            ("", false),
        ] {
            assert_eq!(matches_any(pattern, line, 3), found, "{pattern}");
        }
        assert!(matches_any("^insert", line, 0) && !matches_any("^insert", line, 1));
    }

    #[test]
    fn the_runtimes_files_are_known() {
        assert!(is_in("f+0x1/0x2 [libc.so.6] x.c:1", "libc.so"));
        assert!(is_in("libstdc++.so.6+0x123", "libstdc++.so"));
        assert!(!is_in("libc.so_like+0x1/0x2 [mylib.so]", "libstdc++.so"));
        assert!(!is_in("main+0x1/0x2 /src/libc.so/x.c:1", "libc.so"));
    }
}
