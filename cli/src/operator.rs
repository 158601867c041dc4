//! The operator's client of the cluster: calls, whole lists, and failures as text. Only this module
//! converts answers of the masters to a [`Failure`].

mod access;
mod changes;
mod failures;
mod feed;
mod groups;
mod lists;
mod log_filter;
mod masters;
mod names;
mod snapshots;

use std::time::{Duration, Instant};

use argosy_client::{CallError, Masters, OperatorClient};
use argosy_proto::v1;

use crate::exit::Failure;
use crate::lookup::{self, Candidate};
use crate::transport::ClientTransport;

pub(crate) use failures::{arguments, quote, read_failure, refusal_failure};
pub(crate) use groups::{GroupTracker, ListedGroup, tasks_of_group};

/// Timeout of a direct call to the leader.
const LEADER_LIMIT: Duration = Duration::from_secs(2);
/// Time without a leader that counts as an election, which takes 0.5 s after the loss of a host.
const ELECTION: Duration = Duration::from_secs(2);
/// Pause between two polls during an election.
const ELECTION_PAUSE: Duration = Duration::from_millis(100);

/// Client for calls to the masters.
pub(crate) struct ClusterClient {
    client: OperatorClient,
    timeout: Duration,
    transport: ClientTransport,
}

impl ClusterClient {
    pub(crate) async fn cluster(
        &self,
        consistency: v1::Consistency,
    ) -> Result<v1::Cluster, Failure> {
        let request = v1::GetClusterRequest {
            consistency: consistency.into(),
        };
        self.client.get_cluster(request).await.map_err(read_failure)
    }

    /// Refuses to send a secret without TLS.
    pub(crate) fn check_encrypted(&self) -> Result<(), Failure> {
        match self.transport.is_encrypted() {
            true => Ok(()),
            false => Err(Failure::usage(
                "a secret is not sent without TLS: others could read it on the way",
            )
            .advise("name the CA and a certificate, or a context of them: see argosy context")),
        }
    }

    /// Returns the cluster as reported by the leader, else by the first master that answers. Waits
    /// for an election in progress, also the first one, up to the timeout of this call.
    pub(crate) async fn cluster_at_best(&self) -> Result<v1::Cluster, Failure> {
        let started = Instant::now();
        loop {
            let cluster = self.cluster_now().await?;
            let (waited, timeout) = match cluster.epoch {
                0 => (started.elapsed(), self.timeout),
                _ => {
                    let without = Duration::from_millis(cluster.without_leader_ms);
                    (started.elapsed().max(without), ELECTION)
                }
            };
            if !cluster.leader.is_empty() || waited >= timeout {
                return Ok(cluster);
            }
            tokio::time::sleep(ELECTION_PAUSE).await;
        }
    }

    async fn cluster_now(&self) -> Result<v1::Cluster, Failure> {
        let local = self.cluster(v1::Consistency::Local).await?;
        if local.leader.is_empty() || local.without_leader_ms > 0 {
            return Ok(local);
        }
        // Only the leader knows which masters lag or are silent, so it is called directly.
        let asked = match leader_of(&local) {
            Some(leader) => {
                let leader = self.at(leader, self.timeout.min(LEADER_LIMIT));
                leader.cluster(v1::Consistency::Linearizable).await
            }
            None => self.cluster(v1::Consistency::Linearizable).await,
        };
        let Err(_) = asked else {
            return asked;
        };
        // The leader may be running although its address cannot be reached from here.
        let again = self.cluster(v1::Consistency::Linearizable).await;
        match again {
            Ok(cluster) => Ok(cluster),
            // By now the first master knows for how long there has been no leader.
            Err(_) => self.cluster(v1::Consistency::Local).await.map(unconfirmed),
        }
    }

    /// Returns a client of the leader, which alone knows links and offers, else of all masters. A
    /// leader that does not answer may be lost, and the others then name the next one: this waits
    /// for it up to the timeout.
    pub(crate) async fn at_leader(&self) -> Result<Self, Failure> {
        let started = Instant::now();
        loop {
            let local = self.cluster(v1::Consistency::Local).await?;
            let Some(named) = leader_of(&local) else {
                return Ok(self.at(self.masters().clone(), self.timeout));
            };
            let leader = Self::of_running(named.clone(), self.timeout, self.transport.clone());
            let left = self.timeout.saturating_sub(started.elapsed());
            let limit = left.min(LEADER_LIMIT);
            let is_last = left <= limit;
            match leader.leader_within(limit).await {
                Ok(leads) if is_last || leads.as_ref() == Some(&named) => return Ok(leader),
                Err(failure) if is_last => return Err(failure),
                Ok(_) | Err(_) => tokio::time::sleep(ELECTION_PAUSE).await,
            }
        }
    }

