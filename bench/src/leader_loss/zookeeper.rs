//! A session at one server of ZooKeeper, implemented from the public description of its protocol:
//! length-prefixed frames, big-endian numbers, length-prefixed strings and buffers.
//!
//! It resumes its session after a break, as every client does, and sets no watches.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::peers::PeerStatus;

/// Timeout for a server to accept a connection or to report its status.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The requested session timeout. The server may grant less.
const SESSION_MS: i32 = 30_000;
/// Maximum size of a frame. No response to the requests here is larger.
const FRAME_BYTES: i32 = 1 << 20;
/// Bytes of a session's password.
const PASSWORD_BYTES: usize = 16;
/// The node that is written.
const NODE_PATH: &str = "/probe";
/// Codes of operations.
const CREATE: i32 = 1;
const SET_DATA: i32 = 5;
/// Error code of a node that exists already.
const NODE_EXISTS: i32 = -110;
/// All five permissions.
const ALL: i32 = 31;

/// Queries the status with the command `srvr`.
///
/// # Errors
/// If the server does not respond.
pub(super) async fn status(address: &str) -> Result<PeerStatus> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"srvr").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        anyhow::Ok(text)
    };
    let text = tokio::time::timeout(CONNECT_TIMEOUT, asked)
        .await
        .context("no response in time")??;
    let fact = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    Ok(PeerStatus {
        is_leader: fact("Mode: ").map(|mode| mode == "leader"),
        version: fact("Zookeeper version: ")
            .and_then(|version| version.split('-').next())
            .unwrap_or_default()
            .to_owned(),
    })
}

/// A session at one server.
#[derive(Debug)]
pub(super) struct ZookeeperSession {
    address: String,
    stream: Option<TcpStream>,
    id: i64,
    password: Vec<u8>,
    number: i32,
}

impl ZookeeperSession {
    pub(super) fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            stream: None,
            id: 0,
            password: vec![0; PASSWORD_BYTES],
            number: 0,
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Continues the session at another server.
    pub(super) fn move_to(&mut self, address: &str) {
        address.clone_into(&mut self.address);
        self.stream = None;
    }

    /// Creates the node that is written, unless it exists.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) async fn create(&mut self) -> Result<()> {
        let mut body = Vec::new();
        put_bytes(&mut body, NODE_PATH.as_bytes());
        put_bytes(&mut body, b"0");
        body.extend(1_i32.to_be_bytes());
        body.extend(ALL.to_be_bytes());
        put_bytes(&mut body, b"world");
        put_bytes(&mut body, b"anyone");
        body.extend(0_i32.to_be_bytes());
        match self.call(CREATE, &body).await? {
            0 | NODE_EXISTS => Ok(()),
            error => bail!("rejected with error {error}"),
        }
    }

    /// Sets the node, whatever its version.
    ///
    /// # Errors
    /// If the write is rejected, or not answered within `deadline`. Then the connection is dropped.
    pub(super) async fn write(&mut self, value: &str, deadline: Duration) -> Result<()> {
        let mut body = Vec::new();
        put_bytes(&mut body, NODE_PATH.as_bytes());
        put_bytes(&mut body, value.as_bytes());
        body.extend((-1_i32).to_be_bytes());
        let asked = tokio::time::timeout(deadline, self.call(SET_DATA, &body)).await;
        match asked.context("no response in time").flatten() {
            Ok(0) => Ok(()),
            Ok(error) => bail!("rejected with error {error}"),
            Err(error) => {
                self.stream = None;
                Err(error)
            }
        }
    }

    /// Sends a request and returns the error code of the response.
    async fn call(&mut self, operation: i32, body: &[u8]) -> Result<i32> {
        // Taken out while in use, so that a cancelled request also drops the connection.
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        self.number = self.number.wrapping_add(1) & i32::MAX;
        let mut frame = Vec::from(self.number.to_be_bytes());
        frame.extend(operation.to_be_bytes());
        frame.extend(body);
        send(&mut stream, &frame).await?;
        let answer = receive(&mut stream).await?;
        let mut answer = answer.as_slice();
        let (number, _zxid) = (take_i32(&mut answer)?, take_i64(&mut answer)?);
        if number != self.number {
            bail!("response {number} to request {}", self.number);
        }
        let error = take_i32(&mut answer)?;
        self.stream = Some(stream);
        Ok(error)
    }

    /// Opens or resumes the session.
    async fn connect(&mut self) -> Result<TcpStream> {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.address)).await;
        let mut stream = stream.context("no connection in time")??;
        stream.set_nodelay(true)?;
        let mut greeting = Vec::from(0_i32.to_be_bytes());
        greeting.extend(0_i64.to_be_bytes());
        greeting.extend(SESSION_MS.to_be_bytes());
        greeting.extend(self.id.to_be_bytes());
        put_bytes(&mut greeting, &self.password);
        greeting.push(0);
        send(&mut stream, &greeting).await?;
        let answer = receive(&mut stream).await?;
        let mut answer = answer.as_slice();
        let (_version, granted_ms) = (take_i32(&mut answer)?, take_i32(&mut answer)?);
        if granted_ms <= 0 {
            (self.id, self.password) = (0, vec![0; PASSWORD_BYTES]);
            bail!("the session has expired");
        }
        self.id = take_i64(&mut answer)?;
        self.password = take_bytes(&mut answer)?.to_vec();
        Ok(stream)
    }
}

