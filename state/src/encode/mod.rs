//! Stored bytes: records of the registry and commands of the log, with a version from the first day.
//!
//! The bytes are protobuf in one canonical form (fields ascending, defaults left out, maps ascending
//! by key), fixed by golden files, because records are hashed. A field is added, never renumbered and
//! never given another meaning. Decoding is total: no bytes make it panic.

mod agent_commands;
mod call;
mod cluster;
pub(crate) mod codec;
mod command;
#[cfg(test)]
mod golden;
mod key;
mod load;
mod names;
mod numbers;
mod operate;
pub(crate) mod parts;
mod resources;
#[cfg(test)]
mod samples;
pub(crate) mod scalars;
mod split;
pub(crate) mod stored;
pub(crate) mod wire;

use crate::Registry;
use crate::actor::Actor;
use crate::agent::WholeAgent;
use crate::command::{Command, Proposed};
use crate::ids::AgentId;
use crate::level::Level;
use crate::registry::{Layout, RecordKey, limits_of};
use codec::{Fault, Stored};

pub use key::key;
pub use wire::Malformed;

/// Most messages have fewer.
const USUAL_BYTES: usize = 512;

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
        source: Malformed,
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

/// Reads all of a message.
fn read<T: Stored>(what: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    T::read(bytes).map_err(|fault| match fault {
        Fault::Malformed(source) => DecodeError::Malformed { what, source },
        Fault::Wrong(field) => DecodeError::Invalid { what, field },
    })
}

fn written(message: &impl Stored) -> Vec<u8> {
    collected(|bytes| message.write(bytes))
}

/// What is written, without room to spare: it may be kept for long.
fn collected(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    write(&mut bytes);
    bytes.shrink_to_fit();
    bytes
}

/// The present record called `name`, as it is stored; `None` if there is none.
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
        RecordKey::Answer(framework, session, number) => {
            written(registry.answers.get(&(*framework, *session, *number))?)
        }
        RecordKey::OperatorAnswer(name) => written(registry.operator_answers.get(&**name)?),
        RecordKey::FinishedTask(serial) if split::has_parts(registry, *serial) => return None,
        RecordKey::FinishedTask(serial) => written(registry.finished_tasks.get(serial)?),
        RecordKey::FinishedFramework(serial) => written(registry.finished_frameworks.get(serial)?),
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
        | RecordKey::AgentReported(_)
        | RecordKey::AgentAgreed(_)
        | RecordKey::AgentStatus(_) => return split_record(registry, name),
    })
}

/// A record that there is only in the layout of level 3.
fn split_record(registry: &Registry, name: &RecordKey) -> Option<Vec<u8>> {
    let layout = &registry.cluster.layout;
    let task = |key| split::parted(registry, key);
    let agent = |id: &AgentId| registry.agents.get(id).filter(|_| layout.splits_agent(*id));
    Some(match name {
        RecordKey::TaskFacts(key) => written(&split::Facts::of(task(key)?.0)),
        RecordKey::TaskSpec(key) => written(&split::description(task(key)?.0)?),
        RecordKey::TaskStatus(key) => {
            let (task, serial) = task(key)?;
            written(&split::Status::of(task, serial))
        }
        RecordKey::TaskMessage(key) => written(&split::message(task(key)?.0, 0)?),
        RecordKey::TaskEndMessage(key) => written(&split::message(task(key)?.0, 1)?),
        RecordKey::TaskLimits(key) => written(limits_of(task(key)?.0)[0]?),
        RecordKey::SecondLimits(key) => written(limits_of(task(key)?.0)[1]?),
        RecordKey::LimitsChange(key) => written(&split::change(task(key)?.0)?),
        RecordKey::AgentCounters(id) => written(&split::Counters::of(agent(id)?)),
        RecordKey::AgentReported(id) => written(&split::AgentFacts::of(agent(id)?)),
        RecordKey::AgentAgreed(id) => written(&agent(id)?.agreed),
        RecordKey::AgentStatus(id) => written(&split::AgentStatus::of(agent(id)?)),
        RecordKey::Sweep(target) if layout.splits_sweep(*target) => {
            written(registry.cluster.sweeps.get(target)?)
        }
        RecordKey::History if *layout != Layout::Whole => written(&split::History {
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
        | RecordKey::Answer(..)
        | RecordKey::OperatorAnswer(..)
        | RecordKey::FinishedTask(_)
        | RecordKey::FinishedFramework(_) => return None,
    })
}

/// A command as it stands in the log of a cluster of this feature level, which it names: a release that does not know the
/// level refuses the command before it reads the rest. What the level does not have must be absent, but for the operations
/// of an acceptance, which are one launch before level 3, and for the actor, which is left out below level 3.
#[must_use]
pub fn command(proposed: &Proposed, level: Level) -> Vec<u8> {
    // A release that does not know the new level must not apply what follows.
    let mut head = command::Head { level };
    if let Command::RaiseLevel { level } = proposed.command {
        head.level = head.level.max(level);
    }
    let older = at_level(proposed, level);
    collected(|bytes| {
        head.write(bytes);
        older.as_ref().unwrap_or(proposed).write(bytes);
    })
}

/// A command as a cluster of this level has it, if that differs.
fn at_level(proposed: &Proposed, level: Level) -> Option<Proposed> {
    if level >= Level::RELEASE_0_2 {
        return None;
    }
    let older = match &proposed.command {
        Command::Call(call) => call::in_one_launch(call).map(Command::Call),
        _ => None,
    };
    if older.is_none() && proposed.actor == Actor::default() {
        return None;
    }
    Some(Proposed {
        ticket: proposed.ticket,
        actor: Actor::default(),
        command: older.unwrap_or_else(|| proposed.command.clone()),
    })
}

/// Reads what [`command`] wrote.
///
/// # Errors
/// [`DecodeError`] if the bytes are damaged, or of a newer release.
pub fn read_command(bytes: &[u8]) -> Result<Proposed, DecodeError> {
    let what = "command";
    let head: command::Head = read(what, bytes)?;
    if head.level > Level::NEWEST {
        return Err(DecodeError::NewerFormat {
            found: head.level.0,
        });
    }
    let proposed: Proposed = read(what, bytes)?;
    if let Command::RaiseLevel { level } = proposed.command
        && level > head.level
    {
        let field = "level";
        return Err(DecodeError::Invalid { what, field });
    }
    Ok(proposed)
}
