//! Cluster simulations with independent checkers.
