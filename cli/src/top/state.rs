//! The cluster as the change feed shows it, kept up to date by each event.
//!
//! Usage of agents, frameworks and roles is added up from the tasks: a change of it alone is no
//! event of the feed.

use std::collections::{BTreeMap, HashMap};

use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;
use argosy_proto::v1::watch_record::Record;

use super::records::{MAX_ROWS, Records};
use super::rows::{AgentRow, FrameworkRow, RoleRow, TaskRow};
use super::sums::Amounts;

/// The weight of a role without a record, in thousandths.
const DEFAULT_WEIGHT_MILLI: u64 = 1_000;

/// Live tasks, and what they use.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) tasks: u32,
    pub(super) amounts: Amounts,
}

static NO_USAGE: Usage = Usage {
    tasks: 0,
    amounts: Amounts::NONE,
};

type UsageByName = HashMap<Box<str>, Usage>;

/// The records of the feed.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) tasks: Records<TaskRow>,
    pub(super) agents: Records<AgentRow>,
    pub(super) frameworks: Records<FrameworkRow>,
    weights: BTreeMap<String, u64>,
    by_agent: UsageByName,
    by_framework: UsageByName,
    by_role: UsageByName,
    by_state: BTreeMap<v1::TaskState, u32>,
    /// The number of live tasks of each executor on an agent.
    executors: HashMap<[Box<str>; 3], u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Add,
    Remove,
}

impl Lists {
    /// Adds, replaces or removes a record.
    fn change(&mut self, record: v1::WatchRecord, is_removed: bool) {
        let v1::WatchRecord { kind, id, record } = record;
        match record.filter(|_| !is_removed) {
            Some(Record::Task(task)) => self.put_task(&id, task.into()),
            Some(Record::Agent(agent)) => {
                self.agents.put(&id, agent.into());
            }
            Some(Record::Framework(framework)) => {
                self.frameworks.put(&id, framework.into());
            }
            Some(Record::Role(role)) if self.weights.len() < MAX_ROWS => {
                self.weights.insert(role.role, role.weight_milli);
            }
            Some(Record::Role(_) | Record::Cluster(_)) => {}
            None => self.remove(&kind, &id),
        }
    }

    fn put_task(&mut self, id: &str, task: TaskRow) {
        if !self.tasks.has_room(id) {
            return;
        }
        if let Some(former) = self.tasks.remove(id) {
            self.charge(&former, Sign::Remove);
        }
        self.charge(&task, Sign::Add);
        self.tasks.put(id, task);
    }

    fn remove(&mut self, kind: &str, id: &str) {
        match kind {
            "task" => {
                if let Some(former) = self.tasks.remove(id) {
                    self.charge(&former, Sign::Remove);
                }
            }
            "agent" => {
                self.agents.remove(id);
            }
            "framework" => {
                self.frameworks.remove(id);
            }
            "role" => {
                self.weights.remove(id);
            }
            // A kind of a newer release.
            _ => {}
        }
    }

    /// Adds a task to the sums, or removes it.
    fn charge(&mut self, task: &TaskRow, sign: Sign) {
        let count = self.by_state.entry(task.state).or_default();
        *count = match sign {
            Sign::Add => count.saturating_add(1),
            Sign::Remove => count.saturating_sub(1),
        };
        let mut sums = [
            (&mut self.by_agent, task.agent.as_str()),
            (&mut self.by_framework, task.framework.as_str()),
            (&mut self.by_role, task.role.as_str()),
        ];
        for (sums, name) in &mut sums {
            charge(sums, name, 1, &task.amounts, sign);
        }
        let Some(executor) = &task.executor else {
            return;
        };
        let key = [&task.framework, &executor.id, &task.agent].map(|part| part.as_str().into());
        if turns(&mut self.executors, key, sign) {
            for (sums, name) in &mut sums {
                charge(sums, name, 0, &executor.amounts, sign);
            }
        }
    }

    pub(super) fn of_agent(&self, id: &str) -> &Usage {
        self.by_agent.get(id).unwrap_or(&NO_USAGE)
    }

    pub(super) fn of_framework(&self, id: &str) -> &Usage {
        self.by_framework.get(id).unwrap_or(&NO_USAGE)
    }

    /// Returns the number of live tasks in each state that has any.
    pub(super) fn states(&self) -> impl Iterator<Item = (v1::TaskState, u32)> {
        let states = self.by_state.iter().map(|(state, count)| (*state, *count));
        states.filter(|(_, count)| *count > 0)
    }

    /// Returns the roles by name. The usage of a role includes that of the roles below it.
    pub(super) fn roles(&self) -> Vec<RoleRow> {
        let mut roles: BTreeMap<&str, RoleRow> = BTreeMap::new();
        for name in self.weights.keys() {
            roles.entry(name).or_default();
        }
        for (name, usage) in &self.by_role {
            for above in with_roles_above(name) {
                let role = roles.entry(above).or_default();
                role.tasks = role.tasks.saturating_add(usage.tasks);
                role.amounts.add(&usage.amounts);
            }
        }
        for (_, framework) in self.frameworks.iter() {
            for name in &framework.roles {
                let role = roles.entry(name).or_default();
                role.frameworks += 1;
                role.waiting += u32::from(framework.waits_in(name));
            }
        }
        let named = roles.into_iter().map(|(name, role)| RoleRow {
            weight_milli: self
                .weights
                .get(name)
                .copied()
                .unwrap_or(DEFAULT_WEIGHT_MILLI),
            name: name.to_owned(),
            ..role
        });
        named.collect()
    }

