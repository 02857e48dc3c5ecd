//! Where the library to preload is; in a source tree, building it first when that is needed.
//!
//! There are two: the library proper, and the one that records ([`Library`]); and of each one for every [`Build`], as a
//! library has one heap. Looked for, in this order:
//! 1. the file that `KMEM_LIB` names; the others beside it, by the names they have where they are installed;
//! 2. when this command runs out of a Cargo target directory and its source tree is still there: `release/` of
//!    that directory (of `engine-slab/` in it, for SLAB; `engine-hardened/` for the hardened one), built when it is missing or older than its sources;
//! 3. beside this command, then `../lib` and `../lib/kmem` from there: an installed tree, where the others have the
//!    name of their build in theirs: `libkmem_malloc_slab.so`, `libkmem_malloc_hardened.so`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, thread};

use crate::cli::Engine;
use crate::failure::{Failure, Result};
use crate::units::duration;

/// What a library is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// An engine.
    Engine(Engine),
    /// SLUB, in a heap that stops what misuses it.
    Hardened,
}

impl Build {
    /// The feature that it is, and what stands in file names; nothing for the usual one.
    const fn feature(self) -> Option<&'static str> {
        match self {
            Self::Engine(Engine::Slub) => None,
            Self::Engine(engine) => Some(engine.name()),
            Self::Hardened => Some("hardened"),
        }
    }
}

/// A library to preload.
#[derive(Debug)]
pub(crate) struct Library {
    /// Its file name, where it was built.
    pub(crate) file: &'static str,
    /// Its package.
    package: &'static str,
    /// The packages it is made of.
    sources: &'static [&'static str],
    /// Touched after each build, since Cargo leaves an up-to-date library's time alone.
    stamp: &'static str,
}

/// The library proper.
pub(crate) const PLAIN: Library = Library {
    file: "libkmem_malloc.so",
    package: "kmem-malloc",
    sources: &["kmem-core", "kmem", "kmem-malloc"],
    stamp: ".kmem-malloc-built",
};
/// The same, recording.
pub(crate) const RECORDING: Library = Library {
    file: "libkmem_record.so",
    package: "kmem-record",
    sources: &["kmem-core", "kmem", "kmem-malloc", "kmem-trace", "kmem-record"],
    stamp: ".kmem-record-built",
};
impl Library {
    /// Its file name among those of other builds.
    fn installed(&self, build: Build) -> String {
        match build.feature() {
            None => self.file.to_owned(),
            Some(name) => format!("{}_{name}.so", self.file.trim_end_matches(".so")),
        }
    }

    /// The arguments of Cargo that build it.
    fn build_arguments(&self, build: Build) -> Vec<&'static str> {
        let mut arguments = vec!["build", "--release", "--package", self.package];
        if let Some(feature) = build.feature() {
            arguments.extend(["--features", feature]);
        }
        arguments
    }
}

/// Names a library, or, set to anything by a test, another place to look.
const KMEM_LIB: &str = "KMEM_LIB";
/// How long a build may take before it is announced.
const SILENCE: Duration = Duration::from_millis(700);

/// The absolute path of a library.
///
/// # Errors
/// Status 125: there is none, or it could not be built.
pub(crate) fn locate(library: &Library, build: Build) -> Result<PathBuf> {
    let file = library.installed(build);
    if let Some(path) = env::var_os(KMEM_LIB).filter(|value| !value.is_empty()) {
        let named = fs::canonicalize(&path)
            .map_err(|error| Failure::run(format!("{KMEM_LIB}={}: {error}", Path::new(&path).display())))?;
        if file == PLAIN.file {
            return Ok(named);
        }
        let beside = named.with_file_name(file);
        return fs::canonicalize(&beside)
            .map_err(|error| Failure::run(format!("{}: {error}", beside.display())));
    }
    let command = env::current_exe()
        .map_err(|error| Failure::run(format!("cannot tell where this command is: {error}")))?;
    if let Some(tree) = Tree::of(&command, Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))) {
        return tree.library(library, build);
    }
    let beside = command.parent().unwrap_or(Path::new("/"));
    let places =
        [beside.join(&file), beside.join("../lib").join(&file), beside.join("../lib/kmem").join(&file)];
    places.iter().find_map(|place| fs::canonicalize(place).ok()).ok_or_else(|| {
        let name_it = match build.feature() {
            None => format!("name {} in {KMEM_LIB}", PLAIN.file),
            Some(_) => format!("put its {} there by this name", library.file),
        };
        Failure::run(format!(
            "{file} is neither in {} nor in ../lib from there: build it with 'cargo {}' and {name_it}",
            beside.display(),
            library.build_arguments(build).join(" "),
        ))
    })
}

