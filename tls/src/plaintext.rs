//! Answers to peers that speak plaintext to a TLS port, in the protocol that they speak.

use std::time::Duration;

use argosy_proto::transport::Connection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The first byte of each TLS record of a handshake.
const HANDSHAKE_RECORD: u8 = 22;
/// The maximum time that a peer gets to read the answer, and the maximum number of bytes that are
/// read from it. A connection that is closed with unread bytes loses its last answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const DRAIN_BYTES: u64 = 64 << 10;

const REASON: &str = "this port needs TLS";

/// The protocol of a peer, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstBytes {
    /// A TLS handshake.
    Tls,
    /// HTTP/2 without TLS.
    Http2,
    /// HTTP/1 without TLS.
    Http1,
    /// Something else.
    Other,
}

impl FirstBytes {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match bytes {
            [HANDSHAKE_RECORD, ..] => Self::Tls,
            [b'P', b'R', b'I', ..] => Self::Http2,
            [first, ..] if first.is_ascii_uppercase() => Self::Http1,
            _ => Self::Other,
        }
    }

    /// Returns an answer that such a peer shows to its user.
    fn answer(self) -> Vec<u8> {
        match self {
            Self::Http1 => {
                let body = format!("{REASON}: use https://\n");
                let length = body.len();
                format!(
                    "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                )
                .into_bytes()
            }
            Self::Http2 => go_away(),
            Self::Tls | Self::Other => Vec::new(),
        }
    }
}

/// Returns the frames SETTINGS, which must be first, and GOAWAY with the reason.
fn go_away() -> Vec<u8> {
    /// "The underlying transport has properties that do not meet minimum security requirements."
    const INADEQUATE_SECURITY: u32 = 0xc;
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let mut frames = SETTINGS.to_vec();
    let length = (8 + REASON.len()) as u8;
    frames.extend([0, 0, length, 7, 0, 0, 0, 0, 0]);
    frames.extend([0; 4]);
    frames.extend(INADEQUATE_SECURITY.to_be_bytes());
    frames.extend(REASON.as_bytes());
    frames
}

/// Sends the answer and closes the connection.
pub(crate) async fn reject(mut connection: Connection, first: FirstBytes) {
    let answer = first.answer();
    let writing = connection.write_all(&answer);
    // If the peer does not read the answer, there is nothing else to do.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, writing).await;
    close(connection).await;
}

/// Closes a connection so that the peer can still read what was sent last.
pub(crate) async fn close(mut connection: Connection) {
    let closing = async {
        connection.shutdown().await?;
        let mut rest = connection.take(DRAIN_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // The connection is closed in any case when it is dropped.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, closing).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_of_a_peer_is_known_by_its_first_bytes() {
        for (bytes, expected) in [
            (&b"\x16\x03\x01\x02\x00"[..], FirstBytes::Tls),
            (b"\x16", FirstBytes::Tls),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", FirstBytes::Http2),
            (b"GET / HTTP/1.1\r\n", FirstBytes::Http1),
            (b"POST /v1/write HTTP/1.1\r\n", FirstBytes::Http1),
            (b"\0argosy raft frames 1", FirstBytes::Other),
            (b"", FirstBytes::Other),
            (b"SSH-2.0", FirstBytes::Http1),
        ] {
            assert_eq!(FirstBytes::of(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn http2_gets_settings_and_a_reason() {
        let frames = go_away();
        assert_eq!(frames[..9], [0, 0, 0, 4, 0, 0, 0, 0, 0]);
        let length = usize::from(frames[11]);
        assert_eq!(frames.len(), 9 + 9 + length);
        assert_eq!(frames[12], 7);
        assert_eq!(frames[22..26], [0, 0, 0, 0xc]);
        assert_eq!(&frames[26..], REASON.as_bytes());
    }
}
