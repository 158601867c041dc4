//! Messages between processes of one host and one build: JSON on packet sockets, with descriptors.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, send, sendmsg, socketpair,
};
use rustix::net::RecvFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sys;

/// The maximum length of a message on a packet socket, in bytes. It is far above the size of
/// handles and exits, and below what a socket accepts in one call with default settings. Exec
/// requests are the longest messages.
pub const PACKET_LIMIT_BYTES: usize = 128 * 1024;
/// The maximum number of descriptors of a message: the three streams of an exec command.
const DESCRIPTORS: usize = 3;
/// The maximum length of free text in a message, in bytes: file names, and quotations of tasks and
/// servers.
const TEXT_LIMIT_BYTES: usize = 4096;

/// The result of a read from a packet socket.
#[derive(Debug, PartialEq, Eq)]
pub enum ReceiveResult<T> {
    Message(T),
    /// No message now.
    Nothing,
    /// The peer has closed the socket, and every message is read.
    Closed,
}

/// Returns two connected packet sockets.
///
/// # Errors
/// If the host refuses them.
pub fn packet_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
}

/// Whether a call may block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitMode {
    Block,
    Return,
}

impl WaitMode {
    fn flags(self) -> MsgFlags {
        match self {
            Self::Block => MsgFlags::empty(),
            Self::Return => MsgFlags::MSG_DONTWAIT,
        }
    }
}

/// Sends one message whole, or not at all: a full socket yields `WouldBlock` unless the call may
/// wait.
///
/// It uses a system call that cannot pass descriptors: the unpack process may make no other.
///
/// # Errors
/// If the message has no JSON form or [is too long](is_too_long), the socket is full or the peer
/// has closed it.
pub fn send_packet<T: Serialize>(socket: impl AsFd, message: &T, wait: WaitMode) -> io::Result<()> {
    let bytes = encode(message)?;
    let flags = wait.flags() | MsgFlags::MSG_NOSIGNAL;
    send(socket.as_fd().as_raw_fd(), &bytes, flags)?;
    Ok(())
}

/// The same with descriptors, which are duplicated for the receiver.
///
/// # Errors
/// As [`send_packet`].
pub fn send_packet_with<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
    wait: WaitMode,
) -> io::Result<()> {
    let bytes = encode(message)?;
    let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let flags = wait.flags() | MsgFlags::MSG_NOSIGNAL;
    let parts = [IoSlice::new(&bytes)];
    sendmsg::<()>(socket.as_fd().as_raw_fd(), &parts, &rights, flags, None)?;
    Ok(())
}

fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > PACKET_LIMIT_BYTES {
        return Err(Errno::EMSGSIZE.into());
    }
    Ok(bytes)
}

/// Returns whether a message was not sent because of its length. The connection is still usable.
#[must_use]
pub fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

/// Cuts free text, so that a message that contains it can be sent.
#[must_use]
pub fn limit_text(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_LIMIT_BYTES));
    text
}

/// Receives one message. An invalid message is an error, never a panic. Descriptors that come with
/// it are closed.
///
/// # Errors
/// If the message is invalid or too long, which removes it from the socket, or the socket cannot be
/// read.
pub fn receive_packet<T: DeserializeOwned>(
    socket: impl AsFd,
    wait: WaitMode,
) -> io::Result<ReceiveResult<T>> {
    Ok(match receive_packet_with(socket, wait)? {
        ReceiveResult::Message((message, _)) => ReceiveResult::Message(message),
        ReceiveResult::Nothing => ReceiveResult::Nothing,
        ReceiveResult::Closed => ReceiveResult::Closed,
    })
}

