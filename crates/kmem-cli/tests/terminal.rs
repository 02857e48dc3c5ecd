//! What a person at a terminal sees: a summary without being asked, in colours, fitted to the width.

mod support;

use std::process::{Command, Stdio};

use support::{Pty, kmem};

/// Runs a command with stderr on a terminal `columns` wide; returns what appears there.
fn on_terminal(command: &mut Command, columns: u16) -> String {
    let mut terminal = Pty::new(columns);
    let mut child =
        command.stdout(Stdio::null()).stderr(terminal.side()).env("TERM", "xterm").spawn().unwrap();
    // The command's own copy of the terminal would keep it open.
    command.stderr(Stdio::null());
    let text = terminal.rest();
    child.wait().unwrap();
    String::from_utf8(text).unwrap().replace("\r\n", "\n")
}

#[test]
fn a_summary_is_shown_on_a_terminal() {
    let text = on_terminal(kmem().args(["run", "--", "true"]), 120);
    assert!(text.starts_with("kmem: \x1b[1mtrue\x1b[0m (pid "), "{text}");
    assert!(text.contains("kmalloc-64     64 "), "{text}");
}

#[test]
fn colours_can_be_refused() {
    let text = on_terminal(kmem().env("NO_COLOR", "1").args(["run", "--", "true"]), 120);
    assert!(text.contains("kmalloc-64") && !text.contains('\x1b'), "{text}");
}

#[test]
fn a_narrow_terminal_gets_a_narrow_table() {
    let text = on_terminal(kmem().args(["run", "--", "true"]), 72);
    let row = text.lines().find(|line| line.starts_with("kmalloc-64")).unwrap();
    assert!(row.len() <= 72, "{row}");
}

#[test]
fn nothing_is_shown_when_it_is_refused_or_goes_elsewhere() {
    assert_eq!(on_terminal(kmem().args(["run", "--no-summary", "--", "true"]), 80), "");
    assert_eq!(on_terminal(kmem().args(["run", "--summary-file", "/dev/null", "--", "true"]), 80), "");
}
