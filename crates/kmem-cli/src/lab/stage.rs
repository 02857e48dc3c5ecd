//! Where a script plays: steps with their numbers, the student's pace, and what the heap itself has to say.

use std::io::{self, BufRead, IsTerminal, Write};

use kmem_sim::Machine;

use super::draw::Style;
use crate::cli::LabArgs;
use crate::table::Paint;

/// The stage.
pub(crate) struct Stage {
    /// How to draw.
    pub(crate) style: Style,
    machine: Machine,
    wait: bool,
    steps: usize,
}

impl Stage {
    /// A stage for what happens on this machine.
    pub(crate) fn new(machine: Machine, args: &LabArgs) -> Self {
        let paint = Paint::for_terminal(io::stdout().is_terminal());
        Stage { style: Style { ascii: args.ascii, paint }, machine, wait: args.step, steps: 0 }
    }

    /// Starts a step: waits for the student, then prints the call it makes.
    pub(crate) fn step(&mut self, call: &str) {
        if self.wait && self.steps > 0 {
            eprint!("{}", self.style.paint.dim("[Enter] "));
            let mut line = String::new();
            // An end of input means that nobody will press a key any more.
            if io::stdin().lock().read_line(&mut line).unwrap_or(0) == 0 {
                eprintln!();
                self.wait = false;
            }
        }
        self.steps += 1;
        let heading = self.style.paint.bold(&format!("[{}] {call}", self.steps));
        self.say(&format!("\n{heading}"));
    }

    /// Prints a text, and before it whatever the heap had to say.
    pub(crate) fn say(&self, text: &str) {
        let console = self.machine.take_console();
        let mut out = io::stdout().lock();
        // A closed stdout ends the command by SIGPIPE; any other failure has nobody left to be told to.
        for line in console.lines() {
            let _ = writeln!(out, "{}", self.style.paint.warn(&format!("heap: {line}")));
        }
        let _ = writeln!(out, "{}", text.trim_end());
        let _ = out.flush();
    }
}
