//! The changes of an acceptance while its operations are checked one after the other.
//!
//! Nothing here changes the registry. A refused operation leaves the overlay unchanged, so that a
//! later operation that depends on its result is refused too.

use std::collections::BTreeSet;

use super::bounds::TaskBytes;
use super::executors::{AddedExecutors, LaunchResources};
use super::tasks::beginning;
use crate::command::Rejection;
use crate::ids::{FrameworkId, GroupId, TaskId};
use crate::limits;
use crate::resources::Resources;
use crate::task::TaskSpec;

/// The resources of an agent by identity, in three views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AvailableResources {
    /// The part of the offers that is left.
    pub(super) remaining: Resources,
    /// The part of the agent's resources that no task holds.
    pub(super) free: Resources,
    /// All resources of the agent, held or not. Reservations and volumes are identities among them.
    pub(super) total: Resources,
}

impl AvailableResources {
    /// See [`Overlay::exchange`].
    fn exchanged(&self, from: &Resources, into: &Resources) -> Result<Self, Rejection> {
        let free_of = |of: &Resources| of.minus(from).ok_or_else(|| too_large(from, of));
        let (left, free) = (free_of(&self.remaining)?, free_of(&self.free)?);
        if into.is_empty() {
            let total = self.total.clone();
            return Ok(Self {
                remaining: left,
                free,
                total,
            });
        }
        let impossible = || Rejection::Invalid {
            field: "resources".into(),
            text: format!("{from} cannot become {into}: only identities may differ"),
        };
        if from
            .amounts()
            .is_none_or(|amounts| Some(amounts) != into.amounts())
        {
            return Err(impossible());
        }
        let total = self.total.minus(from);
        let given = |of: Resources| of.plus(into).ok_or_else(impossible);
        Ok(Self {
            remaining: given(left)?,
            free: given(free)?,
            total: given(total.ok_or_else(impossible)?)?,
        })
    }
}

/// Both texts are cut: each refused operation of a call has them, and resources may have thousands
/// of ranges. What is stored of a refusal is shorter.
fn too_large(requested: &Resources, left: &Resources) -> Rejection {
    let shown = |resources: &Resources| beginning(resources, limits::MESSAGE_BYTES);
    Rejection::TooLarge {
        asked: shown(requested),
        left: match left.is_empty() {
            true => "nothing".to_owned(),
            false => shown(left),
        },
    }
}

/// A valid launch, with the data that undo it if a later part is refused.
#[derive(Debug)]
struct TentativeLaunch<'a> {
    task: &'a TaskId,
    /// The executor that the launch adds.
    executor: Option<&'a TaskId>,
}

/// The facts after the operations that were not refused.
#[derive(Debug)]
pub(super) struct Overlay<'a> {
    supply: AvailableResources,
    /// The bytes that the bounds leave for tasks, if there are bounds.
    bytes: Option<TaskBytes>,
    /// The valid launches, in order.
    launched: Vec<TentativeLaunch<'a>>,
    /// The ids in `launched`.
    tasks: BTreeSet<&'a TaskId>,
    groups: BTreeSet<&'a GroupId>,
    /// The executors that the launches add.
    new_executors: AddedExecutors<'a>,
}

impl<'a> Overlay<'a> {
    pub(super) fn new(supply: AvailableResources, bytes: Option<TaskBytes>) -> Self {
        Self {
            supply,
            bytes,
            launched: Vec::new(),
            tasks: BTreeSet::new(),
            groups: BTreeSet::new(),
            new_executors: AddedExecutors::new(),
        }
    }

    pub(super) fn has_task(&self, task: &TaskId) -> bool {
        self.tasks.contains(task)
    }

    pub(super) fn has_group(&self, group: &GroupId) -> bool {
        self.groups.contains(group)
    }

