//! Names of calls and the addresses that stand for them.

use std::sync::{Mutex, PoisonError};

/// The first address; the next name gets the next sixteenth.
const FIRST: usize = 0x40_0000;
const STEP: usize = 16;

/// Each name has an address, from its first use on.
#[derive(Debug, Default)]
pub(crate) struct Symbols(Mutex<Vec<&'static str>>);

impl Symbols {
    /// The address of a name.
    pub(crate) fn address(&self, name: &'static str) -> usize {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = names.iter().position(|known| *known == name).unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        });
        FIRST + index * STEP
    }

    /// The name at an address.
    pub(crate) fn name(&self, address: usize) -> Option<&'static str> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(address.checked_sub(FIRST)? / STEP).copied()
    }
}