    /// Returns the leader as a master reports it that answers within this time.
    async fn leader_within(&self, limit: Duration) -> Result<Option<Masters>, Failure> {
        let request = v1::GetClusterRequest {
            consistency: v1::Consistency::Local.into(),
        };
        let client = self.client.with_deadline(limit);
        let cluster = client.get_cluster(request).await.map_err(read_failure)?;
        Ok(leader_of(&cluster))
    }

    pub(crate) async fn explain(
        &self,
        request: v1::ExplainRequest,
    ) -> Result<v1::Explanation, Failure> {
        self.client.explain(request).await.map_err(read_failure)
    }

    /// Returns one task by its ids, or `None` if the cluster does not know it.
    pub(crate) async fn task(
        &self,
        framework_id: &str,
        task_id: &str,
    ) -> Result<Option<v1::Task>, Failure> {
        let request = v1::GetRequest {
            id: task_id.to_owned(),
            framework_id: framework_id.to_owned(),
            ..v1::GetRequest::default()
        };
        known(self.client.get_task(request).await)
    }

    pub(crate) async fn framework(&self, id: &str) -> Result<Option<v1::Framework>, Failure> {
        let request = v1::GetRequest {
            id: id.to_owned(),
            ..v1::GetRequest::default()
        };
        known(self.client.get_framework(request).await)
    }

    pub(crate) async fn agent(&self, id: &str) -> Result<Option<v1::Agent>, Failure> {
        let request = v1::GetRequest {
            id: id.to_owned(),
            ..v1::GetRequest::default()
        };
        known(self.client.get_agent(request).await)
    }

    /// Returns the agent that the user names.
    pub(crate) async fn find_agent(&self, wanted: &str) -> Result<v1::Agent, Failure> {
        let mut agents = self.agents(EndedObjects::Included).await?.agents;
        // A host that was declared gone returns as another agent, which takes precedence.
        let host = |agent: &v1::Agent| agent.info.as_ref().map(|info| info.host_name.clone());
        let is_gone = |agent: &v1::Agent| agent.mode() == v1::AgentMode::Gone;
        let live = agents
            .iter()
            .any(|agent| !is_gone(agent) && host(agent).as_deref() == Some(wanted));
        // A host may be called as another agent's id.
        agents.retain(|agent| agent.agent_id == wanted || !(live && is_gone(agent)));
        let candidates: Vec<_> = agents.iter().map(agent_candidate).collect();
        let at = lookup::find("agent", wanted, &candidates)?;
        Ok(agents.swap_remove(at))
    }

    /// Returns the framework that the user names.
    pub(crate) async fn find_framework(&self, wanted: &str) -> Result<v1::Framework, Failure> {
        if wanted.starts_with("framework-")
            && let Some(framework) = self.framework(wanted).await?
            && framework.framework_id == wanted
        {
            return Ok(framework);
        }
        let mut frameworks = self.frameworks(EndedObjects::Included).await?.frameworks;
        // Names are reused, so a live framework takes precedence over a removed one.
        let live = frameworks
            .iter()
            .any(|framework| !framework.removed && framework_name(framework) == wanted);
        frameworks.retain(|framework| !(live && framework.removed));
        let candidates: Vec<_> = frameworks.iter().map(framework_candidate).collect();
        let at = lookup::find("framework", wanted, &candidates)?;
        Ok(frameworks.swap_remove(at))
    }

