//! The CPU operations keep their contract, on one thread against a model and on many.

use std::collections::HashMap;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use kmem_core::percpu::{COLD_SIZE, CpuArea, FULL, Pushed, StackId, empty, install, nothing};
use kmem_core::platform::Platform;
use kmem_sim::{Machine, Rng, STALE};

/// An array for a stack: sentinel, `capacity` entries, sentinel. Lives as long as the test program.
fn array(capacity: usize) -> &'static mut [*mut u8] {
    let mut words = vec![ptr::null_mut(); capacity + 2];
    words[0] = nothing();
    words[capacity + 1] = FULL;
    words.leak()
}

/// Gives this CPU an empty stack.
fn equip(machine: &Machine, cpu: usize, id: StackId, capacity: usize) -> *mut *mut u8 {
    if machine.cpu_area().hot(cpu, id).top.load(Ordering::Relaxed).is_null() {
        machine.cpu_area().publish(id);
    }
    let base = array(capacity)[1..].as_mut_ptr();
    // SAFETY: an array with sentinels that lives for ever.
    assert!(unsafe { install(machine.cpu_area().hot(cpu, id), base, 0) });
    base
}

fn object(number: usize) -> *mut u8 {
    (0x1000 + number * 16) as *mut u8
}

#[test]
fn without_a_stack_every_operation_declines() {
    let machine = Machine::builder().cpus(2).build();
    let cpus = machine.cpu_area();
    cpus.publish(5);
    for cpu in 0..2 {
        machine.set_cpu(cpu);
        // SAFETY: there are no objects, and the numbers have no stacks.
        unsafe {
            assert!(cpus.pop(5).is_null());
            assert_eq!(cpus.push(5, object(1)), Pushed::Full);
            assert_eq!(cpus.pop_many(5, &mut [ptr::null_mut(); 4]), 0);
            assert_eq!(cpus.push_many(5, &[object(1), object(2)]), 0);
            assert_eq!(cpus.seize(cpu, 5), empty());
        }
    }
    let counters = machine.counters();
    assert_eq!((counters.empty_pops, counters.full_pushes, counters.pops, counters.pushes), (2, 2, 0, 0));
    assert_eq!((counters.pop_batches, counters.push_batches, counters.seizes), (2, 2, 2));
}

#[test]
fn last_in_first_out_to_both_ends_and_a_double_is_seen() {
    let machine = Machine::builder().build();
    let cpus = machine.cpu_area();
    let base = equip(&machine, 0, 1, 3);
    // SAFETY: made-up objects that nobody follows; the stack is installed.
    unsafe {
        for i in 0..3 {
            assert_eq!(cpus.push(1, object(i)), Pushed::Done);
            assert_eq!(cpus.push(1, object(i)), Pushed::Double, "also when the stack is full");
        }
        assert_eq!(cpus.push(1, object(9)), Pushed::Full);
        assert_eq!([cpus.pop(1), cpus.pop(1), cpus.pop(1)], [object(2), object(1), object(0)]);
        assert!(cpus.pop(1).is_null());
        assert_eq!([*base.sub(1), *base, *base.add(2), *base.add(3)], [nothing(), STALE, STALE, FULL]);
    }
    assert_eq!(cpus.hot(0, 1).allocs.load(Ordering::Relaxed), 3);
}

#[test]
fn batches_keep_their_order() {
    let machine = Machine::builder().build();
    let cpus = machine.cpu_area();
    equip(&machine, 0, 1, 5);
    let objects: Vec<*mut u8> = (0..8).map(object).collect();
    // SAFETY: made-up objects that nobody follows; the stack is installed.
    unsafe {
        assert_eq!(cpus.push_many(1, &objects), 5);
        assert_eq!(cpus.push_many(1, &objects[5..]), 0);
        assert_eq!(cpus.pop(1), object(4), "the last of a batch comes first");
        let mut out = [ptr::null_mut(); 3];
        assert_eq!(cpus.pop_many(1, &mut out), 3);
        assert_eq!(out, [object(3), object(2), object(1)], "the topmost first");
        let mut out = [ptr::null_mut(); 3];
        assert_eq!(cpus.pop_many(1, &mut out), 1);
        assert_eq!(out[0], object(0));
    }
}

