//! The progress of a master that joins a group.

use std::time::Duration;

use argosy_proto::v1;

use crate::operator::ClusterClient;

/// Interval at which the progress is read.
pub(crate) const INTERVAL: Duration = Duration::from_secs(2);

/// Returns how far the master with this Raft address is: `None` if it is a voter or not known yet,
/// or if the leader does not answer. Only the leader knows how far the others are.
pub(crate) async fn progress(operator: &ClusterClient, raft_address: &str) -> Option<String> {
    let leader = operator.at_leader().await.ok()?;
    let cluster = leader.cluster(v1::Consistency::Local).await.ok()?;
    learner_text(&cluster.masters, raft_address)
}

fn learner_text(masters: &[v1::Master], raft_address: &str) -> Option<String> {
    let mut learners = masters.iter().filter(|master| !master.voter);
    let learner = learners.find(|master| master.raft_address == raft_address)?;
    let name = format!("{} ({raft_address})", learner.node_id);
    Some(match learner.lag {
        Some(lag) if lag > 0 => format!("{name} is a learner, {lag} entries behind"),
        Some(_) | None => format!("{name} is a learner, and receives the data of the group"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_of_a_joining_master_is_named() {
        let master = |lag, voter| v1::Master {
            node_id: "master-4".to_owned(),
            raft_address: "10.0.0.4:5052".to_owned(),
            voter,
            lag,
            ..v1::Master::default()
        };
        let text = |lag, voter| learner_text(&[master(lag, voter)], "10.0.0.4:5052");
        assert_eq!(
            text(Some(3_400), false).unwrap(),
            "master-4 (10.0.0.4:5052) is a learner, 3400 entries behind"
        );
        assert!(
            text(None, false)
                .unwrap()
                .ends_with("receives the data of the group")
        );
        assert_eq!(text(Some(0), true), None);
        assert_eq!(learner_text(&[master(None, false)], "10.0.0.5:5052"), None);
    }
}
