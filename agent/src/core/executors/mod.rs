//! Executors: programs of frameworks that run tasks in the place of this agent, many in one container.
//!
//! One lives for as long as it has a task that has not ended, and is ended then, whatever took its tasks. Its name on this
//! host is the instance of the task that brought it: such a task has no container itself. Reading order: `facts`, `life`
//! (its container), `ending`, `recall`, `conversation` (what it and the agent say), `whereabouts`.

mod facts;
mod lifecycle;
mod locate;
mod protocol;
mod recovery;
mod shutdown;

use std::collections::{BTreeMap, BTreeSet};

use argosy_proto::v1;
use argosy_state::ids::Timestamp;
use argosy_state::task::{Explanation, TaskState};

pub use facts::{ExecutorFacts, ExecutorRecord};
pub use protocol::ExecutorSaid;

use super::facts::{Instance, TaskFacts};
use super::lifecycle::Phase;
use super::outcome::End;

/// The shortest time from one update of a task to the next that brings nothing but another text, in milliseconds: each is
/// an entry of the masters' log.
const WORDS_EVERY_MS: u64 = 1_000;

/// All executors of this agent, and who waits for one.
#[derive(Debug, Default)]
pub(super) struct Executors {
    all: BTreeMap<Instance, Executor>,
    /// Tasks that wait until the former executor of their name is cleared away.
    unhosted: BTreeSet<Instance>,
    /// When which is to be looked at. One too many does no harm.
    turns: BTreeSet<(Timestamp, Instance)>,
}

impl Executors {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether it is known of each of an earlier life whether it runs.
    pub(super) fn are_found(&self) -> bool {
        self.all
            .values()
            .all(|executor| executor.phase != Phase::Finding)
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.turns.first().map(|(at, _)| *at)
    }

    /// Where one is on its way, and as what.
    pub(super) fn phases(&self) -> impl Iterator<Item = (Instance, Phase)> {
        let all = self.all.iter();
        all.map(|(instance, executor)| (*instance, executor.phase))
    }

    fn phase(&self, instance: Instance) -> Option<Phase> {
        self.all.get(&instance).map(|executor| executor.phase)
    }
}

/// One executor on its way.
#[derive(Debug)]
struct Executor {
    phase: Phase,
    /// Its present stream.
    connection: Option<u64>,
    /// Its tasks that have not ended.
    tasks: BTreeSet<Instance>,
    /// When it is given up, unless it has subscribed.
    subscribe_by: Option<Timestamp>,
    /// It has not subscribed in time.
    is_mute: bool,
    /// It has more on the disk than it may.
    over_disk: Option<Explanation>,
    /// When it is killed, if none of its tasks is wanted then.
    kill_at: Option<Timestamp>,
    is_clearing: bool,
}

impl Executor {
    fn new(phase: Phase) -> Self {
        Self {
            phase,
            connection: None,
            tasks: BTreeSet::new(),
            subscribe_by: None,
            is_mute: false,
            over_disk: None,
            kill_at: None,
            is_clearing: false,
        }
    }
}

/// What the task of an executor has in the place of a container.
#[derive(Debug, Default)]
pub(super) struct Hosted {
    /// `None` once it has ended.
    executor: Option<Instance>,
    /// The executor has, or may have, heard of it.
    handed: bool,
    /// What the executor said of it last.
    said: Option<End>,
    /// The executor's number of that; 0 before the first.
    serial: u64,
    /// When the newest update was made.
    told_at: Option<Timestamp>,
}

impl Hosted {
    /// What there is to say about it while it lives.
    pub(super) fn observe(&self, task: &TaskFacts) -> Option<End> {
        if task.kill_grace_ms.is_some() && self.handed {
            let state = TaskState::Killing;
            return Some(End::by_agent(state, v1::Reason::TaskKilled, ""));
        }
        self.said.clone()
    }

    /// Whether its executor has said something that no update tells yet.
    pub(super) fn has_news(&self, task: &TaskFacts) -> bool {
        self.serial > task.heard
    }

    /// Whether that is worth an update, though the state may be the same: once a second, and never while it is killed.
    pub(super) fn has_words(&self, task: &TaskFacts, now: Timestamp) -> bool {
        let is_quiet = self
            .told_at
            .is_none_or(|at| now.since_ms(at) >= WORDS_EVERY_MS);
        self.has_news(task) && task.kill_grace_ms.is_none() && is_quiet
    }
}