    pub(super) fn new_executors(&self) -> &AddedExecutors<'a> {
        &self.new_executors
    }

    /// Exchanges `from` for `into`: the same amounts under other identities. If `into` is empty, a
    /// task holds `from` until it ends, and the agent's total does not change.
    pub(super) fn exchange(&mut self, from: &Resources, into: &Resources) -> Result<(), Rejection> {
        self.supply = self.supply.exchanged(from, into)?;
        Ok(())
    }

    /// Takes the resources and bytes of a task.
    pub(super) fn launch(
        &mut self,
        framework: FrameworkId,
        spec: &'a TaskSpec,
        taken: &LaunchResources<'a>,
    ) -> Result<(), Rejection> {
        self.atomically(|overlay| {
            overlay.exchange(&taken.resources, &Resources::none())?;
            let bytes = overlay.bytes.as_mut();
            bytes.map_or(Ok(()), |bytes| bytes.charge(framework, spec))
        })?;
        let brings = taken
            .new_executor
            .map(|executor| (&executor.executor, executor));
        self.launched.push(TentativeLaunch {
            task: &spec.task,
            executor: brings.map(|(id, _)| id),
        });
        self.tasks.insert(&spec.task);
        self.new_executors.extend(brings);
        Ok(())
    }

    /// Records that all tasks of a group were launched.
    pub(super) fn name_group(&mut self, group: &'a GroupId) {
        self.groups.insert(group);
    }

    /// Applies all changes of `parts`, or none if it fails.
    pub(super) fn atomically<E>(
        &mut self,
        parts: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let (supply, bytes) = (self.supply.clone(), self.bytes);
        let launched = self.launched.len();
        let done = parts(self);
        if done.is_err() {
            (self.supply, self.bytes) = (supply, bytes);
            for undone in self.launched.drain(launched..) {
                self.tasks.remove(undone.task);
                if let Some(executor) = undone.executor {
                    self.new_executors.remove(executor);
                }
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Role;
    use crate::resources::{Reservation, Resource, VolumeIdentity};

    fn parse(text: &str) -> Resources {
        text.parse().unwrap()
    }

    /// Returns the resources with every identity changed.
    fn with(text: &str, change: impl Fn(&mut Resource)) -> Resources {
        let plain = parse(text);
        let changed = plain.iter().cloned().map(|mut resource| {
            change(&mut resource);
            resource
        });
        Resources::collect(changed).unwrap()
    }

    fn reserved(text: &str) -> Resources {
        with(text, |resource| {
            resource.identity.reservations.push(Reservation {
                role: Role::new("ops").unwrap(),
                principal: "alice".to_owned(),
                labels: Default::default(),
            });
        })
    }

    fn volume(text: &str) -> Resources {
        with(text, |resource| {
            resource.identity.volume = Some(Box::new(VolumeIdentity {
                id: "v1".to_owned(),
                container_path: "data".to_owned(),
            }));
        })
    }

    /// Returns the overlay of an agent that has more than it offers: its total is
    /// `cpus:8;mem:512;disk:100`.
    fn overlay(left: &str, free: &str) -> Overlay<'static> {
        let registry = crate::Registry::default();
        let supply = AvailableResources {
            remaining: parse(left),
            free: parse(free),
            total: parse("cpus:8;mem:512;disk:100;ports:[1-9]"),
        };
        Overlay::new(supply, Some(registry.task_bytes_left(FrameworkId(1))))
    }

    fn plus(one: &str, other: &Resources) -> Resources {
        parse(one).plus(other).unwrap()
    }

    #[test]
    fn launched_resources_are_not_free_and_still_in_the_total() {
        let mut overlay = overlay("cpus:4;mem:64", "cpus:6;mem:256");
        let all = overlay.supply.total.clone();
        overlay
            .exchange(&parse("cpus:1;mem:64"), &Resources::none())
            .unwrap();
        assert_eq!(overlay.supply.remaining, parse("cpus:3"));
        assert_eq!(overlay.supply.free, parse("cpus:5;mem:192"));
        assert_eq!(overlay.supply.total, all);
    }

    #[test]
    fn a_reservation_changes_identities_everywhere_and_no_amount() {
        let mut overlay = overlay("cpus:4", "cpus:6");
        overlay
            .exchange(&parse("cpus:3"), &reserved("cpus:3"))
            .unwrap();
        assert_eq!(
            overlay.supply.remaining,
            plus("cpus:1", &reserved("cpus:3"))
        );
        assert_eq!(overlay.supply.free, plus("cpus:3", &reserved("cpus:3")));
        let total = plus("cpus:5;mem:512;disk:100;ports:[1-9]", &reserved("cpus:3"));
        assert_eq!(overlay.supply.total, total);
        // The reserved part is usable, and the part that it replaced is not.
        let none = Resources::none();
        assert!(overlay.exchange(&parse("cpus:2"), &none).is_err());
        overlay.exchange(&reserved("cpus:2"), &none).unwrap();
        assert_eq!(
            overlay.supply.remaining,
            plus("cpus:1", &reserved("cpus:1"))
        );
        assert_eq!(overlay.supply.total, total);
        // The rest of the reservation can be released.
        overlay
            .exchange(&reserved("cpus:1"), &parse("cpus:1"))
            .unwrap();
        assert_eq!(overlay.supply.remaining, parse("cpus:2"));
    }

    #[test]
    fn a_volume_can_use_a_disk_reserved_in_the_same_call() {
        let mut overlay = overlay("disk:50;ports:[1-3]", "disk:50;ports:[1-3]");
        let (bare, on_volume) = (parse("disk:20"), volume("disk:20"));
        overlay.exchange(&bare, &on_volume).unwrap();
        overlay
            .exchange(&parse("ports:[2-2]"), &reserved("ports:[2-2]"))
            .unwrap();
        let left = plus("disk:30;ports:[1-1,3-3]", &on_volume);
        assert_eq!(
            overlay.supply.remaining,
            left.plus(&reserved("ports:[2-2]")).unwrap()
        );
        // A volume that a task holds cannot be destroyed.
        overlay.exchange(&on_volume, &Resources::none()).unwrap();
        assert!(overlay.exchange(&on_volume, &bare).is_err());
        assert!(overlay.supply.total.contains(&on_volume));
    }

    #[test]
    fn a_rejected_reservation_also_rejects_operations_that_depend_on_it() {
        let mut overlay = overlay("cpus:4;mem:64", "cpus:2;mem:64");
        let before = overlay.supply.clone();
        let cases = [
            // Not offered, not free, of a different amount, of a different kind.
            ("cpus:5", reserved("cpus:5")),
            ("cpus:3", reserved("cpus:3")),
            ("cpus:1", reserved("cpus:2")),
            ("cpus:1", reserved("mem:1")),
            ("cpus:1", reserved("cpus:1;mem:1")),
        ];
        for (from, into) in &cases {
            assert!(
                overlay.exchange(&parse(from), into).is_err(),
                "{from} {into}"
            );
            assert_eq!(overlay.supply, before);
            assert!(overlay.exchange(into, &Resources::none()).is_err());
            assert_eq!(overlay.supply, before);
        }
    }

    #[test]
    fn a_group_is_applied_atomically() {
        let mut overlay = overlay("cpus:4", "cpus:4");
        let before = overlay.supply.clone();
        let (first, second) = (
            crate::testing::spec("a", "cpus:3"),
            crate::testing::spec("b", "cpus:3"),
        );
        let of = |spec: &TaskSpec| LaunchResources {
            resources: spec.resources.clone(),
            new_executor: None,
        };
        let both = overlay.atomically(|overlay| {
            overlay.launch(FrameworkId(1), &first, &of(&first))?;
            overlay.launch(FrameworkId(1), &second, &of(&second))
        });
        assert!(matches!(both, Err(Rejection::TooLarge { .. })));
        assert_eq!(overlay.supply, before);
        assert!(!overlay.has_task(&first.task));
        overlay
            .launch(FrameworkId(1), &second, &of(&second))
            .unwrap();
        assert!(overlay.has_task(&second.task));
    }
}