#[test]
fn seizing_takes_the_array_with_what_is_in_it() {
    let machine = Machine::builder().cpus(2).build();
    let cpus = machine.cpu_area();
    let base = equip(&machine, 1, 7, 4);
    // SAFETY: made-up objects that nobody follows; the stack is installed.
    unsafe {
        machine.on_cpu(1, || assert_eq!(cpus.push_many(7, &[object(1), object(2)]), 2));
        assert_eq!(cpus.seize(1, 7), base.add(2));
        assert_eq!([*base, *base.add(1)], [object(1), object(2)]);
        machine.on_cpu(1, || assert!(cpus.pop(7).is_null()));
    }
    // SAFETY: the array that was there before, with its two objects.
    assert!(unsafe { install(cpus.hot(1, 7), base, 2) }, "the place is free again");
    // SAFETY: as above.
    assert!(!unsafe { install(cpus.hot(1, 7), base, 2) }, "and now it is taken");
    // SAFETY: as above.
    machine.on_cpu(1, || assert_eq!(unsafe { cpus.pop(7) }, object(2)));
}

#[test]
fn hot_and_cold_places_are_apart_fixed_and_zero() {
    let machine = Machine::builder().cpus(3).build();
    let cpus = machine.cpu_area();
    let mut cold = Vec::new();
    for id in [1, 2, 77, 4095] {
        assert!((0..3).all(|cpu| cpus.hot(cpu, id).top.load(Ordering::Relaxed).is_null()));
        cpus.publish(id);
    }
    for cpu in 0..3 {
        for id in [1, 2, 77, 4095] {
            assert_eq!(cpus.hot(cpu, id).top.load(Ordering::Relaxed), empty());
            assert!(ptr::eq(cpus.hot(cpu, id), cpus.hot(cpu, id)));
            let place = cpus.cold(cpu, id);
            assert_eq!(place as usize % 64, 0);
            // SAFETY: cold memory is readable and of this size.
            let bytes = unsafe { std::slice::from_raw_parts_mut(place, COLD_SIZE) };
            assert!(bytes.iter().all(|&b| b == 0));
            bytes.fill(0xEE);
            cold.push(place as usize);
        }
    }
    cold.sort_unstable();
    assert!(cold.windows(2).all(|pair| pair[1] - pair[0] >= COLD_SIZE));
}

#[test]
#[should_panic(expected = "number 0 has no stacks")]
fn number_0_is_refused() {
    // SAFETY: refused before anything happens.
    unsafe { Machine::builder().build().cpu_area().pop(0) };
}

#[test]
#[should_panic(expected = "was not published")]
fn a_number_is_not_used_before_it_is_published() {
    // SAFETY: refused before anything happens.
    unsafe { Machine::builder().build().cpu_area().pop(3) };
}

#[test]
#[should_panic(expected = "still has a stack of its last owner")]
fn a_number_is_not_published_over_a_stack() {
    let machine = Machine::builder().cpus(2).build();
    equip(&machine, 1, 3, 4);
    machine.cpu_area().publish(3);
}

#[test]
fn a_number_can_be_published_again_after_its_stacks_were_seized() {
    let machine = Machine::builder().cpus(2).build();
    equip(&machine, 1, 3, 4);
    // SAFETY: nobody uses the stack.
    unsafe { machine.cpu_area().seize(1, 3) };
    machine.cpu_area().publish(3);
}

#[test]
#[should_panic(expected = "a stale entry below the top")]
fn a_reader_of_stale_entries_is_noticed() {
    let machine = Machine::builder().build();
    let cpus = machine.cpu_area();
    let base = equip(&machine, 0, 1, 2);
    // SAFETY: made-up objects that nobody follows.
    unsafe {
        cpus.push(1, object(1));
        cpus.pop(1);
        cpus.seize(0, 1);
        assert!(install(cpus.hot(0, 1), base, 1), "a length that is wrong");
        cpus.pop(1);
    }
}

