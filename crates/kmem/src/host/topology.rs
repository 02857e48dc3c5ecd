//! How many CPUs and nodes this machine can ever have.
//!
//! Read once from the kernel's lists, without the C library (its answers allocate). CPU numbers can
//! have holes, so what counts is the largest number, not how many there are.

use core::ffi::CStr;

use kmem_core::platform::MAX_NODES;

use super::sys;

/// One more than the largest CPU number that can appear.
pub(super) fn possible_cpus() -> usize {
    if let Some(last) = last_of_list(c"/sys/devices/system/cpu/possible") {
        return last + 1;
    }
    // No sysfs here: the kernel's CPU masks have room for every possible CPU.
    sys::affinity().map_or(64, |(_, bytes)| (bytes * 8).max(1))
}

/// One more than the largest number of a node that is there; numbers beyond [`MAX_NODES`] fold back.
pub(super) fn online_nodes() -> usize {
    last_of_list(c"/sys/devices/system/node/online").map_or(1, |last| (last + 1).min(MAX_NODES))
}

fn last_of_list(path: &CStr) -> Option<usize> {
    let mut buffer = [0u8; 1024];
    last_number(sys::read_file(path, &mut buffer)?)
}

/// The last number of a list such as `0-3,8-11`: lists are ascending, so it is the largest.
fn last_number(list: &[u8]) -> Option<usize> {
    let digits = list.trim_ascii_end();
    let start = digits.iter().rposition(|b| !b.is_ascii_digit()).map_or(0, |i| i + 1);
    let digits = core::str::from_utf8(&digits[start..]).ok()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(last_number(b"0\n"), Some(0));
        assert_eq!(last_number(b"0-1\n"), Some(1));
        assert_eq!(last_number(b"0-3,8-11\n"), Some(11));
        assert_eq!(last_number(b"0,2,64"), Some(64));
        assert_eq!(last_number(b"\n"), None);
        assert_eq!(last_number(b""), None);
    }

    #[test]
    fn this_machine() {
        // SAFETY: asks for a number.
        let configured = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) } as usize;
        assert!(possible_cpus() >= configured);
        assert!((1..=MAX_NODES).contains(&online_nodes()));
    }
}
