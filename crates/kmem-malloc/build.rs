//! Link options of the shared library.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A program linked with -lkmem_malloc records this name; the file carries no version suffix.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libkmem_malloc.so");
    // Blocks outlive a dlclose and fork handlers stay registered: the library is never unmapped.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // Fork handlers run before a fork in reverse order of registration: ours must be the first, so the loader runs our
    // constructor before all others.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,initfirst");
    // Every symbol is bound before the first call: binding one lazily could run inside an allocation.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,now");
}
