//! An HTTP server with arbitrary answers.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

/// Returns the bytes to send for a path, from the status line on.
pub(super) type ResponseFn = Box<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// Serves on a free loopback port of this network namespace until the program ends.
pub(super) fn serve(answer: ResponseFn) -> SocketAddr {
    serve_at("127.0.0.1:0", answer)
}

pub(super) fn serve_at(address: &str, answer: ResponseFn) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    let bound = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (answer, mut stream) = (Arc::clone(&answer), stream);
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split_whitespace().nth(1).unwrap_or_default();
                // The client may close the connection early.
                let _ = stream.write_all(&answer(path));
            });
        }
    });
    bound
}

pub(super) fn page(bytes: &[u8]) -> Vec<u8> {
    typed("application/octet-stream", bytes)
}

pub(super) fn typed(kind: &str, bytes: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        bytes.len()
    );
    [head.as_bytes(), bytes].concat()
}

pub(super) fn redirect(target: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    head.into_bytes()
}

/// An archive of entries of any kind and name, as no honest program makes it.
#[derive(Default)]
pub(super) struct Archive(Vec<u8>);

impl Archive {
    pub(super) fn entry(mut self, kind: u8, path: &str, link: &str, body: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        let fields = header.as_ustar_mut().unwrap();
        fields.name[..path.len()].copy_from_slice(path.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        fields.typeflag = [kind];
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(body.len() as u64);
        if matches!(kind, b'3' | b'4') {
            header.set_device_major(1).unwrap();
            header.set_device_minor(1).unwrap();
        }
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Adds a file of this user.
    pub(super) fn owned(mut self, owner: u64, path: &str) -> Self {
        let begin = self.0.len();
        self = self.file(path, "x");
        let mut header = tar::Header::new_ustar();
        header
            .as_mut_bytes()
            .copy_from_slice(&self.0[begin..begin + 512]);
        header.set_uid(owner);
        header.set_cksum();
        self.0[begin..begin + 512].copy_from_slice(header.as_bytes());
        self
    }

    pub(super) fn file(self, path: &str, text: &str) -> Self {
        self.entry(b'0', path, "", text.as_bytes())
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}
