//! The history of ended tasks: the kept facts, and the eviction at the bounds.

use std::sync::Arc;

use super::index::Sign;
use super::usage;
use super::{Indexes, Registry};
use crate::collections::persistent::{Map, Set, Table};
use crate::ids::{FrameworkId, TaskKey};
use crate::level::Level;
use crate::limits;
use crate::task::{CommandSpec, FinishedTask, Task, TaskSpec};

/// The number of tasks dropped for one that is added: enough to get below a bound that a release
/// has lowered, and few enough for one iteration of the loop.
const DROPPED: usize = 8;
/// The largest number of records of a task in the history, without its transitions.
const RECORDS: usize = 6;

/// The derived facts of the history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct HistoryIndex {
    /// The serials by task.
    pub(crate) by_key: Map<TaskKey, u64>,
    frameworks: Table<FrameworkId, FrameworkHistory>,
    /// The frameworks by the bytes of their history.
    by_bytes: Set<(u64, FrameworkId)>,
}

/// The history of one framework.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct FrameworkHistory {
    serials: Set<u64>,
    bytes: u64,
}

impl HistoryIndex {
    pub(crate) fn contains_key(&self, key: &TaskKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// Returns the oldest task of the framework with the largest history. So no framework evicts
    /// the history of a smaller one.
    fn next_evicted(&self) -> Option<u64> {
        let (_, framework) = self.by_bytes.last()?;
        self.frameworks.get(framework)?.serials.first().copied()
    }
}

impl Indexes {
    pub(super) fn finished(
        &mut self,
        serial: u64,
        finished: &FinishedTask,
        transitions: usize,
        sign: Sign,
    ) {
        let key = &finished.task.key;
        let bytes = usage::of_task(&finished.task) + usage::of_transitions(transitions);
        let history = &mut self.history;
        match sign {
            Sign::Add => drop(history.by_key.insert(key.clone(), serial)),
            Sign::Remove => drop(history.by_key.remove(key)),
        }
        let part = history.frameworks.or_default(key.framework);
        history.by_bytes.remove(&(part.bytes, key.framework));
        sign.set(&mut part.serials, serial);
        sign.bytes(&mut part.bytes, bytes);
        if part.serials.is_empty() {
            history.frameworks.remove(&key.framework);
        } else {
            history.by_bytes.insert((part.bytes, key.framework));
        }
        sign.bytes(&mut self.bytes.history, bytes);
    }
}

impl Registry {
    /// Adds an ended task to the history, and drops tasks above the bounds. `budget` is the number
    /// of records that the command may drop in addition to one task for the new one.
    pub(crate) fn put_finished(&mut self, mut task: Task, budget: &mut usize) {
        let serial = self.next_finished();
        self.note_finished(&task, serial);
        task.unacknowledged.clear();
        let is_bounded = self.level() >= Level::RELEASE_0_2;
        if is_bounded && !keeps_all(&task.spec) {
            reduce_to_history(Arc::make_mut(&mut task.spec));
        }
        let finished = FinishedTask { task };
        let transitions = self.transitions(&finished.task.key).len();
        self.index
            .finished(serial, &finished, transitions, Sign::Add);
        self.finished_tasks.insert(serial, finished);
        if !is_bounded {
            return self.drop_oldest();
        }
        for at in 0..DROPPED {
            let is_full = self.finished_tasks.len() > limits::FINISHED_TASKS
                || self.index.bytes.history > limits::FINISHED_TASK_BYTES;
            let Some(oldest) = self.index.history.next_evicted().filter(|_| is_full) else {
                return;
            };
            // The first dropped task makes space for the new one.
            if at > 0 {
                let Some(left) = budget.checked_sub(self.records_of_finished(oldest)) else {
                    return;
                };
                *budget = left;
            }
            self.drop_finished(oldest);
        }
    }

    /// Drops the oldest task of all frameworks, as release 0.1.0 did.
    fn drop_oldest(&mut self) {
        while self.finished_tasks.len() > limits::FINISHED_TASKS
            && let Some(oldest) = self
                .finished_tasks
                .first_key_value()
                .map(|(serial, _)| *serial)
        {
            self.drop_finished(oldest);
        }
    }

    /// Returns the largest number of records that change when this task becomes history: its own,
    /// and those of the first task that is evicted for it. Further ones have a budget.
    pub(crate) fn records_of_finishing(&self, task: &Task) -> usize {
        let transitions = self.transitions(&task.key).len();
        let bytes = usage::of_task(task) + usage::of_transitions(transitions);
        let is_full = self.finished_tasks.len() >= limits::FINISHED_TASKS
            || self.index.bytes.history + bytes > limits::FINISHED_TASK_BYTES;
        let evicted = match is_full {
            true => RECORDS + limits::ENDED_TRANSITIONS,
            false => 0,
        };
        RECORDS + evicted
    }

    /// Returns the largest number of records that a task in the history has.
    fn records_of_finished(&self, serial: u64) -> usize {
        let finished = self.finished_tasks.get(&serial);
        let transitions = finished.map(|finished| self.transitions(&finished.task.key).len());
        RECORDS + transitions.unwrap_or(0)
    }

    fn drop_finished(&mut self, serial: u64) {
        let dropped = self.finished_tasks.remove(&serial);
        let dropped = dropped.expect("the serial is that of a record");
        let key = &dropped.task.key;
        let transitions = self.transitions(key).len();
        self.index
            .finished(serial, &dropped, transitions, Sign::Remove);
        self.drop_transitions(key);
        self.note_dropped(&dropped.task, serial);
    }
}

/// Returns whether the history keeps all of a description.
pub(crate) fn keeps_all(spec: &TaskSpec) -> bool {
    let is_short = spec.environment.is_empty() && spec.uris.is_empty();
    let same = |spec: &TaskSpec| {
        let mut kept = spec.clone();
        reduce_to_history(&mut kept);
        kept == *spec
    };
    is_short && same(spec)
}

/// Reduces a description to the fields that lists and explanations show for an ended task.
/// Environment, files, mounts, checks and discovery are removed.
pub(crate) fn reduce_to_history(spec: &mut TaskSpec) {
    let most = limits::FINISHED_TEXT_BYTES;
    spec.environment.clear();
    spec.uris.clear();
    spec.host_paths.clear();
    spec.volumes.clear();
    spec.health_check = None;
    spec.readiness_check = None;
    spec.discovery = None;
    if let Some(executor) = &mut spec.executor {
        executor.environment.clear();
        executor.uris.clear();
        shorten(&mut executor.run, most);
        cut(&mut executor.user, most);
    }
    shorten(&mut spec.run, most);
    cut(&mut spec.name, most);
    cut(&mut spec.user, most);
    let mut bytes = 0;
    spec.labels.retain(|name, value| {
        bytes += name.len() + value.len();
        bytes <= most
    });
}

fn shorten(run: &mut CommandSpec, most: usize) {
    match run {
        CommandSpec::Image => (),
        CommandSpec::Shell(line) => cut(line, most),
        CommandSpec::Argv(words) => {
            let mut left = most;
            for word in words.iter_mut() {
                cut(word, left);
                left -= word.len();
            }
            // The program is kept, however short the bound, because it names the command.
            let mut at = 0;
            words.retain(|word| {
                at += 1;
                at == 1 || !word.is_empty()
            });
        }
    }
}

/// Cuts a text to the longest prefix of at most `most` bytes.
fn cut(text: &mut String, bytes: usize) {
    let end = (0..=text.len().min(bytes))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
}
