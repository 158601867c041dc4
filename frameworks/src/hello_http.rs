//! A small HTTP server that reports which process answers: a service to keep running and to probe.
//!
//! Every request gets the same JSON object, whatever its path. One thread per connection, up to a
//! limit.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::witness::Witness;

/// Maximum number of open connections. Further ones are closed without an answer.
const CONNECTIONS: usize = 64;
/// Maximum size of a request head, in bytes. A larger one is not answered.
const HEAD_BYTES: usize = 16 * 1024;
/// Timeout of a read from or a write to a client.
const IO_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until the process ends.
///
/// # Errors
/// If the listener itself fails.
pub fn serve(listener: &TcpListener, witness: &Witness) -> io::Result<()> {
    let body: Arc<str> = body(witness).into();
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let (stream, _) = match listener.accept() {
            Ok(accepted) => accepted,
            // A client that disconnected before it was served.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        if open.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS {
            open.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (body, open) = (Arc::clone(&body), Arc::clone(&open));
        std::thread::spawn(move || {
            // A failure of one connection concerns only its client.
            let _ = answer(stream, &body);
            open.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

fn body(witness: &Witness) -> String {
    let Witness {
        task_id,
        nonce,
        boot_id,
        pid,
        start_time,
    } = witness;
    let json = serde_json::json!({
        "task": task_id, "nonce": nonce, "boot_id": boot_id, "pid": pid, "start_time": start_time,
    });
    format!("{json}\n")
}

fn answer(mut stream: TcpStream, body: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    stream.set_write_timeout(Some(IO_TIMEOUT))?;
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut buffer)?;
        if read == 0 || head.len() + read > HEAD_BYTES {
            return Ok(());
        }
        head.extend_from_slice(&buffer[..read]);
    }
    let length = body.len();
    let reply = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(reply.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_response_identifies_the_copy() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let witness = Witness::take().unwrap();
        let nonce = witness.nonce.clone();
        // Ends with the test program.
        std::thread::spawn(move || serve(&listener, &witness));
        for _ in 0..3 {
            let mut stream = TcpStream::connect(address).unwrap();
            stream
                .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                .unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).unwrap();
            assert!(
                reply.starts_with("HTTP/1.1 200") && reply.contains(&nonce),
                "{reply}"
            );
        }
    }

    #[test]
    fn malformed_requests_are_not_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let witness = Witness::take().unwrap();
        std::thread::spawn(move || serve(&listener, &witness));
        let mut garbage = TcpStream::connect(address).unwrap();
        // The server may close before all is written.
        let _ = garbage.write_all(&vec![0xff; 100_000]);
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200"));
    }
}
