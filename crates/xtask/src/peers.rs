//! Hardened allocators to compare with: `bench --hardened`.
//!
//! scudo comes with a package of Debian's (`scripts/install-deps`). Those of which there are only sources are fetched by Cargo, as
//! the dependencies of `crates/kmem-bench/peers`, and compiled by gcc with what their own builds define. One that cannot be
//! had is left out, and that is said.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tree;

/// Where LLVM's packages keep scudo, below `/usr/lib/llvm-*/lib/clang/*/`.
const SCUDO: &str = "lib/linux/libclang_rt.scudo_standalone-x86_64.so";

/// Name and library of each that is there.
pub(crate) fn all() -> Vec<(&'static str, PathBuf)> {
    let fetched = fetched();
    let source = |name: &str| fetched.iter().find(|path| path.to_string_lossy().contains(name));
    [
        ("scudo", scudo().ok_or_else(|| "not installed".to_owned())),
        ("hardened", source("/hardened-malloc-sys-").map_or_else(no_source, |at| hardened_malloc(at))),
        ("mi_secure", source("/libmimalloc-sys-").map_or_else(no_source, |at| mimalloc(at))),
    ]
    .into_iter()
    .filter_map(|(name, library)| match library {
        Ok(path) => Some((name, path)),
        Err(why) => {
            println!("{name:<24} left out: {why}");
            None
        }
    })
    .collect()
}

fn no_source() -> Result<PathBuf, String> {
    Err("its sources cannot be fetched".to_owned())
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The newest scudo.
fn scudo() -> Option<PathBuf> {
    entries(Path::new("/usr/lib"))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("llvm-")))
        .flat_map(|llvm| entries(&llvm.join("lib/clang")))
        .map(|version| version.join(SCUDO))
        .filter(|path| path.exists())
        .max()
}

/// The directories of the packages that Cargo fetched.
fn fetched() -> Vec<PathBuf> {
    let manifest = tree::root().join("crates/kmem-bench/peers/Cargo.toml");
    let mut cargo = tree::cargo();
    cargo.args(["metadata", "--format-version", "1", "--locked", "--manifest-path"]).arg(manifest);
    let Ok(output) = cargo.output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    text.split("\"manifest_path\":\"")
        .skip(1)
        .filter_map(|rest| Path::new(rest.split('"').next()?).parent().map(Path::to_path_buf))
        .collect()
}

/// Compiles a library with these arguments.
fn compile(name: &str, arguments: impl FnOnce(&mut Command)) -> Result<PathBuf, String> {
    let directory = tree::target().join("xtask");
    std::fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
    let library = directory.join(format!("{name}.so"));
    let mut gcc = Command::new("gcc");
    gcc.args(["-O3", "-fPIC", "-shared", "-D_GNU_SOURCE", "-o"]).arg(&library);
    arguments(&mut gcc);
    let output = gcc.output().map_err(|error| format!("gcc: {error}"))?;
    if output.status.success() {
        return Ok(library);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("gcc: {}", errors.lines().find(|line| line.contains("error")).unwrap_or("failed")))
}

fn hardened_malloc(package: &Path) -> Result<PathBuf, String> {
    let configuration = std::fs::read_to_string(package.join("config-default.conf"));
    let configuration = configuration.map_err(|error| error.to_string())?;
    let sources = package.join("vendor/hardened-malloc");
    compile("hardened_malloc", |gcc| {
        gcc.arg("-std=gnu2x");
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

fn mimalloc(package: &Path) -> Result<PathBuf, String> {
    let sources = package.join("c_src/mimalloc/v2");
    compile("mimalloc_secure", |gcc| {
        gcc.args(["-DMI_SECURE=4", "-DMI_MALLOC_OVERRIDE", "-DNDEBUG", "-ftls-model=initial-exec"]);
        gcc.args(["-fno-builtin-malloc", "-I"]).arg(sources.join("include"));
        gcc.arg(sources.join("src/static.c")).arg("-lpthread");
    })
}
