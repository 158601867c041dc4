//! Clients that read and write registers: attributes of an agent that cannot run tasks.
//!
//! Every value is written once, so that a checker knows which write a read has seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use argosy_client::{CallError, Connector, ConnectorConfig, Masters, OperatorClient};
use argosy_proto::v1;
use argosy_state::ids::Revision;
use tokio::task::JoinSet;

use crate::history::{Consistency, Operation, OperationResponse, ProcessName, Recorder};
use crate::rng::Rng;

/// Concurrent clients.
const CLIENTS: u64 = 6;
/// Registers in use at the same time.
const REGISTERS: u64 = 4;
/// Operations after which other registers are used. The history of one register stays short enough
/// to check.
const OPERATIONS_EACH: u64 = 600;
/// Timeout of an operation.
const DEADLINE: Duration = Duration::from_secs(4);
/// Maximum pause of a client between two operations.
const PAUSE_MS: u64 = 40;

/// The clients. They end when this value is dropped.
pub(crate) struct Registers {
    clients: JoinSet<()>,
    counters: Arc<OperationCounters>,
}

/// The number of operations.
#[derive(Debug, Default)]
pub(crate) struct OperationCounters {
    started: AtomicU64,
    pub(crate) answered: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) refused: AtomicU64,
}

impl Registers {
    /// Starts the clients on the attributes of `agent`.
    pub(crate) fn start(masters: &Masters, agent: &str, recorder: &Recorder, rng: &Rng) -> Self {
        let counted = Arc::new(OperationCounters::default());
        let mut clients = JoinSet::new();
        for number in 1..=CLIENTS {
            let client = RegisterClient {
                name: format!("client-{number}"),
                incarnation: 1,
                agent: agent.to_owned(),
                operator: OperatorClient::new(Connector::new(
                    masters.clone(),
                    ConnectorConfig::default(),
                ))
                .with_deadline(DEADLINE),
                recorder: recorder.clone(),
                rng: rng.fork(0x7265_6700 + number),
                counters: Arc::clone(&counted),
            };
            clients.spawn(client.run());
        }
        Self {
            clients,
            counters: counted,
        }
    }

    pub(crate) fn counters(&self) -> &OperationCounters {
        &self.counters
    }

    /// Ends the clients. Operations in flight stay open.
    pub(crate) async fn stop(mut self) {
        self.clients.shutdown().await;
    }
}

struct RegisterClient {
    name: String,
    incarnation: u64,
    agent: String,
    operator: OperatorClient,
    recorder: Recorder,
    rng: Rng,
    counters: Arc<OperationCounters>,
}

impl RegisterClient {
    async fn run(mut self) {
        loop {
            let number = self.counters.started.fetch_add(1, Ordering::Relaxed);
            let generation = number / (OPERATIONS_EACH * REGISTERS);
            let register = format!("r{}-{generation}", self.rng.below(REGISTERS));
            if self.rng.percent(50) {
                self.write(&register, number).await;
            } else {
                self.read(&register).await;
            }
            let pause = Duration::from_millis(self.rng.below(PAUSE_MS));
            tokio::time::sleep(pause).await;
        }
    }

    fn process(&self) -> ProcessName {
        ProcessName::new(&format!("{}.{}", self.name, self.incarnation))
    }

    fn key(&self, register: &str) -> String {
        format!("attribute/{}/{register}", self.agent)
    }

    async fn write(&mut self, register: &str, number: u64) {
        let value = format!("v{number}");
        let request = self.operator.new_request_id();
        let call = self.recorder.invoke(
            self.process(),
            Operation::Write {
                key: self.key(register),
                value: Some(value.clone()),
                request: request.clone(),
            },
        );
        let written = self
            .operator
            .write(batch(&self.agent, register, value, request))
            .await;
        match written {
            Ok(reply) => {
                let at = reply.revision.map(|revision| Revision {
                    index: revision.index,
                    position: revision.position,
                });
                match reply.outcomes.first() {
                    Some(outcome) if !outcome.done => {
                        self.counters.refused.fetch_add(1, Ordering::Relaxed);
                        self.recorder.fail(call, outcome.code.clone());
                    }
                    Some(_) | None => {
                        self.counters.answered.fetch_add(1, Ordering::Relaxed);
                        self.recorder.ok(call, OperationResponse::Done, at);
                    }
                }
            }
            Err(error) => self.failed(call, &error),
        }
    }

    async fn read(&mut self, register: &str) {
        let call = self.recorder.invoke(
            self.process(),
            Operation::Read {
                key: self.key(register),
                consistency: Consistency::Linearizable,
            },
        );
        let request = v1::GetRequest {
            id: self.agent.clone(),
            consistency: v1::Consistency::Linearizable.into(),
            ..Default::default()
        };
        match self.operator.get_agent(request).await {
            Ok(agent) => {
                self.counters.answered.fetch_add(1, Ordering::Relaxed);
                let attributes = agent.info.map(|info| info.attributes).unwrap_or_default();
                let value = attributes.get(register).cloned();
                self.recorder
                    .ok(call, OperationResponse::Value { value }, None);
            }
            Err(error) => self.failed(call, &error),
        }
    }

    fn failed(&mut self, call: crate::history::CallId, error: &CallError) {
        match error {
            CallError::Refused(refusal) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                self.recorder
                    .fail(call, format!("{}: {}", refusal.reason, refusal.message));
            }
            CallError::NoMaster(why) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                self.recorder.fail(call, format!("not sent: {why}"));
            }
            CallError::Unanswered { .. } => {
                self.counters.unknown.fetch_add(1, Ordering::Relaxed);
                self.recorder.info(call, error.to_string());
                // It may still take effect, so the client continues under another name.
                self.incarnation += 1;
            }
        }
    }
}

fn batch(agent: &str, name: &str, value: String, request_id: String) -> v1::WriteBatch {
    let set = v1::SetAttribute {
        agent_id: agent.to_owned(),
        name: name.to_owned(),
        value,
    };
    v1::WriteBatch {
        request_id,
        operations: vec![v1::WriteOperation {
            operation: Some(v1::write_operation::Operation::SetAttribute(set)),
        }],
        ..Default::default()
    }
}
