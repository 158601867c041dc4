//! The operator's calls, typed, with deadlines and retries.
//!
//! A write carries a request id, so that a repeat changes nothing; a read may always be repeated.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use argosy_proto::trace;
use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient as Stub;
use argosy_proto::versions::{self, VersionRange};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::connector::{
    Connector, DEFAULT_DEADLINE, MESSAGE_BYTES, RepeatPolicy, check_size, random_seed,
};
use crate::failure::{CallError, MasterRejection};
use crate::watch::Watch;

/// Capacity for batches to be sent on a write stream. When it is full, `send` waits.
const WRITE_CAPACITY: usize = 64;

/// Calls of `argosy.v1.Operator`. Cheap to clone; clones share connections and request ids.
#[derive(Clone)]
pub struct OperatorClient {
    connector: Connector,
    deadline: Duration,
    requests: Arc<RequestIds>,
}

struct RequestIds {
    prefix: u64,
    next: AtomicU64,
}

macro_rules! reads {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $reply:ty;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// [`CallError`]; a read is repeated until the deadline.
        pub async fn $name(&self, request: $request) -> Result<$reply, CallError> {
            self.ask(RepeatPolicy::Always, request, |mut stub, request| async move { stub.$name(request).await }).await
        }
    )*};
}

macro_rules! changes {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $reply:ty;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// [`CallError`]. The call is sent once. If it is unanswered, check the state before a
        /// retry.
        pub async fn $name(&self, request: $request) -> Result<$reply, CallError> {
            self.ask(RepeatPolicy::OnlyUnsent, request, |mut stub, request| async move { stub.$name(request).await }).await
        }
    )*};
}

impl OperatorClient {
    /// Creates a client on the connections of `connector`; each call has [`DEFAULT_DEADLINE`].
    #[must_use]
    pub fn new(connector: Connector) -> Self {
        let requests = RequestIds {
            prefix: random_seed(),
            next: AtomicU64::new(1),
        };
        Self {
            connector,
            deadline: DEFAULT_DEADLINE,
            requests: Arc::new(requests),
        }
    }

