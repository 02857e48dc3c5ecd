//! `tidy`: rules about the tree that the compiler does not know.
//!
//! - [`layers`]: in the core, a module uses only the floors below its own.
//! - [`words`]: unfinished marks and a machine's own paths appear nowhere; the core allocates nothing.
//! - [`sizes`]: a source file stays short enough for one purpose.
//! - [`misuse`]: the page about misuse is what its table makes of it.
//! - [`census`]: each `unsafe` is counted; a new one shows up in the diff of `golden/unsafe-census.txt`.

mod census;
mod layers;
mod misuse;
mod sizes;
mod source;
mod words;

pub(crate) use misuse::rows as misuse_rows;

use crate::step::Count;

pub(crate) fn run(arguments: &[String]) -> Count {
    let bless = arguments.iter().any(|argument| argument == "--bless");
    let mut count = Count::default();
    let rules: [(&str, Vec<String>); 5] = [
        ("layers", layers::check()),
        ("words", words::check()),
        ("sizes", sizes::check()),
        ("page of misuse", misuse::check(bless)),
        ("unsafe census", census::check(bless)),
    ];
    for (name, complaints) in rules {
        let passed = complaints.is_empty();
        println!("{:<24} {}", format!("tidy: {name}"), if passed { "ok" } else { "FAILED" });
        complaints.iter().for_each(|complaint| println!("    {complaint}"));
        count += Count::of(passed);
    }
    count
}
