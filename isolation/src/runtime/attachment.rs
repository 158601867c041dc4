//! Attaching to a container's main command: its output from this moment on, and its input if it has
//! one.
//!
//! ```text
//! agent ──order, with a session──▶ supervisor ──▶ terminal or pipes of the command
//!   └───── session: input, sizes, signals ──▶  ◀── output, what was taken ─────┘
//! ```
//! The supervisor holds the command's streams, so a client can attach again after any agent exits.
//! It buffers nothing for a slow client: output that the session's socket does not hold is dropped
//! and counted, and the command never waits. Of input it buffers one piece per client, which is
//! written before the client sends the next.
//!
//! Each message is one packet: a byte for its kind, and its content. The two sides may be of
//! different releases: the meaning of a message never changes, and an unknown message is ignored.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use argosy_host::packets::{ReceiveResult, WaitMode, packet_pair, send_packet_with};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, sendmsg};

use crate::runtime::exec::WindowSize;
use crate::runtime::messages::SupervisorRequest;
use crate::runtime::output::StreamName;
use crate::state_dir::{CommandOutcome, StateDirectory, StateDirectoryError};

/// The maximum number of bytes of input in one message.
pub const INPUT_LIMIT_BYTES: usize = 4 * 1024;
/// The maximum number of bytes of output in one message.
pub(crate) const OUTPUT_LIMIT_BYTES: usize = 32 * 1024;
/// The maximum length of a supervisor's message, in bytes.
const PACKET_BYTES: usize = OUTPUT_LIMIT_BYTES + 1;

/// A message of a supervisor to an attached client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachmentNotice {
    /// The client is attached from these byte offsets on, of standard output and of standard error,
    /// as in the command's output files. The first notice, unless the attachment is refused.
    Attached([u64; 2]),
    /// The attachment is refused. The last notice.
    Refused {
        /// The cause, as text.
        reason: String,
    },
    /// Bytes that the command wrote to standard output, or to its terminal.
    Output(Vec<u8>),
    /// Bytes that the command wrote to standard error.
    Errors(Vec<u8>),
    /// The number of bytes of output that are missing here, because they came faster than the
    /// client read.
    Missed(u64),
    /// The last input is taken: the client may send the next.
    InputConsumed,
    /// The command has ended. The last notice.
    Ended(CommandOutcome),
}

/// An error of attaching, or of an attached session.
#[derive(Debug, thiserror::Error)]
pub enum AttachmentError {
    /// The container was started by an earlier release.
    #[error("it was started by an earlier release, which does not support attach")]
    NotStarted,
    /// The supervisor does not accept the order or message: it has exited, or its queue is full.
    #[error("cannot reach the container's supervisor: it has exited, or its queue is full")]
    Socket { source: io::Error },
    /// The supervisor has exited and left no exit status.
    #[error("the container's exit status is unknown: its supervisor has exited")]
    Lost,
    /// The exit status cannot be read.
    #[error(transparent)]
    Files(#[from] StateDirectoryError),
}

/// An agent's session on the streams of a container's main command. Dropping it has no effect on
/// the command.
#[derive(Debug)]
pub struct Attachment {
    socket: OwnedFd,
    files: StateDirectory,
    is_over: bool,
}

impl Attachment {
    /// Sends the request to the supervisor behind `connection`. With `stdin`, also attaches to the
    /// command's standard input.
    pub(crate) fn open(
        connection: BorrowedFd<'_>,
        files: StateDirectory,
        stdin: bool,
    ) -> Result<Self, AttachmentError> {
        let talk = |source| AttachmentError::Socket { source };
        let (socket, theirs) = packet_pair().map_err(|errno| talk(errno.into()))?;
        let order = SupervisorRequest::Attach { stdin };
        send_packet_with(connection, &order, &[theirs.as_fd()], WaitMode::Return).map_err(talk)?;
        Ok(Self {
            socket,
            files,
            is_over: false,
        })
    }

    /// Returns the next notice, or `None` if there is none now or the session has ended. Call it
    /// when the descriptor is readable.
    ///
    /// # Errors
    /// If the supervisor has exited and left no exit status: drop the attachment.
    pub fn notice(&mut self) -> Result<Option<AttachmentNotice>, AttachmentError> {
        while !self.is_over {
            let mut buffer = vec![0; PACKET_BYTES];
            match receive(self.socket.as_fd(), &mut buffer) {
                Ok(ReceiveResult::Message(length)) => {
                    buffer.truncate(length);
                    let notice = AttachMessage::decode(buffer);
                    self.is_over = matches!(notice, Some(AttachmentNotice::Refused { .. }));
                    if notice.is_some() {
                        return Ok(notice);
                    }
                }
                Ok(ReceiveResult::Nothing) => return Ok(None),
                // The supervisor writes the exit status before it exits.
                Ok(ReceiveResult::Closed) => {
                    self.is_over = true;
                    let exit = self.files.exit()?.ok_or(AttachmentError::Lost)?;
                    return Ok(Some(AttachmentNotice::Ended(exit.outcome)));
                }
                Err(source) => return Err(AttachmentError::Socket { source }),
            }
        }
        Ok(None)
    }

