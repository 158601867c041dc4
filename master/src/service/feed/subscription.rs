//! The stream of one subscriber. It is driven by its reader: nothing is prepared for a reader that
//! does not read, except one part of a snapshot.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use argosy_proto::convert;
use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;
use argosy_proto::watch::PROGRESS_INTERVAL;
use argosy_state::access::AccessFacts;
use argosy_state::ids::{FrameworkId, Revision};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::event::{FeedEvent, encode, event_text};
use super::resumption::HeldRecords;
use super::selection::{Selection, Verdict};
use super::slot::{CutOff, CutOffCause, Slot};
use super::snapshot::SnapshotWalk;
use super::subject::{Kind, Subject};
use super::window::{Taken, complete_index, through};
use super::{Feed, Registration, Start};
use crate::owner_handle::{LONGEST_WAIT, OwnerHandle, stopping, unavailable};
use crate::service::spawn_reader;

/// A message of the feed.
#[derive(Debug, Clone)]
pub(crate) enum FeedItem {
    /// A change, and whether it is sent as a removal.
    Change(Arc<FeedEvent>, bool),
    /// An encoded event, and the log index from which a reader of it can resume, if it can.
    Message(Bytes, Option<u64>),
}

impl FeedItem {
    fn message(event: Event, resume: Option<u64>) -> Self {
        Self::Message(encode(event), resume)
    }

    /// Returns the encoded `WatchEvent`.
    pub(crate) fn bytes(&self) -> Bytes {
        match self {
            Self::Change(event, is_removed) => event.bytes(*is_removed),
            Self::Message(bytes, _) => bytes.clone(),
        }
    }

    /// Returns the log index of a change.
    pub(super) fn changed_at(&self) -> Option<u64> {
        match self {
            Self::Change(event, _) => Some(event.revision.index),
            Self::Message(..) => None,
        }
    }

