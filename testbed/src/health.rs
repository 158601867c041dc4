//! The health of a cluster, as every member reports it at its own address.
//!
//! The leader alone cannot report it. Its view of a member may be older than a restart of that
//! member: while nothing is written, a follower that was just killed lags by no entry.

use std::time::Duration;

use anyhow::Context;
use argosy_client::OperatorClient;
use argosy_proto::transport::ExpectedPeer;
use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient as Stub;
use argosy_state::actor::PrincipalKind;
use axum::body::Body;
use axum::http::Request;
use serde::Deserialize;
use tonic::Status;
use tonic::transport::Channel;

use crate::processes::ManagedProcess;
use crate::transport::ClientTransport;
use crate::waiting::{poll, poll_running};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two checks of a cluster.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The peer that is expected at the address of an agent.
const AGENT: &ExpectedPeer = &ExpectedPeer::any(PrincipalKind::Agent);
/// Maximum size of what an agent reports about itself.
const BODY_BYTES: usize = 1 << 20;
/// Maximum number of records in one page.
pub(crate) const PAGE: u32 = 10_000;

/// The members that must be healthy.
#[derive(Debug, Clone, Default)]
pub struct HealthCheck {
    /// The API addresses of all masters of the group, `host:port`.
    pub masters: Vec<String>,
    /// The API addresses of the agents, `host:port`.
    pub agents: Vec<String>,
    /// The number of entries from which on a master is not caught up.
    pub lag_limit: u64,
    /// The transport of the check.
    pub transport: ClientTransport,
}

/// The registration of an agent, as the agent itself reports it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct OwnRegistration {
    registered: bool,
    epoch: u64,
}

impl HealthCheck {
    /// Waits until the cluster is healthy, and returns the position of its leader.
    ///
    /// # Errors
    /// The reason why it is still not healthy after `limit`.
    pub async fn wait(&self, limit: Duration) -> Result<usize, String> {
        poll(limit, POLL_INTERVAL, async || self.leader().await).await
    }

