//! Asking whether something answers in a container's network: a connection, or an HTTP request.
//!
//! Runs behind the walls of a command, but executes nothing: an image need not bring a program for it, and cannot lend
//! one that lies. What answers is not trusted: of its answer one line is read, up to a cap and a deadline.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::spec::SpecError;

/// The longest path that is asked for, in bytes.
const PATH_LIMIT_BYTES: usize = 2048;
/// The longest status line that is read, in bytes.
const STATUS_LINE_LIMIT_BYTES: usize = 1024;

/// A question to a port of the container's loopback address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Which port, 1 to 65,535.
    pub port: u16,
    /// How long connecting and answering may take together, in milliseconds; at least 1.
    pub timeout_ms: u64,
    /// What is asked.
    pub kind: ProbeKind,
}

/// What is asked of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// That it takes a connection.
    Tcp,
    /// That it answers a GET by HTTP/1.1 with a status that is expected. Redirections are not followed.
    Http {
        /// For what; begins with `/`.
        path: String,
        /// Which statuses are expected; empty means 200 to 399.
        #[serde(default)]
        statuses: BTreeSet<u16>,
    },
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All is well.
    Pass,
    /// It is not.
    Fail {
        /// In words.
        reason: String,
    },
}

impl Probe {
    /// Refuses what could not be asked, or would ask something else.
    pub(super) fn check(&self) -> Result<(), SpecError> {
        if self.port == 0 {
            let remedy = "name a port from 1 to 65,535";
            return Err(SpecError::new("port", "0", remedy));
        }
        if self.timeout_ms == 0 {
            let remedy = "give at least 1 ms";
            return Err(SpecError::new("timeout_ms", "0", remedy));
        }
        let ProbeKind::Http { path, .. } = &self.kind else {
            return Ok(());
        };
        let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic());
        if !path.starts_with('/') || !is_plain || path.len() > PATH_LIMIT_BYTES {
            let remedy =
                "give at most 2,048 printable ASCII characters without spaces, the first a '/'";
            return Err(SpecError::new("path", path, remedy));
        }
        Ok(())
    }

    /// Asks, and waits for the answer.
    pub(super) fn ask(&self) -> Verdict {
        let deadline = Instant::now() + Duration::from_millis(self.timeout_ms);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let asked = self.ask_until(address, deadline);
        match asked {
            Ok(()) => Verdict::Pass,
            Err(reason) => Verdict::Fail { reason },
        }
    }

    fn ask_until(&self, address: SocketAddr, deadline: Instant) -> Result<(), String> {
        let words = |what: &str, error: &io::Error| format!("port {}: {what}: {error}", self.port);
        let left = || deadline.saturating_duration_since(Instant::now());
        let late = || {
            format!(
                "port {}: no answer within {} ms",
                self.port, self.timeout_ms
            )
        };
        let time = left();
        if time.is_zero() {
            return Err(late());
        }
        let mut stream = match TcpStream::connect_timeout(&address, time) {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(late()),
            Err(error) => return Err(words("cannot connect", &error)),
        };
        let ProbeKind::Http { path, statuses } = &self.kind else {
            return Ok(());
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: argosy-probe\r\nAccept: */*\r\n\
             Connection: close\r\n\r\n"
        );
        let time = left();
        if time.is_zero() {
            return Err(late());
        }
        let sent = stream
            .set_write_timeout(Some(time))
            .and_then(|()| stream.write_all(request.as_bytes()));
        sent.map_err(|error| words("cannot send the request", &error))?;
        let mut line = Vec::new();
        while !line.contains(&b'\n') && line.len() < STATUS_LINE_LIMIT_BYTES {
            let time = left();
            if time.is_zero() {
                return Err(late());
            }
            let mut part = [0; STATUS_LINE_LIMIT_BYTES];
            let room = STATUS_LINE_LIMIT_BYTES - line.len();
            let read = stream
                .set_read_timeout(Some(time))
                .and_then(|()| stream.read(&mut part[..room]));
            match read {
                Ok(0) => break,
                Ok(count) => line.extend_from_slice(&part[..count]),
                // The deadline, which the next turn sees, or a signal.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock
                            | io::ErrorKind::TimedOut
                            | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(words("cannot read the answer", &error)),
            }
        }
        judge(&line, statuses).map_err(|reason| format!("port {}: GET {path}: {reason}", self.port))
    }
}

/// What the first line of an answer means.
fn judge(answer: &[u8], expected: &BTreeSet<u16>) -> Result<(), String> {
    match status(answer) {
        Some(200..=399) if expected.is_empty() => Ok(()),
        Some(status) if expected.contains(&status) => Ok(()),
        Some(status) => Err(format!("answered with status {status}")),
        None => Err("the answer is not HTTP".to_owned()),
    }
}

/// The status of a whole status line: `HTTP/1.1 200 OK`, where the words may be missing.
fn status(answer: &[u8]) -> Option<u16> {
    let end = answer.iter().position(|byte| *byte == b'\n')?;
    let line = answer[..end].strip_suffix(b"\r").unwrap_or(&answer[..end]);
    let rest = line
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, words) = rest.split_at_checked(3)?;
    let is_whole =
        digits.iter().all(u8::is_ascii_digit) && words.first().is_none_or(|byte| *byte == b' ');
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_whole)?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_status_is_read_from_a_whole_line_of_http_only() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\nServer: x\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 404\n"), Some(404));
        for garbage in [
            &b"HTTP/1.1 200 OK"[..],
            b"HTTP/1.1 2000 OK\r\n",
            b"HTTP/1.1 +20 OK\r\n",
            b"HTTP/1.1 20\r\n",
            b"HTTP/2 200\r\n",
            b"SSH-2.0-OpenSSH_9\r\n",
            b"\xff\xfe\r\n",
            b"\n",
            b"",
        ] {
            assert_eq!(status(garbage), None, "{garbage:?}");
        }
    }

    #[test]
    fn what_is_expected_is_well_and_else_from_200_to_399() {
        let is_well = |status: u16, expected: &[u16]| {
            let line = format!("HTTP/1.1 {status} X\r\n");
            judge(line.as_bytes(), &expected.iter().copied().collect()).is_ok()
        };
        for (status, wanted) in [(199, false), (200, true), (399, true), (400, false)] {
            assert_eq!(is_well(status, &[]), wanted, "{status}");
        }
        for (status, wanted) in [(200, false), (204, true), (404, true), (400, false)] {
            assert_eq!(is_well(status, &[204, 404]), wanted, "{status}");
        }
    }

    #[test]
    fn what_would_smuggle_a_header_or_ask_nobody_is_refused() {
        let probe = |port, path: &str| Probe {
            port,
            timeout_ms: 1,
            kind: ProbeKind::Http {
                path: path.into(),
                statuses: BTreeSet::new(),
            },
        };
        assert!(probe(80, "/health?deep=1").check().is_ok());
        for path in ["", "health", "/a b", "/a\r\nX: y", "/\u{e4}"] {
            assert!(probe(80, path).check().is_err(), "{path:?}");
        }
        assert!(
            probe(80, &format!("/{}", "a".repeat(2048)))
                .check()
                .is_err()
        );
        assert!(probe(0, "/").check().is_err());
    }

    /// Answers one connection with these bytes, then keeps it open for as long as it is asked.
    fn asked(answer: &'static [u8], kind: ProbeKind) -> Verdict {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer).unwrap();
            // Until the asking side has had enough.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let timeout_ms = 300;
        let verdict = Probe {
            port,
            timeout_ms,
            kind,
        }
        .ask();
        server.join().unwrap();
        verdict
    }

    #[test]
    fn an_answer_is_judged_without_waiting_for_its_end() {
        let http = || ProbeKind::Http {
            path: "/".into(),
            statuses: BTreeSet::new(),
        };
        assert_eq!(asked(b"HTTP/1.1 204 No Content\r\n", http()), Verdict::Pass);
        let Verdict::Fail { reason } = asked(b"HTTP/1.1 503 Busy\r\n", http()) else {
            panic!("it is not well")
        };
        assert!(
            reason.ends_with("GET /: answered with status 503"),
            "{reason}"
        );
        let Verdict::Fail { reason } = asked(b"HTTP/1.1 20", http()) else {
            panic!("it never came")
        };
        assert!(reason.ends_with("no answer within 300 ms"), "{reason}");
        assert_eq!(asked(b"", ProbeKind::Tcp), Verdict::Pass);
    }

    #[test]
    fn where_nobody_listens_nobody_is_well() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let probe = Probe {
            port,
            timeout_ms: 1000,
            kind: ProbeKind::Tcp,
        };
        let Verdict::Fail { reason } = probe.ask() else {
            panic!("nobody listens")
        };
        assert!(reason.contains("cannot connect"), "{reason}");
    }
}
