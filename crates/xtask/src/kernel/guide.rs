//! `kernel --guide`: the guide for kernel writers, followed word for word in an empty folder.
//!
//! Every fenced block of the guide is one of three, and they are taken in the order in which they stand:
//! - a file: its first line is a comment with nothing but the file's name; it is written as it stands, in place of an earlier one;
//! - `sh`: commands, which must succeed; the folder that they end up in is where the next block begins;
//! - `console`: what the commands before it must have printed; a line of three dots stands for any lines.
//!
//! A block that is none of these would be a block that nobody tries, and is a failure.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::step::Count;
use crate::{child, tree};

/// The guide, from the root.
const GUIDE: &str = "docs/your-kernel.md";
/// Seconds that a block of commands may take.
const LIMIT: u64 = 300;

/// What a block of the guide asks for.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A file with this name and text.
    Write(String, String),
    /// Commands.
    Run(String),
    /// Lines that the commands before must have printed.
    Expect(Vec<String>),
}

pub(super) fn run() -> Count {
    let steps = match std::fs::read_to_string(tree::root().join(GUIDE)) {
        Ok(guide) => steps(&guide),
        Err(error) => Err(error.to_string()),
    };
    let outcome = steps.and_then(|steps| {
        let mut reader = Reader::new().map_err(|error| format!("no folder to try it in: {error}"))?;
        let mut count = Count::default();
        for step in &steps {
            count += reader.follow(step)?;
        }
        Ok(count)
    });
    outcome.unwrap_or_else(|complaint| {
        println!("{GUIDE}: {complaint}");
        Count::FAILED
    })
}

/// The steps of a guide, or the block that is none.
fn steps(guide: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let text = block.iter().map(|line| format!("{line}\n")).collect();
        steps.push(match (kind, block.first().and_then(|line| file_name(line))) {
            ("sh", None) => Step::Run(text),
            ("console", None) => Step::Expect(block.into_iter().map(str::to_owned).collect()),
            ("sh" | "console", Some(_)) | (_, None) => {
                return Err(format!("a block of `{kind}` that nobody can try:\n{text}"));
            }
            (_, Some(name)) => Step::Write(name.to_owned(), text),
        });
    }
    let expectations = steps.iter().filter(|step| matches!(step, Step::Expect(_))).count();
    if expectations == 0 { Err("it expects nothing".to_owned()) } else { Ok(steps) }
}

/// The file that a comment names, if it does nothing else.
fn file_name(line: &str) -> Option<&str> {
    let comment = [("// ", ""), ("# ", ""), ("/* ", " */")];
    let name = comment.into_iter().find_map(|(begin, end)| line.strip_prefix(begin)?.strip_suffix(end))?;
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "./-_".contains(c));
    (plain && name.contains('.') && !name.starts_with(['.', '/'])).then_some(name)
}

/// Somebody who does what the guide says.
struct Reader {
    /// The folder that holds everything, and is gone afterwards.
    folder: PathBuf,
    /// Where the reader is.
    place: PathBuf,
    /// What the last commands printed.
    printed: Vec<String>,
}

