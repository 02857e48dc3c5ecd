//! The library that gives programs their malloc: one for each engine, and a hardened one.

use std::path::PathBuf;

use crate::step::{Count, Step};
use crate::tree;

/// How objects are kept in pages: a feature of the library. The hardened heap is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Slub,
    Slab,
    Slob,
    /// SLUB in a hardened heap.
    Hardened,
}

impl Engine {
    pub(crate) const ALL: [Self; 4] = [Self::Slub, Self::Slab, Self::Slob, Self::Hardened];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Slub => "slub",
            Self::Slab => "slab",
            Self::Slob => "slob",
            Self::Hardened => "hardened",
        }
    }

    /// What a process on it says that its engine is.
    pub(crate) fn said(self) -> &'static str {
        if self == Self::Hardened { Self::Slub.name() } else { self.name() }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }

    /// Where what has this engine is built. Apart from the others, as files have the same names.
    pub(crate) fn target(self) -> PathBuf {
        match self {
            Self::Slub => tree::target(),
            _ => tree::target().join(format!("engine-{}", self.name())),
        }
    }
}

/// The library; `KMEM_LIB` names another to try the harness with.
pub(crate) fn path(engine: Engine) -> PathBuf {
    let ours = || engine.target().join("release/libkmem_malloc.so");
    std::env::var_os("KMEM_LIB").map_or_else(ours, PathBuf::from)
}

/// Whether [`path`] is this project's own rather than a stand-in.
pub(crate) fn is_ours() -> bool {
    std::env::var_os("KMEM_LIB").is_none()
}

/// Set to anything but 0 it parts a crate for the next build's sake, which changes what is inlined, and so what is counted and timed.
pub(crate) const INCREMENTAL: &str = "CARGO_INCREMENTAL";

/// Builds it, optimised.
pub(crate) fn build(engine: Engine) -> Count {
    let build = ["build", "--release", "-p", "kmem-malloc"];
    let target = engine.target().display().to_string();
    let special = [&build[..], &["--features", engine.name(), "--target-dir", &target]].concat();
    match engine {
        Engine::Slub => Step::cargo("build the library", &build),
        Engine::Slab => Step::cargo("build it with slab", &special),
        Engine::Slob => Step::cargo("build it with slob", &special),
        Engine::Hardened => Step::cargo("build it hardened", &special),
    }
    .env(INCREMENTAL, "0")
    .run()
}