    /// Splits a name that may begin with that of its framework, as `FRAMEWORK/NAME`.
    pub(crate) async fn find_prefix<'a>(
        &self,
        wanted: &'a str,
    ) -> Result<(Option<String>, &'a str), Failure> {
        match wanted.split_once('/') {
            Some((framework, name)) => {
                let framework = self.find_framework(framework).await?;
                Ok((Some(framework.framework_id), name))
            }
            None => Ok((None, wanted)),
        }
    }

    /// Returns the task that the user names as `TASK` or `FRAMEWORK/TASK`. Live tasks take
    /// precedence over ended ones.
    pub(crate) async fn find_task(&self, wanted: &str) -> Result<v1::Task, Failure> {
        let (framework_id, name) = self.find_prefix(wanted).await?;
        if let Some(framework_id) = &framework_id
            && let Some(task) = self.task(framework_id, name).await?
            && task.task_id == name
        {
            return Ok(task);
        }
        let filter = of_framework(framework_id.as_deref());
        let tasks = self.tasks(&filter, EndedObjects::Included).await?.tasks;
        pick_task(tasks, name)
    }
}

/// Returns the task of this list that has this id, unique prefix of an id, or name. Live tasks take
/// precedence over ended ones.
pub(crate) fn pick_task(mut tasks: Vec<v1::Task>, name: &str) -> Result<v1::Task, Failure> {
    let live = |task: &v1::Task| !is_terminal(task.state);
    let exact = tasks.iter().any(|task| live(task) && task.task_id == name);
    tasks.retain(|task| live(task) || !exact);
    let candidates: Vec<_> = tasks.iter().map(task_candidate).collect();
    let at = lookup::find("task", name, &candidates)?;
    Ok(tasks.swap_remove(at))
}

/// Whether a list includes ended objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndedObjects {
    /// Live objects only.
    Excluded,
    /// Finished tasks, removed frameworks and gone agents too.
    Included,
}

impl EndedObjects {
    /// Converts the flag `--all`.
    pub(crate) fn from_flag(all: bool) -> Self {
        if all { Self::Included } else { Self::Excluded }
    }
}

/// Returns whether a task in this state never changes again.
pub(crate) fn is_terminal(state: i32) -> bool {
    use v1::TaskState as S;
    match S::try_from(state).unwrap_or_default() {
        S::Finished
        | S::Failed
        | S::Killed
        | S::Error
        | S::Dropped
        | S::Gone
        | S::GoneByOperator => true,
        S::Unspecified
        | S::Staging
        | S::Starting
        | S::Running
        | S::Killing
        | S::Unreachable
        | S::Unknown => false,
    }
}

fn leader_of(cluster: &v1::Cluster) -> Option<Masters> {
    let leads = |master: &&v1::Master| master.role == "leader" || master.node_id == cluster.leader;
    let leader = cluster.masters.iter().find(leads)?;
    Masters::new([&leader.api_address]).ok()
}

/// Removes a leader that one master reports and no other confirms.
fn unconfirmed(mut cluster: v1::Cluster) -> v1::Cluster {
    cluster.leader.clear();
    for master in cluster
        .masters
        .iter_mut()
        .filter(|master| master.role == "leader")
    {
        master.role = "unconfirmed".to_owned();
    }
    cluster
}

/// Returns the filter of one framework, or of all.
pub(crate) fn of_framework(framework_id: Option<&str>) -> Vec<(&'static str, &str)> {
    framework_id
        .iter()
        .map(|id| ("framework_id", *id))
        .collect()
}

fn agent_candidate(agent: &v1::Agent) -> Candidate {
    let name = agent
        .info
        .as_ref()
        .map(|info| info.host_name.clone())
        .unwrap_or_default();
    Candidate {
        id: agent.agent_id.clone(),
        label: format!("{} ({name})", agent.agent_id),
        name,
    }
}

fn framework_name(framework: &v1::Framework) -> &str {
    framework
        .info
        .as_ref()
        .map(|info| info.name.as_str())
        .unwrap_or_default()
}

fn framework_candidate(framework: &v1::Framework) -> Candidate {
    let name = framework_name(framework).to_owned();
    Candidate {
        id: framework.framework_id.clone(),
        label: format!("{} ({name})", framework.framework_id),
        name,
    }
}

fn task_candidate(task: &v1::Task) -> Candidate {
    Candidate {
        id: format!("{}/{}", task.framework_id, task.task_id),
        name: task.task_id.clone(),
        label: format!("{}/{}", task.framework_id, task.task_id),
    }
}

fn known<T>(answer: Result<T, CallError>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(CallError::Refused(refusal)) if refusal.code == tonic::Code::NotFound => Ok(None),
        Err(error) => Err(read_failure(error)),
    }
}

#[cfg(test)]
mod tests;
