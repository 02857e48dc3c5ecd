//! Drawing a [`Picture`] of SLOB: pages as rows of bytes and as lists of their parts, and the three lists of pages.

use kmem_core::engine::slob::Where;
use kmem_core::platform::PAGE_SIZE;

use super::picture::{Page, Picture, UNIT, What};
use super::read::HEADER;
use crate::lab::draw::{Style, entry, plural};

/// Bytes that a character of a page's field stands for.
const GRAIN: usize = 32;
/// Characters in a line of it.
const LINE: usize = 64;
/// Characters between two gaps.
const GROUP: usize = 8;
/// Parts of a page that are listed before the rest is left out, and behind that.
const PARTS: [usize; 2] = [9, 3];
/// Pages that are named in a list.
const NAMED: usize = 4;

/// The three lists.
pub(crate) const RINGS: [&str; 3] = ["small (< 256)", "medium (< 1024)", "large"];

fn mark(what: What, style: Style) -> char {
    match what {
        What::Object => style.block(),
        What::Block(_) => 'k',
        What::Other => 'o',
        What::Free => style.dot(),
    }
}

fn colour(what: What, text: &str, style: Style) -> String {
    match what {
        What::Object => style.paint.good(text),
        What::Block(_) => style.paint.cool(text),
        What::Other => style.paint.warn(text),
        What::Free => style.paint.dim(text),
    }
}

/// One page: its field and its parts.
pub(crate) fn page(page: &Page, style: Style) -> String {
    let place = match page.is.place {
        Where::Ring(ring) => format!("on the list of {} blocks", ["small", "medium", "large"][ring.min(2)]),
        Where::Full => "full, on no list".to_owned(),
        Where::Damaged => "put aside, its free memory was overwritten".to_owned(),
        Where::Whole(pages) => format!("{pages} pages that are one object"),
    };
    let mut out = format!(
        "{} at {:#x} (node {}): {}, {} bytes free; {place}\n",
        style.paint.bold(&format!("page {}", page.label())),
        page.is.base,
        page.is.node,
        plural(page.is.blocks, "block"),
        page.is.free
    );
    if matches!(page.is.place, Where::Ring(_) | Where::Full) {
        out.push_str(&field(page, style));
        out.push_str(&parts(page, style));
    }
    out
}

/// A character for each few bytes: what is in use there, or that nothing is.
fn field(page: &Page, style: Style) -> String {
    let what = |cell: usize| {
        let (from, to) = (cell * GRAIN, (cell + 1) * GRAIN);
        let mut inside = page.runs.iter().filter(|run| run.offset < to && run.offset + run.bytes > from);
        inside.find(|run| run.what != What::Free).map_or(What::Free, |run| run.what)
    };
    // Blocks of different lengths look alike here.
    let kind = |cell| match what(cell) {
        What::Block(_) => What::Block(0),
        other => other,
    };
    let mut out = String::new();
    for first in (0..PAGE_SIZE / GRAIN).step_by(LINE) {
        out.push_str(&format!("{:>6}  ", first * GRAIN / UNIT));
        for cell in first..first + LINE {
            if cell > first && cell.is_multiple_of(GROUP) {
                out.push(' ');
            }
            out.push_str(&colour(kind(cell), &mark(kind(cell), style).to_string(), style));
        }
        out.push('\n');
    }
    out
}

/// The parts of a page, a line each; of many those in the middle are left out.
fn parts(page: &Page, style: Style) -> String {
    let mut out = String::from("          units     bytes\n");
    let all = page.runs.len();
    let [front, back] = PARTS;
    let left_out = if all > front + back + 1 { front..all - back } else { 0..0 };
    for (i, run) in page.runs.iter().enumerate() {
        if left_out.contains(&i) {
            if i == left_out.start {
                let dots = style.dots();
                let text = format!("        {dots} {} more parts {dots}\n", left_out.len());
                out.push_str(&style.paint.dim(&text));
            }
            continue;
        }
        let what = match run.what {
            What::Object => "an object of the cache".to_owned(),
            What::Block(size) => {
                format!("kmalloc({size}): {HEADER} of header, {} for the user", run.bytes - HEADER)
            }
            What::Other => "others' blocks".to_owned(),
            What::Free => match page.runs[i + 1..].iter().find(|run| run.what == What::Free) {
                Some(next) => format!("free; the next free block begins at {}", next.offset / UNIT),
                None => "free; the last".to_owned(),
            },
        };
        let (from, to) = (run.offset / UNIT, (run.offset + run.bytes) / UNIT);
        let mark = colour(run.what, &mark(run.what, style).to_string(), style);
        out.push_str(&format!("      {mark} {from:>5}..{to:<5} {:>5}  {what}\n", run.bytes));
    }
    out
}

/// The three lists, from where the next search begins, and what is on none.
pub(crate) fn lists(picture: &Picture, style: Style) -> String {
    let mut out = style.paint.bold("lists of pages with room") + ", from where the next search begins\n";
    for (ring, name) in RINGS.iter().enumerate() {
        out.push_str(&entry(name, &ring_text(picture, ring, style)));
    }
    let others = picture.pages.iter().filter(|page| !matches!(page.is.place, Where::Ring(_))).count();
    if others > 0 {
        out.push_str(&entry("on no list", &others.to_string()));
    }
    out
}

/// One list: `B (3900 bytes free) > A (24 bytes free)`.
pub(crate) fn ring_text(picture: &Picture, ring: usize, style: Style) -> String {
    let pages = picture.ring(ring);
    let mut names: Vec<String> =
        pages.iter().map(|page| format!("{} ({} free)", page.label(), page.is.free)).collect();
    if names.len() > NAMED {
        let more = names.len() - (NAMED - 1);
        names.truncate(NAMED - 1);
        names.push(format!("{more} more"));
    }
    if names.is_empty() { "none".to_owned() } else { names.join(style.arrow()) }
}

/// What the characters mean.
pub(crate) fn legend(style: Style) -> String {
    let entries = [
        (What::Object, "an object"),
        (What::Block(0), "kmalloc"),
        (What::Other, "others'"),
        (What::Free, "free"),
    ];
    let text: Vec<String> = entries
        .iter()
        .map(|(what, text)| format!("{} {text}", colour(*what, &mark(*what, style).to_string(), style)))
        .collect();
    format!("        {}   (a character: {GRAIN} bytes)\n", text.join("   "))
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
