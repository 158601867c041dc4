//! Requests of raft to the owner: loading the registry, and applying entries over as many turns as
//! they need.

use std::sync::Arc;
use std::time::Duration;

use argosy_proto::trace;
use argosy_raft::{CommittedEntry, OwnerRequest, RecordWrite};
use argosy_state::access::AccessFacts;
use argosy_state::apply::AppliedProposal;
use argosy_state::event::Event;
use argosy_state::level::{self, Level};
use argosy_state::planted_bug;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Replica;
use crate::comparison::UnappliedEntry;
use crate::error::MasterError;
use crate::leader::Input;
use crate::metrics;
use crate::secret_keys::SecretKeys;
use crate::turns;

/// Entries from raft, applied one by one over as many turns as they need.
pub(super) struct ApplyProgress {
    entries: std::vec::IntoIter<CommittedEntry>,
    /// The next entry, for which the last turn had no time.
    next: Option<UnappliedEntry>,
    writes: Vec<RecordWrite>,
    done: oneshot::Sender<Vec<RecordWrite>>,
    took: Duration,
}

impl ApplyProgress {
    fn take_next(&mut self) -> Result<Option<UnappliedEntry>, MasterError> {
        if self.next.is_some() {
            return Ok(self.next.take());
        }
        let next = self
            .entries
            .next()
            .map(|entry| UnappliedEntry::read(&entry));
        next.transpose().map_err(MasterError::Failed)
    }
}

/// Returns the kind of the command that costs most in an entry.
fn kind_of(entry: &UnappliedEntry) -> &'static str {
    let dearest = entry.commands().max_by_key(|command| turns::work(command));
    dearest.map_or("apply: nothing", turns::command_kind)
}

/// Logs a rejected command; every master does so, leading or not.
fn note_refusal(applied: &AppliedProposal) {
    if let Err(why) = &applied.outcome {
        let (actor, serial) = (&applied.actor, applied.ticket.serial);
        debug!(%actor, serial, code = why.code(), "a command was rejected");
    }
}

/// Returns whether a command has changed facts of access.
fn changes_access(applied: &AppliedProposal) -> bool {
    let mut events = applied.events.iter();
    events.any(|event| matches!(event, Event::AccessChanged(_)))
}

/// Time for which the first leader of a cluster waits for the feature levels of its members.
const FOUNDERS_TIMEOUT: Duration = Duration::from_secs(5);

/// The level of a new cluster, as far as this master decides it.
pub(super) struct InitialLevel {
    /// The newest level at which it begins.
    newest: Level,
    /// The term in which this master waits for the members' reports, and since when.
    waiting_since: Option<(u64, Instant)>,
}

impl Default for InitialLevel {
    fn default() -> Self {
        Self {
            newest: Level::NEWEST,
            waiting_since: None,
        }
    }
}

impl Replica {
    pub(super) fn raft(&mut self, request: OwnerRequest) -> Result<(), MasterError> {
        self.turn.begin();
        match request {
            OwnerRequest::Load {
                last_index,
                records,
                done,
            } => {
                self.stop_leading("a snapshot was installed");
                self.load(last_index, records, done)
            }
            OwnerRequest::Apply { entries, done } => {
                self.applying = Some(ApplyProgress {
                    entries: entries.into_iter(),
                    next: None,
                    writes: Vec::new(),
                    done,
                    took: Duration::ZERO,
                });
                self.apply_on()
            }
        }
    }

    /// Applies entries until none is left or this turn has changed enough. An entry is never split:
    /// between two turns, the registry is in the state after a whole entry.
    pub(super) fn apply_on(&mut self) -> Result<(), MasterError> {
        let Some(mut applying) = self.applying.take() else {
            return Ok(());
        };
        self.turn.begin();
        self.run_queries();
        let began = Instant::now();
        while !self.turn.is_spent()
            && let Some(entry) = applying.take_next()?
        {
            let work = entry.commands().map(turns::work).sum();
            if !self.turn.has_time_for(work) {
                applying.next = Some(entry);
                break;
            }
            self.turn.mark(kind_of(&entry));
            let before = applying.writes.len();
            self.apply(&entry, &mut applying.writes)?;
            self.turn.spend(work, &applying.writes[before..]);
        }
        applying.took += began.elapsed();
        self.published.applied.send_replace(self.registry.applied());
        if applying.next.is_some() || applying.entries.len() > 0 {
            self.applying = Some(applying);
            return Ok(());
        }
        // Applied entries have left raft's queue: there is room again.
        self.propose_pending();
        self.metrics.applied.record(applying.took);
        // Raft stops with the process, and so do its waiters.
        let _ = applying.done.send(applying.writes);
        Ok(())
    }