    /// Does the same while all of these processes run.
    ///
    /// # Errors
    /// If one of them ends, or if the cluster is still not healthy after `limit`; with the end of
    /// their logs.
    pub async fn wait_running<'a>(
        &self,
        processes: impl IntoIterator<Item = &'a mut ManagedProcess>,
        limit: Duration,
    ) -> anyhow::Result<usize> {
        let check = async || self.leader().await.map_err(anyhow::Error::msg);
        poll_running(processes, limit, POLL_INTERVAL, check).await
    }

    /// Returns why the cluster is not healthy.
    pub async fn unhealthy_reason(&self) -> Option<String> {
        self.leader().await.err()
    }

    /// Returns the position of the leader among the masters, if it commits, all masters vote and
    /// are caught up, and all agents are connected to it.
    ///
    /// # Errors
    /// The reason why the cluster is not healthy.
    pub async fn leader(&self) -> Result<usize, String> {
        let mut reports = Vec::with_capacity(self.masters.len());
        for api in &self.masters {
            let channel = self.channel(api);
            let report = read_cluster(channel, v1::Consistency::Local, REQUEST_TIMEOUT).await;
            let report = report.map_err(|error| format!("{api} does not answer ({error})"))?;
            reports.push(report);
        }
        let leader = leader_of(&reports).ok_or("no master leads")?;
        let api = &self.masters[leader];
        // The quorum confirms this answer, so that no former leader gives it.
        let channel = self.channel(api);
        let view = read_cluster(channel, v1::Consistency::Linearizable, REQUEST_TIMEOUT).await;
        let view = view.map_err(|error| format!("the leader does not answer ({error})"))?;
        self.check_masters(&reports, &reports[leader], &view)?;
        if !self.agents.is_empty() {
            self.check_agents(api, view.epoch).await?;
        }
        Ok(leader)
    }

    /// Compares what all agents report about themselves with the list of the leader.
    async fn check_agents(&self, leader: &str, epoch: u64) -> Result<(), String> {
        let channel = self.channel(leader);
        let listed = connected_agents(channel, v1::Consistency::Linearizable).await;
        let listed = listed.map_err(|error| format!("agents cannot be listed ({error})"))?;
        for api in &self.agents {
            if !listed.contains(api) {
                return Err(format!("the agent at {api} is not connected"));
            }
            let own = self.read_registration(api).await;
            let own = own.map_err(|error| format!("{api} does not answer ({error})"))?;
            check_registration(api, &own, epoch)?;
        }
        Ok(())
    }

    fn channel(&self, api: &str) -> Channel {
        self.transport.channel(api, REQUEST_TIMEOUT)
    }

    /// Returns what an agent reports about its registration.
    async fn read_registration(&self, api: &str) -> anyhow::Result<OwnRegistration> {
        let request = Request::get("/v1/agent").body(Body::empty())?;
        let client = self.transport.http(REQUEST_TIMEOUT);
        let body = tokio::time::timeout(REQUEST_TIMEOUT, async {
            let answer = client.send(api, AGENT, request).await?;
            anyhow::Ok(axum::body::to_bytes(answer.into_body(), BODY_BYTES).await?)
        });
        let body = body.await.context("no answer in time")??;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Compares what all masters report about themselves with the view of the leader.
    fn check_masters(
        &self,
        reports: &[v1::Cluster],
        leader: &v1::Cluster,
        view: &v1::Cluster,
    ) -> Result<(), String> {
        if view.answered_by != leader.answered_by {
            return Err("the leader has changed".to_owned());
        }
        let up_to_date = |master: &&v1::Master| {
            let lags = master.lag.is_none_or(|lag| lag >= self.lag_limit);
            master.voter && (master.role == "leader" || !lags)
        };
        let ready = view.masters.iter().filter(up_to_date).count();
        if ready != self.masters.len() {
            return Err(format!(
                "{ready} of {} masters vote and are caught up",
                self.masters.len()
            ));
        }
        for report in reports {
            let name = &report.answered_by;
            if (&report.leader, report.term) != (&leader.answered_by, leader.term) {
                return Err(format!("{name} does not follow the leader"));
            }
            let lag = leader.committed_index.saturating_sub(report.applied_index);
            if lag >= self.lag_limit {
                return Err(format!("{name} is {lag} entries behind"));
            }
        }
        Ok(())
    }
}

/// Returns the API addresses of the agents that a master lists as connected. Only the leader lists
/// any.
///
/// # Errors
/// The error of the call.
pub async fn connected_agents(
    channel: Channel,
    consistency: v1::Consistency,
) -> Result<Vec<String>, Status> {
    let mut request = tonic::Request::new(v1::ListRequest {
        page_size: PAGE,
        consistency: consistency.into(),
        ..Default::default()
    });
    request.set_timeout(REQUEST_TIMEOUT);
    let mut stub = Stub::new(channel);
    let page = within(REQUEST_TIMEOUT, stub.list_agents(request)).await?;
    let is_connected = |agent: &v1::Agent| {
        let modes = [v1::AgentMode::Registered, v1::AgentMode::Deactivated];
        agent.connected && modes.contains(&agent.mode())
    };
    let agents = page.into_inner().agents.into_iter().filter(is_connected);
    Ok(agents
        .filter_map(|agent| Some(agent.info?.address))
        .collect())
}

/// Returns the API address of the leader, as a quorum confirms it.
pub async fn leader_address(operator: &OperatorClient) -> Option<String> {
    let cluster = operator.get_cluster(v1::GetClusterRequest::default()).await;
    let mut masters = cluster.ok()?.masters.into_iter();
    let leader = masters.find(|master| master.role == "leader")?;
    Some(leader.api_address)
}

/// Returns the position of the master that reports itself as leader for the newest term.
fn leader_of(reports: &[v1::Cluster]) -> Option<usize> {
    let leads =
        |report: &v1::Cluster| !report.leader.is_empty() && report.leader == report.answered_by;
    let leaders = (0..reports.len()).filter(|place| leads(&reports[*place]));
    leaders.max_by_key(|place| reports[*place].term)
}

