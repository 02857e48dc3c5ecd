//! How the command fails: one line on stderr, and an exit status that cannot be mistaken for the program's.

use std::fmt;

/// Exit status when `kmem` itself could not do its work, the program not having been started.
/// The same number `env`, `nice` and `timeout` use.
pub(crate) const STATUS_KMEM: u8 = 125;
/// Exit status when the program was found and cannot be executed.
pub(crate) const STATUS_NOT_EXECUTABLE: u8 = 126;
/// Exit status when there is no such program.
pub(crate) const STATUS_NOT_FOUND: u8 = 127;
/// Exit status of commands other than `run`: bad arguments or bad input.
pub(crate) const STATUS_ERROR: u8 = 1;

/// Why a command stopped.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Exit status of the process.
    pub(crate) status: u8,
    /// One line, without the leading `kmem: ` and without a full stop.
    pub(crate) message: String,
}

impl Failure {
    /// A failure with this exit status.
    pub(crate) fn new(status: u8, message: impl Into<String>) -> Self {
        Failure { status, message: message.into() }
    }

    /// `kmem run` could not start the program.
    pub(crate) fn run(message: impl Into<String>) -> Self {
        Failure::new(STATUS_KMEM, message)
    }

    /// Any other command was given something it cannot use.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Failure::new(STATUS_ERROR, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kmem: {}", self.message)
    }
}

/// What the functions of this command return.
pub(crate) type Result<T> = std::result::Result<T, Failure>;
