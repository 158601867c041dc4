//! The gRPC codec of the services: prost messages, with small buffers.
//!
//! tonic allocates one buffer for each direction of a call and keeps it as long as the call is
//! open. Its default of 8 KiB costs 16 KiB for each connected agent, while a heartbeat is 12 bytes.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::BufferSettings;
use tonic_prost::ProstCodec;

/// The initial size of a buffer in bytes. It grows with its messages.
const BUFFER: usize = 512;
/// The size of encoded messages that are passed on together, in bytes: tonic's default.
const BATCH_BYTES: usize = 32 << 10;

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER, BATCH_BYTES)
}

/// The codec of messages `T` that are sent and `U` that are received.
#[derive(Debug, Clone)]
pub struct MessageCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for MessageCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for MessageCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as tonic::codec::Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as tonic::codec::Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(settings())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(settings())
    }
}