    /// Returns the same client with another deadline for each call.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self {
            deadline,
            ..self.clone()
        }
    }

    /// Returns the connector of this client.
    #[must_use]
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    reads! {
        /// Returns a summary of the cluster.
        get_cluster(v1::GetClusterRequest) -> v1::Cluster;
        /// Returns one page of agents.
        list_agents(v1::ListRequest) -> v1::AgentPage;
        /// Returns one agent, by id, unique prefix or name.
        get_agent(v1::GetRequest) -> v1::Agent;
        /// Returns one page of frameworks.
        list_frameworks(v1::ListRequest) -> v1::FrameworkPage;
        /// Returns one framework.
        get_framework(v1::GetRequest) -> v1::Framework;
        /// Returns one page of tasks.
        list_tasks(v1::ListRequest) -> v1::TaskPage;
        /// Returns one task.
        get_task(v1::GetRequest) -> v1::Task;
        /// Returns one page of open offers.
        list_offers(v1::ListRequest) -> v1::OfferPage;
        /// Returns the rules and groups of access.
        get_policy(v1::GetPolicyRequest) -> v1::Policy;
        /// Returns one page of tokens, without their secrets.
        list_tokens(v1::ListRequest) -> v1::TokenPage;
        /// Returns one page of revoked keys.
        list_revoked_keys(v1::ListRequest) -> v1::RevokedKeyPage;
        /// Returns one page of limits of rate.
        list_rate_limits(v1::ListRequest) -> v1::SubjectLimitPage;
        /// Returns the names of secrets, without their values.
        list_secrets(v1::ListSecretsRequest) -> v1::SecretList;
        /// Explains why a task or framework does not run.
        explain(v1::ExplainRequest) -> v1::Explanation;
        /// Issues tickets, with which an agent accepts this caller.
        issue_tickets(v1::IssueTicketsRequest) -> v1::IssuedTickets;
    }

    changes! {
        /// Adds a master to the group.
        join_master(v1::JoinMasterRequest) -> v1::MembershipReply;
        /// Removes a master from the group.
        remove_master(v1::RemoveMasterRequest) -> v1::MembershipReply;
        /// Transfers leadership to another master.
        transfer_leader(v1::TransferLeaderRequest) -> v1::MembershipReply;
        /// Changes the log filter of the master that answers, or of an agent.
        set_log_filter(v1::SetLogFilterRequest) -> v1::LogFilter;
        /// Raises the feature level of the cluster.
        raise_level(v1::RaiseLevelRequest) -> v1::RaiseLevelReply;
    }

    /// Returns a request id that no other batch has.
    #[must_use]
    pub fn new_request_id(&self) -> String {
        let number = self.requests.next.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}-{number}", self.requests.prefix)
    }

    /// Changes the cluster, and repeats the batch until the deadline. A batch without a request id
    /// gets one; to repeat it manually after an error, set a request id.
    ///
    /// # Errors
    /// [`CallError`] for the batch; the reply contains the outcome of each operation.
    pub async fn write(&self, mut batch: v1::WriteBatch) -> Result<v1::WriteReply, CallError> {
        if batch.request_id.is_empty() {
            batch.request_id = self.new_request_id();
        }
        self.ask(RepeatPolicy::Always, batch, |mut stub, batch| async move {
            stub.write_one(batch).await
        })
        .await
    }

    /// Performs one operation.
    ///
    /// # Errors
    /// [`CallError`], also when the operation itself was rejected.
    pub async fn write_operation(
        &self,
        operation: v1::write_operation::Operation,
    ) -> Result<v1::Revision, CallError> {
        let batch = v1::WriteBatch {
            operations: vec![v1::WriteOperation {
                operation: Some(operation),
            }],
            ..Default::default()
        };
        let reply = self.write(batch).await?;
        match reply.outcomes.into_iter().next() {
            Some(outcome) if !outcome.done => {
                Err(CallError::Refused(MasterRejection::of_operation(outcome)))
            }
            Some(_) | None => Ok(reply.revision.unwrap_or_default()),
        }
    }

    /// Opens a stream of batches, for many changes in a row. It ends with the leader; batches that
    /// were sent and not answered must then be sent again under the same request ids.
    ///
    /// # Errors
    /// [`CallError`] if no master accepts it.
    pub async fn write_stream(&self) -> Result<WriteStream, CallError> {
        let answer = self
            .connector
            .call(
                self.deadline,
                RepeatPolicy::Always,
                |channel, _| async move {
                    let (sender, outbox) = mpsc::channel(WRITE_CAPACITY);
                    let mut request = Request::new(ReceiverStream::new(outbox));
                    self.add_metadata(request.metadata_mut());
                    let response = stub(channel).write(request).await?;
                    let (metadata, replies, extensions) = response.into_parts();
                    Ok(Response::from_parts(
                        metadata,
                        WriteStream { sender, replies },
                        extensions,
                    ))
                },
            )
            .await?;
        Ok(answer.body)
    }

    /// Follows changes of records. The stream begins when its first event is requested, and
    /// continues at another master if necessary.
    #[must_use]
    pub fn watch(&self, request: v1::WatchRequest) -> Watch {
        Watch::new(self.connector.clone(), self.deadline, request)
    }

    /// Begins to receive a copy of the registry as a file, from the first master that accepts. The
    /// deadline of this client covers the begin, not the whole stream.
    ///
    /// # Errors
    /// [`CallError`] if no master begins.
    pub async fn save_snapshot(
        &self,
        request: v1::SaveSnapshotRequest,
    ) -> Result<Streaming<v1::SnapshotBlock>, CallError> {
        let call = |channel, _limit| {
            let mut request = Request::new(request);
            self.add_metadata(request.metadata_mut());
            async move { stub(channel).save_snapshot(request).await }
        };
        let answer = self
            .connector
            .call(self.deadline, RepeatPolicy::Always, call);
        Ok(answer.await?.body)
    }

    fn add_metadata(&self, metadata: &mut MetadataMap) {
        let own = VersionRange::OWN.header();
        let own = own.try_into().expect("digits and a hyphen are a value");
        metadata.insert(versions::HEADER, own);
        self.connector.authorize(metadata);
        trace::add_to_call(metadata);
    }

    async fn ask<Q, R, F, Fut>(&self, repeat: RepeatPolicy, body: Q, ask: F) -> Result<R, CallError>
    where
        Q: Clone + Message,
        F: Fn(Stub<Channel>, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        check_size(&body).map_err(CallError::Refused)?;
        let call = |channel, limit| {
            let mut request = Request::new(body.clone());
            request.set_timeout(limit);
            self.add_metadata(request.metadata_mut());
            ask(stub(channel), request)
        };
        Ok(self.connector.call(self.deadline, repeat, call).await?.body)
    }
}

