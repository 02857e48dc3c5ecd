//! What a person at a terminal sees: a summary without being asked, in colours, fitted to the width.

mod support;

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::ptr;

use support::kmem;

/// Runs a command with stderr on a terminal `columns` wide; returns what appears there.
fn on_terminal(command: &mut Command, columns: u16) -> String {
    let (mut main, mut side) = (0, 0);
    let size = libc::winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the two numbers and the size are valid for the call; no name or settings are asked for.
    let result = unsafe { libc::openpty(&mut main, &mut side, ptr::null_mut(), ptr::null(), &size) };
    assert_eq!(result, 0);
    // SAFETY: the call gave us both descriptors, and nobody else has them.
    let (mut main, side) = unsafe { (File::from_raw_fd(main), OwnedFd::from_raw_fd(side)) };
    let mut child = command.stdout(Stdio::null()).stderr(side).env("TERM", "xterm").spawn().unwrap();
    // The command's own copy of the terminal would keep it open.
    command.stderr(Stdio::null());
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    // A terminal whose last user has gone answers with an error, not with an end.
    while let Ok(count @ 1..) = main.read(&mut buffer) {
        text.extend_from_slice(&buffer[..count]);
    }
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
