//! `kmem symbolize`: names and lines of code.
//!
//! # What for
//! A report of the library shows call stacks. Names and lines of code are in debug information, whose reading takes
//! memory and time that a heap in trouble has not; so the library asks this command, in a process of its own: a line
//! with a file and an offset, answered by a line with what is there ([`Answer`]).
//!
//! | file | decides |
//! |---|---|
//! | [`module`] | what is known of one program or library: symbols, debug information |
//! | [`debug_file`] | where the debug information of a stripped file is |
//! | [`demangle`] | names as their languages write them |
//!
//! # Invariants
//! - I-SYMBOLIZE-1: each line that was read is answered by exactly one line, at once, whatever is in it.
//! - I-SYMBOLIZE-2: what cannot be read or found makes an answer poorer, never absent.

mod debug_file;
mod demangle;
mod module;

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use crate::cli::SymbolizeArgs;
use crate::failure::{Failure, Result};
use module::Module;

/// What is known of a place in code.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    /// `function+0xoffset/0xsize`; empty: no symbol.
    symbol: String,
    /// `file:line` of the function that has the symbol.
    location: Option<String>,
    /// `function file:line` of each function inlined there, from the outside in.
    inlined: Vec<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.symbol)?;
        for field in self.location.iter().chain(&self.inlined) {
            write!(f, "\t{field}")?;
        }
        Ok(())
    }
}

/// The files that were asked about.
#[derive(Default)]
struct Modules {
    known: HashMap<String, Option<Module>>,
}

impl Modules {
    fn ask(&mut self, path: &str, offset: u64) -> Answer {
        let module = self.known.entry(path.to_owned()).or_insert_with(|| Module::open(path.as_ref()));
        module.as_ref().map(|module| module.answer(offset)).unwrap_or_default()
    }

    /// The answer to one line. Only its end is a number: a file's name may have spaces.
    fn answer(&mut self, line: &str) -> Answer {
        let parts = line.trim_end_matches(['\n', '\r']).rsplit_once(' ');
        parts.and_then(|(path, offset)| Some(self.ask(path, hexadecimal(offset)?))).unwrap_or_default()
    }
}

/// Names of code for a reader: `function+0xoffset/0xsize [file] file:line`, as far as it is known.
pub(crate) struct Names {
    modules: Modules,
    /// The file that is not mentioned.
    own: PathBuf,
}

impl Names {
    /// For reports about the program in this file.
    pub(crate) fn new(own: &Path) -> Self {
        Self { modules: Modules::default(), own: own.to_owned() }
    }

    /// What the code before a return address is called.
    pub(crate) fn line(&mut self, file: &str, offset: u64) -> String {
        let base = file.rsplit('/').next().unwrap_or_default();
        let answer = self.modules.ask(file, offset);
        if answer.symbol.is_empty() {
            return format!("{base}+{offset:#x}");
        }
        let mut line = answer.symbol;
        if Path::new(file) != self.own {
            line.push_str(&format!(" [{base}]"));
        }
        if let Some(place) = answer.location {
            line.push_str(&format!(" {place}"));
        }
        for function in answer.inlined {
            line.push_str(&format!(" [inlined {function}]"));
        }
        line
    }
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

/// Runs the command.
///
/// # Errors
/// A bad offset or a file that cannot be read, where they are arguments; standard streams that fail.
pub(crate) fn run(args: &SymbolizeArgs) -> Result<u8> {
    let mut out = io::stdout().lock();
    let mut modules = Modules::default();
    if let Some(file) = &args.file {
        let path = file.to_string_lossy();
        if Module::open(file).is_none() {
            return Err(Failure::input(format!("{path}: not a program or library that can be read")));
        }
        for text in &args.offsets {
            let offset = hexadecimal(text).ok_or_else(|| Failure::input(format!("'{text}' is no offset")))?;
            tell(&mut out, &modules.ask(&path, offset))?;
        }
        return Ok(0);
    }
    let mut input = io::stdin().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = input.read_until(b'\n', &mut line);
        if read.map_err(|error| Failure::input(format!("stdin: {error}")))? == 0 {
            return Ok(0);
        }
        tell(&mut out, &modules.answer(&String::from_utf8_lossy(&line)))?;
    }
}

/// Writes one answer, now: whoever asked is waiting.
fn tell(out: &mut impl Write, answer: &Answer) -> Result<()> {
    let text = format!("{answer}\n");
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::input(format!("stdout: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_question_has_an_empty_answer() {
        let mut modules = Modules::default();
        for line in ["", "\n", "x", "/bin/sh\n", "/bin/sh zz\n", "/nonexistent 0x12\n", "/etc/passwd 12\n"] {
            assert_eq!(modules.answer(line), Answer::default(), "{line:?}");
        }
    }

    #[test]
    fn fields_stand_between_tabs() {
        let answer = Answer {
            symbol: "f+0x1/0x2".into(),
            location: Some("a.c:3".into()),
            inlined: vec!["g a.c:9".into(), "h a.c:1".into()],
        };
        assert_eq!(answer.to_string(), "f+0x1/0x2\ta.c:3\tg a.c:9\th a.c:1");
        assert_eq!(Answer::default().to_string(), "");
    }
}
