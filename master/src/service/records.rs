//! Reads of one record, and of the cluster as a whole. A record that its reader may not see looks
//! like an unknown one.

use std::collections::BTreeSet;

use argosy_proto::convert;
use argosy_proto::v1;
use argosy_state::access::Action;
use argosy_state::agent::AgentMode;
use argosy_state::ids::{AgentId, FrameworkId, TaskId, TaskKey};
use argosy_state::registry::Registry;
use argosy_state::resources::Resources;
use argosy_state::task::TaskState;
use prost::Message;
use tonic::Status;

use super::lists::settle;
use super::{denied, malformed, not_found, spawn_reader, views};
use crate::access::{Denial, Object, Reader, Sight, Sights};
use crate::inbox::StateView;
use crate::owner_handle::OwnerHandle;

/// Records that are counted before other readers run.
const PART: usize = 500;

/// Returns the bytes of a record that was found.
fn bytes<T: Message, E>(found: &Result<Option<T>, E>) -> usize {
    let found = found.as_ref().ok().and_then(Option::as_ref);
    found.map_or(0, Message::encoded_len)
}

/// Reads one record: what `find` finds among those that the reader may see.
async fn one<T: Message>(
    owner: &OwnerHandle,
    (reader, action): (&Reader, Action),
    (what, request): (&str, &v1::GetRequest),
    find: impl FnOnce(&StateView, &Sight) -> Result<Option<T>, Status>,
) -> Result<T, Status> {
    let index = settle(owner, request.consistency, request.min_revision).await?;
    let read = |view: &StateView| {
        let sight = reader.sight(&view.registry, action);
        sight.some().map_err(|denial| denied(&denial))?;
        find(view, &sight)
    };
    let found = owner.read_one(index, read, bytes).await??;
    found.ok_or_else(|| not_found(what, &request.id, &[]))
}

pub(crate) async fn one_agent(
    owner: &OwnerHandle,
    reader: Reader,
    request: v1::GetRequest,
) -> Result<v1::Agent, Status> {
    let id: Option<AgentId> = request.id.parse().ok();
    let find = |view: &StateView, sight: &Sight| {
        let id = id.filter(|id| sight.agent(*id));
        let agent = id.and_then(|id| view.registry.agent(id));
        let found = agent.map(|agent| views::agent(view, agent));
        views::check_connections(view, request.consistency).map(|()| found)
    };
    let reader = (&reader, Action::ViewAgent);
    one(owner, reader, ("agent", &request), find).await
}

pub(crate) async fn one_framework(
    owner: &OwnerHandle,
    reader: Reader,
    request: v1::GetRequest,
) -> Result<v1::Framework, Status> {
    let id: Option<FrameworkId> = request.id.parse().ok();
    let find = |view: &StateView, sight: &Sight| {
        let id = id?;
        if let Some(framework) = view.registry.framework(id) {
            let is_seen = sight.framework(id, &framework.info);
            return is_seen.then(|| views::framework(view, framework));
        }
        let mut finished = view.registry.finished_frameworks();
        let finished = finished.find(|finished| finished.id == id)?;
        let is_seen = sight.framework(id, &finished.info);
        is_seen.then(|| views::finished_framework(finished))
    };
    let reader = (&reader, Action::ViewFramework);
    let find = |view: &StateView, sight: &Sight| Ok(find(view, sight));
    one(owner, reader, ("framework", &request), find).await
}

/// Returns a task by the ids of its framework and its own; both are required.
pub(crate) async fn one_task(
    owner: &OwnerHandle,
    reader: (Reader, Action),
    request: v1::GetRequest,
) -> Result<v1::Task, Status> {
    let framework: FrameworkId =
        convert::id("framework_id", &request.framework_id).map_err(|why| malformed(&why))?;
    let task = TaskId::new(&request.id).ok();
    let key = task.map(|task| TaskKey { framework, task });
    let find = |view: &StateView, sight: &Sight| {
        let key = key?;
        let finished = || {
            let finished = view.registry.finished_task(&key);
            finished.map(|finished| &finished.task)
        };
        let task = view.registry.task(&key).or_else(finished)?;
        let is_seen = sight.task(task);
        is_seen.then(|| views::task_with_history(&view.registry, task))
    };
    let reader = (&reader.0, reader.1);
    let find = |view: &StateView, sight: &Sight| Ok(find(view, sight));
    one(owner, reader, ("task", &request), find).await
}

