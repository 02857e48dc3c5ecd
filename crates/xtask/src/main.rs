//! Developer commands: `cargo xtask <command>`. Continuous integration calls the same ones.
//!
//! Each command is a module with one purpose. A command returns how many things passed and failed
//! ([`step::Count`]), prints a line or a table about them, and prints a log only where something failed.

mod check;
mod child;
mod ci;
mod cross;
mod golden;
mod kernel;
mod library;
mod peers;
mod programs;
mod step;
mod suites;
mod tidy;
mod tree;

use std::process::ExitCode;

use step::Count;

const USAGE: &str = "\
cargo xtask <command>

  ci                       everything below, one line a step; the last line counts what passed and failed
  check                    formatting, clippy and documentation, each without a warning
  tidy [--bless]           layers, words, sizes, page of misuse, unsafe census; --bless writes both anew
  test                     all tests, then the long ones optimised
  cross [--all]            the core on other architectures: compiled, and run where this machine can
  loom                     the lock-free protocols, in every interleaving
  programs [OPTIONS]       real programs on kmem, compared with the system allocator (--help tells more)
  costs [OPTIONS]          what each debug letter costs on these programs (--help tells more)
  bench [OPTIONS]          kmem beside glibc, jemalloc, mimalloc and tcmalloc (--help tells more); with --hardened: the hardened
                           library beside scudo, hardened_malloc and mimalloc built secure
  golden [--bless]         instructions of the fast paths against golden/fast-path.txt
  kernel [OPTIONS]         the kernel that has nothing but kmem, booted in QEMU (--help tells more)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    let count = match command {
        "ci" => ci::run(rest),
        "check" => check::run(),
        "tidy" => tidy::run(rest),
        "test" => suites::run(),
        "cross" if rest == ["--targets"] => {
            cross::targets();
            return ExitCode::SUCCESS;
        }
        "cross" => cross::run(rest),
        "loom" => suites::models(),
        "programs" => programs::run(rest),
        "costs" => programs::costs::run(rest),
        "bench" => bench(rest),
        "golden" => golden::run(rest),
        "kernel" => kernel::run(rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => {
            eprintln!("xtask: no command `{other}`\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if command != "ci" {
        println!("{command}: {count}");
    }
    if count.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `bench`: builds the library and the bench program optimised and hands over to it, output unfiltered.
fn bench(arguments: &[String]) -> Count {
    let built = step::Step::cargo(
        "build the bench",
        &["build", "--release", "-p", "kmem-malloc", "-p", "kmem-bench"],
    );
    if built.run().failed > 0 {
        return Count::FAILED;
    }
    let usual = library::path(library::Engine::Slub);
    let mut command = tree::command(tree::release("kmem-bench"));
    let hardened = arguments.iter().any(|argument| argument == "--hardened");
    if hardened {
        if library::build(library::Engine::Hardened).failed > 0 {
            return Count::FAILED;
        }
        for (name, path) in peers::all().into_iter().chain([("usual", usual)]) {
            command.arg("--lib").arg(format!("{name}={}", path.display()));
        }
        command.arg("--named").arg("--kmem").arg(library::path(library::Engine::Hardened));
    } else {
        command.arg("--kmem").arg(usual);
    }
    let status = command.args(arguments.iter().filter(|argument| *argument != "--hardened")).status();
    Count::of(status.is_ok_and(|status| status.success()))
}
