//! The console: the first serial port, one line at a time.
//!
//! # Theory
//! A writer masks interrupts and takes the console's lock for a whole message, so that lines of several CPUs and of handlers
//! do not mix. A panic takes no lock: its message may cut another in two, but always comes out.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::cpu;
use crate::spin::Spin;

const PORT: u16 = 0x3f8;

struct Port;

static CONSOLE: Spin<Port> = Spin::new(Port);
static PANICKING: AtomicBool = AtomicBool::new(false);

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

fn put(byte: u8) {
    // SAFETY: the port's registers; the byte is only sent. The wait ends, since the device has a clock of its own.
    unsafe {
        while cpu::inp(PORT + 5) & 0x20 == 0 {
            core::hint::spin_loop();
        }
        cpu::out(PORT, byte);
    }
}

/// Sets the port up: 115200 baud, 8 bits, no parity, no interrupts.
pub(crate) fn init() {
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
        // SAFETY: the set-up sequence of this device.
        unsafe { cpu::out(PORT + register, value) };
    }
}

/// Writes a message.
pub(crate) fn print(message: fmt::Arguments<'_>) {
    if PANICKING.load(Ordering::Relaxed) {
        // Writing to the port cannot fail.
        let _ = Port.write_fmt(message);
    } else {
        let _ = CONSOLE.lock().write_fmt(message);
    }
}

/// Runs `f` with the console for itself.
pub(crate) fn with(f: impl FnOnce(&mut dyn Write)) {
    f(&mut *CONSOLE.lock());
}

/// From now on messages wait for nobody. False when that was so already: somebody else is dying.
pub(crate) fn start_panic() -> bool {
    !PANICKING.swap(true, Ordering::Relaxed)
}

/// A line on the console.
macro_rules! println {
    ($($argument:tt)*) => {
        $crate::cpu::serial::print(format_args!("{}\n", format_args!($($argument)*)))
    };
}
pub(crate) use println;
