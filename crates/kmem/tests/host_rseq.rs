//! The CPU layer with restartable sequences, as the system offers them.
//!
//! Where it offers none (an old kernel, valgrind) the same tests run on slots, and say so.

#[path = "host/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use kmem::host::Ownership;
use kmem_core::percpu::{CpuArea, HOT_STRIDE, Pushed, empty};
use kmem_core::platform::Platform;
use support::{ID, Rig, host};

/// What the C library says about this very thread.
fn registered() -> bool {
    // SAFETY: a lookup by name; both symbols are constants when they exist.
    unsafe {
        let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()).cast::<u32>();
        !size.is_null() && *size != 0
    }
}

#[test]
fn sequences_are_used_where_they_exist() {
    let host = host(false);
    let wanted = if registered() { Ownership::Rseq } else { Ownership::Portable };
    assert_eq!(host.cpus_layer().ownership(), wanted);
    if wanted == Ownership::Portable {
        eprintln!("this system registers no thread for restartable sequences: testing slots");
    }
    assert!(host.cpus() >= 2);
}

#[test]
fn no_object_has_two_owners() {
    support::stress(&Rig::new(host(false), ID, 256), 16, 500_000);
}

#[test]
fn stacks_can_be_seized_under_fire() {
    support::stress_under_seizure(&Rig::new(host(false), ID, 256), 3, 60_000);
}

#[test]
fn signal_handlers_may_interrupt_anything() {
    support::signal_storm(host(false), 3, 1000);
}

#[test]
fn children_of_a_fork_find_sound_stacks() {
    support::fork_under_fire(&Rig::new(host(false), ID, 256), 4, 60);
}

#[test]
fn the_four_operations_and_their_ends() {
    let host = host(false);
    let rig = Rig::new(host, ID, 8);
    let area = host.cpu_area();
    let everything = (0..host.cpus()).map(|cpu| rig.seize(cpu, 1)).collect::<Vec<_>>().concat();
    everything.iter().for_each(|&object| rig.give(object, 1));
    // No array anywhere: empty and full at once.
    // SAFETY: the number is published; nobody else uses it.
    unsafe {
        assert!(area.pop(ID).is_null());
        assert_eq!(area.push(ID, everything[0]), Pushed::Full);
        assert_eq!(area.pop_many(ID, &mut [std::ptr::null_mut(); 4]), 0);
        assert_eq!(area.push_many(ID, &everything), 0);
        for cpu in 0..host.cpus() {
            assert_eq!(area.seize(cpu, ID), empty());
            rig.put_back(cpu, 0);
        }
    }
    // One operation after another on one CPU: migration in between would look like a lost object.
    pinned(|| {
        // SAFETY: as above.
        unsafe {
            assert_eq!(area.push_many(ID, &everything[..3]), 3);
            assert_eq!(area.push(ID, everything[2]), Pushed::Double);
            assert_eq!(area.pop(ID), everything[2], "the last one pushed comes first");
            assert_eq!(area.push(ID, everything[3]), Pushed::Done);
            let mut out = [std::ptr::null_mut(); 8];
            assert_eq!(area.pop_many(ID, &mut out[..2]), 2);
            assert_eq!(out[..2], [everything[3], everything[1]]);
            assert_eq!(area.pop_many(ID, &mut out), 1);
            assert_eq!(out[0], everything[0]);
            assert!(area.pop(ID).is_null());
            // To the brim, and not beyond.
            assert_eq!(area.push_many(ID, &everything), 8);
            assert_eq!(area.push_many(ID, &everything), 0);
            assert_eq!(area.push(ID, everything[0]), Pushed::Full);
            assert_eq!(area.pop_many(ID, &mut out), 8);
            assert!(out.iter().eq(everything.iter().rev()));
        }
        let counted: u64 = (0..host.cpus()).map(|cpu| area.hot(cpu, ID).allocs.load(Ordering::Relaxed)).sum();
        assert_eq!(counted, 1, "pops are counted, batches are not");
    });
}