    pub(super) fn is_cut(&self) -> bool {
        self.tasks.is_cut() || self.agents.is_cut() || self.frameworks.is_cut()
    }
}

/// Returns a role after the roles above it: `a`, `a/b`, `a/b/c`.
fn with_roles_above(role: &str) -> impl Iterator<Item = &str> {
    let ends = role.match_indices('/').map(|(at, _)| at);
    ends.chain([role.len()]).map(move |end| &role[..end])
}

fn charge(sums: &mut UsageByName, name: &str, tasks: u32, amounts: &Amounts, sign: Sign) {
    match sign {
        Sign::Add => {
            if !sums.contains_key(name) {
                sums.insert(name.into(), Usage::default());
            }
            let Some(usage) = sums.get_mut(name) else {
                return;
            };
            usage.tasks = usage.tasks.saturating_add(tasks);
            usage.amounts.add(amounts);
        }
        Sign::Remove => {
            let Some(usage) = sums.get_mut(name) else {
                return;
            };
            usage.tasks = usage.tasks.saturating_sub(tasks);
            usage.amounts.subtract(amounts);
            if *usage == Usage::default() {
                sums.remove(name);
            }
        }
    }
}

/// Counts a task of an executor, and returns whether it was its first or last one.
fn turns(executors: &mut HashMap<[Box<str>; 3], u32>, key: [Box<str>; 3], sign: Sign) -> bool {
    let count = executors.get(&key).copied().unwrap_or(0);
    let now = match sign {
        Sign::Add => count.saturating_add(1),
        Sign::Remove => count.saturating_sub(1),
    };
    match now {
        0 => executors.remove(&key),
        now => executors.insert(key, now),
    };
    (count == 0) != (now == 0)
}

/// All that `argosy top` knows.
#[derive(Debug, Default)]
pub(super) struct ClusterState {
    pub(super) lists: Lists,
    /// A snapshot that is not complete yet. Until then the former lists are shown.
    loading: Option<Lists>,
    has_lists: bool,
    /// The cluster's record: leader, epoch and feature level.
    pub(super) facts: v1::Cluster,
    /// The newest answer about masters and totals.
    pub(super) summary: Option<v1::Cluster>,
    /// The resources of open offers; `None` if they are unknown.
    pub(super) offered: Option<Amounts>,
    /// The reasons for which frameworks wait, by id.
    waiting: HashMap<String, String>,
    changes: u64,
}

impl ClusterState {
    /// Applies an event of the feed.
    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::SnapshotBegin(_) => self.loading = Some(Lists::default()),
            Event::Record(record) => {
                if let Some(Record::Cluster(cluster)) = &record.record {
                    self.facts = cluster.clone();
                }
                if let Some(loading) = &mut self.loading {
                    loading.change(record, false);
                }
            }
            Event::SnapshotEnd(_) => {
                if let Some(complete) = self.loading.take() {
                    self.lists = complete;
                    self.has_lists = true;
                    let known = &self.lists.frameworks;
                    self.waiting.retain(|id, _| known.contains(id));
                    self.changes += 1;
                }
            }
            Event::Change(change) => {
                let record = change.record.unwrap_or_default();
                match &record.record {
                    Some(Record::Cluster(cluster)) => self.facts = cluster.clone(),
                    _ if change.removed && record.kind == "framework" => {
                        self.waiting.remove(&record.id);
                    }
                    _ => {}
                }
                self.lists.change(record, change.removed);
                self.changes += 1;
            }
            // A snapshot follows.
            Event::HistoryLost(_) | Event::Progress(_) => {}
        }
    }

    /// Records why a framework waits.
    pub(super) fn explain(&mut self, framework: String, reason: String) {
        if self.lists.frameworks.contains(&framework) {
            self.waiting.insert(framework, reason);
            self.changes += 1;
        }
    }

    pub(super) fn waiting(&self, framework: &str) -> &str {
        self.waiting.get(framework).map_or("", String::as_str)
    }

    /// Returns the number of records of a snapshot that is still arriving; `None` if the lists are
    /// complete.
    pub(super) fn loaded(&self) -> Option<usize> {
        match &self.loading {
            Some(lists) => Some(lists.tasks.len() + lists.agents.len() + lists.frameworks.len()),
            None if self.has_lists => None,
            None => Some(0),
        }
    }

    /// Returns a number that increases with each change of the lists.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Returns the totals by which shares are measured.
    pub(super) fn totals(&self) -> Amounts {
        let total = self
            .summary
            .as_ref()
            .map(|summary| Amounts::of(&summary.total));
        total.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
