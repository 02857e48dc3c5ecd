//! Parts of the checks at the same time, so that no CPU idles while a step has work for one.
//!
//! Each part is this program again (`ci PART`) with its output in a file, which is printed whole when the part has ended: the
//! lines of two parts never mix. A few workers take the parts in the order given, so the longest ought to come first. What a
//! part counted stands in its last line; a part that ends without one, or with a bad status, has failed whatever it printed.

use std::collections::VecDeque;
use std::fs::File;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::step::Count;
use crate::{child, tree};

/// Parts at a time. Their steps have threads of their own; more would only wait for one another.
const WORKERS: usize = 2;
/// Every step of a part has its own, shorter limit.
const LIMIT: Duration = Duration::from_secs(2400);

/// Does all parts, at most [`WORKERS`] at a time, and never more than there are CPUs.
pub(crate) fn run(parts: &[&str]) -> Count {
    let queue: Mutex<VecDeque<&str>> = Mutex::new(parts.iter().copied().collect());
    let total = Mutex::new(Count::default());
    let worker = || {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(part) = next else { break };
            let (count, output) = one(part);
            // Printed under the lock: in one piece.
            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
            *total += count;
            print!("{output}");
        }
    };
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..cpus.min(WORKERS)).for_each(|_| drop(scope.spawn(worker))));
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Does one part; what it counted, and what there is to print.
fn one(part: &str) -> (Count, String) {
    let directory = tree::target().join("xtask");
    let path = directory.join(format!("part-{part}.log"));
    // The file of this program may be replaced while it runs; this name leads to the one that runs.
    let mut command = tree::command("/proc/self/exe");
    command.args(["ci", part]).stdin(Stdio::null());
    let end = std::fs::create_dir_all(&directory).and_then(|()| File::create(&path)).and_then(|log| {
        command.stderr(log.try_clone()?).stdout(log);
        child::run_ourselves(&mut command, LIMIT)
    });
    let log =
        std::fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    match end {
        Ok(end) => {
            let (count, mut output) = counted(&log, end.status.success());
            let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
            let cpu = seconds(end.usage.ru_utime) + seconds(end.usage.ru_stime);
            let why = if end.timed_out { ", stopped" } else { "" };
            output.push_str(&format!(
                "-- {part}: {count} in {:.0} s, {cpu:.0} s of a CPU{why}\n",
                end.wall.as_secs_f64()
            ));
            (count, output)
        }
        Err(error) => (Count::FAILED, format!("-- {part}: cannot be started: {error}\n")),
    }
}

/// Takes the count from the last line of a part's output, and gives the rest. Doubt is a failure.
fn counted(log: &str, ended_well: bool) -> (Count, String) {
    let text = log.trim_end();
    let (rest, last) = text.rsplit_once('\n').unwrap_or(("", text));
    let (mut count, rest) = match Count::parse(last) {
        Some(count) => (count, rest),
        None => (Count::FAILED, text),
    };
    if !ended_well && count.failed == 0 {
        count.failed = 1;
    }
    let mut output = rest.to_owned();
    if !output.is_empty() {
        output.push('\n');
    }
    (count, output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubt_is_a_failure() {
        let of = |passed, failed| Count { passed, failed };
        assert_eq!(counted("a ok\nb ok\n7 passed, 0 failed\n", true), (of(7, 0), "a ok\nb ok\n".to_owned()));
        assert_eq!(counted("a FAILED\n7 passed, 2 failed\n", false), (of(7, 2), "a FAILED\n".to_owned()));
        // Ended badly after a good count, and ended without a count.
        assert_eq!(counted("7 passed, 0 failed\n", false), (of(7, 1), String::new()));
        assert_eq!(counted("a ok\nb ok\n", true), (of(0, 1), "a ok\nb ok\n".to_owned()));
        assert_eq!(counted("", true), (of(0, 1), String::new()));
    }
}
