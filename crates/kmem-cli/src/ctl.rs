//! `kmem ctl`: have a running process do something with its heap, and print what it says.
//!
//! The process does it in one of its own threads, when that comes by a slow path of malloc or free, or is woken: see [`crate::live`]
//! for how it is asked.

use std::io::{self, Write};
use std::time::Duration;

use kmem_core::debug::options;

use crate::cli::{CtlArgs, CtlCommand, LeaksShow};
use crate::failure::{Failure, Result};
use crate::live::{self, ask, directory};

/// Runs the command.
///
/// # Errors
/// Status 1: no such process, no answer, or the process says why it cannot.
pub(crate) fn run(args: &CtlArgs) -> Result<u8> {
    let command = command(&args.command)?;
    let directories = directory::to_look_in(args.dir.as_deref())?;
    let found = live::one(&args.who, &directories)?;
    let answer = ask::ask(&found, &command, Duration::from_secs_f64(args.wait), !args.no_wake)?;
    let written = io::stdout().write_all(answer.text.as_bytes()).and_then(|()| io::stdout().flush());
    written.map_err(|error| Failure::input(format!("stdout: {error}")))?;
    match answer.error {
        None => Ok(0),
        Some(why) => Err(Failure::input(format!("process {}: {why}", found.pid))),
    }
}

/// The words of the protocol.
fn command(command: &CtlCommand) -> Result<String> {
    Ok(match command {
        CtlCommand::Letters { letters } => {
            if let Some(letter) = options::unknown(letters).next() {
                return Err(Failure::input(format!(
                    "unknown debug letter '{}' (there are: F Z P U T A, and - for none)",
                    letter.escape_default()
                )));
            }
            if letters.chars().any(char::is_control) {
                return Err(Failure::input("no cache has such a name"));
            }
            format!("letters {letters}")
        }
        CtlCommand::Validate => "validate".to_owned(),
        CtlCommand::Traces => "traces".to_owned(),
        CtlCommand::Leaks { show } => {
            let show = match show {
                LeaksShow::Lost => "lost",
                LeaksShow::All => "all",
                LeaksShow::InUse => "in-use",
            };
            format!("leaks {show}")
        }
        CtlCommand::Shrink => "shrink".to_owned(),
        CtlCommand::OnError { what } => format!("on-error {}", what.name()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::OnError;

    #[test]
    fn commands_have_the_words_of_the_protocol() {
        let letters = |text: &str| CtlCommand::Letters { letters: text.to_owned() };
        for (asked, words) in [
            (letters("FZPU,kmalloc-64;-,kmalloc-1*"), "letters FZPU,kmalloc-64;-,kmalloc-1*"),
            (letters("-"), "letters -"),
            (CtlCommand::Validate, "validate"),
            (CtlCommand::Traces, "traces"),
            (CtlCommand::Leaks { show: LeaksShow::InUse }, "leaks in-use"),
            (CtlCommand::Shrink, "shrink"),
            (CtlCommand::OnError { what: OnError::Warn }, "on-error warn"),
        ] {
            assert_eq!(command(&asked).unwrap(), words);
        }
        assert!(command(&letters("FX")).unwrap_err().message.contains("'X'"));
        assert!(command(&letters("F\n1 shrink")).is_err());
        assert_eq!(command(&letters("F,a\nb")).unwrap_err().message, "no cache has such a name");
    }
}
