//! What a refusal did to a program: a run compared with one in which nothing was refused.

use super::runner::Run;
use crate::summary::Ending;
use crate::sys;

/// Signals by which programs die of their own faults.
const FAULTS: [i32; 6] =
    [libc::SIGILL, libc::SIGTRAP, libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV];

/// Runs in which nothing is refused.
#[derive(Debug)]
pub(super) struct Baseline {
    /// Exit status.
    pub(super) status: i32,
    /// Requests that can be refused, where the program said so.
    pub(super) asked: Option<u64>,
    /// Standard output; none: it differs from run to run.
    pub(super) out: Option<Vec<u8>>,
    /// Standard error, likewise.
    pub(super) err: Option<Vec<u8>>,
    /// Two runs asked for the same number of blocks.
    pub(super) steady: bool,
}

impl Baseline {
    /// Of two runs that ended by themselves.
    pub(super) fn of(first: Run, second: Run) -> Self {
        let asked = |run: &Run| run.report.as_ref().and_then(|report| report.asked);
        let same = |left: Vec<u8>, right: &[u8]| (left == right).then_some(left);
        let steady = asked(&first) == asked(&second) && first.ending == second.ending;
        Self {
            status: if let Some(Ending::Exited(status)) = first.ending { status } else { 0 },
            asked: asked(&first),
            out: same(first.out, &second.out),
            err: same(first.err, &second.err),
            steady,
        }
    }
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Exit status and output are as without the refusal.
    Same,
    /// Exit status and standard output are; standard error is not: the program told of it.
    Told,
    /// Another exit status.
    Failed(i32),
    /// Exit status as without, but other standard output, and nothing was told.
    Changed,
    /// Other standard output, and other standard error.
    ChangedTold,
    /// It did not end in time.
    Hung,
    /// Killed by a signal.
    Crashed(i32),
}

impl Verdict {
    /// What a run that met a refusal came to.
    pub(super) fn of(run: &Run, baseline: &Baseline) -> Self {
        let status = match run.ending {
            None => return Self::Hung,
            Some(Ending::Signalled(signal)) => return Self::Crashed(signal),
            Some(Ending::Exited(status)) => status,
        };
        if status != baseline.status {
            // How a shell tells that a signal killed what it ran.
            return match status.checked_sub(128) {
                Some(signal) if FAULTS.contains(&signal) => Self::Crashed(signal),
                _ => Self::Failed(status),
            };
        }
        let as_before = |now: &[u8], before: &Option<Vec<u8>>| before.as_deref().is_none_or(|b| b == now);
        match (as_before(&run.out, &baseline.out), as_before(&run.err, &baseline.err)) {
            (true, true) => Self::Same,
            (true, false) => Self::Told,
            (false, true) => Self::Changed,
            (false, false) => Self::ChangedTold,
        }
    }

    /// A fault of the program that must be mended.
    pub(super) fn is_bad(self) -> bool {
        matches!(self, Self::Crashed(_) | Self::Hung)
    }

    /// Something to look at: where it happened is worth telling.
    pub(super) fn is_remarkable(self) -> bool {
        self.is_bad() || self == Self::Changed
    }

    /// In words.
    pub(super) fn words(self) -> String {
        match self {
            Self::Same => "as without the failure".to_owned(),
            Self::Told => "as without the failure, but told of it on stderr".to_owned(),
            Self::Failed(status) => format!("clean error: exit status {status}"),
            Self::Changed => "OTHER OUTPUT, and nothing told".to_owned(),
            Self::ChangedTold => "other output, told of on stderr".to_owned(),
            Self::Hung => "HANGS".to_owned(),
            Self::Crashed(signal) => format!("CRASH: {}", sys::signal_name(signal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ending: Option<Ending>, out: &str, err: &str) -> Run {
        Run { ending, out: out.into(), err: err.into(), report: None }
    }

    fn exited(status: i32, out: &str, err: &str) -> Run {
        run(Some(Ending::Exited(status)), out, err)
    }

    #[test]
    fn runs_are_told_apart() {
        let baseline = Baseline::of(exited(0, "1", ""), exited(0, "1", ""));
        let of = |run: Run| Verdict::of(&run, &baseline);
        assert_eq!(of(exited(0, "1", "")), Verdict::Same);
        assert_eq!(of(exited(0, "1", "no memory")), Verdict::Told);
        assert_eq!(of(exited(0, "", "")), Verdict::Changed);
        assert_eq!(of(exited(0, "", "no memory")), Verdict::ChangedTold);
        assert_eq!(of(exited(2, "", "no memory")), Verdict::Failed(2));
        assert_eq!(of(exited(139, "", "")), Verdict::Crashed(libc::SIGSEGV));
        assert_eq!(of(exited(130, "", "")), Verdict::Failed(130));
        assert_eq!(of(run(Some(Ending::Signalled(6)), "1", "")), Verdict::Crashed(6));
        assert_eq!(of(run(None, "1", "")), Verdict::Hung);
        assert!(of(run(None, "1", "")).is_bad() && !of(exited(0, "", "")).is_bad());
    }

    #[test]
    fn what_differs_anyway_is_not_compared() {
        let baseline = Baseline::of(exited(1, "pid 7", "e"), exited(1, "pid 8", "e"));
        assert_eq!(baseline.status, 1);
        assert_eq!(Verdict::of(&exited(1, "pid 9", "e"), &baseline), Verdict::Same);
        assert_eq!(Verdict::of(&exited(1, "pid 9", "f"), &baseline), Verdict::Told);
        assert_eq!(Verdict::of(&exited(0, "pid 9", "e"), &baseline), Verdict::Failed(0));
    }
}