fn stub(channel: Channel) -> Stub<Channel> {
    Stub::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES)
}

/// An open stream of batches; one reply for each, in order.
pub struct WriteStream {
    sender: mpsc::Sender<v1::WriteBatch>,
    replies: Streaming<v1::WriteReply>,
}

/// The write stream has ended; unanswered batches may have taken effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stream of writes has ended: {0}")]
pub struct WriteStreamEnded(pub String);

impl WriteStream {
    /// Sends a batch; waits while too many are unsent.
    ///
    /// # Errors
    /// [`WriteStreamEnded`] when the stream has ended.
    pub async fn send(&self, batch: v1::WriteBatch) -> Result<(), WriteStreamEnded> {
        let ended = |_| WriteStreamEnded("the master closed it".into());
        self.sender.send(batch).await.map_err(ended)
    }

    /// Returns the reply to the oldest batch without one.
    ///
    /// # Errors
    /// [`WriteStreamEnded`] with the master's reason.
    pub async fn next(&mut self) -> Result<v1::WriteReply, WriteStreamEnded> {
        match self.replies.message().await {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(WriteStreamEnded("the master closed it".into())),
            Err(status) => Err(WriteStreamEnded(
                MasterRejection::from_status(&status).message,
            )),
        }
    }

    /// Splits the stream into its two ends, for a task that sends and one that reads.
    #[must_use]
    pub fn split(self) -> (mpsc::Sender<v1::WriteBatch>, Streaming<v1::WriteReply>) {
        (self.sender, self.replies)
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::access::TokenId;
    use tokio_stream::StreamExt as _;
    use tonic::service::{InterceptorLayer, Routes};
    use tonic::transport::Server;

    use super::*;
    use crate::connector::{Connection, ConnectorConfig, Dialer, PeerIdentity, TokenSecret};
    use crate::masters::Masters;

    #[tokio::test]
    async fn a_stream_of_batches_has_the_metadata_of_all_calls() {
        let (seen, mut received) = mpsc::channel(1);
        let refuse = move |request: Request<()>| {
            let _ = seen.try_send(request.metadata().clone());
            Err::<Request<()>, _>(Status::failed_precondition("recorded"))
        };
        let dialer = Dialer::new(move |_, _| {
            let (near, far) = tokio::io::duplex(1 << 16);
            let incoming = tokio_stream::once(Ok::<_, std::io::Error>(far));
            let incoming = incoming.chain(tokio_stream::pending());
            let server = Server::builder()
                .layer(InterceptorLayer::new(refuse.clone()))
                .add_routes(Routes::default());
            tokio::spawn(server.serve_with_incoming(incoming));
            let peer = PeerIdentity::authenticated("master/m1".parse().unwrap(), None);
            async move { Ok((Connection::new(near), peer)) }
        });
        let token = TokenSecret {
            id: TokenId(7),
            secret: [5; 32],
        };
        let dialer = dialer.with_token(&token);
        let connector =
            Connector::new("m1:1".parse().unwrap(), ConnectorConfig { dialer, seed: 3 });
        assert!(OperatorClient::new(connector).write_stream().await.is_err());
        let metadata = received.recv().await.unwrap();
        for name in ["authorization", versions::HEADER] {
            assert!(metadata.contains_key(name), "{name}: {metadata:?}");
        }
    }

    #[tokio::test]
    async fn a_call_above_the_size_of_a_message_is_refused_and_not_sent() {
        let masters = Masters::new(["127.0.0.1:1"]).unwrap();
        let connector = Connector::new(masters, ConnectorConfig::default());
        let client = OperatorClient::new(connector.failing_if_none_listens());
        let request = v1::GetRequest {
            id: "x".repeat(MESSAGE_BYTES),
            ..Default::default()
        };
        let refused = client.get_task(request).await;
        assert!(
            matches!(&refused, Err(CallError::Refused(why)) if why.reason == "message-too-large"),
            "{refused:?}"
        );
    }
}
