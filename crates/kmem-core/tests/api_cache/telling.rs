//! Listings of caches whose writer works with the heap that is listed.

use std::fmt::{self, Write};

use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::platform::{BLOCK_PAGES, PAGE_SIZE};

use crate::support::{Cache, QUIET, Rig, for_each_config};

for_each_config! {
    a_listing_into_a_text_that_grows_in_the_heap
    each_cache_is_told_of_once_whatever_comes_and_goes
    a_visitor_never_waits_for_itself
}

crate::support::for_slob! {
    a_listing_into_a_text_that_grows_in_the_heap
    each_cache_is_told_of_once_whatever_comes_and_goes
}

/// A text in one block of the heap, resized at each write to the very byte; every size is the first of its class once.
struct Growing<'a, C: Config> {
    rig: &'a Rig<C>,
    block: *mut u8,
    len: usize,
}

impl<C: Config> Write for Growing<'_, C> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let longer = self.rig.kmalloc(self.len + text.len());
        // SAFETY: both blocks are in use and hold so many bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(self.block, longer, self.len);
            std::ptr::copy_nonoverlapping(text.as_ptr(), longer.add(self.len), text.len());
        }
        assert_eq!(self.rig.kfree(std::mem::replace(&mut self.block, longer)), Ok(()));
        self.len += text.len();
        Ok(())
    }
}

impl<C: Config> Growing<'_, C> {
    fn take(self) -> String {
        // SAFETY: so many bytes were written.
        let bytes = unsafe { std::slice::from_raw_parts(self.block, self.len) };
        let text = String::from_utf8(bytes.to_vec()).expect("what was written is text");
        assert_eq!(self.rig.kfree(self.block), Ok(()));
        text
    }
}

fn a_listing_into_a_text_that_grows_in_the_heap<C: Config>() {
    let rig = Rig::<C>::new();
    let caches: Vec<Cache<C>> = (0..100).map(|i| rig.cache(&format!("listed-{i}"), 40)).collect();
    let growing = || Growing { rig: &rig, block: rig.kmalloc(1), len: 0 };
    let mut slabinfo = growing();
    rig.heap.write_slabinfo(&mut slabinfo).expect("it takes everything");
    let mut report = growing();
    rig.heap.write_report(&mut report, 4, "sim").expect("it takes everything");
    let (slabinfo, report) = (slabinfo.take(), report.take());
    for text in [slabinfo, report] {
        assert!(text.len() > PAGE_SIZE, "it grew through many classes: {} bytes", text.len());
        for i in 0..caches.len() {
            assert_eq!(text.matches(&format!("listed-{i} ")).count(), 1, "{text}");
        }
    }
}

fn each_cache_is_told_of_once_whatever_comes_and_goes<C: Config>() {
    let rig = Rig::<C>::new();
    let mut caches: Vec<Cache<C>> = (0..20).map(|i| rig.cache(&format!("old-{i}"), 40)).collect();
    let (mut told, mut newer) = (Vec::new(), Vec::new());
    let result = rig.heap.tell_of_caches(
        |cache| cache.name().to_owned(),
        |name| {
            if name.starts_with("old-") {
                // A new one, and the one just told of goes, or the one that would be next but one.
                newer.push(rig.cache(&format!("new-{}", newer.len()), 40));
                let gone =
                    if told.len() % 3 == 0 { caches.len() - 1 } else { caches.len().saturating_sub(3) };
                assert_eq!(rig.destroy(caches.remove(gone)), Ok(true));
            }
            told.push(name);
            Ok(())
        },
    );
    assert_eq!(result, Ok(()));
    assert!(told.iter().all(|name| !name.starts_with("new-")), "they came after the listing: {told:?}");
    let mut once = told.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), told.len(), "{told:?}");
    assert!(told.iter().filter(|name| name.starts_with("old-")).count() >= 7, "{told:?}");
    let mut calls = 0;
    let stopped = rig.heap.tell_of_caches(
        |_| (),
        |()| {
            calls += 1;
            Err(fmt::Error)
        },
    );
    assert_eq!((stopped, calls), (Err(fmt::Error), 1));
}

/// A class that nobody used yet cannot be made while the caches are visited; the request fails, and soon.
fn a_visitor_never_waits_for_itself<C: Config>() {
    let rig = Rig::<C>::on(kmem_sim::Machine::builder().memory_per_node(4 * BLOCK_PAGES).build());
    let mut first = true;
    rig.heap.for_each_cache(|_| {
        if std::mem::take(&mut first) {
            for size in [16, 48, 200, 1000, 3000, 8000] {
                let block = rig.heap.kmalloc(size, QUIET);
                assert!(!block.is_null() || !C::EAGER, "where all classes are there, nothing fails");
                assert_eq!(rig.kfree(block), Ok(()));
            }
        }
    });
    let block = rig.heap.kmalloc(3000, Gfp::KERNEL);
    assert!(!block.is_null(), "and the class is made later");
    assert_eq!(rig.kfree(block), Ok(()));
}
