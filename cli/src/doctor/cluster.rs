//! The checks of a running cluster. Each is a function of what the masters answer.

mod disks;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use argosy_client::Masters;
use argosy_proto::v1;
use futures::future::join_all;

use super::{CheckStatus, Finding};
use crate::exit::Failure;
use crate::operator::{ClusterClient, EndedObjects};
use crate::probe::{self, Member, ProbeClient};
use crate::transport::ClientTransport;

use disks::MemberMetrics;

/// Entries behind the leader from which a master is late: a busy cluster commits them in a second.
const BEHIND: u64 = 10_000;
/// Time without contact after which a master counts as silent, in milliseconds.
const SILENT_MS: u64 = 2_000;
/// Difference of two clocks, in milliseconds, from which times in logs and pages mislead.
const SKEW_MS: i64 = 500;
/// Number of names in one line.
const NAMES: usize = 5;
/// Maximum size of a page of metrics.
const METRICS_BYTES: usize = 16 << 20;
/// Minimum time between two reads of the masters' metrics, whose difference is what happens now.
const PERIOD: Duration = Duration::from_secs(2);

/// The answer of one master to this program.
#[derive(Debug, Clone)]
struct MasterAnswer {
    name: String,
    /// Its view of the cluster, or the reason why there is none.
    cluster: Result<v1::Cluster, String>,
    /// Its clock less the clock of this host, and how much that may differ, in milliseconds.
    offset: Option<(i64, i64)>,
    metrics: Result<String, String>,
    /// Its metrics at the end of the checks.
    later_metrics: Option<String>,
}

/// Runs all checks.
pub(super) async fn all(
    masters: &Masters,
    timeout: Duration,
    transport: ClientTransport,
) -> Result<Vec<Finding>, Failure> {
    let client = ClusterClient::of_running(masters.clone(), timeout, transport);
    let cluster = client.cluster_at_best().await?;
    let http = &ProbeClient::new(client.transport(), timeout);
    let began = Instant::now();
    let asked = cluster
        .masters
        .iter()
        .map(|master| ask(&client, http, master, timeout));
    let mut answers = join_all(asked).await;
    let mut findings = vec![
        quorum(&cluster, &answers),
        reachable(&answers),
        followers(&cluster),
        clocks(&answers),
        releases(&answers),
        level(&cluster),
    ];
    let (of_agents, agents) = match cluster.leader.is_empty() {
        true => (Vec::new(), (Vec::new(), false)),
        false => agent_findings(&client, &cluster, timeout).await?,
    };
    tokio::time::sleep(PERIOD.saturating_sub(began.elapsed())).await;
    let again = cluster.masters.iter().zip(&mut answers);
    join_all(again.map(|(master, answer)| read_again(http, master, answer))).await;
    findings.extend(disks::syncs(&answers, began.elapsed()));
    findings.push(space(answers, agents));
    findings.extend(of_agents);
    Ok(findings)
}

/// Checks the free space of all members that answer.
fn space(answers: Vec<MasterAnswer>, agents: (Vec<MemberMetrics>, bool)) -> Finding {
    // Whether a master answers at all is another check.
    let masters = answers.into_iter().filter(|answer| answer.cluster.is_ok());
    let masters = masters.map(|answer| MemberMetrics {
        name: answer.name,
        metrics: answer.metrics,
    });
    let (of_agents, is_cut) = agents;
    let members: Vec<_> = masters.chain(of_agents).collect();
    disks::space(&members, is_cut)
}

/// Runs the checks of agents, and reads the metrics of some.
async fn agent_findings(
    client: &ClusterClient,
    cluster: &v1::Cluster,
    timeout: Duration,
) -> Result<(Vec<Finding>, (Vec<MemberMetrics>, bool)), Failure> {
    // Only the leader knows which agents are connected.
    let agents = client.at_leader().await?;
    let mut agents = agents.agents(EndedObjects::Excluded).await?.agents;
    // The registry keeps their records, so that they are refused.
    agents.retain(|agent| agent.mode() != v1::AgentMode::Gone);
    let release = cluster.protocol.as_ref().map(|one| one.release.as_str());
    let findings = vec![
        connections(&agents),
        controllers(&agents),
        agent_releases(&agents, release.unwrap_or_default()),
    ];
    Ok((
        findings,
        disks::of_agents(&agents, client.transport(), timeout).await,
    ))
}

async fn metrics(http: &ProbeClient, master: &v1::Master) -> Result<String, String> {
    let member = Member::master(&master.api_address);
    http.text(member, "/metrics", METRICS_BYTES).await
}

