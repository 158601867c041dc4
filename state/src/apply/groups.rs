//! Launch of task groups: either all tasks of a group are launched, or all are refused for the same
//! reason.

use std::mem::discriminant;

use super::accept::AcceptContext;
use super::overlay::Overlay;
use crate::Registry;
use crate::command::Rejection;
use crate::limits;
use crate::task::{ContainerNetwork, FIELD_RULES, TaskGroup, TaskSpec};

/// Returns whether two consecutive launches belong to one group.
pub(super) fn in_same_group(one: &TaskSpec, next: &TaskSpec) -> bool {
    let groups = one.group.as_ref().zip(next.group.as_ref());
    groups.is_some_and(|(one, next)| one.id == next.id)
}

impl Registry {
    /// Takes the group's resources from the overlay if all of its tasks may be launched; otherwise
    /// leaves the overlay unchanged.
    pub(super) fn check_group<'a>(
        &self,
        scope: AcceptContext<'_>,
        tasks: &'a [TaskSpec],
        overlay: &mut Overlay<'a>,
    ) -> Result<(), Rejection> {
        let Some(first) = tasks.first() else {
            return Ok(());
        };
        let Some(group) = first.group.as_deref() else {
            return Err(Rejection::Invalid {
                field: "group".into(),
                text: "the tasks of a group name it, each with its place".into(),
            });
        };
        let invalid = |text: String| Rejection::TaskGroupInvalid {
            group: group.id.clone(),
            text,
        };
        let index = self.index.frameworks.get(&scope.call.framework);
        let is_known = index.is_some_and(|index| index.groups.contains_key(&group.id));
        if is_known || overlay.has_group(&group.id) {
            let text = "its id is in use until the ends of all its tasks are acknowledged";
            return Err(invalid(format!("{text}; give another one")));
        }
        check_places(tasks).map_err(invalid)?;
        check_networks(tasks).map_err(invalid)?;
        check_restrictions(tasks).map_err(invalid)?;
        overlay.atomically(|overlay| {
            tasks.iter().try_for_each(|spec| {
                let result = self.check_launch(scope, spec, overlay);
                result.map_err(|why| invalid(format!("task {}: {why}", spec.task)))
            })
        })?;
        overlay.name_group(&group.id);
        Ok(())
    }
}

/// Checks that a group is complete and its tasks are in order. Masters guarantee this for every
/// launch of a group.
fn check_places(tasks: &[TaskSpec]) -> Result<(), String> {
    let most = limits::TASKS_PER_GROUP;
    if tasks.len() > most {
        return Err(format!("it has {} tasks; at most {most}", tasks.len()));
    }
    let id = tasks
        .first()
        .and_then(|spec| Some(&spec.group.as_deref()?.id));
    let fits = |(place, spec): (usize, &TaskSpec)| {
        spec.group.as_deref().is_some_and(|group: &TaskGroup| {
            Some(&group.id) == id
                && group.place as usize == place
                && group.size as usize == tasks.len()
        })
    };
    if tasks.iter().enumerate().all(fits) {
        Ok(())
    } else {
        Err("its tasks do not stand side by side, each in its place".to_owned())
    }
}

/// Checks that the first task determines the network: the others name the same kind, or none.
fn check_networks(tasks: &[TaskSpec]) -> Result<(), String> {
    let network = |spec: &TaskSpec| discriminant(&spec.container.network);
    let (Some(first), unsaid) = (
        tasks.first().map(network),
        discriminant(&ContainerNetwork::AgentDefault),
    ) else {
        return Ok(());
    };
    let in_hosts = |spec: &TaskSpec| spec.container.security_options.host_network;
    let first_in_hosts = tasks.first().is_some_and(in_hosts);
    let differs = |spec: &&TaskSpec| {
        (network(spec) != first && network(spec) != unsaid) || (in_hosts(spec) && !first_in_hosts)
    };
    if let Some(spec) = tasks.iter().find(|spec| uses_cni(spec)) {
        return Err(format!(
            "task {}: container.network: groups have no networks of CNI plugins; name host, none or bridge",
            spec.task
        ));
    }
    match tasks.iter().find(differs) {
        None => Ok(()),
        Some(spec) => Err(format!(
            "task {}: container.network: a group has one network, that of its first task; name the same or none",
            spec.task
        )),
    }
}

