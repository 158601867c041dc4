//! Conversion of subjects to the records that the feed sends, from a copy of the registry.
//!
//! Equal registries give equal records on every master: nothing here comes from a leader's links.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use argosy_proto::{convert, v1};
use argosy_state::agent::Agent;
use argosy_state::encode;
use argosy_state::framework::FrameworkInfo;
use argosy_state::ids::Revision;
use argosy_state::registry::{RecordKey, Registry};
use argosy_state::task::Task;
use bytes::Bytes;
use prost::Message;

use super::event::{FeedEvent, RenderedSubject, encode_record};
use super::selection::FilterFields;
use super::subject::Subject;
use super::window::{cost, through};
use crate::change_ring::{ChangeRing, HistoryLost, RecordChange};
use crate::inbox::StateView;
use crate::service::lists::plain;
use crate::service::views;

/// Entries that are read from the ring at a time.
const ENTRIES: usize = 1_024;
/// Subjects that are rendered before other readers have their turn.
const PART: usize = 256;

/// The subjects that a range of log indexes has changed.
pub(super) type Touched = BTreeMap<Subject, Touch>;

/// The changes of one subject in a range of log indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Touch {
    /// The newest change; `None` if a newer one is already rendered.
    pub(super) newest: Option<Revision>,
    /// The removal of the last former task that had the same id.
    pub(super) removed: Option<Revision>,
    /// The first change in the entry of the newest one.
    first: Revision,
    /// The last change of a task that the history has dropped; `None` if the task exists.
    dropped: Option<Revision>,
    /// The log index of the newest launch.
    launched: u64,
}

impl Touch {
    fn new(revision: Revision) -> Self {
        Self {
            newest: None,
            removed: None,
            first: revision,
            dropped: None,
            launched: 0,
        }
    }

    fn add(&mut self, key: &RecordKey, change: &RecordChange) {
        let revision = change.revision;
        if self
            .newest
            .is_none_or(|newest| newest.index < revision.index)
        {
            self.first = revision;
        }
        self.newest = Some(revision);
        // A launch writes these facts, and nothing changes them until the history drops the task.
        match (key, &change.value) {
            (RecordKey::TaskFacts(_), Some(_)) => {
                self.removed = self.dropped.take().or(self.removed);
                self.launched = revision.index;
            }
            (RecordKey::TaskFacts(_), None) => self.dropped = Some(revision),
            _ => self.dropped = self.dropped.map(|_| revision),
        }
    }

    /// Records that transitions of the task were removed. In the entry of its launch, they are
    /// those of a task of the same id, which the history has dropped in this entry: their records
    /// were written over.
    fn add_removed_transition(&mut self, index: u64) {
        if self.launched == index && self.newest.is_some_and(|newest| self.first < newest) {
            self.removed = Some(self.first);
        }
    }

    /// Keeps only the removal of a former task, because newer changes are already rendered. Returns
    /// whether there is one.
    pub(super) fn keep_removal(&mut self) -> bool {
        self.removed = self.dropped.or(self.removed);
        self.newest = None;
        self.removed.is_some()
    }
}

/// Returns the cursor of a reader that has everything up to a change. If only internal records
/// changed after it in its entry, the reader has the whole entry, which the ring need not have.
pub(super) fn after_change(ring: &ChangeRing, change: Revision) -> Revision {
    let is_internal =
        |key: &Bytes| encode::read_key(key).is_ok_and(|key| Subject::of(key).is_none());
    match ring.keys_after(change) {
        Some(rest) if rest.iter().all(is_internal) => through(change.index),
        Some(_) | None => change,
    }
}

/// Returns the subjects that changed after the log index `after` and up to `last`.
///
/// # Errors
/// If the ring no longer has all changes.
pub(super) async fn touched(
    ring: &ChangeRing,
    mut after: u64,
    last: u64,
) -> Result<Touched, HistoryLost> {
    let mut touched = Touched::new();
    while after < last {
        let page = ring.since(after, ENTRIES)?;
        let entries = page.entries.iter();
        for entry in entries.take_while(|entry| entry[0].revision.index <= last) {
            add_entry(&mut touched, entry);
        }
        if page.through <= after {
            break;
        }
        after = page.through;
        tokio::task::yield_now().await;
    }
    Ok(touched)
}

fn add_entry(touched: &mut Touched, entry: &[RecordChange]) {
    let mut transitions = Vec::new();
    for change in entry {
        // The owner has encoded the key.
        let Ok(key) = encode::read_key(&change.key) else {
            continue;
        };
        if let (RecordKey::TaskTransition(task, _), None) = (&key, &change.value) {
            transitions.push(task.clone());
        }
        if let Some(subject) = Subject::of(key.clone()) {
            let touch = touched.entry(subject);
            let touch = touch.or_insert_with(|| Touch::new(change.revision));
            touch.add(&key, change);
        }
    }
    for task in transitions {
        if let Some(touch) = touched.get_mut(&Subject::Task(task)) {
            touch.add_removed_transition(entry[0].revision.index);
        }
    }
}

