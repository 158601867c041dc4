//! Conversion of facts to the messages of the operator API.

use argosy_proto::versions::VersionRange;
use argosy_proto::{convert, v1};
use argosy_raft::{Node, RaftStatus};
use argosy_state::Registry;
use argosy_state::agent::Agent;
use argosy_state::command::OfferTerms;
use argosy_state::framework::{FinishedFramework, Framework, SchedulerConnection};
use argosy_state::ids::Timestamp;
use argosy_state::registry::Ancestor;
use argosy_state::resources::Resources;
use argosy_state::task::Task;
use tonic::Status;

use super::operator::is_local;
use crate::inbox::StateView;
use crate::owner_handle::unavailable;

pub(crate) fn agent(view: &StateView, agent: &Agent) -> v1::Agent {
    let now = agent_now(view, agent);
    v1::Agent {
        connected: now.connected,
        used: now.used,
        live_tasks: now.live_tasks,
        ..agent_record(agent)
    }
}

/// Returns the fields that depend on an agent's record alone; [`agent_now`] returns the others.
pub(crate) fn agent_record(agent: &Agent) -> v1::Agent {
    let info = v1::AgentInfo {
        attributes: agent.attributes().into_iter().collect(),
        ..convert::agent_info(&agent.report.info)
    };
    v1::Agent {
        agent_id: agent.id.to_string(),
        info: Some(info),
        mode: convert::mode_from(agent.mode()).into(),
        revision: Some(convert::revision(agent.revision)),
        mode_since_ms: agent.mode_since().0,
        ..v1::Agent::default()
    }
}

/// Returns the fields of an agent that do not come from its record.
pub(crate) fn agent_now(view: &StateView, agent: &Agent) -> v1::Agent {
    v1::Agent {
        connected: view
            .leader
            .as_ref()
            .is_some_and(|leader| leader.agent_is_linked(agent.id)),
        ..agent_usage(&view.registry, agent)
    }
}

/// Checks that a view shows which agents are connected. Only that of a leader does, and a reader
/// may accept what this master knows.
pub(crate) fn check_connections(view: &StateView, consistency: i32) -> Result<(), Status> {
    match view.leader.is_some() || is_local(consistency) {
        true => Ok(()),
        false => Err(unavailable("leadership has just moved")),
    }
}

/// Returns the fields of an agent that come from its tasks.
pub(crate) fn agent_usage(registry: &Registry, agent: &Agent) -> v1::Agent {
    let index = registry.agent_index(agent.id);
    v1::Agent {
        used: index
            .map(|index| convert::resources(&index.used))
            .unwrap_or_default(),
        live_tasks: count(index.map_or(0, |index| index.live)),
        ..v1::Agent::default()
    }
}

pub(crate) fn framework(view: &StateView, framework: &Framework) -> v1::Framework {
    let record = framework_record(&view.registry, view.now, framework);
    let Some(leader) = &view.leader else {
        return record;
    };
    let connected = leader.framework_is_linked(framework.id);
    v1::Framework {
        connected,
        active: connected && !framework.removing,
        ..record
    }
}

/// Returns a framework as the registry has it. Its connection is the one that was committed.
pub(crate) fn framework_record(
    registry: &Registry,
    now: Timestamp,
    framework: &Framework,
) -> v1::Framework {
    let index = registry.framework_index(framework.id);
    let used = index.into_iter().flat_map(|index| index.used.values());
    let used = used.fold(Resources::none(), |sum, part| sum.plus(part).unwrap_or(sum));
    let connected = framework.connection == SchedulerConnection::Connected;
    v1::Framework {
        framework_id: framework.id.to_string(),
        info: Some(convert::framework_info(&framework.info)),
        connected,
        active: connected && !framework.removing,
        suppressed_roles: framework
            .suppressed
            .iter()
            .map(ToString::to_string)
            .collect(),
        live_tasks: count(index.map_or(0, |index| index.live)),
        used: convert::resources(&used),
        revision: Some(convert::revision(framework.revision)),
        expires_in_ms: framework.deadline().map(|deadline| deadline.since_ms(now)),
        removed: framework.removing,
    }
}

pub(crate) fn finished_framework(framework: &FinishedFramework) -> v1::Framework {
    v1::Framework {
        framework_id: framework.id.to_string(),
        info: Some(convert::framework_info(&framework.info)),
        revision: Some(convert::revision(framework.revision)),
        removed: true,
        ..v1::Framework::default()
    }
}

pub(crate) fn task(registry: &Registry, task: &Task) -> v1::Task {
    let address = registry
        .agent(task.agent)
        .map_or("", |agent| agent.report.info.address.as_str());
    convert::task(task, address)
}

/// Returns a task with its transitions, which lists do not have.
pub(crate) fn task_with_history(registry: &Registry, task: &Task) -> v1::Task {
    let transitions = registry.transitions(&task.key);
    let (history, history_dropped) = convert::task_history(transitions);
    v1::Task {
        history,
        history_dropped,
        ..self::task(registry, task)
    }
}

/// Returns the fields that depend on a task's record alone; [`task_now`] returns the other.
pub(crate) fn task_record(task: &Task) -> v1::Task {
    convert::task(task, "")
}

/// Returns the field of a task that does not come from its record.
pub(crate) fn task_now(registry: &Registry, task: &Task) -> v1::Task {
    let agent = registry.agent(task.agent);
    v1::Task {
        agent_address: agent.map_or_else(String::new, |agent| agent.report.info.address.clone()),
        ..v1::Task::default()
    }
}

