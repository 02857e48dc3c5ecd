//! The terminal while the view has it: another screen, keys one by one, and all as it was afterwards.
//!
//! However this process ends, the terminal is given back: by dropping [`Screen`], by the signals that end processes (they are
//! taken one by one, with no handler), and in a panic, which aborts, by a hook. Only a kill leaves a terminal as it is.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Stdout, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic;
use std::time::Duration;

use ratatui::{Frame, Terminal};
use ratatui_termion::TermionBackend;
use ratatui_termion::termion::{cursor, screen};

use super::keys::{self, Key};
use crate::sys::{self, SignalSet, TerminalMode};

/// Signals that end a process by default, and that of a terminal whose size changed.
const SIGNALS: [i32; 5] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGWINCH];

/// What came in.
#[derive(Debug)]
pub(crate) enum Input {
    /// Nothing in time, or a new size of the terminal.
    Nothing,
    /// Keys, in order.
    Keys(Vec<Key>),
    /// A signal that ends a process.
    Signal(i32),
    /// The terminal has gone.
    Closed,
}

/// The terminal.
pub(crate) struct Screen {
    terminal: Terminal<TermionBackend<Stdout>>,
    /// As it was.
    mode: TerminalMode,
    keys: File,
    signals: SignalSet,
    /// Signals that were blocked before.
    before: SignalSet,
    /// Can be read when a signal waits.
    arrived: OwnedFd,
}

/// Where keys come from: standard input, or the terminal itself where that is something else.
fn typed() -> io::Result<File> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        // Not `Stdin`, which would keep keys in a buffer where no one sees that there are any.
        stdin.as_fd().try_clone_to_owned().map(File::from)
    } else {
        File::open("/dev/tty")
    }
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// There is none, or it does not do what terminals do.
    pub(crate) fn open() -> io::Result<Self> {
        let keys = typed()?;
        let signals = SignalSet::of(&SIGNALS);
        let arrived = signals.descriptor()?;
        let terminal = Terminal::new(TermionBackend::new(io::stdout()))?;
        let mode = TerminalMode::of_stdout()?;
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            let _ = give_back(mode);
            hook(what);
        }));
        // From here on dropping it gives the terminal back.
        let screen = Screen { terminal, mode, keys, signals, before: signals.block(), arrived };
        mode.raw().set()?;
        let mut out = io::stdout().lock();
        write!(out, "{}{}", screen::ToAlternateScreen, cursor::Hide)?;
        out.flush()?;
        Ok(screen)
    }

    /// Draws what changed since the last drawing.
    ///
    /// # Errors
    /// The terminal has gone.
    pub(crate) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(draw).map(drop)
    }

    /// Waits for keys and signals, at most so long.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn wait(&mut self, time: Duration) -> io::Result<Input> {
        let [key, signal] = sys::wait_readable([self.keys.as_fd(), self.arrived.as_fd()], time)?;
        if signal {
            return Ok(match self.signals.wait_for(Duration::ZERO) {
                Some(libc::SIGWINCH) | None => Input::Nothing,
                Some(signal) => Input::Signal(signal),
            });
        }
        if !key {
            return Ok(Input::Nothing);
        }
        let mut bytes = [0; 256];
        match self.keys.read(&mut bytes) {
            Ok(0) => Ok(Input::Closed),
            Ok(length) => Ok(Input::Keys(keys::parse(&bytes[..length]))),
            // What a terminal says whose other side was closed.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(Input::Closed),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Where the terminal has gone there is nothing to give back.
        let _ = give_back(self.mode);
        self.before.set();
    }
}

fn give_back(mode: TerminalMode) -> io::Result<()> {
    // No lock is waited for: a panic may hold the one of stdout.
    let text = format!("{}{}", cursor::Show, screen::ToMainScreen);
    let written = io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .map(File::from)
        .and_then(|mut out| out.write_all(text.as_bytes()));
    mode.set().and(written)
}
