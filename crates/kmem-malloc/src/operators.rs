//! The C++ operators `new` and `delete`, without a C++ runtime.
//!
//! # Problem
//! An operator `new` that finds no memory calls the program's new-handler until memory appears, and
//! throws `std::bad_alloc` when there is no handler. Both live in the C++ runtime, which this
//! library must not depend on: C programs are preloaded too.
//!
//! # Idea
//! The runtime is looked up by name when an allocation has already failed, never before: in the global
//! scope first, then in a runtime that was loaded privately by a plug-in. An exception must not
//! pass through a Rust frame, so each throwing operator is a few instructions of assembly with
//! unwind tables: it asks the heap, and on failure calls the function
//! that `on_failure` names (the handler, or the thrower) from its own frame.
//!
//! The operators that return null instead have to catch what a handler throws. Without a handler
//! that is nobody; with one, the call is handed to the runtime's own operator, which
//! catches, and comes back here through the throwing operator for the memory.
//!
//! Deletes of every form are `free`: the heap finds size and alignment from the address. What else they say counts when the heap
//! is checked: a block must come back by the calls that it was asked for with.
//!
//! Other architectures have no such assembly yet and export no operators: the runtime's own ones call `malloc` and
//! `free`, which are ours.

use core::arch::naked_asm;
use core::ffi::CStr;
use core::mem::transmute;
use core::ptr::null_mut;

use kmem::heap::{self, Claim, Origin};
use libc::{c_void, size_t};

use crate::aligned::aligned_block;
use crate::blocks::block_by;
use crate::record;
use crate::runtime::die;

/// A new-handler or a function that throws: no arguments.
type Action = unsafe extern "C" fn();

/// C++ runtimes by the name they are loaded under.
const RUNTIMES: [&CStr; 3] = [c"libstdc++.so.6", c"libc++abi.so.1", c"libc++.so.1"];

/// Finds a function of the C++ runtime: in the scope `handle` names, or in a runtime loaded privately.
fn runtime_symbol(handle: *mut c_void, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the names are C strings; RTLD_NOLOAD only finds what is loaded already, and the reference it takes keeps
    // the runtime mapped while its function runs.
    unsafe {
        let found = libc::dlsym(handle, name.as_ptr());
        if !found.is_null() {
            return Some(found);
        }
        for runtime in RUNTIMES {
            let library = libc::dlopen(runtime.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY);
            if !library.is_null() {
                let found = libc::dlsym(library, name.as_ptr());
                if !found.is_null() {
                    return Some(found);
                }
            }
        }
    }
    None
}

/// The program's new-handler.
fn new_handler() -> Option<Action> {
    let get = runtime_symbol(libc::RTLD_DEFAULT, c"_ZSt15get_new_handlerv")?;
    // SAFETY: the symbol is `std::new_handler std::get_new_handler()`: no arguments, a nullable function pointer.
    unsafe { transmute::<*mut c_void, extern "C" fn() -> Option<Action>>(get)() }
}

/// What a throwing operator has to call now: the new-handler, after which it tries again, or the
/// function that throws `std::bad_alloc`. Without a C++ runtime the process ends.
#[cold]
extern "C" fn on_failure(size: size_t) -> Action {
    if let Some(handler) = new_handler() {
        return handler;
    }
    match runtime_symbol(libc::RTLD_DEFAULT, c"_ZSt17__throw_bad_allocv") {
        // SAFETY: the symbol is `void std::__throw_bad_alloc()`.
        Some(throw) => unsafe { transmute::<*mut c_void, Action>(throw) },
        None => die(format_args!(
            "operator new: no memory for {size} bytes and no C++ runtime to throw bad_alloc"
        )),
    }
}

extern "C" fn new_block(size: size_t) -> *mut u8 {
    block_by(size, Origin::New)
}

extern "C" fn new_array_block(size: size_t) -> *mut u8 {
    block_by(size, Origin::NewArray)
}

/// The runtime throws bad_alloc for an alignment that is none, so it fails here like any other.
fn new_aligned(size: size_t, align: size_t, origin: Origin) -> *mut u8 {
    if align.is_power_of_two() { aligned_block(align, size, origin) } else { null_mut() }
}

extern "C" fn new_aligned_block(size: size_t, align: size_t) -> *mut u8 {
    new_aligned(size, align, Origin::AlignedNew)
}

extern "C" fn new_aligned_array_block(size: size_t, align: size_t) -> *mut u8 {
    new_aligned(size, align, Origin::AlignedNewArray)
}

/// A throwing operator: loops over `$alloc` until it succeeds or something is thrown. `rbx` and `rbp` keep the
/// arguments for the next turn.
macro_rules! throwing_new {
    ($alloc:path) => {
        naked_asm!(
            ".cfi_startproc",
            "push rbx",
            ".cfi_adjust_cfa_offset 8",
            ".cfi_rel_offset rbx, 0",
            "push rbp",
            ".cfi_adjust_cfa_offset 8",
            ".cfi_rel_offset rbp, 0",
            "sub rsp, 8",
            ".cfi_adjust_cfa_offset 8",
            "mov rbx, rdi",
            "mov rbp, rsi",
            "2:",
            "call {alloc}",
            "test rax, rax",
            "je 3f",
            "add rsp, 8",
            ".cfi_remember_state",
            ".cfi_adjust_cfa_offset -8",
            "pop rbp",
            ".cfi_adjust_cfa_offset -8",
            ".cfi_restore rbp",
            "pop rbx",
            ".cfi_adjust_cfa_offset -8",
            ".cfi_restore rbx",
            "ret",
            "3:",
            ".cfi_restore_state",
            "mov rdi, rbx",
            "call {on_failure}",
            "call rax",
            "mov rdi, rbx",
            "mov rsi, rbp",
            "jmp 2b",
            ".cfi_endproc",
            alloc = sym $alloc,
            on_failure = sym on_failure,
        )
    };
}

