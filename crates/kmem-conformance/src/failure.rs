//! What a check says when it fails, without allocating.

use core::fmt;

use kmem_core::report::Text;

/// Why a check failed: what was expected and found, and the line that looked.
pub struct Failure {
    text: Text<400>,
    file: &'static str,
    line: u32,
}

/// What a check answers.
pub type Outcome = Result<(), Failure>;

impl Failure {
    /// A failure seen at this place.
    #[cold]
    #[must_use]
    pub fn new(file: &'static str, line: u32, message: fmt::Arguments<'_>) -> Self {
        let mut text = Text::new();
        // A text takes what fits and never refuses.
        let _ = fmt::write(&mut text, message);
        Self { text, file, line }
    }

    /// What was wrong.
    #[must_use]
    pub fn text(&self) -> &str {
        self.text.as_str()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{})", self.text(), self.file, self.line)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Ends a check with a failure: `fail!("what {} was", it)`.
macro_rules! fail {
    ($($message:tt)+) => {
        return Err($crate::failure::Failure::new(file!(), line!(), format_args!($($message)+)))
    };
}

/// Ends a check with a failure unless something is so.
macro_rules! ensure {
    ($so:expr, $($message:tt)+) => {
        if !$so {
            $crate::failure::fail!($($message)+);
        }
    };
}

/// Ends a check with a failure unless two things are equal; both are shown before the message.
macro_rules! equal {
    ($left:expr, $right:expr, $($message:tt)+) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    $crate::failure::fail!(
                        "{}: {:?} instead of {:?}", format_args!($($message)+), left, right
                    );
                }
            }
        }
    };
}

pub(crate) use {ensure, equal, fail};
