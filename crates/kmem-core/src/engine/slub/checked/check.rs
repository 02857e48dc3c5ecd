//! The checks themselves. Each answers whether things are good enough to go on; what it finds is reported and,
//! where possible, restored.

use core::sync::atomic::Ordering;

use crate::debug::pattern::{POISON_END, POISON_FREE, POISON_INUSE};
use crate::engine::slub::checked::Checked;
use crate::engine::slub::checked::layout::State;
use crate::engine::slub::checked::map::Map;
use crate::flags::SlabFlags;
use crate::page::Kind;
use crate::platform::Platform;

impl<P: Platform> Checked<'_, P> {
    /// The slab's own numbers, and the bytes behind its last slot.
    pub(super) fn check_slab(&self) -> bool {
        if self.slab.kind() != Kind::Slab {
            self.slab_error(format_args!("Not a valid slab page"));
            return false;
        }
        if self.isolated() {
            self.slab_error(format_args!("Slab disabled since SLUB metadata consistency check failed"));
            return false;
        }
        let (objects, most) = (usize::from(self.objects()), self.most_objects());
        if objects > most {
            self.slab_error(format_args!("objects {objects} > max {most}"));
            return false;
        }
        if usize::from(self.inuse()) > objects {
            self.slab_error(format_args!("inuse {} > max {objects}", self.inuse()));
            return false;
        }
        self.check_owner();
        self.check_tail();
        true
    }

    /// Who came by a list of the cache's, or by its slab, finds the slab there: so the descriptor must name the cache.
    fn check_owner(&self) {
        let (named, own) =
            (self.slab.cache.load(Ordering::Relaxed), core::ptr::from_ref(self.cache).cast_mut().cast());
        if named != own {
            self.slab_error(format_args!("Slab of another cache by the map of pages"));
            self.slab.cache.store(own, Ordering::Relaxed);
            self.report.fix(format_args!("Map of pages adjusted"));
        }
    }

    /// Objects that fit in the slab.
    fn most_objects(&self) -> usize {
        if self.exact_pages != 0 { self.geometry.objects } else { self.extent.len / self.geometry.size }
    }

    fn check_tail(&self) {
        // Not by the slab's own count: that may be what is damaged, and what is restored here must be nobody's object.
        let used = self.most_objects() * self.geometry.size;
        if !self.flags.contains(SlabFlags::POISON) || used >= self.extent.len {
            return;
        }
        let (start, len) = (self.extent.base + used, self.extent.len - used);
        let Some((first, last)) = self.others(start, len, POISON_INUSE) else { return };
        let offset = first - self.extent.base;
        self.report.bug(format_args!("Padding overwritten. {first:#018x}-{last:#018x} @offset={offset}"));
        self.slab_line();
        self.report.here();
        self.section("Padding ", start, len);
        self.report.found(self.report.abort);
        self.restore("slab padding", first, last, POISON_INUSE);
    }

    /// The bytes of a range around an object are all `value`.
    fn check_range(&self, object: usize, what: &str, start: usize, len: usize, value: u8) -> bool {
        let Some((first, last)) = self.others(start, len, value) else { return true };
        self.range_error(object, what, (first, last), value);
        self.restore(what, first, last, value);
        false
    }

    fn restore(&self, what: &str, first: usize, last: usize, value: u8) {
        self.report.fix(format_args!("Restoring {what} {first:#018x}-{last:#018x}={value:#x}"));
        // SAFETY: memory of this slab that no user may touch.
        unsafe { (first as *mut u8).write_bytes(value, last - first + 1) };
    }

    /// An object's surroundings, and its content where it is free, are as this state leaves them.
    pub(super) fn check_object(&self, object: usize, state: State) -> bool {
        let geometry = self.geometry;
        let end = object + geometry.object_size;
        let right = geometry.inuse - geometry.object_size;
        if self.flags.contains(SlabFlags::RED_ZONE) {
            let left = geometry.red_left_pad;
            if !self.check_range(object, "Left Redzone", object - left, left, state.red())
                || !self.check_range(object, "Right Redzone", end, right, state.red())
            {
                return false;
            }
            if state == State::Used && self.guards_slack() {
                let asked = self.size(object);
                let slack = geometry.object_size - asked;
                if !self.check_range(object, "kmalloc Redzone", object + asked, slack, state.red()) {
                    return false;
                }
            }
        } else if self.flags.contains(SlabFlags::POISON) {
            // What it finds is restored, and does no harm to the object.
            self.check_range(object, "Alignment padding", end, right, POISON_INUSE);
        }
        if self.flags.contains(SlabFlags::POISON) {
            let poisoned = state == State::Free && self.flags.contains(SlabFlags::OBJECT_POISON);
            if poisoned
                && (!self.check_range(object, "Poison", object, geometry.object_size - 1, POISON_FREE)
                    || !self.check_range(object, "End Poison", end - 1, 1, POISON_END))
            {
                return false;
            }
            let padding = geometry.slot_end() - geometry.metadata_end;
            self.check_range(object, "Object padding", object + geometry.metadata_end, padding, POISON_INUSE);
        }
        if !geometry.freeptr_outside() && state == State::Used {
            // The user's bytes lie where the link would.
            return true;
        }
        let next = self.next(object);
        if next != 0 && !self.is_object(next) {
            self.object_error(object, format_args!("Freepointer corrupt"));
            // The chain ends here now: what hung on it is lost, until the objects are counted.
            // SAFETY: the link lies outside the object, or the object is free.
            unsafe { self.set_next(object, 0) };
            return false;
        }
        true
    }

    /// True when `wanted` is on the slab's chain of free objects. With nothing wanted: walks all of the chain,
    /// compares the counts, and is true unless the chain cannot be walked at all.
    pub(super) fn on_freelist(&self, wanted: Option<usize>) -> bool {
        let objects = self.objects();
        let mut next = self.head();
        let mut last = 0;
        let mut found: u16 = 0;
        while next != 0 && found <= objects {
            if wanted == Some(next) {
                return true;
            }
            if !self.is_object(next) {
                if last == 0 {
                    self.slab_error(format_args!("Freepointer corrupt"));
                    self.clear_list();
                    return false;
                }
                self.object_error(last, format_args!("Freechain corrupt"));
                // SAFETY: a free object of this slab.
                unsafe { self.set_next(last, 0) };
                break;
            }
            last = next;
            next = self.next(last);
            found += 1;
        }
        if found > objects {
            self.object_error(last, format_args!("Freelist cycle detected"));
            self.clear_list();
            return false;
        }
        let right = self.whole_objects();
        if objects != right {
            self.slab_error(format_args!("Wrong number of objects. Found {objects} but should be {right}"));
            self.slab.objects.store(right, Ordering::Relaxed);
            self.report.fix(format_args!("Number of objects adjusted"));
        }
        let counted = self.objects().saturating_sub(found);
        if self.inuse() != counted {
            let inuse = self.inuse();
            self.slab_error(format_args!(
                "Wrong object count. Counter is {inuse} but counted were {counted}"
            ));
            self.set(self.head(), counted, self.isolated());
            self.report.fix(format_args!("Object count adjusted"));
            // The map of a slab is too much for a handler's stack.
            self.report.platform.with_room(|| self.adopt_lost());
        }
        wanted.is_none()
    }

    /// Nobody can tell which objects are free: the slab is given up.
    fn clear_list(&self) {
        self.set(0, self.objects(), true);
        self.report.fix(format_args!("Freelist cleared"));
    }

    /// Free objects that no chain leads to any more count as used from now on: they look so too, or each later
    /// check would find one of them.
    #[inline(never)]
    fn adopt_lost(&self) {
        if !self.flags.contains(SlabFlags::RED_ZONE) {
            return;
        }
        let free = Map::of(self);
        for index in (0..usize::from(self.objects())).filter(|&index| !free.has(index)) {
            let object = self.object(index);
            let left = self.geometry.red_left_pad;
            if self.others(object - left, left, State::Free.red()).is_none() {
                // SAFETY: a lost object is nobody's.
                unsafe { self.mark(object, State::Used) };
            }
        }
    }

    /// Objects that the slab was made with.
    fn whole_objects(&self) -> u16 {
        let preferred = self.extent.len == crate::platform::PAGE_SIZE << self.geometry.order;
        let exact = self.exact_pages != 0;
        (if preferred || exact { self.geometry.objects } else { self.geometry.min_objects }) as u16
    }
}
