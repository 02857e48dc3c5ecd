//! The whole table in this process, for every engine and configuration, with restartable sequences where there are any:
//! one heap for all checks, one after the other, as on a machine that has no other.

mod common;

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use common::Job;
use kmem::host::{Host, Options};
use kmem_conformance::{Bench, Check, Driver, Faulty, run};
use kmem_core::Kmem;
use kmem_core::config::{Config, Hardened, Headed, KernelConfig, UserConfig};
use kmem_core::engine::slab::Slab;
use kmem_core::engine::slob::Slob;
use kmem_core::engine::slub::Slub;

/// The thread that is never moved, which so knows where this process may run.
static MAIN: AtomicI32 = AtomicI32::new(0);

/// A heap of its own, which stays: the host's areas are never given back.
struct OnHost<C: Config>(&'static Kmem<Faulty<Host>, C>);

impl<C: Config> OnHost<C> {
    fn new() -> Self {
        let heap: &'static Kmem<_, C> = Box::leak(Box::new(Kmem::new(Faulty::new(Host::new()))));
        let options = Options { window_pages: 1 << 20, guarded: C::WATCHED, ..Options::DEFAULT };
        // SAFETY: the host and its heap never move, and nobody else uses them yet.
        unsafe {
            heap.platform().inner().init(&options).expect("a process has memory");
            heap.init().expect("a process has memory");
        }
        // Or each shortage would fault its pages in anew.
        heap.pages().set_block_reserve(1);
        Self(heap)
    }
}

impl<C: Config> Driver for OnHost<C> {
    type Platform = Host;
    type Config = C;

    fn heap(&self) -> &Kmem<Faulty<Host>, C> {
        self.0
    }

    fn cpus(&self) -> usize {
        // SAFETY: as in `move_to`.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            if libc::sched_getaffinity(MAIN.load(Ordering::Relaxed), size_of::<libc::cpu_set_t>(), &mut set)
                != 0
            {
                return 1;
            }
            (0..1024).take_while(|&cpu| libc::CPU_ISSET(cpu, &set)).count().clamp(1, 8)
        }
    }

    fn move_to(&self, cpu: usize) -> bool {
        // SAFETY: a set of CPUs is plain bits; the call reads as many bytes as it is told.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            if cpu >= size_of::<libc::cpu_set_t>() * 8 {
                return false;
            }
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) == 0
        }
    }
}

fn jobs_of<C: Config>(engine: &str, jobs: &mut Vec<Job>) {
    let heap: Arc<Mutex<Option<OnHost<C>>>> = Arc::default();
    for check in Check::<OnHost<C>>::ALL {
        let heap = Arc::clone(&heap);
        jobs.push(Job {
            name: format!("{engine}::host::{}", check.name),
            walks: check.name.starts_with("walks::"),
            run: Box::new(move |steps| {
                let mut heap = heap.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                run(&Bench::new(heap.get_or_insert_with(OnHost::new), steps, 13), check)
            }),
        });
    }
}

fn main() {
    // SAFETY: always answers.
    MAIN.store(unsafe { libc::gettid() }, Ordering::Relaxed);
    let mut jobs = Vec::new();
    // One line for each engine and configuration.
    jobs_of::<KernelConfig<Slub>>("slub_kernel", &mut jobs);
    jobs_of::<UserConfig<Slub>>("slub_user", &mut jobs);
    jobs_of::<Headed>("slub_user_headed", &mut jobs);
    jobs_of::<Hardened<KernelConfig>>("slub_kernel_hardened", &mut jobs);
    jobs_of::<Hardened>("slub_user_hardened", &mut jobs);
    jobs_of::<KernelConfig<Slab>>("slab_kernel", &mut jobs);
    jobs_of::<UserConfig<Slab>>("slab_user", &mut jobs);
    jobs_of::<KernelConfig<Slob>>("slob_kernel", &mut jobs);
    jobs_of::<UserConfig<Slob>>("slob_user", &mut jobs);
    // One thread: a heap has one user at a time here.
    common::run(jobs, 1);
}