/// Returns an open offer without its token, which belongs to its holder.
pub(crate) fn offer(registry: &Registry, terms: &OfferTerms) -> Option<v1::Offer> {
    let agent = registry.agent(terms.agent)?;
    Some(v1::Offer {
        token: Default::default(),
        ..convert::offer(terms, agent, &[])
    })
}

pub(crate) fn cluster(view: &StateView, node: &Node) -> v1::Cluster {
    let registry = &view.registry;
    // A copy: `masters` reads the same watch, and a second read on one thread can wait for a writer
    // that waits for the first.
    let status = node.status().borrow().clone();
    let used = registry.role_totals();
    let is_leading = view.leader.is_some();
    let leader = status.leader.as_ref();
    let leader = leader.filter(|_| is_leading || !status.is_leader);
    let mut masters = masters(node);
    if status.is_leader && !is_leading {
        // Elected, but not the active leader yet or any more: it is unknown whether a quorum
        // follows.
        let own = masters.iter_mut().filter(|master| master.role == "leader");
        own.for_each(|master| "unconfirmed".clone_into(&mut master.role));
    }
    v1::Cluster {
        cluster_id: registry.cluster().facts.id.to_string(),
        leader: leader
            .map(|(id, _)| format!("master-{id}"))
            .unwrap_or_default(),
        epoch: registry.epoch().0,
        term: status.term,
        masters,
        agents: count(registry.agents().len()),
        agents_unreachable: count(registry.agents_in(argosy_state::agent::AgentMode::Unreachable)),
        frameworks: count(registry.frameworks().len()),
        tasks_live: count(registry.live_tasks()),
        applied_index: registry.applied(),
        committed_index: node.progress().committed_index,
        cluster_time_ms: registry.time().0,
        total: convert::resources(registry.total()),
        used: convert::resources(used),
        digest: registry.digest().to_be_bytes().to_vec(),
        answered_by: format!("master-{}", node.id()),
        protocol: Some(VersionRange::OWN.answer(VersionRange::OWN.newest)),
        offers: count(view.leader.as_ref().map_or(0, |leader| leader.offers)),
        without_leader_ms: without_leader_ms(is_leading, &status, node),
        failovers: view.failovers.iter().cloned().collect(),
        feature_level: registry.level().0,
        wall_ms: node.wall_clock().now_ms(),
        ancestors: registry.cluster().ancestors.iter().map(ancestor).collect(),
    }
}

fn ancestor(ancestor: &Ancestor) -> v1::Ancestor {
    v1::Ancestor {
        cluster_id: ancestor.id.to_string(),
        epoch: ancestor.epoch.0,
        index: ancestor.index,
    }
}

/// Returns the milliseconds since this master last knew a leader with a quorum; 0 if it knows one
/// now.
fn without_leader_ms(is_active: bool, status: &RaftStatus, node: &Node) -> u64 {
    let ago = match (is_active, status.is_leader) {
        (true, _) => None,
        (false, true) => Some(node.quorum_acked_ago().unwrap_or_default()),
        (false, false) => status.leaderless_since.map(|since| since.elapsed()),
    };
    // Without a leader the result is never 0, however short the time.
    ago.map_or(0, |ago| {
        u64::try_from(ago.as_millis()).unwrap_or(u64::MAX).max(1)
    })
}

/// Returns the masters, as the called one knows them; only the leader knows how far they lag.
pub(crate) fn masters(node: &Node) -> Vec<v1::Master> {
    let listed = node.members().into_iter().map(|member| v1::Master {
        node_id: format!("master-{}", member.id),
        raft_address: member.member.raft_address,
        api_address: member.member.api_address,
        role: match (member.is_leader, member.is_voter) {
            (true, _) => "leader",
            (false, true) => "follower",
            (false, false) => "learner",
        }
        .to_owned(),
        voter: member.is_voter,
        lag: member.lag,
        last_contact_ms: member
            .acked_ago
            .map(|ago| ago.as_millis().try_into().unwrap_or(u64::MAX)),
        oldest_level: member.levels.map(|levels| levels.oldest.0),
        newest_level: member.levels.map(|levels| levels.newest.0),
    });
    listed.collect()
}

pub(crate) fn count(number: usize) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use argosy_state::task::TaskState;
    use argosy_state::testing::World;

    use super::*;

    #[test]
    fn one_task_has_its_history_as_messages_and_as_json_and_lists_do_not() {
        let mut world = World::with_running_task("web");
        let key = world.registry.tasks().next().unwrap().key.clone();
        world.update(&key, TaskState::Failed);
        world.acknowledge(&key);
        let registry = &world.registry;
        let ended = &registry.finished_task(&key).unwrap().task;
        let shown = task_with_history(registry, ended);
        let steps = shown.history.iter();
        let steps: Vec<_> = steps.map(|step| (step.number, step.state())).collect();
        assert_eq!(
            steps,
            [
                (1, v1::TaskState::Staging),
                (2, v1::TaskState::Running),
                (3, v1::TaskState::Failed)
            ]
        );
        assert_eq!(shown.history_dropped, 0);
        let end = shown.history[2].revision;
        assert_eq!(end, Some(convert::revision(ended.latest.revision)));

        let json = serde_json::to_value(&shown).unwrap();
        assert_eq!(json["history"][1]["state"], "TASK_STATE_RUNNING", "{json}");
        assert_eq!(json["history"][1]["source"], "SOURCE_AGENT", "{json}");
        let listed = task(registry, ended);
        let listed = serde_json::to_value(&listed).unwrap();
        assert!(listed.get("history").is_none(), "{listed}");
    }
}
