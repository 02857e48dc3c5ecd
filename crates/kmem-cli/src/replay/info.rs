//! `kmem replay --info`: what a trace holds. Sizes, lifetimes, threads.

use std::collections::BTreeMap;
use std::fmt::Write;

use kmem_trace::{Event, Header, Trace, header};

use super::load::Unfit;
use super::told::quoted;
use crate::table::{Align, Paint, Table, Tone};
use crate::units::{bytes, count, duration, percent};

/// Ends of the classes of sizes: each is a power of two, from 16 on.
const SMALLEST: u64 = 16;

/// Blocks whose sizes lie in one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sizes {
    blocks: u64,
    bytes: u64,
    /// Of these blocks, never freed.
    left: u64,
}

/// Calls of one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Thread {
    allocs: u64,
    frees: u64,
    /// Frees and resizings of blocks that another thread made.
    remote: u64,
}

/// A trace, counted.
#[derive(Debug)]
pub(super) struct Info {
    header: Header,
    /// `malloc`, `calloc`, aligned, `realloc`, `free`.
    calls: [u64; 5],
    /// By the largest size of the class.
    sizes: BTreeMap<u64, Sizes>,
    /// Blocks by the largest lifetime of the class, in calls; [`u64::MAX`]: never freed.
    lives: BTreeMap<u64, u64>,
    /// By number of the thread less the process's.
    threads: BTreeMap<i64, Thread>,
    /// Nanoseconds between the beginning and the last mark of time.
    time: u64,
    left_bytes: u64,
}

const CALLS: [&str; 5] = ["malloc", "calloc", "aligned", "realloc", "free"];

struct Block {
    size: u64,
    born: u64,
    thread: i64,
    ended: bool,
}

fn size_class(size: u64) -> u64 {
    size.checked_next_power_of_two().unwrap_or(u64::MAX).max(SMALLEST)
}

/// 1, 10, 100, …
fn life_class(calls: u64) -> u64 {
    let mut end = 1u64;
    while end < calls {
        end = end.saturating_mul(10);
    }
    end
}

impl Info {
    /// Counts a trace.
    ///
    /// # Errors
    /// It is damaged.
    pub(super) fn of(trace: &Trace<'_>) -> Result<Self, Unfit> {
        let mut info = Info {
            header: *trace.header(),
            calls: [0; 5],
            sizes: BTreeMap::new(),
            lives: BTreeMap::new(),
            threads: BTreeMap::new(),
            time: 0,
            left_bytes: 0,
        };
        let mut blocks: Vec<Block> = Vec::new();
        let (mut now, mut speaker) = (0u64, 0i64);
        for event in trace.events() {
            let event = event.map_err(Unfit::Trace)?;
            let thread = info.threads.entry(speaker).or_default();
            let (made, ended) = match event {
                Event::Thread(thread) => {
                    speaker = thread;
                    continue;
                }
                Event::Time(time) => {
                    info.time = time;
                    continue;
                }
                Event::Alloc { size, align, zeroed, .. } => {
                    info.calls[if zeroed {
                        1
                    } else if align > 1 {
                        2
                    } else {
                        0
                    }] += 1;
                    (Some(size), None)
                }
                Event::Resize { old, size, .. } => {
                    info.calls[3] += 1;
                    (Some(size), Some(old))
                }
                Event::Free { block } => {
                    info.calls[4] += 1;
                    (None, Some(block))
                }
            };
            thread.allocs += u64::from(made.is_some());
            thread.frees += u64::from(made.is_none());
            if let Some(number) = ended {
                let block = &mut blocks[number as usize];
                if std::mem::replace(&mut block.ended, true) {
                    return Err(Unfit::Ended(now, number));
                }
                thread.remote += u64::from(block.thread != speaker);
                *info.lives.entry(life_class(now - block.born)).or_default() += 1;
            }
            if let Some(size) = made {
                let class = info.sizes.entry(size_class(size)).or_default();
                class.blocks += 1;
                class.bytes += size;
                blocks.push(Block { size, born: now, thread: speaker, ended: false });
            }
            now += 1;
        }
        // A mark alone is no thread.
        info.threads.retain(|_, thread| thread.allocs + thread.frees > 0);
        for block in blocks.iter().filter(|block| !block.ended) {
            *info.lives.entry(u64::MAX).or_default() += 1;
            info.left_bytes += block.size;
            info.sizes.entry(size_class(block.size)).or_default().left += 1;
        }
        Ok(info)
    }

    fn blocks(&self) -> u64 {
        self.sizes.values().map(|class| class.blocks).sum()
    }

