//! Clients that read and write registers: attributes of an agent that cannot run tasks.
//!
//! Every value is written once, so that a checker knows which write a read has seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use argosy_client::CallError;
use argosy_testbed::cluster::Cluster;
use tokio::task::JoinSet;

use crate::history::{CallId, OperationResponse, ProcessName, Recorder};
use crate::rng::Rng;
use crate::workload::registers::{RegisterClient, RegisterResult};

/// Concurrent clients.
const CLIENTS: u64 = 6;
/// Registers in use at the same time.
const REGISTERS: u64 = 4;
/// Operations after which other registers are used. The history of one register stays short enough
/// to check.
const OPERATIONS_EACH: u64 = 600;
/// The operations of one generation of registers.
const GENERATION: u64 = OPERATIONS_EACH * REGISTERS;
/// Timeout of an operation.
const DEADLINE: Duration = Duration::from_secs(4);
/// Maximum pause of a client between two operations. The SDK names every write, and the registry
/// keeps the answers to named batches for ten minutes: about 56,000, of 93 a second. It refuses
/// others then. With this pause, clients make at most 75 writes a second.
const PAUSE_MS: u64 = 80;

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
    pub(crate) fn start(cluster: &Cluster, agent: &str, recorder: &Recorder, rng: &Rng) -> Self {
        let counted = Arc::new(OperationCounters::default());
        let mut clients = JoinSet::new();
        for number in 1..=CLIENTS {
            let worker = RegisterWorker {
                name: format!("client-{number}"),
                incarnation: 1,
                registers: RegisterClient {
                    operator: cluster.operator().with_deadline(DEADLINE),
                    recorder: recorder.clone(),
                    agent: agent.to_owned(),
                },
                rng: rng.fork(0x7265_6700 + number),
                counters: Arc::clone(&counted),
                outdated: Vec::new(),
            };
            clients.spawn(worker.run());
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

struct RegisterWorker {
    name: String,
    incarnation: u64,
    registers: RegisterClient,
    rng: Rng,
    counters: Arc<OperationCounters>,
    /// Registers of earlier generations that this client has yet to remove: an agent has a bounded
    /// number of attributes.
    outdated: Vec<String>,
}

/// Returns the name of a register.
fn register_name(register: u64, generation: u64) -> String {
    format!("r{register}-{generation}")
}

/// Returns the registers that no client uses any more when operation `number` begins, once for
/// each: those of the generation before the former one. Its last operations have timed out.
fn outdated_at(number: u64) -> Vec<String> {
    match (number / GENERATION).checked_sub(2) {
        Some(outdated) if number.is_multiple_of(GENERATION) => (0..REGISTERS)
            .map(|register| register_name(register, outdated))
            .collect(),
        _ => Vec::new(),
    }
}

impl RegisterWorker {
    async fn run(mut self) {
        loop {
            let number = self.counters.started.fetch_add(1, Ordering::Relaxed);
            self.outdated.extend(outdated_at(number));
            if self.registers.remove(&self.outdated).await {
                self.outdated.clear();
            }
            let register = register_name(self.rng.below(REGISTERS), number / GENERATION);
            let process = ProcessName::new(&format!("{}.{}", self.name, self.incarnation));
            let result = if self.rng.percent(50) {
                let request = self.registers.operator.new_request_id();
                let value = format!("v{number}");
                self.registers
                    .write(process, &register, value, request)
                    .await
            } else {
                self.registers.read(process, &register).await
            };
            self.note(result);
            let pause = Duration::from_millis(self.rng.below(PAUSE_MS));
            tokio::time::sleep(pause).await;
        }
    }

    fn note(&mut self, result: RegisterResult) {
        let counted = match result {
            RegisterResult::Answered => &self.counters.answered,
            RegisterResult::Refused => &self.counters.refused,
            RegisterResult::Empty { call, revision } => {
                let recorder = &self.registers.recorder;
                recorder.ok(call, OperationResponse::Done, revision);
                &self.counters.answered
            }
            RegisterResult::Failed { call, error } => return self.failed(call, &error),
        };
        counted.fetch_add(1, Ordering::Relaxed);
    }

    fn failed(&mut self, call: CallId, error: &CallError) {
        match error {
            CallError::Refused(refusal) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                self.registers
                    .recorder
                    .fail(call, format!("{}: {}", refusal.reason, refusal.message));
            }
            CallError::NoMaster(why) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                self.registers
                    .recorder
                    .fail(call, format!("not sent: {why}"));
            }
            CallError::Unanswered { .. } => {
                self.counters.unknown.fetch_add(1, Ordering::Relaxed);
                self.registers.recorder.info(call, error.to_string());
                // It may still take effect, so the client continues under another name.
                self.incarnation += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use argosy_state::limits;

    use super::*;

    #[test]
    fn registers_never_exceed_the_attributes_of_an_agent() {
        let mut present = BTreeSet::new();
        for number in 0..GENERATION * 300 {
            for outdated in outdated_at(number) {
                assert!(present.remove(&outdated), "{outdated}");
            }
            present.insert(register_name(number % REGISTERS, number / GENERATION));
            assert!(present.len() <= limits::ATTRIBUTES / 4, "{present:?}");
        }
    }
}
