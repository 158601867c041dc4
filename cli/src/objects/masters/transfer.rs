//! `master transfer --away-from`: leadership leaves one master, for a stop of its host.

use argosy_proto::v1;

use super::{leader_of, masters_with_leader, report_leader};
use crate::args::Format;
use crate::exit::{Failure, FailureCode, VerbResult};
use crate::lookup::{master_candidate, pick_master};
use crate::operator::ClusterClient;
use crate::output::{self, note};

/// Transfers leadership from this master to the most up-to-date other one, and waits until that
/// leads. Does nothing if this master does not lead.
pub(super) async fn away_from(
    operator: &ClusterClient,
    wanted: &str,
    output: Format,
) -> VerbResult {
    let masters = read(operator).await?;
    let away = pick_master(masters.clone(), wanted)?;
    let shown = master_candidate(&away).label;
    match leader_of(&masters) {
        Some(leader) if leader.node_id == away.node_id => {}
        Some(_) => {
            note(&format!("{shown} does not lead; nothing is transferred"));
            let reply = v1::MembershipReply { masters };
            return output::list(output, &reply, &reply.masters);
        }
        None => {
            return Err(Failure::new(FailureCode::Unavailable, "no master leads")
                .advise("argosy status shows which masters are down"));
        }
    }
    let Some(next) = successor(&masters, &away.node_id) else {
        let text = format!("{shown} leads, and no other master of the group can vote");
        return Err(Failure::new(FailureCode::Refused, text)
            .advise("add masters first: argosy master join"));
    };
    // Without a name, a leader that was elected in between could transfer leadership to this one.
    if let Err(failure) = operator.transfer_leader(next.node_id.clone()).await {
        let now = read(operator).await?;
        if leader_of(&now).is_none_or(|leader| leader.node_id == away.node_id) {
            return Err(failure);
        }
    }
    let masters = masters_with_leader(operator, Some(&away.node_id)).await?;
    report_leader(output, masters)
}

async fn read(operator: &ClusterClient) -> Result<Vec<v1::Master>, Failure> {
    // Only the leader knows the lag of the others.
    let leader = operator.at_leader().await?;
    let cluster = leader.cluster(v1::Consistency::Linearizable).await?;
    Ok(cluster.masters)
}

/// Returns the other voter with the smallest lag that has answered the leader last.
fn successor<'a>(masters: &'a [v1::Master], away: &str) -> Option<&'a v1::Master> {
    let others = masters.iter();
    let others = others.filter(|master| master.voter && master.node_id != away);
    others.min_by_key(|master| {
        let unknown = u64::MAX;
        (
            master.lag.unwrap_or(unknown),
            master.last_contact_ms.unwrap_or(unknown),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_leader_is_the_voter_with_the_smallest_lag() {
        let master = |node_id: &str, voter, lag| v1::Master {
            node_id: node_id.to_owned(),
            voter,
            lag,
            ..v1::Master::default()
        };
        let mut masters = vec![
            master("master-1", true, Some(0)),
            master("master-2", true, None),
            master("master-3", true, Some(7)),
            master("master-4", false, Some(0)),
        ];
        let next = |masters: &[v1::Master]| {
            successor(masters, "master-1").map(|master| master.node_id.clone())
        };
        assert_eq!(next(&masters).as_deref(), Some("master-3"));
        masters.remove(2);
        assert_eq!(next(&masters).as_deref(), Some("master-2"));
        masters.remove(1);
        assert_eq!(next(&masters), None);
    }
}
