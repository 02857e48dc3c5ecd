//! Drawing a [`Picture`] of SLAB: slabs as fields of objects with their indexes, the arrays of CPUs and nodes, the lists.

use kmem_core::view::picture::slab::{IndexHome, List};

use super::picture::{Picture, Slab, State};
use crate::lab::draw::{Style, chain, entry};
use crate::units::count;

/// Objects in a line of a slab's field.
const LINE: usize = 32;
/// Objects between two gaps in such a line.
const GROUP: usize = 8;
/// Slabs that are drawn, and named in a list.
const FIELDS: usize = 4;
/// Objects of an array that are named.
const NAMED: usize = 6;
/// Entries of an index before and behind the place where the next object is taken.
const ENTRIES: usize = 6;

fn mark(state: State, style: Style) -> char {
    match state {
        State::InUse => style.block(),
        State::Array(cpu) => char::from(b'0' + (cpu % 10) as u8),
        State::Shared(_) => 's',
        State::Alien(_) => 'a',
        State::Home => 'i',
        State::Free => style.dot(),
    }
}

fn colour(state: State, text: &str, style: Style) -> String {
    match state {
        State::InUse => style.paint.good(text),
        State::Array(_) => style.paint.cool(text),
        State::Shared(_) | State::Alien(_) => style.paint.warn(text),
        State::Home => style.paint.bold(text),
        State::Free => style.paint.dim(text),
    }
}

/// The whole picture: slabs, legend, arrays, lists.
pub(crate) fn picture(picture: &Picture, style: Style) -> String {
    if picture.slabs.is_empty() {
        return format!("{} has no slab.\n", picture.facts.name);
    }
    let states = picture.states();
    let mut out = String::new();
    // Those with something free tell more.
    let mut chosen: Vec<usize> = (0..picture.slabs.len()).collect();
    chosen.sort_by_key(|i| (picture.slabs[*i].is.list == List::Full, picture.slabs[*i].name));
    chosen.truncate(FIELDS);
    chosen.sort_by_key(|i| picture.slabs[*i].name);
    for i in chosen {
        out.push_str(&title(&picture.slabs[i], style));
        out.push_str(&field(&states[i], style));
        out.push_str(&index(picture, &picture.slabs[i], style));
    }
    if picture.slabs.len() > FIELDS {
        out.push_str(&format!("and {} more slabs\n", picture.slabs.len() - FIELDS));
    }
    out.push_str(&legend(&states, style));
    out.push_str(&cpus(picture, style));
    out.push_str(&nodes(picture, style));
    out
}

/// The first line of a slab.
pub(crate) fn title(slab: &Slab, style: Style) -> String {
    let is = &slab.is;
    let list = match is.list {
        List::Partial => "partial",
        List::Full => "full",
        List::Free => "free",
    };
    format!(
        "{} at {:#x} (node {}, {list}): {} of {} objects out; the first begins at byte {}\n",
        style.paint.bold(&format!("slab {}", slab.label())),
        is.base,
        is.node,
        is.active,
        is.objects,
        is.first
    )
}

/// The objects of one slab in address order, a character each. Lines that repeat the one before are left out.
fn field(states: &[State], style: Style) -> String {
    let mut out = String::new();
    let lines: Vec<&[State]> = states.chunks(LINE).collect();
    let mut skipped = 0;
    for (number, line) in lines.iter().enumerate() {
        if number > 0 && number + 1 < lines.len() && lines[number - 1] == *line {
            skipped += 1;
            continue;
        }
        if skipped > 0 {
            out.push_str(&format!("      {}\n", style.paint.dim(&format!("({skipped} more such lines)"))));
            skipped = 0;
        }
        out.push_str(&format!("{:>6}  ", number * LINE));
        let mut column = 0;
        for run in line.chunk_by(|a, b| a == b) {
            let mut text = String::new();
            for state in run {
                if column > 0 && column % GROUP == 0 {
                    text.push(' ');
                }
                text.push(mark(*state, style));
                column += 1;
            }
            out.push_str(&colour(run[0], &text, style));
        }
        out.push('\n');
    }
    out
}

/// Where the index lies, and its entries around the place where the next object is taken.
fn index(picture: &Picture, slab: &Slab, style: Style) -> String {
    let place = match slab.is.index {
        IndexHome::None => return entry("index", "none: of one object the count tells all"),
        IndexHome::Nowhere => {
            return entry("index", "none now: it lies in a free object, and there is no free object");
        }
        IndexHome::OnSlab(offset) => format!("in the slab, at byte {offset}"),
        IndexHome::OffSlab(address) => {
            let of = slab.index_cache.as_ref().map_or(String::new(), |name| format!(", an object of {name}"));
            format!("outside, at {address:#x}{of}")
        }
        IndexHome::InObject(number) => format!("in the free object {}{number}", slab.label()),
    };
    let mut out = entry("index", &place);
    if picture.facts.linked {
        let order: Vec<usize> = slab.order.iter().map(|number| *number as usize).collect();
        out.push_str(&entry("  free", &chain(&order, 2 * ENTRIES, |number| number.to_string(), style)));
        return out;
    }
    // The entries before `active` are what was taken; what stands there means nothing any more.
    let (entries, active) = (&slab.entries, slab.is.active);
    let from = active.saturating_sub(ENTRIES);
    let to = (active + ENTRIES).min(entries.len());
    let numbers = |range: &[u32]| range.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let mut before = numbers(&entries[from..active]);
    if from > 0 {
        before = format!("{} {before}", style.dots());
    }
    let mut behind = numbers(&entries[active..to]);
    if to < entries.len() {
        behind = format!("{behind} {} {}", style.dots(), entries[entries.len() - 1]);
    }
    let text = format!("{} [{behind}]", style.paint.dim(&before));
    out.push_str(&entry("  entries", text.trim_start()));
    let next = match entries.get(active) {
        Some(number) => format!("active {active}: the entry there is taken next, {}{number}", slab.label()),
        None => format!("active {active}: all are out"),
    };
    out.push_str(&entry("", &next));
    out
}

