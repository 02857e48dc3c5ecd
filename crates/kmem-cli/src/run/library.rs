//! Where the library to preload is; in a source tree, building it first when that is needed.
//!
//! Looked for, in this order:
//! 1. the file that `KMEM_LIB` names;
//! 2. when this command runs out of a Cargo target directory and its source tree is still there: `release/` of
//!    that directory, built when it is missing or older than its sources;
//! 3. beside this command, then `../lib` and `../lib/kmem` from there: an installed tree.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, thread};

use crate::failure::{Failure, Result};
use crate::units::duration;

/// File name of the library.
pub(crate) const LIBRARY: &str = "libkmem_malloc.so";
/// Its package.
const PACKAGE: &str = "kmem-malloc";
/// The packages it is made of.
const SOURCES: &[&str] = &["kmem-core", "kmem", PACKAGE];
/// Names a library, or, set to anything by a test, another place to look.
const KMEM_LIB: &str = "KMEM_LIB";
/// How long a build may take before it is announced.
const SILENCE: Duration = Duration::from_millis(700);
/// Touched after each build, since Cargo leaves an up-to-date library's time alone.
const STAMP: &str = ".kmem-malloc-built";

/// The absolute path of the library.
///
/// # Errors
/// Status 125: there is none, or it could not be built.
pub(crate) fn locate() -> Result<PathBuf> {
    if let Some(path) = env::var_os(KMEM_LIB).filter(|value| !value.is_empty()) {
        return fs::canonicalize(&path)
            .map_err(|error| Failure::run(format!("{KMEM_LIB}={}: {error}", Path::new(&path).display())));
    }
    let command = env::current_exe()
        .map_err(|error| Failure::run(format!("cannot tell where this command is: {error}")))?;
    if let Some(tree) = Tree::of(&command, Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))) {
        return tree.library();
    }
    let beside = command.parent().unwrap_or(Path::new("/"));
    let places =
        [beside.join(LIBRARY), beside.join("../lib").join(LIBRARY), beside.join("../lib/kmem").join(LIBRARY)];
    places.iter().find_map(|place| fs::canonicalize(place).ok()).ok_or_else(|| {
        Failure::run(format!(
            "{LIBRARY} is neither in {} nor in ../lib from there: build it with 'cargo build --release -p {PACKAGE}' \
             and name it in {KMEM_LIB}",
            beside.display()
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
        let has_sources = workspace.join("crates").join(PACKAGE).join("Cargo.toml").is_file();
        (built_here && has_sources).then(|| Tree { workspace, target: target.to_path_buf() })
    }

    fn library(&self) -> Result<PathBuf> {
        let release = self.target.join("release");
        let library = release.join(LIBRARY);
        let stamp = release.join(STAMP);
        let built = modified(&library).map(|time| time.max(modified(&stamp).unwrap_or(time)));
        let sources = self.newest_source();
        if built.is_none_or(|built| sources.is_some_and(|source| source > built)) {
            self.build(built.is_some())?;
            if !library.is_file() {
                return Err(Failure::run(format!("cargo built no {}", library.display())));
            }
            // A failure only means that the next run asks Cargo again.
            let _ = fs::write(&stamp, "");
        }
        fs::canonicalize(&library).map_err(|error| Failure::run(format!("{}: {error}", library.display())))
    }

    fn newest_source(&self) -> Option<SystemTime> {
        let crates = self.workspace.join("crates");
        let manifest = modified(&self.workspace.join("Cargo.toml"));
        SOURCES.iter().filter_map(|name| newest(&crates.join(name))).chain(manifest).max()
    }

    fn build(&self, again: bool) -> Result<()> {
        let start = Instant::now();
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let child = Command::new(&cargo)
            .args(["build", "--quiet", "--release", "--package", PACKAGE, "--manifest-path"])
            .arg(self.workspace.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&self.target)
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
            eprintln!("kmem: building {LIBRARY} ({reason}): cargo build --release -p {PACKAGE}");
        }
        let told = early.is_err();
        let output = early.or_else(|_| ended.recv()).map_err(|error| error.to_string());
        let output = output.and_then(|output| output.map_err(|error| error.to_string()));
        let output = output.map_err(|error| Failure::run(format!("waiting for cargo: {error}")))?;
        if !output.status.success() {
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            return Err(Failure::run(format!("building {LIBRARY} failed ({})", output.status)));
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
        assert_eq!(tree.newest_source(), Some(source));
        let manifest = put("crates/kmem-malloc/Cargo.toml", 9);
        assert_eq!(tree.newest_source(), Some(manifest));
    }

    #[test]
    fn a_library_newer_than_its_sources_is_not_built_again() {
        let scratch = Scratch::new("fresh");
        scratch.file("crates/kmem-malloc/Cargo.toml", b"", 0o644);
        let library = scratch.file("target/release/libkmem_malloc.so", b"", 0o644);
        let tree = Tree { workspace: scratch.path(""), target: scratch.path("target") };
        let future = SystemTime::now() + Duration::from_secs(60);
        fs::File::open(&library).unwrap().set_modified(future).unwrap();
        // There is no workspace that Cargo could build: only an up-to-date library lets this pass.
        assert_eq!(tree.library().unwrap(), fs::canonicalize(&library).unwrap());
    }
}
