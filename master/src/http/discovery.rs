//! Service discovery for Prometheus: the masters, the agents, and the tasks that declare a port of
//! metrics, as target groups of its HTTP service discovery.
//!
//! Every master answers from its own copy of the registry, so that monitoring does not depend on
//! the leader. The list is always complete: Prometheus removes a target that is missing, and keeps
//! its last list on an error.

mod tasks;

use std::borrow::Cow;

use argosy_proto::v1;
use argosy_state::actor::Actor;
use argosy_state::agent::{Agent, AgentMode};
use argosy_state::ids::{AgentId, TaskKey};
use argosy_state::registry::Registry;
use argosy_state::task::Task;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use tonic::Status;

use super::caller::RequestPeer;
use super::parameters::QueryParameters;
use super::{Http, problem};
use crate::access::{Denial, Sights};
use crate::service::agent_api::is_host_and_port;
use crate::service::{denied, masters, spawn_reader};

/// Maximum size of a list. A longer one is refused: without its end it would remove targets.
const LIST_BYTES: usize = 32 << 20;
/// Agents or tasks that are read before other readers run.
const PART: usize = 500;
/// Typical size of a target.
const TARGET_BYTES: usize = 384;
/// Maximum length of a zone; an agent with a longer one is listed without its zone.
const ZONE_BYTES: usize = 128;
/// The attribute of an agent that names its zone.
const ZONE: &str = "zone";

/// Targets with the same labels.
#[derive(Serialize)]
struct TargetGroup<'a> {
    targets: [&'a str; 1],
    labels: TargetLabels<'a>,
}

/// The labels of a target, without those whose value is empty. Labels with this prefix are dropped
/// after relabelling.
#[derive(Default)]
struct TargetLabels<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'a> TargetLabels<'a> {
    /// Returns the labels that every target has. `node` is `master-2` or `agent-7`.
    fn of(kind: &'static str, node: &'a str) -> Self {
        let mut labels = Self::default();
        labels.push("kind", kind);
        labels.push("node", node);
        labels
    }

    fn push(&mut self, name: &str, value: &'a str) {
        self.0.push((format!("__meta_argosy_{name}").into(), value));
    }
}

impl Serialize for TargetLabels<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let present = self.0.iter().filter(|(_, value)| !value.is_empty());
        serializer.collect_map(present.map(|(name, value)| (name, value)))
    }
}

/// The kinds of targets that are requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kinds {
    masters: bool,
    agents: bool,
    tasks: bool,
}

impl Kinds {
    /// Parses the parameter `kinds`, such as `master,agent`; without it, all kinds are requested.
    fn read(parameter: Option<&str>) -> Result<Self, Status> {
        let mut kinds = Self {
            masters: false,
            agents: false,
            tasks: false,
        };
        for kind in parameter.unwrap_or("master,agent,task").split(',') {
            match kind {
                "master" => kinds.masters = true,
                "agent" => kinds.agents = true,
                "task" => kinds.tasks = true,
                other => {
                    let text = format!("kinds: {other:?} is none: name master, agent or task");
                    return Err(Status::invalid_argument(text));
                }
            }
        }
        Ok(kinds)
    }

    /// Denies a reader that may see none of these kinds.
    fn check(self, sights: &Sights) -> Result<(), Denial> {
        let kinds = [
            (self.masters, &sights.cluster),
            (self.agents, &sights.agents),
            (self.tasks, &sights.tasks),
        ];
        let wanted = kinds.iter().filter(|(is_wanted, _)| *is_wanted);
        let mut denied = Ok(());
        for (_, sight) in wanted {
            match sight.some() {
                Ok(()) => return Ok(()),
                Err(denial) => denied = Err(denial),
            }
        }
        denied
    }
}

/// Responds to `GET /v1/sd/prometheus`.
pub(super) async fn prometheus(
    State(http): State<Http>,
    caller: RequestPeer,
    QueryParameters(parameters): QueryParameters,
) -> Response {
    let kinds = Kinds::read(parameters.get("kinds").map(String::as_str));
    let text = match kinds {
        Ok(kinds) => listed(&http, caller.actor(), kinds).await,
        Err(status) => Err(status),
    };
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(status) => problem(&status),
    }
}

