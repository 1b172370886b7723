//! A simulated host that runs the packet pipeline on plain memory.