async fn ask(
    client: &ClusterClient,
    http: &ProbeClient,
    master: &v1::Master,
    timeout: Duration,
) -> MasterAnswer {
    let name = format!("{} ({})", master.node_id, master.api_address);
    let metrics = metrics(http, master).await;
    let unreachable = |why: String| MasterAnswer {
        name: name.clone(),
        cluster: Err(why),
        offset: None,
        metrics: metrics.clone(),
        later_metrics: None,
    };
    if let Some(why) = metrics.as_ref().err().filter(|why| probe::is_final(why)) {
        return unreachable(why.clone());
    }
    let address = match Masters::new([&master.api_address]) {
        Ok(address) => address,
        Err(why) => return unreachable(why.to_string()),
    };
    let itself = client.at(address, timeout);
    // The first call opens the connection, which the second one, whose duration counts, uses.
    if let Err(failure) = itself.cluster(v1::Consistency::Local).await {
        return unreachable(failure.message);
    }
    let (began, wall_ms) = (Instant::now(), now_ms());
    let cluster = itself.cluster(v1::Consistency::Local).await;
    let took_ms = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
    let cluster = cluster.map_err(|failure| failure.message);
    let answered = cluster.as_ref().ok().filter(|cluster| cluster.wall_ms > 0);
    // Its clock was read at some time between the call and the answer.
    let offset = answered.map(|cluster| {
        let middle = wall_ms.saturating_add(took_ms / 2);
        (cluster.wall_ms.saturating_sub(middle), took_ms / 2 + 1)
    });
    MasterAnswer {
        name,
        cluster,
        offset,
        metrics,
        later_metrics: None,
    }
}

