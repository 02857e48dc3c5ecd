//! The table that `kmem run` prints when a program has ended: where its memory was.
//!
//! Columns: object size as asked; objects in the program's hands (IN USE) and places for objects (HELD);
//! their share; slabs; bytes of those slabs; bytes of them that are not in the program's hands (WASTE:
//! free objects, rounding, ends of slabs); the most bytes ever held; allocations so far, and the share of them
//! that a CPU's own stack served (CPU%).

use std::time::Duration;

use crate::report::{Blocks, Cache, Guard, Report};
use crate::slabinfo::PAGE_SIZE;
use crate::table::{Align, Paint, Table, Tone};
use crate::units::{bytes, count, duration, percent};

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Signalled(i32),
}

/// What is known of a run besides the report.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The program as the user called it.
    pub(crate) program: String,
    /// Its process id.
    pub(crate) pid: u32,
    /// How it ended.
    pub(crate) ending: Ending,
    /// From its start to its end.
    pub(crate) wall: Duration,
    /// The most memory it (or one of the children it waited for) ever had resident, in bytes.
    pub(crate) max_rss: u64,
    /// Reports of other processes: its children and theirs.
    pub(crate) others: Vec<Report>,
}

/// How to show it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Colours.
    pub(crate) paint: Paint,
    /// Width of the terminal.
    pub(crate) columns: Option<usize>,
    /// How many caches to show; 0 shows all.
    pub(crate) top: usize,
}

/// A cache that keeps at least this many bytes, more of them idle than in use, is pointed out.
const NOTABLE_WASTE: u64 = 256 * 1024;

/// The whole summary. Without a report (`Err` says why) only the header can be given.
pub(crate) fn render(outcome: &Outcome, report: Result<&Report, &str>, look: Look) -> String {
    let mut out = header(outcome, look.paint);
    let report = match report {
        Ok(report) => report,
        Err(reason) => {
            out.push_str(&format!("{INDENT}{}\n", look.paint.warn(reason)));
            out.push_str(&others(&outcome.others, look));
            return out;
        }
    };
    out.push_str(&machine(report));
    out.push('\n');
    out.push_str(&caches(report, look));
    out.push('\n');
    out.push_str(&beyond(report, look));
    out.push('\n');
    out.push_str(&pages(report));
    out.push_str(&report.guard.map(guard).unwrap_or_default());
    out.push_str(&others(&outcome.others, look));
    out
}

const INDENT: &str = "      ";

fn header(outcome: &Outcome, paint: Paint) -> String {
    let ending = match outcome.ending {
        Ending::Exited(status) => format!("exit status {status}"),
        Ending::Signalled(signal) => format!("killed by {}", crate::sys::signal_name(signal)),
    };
    let children = match outcome.others.len() {
        0 => String::new(),
        1 => ", 1 more process reported".to_owned(),
        n => format!(", {n} more processes reported"),
    };
    format!(
        "kmem: {} (pid {}), {ending}, {}, max RSS {}{children}\n",
        paint.bold(&outcome.program),
        outcome.pid,
        duration(outcome.wall),
        bytes(outcome.max_rss),
    )
}

/// How the heap is made, in one line.
pub(crate) fn machine(report: &Report) -> String {
    let plural = |n: u64, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    let owner = match report.ownership.as_str() {
        "rseq" => "restartable sequences",
        "portable" => "the portable path",
        other => other,
    };
    let name = if report.comm.is_empty() { String::new() } else { format!(" of '{}'", report.comm) };
    let build = if report.build.is_empty() { String::new() } else { format!("{} ", report.build) };
    format!(
        "{INDENT}{build}heap{name}: engine {}, {}, {}, CPU stacks by {owner}\n",
        report.engine,
        plural(report.cpus, "CPU"),
        plural(report.nodes, "node"),
    )
}

/// How a cache is shown: without slabs it is of less interest, with much idle memory of more.
pub(crate) fn tone(cache: &Cache) -> Tone {
    if cache.slabs == 0 {
        Tone::Dim
    } else if cache.waste() >= NOTABLE_WASTE && cache.waste() > cache.held() / 2 {
        Tone::Warn
    } else {
        Tone::Plain
    }
}

