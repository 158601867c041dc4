//! The frames between a client and a command in a task's container, or the task's own command.
//!
//! They travel as binary messages of a WebSocket; `docs/protocol.md` specifies the protocol. Each
//! frame is one byte, its channel, and a payload: bytes of a stream, or a small JSON object. This
//! module only encodes and decodes; it does no IO.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The WebSocket subprotocol of these frames. Its meaning never changes: another meaning gets
/// another name.
pub const PROTOCOL: &str = "argosy.v1.exec";
/// The subprotocol for clients that attach to a task's own command: these frames, and two more from
/// the agent.
pub const ATTACH_PROTOCOL: &str = "argosy.v1.attach";
/// The maximum number of stream bytes in one frame.
pub const DATA_LIMIT_BYTES: usize = 32 * 1024;
/// The maximum size of a frame in bytes.
pub const FRAME_LIMIT_BYTES: usize = DATA_LIMIT_BYTES + 1;
/// The maximum number of input bytes in flight that the command has not read. It lets the agent
/// read every frame immediately, so that neither a signal nor the client's end waits behind unread
/// input.
pub const INPUT_WINDOW_BYTES: usize = 128 * 1024;
/// The interval at which each peer sends a message, if only a ping.
pub const PING_EVERY: Duration = Duration::from_secs(15);
/// The silence after which the peer counts as lost.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(60);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const RESIZE: u8 = 3;
const SIGNAL: u8 = 4;
const INPUT_CREDIT: u8 = 5;
const END: u8 = 6;
const ATTACHED: u8 = 7;
const MISSED: u8 = 8;

/// A frame from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFrame {
    /// Bytes for the command's standard input. An empty payload ends the input.
    Input(Bytes),
    /// The new size of the client's terminal.
    Resize(TerminalSize),
    /// A signal for the command's process group, 1 to 64.
    Signal(i32),
}

/// A frame from the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentFrame {
    /// Bytes that the command wrote to standard output, or to its terminal.
    Stdout(Bytes),
    /// Bytes that the command wrote to standard error.
    Stderr(Bytes),
    /// The number of further input bytes that were read: the client may send as many again.
    InputCredit(usize),
    /// The end of the command; the last frame.
    End(ExecResult),
    /// The first frame to an attached client: the offsets at which its copy of the task's output
    /// starts.
    Attached(AttachOffsets),
    /// The number of output bytes that are missing here for an attached client, because it did not
    /// read them in time.
    Missed(u64),
}

/// The bytes that a task had written when a client attached, as counted in its files `stdout` and
/// `stderr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachOffsets {
    /// The bytes on standard output, or on the terminal.
    pub stdout: u64,
    /// The bytes on standard error.
    pub stderr: u64,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// The number of lines.
    pub rows: u16,
    /// The number of characters in a line.
    pub columns: u16,
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecResult {
    /// The command exited with this code, 0 to 255.
    Code(i32),
    /// This signal ended the command.
    Signal(i32),
    /// The result is unknown, for the contained reason. The command no longer runs.
    Lost(String),
}

#[derive(Serialize, Deserialize)]
struct SignalMessage {
    signal: i32,
}

#[derive(Serialize, Deserialize)]
struct InputCredit {
    bytes: usize,
}

#[derive(Serialize, Deserialize)]
struct MissedBytes {
    bytes: u64,
}

/// The error of a message that is not a frame of the expected direction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The message has no channel byte.
    #[error("empty frame: the first byte is its channel")]
    Empty,
    /// The message exceeds the maximum size of a frame.
    #[error("a frame of {bytes} bytes is too long: the limit is its channel and 32,768 bytes")]
    Long {
        /// The size of the message.
        bytes: usize,
    },
    /// The channel is not used in this direction.
    #[error("unexpected frame on channel {channel} in this direction")]
    Channel {
        /// The number of the channel.
        channel: u8,
    },
    /// The payload is invalid on this channel.
    #[error("invalid payload on channel {channel}: {why}")]
    Payload {
        /// The number of the channel.
        channel: u8,
        /// A description of the defect.
        why: String,
    },
}

impl ClientFrame {
    /// Encodes the frame as a message. Input must fit into a frame.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Input(bytes) => data(STDIN, bytes),
            Self::Resize(size) => object(RESIZE, size),
            Self::Signal(signal) => object(SIGNAL, &SignalMessage { signal: *signal }),
        }
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// If it is not a valid frame of this direction.
    pub fn decode(message: Bytes) -> Result<Self, FrameError> {
        let (channel, payload) = split(message)?;
        match channel {
            STDIN => Ok(Self::Input(payload)),
            RESIZE => parse(channel, &payload).map(Self::Resize),
            SIGNAL => {
                let SignalMessage { signal } = parse(channel, &payload)?;
                if !(1..=64).contains(&signal) {
                    let why = format!("signals are 1 to 64, not {signal}");
                    return Err(FrameError::Payload { channel, why });
                }
                Ok(Self::Signal(signal))
            }
            _ => Err(FrameError::Channel { channel }),
        }
    }
}

