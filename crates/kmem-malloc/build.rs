//! Link options of the shared library. `kmem-record`, the same library with hooks that record, is built by this script too.

fn main() {
    println!("cargo::rerun-if-changed=../kmem-malloc/build.rs");
    println!("cargo::rustc-check-cfg=cfg(recording)");
    if std::env::var("CARGO_PKG_NAME").as_deref() == Ok("kmem-record") {
        println!("cargo::rustc-cfg=recording");
    }
    // A program linked with -lkmem_malloc records this name; the file carries no version suffix. The recording library
    // has the same name, so that it takes the place of the other in such a program.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libkmem_malloc.so");
    // Blocks outlive a dlclose and fork handlers stay registered: the library is never unmapped.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // Fork handlers run before a fork in reverse order of registration: ours must be the first, so the loader runs our
    // constructor before all others.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,initfirst");
    // Every symbol is bound before the first call: binding one lazily could run inside an allocation.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,now");
    // The debug layer's call stacks need an unwinder, which a C program does not have, and which cannot be loaded before the
    // C library is initialised. Where the compiler comes with one in an archive, the library brings it; its names stay inside.
    println!("cargo::rustc-check-cfg=cfg(unwinder)");
    if unwinder_archive() {
        println!("cargo::rustc-cfg=unwinder");
        println!("cargo::rustc-cdylib-link-arg=-Wl,-u,_Unwind_Backtrace,-u,_Unwind_GetIP");
        println!("cargo::rustc-cdylib-link-arg=-l:libgcc_eh.a");
    }
    // The C library by name, and last: the `libc` crate leaves it to the standard library when anything in the same build
    // has asked for its feature `std`, and this library has no standard library.
    println!("cargo::rustc-cdylib-link-arg=-lc");
}

/// True when the C compiler that links has `libgcc_eh.a`.
fn unwinder_archive() -> bool {
    let answer = std::process::Command::new("cc").arg("-print-file-name=libgcc_eh.a").output();
    // Without such a file the compiler repeats the bare name.
    answer.is_ok_and(|answer| answer.stdout.starts_with(b"/"))
}
