//! Peers of which there are only sources: fetched by Cargo, as the dependencies of `crates/kmem-bench/peers`, and compiled with
//! what their own builds for preloading define, so that no layer of ours stands in front of them.
//!
//! A library is built once for a version of its sources, and kept below the target directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tree;

const WORKSPACE: &str = "crates/kmem-bench/peers/Cargo.toml";
const OBJECTS: &str = "crates/kmem-bench/peers/objects/Cargo.toml";

/// Allocators of Rust's: features of the library `preload`.
const RUST: [&str; 4] = ["rusty_alloc", "talc", "rlsf", "dlmalloc"];

pub(super) type Built = (&'static str, Result<PathBuf, String>);

/// How one is built, from where its sources lie, in a directory to work in.
type Build = fn(&Path, &Path) -> Result<PathBuf, String>;

/// The fast ones in C and C++: name, package, and how it is built.
const FAST: [(&str, &str, Build); 5] = [
    ("je5.3.1", "tikv-jemalloc-sys", jemalloc),
    ("mimalloc2", "libmimalloc-sys", |at, to| mimalloc(at, to, "v2", false)),
    ("mimalloc3", "libmimalloc-sys", |at, to| mimalloc(at, to, "v3", false)),
    ("snmalloc", "snmalloc-sys", snmalloc),
    ("rpmalloc", "rpmalloc-sys", rpmalloc),
];

/// The fast ones whose names are wanted.
pub(super) fn fast(wanted: impl Fn(&str) -> bool) -> Vec<Built> {
    let fetched = fetched();
    let compiled = FAST.into_iter().filter(|(name, ..)| wanted(name));
    let compiled = compiled.map(|(name, package, build)| (name, source(&fetched, package, build)));
    let rust = RUST.into_iter().filter(|name| wanted(name)).map(|name| (name, rust(name)));
    compiled.chain(rust).collect()
}

/// The hardened ones.
pub(super) fn hardened() -> Vec<Built> {
    let fetched = fetched();
    vec![
        ("hardened", source(&fetched, "hardened-malloc-sys", hardened_malloc)),
        ("mi_secure", source(&fetched, "libmimalloc-sys", |at, to| mimalloc(at, to, "v2", true))),
        ("mi3_secure", source(&fetched, "libmimalloc-sys", |at, to| mimalloc(at, to, "v3", true))),
    ]
}

/// The directories of the packages that Cargo fetched.
fn fetched() -> Vec<PathBuf> {
    let mut cargo = tree::cargo();
    cargo.args(["metadata", "--format-version", "1", "--locked", "--manifest-path"]);
    let Ok(output) = cargo.arg(tree::root().join(WORKSPACE)).output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    text.split("\"manifest_path\":\"")
        .skip(1)
        .filter_map(|rest| Path::new(rest.split('"').next()?).parent().map(Path::to_path_buf))
        .collect()
}

/// Where what is built here lies.
pub(super) fn directory() -> PathBuf {
    tree::target().join("xtask/peers")
}

/// Compiles the package of this name with `build`, which gets where it lies and a directory to work in, and returns the library.
fn source(
    fetched: &[PathBuf],
    package: &str,
    build: impl FnOnce(&Path, &Path) -> Result<PathBuf, String>,
) -> Result<PathBuf, String> {
    let name =
        |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(package));
    let at = fetched.iter().find(name).ok_or("its sources cannot be fetched")?;
    let to = directory().join(at.file_name().unwrap_or_default());
    std::fs::create_dir_all(&to).map_err(|error| error.to_string())?;
    build(at, &to)
}

/// Runs a command; `Err`: the first line that tells of an error.
fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let line = errors.lines().find(|line| line.contains("error")).unwrap_or("failed");
    Err(format!("{name}: {line}"))
}

/// Compiles a library with these arguments, unless it is there.
pub(super) fn compile(
    compiler: &str,
    library: PathBuf,
    arguments: impl FnOnce(&mut Command),
) -> Result<PathBuf, String> {
    if !library.exists() {
        // Under another name until it is whole.
        let unfinished = library.with_extension("part");
        let mut command = Command::new(compiler);
        command.args(["-O3", "-fPIC", "-shared", "-D_GNU_SOURCE", "-DNDEBUG", "-pthread"]);
        command.args(["-ftls-model=initial-exec", "-fno-builtin-malloc", "-w", "-o"]).arg(&unfinished);
        arguments(&mut command);
        run(&mut command)?;
        std::fs::rename(&unfinished, &library).map_err(|error| error.to_string())?;
    }
    Ok(library)
}

