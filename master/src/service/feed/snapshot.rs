//! A snapshot for one subscriber: all selected records of one copy of the registry, in parts.
//!
//! It shows what lists without ended records show at the same log index.

use std::collections::BTreeSet;
use std::sync::Arc;

use argosy_state::ids::{AgentId, FrameworkId, Role, TaskKey};
use bytes::Bytes;
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;

use super::event::{encode_record, encode_snapshot_record};
use super::render::{agent_fields, subject_in, task_fields};
use super::selection::{FilterFields, Selection, Verdict};
use super::subject::{Kind, Subject};
use crate::encodings::EncodingCache;
use crate::inbox::StateView;
use crate::service::views;

/// Records that one part scans.
const PART: usize = 500;
/// Bytes of one part, unless a single record takes more.
const PART_BYTES: usize = 256 << 10;

/// A snapshot that is being sent. It holds its copy of the registry until it is dropped.
#[derive(Debug)]
pub(super) struct SnapshotWalk {
    view: Arc<StateView>,
    selection: Selection,
    encodings: EncodingCache,
    /// The last subject that was scanned; subjects ascend.
    after: Option<Subject>,
    /// The frameworks that were selected, if the reader may see only some.
    frameworks: BTreeSet<FrameworkId>,
    _permit: OwnedSemaphorePermit,
}

/// The records of one part.
#[derive(Debug, Default)]
struct Part {
    records: Vec<Bytes>,
    scanned: usize,
    bytes: usize,
    last: Option<Subject>,
}

impl Part {
    fn is_full(&self) -> bool {
        self.scanned >= PART || self.bytes >= PART_BYTES
    }

    fn add(&mut self, subject: Subject, record: Option<Vec<u8>>) {
        self.scanned += 1;
        self.last = Some(subject);
        if let Some(record) = record {
            self.bytes += record.len();
            self.records.push(encode_snapshot_record(&record));
        }
    }
}

impl SnapshotWalk {
    pub(super) fn new(
        view: Arc<StateView>,
        selection: Selection,
        encodings: EncodingCache,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            view,
            selection,
            encodings,
            after: None,
            frameworks: BTreeSet::new(),
            _permit: permit,
        }
    }

    /// Returns the log index of the snapshot.
    pub(super) fn revision(&self) -> u64 {
        self.view.registry.applied()
    }

    /// Returns the next records, as encoded events; `None` at the end. A part may be empty.
    pub(super) fn next_part(&mut self) -> Option<Vec<Bytes>> {
        let mut part = Part::default();
        let begin = self.after.as_ref().map(Subject::kind);
        for kind in Kind::ALL {
            if begin.is_some_and(|begin| kind < begin) || !self.selection.includes(kind) {
                continue;
            }
            match kind {
                Kind::Cluster if self.after.is_none() => {
                    self.one(Subject::Cluster, &mut part);
                }
                Kind::Cluster => {}
                Kind::Role => self.roles(&mut part),
                Kind::Agent => self.agents(&mut part),
                Kind::Framework => self.frameworks(&mut part),
                Kind::Task => self.tasks(&mut part),
            }
            if part.is_full() {
                break;
            }
        }
        self.after = Some(part.last?);
        Some(part.records)
    }

    /// Takes the frameworks that were selected, if the reader may see only some.
    pub(super) fn take_frameworks(&mut self) -> BTreeSet<FrameworkId> {
        std::mem::take(&mut self.frameworks)
    }

    fn wants(&self, subject: &Subject, fields: &FilterFields) -> bool {
        self.selection.judge(subject, Some(fields), true) == Verdict::Shown
    }

    /// Adds a subject that lists do not encode for all readers. Returns whether it is selected.
    fn one(&self, subject: Subject, part: &mut Part) -> bool {
        let rendered = subject_in(&self.view, &subject);
        let fields = rendered.fields.as_ref();
        let is_wanted = fields.is_some_and(|fields| self.wants(&subject, fields));
        part.add(subject, is_wanted.then_some(rendered.record));
        is_wanted
    }

    fn roles(&self, part: &mut Part) {
        let after: Option<&Role> = match &self.after {
            Some(Subject::Role(role)) => Some(role),
            _ => None,
        };
        for (role, _) in self.view.registry.weights() {
            if part.is_full() {
                return;
            }
            if after.is_none_or(|after| role > after) {
                self.one(Subject::Role(role.clone()), part);
            }
        }
    }

    fn frameworks(&mut self, part: &mut Part) {
        let after = match &self.after {
            Some(Subject::Framework(id)) => *id,
            _ => FrameworkId(0),
        };
        let view = Arc::clone(&self.view);
        let is_partial = self.selection.is_partial(Kind::Framework);
        for framework in view.registry.frameworks_after(after) {
            if part.is_full() {
                return;
            }
            if self.one(Subject::Framework(framework.id), part) && is_partial {
                self.frameworks.insert(framework.id);
            }
        }
    }

    fn agents(&self, part: &mut Part) {
        let registry = &self.view.registry;
        let after = match &self.after {
            Some(Subject::Agent(id)) => *id,
            _ => AgentId(0),
        };
        let mut kept = self.encodings.lock();
        for agent in registry.shared_agents_after(after) {
            if part.is_full() {
                return;
            }
            let subject = Subject::Agent(agent.id);
            let record = self.wants(&subject, &agent_fields(agent)).then(|| {
                let record = kept.encoded(agent, views::agent_record);
                let usage = views::agent_usage(registry, agent).encode_to_vec();
                encode_record(&subject, &[&record, &usage])
            });
            part.add(subject, record);
        }
    }

    fn tasks(&self, part: &mut Part) {
        let registry = &self.view.registry;
        let after: Option<&TaskKey> = match &self.after {
            Some(Subject::Task(key)) => Some(key),
            _ => None,
        };
        let mut kept = self.encodings.lock();
        for task in registry.shared_tasks_after(after) {
            if part.is_full() {
                return;
            }
            let subject = Subject::Task(task.key.clone());
            let record = self.wants(&subject, &task_fields(task)).then(|| {
                let record = kept.encoded(task, views::task_record);
                let now = views::task_now(registry, task).encode_to_vec();
                encode_record(&subject, &[&record, &now])
            });
            part.add(subject, record);
        }
    }
}
