//! Where the debug information of a file is that has none itself.
//!
//! Distributions split it off. A file tells its own build by a number, the build id, and under that number its debug
//! information lies in `/usr/lib/debug`; older ones name a file, the debug link, which is looked for where debuggers do.
//! Parts that many files share may lie in one more file (`.gnu_debugaltlink`).

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use object::read::elf::{ElfFile64, FileHeader};
use object::{Endianness, Object, ObjectSection};

/// A 64-bit file of this machine's family.
pub(super) type File<'data> = ElfFile64<'data, Endianness>;

const ROOT: &str = "/usr/lib/debug";

/// True for a file that lines can be looked up in.
pub(super) fn has_lines(file: &File<'_>) -> bool {
    // The section without content is what stripping leaves in a debug file's counterpart.
    let filled = |name| file.section_by_name(name).is_some_and(|section| section.size() > 0);
    filled(".debug_info") || filled(".zdebug_info")
}

/// The file with the debug information of the program or library at `path`.
pub(super) fn of(path: &Path, file: &File<'_>) -> Option<PathBuf> {
    let id = file.build_id().ok().flatten();
    let by_id = id.and_then(path_by_id).into_iter();
    let by_link = file.gnu_debuglink().ok().flatten().map(|(name, _)| name);
    let by_link = by_link.into_iter().flat_map(|name| linked(path, OsStr::from_bytes(name)));
    by_id.chain(by_link).find(|candidate| candidate != path && is_of(candidate, id))
}

/// The file with what the debug information at `path` shares with others.
pub(super) fn shared(path: &Path, file: &File<'_>) -> Option<PathBuf> {
    let (name, id) = file.gnu_debugaltlink().ok().flatten()?;
    let named = path.parent()?.join(OsStr::from_bytes(name));
    [Some(named), path_by_id(id)].into_iter().flatten().find(|candidate| is_of(candidate, Some(id)))
}

/// `/usr/lib/debug/.build-id/ab/cdef….debug`.
fn path_by_id(id: &[u8]) -> Option<PathBuf> {
    let (first, rest) = id.split_first()?;
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(PathBuf::from(format!("{ROOT}/.build-id/{first:02x}/{rest}.debug")))
}

fn linked(path: &Path, name: &OsStr) -> Vec<PathBuf> {
    let Some(directory) = path.parent() else { return Vec::new() };
    let below_root = directory.strip_prefix("/").unwrap_or(directory);
    vec![
        directory.join(name),
        directory.join(".debug").join(name),
        Path::new(ROOT).join(below_root).join(name),
    ]
}

/// True for a file with lines that is of this build, as far as both tell theirs.
fn is_of(candidate: &Path, id: Option<&[u8]>) -> bool {
    let Ok(bytes) = fs::read(candidate) else { return false };
    let Ok(file) = File::parse(&*bytes) else { return false };
    let other = file.build_id().ok().flatten();
    let same = id.is_none() || other.is_none() || id == other;
    same && (has_lines(&file) || file.elf_header().e_type(file.endian()) == object::elf::ET_REL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_debuggers() {
        assert_eq!(
            path_by_id(&[0xab, 0x0c, 0xff]),
            Some(PathBuf::from("/usr/lib/debug/.build-id/ab/0cff.debug"))
        );
        assert_eq!(path_by_id(&[]), None);
        let places = linked(Path::new("/usr/bin/x"), OsStr::new("x.debug"));
        let shown: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        assert_eq!(shown, ["/usr/bin/x.debug", "/usr/bin/.debug/x.debug", "/usr/lib/debug/usr/bin/x.debug"]);
    }
}
