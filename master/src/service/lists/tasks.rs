//! Pages of tasks: live ones by framework and id, or by the index of an agent; then ended ones.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use argosy_proto::v1;
use argosy_state::Registry;
use argosy_state::access::Action;
use argosy_state::ids::{AgentId, FrameworkId, TaskId, TaskKey};
use argosy_state::task::Task;
use tonic::Status;

use super::{
    EncodedPage, EncodedRecords, PageCapacity, PagePart, bad_token, check_filter, collect, gather,
    is, matches, page_size, plain, settle,
};
use crate::access::{Reader, Sight};
use crate::encodings::{CachedEncodings, EncodingCache};
use crate::inbox::StateView;
use crate::owner_handle::OwnerHandle;
use crate::service::{filter_values, views};

/// Lists tasks ascending by framework and id, followed on request by finished ones, oldest first. A
/// token names the last task seen, or `~` and the last serial of the history.
pub(super) async fn list_tasks(
    owner: &OwnerHandle,
    reader: Reader,
    request: v1::ListRequest,
) -> Result<EncodedPage, Status> {
    let index = settle(owner, request.consistency, request.min_revision).await?;
    check_filter(
        &request.filter,
        &[
            "framework_id",
            "agent_id",
            "task_id",
            "state",
            "name",
            "role",
        ],
    )?;
    let size = page_size(&request)?;
    if !request.page_token.is_empty() && TaskPosition::read(&request.page_token).is_none() {
        return Err(bad_token(&request.page_token));
    }
    let wanted = TaskQuery::new(
        filter_values::filter(request.filter)?,
        owner.encodings.clone(),
    );
    let ended = request.include_ended;
    let part = move |view: &StateView, sight: &Sight, token: &str, room: PageCapacity| {
        let position = TaskPosition::read(token).unwrap_or(TaskPosition::Start);
        let read = (&wanted, sight);
        match position {
            TaskPosition::History(serial) => history(&view.registry, serial, room, read),
            place => {
                let mut part = live(&view.registry, &place, room, read);
                if ended && part.next.is_none() {
                    part.next = Some("~0".to_owned());
                }
                part
            }
        }
    };
    let end = |next_page_token, revision| v1::TaskPage {
        next_page_token,
        revision,
        ..Default::default()
    };
    let view = owner.view(index);
    let reader = (reader, Action::ViewTask);
    collect(owner, reader, view, (size, request.page_token), part, end).await
}

/// The requested tasks, and the index by which they are found.
#[derive(Debug, Clone)]
struct TaskQuery {
    filter: HashMap<String, String>,
    framework: Option<FrameworkId>,
    agent: Option<AgentId>,
    encodings: EncodingCache,
}

impl TaskQuery {
    /// Creates the query from a filter whose ids are validated.
    fn new(filter: HashMap<String, String>, encodings: EncodingCache) -> Self {
        Self {
            encodings,
            framework: filter.get("framework_id").and_then(|id| id.parse().ok()),
            agent: filter.get("agent_id").and_then(|id| id.parse().ok()),
            filter,
        }
    }

    fn matches(&self, task: &Task) -> bool {
        let state = || plain(v1::TaskState::from(task.state).as_str_name(), "TASK_STATE_");
        is(&self.filter, "framework_id", &task.key.framework)
            && is(&self.filter, "agent_id", &task.agent)
            && is(&self.filter, "task_id", &task.key.task)
            && matches(&self.filter, "name", &task.spec.name)
            && is(&self.filter, "role", &task.role)
            && (!self.filter.contains_key("state") || matches(&self.filter, "state", &state()))
    }

    fn show(
        &self,
        registry: &Registry,
        task: &Arc<Task>,
        encodings: &mut CachedEncodings,
        found: &mut EncodedRecords,
    ) {
        if self.matches(task) {
            let record = encodings.encoded(task, views::task_record);
            found.add_with(&record, &views::task_now(registry, task));
        }
    }
}

#[derive(Debug, PartialEq)]
enum TaskPosition {
    Start,
    After(TaskKey),
    History(u64),
}