/// Checks fields that tasks of a group may not use. All tasks of a group share their users, so a
/// task that is root in its container would own the host paths of another one.
fn check_restrictions(tasks: &[TaskSpec]) -> Result<(), String> {
    for spec in tasks {
        for rule in FIELD_RULES {
            if let Some(why) = rule.in_group.filter(|_| (rule.is_used)(spec)) {
                let field = rule.field;
                return Err(format!("task {}: {field}: {why}", spec.task));
            }
        }
    }
    Ok(())
}

fn uses_cni(spec: &TaskSpec) -> bool {
    matches!(spec.container.network, ContainerNetwork::Cni(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::GroupId;
    use crate::task::{CniNetwork, Container, HostPath, PublishedPort};
    use crate::testing;

    fn group(networks: &[ContainerNetwork]) -> Vec<TaskSpec> {
        let tasks = networks.iter().enumerate().map(|(at, network)| TaskSpec {
            container: Container {
                network: network.clone(),
                ..Container::default()
            },
            ..testing::spec(&format!("t{at}"), "cpus:1;ports:[80-80]")
        });
        TaskGroup::of(&GroupId::new("g").unwrap(), tasks.collect())
    }

    #[test]
    fn each_task_of_a_group_has_its_index() {
        let whole = group(&[
            ContainerNetwork::AgentDefault,
            ContainerNetwork::AgentDefault,
            ContainerNetwork::AgentDefault,
        ]);
        assert_eq!(check_places(&whole), Ok(()));
        assert!(check_places(&whole[..2]).is_err(), "one is missing");
        let mut turned = whole.clone();
        turned.swap(0, 1);
        assert!(check_places(&turned).is_err());
        assert!(check_places(&group(&vec![ContainerNetwork::AgentDefault; 17])).is_err());
    }

    #[test]
    fn tasks_of_a_group_cannot_mount_host_paths() {
        let mut tasks = group(&[
            ContainerNetwork::AgentDefault,
            ContainerNetwork::AgentDefault,
        ]);
        assert_eq!(check_restrictions(&tasks), Ok(()));
        tasks[1].host_paths.push(HostPath {
            host_path: "/srv".to_owned(),
            container_path: "/srv".to_owned(),
            read_only: false,
        });
        let why = check_restrictions(&tasks).unwrap_err();
        assert!(why.starts_with("task t1: host_paths"), "{why}");
    }

    #[test]
    fn only_the_first_task_of_a_group_may_select_the_host_network() {
        let in_hosts = |which: [bool; 2]| {
            let mut tasks = group(&[
                ContainerNetwork::AgentDefault,
                ContainerNetwork::AgentDefault,
            ]);
            for (task, is_in) in tasks.iter_mut().zip(which) {
                task.container.security_options.host_network = is_in;
            }
            check_networks(&tasks)
        };
        for good in [[true, true], [true, false], [false, false]] {
            assert_eq!(in_hosts(good), Ok(()));
        }
        let why = in_hosts([false, true]).unwrap_err();
        assert!(why.starts_with("task t1: container.network"), "{why}");
    }

    #[test]
    fn a_group_has_the_network_of_its_first_task() {
        let port = PublishedPort {
            host: 80,
            container: 80,
            udp: false,
        };
        let bridge = || ContainerNetwork::Bridge(vec![port]);
        for good in [
            [bridge(), ContainerNetwork::Bridge(Vec::new())],
            [bridge(), ContainerNetwork::AgentDefault],
            [ContainerNetwork::None, ContainerNetwork::None],
        ] {
            assert_eq!(check_networks(&group(&good)), Ok(()));
        }
        let plugged = ContainerNetwork::Cni(CniNetwork {
            name: "blue".to_owned(),
            published: Vec::new(),
        });
        assert!(check_networks(&group(&[plugged.clone(), plugged])).is_err());
        for bad in [
            [ContainerNetwork::AgentDefault, bridge()],
            [ContainerNetwork::None, bridge()],
        ] {
            let why = check_networks(&group(&bad)).unwrap_err();
            assert!(why.starts_with("task t1: container.network"), "{why}");
        }
    }
}
