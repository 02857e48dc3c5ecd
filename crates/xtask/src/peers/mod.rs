//! Allocators that `bench` compares kmem with, beside the system's.
//!
//! Three kinds: libraries of Debian's packages (`scripts/install-deps`), libraries compiled from sources that Cargo fetches
//! ([`build`]), and allocators of Rust's that a small library gives to C programs (`crates/kmem-bench/peers/preload`). One that cannot
//! be had is left out, and that is said. Beside them [`mod@floors`], which no program could use.

mod build;
mod floors;

use std::path::{Path, PathBuf};

pub(crate) use build::objects;

/// Which of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Which {
    /// Debian's, which are there.
    #[default]
    Packages,
    /// All that are made for speed: Debian's, and those that are built here.
    All,
    /// Of these, those with such names.
    Named(Vec<String>),
    /// Those that are made to be attacked.
    Hardened,
}

/// An allocator's name, and its library.
pub(crate) type Peer = (&'static str, PathBuf);

/// Libraries of Debian's packages.
const PACKAGES: [(&str, &str); 3] = [
    ("jemalloc", "libjemalloc.so.2"),
    ("mimalloc", "libmimalloc.so.2"),
    ("tcmalloc", "libtcmalloc_minimal.so.4"),
];

/// Where libraries lie.
const DIRECTORIES: [&str; 4] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];

/// Where LLVM's packages keep scudo, below `/usr/lib/llvm-*/lib/clang/*/`.
const SCUDO: &str = "lib/linux/libclang_rt.scudo_standalone-x86_64.so";

/// Name and library of each that is there, or that can be built.
pub(crate) fn find(which: &Which) -> Vec<Peer> {
    let wanted = |name: &str| match which {
        Which::Named(names) => names.iter().any(|wanted| wanted == name),
        _ => true,
    };
    let packages = PACKAGES.map(|(name, file)| {
        let path = DIRECTORIES.iter().map(|directory| Path::new(directory).join(file));
        (name, path.into_iter().find(|path| path.exists()).ok_or_else(|| "not installed".to_owned()))
    });
    let scudo = || ("scudo", scudo().ok_or_else(|| "not installed".to_owned()));
    match which {
        Which::Packages => packages.into_iter().filter_map(told).collect(),
        Which::All | Which::Named(_) => {
            let installed = packages.into_iter().chain([scudo()]).filter(|(name, _)| wanted(name));
            installed.chain(build::fast(wanted)).filter_map(told).collect()
        }
        Which::Hardened => [scudo()].into_iter().chain(build::hardened()).filter_map(told).collect(),
    }
}

/// What the rows of small blocks cost with next to no allocator.
pub(crate) fn floors() -> Vec<Peer> {
    floors::floors().into_iter().filter_map(told).collect()
}

/// What stands beside the hardened heaps without being one, and what that has in its environment: the floor of those that clear, and scudo
/// told to clear too.
pub(crate) fn clearing() -> Vec<(Peer, Option<&'static str>)> {
    let floor = told(floors::wiping()).map(|peer| (peer, None));
    let scudo = scudo().map(|path| (("scudo_zero", path), Some("SCUDO_OPTIONS=zero_contents=1")));
    floor.into_iter().chain(scudo).collect()
}

/// The peer, or nothing, and that is said.
fn told((name, library): build::Built) -> Option<Peer> {
    match library {
        Ok(path) => Some((name, path)),
        Err(why) => {
            println!("{name:<24} left out: {why}");
            None
        }
    }
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
