//! Answers.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;

/// An answer: a status of the reference's list and a JSON body, which may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// JSON text, or nothing.
    pub body: Vec<u8>,
}

impl Reply {
    /// A model.
    pub fn json<T: Serialize + ?Sized>(status: u16, model: &T) -> Self {
        match serde_json::to_vec(model) {
            Ok(body) => Self { status, body },
            // Only maps with keys that are no strings can do this; say so rather than panic.
            Err(why) => Self::error(500, format!("the answer cannot be written as JSON: {why}")),
        }
    }
    /// 200 with a model.
    pub fn ok<T: Serialize + ?Sized>(model: &T) -> Self {
        Self::json(200, model)
    }
    /// A status and no body.
    pub const fn empty(status: u16) -> Self {
        Self { status, body: Vec::new() }
    }
    /// A sentence saying what is wrong and what to do: the reference's `Error` model is a JSON string.
    pub fn error(status: u16, sentence: impl Into<String>) -> Self {
        let body = serde_json::to_vec(&sentence.into()).expect("a string is always JSON");
        Self { status, body }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response<Body> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        response
    }
}
