//! Drawing a [`Picture`]: slabs as fields of objects, the lists of CPUs and nodes, the bytes of an object.

use super::picture::{Facts, Picture, Place, Slab, State};
use crate::lab::draw::{self, Style, entry};
use crate::units::count;

/// Objects in a line of a slab's field.
const LINE: usize = 32;
/// Objects between two gaps in such a line.
const GROUP: usize = 8;
/// Slabs whose fields are drawn; of more, only the lists tell.
const FIELDS: usize = 4;
/// Objects of a list that are named.
const NAMED: usize = 12;
/// Characters for the bytes of an object, at most.
const BYTES: usize = 64;

fn mark(state: State, style: Style) -> char {
    match state {
        State::InUse => style.block(),
        State::Stack(cpu) => char::from(b'0' + (cpu % 10) as u8),
        State::CpuList(_) => 'c',
        State::SlabList => 's',
        State::Barn(_) => 'b',
        State::Fresh => style.dot(),
    }
}

fn colour(state: State, text: &str, style: Style) -> String {
    match state {
        State::InUse => style.paint.good(text),
        State::Stack(_) | State::CpuList(_) => style.paint.cool(text),
        State::SlabList | State::Barn(_) => style.paint.warn(text),
        State::Fresh => style.paint.dim(text),
    }
}

/// The whole picture: fields, legend, lists.
pub(crate) fn picture(picture: &Picture, style: Style) -> String {
    if picture.slabs.is_empty() {
        return format!("{} has no slab.\n", picture.facts.name);
    }
    let states = picture.states();
    let mut out = String::new();
    for index in fields(picture) {
        out.push_str(&title(picture, index, &states[index], style));
        out.push_str(&field(&states[index], style));
    }
    if picture.slabs.len() > FIELDS {
        let full = picture.slabs.iter().filter(|slab| slab.place == Place::Full).count();
        let more = picture.slabs.len() - FIELDS;
        out.push_str(&format!("and {more} more slabs; {full} of all have nothing free\n"));
    }
    out.push_str(&legend(&states, style));
    out.push_str(&lists(picture, &states, style));
    out
}

/// Which slabs to draw, by letter: if not all, rather those in which something is free.
fn fields(picture: &Picture) -> Vec<usize> {
    let mut chosen: Vec<usize> = (0..picture.slabs.len()).collect();
    chosen.sort_by_key(|index| (picture.slabs[*index].place == Place::Full, picture.slabs[*index].name));
    chosen.truncate(FIELDS);
    chosen.sort_by_key(|index| picture.slabs[*index].name);
    chosen
}

fn title(picture: &Picture, index: usize, states: &[State], style: Style) -> String {
    let slab = &picture.slabs[index];
    let who = match slab.place {
        Place::Cpu(cpu) => format!("the slab of CPU {cpu}"),
        Place::CpuPartial(cpu) => format!("in the chain of CPU {cpu}"),
        Place::NodePartial(node) => format!("on the list of node {node}"),
        Place::Full => "nothing free, on no list".to_owned(),
    };
    let used = states.iter().filter(|state| **state == State::InUse).count();
    let name = style.paint.bold(&format!("slab {}", slab.label()));
    format!(
        "{name} at {:#x} (node {}): {used} of {} objects in use; {who}\n",
        slab.base, slab.node, slab.objects
    )
}

/// The objects of one slab in address order, a character each. Lines that repeat the one before are left out.
fn field(states: &[State], style: Style) -> String {
    let mut out = String::new();
    let lines: Vec<&[State]> = states.chunks(LINE).collect();
    let mut skipped = 0;
    for (index, line) in lines.iter().enumerate() {
        let repeats = index > 0 && index + 1 < lines.len() && lines[index - 1] == *line;
        if repeats {
            skipped += 1;
            continue;
        }
        if skipped > 0 {
            out.push_str(&format!("      {}\n", style.paint.dim(&format!("({skipped} more such lines)"))));
            skipped = 0;
        }
        out.push_str(&format!("{:>6}  ", index * LINE));
        for (position, group) in line.chunk_by(|a, b| a == b).scan(0, |at, run| {
            let start = *at;
            *at += run.len();
            Some((start, run))
        }) {
            let mut text = String::new();
            for offset in 0..group.len() {
                let column = position + offset;
                if column > 0 && column.is_multiple_of(GROUP) {
                    text.push(' ');
                }
                text.push(mark(group[0], style));
            }
            out.push_str(&colour(group[0], &text, style));
        }
        out.push('\n');
    }
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
    kinds.sort_by_key(|(state, _)| match state {
        State::InUse => (0, 0),
        State::Stack(cpu) => (1, *cpu),
        State::CpuList(cpu) => (2, *cpu),
        State::SlabList => (3, 0),
        State::Barn(node) => (4, *node),
        State::Fresh => (5, 0),
    });
    let entries: Vec<String> = kinds
        .iter()
        .map(|(state, number)| {
            let meaning = match state {
                State::InUse => "in use".to_owned(),
                State::Stack(cpu) => format!("on CPU {cpu}'s stack"),
                State::CpuList(cpu) => format!("on the list of CPU {cpu}'s slab"),
                State::SlabList => "on the slab's list".to_owned(),
                State::Barn(node) => format!("in node {node}'s barn"),
                State::Fresh => "never handed out".to_owned(),
            };
            let mark = colour(*state, &mark(*state, style).to_string(), style);
            format!("{mark} {meaning}: {}", count(*number))
        })
        .collect();
    format!("        {}\n", entries.join("   "))
}

