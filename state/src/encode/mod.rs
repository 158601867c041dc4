//! Stored bytes of registry records and log commands, versioned since the first release.
//!
//! The bytes are protobuf in a canonical form: fields ascending, defaults omitted, maps ascending
//! by key. Golden files fix them, because records are hashed. Fields are added, never renumbered
//! and never given another meaning. Decoding is total: it never panics, whatever the bytes.

mod access_key;
mod changes;
mod key;
mod load;
mod split;
#[cfg(test)]
mod tests;

use crate::Registry;
use crate::actor::Actor;
use crate::agent::WholeAgent;
use crate::codec::error::CodecError;
use crate::codec::message::StoredMessage;
use crate::codec::stored::stored;
use crate::command::{Call, CallAction, Command, OfferOperation, ProposedCommand};
use crate::ids::AgentId;
use crate::level::Level;
use crate::registry::{ClusterRecord, Layout, RecordKey, limits_of};

pub use crate::codec::error::WireError;
pub use key::{key, read_key};
pub use load::{read_cluster, read_time};

/// An initial capacity that suffices for most messages.
const USUAL_BYTES: usize = 512;

/// The reason why stored bytes cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A newer release wrote the bytes.
    #[error(
        "written in format {found}; this release reads up to {}: install a newer one",
        Level::NEWEST
    )]
    NewerFormat {
        /// The format that the bytes name.
        found: u32,
    },
    /// The bytes are not a message.
    #[error("the {what} is not a valid message")]
    Malformed {
        /// The expected message, such as "task record".
        what: &'static str,
        /// The error in the bytes.
        source: WireError,
    },
    /// A part of the message is invalid, or only a newer release understands it.
    #[error("the {what} has no valid {field}")]
    Invalid {
        /// The expected message, such as "task record".
        what: &'static str,
        /// The part that is missing or invalid.
        field: &'static str,
    },
    /// The key of a record is of an unknown kind.
    #[error("unknown record key {0:02x?}")]
    Key(Vec<u8>),
}

/// Reads a message that occupies all of `bytes`.
fn read<T: StoredMessage>(what: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    T::read(bytes).map_err(|fault| match fault {
        CodecError::Malformed(source) => DecodeError::Malformed { what, source },
        CodecError::Invalid(field) => DecodeError::Invalid { what, field },
    })
}

fn written(message: &impl StoredMessage) -> Vec<u8> {
    collect(|bytes| message.write(bytes))
}

/// Returns the written bytes without spare capacity, because they may be kept for a long time.
fn collect(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    write(&mut bytes);
    bytes.shrink_to_fit();
    bytes
}

/// Returns the stored form of the current record called `name`, or `None` if it does not exist.
#[must_use]
pub fn record(registry: &Registry, name: &RecordKey) -> Option<Vec<u8>> {
    let layout = &registry.cluster.layout;
    Some(match name {
        RecordKey::Time => written(&registry.time),
        RecordKey::Cluster if *layout == Layout::Whole => written(&registry.cluster),
        RecordKey::Cluster => written(&split::cluster(&registry.cluster)),
        RecordKey::Agent(id) if layout.splits_agent(*id) => return None,
        RecordKey::Agent(id) => written(&WholeAgent::from(registry.agents.get(id)?)),
        RecordKey::Weight(role) => written(registry.weights.get(role)?),
        RecordKey::Framework(id) => written(registry.frameworks.get(id)?),
        RecordKey::Task(key) if layout.splits_task(key) => return None,
        RecordKey::Task(key) => written(registry.tasks.get(key)?),
        RecordKey::CallAnswer(framework, session, number) => {
            written(registry.answers.get(&(*framework, *session, *number))?)
        }
        RecordKey::OperatorAnswer(name) => written(registry.operator_answers.get(&**name)?),
        RecordKey::FinishedTask(serial) if split::has_parts(registry, *serial) => return None,
        RecordKey::FinishedTask(serial) => written(registry.finished_tasks.get(serial)?),
        RecordKey::FinishedFramework(serial) => written(registry.finished_frameworks.get(serial)?),
        RecordKey::TaskTransition(key, number) => written(registry.transition(key, *number)?),
        RecordKey::Policy => written(&registry.policy_record()?),
        RecordKey::Token(id) => written(registry.access.tokens.get(id)?),
        RecordKey::RevokedKey(key) => written(registry.access.revoked.get(&**key)?),
        RecordKey::KeyBinding(principal) => written(registry.access.bindings.get(principal)?),
        RecordKey::RateLimit(subject) => written(registry.access.limits.get(&**subject)?),
        RecordKey::Secret(name) => written(registry.secrets.get(name)?),
        RecordKey::TaskFacts(_)
        | RecordKey::TaskSpec(_)
        | RecordKey::TaskStatus(_)
        | RecordKey::TaskMessage(_)
        | RecordKey::TaskEndMessage(_)
        | RecordKey::TaskLimits(_)
        | RecordKey::SecondLimits(_)
        | RecordKey::LimitsChange(_)
        | RecordKey::AgentCounters(_)
        | RecordKey::Sweep(_)
        | RecordKey::History
        | RecordKey::AgentReport(_)
        | RecordKey::AgentAdministration(_)
        | RecordKey::AgentStatus(_) => return split_record(registry, name),
    })
}

/// Returns the stored form of a record that [`read_cluster`] has read.
#[must_use]
pub fn cluster(record: &ClusterRecord) -> Vec<u8> {
    written(record)
}

