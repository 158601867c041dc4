//! The owner of the other end of a TCP connection within this host, by sock_diag(7).

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// `SOCK_DIAG_BY_FAMILY`: the type of the query and of its answer.
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 0x1;
/// `NLM_F_ROOT | NLM_F_MATCH`: about every socket, not one.
const DUMP: u16 = 0x300;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `TCP_ESTABLISHED`.
const ESTABLISHED: u8 = 1;
/// The size of `struct nlmsghdr` in bytes.
const HEADER: usize = 16;
/// The size of ports and addresses at the start of `struct inet_diag_sockid`, in bytes.
const ENDS: usize = 36;
/// Offsets in an answer: the state, the ends, the user and the inode of `struct inet_diag_msg`.
const STATE: usize = HEADER + 1;
const ID: usize = HEADER + 4;
const USER: usize = HEADER + 64;
const INODE: usize = HEADER + 68;

/// Returns the user who opened the socket at `end`, which is connected to `other`, by its number on
/// this host.
///
/// Only an open connection has an owner. Of a connection that its process has closed, the kernel
/// keeps a remainder without an owner, and reports root.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] if there is no such connection, [`io::ErrorKind::Unsupported`] if
/// the kernel does not answer such queries, others if the connection is being closed.
pub(super) fn of(end: SocketAddr, other: SocketAddr) -> io::Result<u32> {
    let (family, id) = id(end, other)?;
    let one = SocketQuery {
        flags: REQUEST,
        states: u32::MAX,
        id,
    };
    match user(&one.query(family)?, &id) {
        // Either no such connection or no such module. Without the module, a dump that matches no
        // connection fails as well.
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            let none = SocketQuery {
                flags: REQUEST | DUMP,
                states: 0,
                id: [0; ENDS],
            };
            match refusal(&none.query(family)?) {
                Some(missing) if missing.kind() == io::ErrorKind::NotFound => {
                    Err(io::ErrorKind::Unsupported.into())
                }
                _ => Err(why),
            }
        }
        answered => answered,
    }
}

/// Returns ports and addresses in network byte order, as at the start of `struct inet_diag_sockid`.
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

/// Uses a socket that is opened now for all later queries. Its answers contain users as this
/// process knows them now, not as in a user namespace that it enters later.
pub(super) fn keep_socket() {
    // If none can be opened now, none can be opened later.
    if let Ok(socket) = open() {
        let _ = SOCKET.set(Mutex::new(socket));
    }
}

/// The socket that was opened early, for one query at a time.
static SOCKET: OnceLock<Mutex<OwnedFd>> = OnceLock::new();

fn open() -> Result<OwnedFd, Errno> {
    socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkSockDiag,
    )
}

/// A query to the kernel.
struct SocketQuery {
    flags: u16,
    /// The states of connections that count, one bit each.
    states: u32,
    id: [u8; ENDS],
}

impl SocketQuery {
    /// Returns the kernel's answer, or its first part.
    fn query(&self, family: AddressFamily) -> io::Result<Vec<u8>> {
        match SOCKET.get() {
            // An answer left over from a query whose caller failed is recognized by its ends,
            // and rejected.
            Some(kept) => {
                let netlink = kept.lock().unwrap_or_else(PoisonError::into_inner);
                self.query_with(&netlink, family)
            }
            None => {
                let netlink = open().map_err(|why| match why {
                    // Not built into this kernel, or a family that this service may not use.
                    Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => {
                        io::ErrorKind::Unsupported.into()
                    }
                    why => io::Error::from(why),
                })?;
                self.query_with(&netlink, family)
            }
        }
    }

    fn query_with(&self, netlink: &OwnedFd, family: AddressFamily) -> io::Result<Vec<u8>> {
        send(netlink.as_raw_fd(), &self.encode(family), MsgFlags::empty())?;
        let mut answer = vec![0; 1_024];
        // The answer is available before the call that sends the query returns.
        let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        answer.truncate(length);
        Ok(answer)
    }

    /// Encodes `struct nlmsghdr` and `struct inet_diag_req_v2`.
    fn encode(&self, family: AddressFamily) -> Vec<u8> {
        const LENGTH: u32 = 72;
        let mut question = Vec::with_capacity(LENGTH as usize);
        question.extend(LENGTH.to_ne_bytes());
        question.extend(BY_FAMILY.to_ne_bytes());
        question.extend(self.flags.to_ne_bytes());
        // Sequence and sender: there is one query.
        question.extend([0; 8]);
        question.extend([family as u8, TCP, 0, 0]);
        question.extend(self.states.to_ne_bytes());
        question.extend(self.id);
        // Any device, any cookie.
        question.extend([0; 4]);
        question.extend([0xff; 8]);
        question
    }
}

/// Returns the error in an answer, if it is one.
fn refusal(answer: &[u8]) -> Option<io::Error> {
    if answer.get(4..6)? != ERROR.to_ne_bytes() {
        return None;
    }
    let code = number(answer, HEADER)?.cast_signed();
    Some(io::Error::from_raw_os_error(-code))
}

fn number(answer: &[u8], at: usize) -> Option<u32> {
    let bytes = answer.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Returns the ends in an answer as a query has them. A socket for both versions of IP, as many
/// clients open it, has mapped addresses.
fn ends(answer: &[u8]) -> Option<[u8; ENDS]> {
    let mut ends: [u8; ENDS] = answer.get(ID..ID + ENDS)?.try_into().ok()?;
    let is_v6 = answer[HEADER] == AddressFamily::Inet6 as u8;
    let mapped = |at: usize| {
        let octets: [u8; 16] = ends[at..at + 16].try_into().ok()?;
        Ipv6Addr::from(octets).to_ipv4_mapped()
    };
    if let (true, Some(end), Some(other)) = (is_v6, mapped(4), mapped(20)) {
        ends[4..].fill(0);
        ends[4..8].copy_from_slice(&end.octets());
        ends[20..24].copy_from_slice(&other.octets());
    }
    Some(ends)
}

fn user(answer: &[u8], id: &[u8; ENDS]) -> io::Result<u32> {
    if let Some(error) = refusal(answer) {
        return Err(error);
    }
    let unexpected = || io::Error::other("an answer of an unknown form");
    let kind = answer.get(4..6).ok_or_else(unexpected)?;
    let (user, inode) = number(answer, USER)
        .zip(number(answer, INODE))
        .ok_or_else(unexpected)?;
    if kind != BY_FAMILY.to_ne_bytes() || ends(answer).as_ref() != Some(id) {
        return Err(unexpected());
    }
    if answer[STATE] != ESTABLISHED || inode == 0 {
        return Err(io::Error::other("it is being closed"));
    }
    Ok(user)
}
