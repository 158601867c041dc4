//! The write calls of one client: the same small change on either side.
//!
//! It repeats nothing; the caller decides what an error means.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use argosy_client::OperatorClient;
use argosy_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use crate::cluster::{MasterAccess, MasterClient, etcd_wire};

/// Bytes of a value, on both sides.
pub(crate) const VALUE_BYTES: usize = 128;
/// Keys that one client of etcd writes to in turn.
const KEYS: u64 = 1_000;

/// The target of a write.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Number of the client, part of its keys at etcd.
    pub(crate) client: usize,
    /// Agents whose attribute is set, one operation each; a single one except for batches.
    pub(crate) agents: Arc<[String]>,
}

/// A method of writing. Clones share a connection.
#[derive(Clone)]
pub(crate) enum Writer {
    /// A unary Put at etcd.
    Put(etcd_wire::kv_client::KvClient<Channel>),
    /// A transaction of this number of puts at etcd.
    Transaction(etcd_wire::kv_client::KvClient<Channel>, usize),
    /// A unary WriteOne.
    Unary(MasterClient),
    /// A message on a stream of batches, shared with other clients.
    Stream(Arc<BatchStream>),
}

impl Writer {
    /// Returns a writer of puts at etcd, over this connection.
    pub(crate) fn put(channel: Channel) -> Self {
        Self::Put(etcd_wire::kv_client::KvClient::new(channel))
    }

    /// Returns a writer of unary calls to a master, over this connection.
    pub(crate) fn unary(channel: Channel) -> Self {
        Self::Unary(MasterClient::new(channel))
    }

    /// Writes once; `serial` makes each value distinct.
    ///
    /// # Errors
    /// If it was rejected or not answered.
    pub(crate) async fn write(&self, target: &Target, serial: u64) -> Result<()> {
        match self {
            Self::Put(client) => {
                client.clone().put(put(target, serial)).await?;
            }
            Self::Transaction(client, puts) => {
                let first = serial * *puts as u64;
                let operation = |at| etcd_wire::RequestOp {
                    request: Some(etcd_wire::request_op::Request::RequestPut(put(
                        target,
                        first + at,
                    ))),
                };
                let success = (0..*puts as u64).map(operation).collect();
                let reply = client
                    .clone()
                    .txn(etcd_wire::TxnRequest { success })
                    .await?
                    .into_inner();
                if !reply.succeeded {
                    bail!("a transaction did nothing");
                }
            }
            Self::Unary(client) => done(
                client
                    .clone()
                    .write_one(batch(target, serial))
                    .await?
                    .get_ref(),
            )?,
            Self::Stream(lane) => done(&lane.write(batch(target, serial)).await?)?,
        }
        Ok(())
    }

    /// Writes once, with the timeout `limit`, which is also sent to the server.
    ///
    /// # Errors
    /// If it was rejected or not answered in time.
    pub(crate) async fn write_within(
        &self,
        target: &Target,
        serial: u64,
        limit: Duration,
    ) -> Result<()> {
        let write = async {
            match self {
                Self::Put(client) => {
                    client
                        .clone()
                        .put(limited(put(target, serial), limit))
                        .await?;
                }
                Self::Unary(client) => {
                    let reply = client
                        .clone()
                        .write_one(limited(batch(target, serial), limit))
                        .await?;
                    done(reply.get_ref())?;
                }
                Self::Transaction(..) | Self::Stream(_) => self.write(target, serial).await?,
            }
            Ok(())
        };
        tokio::time::timeout(limit, write)
            .await
            .context("no answer in time")?
    }
}

fn limited<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

fn value(serial: u64) -> String {
    format!("{serial:0>VALUE_BYTES$}")
}

fn put(target: &Target, serial: u64) -> etcd_wire::PutRequest {
    etcd_wire::PutRequest {
        key: format!("client-{}/{}", target.client, serial % KEYS).into_bytes(),
        value: value(serial).into_bytes(),
    }
}

/// Without a request id: each change is distinct, so results need not be remembered.
fn batch(target: &Target, serial: u64) -> v1::WriteBatch {
    let operation = |agent: &String| v1::WriteOperation {
        operation: Some(v1::write_operation::Operation::SetAttribute(
            v1::SetAttribute {
                agent_id: agent.clone(),
                name: "bench".into(),
                value: value(serial),
            },
        )),
    };
    v1::WriteBatch {
        operations: target.agents.iter().map(operation).collect(),
        ..Default::default()
    }
}

