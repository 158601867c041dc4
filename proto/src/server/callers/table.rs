//! The owner of the other end of a TCP connection within this host, by the tables of proc(5).
//!
//! For kernels without `INET_DIAG`, such as small ones, or ones that may not load modules. They
//! have the same facts in `/proc/net/tcp` and `tcp6`, at a cost that grows with the number of
//! sockets.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Seek as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, OnceLock, PoisonError};

/// `TCP_ESTABLISHED`, as the tables write it.
const ESTABLISHED: &str = "01";

/// Returns the user who opened the socket at `end`, which is connected to `other`, as
/// [`super::owner::of`].
///
/// # Errors
/// [`io::ErrorKind::NotFound`] if there is no such connection; others if it is being closed or
/// there are no tables.
pub(super) fn of(end: SocketAddr, other: SocketAddr) -> io::Result<u32> {
    // An IPv6 socket can have IPv4 connections too.
    if let Some(kept) = TABLES.get() {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        return search(kept.iter_mut(), end, other);
    }
    search(open()?.iter_mut(), end, other)
}

/// Uses tables that are opened now for all later queries, as [`super::owner::keep_socket`] does.
pub(super) fn keep_tables() {
    // If there are none now, there are none later.
    if let Ok(tables) = open() {
        let _ = TABLES.set(Mutex::new(tables));
    }
}

/// The tables that were opened early, for one reader at a time.
static TABLES: OnceLock<Mutex<Vec<File>>> = OnceLock::new();

fn open() -> io::Result<Vec<File>> {
    let mut tables = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match File::open(table) {
            // A kernel without IPv6.
            Err(why) if why.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {}
            opened => {
                tables.push(opened.map_err(|why| io::Error::other(format!("{table}: {why}")))?);
            }
        }
    }
    Ok(tables)
}

fn search<'a>(
    tables: impl Iterator<Item = &'a mut File>,
    end: SocketAddr,
    other: SocketAddr,
) -> io::Result<u32> {
    for file in tables {
        file.rewind()?;
        for line in BufReader::new(file).lines().skip(1) {
            if let Some(owner) = owner(&line?, end, other) {
                return owner;
            }
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Returns the owner of the socket in a line, if it is the requested one.
fn owner(line: &str, end: SocketAddr, other: SocketAddr) -> Option<io::Result<u32>> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    if !is(fields.next()?, end) || !is(fields.next()?, other) {
        return None;
    }
    let state = fields.next()?;
    let user = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?;
    if state != ESTABLISHED || inode == "0" {
        return Some(Err(io::Error::other("it is being closed")));
    }
    Some(Ok(user))
}

/// Returns whether this is how a table writes that end of a connection.
fn is(written: &str, end: SocketAddr) -> bool {
    let parsed = address(written);
    parsed == Some((end.ip().to_canonical(), end.port()))
}

/// Parses an address in 32-bit words, each as this machine reads it from memory, and a port, all in
/// hexadecimal.
fn address(written: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = written.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut octets = [0; 16];
            octets.copy_from_slice(words.as_flattened());
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some((ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::server::callers::owner as diagnosed;

    #[test]
    fn socket_tables_and_kernel_queries_return_the_same_owner() {
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut at = listener.local_addr().unwrap();
            if at.ip().is_unspecified() {
                // A server of both families, reached over IPv4.
                at = SocketAddr::from(([127, 0, 0, 1], at.port()));
            }
            let client = TcpStream::connect(at).unwrap();
            let (served, end) = listener.accept().unwrap();
            let own = nix::unistd::geteuid().as_raw();
            assert_eq!(of(end, at).unwrap(), own, "{address}");
            assert_eq!(diagnosed::of(end, at).ok(), Some(own), "{address}");
            // The server's own end, as the client sees it.
            assert_eq!(of(at, end).unwrap(), own, "{address}");
            drop(client);
            // Its end has been seen: the kernel holds the rest.
            let mut byte = [0];
            assert_eq!(io::Read::read(&mut &served, &mut byte).unwrap(), 0);
            let closed = of(end, at).unwrap_err();
            assert_eq!(closed.kind(), io::ErrorKind::Other, "{address}: {closed}");
        }
    }

    #[test]
    fn a_missing_socket_has_no_owner_and_malformed_lines_are_skipped() {
        let unowned = SocketAddr::from(([127, 0, 0, 1], 1));
        let missing = of(unowned, unowned).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        for line in [
            "",
            "0:",
            "0: x y",
            "0: 0100007F:0001",
            "0: 7F:1 7F:1 01 a b c 0 0 1",
        ] {
            assert!(owner(line, unowned, unowned).is_none(), "{line}");
        }
        for written in [
            "",
            ":",
            "0100007F",
            "0100007F:",
            "0100007F:10000",
            "é100007:0001",
        ] {
            assert_eq!(address(written), None, "{written}");
        }
    }
}
