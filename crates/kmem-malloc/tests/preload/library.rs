//! What the library file promises: names, dependencies, thread-local storage.

use std::collections::BTreeSet;
use std::process::Command;

use crate::support::library;

/// Every name a program may bind to. The library exports exactly these.
const EXPORTS: &[&str] = &[
    // C
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "free",
    "cfree",
    "free_sized",
    "free_aligned_sized",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
    "valloc",
    "pvalloc",
    "malloc_usable_size",
    "malloc_trim",
    "malloc_stats",
    "malloc_info",
    "mallinfo",
    "mallinfo2",
    "mallopt",
    // The C library's second names
    "__libc_malloc",
    "__libc_calloc",
    "__libc_realloc",
    "__libc_free",
    "__libc_memalign",
    "__libc_valloc",
    "__libc_pvalloc",
    // What programs in C are told, and ask for: include/kmem_malloc.h
    "kmem_set_receiver",
    "kmem_set_hook",
    "kmem_set_judge",
    "kmem_set_letters",
    "kmem_validate",
    "kmem_report_leaks",
    // The end of a process, and steps into a sandbox
    "_exit",
    "_Exit",
    "prctl",
    // Handlers of signals
    "sigaction",
    "signal",
    "bsd_signal",
    "ssignal",
    "sysv_signal",
    "__sysv_signal",
    "sigset",
    "sigignore",
];

/// The operators new and delete.
#[cfg(target_arch = "x86_64")]
const OPERATORS: &[&str] = &[
    "_Znwm",
    "_Znam",
    "_ZnwmRKSt9nothrow_t",
    "_ZnamRKSt9nothrow_t",
    "_ZnwmSt11align_val_t",
    "_ZnamSt11align_val_t",
    "_ZnwmSt11align_val_tRKSt9nothrow_t",
    "_ZnamSt11align_val_tRKSt9nothrow_t",
    "_ZdlPv",
    "_ZdaPv",
    "_ZdlPvm",
    "_ZdaPvm",
    "_ZdlPvSt11align_val_t",
    "_ZdaPvSt11align_val_t",
    "_ZdlPvmSt11align_val_t",
    "_ZdaPvmSt11align_val_t",
    "_ZdlPvRKSt9nothrow_t",
    "_ZdaPvRKSt9nothrow_t",
    "_ZdlPvSt11align_val_tRKSt9nothrow_t",
    "_ZdaPvSt11align_val_tRKSt9nothrow_t",
];
#[cfg(not(target_arch = "x86_64"))]
const OPERATORS: &[&str] = &[];

fn readelf(arguments: &[&str]) -> String {
    let output = Command::new("readelf").args(arguments).arg(library()).output().expect("readelf is needed");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text")
}

/// Dynamic symbols as (name without version, defined here).
fn symbols() -> Vec<(String, bool)> {
    readelf(&["--wide", "--dyn-syms"])
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let name = fields.get(7)?.split('@').next()?;
            fields[0].ends_with(':').then(|| (name.to_owned(), fields[6] != "UND"))
        })
        .filter(|(name, _)| !name.is_empty() && name != "Name")
        .collect()
}

#[test]
fn exports_the_family_and_nothing_else() {
    let expected: BTreeSet<String> = EXPORTS.iter().chain(OPERATORS).map(|&name| name.to_owned()).collect();
    let defined: BTreeSet<String> = symbols().into_iter().filter(|s| s.1).map(|s| s.0).collect();
    assert_eq!(defined, expected);
}

#[test]
fn needs_only_the_c_library() {
    let dynamic = readelf(&["--wide", "--dynamic"]);
    let needed: Vec<&str> = dynamic.lines().filter(|line| line.contains("(NEEDED)")).collect();
    assert!(!needed.is_empty(), "symbols get versions from a dependency on the C library");
    for line in needed {
        assert!(line.contains("[libc.so.") || line.contains("[ld-linux"), "{line}");
    }
    assert!(dynamic.contains("[libkmem_malloc.so]"), "{dynamic}");
    assert!(dynamic.contains("NODELETE"), "blocks outlive a dlclose: {dynamic}");
    assert!(dynamic.contains("INITFIRST"), "fork handlers are registered before all others: {dynamic}");
    assert!(dynamic.contains("NOW"), "{dynamic}");
    assert!(!dynamic.contains("TEXTREL"), "{dynamic}");
}

/// Runs on C libraries from 2.34 on, wherever it was built.
#[test]
fn asks_for_no_new_c_library() {
    let versions = readelf(&["--wide", "--version-info"]);
    let mut seen = 0;
    for word in versions.split_whitespace().filter_map(|word| word.strip_prefix("GLIBC_")) {
        let mut numbers = word.split('.').map(|n| n.parse::<u32>().unwrap_or(u32::MAX));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        assert!(version <= (2, 34), "GLIBC_{word}");
        seen += 1;
    }
    assert!(seen > 0, "{versions}");
}

/// Thread-local storage is a word or two and initial-exec: reading it calls nothing.
#[test]
fn thread_local_storage_calls_nothing() {
    let undefined: Vec<String> = symbols().into_iter().filter(|s| !s.1).map(|s| s.0).collect();
    assert!(undefined.contains(&"abort".to_owned()), "{undefined:?}");
    for name in ["__tls_get_addr", "__cxa_thread_atexit_impl", "pthread_key_create", "_Unwind_Resume"] {
        assert!(!undefined.contains(&name.to_owned()), "{name} is called");
    }
    let relocations = readelf(&["--wide", "--relocs"]);
    assert!(!relocations.contains("DTPMOD64") && !relocations.contains("TLSDESC"));
    let segments = readelf(&["--wide", "--program-headers"]);
    for line in segments.lines().filter(|line| line.split_whitespace().next() == Some("TLS")) {
        // Type, offset, addresses, size in the file, size in memory.
        let size = line.split_whitespace().nth(5).and_then(|s| s.strip_prefix("0x")).expect("size");
        assert!(u64::from_str_radix(size, 16).expect("hexadecimal") <= 64, "{line}");
    }
}

/// Nothing that allocates behind our back is called: the list of imports is known.
#[test]
fn imports_no_allocator() {
    for (name, defined) in symbols() {
        assert!(
            defined
                || !["malloc", "calloc", "realloc", "free", "strdup", "fopen", "printf"]
                    .contains(&name.as_str()),
            "{name} is imported"
        );
    }
}
