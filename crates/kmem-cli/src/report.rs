//! What a process on kmem writes when it ends: one record a line, words separated by spaces.
//!
//! ```text
//! kmem-report 1
//! process <pid> <comm>
//! build hardened                                            (of a hardened heap)
//! engine <name> cpus <n> nodes <n> ownership <rseq|portable>
//! cache <name> <object_size> <size> <align> <objs_per_slab> <pages_per_slab> <active_objs> <total_objs> <slabs>
//!       <partial_slabs> <cpu_cached_objs> <allocs> <alloc_slow> <frees_slow> <peak_slabs> <flags hex>
//! large <live blocks> <live bytes> <peak bytes> <allocs>
//! huge <live blocks> <live bytes> <peak bytes> <allocs>
//! pages <managed> <free> <resident_free> <peak_in_use>
//! guard <samples> <live> <turns without one> <errors>       (with the sampling guard)
//! exe <path>                                                (of a process that runs)
//! errors <n>                                                (the same: reports so far)
//! wake <signal>                                             (the same, if it can be woken by that)
//! end
//! ```
//! (a `cache` record is one line.) A record with an unknown first word is passed over, so that a newer library
//! can say more; a report without `end` was cut off and is refused.

use std::fmt;

use crate::slabinfo::PAGE_SIZE;

/// One cache of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cache {
    /// Name.
    pub(crate) name: String,
    /// Bytes asked for.
    pub(crate) object_size: u64,
    /// Bytes between two objects.
    pub(crate) size: u64,
    /// Alignment in bytes.
    pub(crate) align: u64,
    /// Objects in a slab of the usual order.
    pub(crate) objs_per_slab: u64,
    /// Pages in a slab of the usual order.
    pub(crate) pages_per_slab: u64,
    /// Objects that are not free in a slab: the program's, and those parked on CPUs.
    pub(crate) active_objs: u64,
    /// Objects that fit into the slabs.
    pub(crate) total_objs: u64,
    /// Slabs.
    pub(crate) slabs: u64,
    /// Slabs on node lists.
    pub(crate) partial_slabs: u64,
    /// Free objects parked on CPUs.
    pub(crate) cpu_cached_objs: u64,
    /// Allocations so far.
    pub(crate) allocs: u64,
    /// Allocations that a CPU's stack could not serve.
    pub(crate) alloc_slow: u64,
    /// Frees that a CPU's stack could not take.
    pub(crate) frees_slow: u64,
    /// The most slabs there ever were.
    pub(crate) peak_slabs: u64,
    /// Flags of the cache.
    pub(crate) flags: u64,
}

impl Cache {
    /// Objects in the program's hands.
    pub(crate) fn used(&self) -> u64 {
        self.active_objs.saturating_sub(self.cpu_cached_objs)
    }

    /// Bytes of one slab.
    pub(crate) fn slab_bytes(&self) -> u64 {
        self.pages_per_slab.saturating_mul(PAGE_SIZE)
    }

    /// Bytes of all slabs.
    pub(crate) fn held(&self) -> u64 {
        self.slabs.saturating_mul(self.slab_bytes())
    }

    /// Bytes held and not in the program's hands.
    pub(crate) fn waste(&self) -> u64 {
        self.held().saturating_sub(self.used().saturating_mul(self.object_size))
    }

    /// The most bytes ever held.
    pub(crate) fn peak(&self) -> u64 {
        self.peak_slabs.max(self.slabs).saturating_mul(self.slab_bytes())
    }

    /// Allocations that a CPU's stack served.
    pub(crate) fn fast(&self) -> u64 {
        self.allocs.saturating_sub(self.alloc_slow)
    }
}

/// Blocks beyond the caches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// Live blocks.
    pub(crate) live: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// The most bytes there ever were.
    pub(crate) peak: u64,
    /// Allocations so far.
    pub(crate) allocs: u64,
}

/// State of the page allocator, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pages {
    /// Given by the system.
    pub(crate) managed: u64,
    /// Not in use.
    pub(crate) free: u64,
    /// Not in use, and still backed by memory.
    pub(crate) resident_free: u64,
    /// The most in use at one time.
    pub(crate) peak_in_use: u64,
}

/// What the sampling guard did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Guard {
    /// Objects that were placed between protected pages.
    pub(crate) samples: u64,
    /// Those of them that are in use.
    pub(crate) live: u64,
    /// Turns at which none was placed: the request did not suit, or the pool was full.
    pub(crate) skipped: u64,
    /// Errors that it reported.
    pub(crate) errors: u64,
}