fn put_bytes(frame: &mut Vec<u8>, bytes: &[u8]) {
    let length = i32::try_from(bytes.len()).expect("requests are short");
    frame.extend(length.to_be_bytes());
    frame.extend(bytes);
}

async fn send(stream: &mut TcpStream, frame: &[u8]) -> Result<()> {
    let mut framed = Vec::with_capacity(frame.len() + 4);
    put_bytes(&mut framed, frame);
    Ok(stream.write_all(&framed).await?)
}

async fn receive(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let length = stream.read_i32().await?;
    if !(0..=FRAME_BYTES).contains(&length) {
        bail!("invalid frame length of {length} bytes");
    }
    let mut frame = vec![0; usize::try_from(length)?];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

fn take<const N: usize>(frame: &mut &[u8]) -> Result<[u8; N]> {
    let (head, rest) = frame.split_first_chunk().context("truncated response")?;
    *frame = rest;
    Ok(*head)
}

fn take_i32(frame: &mut &[u8]) -> Result<i32> {
    Ok(i32::from_be_bytes(take(frame)?))
}

fn take_i64(frame: &mut &[u8]) -> Result<i64> {
    Ok(i64::from_be_bytes(take(frame)?))
}

fn take_bytes<'a>(frame: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = usize::try_from(take_i32(frame)?).context("a negative length")?;
    let (head, rest) = frame
        .split_at_checked(length)
        .context("truncated response")?;
    *frame = rest;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Answers a handshake with session 7, then each request with the next of `errors`, then
    /// disconnects.
    async fn server(listener: TcpListener, errors: Vec<i32>) -> Vec<Vec<u8>> {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = vec![receive(&mut stream).await.unwrap()];
        let mut welcome = Vec::from(0_i32.to_be_bytes());
        welcome.extend(4_000_i32.to_be_bytes());
        welcome.extend(7_i64.to_be_bytes());
        put_bytes(&mut welcome, &[9; PASSWORD_BYTES]);
        welcome.push(0);
        send(&mut stream, &welcome).await.unwrap();
        for error in errors {
            let question = receive(&mut stream).await.unwrap();
            let mut answer = question[..4].to_vec();
            answer.extend(1_i64.to_be_bytes());
            answer.extend(error.to_be_bytes());
            send(&mut stream, &answer).await.unwrap();
            heard.push(question);
        }
        heard
    }

    #[tokio::test]
    async fn a_session_writes_reports_errors_and_resumes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let first = tokio::spawn(server(listener, vec![NODE_EXISTS, 0, -101]));
        let mut session = ZookeeperSession::new(&address);
        let second = Duration::from_secs(10);
        session.create().await.unwrap();
        session.write("a", second).await.unwrap();
        assert!(session.write("b", second).await.is_err());
        let heard = first.await.unwrap();
        assert_eq!(heard[0].len(), 4 + 8 + 4 + 8 + 4 + PASSWORD_BYTES + 1);
        assert_eq!(&heard[2][4..8], &SET_DATA.to_be_bytes());
        // The server disconnected. The same session continues at the next one.
        assert!(session.write("c", second).await.is_err());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        session.move_to(&listener.local_addr().unwrap().to_string());
        let next = tokio::spawn(server(listener, vec![0]));
        session.write("d", second).await.unwrap();
        assert_eq!(&next.await.unwrap()[0][16..24], &7_i64.to_be_bytes());
    }

    #[test]
    fn a_short_answer_is_an_error() {
        assert!(take_i64(&mut [0_u8; 7].as_slice()).is_err());
        assert!(take_bytes(&mut [0, 0, 0, 9, 1].as_slice()).is_err());
        assert!(take_bytes(&mut [0xff; 8].as_slice()).is_err());
    }
}
