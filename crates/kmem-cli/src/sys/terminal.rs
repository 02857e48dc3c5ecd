//! Terminals: how wide they are, and how they treat what is typed.

use std::io;
use std::mem::MaybeUninit;

/// How the terminal behind stdout treats what is typed and printed.
#[derive(Clone, Copy)]
pub(crate) struct TerminalMode(libc::termios);

impl TerminalMode {
    /// As it is.
    ///
    /// # Errors
    /// stdout is no terminal.
    pub(crate) fn of_stdout() -> io::Result<Self> {
        let mut mode = MaybeUninit::<libc::termios>::zeroed();
        // SAFETY: the call writes one termios; zeroed is a valid value.
        let (result, mode) = unsafe { (libc::tcgetattr(1, mode.as_mut_ptr()), mode.assume_init()) };
        if result == 0 { Ok(TerminalMode(mode)) } else { Err(io::Error::last_os_error()) }
    }

    /// The same, but keys come one by one, are not shown, and none is a signal.
    pub(crate) fn raw(mut self) -> Self {
        // SAFETY: changes the value it is given.
        unsafe { libc::cfmakeraw(&mut self.0) };
        self
    }

    /// Makes it the terminal's mode.
    ///
    /// # Errors
    /// The terminal has gone.
    pub(crate) fn set(&self) -> io::Result<()> {
        // SAFETY: the value came from a terminal.
        if unsafe { libc::tcsetattr(1, libc::TCSADRAIN, &self.0) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// Width of the terminal behind stderr (2) or stdout (1).
pub(crate) fn terminal_columns(fd: i32) -> Option<usize> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: the request writes one winsize; zeroed is a valid value.
    let (result, size) =
        unsafe { (libc::ioctl(fd, libc::TIOCGWINSZ, size.as_mut_ptr()), size.assume_init()) };
    (result == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}