/// Reads the metrics of a master that has answered once more.
async fn read_again(http: &ProbeClient, master: &v1::Master, answer: &mut MasterAnswer) {
    if answer.metrics.is_ok() {
        answer.later_metrics = metrics(http, master).await.ok();
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

fn warning(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding::new(check, CheckStatus::Warning, found, fix)
}

/// Returns the first names, and the number of the others.
fn names<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<_> = all.into_iter().collect();
    let mut text = all[..all.len().min(NAMES)].join(", ");
    if all.len() > NAMES {
        text.push_str(&format!(" and {} more", all.len() - NAMES));
    }
    text
}

/// Checks how many masters may still be lost. The leader's contact counts if there is a leader.
fn quorum(cluster: &v1::Cluster, answers: &[MasterAnswer]) -> Finding {
    let voters = cluster.masters.iter().filter(|master| master.voter);
    let answered = |master: &v1::Master| {
        let name = format!("{} ", master.node_id);
        let own = answers.iter().find(|answer| answer.name.starts_with(&name));
        own.is_some_and(|answer| answer.cluster.is_ok())
    };
    let (all, needed) = (voters.clone().count(), voters.clone().count() / 2 + 1);
    if cluster.leader.is_empty() || cluster.without_leader_ms > 0 {
        // What a master knows of the others is older than the loss of the leader.
        let silent = voters.filter(|master| !answered(master));
        let silent: Vec<_> = silent.map(|master| master.node_id.as_str()).collect();
        return no_quorum(all, needed, &silent);
    }
    let is_up = |master: &&v1::Master| match master.last_contact_ms {
        Some(ms) if master.node_id != cluster.leader => ms <= SILENT_MS,
        Some(_) | None => master.node_id == cluster.leader || answered(master),
    };
    let up = voters.filter(is_up).count();
    let found = format!("{up} of {all} masters are up; {needed} are needed");
    match (all, up.saturating_sub(needed)) {
        (1, _) => warning(
            "quorum",
            "1 master: its loss stops changes",
            "start two more masters, and add them with argosy master join",
        ),
        (_, 0) => warning(
            "quorum",
            format!("{found}: one more loss stops changes"),
            "start the masters that are down, or remove them and join others",
        ),
        _ => Finding::ok("quorum", found),
    }
}

/// Returns the finding without a leader. `silent`: the voters that do not answer.
fn no_quorum(all: usize, needed: usize, silent: &[&str]) -> Finding {
    let up = all - silent.len();
    let answer = if up == 1 { "answers" } else { "answer" };
    let (found, fix) = match (all, silent.is_empty()) {
        (0, _) => (
            "no leader: the masters have not found each other yet".to_owned(),
            "start all masters of --peers, and compare their --peers".to_owned(),
        ),
        (_, false) => (
            format!("no leader: {up} of {all} masters {answer}, {needed} are needed"),
            format!("start {}", names(silent.iter().copied())),
        ),
        (_, true) => (
            format!("no leader, although {up} of {all} masters {answer}"),
            "check the network between the masters (their Raft port), and their logs".to_owned(),
        ),
    };
    Finding::new("quorum", CheckStatus::Failed, found, fix)
}

fn reachable(answers: &[MasterAnswer]) -> Finding {
    let failed = |answer: &MasterAnswer| {
        let why = answer.cluster.as_ref().err()?;
        Some(format!("{}: {why}", answer.name))
    };
    let failed: Vec<_> = answers.iter().filter_map(failed).collect();
    if failed.is_empty() {
        let found = match answers.len() {
            1 => "the only one answers".to_owned(),
            count => format!("{count} of them answer"),
        };
        return Finding::ok("masters", found);
    }
    Finding::new(
        "masters",
        CheckStatus::Failed,
        failed.join("; "),
        "start it, or open its API port to this host; argosy master join records the new address of one that was moved, argosy master remove removes one that is lost",
    )
}

fn followers(cluster: &v1::Cluster) -> Finding {
    let behind = |master: &v1::Master| {
        let lag = master.lag.filter(|lag| *lag >= BEHIND)?;
        Some(format!("{} is {lag} entries behind", master.node_id))
    };
    let behind: Vec<_> = cluster.masters.iter().filter_map(behind).collect();
    if behind.is_empty() {
        return Finding::ok("followers", "none is far behind the leader");
    }
    warning(
        "followers",
        behind.join("; "),
        "check its disk and its network to the leader; it cannot replace the leader until it has caught up",
    )
}

fn clocks(answers: &[MasterAnswer]) -> Finding {
    let known = answers.iter();
    let known = known.filter_map(|answer| Some((answer.offset?, answer.name.as_str())));
    let known: Vec<_> = known.collect();
    let (Some(slowest), Some(fastest)) = (known.iter().min(), known.iter().max()) else {
        return warning(
            "clock skew",
            "no master reports its clock",
            "upgrade the masters: release 0.1 does not report it",
        );
    };
    let ((low, low_error), slow) = slowest;
    let ((high, high_error), fast) = fastest;
    let skew = high.saturating_sub(*low);
    let error = low_error.saturating_add(*high_error);
    // A slow answer does not prove a difference.
    if skew.saturating_sub(error) < SKEW_MS {
        return Finding::ok("clock skew", format!("{skew} ms, give or take {error} ms"));
    }
    warning(
        "clock skew",
        format!("the clock of {fast} is {skew} ms ahead of that of {slow}"),
        "start a time service (chrony or systemd-timesyncd) on both; leases and timeouts do not depend on it",
    )
}

fn releases(answers: &[MasterAnswer]) -> Finding {
    let mut by_release: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for answer in answers {
        if let Ok(cluster) = &answer.cluster {
            let release = cluster.protocol.as_ref().map(|one| one.release.as_str());
            let same = by_release.entry(release.unwrap_or_default()).or_default();
            same.push(&answer.name);
        }
    }
    let text = |(release, all): (&&str, &Vec<&str>)| {
        format!("{release} on {}", names(all.iter().copied()))
    };
    let found: Vec<_> = by_release.iter().map(text).collect();
    match found.len() {
        0 => warning("releases", "no master answers", "start the masters"),
        1 => Finding::ok("releases", by_release.keys().copied().collect::<String>()),
        _ => warning(
            "releases",
            found.join("; "),
            "finish the upgrade: install one release on all masters (docs/operate/upgrade.md)",
        ),
    }
}

fn level(cluster: &v1::Cluster) -> Finding {
    let supported = cluster.masters.iter().map(|master| master.newest_level);
    let supported = supported.min().flatten().unwrap_or(0);
    let present = cluster.feature_level;
    if supported <= present {
        return Finding::ok("feature level", present.to_string());
    }
    warning(
        "feature level",
        format!("{present}, and all masters support {supported}"),
        "argosy master raise-level, when no master has to return to the former release",
    )
}

fn connections(agents: &[v1::Agent]) -> Finding {
    let lost: Vec<_> = agents.iter().filter(|agent| !agent.connected).collect();
    if lost.is_empty() {
        let found = match agents.len() {
            1 => "1 is connected".to_owned(),
            count => format!("{count} are connected"),
        };
        return Finding::ok("agents", found);
    }
    let lost = names(lost.iter().map(|agent| host(agent)));
    Finding::new(
        "agents",
        CheckStatus::Failed,
        format!("not connected: {lost}"),
        "start the agent there, or declare it gone if it never returns (argosy agent gone)",
    )
}

fn controllers(agents: &[v1::Agent]) -> Finding {
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for agent in agents {
        let info = agent.info.as_ref();
        for name in info.iter().flat_map(|info| &info.missing_controllers) {
            missing.entry(name).or_default().push(host(agent));
        }
    }
    if missing.is_empty() {
        return Finding::ok("controllers", "every agent enforces all limits");
    }
    let text =
        |(name, hosts): (&&str, &Vec<&str>)| format!("{name} on {}", names(hosts.iter().copied()));
    let text: Vec<_> = missing.iter().map(text).collect();
    warning(
        "controllers",
        format!("not enforced: {}", text.join("; ")),
        "run argosy doctor on these hosts: it names the controller or kernel feature to enable",
    )
}

fn agent_releases(agents: &[v1::Agent], masters: &str) -> Finding {
    let differs = |agent: &&v1::Agent| {
        let info = agent.info.as_ref();
        info.is_some_and(|info| !masters.is_empty() && info.version != masters)
    };
    let others: Vec<_> = agents.iter().filter(differs).collect();
    if others.is_empty() {
        return Finding::ok("agents' releases", "those of the masters");
    }
    let text = names(others.iter().map(|agent| host(agent)));
    warning(
        "agents' releases",
        format!("not {masters}: {text}"),
        "upgrade these agents; their tasks keep running",
    )
}

fn host(agent: &v1::Agent) -> &str {
    let info = agent.info.as_ref();
    match info.map(|info| info.host_name.as_str()) {
        Some(name) if !name.is_empty() => name,
        Some(_) | None => &agent.agent_id,
    }
}

#[cfg(test)]
mod tests;