impl Reader {
    /// A reader in an empty folder, with the tree as `kmem` beside whatever comes.
    fn new() -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("kmem-guide-{}", std::process::id()));
        std::fs::create_dir(&folder)?;
        let reader = Self { place: folder.clone(), folder, printed: Vec::new() };
        std::os::unix::fs::symlink(tree::root(), reader.folder.join("kmem"))?;
        Ok(reader)
    }

    /// Does one step. The error is what makes it senseless to go on.
    fn follow(&mut self, step: &Step) -> Result<Count, String> {
        match step {
            Step::Write(name, text) => std::fs::write(self.place.join(name), text)
                .map(|()| Count::default())
                .map_err(|error| format!("cannot write {name}: {error}")),
            Step::Run(commands) => self.run(commands),
            Step::Expect(lines) => {
                let expected: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
                let printed: Vec<&str> = self.printed.iter().map(|line| line.trim_end()).collect();
                if printed_as(&expected, &printed) {
                    return Ok(Count::PASSED);
                }
                Err(format!("expected:\n{}\nprinted:\n{}", expected.join("\n"), printed.join("\n")))
            }
        }
    }

    fn run(&mut self, commands: &str) -> Result<Count, String> {
        let start = Instant::now();
        let (output, place) = (self.folder.join("output"), self.folder.join("place"));
        let mut shell = tree::command("/bin/sh");
        shell.current_dir(&self.place).arg("-ec").arg(format!("{commands}\npwd >'{}'", place.display()));
        // As in somebody else's folder; what the crates depend on was fetched when this program was built.
        shell
            .env_remove("CARGO_TARGET_DIR")
            .env("CARGO_NET_OFFLINE", "true")
            .env("CARGO_TERM_COLOR", "never");
        let end = File::create(&output)
            .and_then(|file| {
                shell.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
                child::run(&mut shell, Duration::from_secs(LIMIT))
            })
            .map_err(|error| error.to_string())?;
        let text = std::fs::read(&output).map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&text);
        if !end.status.success() {
            let why = if end.timed_out { "took too long" } else { "failed" };
            return Err(format!("{why}:\n{commands}{text}"));
        }
        self.printed = text.lines().map(str::to_owned).collect();
        let place = std::fs::read_to_string(&place).map_err(|error| error.to_string())?;
        self.place = Path::new(place.trim_end()).to_owned();
        let first = commands.lines().next().unwrap_or_default();
        println!("{:<48} ok     {:>6.1} s", format!("guide: {first} ..."), start.elapsed().as_secs_f64());
        Ok(Count::PASSED)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Nothing of it is needed; what cannot be removed lies in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Whether `printed` is what was `expected`, dots standing for any lines.
fn printed_as(expected: &[&str], printed: &[&str]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((&"...", rest)) => (0..=printed.len()).any(|skipped| printed_as(rest, &printed[skipped..])),
        Some((line, rest)) => printed.first() == Some(line) && printed_as(rest, &printed[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_files_commands_and_expectations() {
        let guide = "text\n```toml\n# Cargo.toml\n[package]\n```\n```sh\nls\n```\nmore\n```console\nCargo.toml\n```\n";
        assert_eq!(
            steps(guide).unwrap(),
            [
                Step::Write("Cargo.toml".to_owned(), "# Cargo.toml\n[package]\n".to_owned()),
                Step::Run("ls\n".to_owned()),
                Step::Expect(vec!["Cargo.toml".to_owned()]),
            ]
        );
        for untried in ["```rust\nfn main() {}\n```\n", "```text\nx\n```\n", "no block", "```sh\nls\n```\n"] {
            assert!(steps(untried).is_err(), "{untried}");
        }
    }

    #[test]
    fn names_of_files() {
        assert_eq!(file_name("// src/main.rs"), Some("src/main.rs"));
        assert_eq!(file_name("/* link.ld */"), Some("link.ld"));
        for line in ["// a comment.", "//! src/main.rs", "# /etc/x.conf", "# ../x.rs", "// name", "it boots"]
        {
            assert_eq!(file_name(line), None, "{line}");
        }
    }

    #[test]
    fn dots_stand_for_any_lines() {
        assert!(printed_as(&["a", "...", "b"], &["a", "b"]) && printed_as(&["a", "..."], &["a", "x", "y"]));
        assert!(printed_as(&["...", "b"], &["x", "b"]));
        for (expected, printed) in
            [(&["a"][..], &["a", "b"][..]), (&["a", "b"], &["a"]), (&["...", "b"], &["b", "c"])]
        {
            assert!(!printed_as(expected, printed), "{expected:?} {printed:?}");
        }
    }

    #[test]
    fn a_reader_sees_a_command_that_fails_and_a_line_that_is_missing() {
        let mut reader = Reader::new().unwrap();
        let folder = reader.folder.clone();
        assert!(
            reader
                .follow(&Step::Run("mkdir crate\ncd crate\nls ../kmem/docs | grep your-kernel\n".to_owned()))
                .is_ok()
        );
        assert!(reader.place.ends_with("crate"));
        assert!(reader.follow(&Step::Expect(vec!["your-kernel.md".to_owned()])).is_ok());
        assert!(reader.follow(&Step::Expect(vec!["my-kernel.md".to_owned()])).is_err());
        assert!(reader.follow(&Step::Run("false\ntrue\n".to_owned())).is_err());
        drop(reader);
        assert!(!folder.exists());
    }
}
