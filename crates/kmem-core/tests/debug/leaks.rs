//! Objects in use, grouped by the stack that allocated them; and how many reports are printed, and who decides.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use kmem_core::config::{KernelConfig, UserConfig};
use kmem_core::debug::leaks::{Class, Totals};
use kmem_core::debug::{Error, OnError};
use kmem_core::gfp::Gfp;
use kmem_sim::Machine;

use crate::rig::{Bad, FZPU, Rig, U, poke};

fn leaks(bad: &Bad, shown: &mut dyn FnMut(&[usize]) -> bool) -> (String, Totals) {
    let mut text = String::new();
    let totals = bad.rig.heap.write_leaks(shown, &mut text).expect("a String takes all").expect("memory");
    (text, totals)
}

#[test]
fn the_most_bytes_come_first() {
    let bad = Bad::with("leaky", 64, U);
    let larger = Bad::create(&bad.rig, "larger", 1000, U);
    let unseen = Bad::create(&bad.rig, "unseen", 64, FZPU.difference(U));
    let mut freed = Vec::new();
    for (site, cache, count) in [("few", bad.cache, 2), ("many", bad.cache, 9), ("large", larger, 1)] {
        let site: &'static str = Box::leak(format!("{site}+0x1/0x2").into_boxed_str());
        bad.rig.machine.set_calls(&[site, "main+0x3/0x4"]);
        (0..count).for_each(|_| assert!(!bad.rig.alloc(cache, Gfp::KERNEL).is_null()));
        freed.extend((0..3).map(|_| (cache, bad.rig.alloc(cache, Gfp::KERNEL))));
    }
    bad.rig.alloc(unseen, Gfp::KERNEL);
    for (cache, object) in freed {
        assert_eq!(bad.rig.free(cache, object), Ok(()));
    }
    // The same site in another cache is one place, with objects of two sizes.
    bad.rig.machine.set_calls(&["large+0x1/0x2", "main+0x3/0x4"]);
    bad.rig.alloc(bad.cache, Gfp::KERNEL);
    let (text, totals) = leaks(&bad, &mut |_| true);
    let group = |head: &str, site: &str| {
        format!("{head} bytes, allocated at\n        {site}+0x1/0x2\n        main+0x3/0x4\n\n")
    };
    let expected = group("1064 bytes in 2 objects of 64-1000", "large")
        + &group("576 bytes in 9 objects of 64", "many")
        + &group("128 bytes in 2 objects of 64", "few");
    assert_eq!(text, expected);
    let sums = Totals { groups: 3, objects: 13, bytes: 1768, ..Totals::default() };
    assert_eq!(totals, sums);

    // What nobody wants to see is counted.
    let mut nth = 0;
    let (text, totals) = leaks(&bad, &mut |frames| {
        assert_eq!(frames.len(), 2);
        nth += 1;
        nth != 2
    });
    assert!(!text.contains("many") && text.contains("few"), "{text}");
    let hidden = Totals {
        groups: 2,
        objects: 4,
        bytes: 1192,
        hidden_objects: 9,
        hidden_bytes: 576,
        ..Totals::default()
    };
    assert_eq!(totals, hidden);
}

#[test]
fn nothing_is_left_of_a_sound_program() {
    let bad = Bad::with("sound", 64, U);
    let object = bad.alloc();
    bad.free(object);
    assert_eq!(leaks(&bad, &mut |_| true), (String::new(), Totals::default()));
}

/// More stacks than the first table has room for.
#[test]
fn the_table_grows() {
    let bad = Bad::with("leaky", 64, U);
    for i in 0..3000 {
        let site: &'static str = Box::leak(format!("site_{i}+0x1/0x2").into_boxed_str());
        bad.rig.machine.set_calls(&[site]);
        bad.rig.alloc(bad.cache, Gfp::KERNEL);
    }
    let (text, totals) = leaks(&bad, &mut |_| true);
    assert_eq!((totals.groups, totals.objects, totals.bytes), (3000, 3000, 3000 * 64));
    assert_eq!(text.matches("64 bytes in 1 object of 64 bytes, allocated at\n").count(), 3000);
}

/// Classes of kmalloc note what was asked for.
#[test]
fn sizes_are_those_that_were_asked_for() {
    let rig = Rig::<UserConfig>::raw(Machine::builder().cpus(1).build());
    assert!(rig.heap.set_debug_options("U"));
    assert!(rig.init());
    rig.machine.set_calls(&["asker+0x1/0x2"]);
    for size in [1000, 1010, 17] {
        rig.kmalloc(size);
    }
    let mut text = String::new();
    let totals = rig.heap.write_leaks(&mut |_| true, &mut text).expect("a String").expect("memory");
    assert_eq!(text, "2027 bytes in 3 objects of 17-1010 bytes, allocated at\n        asker+0x1/0x2\n\n");
    assert_eq!((totals.objects, totals.bytes), (3, 2027));
}