/// The same with the descriptors that come with it.
///
/// # Errors
/// As [`receive_packet`].
pub fn receive_packet_with<T: DeserializeOwned>(
    socket: impl AsFd,
    wait: WaitMode,
) -> io::Result<ReceiveResult<(T, Vec<OwnedFd>)>> {
    let socket = socket.as_fd();
    // Reads the length first: a buffer of the maximum length would cost each small process its
    // pages.
    let flags = wait.flags() | MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
    let length = loop {
        match recv(socket.as_raw_fd(), &mut [], flags) {
            Ok(0) => return Ok(ReceiveResult::Closed),
            Ok(length) if length > PACKET_LIMIT_BYTES => {
                // A read that is too short discards the rest, and the descriptors.
                recv(socket.as_raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT)?;
                return Err(io::Error::other(format!("a message of {length} bytes")));
            }
            Ok(length) => break length,
            Err(Errno::EAGAIN) => return Ok(ReceiveResult::Nothing),
            // Reported once when the peer closed with unread data: messages that it sent before
            // follow.
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut buffer = vec![0; length];
    let flags = RecvFlags::DONTWAIT;
    let descriptors = loop {
        match sys::receive_with_descriptors::<DESCRIPTORS>(socket, &mut buffer, flags) {
            Ok((_, descriptors)) => break descriptors,
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => {}
            Err(error) => return Err(error),
        }
    };
    Ok(ReceiveResult::Message((
        serde_json::from_slice(&buffer)?,
        descriptors,
    )))
}

/// Formats the whole chain of an error as one message: processes exchange errors as text.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use nix::fcntl::OFlag;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    enum TestMessage {
        Plain,
        Number(u64),
    }

    #[test]
    fn messages_arrive_completely_and_before_the_close() {
        let (ours, theirs) = packet_pair().unwrap();
        let order = TestMessage::Number(5);
        assert_eq!(
            receive_packet::<TestMessage>(&theirs, WaitMode::Return).unwrap(),
            ReceiveResult::Nothing
        );
        send_packet(&ours, &order, WaitMode::Return).unwrap();
        drop(ours);
        assert_eq!(
            receive_packet(&theirs, WaitMode::Block).unwrap(),
            ReceiveResult::Message(order)
        );
        assert_eq!(
            receive_packet::<TestMessage>(&theirs, WaitMode::Block).unwrap(),
            ReceiveResult::Closed
        );
    }

    #[test]
    fn messages_arrive_from_a_peer_that_closed_with_unread_data() {
        let (ours, theirs) = packet_pair().unwrap();
        send_packet(&ours, &TestMessage::Plain, WaitMode::Return).unwrap();
        send_packet(&theirs, &TestMessage::Plain, WaitMode::Return).unwrap();
        drop(theirs);
        assert_eq!(
            receive_packet(&ours, WaitMode::Return).unwrap(),
            ReceiveResult::Message(TestMessage::Plain)
        );
        assert_eq!(
            receive_packet::<TestMessage>(&ours, WaitMode::Return).unwrap(),
            ReceiveResult::Closed
        );
    }

    #[test]
    fn invalid_messages_are_errors() {
        let (ours, theirs) = packet_pair().unwrap();
        let garbage = IoSlice::new(b"\xff\x00{");
        let flags = MsgFlags::empty();
        sendmsg::<()>(ours.as_raw_fd(), &[garbage], &[], flags, None).unwrap();
        assert!(receive_packet::<TestMessage>(&theirs, WaitMode::Block).is_err());
    }

    #[test]
    fn a_message_that_is_too_long_is_not_sent() {
        let (ours, theirs) = packet_pair().unwrap();
        let longest = "x".repeat(PACKET_LIMIT_BYTES - 2);
        for text in [format!("{longest}x"), "x".repeat(1 << 20)] {
            let plain = send_packet(&ours, &text, WaitMode::Return).unwrap_err();
            let with = send_packet_with(&ours, &text, &[], WaitMode::Return).unwrap_err();
            assert!(is_too_long(&plain) && is_too_long(&with));
        }
        send_packet(&ours, &longest, WaitMode::Return).unwrap();
        assert_eq!(
            receive_packet(&theirs, WaitMode::Return).unwrap(),
            ReceiveResult::Message(longest)
        );
    }

    #[test]
    fn a_message_that_is_too_long_is_reported_once() {
        let (ours, theirs) = packet_pair().unwrap();
        let bytes = vec![b' '; PACKET_LIMIT_BYTES + 1];
        let parts = [IoSlice::new(&bytes)];
        sendmsg::<()>(ours.as_raw_fd(), &parts, &[], MsgFlags::empty(), None).unwrap();
        send_packet(&ours, &TestMessage::Plain, WaitMode::Return).unwrap();
        assert!(receive_packet::<TestMessage>(&theirs, WaitMode::Return).is_err());
        assert_eq!(
            receive_packet(&theirs, WaitMode::Return).unwrap(),
            ReceiveResult::Message(TestMessage::Plain)
        );
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(limit_text("short".to_owned()), "short");
        let cut = limit_text(format!("x{}", "é".repeat(TEXT_LIMIT_BYTES)));
        assert_eq!(cut.len(), TEXT_LIMIT_BYTES - 1);
    }

    #[test]
    fn descriptors_accompany_their_message_and_unexpected_ones_are_closed() {
        let (ours, theirs) = packet_pair().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let given = [writer.as_fd()];
        for _ in 0..2 {
            send_packet_with(&ours, &TestMessage::Plain, &given, WaitMode::Return).unwrap();
        }
        drop(writer);
        let Ok(ReceiveResult::Message((TestMessage::Plain, descriptors))) =
            receive_packet_with(&theirs, WaitMode::Return)
        else {
            panic!("it was sent")
        };
        assert_eq!(descriptors.len(), 1);
        nix::unistd::write(&descriptors[0], b"x").unwrap();
        drop(descriptors);
        receive_packet::<TestMessage>(&theirs, WaitMode::Return).unwrap();
        let mut buffer = [0; 2];
        assert_eq!(nix::unistd::read(&reader, &mut buffer), Ok(1));
        assert_eq!(nix::unistd::read(&reader, &mut buffer), Ok(0), "closed");
    }

    #[test]
    fn a_message_with_too_many_descriptors_fails_and_leaves_none_open() {
        for surplus in [1, 5] {
            let (ours, theirs) = packet_pair().unwrap();
            let (reader, writer) = nix::unistd::pipe2(OFlag::O_NONBLOCK).unwrap();
            let given = vec![writer.as_fd(); DESCRIPTORS + surplus];
            send_packet_with(&ours, &TestMessage::Plain, &given, WaitMode::Return).unwrap();
            drop(given);
            drop(writer);
            let received = receive_packet_with::<TestMessage>(&theirs, WaitMode::Return);
            let error = received.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
            let end = nix::unistd::read(&reader, &mut [0]);
            assert_eq!(end, Ok(0), "all are closed");
        }
    }
}
