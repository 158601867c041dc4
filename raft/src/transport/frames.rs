//! Frames on a plain connection: the encoding of appends between masters that both support it.
//!
//! ```text
//! greeting   24 bytes, once, from either end
//! frame      length u32 of what follows, kind u8, protobuf message, CRC-32C u32 of kind and
//!            message; little endian
//! ```
//! One request is in flight on a connection at a time, so an append needs no feature of HTTP/2, and
//! HTTP/2 costs several tasks for each message. Masters report whether they support frames
//! (`versions`). A master that does not, such as one of release 0.1.0, or that does not answer the
//! greeting, gets appends over HTTP/2. Either end closes the connection at the first unexpected
//! message. Reading order: this file, then `pool` (the calling end) and `port::frames` (the serving
//! end).

pub(crate) mod pool;
#[cfg(test)]
mod tests;

use std::io;

use argosy_proto::transport::Connection;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::FutureExt as _;
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Code, Status};

use super::codec;
use super::wire::{self, proto};

/// As long as the preface of HTTP/2, and not the start of a request of HTTP/1: a server that does
/// not know it rejects it immediately.
pub(crate) const GREETING: &[u8; 24] = b"\0argosy raft frames 1\n\n\n";

const LENGTH_BYTES: usize = 4;
/// Kind and checksum.
const OVERHEAD_BYTES: usize = 1 + 4;
/// The size of a new receive buffer, which is allocated once less than `MIN_BUFFER_BYTES` is left.
/// Entries are slices of this buffer until they leave the newest part of the log, so many entries
/// share it.
const BUFFER_BYTES: usize = 16 << 10;
const MIN_BUFFER_BYTES: usize = 1 << 10;
/// The maximum length of a peer's reason, since it is logged.
const REASON_BYTES: usize = 1 << 10;
/// A buffer that grew beyond this for one frame is not kept.
const MAX_IDLE_BYTES: usize = 256 << 10;

/// The content of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Append = 1,
    Response = 2,
    Error = 3,
}

/// The error of a request: a status, as HTTP/2 would carry it.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct FrameStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    text: String,
}

impl From<&Status> for FrameStatus {
    fn from(status: &Status) -> FrameStatus {
        FrameStatus {
            code: status.code().into(),
            text: status.message().to_owned(),
        }
    }
}

impl From<FrameStatus> for Status {
    fn from(mut refusal: FrameStatus) -> Status {
        let most = refusal.text.floor_char_boundary(REASON_BYTES);
        refusal.text.truncate(most);
        Status::new(Code::from_i32(refusal.code), refusal.text)
    }
}

/// A connection that carries frames.
pub(crate) struct FramedConnection {
    connection: Connection,
    incoming: BytesMut,
    outgoing: BytesMut,
}

impl FramedConnection {
    pub(crate) fn new(connection: Connection) -> FramedConnection {
        FramedConnection {
            connection,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
        }
    }

    pub(crate) async fn send_greeting(&mut self) -> io::Result<()> {
        self.connection.write_all(GREETING).await?;
        self.connection.flush().await
    }

    /// Reads the greeting of the peer.
    async fn read_greeting(&mut self) -> io::Result<bool> {
        let mut greeting = [0; GREETING.len()];
        self.connection.read_exact(&mut greeting).await?;
        Ok(&greeting == GREETING)
    }

    pub(crate) async fn write(
        &mut self,
        kind: FrameKind,
        message: &impl Message,
    ) -> io::Result<()> {
        let length = OVERHEAD_BYTES + message.encoded_len();
        let sent = u32::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.outgoing.clear();
        self.outgoing.reserve(LENGTH_BYTES + length);
        self.outgoing.put_u32_le(sent);
        self.outgoing.put_u8(kind as u8);
        message
            .encode(&mut self.outgoing)
            .map_err(io::Error::other)?;
        let checksum = codec::checksum(&self.outgoing[LENGTH_BYTES..]);
        self.outgoing.put_u32_le(checksum);
        self.connection.write_all(&self.outgoing).await?;
        self.connection.flush().await?;
        if self.outgoing.capacity() > MAX_IDLE_BYTES {
            self.outgoing = BytesMut::new();
        }
        Ok(())
    }

    /// Returns the next frame; `None` if the peer has closed the connection between two frames.
    /// Cancel safe.
    pub(crate) async fn read(&mut self) -> Result<Option<(FrameKind, Bytes)>, Status> {
        loop {
            if let Some(frame) = self.next_buffered()? {
                return Ok(Some(frame));
            }
            match self.fill().await? {
                0 if self.incoming.is_empty() => return Ok(None),
                0 => return Err(broken(&io::ErrorKind::UnexpectedEof.into())),
                _ => {}
            }
        }
    }

    /// Waits for the first bytes of a frame; returns false if the peer has closed the connection.
    /// Cancel safe.
    pub(crate) async fn wait_for_frame(&mut self) -> Result<bool, Status> {
        Ok(!self.incoming.is_empty() || self.fill().await? > 0)
    }

    /// Returns when the peer closes the connection, unless it sends something first. Cancel safe.
    pub(crate) async fn is_closed(&mut self) {
        if let Ok(1..) = self.fill().await {
            // Nothing more is read until the current request is answered.
            std::future::pending().await
        }
    }

    /// Reads available bytes; returns 0 at the end of the connection. Memory grows with the
    /// received bytes, not with the announced length.
    async fn fill(&mut self) -> Result<usize, Status> {
        if self.incoming.capacity() - self.incoming.len() < MIN_BUFFER_BYTES {
            self.incoming.reserve(BUFFER_BYTES);
        }
        let read = self.connection.read_buf(&mut self.incoming).await;
        read.map_err(|error| broken(&error))
    }

    /// Returns the first frame of the received bytes, if it is complete.
    fn next_buffered(&mut self) -> Result<Option<(FrameKind, Bytes)>, Status> {
        let Some(length) = self.incoming.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if !(OVERHEAD_BYTES..=OVERHEAD_BYTES + wire::MESSAGE_LIMIT_BYTES).contains(&length) {
            return Err(codec::damaged("its length is wrong"));
        }
        if self.incoming.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.incoming.advance(LENGTH_BYTES);
        let mut frame = self.incoming.split_to(length).freeze();
        if length > MAX_IDLE_BYTES {
            self.incoming = BytesMut::from(&self.incoming[..]);
        }
        let mut checksum = frame.split_off(length - 4);
        if codec::checksum(&frame) != checksum.get_u32_le() {
            return Err(codec::damaged("its checksum is wrong"));
        }
        let kind = match frame.get_u8() {
            1 => FrameKind::Append,
            2 => FrameKind::Response,
            3 => FrameKind::Error,
            _ => return Err(codec::damaged("its kind is unknown")),
        };
        Ok(Some((kind, frame)))
    }

    /// Returns whether nothing has arrived, not even the end of the connection: the state between
    /// two exchanges.
    fn is_quiet(&mut self) -> bool {
        let read = self.connection.read_buf(&mut self.incoming).now_or_never();
        read.is_none() && self.incoming.is_empty()
    }
}

pub(crate) fn broken(error: &io::Error) -> Status {
    Status::unavailable(format!("the connection broke: {error}"))
}

pub(crate) fn decoded<T: Message + Default>(body: Bytes) -> Result<T, Status> {
    T::decode(body).map_err(|error| Status::internal(error.to_string()))
}