/// Renders the newest of these subjects that together cost at most `most`, as a view has them,
/// ascending by revision. None may have changed between its newest revision and the view, so each
/// record is as of its revision. The removal of a former task is an event before that of the task
/// that has its id. If some are left out, returns also the log index after which all changes are
/// here.
pub(super) async fn newest_events(
    view: &StateView,
    touched: Touched,
    most: usize,
) -> (Vec<FeedEvent>, Option<u64>) {
    let mut newest_first = Vec::with_capacity(touched.len());
    for (subject, touch) in touched {
        if let Some(revision) = touch.removed {
            newest_first.push((revision, subject.clone(), true));
        }
        if let Some(revision) = touch.newest {
            newest_first.push((revision, subject, false));
        }
    }
    newest_first.sort_unstable_by_key(|(revision, _, _)| Reverse(*revision));
    let (mut events, mut left_out) = (Vec::new(), None);
    let mut bytes = 0;
    for (at, (revision, subject, is_removed)) in newest_first.into_iter().enumerate() {
        if at % PART == PART - 1 {
            tokio::task::yield_now().await;
        }
        let rendered = match is_removed {
            true => RenderedSubject::absent(&subject),
            false => subject_in(view, &subject),
        };
        let event = FeedEvent::new(revision, subject, rendered);
        bytes += cost(&event);
        if bytes > most {
            left_out = Some(revision.index);
            break;
        }
        events.push(event);
    }
    if let Some(index) = left_out {
        // A part of its entry is not enough.
        events.retain(|event: &FeedEvent| event.revision.index > index);
    }
    events.reverse();
    (events, left_out)
}

/// Renders one subject.
pub(super) fn subject_in(view: &StateView, subject: &Subject) -> RenderedSubject {
    let registry = &*view.registry;
    let rendered = match subject {
        Subject::Cluster => Some((FilterFields::Other, true, cluster(registry).encode_to_vec())),
        Subject::Role(role) => registry.weight(role).map(|weight_milli| {
            let role = v1::RoleWeight {
                role: role.to_string(),
                weight_milli,
            };
            (FilterFields::Other, true, role.encode_to_vec())
        }),
        Subject::Agent(id) => registry.agent(*id).map(|agent| {
            let mut bytes = views::agent_record(agent).encode_to_vec();
            bytes.extend(views::agent_usage(registry, agent).encode_to_vec());
            (agent_fields(agent), true, bytes)
        }),
        Subject::Framework(id) => {
            let live = registry.framework(*id).map(|framework| {
                let shown = views::framework_record(registry, view.now, framework);
                (&*framework.info, true, shown)
            });
            let shown = live.or_else(|| {
                let mut finished = registry.finished_frameworks();
                let finished = finished.find(|finished| finished.id == *id)?;
                let shown = views::finished_framework(finished);
                Some((&finished.info, false, shown))
            });
            shown.map(|(info, is_listed, shown)| {
                (framework_fields(info), is_listed, shown.encode_to_vec())
            })
        }
        Subject::Task(key) => {
            let live = registry.task(key).map(|task| (task, true));
            let finished = || {
                registry
                    .finished_task(key)
                    .map(|ended| (&ended.task, false))
            };
            live.or_else(finished).map(|(task, is_listed)| {
                let shown = views::task(registry, task);
                (task_fields(task), is_listed, shown.encode_to_vec())
            })
        }
    };
    match rendered {
        Some((fields, is_listed, bytes)) => RenderedSubject {
            fields: Some(fields),
            is_listed,
            record: encode_record(subject, &[&bytes]),
        },
        None => RenderedSubject::absent(subject),
    }
}

/// Returns the facts of the cluster that the registry has.
pub(super) fn cluster(registry: &Registry) -> v1::Cluster {
    let cluster = registry.cluster();
    let leader = (cluster.epoch.0 > 0).then(|| cluster.leader.to_string());
    v1::Cluster {
        cluster_id: cluster.facts.id.to_string(),
        leader: leader.unwrap_or_default(),
        epoch: cluster.epoch.0,
        term: cluster.term,
        feature_level: registry.level().0,
        ..v1::Cluster::default()
    }
}

pub(super) fn framework_fields(info: &FrameworkInfo) -> FilterFields {
    FilterFields::Framework {
        name: info.name.clone(),
        roles: info.roles.clone(),
    }
}

pub(super) fn agent_fields(agent: &Agent) -> FilterFields {
    let mode = convert::mode_from(agent.mode());
    FilterFields::Agent {
        host_name: agent.report.info.host_name.clone(),
        mode: plain(mode.as_str_name(), "AGENT_MODE_"),
    }
}

pub(super) fn task_fields(task: &Task) -> FilterFields {
    FilterFields::Task {
        agent: task.agent,
        role: task.role.clone(),
        state: plain(v1::TaskState::from(task.state).as_str_name(), "TASK_STATE_"),
        name: task.spec.name.clone(),
        user: task.spec.user.clone(),
    }
}