    /// Sends input of 1 to [`INPUT_LIMIT_BYTES`] bytes. Send the next only when
    /// [`AttachmentNotice::InputConsumed`] has arrived.
    ///
    /// # Errors
    /// If the supervisor accepts no message for now.
    pub fn input(&self, bytes: &[u8]) -> Result<(), AttachmentError> {
        self.send(AttachRequest::INPUT, bytes)
    }

    /// Sends the end of input, after the input sent before: no client's input reaches the command
    /// after it. At a terminal, sends the end-of-file character.
    ///
    /// # Errors
    /// If the supervisor accepts no message for now.
    pub fn end_input(&self) -> Result<(), AttachmentError> {
        self.send(AttachRequest::END_INPUT, &[])
    }

    /// Sets the size of the command's terminal; without a terminal it has no effect.
    ///
    /// # Errors
    /// If the supervisor accepts no message for now.
    pub fn resize(&self, size: WindowSize) -> Result<(), AttachmentError> {
        let [rows, columns] = [size.rows, size.columns].map(u16::to_le_bytes);
        self.send(AttachRequest::SIZE, &[rows, columns].concat())
    }

    /// Sends a signal to the command's process group.
    ///
    /// # Errors
    /// If the supervisor accepts no message for now.
    pub fn signal(&self, signal: i32) -> Result<(), AttachmentError> {
        self.send(AttachRequest::SIGNAL, &signal.to_le_bytes())
    }

    /// A session that has ended is not an error.
    fn send(&self, kind: u8, content: &[u8]) -> Result<(), AttachmentError> {
        match send(self.socket.as_fd(), kind, content) {
            Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            Err(errno) => Err(AttachmentError::Socket {
                source: errno.into(),
            }),
        }
    }
}

/// Readable when [`Attachment::notice`] has a notice.
impl AsFd for Attachment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The same for runtimes that register raw descriptors. The attachment keeps ownership.
impl AsRawFd for Attachment {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// A message of a supervisor, before it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttachMessage<'a> {
    Attached([u64; 2]),
    Refused(&'a str),
    /// At most [`OUTPUT_LIMIT_BYTES`].
    Output(StreamName, &'a [u8]),
    Missed(u64),
    InputConsumed,
}

impl AttachMessage<'_> {
    const ATTACHED: u8 = b'a';
    const REFUSED: u8 = b'r';
    const OUTPUT: u8 = b'o';
    const ERRORS: u8 = b'e';
    const MISSED: u8 = b'm';
    const INPUT_CONSUMED: u8 = b't';

    /// Sends the message whole or not at all; never blocks.
    pub(crate) fn send(self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        match self {
            Self::Attached(begins) => {
                let begins = begins.map(u64::to_le_bytes).concat();
                send(socket, Self::ATTACHED, &begins)
            }
            Self::Refused(reason) => send(socket, Self::REFUSED, reason.as_bytes()),
            Self::Output(StreamName::Stdout, bytes) => send(socket, Self::OUTPUT, bytes),
            Self::Output(StreamName::Stderr, bytes) => send(socket, Self::ERRORS, bytes),
            Self::Missed(count) => send(socket, Self::MISSED, &count.to_le_bytes()),
            Self::InputConsumed => send(socket, Self::INPUT_CONSUMED, &[]),
        }
    }

    /// Returns `None` for an unknown message.
    fn decode(mut message: Vec<u8>) -> Option<AttachmentNotice> {
        let kind = *message.first()?;
        let content = message.split_off(1);
        let number = |at: usize| {
            Some(u64::from_le_bytes(
                content.get(at..at + 8)?.try_into().ok()?,
            ))
        };
        match kind {
            Self::ATTACHED => Some(AttachmentNotice::Attached([number(0)?, number(8)?])),
            Self::REFUSED => Some(AttachmentNotice::Refused {
                reason: String::from_utf8_lossy(&content).into_owned(),
            }),
            Self::OUTPUT => Some(AttachmentNotice::Output(content)),
            Self::ERRORS => Some(AttachmentNotice::Errors(content)),
            Self::MISSED => Some(AttachmentNotice::Missed(number(0)?)),
            Self::INPUT_CONSUMED => Some(AttachmentNotice::InputConsumed),
            _ => None,
        }
    }
}

/// A request of an attached client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AttachRequest {
    Input(Vec<u8>),
    EndInput,
    Resize(WindowSize),
    Signal(i32),
}

impl AttachRequest {
    const INPUT: u8 = b'i';
    const END_INPUT: u8 = b'x';
    const SIZE: u8 = b's';
    const SIGNAL: u8 = b'g';

