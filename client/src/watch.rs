//! The change feed, resumed over masters: a [`Watch`] continues at another master where the last
//! one stopped, so that no change is lost or repeated.

use std::collections::BTreeMap;
use std::time::Duration;

use argosy_proto::trace;
use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient as Stub;
use argosy_proto::v1::watch_event::Event;
use argosy_proto::versions::{self, VersionRange};
use argosy_proto::watch::{ANSWER_TIMEOUT, SILENCE};
use tokio::time::{Instant, timeout};
use tonic::{Code, Request, Status, Streaming};

use crate::connector::{Connector, FIRST_ATTEMPT, MESSAGE_BYTES};
use crate::failure::{AttemptError, CallError, MasterRejection, classify};
use crate::leader::{LeaderSearch, LeaderSearchStep, MasterFailure};

/// Snapshots in a row that may be cut off because this reader is too slow.
const SLOW_SNAPSHOTS: u32 = 3;

/// The position of a reader: what it has received, and from where it resumes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchPosition {
    /// The log index, and the position of the last change in it; without a position, everything up
    /// to the index. `None` before the first complete snapshot.
    after: Option<(u64, Option<u32>)>,
    /// The highest log index that the reader knows: no later snapshot is older.
    newest: u64,
    /// The cluster of these log indexes; empty before a master has named it.
    cluster: String,
}

impl WatchPosition {
    /// Returns the position of a reader that has everything up to this log index, such as that of a
    /// list.
    #[must_use]
    pub fn through(revision: u64) -> Self {
        Self {
            after: Some((revision, None)),
            newest: revision,
            cluster: String::new(),
        }
    }

    /// Returns the log index up to which the reader has every change; `None` before the first
    /// complete snapshot.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        self.after.map(|(index, position)| match position {
            Some(_) => index.saturating_sub(1),
            None => index,
        })
    }

    /// Returns the id of the cluster; empty before a master has named it.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Records an event that the reader has received.
    fn record(&mut self, event: &Event) {
        match event {
            Event::Change(change) => {
                let revision = change.revision.unwrap_or_default();
                self.advance(revision.index, Some(revision.position));
            }
            Event::SnapshotEnd(snapshot) => {
                self.after = None;
                self.advance(snapshot.revision, None);
            }
            Event::Progress(progress) => {
                self.follow(&progress.cluster_id);
                self.advance(progress.revision, None);
            }
            // A snapshot that breaks off is worth nothing.
            Event::SnapshotBegin(snapshot) => {
                self.follow(&snapshot.cluster_id);
                self.after = None;
            }
            // Until a snapshot begins, the reader keeps what it has: another master may have the
            // changes, and without snapshots the stream must not silently begin elsewhere.
            Event::HistoryLost(_) | Event::Record(_) => {}
        }
    }

    /// Records the cluster of the next log indexes.
    fn follow(&mut self, cluster: &str) {
        if cluster.is_empty() || cluster == self.cluster {
            return;
        }
        if !self.cluster.is_empty() {
            // Those of a former cluster have no meaning.
            (self.after, self.newest) = (None, 0);
        }
        cluster.clone_into(&mut self.cluster);
    }

    fn advance(&mut self, index: u64, position: Option<u32>) {
        let order = |(index, position): (u64, Option<u32>)| (index, position.unwrap_or(u32::MAX));
        let new = (index, position);
        if self.after.is_none_or(|after| order(new) > order(after)) {
            self.after = Some(new);
        }
        self.newest = self.newest.max(index);
    }
}

/// A stream of changes. Dropping it ends it.
pub struct Watch {
    connector: Connector,
    /// The time for which [`Watch::next`] searches for a master.
    deadline: Duration,
    request: v1::WatchRequest,
    position: WatchPosition,
    stream: Option<OpenStream>,
    /// The search in progress, with the pause before its next round.
    search: Option<LeaderSearch>,
    slow_snapshots: u32,
    /// Masters that do not have all changes after the position, each with its report. Without
    /// snapshots, only the others can continue the stream.
    lost_at: BTreeMap<String, v1::HistoryLost>,
    /// The error that follows the report of lost history.
    history_lost: Option<CallError>,
}

struct OpenStream {
    address: String,
    events: Streaming<v1::WatchEvent>,
}

impl Watch {
    pub(crate) fn new(connector: Connector, deadline: Duration, request: v1::WatchRequest) -> Self {
        let after = request.from_revision;
        let position = WatchPosition {
            after: after.map(|index| (index, request.from_position)),
            newest: request.min_revision,
            cluster: request.cluster_id.clone(),
        };
        Self {
            connector,
            deadline,
            request,
            position,
            stream: None,
            search: None,
            slow_snapshots: 0,
            lost_at: BTreeMap::new(),
            history_lost: None,
        }
    }

    /// Returns the position after the last event.
    #[must_use]
    pub fn position(&self) -> &WatchPosition {
        &self.position
    }

