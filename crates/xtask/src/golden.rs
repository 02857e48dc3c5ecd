//! placeholder
use crate::step::Count;
pub(crate) fn run(_arguments: &[String]) -> Count {
    Count::PASSED
}