    /// Returns the next request without blocking. Skips unknown and malformed messages.
    pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<ReceiveResult<Self>> {
        loop {
            let mut buffer = [0; INPUT_LIMIT_BYTES + 1];
            let length = match receive(socket, &mut buffer)? {
                ReceiveResult::Message(length) => length,
                ReceiveResult::Nothing => return Ok(ReceiveResult::Nothing),
                ReceiveResult::Closed => return Ok(ReceiveResult::Closed),
            };
            if let Some(wish) = Self::decode(&buffer[..length]) {
                return Ok(ReceiveResult::Message(wish));
            }
        }
    }

    fn decode(message: &[u8]) -> Option<Self> {
        let (kind, content) = message.split_first()?;
        match *kind {
            Self::INPUT if !content.is_empty() => Some(Self::Input(content.to_vec())),
            Self::END_INPUT => Some(Self::EndInput),
            Self::SIZE => {
                let (rows, columns) = content.split_at_checked(2)?;
                Some(Self::Resize(WindowSize {
                    rows: u16::from_le_bytes(rows.try_into().ok()?),
                    columns: u16::from_le_bytes(columns.try_into().ok()?),
                }))
            }
            Self::SIGNAL => {
                let signal = i32::from_le_bytes(content.try_into().ok()?);
                (1..=64).contains(&signal).then_some(Self::Signal(signal))
            }
            _ => None,
        }
    }
}

fn send(socket: BorrowedFd<'_>, kind: u8, content: &[u8]) -> Result<(), Errno> {
    let kind = [kind];
    let parts = [IoSlice::new(&kind), IoSlice::new(content)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &parts, &[], flags, None).map(drop)
}

/// Truncates a message that is longer than the buffer: no valid message is.
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<ReceiveResult<usize>> {
    loop {
        match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Ok(ReceiveResult::Closed),
            Ok(length) => return Ok(ReceiveResult::Message(length)),
            Err(Errno::EAGAIN) => return Ok(ReceiveResult::Nothing),
            // Reported once when the peer closed with unread data: messages that it sent before
            // follow.
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_unknown_ones_are_skipped() {
        let (ours, theirs) = packet_pair().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut attachment = Attachment {
            socket: ours,
            files: StateDirectory::at(directory.path()),
            is_over: false,
        };
        send(theirs.as_fd(), b'?', b"of a later release").unwrap();
        let long = vec![7; OUTPUT_LIMIT_BYTES];
        for each in [
            AttachMessage::Attached([1, 2]),
            AttachMessage::Missed(3),
            AttachMessage::InputConsumed,
            AttachMessage::Output(StreamName::Stderr, &long),
            AttachMessage::Output(StreamName::Stdout, b"x"),
        ] {
            each.send(theirs.as_fd()).unwrap();
        }
        let mut next = || attachment.notice().unwrap();
        assert_eq!(next(), Some(AttachmentNotice::Attached([1, 2])));
        assert_eq!(next(), Some(AttachmentNotice::Missed(3)));
        assert_eq!(next(), Some(AttachmentNotice::InputConsumed));
        assert_eq!(next(), Some(AttachmentNotice::Errors(long.clone())));
        assert_eq!(next(), Some(AttachmentNotice::Output(b"x".to_vec())));
        assert_eq!(next(), None);
        drop(theirs);
        assert!(matches!(attachment.notice(), Err(AttachmentError::Lost)));
    }

    #[test]
    fn requests_round_trip_and_invalid_ones_are_skipped() {
        let (ours, theirs) = packet_pair().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let attachment = Attachment {
            socket: ours,
            files: StateDirectory::at(directory.path()),
            is_over: false,
        };
        let size = WindowSize {
            rows: 50,
            columns: 300,
        };
        attachment.input(b"ls\n").unwrap();
        attachment.send(AttachRequest::SIZE, b"x").unwrap();
        attachment.resize(size).unwrap();
        attachment.signal(0).unwrap();
        attachment.signal(15).unwrap();
        attachment.end_input().unwrap();
        let next = || AttachRequest::receive(theirs.as_fd()).unwrap();
        assert_eq!(
            next(),
            ReceiveResult::Message(AttachRequest::Input(b"ls\n".to_vec()))
        );
        assert_eq!(next(), ReceiveResult::Message(AttachRequest::Resize(size)));
        assert_eq!(next(), ReceiveResult::Message(AttachRequest::Signal(15)));
        assert_eq!(next(), ReceiveResult::Message(AttachRequest::EndInput));
        assert_eq!(next(), ReceiveResult::Nothing);
        drop(attachment);
        assert_eq!(next(), ReceiveResult::Closed);
    }
}
