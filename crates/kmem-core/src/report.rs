//! Messages to whoever watches, written without allocating.

use core::fmt;

use crate::platform::Platform;

/// Above a report's title.
pub const RULE: &str = "=============================================================================";
/// Below it.
pub const LINE: &str = "-----------------------------------------------------------------------------";

/// A text of at most `N` bytes; what does not fit is cut.
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    /// An empty text.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// What was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only whole characters are ever copied, so this cannot fail; an empty text is the harmless answer.
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl<const N: usize> Text<N> {
    /// Ends with a newline, whatever must go for it.
    pub fn end_line(&mut self) {
        if self.len == N {
            self.len = self.as_str().char_indices().next_back().map_or(0, |(at, _)| at);
        }
        let _ = fmt::Write::write_str(self, "\n");
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut take = text.len().min(N - self.len);
        while !text.is_char_boundary(take) {
            take -= 1;
        }
        self.bytes[self.len..self.len + take].copy_from_slice(&text.as_bytes()[..take]);
        self.len += take;
        Ok(())
    }
}

/// Shows one formatted message of one line, which stands alone, ending it with a newline.
pub fn say<P: Platform>(platform: &P, message: fmt::Arguments<'_>) {
    // A frame of its own: where there is no room for it, it is on another stack.
    #[inline(never)]
    fn said<P: Platform>(platform: &P, message: fmt::Arguments<'_>) {
        platform.message(shown(message).as_str());
    }
    platform.with_room(|| said(platform, message));
}

/// Shows one formatted line of a report, which tells elsewhere whose it is, ending it with a newline.
pub fn line<P: Platform>(platform: &P, line: fmt::Arguments<'_>) {
    #[inline(never)]
    fn lined<P: Platform>(platform: &P, line: fmt::Arguments<'_>) {
        platform.console(shown(line).as_str());
    }
    platform.with_room(|| lined(platform, line));
}

fn shown(message: fmt::Arguments<'_>) -> Text<1024> {
    // The line of a stack has names, of a function and of a file.
    let mut text = Text::<1024>::new();
    // Writing to a `Text` cannot fail.
    let _ = fmt::write(&mut text, message);
    text.end_line();
    text
}