impl TaskPosition {
    fn read(token: &str) -> Option<Self> {
        if token.is_empty() {
            return Some(Self::Start);
        }
        if let Some(serial) = token.strip_prefix('~') {
            return serial.parse().ok().map(Self::History);
        }
        let (framework, task) = token.split_once('/')?;
        Some(Self::After(TaskKey {
            framework: framework.parse().ok()?,
            task: TaskId::new(task).ok()?,
        }))
    }

    fn after(&self) -> Option<&TaskKey> {
        match self {
            Self::After(key) => Some(key),
            Self::Start | Self::History(_) => None,
        }
    }
}

fn live(
    registry: &Registry,
    position: &TaskPosition,
    room: PageCapacity,
    (wanted, sight): (&TaskQuery, &Sight),
) -> PagePart {
    let mut kept = wanted.encodings.lock();
    let name = |task: &&Arc<Task>| task.key.to_string();
    let show = |task: &&Arc<Task>, found: &mut EncodedRecords| {
        if sight.task(task) {
            wanted.show(registry, task, &mut kept, found);
        }
    };
    match (wanted.agent, wanted.framework) {
        (Some(agent), _) => {
            let tasks = of_agent(registry, agent, position);
            gather(tasks, room, name, show)
        }
        (None, Some(framework)) => {
            let tasks = of_framework(registry, framework, position);
            gather(tasks, room, name, show)
        }
        (None, None) => {
            let tasks = registry.shared_tasks_after(position.after());
            gather(tasks, room, name, show)
        }
    }
}

fn of_agent<'a>(
    registry: &'a Registry,
    agent: AgentId,
    position: &'a TaskPosition,
) -> impl Iterator<Item = &'a Arc<Task>> {
    let from = position.after().map_or(Bound::Unbounded, Bound::Excluded);
    let keys = registry.agent_index(agent).map(|index| &index.tasks);
    keys.into_iter()
        .flat_map(move |keys| keys.range::<TaskKey, _>((from, Bound::Unbounded)))
        .filter_map(|key| registry.shared_task(key))
}

fn of_framework<'a>(
    registry: &'a Registry,
    framework: FrameworkId,
    position: &'a TaskPosition,
) -> impl Iterator<Item = &'a Arc<Task>> {
    // A token of another filter may name a task of another framework.
    let behind = position.after().filter(|key| key.framework == framework);
    let from = behind.map_or(Bound::Unbounded, |key| Bound::Excluded(&key.task));
    let names = registry
        .framework_index(framework)
        .map(|index| &index.tasks);
    names
        .into_iter()
        .flat_map(move |names| names.range::<TaskId, _>((from, Bound::Unbounded)))
        .filter_map(move |task| {
            let task = task.clone();
            registry.shared_task(&TaskKey { framework, task })
        })
}