/// A source tree and the target directory this command was built into.
struct Tree {
    workspace: PathBuf,
    target: PathBuf,
}

impl Tree {
    /// The tree, if `command` lies in a profile directory of a Cargo target directory and `workspace` is there.
    fn of(command: &Path, workspace: &Path) -> Option<Self> {
        let profile = command.parent()?;
        let target = profile.parent()?;
        // Cargo marks target directories for backup programs, and profile directories by its lock.
        let built_here = profile.join(".fingerprint").is_dir() && target.join("CACHEDIR.TAG").is_file();
        let workspace = fs::canonicalize(workspace).ok()?;
        let has_sources = workspace.join("crates").join(PLAIN.package).join("Cargo.toml").is_file();
        (built_here && has_sources).then(|| Tree { workspace, target: target.to_path_buf() })
    }

    /// Where Cargo builds this. Apart, because the file names are the same.
    fn target(&self, build: Build) -> PathBuf {
        match build.feature() {
            None => self.target.clone(),
            Some(name) => self.target.join(format!("engine-{name}")),
        }
    }

    fn library(&self, wanted: &Library, build: Build) -> Result<PathBuf> {
        let release = self.target(build).join("release");
        let library = release.join(wanted.file);
        let stamp = release.join(wanted.stamp);
        let built = modified(&library).map(|time| time.max(modified(&stamp).unwrap_or(time)));
        let sources = self.newest_source(wanted);
        if built.is_none_or(|built| sources.is_some_and(|source| source > built)) {
            self.build(wanted, build, built.is_some())?;
            if !library.is_file() {
                return Err(Failure::run(format!("cargo built no {}", library.display())));
            }
            // A failure only means that the next run asks Cargo again.
            let _ = fs::write(&stamp, "");
        }
        fs::canonicalize(&library).map_err(|error| Failure::run(format!("{}: {error}", library.display())))
    }

    fn newest_source(&self, library: &Library) -> Option<SystemTime> {
        let crates = self.workspace.join("crates");
        let manifest = modified(&self.workspace.join("Cargo.toml"));
        library.sources.iter().filter_map(|name| newest(&crates.join(name))).chain(manifest).max()
    }

