//! Waiting until a dev cluster is usable: a leader, all voters, all agents.

use std::time::{Duration, Instant};

use argosy_proto::v1;

use super::members::DevMembers;
use super::plan::{DevPlan, MemberKind};
use crate::exit::{Failure, FailureCode};
use crate::operator::{ClusterClient, EndedObjects};
use crate::output::{StatusLine, StatusMode, span_ms};

/// Interval at which the cluster is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// State of the ready cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ReadyCluster {
    /// Controllers that agents lack; their limits are off.
    pub(super) missing_controllers: Vec<String>,
}

/// Waits until the cluster is ready. A member that exits in this time is a failure with the last
/// lines of its log.
pub(super) async fn wait(
    plan: &DevPlan,
    members: &mut DevMembers,
    operator: &ClusterClient,
    (timeout, mode): (Duration, StatusMode),
) -> Result<ReadyCluster, Failure> {
    let deadline = Instant::now() + timeout;
    let mut line = StatusLine::new(mode);
    loop {
        let lacking = match poll(plan, operator).await {
            Ok(found) => return Ok(found),
            Err(lacking) => lacking,
        };
        if let Some(failure) = members.failed() {
            return Err(failure);
        }
        if Instant::now() >= deadline {
            let waited = span_ms(timeout.as_millis() as u64);
            return Err(Failure::new(
                FailureCode::Unavailable,
                format!("the cluster is not ready after {waited}: {lacking}"),
            )
            .advise("ARGOSY_LOG=debug argosy dev --keep DIR leaves logs to read"));
        }
        line.show(|_| format!("waiting for the cluster: {lacking}"));
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Returns the state, or what is still missing.
async fn poll(plan: &DevPlan, operator: &ClusterClient) -> Result<ReadyCluster, String> {
    let words = |failure: Failure| failure.message;
    // A follower knows which agents are registered, but not which are connected.
    let leader = operator.at_leader().await.map_err(words)?;
    let cluster = leader
        .cluster(v1::Consistency::Linearizable)
        .await
        .map_err(words)?;
    let voters = cluster.masters.iter().filter(|master| master.voter).count();
    if voters < plan.count(MemberKind::Master) {
        return Err(format!(
            "{voters} of {} masters are voters",
            plan.count(MemberKind::Master)
        ));
    }
    let agents = leader
        .agents(EndedObjects::Excluded)
        .await
        .map_err(words)?
        .agents;
    check(plan.count(MemberKind::Agent), &agents)
}

fn check(wanted: usize, agents: &[v1::Agent]) -> Result<ReadyCluster, String> {
    let usable =
        |agent: &&v1::Agent| agent.connected && agent.mode == v1::AgentMode::Registered as i32;
    let ready = agents.iter().filter(usable).count();
    if ready < wanted {
        return Err(format!("{ready} of {wanted} agents are registered"));
    }
    let infos = agents.iter().filter_map(|agent| agent.info.as_ref());
    let mut missing: Vec<_> = infos
        .flat_map(|info| info.missing_controllers.clone())
        .collect();
    missing.sort();
    missing.dedup();
    Ok(ReadyCluster {
        missing_controllers: missing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(connected: bool) -> v1::Agent {
        v1::Agent {
            connected,
            mode: v1::AgentMode::Registered.into(),
            info: Some(v1::AgentInfo {
                missing_controllers: vec!["memory".to_owned(), "cpu".to_owned()],
                ..v1::AgentInfo::default()
            }),
            ..v1::Agent::default()
        }
    }

    #[test]
    fn a_cluster_is_ready_when_all_agents_are_connected() {
        assert_eq!(
            check(2, &[agent(true), agent(false)]).unwrap_err(),
            "1 of 2 agents are registered"
        );
        let found = check(2, &[agent(true), agent(true)]).unwrap();
        assert_eq!(found.missing_controllers, ["cpu", "memory"]);
    }
}
