//! The leader that a member change is sent to.

use std::time::Duration;

use tokio::sync::watch;

use crate::error::MembershipError;
use crate::settings::Timing;
use crate::status::RaftStatus;
use crate::types::Member;

/// Returns the leader as soon as the status reports one whose id `expected` accepts. The status is
/// late: a new leader reaches the others before its own status reports that it leads.
///
/// # Errors
///
/// `NoLeader` after the time of two elections, `Stopped` when this node ends.
pub(super) async fn wait_for_leader(
    mut status: watch::Receiver<RaftStatus>,
    timing: &Timing,
    expected: impl Fn(u64) -> bool,
) -> Result<(u64, Member), MembershipError> {
    let timeout = Duration::from_millis(4 * timing.election_max_ms + timing.append_deadline_ms);
    let leads = status.wait_for(|status| {
        let leader = status.leader.as_ref();
        leader.is_some_and(|(id, _)| expected(*id))
    });
    match tokio::time::timeout(timeout, leads).await {
        Ok(Ok(status)) => status.leader.clone().ok_or(MembershipError::NoLeader),
        Ok(Err(_closed)) => Err(MembershipError::Stopped),
        Err(_elapsed) => Err(MembershipError::NoLeader),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn led_by(id: u64) -> RaftStatus {
        let member = Member {
            raft_address: format!("m{id}:1"),
            api_address: format!("m{id}:2"),
            incarnation: id,
        };
        RaftStatus {
            leader: Some((id, member)),
            ..RaftStatus::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_until_the_status_reports_the_expected_leader() {
        let (reports, status) = watch::channel(RaftStatus::default());
        let timing = Timing::testing();
        let mut waiting = pin!(wait_for_leader(status, &timing, |id| id == 2));
        for before in [RaftStatus::default(), led_by(1)] {
            reports.send_replace(before);
            let moment = Duration::from_millis(timing.election_max_ms);
            let early = tokio::time::timeout(moment, &mut waiting).await;
            assert!(early.is_err(), "{early:?}");
        }
        reports.send_replace(led_by(2));
        assert_eq!(waiting.await.map(|(id, _)| id), Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_a_leader_ends() {
        let (reports, status) = watch::channel(led_by(1));
        let timing = Timing::testing();
        let missing = wait_for_leader(status.clone(), &timing, |id| id == 2).await;
        assert_eq!(missing, Err(MembershipError::NoLeader));
        drop(reports);
        let stopped = wait_for_leader(status, &timing, |id| id == 2).await;
        assert_eq!(stopped, Err(MembershipError::Stopped));
    }
}
