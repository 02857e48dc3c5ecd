//! Tests of the look before the start.

use super::*;
use crate::run::tests::Scratch;

const PT_LOAD: u32 = elf::PT_LOAD.0;
const PT_INTERP: u32 = elf::PT_INTERP.0;

/// A minimal ELF64 file of this machine with one program header.
fn program(segment: u32, linker: &str) -> Vec<u8> {
    let mut file = vec![0; 64 + 56];
    file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file[16..18].copy_from_slice(&elf::ET_DYN.0.to_le_bytes());
    file[18..20].copy_from_slice(&MACHINE.0.to_le_bytes());
    file[20] = 1;
    file[32] = 64; // e_phoff
    file[52] = 64; // e_ehsize
    file[54] = 56; // e_phentsize
    file[56] = 1; // e_phnum
    file[64..68].copy_from_slice(&segment.to_le_bytes());
    file[72] = 120; // p_offset: behind the headers
    file[96] = linker.len() as u8 + 1; // p_filesz
    file.extend_from_slice(linker.as_bytes());
    file.push(0);
    file
}

#[test]
fn programs_are_judged_by_their_headers() {
    let good = program(PT_INTERP, "/lib64/ld-linux-x86-64.so.2");
    assert_eq!(obstacle_in_elf(&good), None);
    assert_eq!(obstacle_in_elf(&program(PT_LOAD, "")), Some(Obstacle::Static));
    let musl = "/lib/ld-musl-x86_64.so.1";
    assert_eq!(obstacle_in_elf(&program(PT_INTERP, musl)), Some(Obstacle::OtherLibc(musl.into())));

    let mut word32 = good.clone();
    word32[4] = 1;
    assert_eq!(obstacle_in_elf(&word32), Some(Obstacle::Foreign));
    let mut other_machine = good.clone();
    other_machine[18] ^= 0x55;
    assert_eq!(obstacle_in_elf(&other_machine), Some(Obstacle::Foreign));
    let mut big_endian = good.clone();
    big_endian[5] = 2;
    assert_eq!(obstacle_in_elf(&big_endian), Some(Obstacle::Foreign));
    // Headers that point outside of the file.
    let mut broken = good.clone();
    broken[38] = 0xff;
    assert_eq!(obstacle_in_elf(&broken), Some(Obstacle::Static));
    for end in 0..64 {
        assert_eq!(obstacle_in_elf(&good[..end]), Some(Obstacle::Foreign), "{end} bytes");
    }
}

#[test]
fn this_test_can_be_preloaded() {
    check(&std::env::current_exe().unwrap()).unwrap();
    check(Path::new("/bin/sh")).unwrap();
}

#[test]
fn interpreters_of_scripts() {
    for (text, expected) in [
        ("#!/usr/bin/python3\nprint()", "/usr/bin/python3"),
        ("#! /usr/bin/env python3\n", "/usr/bin/env"),
        ("#!\t/bin/sh -e", "/bin/sh"),
        ("#!/bin/sh\r\n", "/bin/sh"),
        ("#!\n", "/bin/sh"),
        ("echo hello\n", "/bin/sh"),
        ("", "/bin/sh"),
    ] {
        assert_eq!(interpreter(text.as_bytes()), Path::new(expected), "{text:?}");
    }
}

#[test]
fn a_script_is_as_good_as_the_last_interpreter() {
    let scratch = Scratch::new("preload");
    let lame = scratch.file("static", &program(PT_LOAD, ""), 0o755);
    let first = scratch.file("first", format!("#!{}\n", lame.display()).as_bytes(), 0o755);
    let second = scratch.file("second", format!("#!{} -x\n", first.display()).as_bytes(), 0o755);
    let failure = check(&second).unwrap_err();
    assert_eq!(failure.status, 125);
    let expected = format!(
        "{}, the interpreter of {}, is statically linked: nothing can be preloaded into it \
         (--force runs it without kmem)",
        lame.display(),
        second.display()
    );
    assert_eq!(failure.message, expected);

    let good = scratch.file("good", b"#!/bin/sh\n", 0o755);
    check(&scratch.file("better", format!("#!{}\n", good.display()).as_bytes(), 0o755)).unwrap();

    let missing = scratch.file("missing", b"#!/no/such/interpreter\n", 0o755);
    let failure = check(&missing).unwrap_err();
    assert_eq!(failure.status, 126);
    assert!(failure.message.contains("bad interpreter /no/such/interpreter"), "{failure}");

    let circle = scratch.path("circle");
    scratch.file("circle", format!("#!{}\n", circle.display()).as_bytes(), 0o755);
    let failure = check(&circle).unwrap_err();
    assert_eq!((failure.status, failure.message.contains("too many levels")), (126, true));
}

#[test]
fn rights_count_only_when_they_are_gained() {
    let rights = |mode, owner, capabilities| Rights { mode, owner, capabilities };
    assert_eq!(rights(0o104755, (0, 0), false).gained_by(1000, 1000), Some("is set-user-ID"));
    assert_eq!(rights(0o104755, (0, 0), false).gained_by(0, 0), None);
    assert_eq!(rights(0o102755, (0, 42), false).gained_by(1000, 1000), Some("is set-group-ID"));
    assert_eq!(rights(0o102755, (0, 42), false).gained_by(1000, 42), None);
    // Without the group's execute bit the set-group-ID bit means a kind of lock.
    assert_eq!(rights(0o102745, (0, 42), false).gained_by(1000, 1000), None);
    assert_eq!(rights(0o100755, (0, 0), true).gained_by(1000, 1000), Some("has file capabilities"));
    assert_eq!(rights(0o100755, (0, 0), true).gained_by(0, 0), None);
    assert_eq!(rights(0o100755, (0, 0), false).gained_by(1000, 1000), None);
}
