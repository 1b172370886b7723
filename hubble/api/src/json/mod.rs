//! Protobuf JSON with the names of the `.proto` files: 64-bit integers as text, enums by name, RFC 3339 times.
//!
//! Lines are compact and escaped as the original's command line prints them (`<`, `>`, `&` as `\u003c` and so on), so
//! output can be compared byte for byte. Reading accepts both `snake_case` and `lowerCamelCase`.

mod mask;
mod read;
mod wellknown;
mod write;

pub use mask::{Mask, MaskError};
pub use read::{Error, ErrorKind, Reader, Unknown};
pub use write::Writer;

/// A protobuf message with a JSON form.
pub trait Message: Default {
    /// The full protobuf name, such as `flow.Flow`.
    const NAME: &'static str;
    /// Writes the message as one JSON value.
    fn write(&self, w: &mut Writer);
    /// Reads the value of one field. False when the message has no such field; the value is then unread.
    fn read_field(&mut self, key: &str, r: &mut Reader<'_>) -> Result<bool, Error>;
    /// Clears every field the mask does not name.
    fn retain(&mut self, mask: &Mask);
    /// What a mask finds under a field name.
    fn child(key: &str) -> Option<Child>;
    /// Reads one JSON value; an object unless the type has a form of its own.
    fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        let mut message = Self::default();
        r.object(Self::NAME, |key, r| message.read_field(key, r))?;
        Ok(message)
    }
}

/// A field as a mask sees it.
#[derive(Clone, Copy)]
pub enum Child {
    /// Scalars, lists and well-known types: a path ends here.
    Leaf,
    /// A message, and how to look up its fields.
    Message(fn(&str) -> Option<Child>),
}

/// The message as one line of JSON, without a line end.
pub fn to_string<M: Message>(message: &M) -> String {
    let mut w = Writer::new(String::new());
    message.write(&mut w);
    w.into_inner()
}

/// Appends the message as JSON to `out`.
pub fn append<M: Message>(message: &M, out: &mut String) {
    let mut w = Writer::new(std::mem::take(out));
    message.write(&mut w);
    *out = w.into_inner();
}

/// Reads exactly one message; unknown fields are errors.
pub fn from_str<M: Message>(text: &str) -> Result<M, Error> {
    read(text, Unknown::Reject)
}

/// Reads exactly one message, treating unknown fields as told.
pub fn read<M: Message>(text: &str, unknown: Unknown) -> Result<M, Error> {
    let mut r = Reader::new(text, unknown);
    let message = M::read(&mut r)?;
    r.end()?;
    Ok(message)
}

/// Reads any number of messages, one behind the other, separated by nothing but white space.
pub fn read_all<M: Message>(text: &str, unknown: Unknown) -> Result<Vec<M>, Error> {
    let mut r = Reader::new(text, unknown);
    let mut all = Vec::new();
    while !r.at_end() {
        all.push(M::read(&mut r)?);
    }
    Ok(all)
}

#[allow(unused_variables, clippy::all, clippy::pedantic)]
mod generated {
    use super::{Child, Error, Mask, Message, Reader, Writer};
    use crate::{flow, observer, peer, relay};
    include!(concat!(env!("OUT_DIR"), "/json.rs"));
}

#[cfg(test)]
mod tests;
