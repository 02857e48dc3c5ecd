//! The checks, by what they ask.

mod alignment;
mod bulk;
mod construction;
mod destruction;
mod failures;
mod hotplug;
mod kmalloc;
mod lab;
mod nodes;
mod resizing;
mod sharing;
mod walks;
mod zeroes;

use crate::failure::Outcome;
use crate::{Bench, Driver};

/// What a check needs that not every platform has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// To move between two CPUs.
    Cpus,
    /// Two nodes, each with a CPU to move to, on a platform that keeps their objects apart.
    Nodes,
}

impl Needs {
    /// Why a check with these needs cannot run here; nothing when it can.
    pub(crate) fn missing<D: Driver>(self, bench: &Bench<'_, D>) -> Option<&'static str> {
        use kmem_core::platform::Platform;
        let moves = || bench.driver.cpus() > 1 && bench.driver.move_to(1) && bench.driver.move_to(0);
        match self {
            Self::Nothing => None,
            Self::Cpus if moves() => None,
            Self::Cpus => Some("needs two CPUs to move between"),
            Self::Nodes => {
                let apart = <D::Platform as Platform>::NUMA && bench.nodes() > 1 && moves();
                let each = || (0..2).all(|node| bench.driver.cpu_of_node(node).is_some());
                (!(apart && each())).then_some("needs two nodes with CPUs")
            }
        }
    }
}

/// One entry of the table.
pub struct Check<D: Driver> {
    /// What is promised, as a name.
    pub name: &'static str,
    /// What the platform must have.
    pub needs: Needs,
    /// The heap cannot give back what this check makes it lose.
    pub leaves: bool,
    /// Looks whether it is so.
    pub run: fn(&Bench<'_, D>) -> Outcome,
}

/// Entries of the table: the name is the function's, behind that of its file.
macro_rules! table {
    ($($file:ident: $($check:ident $(needs $needs:ident)? $(and $leaves:ident)?),+;)+) => {
        &[$($(Check {
            name: concat!(stringify!($file), "::", stringify!($check)),
            needs: { let _needs = Needs::Nothing; $(let _needs = Needs::$needs;)? _needs },
            leaves: { let _leaves = false; $(let $leaves = true; let _leaves = $leaves;)? _leaves },
            run: $file::$check::<D>,
        },)+)+]
    };
}

impl<D: Driver> Check<D> {
    /// All checks.
    pub const ALL: &'static [Self] = table! {
        alignment:
            objects_have_the_alignment_asked_for,
            alignments_beyond_a_page,
            requests_that_are_refused,
            blocks_have_the_alignment_of_their_size,
            any_alignment_can_be_asked_of_a_block;
        construction:
            constructors_run_as_often_as_the_engine_says,
            constructed_state_outlives_a_free,
            constructors_win_over_zeroing,
            destructors_run_once_for_each_construction;
        zeroes:
            zeroed_objects_are_zero,
            zeroed_blocks_are_zero,
            grown_blocks_stay_zero;
        bulk:
            bulks_are_complete_and_distinct,
            bulks_are_all_or_nothing,
            bulks_of_any_cache_are_freed;
        kmalloc:
            nothing_has_an_address,
            too_much_is_refused,
            blocks_hold_what_ksize_says,
            wrong_frees_are_told,
            arrays_that_overflow_are_refused,
            mappings_serve_what_kmalloc_does_not;
        resizing:
            krealloc_keeps_what_fits,
            krealloc_of_and_to_nothing,
            krealloc_that_fails_leaves_the_block,
            reallocate_moves_to_shrink;
        destruction:
            empty_caches_are_destroyed,
            live_objects_are_told and leaves,
            own_caches_are_not_destroyed,
            names_and_numbers_come_back,
            shrinking_tells_what_is_left,
            trimming_gives_back;
        sharing:
            alike_caches_share,
            differing_caches_do_not_share,
            the_last_user_destroys;
        nodes:
            a_preferred_node_is_served needs Nodes,
            a_full_node_falls_back needs Nodes,
            objects_go_home needs Nodes;
        hotplug:
            a_dead_cpu_keeps_nothing needs Cpus,
            objects_are_freed_anywhere needs Cpus;
        failures:
            creation_at_every_point,
            many_creations_at_every_point,
            objects_at_every_point,
            bulks_at_every_point,
            blocks_at_every_point,
            resizing_at_every_point,
            zeroes_at_every_point;
        lab:
            a_fresh_cache_has_the_engines_order,
            what_was_freed_last_comes_first,
            observers_see_what_is_there;
        walks:
            a_walk_of_objects,
            a_walk_of_blocks,
            a_walk_over_all_cpus needs Cpus;
    };
}
