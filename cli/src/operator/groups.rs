//! Groups, computed from their tasks.

use std::collections::BTreeMap;

use argosy_proto::v1;
use serde::Serialize;

use super::{ClusterClient, EndedObjects, is_terminal, of_framework};
use crate::exit::Failure;
use crate::lookup::{self, Candidate};
use crate::output::{group_of, state_word};

/// One group, as its tasks describe it.
#[derive(Debug, Serialize)]
pub(crate) struct ListedGroup {
    pub(crate) group_id: String,
    pub(crate) framework_id: String,
    pub(crate) agent_id: String,
    /// The order of its first task, which identifies it permanently on its agent.
    pub(crate) order_index: u64,
    /// The tasks in the order of their start.
    pub(crate) tasks: Vec<GroupTask>,
    #[serde(skip)]
    pub(crate) sum: Vec<v1::Resource>,
    /// The log index of the last change of one of its tasks.
    #[serde(skip)]
    pub(crate) changed_at: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct GroupTask {
    pub(crate) task_id: String,
    pub(crate) state: String,
    #[serde(skip)]
    pub(crate) has_ended: bool,
    #[serde(skip)]
    pub(crate) place: u32,
}

impl ListedGroup {
    pub(crate) fn has_ended(&self) -> bool {
        self.tasks.iter().all(|task| task.has_ended)
    }

    pub(crate) fn shown(&self) -> String {
        format!("{}/{}", self.framework_id, self.group_id)
    }
}

impl ClusterClient {
    /// Returns all groups, or those of one framework, with ended ones.
    pub(crate) async fn groups(
        &self,
        framework_id: Option<&str>,
    ) -> Result<Vec<ListedGroup>, Failure> {
        let filter = of_framework(framework_id);
        let page = self.tasks(&filter, EndedObjects::Included).await?;
        Ok(groups(&page.tasks))
    }

    /// Returns the group that the user names as `GROUP` or `FRAMEWORK/GROUP`.
    pub(crate) async fn find_group(&self, wanted: &str) -> Result<ListedGroup, Failure> {
        let (framework_id, name) = self.find_prefix(wanted).await?;
        let groups = self.groups(framework_id.as_deref()).await?;
        pick(groups, name)
    }
}

/// Returns the groups of these tasks. An id may have been used before.
fn groups(tasks: &[v1::Task]) -> Vec<ListedGroup> {
    let mut all: Vec<ListedGroup> = Vec::new();
    for task in tasks {
        let Some(own) = group_of(task) else { continue };
        let member = GroupTask {
            task_id: task.task_id.clone(),
            state: state_word(task.state),
            has_ended: is_terminal(task.state),
            place: own.place,
        };
        let order_index = task.order_index.saturating_sub(u64::from(own.place));
        let wants = task.spec.iter().flat_map(|spec| spec.resources.clone());
        let changed_at = task.revision.unwrap_or_default().index;
        let known = all.iter_mut().find(|group| {
            group.framework_id == task.framework_id
                && group.agent_id == task.agent_id
                && group.order_index == order_index
        });
        match known {
            Some(group) => {
                group.tasks.push(member);
                group.sum.extend(wants);
                group.changed_at = group.changed_at.max(changed_at);
            }
            None => all.push(ListedGroup {
                group_id: own.group_id.clone(),
                framework_id: task.framework_id.clone(),
                agent_id: task.agent_id.clone(),
                order_index,
                tasks: vec![member],
                sum: wants.collect(),
                changed_at,
            }),
        }
    }
    for group in &mut all {
        group.tasks.sort_by_key(|task| task.place);
    }
    all
}

/// The groups of the listed tasks, which changes of tasks keep up to date.
#[derive(Debug, Default)]
pub(crate) struct GroupTracker {
    groups: BTreeMap<GroupKey, Vec<TrackedTask>>,
}

/// The framework, the agent, and the order of the first task.
type GroupKey = (String, String, u64);

#[derive(Debug)]
struct TrackedTask {
    task: v1::Task,
    /// Whether the masters no longer list it: it does not change any more.
    is_removed: bool,
}

impl GroupTracker {
    /// Creates a tracker of the groups of these tasks.
    pub(crate) fn new(tasks: Vec<v1::Task>) -> Self {
        let mut tracker = Self::default();
        for task in tasks {
            tracker.change(task, false);
        }
        tracker
    }

    /// Returns all groups.
    pub(crate) fn all(&self) -> Vec<ListedGroup> {
        self.groups
            .values()
            .filter_map(|tasks| group(tasks))
            .collect()
    }

