//! Requests to the kernel by netlink, and their answers.
//!
//! A connection stays bound to the namespace in which it was opened, so one thread can use several
//! namespaces.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// Larger than the largest packet of the kernel.
const PACKET_BYTES: usize = 64 * 1024;

/// A netlink connection for one namespace.
pub(super) struct NetlinkConnection {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl NetlinkConnection {
    /// Opens a connection for the namespace of the calling thread.
    pub(super) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; PACKET_BYTES],
        })
    }

    /// Sends one request, and calls `receive` with each answer. The kernel makes the answers of a
    /// dump as they are read, so that a long one needs no more memory than a short one. If
    /// `receive` fails, the rest of the answers is unread: drop the connection.
    pub(super) fn request<M: NetlinkSerializable + NetlinkDeserializable>(
        &mut self,
        message: M,
        flags: u16,
        mut receive: impl FnMut(M) -> io::Result<()>,
    ) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        loop {
            let flags = MsgFlags::empty();
            let length = recv(self.socket.as_raw_fd(), &mut self.buffer, flags)?;
            let mut rest = &self.buffer[..length];
            while !rest.is_empty() {
                let garbled = |error| io::Error::other(format!("the kernel's answer: {error}"));
                let answer = NetlinkMessage::<M>::deserialize(rest).map_err(garbled)?;
                let size = (answer.header.length as usize).next_multiple_of(4).max(4);
                rest = rest.get(size..).unwrap_or_default();
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => receive(message)?,
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    // A dump that is incomplete ends with an error.
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(()),
                    _ => {}
                }
            }
        }
    }
}
