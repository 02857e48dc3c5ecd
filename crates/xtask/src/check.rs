//! `check`: the form of the code. Formatting, lints and documentation, each without a warning.

use crate::step::{Count, Step};

pub(crate) fn run() -> Count {
    let mut count = Step::cargo("format", &["fmt", "--all", "--check"]).run();
    count +=
        Step::cargo("clippy", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
            .run();
    // What only one kind of heap has.
    for kind in ["hardened", "slab", "slob"] {
        let clippy = ["clippy", "-p", "kmem", "--features", kind, "--all-targets", "--quiet"];
        count += Step::cargo("clippy of a kind", &[&clippy[..], &["--", "-D", "warnings"]].concat()).run();
    }
    let doc = ["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"];
    count += Step::cargo("documentation", &doc).env("RUSTDOCFLAGS", "-D warnings").run();
    count
}