fn history(
    registry: &Registry,
    serial: u64,
    room: PageCapacity,
    (wanted, sight): (&TaskQuery, &Sight),
) -> PagePart {
    gather(
        registry.finished_tasks_after(serial),
        room,
        |(serial, _)| format!("~{serial}"),
        |(_, finished), found| {
            if sight.task(&finished.task) && wanted.matches(&finished.task) {
                found.add(&views::task(registry, &finished.task));
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use argosy_state::testing::{World, spec};

    use super::super::{PART, PART_BYTES};
    use super::*;

    const ROOM: PageCapacity = PageCapacity {
        records: 10_000,
        bytes: 64 << 20,
    };

    /// Returns a registry with two frameworks on two agents with `tasks` tasks each; a description
    /// takes `bytes` bytes.
    fn registry(tasks: usize, bytes: usize) -> Registry {
        let mut world = World::new();
        let agents = ["cpus:64;mem:65536", "cpus:64;mem:65536"].map(|all| world.register(all));
        for name in ["one", "two"] {
            let framework = world.subscribe(name);
            for (at, agent) in agents.into_iter().enumerate() {
                let offer = world.offer(framework, agent, "cpus:10;mem:1000");
                let names = (0..tasks).filter(|task| task % 2 == at);
                let specs = names.map(|task| {
                    let mut task = spec(&format!("{name}-{task:04}"), "cpus:0.01;mem:1");
                    task.environment.insert("FILL".into(), "x".repeat(bytes));
                    task
                });
                world.accept(framework, vec![offer], specs.collect());
            }
        }
        world.registry
    }

    /// Returns all matches of a filter, read in parts; the number of parts, and the bytes of the
    /// largest.
    fn all(registry: &Registry, filter: &[(&str, &str)]) -> (Vec<String>, usize, usize) {
        let pairs = filter
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let wanted = TaskQuery::new(pairs.collect(), EncodingCache::default());
        let (mut found, mut parts, mut largest) = (Vec::new(), 0, 0);
        let mut place = TaskPosition::Start;
        loop {
            let part = live(registry, &place, ROOM, (&wanted, &Sight::ALL));
            parts += 1;
            largest = largest.max(part.found.cost());
            let page = part.found.page(&v1::TaskPage::default());
            let tasks = page.decoded::<v1::TaskPage>().unwrap().tasks;
            found.extend(tasks.into_iter().map(|task| task.task_id));
            match part.next {
                Some(next) => place = TaskPosition::read(&next).unwrap(),
                None => return (found, parts, largest),
            }
        }
    }

    #[test]
    fn pages_are_bounded_in_records_and_bytes_and_complete() {
        let many = registry(600, 0);
        let (found, parts, _) = all(&many, &[("state", "running")]);
        assert_eq!((found.len(), parts), (0, 1_200_usize.div_ceil(PART)));
        let (found, parts, largest) = all(&many, &[]);
        assert_eq!(found.len(), 1_200);
        assert!(found.is_sorted() && parts > 4, "{parts}");
        assert!(largest < PART_BYTES + 4_096, "{largest}");
        let (found, _, largest) = all(&registry(8, 100_000), &[]);
        assert_eq!(found.len(), 16);
        assert!(largest < PART_BYTES + 110_000, "{largest}");
    }

    /// A scan of all tasks would delay other readers.
    #[test]
    fn a_part_ends_after_a_number_of_tasks_that_the_reader_may_not_see() {
        let many = registry(600, 0);
        let actor = "framework/other".parse().unwrap();
        let sight = Reader::As(actor).sight(&many, Action::ViewTask);
        let filters: [&[(&str, &str)]; 3] = [
            &[],
            &[("framework_id", "framework-1")],
            &[("agent_id", "agent-1")],
        ];
        for filter in filters {
            let pairs = filter
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            let wanted = TaskQuery::new(pairs.collect(), EncodingCache::default());
            let part = live(&many, &TaskPosition::Start, ROOM, (&wanted, &sight));
            assert_eq!(part.found.count, 0);
            assert!(part.next.is_some(), "{filter:?}");
        }
    }

    #[test]
    fn filters_by_agent_and_framework_use_their_index() {
        let registry = registry(300, 0);
        let (found, parts, _) = all(
            &registry,
            &[("framework_id", "framework-2"), ("state", "lost")],
        );
        assert_eq!((found.len(), parts), (0, 1));
        let filter = [("framework_id", "framework-2"), ("agent_id", "agent-1")];
        let (found, _, _) = all(&registry, &filter);
        assert_eq!(found.len(), 150);
        assert!(found.iter().all(|task| task.starts_with("two-")));
        let role = registry.tasks().next().unwrap().role.to_string();
        assert_eq!(all(&registry, &[("role", &role)]).0.len(), 600);
        for absent in [
            ("agent_id", "agent-9"),
            ("framework_id", "framework-9"),
            ("role", "other"),
        ] {
            assert_eq!(all(&registry, &[absent]).0, Vec::<String>::new());
        }
    }

    #[test]
    fn listed_task_equals_a_read_of_it() {
        let registry = registry(40, 100);
        let wanted = TaskQuery::new(HashMap::new(), EncodingCache::default());
        let listed = |registry: &Registry| {
            let part = live(registry, &TaskPosition::Start, ROOM, (&wanted, &Sight::ALL));
            let page = part.found.page(&v1::TaskPage::default());
            page.decoded::<v1::TaskPage>().unwrap().tasks
        };
        let single: Vec<_> = registry
            .tasks()
            .map(|task| views::task(&registry, task))
            .collect();
        assert!(single.iter().all(|task| !task.agent_address.is_empty()));
        // First while it is encoded, then from the cache.
        assert_eq!(listed(&registry), single);
        assert_eq!(listed(&registry), single);
    }
}
