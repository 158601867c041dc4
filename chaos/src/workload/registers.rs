//! Reads and writes of registers, which are attributes of an agent. Each is recorded as an
//! operation.
//!
//! The caller chooses registers, values and names of processes, and records failures.

use argosy_client::{CallError, OperatorClient};
use argosy_proto::v1;
use argosy_state::ids::Revision;

use crate::history::{CallId, Consistency, Operation, OperationResponse, ProcessName, Recorder};

/// A client of the registers of one agent.
pub(crate) struct RegisterClient {
    pub(crate) operator: OperatorClient,
    pub(crate) recorder: Recorder,
    /// The id of the agent.
    pub(crate) agent: String,
}

/// The result of a read or a write.
pub(crate) enum RegisterResult {
    /// It was answered.
    Answered,
    /// The write was refused.
    Refused,
    /// The write was answered without an outcome. Its operation is open.
    Empty {
        call: CallId,
        revision: Option<Revision>,
    },
    /// The call failed. Its operation is open.
    Failed { call: CallId, error: CallError },
}

impl RegisterClient {
    fn key(&self, register: &str) -> String {
        format!("attribute/{}/{register}", self.agent)
    }

    /// Writes a value.
    pub(crate) async fn write(
        &self,
        process: ProcessName,
        register: &str,
        value: String,
        request: String,
    ) -> RegisterResult {
        let operation = Operation::Write {
            key: self.key(register),
            value: Some(value.clone()),
            request: request.clone(),
        };
        let call = self.recorder.invoke(process, operation);
        let batch = set_attribute(&self.agent, register, value, request);
        let reply = match self.operator.write(batch).await {
            Ok(reply) => reply,
            Err(error) => return RegisterResult::Failed { call, error },
        };
        let revision = reply.revision.map(|revision| Revision {
            index: revision.index,
            position: revision.position,
        });
        match reply.outcomes.first() {
            Some(outcome) if outcome.done => {
                self.recorder.ok(call, OperationResponse::Done, revision);
                RegisterResult::Answered
            }
            Some(outcome) => {
                self.recorder.fail(call, outcome.code.clone());
                RegisterResult::Refused
            }
            None => RegisterResult::Empty { call, revision },
        }
    }

    /// Reads a register.
    pub(crate) async fn read(&self, process: ProcessName, register: &str) -> RegisterResult {
        let operation = Operation::Read {
            key: self.key(register),
            consistency: Consistency::Linearizable,
        };
        let call = self.recorder.invoke(process, operation);
        let request = v1::GetRequest {
            id: self.agent.clone(),
            consistency: v1::Consistency::Linearizable.into(),
            ..Default::default()
        };
        match self.operator.get_agent(request).await {
            Ok(agent) => {
                let attributes = agent.info.map(|info| info.attributes).unwrap_or_default();
                let value = attributes.get(register).cloned();
                let response = OperationResponse::Value { value };
                self.recorder.ok(call, response, None);
                RegisterResult::Answered
            }
            Err(error) => RegisterResult::Failed { call, error },
        }
    }

    /// Removes registers that no client uses any more. It is not recorded. Returns whether it was
    /// answered; it may be repeated.
    pub(crate) async fn remove(&self, registers: &[String]) -> bool {
        if registers.is_empty() {
            return true;
        }
        let operations = registers.iter().map(|register| {
            // An attribute with an empty value is removed.
            set_operation(&self.agent, register, String::new())
        });
        let batch = v1::WriteBatch {
            request_id: self.operator.new_request_id(),
            operations: operations.collect(),
            ..Default::default()
        };
        self.operator.write(batch).await.is_ok()
    }
}

fn set_attribute(agent: &str, name: &str, value: String, request_id: String) -> v1::WriteBatch {
    v1::WriteBatch {
        request_id,
        operations: vec![set_operation(agent, name, value)],
        ..Default::default()
    }
}

fn set_operation(agent: &str, name: &str, value: String) -> v1::WriteOperation {
    let set = v1::SetAttribute {
        agent_id: agent.to_owned(),
        name: name.to_owned(),
        value,
    };
    v1::WriteOperation {
        operation: Some(v1::write_operation::Operation::SetAttribute(set)),
    }
}
