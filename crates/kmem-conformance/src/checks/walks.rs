//! Long random walks against a second book: see `crate::random`.

use crate::Driver;
use crate::bench::Bench;
use crate::failure::Outcome;
use crate::random::{Mix, walk};

pub(super) fn a_walk_of_objects<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    walk(b, Mix { objects: 95, cpus: 1 })
}

pub(super) fn a_walk_of_blocks<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    walk(b, Mix { objects: 10, cpus: 1 })
}

pub(super) fn a_walk_over_all_cpus<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    walk(b, Mix { objects: 60, cpus: b.cpus() })
}
