//! Whose socket the other end of a TCP connection within this host is, by sock_diag(7).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// `SOCK_DIAG_BY_FAMILY`: the type of the question and of its answer.
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `TCP_ESTABLISHED`.
const ESTABLISHED: u8 = 1;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of ports and addresses at the beginning of `struct inet_diag_sockid`.
const ENDS: usize = 36;
/// Places in an answer: the state, the ends, the user and the inode of `struct inet_diag_msg`.
const STATE: usize = HEADER + 1;
const ID: usize = HEADER + 4;
const USER: usize = HEADER + 64;
const INODE: usize = HEADER + 68;

/// The user who opened the socket at `end`, which is connected to `other`, by its number on this host.
///
/// Only an open connection has an owner: of one that its process has closed the kernel keeps a remainder without any,
/// which it shows as root's.
///
/// # Errors
/// If there is no such connection, it is being closed, or the kernel does not answer such questions.
pub(super) fn of(end: SocketAddr, other: SocketAddr) -> io::Result<u32> {
    let (family, id) = id(end, other)?;
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkSockDiag,
    )?;
    let question = question(family, &id);
    send(netlink.as_raw_fd(), &question, MsgFlags::empty())?;
    let mut answer = [0; 1_024];
    // It is there before the question's call returns.
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    user(&answer[..length], &id)
}

/// Ports and addresses, in the order of the network, as `struct inet_diag_sockid` begins.
fn id(end: SocketAddr, other: SocketAddr) -> io::Result<(AddressFamily, [u8; ENDS])> {
    let mut id = [0; ENDS];
    id[0..2].copy_from_slice(&end.port().to_be_bytes());
    id[2..4].copy_from_slice(&other.port().to_be_bytes());
    let family = match (end.ip().to_canonical(), other.ip().to_canonical()) {
        (IpAddr::V4(end), IpAddr::V4(other)) => {
            id[4..8].copy_from_slice(&end.octets());
            id[20..24].copy_from_slice(&other.octets());
            AddressFamily::Inet
        }
        (IpAddr::V6(end), IpAddr::V6(other)) => {
            id[4..20].copy_from_slice(&end.octets());
            id[20..36].copy_from_slice(&other.octets());
            AddressFamily::Inet6
        }
        (IpAddr::V4(_) | IpAddr::V6(_), _) => {
            return Err(io::Error::other("its ends are of two families"));
        }
    };
    Ok((family, id))
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn question(family: AddressFamily, id: &[u8; ENDS]) -> Vec<u8> {
    const LENGTH: u32 = 72;
    let mut question = Vec::with_capacity(LENGTH as usize);
    question.extend(LENGTH.to_ne_bytes());
    question.extend(BY_FAMILY.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    // Sequence and sender: there is one question.
    question.extend([0; 8]);
    question.extend([family as u8, TCP, 0, 0]);
    // Every state; the answer says which one it is.
    question.extend([0xff; 4]);
    question.extend(id);
    // Any device, any cookie.
    question.extend([0; 4]);
    question.extend([0xff; 8]);
    question
}

fn user(answer: &[u8], id: &[u8; ENDS]) -> io::Result<u32> {
    let number = |at: usize| {
        let bytes = answer.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let unexpected = || io::Error::other("an answer of an unknown form");
    let kind = answer.get(4..6).ok_or_else(unexpected)?;
    if kind == ERROR.to_ne_bytes() {
        let code = number(HEADER).ok_or_else(unexpected)?.cast_signed();
        return Err(io::Error::from_raw_os_error(-code));
    }
    let (user, inode) = number(USER).zip(number(INODE)).ok_or_else(unexpected)?;
    if kind != BY_FAMILY.to_ne_bytes() || answer[ID..ID + ENDS] != id[..] {
        return Err(unexpected());
    }
    if answer[STATE] != ESTABLISHED || inode == 0 {
        return Err(io::Error::other("it is being closed"));
    }
    Ok(user)
}
