//! Modules: what a kernel loads once it runs. There is one, the classic first lab of slab caches.

mod lab;

/// Runs every module. True when all went well.
pub(crate) fn run() -> bool {
    lab::run()
}
