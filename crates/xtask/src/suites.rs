//! `test`: all tests as developers run them, then those marked `#[ignore]` (they take long) optimised. `loom`: the models.

use std::collections::BTreeSet;

use crate::library::{self, Engine};
use crate::step::{Count, Step};
use crate::tree;

pub(crate) fn run() -> Count {
    let mut count = libraries();
    count += all();
    for engine in [Engine::Slab, Engine::Slob, Engine::Hardened] {
        count += on(engine);
    }
    count += long();
    count
}

/// The libraries, optimised: the command's tests run programs on them, and would build them one by one.
pub(crate) fn libraries() -> Count {
    let mut count = Count::default();
    Engine::ALL.into_iter().for_each(|engine| count += library::build(engine));
    count
}

const ALL: [&str; 2] = ["test", "--workspace"];

/// All tests as developers run them.
pub(crate) fn all() -> Count {
    let arguments = [&ALL[..], &["--no-fail-fast"]].concat();
    Step::cargo("tests", &arguments).limit(1500).run_counting(outcomes)
}

/// Builds what [`all`] runs.
pub(crate) fn build_all() -> Count {
    Step::cargo("build the tests", &[&ALL[..], &["--no-run"]].concat()).limit(900).run()
}

/// What depends on the engine that a build chooses: the process-wide heap, and the library as a C program sees it. (The core's own
/// tests run on all engines.)
pub(crate) fn on(engine: Engine) -> Count {
    let (heap, malloc) = match engine {
        Engine::Slub => ("the heap on slub", "malloc on slub"),
        Engine::Slab => ("the heap on slab", "malloc on slab"),
        Engine::Slob => ("the heap on slob", "malloc on slob"),
        Engine::Hardened => ("the heap, hardened", "malloc, hardened"),
    };
    let target = engine.target().display().to_string();
    let of_heap =
        ["test", "-p", "kmem", "--features", engine.name(), "--target-dir", &target, "--no-fail-fast"];
    let tests =
        ["--lib", "--test", "heap", "--test", "misuse", "--test", "misuse_stack", "--test", "untouched"];
    let mut count = Step::cargo(heap, &[&of_heap[..], &tests].concat()).run_counting(outcomes);
    // Of the workspace rather than of the package, whose dependencies would be built again, with fewer features.
    let of_malloc = [&ALL[..], &["--test", "preload"]].concat();
    count += Step::cargo(malloc, &of_malloc).env("KMEM_TEST_ENGINE", engine.name()).run_counting(outcomes);
    count
}

/// The tests marked `#[ignore]`, optimised.
pub(crate) fn long() -> Count {
    long_tests(false)
}

/// Builds what [`long`] runs.
pub(crate) fn build_long() -> Count {
    long_tests(true)
}

fn long_tests(only_build: bool) -> Count {
    let long = crates_with_long_tests();
    if long.is_empty() {
        return Count::default();
    }
    let mut arguments = vec!["test", "--no-fail-fast", "--profile", "long", "--tests"];
    long.iter().for_each(|name| arguments.extend(["-p", name]));
    if only_build {
        arguments.push("--no-run");
        return Step::cargo("build the long tests", &arguments).run();
    }
    arguments.extend(["--", "--ignored"]);
    Step::cargo("long tests", &arguments).limit(900).run_counting(outcomes)
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
