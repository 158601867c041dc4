//! The codec that adds a checksum to every message of the transport. Changes by the network or by a
//! faulty host are detected here, before they can become an entry or a vote.
//!
//! ```text
//! message    the protobuf message     CRC-32C u32 of it, little endian
//! ```
//! TCP's own checksum misses about one damaged segment in 65,536.

use std::marker::PhantomData;

use bytes::{Buf, BufMut};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tracing::warn;

const CHECKSUM_BYTES: usize = 4;

/// The codec of the generated client and server: `T` is sent, `U` is received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChecksumCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for ChecksumCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for ChecksumCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = CodecHalf<T>;
    type Decoder = CodecHalf<U>;

    fn encoder(&mut self) -> CodecHalf<T> {
        CodecHalf(PhantomData)
    }

    fn decoder(&mut self) -> CodecHalf<U> {
        CodecHalf(PhantomData)
    }
}

/// One direction of the codec.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CodecHalf<T>(PhantomData<T>);

impl<T: Message> Encoder for CodecHalf<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&seal(&message));
        Ok(())
    }
}

impl<U: Message + Default> Decoder for CodecHalf<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, sealed: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // Slices the message out of the received bytes without a copy.
        open(sealed.copy_to_bytes(sealed.remaining())).map(Some)
    }
}

fn seal(message: &impl Message) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(message.encoded_len() + CHECKSUM_BYTES);
    message
        .encode(&mut sealed)
        .expect("a vector grows as it must");
    let checksum = checksum(&sealed);
    sealed.put_u32_le(checksum);
    sealed
}

/// Returns the CRC-32C of `bytes`.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Logs and returns the error of a message that differs from what was sent.
pub(crate) fn damaged(what: &str) -> Status {
    let text = format!(
        "a message of another master was damaged on its way and is refused: {what}; if this comes again, look \
         for a host, link or proxy that changes what passes through it"
    );
    warn!("{text}");
    Status::data_loss(text)
}

fn open<U: Message + Default>(mut sealed: bytes::Bytes) -> Result<U, Status> {
    let Some(length) = sealed.len().checked_sub(CHECKSUM_BYTES) else {
        return Err(damaged("it is shorter than its checksum"));
    };
    let mut sent = sealed.split_off(length);
    if checksum(&sealed) != sent.get_u32_le() {
        return Err(damaged("its checksum is wrong"));
    }
    U::decode(sealed).map_err(|error| Status::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::wire::proto;

    fn message() -> proto::Vote {
        proto::Vote {
            term: 7,
            node: 3,
            committed: true,
        }
    }

    #[test]
    fn messages_round_trip_through_the_codec() {
        for message in [message(), proto::Vote::default()] {
            let sealed = seal(&message);
            assert_eq!(open::<proto::Vote>(sealed.into()).unwrap(), message);
        }
    }

    #[test]
    fn flipped_bits_and_truncations_are_rejected() {
        let sealed = seal(&message());
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let error = open::<proto::Vote>(changed.into()).unwrap_err();
            assert_eq!(error.code(), tonic::Code::DataLoss, "bit {bit}: {error}");
        }
        for length in 0..sealed.len() {
            let cut = sealed[..length].to_vec();
            assert!(open::<proto::Vote>(cut.into()).is_err(), "{length} bytes");
        }
    }
}