fn hardened_malloc(package: &Path, to: &Path) -> Result<PathBuf, String> {
    let configuration = std::fs::read_to_string(package.join("config-default.conf"));
    let configuration = configuration.map_err(|error| error.to_string())?;
    let sources = package.join("vendor/hardened-malloc");
    compile("gcc", to.join("libhardened_malloc.so"), |gcc| {
        gcc.args(["-std=gnu2x", "-UNDEBUG"]);
        // What C23 has by itself, for compilers that do not yet.
        for header in ["stdalign.h", "stdbool.h", "assert.h", "threads.h"] {
            gcc.args(["-include", header]);
        }
        let defines = configuration.lines().filter(|line| line.contains('=') && !line.starts_with('#'));
        gcc.args(defines.map(|define| format!("-D{}", define.trim())));
        for directory in ["", "include", "third_party"] {
            gcc.arg("-I").arg(sources.join(directory));
        }
        let files = ["util.c", "chacha.c", "h_malloc.c", "memory.c", "pages.c", "random.c"];
        gcc.args(files.map(|file| sources.join(file)));
    })
}

fn mimalloc(package: &Path, to: &Path, version: &str, secure: bool) -> Result<PathBuf, String> {
    let sources = package.join("c_src/mimalloc").join(version);
    let kind = if secure { "-secure" } else { "" };
    compile("gcc", to.join(format!("libmimalloc-{version}{kind}.so")), |gcc| {
        gcc.arg("-DMI_MALLOC_OVERRIDE").args(secure.then_some("-DMI_SECURE=4"));
        gcc.arg("-I").arg(sources.join("include")).arg(sources.join("src/static.c"));
    })
}

fn snmalloc(package: &Path, to: &Path) -> Result<PathBuf, String> {
    let sources = package.join("upstream/src");
    compile("g++", to.join("libsnmallocshim.so"), |gcc| {
        gcc.args(["-std=c++20", "-mcx16", "-fno-rtti", "-fno-builtin"]);
        gcc.args(["-fvisibility=hidden", "-DSNMALLOC_EXPORT=__attribute__((visibility(\"default\")))"]);
        gcc.args([
            "-DSNMALLOC_CHECK_LOADS=false",
            "-DSNMALLOC_PAGEID=false",
            "-DSNMALLOC_USE_WAIT_ON_ADDRESS=1",
        ]);
        gcc.arg("-I").arg(&sources);
        gcc.args(["malloc.cc", "new.cc"].map(|file| sources.join("snmalloc/override").join(file)));
    })
}

fn rpmalloc(package: &Path, to: &Path) -> Result<PathBuf, String> {
    compile("gcc", to.join("librpmalloc.so"), |gcc| {
        gcc.args(["-DENABLE_PRELOAD=1", "-DENABLE_OVERRIDE=1"]);
        gcc.arg(package.join("rpmalloc/rpmalloc/rpmalloc.c"));
    })
}

/// By its own configure script and makefile, as the package's build does.
fn jemalloc(package: &Path, to: &Path) -> Result<PathBuf, String> {
    let library = to.join("libjemalloc.so.2");
    if library.exists() {
        return Ok(library);
    }
    let work = to.join("build");
    let _ = std::fs::remove_dir_all(&work);
    run(Command::new("cp").arg("-r").arg(package.join("jemalloc")).arg(&work))?;
    run(Command::new("cp").arg(package.join("configure/configure")).arg(&work))?;
    let version = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let version = version.split('+').nth(1).ok_or("its version is not told")?;
    let mut configure = Command::new("sh");
    configure.args(["configure", "--disable-cxx", "--enable-doc=no", "--disable-stats"]);
    run(configure.arg(format!("--with-version={version}")).current_dir(&work))?;
    run(Command::new("make").args(["-j2", "lib/libjemalloc.so.2"]).current_dir(&work))?;
    std::fs::copy(work.join("lib/libjemalloc.so.2"), &library).map_err(|error| error.to_string())?;
    Ok(library)
}

/// An allocator of Rust's, built by Cargo: one library for each feature.
fn rust(feature: &str) -> Result<PathBuf, String> {
    let target = directory().join("rust");
    let mut cargo = tree::cargo();
    cargo.args(["build", "--release", "--quiet", "--locked", "-p", "preload", "--features", feature]);
    cargo.arg("--manifest-path").arg(tree::root().join(WORKSPACE)).arg("--target-dir").arg(&target);
    run(&mut cargo)?;
    let library = directory().join(format!("lib{feature}.so"));
    std::fs::copy(target.join("release/libpreload.so"), &library).map_err(|error| error.to_string())?;
    Ok(library)
}

/// The program that makes and drops objects with other crates' pools and allocators, in one process. Its lock file follows kmem's.
pub(crate) fn objects() -> Result<PathBuf, String> {
    let target = directory().join("objects");
    let mut cargo = tree::cargo();
    cargo.args(["build", "--release", "--quiet", "--manifest-path"]).arg(tree::root().join(OBJECTS));
    run(cargo.arg("--target-dir").arg(&target))?;
    Ok(target.join("release/objects"))
}