/// `operator new(size_t)`: never null; throws `std::bad_alloc` as the new-handler rules say.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub extern "C" fn _Znwm(_size: size_t) -> *mut c_void {
    throwing_new!(new_block)
}

/// `operator new[](size_t)`, as [`_Znwm`].
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub extern "C" fn _Znam(_size: size_t) -> *mut c_void {
    throwing_new!(new_array_block)
}

/// `operator new(size_t, std::align_val_t)`, as [`_Znwm`].
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub extern "C" fn _ZnwmSt11align_val_t(_size: size_t, _align: size_t) -> *mut c_void {
    throwing_new!(new_aligned_block)
}

/// `operator new[](size_t, std::align_val_t)`, as [`_Znwm`].
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub extern "C" fn _ZnamSt11align_val_t(_size: size_t, _align: size_t) -> *mut c_void {
    throwing_new!(new_aligned_array_block)
}

/// The runtime's own operator of this name, when a new-handler is installed: it can catch what the handler throws.
#[cold]
fn catching(name: &CStr) -> Option<*mut c_void> {
    new_handler()?;
    runtime_symbol(libc::RTLD_NEXT, name)
}

#[cold]
fn nothrow_failed(name: &CStr, size: size_t, tag: *const c_void) -> *mut c_void {
    match catching(name) {
        // SAFETY: the symbol is an operator new of (size_t, const std::nothrow_t&); it throws nothing.
        Some(f) => unsafe {
            transmute::<*mut c_void, extern "C" fn(size_t, *const c_void) -> *mut c_void>(f)(size, tag)
        },
        None => null_mut(),
    }
}

#[cold]
fn nothrow_aligned_failed(name: &CStr, size: size_t, align: size_t, tag: *const c_void) -> *mut c_void {
    match catching(name) {
        // SAFETY: the symbol is an operator new of (size_t, std::align_val_t, const std::nothrow_t&); it throws nothing.
        Some(f) => unsafe {
            transmute::<*mut c_void, extern "C" fn(size_t, size_t, *const c_void) -> *mut c_void>(f)(
                size, align, tag,
            )
        },
        None => null_mut(),
    }
}

macro_rules! nothrow_new {
    ($($name:ident, $text:literal, $block:ident;)*) => {$(
        /// A non-throwing operator `new`: null when there is no memory and the new-handler gave up.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(size: size_t, tag: *const c_void) -> *mut c_void {
            let block = $block(size);
            if block.is_null() { nothrow_failed($text, size, tag) } else { block.cast() }
        }
    )*};
}

nothrow_new! {
    _ZnwmRKSt9nothrow_t, c"_ZnwmRKSt9nothrow_t", new_block;
    _ZnamRKSt9nothrow_t, c"_ZnamRKSt9nothrow_t", new_array_block;
}

macro_rules! nothrow_aligned_new {
    ($($name:ident, $text:literal, $block:ident;)*) => {$(
        /// A non-throwing aligned operator `new`: null when there is no memory and the new-handler gave up.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(size: size_t, align: size_t, tag: *const c_void) -> *mut c_void {
            let block = $block(size, align);
            if block.is_null() { nothrow_aligned_failed($text, size, align, tag) } else { block.cast() }
        }
    )*};
}

nothrow_aligned_new! {
    _ZnwmSt11align_val_tRKSt9nothrow_t, c"_ZnwmSt11align_val_tRKSt9nothrow_t", new_aligned_block;
    _ZnamSt11align_val_tRKSt9nothrow_t, c"_ZnamSt11align_val_tRKSt9nothrow_t", new_aligned_array_block;
}

macro_rules! delete {
    ($($name:ident($($argument:ident),*): $origin:ident, $size:expr, $align:expr;)*) => {$(
        /// An operator `delete`; arguments after the pointer repeat what the heap knows. Null is ignored.
        ///
        /// # Safety
        /// `ptr` is null or a live block of this heap and is not used afterwards.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(ptr: *mut c_void $(, $argument: size_t)*) {
            record::freeing(ptr.cast());
            let claim = Claim { origin: Origin::$origin, size: $size, align: $align };
            // SAFETY: the caller's contract is the heap's.
            unsafe { heap::free_as(ptr.cast(), claim) }
        }
    )*};
}

// A tag comes in a register that a function without it does not look at.
delete! {
    _ZdlPv(): New, None, None;
    _ZdaPv(): NewArray, None, None;
    _ZdlPvm(size): New, Some(size), None;
    _ZdaPvm(size): NewArray, Some(size), None;
    _ZdlPvSt11align_val_t(align): AlignedNew, None, Some(align);
    _ZdaPvSt11align_val_t(align): AlignedNewArray, None, Some(align);
    _ZdlPvmSt11align_val_t(size, align): AlignedNew, Some(size), Some(align);
    _ZdaPvmSt11align_val_t(size, align): AlignedNewArray, Some(size), Some(align);
    _ZdlPvRKSt9nothrow_t(): New, None, None;
    _ZdaPvRKSt9nothrow_t(): NewArray, None, None;
    _ZdlPvSt11align_val_tRKSt9nothrow_t(align): AlignedNew, None, Some(align);
    _ZdaPvSt11align_val_tRKSt9nothrow_t(align): AlignedNewArray, None, Some(align);
}
