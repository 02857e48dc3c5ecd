//! Call stacks, for the debug layer.
//!
//! # Theory
//! The stack is walked by rules that are kept (`unwind`), frame pointers or not. What they cannot walk the compiler's unwinder
//! does, by the tables that every object file carries. It is there in programs that link `std` or C++; the preloaded library brings its own.
//! Where neither can there are no stacks. Both give the same frames; `KMEM_UNWIND` ([`set_way`]) chooses, and compares them.
//!
//! Frames inside the library that the heap is part of are left out: what matters is who called it. In a program
//! that is linked with the heap nobody can tell, and all frames are shown.
//!
//! Where files are mapped is asked of the C library by a call that takes no lock (`_dl_find_object`, glibc 2.35), which
//! only the preloaded library looks up. What code is called is the affair of `names`.
//!
//! # Never
//! Nothing here allocates or waits: stacks are taken inside malloc. But for the unwinder the heap's own stack is waited for, where the
//! present one has no room (`fault::with_room`).

use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt::Write;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};

use kmem_core::report::Text;

use super::unwind::{self, Registers};
use super::{fault, misc, sink, weak};

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
pub(super) struct Found {
    flags: u64,
    /// Its first byte, and the one behind its last.
    pub(super) start: usize,
    pub(super) end: usize,
    map: *const LinkMap,
    /// Its `.eh_frame_hdr`.
    pub(super) eh_frame: *const c_void,
    reserved: [u64; 9],
}

impl Found {
    const NONE: Self =
        Self { flags: 0, start: 0, end: 0, map: ptr::null(), eh_frame: ptr::null(), reserved: [0; 9] };

    /// What [`unwind`] needs to know.
    pub(super) const fn new(start: usize, end: usize, eh_frame: *const c_void) -> Self {
        Self { start, end, eh_frame, ..Self::NONE }
    }
}

/// The beginning of the C library's description of an object file.
#[repr(C)]
pub(super) struct LinkMap {
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
pub(super) fn object_at(address: usize) -> Option<Found> {
    let mut found = Found::NONE;
    // SAFETY: a structure of that shape.
    let answer = unsafe { find_object(address as *const c_void, (&raw mut found).cast()) };
    (answer == 0 && !found.map.is_null()).then_some(found)
}

/// How stacks are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Way {
    /// By kept rules; what has none by tables.
    Rules = 0,
    /// By the compiler's unwinder, always.
    Tables = 1,
    /// In both ways; where they differ that is told, and the process ends. For tests.
    Both = 2,
}

static WAY: AtomicU8 = AtomicU8::new(Way::Rules as u8);

/// Chooses how stacks are walked from now on.
pub fn set_way(way: Way) {
    // Relaxed: either way gives the same stacks.
    WAY.store(way as u8, Ordering::Relaxed);
}

/// The walk so far.
struct Walk<'a> {
    out: &'a mut [usize],
    len: usize,
    /// Frames from here to there are the heap's own.
    own: (usize, usize),
}

impl Walk<'_> {
    /// Takes one frame. False: that is all.
    #[inline]
    fn take(&mut self, address: usize) -> bool {
        // Only the nearest frames are left out: the heap does not call anybody who calls it.
        if self.len == 0 && (self.own.0..self.own.1).contains(&address) {
            return true;
        }
        self.out[self.len] = address;
        self.len += 1;
        self.len < self.out.len()
    }
}

extern "C" fn step(context: *mut Context, walk: *mut c_void) -> c_int {
    // SAFETY: the pointer given to the unwinder by `by_tables`, which waits for it.
    let (get_ip, walk) = unsafe { &mut *walk.cast::<(GetIp, Walk<'_>)>() };
    // SAFETY: a context of the unwinder that called.
    let address = unsafe { get_ip(context) };
    if address != 0 && walk.take(address) { GO_ON } else { STOP }
}

/// Where the library is that this heap is part of; nowhere for a program, of which nobody can tell what belongs to the heap.
pub(crate) fn own() -> (usize, usize) {
    /// Its start and end; an end of 1: not looked up yet.
    static OWN: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(1)];
    // Acquire pairs with the Release below: who sees the end sees the start.
    let end = OWN[1].load(Ordering::Acquire);
    if end != 1 {
        return (OWN[0].load(Ordering::Relaxed), end);
    }
    let found = object_at(backtrace as *const () as usize)
        // The program itself has no name there.
        // SAFETY: the C library's description of a loaded file, and a string.
        .filter(|found| unsafe { !(*found.map).name.is_null() && *(*found.map).name != 0 });
    let own = found.map_or((0, 0), |found| (found.start, found.end));
    // Before the function that tells was looked up nothing is known for ever.
    if !LOADED[2].load(Ordering::Acquire).is_null() {
        OWN[0].store(own.0, Ordering::Relaxed);
        OWN[1].store(own.1, Ordering::Release);
    }
    own
}

/// Fills `out` with the return addresses of the heap's callers, the nearest first; returns how many.
#[inline(never)]
pub(super) fn backtrace(out: &mut [usize]) -> usize {
    if out.is_empty() {
        return 0;
    }
    let own = own();
    let way = WAY.load(Ordering::Relaxed);
    let here = Registers::here();
    let mut walk = Walk { out, len: 0, own };
    if way != Way::Tables as u8 && unwind::walk(here, |address| walk.take(address)) {
        let len = walk.len;
        if way == Way::Both as u8 {
            compare(&out[..len], out.len(), own);
        }
        return len;
    }
    // The unwinder takes more than a handler's stack may have, and the loader, which may have to look for it, more still.
    fault::with_room(|| by_tables(out, own))
}

/// The same by the compiler's unwinder.
#[inline(never)]
fn by_tables(out: &mut [usize], own: (usize, usize)) -> usize {
    let Some((walker, get_ip)) = unwinder() else { return 0 };
    let mut walk = (get_ip, Walk { out, len: 0, own });
    // SAFETY: `step` matches, and the walk outlives the call.
    unsafe { walker(step, (&raw mut walk).cast()) };
    walk.1.len
}

/// Ends the process if the compiler's unwinder finds other frames than these.
#[cold]
#[inline(never)]
fn compare(frames: &[usize], room: usize, own: (usize, usize)) {
    const ROOM: usize = 64;
    let mut other = [0; ROOM];
    let found = by_tables(&mut other[..room.min(ROOM)], own);
    // What is not of the heap's callers differs by the functions here.
    if own.1 == 0 || frames == &other[..found] {
        return;
    }
    let mut text = Text::<4096>::new();
    let _ = writeln!(text, "kmem: stacks differ by rules and by tables");
    for at in 0..frames.len().max(found) {
        let frame = |frames: &[usize]| frames.get(at).copied().unwrap_or_default();
        let _ = writeln!(text, "{:#018x} {:#018x}", frame(frames), frame(&other[..found]));
    }
    sink::write(text.as_str());
    misc::abort();
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
