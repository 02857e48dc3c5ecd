//! One test for each conformance program of `tests/c`.

use std::ffi::OsStr;

use crate::support::{ALL, Heap, KMEM, THREADED, compiled, conforms, library};

/// `name: "source" [arguments], heaps;`
macro_rules! programs {
    ($($(#[$attribute:meta])* $name:ident: $source:literal [$($argument:literal),*], $heaps:expr;)*) => {$(
        $(#[$attribute])*
        #[test]
        fn $name() {
            conforms(&compiled($source, &[]), &[$(OsStr::new($argument)),*], $heaps);
        }
    )*};
}

programs! {
    errno_rules: "errno_rules.c" [], ALL;
    zero_and_null: "zero_and_null.c" [], ALL;
    aligned_rules: "aligned_rules.c" [], ALL;
    alignment_table: "alignment_table.c" [], ALL;
    usable_size: "usable_size.c" [], ALL;
    realloc_content: "realloc_content.c" [], ALL;
    calloc_zero: "calloc_zero.c" [], ALL;
    between_kinds: "between_kinds.c" [], ALL;
    free_errno: "free_errno.c" [], ALL;
    c23_free: "c23_free.c" [], ALL;
    mallopt_names: "mallopt_names.c" [], ALL;
    mallinfo_moves: "mallinfo_moves.c" [], ALL;
    malloc_info_xml: "malloc_info_xml.c" [], ALL;
    malloc_stats_text: "malloc_stats_text.c" [], ALL;
    trim: "trim.c" [], ALL;
    exhaustion_64: "exhaustion.c" ["64"], ALL;
    exhaustion_16: "exhaustion.c" ["16"], ALL;
    exhaustion_page: "exhaustion.c" ["4096"], ALL;
    exhaustion_70000: "exhaustion.c" ["70000"], ALL;
    exhaustion_mebibyte: "exhaustion.c" ["1048576"], ALL;
    exhaustion_huge: "exhaustion.c" ["8388608"], ALL;
    fork_threads: "fork_threads.c" [], THREADED;
    fork_signal: "fork_signal.c" [], THREADED;
    fork_many: "fork_many.c" [], ALL;
    spawn: "spawn.c" [], ALL;
    threads_outlive: "threads_outlive.c" ["10000", "8"], THREADED;
    threads_outlive_long: "threads_outlive.c" ["100000", "32"], &[Heap::Preloaded];
    neighbours: "neighbours.c" [], THREADED;
    grow_release_huge: "grow_release.c" ["536870912"], ALL;
    grow_release_large: "grow_release.c" ["262144"], ALL;
    grow_release_small: "grow_release.c" ["64"], ALL;
    large_reserve: "large_reserve.c" [], ALL;
    pages_threads: "pages.c" ["threads"], THREADED;
    pages_fork: "pages.c" ["fork"], THREADED;
    pages_refused: "pages.c" ["refused"], ALL;
    pages_refused_later: "pages.c" ["refused-later"], ALL;
    producer_consumer: "producer_consumer.c" [], THREADED;
    tls_dtors: "tls_dtors.c" [], THREADED;
    cancel: "cancel.c" [], THREADED;
    locked_memory: "locked_memory.c" [], ALL;
    shadow: "shadow.c" ["400000"], THREADED;
    operators: "operators.cc" [], ALL;
}

#[test]
fn exit_hooks() {
    let hooks = compiled("hook_library.c", &[OsStr::new("-shared"), OsStr::new("-fPIC")]);
    let program = compiled("exit_hooks.c", &[hooks.as_os_str()]);
    conforms(&program, &[], ALL);
}

#[test]
fn atfork() {
    let library = compiled("atfork_library.c", &[OsStr::new("-shared"), OsStr::new("-fPIC")]);
    conforms(&compiled("atfork.c", &[library.as_os_str()]), &[], THREADED);
}

#[test]
fn dlopen_tls() {
    let hooks = compiled("hook_library.c", &[OsStr::new("-shared"), OsStr::new("-fPIC")]);
    conforms(&compiled("dlopen_tls.c", &[]), &[hooks.as_os_str()], THREADED);
}

#[test]
fn private_runtime() {
    let plugin = compiled("plugin.cc", &[OsStr::new("-shared"), OsStr::new("-fPIC")]);
    conforms(&compiled("private_runtime.c", &[]), &[plugin.as_os_str()], ALL);
}

#[test]
fn linked_instead_of_preloaded() {
    let dir = library().parent().expect("library directory");
    let search = format!("-L{}", dir.display());
    let run_path = format!("-Wl,-rpath,{}", dir.display());
    let flags = ["-Wl,--no-as-needed", &search, &run_path, "-lkmem_malloc"].map(OsStr::new);
    let program = compiled("linked.c", &flags);
    // Without LD_PRELOAD: the name recorded at link time finds the library.
    conforms(&program, &[], &[crate::support::Heap::Plain]);
    conforms(&program, &[], KMEM);
}
