//! `argosy status`: a summary of the cluster. `health` computes the level.

use argosy_proto::v1;

use crate::args::{Format, Status};
use crate::exit::{Failure, FailureCode, VerbResult};
use crate::health::{self, Health, HealthLevel};
use crate::operator::ClusterClient;
use crate::output::{self, palette, scalar, span_ms, visible};
use crate::probe;

pub(crate) async fn show(arguments: &Status) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach);
    let cluster = operator.cluster_at_best().await?;
    let unanswered = probe::masters(&cluster.masters).await?;
    let health = health::assess(&cluster, &unanswered);
    match arguments.show.output {
        Format::Table | Format::Wide => output::print(&text(&cluster, &health))?,
        Format::Json => output::print(&output::json(&cluster)?)?,
        Format::Ndjson => output::print(&output::line(&cluster)?)?,
        Format::Yaml => output::print(&output::yaml(&cluster)?)?,
        Format::Name => output::print(&format!("{}\n", cluster.cluster_id))?,
    };
    match health.level {
        HealthLevel::Healthy | HealthLevel::Degraded => Ok(crate::exit::DONE),
        HealthLevel::NoQuorum => Err(Failure::new(
            FailureCode::Unavailable,
            "the masters have no quorum",
        )
        .advise("start the masters that are down; argosy master list shows them")),
    }
}

fn text(cluster: &v1::Cluster, health: &Health) -> String {
    let palette = palette();
    let mut text = String::new();
    let sentences = health.sentences.iter().map(|sentence| visible(sentence));
    for (at, sentence) in sentences.enumerate() {
        let sentence = &sentence;
        let painted = match (at, health.level) {
            (0, HealthLevel::Healthy) => palette.good(sentence),
            (0, HealthLevel::Degraded) => palette.warning(sentence),
            (0, HealthLevel::NoQuorum) => palette.bad(sentence),
            _ => sentence.clone(),
        };
        text.push_str(&painted);
        text.push('\n');
    }
    text.push_str(&output::plain(&details(cluster)));
    text
}

fn details(cluster: &v1::Cluster) -> Vec<(&'static str, String)> {
    let leader = cluster
        .masters
        .iter()
        .find(|master| master.role == "leader");
    let leader = leader.map(|master| {
        format!(
            "{} ({}), epoch {}",
            master.node_id, master.api_address, cluster.epoch
        )
    });
    let amount = |name: &str| {
        let (used, total) = (scalar(&cluster.used, name), scalar(&cluster.total, name));
        let share = if total > 0 {
            used.saturating_mul(100) / total
        } else {
            0
        };
        format!(
            "{} of {} used ({share} %)",
            output::milli(used),
            output::milli(total)
        )
    };
    // The first election of a cluster is no failover.
    let mut failovers = cluster.failovers.iter().rev();
    let failover = failovers.find(|one| one.kind() != v1::FailoverKind::FirstElection);
    let failover = failover.map(failover_text);
    vec![
        ("cluster", cluster.cluster_id.clone()),
        ("feature level", feature_level(cluster)),
        ("leader", leader.unwrap_or_default()),
        (
            "agents",
            format!(
                "{} ({} unreachable)",
                cluster.agents, cluster.agents_unreachable
            ),
        ),
        ("frameworks", cluster.frameworks.to_string()),
        ("live tasks", cluster.tasks_live.to_string()),
        ("open offers", cluster.offers.to_string()),
        ("cpus", amount("cpus")),
        ("mem (MiB)", amount("mem")),
        ("last failover", failover.unwrap_or_default()),
    ]
}

/// Returns the feature level, and the level that it can be raised to.
fn feature_level(cluster: &v1::Cluster) -> String {
    let level = cluster.feature_level;
    if level == 0 {
        return "unknown: the master that answers runs release 0.1".to_owned();
    }
    let known = cluster.masters.iter().map(|master| master.newest_level);
    let newest = known.min().flatten().unwrap_or(0);
    match newest > level {
        true => format!("{level}; all masters support {newest}: argosy master raise-level"),
        false => level.to_string(),
    }
}

/// Counted from the detection that the old leader is dead. An election without a dead leader is
/// counted from its beginning. A leader that resumed is named without a duration.
fn failover_text(failover: &v1::Failover) -> String {
    let begun = match failover.dead_seen_ms {
        0 => failover.elected_ms,
        seen => seen,
    };
    let leaders = match (failover.leader.as_str(), failover.former_leader.as_str()) {
        // Release 0.1 names none.
        ("", _) => String::new(),
        (leader, former) if leader == former => format!(", {leader} again"),
        (leader, former) => format!(", {leader} after {former}"),
    };
    let out = failover.first_commit_ms.saturating_sub(begun);
    let cause = if failover.dead_seen_ms == 0 {
        "election"
    } else {
        "leader found dead"
    };
    match u64::try_from(out) {
        Ok(out) if begun > 0 && failover.first_commit_ms > 0 => {
            format!(
                "epoch {}{leaders}, first commit {} after {cause}",
                failover.epoch,
                span_ms(out)
            )
        }
        _ => format!("epoch {}{leaders}", failover.epoch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failover_is_distinguished_from_a_transfer() {
        let failover = |dead_seen_ms, elected_ms, first_commit_ms| v1::Failover {
            epoch: 7,
            dead_seen_ms,
            elected_ms,
            first_commit_ms,
            ..v1::Failover::default()
        };
        assert_eq!(
            failover_text(&failover(1_000, 1_010, 1_022)),
            "epoch 7, first commit 22 ms after leader found dead"
        );
        assert_eq!(
            failover_text(&failover(0, 1_010, 1_022)),
            "epoch 7, first commit 12 ms after election"
        );
        assert_eq!(failover_text(&failover(0, 0, 1_022)), "epoch 7");
        let named = |former: &str| v1::Failover {
            leader: "master-2".to_owned(),
            former_leader: former.to_owned(),
            ..failover(0, 1_010, 1_022)
        };
        assert_eq!(
            failover_text(&named("master-1")),
            "epoch 7, master-2 after master-1, first commit 12 ms after election"
        );
        let resumed = v1::Failover {
            elected_ms: 0,
            ..named("master-2")
        };
        assert_eq!(failover_text(&resumed), "epoch 7, master-2 again");
    }

    #[test]
    fn the_first_election_is_no_failover() {
        let record = |epoch, kind: v1::FailoverKind| v1::Failover {
            epoch,
            kind: kind.into(),
            ..v1::Failover::default()
        };
        let first = record(3, v1::FailoverKind::FirstElection);
        let later = record(9, v1::FailoverKind::Election);
        let shown = |failovers: Vec<v1::Failover>| {
            let cluster = v1::Cluster {
                failovers,
                ..v1::Cluster::default()
            };
            details(&cluster).pop()
        };
        assert_eq!(
            shown(vec![first.clone()]),
            Some(("last failover", String::new()))
        );
        let both = shown(vec![first, later]);
        assert_eq!(both, Some(("last failover", "epoch 9".to_owned())));
    }
}
