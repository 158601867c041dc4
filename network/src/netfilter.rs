//! Messages of netfilter's netlink, and the query for a table of nft.

use std::convert::Infallible;
use std::io;

use netlink_packet_core::{
    NLA_HEADER_SIZE, NLM_F_ACK, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
};
use nix::sys::socket::SockProtocol;

use super::netlink::NetlinkConnection;
use super::{NetworkError, network_error};

/// The size of the general header: family, version, resource.
const GENERAL_HEADER: usize = 4;
/// `NFTA_TABLE_NAME` of linux/netfilter/nf_tables.h.
const TABLE_NAME: u16 = 1;

/// A message of one of netfilter's subsystems.
pub(super) struct NetfilterMessage {
    /// The subsystem, and the type within it.
    pub(super) kind: u16,
    pub(super) family: u8,
    pub(super) attributes: Vec<u8>,
}

impl NetlinkSerializable for NetfilterMessage {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        GENERAL_HEADER + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(GENERAL_HEADER);
        header.copy_from_slice(&[self.family, libc::NFNETLINK_V0 as u8, 0, 0]);
        attributes.copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for NetfilterMessage {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            kind: header.message_type,
            family: payload.first().copied().unwrap_or_default(),
            attributes: payload.get(GENERAL_HEADER..).unwrap_or_default().to_vec(),
        })
    }
}

pub(super) fn open() -> io::Result<NetlinkConnection> {
    NetlinkConnection::open(SockProtocol::NetlinkNetFilter)
}

/// Returns an encoded attribute.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = NLA_HEADER_SIZE + value.len();
    let mut bytes = (length as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// Returns whether the calling thread's namespace has this table of the family `inet`. Takes
/// microseconds, as it runs no program.
pub(super) fn has_inet_table(name: &str) -> Result<bool, NetworkError> {
    let get = NetfilterMessage {
        kind: (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | libc::NFT_MSG_GETTABLE as u16,
        family: libc::NFPROTO_INET as u8,
        attributes: attribute(TABLE_NAME, format!("{name}\0").as_bytes()),
    };
    match open().and_then(|mut kernel| kernel.request(get, NLM_F_ACK, |_| Ok(()))) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(network_error(format!("query the nft table {name}"))(error)),
    }
}
