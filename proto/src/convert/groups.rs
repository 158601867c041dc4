//! Task groups on the wire.

use argosy_state::ids::GroupId;
use argosy_state::limits;
use argosy_state::task::{TaskGroup, TaskSpec};

use super::{Malformed, spec_from};
use crate::v1;

/// A place in a group on the wire.
pub(super) fn group(group: &TaskGroup) -> v1::TaskGroup {
    v1::TaskGroup {
        group_id: group.id.to_string(),
        place: group.place,
        size: group.size,
    }
}

/// Reads a place in a group.
///
/// # Errors
/// If the group has no good id or more tasks than a group may have, or the place is none of it.
pub fn group_from(wire: v1::TaskGroup) -> Result<TaskGroup, Malformed> {
    let most = limits::TASKS_PER_GROUP;
    if wire.size as usize > most || wire.place >= wire.size {
        let text = format!(
            "place {} of {}: places count from 0, and a group has at most {most} tasks",
            wire.place, wire.size
        );
        return Err(Malformed::new("group", text));
    }
    Ok(TaskGroup {
        id: id(&wire.group_id).map_err(|why| why.inside("group"))?,
        place: wire.place,
        size: wire.size,
    })
}

fn id(text: &str) -> Result<GroupId, Malformed> {
    GroupId::new(text).map_err(|error| Malformed::new("group_id", error.to_string()))
}

/// Reads the launch of tasks that are no group.
///
/// # Errors
/// Names the task and its field.
pub fn launch_from(wire: v1::Launch) -> Result<Vec<TaskSpec>, Malformed> {
    tasks_from(wire.tasks).map_err(|why| why.inside("launch"))
}

/// Reads the launch of a group.
///
/// # Errors
/// Names the field, and the task if it is one of a task.
pub fn launch_group_from(wire: v1::LaunchGroup) -> Result<Vec<TaskSpec>, Malformed> {
    let read = || {
        let id = id(&wire.group_id)?;
        let (count, most) = (wire.tasks.len(), limits::TASKS_PER_GROUP);
        if !(1..=most).contains(&count) {
            let text = format!("{count} of them; a group has 1 to {most}");
            return Err(Malformed::new("tasks", text));
        }
        Ok(TaskGroup::of(&id, tasks_from(wire.tasks)?))
    };
    read().map_err(|why: Malformed| why.inside("launch_group"))
}

fn tasks_from(wire: Vec<v1::TaskSpec>) -> Result<Vec<TaskSpec>, Malformed> {
    let tasks = wire.into_iter().enumerate().map(|(at, task)| {
        let name = format!("tasks[{at}]");
        if task.group.is_some() {
            let text = "masters set it; launch a group to have one";
            return Err(Malformed::new("group", text).inside(&name));
        }
        spec_from(task).map_err(|why| why.inside(&name))
    });
    tasks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::spec;

    fn task(id: &str) -> v1::TaskSpec {
        v1::TaskSpec {
            task_id: id.into(),
            shell: "true".into(),
            ..Default::default()
        }
    }

    fn launch(group_id: &str, tasks: &[&str]) -> v1::LaunchGroup {
        v1::LaunchGroup {
            group_id: group_id.into(),
            tasks: tasks.iter().map(|id| task(id)).collect(),
        }
    }

    #[test]
    fn the_tasks_of_a_group_have_their_places_and_keep_them_on_the_wire() {
        let tasks = launch_group_from(launch("pod", &["a", "b"])).unwrap();
        let places = tasks.iter().map(|spec| spec.group.as_deref().unwrap());
        let places: Vec<_> = places.map(|group| (group.place, group.size)).collect();
        assert_eq!(places, [(0, 2), (1, 2)]);
        for ours in tasks {
            assert_eq!(spec_from(spec(&ours)), Ok(ours));
        }
    }

    #[test]
    fn what_is_wrong_with_a_group_is_named() {
        let field = |wire| launch_group_from(wire).unwrap_err().field;
        assert_eq!(field(launch("", &["a"])), "launch_group.group_id");
        assert_eq!(field(launch("pod", &[])), "launch_group.tasks");
        assert_eq!(field(launch("pod", &["a"; 17])), "launch_group.tasks");
        let bad = launch("pod", &["a", "../b"]);
        assert_eq!(field(bad), "launch_group.tasks[1].task_id");
        let mut claimed = task("a");
        claimed.group = Some(v1::TaskGroup::default());
        let wire = v1::Launch {
            tasks: vec![claimed],
        };
        assert_eq!(
            launch_from(wire).unwrap_err().field,
            "launch.tasks[0].group"
        );
        for (place, size) in [(0, 0), (2, 2), (0, 17)] {
            let wire = v1::TaskGroup {
                group_id: "pod".into(),
                place,
                size,
            };
            assert!(group_from(wire).is_err(), "{place} of {size}");
        }
    }
}
