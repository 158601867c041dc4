//! The task that reports the state of a node as its `RaftStatus`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use argosy_proto::clock::WallClock;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::concurrency::AtomicU64;
use crate::election::leader_contact::LeaderContact;
use crate::metrics::ElectionCounts;
use crate::state_machine::Consensus;
use crate::status::{AddressMismatch, FailoverPhases, RaftStatus};
use crate::types::{Member, StoredMembership, TypeConfig, Vote};

/// The task that turns openraft's metrics into `RaftStatus`.
pub(crate) struct StatusReporter {
    /// This node with the addresses that it advertises.
    pub(crate) own: Member,
    pub(crate) raft: Consensus,
    pub(crate) status: watch::Sender<RaftStatus>,
    /// The saved part of openraft's vote, which may be ahead of openraft's metrics.
    pub(crate) votes: watch::Receiver<Option<Vote>>,
    pub(crate) phases: Arc<watch::Sender<FailoverPhases>>,
    pub(crate) leader_contact: LeaderContact,
    pub(crate) wall: WallClock,
    /// The term that this node leads, 0 while it does not lead: read by the proposer's callers on
    /// each command.
    pub(crate) leading_term: Arc<AtomicU64>,
    /// Cancelled when consensus has failed. The port then closes, so that the others elect a new
    /// leader immediately.
    pub(crate) failed: CancellationToken,
}

impl StatusReporter {
    /// Reports until the node stops.
    pub(crate) async fn run(self, stop: CancellationToken) {
        // openraft's other metrics change with every entry.
        let mut metrics = self.raft.server_metrics();
        let mut phases = self.phases.subscribe();
        let mut contacts = self.leader_contact.watch();
        let mut votes = self.votes.clone();
        let mut shown: Option<Arc<StoredMembership>> = None;
        let mut elections = ElectionCounts::after(*self.votes.borrow());
        loop {
            let waits = {
                let metrics = metrics.borrow_and_update();
                self.report(&metrics, &mut shown);
                elections.record(&self.status.borrow(), *self.votes.borrow());
                self.waits_for_first_commit(&metrics)
            };
            tokio::select! {
                () = stop.cancelled() => {
                    self.step_down();
                    return;
                }
                _ = phases.changed() => {
                    let phases = *phases.borrow_and_update();
                    self.status.send_modify(|status| status.phases = phases);
                }
                () = self.leader_silent() => {}
                // The sender is owned here, so it is never closed.
                _ = contacts.changed() => {}
                Ok(()) = votes.changed() => {}
                () = self.first_commit(waits) => {}
                changed = metrics.changed() => if changed.is_err() {
                    self.fail(self.reason(), stop.is_cancelled());
                    return;
                },
            }
        }
    }

    /// Returns the reason for which consensus has ended.
    fn reason(&self) -> String {
        let metrics = self.raft.metrics();
        let ended = metrics.borrow_watched().running_state.clone();
        ended.err().map_or_else(
            || "openraft has ended".to_owned(),
            |error| error.to_string(),
        )
    }

    /// Returns the term that this node leads, as long as no entry of it is applied.
    fn waits_for_first_commit(&self, metrics: &RaftServerMetrics<TypeConfig>) -> Option<u64> {
        let phases = *self.phases.borrow();
        let term = metrics.vote.leader_id.term;
        let leads = metrics.state == ServerState::Leader && phases.elected_term == term;
        (leads && phases.first_commit_us == 0).then_some(term)
    }

    /// Records when the first entry of this term is applied.
    async fn first_commit(&self, term: Option<u64>) {
        let Some(term) = term else {
            return std::future::pending().await;
        };
        let mut metrics = self.raft.data_metrics();
        loop {
            let applied = {
                let metrics = metrics.borrow_and_update();
                metrics.last_applied.as_ref().map(|id| id.leader_id.term)
            };
            if applied == Some(term) {
                break;
            }
            if metrics.changed().await.is_err() {
                // Consensus has ended: the other metrics report that.
                return std::future::pending().await;
            }
        }
        let now = self.wall.now_us();
        self.phases.send_if_modified(|phases| {
            let first = phases.elected_term == term && phases.first_commit_us == 0;
            if first {
                phases.first_commit_us = now;
                info!(
                    term,
                    at_us = now,
                    "the first entry of the term is committed"
                );
            }
            first
        });
    }

    fn fail(&self, reason: String, stopping: bool) {
        self.step_down();
        if !stopping {
            error!(reason, "consensus has failed, this process must exit");
            self.status
                .send_modify(|status| status.failure = Some(reason));
        }
        self.failed.cancel();
    }

