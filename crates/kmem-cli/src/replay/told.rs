//! What a replay tells, as text and as JSON.

use std::fmt::Write;
use std::time::Duration;

use super::load::About;
use super::pass::{Memory, Point};
use crate::units::{bytes, count, percent};

/// Everything that a replay found out.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// The engine.
    pub(super) engine: String,
    /// The trace.
    pub(super) work: About,
    /// Of the checked pass.
    pub(super) memory: Memory,
    /// Of the timed passes; at least one.
    pub(super) times: Vec<Duration>,
}

/// `held` as a multiple of `live`.
fn ratio(point: Point) -> Option<f64> {
    (point.live > 0).then(|| point.held as f64 / point.live as f64)
}

/// A JSON string. The names that are put in have no control characters.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

impl Told {
    fn best(&self) -> Duration {
        self.times.iter().min().copied().unwrap_or_default()
    }

    fn median(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    fn per_call(&self, time: Duration) -> f64 {
        time.as_nanos() as f64 / self.work.calls.max(1) as f64
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let Told { work, memory, .. } = self;
        let of = |point: Point| ratio(point).map_or("-".to_owned(), |ratio| format!("{ratio:.2} x live"));
        let mut out = String::new();
        let mut line = |title: &str, text: String| {
            let _ = writeln!(out, "{title:<9} {text}");
        };
        line("trace", format!("{} (pid {}): {} calls", work.program, work.pid, count(work.calls)));
        line("engine", self.engine.clone());
        let passes =
            if self.times.len() == 1 { "one pass".into() } else { format!("best of {}", self.times.len()) };
        let (best, median) = (self.per_call(self.best()), self.per_call(self.median()));
        line("time", format!("{best:.1} ns a call ({passes}; median {median:.1})"));
        let at = format!("after call {}", count(memory.at_peak.call));
        line(
            "live",
            format!("{} at most ({at}), {} at the end", bytes(work.peak), bytes(memory.at_end.live)),
        );
        let held = format!("{} then ({})", bytes(memory.at_peak.held), of(memory.at_peak));
        let end = format!("{} at the end ({})", bytes(memory.at_end.held), of(memory.at_end));
        line("held", format!("{held}, {} at most, {end}", bytes(memory.most_held)));
        if let Some(counts) = memory.counts {
            let share = percent(counts.hits, counts.allocs);
            line("hits", format!("{share} % of allocations from a CPU's own stack"));
            line(
                "slabs",
                format!("{} at the end, {} at most", count(counts.slabs), count(counts.peak_slabs)),
            );
            line("metadata", format!("{} of descriptors and tags", bytes(counts.metadata)));
        }
        out
    }

    /// For programs: one object.
    pub(super) fn json(&self) -> String {
        let Told { work, memory, .. } = self;
        let number = |ratio: Option<f64>| ratio.map_or("null".to_owned(), |ratio| format!("{ratio:.4}"));
        let point = |p: Point| {
            let Point { call, live, held } = p;
            format!(
                "{{\"call\": {call}, \"live\": {live}, \"held\": {held}, \"ratio\": {}}}",
                number(ratio(p))
            )
        };
        let times: Vec<String> = self.times.iter().map(|time| time.as_nanos().to_string()).collect();
        let series: Vec<String> =
            memory.series.iter().map(|p| format!("[{}, {}, {}]", p.call, p.live, p.held)).collect();
        let counts = memory.counts.map_or("null".to_owned(), |c| {
            let hit_rate = (c.allocs > 0).then(|| c.hits as f64 / c.allocs as f64);
            format!(
                "{{\"allocs\": {}, \"hits\": {}, \"hit_rate\": {}, \"slabs\": {}, \"peak_slabs\": {}, \"metadata_bytes\": {}}}",
                c.allocs, c.hits, number(hit_rate), c.slabs, c.peak_slabs, c.metadata
            )
        });
        let fields = [
            (
                "trace",
                format!(
                    "{{\"program\": {}, \"pid\": {}, \"bytes\": {}}}",
                    quoted(&work.program),
                    work.pid,
                    work.bytes
                ),
            ),
            ("engine", quoted(&self.engine)),
            ("calls", work.calls.to_string()),
            ("alloc_calls", work.allocs.to_string()),
            ("pass_ns", format!("[{}]", times.join(", "))),
            ("ns_per_call", format!("{:.2}", self.per_call(self.best()))),
            ("peak_live", work.peak.to_string()),
            ("peak_live_call", (work.peak_at + u64::from(work.calls > 0)).to_string()),
            ("peak_held", memory.most_held.to_string()),
            ("at_peak", point(memory.at_peak)),
            ("at_end", point(memory.at_end)),
            ("heap", counts),
            ("series", format!("[{}]", series.join(", "))),
        ];
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("  \"{name}\": {value}")).collect();
        format!("{{\n{}\n}}\n", fields.join(",\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::heaps::Counts;

    fn sample() -> Told {
        let point = |call, live, held| Point { call, live, held };
        Told {
            engine: "slub".into(),
            work: About {
                program: "a \"b\"".into(),
                pid: 9,
                calls: 1000,
                allocs: 600,
                bytes: 2400,
                peak: 4096,
                peak_at: 499,
            },
            memory: Memory {
                series: vec![point(500, 4096, 8192), point(1000, 0, 4096)],
                at_peak: point(500, 4096, 8192),
                at_end: point(1000, 0, 4096),
                most_held: 12_288,
                counts: Some(Counts { allocs: 600, hits: 540, slabs: 2, peak_slabs: 1234, metadata: 2048 }),
            },
            times: [50_000, 40_000, 90_000].map(Duration::from_nanos).to_vec(),
        }
    }

    #[test]
    fn text_for_people() {
        let expected = "\
trace     a \"b\" (pid 9): 1,000 calls
engine    slub
time      40.0 ns a call (best of 3; median 50.0)
live      4.0K at most (after call 500), 0 at the end
held      8.0K then (2.00 x live), 12.0K at most, 4.0K at the end (-)
hits      90.0 % of allocations from a CPU's own stack
slabs     2 at the end, 1,234 at most
metadata  2.0K of descriptors and tags
";
        assert_eq!(sample().text(), expected);
    }

    #[test]
    fn json_for_programs() {
        let expected = "\
{
  \"trace\": {\"program\": \"a \\\"b\\\"\", \"pid\": 9, \"bytes\": 2400},
  \"engine\": \"slub\",
  \"calls\": 1000,
  \"alloc_calls\": 600,
  \"pass_ns\": [50000, 40000, 90000],
  \"ns_per_call\": 40.00,
  \"peak_live\": 4096,
  \"peak_live_call\": 500,
  \"peak_held\": 12288,
  \"at_peak\": {\"call\": 500, \"live\": 4096, \"held\": 8192, \"ratio\": 2.0000},
  \"at_end\": {\"call\": 1000, \"live\": 0, \"held\": 4096, \"ratio\": null},
  \"heap\": {\"allocs\": 600, \"hits\": 540, \"hit_rate\": 0.9000, \"slabs\": 2, \"peak_slabs\": 1234, \"metadata_bytes\": 2048},
  \"series\": [[500, 4096, 8192], [1000, 0, 4096]]
}
";
        assert_eq!(sample().json(), expected);
        let mut system = sample();
        system.memory.counts = None;
        assert!(system.json().contains("\"heap\": null,"));
        assert!(!system.text().contains("hits"));
    }
}