/// What the characters that occur mean, and how often each does.
fn legend(states: &[Vec<State>], style: Style) -> String {
    let mut kinds: Vec<(State, u64)> = Vec::new();
    for state in states.iter().flatten() {
        match kinds.iter_mut().find(|(kind, _)| kind == state) {
            Some((_, number)) => *number += 1,
            None => kinds.push((*state, 1)),
        }
    }
    kinds.sort();
    let mut lines = vec![String::new()];
    let mut width = 0;
    for (state, number) in kinds {
        let meaning = match state {
            State::InUse => "in use".to_owned(),
            State::Array(cpu) => format!("in CPU {cpu}'s array"),
            State::Shared(node) => format!("in node {node}'s shared array"),
            State::Alien(node) => format!("on node {node}, on the way home"),
            State::Free => "free in the slab".to_owned(),
            State::Home => "free, holds the index".to_owned(),
        };
        let text = format!("{meaning}: {}", count(number));
        if width > 0 && width + text.len() + 5 > 70 {
            lines.push(String::new());
            width = 0;
        }
        let line = lines.len() - 1;
        if width > 0 {
            lines[line].push_str("   ");
        }
        lines[line].push_str(&format!("{} {text}", colour(state, &mark(state, style).to_string(), style)));
        width += text.len() + 5;
    }
    lines.iter().map(|line| format!("        {line}\n")).collect()
}

/// `oldest A0, A1, …, A9 newest`.
fn array(picture: &Picture, objects: &[usize], style: Style) -> String {
    match objects.len() {
        0 => "empty".to_owned(),
        1 => picture.label(objects[0]),
        _ => format!("oldest {} newest", chain(objects, NAMED, |object| picture.label(object), style)),
    }
}

fn cpus(picture: &Picture, style: Style) -> String {
    let mut out = String::new();
    let [limit, batch, _] = picture.facts.tunables;
    for (number, cpu) in picture.cpus.iter().enumerate() {
        out.push_str(&style.paint.bold(&format!("CPU {number}")));
        out.push_str(&format!(" (node {})\n", cpu.node));
        if limit == 0 {
            continue;
        }
        let touched = if cpu.touched { "touched" } else { "untouched since last reaped" };
        let fill = format!("{} of {limit}, batchcount {batch}, {touched}", cpu.array.len());
        out.push_str(&entry("array", &fill));
        if !cpu.array.is_empty() {
            out.push_str(&entry("", &array(picture, &cpu.array, style)));
        }
    }
    out
}

fn nodes(picture: &Picture, style: Style) -> String {
    let mut out = String::new();
    for (number, node) in picture.nodes.iter().enumerate() {
        out.push_str(&style.paint.bold(&format!("node {number}")));
        out.push('\n');
        if picture.facts.tunables[2] > 0 || node.is.shared_room > 0 {
            let fill = match node.is.shared_room {
                0 => "none yet".to_owned(),
                room => format!("{} of {room}", node.shared.len()),
            };
            out.push_str(&entry("shared array", &fill));
            if !node.shared.is_empty() {
                out.push_str(&entry("", &array(picture, &node.shared, style)));
            }
        }
        for (home, objects) in &node.aliens {
            let what = format!("alien, node {home}");
            out.push_str(&entry(&what, &array(picture, objects, style)));
        }
        for (what, list) in
            [("slabs_partial", List::Partial), ("slabs_full", List::Full), ("slabs_free", List::Free)]
        {
            out.push_str(&entry(what, &slabs(picture, number, list, style)));
        }
        let limit =
            format!("{} in slabs, more than {} are given back", node.is.free_objects, node.is.free_limit);
        out.push_str(&entry("free objects", &limit));
    }
    out
}

fn slabs(picture: &Picture, node: usize, list: List, style: Style) -> String {
    let found = picture.slabs.iter().filter(|slab| slab.is.node == node && slab.is.list == list);
    let mut names: Vec<String> = found
        .map(|slab| format!("{} ({} of {} out)", slab.label(), slab.is.active, slab.is.objects))
        .collect();
    if names.len() > FIELDS {
        let more = names.len() - (FIELDS - 1);
        names.truncate(FIELDS - 1);
        names.push(format!("{more} more"));
    }
    if names.is_empty() { "none".to_owned() } else { names.join(style.arrow()) }
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
