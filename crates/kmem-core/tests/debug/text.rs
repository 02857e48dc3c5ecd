//! Captured reports and ours, brought to a common form: what differs between two machines is taken out.
//!
//! Out go the lines of the machine (its stack at the time of the report, registers, modules) and of the module
//! that made the fault; addresses become their place in the page; ages, threads and offsets in functions become
//! `#`.

/// The captured report of this name.
pub(crate) fn golden(name: &str) -> Vec<String> {
    let all = include_str!("../../../../golden/slub_reports.txt");
    let (begin, end) = (format!("SLBAD begin {name}\n"), format!("SLBAD end {name}\n"));
    let start = all.find(&begin).unwrap_or_else(|| panic!("no report {name}")) + begin.len();
    // One report was cut off before its end.
    let len = all[start..].find(&end).or_else(|| all[start..].find("\n####")).expect("an end");
    normal(&all[start..start + len])
}

/// The common form of a text.
pub(crate) fn normal(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut in_trace = false;
    for line in text.lines() {
        if line.starts_with("Call Trace:") {
            in_trace = true;
        }
        let machine = ["SLBAD", "sl_bad:", "Stack Depot", "Disabling lock", "Modules linked", "CPU: "];
        // The captured stacks of a free begin at the caller's caller.
        let site = line.starts_with(" sl_free_site+");
        if !in_trace && !site && !machine.iter().any(|start| line.starts_with(start)) {
            lines.push(one(line));
        }
        if line.starts_with(" </TASK>") {
            in_trace = false;
        }
    }
    lines
}

fn one(line: &str) -> String {
    if let Some(frame) = line.strip_prefix(' ') {
        // One report was captured when the module's names were gone already.
        let name = if frame.starts_with("0xffffffffa0") { "bad_init" } else { frame };
        return format!(" {}", name.split('+').next().unwrap_or(name));
    }
    if line.starts_with("WARNING: CPU") {
        return "WARNING".to_owned();
    }
    let mut line = line.to_owned();
    if let Some(rest) = line.strip_prefix("BUG ") {
        let (name, rest) = rest.split_once(" (").expect("a taint");
        let (_, title) = rest.split_once("): ").expect("a title");
        line = format!("BUG {name}: {title}");
    }
    if let Some(at) = line.find(" when called from ") {
        line.truncate(at);
    }
    if let Some(rest) = line.strip_prefix("Slab 0x") {
        let (facts, _) = rest[16..].split_once(" flags=").expect("flags");
        line = format!("Slab #{facts}");
    }
    if let Some((what, rest)) = line.split_once(" in ")
        && ["Allocated", "Freed"].contains(&what)
    {
        let site = rest.split('+').next().expect("a site");
        assert!(rest.contains(" age=") && rest.contains(" cpu=") && rest.contains(" pid="), "{line}");
        line = format!("{what} in {site}");
    }
    places(&line)
}

/// Replaces each number of 16 hexadecimal digits that is an address by its last three digits.
fn places(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        let value = rest.get(..16).and_then(|text| u64::from_str_radix(text, 16).ok());
        match value {
            Some(value) if digits == 16 && value > 1 << 32 && value != 0x4141_4141_4141_4140 => {
                out.push_str(&format!("#{:03x}", value & 0xfff));
                rest = &rest[16..];
            }
            _ => {
                let take = digits.max(1).min(rest.len());
                let take = (take..=rest.len()).find(|&at| rest.is_char_boundary(at)).unwrap_or(rest.len());
                out.push_str(&rest[..take]);
                rest = &rest[take..];
            }
        }
    }
    out
}

/// Compares line by line.
pub(crate) fn assert_same(name: &str, ours: &[String], theirs: &[String]) {
    for i in 0..ours.len().max(theirs.len()) {
        let (a, b) = (ours.get(i), theirs.get(i));
        assert_eq!(a, b, "{name}, line {}: ours left, captured right\n--- ours\n{}", i + 1, ours.join("\n"));
    }
}
