//! What a kernel that ran to its end has told over its serial port, besides the tests: the lines of a classic boot.
//!
//! A verdict says that the kernel believes in itself. This says that an observer could follow it: the allocator's banner, the
//! first module's messages, the listing of all caches, the free blocks of every zone.

use super::machine::Machine;

/// The first thing that is missing or wrong in `log`; `None`: all of it is there, in order.
pub(super) fn missing(machine: &Machine, log: &[String]) -> Option<String> {
    let mut rest = log.iter().map(String::as_str);
    let banner = format!(
        "{}: HWalign=64, Order=0-3, MinObjects=0, CPUs={}, Nodes={}",
        machine.engine.to_uppercase(),
        machine.smp,
        machine.nodes
    );
    let mut wants =
        |what: &str, found: &dyn Fn(&str) -> bool| (!rest.any(found)).then(|| format!("no {what}"));
    wants(&format!("`{banner}`"), &|line| line == banner)
        .or_else(|| wants("CPUs online", &|line| line == format!("CPUs online: {}", machine.smp)))
        .or_else(|| {
            ["kmem_cache_create ok", "kmem_cache_alloc ok ", "destroyed my_cache"]
                .into_iter()
                .find_map(|message| wants(&format!("message `{message}`"), &|line| is_message(line, message)))
        })
        .or_else(|| wants("slabinfo", &|line| line == "slabinfo - version: 2.1"))
        .or_else(|| {
            wants("header of slabinfo", &|line| {
                line.starts_with("# name            <active_objs> <num_objs>")
            })
        })
        .or_else(|| wants("cache kmem_cache in slabinfo", &|line| is_cache(line, "kmem_cache")))
        .or_else(|| {
            (0..machine.nodes).find_map(|node| {
                wants(&format!("zone of node {node} in buddyinfo"), &|line| is_zone(line, node))
            })
        })
        .or_else(|| wants("verdict", &|line| line == "verdict: passed"))
}

/// `[    5.012345] message`.
fn is_message(line: &str, message: &str) -> bool {
    let Some((stamp, text)) = line.strip_prefix('[').and_then(|line| line.split_once("] ")) else {
        return false;
    };
    let number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let stamped = stamp.split_once('.').is_some_and(|(seconds, part)| {
        number(seconds.trim_start()) && seconds.len() >= 5 && part.len() == 6 && number(part)
    });
    stamped && text == message
}

/// A line of the listing: a name, five numbers, tunables, slab data.
fn is_cache(line: &str, name: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.len() == 16
        && words[0] == name
        && words[1..6].iter().all(|word| word.parse::<u64>().is_ok())
        && (words[7], words[12]) == ("tunables", "slabdata")
}

/// `Node 0, zone    DMA32 ...`: free blocks of each of the eleven orders.
fn is_zone(line: &str, node: u32) -> bool {
    line.strip_prefix(&format!("Node {node}, zone ")).is_some_and(|zone| {
        let mut words = zone.split_whitespace();
        let named = words.next().is_some_and(|name| ["DMA", "DMA32", "Normal"].contains(&name));
        let counts: Vec<_> = words.map(str::parse::<u64>).collect();
        named && counts.len() == 11 && counts.iter().all(Result::is_ok)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
SLUB: HWalign=64, Order=0-3, MinObjects=0, CPUs=1, Nodes=1
CPUs online: 1
[    1.084784] kmem_cache_create ok
[    1.085102] kmem_cache_alloc ok \n\
[    1.126328] destroyed my_cache
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> and so on
kmem_cache            54     54    448   18    2 : tunables    0    0    0 : slabdata      3      3      0
Node 0, zone    DMA32      2     12      5      7      5      0      0      1      0      1     18 
verdict: passed";

    #[test]
    fn a_boot_without_a_line_is_seen() {
        let lines: Vec<String> = LOG.lines().map(str::to_owned).collect();
        let machine = Machine::default();
        assert_eq!(missing(&machine, &lines), None);
        for absent in 0..lines.len() {
            let mut log = lines.clone();
            log.remove(absent);
            assert!(missing(&machine, &log).is_some(), "without `{}`", lines[absent]);
        }
        assert!(missing(&Machine { smp: 2, ..machine.clone() }, &lines).is_some());
        assert!(missing(&Machine { nodes: 2, ..machine }, &lines).is_some());
    }

    #[test]
    fn lines_have_their_shape() {
        assert!(is_message("[    1.084784] x", "x") && !is_message("[1.084784] x", "x"));
        assert!(!is_message("[    1.0847] x", "x") && !is_message("x", "x"));
        assert!(!is_cache("kmem_cache 54 54 448 18 : tunables 0 0 0 : slabdata 3 3 0", "kmem_cache"));
        assert!(!is_zone("Node 0, zone DMA 1 2 3", 0));
    }
}
