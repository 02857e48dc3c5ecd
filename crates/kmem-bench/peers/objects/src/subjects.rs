//! The ways to make an object.

use std::alloc::{GlobalAlloc, Layout};
use std::mem::MaybeUninit;

use kmem::{Cache, KBox};

use crate::{Object, Subject, alone, shared};

/// Those that are linked in; `Box` is on the process's malloc.
pub const NAMES: [&str; 10] = [
    "kmem",
    "kmem global",
    "slab",
    "sharded-slab",
    "object-pool",
    "typed-arena",
    "rusty_alloc",
    "talc",
    "rlsf",
    "dlmalloc",
];

static CACHE: Cache<Object> = Cache::new("object");
static TALC: talc::TalcLock<spinning_top::RawSpinlock, talc::source::GlobalAllocSource<std::alloc::System>> =
    talc::TalcLock::new(talc::source::GlobalAllocSource::new(std::alloc::System));
static RLSF: rlsf::SmallGlobalTlsf = rlsf::SmallGlobalTlsf::new();

pub fn run(row: &str, subject: &str) -> Option<f64> {
    match subject {
        "kmem" => shared(row, || Typed),
        "kmem global" => shared(row, || Global(&kmem::Kmalloc)),
        "slab" => alone(row, slab::Slab::<Object>::new()),
        "sharded-slab" => {
            let slab = sharded_slab::Slab::new();
            shared(row, || Sharded(&slab))
        }
        "object-pool" => {
            let pool = object_pool::Pool::new(2048, || Object::uninit());
            shared(row, || Pool(&pool))
        }
        "typed-arena" => alone(row, Arena(typed_arena::Arena::new())),
        "Box" => shared(row, || Boxes),
        "rusty_alloc" => shared(row, || Global(&Rusty)),
        "talc" => shared(row, || Global(&TALC)),
        "rlsf" => shared(row, || Global(&RLSF)),
        "dlmalloc" => shared(row, || Global(&dlmalloc::GlobalDlmalloc)),
        _ => None,
    }
}

/// Writes a word of an object, as the rows of malloc do.
fn write(object: &mut Object) {
    // SAFETY: the first word lies within the object.
    unsafe { object.as_mut_ptr().cast::<u64>().write_volatile(1) };
}

struct Typed;

impl Subject for Typed {
    type Owned = KBox<'static, Object>;

    fn make(&mut self) -> Self::Owned {
        let mut object = CACHE.alloc(MaybeUninit::uninit()).expect("memory");
        write(&mut object);
        object
    }

    fn drop(&mut self, object: Self::Owned) {
        drop(object);
    }
}

struct Boxes;

impl Subject for Boxes {
    type Owned = Box<Object>;

    fn make(&mut self) -> Self::Owned {
        let mut object = Box::new(MaybeUninit::uninit());
        write(&mut object);
        object
    }

    fn drop(&mut self, object: Self::Owned) {
        drop(object);
    }
}

/// A global allocator, called as a box on it calls it.
struct Global<A: 'static>(&'static A);

impl<A: GlobalAlloc> Subject for Global<A> {
    type Owned = *mut Object;

    fn make(&mut self) -> Self::Owned {
        // SAFETY: the layout is not empty; the room is checked and nobody else's.
        unsafe {
            let object = self.0.alloc(Layout::new::<Object>()).cast::<Object>();
            assert!(!object.is_null());
            write(&mut *object);
            object
        }
    }

    fn drop(&mut self, object: Self::Owned) {
        // SAFETY: made here with this layout, dropped once.
        unsafe { self.0.dealloc(object.cast(), Layout::new::<Object>()) };
    }
}

/// rusty_alloc's functions, which its global allocator is made of.
struct Rusty;

// SAFETY: blocks are as long as was asked for and aligned to 16, which is all that is asked for here.
unsafe impl GlobalAlloc for Rusty {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        assert!(layout.align() <= 16);
        rusty_alloc::alloc::malloc(layout.size())
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller's promise.
        unsafe { rusty_alloc::alloc::free(block) };
    }
}

impl Subject for slab::Slab<Object> {
    type Owned = usize;

    fn make(&mut self) -> usize {
        let key = self.insert(MaybeUninit::uninit());
        write(&mut self[key]);
        key
    }

    fn drop(&mut self, object: usize) {
        let _ = self.remove(object);
    }
}

struct Sharded<'a>(&'a sharded_slab::Slab<Object>);

impl Subject for Sharded<'_> {
    type Owned = usize;

    fn make(&mut self) -> usize {
        let mut object = MaybeUninit::uninit();
        write(&mut object);
        self.0.insert(object).expect("room")
    }

    fn drop(&mut self, object: usize) {
        self.0.remove(object);
    }
}

struct Pool<'a>(&'a object_pool::Pool<Object>);

impl<'a> Subject for Pool<'a> {
    type Owned = object_pool::Reusable<'a, Object>;

    fn make(&mut self) -> Self::Owned {
        let mut object = self.0.pull(Object::uninit);
        write(&mut object);
        object
    }

    fn drop(&mut self, object: Self::Owned) {
        drop(object);
    }
}

/// Drops nothing until the batch is over.
struct Arena(typed_arena::Arena<Object>);

impl Subject for Arena {
    type Owned = *mut Object;

    fn make(&mut self) -> Self::Owned {
        let object = self.0.alloc(MaybeUninit::uninit());
        write(object);
        object
    }

    fn drop(&mut self, _: Self::Owned) {}

    fn end_of_batch(&mut self) {
        self.0 = typed_arena::Arena::with_capacity(crate::BATCH);
    }
}