/// Random operations on several CPUs with random migration against vectors: every object is in one place.
#[test]
fn random_operations_agree_with_a_model() {
    let machine = Machine::builder().cpus(4).seed(11).build();
    let cpus = machine.cpu_area();
    const IDS: [StackId; 2] = [3, 9];
    let mut bases = HashMap::new();
    let mut rng = Rng::new(42);
    for cpu in 0..4 {
        for id in IDS {
            bases.insert((cpu, id), equip(&machine, cpu, id, 10 + cpu * 3));
        }
    }
    machine.preempt_probability(0.3);
    // Which object is where is the model: the CPU of an operation is not known before, so look where it went.
    let mut mine: HashMap<StackId, Vec<*mut u8>> =
        IDS.iter().map(|&id| (id, (0..40).map(|i| object(usize::from(id) * 1000 + i)).collect())).collect();
    let total = |mine: &HashMap<StackId, Vec<*mut u8>>, id| {
        let stacked: usize = (0..4)
            .map(|cpu| {
                let top = cpus.hot(cpu, id).top.load(Ordering::Relaxed);
                // SAFETY: both pointers are into the stack's own array.
                unsafe { top.offset_from(bases[&(cpu, id)]) as usize }
            })
            .sum();
        stacked + mine[&id].len()
    };
    for step in 0..20_000 {
        let id = IDS[rng.below(2)];
        let held = mine.get_mut(&id).expect("a list");
        // SAFETY: made-up objects that nobody follows; each is pushed only while this test holds it.
        unsafe {
            match rng.below(4) {
                0 => {
                    let object = cpus.pop(id);
                    if !object.is_null() {
                        assert!(!held.contains(&object), "step {step}: {object:p} came twice");
                        held.push(object);
                    }
                }
                1 => {
                    if let Some(object) = held.pop()
                        && cpus.push(id, object) != Pushed::Done
                    {
                        held.push(object);
                    }
                }
                2 => {
                    let mut out = vec![ptr::null_mut(); rng.below(8)];
                    let count = cpus.pop_many(id, &mut out);
                    for object in &out[..count] {
                        assert!(!held.contains(object), "step {step}: {object:p} came twice");
                        held.push(*object);
                    }
                }
                _ => {
                    let batch = held.split_off(held.len() - rng.below(held.len() + 1).min(8));
                    let count = cpus.push_many(id, &batch);
                    held.extend(&batch[count..]);
                }
            }
        }
        if step % 500 == 0 {
            for id in IDS {
                assert_eq!(total(&mine, id), 40, "step {step}: an object was lost or doubled");
            }
        }
    }
    assert!(machine.counters().migrations > 1000);
}

/// Threads that share CPUs pass tokens through the stacks, while one thread keeps seizing: no token is in two hands.
#[test]
fn many_threads_never_own_one_object_twice() {
    const OBJECTS: usize = 64;
    const ID: StackId = 2;
    let rounds = if cfg!(debug_assertions) { 4_000 } else { 40_000 };
    let machine = Machine::builder().cpus(2).seed(3).build();
    machine.preempt_probability(0.2);
    let owners: Vec<AtomicUsize> = (0..OBJECTS).map(|_| AtomicUsize::new(0)).collect();
    let number = |object: *mut u8| (object as usize - 0x1000) / 16;
    let bases = [equip(&machine, 0, ID, OBJECTS) as usize, equip(&machine, 1, ID, OBJECTS) as usize];
    let all: Vec<*mut u8> = (0..OBJECTS).map(object).collect();
    // SAFETY: made-up objects that nobody follows.
    assert_eq!(unsafe { machine.cpu_area().push_many(ID, &all) }, OBJECTS);
    let take = |object: *mut u8, who: usize| {
        let before = owners[number(object)].swap(who, Ordering::Relaxed);
        assert_eq!(before, 0, "object {} belongs to {before} and was given to {who}", number(object));
    };
    let give = |object: *mut u8| owners[number(object)].store(0, Ordering::Relaxed);
    let held: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..=4)
            .map(|who| {
                let (machine, take, give) = (&machine, &take, &give);
                scope.spawn(move || {
                    let cpus = machine.cpu_area();
                    let mut mine: Vec<*mut u8> = Vec::new();
                    let mut rng = Rng::new(who as u64);
                    machine.set_cpu(who % 2);
                    for _ in 0..rounds {
                        // SAFETY: objects are pushed only by the thread that owns them.
                        unsafe {
                            if rng.chance(0.5) {
                                let object = cpus.pop(ID);
                                if !object.is_null() {
                                    take(object, who);
                                    mine.push(object);
                                }
                            } else if let Some(object) = mine.pop() {
                                give(object);
                                if cpus.push(ID, object) != Pushed::Done {
                                    take(object, who);
                                    mine.push(object);
                                }
                            }
                        }
                    }
                    mine.len()
                })
            })
            .collect();
        // Seize and put back, from this thread, over and over.
        for round in 0..rounds / 8 {
            let cpu = round % 2;
            // SAFETY: only this thread seizes.
            let top = unsafe { machine.cpu_area().seize(cpu, ID) };
            let base = bases[cpu] as *mut *mut u8;
            // SAFETY: both pointers are into this stack's array.
            let len = unsafe { top.offset_from(base) as usize };
            // SAFETY: the array that was seized, with what it held.
            assert!(unsafe { install(machine.cpu_area().hot(cpu, ID), base, len) });
        }
        workers.into_iter().map(|worker| worker.join().expect("a worker")).sum()
    });
    let mut stacked = 0;
    for (cpu, base) in bases.into_iter().enumerate() {
        let top = machine.cpu_area().hot(cpu, ID).top.load(Ordering::Relaxed);
        // SAFETY: both pointers are into this stack's array.
        stacked += unsafe { top.offset_from(base as *mut *mut u8) as usize };
    }
    assert_eq!(stacked + held, OBJECTS);
}
