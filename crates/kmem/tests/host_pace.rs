//! How long an operation takes, beside two calls that do nothing. Prints; asserts only what no machine
//! and no load excuses. Meaningful with `--release -- --nocapture`.

#[path = "host/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::Instant;

use kmem_core::percpu::{CpuArea, Pushed};
use kmem_core::platform::Platform;
use support::{ID, Rig, host};

const TURNS: usize = 10_000;

/// The best of many runs, in nanoseconds a turn: what disturbs a run only makes it longer.
fn best(mut run: impl FnMut()) -> f64 {
    (0..100)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_nanos() as f64 / TURNS as f64
        })
        .fold(f64::MAX, f64::min)
}

#[inline(never)]
fn nothing(object: *mut u8) -> *mut u8 {
    black_box(object)
}

#[test]
fn pace() {
    let host = host(false);
    let rig = Rig::new(host, ID, 64);
    let area = host.cpu_area();
    let calls = best(|| {
        for i in 0..TURNS {
            nothing(nothing(i as *mut u8));
        }
    });
    let pairs = best(|| {
        for _ in 0..TURNS {
            // SAFETY: a published number with arrays.
            unsafe {
                let object = area.pop(ID);
                if !object.is_null() {
                    assert_eq!(area.push(ID, object), Pushed::Done);
                }
            }
        }
    });
    let mut batch = [std::ptr::null_mut(); 32];
    let batches = best(|| {
        for _ in 0..TURNS / 32 {
            // SAFETY: as above.
            unsafe {
                let count = area.pop_many(ID, &mut batch);
                assert_eq!(area.push_many(ID, &batch[..count]), count);
            }
        }
    });
    assert_eq!(rig.count(), rig.objects());
    println!(
        "{:?}: two empty calls {calls:.2} ns, pop and push {pairs:.2} ns, in batches of 32 {batches:.2} ns each",
        host.cpus_layer().ownership()
    );
    // A system call in every operation would cost this much; no lock and no scheduler does.
    assert!(pairs < 2_000.0, "an operation that should take nanoseconds took {pairs:.0}");
}
