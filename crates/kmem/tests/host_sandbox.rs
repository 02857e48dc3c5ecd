//! Seizing in a sandbox that came to forbid, after the start, what it needs.

#[path = "host/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use kmem::host::Ownership;
use kmem_core::percpu::{CpuArea, empty};
use kmem_core::platform::Platform;
use support::{ID, Rig, host};

/// From now on these system calls fail with EPERM, for the calling thread.
fn forbid(calls: &[libc::c_long]) {
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const FAIL: u32 = 0x0005_0000 | libc::EPERM as u32;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = vec![step(LOAD_NUMBER, 0, 0, 0)];
    for &call in calls {
        filter.push(step(JUMP_IF_EQUAL, 0, 1, call as u32));
        filter.push(step(RETURN, 0, 0, FAIL));
    }
    filter.push(step(RETURN, 0, 0, ALLOW));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: a filter for this thread only; the kernel copies it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

#[test]
fn without_the_barrier_the_seizer_visits_every_cpu() {
    let host = host(false);
    if host.cpus_layer().ownership() == Ownership::Portable {
        return;
    }
    // SAFETY: a mask of this thread.
    let mask = || unsafe {
        let mut mask: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of_val(&mask), &mut mask), 0);
        mask
    };
    let before = mask();
    let rig = Rig::new(host, ID, 256);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Workers that start before the filter does: it is inherited.
        let rig = &rig;
        let stop = &stop;
        for me in 1..=3 {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) && !support::failed() {
                    rig.worker(me, 1000);
                }
            });
        }
        forbid(&[libc::SYS_membarrier]);
        for _ in 0..3_000 {
            if support::failed() {
                break;
            }
            for cpu in 0..host.cpus() {
                let objects = rig.seize(cpu, 1000);
                objects.iter().for_each(|&object| rig.give(object, 1000));
                rig.put_back(cpu, objects.len());
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(rig.count(), rig.objects());
    // SAFETY: compares two masks.
    assert!(unsafe { libc::CPU_EQUAL(&before, &mask()) }, "the thread did not come home");
}

#[test]
fn without_anything_the_stack_stays() {
    let host = host(false);
    if host.cpus_layer().ownership() == Ownership::Portable {
        return;
    }
    let rig = Rig::new(host, ID, 64);
    forbid(&[libc::SYS_membarrier, libc::SYS_sched_setaffinity]);
    for cpu in 0..host.cpus_layer().indexed() {
        let word = &host.cpu_area().hot(cpu, ID).top;
        let top = word.load(Ordering::Relaxed);
        // SAFETY: the number is published.
        assert_eq!(unsafe { host.cpu_area().seize(cpu, ID) }, empty());
        assert_eq!(word.load(Ordering::Relaxed), top, "the stack of CPU {cpu} was lost");
    }
    rig.worker(1, 10_000);
}
