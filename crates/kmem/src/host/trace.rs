//! Call stacks, for the debug layer.
//!
//! # Theory
//! The compiler's unwinder walks the stack by the tables that every object file carries, frame pointers or not.
//! It is there in programs that link `std` or C++; the preloaded library brings its own. Where it is missing there
//! are no stacks.
//!
//! Frames inside the library that the heap is part of are left out: what matters is who called it. In a program
//! that is linked with the heap nobody can tell, and all frames are shown.
//!
//! Where files are mapped is asked of the C library by a call that takes no lock (`_dl_find_object`, glibc 2.35), which
//! only the preloaded library looks up. What code is called is the affair of `names`.
//!
//! # Never
//! Nothing here allocates or waits: stacks are taken inside malloc.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::weak;

/// What the unwinder's callback returns to go on, and to stop.
const GO_ON: c_int = 0;
const STOP: c_int = 5;

type Context = c_void;
type Callback = extern "C" fn(*mut Context, *mut c_void) -> c_int;
type Backtrace = unsafe extern "C" fn(Callback, *mut c_void) -> c_int;
type GetIp = unsafe extern "C" fn(*mut Context) -> usize;
type FindObject = unsafe extern "C" fn(*const c_void, *mut Found) -> c_int;

/// What the C library tells of the object file that an address lies in.
#[repr(C)]
struct Found {
    flags: u64,
    start: usize,
    end: usize,
    map: *const LinkMap,
    eh_frame: *const c_void,
    reserved: [u64; 9],
}

/// The beginning of the C library's description of an object file.
#[repr(C)]
struct LinkMap {
    base: usize,
    name: *const c_char,
}

/// What somebody loaded or looked up: `_Unwind_Backtrace`, `_Unwind_GetIP`, `_dl_find_object`.
static LOADED: [AtomicPtr<()>; 3] = [const { AtomicPtr::new(ptr::null_mut()) }; 3];

/// Has stacks walked and code named by functions that were looked up: the addresses of `_Unwind_Backtrace`,
/// `_Unwind_GetIP` and `_dl_find_object`, null for what there is not.
///
/// # Safety
/// They are those functions, and stay loaded.
pub unsafe fn set_functions(functions: [*mut (); 3]) {
    for (place, function) in LOADED.iter().zip(functions).rev() {
        // Release pairs with the Acquire of `unwinder`: who sees the first sees the second.
        place.store(function, Ordering::Release);
    }
}

fn unwinder() -> Option<(Backtrace, GetIp)> {
    let loaded = LOADED[0].load(Ordering::Acquire).cast_const();
    let (walker, get_ip) = if loaded.is_null() {
        (weak::unwind_backtrace(), weak::unwind_get_ip())
    } else {
        (loaded, LOADED[1].load(Ordering::Relaxed).cast_const())
    };
    if walker.is_null() || get_ip.is_null() {
        return None;
    }
    // SAFETY: the symbols of these names are these functions, and so are those that were set.
    Some(unsafe {
        (
            core::mem::transmute::<*const (), Backtrace>(walker),
            core::mem::transmute::<*const (), GetIp>(get_ip),
        )
    })
}

/// `_dl_find_object`, where it was found; -1, "nothing there", where it was not.
///
/// # Safety
/// `found` points to what that function fills.
pub unsafe fn find_object(address: *const c_void, found: *mut c_void) -> c_int {
    let find = LOADED[2].load(Ordering::Acquire).cast_const();
    if find.is_null() {
        return -1;
    }
    // SAFETY: only `set_functions` stores here; the caller's promise.
    unsafe { core::mem::transmute::<*const (), FindObject>(find)(address, found.cast()) }
}

/// The object file that an address lies in.
fn object_at(address: usize) -> Option<Found> {
    let mut found =
        Found { flags: 0, start: 0, end: 0, map: ptr::null(), eh_frame: ptr::null(), reserved: [0; 9] };
    // SAFETY: a structure of that shape.
    let answer = unsafe { find_object(address as *const c_void, (&raw mut found).cast()) };
    (answer == 0 && !found.map.is_null()).then_some(found)
}

/// The walk so far.
struct Walk<'a> {
    get_ip: GetIp,
    out: &'a mut [usize],
    len: usize,
    /// Frames from here to there are the heap's own.
    own: (usize, usize),
}

extern "C" fn step(context: *mut Context, walk: *mut c_void) -> c_int {
    // SAFETY: the pointer given to the unwinder by `backtrace`, which waits for it.
    let walk = unsafe { &mut *walk.cast::<Walk<'_>>() };
    // SAFETY: a context of the unwinder that called.
    let address = unsafe { (walk.get_ip)(context) };
    if address == 0 {
        return STOP;
    }
    // Only the nearest frames are left out: the heap does not call anybody who calls it.
    if walk.len == 0 && (walk.own.0..walk.own.1).contains(&address) {
        return GO_ON;
    }
    walk.out[walk.len] = address;
    walk.len += 1;
    if walk.len == walk.out.len() { STOP } else { GO_ON }
}

/// Fills `out` with the return addresses of the heap's callers, the nearest first; returns how many.
pub(super) fn backtrace(out: &mut [usize]) -> usize {
    let Some((walker, get_ip)) = unwinder().filter(|_| !out.is_empty()) else { return 0 };
    // The program itself has no name there.
    // SAFETY: the C library's description of a loaded file, and a string.
    let own = object_at(backtrace as *const () as usize)
        .filter(|found| unsafe { !(*found.map).name.is_null() && *(*found.map).name != 0 })
        .map_or((0, 0), |found| (found.start, found.end));
    let mut walk = Walk { get_ip, out, len: 0, own };
    // SAFETY: `step` matches, and the walk outlives the call.
    unsafe { walker(step, (&raw mut walk).cast()) };
    walk.len
}

/// Where the object file at an address was loaded, and its name: empty for the program itself. `None`: none is there, or nobody
/// can tell.
pub(super) fn file_at(address: usize) -> Option<(usize, &'static CStr)> {
    let found = object_at(address)?;
    // SAFETY: the C library's description of a loaded file.
    let map = unsafe { &*found.map };
    // SAFETY: its name is a string. A library whose code is being looked up is not being unloaded.
    let name = if map.name.is_null() { c"" } else { unsafe { CStr::from_ptr(map.name) } };
    Some((map.base, name))
}