    fn build(&self, library: &Library, build: Build, again: bool) -> Result<()> {
        let (file, arguments) = (library.file, library.build_arguments(build));
        let start = Instant::now();
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let child = Command::new(&cargo)
            .args(&arguments)
            .args(["--quiet", "--manifest-path"])
            .arg(self.workspace.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(self.target(build))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::run(format!("{}: {error}", Path::new(&cargo).display())))?;
        let (done, ended) = mpsc::channel();
        thread::spawn(move || done.send(child.wait_with_output()));
        // Often Cargo finds that nothing the library is made of has changed; then there is nothing to tell.
        let early = ended.recv_timeout(SILENCE);
        if early.is_err() {
            let reason = if again { "its sources changed" } else { "first use" };
            eprintln!("kmem: building {file} ({reason}): cargo {}", arguments.join(" "));
        }
        let told = early.is_err();
        let output = early.or_else(|_| ended.recv()).map_err(|error| error.to_string());
        let output = output.and_then(|output| output.map_err(|error| error.to_string()));
        let output = output.map_err(|error| Failure::run(format!("waiting for cargo: {error}")))?;
        if !output.status.success() {
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            return Err(Failure::run(format!("building {file} failed ({})", output.status)));
        }
        if told {
            eprintln!("kmem: built in {}", duration(start.elapsed()));
        }
        Ok(())
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

/// The newest file that a build reads below `directory`: sources and manifests, not tests.
fn newest(directory: &Path) -> Option<SystemTime> {
    let mut latest = None;
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let path = entry.path();
        let time = if path.is_dir() {
            let skipped = ["tests", "benches", "examples", "target"].iter().any(|name| path.ends_with(name));
            if skipped { None } else { newest(&path) }
        } else {
            let built = [OsStr::new("rs"), OsStr::new("toml"), OsStr::new("map"), OsStr::new("S")];
            path.extension().is_some_and(|ending| built.contains(&ending)).then(|| modified(&path)).flatten()
        };
        latest = latest.max(time);
    }
    latest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::Scratch;
    use std::time::Duration;

    #[test]
    fn a_tree_is_known_by_its_marks() {
        let scratch = Scratch::new("tree");
        let command = scratch.file("target/debug/kmem", b"", 0o755);
        let workspace = scratch.path("");
        assert!(Tree::of(&command, &workspace).is_none());
        scratch.file("target/CACHEDIR.TAG", b"", 0o644);
        scratch.file("target/debug/.fingerprint/x", b"", 0o644);
        assert!(Tree::of(&command, &workspace).is_none(), "no sources");
        scratch.file("crates/kmem-malloc/Cargo.toml", b"", 0o644);
        let tree = Tree::of(&command, &workspace).unwrap();
        assert_eq!(tree.target, scratch.path("target"));
        assert!(Tree::of(Path::new("/usr/bin/kmem"), &workspace).is_none());
        assert!(Tree::of(&command, Path::new("/nonexistent")).is_none());
    }

    #[test]
    fn the_newest_source_decides() {
        let scratch = Scratch::new("newest");
        let tree = Tree { workspace: scratch.path(""), target: scratch.path("target") };
        let base = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let put = |name: &str, seconds: u64| {
            let file = scratch.file(name, b"", 0o644);
            let time = base + Duration::from_secs(seconds);
            fs::File::open(file).unwrap().set_modified(time).unwrap();
            time
        };
        put("Cargo.toml", 1);
        let source = put("crates/kmem-core/src/page/mod.rs", 5);
        put("crates/kmem-core/src/page/notes.txt", 50);
        put("crates/kmem-core/tests/pages.rs", 60);
        put("crates/kmem-cli/src/main.rs", 70);
        assert_eq!(tree.newest_source(&PLAIN), Some(source));
        let manifest = put("crates/kmem-malloc/Cargo.toml", 9);
        assert_eq!(tree.newest_source(&PLAIN), Some(manifest));
    }

    #[test]
    fn a_library_newer_than_its_sources_is_not_built_again() {
        let scratch = Scratch::new("fresh");
        scratch.file("crates/kmem-malloc/Cargo.toml", b"", 0o644);
        let tree = Tree { workspace: scratch.path(""), target: scratch.path("target") };
        for (build, file) in [
            (Build::Engine(Engine::Slub), "target/release/libkmem_malloc.so"),
            (Build::Engine(Engine::Slab), "target/engine-slab/release/libkmem_malloc.so"),
            (Build::Engine(Engine::Slob), "target/engine-slob/release/libkmem_malloc.so"),
            (Build::Hardened, "target/engine-hardened/release/libkmem_malloc.so"),
        ] {
            let library = scratch.file(file, b"", 0o644);
            let future = SystemTime::now() + Duration::from_secs(60);
            fs::File::open(&library).unwrap().set_modified(future).unwrap();
            // There is no workspace that Cargo could build: only an up-to-date library lets this pass.
            assert_eq!(tree.library(&PLAIN, build).unwrap(), fs::canonicalize(&library).unwrap());
        }
    }

    #[test]
    fn each_build_has_a_name_of_its_own() {
        assert_eq!(PLAIN.installed(Build::Engine(Engine::Slub)), "libkmem_malloc.so");
        assert_eq!(PLAIN.installed(Build::Engine(Engine::Slab)), "libkmem_malloc_slab.so");
        assert_eq!(PLAIN.installed(Build::Hardened), "libkmem_malloc_hardened.so");
        assert!(PLAIN.build_arguments(Build::Hardened).ends_with(&["--features", "hardened"]));
        assert_eq!(RECORDING.installed(Build::Engine(Engine::Slob)), "libkmem_record_slob.so");
        assert_eq!(
            PLAIN.build_arguments(Build::Engine(Engine::Slub)).join(" "),
            "build --release --package kmem-malloc"
        );
        assert!(RECORDING.build_arguments(Build::Engine(Engine::Slab)).ends_with(&[
            "kmem-record",
            "--features",
            "slab"
        ]));
    }
}
