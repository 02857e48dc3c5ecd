//! `kernel`: the kernel that has nothing but kmem, built, booted in QEMU, and believed only when it says that it passed.
//!
//! Without options: the builds and machines of [`plan`], each one line, their output shown when they fail; then the
//! [`guide`] and the [`counts`]. With options: one boot of one machine, its serial output as it comes.
//!
//! The kernel ends the machine through QEMU's debug-exit device with status 33 when it passed. Anything else is a
//! failure: its own verdict (35), a reset after a triple fault (0), a hang (stopped after `--limit`).

mod counts;
mod guide;
mod machine;
mod plan;
mod told;

use crate::step::Count;
use machine::Machine;

const USAGE: &str = "\
cargo xtask kernel                boots every machine of the plan and counts the kernel's tests
cargo xtask kernel --guide        follows the guide for kernel writers word for word, in an empty folder
cargo xtask kernel --counts       instructions of each operation, against golden/kernel-counts.txt and Linux's;
                                  with --bless it writes them
cargo xtask kernel OPTIONS        boots one machine, its output as it comes

  --smp N          CPUs (1)
  --nodes M        nodes (1): CPUs and memory are dealt to them evenly
  --mem MB         memory of the whole machine (128)
  --low MB         how much of it lies below 4 GiB (up to 3 GiB)
  --engine E       slub, slab or slob (slub)
  --conformance    the suite that every engine passes everywhere runs among the kernel's tests
  --hardened       encoded free pointers, random order, damage stops the machine
  --masked         CPU stacks owned by masking interrupts instead of restarted pieces
  --release        the optimised build
  --single-step    every instruction can be interrupted: slow
  --icount         time is counted in instructions (one CPU)
  --append TEXT    the kernel's command line: test=NAME, stress=N
  --limit SECONDS  then it hangs, which is a failure (60)
";

pub(crate) fn run(arguments: &[String]) -> Count {
    if arguments.is_empty() {
        return plan::run();
    }
    if arguments == ["--guide"] {
        return guide::run();
    }
    if arguments.first().is_some_and(|first| first == "--counts") {
        return counts::run(arguments.iter().any(|argument| argument == "--bless"));
    }
    match Machine::parse(arguments) {
        Ok(Some(machine)) => machine.build_and_watch(),
        Ok(None) => {
            print!("{USAGE}");
            Count::default()
        }
        Err(complaint) => {
            eprintln!("kernel: {complaint}\n\n{USAGE}");
            Count::FAILED
        }
    }
}