impl AgentFrame {
    /// Encodes the frame as a message. Output must fit into a frame.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Stdout(bytes) => data(STDOUT, bytes),
            Self::Stderr(bytes) => data(STDERR, bytes),
            Self::InputCredit(bytes) => object(INPUT_CREDIT, &InputCredit { bytes: *bytes }),
            Self::End(end) => object(END, end),
            Self::Attached(begins) => object(ATTACHED, begins),
            Self::Missed(bytes) => object(MISSED, &MissedBytes { bytes: *bytes }),
        }
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// If it is not a valid frame of this direction.
    pub fn decode(message: Bytes) -> Result<Self, FrameError> {
        let (channel, payload) = split(message)?;
        match channel {
            STDOUT => Ok(Self::Stdout(payload)),
            STDERR => Ok(Self::Stderr(payload)),
            INPUT_CREDIT => {
                parse(channel, &payload).map(|InputCredit { bytes }| Self::InputCredit(bytes))
            }
            END => parse(channel, &payload).map(Self::End),
            ATTACHED => parse(channel, &payload).map(Self::Attached),
            MISSED => parse(channel, &payload).map(|MissedBytes { bytes }| Self::Missed(bytes)),
            _ => Err(FrameError::Channel { channel }),
        }
    }
}

fn data(channel: u8, payload: &[u8]) -> Bytes {
    [&[channel], payload].concat().into()
}

fn object(channel: u8, payload: &impl Serialize) -> Bytes {
    let json = serde_json::to_vec(payload).expect("numbers and text become JSON");
    data(channel, &json)
}

fn split(mut message: Bytes) -> Result<(u8, Bytes), FrameError> {
    let bytes = message.len();
    if bytes > FRAME_LIMIT_BYTES {
        return Err(FrameError::Long { bytes });
    }
    let channel = *message.first().ok_or(FrameError::Empty)?;
    Ok((channel, message.split_off(1)))
}

fn parse<'a, T: Deserialize<'a>>(channel: u8, payload: &'a [u8]) -> Result<T, FrameError> {
    serde_json::from_slice(payload).map_err(|error| FrameError::Payload {
        channel,
        why: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_match_the_protocol_page() {
        let size = TerminalSize {
            rows: 24,
            columns: 80,
        };
        let table: [(ClientFrame, &[u8]); 4] = [
            (ClientFrame::Input("ls\n".into()), b"\x00ls\n"),
            (ClientFrame::Input(Bytes::new()), b"\x00"),
            (
                ClientFrame::Resize(size),
                b"\x03{\"rows\":24,\"columns\":80}",
            ),
            (ClientFrame::Signal(15), b"\x04{\"signal\":15}"),
        ];
        for (frame, bytes) in table {
            assert_eq!(frame.encode(), bytes, "{frame:?}");
            assert_eq!(ClientFrame::decode(Bytes::from_static(bytes)), Ok(frame));
        }
        let lost = ExecResult::Lost("its agent was stopped".to_owned());
        let begins = AttachOffsets {
            stdout: 4096,
            stderr: 0,
        };
        let table: [(AgentFrame, &[u8]); 8] = [
            (
                AgentFrame::Attached(begins),
                b"\x07{\"stdout\":4096,\"stderr\":0}",
            ),
            (AgentFrame::Missed(7), b"\x08{\"bytes\":7}"),
            (AgentFrame::Stdout("a\n".into()), b"\x01a\n"),
            (AgentFrame::Stderr("b\n".into()), b"\x02b\n"),
            (AgentFrame::InputCredit(4096), b"\x05{\"bytes\":4096}"),
            (AgentFrame::End(ExecResult::Code(7)), b"\x06{\"code\":7}"),
            (
                AgentFrame::End(ExecResult::Signal(9)),
                b"\x06{\"signal\":9}",
            ),
            (
                AgentFrame::End(lost),
                b"\x06{\"lost\":\"its agent was stopped\"}",
            ),
        ];
        for (frame, bytes) in table {
            assert_eq!(frame.encode(), bytes, "{frame:?}");
            assert_eq!(AgentFrame::decode(Bytes::from_static(bytes)), Ok(frame));
        }
    }

    #[test]
    fn an_invalid_frame_is_rejected_with_a_message() {
        let long = vec![0; FRAME_LIMIT_BYTES + 1];
        for (bytes, expected) in [
            (&b""[..], "empty frame"),
            (&long, "32770 bytes is too long"),
            (b"\x01output", "channel 1 in this direction"),
            (b"\x2a", "channel 42"),
            (b"\x03{\"rows\":70000,\"columns\":1}", "invalid payload"),
            (b"\x03", "invalid payload"),
            (b"\x04{\"signal\":0}", "1 to 64, not 0"),
            (b"\x04{\"signal\":65}", "1 to 64, not 65"),
        ] {
            let refused = ClientFrame::decode(Bytes::copy_from_slice(bytes)).unwrap_err();
            assert!(refused.to_string().contains(expected), "{refused}");
        }
        for bytes in [
            &b"\x00input"[..],
            b"\x06{\"gone\":1}",
            b"\x05{\"bytes\":-1}",
        ] {
            AgentFrame::decode(Bytes::copy_from_slice(bytes)).unwrap_err();
        }
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let later = Bytes::from_static(b"\x03{\"rows\":2,\"columns\":3,\"depth\":4}");
        let size = TerminalSize {
            rows: 2,
            columns: 3,
        };
        assert_eq!(ClientFrame::decode(later), Ok(ClientFrame::Resize(size)));
    }
}
