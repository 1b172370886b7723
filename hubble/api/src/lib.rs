//! The Hubble protobuf API.