    /// Sets whether this master, as the leader, enforces the rules of the cluster.
    pub(crate) fn with_enforcement(self, enforces_access: bool) -> Self {
        Self {
            enforces_access,
            ..self
        }
    }

    /// Sets the keys from which this master, as the leader, derives those of tickets.
    pub(crate) fn with_secret_keys(self, secret_keys: Option<Arc<SecretKeys>>) -> Self {
        Self {
            secret_keys,
            ..self
        }
    }

    /// Sets the highest level at which a new cluster begins.
    pub(crate) fn with_initial_level(self, initial_level: Level) -> Self {
        let founding = InitialLevel {
            newest: initial_level,
            ..self.initial_level
        };
        Self {
            initial_level: founding,
            ..self
        }
    }

    /// Returns the level at which an epoch is opened; `None` as long as it is unknown. A new
    /// cluster starts at the newest level that all its members report. Whether the cluster is new
    /// is known only once all of the log is applied.
    pub(super) fn level_to_open(&mut self, term: u64) -> Option<Level> {
        if let Some(level) = self.registry.level_to_lead() {
            return Some(level);
        }
        let progress = self.node.progress();
        if progress.applied_index < progress.last_log_index {
            return None;
        }
        let members = self.node.members();
        let reported = level::initial(members.iter().map(|one| one.levels));
        if let Some(reported) = reported {
            return Some(reported.min(self.initial_level.newest));
        }
        let since = match self.initial_level.waiting_since {
            Some((known, since)) if known == term => since,
            Some(_) | None => Instant::now(),
        };
        self.initial_level.waiting_since = Some((term, since));
        let is_late = since.elapsed() > FOUNDERS_TIMEOUT;
        is_late.then(|| {
            let level = Level::OLDEST;
            warn!(
                level = level.0,
                "not every member of this new cluster reports its feature levels: it begins at the oldest one; raise the level when all are up"
            );
            level
        })
    }

    /// Implements the planted bug `RevokedTokenHonoured`.
    fn with_revoked(&self, mut facts: AccessFacts) -> AccessFacts {
        let policy = facts.policy_revision.map_or(0, |revision| revision.index);
        if self.leader.is_some() && policy < self.registry.epoch().0 {
            for (id, token) in self.published.access.borrow().tokens.iter() {
                facts.tokens.insert(*id, token.clone());
            }
        }
        facts
    }

    fn note_launch(&mut self, events: &[Event]) {
        if events
            .iter()
            .any(|event| matches!(event, Event::TaskLaunched { .. }))
        {
            self.failovers.first_launch(self.node.wall_clock().now_ms());
        }
    }

    /// Continues the request that has led to an applied command, with its id.
    fn note_applied(&mut self, applied: AppliedProposal) {
        let is_own = self.leader.is_some() && applied.ticket.epoch == self.registry.epoch();
        let context = is_own.then(|| self.traces.take(applied.ticket.serial));
        trace::within(context.flatten(), || {
            note_refusal(&applied);
            if let Some(Event::EpochOpened(epoch)) = applied.events.first() {
                self.epoch_opened(*epoch);
            } else if self.leader.is_some() {
                self.note_launch(&applied.events);
                for event in &applied.events {
                    self.decisions.event(&self.registry, event);
                }
                self.traces.record_orders(&applied.events);
                self.step(Input::Applied(applied));
            }
        });
    }

    fn apply(
        &mut self,
        entry: &UnappliedEntry,
        writes: &mut Vec<RecordWrite>,
    ) -> Result<(), MasterError> {
        let before = writes.len();
        let former = self.registry.level();
        let all = entry.apply(&mut self.registry, writes);
        if all.iter().any(changes_access) {
            // Before the index: a reader of later entries must not use earlier rules.
            let facts = self.registry.access().clone();
            let facts = planted_bug!(RevokedTokenHonoured, facts, self.with_revoked(facts));
            self.published.access.send_replace(facts);
        }
        let changes = &self.published.changes;
        changes.add(self.registry.applied(), &writes[before..]);
        metrics::compared(&self.comparison.applied(&self.registry, &all)?);
        if let Some(leader) = &mut self.leader {
            leader.settle(&all);
        }
        for applied in all {
            self.note_applied(applied);
        }
        self.node.set_level(self.registry.level());
        if self.registry.level() != former {
            info!(level = %self.registry.level(), "the feature level of the cluster has changed");
            // The next epoch begins at the new level with everything that links report.
            if self
                .leader
                .as_ref()
                .is_some_and(|leader| leader.level() != self.registry.level())
            {
                self.stop_leading("the feature level was raised");
            }
        }
        Ok(())
    }
}