    /// Records that a node that has ended leads no term.
    fn step_down(&self) {
        self.leading_term.store(0, Ordering::Relaxed);
        self.status.send_modify(|status| {
            status.is_leader = false;
            status.clear_leader(Instant::now());
        });
    }

    /// Returns when the reported leader has been silent for too long.
    async fn leader_silent(&self) {
        let follows = {
            let status = self.status.borrow();
            status.leader.is_some() && !status.is_leader
        };
        // A leader of which no message has arrived is not reported.
        match self.leader_contact.silent_from().filter(|_| follows) {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    /// Returns the leader according to openraft, if it is this node, or a message of it has arrived
    /// recently. Without an election openraft never forgets a leader.
    fn current_leader(&self, metrics: &RaftServerMetrics<TypeConfig>) -> Option<u64> {
        let leader = metrics.current_leader?;
        let is_recent = self
            .leader_contact
            .silent_from()
            .is_some_and(|until| Instant::now() < until);
        (leader == metrics.id || is_recent).then_some(leader)
    }

    fn report(
        &self,
        metrics: &RaftServerMetrics<TypeConfig>,
        shown: &mut Option<Arc<StoredMembership>>,
    ) {
        let is_leader = metrics.state == ServerState::Leader;
        // A candidate has saved its vote before it is elected: this is the term that it leads.
        let term = metrics.vote.leader_id.term;
        self.leading_term
            .store(if is_leader { term } else { 0 }, Ordering::Relaxed);
        if is_leader {
            self.record_election(term);
        }
        let leader = self.current_leader(metrics);
        let saved = self.votes.borrow().map(|vote| vote.leader_id.term);
        // Either may be ahead: openraft's vote before it is saved, the saved vote before openraft's
        // metrics report it.
        let reported = saved.map(|saved| saved.min(term));
        let membership = &metrics.membership_config;
        let regrouped = !shown
            .as_ref()
            .is_some_and(|shown| Arc::ptr_eq(shown, membership));
        self.status.send_if_modified(|status| {
            let reported_term = reported.unwrap_or(0);
            let mut modified = status.term != reported_term;
            status.term = reported_term;
            modified |= status.is_leader != is_leader;
            status.is_leader = is_leader;
            if regrouped {
                (status.voters, status.learners) = members(membership);
                modified = true;
            }
            if regrouped || status.leader.as_ref().map(|(id, _)| *id) != leader {
                let leader = leader.and_then(|id| Some((id, membership.get_node(&id)?.clone())));
                match leader {
                    Some(leader) => (status.leader, status.leaderless_since) = (Some(leader), None),
                    None => {
                        status.clear_leader(self.leader_contact.at().unwrap_or_else(Instant::now))
                    }
                }
                modified = true;
            }
            modified
        });
        if regrouped {
            self.compare_addresses(membership.get_node(&metrics.id));
            *shown = Some(membership.clone());
        }
    }

    /// Compares the addresses that the membership has for this node, if it is a member, with those
    /// that it advertises.
    fn compare_addresses(&self, recorded: Option<&Member>) {
        let id = self.status.borrow().id;
        let mismatch =
            recorded.and_then(|recorded| AddressMismatch::between(id, recorded, &self.own));
        let has_changed = self.status.send_if_modified(|status| {
            let has_changed = status.address_mismatch != mismatch;
            status.address_mismatch.clone_from(&mismatch);
            has_changed
        });
        match mismatch {
            Some(mismatch) if has_changed => warn!("{mismatch}"),
            None if has_changed => info!("the group has recorded the addresses of this master"),
            Some(_) | None => {}
        }
    }

    fn record_election(&self, term: u64) {
        let now = self.wall.now_us();
        self.phases.send_if_modified(|phases| {
            let elected = phases.elected_term != term;
            if elected {
                (
                    phases.elected_term,
                    phases.elected_us,
                    phases.first_commit_us,
                ) = (term, now, 0);
                phases.elected_at = Some(Instant::now());
                info!(
                    term,
                    at_us = now,
                    dead_seen_us = phases.dead_seen_us,
                    "this master was elected"
                );
            }
            elected
        });
    }
}

type MemberList = Arc<[(u64, Member)]>;

fn members(membership: &StoredMembership) -> (MemberList, MemberList) {
    let mut voters = BTreeMap::new();
    for id in membership.voter_ids() {
        if let Some(member) = membership.get_node(&id) {
            voters.insert(id, member.clone());
        }
    }
    let learners = membership
        .nodes()
        .filter(|(id, _)| !voters.contains_key(id));
    let learners = learners.map(|(id, member)| (*id, member.clone())).collect();
    (voters.into_iter().collect(), learners)
}
