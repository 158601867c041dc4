//! The changes that the masters still have: those of the change feed, which has at least the newest
//! change of each record, and the former states of tasks.

use std::collections::{HashMap, HashSet};

use argosy_client::Watch;
use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;
use argosy_proto::v1::watch_record::Record;
use futures::stream::{self, StreamExt, TryStreamExt};

use super::{request, revisions_unknown};
use crate::args::Events;
use crate::args::filters;
use crate::exit::{Failure, FailureCode};
use crate::operator::{ClusterClient, is_terminal, read_failure};

/// Number of tasks whose former states are read, unless `--tail` names another one.
const TASKS: usize = 1_000;
/// Number of tasks that are read at a time.
const TASKS_AT_A_TIME: usize = 16;
/// Number of attempts to read the changes while the oldest ones are dropped.
const ATTEMPTS: usize = 5;

/// The changes that the masters still have.
#[derive(Debug, Default)]
pub(super) struct History {
    /// In the order of their revisions.
    pub(super) changes: Vec<v1::WatchChange>,
    /// The changes up to this log index are no longer known; 0 if all are.
    pub(super) lost: u64,
    /// Number of tasks whose former states were not read.
    pub(super) tasks_left_out: usize,
}

/// Reads the changes up to the log index `through`.
///
/// # Errors
/// If the changes after `--from` are no longer known, or no master answers.
pub(super) async fn read(
    operator: &ClusterClient,
    arguments: &Events,
    through: u64,
) -> Result<History, Failure> {
    let from = arguments.from.unwrap_or(0);
    let mut lost = None;
    for _ in 0..ATTEMPTS {
        if let (Some(from), Some(oldest)) = (arguments.from, lost) {
            return Err(revisions_unknown(from, oldest));
        }
        let after = lost.unwrap_or(from);
        let watch = operator.watch(until(arguments, after, through));
        match changes(watch, through).await? {
            FeedPart::Complete(changes) => {
                let lost = lost.unwrap_or(0);
                let read = with_former_states(operator, arguments, changes, (after, through));
                let (changes, tasks_left_out) = read.await?;
                return Ok(History {
                    changes,
                    lost,
                    tasks_left_out,
                });
            }
            FeedPart::Lost(oldest) => lost = Some(oldest),
        }
    }
    let text = "the oldest known changes are dropped faster than they are read";
    Err(Failure::new(FailureCode::Failed, text)
        .advise(format!("argosy events --from {through} -f shows new ones")))
}

fn until(arguments: &Events, after: u64, through: u64) -> v1::WatchRequest {
    v1::WatchRequest {
        min_revision: through,
        ..request(arguments, Some(after))
    }
}

/// The changes of the feed after a revision.
enum FeedPart {
    Complete(Vec<v1::WatchChange>),
    /// No master has those up to this log index; one has all later ones.
    Lost(u64),
}

async fn changes(mut watch: Watch, through: u64) -> Result<FeedPart, Failure> {
    let mut changes = Vec::new();
    loop {
        match watch.next().await.map_err(read_failure)? {
            Event::Change(change) => {
                if index(change.revision) > through {
                    return Ok(FeedPart::Complete(changes));
                }
                changes.push(change);
            }
            Event::Progress(progress) if progress.revision >= through => {
                return Ok(FeedPart::Complete(changes));
            }
            Event::HistoryLost(lost) => return Ok(FeedPart::Lost(lost.oldest)),
            Event::Progress(_)
            | Event::Record(_)
            | Event::SnapshotBegin(_)
            | Event::SnapshotEnd(_) => {}
        }
    }
}

fn index(revision: Option<v1::Revision>) -> u64 {
    revision.unwrap_or_default().index
}

/// Adds the former states of the newest tasks, and limits the number of changes. Returns also the
/// number of tasks whose former states were not read.
async fn with_former_states(
    operator: &ClusterClient,
    arguments: &Events,
    changes: Vec<v1::WatchChange>,
    (after, through): (u64, u64),
) -> Result<(Vec<v1::WatchChange>, usize), Failure> {
    let (tasks, left_out) = newest_tasks(&changes, arguments.tail.map(|tail| tail as usize));
    let read = tasks.into_iter().map(|(framework, task)| async move {
        operator.task_as_of(&framework, &task, through).await
    });
    let read = stream::iter(read).buffer_unordered(TASKS_AT_A_TIME);
    let found: Vec<Option<v1::Task>> = read.try_collect().await?;
    let state = arguments.filter.iter().find(|(name, _)| name == "state");
    let state = state.and_then(|(_, value)| filters::task_state(value).ok());
    let former: Vec<_> = found
        .iter()
        .flatten()
        .flat_map(|task| task.history.iter().map(move |change| former(task, change)))
        .filter(|change| (after + 1..=through).contains(&index(change.revision)))
        .filter(|change| state.is_none_or(|state| task_state(change) == Some(state.into())))
        .collect();
    let mut all = merged(former, changes);
    if let Some(tail) = arguments.tail {
        all.drain(..all.len().saturating_sub(tail as usize));
    }
    Ok((all, left_out))
}