    /// Returns the API address of the master that sends the events, if there is one.
    #[must_use]
    pub fn master(&self) -> Option<&str> {
        self.stream.as_ref().map(|stream| stream.address.as_str())
    }

    /// Returns the next event, after the search for another master if necessary. A snapshot may
    /// begin again before it has ended; its former records must be discarded. Dropping the future
    /// loses nothing.
    ///
    /// If `no_snapshot` is set, a master that has lost the history is replaced by another one.
    /// [`Event::HistoryLost`] reports that no master which serves the stream has all changes.
    ///
    /// # Errors
    /// [`CallError::NoMaster`] if no master serves the stream within the deadline; a further call
    /// searches again. [`CallError::Refused`] if a master rejects the request, or after
    /// [`Event::HistoryLost`] if `no_snapshot` is set.
    pub async fn next(&mut self) -> Result<Event, CallError> {
        if let Some(error) = self.history_lost.take() {
            return Err(error);
        }
        let mut deadline = Instant::now() + self.deadline;
        loop {
            let Some(stream) = &mut self.stream else {
                if let Some(lost) = self.open(deadline).await? {
                    return Ok(lost);
                }
                continue;
            };
            let failure = match timeout(SILENCE, stream.events.message()).await {
                Ok(Ok(Some(v1::WatchEvent { event: Some(event) }))) => match self.received(event) {
                    Some(event) => return Ok(event),
                    None => continue,
                },
                // An event of a newer release.
                Ok(Ok(Some(v1::WatchEvent { event: None }))) => continue,
                Ok(Ok(None)) => Status::unavailable("the master closed the stream"),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no event in time"),
            };
            let was_served = self.search.is_none();
            self.lost(&failure)?;
            if was_served {
                // The search begins now, however long the stream was silent before.
                deadline = Instant::now() + self.deadline;
            }
        }
    }

    /// Records an event. Returns it, unless another master may have the history that this one has
    /// lost.
    fn received(&mut self, event: Event) -> Option<Event> {
        self.search = None;
        if let (Event::HistoryLost(lost), true) = (&event, self.request.no_snapshot) {
            let stream = self.stream.take();
            let address = stream.map(|stream| stream.address).unwrap_or_default();
            tracing::debug!(
                address,
                lost.oldest,
                "trying another master: this one has lost the history"
            );
            self.lost_at.insert(address, lost.clone());
            return None;
        }
        let before = self.position.after;
        self.position.record(&event);
        if self.position.after != before {
            self.lost_at.clear();
        }
        if matches!(event, Event::SnapshotEnd(_)) {
            self.slow_snapshots = 0;
        }
        Some(event)
    }

    /// Returns the report that no master has the history, if at least one has reported so; the
    /// error follows. The reader loses least from the master that has most of the history.
    fn report_lost(&mut self) -> Option<Event> {
        let own = self.position.cluster.as_str();
        let is_other = |lost: &v1::HistoryLost| {
            !own.is_empty() && !lost.cluster_id.is_empty() && lost.cluster_id != own
        };
        // Revisions of two clusters cannot be compared.
        let reports = self.lost_at.values();
        let lost = reports.min_by_key(|lost| (is_other(lost), lost.oldest))?;
        let lost = lost.clone();
        let oldest = lost.oldest;
        let masters: Vec<_> = self.lost_at.keys().map(String::as_str).collect();
        let masters = masters.join(", ");
        let revision = self.position.revision().unwrap_or_default();
        let message = match is_other(&lost) {
            true => format!(
                "revision {revision} is of cluster {own}, and {masters} belong to cluster {}: begin with a snapshot",
                lost.cluster_id
            ),
            false => format!(
                "the changes after revision {revision} are no longer kept by {masters}, only those after {oldest}, and no other master continues the stream: begin with a snapshot"
            ),
        };
        self.history_lost = Some(CallError::Refused(MasterRejection {
            code: Code::OutOfRange,
            reason: String::new(),
            message,
            details: BTreeMap::new(),
        }));
        self.lost_at.clear();
        Some(Event::HistoryLost(lost))
    }

    /// Records that the open stream has failed.
    fn lost(&mut self, status: &Status) -> Result<(), CallError> {
        let Some(OpenStream { address, .. }) = self.stream.take() else {
            return Ok(());
        };
        let cause = match self.connector.renew_connections(status.code()) {
            true => MasterFailure::Unavailable(status.message().to_owned()),
            false => self.cause(status, SILENCE)?,
        };
        tracing::debug!(address, %cause, "resuming a watch at another master");
        self.note_failure(&address, &cause);
        let mut search = self.taken_search();
        search.failed(&address, cause, None);
        self.search = Some(search);
        Ok(())
    }

    /// Makes later searches try other masters first.
    fn note_failure(&self, address: &str, cause: &MasterFailure) {
        match cause {
            // Unlike after a call without an answer, other connections are not suspected: a master
            // may wait for the revision of this stream.
            MasterFailure::TimedOut(_) => self.connector.drop_connection(address),
            MasterFailure::Refused
            | MasterFailure::NoHost(_)
            | MasterFailure::Untrusted(_)
            | MasterFailure::Broken(_)
            | MasterFailure::Unavailable(_)
            | MasterFailure::Busy(_) => self.connector.note_failure(address, cause),
        }
    }

