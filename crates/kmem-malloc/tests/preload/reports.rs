//! The report a process leaves in `KMEM_REPORT_DIR`, by every way a process can end.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use crate::support::{Heap, ScratchDir, command, compiled, engine, library, outcome};

/// Runs `report.c` in the given way; returns the pids it printed and the files it left, sorted.
fn leaves(way: &str, dir: &Path) -> (Vec<String>, Vec<String>) {
    let outcome =
        outcome(command(&compiled("report.c", &[]), Heap::Preloaded).arg(way).env("KMEM_REPORT_DIR", dir));
    assert!(outcome.status.success() || way == "kill", "{way}: {outcome:#?}");
    assert!(outcome.stderr.is_empty(), "{way}: {outcome:#?}");
    let mut pids: Vec<String> = outcome.stdout.lines().map(str::to_owned).collect();
    pids.sort();
    pids.dedup();
    let mut files: Vec<String> = fs::read_dir(dir)
        .expect("directory")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("text"))
        .collect();
    files.sort();
    (pids, files)
}

fn expected(pids: &[String]) -> Vec<String> {
    let mut files: Vec<String> = ["report", "slabinfo"]
        .iter()
        .flat_map(|kind| pids.iter().map(move |pid| format!("{kind}.{pid}")))
        .collect();
    files.sort();
    files
}

#[test]
fn every_ordinary_end_leaves_a_report() {
    for way in ["return", "exit", "_exit", "_Exit", "closed", "environment", "exec"] {
        let dir = ScratchDir::new();
        let (pids, files) = leaves(way, dir.path());
        assert_eq!(pids.len(), 1, "{way}");
        assert_eq!(files, expected(&pids), "{way}");
    }
}

#[test]
fn a_forked_child_leaves_its_own() {
    let dir = ScratchDir::new();
    let (pids, files) = leaves("fork", dir.path());
    assert_eq!(pids.len(), 2);
    assert_eq!(files, expected(&pids));
}

#[test]
fn a_vfork_child_leaves_none_and_takes_none_away() {
    let dir = ScratchDir::new();
    let (pids, files) = leaves("vfork", dir.path());
    assert_eq!(pids.len(), 1);
    assert_eq!(files, expected(&pids));
}

#[test]
fn a_killed_process_leaves_none() {
    let dir = ScratchDir::new();
    assert!(leaves("kill", dir.path()).1.is_empty());
}

/// A program with raised privileges writes nothing where its environment says. It is linked with the library, because
/// such a program cannot be preloaded either. Nothing can be seen where programs cannot raise privileges.
#[test]
fn a_privileged_process_leaves_none() {
    let libraries = library().parent().expect("library directory").display();
    let flags = [format!("-L{libraries}"), format!("-Wl,-rpath,{libraries}"), "-lkmem_malloc".to_owned()];
    let flags: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
    let program = compiled("report.c", &flags);
    let dir = ScratchDir::new();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("permissions");
    let copy = dir.path().join("privileged");
    fs::copy(&program, &copy).expect("copy");
    let reports = dir.path().join("reports");
    fs::create_dir(&reports).expect("directory");
    fs::set_permissions(&reports, Permissions::from_mode(0o777)).expect("permissions");
    // Run by root but owned by somebody else: the kernel marks the start as privileged.
    if chown(&copy, Some(65534), Some(65534)).is_err() {
        return;
    }
    fs::set_permissions(&copy, Permissions::from_mode(0o6755)).expect("permissions");
    let outcome = outcome(command(&copy, Heap::Plain).arg("secure").env("KMEM_REPORT_DIR", &reports));
    assert!(outcome.status.success() && outcome.stderr.is_empty(), "{outcome:#?}");
    let privileged = outcome.stdout.lines().nth(1) == Some("1");
    let files = fs::read_dir(&reports).expect("directory").count();
    assert_eq!(files, if privileged { 0 } else { 2 }, "{outcome:#?}");
}

#[test]
fn a_directory_that_is_not_there_is_no_error() {
    let dir = ScratchDir::new();
    let missing = dir.path().join("missing");
    let outcome = outcome(
        command(&compiled("report.c", &[]), Heap::Preloaded).arg("return").env("KMEM_REPORT_DIR", &missing),
    );
    assert!(outcome.status.success() && outcome.stderr.is_empty(), "{outcome:#?}");
    assert!(!missing.exists());
}

#[test]
fn the_report_reads_as_promised() {
    let dir = ScratchDir::new();
    let (pids, _) = leaves("return", dir.path());
    let text = fs::read_to_string(dir.path().join(format!("report.{}", pids[0]))).expect("report");
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines[0], ["kmem-report", "1"], "{text}");
    assert_eq!(lines[1], ["process", &pids[0], "report"], "{text}");
    let hardened = engine() == "hardened";
    assert_eq!(lines[2] == ["build", "hardened"], hardened, "{text}");
    let kept = &lines[2 + usize::from(hardened)];
    assert_eq!(kept[..2], ["engine", if hardened { "slub" } else { engine() }], "{text}");
    assert_eq!(lines.last().expect("lines"), &["end"], "{text}");
    let caches: Vec<_> = lines.iter().filter(|line| line[0] == "cache").collect();
    let classes = engine() != "slob";
    assert!(caches.len() > if classes { 5 } else { 1 }, "{text}");
    for cache in &caches {
        assert_eq!(cache.len(), 17, "{text}");
        for (i, field) in cache.iter().enumerate().skip(2) {
            let radix = if i == 16 { 16 } else { 10 };
            assert!(u64::from_str_radix(field, radix).is_ok(), "{field} in {text}");
        }
    }
    // The program's one block of 100 bytes.
    let active: u64 = caches.iter().map(|cache| cache[7].parse::<u64>().expect("number")).sum();
    assert!(active > 0, "{text}");
    for (name, fields) in [("large", 4), ("huge", 4), ("pages", 4)] {
        let line = lines.iter().find(|line| line[0] == name).unwrap_or_else(|| panic!("{name} in {text}"));
        assert_eq!(line.len(), fields + 1, "{text}");
    }
    let slabinfo = fs::read_to_string(dir.path().join(format!("slabinfo.{}", pids[0]))).expect("slabinfo");
    assert!(slabinfo.starts_with("slabinfo - version: 2.1\n# name "), "{slabinfo}");
    assert_eq!(slabinfo.contains("\nkmalloc-"), classes, "{slabinfo}");
}