/// Returns the ids of the tasks that changed last: of those among the last `tail` changes, or of a
/// bounded number. Older tasks have no former state among the last `tail` changes. Returns also the
/// number of the others.
fn newest_tasks(
    changes: &[v1::WatchChange],
    tail: Option<usize>,
) -> (Vec<(String, String)>, usize) {
    let newest = changes.iter().rev().take(tail.unwrap_or(usize::MAX));
    let tasks = newest.filter_map(|change| match change.record.as_ref()?.record.as_ref()? {
        Record::Task(task) => Some((task.framework_id.clone(), task.task_id.clone())),
        _ => None,
    });
    // A master whose feed has readers still has several changes of a task.
    let mut seen = HashSet::new();
    let mut tasks: Vec<_> = tasks.filter(|task| seen.insert(task.clone())).collect();
    let most = tail.unwrap_or(TASKS);
    let left_out = tasks.len().saturating_sub(most);
    tasks.truncate(most);
    (tasks, left_out)
}

/// Returns a former state of a task as a change. Nothing else is known of the task at that time.
fn former(task: &v1::Task, transition: &v1::TaskTransition) -> v1::WatchChange {
    let latest = v1::TaskStatus {
        framework_id: task.framework_id.clone(),
        task_id: task.task_id.clone(),
        agent_id: task.agent_id.clone(),
        state: transition.state,
        source: transition.source,
        reason: transition.reason,
        exit: transition.exit,
        revision: transition.revision,
        wall_ms: transition.wall_ms,
        ..v1::TaskStatus::default()
    };
    let record = v1::Task {
        framework_id: task.framework_id.clone(),
        task_id: task.task_id.clone(),
        agent_id: task.agent_id.clone(),
        role: task.role.clone(),
        state: transition.state,
        latest: Some(latest),
        revision: transition.revision,
        ..v1::Task::default()
    };
    v1::WatchChange {
        revision: transition.revision,
        record: Some(v1::WatchRecord {
            kind: "task".to_owned(),
            id: format!("{}/{}", task.framework_id, task.task_id),
            record: Some(Record::Task(record)),
        }),
        removed: is_terminal(transition.state),
    }
}

fn task_state(change: &v1::WatchChange) -> Option<i32> {
    match change.record.as_ref()?.record.as_ref()? {
        Record::Task(task) => Some(task.state),
        _ => None,
    }
}

