//! Models of the REST API, with the reference's field names.
//!
//! Every field has a zero value that means *absent* and is then not printed. A value that must be told from its
//! absence is an `Option`. Unknown fields are ignored on reading, so that either side may be the newer one; request
//! bodies that must be strict are checked by the server.
#![allow(missing_docs, reason = "fields are the reference's; each model says what it is")]

use std::collections::BTreeMap;

/// Says whether a field would print as its zero value.
pub(crate) fn zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Declares models: `field as "json-name": Type` per line.
macro_rules! models {
    ($($(#[$meta:meta])* $name:ident { $($field:ident as $json:literal: $ty:ty,)* })*) => { $(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $(#[serde(rename = $json, skip_serializing_if = "crate::models::zero")] pub $field: $ty,)*
        }
    )* };
}
/// Declares enumerations of strings; the first is the zero value.
macro_rules! texts {
    ($($(#[$meta:meta])* $name:ident { $first:ident = $first_json:literal, $($variant:ident = $json:literal,)* })*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            #[default] #[serde(rename = $first_json)] $first,
            $(#[serde(rename = $json)] $variant,)*
        }
        impl $name {
            /// The name on the wire and on the screen.
            pub const fn as_str(self) -> &'static str {
                match self { Self::$first => $first_json, $(Self::$variant => $json,)* }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    )* };
}

mod agent;
mod endpoint;
mod question;
mod service;

pub use agent::*;
pub use endpoint::*;
pub use question::*;
pub use service::*;

/// Labels as `source:key=value` text.
pub type Labels = Vec<String>;
/// Options by name.
pub type ConfigurationMap = BTreeMap<String, String>;

#[cfg(test)]
mod tests;