    /// Records a change of a task. Returns its group if the state of a task in it has changed.
    /// `is_removed`: the masters no longer list the task. A group is forgotten when they list none
    /// of its tasks.
    pub(crate) fn change(&mut self, task: v1::Task, is_removed: bool) -> Option<ListedGroup> {
        let place = group_of(&task)?.place;
        let order_index = task.order_index.saturating_sub(u64::from(place));
        let key = (
            task.framework_id.clone(),
            task.agent_id.clone(),
            order_index,
        );
        let tasks = self.groups.entry(key.clone()).or_default();
        let known = tasks
            .iter_mut()
            .find(|known| known.task.task_id == task.task_id);
        let is_news = match known {
            Some(known) => {
                known.is_removed |= is_removed;
                let is_newer = order(&task) > order(&known.task);
                let is_news = is_newer && task.state != known.task.state;
                if is_newer {
                    known.task = task;
                }
                is_news
            }
            None => {
                tasks.push(TrackedTask { task, is_removed });
                true
            }
        };
        let changed = group(tasks).filter(|_| is_news);
        if tasks.iter().all(|task| task.is_removed) {
            self.groups.remove(&key);
        }
        changed
    }

    /// Forgets a task of which the masters have no record any more, by its id as
    /// `framework-1/web`.
    pub(crate) fn forget(&mut self, id: &str) {
        for tasks in self.groups.values_mut() {
            tasks.retain(|TrackedTask { task, .. }| {
                id.split_once('/') != Some((task.framework_id.as_str(), task.task_id.as_str()))
            });
        }
        self.groups.retain(|_, tasks| !tasks.is_empty());
    }
}

/// Returns the group of these tasks.
fn group(tasks: &[TrackedTask]) -> Option<ListedGroup> {
    let tasks: Vec<_> = tasks.iter().map(|tracked| tracked.task.clone()).collect();
    groups(&tasks).pop()
}

fn order(task: &v1::Task) -> (u64, u32) {
    let revision = task.revision.unwrap_or_default();
    (revision.index, revision.position)
}

/// Returns the group of this name. A live one takes precedence over one that has ended.
fn pick(mut groups: Vec<ListedGroup>, name: &str) -> Result<ListedGroup, Failure> {
    let is_live = |group: &ListedGroup| group.group_id == name && !group.has_ended();
    if groups.iter().any(is_live) {
        groups.retain(|group| !group.has_ended());
    } else {
        keep_newest(&mut groups, name);
    }
    let candidates: Vec<_> = groups.iter().map(candidate).collect();
    let at = lookup::find("group", name, &candidates)?;
    Ok(groups.swap_remove(at))
}

/// Returns the tasks of the group of this name in the order of their start, and whether all have
/// ended.
pub(crate) fn tasks_of_group(
    tasks: &[v1::Task],
    name: &str,
) -> Result<(Vec<v1::Task>, bool), Failure> {
    let group = pick(groups(tasks), name)?;
    let member = |place: &GroupTask| {
        tasks.iter().find(|task| {
            // An id may have been used before, with another order.
            let order_index = task.order_index.saturating_sub(u64::from(place.place));
            task.framework_id == group.framework_id
                && task.task_id == place.task_id
                && order_index == group.order_index
        })
    };
    let members = group.tasks.iter().filter_map(member).cloned().collect();
    Ok((members, group.has_ended()))
}

/// Removes all groups with this id but the newest, which is the one that is meant after the end of
/// all.
fn keep_newest(groups: &mut Vec<ListedGroup>, name: &str) {
    let named = groups.iter().filter(|group| group.group_id == name);
    let newest = named.max_by_key(|group| group.changed_at);
    let Some(newest) = newest.map(|group| (group.framework_id.clone(), group.order_index)) else {
        return;
    };
    groups.retain(|group| {
        group.group_id != name || (group.framework_id.clone(), group.order_index) == newest
    });
}

fn candidate(group: &ListedGroup) -> Candidate {
    Candidate {
        id: group.group_id.clone(),
        name: group.group_id.clone(),
        label: group.shown(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: &str, order_index: u64, place: u32, state: v1::TaskState) -> v1::Task {
        v1::Task {
            order_index,
            framework_id: "framework-1".to_owned(),
            task_id: id.to_owned(),
            agent_id: "agent-1".to_owned(),
            state: state.into(),
            spec: Some(v1::TaskSpec {
                group: Some(v1::TaskGroup {
                    group_id: "site".to_owned(),
                    place,
                    size: 2,
                }),
                ..v1::TaskSpec::default()
            }),
            ..v1::Task::default()
        }
    }

    #[test]
    fn groups_are_derived_from_tasks_in_start_order() {
        use v1::TaskState::{Killed, Running};
        let tasks = [
            task("reader", 8, 1, Running),
            v1::Task::default(),
            task("old", 3, 0, Killed),
            task("web", 7, 0, Running),
        ];
        let all = groups(&tasks);
        let states = |group: &ListedGroup| {
            let tasks = group.tasks.iter();
            let tasks: Vec<_> = tasks
                .map(|task| format!("{} {}", task.task_id, task.state))
                .collect();
            tasks.join(", ")
        };
        let found: Vec<_> = all.iter().map(states).collect();
        assert_eq!(found, ["web running, reader running", "old killed"]);
        assert!(!all[0].has_ended() && all[1].has_ended());
    }

    #[test]
    fn the_tasks_of_a_group_are_those_of_its_newest_instance() {
        use v1::TaskState::{Killed, Running};
        let tasks = [
            task("web", 3, 0, Killed),
            task("reader", 4, 1, Killed),
            task("reader", 8, 1, Running),
            task("web", 7, 0, Running),
        ];
        let (members, has_ended) = tasks_of_group(&tasks, "site").unwrap();
        let orders: Vec<_> = members.iter().map(|task| task.order_index).collect();
        assert_eq!((orders, has_ended), (vec![7, 8], false));
        assert!(tasks_of_group(&tasks[..2], "site").unwrap().1);
        assert!(tasks_of_group(&tasks, "other").is_err());
    }

    #[test]
    fn changes_of_tasks_are_changes_of_their_groups() {
        use v1::TaskState::{Killed, Killing, Running, Staging};
        let at = |index, mut task: v1::Task| {
            task.revision = Some(v1::Revision { index, position: 0 });
            task
        };
        let shown = |group: Option<ListedGroup>| {
            let group = group?;
            let states: Vec<_> = group.tasks.iter().map(|task| task.state.clone()).collect();
            Some((states.join(" "), group.has_ended()))
        };
        let web = |index, state| at(index, task("web", 7, 0, state));
        let reader = |index, state| at(index, task("reader", 8, 1, state));
        let mut tracker = GroupTracker::new(vec![
            v1::Task::default(),
            web(10, Running),
            reader(11, Staging),
        ]);
        assert_eq!(tracker.all().len(), 1);
        let mut change = |task, is_removed| shown(tracker.change(task, is_removed));
        let live = |states: &str| Some((states.to_owned(), false));
        assert_eq!(change(reader(12, Running), false), live("running running"));
        assert_eq!(change(reader(13, Running), false), None, "only its health");
        assert_eq!(change(web(9, Staging), false), None, "it is older");
        assert_eq!(change(web(14, Killing), false), live("killing running"));
        // An end is acknowledged, and the task then leaves the list.
        assert_eq!(change(reader(15, Killed), true), live("killing killed"));
        let ended = Some(("killed killed".to_owned(), true));
        assert_eq!(change(web(16, Killed), false), ended);
        assert_eq!(change(web(17, Killed), true), None);
        assert!(tracker.all().is_empty(), "no task of it changes any more");
    }

    #[test]
    fn a_task_without_a_record_leaves_its_group() {
        use v1::TaskState::Running;
        let tasks = vec![task("web", 7, 0, Running), task("reader", 8, 1, Running)];
        let mut tracker = GroupTracker::new(tasks);
        tracker.forget("framework-2/web");
        assert_eq!(tracker.all()[0].tasks.len(), 2);
        tracker.forget("framework-1/web");
        assert_eq!(tracker.all()[0].tasks.len(), 1);
        tracker.forget("framework-1/reader");
        assert!(tracker.all().is_empty());
    }

    #[test]
    fn of_groups_that_have_ended_the_newest_is_meant() {
        let ended = |framework: &str, order_index, changed_at| ListedGroup {
            group_id: "site".to_owned(),
            framework_id: framework.to_owned(),
            agent_id: "agent-1".to_owned(),
            order_index,
            tasks: Vec::new(),
            sum: Vec::new(),
            changed_at,
        };
        let mut all = vec![ended("framework-1", 7, 90), ended("framework-2", 3, 100)];
        keep_newest(&mut all, "other");
        assert_eq!(all.len(), 2);
        keep_newest(&mut all, "site");
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].framework_id, "framework-2");
    }
}
