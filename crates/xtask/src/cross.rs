//! `cross`: the core on machines other than this one.
//!
//! Two kinds of proof, each where this machine has what it takes:
//! - *compiled*: clippy without a warning for the target, which takes no more than its part of the Rust tool chain;
//! - *run*: tests of the core built for the target and run, natively or by a user-mode emulator. That takes a C compiler that
//!   links for the target as well; a C program of one line tells whether all of it is there.
//!
//! What is missing is said with the way to get it, and counts as nothing. An emulator runs the code of a weakly
//! ordered machine on this one's memory: it proves the code, not the orderings. Those are the models' affair.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::step::{Count, Step};
use crate::{suites, tree};

/// A target that is compiled for.
const COMPILED: &[(&str, &str)] = &[
    ("x86_64-unknown-none", "compile x86_64 bare"),
    ("aarch64-unknown-none", "compile aarch64 bare"),
    ("riscv64gc-unknown-none-elf", "compile riscv64 bare"),
    ("armv7a-none-eabi", "compile armv7a bare"),
];

/// A target whose tests run here.
struct Machine {
    triple: &'static str,
    /// Names of the two steps.
    compile: &'static str,
    run: &'static str,
    /// The C compiler that links for it, and what it must be told.
    linker: &'static [&'static str],
    /// What runs its programs; nothing where this machine does.
    runner: &'static [&'static str],
    /// Debian's packages of all this.
    packages: &'static str,
    /// Which tests, unless all are asked for: those that cost least for what they reach. None: the machine is only compiled for
    /// then.
    tests: Option<&'static [&'static str]>,
}

const NATIVE: &[&str] =
    &["--lib", "--test", "api_cache", "--test", "slab", "--test", "slob", "--test", "pages"];
const EMULATED: &[&str] = &["--lib", "--test", "api_cache"];

const MACHINES: &[Machine] = &[
    Machine {
        triple: "i686-unknown-linux-gnu",
        compile: "compile i686",
        run: "run i686, 32 bits",
        linker: &["cc", "-m32"],
        runner: &[],
        packages: "libc6-dev-i386 lib32gcc-12-dev",
        tests: Some(NATIVE),
    },
    Machine {
        triple: "aarch64-unknown-linux-gnu",
        compile: "compile aarch64",
        run: "run aarch64",
        linker: &["aarch64-linux-gnu-gcc"],
        runner: &["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"],
        packages: "qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
        tests: None,
    },
    Machine {
        triple: "s390x-unknown-linux-gnu",
        compile: "compile s390x",
        run: "run s390x, big endian",
        linker: &["s390x-linux-gnu-gcc"],
        runner: &["qemu-s390x", "-L", "/usr/s390x-linux-gnu"],
        packages: "qemu-user gcc-s390x-linux-gnu libc6-dev-s390x-cross",
        tests: Some(EMULATED),
    },
];

/// The names of all targets, a line each: for who installs them.
pub(crate) fn targets() {
    let machines = MACHINES.iter().map(|machine| machine.triple);
    COMPILED.iter().map(|target| target.0).chain(machines).for_each(|triple| println!("{triple}"));
}

/// Does what can be done here. `--all`: all tests on all machines.
pub(crate) fn run(arguments: &[String]) -> Count {
    let all = arguments.iter().any(|argument| argument == "--all");
    let mut count = Count::default();
    for &(triple, name) in COMPILED {
        if installed(triple, name) {
            count += compile(triple, name);
        }
    }
    for machine in MACHINES {
        if !installed(machine.triple, machine.run) {
            continue;
        }
        if machine.tests.is_none() && !all {
            count += compile(machine.triple, machine.compile);
            continue;
        }
        match machine.works() {
            Ok(()) => count += machine.test(all),
            Err(error) => {
                println!("{:<24} skipped: {error} (apt-get install {})", machine.run, machine.packages);
                count += compile(machine.triple, machine.compile);
            }
        }
    }
    count
}