fn check_registration(api: &str, own: &OwnRegistration, epoch: u64) -> Result<(), String> {
    if !own.registered {
        return Err(format!("{api} reports that it is not registered"));
    }
    if own.epoch != epoch {
        return Err(format!(
            "{api} is connected in epoch {}, not {epoch}",
            own.epoch
        ));
    }
    Ok(())
}

/// Returns the view of the master at the other end of a channel.
///
/// # Errors
/// The error of the call.
pub async fn read_cluster(
    channel: Channel,
    consistency: v1::Consistency,
    timeout: Duration,
) -> Result<v1::Cluster, Status> {
    let mut request = tonic::Request::new(v1::GetClusterRequest {
        consistency: consistency.into(),
    });
    request.set_timeout(timeout);
    let mut stub = Stub::new(channel);
    let response = within(timeout, stub.get_cluster(request)).await?;
    Ok(response.into_inner())
}

async fn within<T>(
    timeout: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded(format!("no answer within {timeout:?}"));
    tokio::time::timeout(timeout, call).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(number: usize, leader: usize, applied_index: u64) -> v1::Cluster {
        v1::Cluster {
            answered_by: format!("master-{number}"),
            leader: format!("master-{leader}"),
            term: 4,
            applied_index,
            committed_index: 100,
            ..Default::default()
        }
    }

    /// The leader's view: nothing was written since it last had an answer of its followers.
    fn idle_view() -> v1::Cluster {
        let master = |number: usize| v1::Master {
            node_id: format!("master-{number}"),
            role: if number == 1 { "leader" } else { "follower" }.to_owned(),
            voter: true,
            lag: (number != 1).then_some(0),
            ..Default::default()
        };
        v1::Cluster {
            masters: (1..=3).map(master).collect(),
            ..report(1, 1, 100)
        }
    }

    fn compare(reports: &[v1::Cluster]) -> Result<(), String> {
        let check = HealthCheck {
            masters: (1..=3).map(|host| format!("127.0.0.{host}:5050")).collect(),
            agents: Vec::new(),
            lag_limit: 50,
            transport: ClientTransport::default(),
        };
        let leader = leader_of(reports).ok_or("no master leads")?;
        check.check_masters(reports, &reports[leader], &idle_view())
    }

    #[test]
    fn masters_are_healthy_when_all_of_them_follow_the_leader_closely() {
        let healthy = [report(1, 1, 100), report(2, 1, 99), report(3, 1, 60)];
        assert_eq!(compare(&healthy), Ok(()));
    }

    #[test]
    fn the_view_of_the_leader_does_not_outweigh_what_a_restarted_master_reports() {
        let restarted = [report(1, 1, 100), report(2, 1, 99), report(3, 1, 0)];
        let error = compare(&restarted).unwrap_err();
        assert_eq!(error, "master-3 is 100 entries behind");
        let mut knows_no_leader = restarted;
        knows_no_leader[2] = v1::Cluster {
            leader: String::new(),
            ..report(3, 1, 100)
        };
        let error = compare(&knows_no_leader).unwrap_err();
        assert_eq!(error, "master-3 does not follow the leader");
    }

    #[test]
    fn of_two_masters_that_report_themselves_the_later_term_leads() {
        let mut former = report(1, 1, 100);
        former.term = 3;
        let reports = [former, report(2, 2, 100), report(3, 2, 100)];
        assert_eq!(leader_of(&reports), Some(1));
        assert_eq!(leader_of(&[v1::Cluster::default()]), None);
    }

    #[tokio::test]
    async fn a_master_that_does_not_answer_is_unhealthy() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let check = HealthCheck {
            masters: vec![address.clone()],
            ..HealthCheck::default()
        };
        let reason = check.unhealthy_reason().await.unwrap();
        assert!(reason.starts_with(&format!("{address} does not answer")));
    }

    #[test]
    fn an_agent_is_healthy_when_its_process_is_registered_with_this_leader() {
        let own = |registered, epoch| OwnRegistration { registered, epoch };
        let api = "127.0.0.1:5051";
        assert_eq!(check_registration(api, &own(true, 7), 7), Ok(()));
        for wrong in [own(false, 7), own(true, 6)] {
            assert!(check_registration(api, &wrong, 7).is_err());
        }
    }
}
