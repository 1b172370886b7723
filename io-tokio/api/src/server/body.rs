//! Strict request bodies: bounded, known fields only, errors that name the field.

use axum::body::{Body, to_bytes};
use serde::de::DeserializeOwned;

use super::Reply;

/// A request body at most: a policy of ten thousand rules fits well.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// Reads a whole body.
pub(super) async fn read(body: Body) -> Result<Vec<u8>, Reply> {
    match to_bytes(body, BODY_BYTES_MAX).await {
        Ok(bytes) => Ok(bytes.into()),
        Err(why) => {
            Err(Reply::error(400, format!("the body cannot be read (at most {BODY_BYTES_MAX} bytes are taken): {why}")))
        }
    }
}

/// Decodes an object whose every field must be known.
pub(super) fn strict<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Reply> {
    // A list would be taken for the fields in order.
    match bytes.trim_ascii().first() {
        Some(b'{') => decode(bytes),
        Some(_) => Err(Reply::error(400, "bad request body: a JSON object is expected")),
        None => Err(Reply::error(400, "bad request body: it is empty; a JSON object is expected")),
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Reply> {
    let mut unknown: Vec<String> = Vec::new();
    let mut text = serde_json::Deserializer::from_slice(bytes);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut text, &mut track);
    let decoded: Result<T, _> = serde_ignored::deserialize(tracked, |path| {
        // One is enough for a message; a hostile body must not make a long list.
        if unknown.len() < 8 {
            unknown.push(path.to_string());
        }
    });
    let value = decoded.map_err(|why| {
        let path = track.path().to_string();
        let field = if path == "." { String::new() } else { format!("field {path}: ") };
        Reply::error(400, format!("bad request body: {field}{why}"))
    })?;
    text.end().map_err(|why| Reply::error(400, format!("bad request body: {why}")))?;
    match unknown.as_slice() {
        [] => Ok(value),
        [first, ..] => Err(Reply::error(
            400,
            format!("bad request body: unknown field {first}; remove it or check its spelling (names have hyphens)"),
        )),
    }
}

/// Decodes a list; no body at all stands for the empty one.
pub(super) fn optional<T: DeserializeOwned + Default>(bytes: &[u8]) -> Result<T, Reply> {
    if bytes.trim_ascii().is_empty() { Ok(T::default()) } else { decode(bytes) }
}