async fn listed(http: &Http, actor: Actor, kinds: Kinds) -> Result<String, Status> {
    let owner = &http.services.owner;
    let mut share = owner.reserve(LIST_BYTES, PART * TARGET_BYTES).await?;
    let index = *owner.applied.borrow();
    let view = owner.view(index).await?;
    let sights = Sights::of(&owner.reader(actor), &view.registry.access().policy);
    kinds.check(&sights).map_err(|denial| denied(&denial))?;
    let masters = masters(&owner.node);
    let list = async move {
        let kinds = Kinds {
            masters: kinds.masters && sights.cluster.cluster(),
            ..kinds
        };
        let mut list = TargetList::new(LIST_BYTES, sights);
        let mut masters = masters.iter().filter(|_| kinds.masters);
        masters.try_for_each(|master| list.add_master(master))?;
        let mut next = kinds.agents.then_some(AgentId(0));
        while let Some(after) = next {
            next = list.add_agents(&view.registry, after)?;
            tokio::task::yield_now().await;
        }
        let mut begins = kinds.tasks;
        let mut next = None;
        while begins || next.is_some() {
            begins = false;
            next = list.add_tasks(&view.registry, next.as_ref())?;
            tokio::task::yield_now().await;
        }
        Ok::<_, Status>(list.end())
    };
    let text = spawn_reader(owner, list).await??;
    share.resize(text.len());
    share.attach_to_answer();
    Ok(text)
}

/// A list in progress.
struct TargetList {
    text: String,
    limit: usize,
    sights: Sights,
}

impl TargetList {
    /// Creates a list of what its reader may see.
    fn new(limit: usize, sights: Sights) -> Self {
        let text = "[".to_owned();
        Self {
            text,
            limit,
            sights,
        }
    }

    fn add_master(&mut self, master: &v1::Master) -> Result<(), Status> {
        let labels = TargetLabels::of("master", &master.node_id);
        self.add(&master.api_address, labels)
    }

    /// Adds the next agents after `after`. Returns the last one that was read, if there are more.
    fn add_agents(
        &mut self,
        registry: &Registry,
        after: AgentId,
    ) -> Result<Option<AgentId>, Status> {
        let mut last = None;
        for agent in registry.agents_after(after).take(PART) {
            self.add_agent(agent)?;
            last = Some(agent.id);
        }
        Ok(last)
    }

    /// Adds an agent. One that is unreachable stays in the list, so that its absence is seen; one
    /// that is gone never returns.
    fn add_agent(&mut self, agent: &Agent) -> Result<(), Status> {
        if agent.mode() == AgentMode::Gone || !self.sights.agents.agent(agent.id) {
            return Ok(());
        }
        let node = agent.id.to_string();
        let mut labels = TargetLabels::of("agent", &node);
        labels.push("zone", zone_of(agent));
        self.add(&agent.report.info.address, labels)
    }

    /// Adds the tasks of the next part after `after`. Returns the last one that was read, if there
    /// are more.
    fn add_tasks(
        &mut self,
        registry: &Registry,
        after: Option<&TaskKey>,
    ) -> Result<Option<TaskKey>, Status> {
        match after {
            None => self.add_part(registry, registry.tasks()),
            Some(after) => self.add_part(registry, registry.tasks_after(after)),
        }
    }

    fn add_part<'a>(
        &mut self,
        registry: &Registry,
        tasks: impl Iterator<Item = &'a Task>,
    ) -> Result<Option<TaskKey>, Status> {
        let mut last = None;
        for task in tasks.take(PART) {
            if self.sights.tasks.task(task) {
                tasks::add(self, registry, task)?;
            }
            last = Some(&task.key);
        }
        Ok(last.cloned())
    }

    /// Adds a target. An address that is more than a host and a port would make Prometheus read
    /// another path, or reject the list.
    fn add(&mut self, address: &str, labels: TargetLabels<'_>) -> Result<(), Status> {
        if !is_host_and_port(address) {
            return Ok(());
        }
        let targets = [address];
        let group = serde_json::to_string(&TargetGroup { targets, labels });
        let group = group.map_err(|why| Status::internal(why.to_string()))?;
        if self.text.len() > 1 {
            self.text.push(',');
        }
        self.text.push_str(&group);
        if self.text.len() >= self.limit {
            let text = format!(
                "the list of targets takes more than {} bytes; request fewer kinds, shorten the zones and addresses of agents, or the labels of tasks",
                self.limit
            );
            return Err(Status::resource_exhausted(text));
        }
        Ok(())
    }

    fn end(mut self) -> String {
        self.text.push(']');
        self.text
    }
}

