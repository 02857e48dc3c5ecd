//! Developer commands: `cargo xtask <command>`. Continuous integration calls the same ones.
//!
//! Each command is a module with one purpose. A command returns how many things passed and failed
//! ([`step::Count`]), prints a line or a table about them, and prints a log only where something failed.

mod bench;
mod beside;
mod check;
mod child;
mod ci;
mod cross;
mod golden;
mod kernel;
mod library;
mod misuse;
mod peers;
mod programs;
mod step;
mod suites;
mod tidy;
mod tree;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask <command>

  ci [PART...]             everything below, one line a step; the last line counts what passed and failed
  check                    formatting, clippy and documentation, each without a warning
  tidy [--bless]           layers, words, sizes, page of misuse, unsafe census; --bless writes both anew
  test                     all tests, then the long ones optimised
  cross [--all]            the core on other architectures: compiled, and run where this machine can
  loom                     the lock-free protocols, in every interleaving
  programs [OPTIONS]       real programs on kmem, compared with the system allocator (--help tells more)
  costs [OPTIONS]          what each debug letter costs on these programs (--help tells more)
  bench [OPTIONS]          kmem beside other allocators: rows, typed caches, hardened heaps, real programs (--help tells more)
  golden [OPTIONS]         instructions of the fast paths against golden/fast-path.txt; --bless writes it,
                           --code writes docs/fast-path.md: the code that runs
  misuse --peers           what becomes of misuse under scudo and hardened_malloc: the columns of docs/misuse.md
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
        "bench" => bench::run(rest),
        "golden" => golden::run(rest),
        "kernel" => kernel::run(rest),
        "misuse" => misuse::run(rest),
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
