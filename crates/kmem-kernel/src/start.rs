//! The first Rust function, and the order in which the kernel comes to life.

use crate::boot::{acpi, early, paging, pvh};
use crate::cpu::serial::{self, println};
use crate::cpu::{self, apic, segments, time};
use crate::platform::{self, OWNERSHIP, restart};
use crate::{heap, measure, module, selftest, smp};

/// Called by `entry.s` on the first CPU: `info` is what the loader left.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(info: usize) -> ! {
    serial::init();
    println!("kmem-kernel {}", env!("CARGO_PKG_VERSION"));
    // SAFETY: nothing was written outside the image yet.
    let told = unsafe { pvh::read(info) };
    println!("command line: {}", told.command_line());
    let machine = acpi::read(told.rsdp, apic::id());
    early::init(told, &machine);
    start_first_cpu(&machine);
    start_heap(&machine, told.option("slub_debug"));
    start_others();

    let mut passed = match told.option("test") {
        Some("none") => true,
        Some("panic") => panic!("asked for on the command line"),
        Some("fault") => fault(),
        Some("hang") => cpu::stop(),
        Some("reset") => cpu::triple_fault(),
        only => selftest::run(only, told.number("stress").unwrap_or(20_000)),
    };
    passed &= module::run();
    if let Some(only) = told.option("measure") {
        passed &= measure::run(only);
    }
    show();
    println!("verdict: {}", if passed { "passed" } else { "FAILED" });
    cpu::exit(passed)
}

/// The first CPU's block and tables: from here on exceptions are reported and interrupts work.
fn start_first_cpu(machine: &acpi::Machine) {
    let me = apic::id();
    let node_of = |apic| machine.cpus().iter().find(|cpu| cpu.apic == apic).map_or(0, |cpu| cpu.node);
    let number = smp::make(me, node_of(me));
    // SAFETY: once, by the first CPU; the block was made for it.
    unsafe {
        segments::init();
        smp::adopt(number);
    }
    smp::this().set_state(smp::State::Online);
    time::init();
    apic::init();
    // SAFETY: the tables are loaded; no lock is held.
    unsafe { cpu::unmask() };
}

/// The other CPUs' blocks, each on its node; all memory to the heap, then the heap itself.
fn start_heap(machine: &acpi::Machine, debug: Option<&'static str>) {
    paging::map_memory().expect("no memory for the direct map");
    for other in machine.cpus().iter().filter(|cpu| cpu.apic != apic::id()) {
        smp::make(other.apic, other.node);
    }
    platform::init(machine.nodes());
    let given = heap::with(|heap| {
        #[cfg(feature = "conformance")]
        heap.platform().set_loud(true);
        heap.pages().init(heap.platform());
        platform::give_memory(heap.platform(), heap.pages())
    });
    let given = given.unwrap_or_else(|error| panic!("the heap refuses memory: {error}"));
    println!("memory: {} KiB for the heap, {} CPUs, {} nodes", given * 4, smp::count(), machine.nodes());
    if let Some(options) = debug {
        heap::with(|heap| heap.set_debug_options(options));
    }
    // SAFETY: once, before anybody else knows the heap; it is a static.
    let started = heap::with(|heap| unsafe { heap.init() });
    assert!(started.is_ok(), "no memory for the heap's own start");
    heap::with(|heap| heap.banner());
    println!("CPU stacks: {OWNERSHIP}, {} pieces", restart::pieces());
}

/// Every other CPU.
fn start_others() {
    for number in 1..smp::count() {
        assert!(smp::start::start(number, None), "CPU {number} does not start");
    }
    println!("CPUs online: {}", smp::online());
}

/// A page fault, to see how one is reported.
fn fault() -> ! {
    // SAFETY: none: this address has no memory, and the access ends the kernel with a report.
    let value = unsafe { (0xffff_8000_dead_0000 as *const u64).read_volatile() };
    panic!("there is memory: {value:#x}")
}

/// What an observer would read of a running system.
fn show() {
    println!("\n--- slabinfo");
    serial::with(|out| {
        // The console takes everything.
        let _ = heap::with(|heap| heap.write_slabinfo(out));
    });
    println!("\n--- buddyinfo");
    serial::with(|out| {
        let _ = heap::with(|heap| heap.pages().buddyinfo(heap.platform(), out));
    });
}
