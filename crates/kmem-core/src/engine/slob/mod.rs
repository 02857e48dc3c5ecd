//! SLOB: first fit in pages that all sizes share, for the smallest machines.