/// Runs on one CPU, whose concurrency number may still change: so retries until it did not.
fn pinned(work: impl FnOnce()) {
    // SAFETY: a mask of this thread's present CPU.
    unsafe {
        let mut mask: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut mask);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&mask), &mask), 0);
    }
    work();
}

#[test]
fn numbers_come_and_go() {
    let host = host(false);
    let area = host.cpu_area();
    // Beyond those made ready at the start.
    for id in [1, 63, 64, 255, 256, 4095] {
        area.publish(id);
        for cpu in 0..host.cpus() {
            assert_eq!(area.hot(cpu, id).top.load(Ordering::Relaxed), empty());
            let cold = area.cold(cpu, id).cast::<u64>();
            assert!(cold.addr().is_multiple_of(64));
            // SAFETY: this pair's memory; nobody else uses the number.
            unsafe {
                assert_eq!(cold.read(), 0);
                cold.add(15).write(7);
            }
            area.hot(cpu, id).allocs.store(3, Ordering::Relaxed);
        }
        // SAFETY: nothing is in flight.
        unsafe {
            assert!(area.pop(id).is_null());
            host.cpus_layer().retire(id);
        }
        for cpu in 0..host.cpus() {
            assert_eq!(area.hot(cpu, id).allocs.load(Ordering::Relaxed), 0);
            // SAFETY: as above.
            assert_eq!(unsafe { area.cold(cpu, id).cast::<u64>().add(15).read() }, 0);
        }
    }
    let distance = area.hot(1, 5) as *const _ as usize - area.hot(0, 5) as *const _ as usize;
    assert_eq!(distance, HOT_STRIDE);
}

/// Takes the calling thread's registration away, or gives it back.
#[cfg(target_arch = "x86_64")]
fn register(on: bool) -> bool {
    const UNREGISTER: i32 = 1;
    const SIGNATURE: u32 = 0x5305_3053;
    // SAFETY: the arguments the C library used for this thread's own area.
    unsafe {
        let offset = *libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()).cast::<isize>();
        let pointer: usize;
        std::arch::asm!("mov {}, fs:[0]", out(reg) pointer);
        let area = pointer.wrapping_add_signed(offset);
        let flags = if on { 0 } else { UNREGISTER };
        [32, 33, 28].into_iter().any(|len| libc::syscall(libc::SYS_rseq, area, len, flags, SIGNATURE) == 0)
    }
}

/// Threads that the kernel does not know share the process with threads that it does.
#[test]
#[cfg(target_arch = "x86_64")]
fn threads_without_registration_use_slots() {
    let host = host(false);
    if host.cpus_layer().ownership() == Ownership::Portable {
        return;
    }
    let rig = &Rig::new(host, ID, 256);
    let stop = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let strangers: Vec<_> = (1..=6)
            .map(|me| {
                scope.spawn(move || {
                    assert!(register(false), "could not unregister");
                    rig.worker(me, 100_000);
                    assert!(
                        host.current_cpu() >= host.cpus_layer().indexed(),
                        "a stranger sits on a real CPU"
                    );
                    // The C library may still come round to it.
                    assert!(register(true), "could not register again");
                    rig.worker(me, 100_000);
                    assert!(host.current_cpu() < host.cpus_layer().indexed(), "still treated as a stranger");
                })
            })
            .collect();
        for me in 11..15 {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) && !support::failed() {
                    rig.worker(me, 1000);
                    assert!(host.current_cpu() < host.cpus_layer().indexed());
                }
            });
        }
        for stranger in strangers {
            stranger.join().expect("a stranger");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(rig.count(), rig.objects());
}

#[test]
fn many_threads_come_and_go() {
    let rig = &Rig::new(host(false), ID, 64);
    for _ in 0..50 {
        std::thread::scope(|scope| {
            for me in 1..=20 {
                scope.spawn(move || rig.worker(me, 50));
            }
        });
    }
    assert_eq!(rig.count(), rig.objects());
}
