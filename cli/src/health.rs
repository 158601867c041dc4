//! The health of the cluster as text. Pure: computed from the answer of one master.
//!
//! The result is never "healthy" while a master is down, because an operator reads the first word
//! only.

use std::collections::BTreeMap;

use argosy_proto::v1;

use crate::output::span_ms;

/// Time without contact after which a master counts as down, in milliseconds: many heartbeats, few
/// elections.
const SILENT_MS: u64 = 2_000;

/// The levels of `argosy status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HealthLevel {
    /// Nothing is missing.
    Healthy,
    /// Everything works, with less redundancy than configured.
    Degraded,
    /// Changes are not possible.
    NoQuorum,
}

/// The level with its explanation. The first line begins with the level's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) level: HealthLevel,
    pub(crate) sentences: Vec<String>,
}

/// The masters that did not answer a direct request: by id, the reason. Masters that answered are
/// not included.
pub(crate) type UnreachableMasters = BTreeMap<String, String>;

/// Computes the health. `cluster` may be a local answer from a master that knows no leader.
pub(crate) fn assess(cluster: &v1::Cluster, unanswered: &UnreachableMasters) -> Health {
    let voters: Vec<_> = cluster
        .masters
        .iter()
        .filter(|master| master.voter)
        .collect();
    let needed = voters.len() / 2 + 1;
    if cluster.leader.is_empty() || cluster.without_leader_ms > 0 {
        return without_quorum(cluster, unanswered, voters.len(), needed);
    }
    let silent: Vec<_> = voters
        .iter()
        .copied()
        .filter(|master| is_silent(cluster, unanswered, master))
        .collect();
    let alive = voters.len() - silent.len();
    let spare = alive.saturating_sub(needed);
    let mut sentences = Vec::new();
    let mut level = HealthLevel::Healthy;
    if silent.is_empty() {
        sentences.push(format!("healthy: {}", all_masters(voters.len(), spare)));
    } else {
        level = HealthLevel::Degraded;
        let losses = match spare {
            0 => "one more loss stops changes".to_owned(),
            1 => "two more losses stop changes".to_owned(),
            more => format!("{} more losses stop changes", more + 1),
        };
        let who: Vec<_> = silent
            .iter()
            .map(|master| describe_silent(master, unanswered))
            .collect();
        sentences.push(format!(
            "degraded: {alive} of {} masters, {losses}; {}",
            voters.len(),
            who.join(", ")
        ));
    }
    if cluster.agents_unreachable > 0 {
        let all = cluster.agents.max(cluster.agents_unreachable);
        let away = format!(
            "{} of {all} agents unreachable; their tasks may still run",
            cluster.agents_unreachable
        );
        if level == HealthLevel::Healthy {
            level = HealthLevel::Degraded;
            // The first sentence names what is wrong.
            sentences[0] = sentences[0].replacen("healthy: ", "", 1);
            sentences.insert(0, format!("degraded: {away}"));
        } else {
            sentences.push(away);
        }
    }
    for master in cluster.masters.iter().filter(|master| !master.voter) {
        let behind = master.lag.map(|lag| format!(", {lag} entries behind"));
        sentences.push(format!(
            "{} is a learner{}",
            master.node_id,
            behind.unwrap_or_default()
        ));
    }
    Health { level, sentences }
}

fn all_masters(voters: usize, spare: usize) -> String {
    match (voters, spare) {
        (1, _) => "1 master; it is the only one, so its loss stops changes".to_owned(),
        (_, 1) => format!("{voters} of {voters} masters, any one may be lost"),
        (_, 0) => format!("{voters} of {voters} masters, but none may be lost"),
        _ => format!("{voters} of {voters} masters, any {spare} may be lost"),
    }
}

/// Uses the leader's report if there is one, else whether the master answered this client.
fn is_silent(cluster: &v1::Cluster, unanswered: &UnreachableMasters, master: &v1::Master) -> bool {
    let leads = master.role == "leader" || master.node_id == cluster.leader;
    match master.last_contact_ms {
        Some(ms) => !leads && ms > SILENT_MS,
        None => unanswered.contains_key(&master.node_id),
    }
}

fn describe_silent(master: &v1::Master, unanswered: &UnreachableMasters) -> String {
    let name = format!("{} ({})", master.node_id, master.api_address);
    match (master.last_contact_ms, unanswered.get(&master.node_id)) {
        (Some(ms), _) => format!("{name} silent for {}", span_ms(ms)),
        (None, Some(why)) => format!("{name} {why}"),
        (None, None) => format!("{name} silent"),
    }
}