    /// Returns the item as a server-sent event of this cluster.
    pub(crate) fn text(&self, cluster: &str) -> Bytes {
        match self {
            Self::Change(event, is_removed) => event.text(*is_removed, cluster),
            Self::Message(bytes, resume) => {
                let id = resume.map(|index| format!("{index}@{cluster}"));
                event_text(bytes, id.as_deref())
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    SnapshotDue,
    /// The slot has the rest of a snapshot.
    Snapshot,
    Changes,
    Ended,
}

/// The stream of one subscriber; its place is free when it is dropped.
pub(crate) struct Subscription {
    feed: Feed,
    owner: OwnerHandle,
    slot: Arc<Slot>,
    _registration: Registration,
    selection: Selection,
    /// The id of the cluster.
    cluster: Arc<str>,
    /// The frameworks that a reader of only some was sent: their roles may change to others.
    frameworks: BTreeSet<FrameworkId>,
    start: Start,
    phase: Phase,
    /// Every change up to it was sent, waits in the slot to be sent, or did not match.
    cursor: Revision,
    announced: watch::Receiver<u64>,
    access: watch::Receiver<AccessFacts>,
    progress_due: Instant,
    /// The log index up to which there were changes when the subscriber resumed, until it has them.
    caught_up_at: Option<u64>,
    /// Progress messages in a row for which this master knew no leader.
    leaderless: u32,
    /// The error that follows the items to be sent.
    failed: Option<Status>,
}

impl Subscription {
    pub(super) fn new(
        (feed, owner): (Feed, OwnerHandle),
        (slot, registration): (Arc<Slot>, Registration),
        (selection, cluster): (Selection, Arc<str>),
        (start, held): (Start, HeldRecords),
    ) -> Self {
        let applied = *owner.applied.borrow();
        let (frameworks, is_outdated, is_lost) = match held {
            HeldRecords::Current(frameworks) => (frameworks, false, false),
            HeldRecords::Outdated => (BTreeSet::new(), true, false),
            HeldRecords::OfOtherCluster => (BTreeSet::new(), false, true),
        };
        let (phase, cursor) = match start.after {
            Some(after) if !is_outdated => (Phase::Changes, after),
            _ if start.wants_snapshots => (Phase::SnapshotDue, through(0)),
            _ => (Phase::Changes, through(applied)),
        };
        let failed = (is_outdated && !start.wants_snapshots).then(other_rules);
        let announced = feed.shared.announced.subscribe();
        let access = owner.access.clone();
        if phase == Phase::Changes && failed.is_none() && !is_lost {
            let newest = feed.shared.window().end_offset();
            slot.waits_from(newest);
            slot.put(vec![progress(cursor, &cluster)]);
        }
        let mut subscription = Self {
            feed,
            owner,
            slot,
            _registration: registration,
            selection,
            cluster,
            frameworks,
            start,
            phase,
            cursor,
            announced,
            access,
            progress_due: Instant::now() + PROGRESS_INTERVAL,
            caught_up_at: start.after.map(|after| after.index.max(applied)),
            leaderless: 0,
            failed,
        };
        if is_lost {
            subscription.lose_history(applied, "these revisions are of another cluster");
        }
        subscription
    }

    /// Returns the id of the cluster, which is part of the ids of server-sent events.
    pub(crate) fn cluster(&self) -> &Arc<str> {
        &self.cluster
    }

    /// Returns the next item. An error is the last one.
    pub(crate) async fn next(&mut self) -> Option<Result<FeedItem, Status>> {
        loop {
            if self.phase == Phase::Ended {
                return None;
            }
            match self.slot.polled() {
                Ok(Some(item)) => return Some(Ok(item)),
                Ok(None) => {}
                Err(cut) => return self.fail(self.too_slow(cut)),
            }
            if let Some(status) = self.failed.take() {
                return self.fail(status);
            }
            if let Err(status) = self.follow_policy() {
                return self.fail(status);
            }
            let step = match self.phase {
                Phase::SnapshotDue => self.begin_snapshot().await,
                Phase::Snapshot => self.continue_snapshot().await,
                Phase::Changes => self.take_changes().await,
                Phase::Ended => return None,
            };
            if let Err(status) = step {
                return self.fail(status);
            }
        }
    }

    /// Begins again if the reader may see something else by a new policy: the records that it has
    /// are out of date.
    fn follow_policy(&mut self) -> Result<(), Status> {
        let policy = Arc::clone(&self.access.borrow_and_update().policy);
        if !self.selection.follow(&policy)? {
            return Ok(());
        }
        if self.start.wants_snapshots {
            self.phase = Phase::SnapshotDue;
            self.slot.began_again();
            return Ok(());
        }
        Err(other_rules())
    }

    fn fail(&mut self, status: Status) -> Option<Result<FeedItem, Status>> {
        self.phase = Phase::Ended;
        Some(Err(status))
    }

    /// Returns the error of a subscriber that was cut off. It resumes before the first change that
    /// it was not sent.
    fn too_slow(&self, cut: CutOff) -> Status {
        let (text, resume) = match self.phase {
            Phase::Changes | Phase::Ended => {
                let index = match cut.unsent {
                    Some(unsent) => unsent.saturating_sub(1),
                    None => complete_index(self.cursor),
                };
                let why = match cut.cause {
                    CutOffCause::Backlog => "more than 4 MiB of changes waited for it",
                    CutOffCause::Stall => "it read nothing for a minute",
                };
                let text =
                    format!("this subscriber read too slowly: {why}; resume from revision {index}");
                (text, Some(index))
            }
            Phase::SnapshotDue | Phase::Snapshot => {
                let text = "this subscriber read its snapshot too slowly: it must read something every 5 s, and all of it within a minute; begin again, with a filter if there is too much to read";
                (text.to_owned(), None)
            }
        };
        let revision = resume.map(|index| ("revision".to_owned(), index.to_string()));
        let details: HashMap<_, _> = revision.into_iter().collect();
        let details = ErrorDetails::with_error_info("slow-reader", "argosy", details);
        Status::with_error_details(Code::ResourceExhausted, text, details)
    }

    async fn begin_snapshot(&mut self) -> Result<(), Status> {
        let permits = Arc::clone(&self.feed.shared.snapshots);
        let permit = tokio::time::timeout(LONGEST_WAIT, permits.acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            let text =
                "this master sends as many snapshots as it can: retry later, or use another master";
            return Err(Status::resource_exhausted(text));
        };
        let index = (*self.owner.applied.borrow()).max(self.start.min_revision);
        let view = self.owner.view(index).await?;
        let encodings = self.owner.encodings.clone();
        let walk = SnapshotWalk::new(view, self.selection.clone(), encodings, permit);
        let revision = walk.revision();
        self.cursor = through(revision);
        self.slot.put_snapshot(Box::new(walk), Instant::now());
        self.phase = Phase::Snapshot;
        let begin = Event::SnapshotBegin(self.snapshot(revision));
        // The reader discards its records, so it must not resume after those that it had.
        self.slot.put(vec![FeedItem::message(begin, Some(0))]);
        Ok(())
    }

    async fn continue_snapshot(&mut self) -> Result<(), Status> {
        let Some((mut walk, began)) = self.slot.take_snapshot() else {
            return Err(self.too_slow(CutOff {
                cause: CutOffCause::Stall,
                unsent: None,
            }));
        };
        let read = async move { (walk.next_part(), walk) };
        let (part, mut walk) = spawn_reader(&self.owner, read).await?;
        match part {
            Some(records) => {
                let records = records.into_iter();
                let records = records.map(|record| FeedItem::Message(record, None));
                self.slot.put(records.collect());
                self.slot.put_snapshot(walk, began);
            }
            None => {
                self.frameworks = walk.take_frameworks();
                let revision = walk.revision();
                let end = Event::SnapshotEnd(self.snapshot(revision));
                let newest = self.feed.shared.window().end_offset();
                self.slot.waits_from(newest);
                self.slot.put(vec![FeedItem::message(end, Some(revision))]);
                self.phase = Phase::Changes;
            }
        }
        Ok(())
    }

    /// Takes the next changes, or waits for some time.
    async fn take_changes(&mut self) -> Result<(), Status> {
        self.announced.borrow_and_update();
        let (taken, end) = {
            let window = self.feed.shared.window();
            (window.take(self.cursor), window.end_offset())
        };
        match taken {
            Taken::Events { events, behind } => {
                self.slot.took(end - behind, behind);
                let selected = self.select(events);
                if selected.is_empty() {
                    // Others have their turn while a filter skips many changes.
                    tokio::task::yield_now().await;
                }
                self.slot.put(selected);
                return Ok(());
            }
            Taken::CaughtUp(head) => {
                self.slot.took(end, 0);
                self.cursor = self.cursor.max(through(head));
                // It need not wait for the next interval to know that it has everything.
                let has_all = |at| complete_index(self.cursor) >= at;
                if self.caught_up_at.is_some_and(has_all) {
                    self.caught_up_at = None;
                    self.slot.put(vec![progress(self.cursor, &self.cluster)]);
                    return Ok(());
                }
            }
            Taken::Below(after) => self.feed.shared.want(after),
            Taken::Lost(oldest) => {
                let after = complete_index(self.cursor);
                let text = format!(
                    "the changes after revision {after} are no longer kept here, only those after {oldest}"
                );
                self.lose_history(oldest, &text);
                return Ok(());
            }
            Taken::Inactive => {}
        }
        tokio::select! {
            changed = self.announced.changed() => {
                changed.map_err(|_| stopping())
            }
            // The caller follows it.
            changed = self.access.changed() => {
                changed.map_err(|_| stopping())
            }
            () = tokio::time::sleep_until(self.progress_due) => self.progress(),
        }
    }

    /// Moves the cursor past these events, and returns those that are to be sent.
    fn select(&mut self, events: Vec<Arc<FeedEvent>>) -> Vec<FeedItem> {
        let mut selected = Vec::new();
        for event in events {
            self.cursor = event.revision;
            let fields = event.fields.as_ref();
            let verdict = self
                .selection
                .judge(&event.subject, fields, event.is_listed);
            let was_sent = self.note_framework(&event.subject, verdict);
            match verdict {
                Verdict::Shown => selected.push(FeedItem::Change(event, false)),
                Verdict::Removed => selected.push(FeedItem::Change(event, true)),
                // The reader may see it no longer, and so not what it is now.
                Verdict::Skipped if was_sent => selected.push(bare_removal(&event)),
                Verdict::Skipped => {}
            }
        }
        selected
    }

    /// Records whether a reader of only some frameworks has a framework now. Returns whether it had
    /// it.
    fn note_framework(&mut self, subject: &Subject, verdict: Verdict) -> bool {
        match subject {
            Subject::Framework(id) if self.selection.is_partial(Kind::Framework) => match verdict {
                Verdict::Shown => !self.frameworks.insert(*id),
                Verdict::Removed | Verdict::Skipped => self.frameworks.remove(id),
            },
            _ => false,
        }
    }

    /// Sends the log index up to which nothing is missing. A master that is cut off would send the
    /// same one forever, so its subscribers are sent to another one.
    fn progress(&mut self) -> Result<(), Status> {
        self.progress_due = Instant::now() + PROGRESS_INTERVAL;
        let index = complete_index(self.cursor);
        let knows_leader = {
            let status = self.owner.leader_status.borrow();
            status.is_local || status.leader.is_some()
        };
        self.leaderless = if knows_leader { 0 } else { self.leaderless + 1 };
        if self.leaderless > 1 {
            return Err(unavailable(&format!(
                "this master knows no leader, so it may be cut off: resume from revision {index} at another one"
            )));
        }
        self.slot.put(vec![progress(self.cursor, &self.cluster)]);
        Ok(())
    }

    /// Reports that this master does not have all changes that the reader needs, for this reason.
    fn lose_history(&mut self, oldest: u64, why: &str) {
        let lost = Event::HistoryLost(v1::HistoryLost {
            oldest,
            cluster_id: self.cluster.to_string(),
        });
        self.slot.put(vec![FeedItem::message(lost, None)]);
        if self.start.wants_snapshots {
            self.phase = Phase::SnapshotDue;
            self.slot.began_again();
            return;
        }
        let text = format!("{why}: begin with a snapshot");
        self.failed = Some(Status::out_of_range(text));
    }

    fn snapshot(&self, revision: u64) -> v1::WatchSnapshot {
        v1::WatchSnapshot {
            revision,
            cluster_id: self.cluster.to_string(),
        }
    }
}

fn other_rules() -> Status {
    Status::out_of_range("what this reader may see has changed: begin with a snapshot")
}

/// Returns a removal that has only the id of its object.
fn bare_removal(event: &FeedEvent) -> FeedItem {
    let record = v1::WatchRecord {
        kind: event.subject.kind().name().to_owned(),
        id: event.subject.id(),
        record: None,
    };
    let change = v1::WatchChange {
        revision: Some(convert::revision(event.revision)),
        record: Some(record),
        removed: true,
    };
    FeedItem::message(Event::Change(change), None)
}

fn progress(cursor: Revision, cluster: &str) -> FeedItem {
    let revision = complete_index(cursor);
    let progress = Event::Progress(v1::WatchProgress {
        revision,
        cluster_id: cluster.to_owned(),
    });
    // In the middle of an entry, the reader has more than that.
    let resume = (cursor == through(revision)).then_some(revision);
    FeedItem::message(progress, resume)
}
