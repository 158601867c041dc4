//! The laws of task groups, as a made-up machine sees them: all or nothing, and together to the end.

use std::collections::BTreeMap;

use argosy_agent::core::{ContainerName, How, Start};

use super::Machine;

/// Every group that this machine was told to start tasks of, by what its tasks have in common.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<ContainerName, Group>);

#[derive(Debug)]
struct Group {
    size: usize,
    /// When its tasks were prepared: all at once.
    prepared_ms: u64,
    members: BTreeMap<ContainerName, Member>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Prepared,
    Running,
    Ended(How),
}

impl Groups {
    /// A task of a group is to start; what is wrong with that. A group of which nothing was started may be prepared again.
    pub(super) fn prepare(&mut self, start: &Start, now_ms: u64) -> Option<String> {
        let name = start.group.as_ref()?.name;
        let place = start.launch.spec.as_ref()?.group.as_ref()?;
        let group = self.0.entry(name).or_insert_with(|| Group {
            size: place.size as usize,
            prepared_ms: now_ms,
            members: BTreeMap::new(),
        });
        let mut wrong = None;
        if group.prepared_ms != now_ms {
            let mut begun = group.members.iter();
            let begun = begun.find(|(_, member)| **member != Member::Prepared);
            wrong = begun.map(|(other, member)| {
                format!(
                    "{} of group {name} is started when {other} is {member:?} already",
                    start.name
                )
            });
            group.prepared_ms = now_ms;
            group.members.clear();
        }
        group.members.insert(start.name, Member::Prepared);
        wrong
    }

    /// A task has a process; what is wrong with that.
    pub(super) fn started(
        &mut self,
        name: ContainerName,
        group: Option<ContainerName>,
    ) -> Option<String> {
        let own = group?;
        let group = self.0.get_mut(&own)?;
        group.members.insert(name, Member::Running);
        let known = group.members.len();
        (known != group.size).then(|| {
            let size = group.size;
            format!("{name} runs, and {known} of {size} tasks of group {own} are to")
        })
    }

    pub(super) fn ended(&mut self, name: ContainerName, group: Option<ContainerName>, how: How) {
        let group = group.and_then(|group| self.0.get_mut(&group));
        let member = group.and_then(|group| group.members.get_mut(&name));
        if let Some(member) = member {
            *member = Member::Ended(how);
        }
    }
}

impl Machine {
    /// Tasks that run although one of their group has ended as it should not.
    pub(in crate::sim::system) fn torn_groups(&self) -> Vec<String> {
        let inner = self.inner();
        let torn = inner.groups.0.iter().filter_map(|(name, group)| {
            let of = |wanted: &dyn Fn(Member) -> bool| {
                let mut found = group.members.iter().filter(|(_, own)| wanted(**own));
                found.next().map(|(name, _)| *name)
            };
            let failed = of(&|own| matches!(own, Member::Ended(how) if how != How::Code(0)))?;
            let runs = of(&|own| own == Member::Running)?;
            let host = &self.name;
            Some(format!(
                "{host}: {runs} runs, and {failed} of its group {name} has ended badly"
            ))
        });
        torn.collect()
    }

    /// What a group has in common is taken back: nothing of it may run.
    pub(in crate::sim::system) fn part(&self, group: ContainerName) {
        let inner = self.inner();
        let members = inner.groups.0.get(&group);
        let members = members.into_iter().flat_map(|group| &group.members);
        for (name, _) in members.filter(|(_, own)| **own == Member::Running) {
            let words = format!(
                "{}: what group {group} shares is taken back, and {name} runs",
                self.name
            );
            inner.ledger.notes.violation(words);
        }
    }
}
