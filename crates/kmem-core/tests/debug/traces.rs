//! `alloc_traces` and `free_traces`: tracks added up by call site.

use kmem_core::cache::CacheRef;
use kmem_core::config::{KernelConfig, UserConfig};
use kmem_core::debug::track::TICK;
use kmem_core::debug::{OnError, Which};
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::classes::Kind;
use kmem_core::platform::Platform;
use kmem_sim::Machine;

use crate::rig::{Bad, FZPU, Rig, U, Z};

fn traces(bad: &Bad, which: Which) -> String {
    let mut text = String::new();
    // SAFETY: the cache is alive.
    unsafe { bad.rig.heap.write_traces(bad.cache, which, &mut text) }.expect("a String takes all");
    text
}

#[test]
fn records_are_added_up_and_sorted() {
    let bad = Bad::with("traced", 64, U);
    let machine = &bad.rig.machine;
    let mut objects = Vec::new();
    for (site, count) in [("rare+0x1/0x2", 1), ("often+0x1/0x2", 30), ("some+0x1/0x2", 5)] {
        machine.set_calls(&[site, "main+0x10/0x20"]);
        objects.extend((0..count).map(|_| bad.rig.alloc(bad.cache, Gfp::KERNEL)));
    }
    machine.set_calls(&["rare+0x1/0x2", "other+0x10/0x20"]);
    objects.push(bad.rig.alloc(bad.cache, Gfp::KERNEL));
    let pid = Platform::lock_token(machine);
    let text = traces(&bad, Which::Alloc);
    let record = |count: usize, site: &str, below: &str| {
        format!("{count:>7} {site} age=0 pid={pid}\n        {site}\n        {below}\n\n")
    };
    let (often, some) =
        (record(30, "often+0x1/0x2", "main+0x10/0x20"), record(5, "some+0x1/0x2", "main+0x10/0x20"));
    assert!(text.starts_with(&(often + &some)), "{text}");
    assert!(text.contains(&record(1, "rare+0x1/0x2", "main+0x10/0x20")), "{text}");
    assert!(text.contains(&record(1, "rare+0x1/0x2", "other+0x10/0x20")), "{text}");
    assert_eq!(text.matches("age=").count(), 4);
    // Frees show for objects that are in use again; of the others nobody knows one.
    let unknown = |count: usize, text: &str| text.starts_with(&format!("{count:>7} <not-available> age="));
    let text = traces(&bad, Which::Free);
    assert!(unknown(37, &text) && text.matches("age=").count() == 1, "{text}");
    machine.set_calls(&["giver+0x1/0x2"]);
    let last = *objects.last().expect("one");
    assert_eq!(bad.rig.free(bad.cache, last), Ok(()));
    let text = traces(&bad, Which::Free);
    assert!(unknown(36, &text) && text.matches("age=").count() == 1, "{text}");
    assert_eq!(bad.rig.alloc(bad.cache, Gfp::KERNEL), last);
    let text = traces(&bad, Which::Free);
    assert!(unknown(36, &text) && text.matches("age=").count() == 2, "{text}");
    assert!(text.contains("\n      1 giver+0x1/0x2 age=0"), "{text}");
    assert_eq!(bad.rig.heap.debug().stacks.len(), 5);
}

/// What the files of a running Linux 6.1 had for a cache of 21 objects that were never freed, two stacks, and one CPU. `PID` stands for the
/// thread, `NEVER` for the age of what never was.
const CAPTURED_ALLOC: &str = "     20 sl_alloc_site+0xa/0xff9 [sl_bad] age=39/39/39 pid=PID
        sl_alloc_site+0xa/0xff9 [sl_bad]
        0xffffffffa0005979
        do_one_initcall+0x4b/0x180
        do_init_module+0x45/0x1b0
        __do_sys_finit_module+0x8d/0xc0
        do_syscall_64+0x2b/0x50
        entry_SYSCALL_64_after_hwframe+0x4b/0xb5

      1 sl_alloc_site+0xa/0xff9 [sl_bad] age=39 pid=PID
        sl_alloc_site+0xa/0xff9 [sl_bad]
        0xffffffffa000547c
        do_one_initcall+0x4b/0x180
        do_init_module+0x45/0x1b0
        __do_sys_finit_module+0x8d/0xc0
        do_syscall_64+0x2b/0x50
        entry_SYSCALL_64_after_hwframe+0x4b/0xb5

";
const CAPTURED_FREE: &str = "     21 <not-available> age=NEVER pid=0\n";

