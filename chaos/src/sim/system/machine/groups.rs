//! The rules of task groups on a simulated machine: start all or none, and end together.

use std::collections::BTreeMap;

use argosy_agent::core::{CommandStatus, ContainerName, ContainerStart};

use super::SimMachine;

/// Every group of which this machine was to start tasks, by the name of its shared resources.
#[derive(Debug, Default)]
pub(super) struct SimTaskGroups(BTreeMap<ContainerName, SimTaskGroup>);

#[derive(Debug)]
struct SimTaskGroup {
    size: usize,
    /// The time at which all its tasks were prepared.
    prepared_ms: u64,
    members: BTreeMap<ContainerName, MemberState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MemberState {
    Prepared,
    Running,
    Ended(CommandStatus),
}

impl SimTaskGroups {
    /// Records the preparation of a task, and returns a violation, if any. A group without started
    /// tasks may be prepared again.
    pub(super) fn prepare(&mut self, start: &ContainerStart, now_ms: u64) -> Option<String> {
        let name = start.group.as_ref()?.name;
        let place = start.launch.spec.group.as_ref()?;
        let group = self.0.entry(name).or_insert_with(|| SimTaskGroup {
            size: place.size as usize,
            prepared_ms: now_ms,
            members: BTreeMap::new(),
        });
        let mut wrong = None;
        if group.prepared_ms != now_ms {
            let mut begun = group.members.iter();
            let begun = begun.find(|(_, member)| **member != MemberState::Prepared);
            wrong = begun.map(|(other, member)| {
                format!(
                    "GroupAtomicity: {} of group {name} is started when {other} is {member:?} already",
                    start.name
                )
            });
            group.prepared_ms = now_ms;
            group.members.clear();
        }
        group.members.insert(start.name, MemberState::Prepared);
        wrong
    }

    /// Records that a task has a process, and returns a violation, if any.
    pub(super) fn started(
        &mut self,
        name: ContainerName,
        group: Option<ContainerName>,
    ) -> Option<String> {
        let own = group?;
        let group = self.0.get_mut(&own)?;
        group.members.insert(name, MemberState::Running);
        let known = group.members.len();
        (known != group.size).then(|| {
            let size = group.size;
            format!(
                "GroupAtomicity: {name} runs, and {known} of {size} tasks of group {own} are to"
            )
        })
    }

    pub(super) fn ended(
        &mut self,
        name: ContainerName,
        group: Option<ContainerName>,
        how: CommandStatus,
    ) {
        let group = group.and_then(|group| self.0.get_mut(&group));
        let member = group.and_then(|group| group.members.get_mut(&name));
        if let Some(member) = member {
            *member = MemberState::Ended(how);
        }
    }

    /// Returns running tasks of groups in which another task has failed.
    fn partly_failed(&self, host: &str) -> Vec<String> {
        let torn = self.0.iter().filter_map(|(name, group)| {
            let of = |wanted: &dyn Fn(MemberState) -> bool| {
                let mut found = group.members.iter().filter(|(_, own)| wanted(**own));
                found.next().map(|(name, _)| *name)
            };
            let failed =
                of(&|own| matches!(own, MemberState::Ended(how) if how != CommandStatus::Code(0)))?;
            let runs = of(&|own| own == MemberState::Running)?;
            Some(format!(
                "GroupAtomicity: {runs} runs on {host}, and {failed} of its group {name} has ended badly"
            ))
        });
        torn.collect()
    }
}

impl SimMachine {
    /// Returns running tasks of groups in which another task has failed.
    pub(in crate::sim::system) fn partly_failed_groups(&self) -> Vec<String> {
        self.inner().groups.partly_failed(&self.name)
    }

    /// Records that a group's shared resources are removed. No task of it may run.
    pub(in crate::sim::system) fn note_group_destroyed(&self, group: ContainerName) {
        let inner = self.inner();
        let members = inner.groups.0.get(&group);
        let members = members.into_iter().flat_map(|group| &group.members);
        for (name, _) in members.filter(|(_, own)| **own == MemberState::Running) {
            let message = format!(
                "GroupAtomicity: what group {group} shares is taken back, and {name} runs on {}",
                self.name
            );
            inner.oracle.notes.violation(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use argosy_agent::core::{GroupNetwork, GroupStart, LaunchOrder, OrderForm};
    use argosy_state::ids::{FrameworkId, GroupId, TaskId};
    use argosy_state::task::{CommandSpec, ContainerNetwork, TaskGroup, TaskSpec};

    use super::*;
    use crate::invariants::{Rule, rule_named};

    fn name(order: u64, run: u64) -> ContainerName {
        format!("5-{order}-{run}").parse().unwrap()
    }

    /// Returns the start of one of two tasks.
    fn start(order: u64) -> ContainerStart {
        let id = GroupId::new("g").unwrap();
        let group = TaskGroup {
            id: id.clone(),
            place: 0,
            size: 2,
        };
        let launch = LaunchOrder {
            framework: FrameworkId(3),
            role: String::new(),
            framework_name: String::new(),
            never_start: false,
            spec: TaskSpec {
                group: Some(Box::new(group)),
                ..TaskSpec::new(TaskId::new("t").unwrap(), CommandSpec::Image)
            },
            defect: None,
            form: OrderForm::Canonical,
        };
        ContainerStart {
            name: name(order, 1),
            key: launch.key(),
            launch: launch.into(),
            task_amounts: Vec::new(),
            stop_at: None,
            group: Some(Box::new(GroupStart {
                name: name(7, 0),
                id,
                network: GroupNetwork {
                    network: ContainerNetwork::AgentDefault,
                    is_host: false,
                },
                first: None,
            })),
            predecessors: Vec::new(),
        }
    }

    fn prepared() -> SimTaskGroups {
        let mut groups = SimTaskGroups::default();
        assert_eq!(groups.prepare(&start(7), 40), None);
        assert_eq!(groups.prepare(&start(8), 40), None);
        groups
    }

    #[test]
    fn a_group_that_starts_and_ends_together_passes() {
        let mut groups = prepared();
        let own = Some(name(7, 0));
        for order in [7, 8] {
            assert_eq!(groups.started(name(order, 1), own), None);
        }
        groups.ended(name(7, 1), own, CommandStatus::Code(0));
        assert_eq!(groups.partly_failed("host-1"), [""; 0]);
        groups.ended(name(8, 1), own, CommandStatus::Code(3));
        assert_eq!(groups.partly_failed("host-1"), [""; 0]);
    }

    #[test]
    fn group_violations_name_their_rule() {
        let own = Some(name(7, 0));
        let mut early = SimTaskGroups::default();
        assert_eq!(early.prepare(&start(7), 40), None);
        let alone = early.started(name(7, 1), own).unwrap();
        let late = early.prepare(&start(8), 90).unwrap();
        let mut groups = prepared();
        for order in [7, 8] {
            assert_eq!(groups.started(name(order, 1), own), None);
        }
        groups.ended(name(7, 1), own, CommandStatus::Code(3));
        let torn = groups.partly_failed("host-1").remove(0);
        for (words, part) in [
            (alone, "1 of 2 tasks"),
            (late, "Running already"),
            (torn, "has ended badly"),
        ] {
            assert_eq!(rule_named(&words), Some(Rule::GroupAtomicity), "{words}");
            assert!(words.contains(part), "{words}");
        }
    }
}