pub(crate) async fn cluster(
    owner: &OwnerHandle,
    reader: Reader,
    consistency: i32,
) -> Result<v1::Cluster, Status> {
    let index = settle(owner, consistency, 0).await?;
    let read = |view: &StateView| {
        let policy = &view.registry.access().policy;
        reader.check(policy, Action::ViewCluster, &Object::CLUSTER)?;
        let cluster = views::cluster(view, &owner.node);
        Ok(Some(v1::Cluster {
            failovers: owner.other_failovers.merged_with(&cluster.failovers),
            ..cluster
        }))
    };
    let found = owner.read_one(index, read, bytes).await?;
    let found = found.map_err(|denial: Denial| denied(&denial))?;
    let cluster = found.unwrap_or_default();
    let view = owner.view(index).await?;
    let seen = Sights::of(&reader, &view.registry.access().policy);
    if sees_all(&seen) {
        return Ok(cluster);
    }
    spawn_reader(owner, async move {
        let index = view.registry.applied();
        let counted = counted(&view.registry, &seen).await;
        v1::Cluster {
            applied_index: index,
            offers: if seen.offers.is_all() {
                cluster.offers
            } else {
                0
            },
            agents: counted.agents,
            agents_unreachable: counted.agents_unreachable,
            frameworks: counted.frameworks,
            tasks_live: counted.tasks_live,
            total: counted.total,
            used: counted.used,
            ..cluster
        }
    })
    .await
}

/// Returns whether a reader sees everything that the state of the cluster counts.
fn sees_all(seen: &Sights) -> bool {
    let kinds = [&seen.agents, &seen.frameworks, &seen.tasks, &seen.offers];
    kinds.into_iter().all(Sight::is_all)
}

/// Adds the scalars of a record to a sum, as the state of the cluster does for all records.
fn add(sum: &mut Resources, resources: &Resources) {
    let larger = resources.scalars().and_then(|scalars| sum.plus(&scalars));
    // The registry has the sum of all records, so that of some is not too large.
    *sum = larger.unwrap_or_else(|| std::mem::take(sum));
}

/// Counts the records that a reader may see.
async fn counted(registry: &Registry, seen: &Sights) -> v1::Cluster {
    let mut counts = v1::Cluster::default();
    let (mut total, mut used) = (Resources::none(), Resources::none());
    let mut executors = BTreeSet::new();
    for (at, agent) in registry.agents().enumerate() {
        if at % PART == PART - 1 {
            tokio::task::yield_now().await;
        }
        if seen.agents.agent(agent.id) {
            counts.agents += 1;
            match agent.mode() {
                AgentMode::Unreachable => counts.agents_unreachable += 1,
                AgentMode::Registered => add(&mut total, agent.total()),
                AgentMode::Gone
                | AgentMode::Deactivated
                | AgentMode::Draining
                | AgentMode::Drained => {}
            }
        }
    }
    for framework in registry.frameworks() {
        counts.frameworks += u32::from(seen.frameworks.framework(framework.id, &framework.info));
    }
    for (at, task) in registry.tasks().enumerate() {
        if at % PART == PART - 1 {
            tokio::task::yield_now().await;
        }
        if !task.is_terminal() && seen.tasks.task(task) {
            counts.tasks_live += 1;
            if task.state == TaskState::Unreachable {
                continue;
            }
            add(&mut used, &task.spec.resources);
            if let Some(executor) = &task.spec.executor {
                let key = (task.agent, task.key.framework, &executor.executor);
                if executors.insert(key) {
                    add(&mut used, &executor.resources);
                }
            }
        }
    }
    v1::Cluster {
        total: convert::resources(&total),
        used: convert::resources(&used),
        ..counts
    }
}