/// The report of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Process id.
    pub(crate) pid: u64,
    /// Name of the process.
    pub(crate) comm: String,
    /// Name of the engine.
    pub(crate) engine: String,
    /// What the heap was built as, if not as usual: `hardened`.
    pub(crate) build: String,
    /// CPUs.
    pub(crate) cpus: u64,
    /// Nodes.
    pub(crate) nodes: u64,
    /// How the process owned its CPUs: `rseq` or `portable`.
    pub(crate) ownership: String,
    /// Caches, in the order of the report.
    pub(crate) caches: Vec<Cache>,
    /// Blocks of whole pages.
    pub(crate) large: Blocks,
    /// Blocks with a mapping of their own.
    pub(crate) huge: Blocks,
    /// The page allocator.
    pub(crate) pages: Pages,
    /// The sampling guard, where it was on.
    pub(crate) guard: Option<Guard>,
    /// The program's file, while it runs.
    pub(crate) exe: String,
    /// Errors that were reported so far, while it runs.
    pub(crate) errors: u64,
    /// The signal that wakes it, while it runs; 0: none does.
    pub(crate) wake: u64,
}

/// Where and why a text is not a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReportError {
    /// Line number, from 1.
    pub(crate) line: usize,
    /// What is wrong there.
    pub(crate) reason: String,
}

impl fmt::Display for ReportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl Report {
    /// The most bytes in use, if pages and own mappings peaked at the same time; at least each of the two.
    pub(crate) fn peak(&self) -> u64 {
        self.pages.peak_in_use.saturating_mul(PAGE_SIZE).saturating_add(self.huge.peak)
    }

    /// All allocations.
    pub(crate) fn allocs(&self) -> u64 {
        let caches: u64 = self.caches.iter().map(|cache| cache.allocs).sum();
        caches.saturating_add(self.large.allocs).saturating_add(self.huge.allocs)
    }

    /// Reads a report.
    ///
    /// # Errors
    /// The first line that cannot be understood, or a missing end.
    pub(crate) fn parse(text: &str) -> Result<Self, ReportError> {
        let mut report = Report::default();
        let mut lines = text.lines().enumerate();
        match lines.next() {
            Some((_, "kmem-report 1")) => {}
            _ => return Err(ReportError { line: 1, reason: "not a kmem report of version 1".into() }),
        }
        let mut last = 1;
        for (index, line) in lines {
            last = index + 1;
            if line == "end" {
                return Ok(report);
            }
            report.record(line).map_err(|reason| ReportError { line: last, reason })?;
        }
        Err(ReportError { line: last, reason: "cut off: no 'end'".into() })
    }

    fn record(&mut self, line: &str) -> Result<(), String> {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "process" => {
                let (pid, comm) = rest.split_once(' ').unwrap_or((rest, ""));
                self.pid = number(pid)?;
                self.comm = comm.to_owned();
            }
            "engine" => {
                let words: Vec<&str> = rest.split(' ').collect();
                let [engine, "cpus", cpus, "nodes", nodes, "ownership", ownership] = words[..] else {
                    return Err("not an engine record".into());
                };
                self.engine = engine.to_owned();
                self.cpus = number(cpus)?;
                self.nodes = number(nodes)?;
                self.ownership = ownership.to_owned();
            }
            "build" => self.build = rest.to_owned(),
            "exe" => self.exe = rest.to_owned(),
            "errors" => [self.errors] = numbers(rest)?,
            "wake" => [self.wake] = numbers(rest)?,
            "cache" => self.caches.push(cache(rest)?),
            "large" => self.large = blocks(rest)?,
            "huge" => self.huge = blocks(rest)?,
            "pages" => {
                let [managed, free, resident_free, peak_in_use] = numbers(rest)?;
                self.pages = Pages { managed, free, resident_free, peak_in_use };
            }
            "guard" => {
                let [samples, live, skipped, errors] = numbers(rest)?;
                self.guard = Some(Guard { samples, live, skipped, errors });
            }
            _ => {}
        }
        Ok(())
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("'{word}' is not a number"))
}

fn numbers<const N: usize>(text: &str) -> Result<[u64; N], String> {
    let mut values = [0; N];
    let mut words = text.split(' ');
    for value in &mut values {
        *value = number(words.next().ok_or_else(|| format!("fewer than {N} numbers"))?)?;
    }
    match words.next() {
        None => Ok(values),
        Some(_) => Err(format!("more than {N} numbers")),
    }
}

fn blocks(text: &str) -> Result<Blocks, String> {
    let [live, bytes, peak, allocs] = numbers(text)?;
    Ok(Blocks { live, bytes, peak, allocs })
}