#[test]
fn the_captured_files_come_out_again() {
    let bad = Bad::with("bad_keep", 56, FZPU);
    let machine = &bad.rig.machine;
    // The records' frames, as calls.
    for record in CAPTURED_ALLOC.split_terminator("\n\n") {
        let (count, frames) = record.split_once(" sl_alloc_site").expect("a record");
        let frames: Vec<&'static str> = frames.lines().skip(1).map(str::trim_start).collect();
        machine.set_calls(&frames);
        for _ in 0..count.trim().parse().expect("a number") {
            bad.rig.alloc(bad.cache, Gfp::KERNEL);
        }
    }
    machine.advance(39 * TICK);
    let platform = |text: &str| {
        let (pid, now) = (Platform::lock_token(machine), Platform::now(machine) / TICK);
        text.replace("PID", &pid.to_string()).replace("NEVER", &now.to_string())
    };
    assert_eq!(traces(&bad, Which::Alloc), platform(CAPTURED_ALLOC));
    assert_eq!(traces(&bad, Which::Free), platform(CAPTURED_FREE));
}

#[test]
fn full_slabs_are_counted_too() {
    let bad = Bad::with("traced", 2000, U);
    let objects: Vec<_> = (0..200).map(|_| bad.alloc()).collect();
    assert!(traces(&bad, Which::Alloc).starts_with("    200 sl_alloc_site+0xa/0xff9 [sl_bad] "));
    objects.into_iter().for_each(|object| bad.free(object));
    assert_eq!(traces(&bad, Which::Alloc), "No data\n");
}

/// More call sites than the first table has room for.
#[test]
fn the_table_grows() {
    let bad = Bad::with("traced", 64, U);
    for i in 0..2000 {
        let site: &'static str = Box::leak(format!("site_{i}+0x1/0x2").into_boxed_str());
        bad.rig.machine.set_calls(&[site]);
        bad.rig.alloc(bad.cache, Gfp::KERNEL);
    }
    assert_eq!(traces(&bad, Which::Alloc).matches("age=").count(), 2000);
}

#[test]
fn without_tracks_there_is_no_data() {
    let bad = Bad::with("untraced", 64, Z);
    bad.alloc();
    assert_eq!(traces(&bad, Which::Alloc), "No data\n");
    let rig = Rig::<KernelConfig>::new();
    let plain = rig.cache("plain", 64);
    rig.take(plain, 3);
    let mut text = String::new();
    // SAFETY: the cache is alive.
    unsafe { rig.heap.write_traces(plain, Which::Alloc, &mut text) }.expect("a String takes all");
    assert_eq!(text, "No data\n");
}

#[test]
fn a_platform_without_stacks_says_so() {
    let bad = Bad::with("traced", 64, FZPU);
    bad.rig.machine.set_calls(&[]);
    let object = bad.rig.alloc(bad.cache, Gfp::KERNEL);
    assert!(traces(&bad, Which::Alloc).starts_with("      1 <not-available> age=0 pid="));
    crate::rig::poke(object, 64, 1);
    assert_eq!(bad.rig.free(bad.cache, object), Ok(()));
    let said = bad.rig.said();
    assert!(said.contains("Allocated in <not-available> age=0 cpu=0 pid="), "{said}");
    assert!(said.contains("object allocation/free stack trace missing"), "{said}");
}

/// What a class of kmalloc wastes, and CPUs and nodes of a larger machine.
#[test]
fn waste_cpus_and_nodes() {
    let rig = Rig::<UserConfig>::raw(Machine::builder().cpus(4).nodes(2).build());
    assert!(rig.heap.set_debug_options("U"));
    assert!(rig.init());
    rig.heap.debug().set_on_error(OnError::Warn);
    rig.machine.set_calls(&["asker+0x1/0x2"]);
    for cpu in [0, 1, 3] {
        rig.machine.on_cpu(cpu, || rig.kmalloc(1000));
    }
    let class = (0..kmem_core::kmalloc::MAX_CLASSES)
        .filter_map(|index| rig.heap.kmalloc_cache(Kind::Normal, index))
        .find(|cache| cache.object_size() == 1024)
        .expect("a class of 1024");
    let mut text = String::new();
    // SAFETY: classes live as long as the heap.
    unsafe { rig.heap.write_traces(CacheRef::new(class), Which::Alloc, &mut text) }
        .expect("a String takes all");
    assert!(text.starts_with("      3 asker+0x1/0x2 waste=72/24 age=0 pid="), "{text}");
    assert!(text.contains(" cpus=0-1,3 nodes=0-1\n"), "{text}");
}