/// Returns an error if an operation of a batch was refused.
pub(crate) fn done(reply: &v1::WriteReply) -> Result<()> {
    match reply.outcomes.iter().find(|outcome| !outcome.done) {
        Some(refused) => bail!("refused: {} ({})", refused.message, refused.code),
        None if reply.outcomes.is_empty() => bail!("an answer without outcomes"),
        None => Ok(()),
    }
}

/// One stream of batches, shared by clients: replies arrive in the order of the batches.
pub(crate) struct BatchStream {
    // A lock, since many clients send: a batch and its waiter are queued together. Never held
    // across an await.
    ends: Mutex<StreamEnds>,
    _reader: AbortOnDropHandle<()>,
}

struct StreamEnds {
    /// Full means more clients than the capacity of the stream: an error, not a wait.
    sender: mpsc::Sender<v1::WriteBatch>,
    /// Waiters of the batches in flight, limited by the clients, each of which waits for its own.
    waiting: Arc<Mutex<VecDeque<oneshot::Sender<v1::WriteReply>>>>,
}

impl BatchStream {
    /// Opens a connection and a stream to the leader with the client library.
    ///
    /// # Errors
    /// If no master accepts it.
    pub(crate) async fn open(masters: &MasterAccess, target: &Target) -> Result<Self> {
        let client = OperatorClient::new(masters.connector());
        // The first answer names the leader, so that the stream goes there without a hop.
        done(&client.write(batch(target, 0)).await?)?;
        let (sender, replies) = client.write_stream().await?.split();
        let waiting = Arc::new(Mutex::new(VecDeque::new()));
        let reader = tokio::spawn(read(replies, waiting.clone()));
        Ok(Self {
            ends: Mutex::new(StreamEnds { sender, waiting }),
            _reader: AbortOnDropHandle::new(reader),
        })
    }

    async fn write(&self, batch: v1::WriteBatch) -> Result<v1::WriteReply> {
        let (waiter, reply) = oneshot::channel();
        {
            let ends = self.ends.lock().expect("no holder panics");
            let permit = ends
                .sender
                .try_reserve()
                .context("the stream is full or has ended")?;
            ends.waiting
                .lock()
                .expect("no holder panics")
                .push_back(waiter);
            permit.send(batch);
        }
        reply.await.context("the stream has ended")
    }
}

async fn read(
    mut replies: Streaming<v1::WriteReply>,
    waiting: Arc<Mutex<VecDeque<oneshot::Sender<v1::WriteReply>>>>,
) {
    while let Ok(Some(reply)) = replies.message().await {
        let waiter = waiting.lock().expect("no holder panics").pop_front();
        if let Some(waiter) = waiter {
            // A client that has timed out needs no answer.
            let _ = waiter.send(reply);
        }
    }
    // Remaining waiters learn that no reply will arrive.
    waiting.lock().expect("no holder panics").clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_same_size_on_both_sides() {
        let target = Target {
            client: 7,
            agents: Arc::new(["agent-1".to_owned()]),
        };
        let put = put(&target, 1_234);
        assert_eq!(
            (put.key.as_slice(), put.value.len()),
            (&b"client-7/234"[..], VALUE_BYTES)
        );
        let batch = batch(&target, 1_234);
        let Some(v1::write_operation::Operation::SetAttribute(set)) =
            &batch.operations[0].operation
        else {
            panic!("another operation");
        };
        assert_eq!(
            (set.agent_id.as_str(), set.value.len()),
            ("agent-1", VALUE_BYTES)
        );
    }

    #[test]
    fn a_refused_operation_is_an_error() {
        let outcome = |done| v1::WriteOutcome {
            done,
            code: "unknown-agent".into(),
            message: "no".into(),
        };
        let reply = |outcomes| v1::WriteReply {
            revision: None,
            outcomes,
        };
        assert!(done(&reply(vec![outcome(true), outcome(true)])).is_ok());
        assert!(done(&reply(vec![outcome(true), outcome(false)])).is_err());
        assert!(done(&reply(Vec::new())).is_err());
    }
}
