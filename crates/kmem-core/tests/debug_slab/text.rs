//! Captured reports and ours, brought to a common form.
//!
//! Out go the stacks of the machine, what a kernel that stops says of itself, offsets in functions, addresses, and what ours
//! says beyond the kernel's: who allocated and freed, with stacks.

/// The captured report of this name, up to where the kernel stopped.
pub(crate) fn golden(name: &str) -> Vec<String> {
    let all = include_str!("../../../../golden/slab_reports.txt");
    let begin = format!("SLBAD begin {name}\n");
    let start = all.find(&begin).unwrap_or_else(|| panic!("no report {name}")) + begin.len();
    let len = all[start..].find("\n####").unwrap_or(all.len() - start);
    let mut lines = normal(&all[start..start + len]);
    if let Some(stop) = lines.iter().position(|line| line.starts_with("kernel BUG")) {
        lines.truncate(stop);
        lines.pop_if(|line| line.starts_with("------"));
    }
    lines
}

/// The common form of a text.
pub(crate) fn normal(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut in_trace, mut neighbour) = (false, false);
    for line in text.lines() {
        in_trace |= line.starts_with("Call Trace:");
        let machine = [
            "SLBAD",
            "sl_bad:",
            "Disabling lock",
            "Modules linked",
            "CPU: ",
            "Allocated in",
            "Freed in",
            " ",
        ];
        if !in_trace && !machine.iter().any(|start| line.starts_with(start)) {
            neighbour |= line.contains(" obj: start=");
            // The captured neighbours were never used.
            let line = if neighbour && line.starts_with("Last user: ") { "Last user: (*)" } else { line };
            lines.push(one(line));
        }
        in_trace &= !line.starts_with(" </TASK>");
    }
    lines
}

fn one(line: &str) -> String {
    if line.starts_with("WARNING: CPU") {
        return "WARNING".to_owned();
    }
    let mut line = line.to_owned();
    if let Some(at) = line.find(" when called from ") {
        line.truncate(at);
    }
    if let Some(rest) = line.strip_prefix("Slab corruption (") {
        line = format!("Slab corruption{}", rest.split_once(')').expect("a taint").1);
    }
    if let Some(rest) = line.strip_prefix("Last user: (")
        && let Some((site, _)) = rest.split_once('+')
    {
        line = format!("Last user: ({site})");
    }
    addresses(&line)
}

/// Replaces numbers of 16 digits without a prefix, which are addresses.
fn addresses(line: &str) -> String {
    line.split_inclusive(|c: char| !c.is_ascii_alphanumeric())
        .map(|part| {
            let digits = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let is_address = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if is_address { part.replace(digits, "#") } else { part.to_owned() }
        })
        .collect()
}

/// Compares line by line.
pub(crate) fn assert_same(name: &str, ours: &[String], theirs: &[String]) {
    assert!(!theirs.is_empty(), "{name}");
    for i in 0..ours.len().max(theirs.len()) {
        let (a, b) = (ours.get(i), theirs.get(i));
        assert_eq!(a, b, "{name}, line {}: ours left, captured right\n--- ours\n{}", i + 1, ours.join("\n"));
    }
}