/// A cache's name may hold spaces: the fifteen fields behind it are counted from the right.
fn cache(text: &str) -> Result<Cache, String> {
    let mut words = text.rsplitn(16, ' ');
    let flags = words.next().unwrap_or_default();
    let flags = flags.strip_prefix("0x").unwrap_or(flags);
    let flags = u64::from_str_radix(flags, 16).map_err(|_| format!("'{flags}' is not a hex number"))?;
    let mut values = [0; 14];
    for value in values.iter_mut().rev() {
        *value = number(words.next().ok_or("fewer than 16 fields in a cache record")?)?;
    }
    let name = words.next().filter(|name| !name.is_empty()).ok_or("a cache without a name")?;
    let [
        object_size,
        size,
        align,
        objs_per_slab,
        pages_per_slab,
        active_objs,
        total_objs,
        slabs,
        partial_slabs,
        cpu_cached_objs,
        allocs,
        alloc_slow,
        frees_slow,
        peak_slabs,
    ] = values;
    Ok(Cache {
        name: name.to_owned(),
        object_size,
        size,
        align,
        objs_per_slab,
        pages_per_slab,
        active_objs,
        total_objs,
        slabs,
        partial_slabs,
        cpu_cached_objs,
        allocs,
        alloc_slow,
        frees_slow,
        peak_slabs,
        flags,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report as the library writes it.
    pub(crate) const SAMPLE: &str = "\
kmem-report 1
process 4711 my prog
engine slub cpus 2 nodes 1 ownership rseq
cache kmalloc-64 64 64 64 64 1 130 192 3 1 30 100000 250 12 5 0x1000
cache kmalloc-1k 1024 1024 1024 16 4 16 16 1 0 0 16 16 0 1 1000
cache kmalloc-8k 8192 8192 4096 4 8 0 0 0 0 0 10 2 0 2 1000
cache never used 32 32 8 128 1 0 0 0 0 0 0 0 0 0 0
large 2 81920 409600 7
huge 0 0 8388608 1
pages 2048 1900 300 700
guard 12 3 4 0
gauge of a later version 1 2 3
end
";

    #[test]
    fn every_field_is_read() {
        let report = Report::parse(SAMPLE).unwrap();
        assert_eq!((report.pid, report.comm.as_str()), (4711, "my prog"));
        assert_eq!((report.engine.as_str(), report.cpus, report.nodes), ("slub", 2, 1));
        assert_eq!(report.ownership, "rseq");
        assert_eq!(report.caches.len(), 4);
        let cache = &report.caches[0];
        assert_eq!(
            cache,
            &Cache {
                name: "kmalloc-64".into(),
                object_size: 64,
                size: 64,
                align: 64,
                objs_per_slab: 64,
                pages_per_slab: 1,
                active_objs: 130,
                total_objs: 192,
                slabs: 3,
                partial_slabs: 1,
                cpu_cached_objs: 30,
                allocs: 100_000,
                alloc_slow: 250,
                frees_slow: 12,
                peak_slabs: 5,
                flags: 0x1000,
            }
        );
        assert_eq!((cache.used(), cache.held(), cache.peak()), (100, 3 * 4096, 5 * 4096));
        assert_eq!((cache.waste(), cache.fast()), (3 * 4096 - 6400, 99_750));
        assert_eq!(report.caches[3].name, "never used");
        assert_eq!(report.large, Blocks { live: 2, bytes: 81_920, peak: 409_600, allocs: 7 });
        assert_eq!(report.huge, Blocks { live: 0, bytes: 0, peak: 8 << 20, allocs: 1 });
        assert_eq!(report.pages, Pages { managed: 2048, free: 1900, resident_free: 300, peak_in_use: 700 });
        assert_eq!(report.guard, Some(Guard { samples: 12, live: 3, skipped: 4, errors: 0 }));
        let without = Report::parse(&SAMPLE.replace("guard ", "later ")).expect("a report");
        assert_eq!(without.guard, None);
        assert_eq!((report.exe.as_str(), report.errors), ("", 0));
        assert_eq!(without.wake, 0);
        let running = Report::parse(&SAMPLE.replace("gauge", "exe /a b/c\nerrors 3\nwake 23\ngauge"));
        let running = running.expect("a report");
        assert_eq!((running.exe.as_str(), running.errors, running.wake), ("/a b/c", 3, 23));
    }

    #[test]
    fn a_report_that_was_cut_off_is_refused() {
        for (end, _) in SAMPLE.match_indices('\n') {
            let part = &SAMPLE[..end];
            assert_eq!(Report::parse(part).is_ok(), part.ends_with("\nend"), "{part}");
        }
    }

    #[test]
    fn defects_are_named_with_their_line() {
        for (from, to, line, reason) in [
            ("kmem-report 1", "kmem-report 2", 1, "not a kmem report of version 1"),
            ("process 4711", "process x", 2, "'x' is not a number"),
            ("nodes 1", "node 1", 3, "not an engine record"),
            ("cache kmalloc-64 64 64", "cache 64 64", 4, "a cache without a name"),
            ("250 12 5 0x1000", "0x1000", 4, "'kmalloc-64' is not a number"),
            ("cache never used 32 32 8", "cache 32", 7, "fewer than 16 fields in a cache record"),
            ("5 0x1000", "5 0x10g0", 4, "'10g0' is not a hex number"),
            ("large 2 81920 409600 7", "large 2 81920 409600", 8, "fewer than 4 numbers"),
            ("pages 2048", "pages 1 2048", 10, "more than 4 numbers"),
            ("guard 12", "guard", 11, "fewer than 4 numbers"),
            ("gauge of", "errors x of", 12, "'x' is not a number"),
        ] {
            let bad = SAMPLE.replacen(from, to, 1);
            assert_ne!(bad, SAMPLE);
            let error = Report::parse(&bad).expect_err(reason);
            assert_eq!((error.line, error.reason.as_str()), (line, reason));
        }
    }
}
