//! The load: an agent is registered, then writers change its attributes, each one batch at a time.
//!
//! A batch without a response is sent again with the same id until there is one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use argosy_client::{AgentUplink, CallError, OperatorClient};
use argosy_proto::v1;
use argosy_proto::versions::VersionRange;
use tokio::task::JoinSet;

use super::cluster;
use crate::vm::check;

const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes after each number, so that the log grows as in production.
const PADDING_BYTES: usize = 120;

/// Registers an agent that runs nothing, and returns its id.
pub(super) async fn register() -> anyhow::Result<String> {
    tokio::time::timeout(REGISTRATION_TIMEOUT, hello())
        .await
        .context("the agent was not registered in time")?
}

async fn hello() -> anyhow::Result<String> {
    let nonce = argosy_client::connector::random_seed();
    let info = v1::AgentInfo {
        host_name: format!("host-{nonce:016x}"),
        address: "127.0.0.1:5051".into(),
        resources: argosy_client::resources::resources("cpus:1;mem:64")?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        isolation: "processes".into(),
        ..Default::default()
    };
    let hello = v1::Hello {
        protocol: Some(VersionRange::OWN.first_message()),
        tried_incarnations: vec![nonce],
        nonce,
        boot_id: format!("{nonce:016x}"),
        info: Some(info),
        digest: 0_u128.to_be_bytes().to_vec(),
        ..Default::default()
    };
    let masters = cluster::client()?.connector().clone();
    let uplink = AgentUplink::new(masters);
    loop {
        let mut link = uplink.connect(hello.clone(), REGISTRATION_TIMEOUT).await?;
        // A link that breaks before the response is opened again. The nonce identifies the
        // registration.
        while let Ok(Some(message)) = link.inbound.message().await {
            match message.message {
                Some(v1::to_agent::Message::Registered(registered)) => {
                    return Ok(registered.agent_id);
                }
                Some(v1::to_agent::Message::Refused(refused)) => bail!("{}", refused.text),
                _ => {}
            }
        }
    }
}

/// The callback for each acknowledged batch: writer, number, revision.
pub(super) type AckCallback = Arc<dyn Fn(u64, u64, u64) -> anyhow::Result<()> + Send + Sync>;

/// Writers that continue until this value is dropped, or one of them fails.
pub(super) struct LoadWriters {
    writers: JoinSet<anyhow::Result<()>>,
}

impl LoadWriters {
    /// Starts all writers, with batches of this size.
    pub(super) fn start(agent: &str, batch_size: u64, on_ack: AckCallback) -> anyhow::Result<Self> {
        let mut writers = JoinSet::new();
        let client = cluster::client()?;
        for writer in 0..check::WRITERS {
            let writer = LoadWriter {
                client: client.clone(),
                agent: agent.to_owned(),
                writer,
                batch_size,
                on_ack: on_ack.clone(),
            };
            writers.spawn(writer.run());
        }
        Ok(Self { writers })
    }

    /// Waits for the end of a writer, which is always a failure.
    pub(super) async fn failure(&mut self) -> anyhow::Error {
        match self.writers.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Ok(Ok(()))) | None => anyhow::anyhow!("a writer has ended"),
            Some(Err(error)) => error.into(),
        }
    }
}

struct LoadWriter {
    client: OperatorClient,
    agent: String,
    writer: u64,
    batch_size: u64,
    on_ack: AckCallback,
}

impl LoadWriter {
    async fn run(self) -> anyhow::Result<()> {
        let writer = self.writer;
        for number in 1.. {
            let batch = self.batch(number);
            let reply = loop {
                match self.client.write(batch.clone()).await {
                    Ok(reply) => break reply,
                    Err(CallError::Refused(refusal))
                        if refusal.code != tonic::Code::Unavailable =>
                    {
                        bail!("batch {number} of writer {writer} is rejected: {refusal}");
                    }
                    Err(_) => {}
                }
            };
            if let Some(refused) = reply.outcomes.iter().find(|outcome| !outcome.done) {
                bail!("batch {number} of writer {writer}: {}", refused.message);
            }
            let revision = reply.revision.context("a response has a revision")?;
            (self.on_ack)(writer, number, revision.index)?;
        }
        Ok(())
    }

    fn batch(&self, number: u64) -> v1::WriteBatch {
        let operation = |(name, value): (String, u64)| v1::WriteOperation {
            operation: Some(v1::write_operation::Operation::SetAttribute(
                v1::SetAttribute {
                    agent_id: self.agent.clone(),
                    name,
                    value: format!("{value} {}", "x".repeat(PADDING_BYTES)),
                },
            )),
        };
        v1::WriteBatch {
            request_id: format!("{}-{}-{number}", self.agent, self.writer),
            operations: check::batch(self.writer, number, self.batch_size)
                .into_iter()
                .map(operation)
                .collect(),
            ..Default::default()
        }
    }
}
