//! What the system tells of a process: whether it runs, since when, whose it is, how much of it is resident.
//!
//! Everything comes from `/proc` and is gone the moment the process is: nothing here is an error, it is `None`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use crate::sys;

/// A process that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// When it was started, to a few hundredths of a second.
    pub(crate) started: SystemTime,
    /// The user it runs as.
    pub(crate) user: u32,
}

/// A clock's step, a rounded time: a table is never called older than its process for less.
const SLACK: Duration = Duration::from_secs(2);

impl Process {
    /// Looks a process up. One that has ended and was not waited for is gone.
    pub(crate) fn find(pid: u32) -> Option<Self> {
        let place = format!("/proc/{pid}");
        let (state, ticks) = parse_stat(&fs::read_to_string(format!("{place}/stat")).ok()?)?;
        if matches!(state, 'Z' | 'X' | 'x') {
            return None;
        }
        let after_boot = Duration::from_secs_f64(ticks as f64 / sys::clock_ticks());
        let uptime = parse_uptime(&fs::read_to_string("/proc/uptime").ok()?)?;
        let age = uptime.saturating_sub(after_boot);
        let started = SystemTime::now().checked_sub(age)?;
        Some(Process { started, user: fs::metadata(place).ok()?.uid() })
    }

    /// True when a file was written before the process began: by another that had its number.
    pub(crate) fn is_younger_than(&self, written: SystemTime) -> bool {
        self.started.duration_since(written).is_ok_and(|time| time > SLACK)
    }
}

/// Bytes of a process that are in memory.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(sys::page_size()))
}

/// State and start, in ticks after boot: fields 3 and 22. The second may hold spaces and brackets.
fn parse_stat(text: &str) -> Option<(char, u64)> {
    let mut words = text.rsplit_once(')')?.1.split_whitespace();
    let state = words.next()?.chars().next()?;
    Some((state, words.nth(18)?.parse().ok()?))
}

fn parse_uptime(text: &str) -> Option<Duration> {
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_found_with_its_start_and_user() {
        let before = SystemTime::now();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::find(child.id()).unwrap();
        assert_eq!(process.user, sys::real_ids().0);
        let apart = process.started.duration_since(before).unwrap_or_else(|error| error.duration());
        assert!(apart < Duration::from_secs(1), "{apart:?}");
        assert!(process.is_younger_than(before - Duration::from_secs(10)));
        assert!(!process.is_younger_than(before));
        assert!(!process.is_younger_than(before + Duration::from_secs(10)));
        assert!(resident(child.id()).unwrap() > 0);
        child.kill().unwrap();
        // It has ended though nobody waited for it yet.
        while Process::find(child.id()).is_some() {
            assert!(before.elapsed().unwrap() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(std::path::Path::new(&format!("/proc/{}", child.id())).exists());
        child.wait().unwrap();
        assert_eq!((Process::find(child.id()), resident(child.id())), (None, None));
    }

    #[test]
    fn names_may_look_like_fields() {
        let text = "7 (a) S 1 2) R 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        assert_eq!(parse_stat(text), Some(('R', 4242)));
        for bad in ["", "7 (a", "7 (a)", "7 (a) R 1 2 3", &text.replace("4242", "x")] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
        assert_eq!(
            (parse_uptime("12.5 3"), parse_uptime("-1 3"), parse_uptime("")),
            (Some(Duration::from_millis(12_500)), None, None)
        );
    }
}
