//! Operators that set and read attributes of an agent: registers whose history is checked for
//! linearizability.

use std::time::Duration;

use argosy_client::{CallError, Connector, ConnectorConfig, Masters, OperatorClient};
use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation as Write;

use super::world::World;
use crate::history::{CallId, Consistency, Operation, OperationResponse};
use crate::rng::Rng;
use crate::sim::network;

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
        world,
        name,
        rng,
        client,
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
    client: OperatorClient,
    writes: u64,
}

impl SimOperator {
    async fn write(&mut self, name: String) {
        self.writes += 1;
        // Values never repeat.
        let request = format!("{}-{}", self.name, self.writes);
        let operation = Operation::Write {
            key: format!("attribute/{AGENT}/{name}"),
            value: Some(request.clone()),
            request: request.clone(),
        };
        let attribute = v1::SetAttribute {
            agent_id: AGENT.to_owned(),
            name,
            value: request.clone(),
        };
        let recorder = self.world.notes.recorder.clone();
        let call = recorder.invoke(&*self.name, operation);
        let batch = v1::WriteBatch {
            request_id: request,
            operations: vec![v1::WriteOperation {
                operation: Some(Write::SetAttribute(attribute)),
            }],
            ..Default::default()
        };
        match self.client.write(batch).await {
            Ok(reply) => {
                let revision = argosy_proto::convert::revision_from(reply.revision);
                match reply.outcomes.first() {
                    Some(outcome) if outcome.done => {
                        self.world.notes.count("attributes set");
                        recorder.ok(call, OperationResponse::Done, Some(revision));
                    }
                    Some(outcome) => recorder.fail(call, outcome.code.clone()),
                    None => {
                        let message = format!("{}: a write was answered with nothing", self.name);
                        self.world.notes.violation(message);
                    }
                }
            }
            Err(error) => self.note(call, &error),
        }
    }

    async fn read(&mut self, name: String) {
        let operation = Operation::Read {
            key: format!("attribute/{AGENT}/{name}"),
            consistency: Consistency::Linearizable,
        };
        let call = self.world.notes.recorder.invoke(&*self.name, operation);
        let request = v1::GetRequest {
            id: AGENT.to_owned(),
            consistency: v1::Consistency::Linearizable.into(),
            ..Default::default()
        };
        match self.client.get_agent(request).await {
            Ok(agent) => {
                self.world.notes.count("attributes read");
                let value = agent
                    .info
                    .unwrap_or_default()
                    .attributes
                    .get(&name)
                    .cloned();
                let outcome = OperationResponse::Value { value };
                self.world.notes.recorder.ok(call, outcome, None);
            }
            Err(error) => self.note(call, &error),
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
