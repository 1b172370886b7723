//! The hubble command line.
