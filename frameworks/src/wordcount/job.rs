//! The work: waiting, running and finished maps and reduces, and the task of each.
//!
//! Pure. A failed task is retried under a new id. A task on an unreachable agent is waited for. A
//! map whose outputs can no longer be fetched is repeated (`lost_outputs`).

mod lost_outputs;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use argosy_client::Resources;
use argosy_client::resources::{Remainder, to_wire};
use argosy_client::scheduler::is_terminal;
use argosy_proto::v1;
use serde::Serialize;

use super::tickets::{TaskOutput, TicketBook};
use crate::wordmap::{COUNTS, Segment, part_name};

/// Maximum text in the tasks of one accept, in bytes: masters accept calls of at most 1 MiB.
const ACCEPT_BYTES: usize = 640 * 1024;
/// Consecutive rejections of one piece of work after which the job fails. Offers are often gone
/// when they are used, so a few rejections are normal.
const MAX_REFUSALS: u32 = 100;

#[derive(Debug, Clone, Default)]
pub struct TaskSettings {
    /// URI of the program that maps and reduces: a path on the agents' hosts, or http(s).
    pub mapper: String,
    /// Directory on the agents' hosts for the witness file.
    pub witness: Option<String>,
    /// Minimum run time of each task in milliseconds; 0 for none.
    pub min_ms: u64,
    /// Resources of each task.
    pub resources: Resources,
    /// Failures of one piece of work after which the job fails.
    pub max_failures: u32,
    /// Whether agents use TLS, and send outputs to holders of tickets only.
    pub with_tickets: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WorkItem {
    Map(usize),
    Reduce(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum WorkState {
    Waiting,
    Launched,
    Done,
}

#[derive(Debug, Clone)]
struct WorkSlot {
    item: WorkItem,
    state: WorkState,
    attempt: u32,
    failures: u32,
    // Number of rejections of its task since the last launch.
    refusals: u32,
    task_id: String,
    // API address of the agent that has it.
    agent: String,
    agent_id: String,
}

/// The progress of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct JobProgress {
    /// Number of finished maps.
    pub maps_done: usize,
    /// Number of all maps.
    pub maps: usize,
    /// Number of finished reduces.
    pub reduces_done: usize,
    /// Number of all reduces.
    pub reduces: usize,
    /// Number of tasks that are launched and not ended.
    pub running: usize,
    /// Number of pieces that could be launched now.
    pub waiting: usize,
    /// Number of tasks launched beyond the first of their piece.
    pub retries: u32,
}

/// All pieces of work.
#[derive(Debug)]
pub struct Job {
    settings: TaskSettings,
    splits: Vec<Vec<Segment>>,
    maps: usize,
    // Maps first, then reduces.
    slots: Vec<WorkSlot>,
    waiting_maps: BTreeSet<usize>,
    waiting_reduces: BTreeSet<usize>,
    by_task: BTreeMap<String, usize>,
    // Ids of all launched tasks, without rejected ones.
    launched: BTreeSet<String>,
    running: usize,
    maps_done: usize,
    reduces_done: usize,
    retries: u32,
    framework_id: String,
    // Only with TLS.
    tickets: Option<TicketBook>,
    // Whether a reduce can be launched now that all maps are done.
    has_tickets: bool,
    failure: Option<String>,
}

impl Job {
    /// Creates a job with one map per split, and this number of reduces.
    #[must_use]
    pub fn new(settings: TaskSettings, splits: Vec<Vec<Segment>>, reduces: usize) -> Self {
        let maps = splits.len();
        let slot = |piece| WorkSlot {
            item: piece,
            state: WorkState::Waiting,
            attempt: 0,
            failures: 0,
            refusals: 0,
            task_id: String::new(),
            agent: String::new(),
            agent_id: String::new(),
        };
        let pieces = (0..maps)
            .map(WorkItem::Map)
            .chain((0..reduces).map(WorkItem::Reduce));
        let tickets = settings.with_tickets.then(TicketBook::default);
        Self {
            has_tickets: tickets.is_none(),
            tickets,
            settings,
            splits,
            maps,
            slots: pieces.map(slot).collect(),
            waiting_maps: (0..maps).collect(),
            waiting_reduces: (maps..maps + reduces).collect(),
            by_task: BTreeMap::new(),
            launched: BTreeSet::new(),
            running: 0,
            maps_done: 0,
            reduces_done: 0,
            retries: 0,
            framework_id: String::new(),
            failure: None,
        }
    }

    /// Sets the framework's id, which is part of the location of outputs.
    pub fn registered(&mut self, framework_id: &str) {
        self.framework_id = framework_id.to_owned();
    }

    /// Returns the resources of one task.
    #[must_use]
    pub fn needs(&self) -> &Resources {
        &self.settings.resources
    }

    /// Returns the number of pieces that could be launched now. Reduces wait for every map.
    #[must_use]
    pub fn waiting(&self) -> usize {
        if self.failure.is_some() {
            0
        } else if self.maps_done < self.maps {
            self.waiting_maps.len()
        } else if self.has_tickets {
            self.waiting_reduces.len()
        } else {
            0
        }
    }

    /// Returns the id of the framework; empty before it is registered.
    #[must_use]
    pub fn framework_id(&self) -> &str {
        &self.framework_id
    }

    /// Returns the tickets, which agents require with TLS.
    pub fn tickets(&mut self) -> Option<&mut TicketBook> {
        self.tickets.as_mut()
    }

    /// Determines at this time which outputs are needed next and have no ticket. Call it after
    /// every change.
    pub fn missing_tickets(&mut self, now_ms: u64) -> Vec<TaskOutput> {
        let Some(book) = &mut self.tickets else {
            return Vec::new();
        };
        book.advance(now_ms);
        let (maps, reduces) = self.slots.split_at(self.maps);
        let needed = if self.reduces_done == reduces.len() {
            reduces
        } else if self.maps_done == self.maps && !self.waiting_reduces.is_empty() {
            maps
        } else {
            &[]
        };
        let missing = needed
            .iter()
            .filter(|slot| book.of(&slot.task_id).is_none());
        let missing: Vec<_> = missing
            .map(|slot| TaskOutput {
                agent_id: slot.agent_id.clone(),
                task_id: slot.task_id.clone(),
            })
            .collect();
        self.has_tickets = missing.is_empty();
        missing
    }

    /// Ends the job with this reason.
    pub fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    /// Returns the number of tasks that are launched and not ended.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }

    /// Returns the ids of all launched tasks, including ended ones, without rejected ones.
    #[must_use]
    pub fn launched(&self) -> &BTreeSet<String> {
        &self.launched
    }

    /// Returns why the job has failed.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    #[must_use]
    pub fn progress(&self) -> JobProgress {
        JobProgress {
            maps_done: self.maps_done,
            maps: self.maps,
            reduces_done: self.reduces_done,
            reduces: self.slots.len() - self.maps,
            running: self.running,
            waiting: self.waiting(),
            retries: self.retries,
        }
    }

    /// Returns the tasks to launch on an offer: as many as fit, wait and are allowed.
    pub fn fill(&mut self, offer: &v1::Offer, most: usize) -> Vec<v1::TaskSpec> {
        let mut rest = Remainder::of(offer);
        let mut tasks = Vec::new();
        let mut bytes = 0;
        while tasks.len() < most
            && bytes < ACCEPT_BYTES
            && self.waiting() > 0
            && rest.take(&self.settings.resources)
        {
            let is_mapping = self.maps_done < self.maps;
            let queue = if is_mapping {
                &mut self.waiting_maps
            } else {
                &mut self.waiting_reduces
            };
            let Some(at) = queue.pop_first() else { break };
            let task = self.launch(at, offer);
            bytes += text_bytes(&task);
            tasks.push(task);
        }
        tasks
    }

    fn launch(&mut self, at: usize, offer: &v1::Offer) -> v1::TaskSpec {
        let slot = &mut self.slots[at];
        slot.attempt += 1;
        self.retries += u32::from(slot.attempt > 1);
        slot.task_id = match slot.item {
            WorkItem::Map(map) => format!("map-{map:03}-{}", slot.attempt),
            WorkItem::Reduce(reduce) => format!("reduce-{reduce:02}-{}", slot.attempt),
        };
        slot.agent.clone_from(&offer.agent_address);
        slot.agent_id.clone_from(&offer.agent_id);
        slot.state = WorkState::Launched;
        self.running += 1;
        self.by_task.insert(slot.task_id.clone(), at);
        self.launched.insert(slot.task_id.clone());
        let (task_id, piece) = (slot.task_id.clone(), slot.item);
        let mut spec = self.common(&task_id);
        match piece {
            WorkItem::Map(map) => {
                spec.name = "map".into();
                spec.argv.extend([
                    "map".into(),
                    "--reduces".into(),
                    (self.slots.len() - self.maps).to_string(),
                ]);
                spec.argv
                    .extend(self.splits[map].iter().map(Segment::to_argument));
            }
            WorkItem::Reduce(reduce) => {
                spec.name = "reduce".into();
                spec.argv
                    .extend(["reduce".into(), "--maps".into(), self.maps.to_string()]);
                let part = part_name(reduce);
                spec.uris.extend(
                    self.slots[..self.maps]
                        .iter()
                        .enumerate()
                        .map(|(map, slot)| v1::Uri {
                            value: self.url(slot, &part),
                            output_file: format!("map-{map:03}.tsv"),
                            ..v1::Uri::default()
                        }),
                );
            }
        }
        spec
    }

    fn common(&self, task_id: &str) -> v1::TaskSpec {
        let settings = &self.settings;
        let mut argv = vec!["./wordmap".to_owned()];
        let mut host_paths = Vec::new();
        if let Some(directory) = &settings.witness {
            argv.extend(["--witness".to_owned(), "witness".to_owned()]);
            host_paths.push(v1::HostPath {
                host_path: directory.clone(),
                container_path: "witness".into(),
                read_only: false,
            });
        }
        if settings.min_ms > 0 {
            argv.extend(["--least-ms".to_owned(), settings.min_ms.to_string()]);
        }
        v1::TaskSpec {
            task_id: task_id.to_owned(),
            resources: to_wire(&settings.resources),
            argv,
            uris: vec![v1::Uri {
                value: settings.mapper.clone(),
                executable: true,
                output_file: "wordmap".into(),
                ..v1::Uri::default()
            }],
            host_paths,
            ..Default::default()
        }
    }

    fn url(&self, slot: &WorkSlot, file: &str) -> String {
        let WorkSlot { agent, task_id, .. } = slot;
        let framework = &self.framework_id;
        let path = format!("{agent}/v1/files/download?path=tasks/{framework}/{task_id}/{file}");
        match &self.tickets {
            None => format!("http://{path}"),
            // Without a ticket the agent rejects the request, and the work is repeated.
            Some(book) => format!(
                "https://{path}&ticket={}",
                book.of(task_id).unwrap_or_default()
            ),
        }
    }

    /// Returns the URLs of the reduces' outputs, once all are done.
    #[must_use]
    pub fn outputs(&self) -> Option<Vec<String>> {
        let is_done = self.reduces_done == self.slots.len() - self.maps
            && self.has_tickets
            && self.failure.is_none();
        is_done.then(|| {
            self.slots[self.maps..]
                .iter()
                .map(|slot| self.url(slot, COUNTS))
                .collect()
        })
    }

    /// Records a task that was certainly never launched. Its work waits again, at first under the
    /// same id, since a rejection has no effect. An id that is rejected twice may be in use.
    pub fn not_launched(&mut self, task_id: &str, why: &str) {
        let Some(at) = self.live(task_id) else {
            return;
        };
        self.launched.remove(task_id);
        let slot = &mut self.slots[at];
        slot.state = WorkState::Waiting;
        slot.refusals += 1;
        if slot.refusals < 2 {
            slot.attempt -= 1;
        }
        if slot.refusals >= MAX_REFUSALS {
            self.failure.get_or_insert(format!(
                "{task_id} was rejected {MAX_REFUSALS} times; the last: {why}"
            ));
        }
        self.running -= 1;
        self.enqueue(at);
    }

    /// Processes an update. Returns a message if a failure should be reported to the user.
    pub fn update(&mut self, status: &v1::TaskStatus) -> Option<String> {
        let at = self.live(&status.task_id)?;
        let state = status.state();
        self.slots[at].refusals = 0;
        if state == v1::TaskState::Finished {
            self.slots[at].state = WorkState::Done;
            self.running -= 1;
            match self.slots[at].item {
                WorkItem::Map(_) => self.maps_done += 1,
                WorkItem::Reduce(_) => self.reduces_done += 1,
            }
            return None;
        }
        if !is_terminal(state) && state != v1::TaskState::Unknown {
            return None;
        }
        let problem = format!(
            "{} is {}: {}",
            status.task_id,
            state.as_str_name(),
            status.message
        );
        if state == v1::TaskState::Unknown {
            // It is unknown: its launch was lost.
            self.launched.remove(&status.task_id);
        }
        if status.reason() == v1::Reason::FetchFailed {
            self.repeat_lost_maps(&status.message);
        }
        self.retry(at, &problem);
        Some(problem)
    }

    /// Returns the position of a task of this job that is launched and not ended. An older attempt
    /// is not.
    fn live(&self, task_id: &str) -> Option<usize> {
        let at = *self.by_task.get(task_id)?;
        let slot = &self.slots[at];
        (slot.task_id == task_id && slot.state == WorkState::Launched).then_some(at)
    }

    fn retry(&mut self, at: usize, why: &str) {
        let slot = &mut self.slots[at];
        slot.state = WorkState::Waiting;
        slot.failures += 1;
        self.running -= 1;
        if slot.failures >= self.settings.max_failures && self.failure.is_none() {
            self.failure = Some(format!(
                "failed after {} failures; the last: {why}",
                slot.failures
            ));
        }
        self.enqueue(at);
    }

    fn enqueue(&mut self, at: usize) {
        match self.slots[at].item {
            WorkItem::Map(_) => self.waiting_maps.insert(at),
            WorkItem::Reduce(_) => self.waiting_reduces.insert(at),
        };
    }
}

fn text_bytes(task: &v1::TaskSpec) -> usize {
    let arguments: usize = task.argv.iter().map(|argument| argument.len() + 4).sum();
    let uris = task
        .uris
        .iter()
        .map(|uri| uri.value.len() + uri.output_file.len() + 12);
    arguments + uris.sum::<usize>()
}
