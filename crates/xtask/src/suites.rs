//! `test`: all tests as developers run them, then those marked `#[ignore]` (they take long) optimised. `loom`: the models.

use std::collections::BTreeSet;

use crate::library::{self, Engine};
use crate::step::{Count, Step};
use crate::tree;

pub(crate) fn run() -> Count {
    // The command's tests run programs on them, and would build them one by one.
    let mut count = Count::default();
    Engine::ALL.into_iter().for_each(|engine| count += library::build(engine));
    count +=
        Step::cargo("tests", &["test", "--workspace", "--no-fail-fast"]).limit(1500).run_counting(outcomes);
    count += other_engines();
    let long = crates_with_long_tests();
    if !long.is_empty() {
        let mut arguments = vec!["test", "--no-fail-fast", "--profile", "long", "--tests"];
        long.iter().for_each(|name| arguments.extend(["-p", name]));
        arguments.extend(["--", "--ignored"]);
        count += Step::cargo("long tests", &arguments).limit(900).run_counting(outcomes);
    }
    count
}

/// What depends on the engine that a build chooses: the process-wide heap, and the library as a C program sees it. (The core's own
/// tests run on all engines.)
fn other_engines() -> Count {
    let mut count = Count::default();
    for (engine, heap, malloc) in [
        (Engine::Slab, "the heap on slab", "malloc on slab"),
        (Engine::Slob, "the heap on slob", "malloc on slob"),
        (Engine::Hardened, "the heap, hardened", "malloc, hardened"),
    ] {
        let target = engine.target().display().to_string();
        let of_heap = [
            "test",
            "-p",
            "kmem",
            "--features",
            engine.name(),
            "--target-dir",
            &target,
            "--lib",
            "--test",
            "heap",
            "--test",
            "misuse",
        ];
        count += Step::cargo(heap, &of_heap).run_counting(outcomes);
        count += Step::cargo(malloc, &["test", "-p", "kmem-malloc"])
            .env("KMEM_TEST_ENGINE", engine.name())
            .run_counting(outcomes);
    }
    count
}

/// `loom`: the lock-free protocols, in every interleaving. They are compiled for the model checker, so apart from the rest.
pub(crate) fn models() -> Count {
    let directory = tree::target().join("loom").display().to_string();
    let arguments = ["test", "-p", "kmem-models", "--profile", "long", "--target-dir", &directory];
    Step::cargo("models", &arguments).env("RUSTFLAGS", "--cfg loom").limit(600).run_counting(outcomes)
}

/// Crates with a test that only runs when asked for: building the others again, optimised, would be minutes for nothing.
fn crates_with_long_tests() -> Vec<String> {
    let mut names = BTreeSet::new();
    for path in tree::files("crates").iter().filter(|path| path.extension().is_some_and(|e| e == "rs")) {
        let long = std::fs::read_to_string(path).is_ok_and(|text| {
            text.lines().any(|line| line.trim_start().starts_with(concat!("#[", "ignore")))
        });
        if long && let Some(name) = tree::shown(path).split('/').nth(1) {
            names.insert(name.to_owned());
        }
    }
    names.into_iter().collect()
}

/// Adds up the `test result:` lines that the test harness prints for each test program.
pub(crate) fn outcomes(log: &str) -> Count {
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
