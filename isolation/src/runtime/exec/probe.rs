//! Probing a port in a container's network: a connection, or an HTTP request, also over TLS.
//!
//! The probe runs with a command's isolation layers but executes nothing: an image need not contain
//! a probe program, and cannot fake one. The server is not trusted: one line of its response is
//! read, up to a size limit and a deadline.

mod tls;

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::tls::Tls;
use crate::spec::SpecError;

/// The maximum length of the requested path, in bytes.
const PATH_LIMIT_BYTES: usize = 2048;
/// The maximum length of the status line, in bytes.
const STATUS_LINE_LIMIT_BYTES: usize = 1024;

/// A probe of a port on the container's loopback address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The port, 1 to 65,535.
    pub port: u16,
    /// The timeout for connecting and answering together, in milliseconds; at least 1.
    pub timeout_ms: u64,
    pub kind: ProbeKind,
}

/// The expectation of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// The port accepts a connection.
    Tcp,
    /// The port answers an HTTP/1.1 GET with an expected status. Redirects are not followed.
    Http {
        #[serde(default)]
        scheme: Scheme,
        /// The path of the request; begins with `/`.
        path: String,
        /// The expected statuses; empty means 200 to 399.
        #[serde(default)]
        statuses: BTreeSet<u16>,
    },
}

/// The scheme of an HTTP probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// Plain HTTP.
    #[default]
    Http,
    /// HTTP over TLS 1.2 or 1.3. The certificate is not verified.
    Https,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeResult {
    Pass,
    Fail {
        /// The cause, as text.
        reason: String,
    },
}

impl Probe {
    /// Rejects a probe that is invalid, or whose request line would mean another request.
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

    /// Runs the probe and waits for the result.
    pub(super) fn run(&self) -> ProbeResult {
        let deadline = Instant::now() + Duration::from_millis(self.timeout_ms);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let asked = self.run_until(address, deadline);
        match asked {
            Ok(()) => ProbeResult::Pass,
            Err(reason) => ProbeResult::Fail { reason },
        }
    }

    fn run_until(&self, address: SocketAddr, deadline: Instant) -> Result<(), String> {
        let words = |what: &str, error: &io::Error| match error.kind() {
            io::ErrorKind::TimedOut => {
                let (port, timeout_ms) = (self.port, self.timeout_ms);
                format!("port {port}: no answer within {timeout_ms} ms")
            }
            _ => format!("port {}: {what}: {error}", self.port),
        };
        let mut stream = DeadlineStream::connect(address, deadline)
            .map_err(|error| words("cannot connect", &error))?;
        let ProbeKind::Http {
            scheme,
            path,
            statuses,
        } = &self.kind
        else {
            return Ok(());
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: argosy-probe\r\nAccept: */*\r\n\
             Connection: close\r\n\r\n"
        );
        let line = match scheme {
            Scheme::Http => exchange(&mut stream, &request),
            Scheme::Https => {
                let mut secured = Tls::open(stream, address)
                    .map_err(|error| words("cannot agree on TLS", &error))?;
                let line = exchange(&mut secured, &request);
                secured.close();
                line
            }
        };
        let line = line.map_err(|error| words("cannot get an answer", &error))?;
        evaluate_response(&line, statuses)
            .map_err(|reason| format!("port {}: GET {path}: {reason}", self.port))
    }
}

/// Sends a request and reads the first line of the response, as far as it arrives.
fn exchange(stream: &mut (impl Read + Write), request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut line = Vec::new();
    while !line.contains(&b'\n') && line.len() < STATUS_LINE_LIMIT_BYTES {
        let mut part = [0; STATUS_LINE_LIMIT_BYTES];
        let room = STATUS_LINE_LIMIT_BYTES - line.len();
        match stream.read(&mut part[..room]) {
            Ok(0) => break,
            Ok(count) => line.extend_from_slice(&part[..count]),
            // A server that closes the connection without a TLS alert has sent its whole response.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(line)
}

/// A connection with one deadline for all operations; after it they fail with `TimedOut`.
struct DeadlineStream {
    stream: TcpStream,
    deadline: Instant,
}

impl DeadlineStream {
    fn connect(address: SocketAddr, deadline: Instant) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, remaining(deadline)?)?;
        Ok(Self { stream, deadline })
    }
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    // A timeout of zero would mean none.
    (!left.is_zero())
        .then_some(left)
        .ok_or_else(|| io::ErrorKind::TimedOut.into())
}

/// Maps the socket's error for an expired timeout to `TimedOut`.
fn map_timeout<T>(result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    })
}

impl Read for DeadlineStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream
            .set_read_timeout(Some(remaining(self.deadline)?))?;
        map_timeout(self.stream.read(buffer))
    }
}

impl Write for DeadlineStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream
            .set_write_timeout(Some(remaining(self.deadline)?))?;
        map_timeout(self.stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Evaluates the first line of a response.
pub(crate) fn evaluate_response(response: &[u8], expected: &BTreeSet<u16>) -> Result<(), String> {
    match status(response) {
        Some(200..=399) if expected.is_empty() => Ok(()),
        Some(status) if expected.contains(&status) => Ok(()),
        Some(status) => Err(format!("answered with status {status}")),
        None => Err("the answer is not HTTP".to_owned()),
    }
}

/// Returns the status of a complete status line: `HTTP/1.1 200 OK`, where the reason phrase may be
/// missing.
fn status(response: &[u8]) -> Option<u16> {
    let end = response.iter().position(|byte| *byte == b'\n')?;
    let line = response[..end]
        .strip_suffix(b"\r")
        .unwrap_or(&response[..end]);
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
mod tests;
