//! `test`: all tests as developers run them, then those marked `#[ignore]` (they take long) optimised.

use crate::step::{Count, Step};

pub(crate) fn run() -> Count {
    // The C programs of kmem-malloc's tests preload this library.
    let mut count = Step::cargo("build the library", &["build", "--release", "-p", "kmem-malloc"]).run();
    count +=
        Step::cargo("tests", &["test", "--workspace", "--no-fail-fast"]).limit(900).run_counting(outcomes);
    let long = ["test", "--workspace", "--no-fail-fast", "--profile", "long", "--tests", "--", "--ignored"];
    count += Step::cargo("long tests", &long).limit(900).run_counting(outcomes);
    count
}

/// Adds up the `test result:` lines that the test harness prints for each test program.
fn outcomes(log: &str) -> Count {
    let mut count = Count::default();
    for line in log.lines().filter_map(|line| line.strip_prefix("test result: ")) {
        let number = |word: &str| {
            let before = line.split(word).next()?.trim_end();
            before.rsplit(' ').next()?.parse::<u32>().ok()
        };
        count.passed += number("passed").unwrap_or(0);
        count.failed += number("failed").unwrap_or(0);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_add_up() {
        let log = "running 2 tests\ntest a ... ok\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured\n\
                   test result: FAILED. 11 passed; 3 failed; 0 ignored\n";
        assert_eq!(outcomes(log), Count { passed: 13, failed: 3 });
        assert_eq!(outcomes("error: could not compile\n"), Count::default());
    }
}