    /// For people.
    pub(super) fn text(&self, paint: Paint, columns: Option<usize>) -> String {
        let header = &self.header;
        let calls: u64 = self.calls.iter().sum();
        let mut out = String::new();
        let mut line = |title: &str, text: String| {
            let _ = writeln!(out, "{title:<9} {text}");
        };
        line("program", format!("{} (pid {}, of {})", header.name(), header.pid, header.parent));
        let each = header.used as f64 / calls.max(1) as f64;
        let time = duration(std::time::Duration::from_nanos(self.time));
        line(
            "calls",
            format!("{} in {time}, {} of records ({each:.1} a call)", count(calls), bytes(header.used)),
        );
        let kinds: Vec<String> =
            CALLS.iter().zip(self.calls).map(|(name, n)| format!("{name} {}", count(n))).collect();
        line("kinds", kinds.join(", "));
        let mut remarks = Vec::new();
        if header.flags & header::ENDED == 0 {
            remarks.push("its process did not end by exit, or still runs".to_owned());
        }
        if header.flags & header::STOPPED != 0 {
            remarks.push("there was no room for more".to_owned());
        }
        for (number, text) in [
            (header.lost, "calls in signal handlers are missing"),
            (header.unknown, "frees of blocks from before"),
            (header.failed, "requests failed"),
        ] {
            if number > 0 {
                remarks.push(format!("{} {text}", count(number)));
            }
        }
        if !remarks.is_empty() {
            line("remarks", remarks.join("; "));
        }

        let number = Align::Right;
        let mut sizes = Table::new(&[
            ("SIZE UP TO", number),
            ("BLOCKS", number),
            ("%", number),
            ("BYTES", number),
            ("%", number),
            ("LEFT", number),
        ]);
        let blocks = self.blocks();
        let total: u64 = self.sizes.values().map(|class| class.bytes).sum();
        for (end, class) in &self.sizes {
            sizes.row(
                Tone::Plain,
                vec![
                    bytes(*end),
                    count(class.blocks),
                    percent(class.blocks, blocks),
                    bytes(class.bytes),
                    percent(class.bytes, total),
                    count(class.left),
                ],
            );
        }
        let left: u64 = self.sizes.values().map(|class| class.left).sum();
        let empty = String::new;
        sizes.total(vec!["all".into(), count(blocks), empty(), bytes(total), empty(), count(left)]);

        let mut lives = Table::new(&[("LIFE UP TO", number), ("BLOCKS", number), ("%", number)]);
        for (end, blocks_of) in &self.lives {
            let end =
                if *end == u64::MAX { "never freed".to_owned() } else { format!("{} calls", count(*end)) };
            lives.row(Tone::Plain, vec![end, count(*blocks_of), percent(*blocks_of, blocks)]);
        }

        let mut threads = Table::new(&[
            ("THREAD", number),
            ("ALLOCS", number),
            ("FREES", number),
            ("OF OTHERS' BLOCKS", number),
        ]);
        for (id, thread) in self.busiest() {
            let id = i64::from(header.pid) + id;
            threads.row(
                Tone::Plain,
                vec![id.to_string(), count(thread.allocs), count(thread.frees), count(thread.remote)],
            );
        }
        let sum = |field: fn(&Thread) -> u64| count(self.threads.values().map(field).sum());
        threads.total(vec![
            format!("{} in all", self.threads.len()),
            sum(|thread| thread.allocs),
            sum(|thread| thread.frees),
            sum(|thread| thread.remote),
        ]);
        for table in [sizes, lives, threads] {
            out.push('\n');
            out.push_str(&table.render(paint, columns));
        }
        out
    }

    /// The ten threads that made the most calls, the busiest first.
    fn busiest(&self) -> Vec<(i64, Thread)> {
        let mut threads: Vec<(i64, Thread)> =
            self.threads.iter().map(|(id, thread)| (*id, *thread)).collect();
        threads.sort_by_key(|(id, thread)| (std::cmp::Reverse(thread.allocs + thread.frees), *id));
        threads.truncate(10);
        threads
    }

