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
const TAKEN: u8 = 5;
const END: u8 = 6;
const ATTACHED: u8 = 7;
const MISSED: u8 = 8;

/// A frame from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToCommand {
    /// Bytes for the command's standard input. An empty payload ends the input.
    Input(Bytes),
    /// The new size of the client's terminal.
    Resize(Size),
    /// A signal for the command's process group, 1 to 64.
    Signal(i32),
}

/// A frame from the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromCommand {
    /// Bytes that the command wrote to standard output, or to its terminal.
    Output(Bytes),
    /// Bytes that the command wrote to standard error.
    Errors(Bytes),
    /// The number of further input bytes that were read: the client may send as many again.
    Taken(usize),
    /// The end of the command; the last frame.
    End(End),
    /// The first frame to an attached client: the offsets at which its copy of the task's output
    /// starts.
    Attached(Begins),
    /// The number of output bytes that are missing here for an attached client, because it did not
    /// read them in time.
    Missed(u64),
}

/// The bytes that a task had written when a client attached, as counted in its files `stdout` and
/// `stderr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begins {
    /// The bytes on standard output, or on the terminal.
    pub stdout: u64,
    /// The bytes on standard error.
    pub stderr: u64,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// The number of lines.
    pub rows: u16,
    /// The number of characters in a line.
    pub columns: u16,
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The command exited with this code, 0 to 255.
    Code(i32),
    /// This signal ended the command.
    Signal(i32),
    /// The result is unknown, for the contained reason. The command no longer runs.
    Lost(String),
}

#[derive(Serialize, Deserialize)]
struct Signal {
    signal: i32,
}

#[derive(Serialize, Deserialize)]
struct Taken {
    bytes: usize,
}

#[derive(Serialize, Deserialize)]
struct Missed {
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

impl ToCommand {
    /// Encodes the frame as a message. Input must fit into a frame.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Input(bytes) => data(STDIN, bytes),
            Self::Resize(size) => object(RESIZE, size),
            Self::Signal(signal) => object(SIGNAL, &Signal { signal: *signal }),
        }
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// If it is not a valid frame of this direction.
    pub fn decode(message: Bytes) -> Result<Self, FrameError> {
        let (channel, payload) = taken_apart(message)?;
        match channel {
            STDIN => Ok(Self::Input(payload)),
            RESIZE => parsed(channel, &payload).map(Self::Resize),
            SIGNAL => {
                let Signal { signal } = parsed(channel, &payload)?;
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

impl FromCommand {
    /// Encodes the frame as a message. Output must fit into a frame.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Output(bytes) => data(STDOUT, bytes),
            Self::Errors(bytes) => data(STDERR, bytes),
            Self::Taken(bytes) => object(TAKEN, &Taken { bytes: *bytes }),
            Self::End(end) => object(END, end),
            Self::Attached(begins) => object(ATTACHED, begins),
            Self::Missed(bytes) => object(MISSED, &Missed { bytes: *bytes }),
        }
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// If it is not a valid frame of this direction.
    pub fn decode(message: Bytes) -> Result<Self, FrameError> {
        let (channel, payload) = taken_apart(message)?;
        match channel {
            STDOUT => Ok(Self::Output(payload)),
            STDERR => Ok(Self::Errors(payload)),
            TAKEN => parsed(channel, &payload).map(|Taken { bytes }| Self::Taken(bytes)),
            END => parsed(channel, &payload).map(Self::End),
            ATTACHED => parsed(channel, &payload).map(Self::Attached),
            MISSED => parsed(channel, &payload).map(|Missed { bytes }| Self::Missed(bytes)),
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

fn taken_apart(mut message: Bytes) -> Result<(u8, Bytes), FrameError> {
    let bytes = message.len();
    if bytes > FRAME_LIMIT_BYTES {
        return Err(FrameError::Long { bytes });
    }
    let channel = *message.first().ok_or(FrameError::Empty)?;
    Ok((channel, message.split_off(1)))
}

fn parsed<'a, T: Deserialize<'a>>(channel: u8, payload: &'a [u8]) -> Result<T, FrameError> {
    serde_json::from_slice(payload).map_err(|error| FrameError::Payload {
        channel,
        why: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_what_the_protocol_page_says() {
        let size = Size {
            rows: 24,
            columns: 80,
        };
        let table: [(ToCommand, &[u8]); 4] = [
            (ToCommand::Input("ls\n".into()), b"\x00ls\n"),
            (ToCommand::Input(Bytes::new()), b"\x00"),
            (ToCommand::Resize(size), b"\x03{\"rows\":24,\"columns\":80}"),
            (ToCommand::Signal(15), b"\x04{\"signal\":15}"),
        ];
        for (frame, bytes) in table {
            assert_eq!(frame.encode(), bytes, "{frame:?}");
            assert_eq!(ToCommand::decode(Bytes::from_static(bytes)), Ok(frame));
        }
        let lost = End::Lost("its agent was stopped".to_owned());
        let begins = Begins {
            stdout: 4096,
            stderr: 0,
        };
        let table: [(FromCommand, &[u8]); 8] = [
            (
                FromCommand::Attached(begins),
                b"\x07{\"stdout\":4096,\"stderr\":0}",
            ),
            (FromCommand::Missed(7), b"\x08{\"bytes\":7}"),
            (FromCommand::Output("a\n".into()), b"\x01a\n"),
            (FromCommand::Errors("b\n".into()), b"\x02b\n"),
            (FromCommand::Taken(4096), b"\x05{\"bytes\":4096}"),
            (FromCommand::End(End::Code(7)), b"\x06{\"code\":7}"),
            (FromCommand::End(End::Signal(9)), b"\x06{\"signal\":9}"),
            (
                FromCommand::End(lost),
                b"\x06{\"lost\":\"its agent was stopped\"}",
            ),
        ];
        for (frame, bytes) in table {
            assert_eq!(frame.encode(), bytes, "{frame:?}");
            assert_eq!(FromCommand::decode(Bytes::from_static(bytes)), Ok(frame));
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_in_words() {
        let long = vec![0; FRAME_LIMIT_BYTES + 1];
        for (bytes, says) in [
            (&b""[..], "empty frame"),
            (&long, "32770 bytes is too long"),
            (b"\x01output", "channel 1 in this direction"),
            (b"\x2a", "channel 42"),
            (b"\x03{\"rows\":70000,\"columns\":1}", "invalid payload"),
            (b"\x03", "invalid payload"),
            (b"\x04{\"signal\":0}", "1 to 64, not 0"),
            (b"\x04{\"signal\":65}", "1 to 64, not 65"),
        ] {
            let refused = ToCommand::decode(Bytes::copy_from_slice(bytes)).unwrap_err();
            assert!(refused.to_string().contains(says), "{refused}");
        }
        for bytes in [
            &b"\x00input"[..],
            b"\x06{\"gone\":1}",
            b"\x05{\"bytes\":-1}",
        ] {
            FromCommand::decode(Bytes::copy_from_slice(bytes)).unwrap_err();
        }
    }

    #[test]
    fn a_field_that_is_not_known_yet_is_passed_over() {
        let later = Bytes::from_static(b"\x03{\"rows\":2,\"columns\":3,\"depth\":4}");
        let size = Size {
            rows: 2,
            columns: 3,
        };
        assert_eq!(ToCommand::decode(later), Ok(ToCommand::Resize(size)));
    }
}
