//! Debug letters that a typed cache gets while a sheaf has slots of it.
//!
//! One test: there is one heap in a process, and it counts its errors.

use std::sync::Mutex;

use kmem::engine::Chosen;
use kmem::{Cache, KBox, heap};
use kmem_core::cache::Switched;
use kmem_core::debug::{Error, OnError};
use kmem_core::engine::Engine;
use kmem_core::flags::SlabFlags;

type Record = [u64; 6];

static RECORDS: Cache<Record> = Cache::with_flags("late_record", SlabFlags::NO_MERGE);
static OTHERS: Cache<Record> = Cache::with_flags("late_other", SlabFlags::NO_MERGE);

/// What was reported.
static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn told() -> Vec<String> {
    std::mem::take(&mut *TOLD.lock().expect("no panic"))
}

/// Writes the byte behind a value, as a program with a fault would.
fn write_behind(value: &mut Record) {
    // SAFETY: none; that is the point. Behind the value is the red zone of its slot, or the next object that nobody uses.
    unsafe { std::ptr::from_mut(value).add(1).cast::<u8>().write_volatile(7) };
}

/// So many objects at once, each from the sheaf, and back there.
fn through<'c>(sheaf: &mut kmem::Sheaf<'c, Record>, count: usize, change: impl Fn(&mut Record)) {
    let mut values: Vec<KBox<'c, Record>> =
        (0..count).map(|i| sheaf.alloc([i as u64; 6]).expect("memory")).collect();
    assert!(values.iter().enumerate().all(|(i, value)| **value == [i as u64; 6]));
    values.iter_mut().for_each(|value| change(value));
    values.into_iter().for_each(|value| sheaf.free(value));
}

#[test]
fn late_letters_reach_what_a_sheaf_has_at_hand() {
    let heap = heap::heap().expect("memory");
    heap.debug().set_on_error(OnError::Warn);
    heap.debug().set_quiet(true);
    heap.debug().set_hook(Some(|kind, cache, text| {
        if kind == Error::Bug {
            TOLD.lock().expect("no panic").push(format!("{cache}: {text}"));
        }
    }));
    TOLD.lock().expect("no panic").reserve(1000);
    let (mut sheaf, mut other) = (RECORDS.sheaf(), OTHERS.sheaf());
    through(&mut sheaf, 20, |_| {});
    through(&mut other, 20, |_| {});
    let kept = sheaf.len();
    // Only SLUB gives caches red zones while they are used; a hardened heap has no fast path to keep slots from.
    if Chosen::NAME != "slub" || heap::HARDENED {
        return;
    }
    assert!(kept > 0 && told().is_empty());

    // Letters for one of the two. What a sheaf has at hand stays at hand.
    let mut given = vec![];
    let mut tell = |cache: &Switched<'_>| given.push((cache.name.to_owned(), cache.result));
    static JOINED: &str = "FZU,late_record";
    heap.change_debug_options(JOINED, &JOINED, &mut tell);
    assert_eq!(given, [("late_record".to_owned(), Ok(()))]);
    assert_eq!(sheaf.len(), kept);
    // The sheaf is all the cache's use, and has slots enough: its owner's next free hears of it all the same.
    let one = sheaf.alloc([1; 6]).expect("at hand");
    sheaf.free(one);
    assert_eq!(sheaf.len(), kept - 1, "what is freed goes to the cache, the rest was changed for others");
    assert_eq!(RECORDS.counts().in_use(), (kept - 1) as u64);

    // No slot of it that is not checked.
    let left = sheaf.len();
    through(&mut sheaf, left, |_| {});
    assert_eq!((sheaf.len(), told()), (0, vec![]), "nothing wrong was done");
    sheaf.prefill(left).expect("memory");
    through(&mut sheaf, left, write_behind);
    let reports = told();
    assert_eq!(reports.len(), left, "{reports:?}");
    assert!(reports.iter().all(|report| report.contains("late_record")), "{reports:?}");

    // The other cache is as fast as before.
    through(&mut other, 20, |_| {});
    assert!(!other.is_empty() && told().is_empty());

    // Without letters nothing is looked at, but what is of checked slabs is kept by nobody: it is looked at when letters are back.
    let mut some: Vec<_> = (0..200).map(|i| RECORDS.alloc([i; 6]).expect("memory")).collect();
    let mut checked = some.pop().expect("there are some");
    static NONE: &str = "-,late_record";
    heap.change_debug_options(NONE, &NONE, &mut |_| {});
    drop(some);
    let some: Vec<_> = (0..200).map(|i| RECORDS.alloc([i; 6]).expect("memory")).collect();
    drop(some);
    let one = sheaf.alloc([1; 6]).expect("memory");
    sheaf.free(one);
    assert_eq!((sheaf.len(), told()), (0, vec![]));
    static CHECKS: &str = "F,late_record";
    heap.change_debug_options(CHECKS, &CHECKS, &mut |_| {});
    write_behind(&mut checked);
    sheaf.free(checked);
    assert_eq!((sheaf.len(), told().len()), (0, 1));
    drop((sheaf, other));
    // What was reported stays in use.
    assert_eq!((RECORDS.counts().in_use(), OTHERS.counts().in_use()), (left as u64 + 1, 0));
}