    /// For programs: one object.
    pub(super) fn json(&self) -> String {
        let header = &self.header;
        let list = |items: Vec<String>| format!("[{}]", items.join(", "));
        let kinds: Vec<String> =
            CALLS.iter().zip(self.calls).map(|(name, n)| format!("\"{name}\": {n}")).collect();
        let sizes = self.sizes.iter().map(|(end, c)| {
            format!(
                "{{\"up_to\": {end}, \"blocks\": {}, \"bytes\": {}, \"left\": {}}}",
                c.blocks, c.bytes, c.left
            )
        });
        let lives = self.lives.iter().map(|(end, blocks)| {
            let end = if *end == u64::MAX { "null".to_owned() } else { end.to_string() };
            format!("{{\"up_to\": {end}, \"blocks\": {blocks}}}")
        });
        let threads = self.threads.iter().map(|(id, t)| {
            let id = i64::from(header.pid) + id;
            format!(
                "{{\"id\": {id}, \"allocs\": {}, \"frees\": {}, \"remote\": {}}}",
                t.allocs, t.frees, t.remote
            )
        });
        let fields = [
            ("program", quoted(header.name())),
            ("pid", header.pid.to_string()),
            ("ended", (header.flags & header::ENDED != 0).to_string()),
            ("stopped", (header.flags & header::STOPPED != 0).to_string()),
            ("calls", self.calls.iter().sum::<u64>().to_string()),
            ("kinds", format!("{{{}}}", kinds.join(", "))),
            ("bytes", header.used.to_string()),
            ("time_ns", self.time.to_string()),
            ("lost", header.lost.to_string()),
            ("unknown", header.unknown.to_string()),
            ("failed", header.failed.to_string()),
            ("left_bytes", self.left_bytes.to_string()),
            ("sizes", list(sizes.collect())),
            ("lives", list(lives.collect())),
            ("threads", list(threads.collect())),
        ];
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("  \"{name}\": {value}")).collect();
        format!("{{\n{}\n}}\n", fields.join(",\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::load::tests::file;

    fn sample() -> Info {
        let bytes = file(8, |encoder, put| {
            put(encoder.alloc(10)); // 0
            put(encoder.zeroed(17)); // 1
            put(encoder.aligned(12, 4096)); // 2
            put(encoder.free(0));
            encoder.thread(3).map(&mut *put);
            put(encoder.resize(1, 100)); // 3
            put(encoder.free(2));
            put(encoder.time(2_000_000_000));
            put(encoder.alloc(0)); // 4
            encoder.thread(7).map(&mut *put);
            encoder.thread(0).map(&mut *put);
            put(encoder.free(4));
        });
        Info::of(&Trace::parse(&bytes).unwrap()).unwrap()
    }

    #[test]
    fn what_a_trace_holds() {
        let info = sample();
        assert_eq!(info.calls, [2, 1, 1, 1, 3]);
        let sizes = |blocks, bytes, left| Sizes { blocks, bytes, left };
        let expected = [
            (16, sizes(2, 10, 0)),
            (32, sizes(1, 17, 0)),
            (128, sizes(1, 100, 1)),
            (4096, sizes(1, 4096, 0)),
        ];
        assert_eq!(info.sizes, expected.into());
        assert_eq!(info.lives, [(1, 1), (10, 3), (u64::MAX, 1)].into());
        let thread = |allocs, frees, remote| Thread { allocs, frees, remote };
        assert_eq!(info.threads, [(0, thread(3, 2, 1)), (3, thread(2, 1, 2))].into());
        assert_eq!((info.time, info.left_bytes), (2_000_000_000, 100));
    }

    #[test]
    fn as_text_and_as_json() {
        let text = sample().text(Paint { on: false }, None);
        assert!(text.contains("kinds     malloc 2, calloc 1, aligned 1, realloc 1, free 3\n"), "{text}");
        assert!(text.contains("remarks   its process did not end by exit, or still runs\n"), "{text}");
        assert!(text.contains("\n      4.0K       1  20.0   4.0K  97.0     0\n"), "{text}");
        assert!(text.contains("\nnever freed       1  20.0\n"), "{text}");
        assert!(text.contains("\n      45       2      1                  2\n"), "{text}");
        let json = sample().json();
        assert!(json.contains(
            "\"kinds\": {\"malloc\": 2, \"calloc\": 1, \"aligned\": 1, \"realloc\": 1, \"free\": 3}"
        ));
        assert!(json.contains("{\"up_to\": null, \"blocks\": 1}]"), "{json}");
        assert!(json.contains("{\"id\": 45, \"allocs\": 2, \"frees\": 1, \"remote\": 2}"), "{json}");
    }

    #[test]
    fn classes_end_where_they_say() {
        for (size, class) in [(0, 16), (16, 16), (17, 32), (4096, 4096), (4097, 8192), (u64::MAX, u64::MAX)] {
            assert_eq!(size_class(size), class, "{size}");
        }
        for (calls, class) in [(1, 1), (2, 10), (10, 10), (11, 100), (u64::MAX, u64::MAX)] {
            assert_eq!(life_class(calls), class, "{calls}");
        }
    }
}
