//! Connections of an emulated agent to a master.

use std::time::Duration;

use argosy_client::AgentUplink;
use argosy_client::uplink::Inbound;
use argosy_proto::v1;
use argosy_proto::v1::agents_client::AgentsClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Timeout of one attempt.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between a failed attempt and the next one.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Capacity of the queue of outgoing messages.
const OUTBOX: usize = 16;

pub(super) enum MasterRoute {
    /// To the leader, wherever it is, as real agents do.
    Leader(AgentUplink),
    /// Over this connection, whichever master is its peer.
    Fixed(Channel),
}

/// An open stream.
pub(super) struct Link {
    pub(super) sender: mpsc::Sender<v1::FromAgent>,
    inbound: InboundStream,
    address: String,
}

enum InboundStream {
    Leader(Inbound),
    Master(Streaming<v1::ToAgent>),
}

impl MasterRoute {
    /// Opens a stream. After a failure, pauses and returns `None`.
    pub(super) async fn open(&self, hello: v1::Hello) -> Option<Link> {
        match self {
            Self::Leader(uplink) => {
                // A failed search has paused already.
                let link = uplink.connect(hello, DIAL_TIMEOUT).await.ok()?;
                Some(Link {
                    sender: link.sender,
                    inbound: InboundStream::Leader(link.inbound),
                    address: link.address,
                })
            }
            Self::Fixed(channel) => {
                let opening = open(channel.clone(), hello);
                match tokio::time::timeout(DIAL_TIMEOUT, opening).await {
                    Ok(Ok(link)) => Some(link),
                    Ok(Err(_)) | Err(_) => {
                        tokio::time::sleep(RETRY_PAUSE).await;
                        None
                    }
                }
            }
        }
    }

    /// Reports that no message has arrived on the link for too long.
    pub(super) fn fell_silent(&self, link: &Link) {
        if let Self::Leader(uplink) = self {
            uplink.mark_silent(&link.address);
        }
    }
}

impl Link {
    /// Returns the next message, or `None` at the end.
    pub(super) async fn message(&mut self) -> Result<Option<v1::ToAgent>, Status> {
        match &mut self.inbound {
            InboundStream::Leader(inbound) => inbound.message().await,
            InboundStream::Master(stream) => stream.message().await,
        }
    }
}

async fn open(channel: Channel, hello: v1::Hello) -> Result<Link, Status> {
    let (sender, outbox) = mpsc::channel(OUTBOX);
    let first = v1::FromAgent {
        message: Some(v1::from_agent::Message::Hello(hello)),
    };
    sender
        .try_send(first)
        .expect("the outbox is new and has room for one");
    let mut client = AgentsClient::new(channel);
    let response = client.connect(ReceiverStream::new(outbox)).await?;
    Ok(Link {
        sender,
        inbound: InboundStream::Master(response.into_inner()),
        address: String::new(),
    })
}
