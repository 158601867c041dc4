//! Stored bytes: records of the registry and commands of the log, with a version from the first day.
//!
//! The bytes are protobuf in one canonical form (fields ascending, defaults left out, maps ascending
//! by key), fixed by golden files, because records are hashed. A field is added, never renumbered and
//! never given another meaning. Decoding is total: no bytes make it panic.

mod agent;
mod agent_commands;
mod call;
mod checks;
mod cluster;
mod command;
mod container;
mod executor;
mod framework;
#[cfg(test)]
mod golden;
mod group;
mod key;
mod limits;
mod load;
mod names;
mod numbers;
mod operate;
mod opt_outs;
mod resources;
#[cfg(test)]
mod samples;
mod sizes;
mod task;
mod task_spec;
mod volume;

use prost::Message;

use crate::Registry;
use crate::command::Proposed;
use crate::level::Level;
use crate::registry::RecordKey;

pub use key::key;

/// Why stored bytes are none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A newer release wrote them.
    #[error(
        "written in format {found}; this release reads up to {}: install a newer one",
        Level::NEWEST
    )]
    NewerFormat {
        /// The format that is named in the bytes.
        found: u32,
    },
    /// The bytes are no message.
    #[error("the {what} is no message")]
    Malformed {
        /// What was expected, as "task record".
        what: &'static str,
        /// What is wrong with it.
        source: prost::DecodeError,
    },
    /// The message says something impossible, or something that only a newer release understands.
    #[error("the {what} has no valid {field}")]
    Invalid {
        /// What was expected, as "task record".
        what: &'static str,
        /// The part that is missing or impossible.
        field: &'static str,
    },
    /// The name of a record is of no known kind.
    #[error("no record is called {0:02x?}")]
    Key(Vec<u8>),
}

/// The part of a message that is missing or impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wrong(&'static str);

type Read<T> = Result<T, Wrong>;

/// Reads a message and turns it into what it stands for.
fn read<M, T>(what: &'static str, bytes: &[u8]) -> Result<T, DecodeError>
where
    M: Message + Default + TryInto<T, Error = Wrong>,
{
    let message = M::decode(bytes).map_err(|source| DecodeError::Malformed { what, source })?;
    message
        .try_into()
        .map_err(|Wrong(field)| DecodeError::Invalid { what, field })
}

/// The present record called `name`, as it is stored; `None` if there is none.
#[must_use]
pub fn record(registry: &Registry, name: &RecordKey) -> Option<Vec<u8>> {
    let bytes = match name {
        RecordKey::Time => cluster::TimeRecord::from(registry.time).encode_to_vec(),
        RecordKey::Cluster => cluster::ClusterRecord::from(&registry.cluster).encode_to_vec(),
        RecordKey::Agent(id) => agent::AgentRecord::from(registry.agents.get(id)?).encode_to_vec(),
        RecordKey::Weight(role) => {
            cluster::WeightRecord::from(*registry.weights.get(role)?).encode_to_vec()
        }
        RecordKey::Framework(id) => {
            framework::FrameworkRecord::from(registry.frameworks.get(id)?).encode_to_vec()
        }
        RecordKey::Task(key) => task::TaskRecord::from(registry.tasks.get(key)?).encode_to_vec(),
        RecordKey::Answer(framework, session, number) => {
            let answer = registry.answers.get(&(*framework, *session, *number))?;
            framework::AnswerRecord::from(answer).encode_to_vec()
        }
        RecordKey::OperatorAnswer(principal, request) => {
            let key = (principal.clone(), request.clone());
            cluster::OperatorAnswerRecord::from(registry.operator_answers.get(&key)?)
                .encode_to_vec()
        }
        RecordKey::FinishedTask(serial) => {
            task::FinishedTaskRecord::from(registry.finished_tasks.get(serial)?).encode_to_vec()
        }
        RecordKey::FinishedFramework(serial) => {
            let finished = registry.finished_frameworks.get(serial)?;
            framework::FinishedFrameworkRecord::from(finished).encode_to_vec()
        }
    };
    Some(bytes)
}

/// A command as it stands in the log of a cluster of this feature level, which it names: a release that does not know the
/// level refuses the command before it reads the rest. What the level does not have must be absent.
#[must_use]
pub fn command(proposed: &Proposed, level: Level) -> Vec<u8> {
    command::CommandMessage::new(proposed, level).encode_to_vec()
}

/// Reads what [`command`] wrote.
///
/// # Errors
/// [`DecodeError`] if the bytes are damaged, or of a newer release.
pub fn read_command(bytes: &[u8]) -> Result<Proposed, DecodeError> {
    let what = "command";
    let head = command::FormatMessage::decode(bytes)
        .map_err(|source| DecodeError::Malformed { what, source })?;
    if Level(head.format) > Level::NEWEST {
        return Err(DecodeError::NewerFormat { found: head.format });
    }
    read::<command::CommandMessage, Proposed>(what, bytes)
}