/// Whether the tool chain has the target's libraries; says so when it has not.
fn installed(triple: &str, name: &str) -> bool {
    let asked = Command::new("rustc").args(["--print", "target-libdir", "--target", triple]).output();
    let there = asked.is_ok_and(|answer| {
        answer.status.success() && Path::new(String::from_utf8_lossy(&answer.stdout).trim()).is_dir()
    });
    if !there {
        println!("{name:<24} skipped: no libraries of that target (rustup target add {triple})");
    }
    there
}

fn compile(triple: &str, name: &'static str) -> Count {
    // The heap of programs is for Linux on machines of 64 bits.
    let package = if triple == "aarch64-unknown-linux-gnu" { "kmem-malloc" } else { "kmem-core" };
    let arguments = ["clippy", "--quiet", "-p", package, "--target", triple, "--", "-D", "warnings"];
    Step::cargo(name, &arguments).limit(200).run()
}

impl Machine {
    /// Links a C program for the target and runs it.
    fn works(&self) -> io::Result<()> {
        let directory = tree::target().join("xtask");
        std::fs::create_dir_all(&directory)?;
        let program = directory.join(format!("probe-{}", self.triple));
        let mut child = command_of(self.linker)
            .args(["-x", "c", "-", "-o"])
            .arg(&program)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("no {}", self.linker[0])))?;
        // Taken out of the child, so that its end of the pipe closes.
        child.stdin.take().expect("a pipe").write_all(b"int main(void) { return 0; }\n")?;
        if !child.wait()?.success() {
            return Err(io::Error::other(format!("{} cannot link", self.linker.join(" "))));
        }
        let mut run = if self.runner.is_empty() {
            Command::new(&program)
        } else {
            let mut run = command_of(self.runner);
            run.arg(&program);
            run
        };
        match run.stderr(Stdio::null()).status() {
            Ok(status) if status.success() => Ok(()),
            _ => Err(io::Error::other(format!(
                "{} does not run here",
                self.runner.first().unwrap_or(&"its program")
            ))),
        }
    }

    fn test(&self, all: bool) -> Count {
        let mut arguments = vec!["test", "--no-fail-fast", "-p", "kmem-core", "--target", self.triple];
        if !all {
            arguments.extend(self.tests.unwrap_or_default());
        }
        let mut step = Step::cargo(self.run, &arguments).limit(600);
        if !self.runner.is_empty() {
            // An emulated processor is slow enough. On this machine, to optimise costs more than it saves.
            step = step
                .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
                .env(&variable(self.triple, "LINKER"), self.linker[0])
                .env(&variable(self.triple, "RUNNER"), &self.runner.join(" "));
        }
        step.run_counting(suites::outcomes)
    }
}

fn command_of(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// The name by which cargo knows a setting of a target.
fn variable(triple: &str, setting: &str) -> String {
    format!("CARGO_TARGET_{}_{setting}", triple.to_uppercase().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_the_names_cargo_knows() {
        assert_eq!(
            variable("aarch64-unknown-linux-gnu", "RUNNER"),
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER"
        );
    }

    #[test]
    fn what_is_missing_is_an_error_and_no_panic() {
        let machine = Machine { linker: &["no-such-compiler"], ..first() };
        assert_eq!(machine.works().unwrap_err().to_string(), "no no-such-compiler");
        let machine = Machine { linker: &["cc", "-no-such-option"], ..first() };
        assert!(machine.works().unwrap_err().to_string().ends_with("cannot link"));
        let machine = Machine { linker: &["cc"], runner: &["no-such-emulator"], ..first() };
        assert!(machine.works().unwrap_err().to_string().ends_with("does not run here"));
        Machine { linker: &["cc"], runner: &[], ..first() }
            .works()
            .expect("this machine runs its own programs");
    }

    /// A machine whose probe has a name of its own.
    fn first() -> Machine {
        Machine {
            triple: "of-the-tests",
            compile: "",
            run: "",
            linker: &[],
            runner: &[],
            packages: "",
            tests: None,
        }
    }
}