fn caches(report: &Report, look: Look) -> String {
    let mut used: Vec<&Cache> =
        report.caches.iter().filter(|cache| cache.allocs > 0 || cache.slabs > 0).collect();
    // Ties in report order: the sort is stable.
    used.sort_by_key(|cache| std::cmp::Reverse((cache.held(), cache.peak())));

    let mut table = Table::new(&[
        ("CACHE", Align::Left),
        ("SIZE", Align::Right),
        ("IN USE", Align::Right),
        ("HELD", Align::Right),
        ("USE%", Align::Right),
        ("SLABS", Align::Right),
        ("BYTES", Align::Right),
        ("WASTE", Align::Right),
        ("PEAK", Align::Right),
        ("ALLOCS", Align::Right),
        ("CPU%", Align::Right),
    ]);
    let shown = if look.top == 0 { used.len() } else { look.top.min(used.len()) };
    for cache in &used[..shown] {
        table.row(
            tone(cache),
            vec![
                cache.name.clone(),
                count(cache.object_size),
                count(cache.used()),
                count(cache.total_objs),
                percent(cache.used(), cache.total_objs),
                count(cache.slabs),
                bytes(cache.held()),
                bytes(cache.waste()),
                bytes(cache.peak()),
                count(cache.allocs),
                percent(cache.fast(), cache.allocs),
            ],
        );
    }
    let rest = &used[shown..];
    if !rest.is_empty() {
        let sum = |field: fn(&Cache) -> u64| rest.iter().map(|cache| field(cache)).sum::<u64>();
        table.row(
            Tone::Dim,
            vec![
                format!("{} more", rest.len()),
                String::new(),
                count(sum(Cache::used)),
                count(sum(|cache| cache.total_objs)),
                percent(sum(Cache::used), sum(|cache| cache.total_objs)),
                count(sum(|cache| cache.slabs)),
                bytes(sum(Cache::held)),
                bytes(sum(Cache::waste)),
                String::new(),
                count(sum(|cache| cache.allocs)),
                percent(sum(Cache::fast), sum(|cache| cache.allocs)),
            ],
        );
    }
    let sum = |field: fn(&Cache) -> u64| used.iter().map(|cache| field(cache)).sum::<u64>();
    table.total(vec![
        format!("{} caches", used.len()),
        String::new(),
        count(sum(Cache::used)),
        count(sum(|cache| cache.total_objs)),
        percent(sum(Cache::used), sum(|cache| cache.total_objs)),
        count(sum(|cache| cache.slabs)),
        bytes(sum(Cache::held)),
        bytes(sum(Cache::waste)),
        // Caches peak at different times: a sum would be no size the program ever had.
        String::new(),
        count(sum(|cache| cache.allocs)),
        percent(sum(Cache::fast), sum(|cache| cache.allocs)),
    ]);
    table.render(look.paint, look.columns)
}

fn beyond(report: &Report, look: Look) -> String {
    let mut table = Table::new(&[
        ("LARGER THAN ANY CACHE", Align::Left),
        ("BLOCKS", Align::Right),
        ("BYTES", Align::Right),
        ("PEAK", Align::Right),
        ("ALLOCS", Align::Right),
    ]);
    let mut row = |name: &str, blocks: &Blocks| {
        let tone = if blocks.allocs == 0 { Tone::Dim } else { Tone::Plain };
        let cells = vec![
            name.to_owned(),
            count(blocks.live),
            bytes(blocks.bytes),
            bytes(blocks.peak),
            count(blocks.allocs),
        ];
        table.row(tone, cells);
    };
    row("large: runs of pages", &report.large);
    row("huge: own mappings", &report.huge);
    table.render(look.paint, look.columns)
}

/// The page allocator's state, in one line.
pub(crate) fn pages(report: &Report) -> String {
    let size = |pages: u64| bytes(pages.saturating_mul(PAGE_SIZE));
    let pages = &report.pages;
    format!(
        "pages: {} in use (peak {}), {} free and still resident, {} fetched from the system\n",
        size(pages.managed.saturating_sub(pages.free)),
        size(pages.peak_in_use),
        size(pages.resident_free),
        size(pages.managed),
    )
}

/// What the sampling guard did, in one line.
pub(crate) fn guard(guard: Guard) -> String {
    let Guard { samples, live, skipped, errors } = guard;
    let plural = |n: u64, word: &str| format!("{} {word}{}", count(n), if n == 1 { "" } else { "s" });
    format!(
        "guard: {} ({} in use), {} without one, {}\n",
        plural(samples, "sample"),
        count(live),
        plural(skipped, "turn"),
        plural(errors, "error"),
    )
}

/// Programs among the other processes that are shown.
const OTHERS: usize = 6;

