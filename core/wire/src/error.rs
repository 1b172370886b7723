//! Why bytes are not what they were taken for.

/// A header that cannot be read, or a buffer that cannot take one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Fewer bytes than the format needs.
    #[error("{what} needs {need} bytes, there are {have}")]
    Truncated {
        /// Format.
        what: &'static str,
        /// Bytes needed.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// A field holds what the format does not allow.
    #[error("{what}: {field} cannot be {value}")]
    Field {
        /// Format.
        what: &'static str,
        /// Field.
        field: &'static str,
        /// What it holds.
        value: u32,
    },
    /// The checksum does not fit the bytes.
    #[error("{what}: wrong checksum")]
    Checksum {
        /// Format.
        what: &'static str,
    },
}

/// The first `need` bytes, and the rest.
pub(crate) fn split<'a>(what: &'static str, bytes: &'a [u8], need: usize) -> Result<(&'a [u8], &'a [u8]), WireError> {
    bytes.split_at_checked(need).ok_or(WireError::Truncated { what, need, have: bytes.len() })
}

/// The first `N` bytes as an array, and the rest.
pub(crate) fn chunk<'a, const N: usize>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<(&'a [u8; N], &'a [u8]), WireError> {
    bytes.split_first_chunk().ok_or(WireError::Truncated { what, need: N, have: bytes.len() })
}

/// Room for `need` bytes to be written, and the rest.
pub(crate) fn room<'a>(
    what: &'static str,
    out: &'a mut [u8],
    need: usize,
) -> Result<(&'a mut [u8], &'a mut [u8]), WireError> {
    let have = out.len();
    out.split_at_mut_checked(need).ok_or(WireError::Truncated { what, need, have })
}
