//! Operators that set and read attributes of an agent: registers whose history is checked for
//! linearizability.

use std::time::Duration;

use argosy_client::{CallError, Connector, ConnectorConfig, Masters, OperatorClient};

use super::world::World;
use crate::history::{CallId, ProcessName};
use crate::rng::Rng;
use crate::sim::network;
use crate::workload::registers::{RegisterClient, RegisterResult};

/// The agent whose attributes they are.
const AGENT: &str = "agent-1";
/// Attributes: few, so that operators contend.
const ATTRIBUTES: u64 = 3;
/// Timeout of a call.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Runs one operator's process.
pub(super) async fn operator(world: World, place: usize) -> turmoil::Result {
    let name = format!("operator-{}", place + 1);
    let mut rng = world.new_incarnation(&name);
    let masters = Masters::new(world.masters())?;
    let config = ConnectorConfig {
        dialer: network::dialer(&name, &world.cuts),
        seed: rng.next(),
    };
    let client = OperatorClient::new(Connector::new(masters, config)).with_deadline(TIMEOUT);
    let mut operator = SimOperator {
        registers: RegisterClient {
            operator: client,
            recorder: world.notes.recorder.clone(),
            agent: AGENT.to_owned(),
        },
        world,
        name,
        rng,
        writes: 0,
    };
    loop {
        let pause = operator.rng.between(5, 120);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let name = format!("x{}", operator.rng.below(ATTRIBUTES));
        match operator.rng.percent(55) {
            true => operator.write(name).await,
            false => operator.read(name).await,
        }
    }
}

struct SimOperator {
    world: World,
    name: String,
    rng: Rng,
    registers: RegisterClient,
    writes: u64,
}

impl SimOperator {
    fn process(&self) -> ProcessName {
        ProcessName::new(&self.name)
    }

    async fn write(&mut self, name: String) {
        self.writes += 1;
        // Values never repeat.
        let request = format!("{}-{}", self.name, self.writes);
        let process = self.process();
        let written = self
            .registers
            .write(process, &name, request.clone(), request)
            .await;
        match written {
            RegisterResult::Answered => self.world.notes.count("attributes set"),
            RegisterResult::Refused => {}
            RegisterResult::Empty { .. } => {
                let message = format!("{}: a write was answered with nothing", self.name);
                self.world.notes.violation(message);
            }
            RegisterResult::Failed { call, error } => self.note(call, &error),
        }
    }

    async fn read(&mut self, name: String) {
        match self.registers.read(self.process(), &name).await {
            RegisterResult::Failed { call, error } => self.note(call, &error),
            RegisterResult::Answered | RegisterResult::Refused | RegisterResult::Empty { .. } => {
                self.world.notes.count("attributes read")
            }
        }
    }

    /// Records an error. If the client reports an outcome as certain, that is recorded, and the
    /// checkers detect an error in it.
    fn note(&self, call: CallId, error: &CallError) {
        let recorder = &self.world.notes.recorder;
        match error {
            CallError::Refused(_) | CallError::NoMaster(_) => {
                recorder.fail(call, error.to_string())
            }
            CallError::Unanswered { .. } => recorder.info(call, error.to_string()),
        }
    }
}
