//! The hashes that spread flows over backends and name a flow in events. They are what [`wire::jhash`] says, where user
//! space finds them too.

pub use wire::jhash::{mix, seeded, tuple4, tuple6, two_rounds};