/// Returns the zone of an agent, empty if it has none or a long one.
fn zone_of(agent: &Agent) -> &str {
    let zone = agent.admin.attributes.get(ZONE);
    let zone = zone.or_else(|| agent.report.info.attributes.get(ZONE));
    zone.filter(|zone| zone.len() <= ZONE_BYTES)
        .map_or("", String::as_str)
}

/// Returns the view of a reader to which nothing is denied.
#[cfg(test)]
fn everything() -> Sights {
    use argosy_state::access::Policy;
    Sights::of(&crate::access::Reader::Unrestricted, &Policy::default())
}

#[cfg(test)]
mod tests {
    use argosy_state::command::OperatorOperation;
    use argosy_state::testing::World;
    use serde_json::{Value, json};

    use super::*;

    fn listed(registry: &Registry, limit: usize) -> Result<Value, Status> {
        let mut list = TargetList::new(limit, everything());
        let mut next = Some(AgentId(0));
        while let Some(after) = next {
            next = list.add_agents(registry, after)?;
        }
        Ok(serde_json::from_str(&list.end()).unwrap())
    }

    fn set(world: &mut World, agent: AgentId, name: &str, value: &str) {
        let set = OperatorOperation::SetAttribute {
            agent,
            name: name.to_owned(),
            value: value.to_owned(),
        };
        world.operate(set).unwrap();
    }

    #[test]
    fn an_empty_list_is_an_empty_array() {
        assert_eq!(listed(&Registry::new(), 99).unwrap(), json!([]));
    }

    #[test]
    fn every_agent_that_may_return_is_listed_with_its_zone() {
        let mut world = World::new();
        let agents = [(); 3].map(|()| world.register("cpus:1"));
        set(&mut world, agents[1], "zone", "east\"\u{1b}[31m");
        set(&mut world, agents[2], "zone", &"z".repeat(ZONE_BYTES + 1));
        let address = |agent: AgentId| {
            let agent = world.registry.agent(agent).unwrap();
            agent.report.info.address.clone()
        };
        let expected = json!([
            {
                "targets": [address(agents[0])],
                "labels": { "__meta_argosy_kind": "agent", "__meta_argosy_node": "agent-1" },
            },
            {
                "targets": [address(agents[1])],
                "labels": {
                    "__meta_argosy_kind": "agent",
                    "__meta_argosy_node": "agent-2",
                    "__meta_argosy_zone": "east\"\u{1b}[31m",
                },
            },
            {
                "targets": [address(agents[2])],
                "labels": { "__meta_argosy_kind": "agent", "__meta_argosy_node": "agent-3" },
            },
        ]);
        assert_eq!(listed(&world.registry, 9_999).unwrap(), expected);
        let gone = OperatorOperation::MarkGone(agents[0]);
        world.operate(gone).unwrap();
        let rest = listed(&world.registry, 9_999).unwrap();
        assert_eq!(rest.as_array().unwrap(), &expected.as_array().unwrap()[1..]);
    }

    #[test]
    fn a_list_of_several_parts_is_complete_and_a_longer_one_than_the_limit_is_refused() {
        let mut world = World::new();
        for _ in 0..2 * PART + 1 {
            world.register("cpus:1");
        }
        let all = listed(&world.registry, LIST_BYTES).unwrap();
        assert_eq!(all.as_array().unwrap().len(), 2 * PART + 1);
        let bytes = serde_json::to_string(&all).unwrap().len();
        assert!(listed(&world.registry, bytes + 9).is_ok());
        let refused = listed(&world.registry, bytes - 1).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains("shorten the zones"), "{refused}");
    }

    #[test]
    fn all_kinds_are_listed_unless_some_are_named() {
        let kinds = |masters, agents, tasks| {
            Some(Kinds {
                masters,
                agents,
                tasks,
            })
        };
        assert_eq!(Kinds::read(None).ok(), kinds(true, true, true));
        let nodes = Kinds::read(Some("agent,master")).ok();
        assert_eq!(nodes, kinds(true, true, false));
        assert_eq!(Kinds::read(Some("task")).ok(), kinds(false, false, true));
        for wrong in ["", "tasks", "task,", "Task"] {
            let refused = Kinds::read(Some(wrong)).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains("master, agent or task"));
        }
    }

    #[test]
    fn an_address_that_is_no_host_and_port_is_not_listed() {
        let mut list = TargetList::new(9_999, everything());
        for address in ["", "host", "host:1/admin?x=", "a@host:1"] {
            list.add(address, TargetLabels::default()).unwrap();
        }
        assert_eq!(list.end(), "[]");
    }
}
