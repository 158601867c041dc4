//! Conversion of operations on offers, and of the positions of their rejected parts.

use argosy_state::command::{CallShape, OfferOperation, Position};
use argosy_state::ids::GroupId;
use argosy_state::limits;
use argosy_state::task::{TaskGroup, TaskSpec};

use super::{InvalidMessage, spec_from};
use crate::v1;

/// Reads the operations of an acceptance.
///
/// # Errors
/// Names the operation by its position, and the task and field in it.
pub fn operations_from(wire: Vec<v1::Operation>) -> Result<Vec<OfferOperation>, InvalidMessage> {
    let read = |(at, operation): (usize, v1::Operation)| {
        operation_from(operation).map_err(|why| match why {
            None => InvalidMessage::new(
                format!("operations[{at}]"),
                "it is empty, or of a newer release",
            ),
            Some(why) => why.inside(&format!("operations[{at}]")),
        })
    };
    wire.into_iter().enumerate().map(read).collect()
}

/// Reads one operation. Fails with `None` if this release does not know its kind.
fn operation_from(wire: v1::Operation) -> Result<OfferOperation, Option<InvalidMessage>> {
    let read = match wire.operation.ok_or(None)? {
        v1::operation::Operation::Launch(launch) => tasks_from(launch.tasks)
            .map(OfferOperation::Launch)
            .map_err(|why| why.inside("launch")),
        v1::operation::Operation::LaunchGroup(launch) => group_from(launch)
            .map(OfferOperation::LaunchGroup)
            .map_err(|why| why.inside("launch_group")),
    };
    read.map_err(Some)
}

fn group_from(wire: v1::LaunchGroup) -> Result<Vec<TaskSpec>, InvalidMessage> {
    let id = GroupId::new(&wire.group_id);
    let id = id.map_err(|error| InvalidMessage::new("group_id", error.to_string()))?;
    let (count, most) = (wire.tasks.len(), limits::TASKS_PER_GROUP);
    if !(1..=most).contains(&count) {
        let text = format!("{count} of them; a group has 1 to {most}");
        return Err(InvalidMessage::new("tasks", text));
    }
    Ok(TaskGroup::of(&id, tasks_from(wire.tasks)?))
}

fn tasks_from(wire: Vec<v1::TaskSpec>) -> Result<Vec<TaskSpec>, InvalidMessage> {
    let tasks = wire.into_iter().enumerate().map(|(at, task)| {
        let name = format!("tasks[{at}]");
        if task.group.is_some() {
            let text = "masters set it; launch a group to have one";
            return Err(InvalidMessage::new("group", text).inside(&name));
        }
        spec_from(task).map_err(|why| why.inside(&name))
    });
    tasks.collect()
}

/// Returns the number of parts of each operation on the wire; `None` if this release does not know
/// one of them.
#[must_use]
pub fn shape(operations: &[v1::Operation]) -> Option<CallShape> {
    let parts = operations
        .iter()
        .map(|operation| match operation.operation.as_ref()? {
            v1::operation::Operation::Launch(launch) => Some(launch.tasks.len()),
            v1::operation::Operation::LaunchGroup(launch) => Some(launch.tasks.len()),
        });
    parts.collect()
}

/// Returns the rejection of one part of a call that has this shape.
#[must_use]
pub fn refused(shape: &CallShape, position: Position, code: &str, message: String) -> v1::Refused {
    v1::Refused {
        position: shape.count(position),
        message,
        code: code.to_owned(),
        operation: Some(position.operation),
        task: Some(position.task),
    }
}

/// Returns the position of a rejected part in a call of this shape. A master of release 0.1.0
/// reports only the number of parts before it.
#[must_use]
pub fn refused_position(shape: &CallShape, wire: &v1::Refused) -> Position {
    match (wire.operation, wire.task) {
        (Some(operation), Some(task)) => Position { operation, task },
        (Some(_), None) | (None, _) => shape.place(Position::counted(wire.position)),
    }
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

    fn launch(tasks: Vec<v1::TaskSpec>) -> v1::Operation {
        let launch = v1::operation::Operation::Launch(v1::Launch { tasks });
        v1::Operation {
            operation: Some(launch),
        }
    }

    fn group(group_id: &str, tasks: &[&str]) -> v1::Operation {
        let launch = v1::LaunchGroup {
            group_id: group_id.into(),
            tasks: tasks.iter().map(|id| task(id)).collect(),
        };
        v1::Operation {
            operation: Some(v1::operation::Operation::LaunchGroup(launch)),
        }
    }

    #[test]
    fn group_indices_round_trip() {
        let read = operations_from(vec![group("pod", &["a", "b"])]).unwrap();
        let [OfferOperation::LaunchGroup(tasks)] = read.as_slice() else {
            panic!("{read:?}")
        };
        let places = tasks.iter().map(|spec| spec.group.as_deref().unwrap());
        let places: Vec<_> = places.map(|group| (group.place, group.size)).collect();
        assert_eq!(places, [(0, 2), (1, 2)]);
        for ours in tasks {
            assert_eq!(spec_from(spec(ours)).as_ref(), Ok(ours));
        }
    }

    #[test]
    fn operations_keep_their_kinds_and_their_order() {
        let wire = vec![
            launch(vec![task("a")]),
            group("pod", &["b", "c"]),
            launch(vec![]),
            launch(vec![task("d")]),
        ];
        let wire_shape = shape(&wire);
        let read = operations_from(wire).unwrap();
        let kinds: Vec<_> = read
            .iter()
            .map(|operation| match operation {
                OfferOperation::Launch(tasks) => ("launch", tasks.len()),
                OfferOperation::LaunchGroup(tasks) => ("launch_group", tasks.len()),
            })
            .collect();
        let expected = [
            ("launch", 1),
            ("launch_group", 2),
            ("launch", 0),
            ("launch", 1),
        ];
        assert_eq!(kinds, expected);
        let shape: CallShape = read.iter().map(OfferOperation::parts).collect();
        assert_eq!(wire_shape, Some(shape));
    }

    #[test]
    fn errors_of_an_operation_are_named() {
        let field = |wire| {
            let wire = vec![launch(vec![task("fine")]), wire];
            operations_from(wire).unwrap_err().field
        };
        assert_eq!(field(v1::Operation::default()), "operations[1]");
        let of_group = |rest: &str| format!("operations[1].launch_group.{rest}");
        assert_eq!(field(group("", &["a"])), of_group("group_id"));
        assert_eq!(field(group("pod", &[])), of_group("tasks"));
        assert_eq!(field(group("pod", &["a"; 17])), of_group("tasks"));
        let bad = group("pod", &["a", "../b"]);
        assert_eq!(field(bad), of_group("tasks[1].task_id"));
        let mut claimed = task("a");
        claimed.group = Some(v1::TaskGroup::default());
        let claimed = launch(vec![task("b"), claimed]);
        assert_eq!(field(claimed), "operations[1].launch.tasks[1].group");
        assert_eq!(shape(&[v1::Operation::default()]), None);
    }

    #[test]
    fn a_rejected_task_is_located_by_old_and_new_positions() {
        let shape: CallShape = [2, 0, 3].into_iter().collect();
        let position = Position {
            operation: 2,
            task: 1,
        };
        let wire = refused(&shape, position, "too-large", "why".into());
        assert_eq!(wire.position, 3);
        assert_eq!(refused_position(&shape, &wire), position);
        let of_0_1_0 = v1::Refused {
            operation: None,
            task: None,
            ..wire
        };
        assert_eq!(refused_position(&shape, &of_0_1_0), position);
    }
}
