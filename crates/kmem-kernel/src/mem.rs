//! The memory functions that compiled code calls, where there is no C library.
//!
//! Blocks are moved by the widest registers that every 64-bit processor has; what is left at the end by one more move that overlaps
//! the one before, so that no length needs a loop of bytes. Long blocks go to the string instructions, which processors
//! do a cache line at a time. All loops are assembly: a loop that the compiler knows becomes a call of the very function it stands in.

use core::arch::asm;

/// From this length on the string instructions win.
const LONG: usize = 2048;

/// Copies 64 bytes, all read before the first is written.
///
/// # Safety
/// Both places have so many bytes.
#[inline(always)]
unsafe fn move_64(to: *mut u8, from: *const u8) {
    // SAFETY: the caller's promise; unaligned moves.
    unsafe {
        asm!(
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
            "movups [{to}], {a}",
            "movups [{to} + 16], {b}",
            "movups [{to} + 32], {c}",
            "movups [{to} + 48], {d}",
            to = in(reg) to, from = in(reg) from,
            a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
            options(nostack, preserves_flags)
        );
    }
}

/// Copies up to 64 bytes, all read before the first is written.
///
/// # Safety
/// Both places have so many bytes.
#[inline(always)]
unsafe fn move_short(to: *mut u8, from: *const u8, len: usize) {
    /// The first and the last `size_of::<T>()` bytes.
    ///
    /// # Safety
    /// As the function around it; `len` is between the size of a `T` and twice that.
    #[inline(always)]
    unsafe fn ends<T: Copy>(to: *mut u8, from: *const u8, len: usize) {
        let last = len - size_of::<T>();
        // SAFETY: the caller's promise; both moves lie inside.
        unsafe {
            let (a, b) = (from.cast::<T>().read_unaligned(), from.add(last).cast::<T>().read_unaligned());
            to.cast::<T>().write_unaligned(a);
            to.add(last).cast::<T>().write_unaligned(b);
        }
    }
    // SAFETY: the caller's promise.
    unsafe {
        match len {
            0 => {}
            1 => to.write(from.read()),
            2..4 => ends::<u16>(to, from, len),
            4..8 => ends::<u32>(to, from, len),
            8..16 => ends::<u64>(to, from, len),
            16..32 => ends::<u128>(to, from, len),
            _ => ends::<[u128; 2]>(to, from, len),
        }
    }
}

/// Copies forwards.
///
/// # Safety
/// As C's `memcpy`; the target may also begin before the source.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise; the direction flag is clear in compiled code.
    unsafe {
        if len <= 64 {
            move_short(to, from, len);
        } else if len < LONG {
            // The last 64 bytes are read before a step can write on them.
            let (mut at, last) = (0, len - 64);
            let (mut tail, end) = ([0_u128; 4], to.add(last));
            move_64((&raw mut tail).cast(), from.add(last));
            while at < last {
                move_64(to.add(at), from.add(at));
                at += 64;
            }
            move_64(end, (&raw const tail).cast());
        } else {
            asm!(
                "rep movsb",
                inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
                options(nostack, preserves_flags)
            );
        }
    }
    to
}

/// Copies, also when the two overlap.
///
/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if len <= 64 {
        // SAFETY: the caller's promise; everything is read before anything is written.
        unsafe { move_short(to, from, len) };
        return to;
    }
    if to.addr().wrapping_sub(from.addr()) >= len {
        // SAFETY: forwards is right unless the target begins inside the source.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: the caller's promise; backwards, from the last byte, and the direction flag is cleared again.
    unsafe {
        asm!(
            "std", "rep movsb", "cld",
            inout("rcx") len => _,
            inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _,
            options(nostack)
        );
    }
    to
}

/// Fills.
///
/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    let word = u64::from(byte as u8) * 0x0101_0101_0101_0101;
    // SAFETY: the caller's promise; both stores of a pair lie inside. The direction flag is clear in compiled code.
    unsafe {
        match len {
            0 => {}
            1 => to.write(word as u8),
            2..4 => {
                to.cast::<u16>().write_unaligned(word as u16);
                to.add(len - 2).cast::<u16>().write_unaligned(word as u16);
            }
            4..8 => {
                to.cast::<u32>().write_unaligned(word as u32);
                to.add(len - 4).cast::<u32>().write_unaligned(word as u32);
            }
            8..16 => {
                to.cast::<u64>().write_unaligned(word);
                to.add(len - 8).cast::<u64>().write_unaligned(word);
            }
            16..LONG => fill(to, word, len),
            _ => asm!(
                "rep stosb",
                inout("rcx") len => _, inout("rdi") to => _, in("al") byte as u8,
                options(nostack, preserves_flags)
            ),
        }
    }
    to
}

/// Fills at least 16 bytes.
///
/// # Safety
/// The place has so many.
#[inline(always)]
unsafe fn fill(to: *mut u8, word: u64, len: usize) {
    // SAFETY: the caller's promise: 128 bytes at a time from the front, then 32, then 16 if there are so many, and the last 16
    // bytes, which overlap.
    unsafe {
        asm!(
            "movq {x}, {word}",
            "punpcklqdq {x}, {x}",
            "lea {last}, [{to} + {len} - 16]",
            "sub {len}, 128",
            "jb 6f",
            "5:",
            "movups [{to}], {x}",
            "movups [{to} + 16], {x}",
            "movups [{to} + 32], {x}",
            "movups [{to} + 48], {x}",
            "movups [{to} + 64], {x}",
            "movups [{to} + 80], {x}",
            "movups [{to} + 96], {x}",
            "movups [{to} + 112], {x}",
            "sub {to}, -128",
            "sub {len}, 128",
            "jae 5b",
            "6:",
            "add {len}, 128",
            "jmp 3f",
            "2:",
            "movups [{to}], {x}",
            "movups [{to} + 16], {x}",
            "add {to}, 32",
            "3:",
            "sub {len}, 32",
            "jae 2b",
            "add {len}, 16",
            "jnc 4f",
            "movups [{to}], {x}",
            "4:",
            "movups [{last}], {x}",
            to = inout(reg) to => _, len = inout(reg) len => _, word = in(reg) word,
            last = out(reg) _, x = out(xmm_reg) _,
            options(nostack)
        );
    }
}

/// Compares.
///
/// # Safety
/// As C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    for i in 0..len {
        // SAFETY: the caller's promise. Volatile, so that the loop does not become a call of this very function.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// Compares for equality.
///
/// # Safety
/// As [`memcmp`].
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(a, b, len) }
}

/// Length of a C string.
///
/// # Safety
/// As C's `strlen`.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: the caller's promise. Volatile: as in `memcmp`.
    while unsafe { text.add(len).read_volatile() } != 0 {
        len += 1;
    }
    len
}
