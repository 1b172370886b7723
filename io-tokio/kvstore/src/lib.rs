//! The embedded key-value store.
