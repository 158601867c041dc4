//! Completion of a member change that its initiator left unfinished.
//!
//! A change of voters takes two entries. After the first, both the old and the new voters must
//! agree; the second releases the old ones. If the leader fails between the two, or waits too long
//! for the first, the group still needs both majorities and counts more voters than it has. The
//! current leader then completes the change.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::{ChangeMembers, ServerState};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::MemberChanger;
use crate::error::MembershipError;

/// The pause after a failed attempt: its entry may have to be committed first.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

impl MemberChanger {
    /// Completes every change that is left between its two entries, while this node leads.
    pub(crate) async fn finish_interrupted(self: Arc<Self>, stop: CancellationToken) {
        let mut metrics = self.raft.server_metrics();
        let settling = async {
            loop {
                while self.is_change_unfinished() {
                    let one = self.change_lock.lock().await;
                    let settled = self.finish_change().await;
                    drop(one);
                    if let Err(why) = settled {
                        debug!(%why, "a member change cannot be completed yet");
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                }
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        stop.run_until_cancelled(settling).await;
    }

    /// Completes a change that is between its two entries. The caller holds `change_lock`.
    pub(super) async fn finish_change(&self) -> Result<(), MembershipError> {
        if !self.is_change_unfinished() {
            return Ok(());
        }
        // Adds no voter: the new voters of the first entry remain alone.
        let rest = ChangeMembers::AddVoterIds(BTreeSet::new());
        self.commit(rest).await?;
        info!("completed a member change that was left unfinished");
        Ok(())
    }

    fn is_change_unfinished(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let sets = metrics.membership_config.get_joint_config().len();
        metrics.state == ServerState::Leader && sets > 1
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use openraft::Membership;
    use openraft::entry::RaftPayload;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{MemoryStore, Node, NodeConfig, NodeEnvironment, OwnerRequest, Timing};

    const TIMEOUT: Duration = Duration::from_secs(20);

    async fn own(mut requests: mpsc::Receiver<OwnerRequest>) {
        while let Some(request) = requests.recv().await {
            match request {
                OwnerRequest::Load { done, .. } => drop(done.send(())),
                OwnerRequest::Apply { done, .. } => drop(done.send(Vec::new())),
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_that_was_left_half_way_is_brought_to_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = NodeConfig {
            directory: None,
            raft_address: listener.local_addr().unwrap().to_string(),
            api_address: "api".to_owned(),
            peers: Vec::new(),
            bootstrap: true,
            timing: Timing::testing(),
            snapshot: Default::default(),
            seed: 1,
        };
        let (owner, requests) = mpsc::channel(1);
        tokio::spawn(own(requests));
        let stop = CancellationToken::new();
        let (memory, surroundings) = (MemoryStore::default(), NodeEnvironment::tcp(listener));
        let started =
            Node::start_in_memory(config, &memory, surroundings, owner, stop.clone()).await;
        let node = started.unwrap();
        let mut status = node.status();
        let leads = status.wait_for(|status| status.phases.first_commit_us > 0);
        tokio::time::timeout(TIMEOUT, leads)
            .await
            .expect("it leads")
            .unwrap();
        // The only voter, twice: the first entry of a change, and no node that writes the second.
        let raft = node.consensus().clone();
        let nodes: BTreeMap<_, _> = {
            let metrics = raft.server_metrics();
            let metrics = metrics.borrow_watched();
            let nodes = metrics.membership_config.nodes();
            nodes.map(|(id, member)| (*id, member.clone())).collect()
        };
        let voters: BTreeSet<u64> = nodes.keys().copied().collect();
        let between = Membership::new(vec![voters.clone(), voters.clone()], nodes).unwrap();
        let appended = raft
            .append_membership(between, RaftPayload::blank(), [])
            .await;
        let first = appended.unwrap().log_id.index;
        let settled = async {
            let mut metrics = raft.server_metrics();
            loop {
                {
                    let metrics = metrics.borrow_watched();
                    let config = &metrics.membership_config;
                    let at = config.log_id().as_ref().map_or(0, |id| id.index);
                    if at > first && *config.get_joint_config() == vec![voters.clone()] {
                        return;
                    }
                }
                metrics.changed().await.unwrap();
            }
        };
        tokio::time::timeout(TIMEOUT, settled)
            .await
            .expect("the group stays between two sets of voters");
        stop.cancel();
    }
}
