//! A client's write of the same small value, at Argosy and at its peers.
//!
//! It repeats nothing: the caller decides what an error means.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient as Stub;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use super::zookeeper::ZookeeperSession;
use crate::cluster::etcd_wire;

/// Timeout of a write.
pub(super) const DEADLINE: Duration = Duration::from_secs(1);
/// Interval at which fresh writes are sent until one is answered.
pub(super) const WRITE_INTERVAL: Duration = Duration::from_millis(10);
/// Bytes of a value, the same for all systems.
const VALUE_BYTES: usize = 128;
/// Pause before a rejected or closed session tries again.
const RETRY_DELAY: Duration = Duration::from_millis(5);

/// The store that is written to.
#[derive(Debug, Clone)]
pub(super) enum StoreKind {
    /// An attribute of this agent.
    Argosy { agent: String },
    /// A key.
    Etcd,
    /// A node.
    Zookeeper,
}

/// A writer at one member.
pub(super) enum Writer {
    Argosy { channel: Channel, agent: String },
    Etcd { channel: Channel },
    Zookeeper { session: ZookeeperSession },
}

/// Returns a channel that connects by itself, and again after a break.
pub(super) fn channel(address: &str) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("invalid address {address}"))?;
    Ok(endpoint.tcp_nodelay(true).connect_timeout(DEADLINE))
}

impl Writer {
    /// Returns a writer at this member with its own connection.
    ///
    /// # Errors
    /// If the address is invalid.
    pub(super) fn at(address: &str, store: &StoreKind) -> Result<Self> {
        Ok(match store {
            StoreKind::Argosy { agent } => Self::Argosy {
                channel: channel(address)?.connect_lazy(),
                agent: agent.clone(),
            },
            StoreKind::Etcd => Self::Etcd {
                channel: channel(address)?.connect_lazy(),
            },
            StoreKind::Zookeeper => Self::Zookeeper {
                session: ZookeeperSession::new(address),
            },
        })
    }

    /// Moves to the member of another writer.
    pub(super) fn move_to(&mut self, other: &Self) {
        match (self, other) {
            (Self::Argosy { channel, .. }, Self::Argosy { channel: next, .. })
            | (Self::Etcd { channel }, Self::Etcd { channel: next }) => *channel = next.clone(),
            (Self::Zookeeper { session }, Self::Zookeeper { session: next }) => {
                session.move_to(next.address());
            }
            (Self::Argosy { .. } | Self::Etcd { .. } | Self::Zookeeper { .. }, _) => {
                unreachable!("members of one cluster are written to in one way")
            }
        }
    }

    /// Returns another client of the same member, on the same connection if that can carry
    /// concurrent writes.
    pub(super) fn new_client(&self) -> Self {
        match self {
            Self::Argosy { channel, agent } => Self::Argosy {
                channel: channel.clone(),
                agent: agent.clone(),
            },
            Self::Etcd { channel } => Self::Etcd {
                channel: channel.clone(),
            },
            Self::Zookeeper { session } => Self::Zookeeper {
                session: ZookeeperSession::new(session.address()),
            },
        }
    }

    /// Writes once. `serial` makes the values differ.
    ///
    /// # Errors
    /// If the write was rejected or not answered in time.
    pub(super) async fn write(&mut self, serial: u64) -> Result<()> {
        let value = value(serial);
        match self {
            Self::Argosy { channel, agent } => {
                set_attribute(channel.clone(), agent.clone(), value).await
            }
            Self::Etcd { channel } => {
                let put = put(channel.clone(), value);
                tokio::time::timeout(DEADLINE, put)
                    .await
                    .context("no response in time")?
            }
            Self::Zookeeper { session } => session.write(&value, DEADLINE).await,
        }
    }

    /// Connects, so that a later write need not.
    ///
    /// # Errors
    /// If the member is not reached or rejects a write.
    pub(super) async fn connect(&mut self) -> Result<()> {
        if let Self::Zookeeper { session } = self {
            session.create().await?;
        }
        self.write(0).await
    }

    /// Sends fresh writes until one is answered. At Argosy and etcd it sends one every ten
    /// milliseconds, even while the previous one is in flight. A session of ZooKeeper, which
    /// answers writes in order, sends the next one as soon as the previous one was rejected or the
    /// session closed.
    async fn until_answered(mut self) -> Instant {
        if let Self::Zookeeper { .. } = &self {
            for serial in 1.. {
                if self.write(serial).await.is_ok() {
                    break;
                }
                tokio::time::sleep(RETRY_DELAY).await;
            }
            return Instant::now();
        }
        let mut writes = JoinSet::new();
        let mut next = Instant::now();
        for serial in 1.. {
            let mut fresh = self.new_client();
            writes.spawn(async move { fresh.write(serial).await.ok().map(|()| Instant::now()) });
            next += WRITE_INTERVAL;
            while let Ok(answered) = tokio::time::timeout_at(next, answered(&mut writes)).await {
                if let Some(at) = answered {
                    return at;
                }
            }
        }
        next
    }
}

/// Returns when the next of several writes was answered; `None` if it was not. Waits forever if
/// there are none.
pub(super) async fn answered(writes: &mut JoinSet<Option<Instant>>) -> Option<Instant> {
    match writes.join_next().await {
        Some(answered) => answered.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// Returns when the first of many fresh writes at these members was answered.
///
/// # Errors
/// If none was answered within the timeout.
pub(super) async fn first_answered(members: Vec<Writer>, timeout: Duration) -> Result<Instant> {
    let mut trying: JoinSet<Instant> = members.into_iter().map(Writer::until_answered).collect();
    let first = tokio::time::timeout(timeout, trying.join_next()).await;
    let first = first.with_context(|| format!("no write was answered for {timeout:?}"))?;
    Ok(first.context("there are no writers")??)
}

fn value(serial: u64) -> String {
    format!("{serial:0>VALUE_BYTES$}")
}

async fn put(channel: Channel, value: String) -> Result<()> {
    let mut request = tonic::Request::new(etcd_wire::PutRequest {
        key: b"probe".to_vec(),
        value: value.into_bytes(),
    });
    request.set_timeout(DEADLINE);
    let mut client = etcd_wire::kv_client::KvClient::new(channel);
    client.put(request).await?;
    Ok(())
}

async fn set_attribute(channel: Channel, agent_id: String, value: String) -> Result<()> {
    let set = v1::SetAttribute {
        agent_id,
        name: "probe".to_owned(),
        value,
    };
    let mut request = tonic::Request::new(v1::WriteBatch {
        operations: vec![v1::WriteOperation {
            operation: Some(v1::write_operation::Operation::SetAttribute(set)),
        }],
        ..Default::default()
    });
    request.set_timeout(DEADLINE);
    let mut stub = Stub::new(channel);
    let reply = tokio::time::timeout(DEADLINE, stub.write_one(request))
        .await
        .context("no response in time")??;
    match reply.get_ref().outcomes.first() {
        Some(outcome) if outcome.done => Ok(()),
        Some(refused) => bail!("rejected: {}", refused.message),
        None => bail!("a response without outcomes"),
    }
}
