//! What benchmarks, and tests that count instead of measuring time, have in common.

pub mod counting;
pub mod documents;
