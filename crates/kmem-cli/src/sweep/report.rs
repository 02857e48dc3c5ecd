//! The report that the library leaves of a process with injected failures (`KMEM_FAIL_REPORT`).

/// One report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// The request that was refused; none: the process did not come so far.
    pub(super) failed: Option<Failed>,
    /// Requests that could have been refused; none: the process ended without saying.
    pub(super) asked: Option<u64>,
}

/// A request that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Failed {
    /// Bytes asked for.
    pub(super) bytes: u64,
    /// The cache that would have served it; empty: none.
    pub(super) cache: String,
    /// The calls that led to it, the nearest first: offset and file.
    pub(super) frames: Vec<(u64, String)>,
}

impl Report {
    /// Reads the text. Lines that mean nothing are left out: a process may have died while it wrote.
    /// `None`: it is no report.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some("kmem-fail 1") {
            return None;
        }
        let mut report = Self::default();
        let mut known = false;
        for line in lines {
            let mut words = line.splitn(if line.starts_with("frame ") { 3 } else { 6 }, ' ');
            match (words.next(), words.next(), words.next(), words.next(), words.next()) {
                (Some("process"), Some(_), ..) => known = true,
                (Some("failed"), Some(_), Some(_), Some(bytes), Some(cache)) => {
                    let cache = if cache == "-" { String::new() } else { cache.to_owned() };
                    report.failed = Some(Failed { bytes: bytes.parse().ok()?, cache, frames: Vec::new() });
                }
                (Some("frame"), Some(offset), Some(file), None, None) => {
                    let offset = u64::from_str_radix(offset.trim_start_matches("0x"), 16).ok()?;
                    if let Some(failed) = &mut report.failed {
                        failed.frames.push((offset, file.to_owned()));
                    }
                }
                (Some("asked"), Some("failmalloc"), Some(number), None, None) => {
                    report.asked = number.parse().ok();
                }
                _ => {}
            }
        }
        known.then_some(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_who_asked() {
        let text = "kmem-fail 1\nprocess 12 sort\nfailed 3 failmalloc 77 kmalloc-80\nframe 0x11bd /my own/sort\n\
                    frame 0x2724a /lib/libc.so.6\nasked failmalloc 14\nasked failslab 3\nfra";
        let report = Report::parse(text).unwrap();
        assert_eq!(report.asked, Some(14));
        let failed = report.failed.unwrap();
        assert_eq!((failed.bytes, failed.cache.as_str()), (77, "kmalloc-80"));
        assert_eq!(failed.frames[0], (0x11bd, "/my own/sort".to_owned()));
        assert_eq!(failed.frames.len(), 2);
    }

    #[test]
    fn a_process_that_came_not_so_far_says_so() {
        let report = Report::parse("kmem-fail 1\nprocess 12 sort\nasked failmalloc 2\n").unwrap();
        assert_eq!((report.failed, report.asked), (None, Some(2)));
        assert_eq!(Report::parse("kmem-fail 1\n"), None);
        assert_eq!(Report::parse(""), None);
        assert_eq!(Report::parse("kmem-report 1\nprocess 1 a\n"), None);
    }
}