/// The other processes by program, those with the largest peak first.
fn others(reports: &[Report], look: Look) -> String {
    struct Group<'a> {
        comm: &'a str,
        processes: u64,
        peak: u64,
        allocs: u64,
    }
    let mut groups: Vec<Group<'_>> = Vec::new();
    for report in reports {
        let group = match groups.iter_mut().position(|group| group.comm == report.comm) {
            Some(index) => &mut groups[index],
            None => {
                groups.push(Group { comm: &report.comm, processes: 0, peak: 0, allocs: 0 });
                groups.last_mut().expect("just pushed")
            }
        };
        group.processes += 1;
        group.peak = group.peak.max(report.peak());
        group.allocs = group.allocs.saturating_add(report.allocs());
    }
    if groups.is_empty() {
        return String::new();
    }
    groups.sort_by(|a, b| b.peak.cmp(&a.peak).then(a.comm.cmp(b.comm)));
    let mut table = Table::new(&[
        ("OTHER PROCESSES", Align::Left),
        ("COUNT", Align::Right),
        ("LARGEST PEAK", Align::Right),
        ("ALLOCS", Align::Right),
    ]);
    let shown = if look.top == 0 || groups.len() <= OTHERS { groups.len() } else { OTHERS - 1 };
    for group in &groups[..shown] {
        let cells =
            vec![group.comm.to_owned(), count(group.processes), bytes(group.peak), count(group.allocs)];
        table.row(Tone::Plain, cells);
    }
    if let rest @ [largest, ..] = &groups[shown..] {
        let sum = |field: fn(&Group<'_>) -> u64| count(rest.iter().map(field).sum());
        let name = format!("{} more programs", rest.len());
        table.row(
            Tone::Dim,
            vec![name, sum(|group| group.processes), bytes(largest.peak), sum(|group| group.allocs)],
        );
    }
    format!("\n{}", table.render(look.paint, look.columns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::SAMPLE;

    const PLAIN: Look = Look { paint: Paint { on: false }, columns: None, top: 0 };

    fn outcome() -> Outcome {
        Outcome {
            program: "my prog".into(),
            pid: 4711,
            ending: Ending::Exited(3),
            wall: Duration::from_millis(1234),
            max_rss: 40 << 20,
            others: vec![Report::parse(SAMPLE).unwrap(), Report { comm: "sh".into(), ..Report::default() }],
        }
    }

    #[test]
    fn the_whole_text() {
        let report = Report::parse(SAMPLE).unwrap();
        let text = render(&outcome(), Ok(&report), PLAIN);
        let expected = "\
kmem: my prog (pid 4711), exit status 3, 1.23 s, max RSS 40.0M, 2 more processes reported
      heap of 'my prog': engine slub, 2 CPUs, 1 node, CPU stacks by restartable sequences

CACHE        SIZE  IN USE  HELD  USE%  SLABS  BYTES  WASTE   PEAK   ALLOCS  CPU%
kmalloc-1k  1,024      16    16   100      1  16.0K      0  16.0K       16   0.0
kmalloc-64     64     100   192  52.1      3  12.0K   5.8K  20.0K  100,000  99.8
kmalloc-8k  8,192       0     0     -      0      0      0  64.0K       10  80.0
--------------------------------------------------------------------------------
3 caches              116   208  55.8      4  28.0K   5.8K         100,026  99.7

LARGER THAN ANY CACHE  BLOCKS  BYTES  PEAK  ALLOCS
large: runs of pages        2  80.0K  400K       7
huge: own mappings          0      0  8.0M       1

pages: 592K in use (peak 2.7M), 1.2M free and still resident, 8.0M fetched from the system
guard: 12 samples (3 in use), 4 turns without one, 0 errors

OTHER PROCESSES  COUNT  LARGEST PEAK   ALLOCS
my prog              1         10.7M  100,034
sh                   1             0        0
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn top_hides_rows_and_keeps_the_total() {
        let report = Report::parse(SAMPLE).unwrap();
        let text = render(&outcome(), Ok(&report), Look { top: 1, ..PLAIN });
        assert!(text.contains("kmalloc-1k"));
        assert!(!text.contains("kmalloc-64"));
        let rest = text.lines().find(|line| line.starts_with("2 more")).unwrap();
        assert_eq!(rest.split_whitespace().collect::<Vec<_>>()[2..6], ["100", "192", "52.1", "3"]);
        assert!(text.lines().any(|line| line.starts_with("3 caches") && line.contains("100,026")));
    }

    #[test]
    fn without_a_report_the_reason_stands_in_its_place() {
        let killed = Outcome { ending: Ending::Signalled(9), others: vec![], ..outcome() };
        let text = render(&killed, Err("it left no report"), PLAIN);
        let expected =
            "kmem: my prog (pid 4711), killed by SIGKILL, 1.23 s, max RSS 40.0M\n      it left no report\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn other_processes_are_grouped_by_program() {
        let process = |comm: &str, peak_in_use| Report {
            comm: comm.into(),
            pages: crate::report::Pages { peak_in_use, ..Default::default() },
            ..Report::default()
        };
        let mut reports = vec![process("cc1", 10), process("sh", 3), process("cc1", 40)];
        reports.extend(["a", "b", "c", "d", "e"].map(|comm| process(comm, 1)));
        let text = others(&reports, Look { top: 20, ..PLAIN });
        let expected = "
OTHER PROCESSES  COUNT  LARGEST PEAK  ALLOCS
cc1                  2          160K       0
sh                   1         12.0K       0
a                    1          4.0K       0
b                    1          4.0K       0
c                    1          4.0K       0
2 more programs      2          4.0K       0
";
        assert_eq!(text, expected, "\n{text}");
        assert_eq!(others(&reports, PLAIN).lines().count(), 9, "all with top 0");
        assert_eq!(others(&[], PLAIN), "");
    }

    #[test]
    fn idle_memory_is_pointed_out() {
        let mut report = Report::parse(SAMPLE).unwrap();
        report.caches[0].slabs = 1000;
        let text = render(&outcome(), Ok(&report), Look { paint: Paint { on: true }, ..PLAIN });
        assert!(text.contains("\x1b[33mkmalloc-64"), "{text}");
        assert!(text.contains("\x1b[2mkmalloc-8k"), "{text}");
    }
}