/// What each CPU and each node keeps, in the order in which it will be handed out.
fn lists(picture: &Picture, states: &[Vec<State>], style: Style) -> String {
    let mut out = String::new();
    let with_fill = |index: usize| {
        let used = states[index].iter().filter(|state| **state == State::InUse).count();
        format!("{} ({used} of {} in use)", picture.slabs[index].label(), picture.slabs[index].objects)
    };
    let slabs_at = |place: Place| -> Vec<String> {
        let found = picture.slabs.iter().enumerate().filter(|(_, slab)| slab.place == place);
        let mut names: Vec<String> = found.map(|(index, _)| with_fill(index)).collect();
        if names.len() > FIELDS {
            let more = names.len() - FIELDS;
            names.truncate(FIELDS);
            names.push(format!("{more} more"));
        }
        names
    };
    for (number, cpu) in picture.cpus.iter().enumerate() {
        out.push_str(&style.paint.bold(&format!("CPU {number}")));
        out.push_str(&format!(" (node {})\n", cpu.node));
        if picture.facts.stack_capacity > 0 {
            let what = format!("stack ({} of {})", cpu.stack.len(), picture.facts.stack_capacity);
            out.push_str(&entry(&what, &chain(picture, &cpu.stack, style)));
        }
        let own = picture.slabs.iter().position(|slab| slab.place == Place::Cpu(number));
        let list = match own {
            None => "none".to_owned(),
            Some(index) => {
                let fresh = picture.slabs[index].fresh.len();
                let untouched = if fresh > 0 {
                    format!(", {} never handed out", count(fresh as u64))
                } else {
                    String::new()
                };
                format!(
                    "{}, list: {}{untouched}",
                    picture.slabs[index].label(),
                    chain(picture, &cpu.list, style)
                )
            }
        };
        out.push_str(&entry("slab", &list));
        let partial = slabs_at(Place::CpuPartial(number));
        if !partial.is_empty() {
            out.push_str(&entry("more slabs", &partial.join(style.arrow())));
        }
    }
    for (number, node) in picture.nodes.iter().enumerate() {
        out.push_str(&style.paint.bold(&format!("node {number}")));
        out.push('\n');
        let partial = slabs_at(Place::NodePartial(number));
        let text = if partial.is_empty() { "none".to_owned() } else { partial.join(style.arrow()) };
        out.push_str(&entry("partial slabs", &text));
        let text = match node.barn.len() {
            0 => "empty".to_owned(),
            1 => "1 object".to_owned(),
            n => format!("{} objects", count(n as u64)),
        };
        out.push_str(&entry("barn", &text));
    }
    let mut listed: Vec<&Slab> = picture.slabs.iter().filter(|slab| !slab.list.is_empty()).collect();
    listed.sort_by_key(|slab| slab.name);
    if listed.len() > FIELDS {
        out.push_str(&entry("free in slabs", &format!("lists of {} slabs", listed.len())));
        listed.clear();
    }
    for slab in listed {
        let what = format!("free in slab {}", slab.label());
        out.push_str(&entry(&what, &chain(picture, &slab.list, style)));
    }
    out
}

/// The objects of a list, by their labels.
fn chain(picture: &Picture, objects: &[usize], style: Style) -> String {
    draw::chain(objects, NAMED, |object| picture.label(object), style)
}

/// The bytes of one object, in use and free. Objects of more than [`BYTES`] bytes are scaled down.
pub(crate) fn layout(facts: &Facts, style: Style) -> String {
    let unit = facts.size.div_ceil(BYTES).next_power_of_two();
    let word = size_of::<usize>();
    // A cell shows what its first byte is; a part smaller than a cell still gets one when it begins there.
    let cells = facts.size.div_ceil(unit);
    let pointer = facts.free_pointer..facts.free_pointer + word;
    let cell = |index: usize, free: bool| {
        let bytes = index * unit..((index + 1) * unit).min(facts.size);
        if free && bytes.start < pointer.end && pointer.start < bytes.end {
            '>'
        } else if bytes.start < facts.object_size {
            if free { '.' } else { 'o' }
        } else {
            '-'
        }
    };
    let row = |free: bool| (0..cells).map(|index| cell(index, free)).collect::<String>();
    let mut ruler = vec![' '; cells + 8];
    let step = (cells / 4).max(8).next_multiple_of(8);
    for index in (0..cells).step_by(step) {
        for (place, digit) in (index * unit).to_string().chars().enumerate() {
            ruler[index + place] = digit;
        }
    }
    let ruler: String = ruler.into_iter().collect();
    let padding = facts.size - facts.object_size;
    let scale = if unit > 1 { format!(", {unit} bytes a character") } else { String::new() };
    format!(
        "one object, {} bytes from the next{scale}\n  byte    {}\n  in use  {}\n  free    {}\n\
         \x20         o {} bytes for the user   {}> free pointer at {}\n",
        facts.size,
        ruler.trim_end(),
        style.paint.good(&row(false)),
        style.paint.dim(&row(true)),
        facts.object_size,
        if padding > 0 { format!("- {padding} of padding   ") } else { String::new() },
        facts.free_pointer,
    )
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
