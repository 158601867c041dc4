//! The stream of an agent to the leader.
//!
//! Opens it and nothing more: what is said on it, and when to open the next, the agent decides.

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::agents_client::AgentsClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

use crate::connector::{Connector, LEADER_HEADER, MESSAGE_BYTES, Repeat};
use crate::failure::CallError;

/// Messages that wait to be sent. When full, the agent's sending waits: what is unsent is in its
/// journal anyway.
const OUTBOX: usize = 256;

/// Metadata with which a client asks for the leader's address instead of a forwarded stream.
const REFER: &str = "argosy-refer";

/// Opens streams to the leader, one after the other.
#[derive(Clone)]
pub struct AgentUplink {
    connector: Connector,
}

/// One open stream.
pub struct Uplink {
    /// To the master; closed when the stream has ended.
    pub sender: mpsc::Sender<v1::FromAgent>,
    /// From the master.
    pub inbound: Inbound,
    /// API address of the master at the other end.
    pub address: String,
}

impl AgentUplink {
    /// Uses the connections of `connector`.
    #[must_use]
    pub fn new(connector: Connector) -> Self {
        Self { connector }
    }

    /// Opens a stream, `hello` first, at the leader. Another master refers to the leader; only if the leader does not
    /// answer then, the stream is forwarded. Gives up after `deadline`; a search that fails has cost pauses of up to a
    /// second, so calling again at once is fine.
    ///
    /// # Errors
    /// [`CallError`] with what each master said. A refusal *on* the stream is a message of it.
    pub async fn connect(&self, hello: v1::Hello, deadline: Duration) -> Result<Uplink, CallError> {
        let first = v1::FromAgent {
            message: Some(v1::from_agent::Message::Hello(hello)),
        };
        let is_referred = Arc::new(AtomicBool::new(false));
        // A hello may be repeated: a new one drops the former link.
        let answer = self
            .connector
            .call(deadline, Repeat::Always, |channel, _| {
                let first = first.clone();
                let is_referred = Arc::clone(&is_referred);
                async move {
                    let (sender, outbox) = mpsc::channel(OUTBOX);
                    sender
                        .try_send(first)
                        .expect("the outbox is new and has room for one");
                    let mut client = AgentsClient::new(channel)
                        .max_decoding_message_size(MESSAGE_BYTES)
                        .max_encoding_message_size(MESSAGE_BYTES);
                    let mut request = Request::new(ReceiverStream::new(outbox));
                    if !is_referred.load(Ordering::Relaxed) {
                        let value = MetadataValue::from_static("1");
                        request.metadata_mut().insert(REFER, value);
                    }
                    let response = client.connect(request).await.inspect_err(|status| {
                        let names_leader = status.metadata().contains_key(LEADER_HEADER);
                        is_referred.fetch_or(names_leader, Ordering::Relaxed);
                    })?;
                    Ok(with_sender(response, sender))
                }
            })
            .await?;
        let (sender, stream) = answer.body;
        let address = answer.address;
        Ok(Uplink {
            sender,
            inbound: Inbound {
                stream,
                epoch: 0,
                replaced: Box::pin(self.connector.replaced(None, address.clone())),
                connector: self.connector.clone(),
                address: address.clone(),
            },
            address,
        })
    }

    /// To be called when a stream fell silent: no connection that is open now is used again.
    pub fn fell_silent(&self, address: &str) {
        self.connector.fell_silent(address);
    }
}

/// What the master says on one stream.
pub struct Inbound {
    stream: Streaming<v1::ToAgent>,
    /// The newest that was heard on it.
    epoch: u64,
    // Kept from message to message, so that a busy stream is no reason never to listen.
    replaced: Pin<Box<dyn Future<Output = String> + Send>>,
    connector: Connector,
    address: String,
}

impl Inbound {
    /// The next message; `None` at the end. A stream whose reign is over ends early, if another master says
    /// so: the connection to a leader that is frozen or cut off stays open. May be dropped at any time.
    ///
    /// # Errors
    /// UNAVAILABLE if another master leads by now; otherwise the status with which the stream broke.
    pub async fn message(&mut self) -> Result<Option<v1::ToAgent>, Status> {
        let message = tokio::select! {
            biased;
            message = self.stream.message() => message?,
            leader = &mut self.replaced => {
                // Whoever reads on is told the same.
                self.replaced = Box::pin(std::future::ready(leader.clone()));
                return Err(Status::unavailable(leader));
            }
        };
        let epoch = message.as_ref().map_or(0, |message| message.epoch);
        if epoch > self.epoch {
            self.epoch = epoch;
            let replaced = self.connector.replaced(Some(epoch), self.address.clone());
            self.replaced = Box::pin(replaced);
        }
        Ok(message)
    }
}

type Ends = (mpsc::Sender<v1::FromAgent>, Streaming<v1::ToAgent>);

fn with_sender(
    response: tonic::Response<Streaming<v1::ToAgent>>,
    sender: mpsc::Sender<v1::FromAgent>,
) -> tonic::Response<Ends> {
    let (metadata, inbound, extensions) = response.into_parts();
    tonic::Response::from_parts(metadata, (sender, inbound), extensions)
}
