//! The stream of an agent to the leader.
//!
//! This module only opens it: the agent decides which messages it sends, and when to open the next
//! stream.

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

use crate::connector::{Connector, LEADER_HEADER, MESSAGE_BYTES, RepeatPolicy};
use crate::failure::CallError;

/// Capacity for messages to be sent. When it is full, the agent's sending waits: unsent messages
/// are in its journal anyway.
const OUTBOX: usize = 256;

/// Metadata with which a client requests the leader's address instead of a forwarded stream.
const REFER: &str = "argosy-refer";

/// Opens streams to the leader, one after the other.
#[derive(Clone)]
pub struct AgentUplink {
    connector: Connector,
}

/// One open stream.
pub struct Uplink {
    /// The channel to the master; closed when the stream has ended.
    pub sender: mpsc::Sender<v1::FromAgent>,
    /// The messages from the master.
    pub inbound: Inbound,
    /// API address of the connected master.
    pub address: String,
}

impl AgentUplink {
    /// Creates an uplink on the connections of `connector`.
    #[must_use]
    pub fn new(connector: Connector) -> Self {
        Self { connector }
    }

    /// Opens a stream at the leader, with `hello` as its first message. Another master refers to
    /// the leader; the stream is forwarded only if the leader does not answer then. Times out after
    /// `deadline`. A failed search has included pauses of up to a second, so the caller may retry
    /// immediately.
    ///
    /// # Errors
    /// [`CallError`] with the failure of each master. A rejection *on* the stream is one of its
    /// messages.
    pub async fn connect(&self, hello: v1::Hello, deadline: Duration) -> Result<Uplink, CallError> {
        let first = v1::FromAgent {
            message: Some(v1::from_agent::Message::Hello(hello)),
        };
        let is_referred = Arc::new(AtomicBool::new(false));
        // A hello may be repeated: a new one drops the former link.
        let answer = self
            .connector
            .call(deadline, RepeatPolicy::Always, |channel, _| {
                let first = first.clone();
                let is_referred = Arc::clone(&is_referred);
                let connector = self.connector.clone();
                async move {
                    let (sender, outbox) = mpsc::channel(OUTBOX);
                    sender
                        .try_send(first)
                        .expect("the outbox is new and has room for one");
                    let mut client = AgentsClient::new(channel)
                        .max_decoding_message_size(MESSAGE_BYTES)
                        .max_encoding_message_size(MESSAGE_BYTES);
                    let mut request = Request::new(ReceiverStream::new(outbox));
                    connector.authorize(request.metadata_mut());
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
                replaced: Box::pin(self.connector.until_replaced(None, address.clone())),
                connector: self.connector.clone(),
                address: address.clone(),
            },
            address,
        })
    }

    /// Records that a stream fell silent: no connection that is open now is used again.
    pub fn mark_silent(&self, address: &str) {
        self.connector.mark_silent(address);
    }
}

/// The master's messages on one stream.
pub struct Inbound {
    stream: Streaming<v1::ToAgent>,
    /// The newest epoch that was received on it.
    epoch: u64,
    // Kept across messages, so that a busy stream does not prevent the watch.
    replaced: Pin<Box<dyn Future<Output = String> + Send>>,
    connector: Connector,
    address: String,
}

impl Inbound {
    /// Returns the next message; `None` at the end. A stream whose epoch has ended ends early, if
    /// another master reports it: the connection to a leader that is frozen or cut off stays open.
    /// May be dropped at any time.
    ///
    /// # Errors
    /// UNAVAILABLE if another master leads by now; otherwise the status with which the stream
    /// broke.
    pub async fn message(&mut self) -> Result<Option<v1::ToAgent>, Status> {
        let message = tokio::select! {
            biased;
            message = self.stream.message() => message?,
            leader = &mut self.replaced => {
                // A caller that continues to read receives the same error.
                self.replaced = Box::pin(std::future::ready(leader.clone()));
                return Err(Status::unavailable(leader));
            }
        };
        let epoch = message.as_ref().map_or(0, |message| message.epoch);
        if epoch > self.epoch {
            self.epoch = epoch;
            let replaced = self
                .connector
                .until_replaced(Some(epoch), self.address.clone());
            self.replaced = Box::pin(replaced);
        }
        Ok(message)
    }
}

type StreamHalves = (mpsc::Sender<v1::FromAgent>, Streaming<v1::ToAgent>);

fn with_sender(
    response: tonic::Response<Streaming<v1::ToAgent>>,
    sender: mpsc::Sender<v1::FromAgent>,
) -> tonic::Response<StreamHalves> {
    let (metadata, inbound, extensions) = response.into_parts();
    tonic::Response::from_parts(metadata, (sender, inbound), extensions)
}