#[test]
fn a_platform_without_stacks_says_so() {
    let bad = Bad::with("leaky", 64, U);
    bad.rig.machine.set_calls(&[]);
    bad.rig.alloc(bad.cache, Gfp::KERNEL);
    let (text, _) = leaks(&bad, &mut |frames| frames.is_empty());
    assert_eq!(text, "64 bytes in 1 object of 64 bytes, allocated at\n        <not-available>\n\n");
}

/// Damages an object and frees it: a report and two repairs.
fn err(bad: &Bad) {
    let object = bad.filled();
    poke(object, 56, 1);
    bad.free(object);
}

#[test]
fn reports_are_limited_and_counted() {
    let bad = Bad::new("noisy");
    bad.rig.heap.debug().limit.set(2, 1_000_000_000);
    (0..5).for_each(|_| err(&bad));
    let said = bad.rig.said();
    assert_eq!(said.matches("BUG noisy").count(), 2, "{said}");
    // What is done about a report that is not printed is done, and counted.
    assert_eq!((said.matches("FIX noisy").count(), bad.errors()), (4, 15), "{said}");
    assert_eq!(bad.rig.heap.debug().limit.suppressed(), 3);
    bad.rig.machine.advance(2_000_000_000);
    err(&bad);
    let said = bad.rig.said();
    assert!(said.starts_with("slab_bug: 3 callbacks suppressed\n====="), "{said}");
    assert_eq!(said.matches("BUG noisy").count(), 1, "{said}");
}

/// What has no report, because its cache is not checked, is limited as well, and shown to the hook.
#[test]
fn wrong_frees_of_unchecked_caches_are_limited_and_counted() {
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    let rig = Rig::<KernelConfig>::new();
    let [one, two] = [rig.cache("one", 64), rig.cache("two", 96)];
    rig.heap.debug().limit.set(2, 1_000_000_000);
    rig.heap.debug().set_hook(Some(|what, cache, _| {
        assert_eq!((what, cache), (Error::Warning, "two"));
        SEEN.fetch_add(1, Relaxed);
    }));
    for _ in 0..5 {
        let object = rig.alloc(one, Gfp::KERNEL);
        assert_eq!(rig.free(two, object), Ok(()));
    }
    let said = rig.said();
    assert_eq!(
        (said.lines().count(), said.matches("Wrong slab cache. two but object").count()),
        (2, 2),
        "{said}"
    );
    assert_eq!((rig.heap.debug().errors(), SEEN.load(Relaxed)), (5, 5));
    assert_eq!((rig.in_use(one), rig.in_use(two)), (0, 0), "all went home");
}

#[test]
fn a_function_decides_after_a_report() {
    let bad = Bad::new("judged");
    bad.rig.heap.debug().set_judge(|cache| if cache == "judged" { OnError::Warn } else { OnError::Abort });
    err(&bad);
    assert!(bad.rig.said().contains("FIX judged: Restoring"));
    let other = Bad::create(&bad.rig, "other", 56, FZPU);
    let object = bad.rig.alloc(other, Gfp::KERNEL);
    poke(object, 56, 1);
    let said = bad.rig.machine.expect_fatal(|| bad.rig.free(other, object));
    assert!(said.contains("BUG other") && !said.contains("FIX other"), "{said}");
}

/// What became of each object is somebody else's to know: groups are parted by it, and what can be reached is only added up.
#[test]
fn classes_part_the_groups() {
    let bad = Bad::with("parted", 64, U);
    bad.rig.machine.set_calls(&["site+0x1/0x2"]);
    let objects: Vec<usize> = (0..6).map(|_| bad.rig.alloc(bad.cache, Gfp::KERNEL).addr()).collect();
    let mut seen = Vec::new();
    bad.rig.heap.each_in_use(&mut |address, bytes| {
        assert_eq!(bytes, 64);
        seen.push(address);
    });
    seen.sort_unstable();
    let mut sorted = objects.clone();
    sorted.sort_unstable();
    assert_eq!(seen, sorted);
    let mut class_of = |object: usize| match objects.iter().position(|&known| known == object) {
        Some(0) => Class::Lost,
        Some(1 | 2) => Class::Indirect,
        Some(_) => Class::Reachable,
        None => unreachable!("an object of this cache"),
    };
    for reachable in [false, true] {
        let mut text = String::new();
        let found = bad.rig.heap.write_leaks_by(&mut class_of, &mut |_| true, reachable, &mut text);
        let group = |head: &str| format!("{head}, allocated at\n        site+0x1/0x2\n\n");
        let mut expected = group("64 bytes in 1 object of 64 bytes, definitely lost")
            + &group("128 bytes in 2 objects of 64 bytes, indirectly lost");
        if reachable {
            expected += &group("192 bytes in 3 objects of 64 bytes, still reachable");
        }
        assert_eq!(text, expected);
        let sums = Totals {
            groups: 2,
            objects: 3,
            bytes: 192,
            reachable_objects: 3,
            reachable_bytes: 192,
            ..Totals::default()
        };
        assert_eq!(found, Ok(Some(sums)));
    }
}