/// Returns a record that exists only in the layout of level 3.
fn split_record(registry: &Registry, name: &RecordKey) -> Option<Vec<u8>> {
    let layout = &registry.cluster.layout;
    let task = |key| split::split_task(registry, key);
    let agent = |id: &AgentId| registry.agents.get(id).filter(|_| layout.splits_agent(*id));
    Some(match name {
        RecordKey::TaskFacts(key) => written(&split::TaskFactsRecord::of(task(key)?.0)),
        RecordKey::TaskSpec(key) => written(&split::description(task(key)?.0)?),
        RecordKey::TaskStatus(key) => {
            let (task, serial) = task(key)?;
            written(&split::TaskStatusRecord::of(task, serial))
        }
        RecordKey::TaskMessage(key) => written(&split::message(task(key)?.0, 0)?),
        RecordKey::TaskEndMessage(key) => written(&split::message(task(key)?.0, 1)?),
        RecordKey::TaskLimits(key) => written(limits_of(task(key)?.0)[0]?),
        RecordKey::SecondLimits(key) => written(limits_of(task(key)?.0)[1]?),
        RecordKey::LimitsChange(key) => written(&split::change(task(key)?.0)?),
        RecordKey::AgentCounters(id) => written(&split::AgentCounters::of(agent(id)?)),
        RecordKey::AgentReport(id) => written(&split::AgentFacts::of(agent(id)?)),
        RecordKey::AgentAdministration(id) => written(&agent(id)?.admin),
        RecordKey::AgentStatus(id) => written(&split::AgentStatus::of(agent(id)?)),
        RecordKey::Sweep(target) if layout.splits_sweep(*target) => {
            written(registry.cluster.sweeps.get(target)?)
        }
        RecordKey::History if *layout != Layout::Whole => written(&split::HistoryCounter {
            last: registry.cluster.last_finished,
        }),
        RecordKey::Sweep(_)
        | RecordKey::History
        | RecordKey::Time
        | RecordKey::Cluster
        | RecordKey::Agent(_)
        | RecordKey::Weight(_)
        | RecordKey::Framework(_)
        | RecordKey::Task(_)
        | RecordKey::CallAnswer(..)
        | RecordKey::OperatorAnswer(..)
        | RecordKey::FinishedTask(_)
        | RecordKey::FinishedFramework(_)
        | RecordKey::TaskTransition(..)
        | RecordKey::Policy
        | RecordKey::Token(_)
        | RecordKey::RevokedKey(_)
        | RecordKey::KeyBinding(_)
        | RecordKey::RateLimit(_)
        | RecordKey::Secret(_) => return None,
    })
}

/// The start of every command in every format. It is written before the rest, and can be read
/// alone.
struct CommandHead {
    level: Level,
}

stored!(message CommandHead {
    1 level: Number,
});

/// Encodes a command for the log of a cluster of this feature level. The bytes name the level: a
/// release that does not know it rejects the command before it reads the rest. The command must not
/// contain facts that the level does not have. There are two exceptions below level 3: the
/// operations of an acceptance become one launch, and the actor is omitted.
#[must_use]
pub fn command(proposed: &ProposedCommand, level: Level) -> Vec<u8> {
    // A release that does not know the new level must not apply the entries that follow.
    let mut head = CommandHead { level };
    if let Command::RaiseLevel { level } = proposed.command {
        head.level = head.level.max(level);
    }
    let older = at_level(proposed, level);
    collect(|bytes| {
        head.write(bytes);
        older.as_ref().unwrap_or(proposed).write(bytes);
    })
}

/// Returns a command in the form of a cluster of this level, if it differs.
fn at_level(proposed: &ProposedCommand, level: Level) -> Option<ProposedCommand> {
    if level >= Level::RELEASE_0_2 {
        return None;
    }
    let older = match &proposed.command {
        Command::Call(call) => in_one_launch(call).map(Command::Call),
        _ => None,
    };
    if older.is_none() && proposed.actor == Actor::default() {
        return None;
    }
    Some(ProposedCommand {
        ticket: proposed.ticket,
        actor: Actor::default(),
        command: older.unwrap_or_else(|| proposed.command.clone()),
    })
}

/// Returns the call in the form of a cluster below level 3, if it differs: an acceptance is one
/// launch there.
fn in_one_launch(call: &Call) -> Option<Call> {
    let CallAction::Accept(accept) = &call.action else {
        return None;
    };
    let is_the_same = match accept.operations.as_slice() {
        [] => true,
        [OfferOperation::Launch(tasks)] => !tasks.is_empty(),
        _ => false,
    };
    if is_the_same {
        return None;
    }
    let action = CallAction::Accept(accept.clone().in_one_launch());
    Some(Call {
        action,
        ..call.clone()
    })
}

/// Reads the output of [`command`].
///
/// # Errors
/// [`DecodeError`] if the bytes are damaged, or of a newer release.
pub fn read_command(bytes: &[u8]) -> Result<ProposedCommand, DecodeError> {
    let what = "command";
    let head: CommandHead = read(what, bytes)?;
    if head.level > Level::NEWEST {
        return Err(DecodeError::NewerFormat {
            found: head.level.0,
        });
    }
    let proposed: ProposedCommand = read(what, bytes)?;
    if let Command::RaiseLevel { level } = proposed.command
        && level > head.level
    {
        let field = "level";
        return Err(DecodeError::Invalid { what, field });
    }
    Ok(proposed)
}