/// Merges former states into the changes, in the order of the log. A state is not repeated that its
/// task has in a change of the same entry, nor one that came after its newest change.
fn merged(former: Vec<v1::WatchChange>, changes: Vec<v1::WatchChange>) -> Vec<v1::WatchChange> {
    let id = |change: &v1::WatchChange| {
        let record = change.record.as_ref();
        record.map(|record| record.id.clone()).unwrap_or_default()
    };
    let mut newest = HashMap::new();
    let mut states = HashSet::new();
    for change in &changes {
        let Some(state) = task_state(change) else {
            continue;
        };
        let at = index(change.revision);
        newest.insert(id(change), at);
        states.insert((id(change), at, state));
    }
    let is_new = |change: &v1::WatchChange| {
        let (id, at) = (id(change), index(change.revision));
        let is_known = newest.get(&id).is_none_or(|newest| at <= *newest);
        is_known && task_state(change).is_none_or(|state| !states.contains(&(id, at, state)))
    };
    let former = former.into_iter().filter(is_new);
    let mut all: Vec<_> = former.chain(changes).collect();
    // Stable: of one entry, former states are before the change.
    all.sort_by_key(|change| index(change.revision));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> Option<v1::Revision> {
        Some(v1::Revision { index, position: 0 })
    }

    /// Returns a task whose states became true at these revisions.
    fn task(name: &str, states: &[(u64, v1::TaskState)]) -> v1::Task {
        let history = states.iter().map(|(index, state)| v1::TaskTransition {
            state: (*state).into(),
            source: v1::Source::Agent.into(),
            wall_ms: 1_000,
            revision: at(*index),
            ..v1::TaskTransition::default()
        });
        v1::Task {
            framework_id: "framework-1".to_owned(),
            task_id: name.to_owned(),
            agent_id: "agent-1".to_owned(),
            history: history.collect(),
            state: states.last().map_or(0, |(_, state)| (*state).into()),
            ..v1::Task::default()
        }
    }

    /// Returns the change of the feed by which a task has its present state.
    fn change(index: u64, task: &v1::Task) -> v1::WatchChange {
        v1::WatchChange {
            revision: at(index),
            record: Some(v1::WatchRecord {
                kind: "task".to_owned(),
                id: format!("framework-1/{}", task.task_id),
                record: Some(Record::Task(task.clone())),
            }),
            removed: false,
        }
    }

    fn shown(changes: &[v1::WatchChange]) -> Vec<String> {
        let line = |change: &v1::WatchChange| {
            let record = change.record.as_ref().unwrap();
            let state = task_state(change).unwrap_or_default();
            let state = crate::output::state_word(state);
            format!("{} {} {state}", index(change.revision), record.id)
        };
        changes.iter().map(line).collect()
    }

    #[test]
    fn former_states_are_between_the_changes_of_other_records() {
        use v1::TaskState::{Failed, Running, Staging};
        let web = task("web", &[(3, Staging), (5, Running), (9, Failed)]);
        let db = task("db", &[(4, Staging), (6, Running), (12, Failed)]);
        let agent = v1::WatchChange {
            revision: at(5),
            record: Some(v1::WatchRecord {
                kind: "agent".to_owned(),
                id: "agent-1".to_owned(),
                record: Some(Record::Agent(v1::Agent::default())),
            }),
            removed: false,
        };
        // The feed was read before `db` failed; the change of `web` is the acknowledgement.
        let mut running = db.clone();
        running.set_state(Running);
        let changes = vec![agent, change(6, &running), change(10, &web)];
        let tasks = [&web, &db].into_iter();
        let steps = tasks.flat_map(|task| task.history.iter().map(move |step| former(task, step)));
        let all = merged(steps.collect(), changes);
        let expected = [
            "3 framework-1/web staging",
            "4 framework-1/db staging",
            "5 framework-1/web running",
            "5 agent-1 unspecified",
            "6 framework-1/db running",
            "9 framework-1/web failed",
            "10 framework-1/web failed",
        ];
        assert_eq!(shown(&all), expected);
    }

    #[test]
    fn the_states_of_a_task_with_several_changes_are_not_repeated() {
        use v1::TaskState::{Finished, Running, Staging};
        let web = task("web", &[(3, Staging), (5, Running), (9, Finished)]);
        let mut running = web.clone();
        running.set_state(Running);
        // Those of 9 and 10 are the end and its acknowledgement.
        let changes = vec![change(5, &running), change(9, &web), change(10, &web)];
        let (read, left_out) = newest_tasks(&changes, Some(10));
        assert_eq!((read.len(), left_out), (1, 0));
        let steps = web.history.iter().map(|step| former(&web, step));
        let expected = [
            "3 framework-1/web staging",
            "5 framework-1/web running",
            "9 framework-1/web finished",
            "10 framework-1/web finished",
        ];
        assert_eq!(shown(&merged(steps.collect(), changes)), expected);
    }

    #[test]
    fn a_former_state_has_what_was_recorded_with_it() {
        let mut web = task("web", &[(9, v1::TaskState::Failed)]);
        web.history[0].reason = v1::Reason::CommandExited.into();
        web.kill_wanted = true;
        let change = former(&web, &web.history[0]);
        assert!(change.removed);
        let Some(Record::Task(found)) = change.record.unwrap().record else {
            panic!("it is a task");
        };
        let latest = found.latest.unwrap();
        assert_eq!(latest.reason(), v1::Reason::CommandExited);
        assert_eq!(
            (latest.wall_ms, found.agent_id.as_str()),
            (1_000, "agent-1")
        );
        assert!(!found.kill_wanted, "it may have been requested later");
    }

    #[test]
    fn the_former_states_of_a_bounded_number_of_tasks_are_read() {
        let state = [(1, v1::TaskState::Running)];
        let tasks = (0..TASKS + 3).map(|number| task(&format!("t{number}"), &state));
        let changes: Vec<_> = (1..)
            .zip(tasks)
            .map(|(at, task)| change(at, &task))
            .collect();
        let (read, left_out) = newest_tasks(&changes, None);
        assert_eq!((read.len(), left_out), (TASKS, 3));
        assert_eq!(
            read[0].1,
            format!("t{}", TASKS + 2),
            "the newest comes first"
        );
        let (read, left_out) = newest_tasks(&changes, Some(2));
        assert_eq!((read.len(), left_out), (2, 0));
        assert_eq!(newest_tasks(&[], None), (Vec::new(), 0));
    }
}
