//! `bench`: builds kmem, the bench program and the peers that are asked for, and hands over to it, output unfiltered.

use crate::library::{self, Engine};
use crate::peers::{self, Which};
use crate::programs;
use crate::step::{Count, Step};
use crate::tree;

const USAGE: &str = "\
cargo xtask bench [OPTIONS] [ROW...]

  --peers all       also the peers that are built here from their sources, and scudo (default: Debian's that are there)
  --peers A,B       only those of all that are called so
  --hardened        the hardened library beside scudo, hardened_malloc, mimalloc built secure; shown are scudo told to clear,
                    a floor of heaps that clear, and the usual library
  --objects         typed caches beside crates of pools and arenas, and beside other allocators of Rust's
  --programs        the real programs of `cargo xtask programs` on all of them: time, peak, page faults
                    (ROW is a program's name then); with --hardened on those
  --compare A B     two files of `--json`: what became of each row
";

/// What the arguments ask for; the rest is the bench program's.
struct Options {
    which: Which,
    objects: bool,
    programs: bool,
    rest: Vec<String>,
}

fn options(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options { which: Which::default(), objects: false, programs: false, rest: Vec::new() };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--peers" => {
                options.which = match arguments.next().map(String::as_str) {
                    Some("all") => Which::All,
                    Some(names) => Which::Named(names.split(',').map(str::to_owned).collect()),
                    None => return Err("--peers takes `all`, or names with commas".to_owned()),
                }
            }
            "--hardened" => options.which = Which::Hardened,
            "--objects" => options.objects = true,
            "--programs" => options.programs = true,
            other => options.rest.push(other.to_owned()),
        }
    }
    Ok(options)
}

pub(crate) fn run(arguments: &[String]) -> Count {
    let mut options = match options(arguments) {
        Ok(options) => options,
        Err(message) => {
            println!("bench: {message}\n\n{USAGE}");
            return Count::FAILED;
        }
    };
    if arguments.iter().any(|argument| argument == "--help") {
        println!("{USAGE}");
    }
    let build = &["build", "--release", "-p", "kmem-malloc", "-p", "kmem-bench"];
    if Step::cargo("build the bench", build).run().failed > 0 {
        return Count::FAILED;
    }
    let ask = ["--help", "--list", "--compare"];
    if options.rest.first().is_some_and(|first| ask.contains(&first.as_str())) {
        return started(tree::command(tree::release("kmem-bench")).args(&options.rest));
    }
    let mut libraries = peers::find(&options.which);
    let (mut kmem, mut usual) = (library::path(Engine::Slub), None);
    if options.which == Which::Hardened {
        if library::build(Engine::Hardened).failed > 0 {
            return Count::FAILED;
        }
        usual = Some(kmem);
        options.rest.push("--hardened".to_owned());
        kmem = library::path(Engine::Hardened);
    }
    if options.programs {
        libraries.extend(usual.map(|usual| ("usual", usual)));
        libraries.push(("kmem", kmem));
        return programs::peers::run(&libraries, &options.rest);
    }
    let mut command = tree::command(tree::release("kmem-bench"));
    if options.objects {
        match peers::objects() {
            Ok(program) => command.arg("--objects").arg(program),
            Err(message) => {
                println!("bench: the objects' program: {message}");
                return Count::FAILED;
            }
        };
    }
    for (name, path) in &libraries {
        command.arg("--lib").arg(format!("{name}={}", path.display()));
    }
    if let Some(usual) = usual {
        for ((name, path), environment) in peers::clearing() {
            command.arg("--shown").arg(format!("{name}={}", path.display()));
            command.args(environment.into_iter().flat_map(|pair| ["--env", pair]));
        }
        command.arg("--shown").arg(format!("usual={}", usual.display()));
    }
    // Hardened heaps are a matter of what is checked, and objects have arenas, which are next to nothing.
    let floored = options.which != Which::Hardened && !options.objects;
    for (name, path) in if floored { peers::floors() } else { Vec::new() } {
        command.arg("--floor").arg(format!("{name}={}", path.display()));
    }
    command.arg("--kmem").arg(kmem);
    started(command.args(&options.rest))
}

fn started(command: &mut std::process::Command) -> Count {
    Count::of(command.status().is_ok_and(|status| status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split() {
        let split = |text: &str| options(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let all = split("--peers all --turns 3 pair").unwrap();
        assert_eq!((all.which, all.programs), (Which::All, false));
        assert_eq!(split("--peers a,b").unwrap().which, Which::Named(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(all.rest, ["--turns", "3", "pair"]);
        assert_eq!(split("--hardened --quick").unwrap().which, Which::Hardened);
        assert!(split("--peers").is_err());
        assert!(split("--programs sqlite").unwrap().programs);
    }
}
