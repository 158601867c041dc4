//! `argosy status`: a summary of the cluster. `health` computes the level.

use argosy_proto::v1;

use crate::args::{Format, Status};
use crate::exit::{Failure, FailureCode, VerbResult};
use crate::health::{self, Health, HealthLevel};
use crate::operator::ClusterClient;
use crate::output::{self, ShownFailover, palette, scalar, visible, wall_now_ms};
use crate::probe;

pub(crate) async fn show(arguments: &Status) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let cluster = operator.cluster_at_best().await?;
    let unanswered = probe::masters(&cluster.masters, operator.transport()).await;
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
    let ancestors = cluster.ancestors.iter();
    let ancestors: Vec<_> = ancestors.map(|one| one.cluster_id.clone()).collect();
    let now_ms = wall_now_ms();
    let changes = ShownFailover::of(cluster);
    let failover = changes.last().filter(|last| last.is_failover());
    let failover = failover.map(|last| last.sentence(now_ms));
    vec![
        ("cluster", cluster.cluster_id.clone()),
        ("restored from", ancestors.join("\n")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failover_is_the_last_one() {
        let election = v1::Failover {
            epoch: 1,
            kind: v1::FailoverKind::FirstElection.into(),
            ..v1::Failover::default()
        };
        let lost = v1::Failover {
            epoch: 7,
            dead_seen_ms: 5_000,
            first_commit_ms: 5_022,
            leader: "master-2".to_owned(),
            ..v1::Failover::default()
        };
        let last = |failovers: Vec<v1::Failover>| {
            let details = details(&v1::Cluster {
                failovers,
                ..v1::Cluster::default()
            });
            let row = details
                .into_iter()
                .find(|(name, _)| *name == "last failover");
            row.unwrap().1
        };
        assert_eq!(last(vec![election.clone()]), "");
        let text = last(vec![election, lost]);
        assert!(
            text.contains("to master-2, epoch 7; first commit 22 ms"),
            "{text}"
        );
    }
}
