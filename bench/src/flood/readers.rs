//! Readers on many connections. Each requests the next page as soon as the last one has arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use argosy_proto::transport::Connection;
use argosy_proto::v1;
use argosy_testbed::transport::ClientTransport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tonic::Code;

use crate::cluster::{CONNECT_TIMEOUT, MasterClient};

/// Calls in flight on one gRPC connection.
const CALLS: usize = 20;
/// Pause after a failed connection.
const PAUSE: Duration = Duration::from_millis(100);
/// Largest message that is accepted.
const MESSAGE_BYTES: usize = 16 << 20;

#[derive(Default)]
struct ReadCounts {
    read: AtomicU64,
    refused: AtomicU64,
}

/// Running readers, which end on drop.
pub(super) struct Readers {
    _tasks: JoinSet<()>,
    counts: Arc<ReadCounts>,
}

impl Readers {
    /// Starts readers on this number of connections.
    pub(super) fn start(transport: &ClientTransport, api: &str, connections: u32) -> Self {
        let counts = Arc::new(ReadCounts::default());
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            if number % 2 == 0 {
                let client = MasterClient::new(transport.channel(api, CONNECT_TIMEOUT));
                let client = client.max_decoding_message_size(MESSAGE_BYTES);
                for _ in 0..CALLS {
                    tasks.spawn(by_grpc(client.clone(), Arc::clone(&counts)));
                }
            } else {
                let (transport, api) = (transport.clone(), api.to_owned());
                tasks.spawn(by_http(transport, api, Arc::clone(&counts)));
            }
        }
        Self {
            _tasks: tasks,
            counts,
        }
    }

    /// Stops the readers. Returns the pages read and the reads rejected.
    pub(super) fn end(self) -> (u64, u64) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (count(&self.counts.read), count(&self.counts.refused))
    }
}

async fn by_grpc(mut client: MasterClient, counts: Arc<ReadCounts>) {
    let mut token = String::new();
    loop {
        let request = v1::ListRequest {
            page_size: 10_000,
            page_token: std::mem::take(&mut token),
            include_ended: true,
            ..Default::default()
        };
        match client.list_tasks(request).await {
            Ok(page) => {
                counts.read.fetch_add(1, Ordering::Relaxed);
                token = page.into_inner().next_page_token;
            }
            Err(status) if status.code() == Code::ResourceExhausted => {
                counts.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn by_http(transport: ClientTransport, api: String, counts: Arc<ReadCounts>) {
    loop {
        // The next attempt shows why it ended.
        let _ = on_one_connection(&transport, &api, &counts).await;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn on_one_connection(
    transport: &ClientTransport,
    api: &str,
    counts: &ReadCounts,
) -> Result<()> {
    let mut stream = transport.dial_http(api).await?;
    let question =
        format!("GET /v1/tasks?include_ended=true&page_size=10000 HTTP/1.1\r\nhost: {api}\r\n\r\n");
    let mut bytes = Vec::new();
    loop {
        stream.write_all(question.as_bytes()).await?;
        stream.flush().await?;
        bytes.clear();
        let head = loop {
            if let Some(end) = find(&bytes, b"\r\n\r\n") {
                break end + 4;
            }
            more(&mut stream, &mut bytes).await?;
        };
        let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
        let length: usize =
            header(&text, "content-length").context("the answer has no content-length")?;
        while bytes.len() < head + length {
            more(&mut stream, &mut bytes).await?;
        }
        let is_good = text.starts_with("http/1.1 200");
        let count = if is_good {
            &counts.read
        } else {
            &counts.refused
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

async fn more(stream: &mut Connection, bytes: &mut Vec<u8>) -> Result<()> {
    let read = stream.read_buf(bytes).await?;
    anyhow::ensure!(read > 0, "the connection has ended");
    Ok(())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

fn header(head: &str, name: &str) -> Option<usize> {
    let line = head.lines().find_map(|line| line.strip_prefix(name))?;
    line.strip_prefix(':')?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_parsed() {
        let head =
            "http/1.1 200 ok\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n";
        assert_eq!(header(head, "content-length"), Some(17));
        assert_eq!(header(head, "content"), None);
        assert_eq!(find(head.as_bytes(), b"\r\n\r\n"), Some(head.len() - 4));
    }
}
