//! CPUs that come and go.

use core::ptr::null_mut;

use kmem_core::platform::Platform;

use crate::Driver;
use crate::bench::{Bench, fill, is_filled};
use crate::failure::{Outcome, ensure, equal};

pub(super) fn a_dead_cpu_keeps_nothing<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    for size in [40, 700] {
        let cache = b.cache("mortal", size)?;
        let mut held = [null_mut(); 8];
        let mut objects = [null_mut(); 200];
        for round in 0..3 {
            for (cpu, held) in held.iter_mut().enumerate().take(b.cpus()) {
                b.go(cpu)?;
                b.take_all(cache, &mut objects)?;
                if round == 0 {
                    *held = b.take(cache)?;
                    fill(*held, size, cpu);
                }
                b.free_all(cache, &objects)?;
            }
            b.home();
            // What goes home on the way may stay with the CPU that does this, and which that is only some drivers know: twice.
            for _ in 0..2 {
                (0..b.faults().cpus()).for_each(|cpu| b.heap().cpu_dead(cpu));
            }
            let counts = b.counts(cache);
            equal!(counts.free_cpu, 0, "objects kept by CPUs that are gone");
            equal!(counts.in_use(), b.cpus().min(8) as u64, "objects in use");
        }
        b.heap().cpu_dead(usize::MAX);
        for (cpu, &object) in held.iter().enumerate().take(b.cpus()) {
            ensure!(is_filled(object, size, cpu), "an object of a CPU that is gone changed");
            // Where it returns to is alive again.
            b.go(cpu)?;
            b.free(cache, object)?;
        }
        b.home();
        b.destroy(cache)?;
    }
    Ok(())
}

pub(super) fn objects_are_freed_anywhere<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let cpus = b.cpus().min(8);
    for size in [8, 100, 2000, 70_000] {
        let cache = b.cache("wanderer", size)?;
        let mut objects = [null_mut(); 150];
        for round in 0..cpus {
            b.go(round)?;
            b.take_all(cache, &mut objects)?;
            for (i, &object) in objects.iter().enumerate() {
                fill(object, size.min(200), i);
            }
            for (i, &object) in objects.iter().enumerate() {
                b.go((round + i) % cpus)?;
                ensure!(is_filled(object, size.min(200), i), "object {i} was overwritten");
                b.free(cache, object)?;
            }
            equal!(b.in_use(cache), 0, "objects in use");
        }
        b.destroy(cache)?;
    }
    Ok(())
}