fn without_quorum(
    cluster: &v1::Cluster,
    unanswered: &UnreachableMasters,
    voters: usize,
    needed: usize,
) -> Health {
    let since = match cluster.without_leader_ms {
        0 => String::new(),
        ms => format!(" for {}", span_ms(ms)),
    };
    let why = match voters {
        0 => "the masters have not found each other yet".to_owned(),
        _ => format!("{needed} of {voters} masters must be up and reach each other"),
    };
    let mut sentences = vec![
        format!("no quorum: no leader{since}; {why}"),
        "no change is possible and nothing new starts; running tasks keep running".to_owned(),
        format!(
            "answered by {}, as of log index {}",
            cluster.answered_by, cluster.applied_index
        ),
    ];
    let down = cluster
        .masters
        .iter()
        .filter(|master| unanswered.contains_key(&master.node_id));
    let down: Vec<_> = down
        .map(|master| {
            describe_silent(
                &v1::Master {
                    last_contact_ms: None,
                    ..master.clone()
                },
                unanswered,
            )
        })
        .collect();
    if !down.is_empty() {
        sentences.insert(1, down.join(", "));
    }
    Health {
        level: HealthLevel::NoQuorum,
        sentences,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(contacts: [Option<u64>; 3]) -> v1::Cluster {
        let master = |(at, contact): (usize, Option<u64>)| v1::Master {
            node_id: format!("master-{}", at + 1),
            api_address: format!("10.0.0.{}:5050", at + 1),
            role: if at == 1 { "leader" } else { "follower" }.to_owned(),
            voter: true,
            last_contact_ms: contact,
            ..v1::Master::default()
        };
        v1::Cluster {
            leader: "master-2".to_owned(),
            masters: contacts.into_iter().enumerate().map(master).collect(),
            agents: 4,
            ..v1::Cluster::default()
        }
    }

    #[test]
    fn all_masters_up_is_healthy() {
        let health = assess(
            &cluster([Some(20), None, Some(30)]),
            &UnreachableMasters::new(),
        );
        assert_eq!(health.level, HealthLevel::Healthy);
        assert_eq!(
            health.sentences,
            ["healthy: 3 of 3 masters, any one may be lost"]
        );
    }

    #[test]
    fn an_unresponsive_master_is_never_healthy() {
        let health = assess(
            &cluster([Some(20), None, Some(240_000)]),
            &UnreachableMasters::new(),
        );
        assert_eq!(health.level, HealthLevel::Degraded);
        assert_eq!(
            health.sentences,
            [
                "degraded: 2 of 3 masters, one more loss stops changes; master-3 (10.0.0.3:5050) silent for 4 min"
            ]
        );
    }

    #[test]
    fn an_unresponsive_master_is_down_without_the_leaders_report() {
        let unanswered = UnreachableMasters::from([("master-3".to_owned(), "refused".to_owned())]);
        let health = assess(&cluster([None, None, None]), &unanswered);
        assert_eq!(
            health.sentences,
            [
                "degraded: 2 of 3 masters, one more loss stops changes; master-3 (10.0.0.3:5050) refused"
            ]
        );
        // The leader has contact to it; only this client does not reach it.
        let health = assess(&cluster([Some(20), None, Some(30)]), &unanswered);
        assert_eq!(health.level, HealthLevel::Healthy);
    }

    #[test]
    fn an_unreachable_agent_degrades() {
        let mut cluster = cluster([Some(20), None, Some(30)]);
        cluster.agents_unreachable = 1;
        let health = assess(&cluster, &UnreachableMasters::new());
        assert_eq!(health.level, HealthLevel::Degraded);
        assert_eq!(
            health.sentences,
            [
                "degraded: 1 of 4 agents unreachable; their tasks may still run",
                "3 of 3 masters, any one may be lost"
            ]
        );
    }

    #[test]
    fn masters_that_have_just_started_are_not_counted() {
        let health = assess(&v1::Cluster::default(), &UnreachableMasters::new());
        assert_eq!(health.level, HealthLevel::NoQuorum);
        assert_eq!(
            health.sentences[0],
            "no quorum: no leader; the masters have not found each other yet"
        );
    }

    #[test]
    fn a_missing_leader_is_reported_as_no_quorum_with_its_duration() {
        let mut cluster = cluster([None, None, None]);
        cluster.without_leader_ms = 12_000;
        cluster.answered_by = "10.0.0.1:5050".to_owned();
        cluster.applied_index = 41;
        let health = assess(&cluster, &UnreachableMasters::new());
        assert_eq!(health.level, HealthLevel::NoQuorum);
        assert_eq!(
            health.sentences[0],
            "no quorum: no leader for 12 s; 2 of 3 masters must be up and reach each other"
        );
        assert_eq!(
            health.sentences[2],
            "answered by 10.0.0.1:5050, as of log index 41"
        );
    }
}
