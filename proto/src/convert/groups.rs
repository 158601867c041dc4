//! Conversion of positions in task groups.

use argosy_state::ids::GroupId;
use argosy_state::limits;
use argosy_state::task::TaskGroup;

use super::{FirstDefect, InvalidMessage};
use crate::v1;

/// Returns a position in a group on the wire.
pub(super) fn group(group: &TaskGroup) -> v1::TaskGroup {
    v1::TaskGroup {
        group_id: group.id.to_string(),
        place: group.place,
        size: group.size,
    }
}

/// Reads a position in a group.
///
/// # Errors
/// If the group has an invalid id or too many tasks, or the position is outside it.
pub fn group_from(wire: v1::TaskGroup) -> Result<TaskGroup, InvalidMessage> {
    let most = limits::TASKS_PER_GROUP;
    if wire.size as usize > most || wire.place >= wire.size {
        let text = format!(
            "place {} of {}: places count from 0, and a group has at most {most} tasks",
            wire.place, wire.size
        );
        return Err(InvalidMessage::new("group", text));
    }
    Ok(TaskGroup {
        id: GroupId::new(&wire.group_id)
            .map_err(|error| InvalidMessage::new("group.group_id", error.to_string()))?,
        place: wire.place,
        size: wire.size,
    })
}

/// Reads a position in a group, valid or not; `None` if there is none, or if its id is invalid.
pub(super) fn group_parts(
    wire: Option<v1::TaskGroup>,
    defect: &mut FirstDefect,
) -> Option<TaskGroup> {
    let wire = wire?;
    let invalid = GroupId::new(&wire.group_id).ok().map(|id| TaskGroup {
        id,
        place: wire.place,
        size: wire.size,
    });
    defect.part_or(group_from(wire).map(Some), invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_index_outside_its_group_is_rejected() {
        let read = |place, size| {
            group_from(v1::TaskGroup {
                group_id: "pod".into(),
                place,
                size,
            })
        };
        assert_eq!(group(&read(15, 16).unwrap()).place, 15);
        for (place, size) in [(0, 0), (2, 2), (0, 17)] {
            assert!(read(place, size).is_err(), "{place} of {size}");
        }
    }
}