    /// Returns why another master is tried. `waited`: the time that the master had.
    fn cause(&mut self, status: &Status, waited: Duration) -> Result<MasterFailure, CallError> {
        let refusal = match classify(status, as_ms(waited)) {
            AttemptError::TryNext { cause, .. } => return Ok(cause),
            AttemptError::Refused(refusal) => refusal,
        };
        // Others, such as a message that is too large, would be refused by any master.
        if refusal.code != Code::ResourceExhausted || refusal.reason != "slow-reader" {
            return Err(CallError::Refused(refusal));
        }
        if self.position.after.is_none() {
            self.slow_snapshots += 1;
            if self.slow_snapshots >= SLOW_SNAPSHOTS {
                return Err(CallError::Refused(refusal));
            }
        }
        Ok(MasterFailure::Busy(refusal.message))
    }

    /// Opens the stream at some master. Returns an event instead if none of them has the history.
    async fn open(&mut self, deadline: Instant) -> Result<Option<Event>, CallError> {
        let mut search = self.taken_search();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let lost = self.report_lost().map(Some);
                return lost.ok_or_else(|| CallError::NoMaster(search.causes()));
            }
            let address = match search.next() {
                LeaderSearchStep::Call(address) if self.lost_at.contains_key(&address) => continue,
                LeaderSearchStep::Call(address) => address,
                // All others were called, and cannot continue the stream now.
                LeaderSearchStep::Pause(_) if !self.lost_at.is_empty() => {
                    return Ok(self.report_lost());
                }
                LeaderSearchStep::Pause(ms) => {
                    tokio::time::sleep(left.min(Duration::from_millis(ms))).await;
                    continue;
                }
            };
            // A master that has never answered may not exist.
            let is_unknown = search.is_first_round() && !self.connector.is_responsive(&address);
            let limit = left.min(if is_unknown {
                FIRST_ATTEMPT
            } else {
                ANSWER_TIMEOUT
            });
            let is_open = self.connector.is_open(&address);
            let status = match self.attempt(&address, limit).await {
                Ok(Ok(events)) => {
                    // Not noted as an answer: all watches of this client would go to this master.
                    self.stream = Some(OpenStream { address, events });
                    // If the stream fails before its first event, the search continues.
                    self.search = Some(search);
                    return Ok(None);
                }
                Ok(Err(status)) => status,
                Err(cause) => {
                    search.failed(&address, cause, None);
                    continue;
                }
            };
            let cause = match is_open && self.connector.renew_connections(status.code()) {
                true => MasterFailure::Unavailable(status.message().to_owned()),
                false => self.cause(&status, limit)?,
            };
            self.note_failure(&address, &cause);
            search.failed(&address, cause, None);
        }
    }

    async fn attempt(
        &self,
        address: &str,
        limit: Duration,
    ) -> Result<Result<Streaming<v1::WatchEvent>, Status>, MasterFailure> {
        let channel = self.connector.channel(address)?;
        let mut request = Request::new(self.resumed());
        let own = VersionRange::OWN.header();
        let own = own.try_into().expect("digits and a hyphen are a value");
        request.metadata_mut().insert(versions::HEADER, own);
        self.connector.authorize(request.metadata_mut());
        trace::add_to_call(request.metadata_mut());
        let mut stub = Stub::new(channel).max_decoding_message_size(MESSAGE_BYTES);
        let opened = timeout(limit, stub.watch(request)).await;
        let opened = opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        Ok(opened.map(tonic::Response::into_inner))
    }

    /// Returns the request from the present position.
    fn resumed(&self) -> v1::WatchRequest {
        let (index, position) = match self.position.after {
            Some((index, position)) => (Some(index), position),
            None => (None, None),
        };
        v1::WatchRequest {
            from_revision: index,
            from_position: position,
            min_revision: self.position.newest,
            cluster_id: self.position.cluster.clone(),
            ..self.request.clone()
        }
    }

    /// Returns the search in progress, or a new one that prefers no master: each can serve the
    /// stream.
    fn taken_search(&mut self) -> LeaderSearch {
        let search = self.search.take();
        search.unwrap_or_else(|| self.connector.search_any())
    }
}

impl From<&WatchPosition> for v1::WatchRequest {
    /// Returns a request that resumes from this position.
    fn from(position: &WatchPosition) -> Self {
        Self {
            from_revision: position.after.map(|(index, _)| index),
            from_position: position.after.and_then(|(_, position)| position),
            min_revision: position.newest,
            cluster_id: position.cluster.clone(),
            ..Self::default()
        }
    }
}

impl MasterRejection {
    /// Returns whether the changes after the requested revision are no longer kept, or the revision
    /// is after the newest one.
    #[must_use]
    pub fn is_out_of_range(&self) -> bool {
        self.code == Code::OutOfRange
    }
}

fn as_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
