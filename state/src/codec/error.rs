//! The errors of reading stored messages.

/// The reason why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A number does not end, or has more than 64 bits.
    #[error("invalid varint")]
    Varint,
    /// A field number is 0, or above the maximum of protobuf.
    #[error("invalid field number")]
    Key,
    /// A field has contents of a kind other than that of its definition.
    #[error("a field has the wrong wire type")]
    WireType,
    /// A field extends beyond its message.
    #[error("a field is truncated")]
    Truncated,
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Utf8,
    /// Unknown groups are nested too deeply, or do not end.
    #[error("an unknown group is nested too deeply or does not end")]
    Group,
}

/// The reason why a message cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodecError {
    /// The bytes are not a message.
    Malformed(WireError),
    /// This part of the message is missing, invalid, or of a newer release.
    Invalid(&'static str),
}

impl From<WireError> for CodecError {
    fn from(malformed: WireError) -> Self {
        Self::Malformed(malformed)
    }
}

pub(crate) type DecodeResult<T> = Result<T, CodecError>;
