//! The machines that a change must boot on, and some that must fail in the right way.

use std::time::Instant;

use super::machine::{ENGINES, Machine};
use super::{counts, guide, told};
use crate::step::Count;

pub(super) fn run() -> Count {
    let plain = Machine::default();
    let masked = Machine { masked: true, ..plain.clone() };
    // Checks that take all memory again and again want a small machine and a fast build.
    let suite = Machine { conformance: true, release: true, mem: 80, limit: 300, ..plain.clone() };
    let suites = ENGINES.map(|engine| Machine { engine: engine.to_owned(), ..suite.clone() });
    let mut count = Count::default();
    let start = Instant::now();
    for build in [&plain, &masked].into_iter().chain(&suites) {
        let built = build.build();
        count += built;
        if built.failed > 0 {
            return count;
        }
    }
    let building = start.elapsed().as_secs_f64();
    let machines = [
        plain.clone(),
        Machine { smp: 2, ..plain.clone() },
        Machine { smp: 4, nodes: 2, mem: 192, ..plain.clone() },
        // Memory beyond 4 GiB, where a node has a hole in the middle, and one where no memory of a node is below.
        Machine { smp: 8, nodes: 4, mem: 256, low: Some(96), ..plain.clone() },
        Machine { smp: 2, ..masked.clone() },
        // The numbers of CPUs between.
        Machine { smp: 3, append: "test=cpus".to_owned(), ..plain.clone() },
        Machine { smp: 5, append: "test=cpus".to_owned(), ..plain.clone() },
        Machine { smp: 6, append: "test=cpus".to_owned(), ..plain.clone() },
        Machine { smp: 7, append: "test=cpus".to_owned(), ..plain.clone() },
        // Two classes checked, as the option does under Linux.
        Machine { smp: 2, append: "slub_debug=FZPU,kmalloc-64,kmalloc-256".to_owned(), ..plain.clone() },
        // Every instruction of the operations can be interrupted; the rest would only be slow.
        Machine { smp: 2, single_step: true, append: "test=interrupts".to_owned(), ..plain.clone() },
    ];
    for machine in machines {
        count += quietly(&machine);
    }
    let large = Machine { smp: 2, nodes: 2, mem: 5 << 10, ..plain.clone() };
    if large.fits() {
        count += quietly(&large);
    } else {
        println!("{:<48} skipped: too little memory is free here", large.name());
    }
    for suite in suites {
        for (smp, nodes) in [(1, 1), (2, 1), (4, 2)] {
            count += quietly(&Machine { smp, nodes, ..suite.clone() });
        }
    }
    // A harness that cannot see a failure proves nothing.
    let failing = |append: &str, limit| Machine { append: append.to_owned(), limit, ..plain.clone() };
    for (machine, verdict, output) in [
        (failing("test=panic", 30), "the kernel says that it failed", "kernel panic on CPU 0"),
        (failing("test=fault", 30), "the kernel says that it failed", "exception 14 (page fault)"),
        (failing("test=hang", 3), "it hangs", "CPUs online: 1"),
        (failing("test=reset", 30), "the machine was reset", "CPUs online: 1"),
    ] {
        count += must_fail(&machine, verdict, output);
    }
    count += guide::run();
    count += counts::run_beside_linux();
    println!("{:.0} s, {building:.0} s of them to build", start.elapsed().as_secs_f64());
    count
}

fn report(machine: &Machine, start: Instant, ok: bool, counted: &str) {
    let word = if ok { "ok" } else { "FAILED" };
    println!("{:<48} {word:<6} {:>6.1} s ({counted})", machine.name(), start.elapsed().as_secs_f64());
}

/// Boots a machine that must pass; shows its output if it does not.
fn quietly(machine: &Machine) -> Count {
    let start = Instant::now();
    let ended = machine.boot(|_| {});
    let mut counted = ended.count();
    if counted.passed < 2 && counted.failed == 0 {
        // A kernel that ran no test has shown nothing.
        counted.failed = 1;
    }
    let missing = told::missing(machine, &ended.log);
    counted += Count::of(missing.is_none());
    report(machine, start, counted.failed == 0, &counted.to_string());
    if counted.failed > 0 {
        ended.log.iter().for_each(|line| println!("    {line}"));
        println!("    {}", ended.verdict());
        missing.into_iter().for_each(|missing| println!("    {missing}"));
    }
    counted
}

/// Boots a machine that must fail in this way, with this line, or the beginning of one, kept of its output.
fn must_fail(machine: &Machine, verdict: &str, expected: &str) -> Count {
    let start = Instant::now();
    let ended = machine.boot(|_| {});
    let ok = ended.count().failed > 0
        && ended.verdict().starts_with(verdict)
        && ended.log.iter().any(|line| line.contains(expected));
    report(machine, start, ok, &format!("as it must: {}", ended.verdict()));
    if !ok {
        ended.log.iter().for_each(|line| println!("    {line}"));
    }
    Count::of(ok)
}
