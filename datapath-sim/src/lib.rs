//! A simulated host: interfaces, routes, neighbours and maps, running the packet pipeline on plain memory.

pub mod map;
