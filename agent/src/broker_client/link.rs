//! Messages between an agent and its broker: JSON in packets, or in a file in memory if it is long.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use argosy_isolation::division::ForkedChild;
use argosy_isolation::service::{Packet, PacketSocket};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Maximum length of a message in a packet, in bytes: a packet may have 128 KiB.
const PACKET_BYTES: usize = 96 * 1024;
/// Maximum length of a message, in bytes: a launch may have 2 MiB.
pub(crate) const MESSAGE_BYTES: u64 = 4 * 1024 * 1024;
/// Maximum number of concurrent requests; more are queued. The same number as an agent's concurrent
/// creations, queries and removals of containers, plugin runs, unpackings and measurements.
pub(crate) const CONNECTIONS: usize = 48;

/// One end of the sockets between an agent and its broker.
#[derive(Debug)]
pub struct BrokerLink {
    pub(crate) control: PacketSocket,
    pub(crate) requests: Vec<PacketSocket>,
    /// The broker's process, at the agent's end.
    pub(crate) broker: Option<ForkedChild>,
}

/// The messages of the first socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ControlMessage {
    /// The agent is in its user namespace.
    MapUsers,
    /// The agent holds the lock of its directory: from now on the broker serves.
    Open,
    /// A check whether the broker responds.
    Heartbeat,
}

#[derive(Debug, Serialize, Deserialize)]
enum Envelope<T> {
    Inline(T),
    /// The message is in the file that is the first descriptor.
    InFile,
}

/// Returns two connected sets of sockets.
pub(crate) fn pair() -> io::Result<(BrokerLink, BrokerLink)> {
    let (control, of_broker) = PacketSocket::pair()?;
    let pairs = (0..CONNECTIONS).map(|_| PacketSocket::pair());
    let pairs = pairs.collect::<io::Result<Vec<_>>>()?;
    let (requests, served) = pairs.into_iter().unzip();
    let agent = BrokerLink {
        control,
        requests,
        broker: None,
    };
    let broker = BrokerLink {
        control: of_broker,
        requests: served,
        broker: None,
    };
    Ok((agent, broker))
}

/// A message that can be sent.
pub(crate) enum PreparedMessage<'a, T> {
    Inline(&'a T),
    InFile(File),
}

/// Prepares a message. An error concerns this message only, not the connection.
pub(crate) fn prepare<T: Serialize>(message: &T) -> io::Result<PreparedMessage<'_, T>> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() <= PACKET_BYTES {
        return Ok(PreparedMessage::Inline(message));
    }
    if bytes.len() as u64 > MESSAGE_BYTES {
        return Err(io::Error::other(format!(
            "a message of {} bytes is too long",
            bytes.len()
        )));
    }
    let mut file = File::from(memfd_create("argosy", MemfdFlags::CLOEXEC)?);
    file.write_all(&bytes)?;
    file.rewind()?;
    Ok(PreparedMessage::InFile(file))
}

impl<T: Serialize> PreparedMessage<'_, T> {
    /// Sends it with its descriptors, of which there are two at most.
    pub(crate) fn send(
        &self,
        packets: &PacketSocket,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        match self {
            Self::Inline(message) => packets.send(&Envelope::Inline(message), descriptors),
            Self::InFile(file) => {
                let mut all = vec![file.as_fd()];
                all.extend_from_slice(descriptors);
                packets.send(&Envelope::<()>::InFile, &all)
            }
        }
    }
}

/// Sends a message with its descriptors, of which there are two at most.
pub(crate) fn send<T: Serialize>(
    packets: &PacketSocket,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    prepare(message)?.send(packets, descriptors)
}

/// Receives the next message; `None` once the peer has closed the connection.
pub(crate) fn receive<T: DeserializeOwned>(
    packets: &PacketSocket,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let (envelope, mut descriptors) = match packets.receive::<Envelope<T>>()? {
        Packet::Message(envelope, descriptors) => (envelope, descriptors),
        Packet::Closed => return Ok(None),
    };
    let message = match envelope {
        Envelope::Inline(message) => message,
        Envelope::InFile if descriptors.is_empty() => {
            return Err(io::Error::other("a message without its file"));
        }
        Envelope::InFile => read(File::from(descriptors.remove(0)))?,
    };
    Ok(Some((message, descriptors)))
}

fn read<T: DeserializeOwned>(file: File) -> io::Result<T> {
    let found = file.metadata()?;
    if !found.is_file() || found.len() > MESSAGE_BYTES {
        return Err(io::Error::other(format!(
            "a message of {} bytes is too long, or is not in a file",
            found.len()
        )));
    }
    let mut bytes = Vec::new();
    // It may grow concurrently.
    file.take(MESSAGE_BYTES).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}
