//! The work that waits for offers: single tasks, and groups of two services.

use std::collections::VecDeque;
use std::path::Path;

use argosy_client::resources::Remainder;
use argosy_client::scheduler::OfferOperation;
use argosy_proto::v1;

use super::tasks::{
    EXECUTOR_RESOURCES, RESOURCES, TaskKind, group, group_members, has_executor, may_have_port,
    spec,
};
use crate::rng::Rng;

/// Maximum number of tasks on one offer, so that they spread over agents.
const TASKS_PER_OFFER: usize = 4;
/// New services whose number is a multiple of this are a group.
const GROUP_INTERVAL: u64 = 5;

/// More tasks than one incarnation launches.
const NUMBERS_EACH: u64 = 1_000_000;

/// Work that is launched at once.
enum Work {
    Task {
        id: String,
        kind: TaskKind,
    },
    /// Two services.
    Group {
        id: String,
    },
}

impl Work {
    fn has_executor(&self) -> bool {
        matches!(self, Self::Task { id, .. } if has_executor(id))
    }

    /// Returns the numbers of its services and of its short tasks.
    fn size(&self) -> (usize, usize) {
        match self {
            Self::Group { .. } => (2, 0),
            Self::Task { id, .. } if TaskKind::is_service(id) => (1, 0),
            Self::Task { .. } => (0, 1),
        }
    }
}

/// The waiting work of one framework, in the order of its launch.
pub(super) struct WorkQueue {
    /// Prefix of all ids.
    name: String,
    waiting: VecDeque<Work>,
    /// The number of the last task or group that was created.
    last: u64,
}

impl WorkQueue {
    /// Creates the queue of an incarnation. Two that run at the same time use different ids.
    pub(super) fn new(name: &str, incarnation: u64) -> Self {
        Self {
            name: name.to_owned(),
            waiting: VecDeque::new(),
            last: incarnation * NUMBERS_EACH,
        }
    }

    /// Adds work until these numbers of services and short tasks are open or waiting. A target of
    /// nothing removes what waits.
    pub(super) fn refill<'a>(
        &mut self,
        open: impl Iterator<Item = &'a str>,
        (services, shorts): (usize, usize),
        rng: &mut Rng,
    ) {
        if services + shorts == 0 {
            self.waiting.clear();
            return;
        }
        let (mut have_services, mut have_shorts) = (0, 0);
        for id in open {
            match TaskKind::is_service(id) {
                true => have_services += 1,
                false => have_shorts += 1,
            }
        }
        for work in &self.waiting {
            let (services, shorts) = work.size();
            have_services += services;
            have_shorts += shorts;
        }
        while have_services < services {
            self.last += 1;
            let work = match self.last % GROUP_INTERVAL {
                0 => Work::Group {
                    id: format!("{}-group-{}", self.name, self.last),
                },
                _ => Work::Task {
                    id: format!("{}-service-{}", self.name, self.last),
                    kind: TaskKind::Service { port: None },
                },
            };
            have_services += work.size().0;
            self.waiting.push_back(work);
        }
        for _ in have_shorts..shorts {
            self.last += 1;
            let id = format!("{}-short-{}", self.name, self.last);
            let kind = TaskKind::short(rng);
            self.waiting.push_back(Work::Task { id, kind });
        }
    }

    /// Removes the first work that fits into the offer, and returns its launches. `directory` is
    /// that of the run, and `own` this executable.
    pub(super) fn fit(
        &mut self,
        offer: &v1::Offer,
        directory: &Path,
        own: &Path,
    ) -> Vec<OfferOperation> {
        let each = RESOURCES.parse().expect("the resources are valid");
        let executor = EXECUTOR_RESOURCES.parse();
        let executor = executor.expect("the resources are valid");
        let mut rest = Remainder::of(offer);
        let (mut tasks, mut groups) = (Vec::new(), Vec::new());
        let mut count = 0;
        while let Some(next) = self.waiting.front() {
            let (services, shorts) = next.size();
            count += services + shorts;
            let fits = (0..services + shorts).all(|_| rest.take(&each))
                && (!next.has_executor() || rest.take(&executor));
            if count > TASKS_PER_OFFER || !fits {
                break;
            }
            match self.waiting.pop_front() {
                Some(Work::Task { id, kind }) => {
                    let kind = match kind {
                        TaskKind::Service { .. } => TaskKind::Service {
                            port: may_have_port(&id).then(|| rest.take_port()).flatten(),
                        },
                        TaskKind::Short { .. } | TaskKind::Sick => kind,
                    };
                    tasks.push(spec(&id, kind, directory, own));
                }
                Some(Work::Group { id }) => groups.push(OfferOperation::LaunchGroup {
                    tasks: group(&group_members(&id)),
                    group_id: id,
                }),
                None => break,
            }
        }
        let single = (!tasks.is_empty()).then_some(OfferOperation::Launch(tasks));
        single.into_iter().chain(groups).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(resources: &str) -> v1::Offer {
        v1::Offer {
            resources: argosy_client::resources::resources(resources).unwrap(),
            ..v1::Offer::default()
        }
    }

    #[test]
    fn groups_count_as_two_services_and_are_launched_whole() {
        let mut queue = WorkQueue::new("f", 0);
        let mut rng = Rng::new(1);
        queue.refill(["f-service-0"].into_iter(), (7, 1), &mut rng);
        let waiting = queue.waiting.iter().map(Work::size);
        let sum = waiting.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        assert_eq!(sum, (6, 1));
        let (directory, own) = (Path::new("/run"), Path::new("/own"));
        let large = offer("cpus:8;mem:1024;disk:512;ports:[1-9]");
        let ids = |operations: Vec<OfferOperation>| -> Vec<String> {
            let tasks = operations.iter().flat_map(OfferOperation::tasks);
            tasks.map(|task| task.task_id.clone()).collect()
        };
        let first = ids(queue.fit(&large, directory, own));
        assert_eq!(
            first,
            [1, 2, 3, 4].map(|number| format!("f-service-{number}"))
        );
        assert_eq!(
            queue.fit(&offer("cpus:0.1;mem:16;disk:8"), directory, own),
            [],
            "half a group"
        );
        let second = queue.fit(&large, directory, own);
        let is_group = |one: &OfferOperation| matches!(one, OfferOperation::LaunchGroup { group_id, .. } if group_id == "f-group-5");
        assert!(second.iter().any(is_group), "{second:?}");
        assert_eq!(
            ids(second),
            ["f-short-6", "f-group-5-service-1", "f-group-5-service-2"]
        );
        queue.refill(std::iter::empty(), (0, 0), &mut rng);
        assert_eq!(queue.fit(&large, directory, own), []);
    }
}
